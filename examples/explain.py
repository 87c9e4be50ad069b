"""Show what an answer is made of, or which experts are used: `mgvmoe explain`.

    python examples/explain.py post --model runs/demo/model --posts runs/demo/posts/posts.json --number 1
    python examples/explain.py experts --model runs/demo/model --dataset sketchbook

`--help` lists the flags.
"""

from modeling_mgvmoe.cli.explain import main

if __name__ == "__main__":
    main()
