"""What a graph is made of, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from .hetero_data import relation_types

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
