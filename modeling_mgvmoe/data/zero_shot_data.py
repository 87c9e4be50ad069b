"""A data set for zero-shot learning: posts in three splits, and the classes of each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .labels import LabelSet
from .schema import task_of, validate_post
from .sketchbook import load_sketchbook, split_classes
from .splits import SPLITS, ClassSplit


@dataclass
class ZeroShotData:
    """Posts and class names of each split. Validation and test classes are unseen: none of them is in training.

    Attributes:
        posts: for "train", "validation" and "test" a sequence of posts in the package's schema.
        labels: for each split, for each task ("typing", "relation") the candidate labels.
        label_descriptions: sentences in place of labels.
        label_types: for relations, the types that the head and the tail may have.
        type_descriptions: for each of these types, a sentence.
    """

    posts: Mapping[str, Sequence[Mapping[str, Any]]]
    labels: Mapping[str, Mapping[str, tuple[str, ...]]]
    label_descriptions: Mapping[str, str] = field(default_factory=dict)
    label_types: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    type_descriptions: Mapping[str, str] = field(default_factory=dict)

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


def data_from_posts(
    posts: Iterable[Mapping[str, Any]] | Mapping[str, Iterable[Mapping[str, Any]]],
    split: ClassSplit,
    task: str,
    label_set: LabelSet | None = None,
) -> ZeroShotData:
    """Divide posts of one task by class; posts of any other class are left out.

    Args:
        posts: labelled with the data set's own class names, as the adapters yield them; either all of them, or those
            that each of "train", "validation" and "test" may take from.
        split: of these names. Every class is a candidate, also one without a post.
        task: "typing" or "relation".
        label_set: if given, labels are its words, and it also gives descriptions and types.

    Returns:
        The data; the posts of a split go by class, in the order of the split.

    Raises:
        ValueError: a class of the split is not in the label set, or it is of another task.
    """
    if label_set is not None and label_set.task != task:
        raise ValueError(f"label_set: one for {task} is needed, got {label_set.name!r}, which is for {label_set.task}")
    pools = posts if isinstance(posts, Mapping) else dict.fromkeys(SPLITS, list(posts))
    chosen: dict[str, list[Mapping[str, Any]]] = {}
    labels: dict[str, dict[str, tuple[str, ...]]] = {}
    for name in SPLITS:
        classes = getattr(split, name)
        members: dict[str, list[Mapping[str, Any]]] = {raw: [] for raw in classes}
        for post in pools[name]:
            if post["label"] in members:
                members[post["label"]].append(post)
        chosen[name] = [post for posts_of_class in members.values() for post in posts_of_class]
        if label_set is not None:
            chosen[name] = list(label_set.in_words(chosen[name]))
    for name, classes in vars(split if label_set is None else split.in_words(label_set)).items():
        labels[name] = {task: classes}
    if label_set is None:
        return ZeroShotData(posts=chosen, labels=labels)
    return ZeroShotData(
        posts=chosen,
        labels=labels,
        label_descriptions=label_set.descriptions(),
        label_types=label_set.allowed_types(),
        type_descriptions=dict(label_set.types),
    )


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
