"""Posts to evaluate on: those of unseen classes, held-out posts of seen ones, posts without a class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .post_images import without_images as without_images  # for the evaluation
from .rows import files_of, read_parts
from .schema import task_of
from .sketchbook import TASKS, generate_posts, split_classes
from .zero_shot_data import SPLITS, ZeroShotData, read_data

Posts = Sequence[Mapping[str, Any]]
# Files of a prepared folder that training does not need.
OPTIONAL = {
    "seen_test": "held-out posts of training classes",
    "none": "posts without a class",
}


@dataclass(frozen=True)
class EvaluationData:
    """Posts to evaluate on and the classes of each split.

    Attributes:
        posts: "validation" and "test", of classes that are not in training, or in your own rows perhaps are;
            "seen_test", held-out posts of training classes, and "none", posts without a class, where a protocol needs
            them.
        labels: for "train", "validation" and "test", for each task, the classes.
        label_descriptions, label_types, type_descriptions: as in [`ZeroShotData`].
        sampled: whether `max_posts` left posts out.
        note: what was done to rows of your own, one line; "" for data that was prepared.
    """

    posts: Mapping[str, Posts]
    labels: Mapping[str, Mapping[str, tuple[str, ...]]]
    label_descriptions: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    label_types: Mapping[str, Any] = field(default_factory=dict)
    type_descriptions: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    sampled: bool = False
    note: str = ""


def load_evaluation_data(
    dataset: str, needed: Sequence[str] = (), seed: int = 0, max_posts: int | None = None
) -> EvaluationData:
    """The posts of a dataset that an evaluation needs.

    Args:
        dataset: "sketchbook", or what [`read_data`] takes, with `seen_test.parquet` and `none.parquet` where they are
            needed. Rows without a test split are tested on their validation posts.
        needed: which posts; validation and test come in any case.
        seed: of the sketchbook. A folder has its own split.
        max_posts: keep this many posts of each kind, those whose ids have the lowest SHA-256; all candidates stay.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a post does not fit the schema; a held-out post is one of training or not of a training class; a
            post without a class has the name of a class.
    """
    unknown = sorted(set(needed) - set(OPTIONAL) - set(SPLITS))
    if unknown:
        raise ValueError(f"needed must be of {', '.join((*SPLITS, *OPTIONAL))}, got {unknown}")
    if max_posts is not None and max_posts < 1:
        raise ValueError(f"max_posts must be at least 1, got {max_posts}")
    data = _sketchbook(needed, seed) if dataset == "sketchbook" else _folder(dataset, needed)
    if max_posts is None:
        return data
    kept = {name: sample_posts(posts, max_posts) for name, posts in data.posts.items()}
    return replace(
        data,
        posts=kept,
        sampled=any(len(kept[name]) < len(posts) for name, posts in data.posts.items()),
    )


def check_files(dataset: str, needed: Sequence[str] = ()) -> None:
    """Raise FileNotFoundError unless a dataset and the optional files in `needed` are there.

    A name on the Hub is only known to be there when it is read.
    """
    if dataset == "sketchbook" or (os.path.isfile(dataset) and not needed):
        return
    if not os.path.exists(dataset) and dataset.count("/") == 1 and not dataset.startswith((".", "/")):
        return
    if not os.path.exists(dataset):
        raise FileNotFoundError(f'dataset: "sketchbook", a folder or a file of rows is needed, {dataset!r} is none')
    if os.path.isfile(dataset):
        name = next((name for name in needed if name in OPTIONAL), needed[0])
        raise FileNotFoundError(f"dataset: a folder with {name}.parquet is needed here, got the file {dataset!r}")
    for name in needed:
        if name in OPTIONAL and not files_of(dataset, name):
            how = (
                "`mgvmoe prepare ... --seen_test_share 0.1` writes it."
                if name == "seen_test"
                else "`mgvmoe prepare ...` writes it for datasets that have such posts, of MNRE for one."
            )
            path = os.path.join(dataset, f"{name}.parquet")
            raise FileNotFoundError(f"dataset: {path} ({OPTIONAL[name]}) does not exist; {how}")


def read_optional_posts(folder: str | os.PathLike, name: str) -> Posts:
    """The posts of `seen_test.parquet` or `none.parquet` in a prepared folder.

    Raises:
        FileNotFoundError: it is missing; the message says how to make it.
        ValueError: a post does not fit the schema.
    """
    check_files(os.fspath(folder), (name,))
    return read_parts(os.fspath(folder), (name,))[name]


def select_posts(posts: Posts, rows: Sequence[int]) -> Posts:
    """The posts with these numbers, a dataset of a dataset and else a list."""
    return posts.select(rows) if hasattr(posts, "select") else [posts[row] for row in rows]


def posts_of_task(posts: Posts, task: str) -> Posts:
    """The posts of one task, in their order."""
    return select_posts(posts, [row for row, post in enumerate(without_images(posts)) if task_of(post) == task])


def id_digest(post: Mapping[str, Any]) -> int:
    """A number that depends on the post's id alone, the same in every process: its SHA-256."""
    return int(hashlib.sha256(str(post["id"]).encode("utf-8")).hexdigest(), 16)


