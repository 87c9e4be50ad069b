"""Which part learns how fast, and when."""

import json
import math

import pytest
import torch
from torch.optim import SGD

from modeling_mgvmoe.training.arguments import SCHEDULES, TrainingArguments, parse_arguments
from modeling_mgvmoe.training.build import build_model, load_data
from modeling_mgvmoe.training.loop import train
from modeling_mgvmoe.training.optimization import (
    current_rates,
    learning_rates,
    make_optimizer,
    make_schedule,
    parameter_groups,
    part_of,
)
from tests.support.documents import ROOT
from tests.support.small_runs import small_data, small_trainee, without_noise
from tests.support.tiny import doubled, tiny_inputs, tiny_model


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


# Rates by part


def test_parts_by_name():
    assert part_of("mgvmoe.text_model.embeddings.word_embeddings.weight") == "text"
    assert part_of("mgvmoe.vision_model.layers.0.attention.q_proj.weight") == "vision"
    assert part_of("perturbation") == "perturbation"
    # Inside of wrappers: PEFT's adapters, DDP, torch.compile.
    assert part_of("base_model.model.mgvmoe.text_model.layer.0.query.lora_A.default.weight") == "text"
    assert part_of("base_model.model.mgvmoe.vision_model.layers.0.q_proj.lora_B.default.weight") == "vision"
    assert part_of("module.perturbation") == part_of("_orig_mod.perturbation") == "perturbation"
    assert part_of("base_model.model.mgvmoe.experts.router.lora_A.default.weight") == "heads"
    for name in ("mgvmoe.vision_projection.weight", "mgvmoe.experts.router.bias", "candidate_projection.weight"):
        assert part_of(name) == "heads"


@pytest.mark.parametrize("freeze_vision", [True, False])
def test_every_parameter_is_in_the_group_of_its_part(freeze_vision):
    model = tiny_model(freeze_vision=freeze_vision)
    rates = {"text": 0.1, "vision": 0.2, "heads": 0.3, "perturbation": 0.4}
    groups = parameter_groups(model, 0.01, rates)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(grouped) == len(set(grouped)) and set(grouped) == trainable
    parts = {"text", "heads", "perturbation"} | (set() if freeze_vision else {"vision"})
    assert current_rates(torch.optim.AdamW(groups)) == {part: rates[part] for part in parts}
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["lr"] == rates[part_of(name)]
            decays = parameter.ndim > 1 and name != "perturbation"
            assert group["weight_decay"] == (0.01 if decays else 0)
            assert group["name"] == part_of(name) + ("" if decays else " (no decay)")
    assert all("lr" not in group for group in parameter_groups(model, 0.01))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (1, 1, 1, 1)),
        ({"head": 2}, (1, 1, 2, 2)),
    ],
)
def test_a_rate_that_is_not_given(given, expected):
    arguments = TrainingArguments(learning_rate=1, **{f"{name}_learning_rate": rate for name, rate in given.items()})
    assert learning_rates(arguments) == dict(zip(("text", "vision", "heads", "perturbation"), expected, strict=True))


def test_a_rate_must_be_positive():
    with pytest.raises(ValueError, match="head_learning_rate must be greater than 0, got -1"):
        TrainingArguments(head_learning_rate=-1)


