"""Multimodal NER files: made-up tweets here, Twitter10000 where it is."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from modeling_mgvmoe.data.label_sets import read_label_set
from modeling_mgvmoe.data.multimodal_ner import (
    coarse_label_set,
    multimodal_ner_files,
    read_multimodal_ner,
)
from modeling_mgvmoe.data.parquet_folder import check_public
from modeling_mgvmoe.data.post_images import read_captions
from modeling_mgvmoe.data.splits import thirds_class_split
from modeling_mgvmoe.data.zero_shot_data import data_from_folder
from tests.support.prepared import prepare

LABELS = Path(__file__).resolve().parents[2] / "configuration" / "labels" / "twitter10000.json"
TWEETS = """IMGID:K_7
# O O
Kelo B-person B-musician
Mar I-person I-musician
sings O O

IMGID:8
rain O O

IMGID:9
Dunvik B-location B-city
and O O
Oru B-location B-city
"""
CAPTIONS = "K_7.jpg :a man on a stage\n8.jpg :\n9.jpg :a town :by the sea\n"


def folder_of(tmp_path, text=TWEETS, names=("train", "dev", "test")):
    tmp_path.mkdir(exist_ok=True)
    for name in names:
        (tmp_path / f"{name}.txt").write_text(text.replace(" ", "\t"), encoding="utf-8")
    return tmp_path


class TestReading:
    def test_every_mention_becomes_a_post_with_image_and_caption(self, tmp_path):
        (tmp_path / "images").mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / "K_7.jpg")
        (tmp_path / "images" / "._9.jpg").write_bytes(b"\0\5\x16\7")  # of macOS
        (tmp_path / "captions.txt").write_text(CAPTIONS, encoding="utf-8")
        folder = folder_of(tmp_path)
        posts, counts = read_multimodal_ner(
            multimodal_ner_files(folder)[0], tmp_path / "images", read_captions(tmp_path / "captions.txt")
        )
        assert posts[0] == {
            "id": "mner-train-3-K_7",
            "text": "# Kelo Mar sings",
            "mentions": [[2, 10]],
            "label": "musician",
            "image": str(tmp_path / "images" / "K_7.jpg"),
            "source": "mner",
            "image_text": ["a man on a stage"],
        }
        assert [(post["id"], post["image"], post["image_text"]) for post in posts[1:]] == [
            ("mner-train-11-9", None, ["a town :by the sea"]),
            ("mner-train-13-9", None, ["a town :by the sea"]),
        ]
        assert (counts.texts, counts.records, counts.files) == (3, 3, {"train.txt": 3})
        assert str(counts) == (
            "3 texts, 3 records (2 types): 3 in train.txt; 2 images: 1 missing, 0 broken, 0 duplicate; 1 records "
            "have an image; 3 records have an image text"
        )

    def test_the_column_is_chosen_by_name(self, tmp_path):
        path = folder_of(tmp_path) / "train.txt"
        assert [post["label"] for post in read_multimodal_ner(path, tag_column="coarse")[0]] == [
            "person", "location", "location"
        ]  # fmt: skip
        with pytest.raises(ValueError, match="tag_column must be one of 'coarse', 'fine', got 2"):
            read_multimodal_ner(path, tag_column=2)
        two = folder_of(tmp_path / "two", "IMGID:7\nKelo B-PER\n") / "train.txt"
        with pytest.raises(ValueError, match="two/train.txt has no column of fine tags; --tag-column coarse reads"):
            read_multimodal_ner(two)
        assert [post["label"] for post in read_multimodal_ner(two, tag_column="coarse")[0]] == ["PER"]

    def test_captions_of_several_files(self, tmp_path):
        for name, text in (("a", "7.jpg :one\n8.jpg :same\n"), ("b", "7.jpg :two\n\n8.jpg :same\n9.jpg : \n")):
            (tmp_path / name).write_text(text, encoding="utf-8")
        assert read_captions([tmp_path / "a", tmp_path / "b"]) == {
            "7.jpg": ["one", "two"],
            "8.jpg": ["same"],
            "9.jpg": [],
        }
        (tmp_path / "b").write_text("7.jpg :two\n8.jpg three\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"b, line 2: an image and its caption, .* got '8.jpg three'"):
            read_captions(tmp_path / "b")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("Kelo O O\n", 'line 1: a line "IMGID:id" must stand before each tweet'),
            ("IMGID:7\nKelo O O\n\nMura O O\n", 'line 4: a line "IMGID:id" must stand'),
            ("IMGID:../7\nKelo O O\n", "line 2: the id of an image must name no folder, got '../7'"),
            ("IMGID:7\nKelo O O\nMura O\n", "line 3: a word and its tag are needed, in 3 columns"),
        ],
    )
    def test_refused(self, tmp_path, text, message):
        path = folder_of(tmp_path, text) / "train.txt"
        with pytest.raises(ValueError, match=message) as error:
            read_multimodal_ner(path)
        assert str(path) in str(error.value)

    def test_files_must_be_there(self, tmp_path):
        (folder_of(tmp_path) / "dev.txt").rename(tmp_path / "valid.txt")
        assert multimodal_ner_files(tmp_path)[1] == str(tmp_path / "valid.txt")
        (tmp_path / "valid.txt").unlink()
        with pytest.raises(FileNotFoundError, match=r"dev.txt or valid.txt is needed"):
            multimodal_ner_files(tmp_path)


def tweets_of(types):
    return "".join(f"IMGID:{number}\nKelo B-{coarse} B-{fine}\n\n" for number, (coarse, fine) in enumerate(types))


class TestCommand:
    def test_fine_types(self, tmp_path):
        label_set = read_label_set(LABELS)
        fine = [(info.parent, raw) for raw, info in label_set.classes.items()]
        folder = folder_of(tmp_path / "raw", tweets_of(fine))
        (tmp_path / "captions.txt").write_text("0.jpg :one\n1.jpg :two words\n", encoding="utf-8")
        out = tmp_path / "out"
        found = prepare("mner", "--data", folder, "--captions", tmp_path / "captions.txt", "--output_dir", out)
        assert found == {"train": 45, "validation": 42, "test": 45}  # 44 types, three files
        data = data_from_folder(out)
        kept = [raw for raw in label_set.classes if raw not in label_set.left_out]
        split = thirds_class_split(kept, 0).in_words(label_set)
        assert {name: names["typing"] for name, names in data.labels.items()} == vars(split)
        written = [post for part in data.posts.values() for post in part]
        assert {tuple(post["image_text"] or ()) for post in written} == {("two words",), ()}  # 0 is left out
        assert json.loads((out / "labels.json").read_text(encoding="utf-8"))["dataset"] == "mner"
        # The same by the order in the data.
        prepare("mner", "--data", folder, "--split", "seed-0", "--output_dir", tmp_path / "seed")
        again = data_from_folder(tmp_path / "seed")
        assert again.labels == data.labels and "image_text" not in again.posts["train"].column_names
        with pytest.raises(ValueError, match="private must be set for 'mner'"):
            check_public("mner", False)

    def test_coarse_types_also_by_their_short_names(self, tmp_path):
        names = ["PER", "organization", "LOC", "event", "OTHER"]
        folder = folder_of(tmp_path / "raw", "".join(f"IMGID:{n}\nKelo B-{n}\n\n" for n in names))
        flags = ["--tag-column", "coarse", "--split", "seed-0"]
        prepare("mner", "--data", folder, *flags, "--output_dir", tmp_path / "out")
        labels = data_from_folder(tmp_path / "out").labels
        found = {name for part in labels.values() for name in part["typing"]}
        assert found == {"person", "organization", "location", "event"}
        with pytest.raises(ValueError, match="label set 'wikidiverse': coarse types"):
            coarse_label_set(read_label_set(LABELS.parent / "wikidiverse.json"))

    def test_the_division_of_the_files(self, tmp_path):
        """Twitter-2015 and Twitter-2017 have three types besides OTHER: none is held out."""
        folder = tmp_path / "raw"
        folder.mkdir()
        for file, names in (("train", ["PER", "LOC", "OTHER"]), ("valid", ["LOC"]), ("test", ["ORG", "PER"])):
            text = "".join(f"IMGID:{n}\nKelo\tB-{name}\n\n" for n, name in enumerate(names))
            (folder / f"{file}.txt").write_text(text, encoding="utf-8")
        flags = ["--tag-column", "coarse", "--split", "files"]
        found = prepare("mner", "--data", folder, *flags, "--output_dir", tmp_path / "out")
        assert found == {"train": 2, "validation": 1, "test": 2}
        data = data_from_folder(tmp_path / "out")
        assert not data.unseen
        assert set(map(str, data.labels.values())) == {str({"typing": ("person", "location", "organization")})}
        assert [post["label"] for post in data.posts["test"]] == ["organization", "person"]


@pytest.mark.real
def test_counts_of_the_real_files(tmp_path, capsys):
    folder = os.environ.get("MGVMOE_DATA")
    if not folder:
        pytest.skip("MGVMOE_DATA does not name the folder with the real posts")
    folder = Path(folder, "twitter10000")
    captions = sorted((folder / "captions").iterdir())
    found = prepare("mner", "--data", folder, "--captions", *captions, "--output_dir", tmp_path / "out")
    assert sum(found.values()) == 16_772 - 1_045
    printed = capsys.readouterr().out
    assert (
        "10,000 texts, 16,772 records (51 types): 11,779 in train.txt, 2,450 in dev.txt, 2,543 in test.txt"
    ) in printed
    assert "16,771 records have an image text" in printed
    posts, counts = read_multimodal_ner(multimodal_ner_files(folder))
    assert list(counts.classes) == list(read_label_set(LABELS).classes)  # order of first appearance
    assert len({post["id"] for post in posts}) == 16_772
    _, counts = read_multimodal_ner(multimodal_ner_files(folder), tag_column="coarse")
    assert set(counts.classes) == set(read_label_set(LABELS).parents)
