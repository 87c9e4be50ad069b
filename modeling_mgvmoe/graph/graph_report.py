"""The report of a graph: its statistics, its images and a page about them."""

from __future__ import annotations

import json
import os
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.atomic_io import write_whole
from ..evaluation.plots import MOST_PIXELS, Glyphs, _pyplot, drawable, shortened, widened
from .hetero_data import STRUCTURE, build_hetero_data, load_hetero_data, relation_types
from .tables import GraphTables

if TYPE_CHECKING:
    import networkx
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch_geometric.data import HeteroData


# Types and relations that have a colour of their own; the others share one.
COLOURS = 8
OTHER = "#9aa3ab"
NO_TYPE = "#e9edf0"
# Half the width, the height above and the depth below the centre of an entity, with its name; in inches.
Box = tuple[float, float, float]
DPI, POINTS, FONT = 110, 72, 9  # dots and points an inch; points
GAP, APART = 0.05, 0.3  # inches around a name, and between components
ASPECT = 1.4  # width over height of many components
ROUNDS = 200  # before a component that is too dense for its names is made larger
BEHIND = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.8}


def choose_part(graph: networkx.Graph, size: int) -> list[int]:
    """The best connected entity and what is around it, the well connected first.

    Args:
        graph: of `statistics.entity_graph`.
        size: of the part, at most.

    Returns:
        Entities; fewer than `size` only if no more are related to anybody.
    """
    degree = dict(graph.degree())
    order = sorted((node for node in graph if degree[node]), key=lambda node: (-degree[node], node))
    chosen: dict[int, None] = {}
    for start in order:
        frontier = [start]
        while frontier and len(chosen) < size:
            # Of all that are next to the part, who knows most of it: the image then shows a region, not a star.
            best = max(frontier, key=lambda node: (sum(other in chosen for other in graph[node]), degree[node], -node))
            frontier.remove(best)
            chosen[best] = None
            frontier += [one for one in graph[best] if one not in chosen and one not in frontier]
        if len(chosen) >= size:
            break
    return list(chosen)


def draw_graph(data: HeteroData, path: str | os.PathLike[str], size: int = 24, title: str | None = None) -> int:
    """Write a PNG: entities by name, coloured by type; relations as arrows, coloured by kind.

    The image is as large as its names need: no two of them overlap, and each connected component has its own place.

    Args:
        data: of `hetero_data.build_hetero_data`.
        path: of the PNG.
        size: entities that are shown, at most.
        title: above it.

    Returns:
        How many are shown.

    Raises:
        ValueError: no two entities are related.
    """
    whole = entity_graph(data)
    nodes = choose_part(whole, size)
    if not nodes:
        raise ValueError("graph: there is nothing to draw, for no two entities are related")
    edges, types = _shown_edges(data, set(nodes)), best_types(data)
    names = {node: data["entity"].text[node] for node in nodes}
    shown_types = {node: types[node] for node in nodes}
    title = title or f"{len(nodes)} of {data['entity'].num_nodes:,} entities"
    labels = [*(kind for kind in shown_types.values() if kind is not None), *(label for _, _, label in edges)]
    with drawable([*names.values(), *labels, title]) as glyphs:
        names = {node: glyphs.show(name) for node, name in names.items()}
        names = {node: shortened(name, widened(18, name), 2) for node, name in names.items()}
        _draw(whole.subgraph(nodes), edges, names, shown_types, glyphs, title, path)
    return len(nodes)


def _draw(
    part: networkx.Graph,
    edges: Sequence[tuple[int, int, str]],
    names: Mapping[int, str],
    types: Mapping[int, str | None],
    glyphs: Glyphs,
    title: str,
    path: str | os.PathLike[str],
) -> None:
    """The figure of `part`, of which one inch is one unit of its axes."""
    import networkx

    plt = _pyplot()
    type_colours = _colours([kind for kind in types.values() if kind is not None], "Set3")
    relation_colours = _colours([label for _, _, label in edges], "Dark2")
    size_of = {node: 260 + 60 * part.degree(node) for node in part}  # points squared, as matplotlib has them
    figure = plt.figure(figsize=(8, 8), dpi=DPI)
    try:
        boxes = _boxes(figure, names, {node: own**0.5 / 2 / POINTS for node, own in size_of.items()})
        places = place_nodes(part, boxes)
        left, bottom, right, top = bounds(places, boxes)
        figure.set_size_inches(right - left, top - bottom)
        axis = figure.add_axes((0, 0, 1, 1))
        axis.set(xlim=(left, right), ylim=(bottom, top))
        axis.set_axis_off()
        for label, colour in relation_colours.items():
            own = [(head, tail) for head, tail, name in edges if _group(name, relation_colours) == label]
            directed = networkx.DiGraph(own)
            networkx.draw_networkx_edges(
                directed,
                places,
                edgelist=own,
                ax=axis,
                edge_color=colour,
                width=1.6,
                alpha=0.85,
                arrowsize=11,
                node_size=[size_of[node] for node in directed],
                connectionstyle="arc3,rad=0.06",
            )
        networkx.draw_networkx_nodes(
            part,
            places,
            nodelist=list(names),
            ax=axis,
            node_size=[size_of[node] for node in names],
            node_color=[
                NO_TYPE if types[node] is None else type_colours[_group(str(types[node]), type_colours)]
                for node in names
            ],
            edgecolors="#4a545e",
            linewidths=0.9,
        )
        for node, name in names.items():
            x, y = places[node]
            below = y - size_of[node] ** 0.5 / 2 / POINTS - GAP
            axis.text(x, below, name, ha="center", va="top", fontsize=FONT, zorder=5, bbox=BEHIND)
        axis.set(xlim=(left, right), ylim=(bottom, top))  # networkx changes them
        _legends(figure, axis, type_colours, relation_colours, None in types.values(), glyphs)
        axis.set_title(glyphs.show(title), fontsize=12)
        if glyphs.note:
            note = "\n".join(textwrap.wrap(glyphs.note, 70))
            axis.annotate(note, (0, 0), (0, -6), xycoords="axes fraction", textcoords="offset points", va="top",
                          fontsize=8, color="#555555")  # fmt: skip
        figure.savefig(path, dpi=min(DPI, MOST_PIXELS / max(figure.get_size_inches())), bbox_inches="tight",
                       pad_inches=0.15)  # fmt: skip
    finally:
        plt.close(figure)


