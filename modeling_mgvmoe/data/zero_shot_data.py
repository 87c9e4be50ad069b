"""A data set for zero-shot learning: posts in three splits, and the classes of each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..candidates import label_texts
from .files import check_keys, read_json_object
from .labels import LabelSet
from .parquet_file import read_parquet
from .schema import task_of, validate_post
from .sketchbook import load_sketchbook, split_classes
from .splits import SPLITS, ClassSplit

LABELS_FILE = "labels.json"
# Files beside those of the splits that a prepared folder may have.
OPTIONAL_PARTS = ("seen_test", "none")


@dataclass
class ZeroShotData:
    """Posts and class names of each split. Validation and test classes are unseen: none of them is in training.

    Attributes:
        posts: for "train", "validation" and "test" a sequence of posts in the package's schema.
        labels: for each split, for each task ("typing", "relation") the candidate labels.
        label_descriptions: sentences in place of labels, one or several for each.
        label_types: for relations, the types that the head and the tail may have.
        type_descriptions: for each of these types, a sentence or several.
    """

    posts: Mapping[str, Sequence[Mapping[str, Any]]]
    labels: Mapping[str, Mapping[str, tuple[str, ...]]]
    label_descriptions: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    label_types: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    type_descriptions: Mapping[str, str | Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [name for name in SPLITS if name not in self.posts or name not in self.labels]
        if missing:
            raise ValueError(f"posts and labels: the splits {', '.join(SPLITS)} are needed (missing: {missing})")
        for split in ("validation", "test"):
            for task, names in self.labels[split].items():
                if split == "test" and (both := sorted(set(names) & set(self.labels["validation"].get(task, ())))):
                    raise ValueError(
                        f"labels['test']: test classes must not be among those of validation (got {task} {both[:5]})"
                    )
                seen = sorted(set(names) & set(self.labels["train"].get(task, ())))
                if seen:
                    raise ValueError(
                        f"labels[{split!r}]: unseen classes must not be in training (got {task} {seen[:5]})"
                    )

    def training_texts(self) -> list[str]:
        """Sentences and class names of the training split, for a tokenizer to be learned from."""
        names = [name for task in self.labels["train"].values() for name in task]
        texts = label_texts(names, self.label_descriptions, "{}")
        return [post["text"] for post in self.posts["train"]] + [text for own in texts for text in own]


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
        label_descriptions=label_set.texts(),
        label_types=label_set.allowed_types(),
        type_descriptions=label_set.type_texts(),
    )


def sketchbook_data(seed: int = 0, posts_per_class: int = 60, eval_posts_per_class: int = 20) -> ZeroShotData:
    """The built-in posts, typing and relations together; see [`sketchbook`]."""
    posts = load_sketchbook(seed=seed, posts_per_class=posts_per_class, eval_posts_per_class=eval_posts_per_class)
    classes = {task: split_classes(task, seed) for task in ("typing", "relation")}
    labels = {split: {task: getattr(classes[task], split) for task in classes} for split in SPLITS}
    return ZeroShotData(posts={split: posts[split] for split in SPLITS}, labels=labels)


def data_from_folder(folder: str | os.PathLike) -> ZeroShotData:
    """Posts from `train.parquet`, `validation.parquet` and `test.parquet` in a folder, in the package's schema.

    `labels.json`, as `examples/prepare_data.py` writes it, gives candidates, descriptions and types. Without it, the
    candidates of a split are the labels of its posts, and there are neither descriptions nor types.

    Raises:
        FileNotFoundError: one of the Parquet files is missing.
        ValueError: a post does not fit the schema, its label is not a candidate of its split, or a class of validation
            or test is also in training; or `labels.json` breaks its format.
    """
    files = {split: os.path.join(folder, f"{split}.parquet") for split in SPLITS}
    for path in files.values():
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"dataset: {path} does not exist; {', '.join(f'{s}.parquet' for s in SPLITS)} are needed."
            )
    path = os.path.join(folder, LABELS_FILE)
    given = read_prepared_labels(path) if os.path.isfile(path) else None
    posts: dict[str, Any] = {}
    labels: dict[str, dict[str, tuple[str, ...]]] = {}
    for split in SPLITS:
        known = None if given is None else given["labels"][split]
        posts[split], labels[split] = _read_posts(files[split], known)
    return ZeroShotData(posts=posts, labels=labels, **({} if given is None else given["words"]))


def _read_posts(
    path: str, known: Mapping[str, tuple[str, ...]] | None
) -> tuple[Sequence[Mapping[str, Any]], dict[str, tuple[str, ...]]]:
    """Posts and, for each task, its candidates: the known ones, or those that were found."""
    posts = read_parquet(path)
    found: dict[str, dict[str, None]] = {}
    columns = [name for name in posts.column_names if name != "image"]
    for number, post in enumerate(posts.select_columns(columns)):
        validate_post(post, f"{path}, row {number}")
        task = task_of(post)
        if known is not None and post["label"] not in known.get(task, ()):
            raise ValueError(
                f"{path}, row {number}: post {post['id']!r}: label must be a candidate of its split in "
                f"{LABELS_FILE}, got {post['label']!r}"
            )
        found.setdefault(task, {})[post["label"]] = None
    return posts, {task: tuple(names) for task, names in found.items()} if known is None else dict(known)


def read_prepared_labels(path: str) -> dict[str, Any]:
    """Read the `labels.json` of a prepared folder.

    Returns:
        `labels`: candidates by split and task; `words`: the sentences and types of [`ZeroShotData`], by its names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it breaks its format.
    """
    content = read_json_object(path)
    words = ("label_descriptions", "label_types", "type_descriptions")
    try:
        check_keys(content, ("dataset", "split", "labels", *words), ("label_set_version", "none", "counts"))
        check_keys(content["labels"], SPLITS)
        labels = {
            split: {task: tuple(_strings(names, f"labels[{split!r}][{task!r}]")) for task, names in tasks.items()}
            for split, tasks in content["labels"].items()
        }
        types = {
            name: (
                tuple(_strings(heads, f"label_types[{name!r}]")),
                tuple(_strings(tails, f"label_types[{name!r}]")),
            )
            for name, (heads, tails) in content["label_types"].items()
        }
        for key in ("label_descriptions", "type_descriptions"):
            for name, texts in content[key].items():
                _strings(texts if isinstance(texts, list) else [texts], f"{key}[{name!r}]")
    except (AttributeError, TypeError, ValueError) as error:  # what is no object, no pair or no string
        raise ValueError(f"{path}: {error}") from error
    sentences = {
        key: {name: tuple(texts) if isinstance(texts, list) else texts for name, texts in content[key].items()}
        for key in ("label_descriptions", "type_descriptions")
    }
    return {"labels": labels, "words": {**sentences, "label_types": types}}


def _strings(values: Any, what: str) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        raise ValueError(f"{what} must hold strings that are not empty, got {values!r:.80}")
    return values
