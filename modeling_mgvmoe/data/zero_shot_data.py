"""A dataset for zero-shot learning: posts in three splits, and the classes of each."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..labels import label_texts
from ..spans import read_image_text
from .files import check_keys, read_json_object
from .label_sets import LabelSet
from .post_images import undecoded, without_images
from .rows import LABELS_FILE, candidates_of, find_labels_file, hold_out, read_parts
from .schema import Counts, task_of
from .sketchbook import load_sketchbook, split_classes
from .splits import SPLITS, ClassSplit

# Files beside those of the splits that a prepared folder may have.
OPTIONAL_PARTS = ("seen_test", "none")


@dataclass
class ZeroShotData:
    """Posts and class names of each split.

    Attributes:
        posts: for "train", "validation" and "test" a sequence of posts in the package's schema.
        labels: for each split, for each task ("typing", "relation") the candidate labels.
        label_descriptions: sentences instead of labels, one or several for each.
        label_types: for relations, the types that the head and the tail may have.
        type_descriptions: for each of these types, a sentence or several.
        unseen: whether validation and test classes are held to be unseen: none of them in training, none in both.
        note: how rows were divided, one line for the user; "" for data that was prepared.
    """

    posts: Mapping[str, Sequence[Mapping[str, Any]]]
    labels: Mapping[str, Mapping[str, tuple[str, ...]]]
    label_descriptions: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    label_types: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    type_descriptions: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    unseen: bool = True
    note: str = ""

    def __post_init__(self) -> None:
        missing = [name for name in SPLITS if name not in self.posts or name not in self.labels]
        if missing:
            raise ValueError(f"posts and labels: the splits {', '.join(SPLITS)} are needed (missing: {missing})")
        if not self.unseen:
            return
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
        """Sentences, image texts and class names of the training split, for a tokenizer to be learned from."""
        names = [name for task in self.labels["train"].values() for name in task]
        texts = label_texts(names, self.label_descriptions, "{}")
        posts = without_images(self.posts["train"])
        words = [text for post in posts for text in read_image_text(post.get("image_text"))]
        return [post["text"] for post in posts] + words + [text for own in texts for text in own]


def data_from_posts(
    posts: Iterable[Mapping[str, Any]] | Mapping[str, Iterable[Mapping[str, Any]]],
    split: ClassSplit,
    task: str,
    label_set: LabelSet | None = None,
) -> ZeroShotData:
    """Split posts of one task by class; posts of any other class are left out.

    Args:
        posts: labelled with the dataset's own class names, as the adapters yield them; either all of them, or those
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


def combine_data(parts: Mapping[str, ZeroShotData]) -> ZeroShotData:
    """Several datasets for one model: a post competes among the classes of its dataset and task.

    Args:
        parts: by name. Where two of them have a label or a type of one name, it gets the texts of both.

    Returns:
        Their posts in memory, images undecoded, each with its `dataset`, "NAME/TASK", which `labels` has for the task.

    Raises:
        ValueError: there are no parts.

    Warns:
        UserWarning: one of them trains on a class that another holds out.
    """
    if not parts:
        raise ValueError("parts: at least one dataset is needed, got none")
    posts: dict[str, list[Mapping[str, Any]]] = {split: [] for split in SPLITS}
    labels: dict[str, dict[str, tuple[str, ...]]] = {split: {} for split in SPLITS}
    descriptions: dict[str, tuple[str, ...]] = {}
    type_descriptions: dict[str, tuple[str, ...]] = {}
    label_types: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for name, data in parts.items():
        for split in SPLITS:
            posts[split] += [{**post, "dataset": f"{name}/{task_of(post)}"} for post in undecoded(data.posts[split])]
            labels[split] |= {f"{name}/{task}": names for task, names in data.labels[split].items()}
        _add_texts(descriptions, data.label_descriptions)
        _add_texts(type_descriptions, data.type_descriptions)
        for label, allowed in data.label_types.items():
            old = label_types.get(label, ((), ()))
            label_types[label] = (_union(old[0], allowed[0]), _union(old[1], allowed[1]))
    _warn_of_seen_elsewhere(labels)
    return ZeroShotData(
        posts=posts,
        labels=labels,
        label_descriptions=descriptions,
        label_types=label_types,
        type_descriptions=type_descriptions,
        unseen=all(data.unseen for data in parts.values()),
        note="; ".join(data.note for data in parts.values() if data.note),
    )


