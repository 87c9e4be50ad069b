"""Statistics, image and report of a graph, and the example that predicts its relations."""

import json

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from examples import link_prediction
from examples.graph_report import (
    best_types,
    choose_part,
    draw_graph,
    entity_graph,
    graph_statistics,
    write_report,
)
from modeling_mgvmoe.graph.hetero_data import read_graph, save_hetero_data


def strings(values):
    return np.array(list(values), dtype=object)


def graph_of(people, statements, types, names=("greets", "chases")):
    """A graph in which every statement (head, relation, tail) is a post of its own, with two mentions.

    Args:
        people: how many.
        statements: triples of numbers.
        types: of each person a number; a mention has it with the score 1.
        names: of the relations.
    """
    data, posts = HeteroData(), len(statements)
    ends = torch.tensor([(head, tail) for head, _, tail in statements])
    relations = torch.tensor([relation for _, relation, _ in statements])
    size = max(types) + 1
    data["post"].num_nodes = posts
    data["mention"].num_nodes, data["mention"].score = 2 * posts, torch.ones(2 * posts)
    data["mention"].y = torch.tensor(types)[ends.flatten()]
    data["entity"].num_nodes, data["entity"].text = people, strings(f"person {number}" for number in range(people))
    data["entity"].name = data["entity"].text
    data["entity"].num_mentions = torch.bincount(ends.flatten(), minlength=people)
    data["entity_type"].num_nodes, data["entity_type"].name = size, strings(f"type {number}" for number in range(size))
    everyone = torch.arange(2 * posts)
    data["mention", "in", "post"].edge_index = torch.stack([everyone, everyone // 2])
    data["mention", "refers_to", "entity"].edge_index = torch.stack([everyone, ends.flatten()])
    data["mention", "scored", "entity_type"].edge_index = torch.stack([everyone, data["mention"].y])
    data["mention", "scored", "entity_type"].edge_attr = torch.ones(2 * posts, 1)
    kinds = torch.arange(people)[data["entity"].num_mentions > 0]
    store = data["entity", "has_type", "entity_type"]
    store.edge_index = torch.stack([kinds, torch.tensor(types)[kinds]])
    store.edge_attr, store.count = torch.ones(len(kinds), 1), data["entity"].num_mentions[kinds]
    for number, name in enumerate(names):
        own = relations == number
        if own.any():
            data["mention", name, "mention"].edge_index = torch.stack(
                [2 * own.nonzero().flatten(), 2 * own.nonzero().flatten() + 1]
            )
            data["mention", name, "mention"].edge_attr = torch.full((int(own.sum()), 1), 0.5)
            pairs, counts = ends[own].t().unique(dim=1, return_counts=True)
            data["entity", name, "entity"].edge_index, data["entity", name, "entity"].count = pairs, counts
            data["entity", name, "entity"].edge_attr = torch.full((pairs.shape[1], 1), 0.5)
    return data


def random_graph(people=40, pairs=150, seed=0):
    """Every pair is stated in both directions, by both relations, and the first direction twice."""
    draw = np.random.RandomState(seed)
    chosen = {tuple(sorted(draw.choice(people, 2, replace=False).tolist())) for _ in range(pairs)}
    statements = [s for a, b in sorted(chosen) for s in ((a, 0, b), (a, 0, b), (b, 1, a))]
    return graph_of(people, statements, draw.randint(3, size=people).tolist())


def test_statistics_by_hand():
    # 0-1-2 and 3-4 are related, 5 is alone; 0 also talks to itself.
    data = graph_of(6, [(0, 0, 1), (1, 1, 0), (1, 0, 2), (3, 1, 4), (0, 0, 0)], [0, 0, 1, 1, 1, 1])
    found = graph_statistics(data, top=2)
    assert found["nodes"] == {"post": 5, "mention": 10, "entity": 6, "entity_type": 2}
    assert found["entities"] == {
        "mentions per entity": pytest.approx(10 / 6), "related pairs": 3, "without a relation": 1,
        "mean degree": 1.0, "median degree": 1.0, "greatest degree": 2, "components": 3,
        "components of two or more": 2, "share in the largest": 0.5,
    }  # fmt: skip
    assert found["relations"] == [
        {"label": "greets", "count": 3, "mean score": 0.5},
        {"label": "chases", "count": 2, "mean score": 0.5},
    ]
    assert found["types"][0] == {"label": "type 0", "count": 7, "mean score": 1.0}
    assert [(row["entity"], row["degree"]) for row in found["best connected"]] == [("person 1", 2), ("person 0", 1)]
    assert best_types(data) == ["type 0", "type 0", "type 1", "type 1", "type 1", None]


def test_the_part_that_is_shown_is_a_region():
    graph = entity_graph(random_graph(40, 200))
    chosen = choose_part(graph, 12)
    assert len(chosen) == 12 and chosen[0] == max(graph, key=lambda node: graph.degree(node))
    import networkx

    assert networkx.is_connected(graph.subgraph(chosen))
    assert len(choose_part(graph, 1000)) == 40


def test_a_report_is_written(tmp_path):
    report = write_report(random_graph(40, 200), str(tmp_path), "A graph", command="this command")
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "graph_report.md").read_text(encoding="utf-8") == report
    for line in ("# A graph", "| entity      |     40 |", "`this command`"):
        assert line in report
    numbers = json.loads((tmp_path / "graph_report.json").read_text(encoding="utf-8"))
    assert numbers["statistics"]["nodes"]["entity"] == 40


def test_colours_are_those_of_types_and_relations(tmp_path, monkeypatch):
    import networkx
    from matplotlib import color_sequences

    drawn = []
    monkeypatch.setattr(networkx, "draw_networkx", lambda graph, *_, **given: drawn.append((graph, given)))
    # The second person comes before the first one.
    data = graph_of(6, [(2, 0, 1), (3, 0, 1), (5, 1, 4)], [0, 2, 1, 1, 1, 0])
    draw_graph(data, tmp_path / "graph.png")
    types, colours = best_types(data), {}
    for graph, given in drawn:
        for node, colour in zip(graph, given["node_color"], strict=True):
            assert colours.setdefault(types[node], colour) == colour
        for edge, colour in zip(graph.edges, given["edge_color"], strict=True):
            assert colours.setdefault(graph.edges[edge]["label"], colour) == colour
    assert len(drawn) == 2 and len(set(colours.values())) == len(colours) == 5
    assert set(colours.values()) <= {*color_sequences["Set3"], *color_sequences["Dark2"]}


def test_the_example_predicts_relations_better_than_chance(tmp_path, capsys):
    # Everybody greets the same four people: which tail is right can be learned.
    save_hetero_data(graph_of(24, [(a, 0, b) for a in range(4, 24) for b in range(4)], [0] * 24), str(tmp_path / "g"))
    _, reciprocal, _ = link_prediction.main(["--graph", str(tmp_path / "g"), "--epochs", "100"])
    assert reciprocal > 1.2 * sum(1 / place for place in range(1, 25)) / 24
    assert "8 of 80 relations held out, 24 entities" in capsys.readouterr().out
    pairs = torch.tensor([[0, 1, 2, 3, 1], [1, 0, 3, 2, 4]])
    for seed in range(5):
        held = link_prediction.hold_out(*pairs, seed, share=0.3)
        # Both directions of a pair are on one side.
        assert held[0] == held[1] and held[2] == held[3] and held.any()


def test_nothing_to_draw_or_to_read(tmp_path):
    with pytest.raises(ValueError, match="no two entities are related"):
        draw_graph(graph_of(2, [(0, 0, 0)], [0, 0]), tmp_path / "graph.png")
    nobody = HeteroData()
    nobody["entity"].num_nodes = 0
    with pytest.raises(ValueError, match="graph: there is nothing to report"):
        write_report(nobody, str(tmp_path), "A graph")
    with pytest.raises(FileNotFoundError, match="holds no extracted graph"):
        read_graph(str(tmp_path))
