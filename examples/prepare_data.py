"""Prepare data for training: `mgvmoe prepare`, for `accelerate launch` and torchrun.

    python examples/prepare_data.py mnre --data FOLDER [--images FOLDER] --output_dir OUT
    python examples/prepare_data.py --help               all datasets

`--help` lists the flags.
"""

from modeling_mgvmoe.cli.prepare import main

if __name__ == "__main__":
    main()
