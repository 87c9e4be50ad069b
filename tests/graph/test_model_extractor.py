"""Candidate labels of an extraction, from files of every kind."""

import json
from pathlib import Path

import pytest

from modeling_mgvmoe.graph.model_extractor import (
    CandidateLabels,
    ExtractionOptions,
    ModelExtractor,
    read_candidate_labels,
)
from tests.support.from_scratch import scratch_model

ROOT = Path(__file__).resolve().parents[2]
LABELS = {"typing_labels": ["boat", "bird", "cake"], "relation_labels": ["greets", "chases"]}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def written(folder, name, content):
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def test_candidates_of_every_kind_of_file(tmp_path):
    own = written(tmp_path, "own.json", {**LABELS, "symmetric": ["greets"], "inverses": {}})
    labels = read_candidate_labels([own])
    assert (labels.typing, labels.relation) == (("boat", "bird", "cake"), ("greets", "chases"))
    assert labels.options == {"symmetric": ["greets"]}
    mnre, crossner = (ROOT / "configuration" / "labels" / name for name in ("mnre.json", "crossner.json"))
    both = read_candidate_labels([mnre, crossner])
    assert "peer" in " ".join(both.relation) and "none" not in both.relation and len(both.typing) > 20
    assert {"peer of", "sibling of"} <= set(both.options["symmetric"]) <= set(both.relation)
    assert set(both.options["label_types"]) == set(both.relation)
    assert set(both.options["label_descriptions"]) == {*both.relation, *both.typing}
    assert "label_types" not in read_candidate_labels([mnre], with_types=False).options
    prepared = written(
        tmp_path,
        "labels.json",
        {
            "dataset": "mine", "split": None, "label_types": {}, "type_descriptions": {},
            "labels": {split: {"typing": [f"{split} boat"]} for split in ("train", "validation", "test")},
            "label_descriptions": {"test boat": "It swims."},
        },
    )  # fmt: skip
    assert read_candidate_labels([prepared]).typing == ("test boat",)
    assert read_candidate_labels([prepared], split="train").typing == ("train boat",)
    with pytest.raises(ValueError, match="label_split must be one of train, validation, test, got 'dev'"):
        read_candidate_labels([prepared], split="dev")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"typing_labels": []}, "at least one label is needed"),
        ({"typing": ["boat"]}, "unknown key 'typing'; did you mean 'typing_labels'?"),
        ({"typing_labels": ["boat", "boat"]}, "typing_labels: labels must be distinct"),
        ({"typing_labels": "boat"}, "typing_labels must be a list of strings, got 'boat'"),
    ],
)
def test_files_of_candidates_are_checked(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_candidate_labels([written(tmp_path, "labels.json", content)])


def test_files_that_contradict_each_other_are_refused(tmp_path):
    one = written(tmp_path, "one.json", {"typing_labels": ["a"], "label_descriptions": {"a": "x"}, "symmetric": ["r"]})
    other = written(
        tmp_path, "other.json", {"relation_labels": ["r"], "label_descriptions": {"b": "x"}, "symmetric": ["s"]}
    )
    merged = read_candidate_labels([one, other])
    assert merged.options == {"label_descriptions": {"a": "x", "b": "x"}, "symmetric": ["r", "s"]}
    third = written(tmp_path, "third.json", {"typing_labels": ["a"], "label_descriptions": {"a": "y"}})
    with pytest.raises(ValueError, match="third.json: label_descriptions of 'a' differs from another file's"):
        read_candidate_labels([one, third])


def test_a_reason_names_the_post_and_no_place_in_its_batch():
    extractor = ModelExtractor(*scratch_model(), CandidateLabels(("boat", "bird")), ExtractionOptions())
    good = {"id": "1", "text": "Kelo sails", "mentions": [(0, 4)]}
    first, second = extractor([good, {"id": "2", "text": "Mura sails", "mentions": [(0, 40)]}])
    assert "error" not in first and second["error"].startswith("the post 'Mura sails', mentions[0]")