def _warn_of_seen_elsewhere(labels: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    """Name the classes that one dataset trains on and another validates or tests on, where they count as unseen."""
    told = []
    for split in ("validation", "test"):
        for key, names in labels[split].items():
            task = key.rpartition("/")[2]
            for other, trained in labels["train"].items():
                if other != key and other.rpartition("/")[2] == task:
                    told += [f"{name!r} of {split} in {key}, trained on in {other}" for name in names
                             if name in trained and name not in labels["train"].get(key, ())]  # fmt: skip
    if told:
        warnings.warn(
            f"datasets: {len(told)} classes that one holds out are trained on in another, so that they are not "
            f"unseen: {'; '.join(told[:5])}",
            stacklevel=3,
        )


def _add_texts(texts: dict[str, tuple[str, ...]], more: Mapping[str, str | Sequence[str]]) -> None:
    for name, given in more.items():
        texts[name] = _union(texts.get(name, ()), [given] if isinstance(given, str) else given)


def _union(old: Sequence[str], new: Sequence[str]) -> tuple[str, ...]:
    """All of both, each once, in their order."""
    return tuple(dict.fromkeys([*old, *new]))


def sketchbook_data(seed: int = 0, posts_per_class: int = 60, eval_posts_per_class: int = 20) -> ZeroShotData:
    """The built-in posts, typing and relations together; see [`sketchbook`]."""
    posts = load_sketchbook(seed=seed, posts_per_class=posts_per_class, eval_posts_per_class=eval_posts_per_class)
    classes = {task: split_classes(task, seed) for task in ("typing", "relation")}
    labels = {split: {task: getattr(classes[task], split) for task in classes} for split in SPLITS}
    return ZeroShotData(posts={split: posts[split] for split in SPLITS}, labels=labels)


def data_from_folder(folder: str | os.PathLike) -> ZeroShotData:
    """[`read_data`] of a folder; FileNotFoundError if there is no such folder."""
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"dataset: the folder {os.fspath(folder)!r} does not exist")
    return read_data(os.fspath(folder))


def read_data(source: str, on_bad_span: str = "error", counts: Counts | None = None) -> ZeroShotData:
    """Posts for training and evaluation, from a prepared folder or from your own rows.

    A prepared folder has a `labels.json`, as `examples/prepare_data.py` writes it, with candidates, descriptions and
    types, and all three splits; unless it says `"unseen": false`, its validation and test classes must be unseen.

    Rows of your own are divided as they come. Without a validation split, a share of the training posts is held out.
    Classes may be seen or not: candidates of a split are the labels of its posts, and all training classes if one of
    them is among these. Without a test split, `posts["test"]` is empty.

    Args:
        source: as [`rows.read_parts`] takes it.
        on_bad_span, counts: as of [`rows.read_rows`].

    Raises:
        FileNotFoundError: there is no such source, or a split of a prepared folder is missing.
        ValueError: a post does not fit the schema, its label is not a candidate of its split, or a class of validation
            or test is also in training and may not be; or `labels.json` breaks its format.
    """
    path = find_labels_file(source)
    given = None if path is None else read_prepared_labels(path)
    unseen = given is not None and given["unseen"]
    parts = read_parts(source, SPLITS, on_bad_span, counts)
    if unseen and (missing := [split for split in SPLITS if split not in parts]):
        raise FileNotFoundError(
            f"dataset: {os.path.join(source, missing[0])}.parquet does not exist; a folder with a {LABELS_FILE} needs "
            f"{', '.join(f'{split}.parquet' for split in SPLITS)}."
        )
    found = [f"{len(parts[split]):,} {split} posts" for split in SPLITS if split in parts]
    if "train" in parts and "validation" not in parts:
        parts["train"], parts["validation"] = hold_out(parts["train"])
        found.append(f"{len(parts['validation']):,} of train held out for validation, by a hash of their texts")
    labels = candidates_of(parts) if given is None else given["labels"]
    if given is not None:
        for split in SPLITS:
            _check_labels(parts.get(split, ()), labels[split], f"{source}, {split}.parquet")
    if "test" not in parts and not labels["test"]:
        labels = {**labels, "test": labels["validation"]}  # what a card of the model shows
    return ZeroShotData(
        posts={split: parts.get(split, []) for split in SPLITS},
        labels=labels,
        unseen=unseen,
        note="" if unseen else f"{source}: {', '.join(found)}; {_seen(labels)}",
        **({} if given is None else given["words"]),
    )


def _seen(labels: Mapping[str, Mapping[str, tuple[str, ...]]]) -> str:
    """Number of classes by split, and of validation classes seen in training."""
    trained = {(task, name) for task, names in labels["train"].items() for name in names}
    validated = {(task, name) for task, names in labels["validation"].items() for name in names}
    if not trained:
        return "no training posts, so nothing says which classes were seen in training"
    new = len(validated - trained)
    return (
        f"{len(trained)} classes in training; of those in validation {len(trained & validated)} are seen, {new} unseen"
    )


def _check_labels(posts: Sequence[Mapping[str, Any]], known: Mapping[str, tuple[str, ...]], where: str) -> None:
    """Every label is a candidate of its split."""
    for number, post in enumerate(without_images(posts)):
        if post["label"] not in known.get(task_of(post), ()):
            raise ValueError(
                f"{where}, row {number}: post {post['id']!r}: label must be a candidate of its split in "
                f"{LABELS_FILE}, got {post['label']!r}"
            )


def read_prepared_labels(path: str) -> dict[str, Any]:
    """Read the `labels.json` of a prepared folder.

    Returns:
        `labels`: candidates by split and task; `words`: the sentences and types of [`ZeroShotData`], by its names;
        `unseen`: whether classes of validation and test must be unseen.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it breaks its format.
    """
    content = read_json_object(path)
    words = ("label_descriptions", "label_types", "type_descriptions")
    try:
        check_keys(content, ("dataset", "split", "labels", *words), ("label_set_version", "none", "counts", "unseen"))
        if not isinstance(content.get("unseen", True), bool):
            raise ValueError(f"unseen must be true or false, got {content['unseen']!r}")
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
    return {
        "labels": labels,
        "words": {**sentences, "label_types": types},
        "unseen": content.get("unseen", True),
    }


def _strings(values: Any, what: str) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        raise ValueError(f"{what} must hold strings that are not empty, got {values!r:.80}")
    return values
