"""A file of posts in JSON, one a line, read a few lines at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

# Every so many rows the place in the file is remembered.
STRIDE = 1000


class JsonLinesPosts:
    """Rows of one file: its lines, blank ones left out.

    Args:
        path: of the file. A line is an object with `text` and, where it has any, `id`, `image` (a path) and
            `mentions`.
    """

    # A line may have what others lack.
    has_mentions = True

    def __init__(self, path: str) -> None:
        self.path, self.num_rows = path, 0
        self.places: list[int] = []  # of the rows 0, STRIDE, 2 * STRIDE ...
        digest, place = hashlib.sha256(), 0
        with open(path, "rb") as file:
            for line in file:
                digest.update(line)
                if line.strip():
                    if self.num_rows % STRIDE == 0:
                        self.places.append(place)
                    self.num_rows += 1
                place += len(line)
        self._digest = digest.hexdigest()

    def digest(self) -> str:
        """SHA-256, in hex, of the file."""
        return self._digest

    def ids(self) -> Iterator[Any]:
        """The id of every row, `None` where it has none or cannot be read."""
        for values, _ in self.rows(0, self.num_rows):
            yield None if values is None else values.get("id")

    def rows(self, start: int, end: int) -> Iterator[tuple[dict[str, Any] | None, str | None]]:
        """Values of the rows `start` to `end`, or why there are none."""
        with open(self.path, "rb") as file:
            file.seek(self.places[start // STRIDE])
            number = start - start % STRIDE
            for line in file:
                if not line.strip():
                    continue
                if number >= end:
                    return
                if number >= start:
                    yield _read(line)
                number += 1


def _read(line: bytes) -> tuple[dict[str, Any] | None, str | None]:
    try:
        # "utf-8-sig" drops the mark that some editors put at the beginning of a file.
        values = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return None, f"the line must be JSON in UTF-8, got {line[:80]!r}: {error}"
    if not isinstance(values, dict):
        return None, f"the line must be a JSON object, got {values!r:.80}"
    return values, None
