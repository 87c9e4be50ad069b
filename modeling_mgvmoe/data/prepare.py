"""From the raw download of a data set to a folder of Parquet files, pictures inside, that training reads.

train.parquet, validation.parquet, test.parquet   posts of the classes of each split, with labels in words
seen_test.parquet                                 if asked for: posts of training classes that are not trained on
none.parquet                                      posts to which none of the classes applies, if there are such
none_train.parquet, none_validation.parquet       if asked for: those of them to train and to fit with, none.parquet
                                                  then has those to test on
labels.json                                       candidates of each split, also those without a post, and their words
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .counts import Counts
from .crossner import read_crossner, transfer_data
from .files import nearest
from .labels import LabelSet
from .mnre import mnre_files, read_mnre
from .splits import SPLITS, ClassSplit, mre_class_split, read_splits
from .wikidiverse import read_wikidiverse, wikidiverse_files
from .zero_shot_data import ZeroShotData, data_from_posts, sketchbook_data

SEED_SPLIT = re.compile(r"seed-(\d+)")
# "mnre-mnre_org_val-17", "wikidiverse-valid-3-0"
FILE_OF_ID = re.compile(r"[-_](train|val|test)(?:id)? ?-\d")


@dataclass
class PreparedData:
    """A data set, divided and in words, before it is written.

    Attributes:
        dataset: name.
        split: name of the division.
        data: the posts and the candidates.
        counts: what was found in the files, by part of the data set; empty for the sketchbook.
        label_set_version: of the words, `None` where there is no label set.
        none: the label of posts to which none of the classes applies.
        none_posts: these posts; once they are divided, those to test on, and
        none_train, none_validation: those to train with and to fit a threshold with.
        seen_test: posts of training classes that are not trained on.
        left_out: number of posts of each class that the division leaves out, `none` not counted.
    """

    dataset: str
    split: str
    data: ZeroShotData
    counts: dict[str, Counts] = field(default_factory=dict)
    label_set_version: int | None = None
    none: str | None = None
    none_posts: list[dict[str, Any]] = field(default_factory=list)
    none_train: list[dict[str, Any]] = field(default_factory=list)
    none_validation: list[dict[str, Any]] = field(default_factory=list)
    seen_test: list[Mapping[str, Any]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    def parts(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """Posts by the name of their file; an optional file without posts is not written."""
        optional: dict[str, Sequence[Mapping[str, Any]]] = {
            "seen_test": self.seen_test,
            "none": self.none_posts,
            "none_train": self.none_train,
            "none_validation": self.none_validation,
        }
        splits = {name: posts for name, posts in self.data.posts.items() if len(posts)}  # your own rows may lack one
        return {**splits, **{name: posts for name, posts in optional.items() if posts}}


def prepare_mnre(
    folder: str | os.PathLike[str],
    split: str,
    label_set: LabelSet,
    splits_folder: str | os.PathLike[str],
    image_dir: str | os.PathLike[str] | None = None,
    version: int = 2,
    on_bad_span: str = "error",
    progress: bool = False,
) -> PreparedData:
    """MNRE, divided by relation.

    Args:
        folder: of the text files; see [`mnre.mnre_files`].
        split: "FILE:NAME", a division in a file of `splits_folder` ("mnre:seed-0"), or "seed-S", the paper's division
            of the relations as they are found in the data.
        label_set: words for the relations of this version.
        splits_folder: `configuration/splits`.
        image_dir, version, on_bad_span: of [`mnre.read_mnre`].
        progress: show a progress bar.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: a line breaks the format, or data, label set and division do not fit each other.
    """
    title = "checking pictures" if progress else None
    posts, counts = read_mnre(mnre_files(folder, version), image_dir, title, version, on_bad_span)
    if match := SEED_SPLIT.fullmatch(split):
        chosen = mre_class_split([*counts.classes], int(match[1]))
    else:
        chosen = find_split(split, splits_folder)
    return _divide("mnre" if version == 2 else f"mnre_v{version}", posts, counts, split, chosen, label_set)


def prepare_wikidiverse(
    folder: str | os.PathLike[str],
    split: str,
    label_set: LabelSet,
    splits_folder: str | os.PathLike[str],
    image_dir: str | os.PathLike[str] | None = None,
    on_bad_span: str = "skip",
    progress: bool = False,
) -> PreparedData:
    """WikiDiverse, divided by type; arguments and errors as for [`prepare_mnre`]."""
    title = "checking pictures" if progress else None
    posts, counts = read_wikidiverse(wikidiverse_files(folder), image_dir, title, on_bad_span)
    return _divide("wikidiverse", posts, counts, split, find_split(split, splits_folder), label_set)


def prepare_conll(
    folder: str | os.PathLike[str],
    train_domains: Sequence[str],
    test_domain: str,
    label_set: LabelSet,
    seed: int = 0,
    on_bad_span: str = "error",
) -> PreparedData:
    """A folder in CrossNER's format, divided by domain and type; arguments and errors as for [`crossner_data`]."""
    posts, counts = read_crossner(folder, [*train_domains, test_domain], on_bad_span)
    data, _, label_set = transfer_data(posts, train_domains, test_domain, label_set, seed)
    name = f"{'+'.join(train_domains)}-to-{test_domain}, seed {seed}"
    return PreparedData(label_set.name, name, _filled(data), counts, label_set.version)