def _boxes(figure: Figure, names: Mapping[int, str], radii: Mapping[int, float]) -> dict[int, Box]:
    """For each entity the room of its circle and of the name below it, in inches around the circle's centre."""
    renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    found = {}
    for node, name in names.items():
        text = figure.text(0, 0, name, fontsize=FONT)
        extent = text.get_window_extent(renderer)
        text.remove()
        half = max(extent.width / figure.dpi / 2, radii[node]) + GAP
        found[node] = (half, radii[node] + GAP, radii[node] + extent.height / figure.dpi + 2 * GAP)
    return found


def _shown_edges(data: HeteroData, nodes: set[int]) -> list[tuple[int, int, str]]:
    """The most frequent relation of each ordered pair; of several, the one with the higher score."""
    best: dict[tuple[int, int], tuple[int, float, str]] = {}
    for kind in relation_types(data):
        store = data[kind]
        for (head, tail), count, score in zip(
            store.edge_index.t().tolist(), store.count.tolist(), store.edge_attr.flatten().tolist(), strict=True
        ):
            if head != tail and head in nodes and tail in nodes:
                best[head, tail] = max(best.get((head, tail), (0, 0.0, "")), (count, score, kind[1]))
    return [(head, tail, label) for (head, tail), (_, _, label) in sorted(best.items())]


def _colours(labels: Sequence[Any], palette: str) -> dict[str, str]:
    """A colour for each of the most frequent labels, and one for all others, if there are any."""
    import matplotlib

    colours = [matplotlib.colors.to_hex(colour) for colour in matplotlib.color_sequences[palette]]
    ranked = [label for label, _ in Counter(labels).most_common()]
    most = COLOURS if len(ranked) <= COLOURS else COLOURS - 1
    found = dict(zip(ranked[:most], colours, strict=False))
    return {**found, f"{len(ranked) - most} others": OTHER} if len(ranked) > most else found


def _group(label: str, colours: Mapping[str, str]) -> str:
    return label if label in colours else list(colours)[-1]


def place_nodes(part: networkx.Graph, boxes: Mapping[int, Box]) -> dict[int, tuple[float, float]]:
    """Places of the nodes, in inches, at which no two boxes overlap.

    Each connected component is laid out by itself (Kamada-Kawai), its boxes are pushed apart, and the components are
    packed in rows, the large ones first.

    Args:
        part: nodes and edges.
        boxes: for each node half the width, the height above and the depth below its centre.

    Returns:
        The centre of each node.
    """
    import networkx

    components = []
    for component in networkx.connected_components(part):
        nodes = sorted(component)
        own = networkx.kamada_kawai_layout(part.subgraph(nodes))
        # Names are wide and low, so a component is wider than high.
        spread = np.array([1.0, 0.6]) * max(1, len(nodes) - 1) ** 0.5
        centres = _pushed_apart(np.array([own[node] for node in nodes]) * spread, np.array([boxes[n] for n in nodes]))
        placed = dict(zip(nodes, map(tuple, centres.tolist()), strict=True))
        components.append((placed, bounds(placed, boxes)))
    components.sort(key=lambda own: (own[1][1] - own[1][3], min(own[0])))  # high ones first
    area = sum((right - left + APART) * (top - bottom + APART) for _, (left, bottom, right, top) in components)
    widest = max(right - left for _, (left, _, right, _) in components)
    room = max(widest, (ASPECT * area) ** 0.5)
    places: dict[int, tuple[float, float]] = {}
    rows: list[list[float]] = []  # right end and top of each
    below = 0.0
    for placed, (left, bottom, right, top) in components:
        row = next((one for one in rows if one[0] + right - left <= room), None)
        if row is None:  # as high as its first component, for the others are lower
            row = [0.0, below]
            rows.append(row)
            below -= top - bottom + APART
        places |= {node: (row[0] + own[0] - left, row[1] + own[1] - top) for node, own in placed.items()}
        row[0] += right - left + APART
    return places


