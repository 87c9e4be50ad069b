"""Files of posts as one numbered list of rows that is never in memory as a whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..spans import warn_of_columns

# Rows between two places in the file that are remembered.
STRIDE = 1000


class JsonLinesPosts:
    """Rows of one file: its lines, blank ones left out.

    Args:
        path: of the file. A line is an object with `text` and, where it has any, `id`, `image` (a path), `image_text`
            and `mentions`.
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
        if start >= end:  # of an empty file too, which has no places
            return
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


COLUMNS = ("id", "text", "image", "image_text", "mentions")
KNOWN = (*COLUMNS, "label", "source")  # the others are those of our own datasets
# Rows that are decoded at a time, images and all.
ROWS = 64


class ParquetPosts:
    """Rows of one file.

    Args:
        path: of the file, with the columns `text` and, where there are any, `id`, `image`, `image_text` and
            `mentions`. Others are not read.

    Raises:
        ValueError: it is no Parquet file, has no `text`, or a column is of a type that cannot be what it should be.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.metadata: pq.FileMetaData | None = None
        try:
            with self._open() as file:
                schema, self.metadata = file.schema_arrow, file.metadata
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"input: {path} cannot be read as Parquet: {error}") from error
        self.columns = [name for name in COLUMNS if name in schema.names]
        self._check(schema)
        warn_of_columns(schema.names, KNOWN)
        self.has_mentions = "mentions" in self.columns
        self.num_rows: int = self.metadata.num_rows
        # Row group g holds the rows from starts[g] to starts[g + 1].
        self.starts = [0]
        for group in range(self.metadata.num_row_groups):
            self.starts.append(self.starts[-1] + self.metadata.row_group(group).num_rows)
        self._file: pq.ParquetFile | None = None
        self.close()

    def _open(self) -> pq.ParquetFile:
        # Buffered: a row group of images, of any size, is never in memory as a whole.
        return pq.ParquetFile(self.path, metadata=self.metadata, buffer_size=1 << 18, pre_buffer=False)

    def close(self) -> None:
        """Close the file, for a system lets a process open a thousand; [`rows`] opens it again."""
        if self._file is not None:
            self._file.close()
        self._file = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._position = self.num_rows  # of the first row that is in `_batch` or still to come
        self._batch: pa.RecordBatch | None = None

    def _check(self, schema: pa.Schema) -> None:
        if "text" not in self.columns:
            raise ValueError(f"input: {self.path} must have a column 'text', got {', '.join(schema.names) or 'none'}")
        for name, fits, rule in (
            ("id", _is_id, "strings or integers"),
            ("text", _is_text, "strings"),
            ("image", _is_image, "paths, bytes or structs of bytes and path"),
            ("image_text", _is_image_text, "strings or lists of strings"),
            ("mentions", _is_mentions, "lists of [start, end), of structs of start and end, integers, or of words"),
        ):
            if name in self.columns and not fits(schema.field(name).type):
                raise ValueError(f"input: {self.path}: {name} must hold {rule}, got {schema.field(name).type}")

    def digest(self) -> str:
        """SHA-256, in hex, of the file: an edit may leave its size and its footer as they were."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def ids(self) -> Iterator[Any]:
        """The id of every row, `None` where there is none."""
        if "id" not in self.columns:
            yield from (None for _ in range(self.num_rows))
            return
        with self._open() as file:
            for batch in self._read(iter(file.iter_batches(1 << 14, columns=["id"]))):
                for values, _ in _to_python(batch):
                    yield None if values is None else values["id"]

    def rows(self, start: int, end: int) -> Iterator[tuple[dict[str, Any] | None, str | None]]:
        """Values of the rows `start` to `end`. A call that begins behind the last one reads on from there."""
        self._go_to(start)
        while self._position < end:
            yield from _to_python(self._take(end - self._position))
        if end == self.num_rows:
            self.close()

    def _go_to(self, row: int) -> None:
        group = next(number for number, start in enumerate(self.starts[1:]) if row < start)
        if not self.starts[group] <= self._position <= row:
            self.close()
            self._file = self._open()
            groups = list(range(group, len(self.starts) - 1))
            batches = self._file.iter_batches(ROWS, row_groups=groups, columns=self.columns)
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


def _is_image_text(kind: pa.DataType) -> bool:
    return _is_text(kind.value_type if _is_list(kind) else kind)


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


# What each kind of file is read with.
READERS: dict[str, type[ParquetPosts] | type[JsonLinesPosts]] = {".parquet": ParquetPosts, ".jsonl": JsonLinesPosts}


class RawRow(NamedTuple):
    """A row as it stands in its file.

    Attributes:
        row: its number, from 0, over all files.
        values: its columns by name; `None` if it cannot be read.
        error: why not.
        folder: of its file; paths of images are relative to it.
    """

    row: int
    values: dict[str, Any] | None
    error: str | None
    folder: str


class PostFiles:
    """The posts of some files, in the order of their paths.

    Args:
        paths: files, or folders in which, and below which, all files with a known ending are taken; names that begin
            with "." or "_", and folders of an extraction, are passed over.

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
        twice = sorted(path for path, count in Counter(real).items() if count > 1)
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
            elif isinstance(file, ParquetPosts):
                file.close()


def _ending(path: str) -> str:
    ending = os.path.splitext(path)[1].lower()
    if ending not in READERS:
        raise ValueError(f"input: a file must end with {' or '.join(READERS)}, got {path!r}")
    return ending


# Of the folder of an extraction: its notes, and among them what the run was started with.
NOTES, IDENTITY = "_run", "run.json"


def _is_graph(folder: str) -> bool:
    """Whether an extraction writes to a folder: its tables, below the input, are no input."""
    return os.path.isfile(os.path.join(folder, NOTES, IDENTITY))


def _files_of(path: str) -> list[tuple[str, str]]:
    """Files at or below a path, each with its name relative to it."""
    if os.path.isfile(path):
        return [(path, os.path.basename(path))]
    if not os.path.isdir(path):
        raise FileNotFoundError(f"input: {path!r} does not exist")
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(
            name for name in folders if not name.startswith((".", "_")) and not _is_graph(os.path.join(folder, name))
        )
        for name in names:
            if not name.startswith((".", "_")) and os.path.splitext(name)[1].lower() in READERS:
                whole = os.path.join(folder, name)
                found.append((whole, os.path.relpath(whole, path)))
    if not found:
        raise FileNotFoundError(f"input: {path!r} holds no file that ends with {' or '.join(READERS)}")
    return sorted(found, key=lambda pair: pair[1].split(os.sep))
