"""Your own rows: every kind of file, folder and column that a user may have, as posts for training and evaluation."""

import dataclasses
import json
import warnings
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError
from PIL import Image

from modeling_mgvmoe.cli.prepare import prepare_command
from modeling_mgvmoe.data.encoding import encode_posts, encode_splits, has_image
from modeling_mgvmoe.data.evaluation_data import check_files, load_evaluation_data
from modeling_mgvmoe.data.rows import as_posts, find_labels_file, hold_out, locate_image, read_parts, read_rows
from modeling_mgvmoe.data.schema import post_features
from modeling_mgvmoe.data.zero_shot_data import data_from_folder, read_data
from modeling_mgvmoe.evaluation.protocols import check_unseen, evaluate_protocol
from modeling_mgvmoe.graph.post_check import RowCheck
from modeling_mgvmoe.graph.post_files import PostFiles
from modeling_mgvmoe.training.arguments import DataArguments
from modeling_mgvmoe.training.build import load_data
from tests.support.from_scratch import scratch_model
from tests.support.prepared import prepare

TEXT = "Kelo greets Mura"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def boats_and_birds(number=20, **more):
    return [
        {"text": f"Kelo {place} sails", "mention": "Kelo", "label": ("boat", "bird")[place % 2], **more}
        for place in range(number)
    ]


@pytest.mark.parametrize(
    ("columns", "mentions"),
    [
        ({"mention": "Kelo"}, [[0, 4]]),
        ({"mention": [0, 4]}, [[0, 4]]),
        ({"mention": {"start": 0, "end": 4}}, [[0, 4]]),
        ({"mentions": [[0, 4]]}, [[0, 4]]),
        ({"mentions": ["Kelo", [12, 16]]}, [[0, 4], [12, 16]]),
        ({"head": "Mura", "tail": "Kelo", "mention": None}, [[12, 16], [0, 4]]),
        ({"head": [12, 16], "tail": "Kelo", "mentions": float("nan")}, [[12, 16], [0, 4]]),
    ],
)
def test_mentions_in_json_lines(tmp_path, columns, mentions):
    (post,) = read_rows(write_lines(tmp_path / "mine.jsonl", [{"text": TEXT, "label": "x", **columns}]))
    assert post == {
        "id": "mine-0", "text": TEXT, "mentions": mentions, "label": "x", "image": None, "source": tmp_path.name,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"image_text": "a boat"}, ["a boat"]),
        ({"image_text": ["a boat", " ", "a bird"]}, ["a boat", "a bird"]),
        ({"image_text": " "}, None),
        ({"image_text": [None, ""]}, None),
        ({"caption": "a boat"}, ["a boat"]),
        ({"captions": ["a boat", "a bird"], "alt_text": "a boat "}, ["a boat", "a bird"]),
        ({"alt_text": float("nan"), "image_text": None}, None),
        ({"image_text": "a boat", "caption": "a bird"}, ["a boat"]),
    ],
)
def test_words_for_the_image(tmp_path, columns, expected):
    row = {"text": TEXT, "mention": "Kelo", "label": "x"}
    others = [{**row, "caption": "a cake"}, row]
    posts = read_rows(write_lines(tmp_path / "mine.jsonl", [{**row, **columns}, *others]))
    assert posts["image_text"] == [expected, ["a cake"], None]


def test_words_for_the_image_in_a_table_and_in_parquet(tmp_path):
    lines = ["text,mention,label,caption", f'"{TEXT}",Kelo,x,"[""a boat"", ""a bird""]"', f'"{TEXT}",Kelo,x,', ""]
    (tmp_path / "mine.csv").write_text("\n".join(lines), encoding="utf-8")
    posts = read_rows(tmp_path / "mine.csv")
    assert posts["image_text"] == [["a boat", "a bird"], None]
    posts.to_parquet(tmp_path / "mine.parquet")
    again = read_rows(tmp_path / "mine.parquet")
    assert again["image_text"] == posts["image_text"]
    # Also where the rows are divided and prepared, and from there on.
    write_lines(tmp_path / "all.jsonl", boats_and_birds(alt_text="a harbour"))
    prepare("rows", "--data", tmp_path / "all.jsonl", "--output_dir", tmp_path / "out")
    data = data_from_folder(tmp_path / "out")
    assert all(post["image_text"] == ["a harbour"] for part in data.posts.values() for post in part)
    assert "a harbour" in data.training_texts()


