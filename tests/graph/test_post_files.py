"""Files of posts, read a few rows at a time from any place."""

import json
import os
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeling_mgvmoe.graph.post_files import JsonLinesPosts, ParquetPosts, PostFiles
from tests.support.graph_data import some_posts, write_posts


@pytest.mark.parametrize("row_group_size", [1, 7, 100])
def test_any_range_of_a_parquet_file_in_any_order(tmp_path, row_group_size, monkeypatch):
    monkeypatch.setattr("modeling_mgvmoe.graph.post_files.ROWS", 3)
    posts = some_posts(50)
    file = ParquetPosts(write_posts(tmp_path / "posts.parquet", posts, row_group_size))
    draw = random.Random(0)
    ranges = [(0, 50), (0, 1), (49, 50), (7, 14)]
    ranges += [tuple(sorted(draw.sample(range(51), 2))) for _ in range(40)]
    for start, end in ranges:
        rows = list(file.rows(start, end))
        assert [values for values, _ in rows] == posts[start:end]
    assert list(file.ids()) == [post["id"] for post in posts]


def test_rising_ranges_are_read_on_and_row_groups_without_any_are_skipped(tmp_path, monkeypatch):
    file = ParquetPosts(write_posts(tmp_path / "posts.parquet", some_posts(50), 10))
    opened = []
    original = pq.ParquetFile.iter_batches

    def watched(self, *arguments, **named):
        opened.append(named["row_groups"][0])
        return original(self, *arguments, **named)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    for start, end in ((0, 4), (4, 8), (9, 15), (16, 20), (41, 45)):
        assert len(list(file.rows(start, end))) == end - start
    # From the first group on, and once more where two groups are left out.
    assert opened == [0, 4]


def test_lines_of_json_from_any_place(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_mgvmoe.graph.post_files.STRIDE", 4)
    posts = [{"id": str(number), "text": "é" * number} for number in range(23)]
    path = tmp_path / "posts.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\n \n".join(json.dumps(one, ensure_ascii=False) for one in posts).encode())
    file = JsonLinesPosts(str(path))
    assert file.num_rows == 23
    for start in range(23):
        for end in (start + 1, 23):
            assert [values for values, _ in file.rows(start, end)] == posts[start:end]
    before = file.digest()
    path.write_bytes(path.read_bytes().replace("éé".encode(), b"ee", 1))
    assert JsonLinesPosts(str(path)).digest() != before


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"words": ["a"]}, "must have a column 'text', got words"),
        ({"text": [1]}, "text must hold strings, got int64"),
        ({"text": ["a"], "id": [1.5]}, "id must hold strings or integers, got double"),
        ({"text": ["a"], "image": [[1]]}, "image must hold paths, bytes or structs"),
        ({"text": ["a"], "image_text": [[1]]}, "image_text must hold strings or lists of strings"),
        ({"text": ["a"], "mentions": [[1]]}, r"mentions must hold lists of \[start, end\)"),
        ({"text": ["a"], "mentions": [[{"start": 0}]]}, "mentions must hold"),
    ],
)
def test_columns_of_other_types_are_refused(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "posts.parquet")
    with pytest.raises(ValueError, match=message):
        ParquetPosts(str(tmp_path / "posts.parquet"))


@pytest.mark.parametrize(
    "columns",
    [
        {"text": ["a"], "mentions": [[[0, 1]]]},
        {"text": ["a"], "mentions": [[{"start": 0, "end": 1}]]},
        {"text": ["a"], "mentions": [[]]},
        {"text": pa.array(["a"]).dictionary_encode(), "id": [5], "mentions": [None]},
        {"text": ["a"], "image": [{"bytes": b"x", "path": "y"}]},
        {"text": ["a"], "image": ["y.png"]},
        {"text": ["a"], "image_text": ["b"]},
        {"text": ["a"], "image_text": [["b", None]]},
        {"text": ["a"], "image_text": pa.array([None])},
        {"text": ["a"], "image": [b"x"]},
        {"text": ["a"], "image": pa.array([None])},
    ],
)
def test_columns_of_these_types_are_read(tmp_path, columns):
    pq.write_table(pa.table(columns), tmp_path / "posts.parquet")
    file = ParquetPosts(str(tmp_path / "posts.parquet"))
    ((values, error),) = file.rows(0, 1)
    assert values["text"] == "a" and error is None
    assert file.has_mentions == ("mentions" in columns)


