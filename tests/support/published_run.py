"""The folder of a run, as examples/train.py leaves it, around a tiny random model."""

import json
from pathlib import Path

from modeling_mgvmoe.training.arguments import parse_arguments
from modeling_mgvmoe.training.run_metadata import write_run_record
from tests.support.from_scratch import scratch_model
from tests.support.small_runs import small_data

RECIPE = Path(__file__).resolve().parents[2] / "configuration/recipes/sketchbook.yaml"
SCORES = {"n": 40, "accuracy": 0.75, "macro_f1": 0.7, "chance": 0.25, "majority": 0.5}


def make_run(folder):
    """Model, processor, record and metrics; returns the model and its processor."""
    model, processor = scratch_model()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    arguments = parse_arguments(["--config", str(RECIPE), "--output_dir", str(folder), "--seed", "7"])
    write_run_record(*arguments, small_data(), (1234, 1000))
    metrics = {"best": {"step": 3, "validation": {"typing": SCORES}}, "history": []}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return model, processor
