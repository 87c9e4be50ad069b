"""A readable part of a graph as a picture."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..evaluation.plots import shortened
from .hetero_data import relation_types
from .statistics import best_types, entity_graph

if TYPE_CHECKING:
    import networkx
    from torch_geometric.data import HeteroData

# Types and relations that have a colour of their own; the others share one.
COLOURS = 8
OTHER = "#9aa3ab"
NO_TYPE = "#e9edf0"


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
            # Of all that are next to the part, who knows most of it: the picture then shows a region, not a star.
            best = max(frontier, key=lambda node: (sum(other in chosen for other in graph[node]), degree[node], -node))
            frontier.remove(best)
            chosen[best] = None
            frontier += [one for one in graph[best] if one not in chosen and one not in frontier]
        if len(chosen) >= size:
            break
    return list(chosen)


def draw_graph(data: HeteroData, path: str | os.PathLike[str], size: int = 24, title: str | None = None) -> int:
    """Write a PNG: entities by name, coloured by type; relations as arrows, coloured by kind.

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
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import networkx

    whole = entity_graph(data)
    nodes = choose_part(whole, size)
    if not nodes:
        raise ValueError("graph: there is nothing to draw, for no two entities are related")
    part = whole.subgraph(nodes)
    edges = _shown_edges(data, set(nodes))
    types = best_types(data)
    type_colours = _colours([types[node] for node in nodes if types[node] is not None], "Set3")
    relation_colours = _colours([label for _, _, label in edges], "Dark2")
    places = _layout(part)

    figure, axis = plt.subplots(figsize=(11, 8.5), layout="constrained")
    size_of = {node: 260 + 60 * part.degree(node) for node in nodes}
    for label, colour in relation_colours.items():
        own = [(head, tail) for head, tail, name in edges if _group(name, relation_colours) == label]
        networkx.draw_networkx_edges(
            networkx.DiGraph(own),
            places,
            edgelist=own,
            ax=axis,
            edge_color=colour,
            width=1.6,
            alpha=0.85,
            arrowsize=11,
            node_size=[size_of[node] for node in networkx.DiGraph(own)],
            connectionstyle="arc3,rad=0.06",
        )
    networkx.draw_networkx_nodes(
        part,
        places,
        nodelist=nodes,
        ax=axis,
        node_size=[size_of[node] for node in nodes],
        node_color=[
            NO_TYPE if types[node] is None else type_colours[_group(str(types[node]), type_colours)] for node in nodes
        ],
        edgecolors="#4a545e",
        linewidths=0.9,
    )
    for node in nodes:
        axis.annotate(
            shortened(data["entity"].text[node], 18, 2),
            places[node],
            xytext=(0, -0.5 * size_of[node] ** 0.5 - 3),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=9,
            zorder=5,
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.8},
        )
    _legends(axis, type_colours, relation_colours, any(types[node] is None for node in nodes))
    axis.set_axis_off()
    axis.margins(0.08)
    axis.set_title(title or f"{len(nodes)} of {data['entity'].num_nodes:,} entities", fontsize=12)
    figure.savefig(path, dpi=110, bbox_inches="tight", pad_inches=0.15)
    plt.close(figure)
    return len(nodes)


def _shown_edges(data: HeteroData, nodes: set[int]) -> list[tuple[int, int, str]]:
    """Of each ordered pair the relation that most mentions have; of several the one with the higher score."""
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


def _layout(part: networkx.Graph) -> dict[int, Any]:
    """Places in the plane, each component by itself and side by side: together they would be pushed far apart."""
    import networkx
    import numpy as np

    components = sorted(networkx.connected_components(part), key=len, reverse=True)
    places, left = {}, 0.0
    for component in components:
        own = networkx.kamada_kawai_layout(part.subgraph(component))
        spread = len(component) ** 0.5
        for node, place in own.items():
            places[node] = np.array([left + spread * (1 + place[0]), spread * place[1]])
        left += 2 * spread + 1
    return places


def _legends(axis: Any, types: Mapping[str, str], relations: Mapping[str, str], with_none: bool) -> None:
    from matplotlib.lines import Line2D

    dots = dict(types) | ({"no type": NO_TYPE} if with_none else {})
    handles = [
        Line2D([], [], marker="o", color="none", markerfacecolor=colour, markeredgecolor="#4a545e", markersize=9,
               label=shortened(label, 30, 1))
        for label, colour in dots.items()
    ]  # fmt: skip
    lines = [
        Line2D([], [], color=colour, linewidth=2, label=shortened(label, 30, 1)) for label, colour in relations.items()
    ]
    place = {"loc": "upper left", "fontsize": 9, "frameon": False, "alignment": "left"}
    if handles:
        first = axis.legend(handles=handles, title="best type", bbox_to_anchor=(1.0, 1.0), **place)
        axis.add_artist(first)
    height = 1.0 - 0.036 * (len(handles) + 2) if handles else 1.0
    axis.legend(handles=lines, title="relation", bbox_to_anchor=(1.0, height), **place)
