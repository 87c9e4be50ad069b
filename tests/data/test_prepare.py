"""From a raw download to a folder that training reads, on posts made up here; and MNRE's own where they are."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from modeling_mgvmoe.data import adapters
from modeling_mgvmoe.data import prepare as parquet_folder
from modeling_mgvmoe.data.adapters import prepare_sketchbook
from modeling_mgvmoe.data.evaluation_data import read_optional_posts
from modeling_mgvmoe.data.label_sets import read_label_set
from modeling_mgvmoe.data.mnre import mnre_data, mnre_files, prepare_mnre, read_mnre
from modeling_mgvmoe.data.prepare import find_split, hold_out_seen
from modeling_mgvmoe.data.splits import read_splits
from modeling_mgvmoe.data.wikidiverse import image_name
from modeling_mgvmoe.data.zero_shot_data import data_from_folder
from tests.support.conll_files import crossner_data
from tests.support.prepared import prepare

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = ROOT / "configuration"
# Of seed 0: two relations for training, one each for validation and testing, and no relation.
RELATIONS = {"/per/misc/religion": 8, "/per/misc/awarded": 2, "/per/per/peer": 2, "/per/per/couple": 3, "None": 2}


def mnre_folder(folder, relations=RELATIONS, prefix=""):
    """Text files in which every relation has its number of posts, and an image that every third post uses."""
    (folder / "images").mkdir(parents=True)
    Image.effect_noise((30, 20), 50).save(folder / "images" / "kelo.png")
    token = ["Kelo", "greets", "Mura"]
    for name in ("train", "val", "test"):
        lines = [
            {"token": token, "h": {"name": "Kelo", "pos": [0, 1]}, "t": {"name": "Mura", "pos": [2, 3]},
             "img_id": "gone.png" if number % 3 else "kelo.png", "relation": relation}
            for relation, count in relations.items()
            for number in range(count)
        ]  # fmt: skip
        (folder / f"{prefix}{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def without_image(posts):
    return [{key: value for key, value in post.items() if key != "image"} for post in posts]


class TestMnre:
    def test_what_is_written_is_what_was_read(self, tmp_path, capsys):
        folder, out = mnre_folder(tmp_path / "raw"), tmp_path / "out"
        found = prepare("mnre", "--data", folder, "--images", folder / "images", "--output_dir", out)
        assert found == {"train": 30, "validation": 6, "test": 9, "none": 6}
        printed = capsys.readouterr().out
        assert "mnre: 51 records (6 without a relation, 4 relations); 2 images: 1 missing, 0 broken" in printed
        assert "train.parquet: 30 posts of 8 classes, 12 with an image" in printed
        assert "left out" not in printed

        posts, _ = read_mnre(mnre_files(folder), folder / "images")
        label_set = read_label_set(CONFIGURATION / "labels" / "mnre.json")
        split = read_splits(CONFIGURATION / "splits" / "mnre.json")["seed-0"].in_words(label_set)
        shutil.rmtree(folder)  # the images are in the files
        data = data_from_folder(out)
        for name, labels in vars(split).items():
            assert data.labels[name] == {"relation": labels}  # most of them without a post
            raw = [post for label in labels for post in label_set.in_words(posts) if post["label"] == label]
            assert without_image(data.posts[name]) == without_image(raw)
            assert [post["image"] is None for post in data.posts[name]] == [post["image"] is None for post in raw]
        assert data.posts["test"][0]["image"].size == (30, 20)
        assert data.label_descriptions == label_set.texts()
        assert data.label_types == label_set.allowed_types()
        assert data.type_descriptions == label_set.type_texts()
        none = read_optional_posts(out, "none")
        assert {post["label"] for post in none} == {"no relation"}
        with pytest.raises(FileNotFoundError, match="seen_test"):
            read_optional_posts(out, "seen_test")
        content = json.loads((out / "labels.json").read_text(encoding="utf-8"))
        assert (content["dataset"], content["split"], content["none"]) == ("mnre", "mnre:seed-0", "no relation")
        assert content["counts"]["mnre"]["records"] == 51

    def test_the_folder_gives_what_memory_gives(self, tmp_path):
        relations = {**dict.fromkeys(read_label_set(CONFIGURATION / "labels" / "mnre.json").classes, 1), "None": 1}
        folder, out = mnre_folder(tmp_path / "raw", relations), tmp_path / "out"
        prepare("mnre", "--data", folder, "--output_dir", out, "--split", "mnre:seed-3")
        posts, _ = read_mnre(mnre_files(folder))
        data, _ = mnre_data(posts, 3, label_set=read_label_set(CONFIGURATION / "labels" / "mnre.json"))
        found = data_from_folder(out)
        assert found.labels == data.labels
        assert all(list(found.posts[name]) == list(data.posts[name]) for name in data.posts)

    @pytest.mark.parametrize("version", [1, 2])
    def test_captions_become_image_text(self, tmp_path, capsys, version):
        relations = {"/per/misc/creat": 1, "/loc/loc/capital": 1, "/per/org/leader": 1, "/per/per/peer": 4, "none": 1}
        prefix = "mnre_org_" if version == 1 else ""
        folder = mnre_folder(tmp_path / "raw", relations if version == 1 else RELATIONS, prefix)
        (tmp_path / "a.txt").write_text("kelo.png :a man on a stage\ngone.png :\n", encoding="utf-8")
        (tmp_path / "b.txt").write_text("kelo.png :a singer\n", encoding="utf-8")
        flags = ["--captions", tmp_path / "a.txt", tmp_path / "b.txt", "--version", version]
        flags += ["--split", "seed-1" if version == 1 else "mnre:seed-0"]
        prepare("mnre", "--data", folder, "--output_dir", tmp_path / "out", *flags)
        printed = capsys.readouterr().out
        posts = [post for part in data_from_folder(tmp_path / "out").posts.values() for post in part]
        told = [post["image_text"] for post in posts if post["image_text"] is not None]
        assert 0 < len(told) < len(posts) and set(map(tuple, told)) == {("a man on a stage", "a singer")}
        assert "records have an image text" in printed and "0 with an image, " in printed
        assert "with an image text" in printed

    def test_version_one_is_divided_as_its_data_are_ordered(self, tmp_path):
        relations = {"/per/misc/creat": 1, "/loc/loc/capital": 1, "/per/org/leader": 1, "/per/per/peer": 1, "none": 1}
        folder, out = mnre_folder(tmp_path / "raw", relations, "mnre_org_"), tmp_path / "out"
        found = prepare("mnre", "--version", 1, "--data", folder, "--output_dir", out, "--split", "seed-1")
        assert found == {"train": 6, "validation": 3, "test": 3, "none": 3}
        # As in the tests of the splits: seed 1 makes abcd dcab, of which two, one and one.
        assert data_from_folder(out).labels["train"] == {"relation": ("peer of", "leader of")}
        assert json.loads((out / "labels.json").read_text(encoding="utf-8"))["dataset"] == "mnre_v1"

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--split", "mnre:seed-9"], "split: mnre has no 'seed-9'; did you mean 'seed-"),
            (["--split", "nmre:seed-0"], "nmre.json' does not exist"),
            (["--split", "../mnre:seed-0"], "split must be FILE:NAME"),
            (["--split", "wikidiverse:task-1"], "class 'People' is not in the label set 'mnre'"),
            (["--split", "mnre:seed-1"], "train: no post has one of its classes"),
            (["--version", "1"], "none of .*exists; version 1 needs one of them"),
            (["--images", "nowhere"], "image_dir: the folder 'nowhere' does not exist"),
            (["--seen-test-share", "1"], "seen_test_share must have 0 <= share < 1, got 1.0"),
            (["--private"], "--private: only what is pushed"),
            (
                ["--push-to-hub", "us/mnre"],
                "private must be set for 'mnre', for its tweets may not be passed on, got False",
            ),
        ],
    )
    def test_refused(self, tmp_path, capsys, flags, message):
        relations = {"/per/per/peer": 1, "/per/per/couple": 1}
        folder = mnre_folder(tmp_path / "raw", relations, "mnre_")
        with pytest.raises(SystemExit) as caught:
            prepare("mnre", "--data", folder, "--output_dir", tmp_path / "out", *flags)
        assert caught.value.code in (1, 2)
        printed = capsys.readouterr().err
        assert re.search(message, printed), printed
        assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]

    def test_a_relation_that_nobody_knows_is_not_left_out_in_silence(self, tmp_path, capsys):
        folder = mnre_folder(tmp_path / "raw", {**RELATIONS, "/per/per/pear": 1})
        with pytest.raises(SystemExit):
            prepare("mnre", "--data", folder, "--output_dir", tmp_path / "out")
        message = "posts: class '/per/per/pear' is not in the label set 'mnre'; did you mean '/per/per/pe"
        assert message in capsys.readouterr().err


class TestOtherDataSets:
    def test_wikidiverse(self, tmp_path, capsys):
        (tmp_path / "images").mkdir()
        url = "https://example.org/Kelo.jpg"
        Image.new("RGB", (8, 6)).save(tmp_path / "images" / image_name(url))
        records = []
        for kind in ("People", "Book", "APP", "Movie"):
            mentions = [["Kelo", kind, 0, 4, ""], ["Mura", "Other", 11, 15, ""], ["Mura", kind, 0, 4, ""]]
            records.append(["Kelo meets Mura.", url, "x", mentions])
        for name in ("train", "valid", "test"):
            (tmp_path / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")
        out = tmp_path / "out"
        found = prepare("wikidiverse", "--data", tmp_path, "--images", tmp_path / "images", "--output_dir", out)
        assert found == {"train": 3, "validation": 3, "test": 6}
        data = data_from_folder(out)
        assert data.labels["test"] == {"typing": ("organization", "country", "app", "movie")}
        assert data.posts["test"][5]["label"] == "movie"
        assert data.posts["test"][5]["image"].size == (8, 6)
        assert (data.label_types, data.type_descriptions) == ({}, {})
        assert (
            "12 more records left out, their spans do not fit the text: wikidiverse-train-1-3"
            in capsys.readouterr().out
        )
        with pytest.raises(SystemExit):
            prepare("wikidiverse", "--data", tmp_path, "--output_dir", tmp_path / "b", "--on-bad-span", "error")
        assert "train.json, record 1, mention 3: 'Mura' must stand at [0, 4)" in capsys.readouterr().err

    def test_conll(self, tmp_path):
        types = {"politics": ["politician", "person"], "science": ["scientist", "misc"], "ai": ["task", "person"]}
        for domain, names in types.items():
            (tmp_path / domain).mkdir()
            for name in ("train", "dev", "test"):
                text = "".join(f"Kelo\tB-{kind}\nruns\tO\n\n" for kind in names)
                (tmp_path / domain / f"{name}.txt").write_text(text, encoding="utf-8")
        flags = ["--train-domains", "politics", "science", "--test-domain", "ai", "--split-seed", "1"]
        found = prepare("conll", "--data", tmp_path, "--output_dir", tmp_path / "out", *flags)
        assert found == {"train": 6, "validation": 3, "test": 3}
        label_set = read_label_set(CONFIGURATION / "labels" / "crossner.json")
        data = crossner_data(tmp_path, ["politics", "science"], "ai", label_set, seed=1)
        written = data_from_folder(tmp_path / "out")
        assert (written.labels, written.label_descriptions) == (data.labels, data.label_descriptions)
        assert json.loads((tmp_path / "out" / "labels.json").read_text())["dataset"] == "crossner"
        # Domains of others are not CrossNER's.
        (tmp_path / "ai").rename(tmp_path / "tools")
        prepare("conll", "--data", tmp_path, "--output_dir", tmp_path / "own", *flags[:-3], "tools", *flags[-2:])
        assert json.loads((tmp_path / "own" / "labels.json").read_text())["dataset"] == tmp_path.name
        assert all(list(written.posts[name]) == list(data.posts[name]) for name in data.posts)

    def test_sketchbook(self, tmp_path):
        flags = ["--seed", 1, "--posts_per_class", 2, "--eval_posts_per_class", 1, "--seen_test_share", 0.5]
        found = prepare("sketchbook", "--output_dir", tmp_path / "out", *flags)
        assert found["train"] + found["seen_test"] == 160
        data, given = data_from_folder(tmp_path / "out"), prepare_sketchbook(1, 2, 1).data
        assert data.labels == given.labels
        assert list(without_image(data.posts["test"])) == without_image(given.posts["test"])
        assert data.posts["test"][0]["image"].tobytes() == given.posts["test"][0]["image"].tobytes()
        seen = read_optional_posts(tmp_path / "out", "seen_test")
        assert {post["label"] for post in seen} <= {name for names in data.labels["train"].values() for name in names}

    def test_a_data_set_that_is_not_known(self, capsys):
        for flags in (["mrne"], []):
            with pytest.raises(SystemExit):
                prepare(*flags)
        printed = capsys.readouterr().err
        assert "invalid choice: 'mrne'" in printed
        assert "required: dataset" in printed


class TestSeenTest:
    def test_a_hash_of_the_id_decides(self, tmp_path):
        prepared = prepare_sketchbook(0, 3, 1)
        quarter, half = hold_out_seen(prepared, 0.25), hold_out_seen(prepared, 0.5)
        identifiers = [{post["id"] for post in one.seen_test} for one in (quarter, half)]
        assert identifiers[0] < identifiers[1]
        assert len(identifiers[1]) == pytest.approx(0.5 * 160, rel=0.1)  # two of the three of a class can go
        assert {post["id"] for post in half.data.posts["train"]}.isdisjoint(identifiers[1])
        assert len(half.data.posts["train"]) + len(half.seen_test) == 240
        assert hold_out_seen(prepared, 0.0).seen_test == []

    def test_a_class_keeps_its_first_post(self):
        with pytest.warns(UserWarning, match="seen_test_share: 0.99 of 80 training posts holds none out"):
            half = hold_out_seen(prepare_sketchbook(0, 1, 1), 0.99)
        assert (len(half.data.posts["train"]), half.seen_test) == (80, [])


class TestFolder:
    @pytest.fixture
    def prepared(self, tmp_path):
        folder = mnre_folder(tmp_path / "raw")
        label_set = read_label_set(CONFIGURATION / "labels" / "mnre.json")
        return prepare_mnre(folder, "mnre:seed-0", label_set, CONFIGURATION, folder / "images")

    def test_a_folder_that_is_not_empty_is_kept(self, tmp_path, prepared):
        out = tmp_path / "out"
        out.mkdir()
        parquet_folder.write_prepared(prepared, out)  # an empty one will do
        with pytest.raises(FileExistsError, match="out' is not empty; --overwrite replaces it"):
            parquet_folder.write_prepared(prepared, out)
        (out / "none.parquet").write_text("old", encoding="utf-8")
        parquet_folder.write_prepared(prepared, out, overwrite=True)
        assert len(read_optional_posts(out, "none")) == 6
        (out / "diary.txt").touch()
        with pytest.raises(FileExistsError, match="files that were not written by this command, .*: diary.txt"):
            parquet_folder.write_prepared(prepared, out, overwrite=True)
        with pytest.raises(FileExistsError, match="is no folder"):
            parquet_folder.write_prepared(prepared, out / "diary.txt", overwrite=True)

    def test_whole_or_not_at_all(self, tmp_path, prepared, monkeypatch):
        write = parquet_folder._write_parquet

        def stop(path, *given):
            if path.endswith("test.parquet"):
                raise KeyError("stop")
            write(path, *given)

        monkeypatch.setattr(parquet_folder, "_write_parquet", stop)
        with pytest.raises(KeyError):
            parquet_folder.write_prepared(prepared, tmp_path / "out")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"label_types": {"peer of": ["person"]}}, "not enough values to unpack"),
            ({"label_types": {"peer of": ["person", "person"]}}, "must hold strings that are not empty, got 'person'"),
            ({"labels": {"train": {}}}, "'validation', 'test' must be given"),
            (
                {"label_descriptions": {"peer of": ""}},
                r"label_descriptions\['peer of'\] must hold strings that are not empty",
            ),
            ({"label": {}}, "unknown key 'label'; did you mean 'labels'"),
            (
                {"labels": {"train": {}, "validation": {}, "test": {}}},
                "row 0: post .*label must be a candidate of",
            ),
        ],
    )
    def test_labels_that_are_not_right(self, tmp_path, prepared, change, message):
        parquet_folder.write_prepared(prepared, tmp_path / "out")
        path = tmp_path / "out" / "labels.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**content, **change}), encoding="utf-8")
        with pytest.raises(ValueError, match=message) as error:
            data_from_folder(tmp_path / "out")
        assert str(tmp_path / "out") in str(error.value)

    def test_prepared_again_as_rows(self, tmp_path, prepared, capsys):
        """It keeps its name, by which it may not be public, or is refused where a part would be lost."""
        parquet_folder.write_prepared(prepared, tmp_path / "mine")
        command = ["rows", "--data", tmp_path / "mine", "--output_dir", tmp_path / "out"]
        with pytest.raises(SystemExit):
            prepare(*command)
        assert "data must not be a folder that is prepared already" in capsys.readouterr().err
        (tmp_path / "mine" / "none.parquet").unlink()
        with pytest.raises(SystemExit):
            prepare(*command, "--push_to_hub", "us/posts")
        assert "private must be set for 'mnre'" in capsys.readouterr().err and not (tmp_path / "out").exists()
        prepare(*command)
        names = ("dataset", "split", "label_set_version", "none", "labels")
        before, after = (json.loads((tmp_path / one / "labels.json").read_text()) for one in ("mine", "out"))
        assert [before[name] for name in names] == [after[name] for name in names]

    def test_pushed_with_a_split_for_each_file(self, tmp_path, prepared, monkeypatch):
        import datasets
        import huggingface_hub

        parquet_folder.write_prepared(prepared, tmp_path / "out")
        with pytest.raises(ValueError, match="private must be set for 'mnre'"):
            adapters.push_prepared(tmp_path / "out", "us/mnre")
        calls = []

        class Commit:
            commit_url = "https://example.org/commit"

        monkeypatch.setattr(
            datasets.DatasetDict, "push_to_hub", lambda posts, *given, **named: calls.append((posts, given, named))
        )
        monkeypatch.setattr(huggingface_hub.HfApi, "upload_file", lambda api, **named: calls.append(named) or Commit())
        assert adapters.push_prepared(tmp_path / "out", "us/mnre", private=True) == Commit.commit_url
        (posts, given, named), upload = calls
        assert {name: len(part) for name, part in posts.items()} == {
            "train": 30, "validation": 6, "test": 9, "none": 6
        }  # fmt: skip
        assert (given, named) == (("us/mnre",), {"private": True})
        assert posts["test"].features["image"] == datasets.Image()
        assert (upload["path_in_repo"], upload["repo_id"], upload["repo_type"]) == (
            "labels.json",
            "us/mnre",
            "dataset",
        )


def test_a_split_by_its_name():
    assert find_split("mnre:seed-2", CONFIGURATION / "splits").train[0].startswith("/")


@pytest.mark.real
def test_counts_of_the_real_files(tmp_path, capsys):
    folder = os.environ.get("MGVMOE_DATA")
    if not folder:
        pytest.skip("MGVMOE_DATA does not name the folder with the real posts")
    mnre = os.path.join(folder, "mnre")
    found = prepare("mnre", "--data", mnre, "--images", os.path.join(mnre, "images"), "--output_dir", tmp_path / "out")
    assert found == {"train": 1224, "validation": 3482, "test": 1061, "none": 9718}
    assert (
        "15,485 records (9,718 without a relation, 22 relations); 9,201 images: 9,151 missing, 0 broken, "
        "0 duplicate; 107 records have an image"
    ) in capsys.readouterr().out
    data = data_from_folder(tmp_path / "out")
    assert sum(post["image"] is not None for part in data.posts.values() for post in part) == 65
