"""From the raw download of a dataset to a folder of Parquet files, images inside, that training reads.

train.parquet, validation.parquet, test.parquet   posts of the classes of each split, with labels in words
seen_test.parquet                                 if asked for: posts of training classes that are not trained on
none.parquet                                      posts to which none of the classes applies, if there are such
labels.json                                       candidates of each split, also those without a post, and their words
"""

from __future__ import annotations

import argparse
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .atomic_io import whole_folder
from .files import nearest
from .label_sets import LabelSet
from .progress_bar import progress_bar
from .rows import LABELS_FILE, texts_to_hold_out
from .schema import ON_BAD_SPAN, OPTIONAL_COLUMNS, Counts, post_features
from .splits import SPLITS, ClassSplit, read_splits, thirds_class_split
from .zero_shot_data import OPTIONAL_PARTS, ZeroShotData, data_from_posts

SEED_SPLIT = re.compile(r"seed-(\d+)")
# The split that the dataset's own files make.
FILES_SPLIT = "files"


@dataclass
class PreparedData:
    """A dataset, divided and in words, before it is written.

    Attributes:
        dataset: name.
        split: name of the split.
        data: the posts and the candidates.
        counts: what was found in the files, by part of the dataset; empty for the sketchbook.
        label_set_version: of the words, `None` where there is no label set.
        none: the label of posts to which none of the classes applies.
        none_posts: these posts.
        seen_test: posts of training classes that are not trained on.
        left_out: number of posts of each class that the split leaves out, `none` not counted.
    """

    dataset: str
    split: str
    data: ZeroShotData
    counts: dict[str, Counts] = field(default_factory=dict)
    label_set_version: int | None = None
    none: str | None = None
    none_posts: list[dict[str, Any]] = field(default_factory=list)
    seen_test: list[Mapping[str, Any]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    def parts(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """Posts by the name of their file; an optional file without posts is not written."""
        optional: dict[str, Sequence[Mapping[str, Any]]] = {
            "seen_test": self.seen_test,
            "none": self.none_posts,
        }
        splits = {name: posts for name, posts in self.data.posts.items() if len(posts)}  # your own rows may lack one
        return {**splits, **{name: posts for name, posts in optional.items() if posts}}


@dataclass(frozen=True)
class DatasetAdapter:
    """A dataset of others, or the built-in one: a sub-command of `examples/prepare_data.py`.

    Attributes:
        name: of the sub-command, and of the dataset in the files that it writes.
        help: what it is, in one line.
        add_flags: adds the sub-command's own flags to its parser; [`add_source_flags`] has those that most need.
        prepare: reads and divides the dataset, from the parsed flags and the folder `configuration`.
        not_public: why it may not be passed on as it is written; empty if it may.
        other_names: further names under which it is written.
    """

    name: str
    help: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    prepare: Callable[[argparse.Namespace, str | os.PathLike[str]], PreparedData]
    not_public: str = ""
    other_names: tuple[str, ...] = ()


def add_source_flags(
    parser: argparse.ArgumentParser,
    split: str = "",
    images: bool = False,
    on_bad_span: str = "error",
    labels: str = "words of the labels (default: in configuration/labels)",
    files: bool = False,
) -> None:
    """Add the flags of datasets that are read from a folder.

    Args:
        parser: of the sub-command.
        split, on_bad_span: defaults of these flags; without a split there is no such flag.
        images: whether the dataset has images.
        labels: help of `--labels`; without one there is no such flag.
        files: whether `--split files`, the split of the dataset's own files, is offered.
    """
    parser.add_argument("--data", required=True, metavar="FOLDER", help="folder of the raw text files")
    if images:
        parser.add_argument("--images", metavar="FOLDER", help="folder of the images; without it no post has one")
    if labels:
        parser.add_argument("--labels", metavar="FILE", help=labels)
    if split:
        parser.add_argument(
            "--split",
            default=split,
            help="FILE:NAME in configuration/splits; seed-S, by the data's own classes"
            + ("; or files, by file with every class in each" if files else "")
            + f" (default {split})",
        )
    parser.add_argument(
        "--on_bad_span",
        choices=ON_BAD_SPAN,
        default=on_bad_span,
        help=f"where a mention is not where the file says: refuse the file, or leave the record out "
        f"(default {on_bad_span})",
    )


def label_file(arguments: argparse.Namespace, configuration: str | os.PathLike[str], name: str) -> str:
    """Path of the label set: the one of `--labels`, or the file of this name in `configuration/labels`."""
    return str(arguments.labels or os.path.join(configuration, "labels", f"{name}.json"))


def choose_split(
    name: str,
    classes: Sequence[str],
    configuration: str | os.PathLike[str],
    rule: Callable[[Sequence[str], int], ClassSplit] = thirds_class_split,
) -> ClassSplit:
    """The split "FILE:NAME" in `configuration/splits`, or "seed-S": a rule for the classes of the data.

    Args:
        name: of the split.
        classes: that take part, in the order of the rule.
        configuration: the folder.
        rule: makes a split of the classes and a seed.

    Raises:
        FileNotFoundError, ValueError: as for [`find_split`], and the rule's own.
    """
    if match := SEED_SPLIT.fullmatch(name):
        return rule(classes, int(match[1]))
    return find_split(name, os.path.join(configuration, "splits"))


def find_split(name: str, folder: str | os.PathLike[str]) -> ClassSplit:
    """The split "FILE:NAME" of a folder, "mnre:seed-0" say.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the name is not of this form, or the file has no such split; the nearest one is named.
    """
    file, colon, key = name.partition(":")
    if not file or not colon or os.path.basename(file) != file:
        raise ValueError(f"split must be FILE:NAME, of a file in {os.fspath(folder)!r}, got {name!r}")
    known = read_splits(os.path.join(folder, f"{file}.json"))
    if key not in known:
        raise ValueError(f"split: {file} has no {key!r}; {nearest(key, known)}")
    return known[key]


def hold_out_seen(prepared: PreparedData, share: float) -> PreparedData:
    """Take a share of the posts of training classes out of training, to be tested on; see [`texts_to_hold_out`].

    Args:
        prepared: as read.
        share: from 0, none, to below 1.

    Raises:
        ValueError: the share is out of range.

    Warns:
        UserWarning: the share is above 0, but too small for a single post.
    """
    check_share(share)
    train = prepared.data.posts["train"]
    places = texts_to_hold_out((post["text"], post["label"]) for post in train)
    chosen = {text for text, place in places.items() if place < share}
    kept = [post for post in train if post["text"] not in chosen]
    held = [post for post in train if post["text"] in chosen]
    if share and not held:
        warnings.warn(
            f"seen_test_share: {share} of {len(train)} training posts holds none out; a greater share may, where a "
            "class has a second text",
            stacklevel=2,
        )
    posts = {**prepared.data.posts, "train": kept}
    return replace(prepared, data=replace(prepared.data, posts=posts), seen_test=held)


def check_share(share: float) -> None:
    """Refuse a share of [`hold_out_seen`] that is out of range, before much is read."""
    if not 0 <= share < 1:
        raise ValueError(f"seen_test_share must have 0 <= share < 1, got {share!r}")


def divide(
    dataset: str,
    posts: Sequence[dict[str, Any]],
    counts: Counts,
    split: str,
    chosen: ClassSplit,
    label_set: LabelSet,
) -> PreparedData:
    """Split the posts of a dataset by class, labelled with the words of a label set.

    Args:
        dataset: name.
        posts, counts: as read.
        split, chosen: the split and its name.
        label_set: has every class of the posts.

    Raises:
        ValueError: a class is not in the label set, or a split has no post.
    """
    for raw in counts.classes:
        if raw not in label_set.left_out:
            label_set.words_of(raw, "posts")  # a class that nobody knows must not be left out in silence
    none = None if label_set.none_info is None else label_set.none_info.name
    kept = {raw for name in SPLITS for raw in getattr(chosen, name)}
    return PreparedData(
        dataset,
        split,
        check_filled(data_from_posts(posts, chosen, counts.task, label_set)),
        {dataset: counts},
        label_set.version,
        none,
        label_set.in_words(post for post in posts if post["label"] == label_set.none),
        left_out={raw: count for raw, count in counts.classes.items() if raw not in kept},
    )


def divide_by_class(
    dataset: str,
    posts: Sequence[dict[str, Any]],
    counts: Counts,
    split: str,
    label_set: LabelSet,
    configuration: str | os.PathLike[str],
) -> PreparedData:
    """[`divide`] by [`choose_split`] of the classes that the label set does not leave out."""
    classes = [raw for raw in counts.classes if raw not in label_set.left_out]
    return divide(dataset, posts, counts, split, choose_split(split, classes, configuration), label_set)


def divide_by_file(
    dataset: str, posts: Mapping[str, Sequence[dict[str, Any]]], counts: Counts, label_set: LabelSet
) -> PreparedData:
    """Split posts as the dataset's own files do: every class is a candidate in every split, so no class is unseen.

    Args:
        dataset: name.
        posts: of the files of "train", "validation" and "test".
        counts: of all of them.
        label_set: has every class of the posts, but for those that it leaves out.

    Raises:
        ValueError: a class is not in the label set, or a split has no post.
    """
    known = [raw for raw in counts.classes if raw not in label_set.left_out]
    names = tuple(label_set.words_of(raw, "posts").name for raw in known)
    kept = {split: label_set.in_words(post for post in own if post["label"] in known) for split, own in posts.items()}
    data = ZeroShotData(
        posts=kept,
        labels={split: {counts.task: names} for split in SPLITS},
        label_descriptions=label_set.texts(),
        label_types=label_set.allowed_types(),
        type_descriptions=label_set.type_texts(),
        unseen=False,
    )
    left_out = {raw: count for raw, count in counts.classes.items() if raw not in known}
    return PreparedData(
        dataset, FILES_SPLIT, check_filled(data), {dataset: counts}, label_set.version, left_out=left_out
    )


def check_filled(data: ZeroShotData) -> ZeroShotData:
    """The data; ValueError if a split has no post."""
    for name in SPLITS:
        if not data.posts[name]:
            raise ValueError(f"{name}: no post has one of its classes, {', '.join(*data.labels[name].values())}")
    return data


# Posts that are in memory at a time, with their images.
BATCH = 256


def write_prepared(
    prepared: PreparedData, output_dir: str | os.PathLike[str], overwrite: bool = False, progress: bool = False
) -> dict[str, int]:
    """Write a folder that [`data_from_folder`] reads, whole or not at all.

    Args:
        prepared: what to write. Images that are paths are put into the files.
        output_dir: the folder. One that is there must be empty, or hold nothing but what was written so.
        overwrite: put it in the place of one that was written before.
        progress: show progress bars.

    Returns:
        Number of posts by file.

    Raises:
        FileExistsError: the folder is not empty, and `overwrite` is not set or it holds other files.
        OSError: the disk is full. The folder is as before.
    """
    check_output(output_dir, overwrite)
    parts = prepared.parts()
    optional = [name for name in OPTIONAL_COLUMNS if any(name in post for posts in parts.values() for post in posts)]
    needed = 2**20 + sum(_bytes_of(post) for posts in parts.values() for post in posts)
    with whole_folder(os.fspath(output_dir), needed, "run the command again") as partial:
        for name, posts in parts.items():
            _write_parquet(os.path.join(partial, f"{name}.parquet"), posts, optional, name if progress else None)
        with open(os.path.join(partial, LABELS_FILE), "w", encoding="utf-8") as file:
            json.dump(_labels(prepared), file, indent=1, ensure_ascii=False)
            file.write("\n")
    return {name: len(posts) for name, posts in parts.items()}


def check_output(output_dir: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Raise FileExistsError if [`write_prepared`] may not replace a folder, before much is read."""
    there = sorted(os.listdir(output_dir)) if os.path.isdir(output_dir) else []
    if os.path.lexists(output_dir) and not os.path.isdir(output_dir):
        raise FileExistsError(f"output_dir: {os.fspath(output_dir)!r} is no folder")
    if there and not overwrite:
        raise FileExistsError(f"output_dir: {os.fspath(output_dir)!r} is not empty; --overwrite replaces it")
    ours = {LABELS_FILE, *(f"{name}.parquet" for name in (*SPLITS, *OPTIONAL_PARTS))}
    others = [name for name in there if name not in ours]
    if others:
        raise FileExistsError(
            f"output_dir: {os.fspath(output_dir)!r} holds files that were not written by this command, and is not "
            f"replaced: {', '.join(others[:5])}"
        )


def _labels(prepared: PreparedData) -> dict[str, Any]:
    data = prepared.data
    return {
        "dataset": prepared.dataset,
        "split": prepared.split,
        "label_set_version": prepared.label_set_version,
        "labels": {name: {task: list(names) for task, names in data.labels[name].items()} for name in SPLITS},
        "label_descriptions": dict(data.label_descriptions),
        "label_types": {name: [list(heads), list(tails)] for name, (heads, tails) in data.label_types.items()},
        "type_descriptions": dict(data.type_descriptions),
        "none": prepared.none,
        "counts": {name: asdict(counts) for name, counts in prepared.counts.items()},
        **({} if data.unseen else {"unseen": False}),
    }


def _bytes_of(post: Mapping[str, Any]) -> int:
    """About how many bytes a post takes on the disk."""
    image = post.get("image")
    if isinstance(image, Mapping):
        return len(post["text"]) + (os.path.getsize(image["path"]) if image["bytes"] is None else len(image["bytes"]))
    if isinstance(image, str):
        return len(post["text"]) + os.path.getsize(image)
    return len(post["text"]) + (0 if image is None else 3 * image.width * image.height)


def _write_parquet(
    path: str, posts: Sequence[Mapping[str, Any]], optional: Sequence[str], progress: str | None
) -> None:
    import pyarrow.parquet  # comes with datasets
    from datasets import Dataset
    from datasets.table import embed_table_storage

    features = post_features(*optional)
    with (
        pyarrow.parquet.ParquetWriter(path, features.arrow_schema) as writer,
        progress_bar(total=len(posts), desc=f"writing {progress}", show=progress is not None) as bar,
    ):
        for start in range(0, len(posts), BATCH):
            # One by one: a slice of a dataset is not a list of posts.
            batch = [dict(posts[place]) for place in range(start, min(start + BATCH, len(posts)))]
            batch = [{name: post.get(name) for name in features} for post in batch]
            table = Dataset.from_list(batch, features=features).with_format("arrow")[:]
            writer.write_table(embed_table_storage(table).cast(features.arrow_schema))
            bar.update(len(batch))
