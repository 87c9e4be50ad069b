"""A report on a graph: its numbers, a picture of a part, and how well its relations can be predicted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..data.whole_file import write_whole
from .drawing import draw_graph
from .hetero_data import build_hetero_data
from .hetero_data_files import STRUCTURE, load_hetero_data
from .link_prediction import METHODS, predict_links
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
    seeds: Sequence[int] = (0, 1, 2),
    size: int = 24,
    command: str = "",
    progress: bool = False,
) -> str:
    """Write report, numbers and picture.

    Args:
        data: the graph.
        output_dir: folder to write into; made if it is not there.
        title: of the report.
        seeds: of the link prediction; none leaves it out.
        size: entities in the picture, at most.
        command: that made the report, to stand in it.
        progress: show a progress bar.

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
    links: dict[str, Any] | None = None
    if seeds:
        lines += ["", "## Link prediction", ""]
        try:
            links = predict_links(data, seeds, progress)
            lines += _link_lines(links, seeds)
        except ValueError as error:
            lines.append(f"Left out: {error}.")
    report = "\n".join(lines) + "\n"
    numbers = {"statistics": statistics, "link prediction": links, "command": command}
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


def _link_lines(links: Mapping[str, Any], seeds: Sequence[int]) -> list[str]:
    rows = []
    for method in METHODS:
        mean, deviation = links["means"][method], links["deviations"][method]
        rows.append((method, *(f"{mean[name]:.3f} ± {deviation[name]:.3f}" for name in mean)))
    rows.append(("chance", *(f"{value:.3f}" for value in links["chance"].values())))
    tested = [row["links"] for row in links["rows"] if row["method"] == METHODS[0]]
    return [
        *_table(("method", "AUROC", "average precision"), rows),
        "",
        links["verdict"],
        "",
        f"Of {links['links']:,} relations between {links['entities']:,} entities a tenth is held out for testing and "
        "another one to choose the weights, whole pairs with all that is said of them. Tested are "
        f"{min(tested):,} to {max(tested):,} relations, against as many in which head or tail is exchanged for an "
        "entity that is not related to the other. Mean ± standard deviation over the seeds "
        f"{', '.join(map(str, seeds))}, each with a division of its own. The network (two layers of SAGEConv, "
        "DistMult) sees the remaining relations, and types from posts that state none of the held-out ones. Type "
        "pairs: the share of all pairs of such types that are so related in training.",
    ]
