"""Train MG-VMoE.

    python examples/train.py --config configuration/recipes/sketchbook.yaml [--learning_rate ...]

Also under `accelerate launch` and `torchrun`. `--help` lists every field; a flag overrides the recipe.
"""

from modeling_mgvmoe.cli.train import main

if __name__ == "__main__":
    main()