@pytest.mark.parametrize("freeze_vision", ["true", "false"])
def test_a_recipe_trains_the_vision_tower_or_leaves_it(tmp_path, freeze_vision):
    flags = ["--config", str(ROOT / "configuration/recipes/sketchbook.yaml"), "--posts_per_class", "1"]
    flags += ["--eval_posts_per_class", "1", "--max_train_steps", "2", "--per_device_train_batch_size", "4"]
    flags += ["--model_config", f'{{"freeze_vision": {freeze_vision}}}', "--output_dir", str(tmp_path)]
    flags += ["--head_learning_rate", "0.25"]
    model_arguments, data_arguments, arguments = parse_arguments(flags)
    data = load_data(data_arguments)
    model, processor = build_model(model_arguments, data)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    train(model, processor, data, arguments)
    moved = {part_of(name) for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {"text", "heads", "perturbation"} | ({"vision"} if freeze_vision == "false" else set())
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    # No warm-up in 2 steps: at the second, half of the peak is left.
    rates = {key.removeprefix("learning_rate/"): value for key, value in last.items() if key.startswith("learning_r")}
    expected = {"text": 5e-4, "heads": 0.125, "perturbation": 0.125}
    assert rates == pytest.approx(expected | ({"vision": 5e-4} if freeze_vision == "false" else {}))


# Schedules


def rates_of(schedule_type, steps=10):
    optimizer = SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in (1.0, 2.0)])
    arguments = TrainingArguments(max_train_steps=steps, warmup_ratio=0.2, lr_scheduler_type=schedule_type)
    schedule, rates, states = make_schedule(optimizer, arguments), [], []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        states.append(json.loads(json.dumps(schedule.state_dict())))
        optimizer.step()
        schedule.step()
    return rates, states, optimizer, schedule


def test_schedules_by_hand():
    assert [rate for rate, _ in rates_of("linear")[0]] == [0, 0.5, 1, *(k / 8 for k in range(7, 0, -1))]
    cosine = [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert [rate for rate, _ in rates_of("cosine")[0]] == pytest.approx([0, 0.5, *cosine])
    assert [rate for rate, _ in rates_of("constant")[0]] == [1] * 10
    assert [rate for rate, _ in rates_of("constant_with_warmup")[0]] == [0, 0.5, *[1] * 8]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_scales_all_groups_alike_and_goes_on_from_a_checkpoint(name):
    rates, states, optimizer, schedule = rates_of(name)
    assert all(two == pytest.approx(2 * one) for one, two in rates)
    schedule.load_state_dict(states[4])
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == rates[5]


def test_schedules_that_need_more_than_the_step_are_refused(capsys):
    with pytest.raises(ValueError, match="lr_scheduler_type must be one of linear, .*, got 'reduce_lr_on_plateau'"):
        TrainingArguments(lr_scheduler_type="reduce_lr_on_plateau")
    with pytest.raises(SystemExit):
        parse_arguments(["--model_config", '{"margin": 1}', "--lr_scheduler_type", "greedy"])
    assert "invalid choice: 'greedy'" in capsys.readouterr().err


# Memory and batches


def test_gradient_checkpointing_computes_twice_and_changes_nothing():
    found = []
    for checkpointing in (False, True):
        model, inputs, calls = tiny_model(freeze_vision=False).double().train(), doubled(tiny_inputs()), []
        make_optimizer(model, TrainingArguments(gradient_checkpointing=checkpointing))
        layer = model.mgvmoe.text_model.encoder.layer[0].attention
        layer.register_forward_hook(lambda *given, calls=calls: calls.append(1))
        torch.manual_seed(0)
        output = model(**inputs)
        output.loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((output.loss.item(), gradients, len(calls)))
    # Posts and labels, each again on the way back.
    assert (found[0][2], found[1][2]) == (2, 4)
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("coupled", "equal"), [(0.0, True), (1.0, False)])
def test_two_batches_of_four_are_one_of_eight_but_for_what_couples_the_posts(tmp_path, coupled, equal):
    """E9 is a mean over posts. E6 compares the posts of one batch with each other, and E11 likewise."""
    weights = []
    for batch_size, batches in ((8, 1), (4, 2)):
        model, processor = small_trainee()
        model = model.double()
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        for name in ("kl", "router_entropy", "consistency"):
            setattr(model.config, f"{name}_loss_coef", 0.0)
        model.config.alignment_loss_coef = coupled
        arguments = TrainingArguments(
            output_dir=str(tmp_path / str(batch_size)), max_train_steps=1, per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=batches, learning_rate=1e-3, warmup_ratio=0.0, max_grad_norm=0.0,
        )  # fmt: skip
        with without_noise():
            train(model, processor, small_data(), arguments)
        weights.append(model.mgvmoe.experts.expert_means.weight.detach().clone())
    difference = (weights[0] - weights[1]).abs().max().item()
    assert (difference < 1e-9) == equal
