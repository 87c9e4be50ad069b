"""States of a frozen text encoder that are read once: training with them equals training that reads every step."""

import copy

import torch

from modeling_mgvmoe.data import state_cache
from modeling_mgvmoe.data.encoding import encode_splits
from modeling_mgvmoe.training import loop
from modeling_mgvmoe.training.arguments import TrainingArguments
from modeling_mgvmoe.training.build import model_from_scratch
from tests.support.from_scratch import scratch_config
from tests.support.small_runs import small_data


def residual_trainee(**overrides):
    config = scratch_config(
        expert_type="residual", score="similarity", objective="cross_entropy", adversary="none", freeze_text=True,
        expert_prior_std=0.1, **overrides,
    )  # fmt: skip
    torch.manual_seed(0)
    model, processor = model_from_scratch(config, small_data().training_texts(), max_length=48, mention_style="prefix")
    return model.double(), processor


def test_training_is_the_same_with_and_without(tmp_path, monkeypatch):
    model, processor = residual_trainee()
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "with"), max_train_steps=4, per_device_train_batch_size=4, eval_steps=4,
        learning_rate=1e-2, mixed_precision="no",
    )  # fmt: skip
    with_cache, without = copy.deepcopy(model), copy.deepcopy(model)
    loop.train(with_cache, processor, small_data(), arguments)
    monkeypatch.setattr(loop, "cache_states", lambda *arguments: None)
    arguments.output_dir = str(tmp_path / "without")
    loop.train(without, processor, small_data(), arguments)
    before = model.state_dict()
    for (name, value), other in zip(with_cache.state_dict().items(), without.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=1e-9)
        assert ("text_model" in name) <= torch.equal(value, before[name])
    assert not torch.equal(with_cache.mgvmoe.experts.expert_means, model.mgvmoe.experts.expert_means)


def test_only_of_a_frozen_encoder_behind_residual_experts():
    model, _ = residual_trainee()
    assert state_cache.caches_states(model)
    model.mgvmoe.text_model.requires_grad_(True)
    assert not state_cache.caches_states(model)


def test_batches_hold_states_instead_of_tokens():
    model, processor = residual_trainee()
    encoded, collators = encode_splits(small_data(), processor, ("train",), with_types=True)
    state_cache.cache_states(model, encoded, collators)
    batch = collators["train"](encoded["train"][:3])
    assert not any(name.endswith("input_ids") for name in batch)
    assert batch["post_states"].shape == (3, 4, model.config.hidden_size)
    assert len(batch["candidate_states"]) == len(collators["train"].candidate_labels)
    assert model(**batch).loss.isfinite()
