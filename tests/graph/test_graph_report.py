"""The image of a graph: names and components that do not lie over each other, however many there are."""

import random
from itertools import combinations

import networkx
import numpy as np
import pytest
import torch
from PIL import Image

from modeling_mgvmoe.evaluation import plots as fonts
from modeling_mgvmoe.graph.graph_report import bounds, draw_graph, place_nodes

NAMES = ("Kelo", "Mura of Dunvik", "the Harbour Museum\nof Torvek", "Quin", "Old Town Festival")


def trees(*sizes, seed=0):
    """A graph of components of these sizes."""
    chance, graph = random.Random(seed), networkx.Graph()
    for size in sizes:
        first = len(graph)
        graph.add_node(first)
        graph.add_edges_from((place, chance.randrange(first, place)) for place in range(first + 1, first + size))
    return graph


def overlap(one, other):
    """Whether two areas (left, bottom, right, top) overlap by more than rounding."""
    return all(min(one[k + 2], other[k + 2]) - max(one[k], other[k]) > 1e-6 for k in (0, 1))


@pytest.mark.parametrize("sizes", [(3,), (2, 2, 2), (7, 4, 2, 2), (60,), (30, 12, 8, 4, 2, 2, 2)], ids=str)
def test_neither_names_nor_components_overlap(sizes):
    graph = trees(*sizes)
    boxes = {node: (0.2 + 0.1 * (node % 7), 0.2, 0.4 + 0.15 * (node % 3 == 0)) for node in graph}
    places = place_nodes(graph, boxes)
    assert set(places) == set(graph)
    areas = [bounds({node: places[node]}, boxes) for node in graph]
    assert not any(overlap(*pair) for pair in combinations(areas, 2))
    components = [
        bounds({node: places[node] for node in component}, boxes) for component in networkx.connected_components(graph)
    ]
    assert not any(overlap(*pair) for pair in combinations(components, 2))
    left, bottom, right, top = bounds(places, boxes)
    assert 0.2 < (right - left) / (top - bottom) < 6
    # Sized by what is in it: neither a wall nor a row.
    assert (right - left) * (top - bottom) < 40 * sum(2 * half * (up + down) for half, up, down in boxes.values())


def test_nodes_at_one_place_are_pushed_apart():
    star = networkx.star_graph(40)
    boxes = dict.fromkeys(star, (0.8, 0.2, 0.5))
    places = place_nodes(star, boxes)
    assert not any(overlap(*pair) for pair in combinations([bounds({n: places[n]}, boxes) for n in star], 2))


@pytest.fixture
def data():
    """Two components, one name that DejaVu Sans lacks, a relation in both directions."""
    hetero_data = pytest.importorskip("torch_geometric.data").HeteroData()
    names = ["Kelo", "Mura of Dunvik", "\u6885\u897f", "Quin", "Old $5^ Town"]
    hetero_data["entity"].text, hetero_data["entity"].num_nodes = np.array(names, dtype=object), len(names)
    hetero_data["entity_type"].name = np.array(["person"], dtype=object)
    store = hetero_data["entity", "has_type", "entity_type"]
    store.edge_index, store.edge_attr = torch.tensor([[0, 1], [0, 0]]), torch.ones(2, 1)
    store = hetero_data["entity", "greets", "entity"]
    store.edge_index = torch.tensor([[0, 1, 3], [1, 0, 4]])
    store.count, store.edge_attr = torch.ones(3, dtype=torch.long), torch.ones(3, 1)
    store = hetero_data["entity", "\u7236 of", "entity"]
    store.edge_index, store.count, store.edge_attr = torch.tensor([[1], [2]]), torch.ones(1), torch.ones(1, 1)
    return hetero_data


@pytest.mark.filterwarnings("error:Glyph")
def test_a_graph_is_drawn_without_boxes_in_place_of_characters(data, tmp_path, monkeypatch):
    monkeypatch.setattr(fonts, "_installed", tuple)
    assert draw_graph(data, tmp_path / "graph.png", title="\u6885") == 5
    assert draw_graph(data, tmp_path / "small.png", size=2) == 2
    with Image.open(tmp_path / "graph.png") as image, Image.open(tmp_path / "small.png") as small:
        assert small.height < image.height < 2000 and image.width < 2000