def sample_posts(posts: Posts, count: int) -> Posts:
    """The posts whose ids have the lowest SHA-256, in their order: the same ones in every process and run."""
    digests = [id_digest(post) for post in without_images(posts)]
    return select_posts(posts, sorted(sorted(range(len(digests)), key=digests.__getitem__)[:count]))


def _folder(folder: str, needed: Sequence[str]) -> EvaluationData:
    check_files(folder, needed)
    data = read_data(folder)
    note = data.note
    posts = {name: data.posts[name] for name in ("validation", "test")}
    if not len(posts["test"]):
        # Not also as validation posts: nothing may be fitted on what is tested on.
        posts["test"] = posts.pop("validation")
        note += "; tested on the validation posts, for there are no test posts"
    elif not len(posts["validation"]):
        del posts["validation"]
    for name in OPTIONAL:
        if name in needed:
            posts[name] = read_optional_posts(folder, name)
    _check_further(folder, data, posts)
    return EvaluationData(
        posts=posts,
        labels=data.labels,
        label_descriptions=data.label_descriptions,
        label_types=data.label_types,
        type_descriptions=data.type_descriptions,
        note=note,
    )


def _check_further(folder: str, data: ZeroShotData, posts: Mapping[str, Posts]) -> None:
    """Held-out posts are of training classes and not trained on, posts without a class of none."""
    path = os.path.join(folder, "{}.parquet")
    if "seen_test" in posts:
        # Files of rows without ids number these alike.
        trained = {(post["id"], post["text"]) for post in without_images(data.posts["train"])}
        for post in without_images(posts["seen_test"]):
            if (post["id"], post["text"]) in trained:
                raise ValueError(
                    f"{path.format('seen_test')}: posts must not be training posts, got {post['id']!r} of both"
                )
            if post["label"] not in data.labels["train"].get(task_of(post), ()):
                raise ValueError(
                    f"{path.format('seen_test')}: classes must be training classes, got {post['label']!r} "
                    f"of post {post['id']!r}"
                )
    for post in without_images(posts.get("none", ())):
        of = [split for split in SPLITS if post["label"] in data.labels[split].get(task_of(post), ())]
        if of:
            raise ValueError(
                f"{path.format('none')}: posts must be without a class, got {post['label']!r} of post {post['id']!r}, "
                f"which is a class of {of[0]}"
            )


def _sketchbook(needed: Sequence[str], seed: int, posts_per_class: int = 20) -> EvaluationData:
    """The posts of `sketchbook_data` but those of training; half of the validation classes stand in for no class."""
    classes = {task: split_classes(task, seed) for task in TASKS}
    labels = {split: {task: getattr(classes[task], split) for task in classes} for split in SPLITS}

    def posts_of(split: str) -> list[dict[str, Any]]:
        return [
            post for task in TASKS for post in generate_posts(task, split, seed=seed, posts_per_class=posts_per_class)
        ]

    posts = {split: posts_of(split) for split in ("validation", "test")}
    if "seen_test" in needed:
        posts["seen_test"] = posts_of("seen_test")
    if "none" in needed:
        kept = {task: names[: len(names) // 2] for task, names in labels["validation"].items()}
        labels = {**labels, "validation": kept}
        halves: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
        for post in posts["validation"]:
            halves[post["label"] not in kept[task_of(post)]].append(post)
        posts["validation"], posts["none"] = halves
    return EvaluationData(posts, labels)