def test_a_string_that_is_no_text_costs_its_own_row(tmp_path):
    texts = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(np.array([0, 1, 3, 4], dtype=np.int32)), pa.py_buffer(b"a\xff\xfeb")]
    )
    pq.write_table(pa.table({"text": texts, "id": ["1", "2", "3"]}), tmp_path / "posts.parquet")
    file = ParquetPosts(str(tmp_path / "posts.parquet"))
    rows = list(file.rows(0, 3))
    assert [values and values["text"] for values, _ in rows] == ["a", None, "b"]
    assert "strings must be in UTF-8" in rows[1][1]


def test_files_that_are_none(tmp_path):
    (tmp_path / "posts.parquet").write_bytes(b"no Parquet")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        PostFiles([tmp_path / "posts.parquet"])
    (tmp_path / "posts.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="there must be at least one post, got none"):
        PostFiles([tmp_path / "posts.jsonl"])


def test_an_empty_file_beside_full_ones(tmp_path):
    posts = some_posts(3, drawings=False)
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, posts)))
    files = PostFiles([tmp_path])
    assert list(files.ids()) == [(number, post["id"]) for number, post in enumerate(posts)]
    assert [row.values for row in files.rows(0, 3)] == posts


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted as Linux lists them")
def test_of_many_files_one_is_open(tmp_path):
    posts = some_posts(40, drawings=False)
    for number in range(20):
        write_posts(tmp_path / f"{number:02}.parquet", posts[2 * number : 2 * number + 2])

    def opened():
        links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
        return sum(os.readlink(link).startswith(str(tmp_path)) for link in links if os.path.lexists(link))

    files = PostFiles([tmp_path])
    # Every second row of a file is left unread, so that none comes to its end.
    for row in range(0, 40, 2):
        assert [one.values["id"] for one in files.rows(row, row + 1)] == [posts[row]["id"]]
        assert opened() == 1
    assert [one for _, one in files.ids()] == [post["id"] for post in posts]
    assert [one.values for one in files.rows(0, 40)] == [post | {"image": None} for post in posts]
    assert opened() == 0


def test_a_changed_value_changes_the_digest(tmp_path):
    path = tmp_path / "posts.parquet"
    table = pa.table({"text": ["a boat", "a bird", "a cake"]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
    before, content = ParquetPosts(str(path)).digest(), path.read_bytes()
    # Neither size nor footer shows it.
    path.write_bytes(content.replace(b"a bird", b"a bear"))
    assert [values["text"] for values, _ in ParquetPosts(str(path)).rows(0, 3)] == ["a boat", "a bear", "a cake"]
    assert ParquetPosts(str(path)).digest() != before


def test_a_graph_below_the_input_is_no_input(tmp_path):
    write_posts(tmp_path / "posts.parquet", some_posts(4))
    (tmp_path / "graph" / "_run").mkdir(parents=True)
    write_posts(tmp_path / "graph" / "more.parquet", some_posts(4))
    assert PostFiles([tmp_path]).names == [os.path.join("graph", "more.parquet"), "posts.parquet"]
    (tmp_path / "graph" / "_run" / "run.json").write_text("{}")
    assert PostFiles([tmp_path]).names == ["posts.parquet"]


def test_damage_in_the_middle_names_the_file(tmp_path):
    path = tmp_path / "posts.parquet"
    pq.write_table(pa.table({"text": [str(number) * 50 for number in range(2000)]}), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[200:1200] = bytes(1000)
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="posts.parquet is damaged"):
        list(ParquetPosts(str(path)).rows(0, 2000))
