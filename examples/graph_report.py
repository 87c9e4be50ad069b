"""Describe an extracted graph in numbers and an image.

    python examples/graph_report.py --graph runs/graph --output_dir runs/graph_report

Writes graph_report.md, graph_report.json and graph.png, and prints the report.
"""

import argparse
import json
import os
import shlex
import sys
from collections import Counter
from itertools import islice

import networkx
import torch

from modeling_mgvmoe.cli.errors import one_line
from modeling_mgvmoe.data.flags import FlagParser
from modeling_mgvmoe.evaluation.report import drawing_style, markdown_table
from modeling_mgvmoe.graph.hetero_data import read_graph, relation_types
from modeling_mgvmoe.graph.tables import MERGING
from modeling_mgvmoe.inference.model_folder import check_output_folder

DEGREES = "Degrees and components are of entities that are related, in either direction, by any relation."
# Colour of what the legend has no room for: no type, and the ninth relation on.
OTHER = "#c9d1d8"


def entity_graph(data):
    """Entities and who is related to whom: undirected, without relations to oneself, each pair once."""
    graph = networkx.Graph()
    graph.add_nodes_from(range(data["entity"].num_nodes))
    for kind in relation_types(data):
        graph.add_edges_from((head, tail) for head, tail in data[kind].edge_index.t().tolist() if head != tail)
    return graph


def best_types(data):
    """The type of each entity with the highest mean score over its mentions; `None` without one."""
    store, names = data["entity", "has_type", "entity_type"], data["entity_type"].name
    best = [(0.0, None)] * data["entity"].num_nodes
    for entity, kind, score in zip(*store.edge_index.tolist(), store.edge_attr.flatten().tolist(), strict=True):
        if score > best[entity][0]:
            best[entity] = score, names[kind]
    return [name for _, name in best]


def graph_statistics(data, top=10):
    """JSON values: numbers of nodes and edges, degrees, components, labels with scores, the best connected entities.

    Degrees and components are those of [`entity_graph`]: a degree is a number of other entities.

    Raises:
        ValueError: there is no entity.
    """
    if not data["entity"].num_nodes:
        raise ValueError("graph: there is nothing to report, for no post has a mention")
    graph, types = entity_graph(data), best_types(data)
    degrees = torch.tensor([degree for _, degree in sorted(graph.degree())], dtype=torch.float)
    sizes = sorted(map(len, networkx.connected_components(graph)), reverse=True)
    kinds, scores = data["mention"].y, data["mention"].score
    names, counted = data["entity_type"].name, Counter(kinds[kinds >= 0].tolist())
    related = [kind for kind in data.edge_types if kind[0] == kind[2] == "mention"]
    return {
        "nodes": {kind: data[kind].num_nodes for kind in data.node_types},
        "edges": {" / ".join(kind): data[kind].edge_index.shape[1] for kind in data.edge_types},
        "entities": {
            "mentions per entity": float(data["entity"].num_mentions.float().mean()),
            "related pairs": graph.number_of_edges(),
            "without a relation": int((degrees == 0).sum()),
            "mean degree": float(degrees.mean()),
            "median degree": float(degrees.median()),
            "greatest degree": int(degrees.max()),
            "components": len(sizes),
            "components of two or more": sum(size > 1 for size in sizes),
            "share in the largest": sizes[0] / len(degrees),
        },
        "types": [
            {"label": str(names[kind]), "count": count, "mean score": float(scores[kinds == kind].mean())}
            for kind, count in counted.most_common()
        ],
        "mentions of no type": int((kinds < 0).sum()),
        "relations": [
            {"label": kind[1], "count": len(data[kind].edge_attr), "mean score": float(data[kind].edge_attr.mean())}
            for kind in sorted(related, key=lambda kind: -len(data[kind].edge_attr))
        ],
        "best connected": [
            {"entity": data["entity"].text[node], "type": types[node], "degree": int(degrees[node]),
             "mentions": int(data["entity"].num_mentions[node])}
            for node in torch.argsort(degrees, descending=True, stable=True)[:top].tolist() if degrees[node] > 0
        ],
    }  # fmt: skip


def choose_part(graph, size):
    """At most `size` related entities: the best connected one and what is around it, then the next best."""
    chosen = {}
    for start in sorted(graph, key=lambda node: (-graph.degree(node), node)):
        if graph.degree(start) and start not in chosen and len(chosen) < size:
            chosen |= dict.fromkeys(islice(networkx.bfs_tree(graph, start), size - len(chosen)))
    return list(chosen)


