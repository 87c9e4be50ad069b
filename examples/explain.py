"""What an answer is made of, and which experts a dataset goes to.

    python examples/explain.py post --model runs/demo/model --posts runs/demo/posts/posts.json --number 1
    python examples/explain.py experts --model runs/demo/model --dataset sketchbook

`post` draws one post as a PNG: its words by what they weighed in the fusion, the patches of its image likewise and as
strongly as the image moves the answer, the scored labels, the answer without the image, the experts' shares, and how
unsure the model is. `experts` draws how much each expert is used by text and
images, over all posts and by class. Both write their numbers as JSON beside the image.
"""

from modeling_mgvmoe.cli.explain import main

if __name__ == "__main__":
    main()
