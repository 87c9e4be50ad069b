"""Posts whose id an earlier post has, found in little memory however many posts there are."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..data.whole_file import partial_name

# Files over which the digests are spread. At 24 bytes a post, 100 million posts are 10 MB in each.
BUCKETS = 256
ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<i8")])
# Entries that are held back before they are written, over all files.
HELD = 1 << 15


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

    Digests of 128 bits go into files by their first byte; in one of them at a time equal ones are looked for.

    Args:
        ids: rows and ids. Where an id is missing the post's own, "row-N", counts; what is no id does not.
        folder: to write into meanwhile, 24 bytes a post.

    Returns:
        (duplicates, 2), integers: a row, and the first row with its id; rows rise.
    """
    with tempfile.TemporaryDirectory(suffix=partial_name("ids"), prefix=".", dir=folder) as place:
        paths = [os.path.join(place, f"{number:02x}") for number in range(BUCKETS)]
        held: list[list[tuple[int, int, int]]] = [[] for _ in paths]
        count = 0
        for row, given in ids:
            try:
                digest = hashlib.blake2b(id_of(row, given).encode(), digest_size=16).digest()
            except ValueError:
                continue  # its row will be refused for it
            high, low = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
            held[digest[0]].append((high, low, row))
            count += 1
            if count % HELD == 0:
                _write(paths, held)
        _write(paths, held)
        found = [_duplicates(path) for path in paths if os.path.exists(path)]
    pairs = np.concatenate([np.empty((0, 2), dtype=np.int64), *found])
    return pairs[np.argsort(pairs[:, 0], kind="stable")]


def _write(paths: list[str], held: list[list[tuple[int, int, int]]]) -> None:
    for path, entries in zip(paths, held, strict=True):
        if entries:
            with open(path, "ab") as file:
                file.write(np.array(entries, dtype=ENTRY).tobytes())
            entries.clear()


def _duplicates(path: str) -> np.ndarray:
    entries = np.sort(np.fromfile(path, dtype=ENTRY), order=["high", "low", "row"])
    same = (entries["high"][1:] == entries["high"][:-1]) & (entries["low"][1:] == entries["low"][:-1])
    begins = np.concatenate([[True], ~same])
    first = entries["row"][np.maximum.accumulate(np.where(begins, np.arange(len(entries)), 0))]
    return np.stack([entries["row"], first], 1)[~begins]
