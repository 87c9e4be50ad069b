"""Command `explain`: the parts of one answer, and the use of the experts over a dataset.

    mgvmoe explain post --model runs/demo/model --posts runs/demo/posts/posts.json --number 1
    mgvmoe explain experts --model runs/demo/model --dataset sketchbook

`post` writes one post as a page for a browser: its words by what they weighed in the fusion, the patches of its image
likewise and as strongly as the image moves the answer, the scored labels, the answer without the image, the experts'
shares, and how unsure the model is; its numbers are in a JSON file beside it. `experts` prints how much each expert is
used by text and images, over all posts and by class, and writes the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers.utils.logging import disable_progress_bar

from ..app.markup import document
from ..data.atomic_io import write_whole
from ..data.evaluation_data import load_evaluation_data
from ..data.files import read_json, same_file
from ..data.flags import FlagParser, RenamedFlag
from ..data.rows import locate_image
from ..evaluation.explanation import ExpertUsage, expert_usage, explain_post, image_effect_words
from ..evaluation.report import markdown_table
from ..inference.model_folder import check_device, check_model_folder, check_output_folder, load_model, shipped_model
from ..labels import REJECT_BY, check_threshold
from .errors import one_line


def read_flags(argv: Sequence[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The parser and the command line."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    post, experts = (commands.add_parser(name, allow_abbrev=False) for name in ("post", "experts"))
    for command, output in ((post, "explanation.html"), (experts, "expert_usage.json")):
        command.add_argument("--model", help="folder or Hub name (default: mgvmoe-small, which ships)")
        command.add_argument("--device", default="cpu", help="cpu, cuda, ... (default cpu)")
        command.add_argument("--output", default=f"runs/{output}", help=f"file to write (default runs/{output})")
    post.add_argument("--posts", required=True, help="JSON list of posts, as the pipeline takes them")
    post.add_argument("--number", type=int, default=0, help="which of them, from 0 (default 0)")
    post.add_argument("--labels", nargs="+", help="instead of the post's own candidate_labels")
    post.add_argument("--threshold", type=float, help='"none of these" if the best label has less (default: none)')
    post.add_argument(
        "--reject_by", choices=REJECT_BY, default="probability", help="what --threshold is about (default probability)"
    )
    post.add_argument("--none_threshold", dest="threshold", action=RenamedFlag, type=float,
        default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # fmt: skip
    experts.add_argument("--dataset", required=True, help='"sketchbook" or FOLDER')
    experts.add_argument("--split", default="test", choices=("validation", "test"), help="default test")
    experts.add_argument("--seed", type=int, default=0, help="of the sketchbook (default 0)")
    experts.add_argument("--max_posts", type=int, help="for a quick look; default all")
    return parser, parser.parse_args(argv)


def read_post(path: str, number: int) -> dict[str, Any]:
    """One post of a JSON file, its image's path relative to the file."""
    posts = read_json(path, "posts")
    if not isinstance(posts, list) or not posts or not all(isinstance(post, dict) for post in posts):
        raise ValueError(f"posts: {path!r} must hold a list of posts, got {posts!r:.80}")
    if not 0 <= number < len(posts):
        raise ValueError(f"number must be one of 0 to {len(posts) - 1}, got {number}")
    post = posts[number]
    return {**post, "image": locate_image(post.get("image"), os.path.dirname(path))}


def usage_table(usage: ExpertUsage) -> str:
    """A Markdown table: percent of each expert by modality, a row for all posts and one for each class."""
    heads = [f"{name} {number}" for name, own in usage.overall.items() for number in range(len(own))]
    shown = [("all posts", sum(number for own in usage.posts.values() for number in own.values()), usage.overall)]
    for task, classes in usage.by_class.items():
        shown += [(f"{task}: {label}", usage.posts[task][label], own) for label, own in classes.items()]
    rows = []
    for name, number, own in shown:
        shares = [own.get(modality, np.full(len(every), np.nan)) for modality, every in usage.overall.items()]
        cells = ["" if np.isnan(share) else f"{100 * share:.0f}" for share in np.concatenate(shares)]
        rows.append([name, f"{number:,}", *cells])
    return markdown_table(["% of each expert", "posts", *heads], rows)


@one_line()
def main(argv: Sequence[str] | None = None) -> Any:
    """Write what is asked for."""
    parser, arguments = read_flags(sys.argv[1:] if argv is None else argv)
    disable_progress_bar()
    try:
        arguments.model = arguments.model or shipped_model()
        check_model_folder(arguments.model)
        check_device(arguments.device)
        if os.path.isdir(arguments.output):
            raise IsADirectoryError(f"output: the name of a file is needed, {arguments.output!r} is a folder")
        numbers = os.path.splitext(arguments.output)[0] + ".json"
        ending = ".html" if arguments.command == "post" else ".json"
        if not arguments.output.endswith(ending):
            raise ValueError(f"output must end in {ending}, got {arguments.output!r}")
        if arguments.command == "post" and same_file(numbers, arguments.posts):
            raise ValueError(f"output: its numbers, {numbers!r}, would replace the posts; --output must differ")
        check_output_folder("output", os.path.dirname(arguments.output) or ".")
        os.makedirs(os.path.dirname(arguments.output) or ".", exist_ok=True)
        if arguments.command == "post":
            check_threshold(arguments.threshold, arguments.reject_by)
            post = read_post(arguments.posts, arguments.number)
            model, processor = load_model(arguments.model, arguments.device)
            chosen = {"threshold": arguments.threshold, "reject_by": arguments.reject_by}
            result: Any = explain_post(model, processor, post, arguments.labels, **chosen)
            write_whole(arguments.output, document(result).encode())
            print(f"{result.answer or 'none of these'}   uncertainty {result.uncertainty:.2f}")
            if words := image_effect_words(result):
                print(words)
        else:
            data = load_evaluation_data(arguments.dataset, (), arguments.seed, arguments.max_posts)
            if data.note:
                print(data.note, flush=True)
            model, processor = load_model(arguments.model, arguments.device)
            result = expert_usage(model, processor, data.posts[arguments.split], progress=True)
            print(usage_table(result))
    except (OSError, ValueError) as error:
        parser.error(" ".join(str(error).split()))
    write_whole(numbers, json.dumps(result.as_json(), indent=1, ensure_ascii=False).encode())
    print(*([f"page: {arguments.output}"] if arguments.command == "post" else []), f"numbers: {numbers}", sep="   ")
    return result.as_json()
