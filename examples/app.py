"""The demo page, or a Hub Space of it: `mgvmoe app`.

    python examples/app.py

`--help` lists the flags.
"""

from modeling_mgvmoe.cli.app import main

if __name__ == "__main__":
    main()
