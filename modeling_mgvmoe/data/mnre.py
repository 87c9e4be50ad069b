"""MNRE: tweets with an image, two marked mentions and their relation, brought into the package's schema.

A file has one Python dict a line:

    {'token': ['Kelo', 'greets', 'Mura'], 'h': {'name': 'Kelo', 'pos': [0, 1]}, 't': {'name': 'Mura', 'pos': [2, 3]},
     'img_id': 'kelo.jpg', 'relation': '/per/per/peer'}

`pos` counts words, end exclusive; head and tail may overlap. Both published versions are written so. They differ in
their posts, in their relations (version 2 refined and merged those of version 1), in the name for no relation, "none"
in version 1 and "None" in version 2, and in the names of their files. Version 1 writes some images as a number, 7 for
"7.jpg". The files are not part of this project.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..spans import word_span_to_char_span, words_to_text
from .files import Paths, as_paths, read_lines
from .label_sets import LabelSet, read_label_set
from .post_images import add_captions_flag, attach_captions, attach_images, check_folder, read_captions
from .prepare import DatasetAdapter, PreparedData, add_source_flags, choose_split, divide, label_file
from .schema import ON_BAD_SPAN, Counts, check_choice, new_post, validate_post
from .splits import MNRE_NONE, ClassSplit, mre_class_split
from .zero_shot_data import ZeroShotData, data_from_posts

MNRE_FILES = ("train.txt", "val.txt", "test.txt")
# What MKGformer, HVPNeT and the archive of version 1 call them, in both versions.
USERS_FILES = ("ours_train.txt", "ours_val.txt", "ours_test.txt")
FOLDERS = ("", "mnre_txt", "txt")
# By version, what the authors' repository calls them. The space is theirs.
AUTHORS_FILES = {
    1: (("mnre_org_train.txt",), ("mnre_org_val.txt",), ("mnre_org_test.txt",)),
    2: (("mnre_train.txt",), ("mnre_val.txt", "mnre_val .txt"), ("mnre_test.txt",)),
}
NONE_OF_VERSION = {1: MNRE_NONE[1], 2: MNRE_NONE[0]}
RELATION = re.compile(r"/\w+/\w+/\w+")


def mnre_files(folder: str | os.PathLike[str], version: int = 2) -> list[str]:
    """Paths of the training, validation and test file, in the folder or in `mnre_txt/` or `txt/` below it.

    They are called as in the authors' repository ("mnre_train.txt", in version 1 "mnre_org_train.txt"), as in the
    archive of version 1 and the repositories of later methods ("ours_train.txt"), or plainly "train.txt".

    Raises:
        FileNotFoundError: one of them is missing.
        ValueError: there are two for one split, so that it is not clear which is meant; or the version is not known.
    """
    check_choice("version", version, tuple(AUTHORS_FILES))
    found = []
    for plain, users, names in zip(MNRE_FILES, USERS_FILES, AUTHORS_FILES[version], strict=True):
        paths = [os.path.join(folder, place, name) for place in FOLDERS for name in (plain, users, *names)]
        there = [path for path in paths if os.path.isfile(path)]
        if not there:
            raise FileNotFoundError(f"folder: none of {', '.join(paths)} exists; version {version} needs one of them")
        if len(there) > 1:
            raise ValueError(f"folder: one file is needed, got {' and '.join(there)}")
        found.append(there[0])
    return found


def read_mnre(
    paths: Paths,
    image_dir: str | os.PathLike[str] | None = None,
    progress: str | None = None,
    version: int = 2,
    on_bad_span: str = "error",
    captions: Mapping[str, Sequence[str]] | None = None,
) -> tuple[list[dict[str, Any]], Counts]:
    """Read MNRE text files.

    Args:
        paths: one file, or several that belong together (training, validation, test, in this order).
        image_dir: folder with the images; a post without a readable one has none.
        progress: title of a progress bar over the images; `None` shows none.
        version: 1 or 2, of the dataset.
        on_bad_span: a mention may reach beyond its post. "error" refuses the file, "skip" leaves the record out and
            counts it. Neither version as published is known to have such.
        captions: of [`post_images.read_captions`]; a post's are its `image_text`.

    Returns:
        Posts in the package's schema and order of the files, with ids like "mnre-train-17" (file and line), the
        relation of the file ("/per/per/peer", "None") as label and paths for images; and what was counted.

    Raises:
        FileNotFoundError: a file or the folder does not exist.
        ValueError: a line breaks the format, or is of the other version; the message names file and line.
    """
    check_choice("version", version, tuple(AUTHORS_FILES))
    check_choice("on_bad_span", on_bad_span, ON_BAD_SPAN)
    check_folder(image_dir)
    counts = Counts("relation")
    posts = []
    for path in as_paths(paths):
        stem = os.path.splitext(os.path.basename(os.fspath(path)))[0]
        for number, line in read_lines(path):
            if not line.strip():
                continue
            where, identifier = f"{os.fspath(path)}, line {number}", f"mnre-{stem}-{number}"
            try:
                posts.append(_read_line(line, identifier, version))
            except _BadSpanError as error:
                if on_bad_span == "error":
                    raise ValueError(f"{where}: {error}") from error
                counts.bad_spans.append(identifier)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
    counts.count_posts(posts, NONE_OF_VERSION[version])
    attach_captions(posts, captions, counts)
    attach_images(posts, image_dir, counts, progress)
    return posts, counts


def mnre_data(
    posts: Sequence[Mapping[str, Any]], seed: int = 0, label_set: LabelSet | None = None
) -> tuple[ZeroShotData, ClassSplit]:
    """The paper's split of posts by relation; the files' own split plays no part.

    Args:
        posts: of [`read_mnre`], all three files. Posts without a relation are left out.
        seed: of `splits.mre_class_split`.
        label_set: gives labels in words, descriptions and types; without one, labels are the relations of the files.

    Returns:
        The data and the split of their labels.

    Raises:
        ValueError: there are fewer than four relations, or one is not in the label set.
    """
    split = mre_class_split(list(dict.fromkeys(post["label"] for post in posts)), seed)
    data = data_from_posts(posts, split, "relation", label_set)
    return data, split if label_set is None else split.in_words(label_set)


def prepare_mnre(
    folder: str | os.PathLike[str],
    split: str,
    label_set: LabelSet,
    configuration: str | os.PathLike[str],
    image_dir: str | os.PathLike[str] | None = None,
    version: int = 2,
    on_bad_span: str = "error",
    progress: bool = False,
    captions: Mapping[str, Sequence[str]] | None = None,
) -> PreparedData:
    """MNRE, divided by relation.

    Args:
        folder: of the text files; see [`mnre_files`].
        split: of [`prepare.choose_split`]: "mnre:seed-0", or "seed-S", the paper's split of the relations as they
            are found in the data.
        label_set: words for the relations of this version.
        configuration: folder with `splits/`.
        image_dir, version, on_bad_span: of [`read_mnre`].
        progress: show a progress bar.
        captions: of [`read_mnre`].

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: a line breaks the format, or data, label set and split do not fit each other.
    """
    title = "checking images" if progress else None
    posts, counts = read_mnre(mnre_files(folder, version), image_dir, title, version, on_bad_span, captions)
    chosen = choose_split(split, [*counts.classes], configuration, mre_class_split)
    return divide("mnre" if version == 2 else f"mnre_v{version}", posts, counts, split, chosen, label_set)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add_source_flags(parser, images=True)
    add_captions_flag(parser)
    parser.add_argument("--version", type=int, choices=(1, 2), default=2, help="of the dataset (default 2)")
    parser.add_argument(
        "--split",
        help="FILE:NAME in configuration/splits, or seed-S, by the data's own relations (default mnre:seed-0 or, "
        "for version 1, mnre_v1:seed-0)",
    )


def _prepare(arguments: argparse.Namespace, configuration: str | os.PathLike[str]) -> PreparedData:
    name = "mnre" if arguments.version == 2 else "mnre_v1"
    return prepare_mnre(
        arguments.data,
        arguments.split or f"{name}:seed-0",
        read_label_set(label_file(arguments, configuration, name)),
        configuration,
        arguments.images,
        arguments.version,
        arguments.on_bad_span,
        progress=True,
        captions=None if arguments.captions is None else read_captions(arguments.captions),
    )


MNRE = DatasetAdapter(
    "mnre",
    "MNRE, versions 1 and 2: relations of tweets with an image",
    _add_flags,
    _prepare,
    not_public="its tweets may not be passed on",
    other_names=("mnre_v1",),
)


class _BadSpanError(ValueError):
    """A mention reaches beyond its post."""


def _read_line(line: str, identifier: str, version: int) -> dict[str, Any]:
    """The post of a line; its `image` is still the name in the file."""
    try:
        record = ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise ValueError(f"a Python dict is needed, got {line.strip()!r:.80}") from error
    if not isinstance(record, dict):
        raise ValueError(f"a Python dict is needed, got {record!r:.80}")
    missing = [key for key in ("token", "h", "t", "img_id", "relation") if key not in record]
    if missing:
        raise ValueError(f"token, h, t, img_id and relation are needed, {', '.join(missing)} is missing")
    image = record["img_id"]
    if type(image) is int:  # 353 records of version 1 have the number alone
        image = f"{image}.jpg"
    if not isinstance(image, str) or not image or os.path.basename(image) != image:
        # A name with folders in it could reach outside of the folder of images.
        raise ValueError(f"img_id must be the name of a file, without folders, got {image!r}")
    words = record["token"]
    if not isinstance(words, list) or not words:
        raise ValueError(f"token must be a list of words that is not empty, got {words!r:.80}")
    text, offsets = words_to_text(words)
    _check_relation(record["relation"], version)
    mentions = []
    for key in ("h", "t"):
        if not isinstance(record[key], dict) or "pos" not in record[key]:
            raise ValueError(f"{key} must be a dict with name and pos, got {record[key]!r:.80}")
        span = record[key]["pos"]
        if not isinstance(span, list | tuple) or len(span) != 2 or not all(type(place) is int for place in span):
            raise ValueError(f"{key}: pos must be two integers, got {span!r:.80}")
        try:
            mentions.append(list(word_span_to_char_span(offsets, (span[0], span[1]))))
        except ValueError as error:
            raise _BadSpanError(f"{key}: {error}") from error
    post = new_post(identifier, text, mentions, record["relation"], "mnre", image)
    validate_post(post)
    return post


def _check_relation(relation: Any, version: int) -> None:
    none = NONE_OF_VERSION[version]
    if relation == none or (isinstance(relation, str) and RELATION.fullmatch(relation)):
        return
    if relation in MNRE_NONE:
        raise ValueError(
            f"relation: version {version} writes {none!r} where there is none, got {relation!r}, as the other "
            f"version does; version={3 - version} reads it"
        )
    raise ValueError(f'relation must be {none!r} or have the form "/type/type/name", got {relation!r}')
