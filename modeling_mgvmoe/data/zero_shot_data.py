"""A data set for zero-shot learning: posts in three splits, and the classes of each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .schema import task_of, validate_post
from .sketchbook import load_sketchbook, split_classes

SPLITS = ("train", "validation", "test")


@dataclass
class ZeroShotData:
    """Posts and class names of each split. Validation and test classes are unseen: none of them is in training.

    Attributes:
        posts: for "train", "validation" and "test" a sequence of posts in the package's schema.
        labels: for each split, for each task ("typing", "relation") the candidate labels.
        label_descriptions: sentences in place of labels.
    """

    posts: Mapping[str, Sequence[Mapping[str, Any]]]
    labels: Mapping[str, Mapping[str, tuple[str, ...]]]
    label_descriptions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [name for name in SPLITS if name not in self.posts or name not in self.labels]
        if missing:
            raise ValueError(f"posts and labels: the splits {', '.join(SPLITS)} are needed (missing: {missing})")
        for split in ("validation", "test"):
            for task, names in self.labels[split].items():
                seen = sorted(set(names) & set(self.labels["train"].get(task, ())))
                if seen:
                    raise ValueError(
                        f"labels[{split!r}]: unseen classes must not be in training (got {task} {seen[:5]})"
                    )

    def training_texts(self) -> list[str]:
        """Sentences and class names of the training split, for a tokenizer to be learned from."""
        names = [name for task in self.labels["train"].values() for name in task]
        return [post["text"] for post in self.posts["train"]] + [
            self.label_descriptions.get(name, name) for name in names
        ]


def sketchbook_data(seed: int = 0, posts_per_class: int = 60, eval_posts_per_class: int = 20) -> ZeroShotData:
    """The built-in posts, typing and relations together; see [`sketchbook`]."""
    posts = load_sketchbook(seed=seed, posts_per_class=posts_per_class, eval_posts_per_class=eval_posts_per_class)
    classes = {task: split_classes(task, seed) for task in ("typing", "relation")}
    labels = {split: {task: getattr(classes[task], split) for task in classes} for split in SPLITS}
    return ZeroShotData(posts={split: posts[split] for split in SPLITS}, labels=labels)


def data_from_folder(folder: str | os.PathLike) -> ZeroShotData:
    """Posts from `train.parquet`, `validation.parquet` and `test.parquet` in a folder, in the package's schema.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a post does not fit the schema, or a class of validation or test is also in training.
    """
    from datasets import load_dataset

    files = {split: os.path.join(folder, f"{split}.parquet") for split in SPLITS}
    for path in files.values():
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"dataset: {path} does not exist; {', '.join(f'{s}.parquet' for s in SPLITS)} are needed."
            )
    posts = load_dataset("parquet", data_files=files)
    labels: dict[str, dict[str, tuple[str, ...]]] = {}
    for split in SPLITS:
        found: dict[str, dict[str, None]] = {}
        columns = [name for name in posts[split].column_names if name != "image"]
        for number, post in enumerate(posts[split].select_columns(columns)):
            validate_post(post, f"{files[split]}, row {number}")
            found.setdefault(task_of(post), {})[post["label"]] = None
        labels[split] = {task: tuple(names) for task, names in found.items()}
    return ZeroShotData(posts=posts, labels=labels)
