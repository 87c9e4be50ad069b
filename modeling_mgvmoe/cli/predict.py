"""Score labels for one post, or for every post of a file.

    mgvmoe predict --model FOLDER --text "Kelo sails at dawn" --mention 0 4 --labels boat bird
    mgvmoe predict --model FOLDER --text "Kelo greets Mura" --head-text Kelo --tail-text Mura --labels greets chases
    mgvmoe predict --model FOLDER --input posts.jsonl --output answers.jsonl --labels boat bird

A file holds posts as the pipeline takes them: "text"; "mention", or "head" and "tail"; "image"; "candidate_labels". A
broken post, or image, has an "error" in the answers, all others their labels, and the exit code is 3. A run with
--output that was stopped goes on when it is started again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..data.progress_bar import hide_bars_of_libraries, progress_bar
from ..evaluation.command import add_loading_flags
from .answer_file import AnswerFile, as_text, check_output, fingerprint
from .errors import GOOD, PARTIAL, UsageError, usage
from .one_post import SLOTS, add_post_flags, post_from_flags

ON_BROKEN_IMAGE = ("error", "text_only")
JSON_FLAGS = ("descriptions", "label_types", "type_descriptions")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("--model", required=True, help="folder or Hub name of a model with its processor")
    add_post_flags(parser)
    group = parser.add_argument_group("many posts")
    group.add_argument("--input", metavar="FILE", help="posts: .json (a list), .jsonl, or .parquet")
    group.add_argument("--output", metavar="FILE", help="answers: .json or .jsonl (default: standard output)")
    group.add_argument("--overwrite", action="store_true", help="replace an output that is there")
    group.add_argument(
        "--on-broken-image",
        choices=ON_BROKEN_IMAGE,
        default="error",
        help="what becomes of its post (default error; text_only: labels from the text alone)",
    )
    group.add_argument("--batch-size", type=int, default=8, help="posts at a time (default 8)")
    group = parser.add_argument_group("labels")
    group.add_argument("--labels", nargs="+", metavar="LABEL", help="candidates of all posts without their own")
    group.add_argument(
        "--descriptions", metavar="FILE", help="JSON: for a label the sentence, or sentences, read in its place"
    )
    group.add_argument(
        "--label-types",
        metavar="FILE",
        help='JSON: for a relation the types of head and tail, {"lives in": [["person"], ["city", "country"]]}',
    )
    group.add_argument(
        "--type-descriptions",
        metavar="FILE",
        help="JSON: for a type the sentence, or sentences, read in its place",
    )
    group.add_argument("--label-template", help='text around each label, with one "{}"')
    group = parser.add_argument_group("answer")
    group.add_argument("--top-k", type=int, help="so many labels at most (default: all)")
    group.add_argument("--threshold", type=float, default=0.0, help="the lowest score to return (default 0)")
    group.add_argument(
        "--function-to-apply",
        default="softmax",
        help="logits to scores: softmax over the post's labels (default), sigmoid of each, or none",
    )
    add_loading_flags(parser.add_argument_group("model"))


def run(flags: argparse.Namespace, argv: Sequence[str]) -> int:
    """Predict and print.

    Returns:
        The exit code.

    Raises:
        UsageError: before the model is loaded, for all that can be told by then.
    """
    posts, faults, arguments = _read(flags)
    from ..evaluation.loading import default_device, load_model
    from ..pipeline_mgvmoe import ZeroShotMultimodalIEPipeline

    hide_bars_of_libraries()
    device = flags.device or default_device()
    model, processor = load_model(flags.model, device, flags.revision, flags.dtype, flags.trust_remote_code)
    if "label_types" in arguments and model.config.score != "similarity":
        raise UsageError(f'--label-types: a model with score="similarity" is needed, got {model.config.score!r}')
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor, device=device)
    if flags.input is None:
        (answer,) = _answers(pipe, _from(posts, {}, 0, False), arguments, 1)
        print(json.dumps(answer, ensure_ascii=False) if flags.json else as_text(answer["labels"]))
        return GOOD
    if faults:
        first = next(iter(faults.values()))
        print(f"{len(faults):,} of {len(posts):,} posts are broken and get an error: {first}", file=sys.stderr)
    answers = None
    if flags.output is not None:
        if flags.dtype == "auto":
            flags.dtype = str(model.dtype)  # answers of one file are of one precision
        answers = AnswerFile(flags.output, _fingerprint(flags, arguments), flags.overwrite)
    done = 0 if answers is None else answers.done
    if done:
        print(f"going on after post {done} of {len(posts)}", file=sys.stderr)
    arguments["errors"] = "return"
    given = _from(posts, faults, done, flags.on_broken_image == "text_only")
    found = _with_progress(_answers(pipe, given, arguments, flags.batch_size), done, len(posts))
    if answers is not None:
        try:
            for answer in found:
                answers.add(answer)
        except BaseException:
            answers.close()
            raise
        answers.finish()
        errors = answers.errors
        written = {"output": flags.output, "posts": len(posts), **({"errors": errors} if errors else {})}
        print(json.dumps(written) if flags.json else f"{len(posts)} posts written to {flags.output}")
    else:
        errors = _print(found, flags.json)
    if errors:
        print(f'{errors:,} of {len(posts):,} posts have an "error" in place of labels', file=sys.stderr)
    return PARTIAL if errors else GOOD


def _print(answers: Iterable[Mapping[str, Any]], as_json: bool) -> int:
    """Print the answers; how many of them are errors."""
    if as_json:
        listed = list(answers)
        print(json.dumps(listed, ensure_ascii=False))
        return sum("error" in answer for answer in listed)
    errors = 0
    for answer in answers:
        print(answer.get("text", "-"))
        if "error" in answer:
            errors += 1
            print(f"    error: {answer['error']}", flush=True)
        else:
            print(as_text(answer["labels"], "    "), flush=True)
    return errors


def _read(flags: argparse.Namespace) -> tuple[Sequence[Any], dict[int, str], dict[str, Any]]:
    """Posts, what is wrong with broken ones, and the arguments of the pipeline's call, checked without the model."""
    from ..data.files import read_json_object
    from ..evaluation.loading import check_device, check_dtype, check_model_folder
    from ..labels import check_labels, check_ranking, label_texts, read_label_types

    given = [f"--{slot}" for slot in ("text", "image", *SLOTS) if getattr(flags, slot) is not None]
    if (flags.input is None) == (flags.text is None):
        raise UsageError(f"either --text or --input must be given, got {'neither' if flags.text is None else 'both'}")
    if flags.input is not None and given:
        raise UsageError(f"{', '.join(given)}: these are in the file that --input names")
    if flags.input is None and flags.output is not None:
        raise UsageError("--output goes with --input, got it with --text")
    if flags.batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, got {flags.batch_size}")
    with usage():
        check_ranking(flags.threshold, flags.top_k, flags.function_to_apply)
        if flags.labels is not None:
            check_labels(flags.labels, "--labels")
        words = {
            name: read_json_object(getattr(flags, name)) for name in JSON_FLAGS if getattr(flags, name) is not None
        }
        template = "{}" if flags.label_template is None else flags.label_template
        label_texts(flags.labels or [], words.get("descriptions"), template)
        label_texts([], words.get("type_descriptions"), "{}")
        read_label_types(words.get("label_types"), flags.labels or [])
        if flags.device is not None:
            check_device(flags.device)
        check_dtype(flags.dtype)
        check_model_folder(flags.model)
    if flags.output is not None:
        check_output(flags.output, flags.overwrite)
    posts: Sequence[Any]
    faults: dict[int, str] = {}
    if flags.input is None:
        if flags.labels is None:
            raise UsageError("--labels must be given with --text")
        posts = [post_from_flags(flags)]
    else:
        from .post_files import read_posts

        posts, faults = read_posts(flags.input, flags.labels, flags.on_broken_image == "text_only")
    arguments = {
        "candidate_labels": flags.labels,
        "label_descriptions": words.get("descriptions"),
        "label_types": words.get("label_types"),
        "type_descriptions": words.get("type_descriptions"),
        "label_template": flags.label_template,
        "top_k": flags.top_k,
        "threshold": flags.threshold,
        "function_to_apply": flags.function_to_apply,
    }
    return posts, faults, {name: value for name, value in arguments.items() if value is not None}


