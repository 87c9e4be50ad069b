"""FewRel's format: made-up relations here, its own and SemEval's where they are."""

import json
import os
from pathlib import Path

import pytest

from modeling_mgvmoe.data.fewrel import fewrel_class_split, fewrel_files, fewrel_label_set, read_fewrel
from modeling_mgvmoe.data.label_sets import read_label_set
from modeling_mgvmoe.data.zero_shot_data import data_from_folder
from tests.support.prepared import prepare

LABELS = Path(__file__).resolve().parents[2] / "configuration" / "labels" / "semeval.json"
DIRECTED = ["Cause-Effect(e2,e1)", "Message-Topic(e1,e2)", "Entity-Origin(e1,e2)", "Cause-Effect(e1,e2)",
            "Content-Container(e1,e2)", "Message-Topic(e2,e1)"]  # fmt: skip


def record(words="Kelo Bay lies near Mura", head=((0, 1),), tail=((4,),)):
    return {
        "tokens": words.split(),
        "h": ["kelo bay", "Q1", [list(places) for places in head]],
        "t": ["mura", "Q2", [list(places) for places in tail]],
    }


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


class TestReading:
    def test_a_sentence_becomes_a_post(self, tmp_path):
        path = write(tmp_path / "val_toy.json", {"P1": [record(), record(head=((0,), (4,)))], "P2": [record()]})
        posts, counts = read_fewrel(path)
        assert posts[0] == {
            "id": "fewrel-val_toy-P1-1",
            "text": "Kelo Bay lies near Mura",
            "mentions": [[0, 8], [19, 23]],
            "label": "P1",
            "image": None,
            "source": "fewrel",
        }
        assert posts[1]["mentions"][0] == [0, 4]  # the first place counts
        assert (counts.classes, counts.files) == ({"P1": 2, "P2": 1}, {"val_toy.json": 3})

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([], "a JSON object is needed"),
            ({"P1": record()}, "relation 'P1' must have a list of sentences"),
            ({"P1": [[]]}, "relation 'P1', sentence 1: an object with keys is needed"),
            ({"P1": [{"tokens": ["a"], "h": 1}]}, "sentence 1: 't' must be given"),
            ({"P1": [{**record(), "tokens": "Kelo"}]}, "tokens must be a list of words"),
            ({"P1": [{**record(), "tokens": ["Kelo", 3]}]}, "words: a list of strings is needed"),
            ({"P1": [record(), {**record(), "t": ["mura", "Q2", []]}]}, "sentence 2: t must be a list of name"),
            ({"P1": [record(head=((),))]}, "h must be a list of name"),
            ({"P1": [record(head=((0, 2),))]}, "h: places of a mention must count up by one"),
            ({"P1": [record(tail=((5,),))]}, r"mentions\[1\]"),
            ({"P1": [record(tail=((-1,),))]}, r"mentions\[1\]"),
        ],
    )
    def test_refused(self, tmp_path, content, message):
        path = write(tmp_path / "val_toy.json", content)
        with pytest.raises(ValueError, match=message) as error:
            read_fewrel(path)
        assert str(path) in str(error.value)

    def test_a_span_beyond_the_sentence_can_be_left_out(self, tmp_path):
        path = write(tmp_path / "val_toy.json", {"P1": [record(tail=((5,),)), record()]})
        posts, counts = read_fewrel(path, on_bad_span="skip")
        assert ([post["id"] for post in posts], counts.bad_spans) == (["fewrel-val_toy-P1-2"], ["fewrel-val_toy-P1-1"])

    def test_files_of_a_domain(self, tmp_path):
        for name in ("val_wiki", "train_wiki", "val_nyt", "pid2name"):
            write(tmp_path / f"{name}.json", {})
        assert [os.path.basename(path) for path in fewrel_files(tmp_path, "wiki")] == [
            "train_wiki.json", "val_wiki.json"
        ]  # fmt: skip
        with pytest.raises(
            FileNotFoundError, match="domains in the folder: wiki, nyt|domains in the folder: nyt, wiki"
        ):
            fewrel_files(tmp_path, "news")


