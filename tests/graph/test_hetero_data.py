"""A graph as HeteroData, with hand-worked numbers."""

import json

import numpy as np
import pytest
import torch

from modeling_mgvmoe.graph.hetero_data import build_hetero_data, load_hetero_data, relation_types, save_hetero_data
from modeling_mgvmoe.graph.tables import GraphTables
from modeling_mgvmoe.graph.writers import write_n_triples
from tests.support.graph_data import LABELS, extract_all, write_posts
from tests.support.told_graph import POSTS, told
from tests.support.triples import parsed


def edges(data, *kind):
    store = data[kind]
    names = [data[kind[0]].name if "name" in data[kind[0]] else None, data[kind[2]].name]
    ends = [
        tuple(number if own is None else own[number] for own, number in zip(names, pair, strict=True))
        for pair in store.edge_index.t().tolist()
    ]
    return dict(zip(ends, store.edge_attr.flatten().tolist(), strict=True))


def test_hetero_data_by_hand(graph):
    data = build_hetero_data(graph)
    data.validate(raise_on_error=True)
    assert data["post"].id.tolist() == ["a b/1", "..", "3"] and data["post"].has_image.tolist() == [
        True,
        False,
        False,
    ]
    assert data["post"].x.shape == (3, 3) and not data["post"].x[1:].any() and data["post"].x[0].all()
    assert data["mention"].text.tolist() == ["Kelo", "Mura", "KELO's", "Mura"]
    assert data["entity_type"].name.tolist() == ["boat", "bird", "cake"]  # the candidates, also those that nothing is
    assert data["mention"].y.tolist() == [0, 1, 1, -1]
    assert data["entity"].name.tolist() == ["kelo", "mura"] and data["entity"].num_mentions.tolist() == [2, 2]
    assert data["entity"].text[1] == "Mura"
    assert data["mention", "in", "post"].edge_index.tolist() == [[0, 1, 2, 3], [0, 0, 1, 1]]
    assert data["mention", "refers_to", "entity"].edge_index.tolist() == [[0, 1, 2, 3], [0, 1, 0, 1]]
    assert data["mention", "scored", "entity_type"].edge_index.shape == (2, 8)
    # Kelo: boat (0.75 + 0.25) / 2, bird (0.25 + 0.75) / 2. Mura: bird 0.5, of the one mention that is of a type.
    assert edges(data, "entity", "has_type", "entity_type") == {
        ("kelo", "boat"): 0.5, ("kelo", "bird"): 0.5, ("mura", "bird"): 0.5
    }  # fmt: skip
    assert data["entity", "has_type", "entity_type"].count.tolist() == [1, 1, 1]
    assert data["mention", "greets", "mention"].edge_index.tolist() == [[0, 2], [1, 3]]
    assert edges(data, "entity", "greets", "entity") == {("kelo", "mura"): 0.75}  # (0.5 + 1.0) / 2
    assert data["entity", "greets", "entity"].count.tolist() == [2]
    assert edges(data, "entity", "chases", "entity") == {("mura", "kelo"): 0.625}
    assert [kind[1] for kind in relation_types(data)] == ["greets", "chases"]


def test_a_score_that_top_k_cut_counts_for_nothing(tmp_path):
    def best_only(posts):
        answers = told(posts)
        for mention in (mention for answer in answers for mention in answer["mentions"]):
            mention["scores"] = mention["scores"][:1]
        return answers

    extract_all(write_posts(tmp_path / "posts.parquet", POSTS), tmp_path / "graph", best_only)
    data = build_hetero_data(GraphTables(tmp_path / "graph"))
    # Kelo was ranked as a boat once and as a bird once, each time with 0.75.
    assert edges(data, "entity", "has_type", "entity_type") == {
        ("kelo", "boat"): 0.75, ("kelo", "bird"): 0.75, ("mura", "bird"): 0.5
    }  # fmt: skip


def test_hetero_data_by_name_and_type(graph):
    data = build_hetero_data(graph, "name_and_type")
    assert data["entity"].name.tolist() == ["kelo (boat)", "mura (bird)", "kelo (bird)", "mura"]
    assert edges(data, "entity", "greets", "entity") == {
        ("kelo (boat)", "mura (bird)"): 0.5,
        ("kelo (bird)", "mura"): 1.0,
    }


def test_torch_geometric_works_on_it(graph):
    from torch_geometric.transforms import RandomLinkSplit, ToUndirected

    data = build_hetero_data(graph)
    undirected = ToUndirected()(data)
    assert ("entity_type", "rev_has_type", "entity") in undirected.edge_types
    flat = data.to_homogeneous(node_attrs=[], edge_attrs=[])
    assert flat.num_nodes == 3 + 4 + 2 + 3 and flat.num_edges == 4 + 4 + 8 + 3 + 2 + 1 + 1 + 1
    parts = RandomLinkSplit(num_val=0.25, num_test=0.25, edge_types=[("mention", "refers_to", "entity")])(data)
    assert len(parts) == 3
    kept = data.subgraph({"mention": torch.tensor([0, 1])})
    assert kept["mention"].num_nodes == 2 and kept["mention"].text.tolist() == ["Kelo", "Mura"]


