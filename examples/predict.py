"""Extract from a few posts with a saved model, using transformers only.

    python examples/predict.py --model FOLDER --posts POSTS.json

This file imports nothing of this project: the model's folder, or its repository on the Hub, brings all the code.
"""

import argparse
import json
import os
import sys

import torch
from transformers import AutoModel, AutoProcessor, pipeline
from transformers.utils.logging import disable_progress_bar


def main():
    """Read posts and labels from JSON, print the best labels, and write all scores as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name")
    parser.add_argument("--posts", required=True, help="JSON list of posts, as the pipeline takes them")
    parser.add_argument("--output", help="where to write labels, scores and logits")
    parser.add_argument("--top_k", type=int, default=3)
    arguments = parser.parse_args()

    if not os.path.isfile(arguments.posts):
        parser.error(f"--posts: the file {arguments.posts!r} does not exist")
    with open(arguments.posts, encoding="utf-8") as file:
        try:
            posts = json.load(file)
        except (ValueError, RecursionError) as error:
            parser.error(f"--posts: {arguments.posts!r} must be JSON: {error}")
    if not isinstance(posts, list) or not posts or not all(isinstance(post, dict) for post in posts):
        parser.error(f"--posts: {arguments.posts!r} must hold a list of posts, got {posts!r:.80}")
    for post in posts:  # image paths are relative to the JSON file
        if isinstance(post.get("image"), str):
            post["image"] = os.path.join(os.path.dirname(arguments.posts), post["image"])

    disable_progress_bar()
    try:
        pipe = pipeline(model=arguments.model, trust_remote_code=True)
        rankings = pipe(posts, batch_size=8)
    except (OSError, ValueError) as error:
        parser.error(" ".join(f"--model {arguments.model}, --posts {arguments.posts}: {error}".split()))
    for post, ranking in zip(posts, rankings, strict=True):
        print(post["text"])
        for item in ranking[: arguments.top_k]:
            print(f"    {item['score']:.3f}  {item['label']}")

    # The same by hand, for whoever wants the logits.
    model = AutoModel.from_pretrained(arguments.model, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(arguments.model, trust_remote_code=True)
    inputs = processor(
        text=[post["text"] for post in posts],
        images=[post.get("image") for post in posts],
        image_text=[post.get("image_text") for post in posts],
        mentions=[post.get("mentions") or post.get("mention") or [post["head"], post["tail"]] for post in posts],
        candidate_labels=[post["candidate_labels"] for post in posts],
        return_tensors="pt",
    )
    with torch.no_grad():
        logits = model(**inputs).logits
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            json.dump({"rankings": rankings, "logits": logits.tolist()}, file)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("predict.py: stopped", file=sys.stderr)
        sys.exit(130)
