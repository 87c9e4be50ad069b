"""The datasets that `examples/prepare_data.py` reads, by the names of its sub-commands.

To add one, write a file with its reader and its [`DatasetAdapter`], and name that here.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from typing import Any

from .conll import CONLL, MULTIMODAL_NER
from .crossre import CROSSRE
from .fewrel import FEWREL
from .files import read_json_object
from .implicitave import IMPLICITAVE
from .mnre import MNRE
from .post_images import read_image, undecoded
from .prepare import DatasetAdapter, PreparedData
from .rows import ENDINGS, LABELS_FILE, files_of, find_labels_file
from .schema import ON_BAD_SPAN, Counts, task_of
from .splits import SPLITS
from .wikidiverse import WIKIDIVERSE
from .zero_shot_data import OPTIONAL_PARTS, read_data, sketchbook_data


def prepare_sketchbook(seed: int = 0, posts_per_class: int = 60, eval_posts_per_class: int = 20) -> PreparedData:
    """The built-in posts, typing and relations together; arguments of [`sketchbook_data`]."""
    return PreparedData("sketchbook", f"seed-{seed}", sketchbook_data(seed, posts_per_class, eval_posts_per_class))


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of split and posts (default 0)")
    parser.add_argument("--posts_per_class", type=int, default=60, help="in training (default 60)")
    parser.add_argument("--eval_posts_per_class", type=int, default=20, help="elsewhere (default 20)")


def _prepare(arguments: argparse.Namespace, configuration: str | os.PathLike[str]) -> PreparedData:
    return prepare_sketchbook(arguments.seed, arguments.posts_per_class, arguments.eval_posts_per_class)


def _add_rows_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `prepare_data.py rows`, beside those of every dataset."""
    parser.add_argument(
        "--data", required=True, metavar="ROWS", help=f"file ({', '.join(ENDINGS)}), folder of these, or Hub name"
    )
    parser.add_argument(
        "--on_bad_span",
        choices=ON_BAD_SPAN,
        default="error",
        help="where a mention does not fit its text: refuse the rows, or leave the row out (default error)",
    )


def _prepare_rows(arguments: argparse.Namespace, configuration: str | os.PathLike[str]) -> PreparedData:
    """Your own rows; prints how they are split. They bring their own words, so `configuration` is not read."""
    for part in OPTIONAL_PARTS:
        if files_of(arguments.data, part):
            raise ValueError(
                f"data must not be a folder that is prepared already, got {arguments.data!r} with {part}.parquet; "
                "train from it, or push it with the command that wrote it"
            )
    bad = Counts("typing")
    data = read_data(arguments.data, arguments.on_bad_span, bad)
    counts: dict[str, Counts] = {}
    posts = {split: [_counted(post, counts) for post in undecoded(own)] for split, own in data.posts.items()}
    next(iter(counts.values())).bad_spans = bad.bad_spans
    # Under the name that it was prepared with, for that says whether it may be public.
    path = find_labels_file(arguments.data)
    known = {} if path is None else read_json_object(path)
    name = os.path.splitext(os.path.basename(os.path.normpath(arguments.data)))[0]
    print(data.note)
    return PreparedData(
        known.get("dataset", name),
        known.get("split", "the rows' own"),
        replace(data, posts=posts),
        counts,
        known.get("label_set_version"),
        known.get("none"),
    )


def _counted(post: dict[str, Any], counts: dict[str, Counts]) -> dict[str, Any]:
    """The post, counted in its task; an image that is missing or broken is counted and taken out."""
    task = task_of(post)
    own = counts.setdefault(task, Counts(task))
    own.records += 1
    own.classes[post["label"]] = own.classes.get(post["label"], 0) + 1
    _, reason = read_image(post["image"])
    own.images_referenced += reason != "without"
    own.images_missing += reason == "missing"
    own.images_broken += reason == "broken"
    own.records_with_image += reason == ""
    own.records_with_image_text += post.get("image_text") is not None
    return post if reason == "" else {**post, "image": None}


SKETCHBOOK = DatasetAdapter("sketchbook", "the built-in drawings and sentences, from a seed", _add_flags, _prepare)

ROWS = DatasetAdapter(
    "rows", "your own rows: JSON lines, CSV, Parquet, a folder, a Hub dataset", _add_rows_flags, _prepare_rows
)

ADAPTERS = {
    adapter.name: adapter
    for adapter in (MNRE, MULTIMODAL_NER, WIKIDIVERSE, IMPLICITAVE, CONLL, CROSSRE, FEWREL, SKETCHBOOK, ROWS)
}
# By the name of a prepared dataset, why it may not be passed on as it is written.
NOT_PUBLIC = {
    name: adapter.not_public
    for adapter in ADAPTERS.values()
    if adapter.not_public
    for name in (adapter.name, *adapter.other_names)
}


def push_prepared(output_dir: str | os.PathLike[str], repo_id: str, private: bool = False) -> str:
    """Put a written folder on the Hub, as a dataset with a split for each file, and `labels.json` beside them.

    Args:
        output_dir: of [`write_prepared`].
        repo_id: "user/name".
        private: nobody else may see it.

    Returns:
        Address of the commit of `labels.json`.

    Raises:
        ValueError: the dataset may not be passed on, and `private` is not set.
    """
    from datasets import load_dataset
    from huggingface_hub import HfApi

    path = os.path.join(output_dir, LABELS_FILE)
    with open(path, encoding="utf-8") as file:
        check_public(json.load(file)["dataset"], private)
    names = (*SPLITS, *OPTIONAL_PARTS)
    files = {name: os.path.join(output_dir, f"{name}.parquet") for name in names}
    posts = load_dataset("parquet", data_files={name: one for name, one in files.items() if os.path.isfile(one)})
    posts.push_to_hub(repo_id, private=private)
    commit = HfApi().upload_file(path_or_fileobj=path, path_in_repo=LABELS_FILE, repo_id=repo_id, repo_type="dataset")
    return str(commit.commit_url)


def check_public(dataset: str, private: bool) -> None:
    """Raise ValueError if a dataset that may not be passed on would be public, before much is read."""
    if dataset in NOT_PUBLIC and not private:
        raise ValueError(f"private must be set for {dataset!r}, for {NOT_PUBLIC[dataset]}, got {private!r}")