@pytest.mark.parametrize("column", ["image_text", "captions"])
def test_wrong_words_for_the_image_are_named(tmp_path, column):
    path = write_lines(tmp_path / "mine.jsonl", [{"text": TEXT, "mention": "Kelo", "label": "x", column: [3]}])
    with pytest.raises(ValueError, match=f"line 1: {column}: a string or a list of strings is needed"):
        read_rows(path)


def test_a_table_whose_first_row_has_no_words_for_the_image(tmp_path):
    lines = ["text,mention,label,image_text", "Kelo sails,Kelo,boat,", "Mura sings,Mura,bird,a bird"]
    (tmp_path / "posts.csv").write_text("\n".join(lines), encoding="utf-8")
    assert read_rows(tmp_path / "posts.csv")["image_text"][:] == [None, ["a bird"]]


def test_a_table_of_text(tmp_path):
    (tmp_path / "train.csv").write_text(
        "\ufefftext,mention,head,tail,label,image,id\r\n"
        '"Kelo, twice",Kelo,,,boat,,7\r\n'
        'Kelo greets Mura,,"[0, 4]",Mura,greets,a.png,\r\n'
        '[x] rests,[x],,,bird,,"e ,""9"""\r\n',
        encoding="utf-8",
    )
    posts = read_rows(tmp_path / "train.csv").cast_column("image", post_features()["image"].__class__(decode=False))
    assert posts["id"][:] == ["7", "train-1", 'e ,"9"']
    assert posts["mentions"][:] == [[[0, 4]], [[0, 4], [12, 16]], [[0, 3]]]
    assert [image and image["path"] for image in posts["image"]] == [None, str(tmp_path / "a.png"), None]


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_every_kind_of_file_gives_the_same_posts(tmp_path, ending):
    table = pd.DataFrame(boats_and_birds(4))
    table["image"] = ["", None, float("nan"), "a.png"] if ending != "parquet" else ["", None, None, "a.png"]
    path = tmp_path / f"train.{ending}"
    if ending == "parquet":
        table.to_parquet(path)
    elif ending == "csv":
        table.to_csv(path, index=False)
    else:
        table.to_json(path, orient="records", lines=ending == "jsonl")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    posts = read_rows(path)
    assert posts.features == post_features()
    assert posts["label"][:] == ["boat", "bird"] * 2 and posts["mentions"][:] == [[[0, 4]]] * 4
    assert [image is not None for image in posts["image"]] == [False, False, False, True]


def test_a_class_label_is_read_as_its_name_and_images_stay_closed(tmp_path):
    rows = Dataset.from_dict(
        {"text": [TEXT] * 3, "mention": [[0, 4], [12, 16], [0, 4]], "label": [1, 0, 1]},
        features=Features(
            {"text": Value("string"), "mention": List(Value("int64")), "label": ClassLabel(names=["a b", "c"])}
        ),
    )
    posts = as_posts(rows, "rows")
    assert posts["label"][:] == ["c", "a b", "c"] and posts["id"][:] == ["rows-0", "rows-1", "rows-2"]
    with pytest.raises(ValueError, match="rows, row 0: post 'rows-0': label"):
        as_posts(rows.cast_column("label", Value("int64")), "rows")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"mention": "Mora"}, "train.jsonl, line 2: post 'train-1': mentions: the words 'Mora'"),
        ({"mention": [0, 99]}, "line 2: post 'train-1': mentions: 0 <= start < end <= 16"),
        ({"mention": [0, 4], "label": ""}, "line 2: post 'train-1': label must be a string"),
        ({"mention": [0, 4], "text": 3}, "line 2: post 'train-1': text must be a string"),
        ({"mention": [0, 4], "id": 1.5}, "line 2: post 1.5: id must be a string"),
        ({"mention": None}, "line 2: inputs: a post needs either 'mention'"),
        ({"mention": [0, 4], "image": 3}, "line 2: image must be a path"),
        ({"mention": [0, 4], "image": "http://127.0.0.1:9/x.png"}, "line 2: image must hold .* got the address"),
        ({"mention": [0, 4], "image": "data:image/png;base64,?"}, "line 2: image: no base64"),
    ],
)
def test_a_wrong_row_is_named_with_its_place(tmp_path, row, message):
    path = write_lines(tmp_path / "train.jsonl", [*boats_and_birds(1), {"text": TEXT, "label": "x", **row}])
    with pytest.raises(ValueError, match=message):
        read_rows(path)