def draw_graph(data, path, size=24, title=None):
    """Write a PNG: entities by name, coloured by type, and one relation of each pair; say how many entities.

    It is the most frequent one, and of those the one with the highest mean score.

    Raises:
        ValueError: no two entities are related.
    """
    from matplotlib import color_sequences
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    whole, types = entity_graph(data), best_types(data)
    nodes = set(choose_part(whole, size))
    if not nodes:
        raise ValueError("graph: there is nothing to draw, for no two entities are related")
    best = {}
    for kind in relation_types(data):
        store = data[kind]
        for (head, tail), *own in zip(
            store.edge_index.t().tolist(), store.count.tolist(), store.edge_attr.flatten().tolist(), strict=True
        ):
            if head != tail and {head, tail} <= nodes:
                pair = frozenset((head, tail))
                best[pair] = max(best.get(pair, ([0],)), (own, head, tail, kind[1]))
    graph = networkx.DiGraph()
    for _, head, tail, label in best.values():
        graph.add_edge(head, tail, label=label)
    labels = networkx.get_edge_attributes(graph, "label")
    type_colours = dict(
        zip(dict.fromkeys(filter(None, (types[node] for node in graph))), color_sequences["Set3"], strict=False)
    )
    edge_colours = dict(zip(dict.fromkeys(labels.values()), color_sequences["Dark2"], strict=False))
    parts = sorted(map(sorted, networkx.weakly_connected_components(graph)), key=len, reverse=True)
    # Each component has its own place: none lies over another.
    columns = min(2, len(parts))
    heights = [1.2 + 0.25 * len(part) for part in parts[::columns]]
    with drawing_style():
        figure = Figure(figsize=(9, sum(heights) + 1.2), layout="constrained")
        axes = list(figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights).flat)
        for axis in axes:
            axis.set_axis_off()
            axis.margins(x=0.2, y=0.15)
        for axis, part in zip(axes, parts, strict=False):
            own = graph.subgraph(part)
            networkx.draw_networkx(
                own,
                networkx.kamada_kawai_layout(own.to_undirected()),
                ax=axis,
                font_size=9,
                labels={node: str(data["entity"].text[node]) for node in part},
                node_size=600,
                node_color=[type_colours.get(types[node], OTHER) for node in own],
                edge_color=[edge_colours.get(labels[edge], OTHER) for edge in own.edges],
                width=1.8,
                connectionstyle="arc3,rad=0.08",
            )
        handles = [
            Line2D([], [], marker="o", ls="", color=own, label=kind) for kind, own in type_colours.items() if kind
        ]
        handles += [Line2D([], [], color=own, label=label) for label, own in edge_colours.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
        figure.suptitle(title or f"{len(graph)} of {len(whole):,} entities")
        figure.savefig(path, dpi=100)
    return len(graph)


def report_of(statistics):
    """The tables in Markdown."""
    cell = lambda value: f"{value:.3f}" if isinstance(value, float) else f"{value:,}"  # noqa: E731
    pairs = lambda own: [[name, cell(value)] for name, value in own.items()]  # noqa: E731
    labels = lambda rows: [[row["label"], cell(row["count"]), cell(row["mean score"])] for row in rows]  # noqa: E731
    none = statistics["mentions of no type"]
    tables = [
        markdown_table(["nodes", "number"], pairs(statistics["nodes"])),
        markdown_table(["entities", "number"], pairs(statistics["entities"])) + f"\n\n{DEGREES}",
        markdown_table(["type", "mentions", "mean score"],
                       labels(statistics["types"]) + ([["(no type)", cell(none), ""]] if none else [])),
        markdown_table(["relation", "pairs of mentions", "mean score"], labels(statistics["relations"])),
        markdown_table(["best connected", "type", "degree", "mentions"],
                       [[row["entity"], row["type"] or "(no type)", cell(row["degree"]), cell(row["mentions"])]
                        for row in statistics["best connected"]]),
    ]  # fmt: skip
    return "\n\n".join(tables)


def write_report(data, output_dir, title, size=24, command=""):
    """Write report, numbers and, if any two entities are related, the image; return the report."""
    os.makedirs(output_dir, exist_ok=True)
    statistics = graph_statistics(data)
    lines = [f"# {title}", *([f"`{command}`"] if command else []), report_of(statistics)]
    if statistics["entities"]["related pairs"]:
        shown = draw_graph(data, os.path.join(output_dir, "graph.png"), size)
        lines.append(f"![{shown} of the entities](graph.png)")
    report = "\n\n".join(lines) + "\n"
    with open(os.path.join(output_dir, "graph_report.md"), "w", encoding="utf-8") as file:
        file.write(report)
    with open(os.path.join(output_dir, "graph_report.json"), "w", encoding="utf-8") as file:
        json.dump({"statistics": statistics, "command": command}, file, indent=1, ensure_ascii=False)
    return report


@one_line()
def main(argv=None):
    """Write the report, and return it."""
    argv = sys.argv[1:] if argv is None else argv
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--graph", required=True, help="folder of examples/extract.py, or its hetero_data")
    parser.add_argument("--output_dir", default="runs/graph_report", help="default runs/graph_report")
    parser.add_argument("--merging", choices=MERGING, default="name", help="what mentions of one entity share")
    parser.add_argument("--entities", type=int, default=24, help="in the image (default 24)")
    flags = parser.parse_args(argv)
    if flags.entities < 2:
        parser.error(f"--entities must be at least 2, got {flags.entities}")
    try:
        check_output_folder("output_dir", flags.output_dir)
        data = read_graph(flags.graph, flags.merging)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    command = shlex.join(["python", "examples/graph_report.py", *argv])
    report = write_report(data, flags.output_dir, f"Graph of {flags.graph}", flags.entities, command)
    print(report)
    print(f"written to {flags.output_dir}")
    return report


if __name__ == "__main__":
    main()
