"""CrossRE's format: made-up sentences here, its own where they are."""

import json
import os

import pytest

from modeling_mgvmoe.data.adapters import check_public
from modeling_mgvmoe.data.crossre import crossre_files, read_crossre
from modeling_mgvmoe.data.evaluation_data import load_evaluation_data
from modeling_mgvmoe.data.zero_shot_data import data_from_folder
from tests.support.prepared import prepare

WORDS = ["Old", "Kelo", "sails", "the", "Mura", "Bay"]


def record(key="sea-train-1", ner=((0, 1, "person"), (4, 5, "location")), relations=((0, 1, 4, 5, "physical"),)):
    return {
        "doc_key": key,
        "sentence": WORDS,
        "ner": [list(entry) for entry in ner],
        "relations": [[*entry, "", False, False] for entry in relations],
    }


def write(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n\n" for one in records), encoding="utf-8")
    return path


class TestReading:
    def test_entities_and_relations_become_posts(self, tmp_path):
        item = record(relations=[(0, 1, 4, 5, "physical"), (4, 5, 0, 1, "named"), (0, 1, 4, 5, "origin")])
        found = read_crossre(write(tmp_path / "sea-train.json", item))
        posts, counts = found["relation"]
        assert posts[0] == {
            "id": "crossre-sea-train-1-r1",
            "text": "Old Kelo sails the Mura Bay",
            "mentions": [[0, 8], [19, 27]],  # ends are inclusive in the file
            "label": "physical",
            "image": None,
            "source": "crossre",
        }
        assert posts[1]["mentions"] == [[19, 27], [0, 8]]
        assert [post["label"] for post in posts] == ["physical", "named", "origin"]
        assert (counts.texts, counts.records, counts.files) == (1, 3, {"sea-train.json": 3})
        posts, counts = found["typing"]
        assert [(post["id"], post["mentions"], post["label"]) for post in posts] == [
            ("crossre-sea-train-1-e1", [[0, 8]], "person"),
            ("crossre-sea-train-1-e2", [[19, 27]], "location"),
        ]
        assert (counts.task, counts.records) == ("typing", 2)

    @pytest.mark.parametrize(
        ("item", "message"),
        [
            ("{", "line 1: one JSON value is needed"),
            ([], "line 1: an object with keys is needed"),
            ({**record(), "text": ""}, "line 1: unknown key 'text'"),
            ({**record(), "doc_key": 3}, "doc_key must be a string"),
            ({**record(), "sentence": []}, "sentence must be a list"),
            ({**record(), "ner": None}, "ner must be a list"),
            (record(ner=[(0, "person")]), "2 places of words and a label are needed, got"),
            (record(relations=[(0, 1, 4, "named")]), "4 places of words and a label are needed, got"),
            (record(ner=[(0, 6, "person")]), r"mentions\[0\]"),
            (record(ner=[(-1, 0, "person")]), r"mentions\[0\]"),
            (record(relations=[(0, 0, 5, 4, "named")]), r"mentions\[1\]"),
        ],
    )
    def test_refused(self, tmp_path, item, message):
        path = tmp_path / "sea-train.json"
        path.write_text(item if isinstance(item, str) else json.dumps(item), encoding="utf-8")
        with pytest.raises(ValueError, match=message) as error:
            read_crossre(path)
        assert f"{path}, line 1" in str(error.value)

    def test_a_document_occurs_once(self, tmp_path):
        with pytest.raises(ValueError, match="line 3: doc_key must occur once, got 'sea-train-1' again"):
            read_crossre(write(tmp_path / "sea-train.json", record(), record()))

    def test_spans_beyond_the_sentence_can_be_left_out(self, tmp_path):
        item = record(ner=[(0, 9, "person"), (1, 1, "person")], relations=[(0, 9, 1, 1, "named")])
        found = read_crossre(write(tmp_path / "sea-train.json", item), on_bad_span="skip")
        assert [len(posts) for posts, _ in found.values()] == [0, 1]
        assert found["typing"][1].bad_spans == ["crossre-sea-train-1-e1"]
        assert found["relation"][1].bad_spans == ["crossre-sea-train-1-r1"]

    def test_files_of_domains(self, tmp_path):
        for name in ("sea-test", "sea-train", "land-dev", "labels"):
            write(tmp_path / f"{name}.json")
        names = [os.path.basename(path) for path in crossre_files(tmp_path)]
        assert names == ["land-dev.json", "sea-train.json", "sea-test.json"]
        assert [os.path.basename(path) for path in crossre_files(tmp_path, ["land"])] == ["land-dev.json"]
        with pytest.raises(FileNotFoundError, match=r"no file of sky, .* \(domains there: land, sea\)"):
            crossre_files(tmp_path, ["land", "sky"])


def test_command(tmp_path):
    relations = ["artifact", "compare", "named", "origin", "related-to"]
    types = ["person", "location", "event", "award", "misc"]
    records = [
        record(f"sea-train-{number}", [(0, 1, kind)], [(0, 1, 4, 5, relation)])
        for number, (relation, kind) in enumerate(zip(relations, types, strict=True))
    ]
    write(tmp_path / "raw" / "sea-train.json", *records)
    found = prepare("crossre", "--data", tmp_path / "raw", "--output_dir", tmp_path / "out")
    assert found == {"train": 4, "validation": 2, "test": 2}
    data = data_from_folder(tmp_path / "out")
    assert {task: len(names) for task, names in data.labels["train"].items()} == {"relation": 2, "typing": 2}
    assert set(data.label_types) > {"is made by"} and "person" in data.type_descriptions
    assert set(load_evaluation_data(str(tmp_path / "out")).labels["test"]) == {"relation", "typing"}
    with pytest.raises(ValueError, match="private must be set for 'crossre'"):
        check_public("crossre", False)


@pytest.mark.real
def test_counts_of_the_real_files(tmp_path, capsys):
    folder = os.environ.get("MGVMOE_DATA")
    if not folder:
        pytest.skip("MGVMOE_DATA does not name the folder with the real posts")
    found = prepare("crossre", "--data", os.path.join(folder, "crossre"), "--output_dir", tmp_path / "out")
    printed = capsys.readouterr().out
    assert "crossre, relation: 2,586 texts, 10,374 records (17 relations): 363 in ai-train.json" in printed
    assert "crossre, typing: 2,586 texts, 14,155 records (33 types): 532 in ai-train.json" in printed
    assert sum(found.values()) == 10_374 + 14_155 - 2_087
