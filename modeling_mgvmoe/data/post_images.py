"""Images of posts: files that adapters check, their captions, and what a post has under `image`."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

from ..images import to_rgb
from .files import Paths, as_paths, read_lines
from .progress_bar import progress_bar
from .schema import Counts

CAPTION = re.compile(r"(\S+\.\w+) :(.*)")


def attach_images(
    posts: Iterable[dict[str, Any]],
    image_dir: str | os.PathLike[str] | None,
    counts: Counts,
    progress: str | None = None,
) -> None:
    """Replace the names of images by their paths; a missing or a broken image becomes `None`.

    Args:
        posts: their `image` is the name of a file, or `None`; changed in place.
        image_dir: folder with the images; without one, no post has an image.
        counts: gets what was found.
        progress: title of a progress bar over the images; `None` shows none.

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    check_folder(image_dir)
    posts = list(posts)
    names = dict.fromkeys(post["image"] for post in posts if post["image"] is not None)
    counts.images_referenced = len(names)
    found: dict[str, str] = {}
    digests: set[bytes] = set()
    for name in progress_bar(names, progress, unit="image"):
        path = None if image_dir is None else os.path.join(image_dir, name)
        if path is None or not os.path.isfile(path):
            counts.images_missing += 1
            continue
        with open(path, "rb") as file:
            content = file.read()
        try:
            to_rgb(content)
        except ValueError:
            counts.images_broken += 1
            continue
        digest = hashlib.sha256(content).digest()
        counts.images_duplicate += digest in digests
        digests.add(digest)
        found[name] = path
    for post in posts:
        post["image"] = found.get(post["image"])
    counts.records_with_image = sum(post["image"] is not None for post in posts)


def read_captions(paths: Paths) -> dict[str, list[str]]:
    """Captions by the name of their image's file, from lines "K_7.jpg :a man on a stage"; empty ones are left out.

    Args:
        paths: one file, or several; an image may have a caption in each.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a line breaks the format; the message names file and line.
    """
    captions: dict[str, list[str]] = {}
    for path in as_paths(paths):
        for number, line in read_lines(path):
            if not line.strip():
                continue
            match = CAPTION.fullmatch(line)
            if match is None:
                raise ValueError(
                    f'{os.fspath(path)}, line {number}: an image and its caption, "7.jpg :words", are needed, '
                    f"got {line!r:.80}"
                )
            text, known = match[2].strip(), captions.setdefault(match[1], [])
            if text and text not in known:
                known.append(text)
    return captions


def attach_captions(
    posts: Iterable[dict[str, Any]], captions: Mapping[str, Sequence[str]] | None, counts: Counts
) -> None:
    """Give posts the captions of their images as `image_text`; before [`attach_images`], which takes the names.

    Args:
        posts: their `image` is the name of a file, or `None`; they are changed in place.
        captions: of [`read_captions`]; `None` leaves the posts as they are, without the column.
        counts: gets how many posts have a caption.
    """
    if captions is None:
        return
    for post in posts:
        post["image_text"] = list(captions.get(post["image"], ())) or None
        counts.records_with_image_text += post["image_text"] is not None


def add_captions_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--captions`, files of [`read_captions`]."""
    parser.add_argument(
        "--captions", nargs="+", metavar="FILE", help='captions of the images for image_text, lines "7.jpg :words"'
    )


def check_folder(image_dir: str | os.PathLike[str] | None) -> None:
    """Raise FileNotFoundError if a folder of images does not exist, before much else is read."""
    if image_dir is not None and not os.path.isdir(image_dir):
        raise FileNotFoundError(f"image_dir: the folder {os.fspath(image_dir)!r} does not exist")


def image_key(image: Image.Image) -> str:
    """SHA-256, in hex, of the size and the pixels of an RGB image."""
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def undecoded(posts: Any) -> Any:
    """The posts with images as bytes or path where they are a dataset, so that a broken one can be met."""
    feature = getattr(posts, "features", {}).get("image") if hasattr(posts, "cast_column") else None
    if feature is None or not getattr(feature, "decode", False) or getattr(feature, "mode", None) is not None:
        return posts
    return posts.cast_column("image", type(feature)(decode=False))


def without_images(posts: Any) -> Any:
    """The posts of a dataset without their images, so that reading them decodes none; other posts as they are."""
    if hasattr(posts, "remove_columns") and "image" in getattr(posts, "column_names", ()):
        return posts.remove_columns("image")
    return posts


def read_image(image: Any) -> tuple[Image.Image | None, str]:
    """The RGB image of a post, or `None` and the reason: "without" an image, file "missing", or "broken"."""
    if isinstance(image, list | tuple):  # as the processor takes it: a list of one image at most
        image = image[0] if image else None
    if image is None:
        return None, "without"
    try:
        return to_rgb(image), ""
    except ValueError as error:
        return None, "missing" if isinstance(error.__cause__, FileNotFoundError) else "broken"
