"""Parts of a graph's tables: fixed ranges of rows, each written whole or not at all.

Rows 1,000 to 2,000 are in `rows-000000001000-000000002000.parquet` in the folder of each table. Which parts there are
depends on the number of rows and the size of a part alone, never on processes or machines: a part that is made twice
has the same name and the same content, and takes its own place.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..data.whole_file import whole_file
from .schema import TABLES

# The file that says that its part is there comes last.
ORDER = (*(name for name in TABLES if name != "posts"), "posts")
KEY = b"mgvmoe"
NAME = re.compile(r"rows-(\d{12})-(\d{12})\.parquet")


class Part(NamedTuple):
    """Rows `start` to `end`, the end exclusive."""

    start: int
    end: int

    @property
    def name(self) -> str:
        """Of its file in the folder of each table."""
        return f"rows-{self.start:012d}-{self.end:012d}.parquet"

    def path(self, folder: str, table: str) -> str:
        """Of its file of one table."""
        return os.path.join(folder, table, self.name)


def all_parts(num_rows: int, part_size: int) -> list[Part]:
    """The parts of so many rows."""
    return [Part(start, min(start + part_size, num_rows)) for start in range(0, num_rows, part_size)]


def share(parts: Sequence[Part], index: int, number: int) -> list[Part]:
    """The `index`-th of `number` runs of neighbouring parts of about equal length: who reads them reads on."""
    return list(parts[len(parts) * index // number : len(parts) * (index + 1) // number])


def parts_there(folder: str) -> set[Part]:
    """Parts of which the last file has been written."""
    posts = os.path.join(folder, "posts")
    names = os.listdir(posts) if os.path.isdir(posts) else []
    return {Part(int(found[1]), int(found[2])) for name in names if (found := NAME.fullmatch(name))}


def write_part(
    folder: str, part: Part, tables: Mapping[str, pa.Table], fingerprint: str, counts: Mapping[str, Any]
) -> None:
    """Write a part, in the place of one that is there.

    Args:
        folder: with a folder for each table.
        part: its rows.
        tables: by name.
        fingerprint: of the run.
        counts: what was found, to be summed up.
    """
    note = json.dumps({"fingerprint": fingerprint, "rows": list(part), "counts": counts}, sort_keys=True)
    for name in ORDER:
        with whole_file(part.path(folder, name), "run the command again") as partial:
            # The rows of a part are one row group, however they came.
            table = tables[name].replace_schema_metadata({KEY: note.encode()})
            pq.write_table(table, partial, compression="zstd", row_group_size=max(1, table.num_rows))


def read_note(path: str) -> dict[str, Any]:
    """What [`write_part`] has noted in a file.

    Raises:
        ValueError: the file cannot be read, or was not written by it.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if KEY not in metadata:
        raise ValueError(f"{path} was not written by an extraction")
    return dict(json.loads(metadata[KEY]))


def check_part(folder: str, part: Part, fingerprint: str) -> dict[str, Any]:
    """The counts of a part.

    Raises:
        ValueError: one of its files is missing, damaged, or of another run.
    """
    counts: dict[str, Any] = {}
    for name in ORDER:
        path = part.path(folder, name)
        note = read_note(path)
        if note["fingerprint"] != fingerprint or note["rows"] != list(part):
            raise ValueError(f"{path} belongs to another run, or to other rows ({note['rows']})")
        counts = note["counts"]
    return counts
