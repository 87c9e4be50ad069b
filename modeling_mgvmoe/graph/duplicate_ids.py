"""Posts whose id an earlier post has, found in little memory however many posts there are."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..data.whole_file import partial_name


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
    if not is_valid_text(name):
        raise ValueError(f"id must be valid text, got half of a surrogate pair in {name!a:.80}")
    return name


def is_valid_text(text: str) -> bool:
    """Whether a string can be written in UTF-8: JSON may hold half of a surrogate pair."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


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
