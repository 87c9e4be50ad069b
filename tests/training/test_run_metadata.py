"""`run.json`: what a finished run was."""

import json

import pytest

from modeling_mgvmoe.publishing.repository import CardFacts, make_card
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


@pytest.mark.parametrize(("content", "rule"), [("[", "it must be JSON"), ("{}", "a record of a run has arguments")])
def test_a_broken_record_is_named(tmp_path, content, rule):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=f"run.json: {rule}"):
        read_run_record(str(tmp_path))