def prepare_sketchbook(seed: int = 0, posts_per_class: int = 60, eval_posts_per_class: int = 20) -> PreparedData:
    """The built-in posts, typing and relations together; arguments of [`sketchbook_data`]."""
    return PreparedData("sketchbook", f"seed-{seed}", sketchbook_data(seed, posts_per_class, eval_posts_per_class))


def find_split(name: str, folder: str | os.PathLike[str]) -> ClassSplit:
    """The division "FILE:NAME" of a folder, "mnre:seed-0" say.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the name is not of this form, or the file has no such division; the nearest one is named.
    """
    file, colon, division = name.partition(":")
    if not file or not colon or os.path.basename(file) != file:
        raise ValueError(f"split must be FILE:NAME, of a file in {os.fspath(folder)!r}, got {name!r}")
    known = read_splits(os.path.join(folder, f"{file}.json"))
    if division not in known:
        raise ValueError(f"split: {file} has no {division!r}; {nearest(division, known)}")
    return known[division]


def hold_out_seen(prepared: PreparedData, share: float) -> PreparedData:
    """Take a share of the posts of training classes out of training, to be tested on.

    Which ones is told by a hash of their ids: it depends on neither order nor seed, and stays when posts are added.
    The first post of a class is always for training.

    Args:
        prepared: as read.
        share: from 0, none, to below 1.

    Raises:
        ValueError: the share is out of range.
    """
    check_share(share)
    met: set[str] = set()
    kept: list[Mapping[str, Any]] = []
    held: list[Mapping[str, Any]] = []
    for post in prepared.data.posts["train"]:
        place = int.from_bytes(hashlib.sha256(post["id"].encode()).digest()[:8], "big") / 2**64
        (held if place < share and post["label"] in met else kept).append(post)
        met.add(post["label"])
    posts = {**prepared.data.posts, "train": kept}
    return replace(prepared, data=replace(prepared.data, posts=posts), seen_test=held)


def divide_none(prepared: PreparedData) -> PreparedData:
    """Divide the posts of no class as the data set's own files do: to train with, to fit with, to test on.

    Args:
        prepared: as read; the ids of its posts name their files.

    Raises:
        ValueError: there are no such posts, an id names no file of one kind, or a kind has no post.
    """
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in SPLITS}
    for post in prepared.none_posts:
        match = FILE_OF_ID.search(post["id"])
        if match is None:
            raise ValueError(f"divide_none: ids must name a train, val or test file, got {post['id']!r}")
        parts[{"train": "train", "val": "validation", "test": "test"}[match[1]]].append(post)
    empty = [name for name, posts in parts.items() if not posts]
    if empty:
        raise ValueError(f"divide_none: posts of no class are needed in every file, got none in {', '.join(empty)}")
    return replace(prepared, none_posts=parts["test"], none_train=parts["train"], none_validation=parts["validation"])


def check_share(share: float) -> None:
    """Refuse a share of [`hold_out_seen`] that is out of range, before much is read."""
    if not 0 <= share < 1:
        raise ValueError(f"seen_test_share must have 0 <= share < 1, got {share!r}")


def _divide(
    dataset: str,
    posts: Sequence[dict[str, Any]],
    counts: Counts,
    split: str,
    chosen: ClassSplit,
    label_set: LabelSet,
) -> PreparedData:
    for raw in counts.classes:
        if raw not in label_set.left_out:
            label_set.words_of(raw, "posts")  # a class that nobody knows must not be left out in silence
    none = None if label_set.none_info is None else label_set.none_info.name
    kept = {raw for name in SPLITS for raw in getattr(chosen, name)}
    return PreparedData(
        dataset,
        split,
        _filled(data_from_posts(posts, chosen, counts.task, label_set)),
        {dataset: counts},
        label_set.version,
        none,
        label_set.in_words(post for post in posts if post["label"] == label_set.none),
        left_out={raw: count for raw, count in counts.classes.items() if raw not in kept},
    )


def _filled(data: ZeroShotData) -> ZeroShotData:
    for name in SPLITS:
        if not data.posts[name]:
            raise ValueError(f"{name}: no post has one of its classes, {', '.join(*data.labels[name].values())}")
    return data
