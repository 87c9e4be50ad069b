"""Multimodal NER: tweets with an image and tagged mentions, the files of Twitter-2015, Twitter-2017, GMNER and FMNERG.

A file is a CoNLL file in which a line with the image's id stands before each tweet. Behind the word is its coarse tag
and, in FMNERG's files (Twitter10000 with fine types), a fine one:

    IMGID:K_7
    Kelo    B-person    B-musician
    sings   O           O

The image is "K_7.jpg" in a folder. Captions of images are in files of lines "K_7.jpg :a man on a stage". The files are
not part of this project.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .conll import IMAGE, read_sentences, sentence_posts
from .label_sets import LabelSet, read_label_set
from .post_images import add_captions_flag, attach_captions, attach_pictures, check_folder, read_captions
from .prepare import (
    FILES_SPLIT,
    DatasetAdapter,
    PreparedData,
    add_source_flags,
    divide_by_class,
    divide_by_file,
    label_file,
)
from .rows import SPLIT_NAMES
from .schema import ON_BAD_SPAN, Counts, check_choice
from .splits import SPLITS

MULTIMODAL_NER_FILES = (("train.txt",), ("dev.txt", "valid.txt"), ("test.txt",))
# Number of the column of the tags, by what they are.
TAG_COLUMNS = {"coarse": 2, "fine": 3}
# What Twitter-2015 and Twitter-2017 call the coarse types.
SHORT_NAMES = {"PER": "person", "LOC": "location", "ORG": "organization", "MISC": "other", "OTHER": "other"}


def multimodal_ner_files(folder: str | os.PathLike[str]) -> list[str]:
    """Paths of the training, validation and test file in a folder.

    Raises:
        FileNotFoundError: one of them is missing.
    """
    found = []
    for names in MULTIMODAL_NER_FILES:
        there = [path for name in names if os.path.isfile(path := os.path.join(folder, name))]
        if not there:
            raise FileNotFoundError(f"folder: {' or '.join(names)} is needed in {os.fspath(folder)!r}")
        found.append(there[0])
    return found


def read_multimodal_ner(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    image_dir: str | os.PathLike[str] | None = None,
    captions: Mapping[str, Sequence[str]] | None = None,
    tag_column: str = "fine",
    progress: str | None = None,
    on_bad_span: str = "error",
) -> tuple[list[dict[str, Any]], Counts]:
    """Read multimodal NER files: every mention becomes a post.

    Args:
        paths: one file, or several that belong together.
        image_dir: folder with the images, "<id>.jpg". Each is decoded once, to be sure that it can be. Without a
            folder, and where an image is missing or broken, the post has none.
        captions: of [`post_images.read_captions`]; a post's are its `image_text`.
        tag_column: "coarse", the tag behind the word, or "fine", the one behind that.
        progress: title of a progress bar over the images; `None` shows none.
        on_bad_span: "error" refuses a mention that is white space only, "skip" leaves it out and counts it.

    Returns:
        Posts in the package's schema and order of the files, with ids like "mner-train-17-K_7" (file, line of the
        mention's first word, image), the type of the file as label and paths for images; and what was counted.

    Raises:
        FileNotFoundError: a file or the folder does not exist.
        ValueError: a line breaks the format, a tweet has no image line, or there is no column of fine tags; the
            message names file and line.
    """
    check_choice("tag_column", tag_column, tuple(TAG_COLUMNS))
    check_choice("on_bad_span", on_bad_span, ON_BAD_SPAN)
    check_folder(image_dir)
    counts = Counts("typing")
    posts: list[dict[str, Any]] = []
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        before = len(posts)
        for sentence in _read_sentences(path, tag_column):
            where = f"{sentence.path}, line {sentence.lines[0]}"
            image = sentence.image
            if image is None:
                raise ValueError(f'{where}: a line "{IMAGE}id" must stand before each tweet')
            if os.path.basename(image) != image or not image.strip("."):
                # An id with folders in it could reach outside of the folder of images.
                raise ValueError(f"{where}: the id of an image must name no folder, got {image!r:.80}")
            counts.texts += 1
            for post in sentence_posts(sentence, "mner", on_bad_span, counts):
                post["id"] += f"-{image}"
                post["image"] = f"{image}.jpg"
                posts.append(post)
        counts.files[os.path.basename(os.fspath(path))] = len(posts) - before
    counts.count_posts(posts)
    attach_captions(posts, captions, counts)
    attach_pictures(posts, image_dir, counts, progress)
    return posts, counts


def coarse_label_set(label_set: LabelSet) -> LabelSet:
    """The coarse types of a label set as its classes, also by the names that Twitter-2015 and Twitter-2017 have.

    Raises:
        ValueError: the label set has none.
    """
    if not label_set.parents:
        raise ValueError(f"label set {label_set.name!r}: coarse types, `parents`, are needed to read coarse tags")
    return replace(label_set, classes=label_set.parents, parents={}, domains={})


def _read_sentences(path: str | os.PathLike[str], tag_column: str) -> Any:
    try:
        return read_sentences(path, TAG_COLUMNS[tag_column], 1)
    except ValueError as error:
        if tag_column == "fine" and str(error).startswith("tag_column must be"):
            raise ValueError(
                f"tag_column: {os.fspath(path)} has no column of fine tags; --tag-column coarse reads the others"
            ) from error
        raise


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add_source_flags(parser, "twitter10000:seed-0", images=True, files=True)
    add_captions_flag(parser)
    parser.add_argument(
        "--tag_column",
        "--tag-column",
        choices=tuple(TAG_COLUMNS)[::-1],
        default="fine",
        help="coarse tags are behind the word, fine ones behind these (default fine)",
    )


def _prepare(arguments: argparse.Namespace, configuration: str | os.PathLike[str]) -> PreparedData:
    label_set = read_label_set(label_file(arguments, configuration, "twitter10000"))
    captions = None if arguments.captions is None else read_captions(arguments.captions)
    posts, counts = read_multimodal_ner(
        multimodal_ner_files(arguments.data),
        arguments.images,
        captions,
        arguments.tag_column,
        "checking images",
        arguments.on_bad_span,
    )
    if arguments.tag_column == "coarse":
        label_set = coarse_label_set(label_set)
        posts = [{**post, "label": SHORT_NAMES.get(post["label"], post["label"])} for post in posts]
        counts.count_posts(posts)
    if arguments.split == FILES_SPLIT:
        own: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        for post in posts:
            own[SPLIT_NAMES[post["id"].split("-")[1]]].append(post)
        return divide_by_file("mner", own, counts, label_set)
    return divide_by_class("mner", posts, counts, arguments.split, label_set, configuration)


MULTIMODAL_NER = DatasetAdapter(
    "mner",
    "Twitter10000 (GMNER, FMNERG), Twitter-2015, Twitter-2017: types of mentions in tweets with an image",
    _add_flags,
    _prepare,
    not_public="its tweets may not be passed on",
)
