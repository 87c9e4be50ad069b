"""Flags of an evaluation, without what runs it."""

import argparse

import pytest

from modeling_mgvmoe.evaluation.command import add_evaluation_flags, evaluation_arguments
from tests.support.from_scratch import scratch_model


def flags_of(*words):
    parser = argparse.ArgumentParser()
    add_evaluation_flags(parser)
    return parser.parse_args([str(word) for word in words])


def test_flags_become_arguments(tmp_path):
    for part in scratch_model():
        part.save_pretrained(tmp_path / "model")
    base = ["--model", tmp_path / "model", "--dataset", "sketchbook"]
    found = evaluation_arguments(flags_of(*base, "--batch-size", 3, "--device", "cpu"), "as typed")
    assert (found.model, found.dataset, found.protocol) == (str(tmp_path / "model"), "sketchbook", "unseen")
    assert (found.seeds, found.batch_size, found.device, found.command) == ((0,), 3, "cpu", "as typed")
    assert found.max_posts is None and found.output_dir == "runs/evaluation"
    with pytest.raises(ValueError, match="protocol .*'closed'"):
        evaluation_arguments(flags_of(*base, "--protocol", "closed"), "")
    with pytest.raises(FileNotFoundError, match="model: "):
        evaluation_arguments(flags_of("--model", "./nowhere", "--dataset", "sketchbook"), "")
