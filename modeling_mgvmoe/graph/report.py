"""A report on a graph: its numbers and a picture of a part."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..data.whole_file import write_whole
from .drawing import draw_graph
from .hetero_data import build_hetero_data
from .hetero_data_files import STRUCTURE, load_hetero_data
from .statistics import graph_statistics
from .tables import GraphTables

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

REPORT, NUMBERS, PICTURE = "graph_report.md", "graph_report.json", "graph.png"


def read_graph(folder: str, merging: str = "name") -> HeteroData:
    """The graph of a folder: that of `examples/extract.py`, or one of `save_hetero_data`.

    Args:
        folder: of either kind.
        merging: of the first kind, what mentions of one entity share.

    Raises:
        FileNotFoundError: it is neither.
    """
    if os.path.isfile(os.path.join(folder, STRUCTURE)):
        return load_hetero_data(folder)
    try:
        graph = GraphTables(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"graph: {error}; nor does it hold {STRUCTURE}") from error
    return build_hetero_data(graph, merging, progress=True)


def write_report(
    data: HeteroData,
    output_dir: str,
    title: str,
    size: int = 24,
    command: str = "",
) -> str:
    """Write report, numbers and picture.

    Args:
        data: the graph.
        output_dir: folder to write into; made if it is not there.
        title: of the report.
        size: entities in the picture, at most.
        command: that made the report, to stand in it.

    Returns:
        The report.
    """
    os.makedirs(output_dir, exist_ok=True)
    statistics = graph_statistics(data)
    lines = [f"# {title}", "", *([f"`{command}`", ""] if command else []), *_statistics_lines(statistics)]
    if statistics["entities"]["related pairs"]:
        shown = draw_graph(data, os.path.join(output_dir, PICTURE), size)
        lines += ["", f"![{shown} of the entities]({PICTURE})", "",
                  f"The best connected entity and what is around it: {shown} entities, each with its type of the "
                  "highest mean score; of several relations of a pair the most frequent one."]  # fmt: skip
    report = "\n".join(lines) + "\n"
    numbers = {"statistics": statistics, "command": command}
    write_whole(os.path.join(output_dir, NUMBERS), json.dumps(numbers, indent=1, ensure_ascii=False).encode())
    write_whole(os.path.join(output_dir, REPORT), report.encode())
    return report


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], right: int = 1) -> list[str]:
    """A table in Markdown; from column `right` on, numbers are set to the right."""
    line = "|".join("---" if place < right else "---:" for place in range(len(head)))
    return [f"| {' | '.join(head)} |", f"|{line}|", *(f"| {' | '.join(map(_cell, row))} |" for row in rows)]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _statistics_lines(statistics: Mapping[str, Any]) -> list[str]:
    lines = _table(("nodes", "number"), list(statistics["nodes"].items()))
    lines += ["", *_table(("entities", "number"), list(statistics["entities"].items()))]
    lines += ["", "Degrees and components are of entities that are related, in either direction, by any relation."]
    if statistics["types"] or statistics["mentions of no type"]:
        rows = [(row["label"], row["count"], row["mean score"]) for row in statistics["types"]]
        none = statistics["mentions of no type"]
        rows += [("(no type)", none, "")] if none else []
        lines += ["", *_table(("type", "mentions", "mean score"), rows)]
    if statistics["relations"]:
        rows = [(row["label"], row["count"], row["mean score"]) for row in statistics["relations"]]
        lines += ["", *_table(("relation", "pairs of mentions", "mean score"), rows)]
    if statistics["best connected"]:
        named = [
            (row["entity"], row["type"] or "(no type)", row["degree"], row["mentions"])
            for row in statistics["best connected"]
        ]
        lines += ["", *_table(("best connected", "type", "degree", "mentions"), named, right=2)]
    return lines
