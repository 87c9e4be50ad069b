"""Evaluate a trained model on classes that it was not trained on: `mgvmoe evaluate`.

    python examples/evaluate.py --model runs/sketchbook/model --dataset sketchbook --protocol unseen
    python examples/evaluate.py --model 'runs/{seed}/model' --dataset sketchbook --protocol generalised --seeds 0 1 2

`--help` lists the flags.
"""

from modeling_mgvmoe.cli.evaluate import main

if __name__ == "__main__":
    main()
