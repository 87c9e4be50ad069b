"""The datasets of `quality.py`: read by the package's own adapters, split by class, with or without image text."""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from modeling_mgvmoe.data.adapters import ADAPTERS
from modeling_mgvmoe.data.label_sets import read_label_set
from modeling_mgvmoe.data.splits import SPLITS
from modeling_mgvmoe.data.zero_shot_data import ZeroShotData

CONFIGURATION = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "configuration")
# Of each task: the adapter, its label file and its flags.
TASKS: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "mre": ("mnre", "mnre", ()),
    "mre_v1": ("mnre", "mnre_v1", ("--version", "1")),
    "tweets": ("mner", "twitter10000", ("--tag_column", "fine")),
    "crossre": ("crossre", "crossre", ()),
    "implicitave": ("implicitave", None, ()),
}
# Captions of these tasks' images: in the folder itself, or in that of Twitter10000 beside it.
CAPTIONED = ("mre_v1", "tweets")
CAPTION_FOLDERS = ("captions", os.path.join("..", "twitter10000", "captions"))
KINDS = ("own", "none", "shuffled")

Words = tuple[Mapping[str, str], Mapping[str, str]]


def caption_files(folder: str) -> list[str]:
    """The `.txt` files of the first folder of captions that is there.

    Raises:
        FileNotFoundError: there is none.
    """
    for below in CAPTION_FOLDERS:
        path = os.path.join(folder, below)
        if os.path.isdir(path):
            return sorted(os.path.join(path, name) for name in os.listdir(path) if name.endswith(".txt"))
    raise FileNotFoundError(f"image-text: {folder!r} has no captions ({', '.join(CAPTION_FOLDERS)})")


def image_folder(folder: str) -> str | None:
    """`images` or `images_val` below the folder, if there is one."""
    found = [name for name in sorted(os.listdir(folder)) if name.startswith("images")]
    paths = [os.path.join(folder, name) for name in found]
    return next((path for path in paths if os.path.isdir(path)), None)


def load_task(
    task: str, folder: str, seed: int, image_text: str, pixels: bool, image: str = "own"
) -> tuple[ZeroShotData, Words]:
    """A dataset, its classes split by `seed`, and for each label its name and one sentence.

    Args:
        task: of `TASKS`.
        folder: of its files.
        seed: of the split of its classes.
        image_text: of `KINDS`.
        pixels: read the images, where there are some.
        image: of `KINDS`; "own" for data without images.

    Raises:
        FileNotFoundError: files or captions are not there.
    """
    adapter, labels, more = TASKS[task]
    images = image_folder(folder) if pixels else None
    given = ["--data", folder, "--split", f"seed-{seed}", *more]
    given += ["--images", images] if images else []
    given += ["--captions", *caption_files(folder)] if task in CAPTIONED and image_text != "none" else []
    parser = argparse.ArgumentParser()
    ADAPTERS[adapter].add_flags(parser)
    data = ADAPTERS[adapter].prepare(parser.parse_args(given), CONFIGURATION).data
    words: Words = ({}, {})
    if labels is not None:
        label_set = read_label_set(os.path.join(CONFIGURATION, "labels", f"{labels}.json"))
        words = ({label: texts[0] for label, texts in label_set.texts().items()}, label_set.descriptions())
    if task == "implicitave":
        data = by_attribute(data)
    if task == "tweets" and os.path.isfile(path := os.path.join(folder, "visible.json")):
        data = with_visibility(data, path)
    return with_images(with_image_text(data, image_text), image), words


def by_attribute(data: ZeroShotData) -> ZeroShotData:
    """ImplicitAVE, where a product competes among the values of its attribute."""
    attribute = lambda label: label.partition(": ")[0]  # noqa: E731
    posts = {split: [{**post, "dataset": attribute(post["label"])} for post in data.posts[split]] for split in SPLITS}
    labels: dict[str, dict[str, tuple[str, ...]]] = {split: {} for split in SPLITS}
    for split in SPLITS:
        for label in data.labels[split]["typing"]:
            labels[split][attribute(label)] = (*labels[split].get(attribute(label), ()), label)
        # Only attributes that have posts.
        known = {post["dataset"] for post in posts[split]}
        labels[split] = {name: own for name, own in labels[split].items() if name in known}
    return replace(data, posts=posts, labels=labels)


def with_visibility(data: ZeroShotData, path: str) -> ZeroShotData:
    """Posts that say whether annotators found their mention in the image.

    Args:
        data: of Twitter10000; the id of a post ends in that of its image.
        path: JSON, for the id of an image the mentions that are in it.
    """
    with open(path, encoding="utf-8") as file:
        visible = json.load(file)

    def is_visible(post: Mapping[str, Any]) -> bool:
        start, end = post["mentions"][0]
        return post["text"][start:end] in visible.get(post["id"].rpartition("-")[2], ())

    return replace(data, posts={
        split: [{**post, "visible": is_visible(post)} for post in data.posts[split]] for split in SPLITS
    })  # fmt: skip


def with_image_text(data: ZeroShotData, kind: str) -> ZeroShotData:
    """The posts with their own image text, without any, or with that of another post of their split."""
    return _with(data, "image_text", kind)


def with_images(data: ZeroShotData, kind: str) -> ZeroShotData:
    """The posts with their own image, without any, or with that of another post of their split."""
    return _with(data, "image", kind)


def _with(data: ZeroShotData, column: str, kind: str) -> ZeroShotData:
    if kind == "own":
        return data
    posts: dict[str, Sequence[Mapping[str, Any]]] = {}
    for split in SPLITS:
        own = list(data.posts[split])
        values: list[Any] = [None] * len(own)
        if kind == "shuffled":
            rows = [row for row, post in enumerate(own) if post.get(column)]
            turned = list(rows)
            random.Random(0).shuffle(turned)
            for row, other in zip(rows, turned, strict=True):
                values[row] = own[other][column]
        posts[split] = [{**post, column: value} for post, value in zip(own, values, strict=True)]
    return replace(data, posts=posts)
