"""The graph of `told_graph.py`."""

import pytest

from modeling_mgvmoe.graph.tables import GraphTables
from tests.support.graph_data import colours, extract_all, write_posts
from tests.support.told_graph import POSTS, told


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms")
    file = write_posts(folder / "posts.parquet", POSTS)
    extract_all(file, folder / "graph", told, features=colours, part_size=2)
    return GraphTables(folder / "graph")
