"""A finished graph, read part by part; also as version 0.1 wrote it."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeling_mgvmoe.graph.tables import GraphTables, entity_key, normalised_name
from tests.support.told_graph import POSTS, told


def test_posts_are_what_the_extractor_gave(graph):
    found = [post for part in graph.parts for post in graph.posts(part)]
    assert [(post["id"], post["row"], post["text"]) for post in found] == [
        (post["id"], row, post["text"]) for row, post in enumerate(POSTS)
    ]
    for post, expected in zip(found, told(POSTS), strict=True):
        assert post["mentions"] == expected["mentions"] and post["relations"] == expected["relations"]


def test_columns_of_draws_are_left_out(graph, tmp_path):
    """Version 0.1 had them in every table."""
    folder = shutil.copytree(graph.folder, tmp_path / "graph")
    for path in (*(folder / "mentions").glob("*.parquet"), *(folder / "relations").glob("*.parquet")):
        table = pq.read_table(path)
        for name in ("deviation", "mutual_information"):
            table = table.append_column(name, pa.array([0.5] * len(table), pa.float32()))
        pq.write_table(table, path)
    old = GraphTables(folder)
    assert [list(old.posts(part)) for part in old.parts] == [list(graph.posts(part)) for part in graph.parts]


def test_columns_that_version_0_1_called_otherwise(graph, tmp_path):
    folder = shutil.copytree(graph.folder, tmp_path / "graph")
    old = {"has_image": "has_picture", "image_error": "picture_error"}
    for path in (folder / "posts").glob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.rename_columns([old.get(name, name) for name in table.column_names]), path)
    found = GraphTables(folder)
    assert [found.table("posts", part) for part in found.parts] == [graph.table("posts", part) for part in graph.parts]


def test_what_is_no_finished_graph_is_refused(graph, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no extracted graph"):
        GraphTables(tmp_path)
    folder = shutil.copytree(graph.folder, tmp_path / "graph")
    (folder / "summary.json").unlink()
    with pytest.raises(FileNotFoundError, match="summary.json"):
        GraphTables(folder)


@pytest.mark.parametrize(
    ("mention", "name"),
    [
        ("Kelo", "kelo"),
        ("@Kelo_Mar's ", "kelo_mar"),
        ("“Dunvik   UNITED”,", "dunvik united"),
        ("#kelo", "kelo"),
        ("the Kelos’", "the kelos"),
        ("U.S.", "u.s"),
        ("ＫＥＬＯ ①", "kelo 1"),
        ("Straße", "strasse"),
        ("C++", "c"),
        ("Kelo ⚽\ufe0f", "kelo"),
        ("\u200bKe\u00adlo\u200e's", "kelo"),
        ("\u200b", "\u200b"),
        ("!!", "!!"),
        ("'s", "s"),
    ],
)
def test_names_are_normalised(mention, name):
    assert normalised_name(mention) == name


def test_a_normalised_name_stays_as_it_is():
    for mention in ("@Kelo_Mar's ", "“Dunvik   UNITED”,", "#x's'", "a's's", "(b)'"):
        once = normalised_name(mention)
        assert normalised_name(once) == once


def test_types_keep_entities_apart_where_asked():
    assert entity_key("Paris", "city", "name") == entity_key("paris", "person", "name")
    assert entity_key("Paris", "city", "name_and_type") != entity_key("paris", "person", "name_and_type")
    with pytest.raises(ValueError, match="merging must be one of 'name', 'name_and_type', got 'id'"):
        entity_key("Paris", None, "id")