def test_graph_networks_take_every_node_type(graph):
    """A `ModuleDict` refuses a name that torch modules use themselves, as "type" is."""
    from torch_geometric.nn import SAGEConv, to_hetero
    from torch_geometric.transforms import ToUndirected

    data = ToUndirected()(build_hetero_data(graph))
    assert set(torch.nn.ModuleDict({kind: torch.nn.Identity() for kind in data.node_types})) == {
        "post", "mention", "entity", "entity_type",
    }  # fmt: skip

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = SAGEConv((-1, -1), 4)

        def forward(self, x, edge_index):
            return self.conv(x, edge_index).relu()

    network = to_hetero(Network(), data.metadata())
    found = network({kind: torch.ones(data[kind].num_nodes, 3) for kind in data.node_types}, data.edge_index_dict)
    assert {kind: tuple(own.shape) for kind, own in found.items()} == {
        kind: (data[kind].num_nodes, 4) for kind in data.node_types
    }


def test_mentions_without_types_and_posts_without_relations(tmp_path):
    """As when only relations, or nothing, was asked for."""

    def untyped(posts):
        return [
            {
                "mentions": [{"start": s, "end": e, "text": p["text"][s:e]} for s, e in p["mentions"]],
                "relations": [],
            }
            for p in posts
        ]

    labels = {"labels": {**LABELS["labels"], "typing": []}}
    extract_all(write_posts(tmp_path / "posts.parquet", POSTS), tmp_path / "graph", untyped, labels)
    graph = GraphTables(tmp_path / "graph")
    data = build_hetero_data(graph)
    data.validate(raise_on_error=True)
    assert data["mention"].y.tolist() == [-1] * 4 and data["entity_type"].num_nodes == 0 and not relation_types(data)
    assert len(parsed(write_n_triples(graph))) > 20
    (part,) = graph.parts
    assert [set(post["mentions"][0]) for post in graph.posts(part) if post["mentions"]] == [
        {"start", "end", "text"}
    ] * 2


@pytest.fixture
def saved(graph, tmp_path):
    data = build_hetero_data(graph)
    return data, save_hetero_data(data, tmp_path / "hetero_data")


def test_saved_and_loaded_it_is_the_same(saved):
    data, folder = saved
    loaded = load_hetero_data(folder)
    assert loaded.node_types == data.node_types and loaded.edge_types == data.edge_types
    for one, other in zip(
        (*data.node_stores, *data.edge_stores), (*loaded.node_stores, *loaded.edge_stores), strict=True
    ):
        assert set(one.keys()) == set(other.keys())
        for name, value in one.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, other[name]) and value.dtype == other[name].dtype
            else:
                assert type(value) is type(other[name]) and bool(np.all(value == other[name]))


def test_a_folder_of_version_1_is_read_under_the_names_of_today(saved, tmp_path):
    data, folder = saved
    path = tmp_path / "hetero_data" / "graph.json"
    structure = json.loads(path.read_text())
    assert structure["version"] == 2
    old = json.dumps({**structure, "version": 1}).replace('"entity_type"', '"type"')
    assert old.count('["mention", "scored", "type"]') == old.count('["entity", "has_type", "type"]') == 1
    path.write_text(old)
    loaded = load_hetero_data(folder)
    assert loaded.node_types == data.node_types and loaded.edge_types == data.edge_types
    assert loaded["entity_type"].name.tolist() == data["entity_type"].name.tolist()


def test_what_is_no_graph_is_refused(saved, tmp_path):
    _, folder = saved
    with pytest.raises(FileNotFoundError, match=r"must hold graph.json and graph.safetensors"):
        load_hetero_data(tmp_path)
    structure = json.loads((tmp_path / "hetero_data" / "graph.json").read_text())
    path = tmp_path / "hetero_data" / "graph.json"
    path.write_text(json.dumps({**structure, "version": 3}))
    with pytest.raises(ValueError, match="version must be 1 or 2, got 3"):
        load_hetero_data(folder)
    path.write_text(json.dumps(structure).replace("0.row", "0.line"))
    with pytest.raises(ValueError, match="lacks '0.line'"):
        load_hetero_data(folder)
    path.write_text(json.dumps(structure))
    tensors = tmp_path / "hetero_data" / "graph.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"graph.safetensors cannot be read"):
        load_hetero_data(folder)
