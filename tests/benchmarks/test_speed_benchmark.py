"""The benchmarks of speed and growth run and write what they promise; no time is judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.slow


def run(script, *flags):
    done = subprocess.run([sys.executable, BENCHMARKS / script, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_a_row_of_speed_has_its_target_and_leaves_the_other_rows(tmp_path):
    file = tmp_path / "speed.json"
    first = {"seconds": 1.0, "units": 1.0, "peak_gib": 1.0, "target": None, "met": None, "measured": 1.0, "unit": "s"}
    file.write_text(json.dumps({"first": {**first, "u": None, "least": 1.0, "greatest": 1.0}}))
    shown = run("speed.py", "--json", file, "--repetitions", "1", "--only", "train_real_bf16").stdout
    rows = json.loads(file.read_text())
    assert list(rows) == ["first", "train_real_bf16"]
    assert rows["first"]["seconds"] == 1.0 and rows["train_real_bf16"]["target"] == 0.25
    # Without the data a row says what it needs and is not met.
    assert (
        rows["train_real_bf16"]["met"] is False and "--data" in rows["train_real_bf16"]["error"] and "--data" in shown
    )


def test_growth_draws_its_figure(tmp_path):
    figure, file = tmp_path / "growth.png", tmp_path / "growth.json"
    run("growth.py", "--json", file, "--figure", figure, "--repetitions", "1", "--tiny")
    assert figure.stat().st_size > 10_000
    assert all(len(rows) == 2 and rows[1]["seconds"] > 0 for rows in json.loads(file.read_text())["rows"].values())
