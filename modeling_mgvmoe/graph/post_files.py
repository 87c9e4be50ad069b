"""Files of posts as one numbered list of rows that is never in memory as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .json_lines_posts import JsonLinesPosts
from .parquet_posts import ParquetPosts

# What each kind of file is read with.
READERS: dict[str, type[ParquetPosts] | type[JsonLinesPosts]] = {".parquet": ParquetPosts, ".jsonl": JsonLinesPosts}


class RawRow(NamedTuple):
    """A row as it stands in its file.

    Attributes:
        row: its number, from 0, over all files.
        values: its columns by name; `None` if it cannot be read.
        error: why not.
        folder: of its file; paths of pictures are relative to it.
    """

    row: int
    values: dict[str, Any] | None
    error: str | None
    folder: str


class PostFiles:
    """The posts of some files, in the order of their paths.

    Args:
        paths: files, or folders in which, and below which, all files with a known ending are taken; names that begin
            with "." or "_" are passed over.

    Attributes:
        names: of the files, relative to the folder that was given; of several, its number comes first.
        num_rows: of all files together.

    Raises:
        FileNotFoundError: a path does not exist, or a folder holds no file of posts.
        ValueError: a file has another ending, cannot be read or lacks a column; a file is given twice.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        found = [
            (file, name if len(paths) == 1 else f"{number}/{name}")
            for number, path in enumerate(paths)
            for file, name in _files_of(os.fspath(path))
        ]
        real = [os.path.realpath(path) for path, _ in found]
        twice = sorted({path for path in real if real.count(path) > 1})
        if twice:
            raise ValueError(f"input: each file may be given once, got twice: {', '.join(twice[:5])}")
        self.paths, self.names = [path for path, _ in found], [name for _, name in found]
        self.files = [READERS[_ending(path)](path) for path in self.paths]
        self.starts = [0]
        for file in self.files:
            self.starts.append(self.starts[-1] + file.num_rows)
        self.num_rows = self.starts[-1]
        if not self.num_rows:
            raise ValueError(f"input: there must be at least one post, got none in {', '.join(self.paths[:5])}")

    @property
    def without_mentions(self) -> list[str]:
        """Files that have no column of mentions at all."""
        return [path for path, file in zip(self.paths, self.files, strict=True) if not file.has_mentions]

    def identity(self) -> list[dict[str, Any]]:
        """Names, sizes and digests: what tells these posts from others, wherever the folder lies."""
        return [
            {"file": name, "rows": file.num_rows, "digest": file.digest()}
            for name, file in zip(self.names, self.files, strict=True)
        ]

    def ids(self) -> Iterator[tuple[int, Any]]:
        """Number and id of every row; `None` for an id that is not there or cannot be read."""
        for start, file in zip(self.starts, self.files, strict=False):
            yield from enumerate(file.ids(), start)

    def rows(self, start: int, end: int) -> Iterator[RawRow]:
        """Rows `start` to `end`, the end exclusive. Fastest if called with rising ranges."""
        for first, path, file in zip(self.starts, self.paths, self.files, strict=False):
            low, high = max(start, first), min(end, first + file.num_rows)
            if low < high:
                folder = os.path.dirname(path)
                for row, (values, error) in enumerate(file.rows(low - first, high - first), low):
                    yield RawRow(row, values, error, folder)


def _ending(path: str) -> str:
    ending = os.path.splitext(path)[1].lower()
    if ending not in READERS:
        raise ValueError(f"input: a file must end with {' or '.join(READERS)}, got {path!r}")
    return ending


def _files_of(path: str) -> list[tuple[str, str]]:
    """Files at or below a path, each with its name relative to it."""
    if os.path.isfile(path):
        return [(path, os.path.basename(path))]
    if not os.path.isdir(path):
        raise FileNotFoundError(f"input: {path!r} does not exist")
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        for name in names:
            if not name.startswith((".", "_")) and os.path.splitext(name)[1].lower() in READERS:
                whole = os.path.join(folder, name)
                found.append((whole, os.path.relpath(whole, path)))
    if not found:
        raise FileNotFoundError(f"input: {path!r} holds no file that ends with {' or '.join(READERS)}")
    return sorted(found, key=lambda pair: pair[1].split(os.sep))
