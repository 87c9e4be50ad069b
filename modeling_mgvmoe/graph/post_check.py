"""A row of the input as a post that can be extracted, or the reason why it cannot be."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.atomic_io import partial_name
from ..data.rows import locate_image
from ..data.schema import check_choice
from ..images import to_rgb
from ..spans import as_list, check_span, check_unicode, is_absent, read_image_text, warn_of_columns
from .post_files import KNOWN, RawRow


def id_of(row: int, given: Any) -> str:
    """The id of a post: as given, or "row-N" where there is none.

    Raises:
        ValueError: it is neither a string nor an integer, or no valid text.
    """
    if given is None or given == "":
        return f"row-{row}"
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise ValueError(f"id must be a string or an integer, got {given!r:.80}")
    name = str(given)
    check_unicode(name, "id")
    return name


def find_duplicates(ids: Iterable[tuple[int, Any]], folder: str) -> np.ndarray:
    """Rows whose id an earlier row has.

    Args:
        ids: rows, rising, and ids. Where an id is missing the post's own, "row-N", counts; what is no id does not.
        folder: for a temporary database on disk, about the size of the ids.

    Returns:
        (duplicates, 2), integers: a row, and the first row with its id; rows rise.
    """
    found = []
    with (
        tempfile.TemporaryDirectory(suffix=partial_name("ids"), prefix=".", dir=folder) as place,
        contextlib.closing(sqlite3.connect(os.path.join(place, "ids"), isolation_level=None)) as database,
    ):
        # A killed run begins again: nothing here needs to survive one.
        for setting in ("journal_mode", "synchronous"):
            database.execute(f"PRAGMA {setting} = OFF")
        database.execute("CREATE TABLE ids (id TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID")
        database.execute("BEGIN")
        for row, given in ids:
            try:
                name = id_of(row, given)
            except ValueError:
                continue  # its row will be refused for it
            if not database.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (name, row)).rowcount:
                found.append((row, *database.execute("SELECT row FROM ids WHERE id = ?", (name,)).fetchone()))
    return np.array(found, dtype=np.int64).reshape(-1, 2)


# What to do with a post whose image is missing or broken: refuse it, or extract it from its text alone.
ON_BROKEN_IMAGE = ("error", "text_only")


@dataclass(frozen=True)
class CheckedRow:
    """A row of the input.

    Attributes:
        row: its number.
        id: of the post; `None` where it cannot be read.
        post: `id`, `text`, `image` (an RGB image or `None`), `image_text` (strings; only if there are any), `mentions`
            (pairs of integers); `None` for a bad row.
        image_error: why the post has no image though one was named.
        kind: of `shards.ERROR_KINDS`, for a bad row.
        reason: in words, for a bad row.
    """

    row: int
    id: str | None = None
    post: dict[str, Any] | None = None
    image_error: str | None = None
    kind: str | None = None
    reason: str | None = None


class RowError(ValueError):
    """A row cannot be extracted.

    Attributes:
        kind: of `shards.ERROR_KINDS`.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class RowCheck:
    """Turns rows of the input into posts.

    Args:
        duplicates: of [`find_duplicates`].
        on_broken_image: of [`ON_BROKEN_IMAGE`].
        image_dir: what paths of images are relative to; default: the folder of their file.
        needs_mentions: a post must say which mentions it has; false where they are looked for.
    """

    def __init__(
        self,
        duplicates: np.ndarray,
        on_broken_image: str = "error",
        image_dir: str | None = None,
        needs_mentions: bool = True,
    ) -> None:
        check_choice("on_broken_image", on_broken_image, ON_BROKEN_IMAGE)
        self.duplicates, self.on_broken_image = duplicates, on_broken_image
        self.image_dir, self.needs_mentions = image_dir, needs_mentions

    def __call__(self, raw: RawRow) -> CheckedRow:
        """The row as a post, or with the reason why it is none."""
        name = None
        try:
            if raw.values is None:
                raise RowError("format", str(raw.error))
            name = _id(raw)
            self._refuse_duplicate(raw.row, name)
            text = _text(raw.values.get("text"))
            warn_of_columns(raw.values, KNOWN)
            mentions = self._mentions(raw.values.get("mentions"), text)
            image_text = _image_text(raw.values.get("image_text"))
            image, image_error = self._image(raw)
        except RowError as error:
            return CheckedRow(raw.row, name, kind=error.kind, reason=str(error))
        post = {"id": name, "text": text, "image": image}
        if image_text:
            post["image_text"] = image_text
        if mentions is not None:
            post["mentions"] = mentions
        return CheckedRow(raw.row, name, post, image_error)

    def _refuse_duplicate(self, row: int, name: str) -> None:
        place = np.searchsorted(self.duplicates[:, 0], row)
        if place < len(self.duplicates) and self.duplicates[place, 0] == row:
            first = self.duplicates[place, 1]
            raise RowError("duplicate", f"id must be unique, got {name!r}, which row {first} has already")

    def _mentions(self, given: Any, text: str) -> list[tuple[int, int]] | None:
        if is_absent(given):
            if self.needs_mentions:
                raise RowError("mentions", "mentions must be given, an empty list where there are none, got none")
            return None
        listed = as_list(given)
        if listed is None:
            raise RowError("mentions", f"mentions must be a list of spans, got {given!r:.80}")
        spans: dict[tuple[int, int], int] = {}
        for number, span in enumerate(listed):
            try:
                pair = check_span(text, span, f"mentions[{number}]")
            except ValueError as error:
                raise RowError("mentions", str(error)) from error
            if pair in spans:
                raise RowError("mentions", f"mentions[{number}] must differ from the others, got {list(pair)} again")
            spans[pair] = number
        return list(spans)

    def _image(self, raw: RawRow) -> tuple[Any, str | None]:
        assert raw.values is not None
        try:
            return _open(raw.values.get("image"), self.image_dir or raw.folder), None
        except ValueError as error:
            if self.on_broken_image == "error":
                raise RowError("image", str(error)) from error
            return None, str(error)


def _id(raw: RawRow) -> str:
    try:
        return id_of(raw.row, (raw.values or {}).get("id"))
    except ValueError as error:
        raise RowError("id", str(error)) from error


def _text(text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise RowError("text", f"text must be a string that is not empty, got {text!r:.80}")
    try:
        check_unicode(text, "text")
    except ValueError as error:
        raise RowError("text", str(error)) from error
    return text


def _image_text(given: Any) -> list[str]:
    try:
        return read_image_text(given)
    except ValueError as error:
        raise RowError("image_text", str(error)) from error


def _open(image: Any, folder: str) -> Any:
    """The RGB image, or `None` where none is named; ValueError if it cannot be read."""
    image = locate_image(image, folder)
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        raise ValueError(
            f"image must be a path, bytes or a data URL, got the address {image!r:.200}; fetch the images first"
        )
    if not isinstance(image, None | str | bytes | dict):
        raise ValueError(f"image must be a path, bytes or a struct of both, got {image!r:.80}")
    return None if image is None else to_rgb(image, "image")
