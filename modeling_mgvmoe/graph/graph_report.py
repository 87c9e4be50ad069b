"""The report of a graph: its statistics and a page about them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..data.atomic_io import write_whole
from .drawing import draw_graph
from .hetero_data import build_hetero_data, relation_types
from .hetero_data_files import STRUCTURE, load_hetero_data
from .tables import GraphTables

if TYPE_CHECKING:
    import networkx
    from torch_geometric.data import HeteroData


def entity_graph(data: HeteroData) -> networkx.Graph:
    """Entities and who is related to whom: undirected, without relations to oneself, each pair once."""
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(range(data["entity"].num_nodes))
    for kind in relation_types(data):
        graph.add_edges_from((head, tail) for head, tail in data[kind].edge_index.t().tolist() if head != tail)
    return graph


def best_types(data: HeteroData) -> list[str | None]:
    """Of each entity the type with the highest mean score among those that its mentions have; `None`: it has none."""
    store, names = data["entity", "has_type", "entity_type"], data["entity_type"].name
    best: list[tuple[float, str] | None] = [None] * data["entity"].num_nodes
    for entity, kind, score in zip(*store.edge_index.tolist(), store.edge_attr.flatten().tolist(), strict=True):
        best[entity] = max(best[entity] or (0.0, ""), (score, names[kind]))
    return [None if one is None else one[1] for one in best]


def graph_statistics(data: HeteroData, top: int = 10) -> dict[str, Any]:
    """Numbers of nodes and edges, degrees, components, labels with their scores, and the best connected entities.

    Args:
        data: of `hetero_data.build_hetero_data`.
        top: so many entities are named.

    Returns:
        JSON values. Degrees and components are those of [`entity_graph`]: a degree is a number of other entities.
    """
    import networkx

    graph = entity_graph(data)
    degrees = torch.tensor([degree for _, degree in sorted(graph.degree())], dtype=torch.float)
    sizes = sorted((len(component) for component in networkx.connected_components(graph)), reverse=True)
    connected = int((degrees > 0).sum())
    types = best_types(data)
    order = torch.argsort(degrees, descending=True, stable=True)[:top].tolist()
    return {
        "nodes": {kind: data[kind].num_nodes for kind in data.node_types},
        "edges": {" / ".join(kind): data[kind].edge_index.shape[1] for kind in data.edge_types},
        "entities": {
            "mentions per entity": _mean(data["entity"].num_mentions.float()),
            "related pairs": graph.number_of_edges(),
            "without a relation": len(degrees) - connected,
            "mean degree": _mean(degrees),
            "median degree": float(degrees.median()) if len(degrees) else 0.0,
            "greatest degree": int(degrees.max()) if len(degrees) else 0,
            "components": len(sizes),
            "components of two or more": sum(size > 1 for size in sizes),
            "share in the largest": sizes[0] / len(degrees) if sizes else 0.0,
        },
        "types": _label_rows(
            data["entity_type"].name,
            data["mention"].y[data["mention"].y >= 0],
            data["mention"].score[data["mention"].y >= 0],
        ),
        "mentions of no type": int((data["mention"].y < 0).sum()),
        "relations": [
            {
                "label": kind[1],
                "count": data[kind].edge_index.shape[1],
                "mean score": _mean(data[kind].edge_attr.flatten()),
            }
            for kind in sorted(
                (kind for kind in data.edge_types if kind[0] == kind[2] == "mention"),
                key=lambda kind: -data[kind].edge_index.shape[1],
            )
        ],
        "best connected": [
            {
                "entity": data["entity"].text[number],
                "type": types[number],
                "degree": int(degrees[number]),
                "mentions": int(data["entity"].num_mentions[number]),
            }
            for number in order
            if degrees[number] > 0
        ],
    }


def _label_rows(names: Sequence[str], numbers: torch.Tensor, scores: torch.Tensor) -> list[dict[str, Any]]:
    counts = torch.bincount(numbers, minlength=len(names))
    totals = torch.zeros(len(names)).index_add(0, numbers, scores)
    rows = [
        {"label": name, "count": int(count), "mean score": float(total / count)}
        for name, count, total in zip(names, counts, totals, strict=True)
        if count
    ]
    return sorted(rows, key=lambda row: -row["count"])


def _mean(values: torch.Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0


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
