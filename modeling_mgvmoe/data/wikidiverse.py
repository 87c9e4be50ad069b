"""WikiDiverse v2: captions of news images with typed mentions, brought into the package's schema.

A file is one JSON list of captions, each with its image's URL, its topic and its mentions:

    [["Kelo opens the bay.", "https://example.org/a/ab/Kelo.svg", "politics", [["Kelo", "People", 0, 4, "https://..."]]]]

A mention is its text, type, start and end in characters of the caption, end exclusive, and the page of its entity.
Images lie in a folder, named after their URL; see [`image_name`]. The files are not part of this project. The
release with candidates for entity linking ("w_10cands") has another format, and is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from typing import Any

from ..spans import check_unicode
from .files import Paths, as_paths, read_json
from .label_sets import read_label_set
from .post_images import attach_images, check_folder
from .prepare import DatasetAdapter, PreparedData, add_source_flags, divide_by_class, label_file
from .schema import ON_BAD_SPAN, Counts, check_choice, new_post, validate_post

WIKIDIVERSE_FILES = ("train.json", "valid.json", "test.json")
EXTENSIONS = (".jpg", ".JPG", ".png", ".PNG", ".svg", ".SVG", ".jpeg", ".JPEG")


def wikidiverse_files(folder: str | os.PathLike[str]) -> list[str]:
    """Paths of the three files in a folder; FileNotFoundError if one is missing."""
    paths = [os.path.join(folder, name) for name in WIKIDIVERSE_FILES]
    for path in paths:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"folder: the file {path!r} does not exist")
    return paths


def image_name(url: str) -> str | None:
    """Name of the file of an image as the authors' README makes it, or `None` where the URL names none.

    It is the MD5, in hex, of the last part of the URL and its extension, with ".png" for ".svg", for drawings are
    converted. The URL is taken as it is written: "Mura%20Bay.JPG" is not decoded, and its extension stays ".JPG". Of a
    name without one of the known extensions (".gif", say) all is taken for the extension.
    """
    last = url.rsplit("/", 1)[-1]
    if not last:
        return None
    place = max(last.rfind(extension) for extension in EXTENSIONS)
    suffix = last[max(place, 0) :]
    for drawing in (".svg", ".SVG"):
        suffix = suffix.replace(drawing, ".png")
    return hashlib.md5(last.encode(), usedforsecurity=False).hexdigest() + suffix


def read_wikidiverse(
    paths: Paths,
    image_dir: str | os.PathLike[str] | None = None,
    progress: str | None = None,
    on_bad_span: str = "skip",
) -> tuple[list[dict[str, Any]], Counts]:
    """Read WikiDiverse files: every mention becomes a post.

    Args:
        paths: one file, or several that belong together.
        image_dir: folder with the images; a post without a readable one has none.
        progress: title of a progress bar over the images; `None` shows none.
        on_bad_span: the file gives both the text of a mention and its place, and they may not agree (but for white
            space around them). "skip" leaves such a mention out and counts it: nobody can say which of the two is
            meant. "error" refuses the file.

    Returns:
        Posts in the package's schema and order of the files, with ids like "wikidiverse-train-17-2" (file, caption and
        mention, from 1), the type of the file ("People", "Other") as label and paths for images; and what was
        counted.

    Raises:
        FileNotFoundError: a file or the folder does not exist.
        ValueError: a file or a record breaks the format; the message names file, record and mention.
    """
    check_choice("on_bad_span", on_bad_span, ON_BAD_SPAN)
    check_folder(image_dir)
    counts = Counts("typing")
    posts = []
    for path in as_paths(paths):
        stem = os.path.splitext(os.path.basename(os.fspath(path)))[0]
        for number, record in enumerate(_records(path), 1):
            where = f"{os.fspath(path)}, record {number}"
            text, image, mentions = _read_record(record, where)
            for place, entry in enumerate(mentions, 1):
                at, identifier = f"{where}, mention {place}", f"wikidiverse-{stem}-{number}-{place}"
                mention, label, start, end = _read_mention(entry, at)
                if not 0 <= start < end <= len(text) or text[start:end].strip() != mention.strip():
                    if on_bad_span == "error":
                        raise ValueError(
                            f"{at}: {mention!r} must stand at [{start}, {end}) of the caption of {len(text)} "
                            f"characters, got {text[max(0, start) : max(0, end)]!r:.80}"
                        )
                    counts.bad_spans.append(identifier)
                    continue
                post = new_post(identifier, text, [[start, end]], label, "wikidiverse", image)
                validate_post(post, at)
                posts.append(post)
    counts.count_posts(posts)
    attach_images(posts, image_dir, counts, progress)
    return posts, counts


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add_source_flags(parser, "wikidiverse:task-1", images=True, on_bad_span="skip")


def _prepare(arguments: argparse.Namespace, configuration: str | os.PathLike[str]) -> PreparedData:
    label_set = read_label_set(label_file(arguments, configuration, "wikidiverse"))
    posts, counts = read_wikidiverse(
        wikidiverse_files(arguments.data), arguments.images, "checking images", arguments.on_bad_span
    )
    return divide_by_class("wikidiverse", posts, counts, arguments.split, label_set, configuration)


WIKIDIVERSE = DatasetAdapter(
    "wikidiverse",
    "WikiDiverse, version 2: types of mentions in captions of news images",
    _add_flags,
    _prepare,
    not_public="its images may not be passed on without the names of their authors, which are not kept",
)


def _records(path: str | os.PathLike[str]) -> list[Any]:
    records = read_json(path)
    if not isinstance(records, list):
        raise ValueError(f"{os.fspath(path)}: a JSON list of captions is needed, got {records!r:.80}")
    return records


def _read_record(record: Any, where: str) -> tuple[str, str | None, list[Any]]:
    """Caption, name of the image's file, and mentions as they are in the file."""
    if not isinstance(record, list) or len(record) != 4:
        raise ValueError(f"{where}: a list of caption, URL, topic and mentions is needed, got {record!r:.80}")
    text, url, _, mentions = record
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: the caption must be a string that is not empty, got {text!r:.80}")
    check_unicode(text, f"{where}: the caption")
    if url is not None and not isinstance(url, str):
        raise ValueError(f"{where}: the URL must be a string, got {url!r:.80}")
    check_unicode(url or "", f"{where}: the URL")
    if not isinstance(mentions, list):
        raise ValueError(f"{where}: the mentions must be a list, got {mentions!r:.80}")
    return text, None if url is None else image_name(url), mentions


def _read_mention(entry: Any, where: str) -> tuple[str, str, int, int]:
    if (
        not isinstance(entry, list)
        or len(entry) != 5
        or not all(isinstance(value, str) and value.strip() for value in entry[:2])
        or not all(type(value) is int for value in entry[2:4])
    ):
        raise ValueError(
            f"{where}: a list of text, type, start, end and page is needed, two strings that are not empty and two "
            f"integers first, got {entry!r:.80}"
        )
    mention, label, start, end = entry[:4]
    return mention, label, start, end
