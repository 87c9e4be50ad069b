"""A Parquet file of posts, read a few rows at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..spans import warn_of_columns

COLUMNS = ("id", "text", "image", "mentions")
KNOWN = (*COLUMNS, "label", "source")  # the others are those of our own datasets
# Rows that are decoded at a time, pictures and all.
ROWS = 64


class ParquetPosts:
    """Rows of one file.

    Args:
        path: of the file, with the columns `text` and, where there are any, `id`, `image` and `mentions`. Others are
            not read.

    Raises:
        ValueError: it is no Parquet file, has no `text`, or a column is of a type that cannot be what it should be.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            # Buffered: a row group of pictures, of any size, is never in memory as a whole.
            self.file = pq.ParquetFile(path, buffer_size=1 << 18, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"input: {path} cannot be read as Parquet: {error}") from error
        self.columns = [name for name in COLUMNS if name in self.file.schema_arrow.names]
        self._check()
        warn_of_columns(self.file.schema_arrow.names, KNOWN)
        self.has_mentions = "mentions" in self.columns
        metadata = self.file.metadata
        self.num_rows: int = metadata.num_rows
        # Row group g holds the rows from starts[g] to starts[g + 1].
        self.starts = [0]
        for group in range(metadata.num_row_groups):
            self.starts.append(self.starts[-1] + metadata.row_group(group).num_rows)
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._position = self.num_rows  # of the first row that is in `_batch` or still to come
        self._batch: pa.RecordBatch | None = None

    def _check(self) -> None:
        schema = self.file.schema_arrow
        if "text" not in self.columns:
            raise ValueError(f"input: {self.path} must have a column 'text', got {', '.join(schema.names) or 'none'}")
        for name, fits, rule in (
            ("id", _is_id, "strings or integers"),
            ("text", _is_text, "strings"),
            ("image", _is_image, "paths, bytes or structs of bytes and path"),
            ("mentions", _is_mentions, "lists of [start, end), of structs of start and end, integers, or of words"),
        ):
            if name in self.columns and not fits(schema.field(name).type):
                raise ValueError(f"input: {self.path}: {name} must hold {rule}, got {schema.field(name).type}")

    def digest(self) -> str:
        """SHA-256, in hex, of size and footer: places, sizes and statistics of all that the file holds."""
        with open(self.path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(-8, os.SEEK_END)
            length = int.from_bytes(file.read(4), "little")
            file.seek(-8 - length, os.SEEK_END)
            return hashlib.sha256(str(size).encode() + file.read(length)).hexdigest()

    def ids(self) -> Iterator[Any]:
        """The id of every row, `None` where there is none."""
        if "id" not in self.columns:
            yield from (None for _ in range(self.num_rows))
            return
        for batch in self._read(iter(self.file.iter_batches(1 << 14, columns=["id"]))):
            for values, _ in _to_python(batch):
                yield None if values is None else values["id"]

    def rows(self, start: int, end: int) -> Iterator[tuple[dict[str, Any] | None, str | None]]:
        """Values of the rows `start` to `end`. A call that begins behind the last one reads on from there."""
        self._go_to(start)
        while self._position < end:
            yield from _to_python(self._take(end - self._position))

    def _go_to(self, row: int) -> None:
        group = next(number for number, start in enumerate(self.starts[1:]) if row < start)
        if not self.starts[group] <= self._position <= row:
            groups = list(range(group, len(self.starts) - 1))
            batches = self.file.iter_batches(ROWS, row_groups=groups, columns=self.columns)
            self._batches, self._position, self._batch = self._read(iter(batches)), self.starts[group], None
        while self._position < row:
            self._take(row - self._position)

    def _take(self, most: int) -> pa.RecordBatch:
        """The next rows, at least one."""
        while self._batch is None or not self._batch.num_rows:
            self._batch = next(self._batches)
        taken, self._batch = self._batch.slice(0, most), self._batch.slice(most)
        self._position += taken.num_rows
        return taken

    def _read(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"input: {self.path} is damaged: {error}") from error


def _to_python(batch: pa.RecordBatch) -> Iterator[tuple[dict[str, Any] | None, str | None]]:
    try:
        yield from [(values, None) for values in batch.to_pylist()]
    except UnicodeDecodeError as error:
        # One of them; which one shows one by one.
        if batch.num_rows == 1:
            yield None, f"strings must be in UTF-8: {error}"
        else:
            for place in range(batch.num_rows):
                yield from _to_python(batch.slice(place, 1))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
                                       pa.types.is_null))  # fmt: skip


def _is_id(kind: pa.DataType) -> bool:
    return _is_text(kind) or pa.types.is_integer(kind)


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool({field.name for field in kind} & {"bytes", "path"})
    return _is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_mentions(kind: pa.DataType) -> bool:
    if pa.types.is_null(kind):
        return True
    if not _is_list(kind):
        return False
    span = kind.value_type
    if pa.types.is_struct(span):
        names = {field.name: field.type for field in span}
        return all(name in names and pa.types.is_integer(names[name]) for name in ("start", "end"))
    return _is_text(span) or (
        _is_list(span) and (pa.types.is_integer(span.value_type) or pa.types.is_null(span.value_type))
    )
