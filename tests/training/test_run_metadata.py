"""`run.json`: what a finished run was."""

import json

import pytest

from modeling_mgvmoe.publishing.repository import CardFacts, default_license, make_card
from modeling_mgvmoe.training.arguments import parse_arguments
from modeling_mgvmoe.training.run_metadata import read_run_record, write_run_record
from tests.support.small_runs import small_data


def test_a_record_names_folders_by_their_last_part(tmp_path):
    (tmp_path / "posts").mkdir()
    (tmp_path / "posts/labels.json").write_text(
        json.dumps({"dataset": "mnre", "split": "seed-0", "label_set_version": 2})
    )
    (tmp_path / "bert").mkdir()
    arguments = parse_arguments([
        "--output_dir", str(tmp_path), "--dataset", str(tmp_path / "posts"),
        "--vision_model_name_or_path", "google/vit",
        "--text_model_name_or_path", str(tmp_path / "bert"),
    ])  # fmt: skip
    write_run_record(*arguments, small_data(), (1, 1))
    record = read_run_record(str(tmp_path))
    assert str(tmp_path) not in json.dumps(record)
    assert record["dataset"] == {"name": "mnre", "split": "seed-0", "label_set_version": 2}
    card = make_card(CardFacts("kelo/boats", record=record, license="other"))
    assert card.data.base_model == ["google/vit"]  # a folder is no name on the Hub
    assert "bert, google/vit" in card.text


def test_a_record_names_every_dataset_and_the_licence_is_asked_for_each(tmp_path):
    for name in ("mnre", "fewrel"):
        (tmp_path / name).mkdir()
        content = {"dataset": name, "split": "seed-0", "label_set_version": len(name)}
        (tmp_path / name / "labels.json").write_text(json.dumps(content))
    arguments = parse_arguments([
        "--output_dir", str(tmp_path), "--dataset", f"{tmp_path}/mnre, {tmp_path}/fewrel", "--text_model_name_or_path",
        "bert", "--vision_model_name_or_path", "google/vit",
    ])  # fmt: skip
    write_run_record(*arguments, small_data(), (1, 1))
    record = read_run_record(str(tmp_path))
    assert record["dataset"] == {"name": "mnre, fewrel", "split": "seed-0", "label_set_version": None}
    with pytest.raises(ValueError, match="it was trained on mnre, fewrel, and its tweets may not be passed on"):
        default_license(record)
    assert make_card(CardFacts("kelo/boats", record=record, license="other")).data.datasets == ["mnre", "fewrel"]


@pytest.mark.parametrize(("content", "rule"), [("[", "it must be JSON"), ("{}", "a record of a run has arguments")])
def test_a_broken_record_is_named(tmp_path, content, rule):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=f"run.json: {rule}"):
        read_run_record(str(tmp_path))