class TestWords:
    def test_names_and_sentences_are_those_of_the_file(self):
        with pytest.warns(UserWarning, match="does not know 1 relations: 'may_treat' is taken for 'may treat'"):
            found = fewrel_label_set(
                ["P1", "P2", "may_treat"], {"P1": ["spouse", "a  sentence"], "P2": ["sport", "None"]}
            )
        assert {raw: (info.name, info.description) for raw, info in found.classes.items()} == {
            "P1": ("spouse", "a sentence"),
            "P2": ("sport", ""),
            "may_treat": ("may treat", ""),
        }
        assert (found.allowed_types(), found.texts()["sport"]) == ({}, ("sport",))

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ({}, "pid2name.json: 'P1' must have a name"),
            ({"P1": ["None", "x"]}, "'P1' must have a name"),
            ({"P1": "spouse"}, "'P1' must have a list of name and sentence"),
        ],
    )
    def test_a_property_without_a_name(self, names, message):
        with pytest.raises(ValueError, match=message):
            fewrel_label_set(["P1"], names)

    def test_semeval_says_both_directions_and_differently(self):
        classes = read_label_set(LABELS).classes
        assert {raw.replace("e1,e2", "e2,e1") for raw in classes} <= set(classes)
        assert len({info.name for info in classes.values()}) == 18


class TestCommand:
    def test_wikidata(self, tmp_path):
        relations = {f"P{number}": [record()] for number in range(1, 6)}
        write(tmp_path / "raw" / "val_wiki.json", relations)
        write(tmp_path / "raw" / "pid2name.json", {raw: [f"name {raw}", f"sentence {raw}"] for raw in relations})
        found = prepare("fewrel", "--data", tmp_path / "raw", "--output_dir", tmp_path / "out")
        assert found == {"train": 2, "validation": 1, "test": 2}
        data = data_from_folder(tmp_path / "out")
        assert data.label_descriptions["name P3"] == ("name P3", "sentence P3")
        assert data.label_types == {}
        content = json.loads((tmp_path / "out" / "labels.json").read_text(encoding="utf-8"))
        assert (content["dataset"], content["split"], content["label_set_version"]) == ("fewrel", "wiki, seed-0", None)

    def test_both_directions_are_in_one_split(self, tmp_path):
        for seed in range(5):
            split = fewrel_class_split(DIRECTED, seed)
            assert sorted(name for part in vars(split).values() for name in part) == sorted(DIRECTED)
            parts = {(name.partition("(")[0], part) for part, names in vars(split).items() for name in names}
            assert len(parts) == 4  # of four relations, two have both directions
        write(tmp_path / "raw" / "val_semeval.json", {name: [record()] for name in DIRECTED})
        prepare("fewrel", "--domain", "semeval", "--data", tmp_path / "raw", "--output_dir", tmp_path / "out")
        names = {name for part in data_from_folder(tmp_path / "out").labels.values() for name in part["relation"]}
        assert {"causes", "is caused by", "is about", "is the topic of"} < names


@pytest.mark.real
@pytest.mark.parametrize(
    ("domain", "posts", "relations", "classes"),
    [("wiki", 11_200, 16, (6, 5, 5)), ("nyt", 2_500, 25, (9, 8, 8)), ("semeval", 8_851, 17, (7, 6, 4))],
)
def test_counts_of_the_real_files(tmp_path, capsys, domain, posts, relations, classes):
    folder = os.environ.get("MGVMOE_DATA")
    if not folder:
        pytest.skip("MGVMOE_DATA does not name the folder with the real posts")
    flags = ["--domain", domain, "--data", os.path.join(folder, "fewrel")]
    found = prepare("fewrel", *flags, "--output_dir", tmp_path / "out")
    assert sum(found.values()) == posts
    assert f"{posts:,} records ({relations} relations)" in capsys.readouterr().out
    data = data_from_folder(tmp_path / "out")
    assert tuple(len(part["relation"]) for part in data.labels.values()) == classes
