"""Any number of posts into tables: nothing lost, nothing doubled, whatever happens on the way."""

import json
import os
import signal
from collections import Counter

import pyarrow.parquet as pq
import pytest

from modeling_mgvmoe.data import atomic_io as whole_file_module
from modeling_mgvmoe.graph import runner as bulk
from modeling_mgvmoe.graph.post_files import PostFiles
from modeling_mgvmoe.graph.runner import BulkArguments, answers_of
from modeling_mgvmoe.graph.shards import Part, RowError
from modeling_mgvmoe.graph.tables import GraphTables
from modeling_mgvmoe.graph.writers import write_json_lines
from tests.support.graph_data import LABELS, colours, contents, extract_all, png, some_posts, stand_in, write_posts

COUNT = 43


class Killed(BaseException):
    """Instead of a kill."""


@pytest.fixture(scope="module")
def posts_file(tmp_path_factory):
    return write_posts(tmp_path_factory.mktemp("input") / "posts.parquet", some_posts(COUNT))


@pytest.fixture(scope="module")
def undisturbed(posts_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "graph"
    result = extract_all(posts_file, folder)
    assert result.summary["posts"] == COUNT
    return folder


def read(folder, name):
    return pq.read_table(os.path.join(folder, name)).to_pylist()


def test_the_tables_hold_what_the_extractor_gave(undisturbed, posts_file):
    plain = [{**post, "mentions": [tuple(span) for span in post["mentions"]]} for post in some_posts(COUNT)]
    expected = stand_in(plain)
    graph = GraphTables(undisturbed)
    found = [post for part in graph.parts for post in graph.posts(part)]
    assert [post.pop("row") for post in found] == list(range(COUNT))
    for post, wanted in zip(found, expected, strict=True):
        for name in ("mentions", "relations"):
            for one, other in zip(post[name], wanted[name], strict=True):
                for key in ("label", "start", "end", "text", "head", "tail"):
                    assert one.get(key) == other.get(key)
                assert one["score"] == pytest.approx(other["score"], rel=1e-6)
                assert [s["label"] for s in one["scores"]] == [s["label"] for s in other["scores"]]
        assert (post["id"], post["text"]) == (wanted["id"], wanted["text"])
    labels = Counter(mention["label"] for post in found for mention in post["mentions"])
    assert labels[None] and len(labels) == 4  # or the test says little
    assert graph.summary["mentions"] == labels.total() and graph.summary["mentions rejected"] == labels[None]
    assert graph.summary["relations"] == sum(len(post["relations"]) for post in found) > 20
    assert graph.summary["posts with an image"] == 9  # 0, 5, ..., 40
    assert read(undisturbed, "errors") == []


def test_a_part_is_a_file_in_each_table_that_says_its_rows(undisturbed):
    names = sorted(os.listdir(undisturbed / "posts"))
    assert (
        names[0] == "rows-000000000000-000000000010.parquet" and names[-1] == "rows-000000000040-000000000043.parquet"
    )
    assert all(sorted(os.listdir(undisturbed / name)) == names for name in ("mentions", "relations", "errors"))
    assert pq.ParquetFile(undisturbed / "posts" / names[0]).metadata.num_row_groups == 1


@pytest.mark.parametrize("number", [2, 3])
def test_shards_make_the_same_graph_in_any_order(undisturbed, posts_file, tmp_path, number):
    results = [
        extract_all(posts_file, tmp_path / "graph", shard_index=index, num_shards=number)
        for index in reversed(range(number))
    ]
    assert [result.summary is not None for result in results] == [False] * (number - 1) + [True]
    assert sum(result.posts for result in results) == COUNT
    assert contents(tmp_path / "graph") == contents(undisturbed)


def test_killed_at_any_file_operation_and_started_again_it_ends_with_the_same_bytes(tmp_path, monkeypatch):
    file = write_posts(tmp_path / "posts.parquet", some_posts(9))
    extract_all(file, tmp_path / "undisturbed", part_size=5)
    expected, calls = contents(tmp_path / "undisturbed"), 0

    def counting(original, limit):
        def operation(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls == limit:
                raise Killed
            return original(*arguments, **named)

        return operation

    def extract(folder, limit):
        nonlocal calls
        calls = 0
        with monkeypatch.context() as patch:
            # A kill tidies nothing up.
            patch.setattr(whole_file_module.os, "remove", lambda path: None)
            for name in ("replace", "makedirs"):
                patch.setattr(whole_file_module.os, name, counting(getattr(os, name), limit))
            patch.setattr(whole_file_module, "fsync", counting(whole_file_module.fsync, limit))
            extract_all(file, folder, part_size=5)

    extract(tmp_path / "count", 0)
    operations = calls
    # Two parts of four tables, four notes; each is brought to the disk, renamed, and its folder brought to the disk.
    assert operations >= 3 * (2 * 4 + 4)
    for limit in range(1, operations + 1):
        folder = tmp_path / str(limit)
        with pytest.raises(Killed):
            extract(folder, limit)
        # As if by another process that is no more: this one is alive.
        for path in folder.rglob("*.partial"):
            name = path.name.split(".")
            path.rename(path.with_name(".".join([*name[:-2], "999999999", "partial"])))
        assert extract_all(file, folder, part_size=5).summary["posts"] == 9
        assert contents(folder) == expected, limit


def test_a_signal_ends_the_run_after_the_batch_and_it_goes_on(undisturbed, posts_file, tmp_path):
    seen = []

    def told_to_stop(posts):
        seen.append(len(posts))
        if len(seen) == 5:
            signal.raise_signal(signal.SIGTERM)
        return stand_in(posts)

    before = signal.getsignal(signal.SIGTERM)
    result = extract_all(posts_file, tmp_path / "graph", told_to_stop)
    # Ten rows are batches of 4, 4 and 2: the fifth batch is in the second part, which is not whole.
    assert (result.stopped, result.summary, seen) == (signal.SIGTERM, None, [4, 4, 2, 4, 4])
    assert os.listdir(tmp_path / "graph" / "posts") == ["rows-000000000000-000000000010.parquet"]
    assert signal.getsignal(signal.SIGTERM) == before
    with pytest.raises(FileNotFoundError, match=r"summary.json does not exist: the extraction is not finished"):
        GraphTables(tmp_path / "graph")
    result = extract_all(posts_file, tmp_path / "graph")
    assert result.posts == COUNT - 10
    assert contents(tmp_path / "graph") == contents(undisturbed)


def test_a_finished_graph_is_left_as_it_is(undisturbed, posts_file):
    def nobody(posts):
        raise AssertionError("everything is done")

    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("rows-*")}
    result = extract_all(posts_file, undisturbed, nobody)
    assert result.posts == 0 and result.summary["posts"] == COUNT
    assert before == {path: path.stat().st_mtime_ns for path in undisturbed.rglob("rows-*")}


def test_another_run_is_refused_and_says_what_differs(undisturbed, posts_file, tmp_path):
    other = {"labels": {**LABELS["labels"], "typing": ["boat"]}}
    with pytest.raises(ValueError, match=r"belongs to another run: labels.typing was .* and is \['boat'\]"):
        extract_all(posts_file, undisturbed, identity=other)
    with pytest.raises(ValueError, match="part_size was 10 and is 11"):
        extract_all(posts_file, undisturbed, part_size=11)
    with pytest.raises(ValueError, match="on_broken_image was 'error' and is 'text_only'"):
        extract_all(posts_file, undisturbed, on_broken_image="text_only")
    changed = some_posts(COUNT)
    changed[3]["text"] = changed[3]["text"].replace("post", "Post")
    file = write_posts(tmp_path / "posts.parquet", changed)
    with pytest.raises(ValueError, match=r"input.posts.parquet.digest was '\w+' and is '\w+'"):
        extract_all(file, undisturbed)
    assert extract_all(file, tmp_path / "graph").summary["posts"] == COUNT
    result = extract_all(posts_file, tmp_path / "graph", overwrite=True)
    assert result.summary["posts"] == COUNT
    assert contents(tmp_path / "graph") == contents(undisturbed)


def test_a_folder_with_other_things_is_refused(posts_file, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"is not empty and holds no extraction, got thesis.txt"):
        extract_all(posts_file, tmp_path)
    extract = {"overwrite": True}
    with pytest.raises(FileExistsError, match=r"thesis.txt"):
        extract_all(posts_file, tmp_path, **extract)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_second_run_in_the_same_folder_is_refused(posts_file, tmp_path):
    begun = []

    def begin_another(posts):
        if not begun:  # once: it waits for the lock
            begun.append(True)
            with pytest.raises(FileExistsError, match="output: a run that is still alive"):
                extract_all(posts_file, tmp_path / "graph")
        return stand_in(posts)

    assert extract_all(posts_file, tmp_path / "graph", begin_another).summary["posts"] == COUNT
    assert begun


def test_overwrite_sees_a_share_that_is_still_being_made(posts_file, tmp_path):
    begun = []

    def begin_another(posts):
        if not begun:
            begun.append(True)
            with pytest.raises(FileExistsError, match="output: a run that is still alive"):
                extract_all(posts_file, tmp_path / "graph", overwrite=True)
        return stand_in(posts)

    extract_all(posts_file, tmp_path / "graph", begin_another, shard_index=0, num_shards=2)
    assert begun and len(os.listdir(tmp_path / "graph" / "posts")) == 2
    assert extract_all(posts_file, tmp_path / "graph", overwrite=True).summary["posts"] == COUNT


def test_where_every_post_is_an_error_the_summary_counts_none(tmp_path):
    (tmp_path / "posts.jsonl").write_text('{"text": "nonsense", "mentions": []}\n')
    summary = extract_all(str(tmp_path / "posts.jsonl"), tmp_path / "graph").summary
    assert summary["errors"] == 1
    assert [summary[name] for name in ("posts", "posts with an image", "mentions", "relations")] == [0] * 4


@pytest.mark.parametrize("damage", ["truncated", "missing", "of other rows"])
def test_a_damaged_part_is_made_again(undisturbed, posts_file, tmp_path, damage):
    extract_all(posts_file, tmp_path / "graph")
    path = tmp_path / "graph" / "relations" / Part(10, 20).name
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes((tmp_path / "graph" / "relations" / Part(20, 30).name).read_bytes())
    result = extract_all(posts_file, tmp_path / "graph")
    assert result.posts == 10 and str(path) in result.faults[0]
    assert contents(tmp_path / "graph") == contents(undisturbed)


def test_rows_that_cannot_be_extracted_are_errors_with_reasons(tmp_path):
    (tmp_path / "broken.png").write_bytes(png()[:40])
    (tmp_path / "sound.png").write_bytes(png())
    good = {"text": "Kelo greets Mura", "mentions": [[0, 4], {"start": 12, "end": 16}]}
    lines = [
        {**good, "id": "a"},
        {**good},  # the id will be row-1
        "{no JSON",
        "[1, 2]",
        {**good, "id": 1.5},
        {**good, "id": "a"},
        {**good, "id": "row-1"},
        {**good, "id": 7, "text": None},
        {**good, "id": "8", "text": " "},
        {**good, "id": "9", "text": "half \ud800"},
        {**good, "id": "10", "mentions": [[0, 40]]},
        {**good, "id": "11", "mentions": [[0, 4], [0, 4]]},
        {**good, "id": "12", "mentions": "Kelo"},
        {"id": "13", "text": "Kelo"},
        {**good, "id": "14", "image": "broken.png"},
        {**good, "id": "15", "image": "gone.png"},
        {**good, "id": "16", "image": "http://127.0.0.1/a.png"},
        {**good, "id": "17", "text": "nonsense and more", "mentions": [[0, 3]]},
        {**good, "id": "18", "image": "sound.png"},
        {**good, "id": "19", "mentions": []},
        {**good, "id": "20", "image_text": 3},
        {**good, "id": "21", "image_text": ["a boat", ""]},
    ]
    path = tmp_path / "posts.jsonl"
    path.write_text("\n\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    result = extract_all(str(path), tmp_path / "graph", part_size=8)
    errors = {row["row"]: row for row in read(tmp_path / "graph", "errors")}
    expected = {
        2: ("format", None, "the line must be JSON in UTF-8, got b'{no JSON"),
        3: ("format", None, "the line must be a JSON object, got [1, 2]"),
        4: ("id", None, "id must be a string or an integer, got 1.5"),
        5: ("duplicate", "a", "id must be unique, got 'a', which row 0 has already"),
        6: ("duplicate", "row-1", "id must be unique, got 'row-1', which row 1 has already"),
        7: ("text", "7", "text must be a string that is not empty, got None"),
        8: ("text", "8", "text must be a string that is not empty, got ' '"),
        9: ("text", "9", "text: it holds half of a surrogate pair and is no valid text (got 'half \\ud800')"),
        10: ("mentions", "10", "mentions[0]: 0 <= start < end <= 16 (text length) is needed (got (0, 40))"),
        11: ("mentions", "11", "mentions[1] must differ from the others, got [0, 4] again"),
        12: ("mentions", "12", "mentions must be a list of spans, got 'Kelo'"),
        13: ("mentions", "13", "mentions must be given, an empty list where there are none, got none"),
        14: ("image", "14", "image: cannot read image "),
        15: ("image", "15", "image: cannot read image "),
        16: ("image", "16", "image must be a path, bytes or a data URL, got the address 'http://127.0.0.1/a.png'"),
        17: ("extraction", "17", "the text is nonsense"),
        20: ("image_text", "20", "image_text: a string or a list of strings is needed (got 3)"),
    }
    assert list(errors) == list(expected)
    for row, (kind, name, reason) in expected.items():
        assert (errors[row]["kind"], errors[row]["id"]) == (kind, name)
        assert errors[row]["reason"].startswith(reason)
    posts = read(tmp_path / "graph", "posts")
    assert [(post["row"], post["id"], post["has_image"]) for post in posts] == [
        (0, "a", False), (1, "row-1", False), (18, "18", True), (19, "19", False), (21, "21", False)
    ]  # fmt: skip
    assert result.summary["errors: image"] == 3 and result.summary["errors"] == 17
    # A file of the path of the image is not what counts, but where it is looked for.
    elsewhere = extract_all(str(path), tmp_path / "text", part_size=8, on_broken_image="text_only")
    posts = {post["id"]: post for post in read(tmp_path / "text", "posts")}
    assert elsewhere.summary["posts without their image"] == 3 and elsewhere.summary["posts"] == 8
    assert "gone.png" in posts["15"]["image_error"] and not posts["15"]["has_image"]


def test_one_bad_post_costs_its_batch_nothing():
    texts = ("Kelo a", "nonsense", "Mura b")
    posts = [{"id": str(n), "text": text, "mentions": [(0, 4)]} for n, text in enumerate(texts)]
    first, second, third = answers_of(stand_in, posts)
    assert isinstance(second, RowError) and second.kind == "extraction"
    assert [first["id"], third["id"]] == ["0", "2"]


def test_an_answer_with_an_error_is_its_own_rows_and_the_others_stay():
    calls = []

    def extractor(posts):
        calls.append(len(posts))
        answers = stand_in([posts[0], posts[2]])
        return [answers[0], {"mentions": [], "relations": [], "error": "too long"}, answers[1]]

    posts = [{"id": str(n), "text": "Kelo", "mentions": [(0, 4)]} for n in range(3)]
    first, second, third = answers_of(extractor, posts)
    # One call: scores may depend on the posts that are asked with one.
    assert calls == [3] and [first["id"], third["id"]] == ["0", "2"]
    assert isinstance(second, RowError) and second.kind == "extraction" and str(second) == "too long"


def test_another_number_of_answers_is_no_bad_post():
    with pytest.raises(RuntimeError, match="extractor: 2 answers are needed, one a post, got 1"):
        answers_of(lambda posts: [{"mentions": [], "relations": []}], [{}, {}])


def test_image_features_and_workers(undisturbed, posts_file, tmp_path):
    result = extract_all(posts_file, tmp_path / "graph", features=colours, num_workers=3)
    posts = read(tmp_path / "graph", "posts")
    assert result.summary["posts"] == COUNT
    for post in posts:
        assert (post["image_features"] is None) == (post["row"] % 5 > 0)
    assert posts[5]["image_features"] == pytest.approx(_mean_colour(5))
    for name in ("mentions", "relations"):
        assert read(tmp_path / "graph", name) == read(undisturbed, name)


def _mean_colour(seed):
    from modeling_mgvmoe.images import to_rgb

    return colours([to_rgb(png(seed))])[0].tolist()


def test_json_lines_are_the_posts(undisturbed, tmp_path):
    graph = GraphTables(undisturbed)
    path = write_json_lines(graph, tmp_path / "graph.jsonl")
    with open(path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert lines == [post for part in graph.parts for post in graph.posts(part)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"part_size": 0}, "part_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"shard_index": 2, "num_shards": 2}, r"shard_index must be in \[0, 2\), got 2"),
        ({"on_broken_image": "skip"}, "on_broken_image must be one of 'error', 'text_only', got 'skip'"),
        ({"overwrite": True, "num_shards": 2}, "overwrite must not be set"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        BulkArguments(output="graph", **arguments)


def test_memory_holds_batches_and_not_the_input(tmp_path, monkeypatch):
    """At no time are more than two batches of posts alive, however many there are."""
    alive, most = 0, 0

    class Counted(dict):
        def __init__(self, *arguments):
            nonlocal alive, most
            super().__init__(*arguments)
            alive += 1
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

    original = bulk.RowCheck.__call__

    def check(self, raw):
        row = original(self, raw)
        object.__setattr__(row, "post", Counted(row.post))
        return row

    monkeypatch.setattr(bulk.RowCheck, "__call__", check)
    file = write_posts(tmp_path / "posts.parquet", some_posts(120, drawings=False))
    assert extract_all(file, tmp_path / "graph").summary["posts"] == 120
    assert 4 <= most <= 8


def test_input_files_go_by_their_names(tmp_path):
    posts = some_posts(9, drawings=False)
    (tmp_path / "b").mkdir()
    write_posts(tmp_path / "b" / "1.parquet", posts[:4])
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(post) for post in posts[4:]))
    (tmp_path / "_run").mkdir()
    write_posts(tmp_path / "_run" / "2.parquet", posts)
    (tmp_path / "notes.txt").write_text("no posts")
    files = PostFiles([str(tmp_path)])
    assert files.names == ["a.jsonl", os.path.join("b", "1.parquet")]
    rows = list(files.rows(0, 9))
    assert [row.values["id"] for row in rows] == [post["id"] for post in posts[4:] + posts[:4]]
    assert [row.row for row in files.rows(3, 7)] == [3, 4, 5, 6]
    with pytest.raises(ValueError, match="each file may be given once"):
        PostFiles([str(tmp_path), str(tmp_path / "a.jsonl")])
    with pytest.raises(ValueError, match=r"a file must end with .parquet or .jsonl, got .*notes.txt"):
        PostFiles([str(tmp_path / "notes.txt")])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        PostFiles([str(tmp_path / "gone")])
