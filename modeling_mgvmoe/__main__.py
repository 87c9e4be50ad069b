"""`python -m modeling_mgvmoe`: see `modeling_mgvmoe/cli/`."""

import sys

from modeling_mgvmoe.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