def _pushed_apart(centres: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Centres (N, 2), moved until no two boxes (N, 3) overlap: each pair along the axis where it overlaps less."""
    half = boxes[:, 0]
    while True:
        for _ in range(ROUNDS):
            apart = centres[:, None] - centres[None]  # (N, N, 2), from the second to the first
            up = apart[..., 1] > 0
            least = np.where(up, boxes[None, :, 1] + boxes[:, None, 2], boxes[None, :, 2] + boxes[:, None, 1])
            overlap = np.stack([half[:, None] + half[None], least], -1) - np.abs(apart)
            overlap[np.arange(len(centres)), np.arange(len(centres))] = 0
            meets = (overlap > 1e-9).all(-1)
            if not meets.any():
                return centres
            first = np.where(up, 1.0, -1.0)
            shift = np.zeros_like(apart)
            sideways = overlap[..., 0] < overlap[..., 1]
            shift[..., 0] = np.where(meets & sideways, np.sign(apart[..., 0]) * overlap[..., 0], 0)
            shift[..., 1] = np.where(meets & ~sideways, first * overlap[..., 1], 0)
            centres = centres + 0.5 * shift.sum(1) / np.maximum(1, (meets.sum(1) / 2))[:, None]
        centres = 1.1 * centres


def bounds(places: Mapping[int, tuple[float, float]], boxes: Mapping[int, Box]) -> tuple[float, float, float, float]:
    """Left, bottom, right and top of all boxes."""
    return (
        min(x - boxes[node][0] for node, (x, _) in places.items()),
        min(y - boxes[node][2] for node, (_, y) in places.items()),
        max(x + boxes[node][0] for node, (x, _) in places.items()),
        max(y + boxes[node][1] for node, (_, y) in places.items()),
    )


def _legends(
    figure: Figure,
    axis: Axes,
    types: Mapping[str, str],
    relations: Mapping[str, str],
    with_none: bool,
    glyphs: Glyphs,
) -> None:
    """Draw the legends to the right of the image, one below the other."""
    from matplotlib.lines import Line2D

    dots = dict(types) | ({"no type": NO_TYPE} if with_none else {})
    handles = [
        Line2D([], [], marker="o", color="none", markerfacecolor=colour, markeredgecolor="#4a545e", markersize=9,
               label=shortened(glyphs.show(label), 30, 1))
        for label, colour in dots.items()
    ]  # fmt: skip
    lines = [
        Line2D([], [], color=colour, linewidth=2, label=shortened(glyphs.show(label), 30, 1))
        for label, colour in relations.items()
    ]
    place: dict[str, Any] = {"loc": "upper left", "fontsize": 9, "frameon": False, "alignment": "left"}
    height = 1.0
    if handles:
        first = axis.legend(handles=handles, title="best type", bbox_to_anchor=(1.0, height), **place)
        axis.add_artist(first)
        extent = first.get_window_extent(figure.canvas.get_renderer())  # type: ignore[attr-defined]
        height = axis.transAxes.inverted().transform((0, extent.y0))[1]
    axis.legend(handles=lines, title="relation", bbox_to_anchor=(1.0, height), **place)


def entity_graph(data: HeteroData) -> networkx.Graph:
    """Entities and who is related to whom: undirected, without relations to oneself, each pair once."""
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(range(data["entity"].num_nodes))
    for kind in relation_types(data):
        graph.add_edges_from((head, tail) for head, tail in data[kind].edge_index.t().tolist() if head != tail)
    return graph


def best_types(data: HeteroData) -> list[str | None]:
    """The type of each entity with the highest mean score over its mentions; `None` without one."""
    store, names = data["entity", "has_type", "entity_type"], data["entity_type"].name
    best: list[tuple[float, str] | None] = [None] * data["entity"].num_nodes
    for entity, kind, score in zip(*store.edge_index.tolist(), store.edge_attr.flatten().tolist(), strict=True):
        best[entity] = max(best[entity] or (0.0, ""), (score, names[kind]))
    return [None if one is None else one[1] for one in best]


def graph_statistics(data: HeteroData, top: int = 10) -> dict[str, Any]:
    """Numbers of nodes and edges, degrees, components, labels with their scores, and the best connected entities.

    Args:
        data: of `hetero_data.build_hetero_data`.
        top: this many entities are named.

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
    """Write report, numbers and image.

    Args:
        data: the graph.
        output_dir: folder to write into; made if it is not there.
        title: of the report.
        size: entities in the image, at most.
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
