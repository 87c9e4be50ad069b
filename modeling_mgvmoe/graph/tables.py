"""A finished graph, read part by part, and which mentions are one entity."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..data.files import read_json_object
from ..data.schema import check_choice
from .shards import SUMMARY, TABLES, Part, all_parts, num_rows, read_identity

# What mentions must share to be of one entity.
MERGING = ("name", "name_and_type")
POSSESSIVE = re.compile(r"['’]s?$")


def normalised_name(mention: str) -> str:
    """The form of a name by which mentions are compared.

    In this order: characters that are not seen (of Unicode's category Cf, and variation selectors) taken out; Unicode
    NFKC; case folded; white space to single blanks; "#" and "@" before it, and punctuation and symbols around it,
    taken off; a possessive "'s" or "'" at its end taken off. Of a mention that consists of such characters only,
    everything stays.

    ```python
    normalised_name("@Kelo_Mar's ")  # "kelo_mar"
    normalised_name("“Dunvik   UNITED”,")  # "dunvik united"
    ```
    """
    seen = "".join(char for char in mention if not _is_unseen(char)) or mention
    whole = " ".join(unicodedata.normalize("NFKC", seen).casefold().split())
    name, before = _stripped(whole), ""
    while name != before:  # so that a normalised name stays as it is
        name, before = _stripped(POSSESSIVE.sub("", name)), name
    return name or whole


def entity_key(mention: str, label: str | None, merging: str) -> tuple[str, str | None]:
    """Equal for two mentions of one entity.

    Args:
        mention: its words.
        label: its type, `None` for a rejected one.
        merging: "name", or "name_and_type", which keeps a river apart from a person of its name.

    Raises:
        ValueError: `merging` is neither.
    """
    check_choice("merging", merging, MERGING)
    return normalised_name(mention), label if merging == "name_and_type" else None


def _stripped(name: str) -> str:
    """Without punctuation, symbols and blanks at both ends."""
    start, end = 0, len(name)
    while start < end and _is_edge(name[start]):
        start += 1
    while end > start and _is_edge(name[end - 1]):
        end -= 1
    return name[start:end]


def _is_unseen(char: str) -> bool:
    selects = "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"
    return selects or unicodedata.category(char) == "Cf"


def _is_edge(char: str) -> bool:
    return char.isspace() or unicodedata.category(char)[0] in "PS"


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
        found = pq.ParquetFile(part.path(self.folder, name)).read(columns)
        return found.rename_columns([RENAMED_COLUMNS.get(column, column) for column in found.column_names])

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


# Columns of the tables that version 0.1 wrote, and those that it called otherwise.
OF_DRAWS = ("deviation", "mutual_information")
RENAMED_COLUMNS = {"has_picture": "has_image", "picture_error": "image_error", "picture_features": "image_features"}


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