def _fingerprint(flags: argparse.Namespace, arguments: Mapping[str, Any]) -> str:
    """Of the posts, the model and the arguments; a model in a folder is known by its files' sizes and times."""
    folder = []
    if os.path.isdir(flags.model):
        for entry in sorted(os.scandir(flags.model), key=lambda entry: entry.name):
            folder.append([entry.name, entry.stat().st_size, entry.stat().st_mtime_ns])
    settings = {"model": os.path.abspath(flags.model) if folder else flags.model, "folder": folder,
                "revision": flags.revision, "dtype": flags.dtype, "arguments": dict(arguments),
                "on_broken_image": flags.on_broken_image}  # fmt: skip
    return fingerprint(settings, flags.input)


def _from(posts: Sequence[Any], faults: Mapping[int, str], start: int, text_only: bool) -> Iterator[dict[str, Any]]:
    """Each post with what its answer says beside the labels: `error`, or `image_error` where its image is left out."""
    from ..images import to_rgb

    for place in range(start, len(posts)):
        post, told = posts[place], {}
        if place in faults:
            told["error"] = faults[place]
        elif text_only and post.get("image") is not None:
            try:
                image = to_rgb(post["image"], "image")
            except ValueError as error:
                image, told["image_error"] = None, str(error)
            yield {"post": {**post, "image": image}, "kept": {**_kept(post), **told}}
            continue
        yield {"post": post, "kept": {**_kept(post), **told}}


def _kept(post: Any) -> dict[str, Any]:
    """What an answer says of its post."""
    if not isinstance(post, Mapping):
        return {}
    kept = {name: post[name] for name in ("id", "text", *SLOTS, "mentions") if post.get(name) is not None}
    return {**kept, "image": post["image"]} if isinstance(post.get("image"), str) else kept


def _answers(
    pipe: Any, posts: Iterable[Mapping[str, Any]], arguments: Mapping[str, Any], batch_size: int
) -> Iterator[dict[str, Any]]:
    """One answer for each post, in order: what the post was, and its ranked labels or an error."""
    waiting: deque[dict[str, Any]] = deque()

    def feed() -> Iterator[Any]:
        for given in posts:
            waiting.append(dict(given["kept"]))
            if "error" not in given["kept"]:
                yield given["post"]

    def broken() -> Iterator[dict[str, Any]]:
        while waiting and "error" in waiting[0]:
            yield waiting.popleft()

    for found in pipe(feed(), batch_size=batch_size, **arguments):
        yield from broken()
        yield {**waiting.popleft(), **({"labels": found} if isinstance(found, list) else found)}
    yield from broken()


def _with_progress(answers: Iterable[dict[str, Any]], done: int, total: int) -> Iterator[dict[str, Any]]:
    """A bar on standard error, where a person looks on."""
    return iter(progress_bar(answers, "predicting", total, initial=done))
