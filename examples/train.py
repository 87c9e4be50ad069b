"""Train MG-VMoE: `mgvmoe train`, for `accelerate launch` and torchrun.

    python examples/train.py --config configuration/recipes/sketchbook.yaml [--learning_rate ...]

`--help` lists the flags.
"""

from modeling_mgvmoe.cli.train import main

if __name__ == "__main__":
    main()
