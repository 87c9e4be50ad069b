"""A finished graph, read part by part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..data.files import read_json_object
from .run_folder import SUMMARY, num_rows, read_identity
from .shards import TABLES, Part, all_parts


class GraphTables:
    """The tables that `examples/extract.py` has written.

    Args:
        folder: of the graph.

    Attributes:
        summary: counts.
        identity: what the run was started with; its `labels` are the candidates.

    Raises:
        FileNotFoundError: the folder holds no graph, or an unfinished one.
        ValueError: its files are damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = os.fspath(folder)
        self.identity = read_identity(self.folder)
        path = os.path.join(self.folder, SUMMARY)
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"{path} does not exist: the extraction is not finished. Run its command again, it resumes where it "
                "stopped."
            )
        self.summary = read_json_object(path)
        self.parts = all_parts(num_rows(self.identity), self.identity["part_size"])

    def table(self, name: str, part: Part, columns: list[str] | None = None) -> pa.Table:
        """One table of one part, in the order of the rows."""
        return pq.ParquetFile(part.path(self.folder, name)).read(columns)

    def posts(self, part: Part) -> Iterator[dict[str, Any]]:
        """The posts of a part as `extract` gave them: `id`, `text`, `mentions`, `relations`; and `row`."""
        found = {name: self.table(name, part).to_pylist() for name in TABLES if name != "errors"}
        places = {"mentions": 0, "relations": 0}
        for post in found["posts"]:
            own: dict[str, list[dict[str, Any]]] = {}
            for name in places:
                end = places[name] + post[f"num_{name}"]
                own[name] = [_bare(entry) for entry in found[name][places[name] : end]]
                places[name] = end
            yield {"id": post["id"], "row": post["row"], "text": post["text"], **own}


# Columns of the tables that version 0.1 wrote.
OF_DRAWS = ("deviation", "mutual_information")


def _bare(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of a table without its keys, and without what was not asked for."""
    optional = {"levels"}
    if entry["scores"] is None:
        optional |= {"label", "score", "scores"}
    kept = {
        key: value
        for key, value in entry.items()
        if key not in ("row", "post_id", "mention", *OF_DRAWS) and not (key in optional and value is None)
    }
    for name in ("scores", "levels"):
        for one in kept.get(name, ()):
            one.pop("deviation", None)
    return kept
