"""A HeteroData in a folder."""

import json

import numpy as np
import pytest
import torch

from modeling_mgvmoe.graph.hetero_data import build_hetero_data
from modeling_mgvmoe.graph.hetero_data_files import load_hetero_data, save_hetero_data


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
