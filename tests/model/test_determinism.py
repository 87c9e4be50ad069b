"""One seed, one kind of machine, one result: to the last bit, in training, in evaluation, and in a fresh process."""

import dataclasses
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modeling_mgvmoe import ZeroShotMultimodalIEPipeline
from modeling_mgvmoe.inference.predict import evaluate_conditions
from modeling_mgvmoe.training.arguments import TrainingArguments
from modeling_mgvmoe.training.build import build_model
from modeling_mgvmoe.training.loop import train
from tests.support.from_scratch import LABELS, RELATIONS, posts, scratch_model
from tests.support.small_runs import small_data, small_trainee


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def run(folder, **changes):
    values = {"max_train_steps": 4, "eval_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 3e-3}
    return train(*small_trainee(), small_data(), TrainingArguments(output_dir=str(folder), **{**values, **changes}))


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def equal(one, other):
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def disturb():
    """What another part of a program may have done to the generators before."""
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    torch.rand(3), np.random.rand(3), random.random()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seed": 3, "gradient_accumulation_steps": 2, "class_order": "in_turn"},
        {"class_balanced": False, "gradient_checkpointing": True},
    ],
)
def test_two_runs_with_one_seed_are_one(tmp_path, changes):
    first = run(tmp_path / "first", **changes)
    disturb()
    second = run(tmp_path / "second", **changes)
    assert equal(weights(tmp_path / "first"), weights(tmp_path / "second"))
    assert first == second
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("first", "second")]
    assert metrics[0] == metrics[1]


def test_another_seed_is_another_run(tmp_path):
    run(tmp_path / "first"), run(tmp_path / "second", seed=1)
    assert not equal(weights(tmp_path / "first"), weights(tmp_path / "second"))


def test_a_model_from_nothing_depends_on_its_seed_alone(tmp_path):
    from tests.support.from_scratch import scratch_config

    arguments = dataclasses.make_dataclass("Arguments", ["model_config", "mention_style", "model_name_or_path",
        "text_model_name_or_path", "vision_model_name_or_path", "max_length", "hypothesis_template"])(
            scratch_config(), None, None, None, None, 48, None)  # fmt: skip
    built = []
    for seed in (0, 0, 1):
        disturb()
        built.append(build_model(arguments, small_data(), seed))
    (first, one), (second, other), (third, _) = built
    assert equal(first.state_dict(), second.state_dict())
    assert not equal(first.state_dict(), third.state_dict())
    assert one.tokenizer.get_vocab() == other.tokenizer.get_vocab()


def test_two_evaluations_are_one():
    model, processor = small_trainee()
    data = small_data()
    found = []
    for _ in range(2):
        disturb()
        found.append(evaluate_conditions(model, processor, data.posts["test"], data.labels["test"], batch_size=3))
    assert found[0] == found[1]


def test_two_rankings_and_two_extractions_are_one_and_samples_need_a_seed():
    model, processor = scratch_model()
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    disturb()
    first = pipe(posts(), candidate_labels=[*LABELS, *RELATIONS], batch_size=2)
    pipe.clear_candidate_cache()
    torch.rand(3)
    assert pipe(posts(), candidate_labels=[*LABELS, *RELATIONS], batch_size=2) == first
    whole = [{"text": "Kelo greets Mura", "mentions": [(0, 4), (12, 16)]}]
    extracted = [model.extract(whole, LABELS, RELATIONS, processor=processor) for _ in range(2)]
    assert extracted[0] == extracted[1]
    inputs = processor(text="Kelo sails", mentions=[(0, 4)], candidate_labels=LABELS, return_tensors="pt")
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        with torch.no_grad():
            drawn.append(model(**inputs, num_samples=3).sample_logits)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


FRESH = """
import sys, torch
torch.set_num_threads(1)
from modeling_mgvmoe.training.arguments import TrainingArguments
from modeling_mgvmoe.training.loop import train
from tests.support.small_runs import small_data, small_trainee
train(*small_trainee(), small_data(), TrainingArguments(
    output_dir=sys.argv[1], max_train_steps=4, eval_steps=2, per_device_train_batch_size=4, learning_rate=3e-3,
    mixed_precision="no"))
"""


@pytest.mark.slow
def test_a_fresh_process_with_another_order_of_sets_is_the_same_run(tmp_path, monkeypatch):
    run(tmp_path / "here")
    monkeypatch.setenv("PYTHONHASHSEED", "1")  # this process has a seed of its own
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    subprocess.run([sys.executable, "-c", FRESH, str(tmp_path / "fresh")], check=True, cwd=tmp_path)
    assert equal(weights(tmp_path / "here"), weights(tmp_path / "fresh"))