def test_ids_are_distinct(tmp_path):
    rows = boats_and_birds(3)
    rows[0]["id"] = rows[2]["id"] = "k7"
    path = write_lines(tmp_path / "train.jsonl", rows)
    with pytest.raises(ValueError, match="train.jsonl, line 3: id .*'k7'.*train.jsonl, line 1$"):
        read_rows(path)
    # 7 and "7" are one id; so is what a row without an id gets.
    for first, second in ((7, "7"), ("rows-1", None)):
        twice = Dataset.from_list([{**row, "id": str(first)} for row in rows[:1]] + [{**rows[1], "id": second}])
        with pytest.raises(ValueError, match="rows, row 1: id .* rows, row 0$"):
            as_posts(twice, "rows")


def test_files_that_are_none(tmp_path):
    for name, content, message in (
        ("a.jsonl", "\n", "holds no post"),
        ("b.jsonl", "{", "b.jsonl, line 1: no JSON"),
        ("c.json", "{}", "a JSON list"),
        ("d.csv", 'text,label\n"a', "d.csv: it cannot be read as a table"),
        ("e.csv", "text,label\na,b,c\n", "row 0: it has more"),
        ("g.csv", "text,label,text\na,b,c\n", "g.csv: columns must have distinct names, got 'text' twice"),
        ("f.txt", "a", "ends in .jsonl"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            read_rows(tmp_path / name)
    for source in (tmp_path / "no.jsonl", tmp_path / "no" / "no", tmp_path):
        with pytest.raises(FileNotFoundError, match="dataset: "):
            read_data(str(source))


def test_images_are_relative_to_the_file_in_training_as_in_extraction(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (16, 16), "red").save(tmp_path / "pictures" / "a.png")
    rows = [{**row, "mentions": [[0, 4]], "id": str(place), "image": "pictures/a.png"}
            for place, row in enumerate(boats_and_birds(4))]  # fmt: skip
    for row in rows:
        del row["mention"]
    monkeypatch.chdir("/")
    for path in (write_lines(tmp_path / "train.jsonl", rows), tmp_path / "train.parquet"):
        if path.suffix == ".parquet":
            pd.DataFrame(rows).to_parquet(path)
        encoded = encode_posts(read_rows(path), scratch_model()[1])
        assert all(map(has_image, encoded))
        check = RowCheck(np.empty((0, 2), dtype=np.int64))
        assert all(check(row).post["image"] is not None for row in PostFiles([path]).rows(0, 4))


def test_images_within_a_file_beside_images_named_by_a_path(tmp_path):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "b.png")
    images = [{"bytes": (tmp_path / "b.png").read_bytes(), "path": "no.png"}, {"bytes": None, "path": "a.png"}, None]
    rows = [{"id": str(place), "text": TEXT, "mentions": [[0, 4]], "label": "x", "image": image, "source": "own"}
            for place, image in enumerate(images)]  # fmt: skip
    # Not by its own method, which would put the image into the file.
    table = Dataset.from_list(rows, features=post_features()).with_format("arrow")[:]
    pq.write_table(table.cast(post_features().arrow_schema), tmp_path / "train.parquet")
    found = [post["image"] for post in read_rows(tmp_path / "train.parquet")]
    assert [image and image.getpixel((0, 0)) for image in found] == [(0, 0, 255), (255, 0, 0), None]


def test_what_names_no_image():
    nothing = (None, "", float("nan"), [], {"bytes": None, "path": None}, {"bytes": None, "path": ""})
    assert [locate_image(image, "folder") for image in nothing] == [None] * len(nothing)
    assert locate_image(["a.png"], "folder") == "folder/a.png" == locate_image({"path": "a.png"}, "folder")
    assert locate_image("/a.png", "folder") == "/a.png" and locate_image("data:x", "f") == "data:x"
    assert locate_image({"bytes": b"x", "path": "a"}, "folder") == {"bytes": b"x", "path": "a"}


def test_one_file_holds_a_share_out_for_validation_of_seen_classes(tmp_path, capsys):
    path = write_lines(tmp_path / "mine.jsonl", boats_and_birds(200))
    data = load_data(DataArguments(dataset=str(path)))
    (line,) = capsys.readouterr().out.splitlines()
    held = len(data.posts["validation"])
    # 10 % of 200 by a hash: 20 expected, with a deviation of 4.2.
    assert 5 <= held <= 35 and len(data.posts["train"]) == 200 - held
    assert f"{held} of train held out for validation" in line and "2 are seen, 0 unseen" in line
    assert data.labels["train"] == data.labels["validation"] == {"typing": ("boat", "bird")}
    assert not data.unseen and len(data.posts["test"]) == 0
    ids = [set(data.posts[split]["id"]) for split in ("train", "validation")]
    assert not ids[0] & ids[1] and len(ids[0] | ids[1]) == 200
    # The same posts in any order, but for the first one of each class, which always stays.
    again = hold_out(read_rows(path).select(range(199, -1, -1)))[1]
    assert len(set(again["id"]) ^ ids[1]) <= 4


def test_labels_are_read_without_white_space_around_them(tmp_path):
    rows = [{**row, "label": f" {row['label']} "} for row in boats_and_birds(2)]
    assert read_rows(write_lines(tmp_path / "mine.jsonl", rows))["label"][:] == ["boat", "bird"]


def test_a_share_for_seen_test_finds_posts_beside_those_held_out_for_validation(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", boats_and_birds(200))
    command = ["rows", "--data", str(path), "--output_dir", str(tmp_path / "out"), "--seen_test_share", "0.1"]
    written = prepare_command(command, "configuration")
    assert all(5 <= written[name] <= 35 for name in ("validation", "seen_test"))


@pytest.mark.parametrize("kind", ["none", "unreached", "known to be none"])
def test_labels_of_a_dataset_on_the_hub(monkeypatch, kind):
    response = SimpleNamespace(headers={}, request=None)

    def download(*given, **named):
        if kind == "none":
            raise RemoteEntryNotFoundError("no", response=response)
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    cached = huggingface_hub._CACHED_NO_EXIST if kind == "known to be none" else None
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *given, **named: cached)
    if kind == "unreached":
        with pytest.raises(FileNotFoundError, match="dataset: 'kelo/posts' is no file .* the Hub: no connection"):
            find_labels_file("kelo/posts")
    else:
        assert find_labels_file("kelo/posts") is None


def test_no_text_is_trained_on_and_validated_with(tmp_path):
    rows = [{**row, "mention": mention} for row in boats_and_birds(100) for mention in ("Kelo", "sails")]
    kept, held = hold_out(read_rows(write_lines(tmp_path / "mine.jsonl", rows)))
    assert len(held) % 2 == 0 and not set(kept["text"]) & set(held["text"])


def test_the_smallest_file_that_can_be_divided(tmp_path):
    data = read_data(str(write_lines(tmp_path / "train.jsonl", boats_and_birds(3))))
    assert [len(data.posts[split]) for split in ("train", "validation")] == [2, 1]
    assert data.labels["validation"]["typing"] == ("boat", "bird")
    with pytest.raises(ValueError, match="dataset"):
        read_data(str(write_lines(tmp_path / "train.jsonl", boats_and_birds(2))))


def test_a_file_of_test_posts_is_not_trained_on(tmp_path):
    path = write_lines(tmp_path / "my_test.jsonl", boats_and_birds(4))
    with pytest.raises(ValueError, match="dataset: training posts are needed"):
        load_data(DataArguments(dataset=str(path)))
    found = load_evaluation_data(str(path))
    assert len(found.posts["test"]) == 4 and "no training posts" in found.note


def test_classes_of_rows_may_be_unseen_or_both(tmp_path):
    write_lines(tmp_path / "train.jsonl", boats_and_birds(4))
    write_lines(tmp_path / "dev.jsonl", [{"text": TEXT, "mention": "Kelo", "label": "cake"}])
    rows = [{"text": TEXT, "mention": "Kelo", "label": label} for label in ("bird", "robot")]
    write_lines(tmp_path / "test.jsonl", rows)
    data = data_from_folder(tmp_path)
    assert data.labels["validation"] == {"typing": ("cake",)}
    assert data.labels["test"] == {"typing": ("boat", "bird", "robot")}
    assert "0 are seen, 1 unseen" in data.note


def shards(folder, rows, split, number=2):
    posts = Dataset.from_list(rows)
    folder.mkdir(exist_ok=True)
    for place in range(number):
        posts.shard(number, place).to_parquet(folder / f"{split}-{place:05d}-of-{number:05d}.parquet")


def test_a_folder_as_the_hub_has_it(tmp_path):
    shards(tmp_path / "data", boats_and_birds(6), "train")
    shards(tmp_path / "data", boats_and_birds(2), "validation", 1)
    shards(tmp_path / "data", boats_and_birds(2), "seen_test", 1)
    data = data_from_folder(tmp_path)
    assert {split: len(posts) for split, posts in data.posts.items()} == {"train": 6, "validation": 2, "test": 0}
    assert len(set(data.posts["train"]["id"])) == 6
    assert len(read_parts(str(tmp_path), ("seen_test",))["seen_test"]) == 2
    (tmp_path / "data" / "train.csv").write_text("text\n")
    with pytest.raises(ValueError, match="dataset: train must be one file, or parts of one"):
        data_from_folder(tmp_path)


def test_a_folder_of_images_with_metadata(tmp_path):
    (tmp_path / "train").mkdir()
    for place in range(4):
        Image.new("RGB", (16, 16), (place, 0, 0)).save(tmp_path / "train" / f"{place}.png")
    table = pd.DataFrame(boats_and_birds(4))
    table["file_name"] = [f"{place}.png" for place in range(4)]
    table["mention"] = ["Kelo", "[0, 4]", "Kelo", "[0, 4]"]
    table.to_csv(tmp_path / "train" / "metadata.csv", index=False)
    data = data_from_folder(tmp_path)
    posts = [*data.posts["train"], *data.posts["validation"]]
    assert sorted(post["image"].getpixel((0, 0))[0] for post in posts) == [0, 1, 2, 3]
    assert [post["mentions"] for post in posts] == [[[0, 4]]] * 4
    check_files(str(tmp_path))
    assert len(load_evaluation_data(str(tmp_path)).posts["test"]) == len(data.posts["validation"])


def test_rows_as_a_prepared_folder_that_says_its_classes_are_seen(tmp_path, capsys):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    rows = boats_and_birds(20, image="a.png")
    rows[3] |= {"image": "gone.png"}
    rows[4] |= {"mention": "Mura"}
    path = write_lines(tmp_path / "mine.jsonl", rows)
    command = ["rows", "--data", str(path), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        prepare_command(command, "configuration")
    assert "mine.jsonl, line 5: post 'mine-4': mentions: the words 'Mura'" in capsys.readouterr().err
    written = prepare_command([*command, "--on-bad-span", "skip"], "configuration")
    printed = capsys.readouterr().out
    assert sum(written.values()) == 19 and set(written) == {"train", "validation"}
    assert "held out for validation" in printed and "1 missing" in printed and "1 more records left out" in printed
    (tmp_path / "a.png").unlink()
    data = data_from_folder(tmp_path / "out")
    assert not data.unseen and data.labels["validation"] == data.labels["train"]
    posts = [*data.posts["train"], *data.posts["validation"]]
    assert sum(post["image"] is not None for post in posts) == 18
    content = json.loads((tmp_path / "out" / "labels.json").read_text())
    (tmp_path / "out" / "labels.json").write_text(json.dumps({**content, "unseen": True}))
    with pytest.raises(FileNotFoundError, match="test.parquet"):
        data_from_folder(tmp_path / "out")


class Always:
    """A scorer whose best label is the first."""

    def __call__(self, posts, labels):
        return np.tile(np.arange(len(labels), 0, -1.0), (len(posts), 1))


def test_evaluation_calls_seen_classes_seen(tmp_path):
    write_lines(tmp_path / "train.jsonl", boats_and_birds(4))
    rows = [{"text": TEXT, "mention": "Kelo", "label": label} for label in ("bird", "robot", "boat")]
    write_lines(tmp_path / "test.jsonl", rows)
    check_files(str(tmp_path))
    found = load_evaluation_data(str(tmp_path))
    for protocol in ("unseen", "open", "generalised"):
        with pytest.raises(ValueError, match=r"protocol: .* not in training; protocol \"seen\" .*boat, bird"):
            evaluate_protocol(protocol, {"always": Always()}, found)
    result = evaluate_protocol("seen", {"always": Always()}, found)["typing"]
    assert result.protocol == "seen" and result.seen == ("boat", "bird")
    assert result.candidates == ("boat", "bird", "robot")
    assert result.counts == {"posts": 3, "candidates": 3, "candidates seen in training": 2}
    assert result.scores["always"]["accuracy"] == pytest.approx(1 / 3)
    unseen = dataclasses.replace(found, labels={**found.labels, "test": {"typing": ("robot",)}})
    with pytest.raises(ValueError, match='protocol: "seen" needs test classes of which some are in training.*robot'):
        check_unseen("seen", unseen)
    with pytest.raises(FileNotFoundError, match="seen_test.parquet"):
        check_files(str(tmp_path), ("seen_test",))


def test_rows_without_test_posts_are_evaluated_on_those_held_out(tmp_path):
    path = str(write_lines(tmp_path / "mine.jsonl", boats_and_birds(40)))
    found, data = load_evaluation_data(path), read_data(path)
    assert found.posts["test"]["id"][:] == data.posts["validation"]["id"][:]
    assert "tested on the validation posts" in found.note
    assert "validation" not in found.posts  # nothing is fitted on what is tested on
    with pytest.raises(FileNotFoundError, match=r"dataset: a folder with none.parquet is needed"):
        check_files(path, ("none",))


def test_a_post_that_was_read_never_ends_a_training(tmp_path):
    """Annotations that begin or end within what a reader sees as one character, as public data has them."""
    texts = [("Mele\u0301 opens", [0, 4]), ("I \u2764\ufe0f Kelo", [2, 3]), ("a\U0001f1eb\U0001f1f7b", [2, 3])]
    rows = [{"text": text, "mention": span, "label": "x"} for text, span in texts] * 2
    posts = read_rows(write_lines(tmp_path / "train.jsonl", rows))
    for style in ("markers", "prefix"):
        processor = scratch_model()[1]
        processor.mention_style = style
        assert len(encode_posts(posts, processor)) == 6


def test_a_mention_that_the_tokenizer_drops_leaves_its_post_out_of_training(tmp_path):
    rows = [*boats_and_birds(4), {"text": "Kelo \ufffd sails", "mention": "\ufffd", "label": "boat", "id": "odd"}]
    data = read_data(str(write_lines(tmp_path / "train.jsonl", rows)))
    data = dataclasses.replace(data, posts={**data.posts, "train": read_rows(tmp_path / "train.jsonl")})
    processor = scratch_model()[1]
    processor.mention_style = "prefix"
    with pytest.warns(UserWarning, match="1 posts are left out, .* odd .*no token"):
        encoded, _ = encode_splits(data, processor, ("train",))
    assert len(encoded["train"]) == 4
    with pytest.raises(ValueError, match="post 'odd': .*no token"):
        encode_posts(data.posts["train"], processor)


def test_unknown_columns_of_a_file_are_named_once(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", boats_and_birds(4, likes_of_rows=3, labels="x"))
    with pytest.warns(UserWarning, match=r"'labels' \(did you mean 'label'\?\), 'likes_of_rows'") as caught:
        read_rows(path)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_rows(path)
