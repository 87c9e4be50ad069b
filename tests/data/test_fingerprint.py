"""Digests of names and of models."""

import copy

import torch

from modeling_mgvmoe.data.fingerprint import (
    FREE_ARGUMENTS,
    differences,
    digest,
    identity,
    module_fingerprint,
    place_by_hash,
)
from modeling_mgvmoe.training.arguments import TrainingArguments


def test_the_place_of_a_name_is_its_hash():
    # SHA-256 of "a" begins with ca978112ca1bbdca.
    assert place_by_hash("a") == 0xCA978112CA1BBDCA / 2**64
    places = [place_by_hash(f"post-{number}") for number in range(1000)]
    # 1,000 uniform numbers: their mean has a deviation of 0.29 / sqrt(1000) = 0.009.
    assert min(places) >= 0 and max(places) < 1 and abs(sum(places) / 1000 - 0.5) < 0.05


def test_a_model_is_its_weights_buffers_and_configuration():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    config = {"size": 2, "text": {"width": 3, "dtype": "float32"}}
    known = module_fingerprint(module, config)
    assert module_fingerprint(copy.deepcopy(module), dict(config)) == known
    # Where it came from, and how it is run, changes nothing.
    assert module_fingerprint(module, {"_name_or_path": "x", "size": 2, "text": {"width": 3}}) == known
    assert module_fingerprint(module, {**config, "size": 3}) != known
    assert module_fingerprint(module, {"size": 2, "text": {"width": 4}}) != known
    for name in ("0.weight", "1.running_mean"):
        other = copy.deepcopy(module)
        other.state_dict()[name].view(-1)[0].add_(1e-6)
        assert module_fingerprint(other, config) != known
    assert module_fingerprint(copy.deepcopy(module).double(), config) != known


CONFIG = {"num_experts": 3, "dtype": "float32", "text_config": {"hidden_size": 16, "_name_or_path": "x"}}
POST = {"id": "a", "task": "typing", "label": "boat", "input_ids": [1, 2]}


def of(config=CONFIG, post=POST, labels=("boat",), processes=1, **arguments):
    values = {"output_dir": "out", "max_train_steps": 5, **arguments}
    return identity(TrainingArguments(**values), config, {"train": [post]}, {"train": labels}, processes)


def test_what_may_change_between_two_starts():
    free = {"output_dir": "elsewhere", "per_device_eval_batch_size": 7, "num_threads": 1, "logging_steps": 9}
    assert set(free) <= set(FREE_ARGUMENTS) and of(**free) == of()
    loaded = {**CONFIG, "dtype": "bfloat16", "text_config": {"hidden_size": 16, "_name_or_path": "y"}}
    assert of(config=loaded) == of()
    assert of(post={**POST, "image": "another.png"}) == of()


def test_what_may_not_is_named():
    for changed, name in (
        (of(learning_rate=0.5), "learning_rate was"),
        (of(processes=2), "num_processes was 1 and is 2"),
        (of(config={**CONFIG, "num_experts": 4}), "model_config.num_experts was 3 and is 4"),
        (of(config={**CONFIG, "text_config": {"hidden_size": 32}}), "model_config.text_config.hidden_size was 16"),
        (of(post={**POST, "input_ids": [2, 1]}), "data.train posts was"),
        (of(post={**POST, "label": "bird"}), "data.train posts was"),
        (of(labels=("bird",)), "data.labels was"),
    ):
        (told,) = differences(of(), changed)
        assert told.startswith(name)
    assert list(differences(of(), of())) == []


def test_a_digest_is_that_of_values_in_any_order_and_of_files(tmp_path):
    file = tmp_path / "posts.jsonl"
    file.write_text("a", encoding="utf-8")
    known = digest({"a": 1, "b": [2]}, str(file))
    assert known == digest({"b": [2], "a": 1}, str(file)) != digest({"a": 1, "b": [2]})
    assert known != digest({"a": 1, "b": [3]}, str(file))
    file.write_text("b", encoding="utf-8")
    assert known != digest({"a": 1, "b": [2]}, str(file))
    # SHA-256 of "{}".
    assert digest({}).startswith("44136fa355b3678a")
