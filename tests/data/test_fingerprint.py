"""Digests of names and of models."""

import copy

import torch

from modeling_mgvmoe.data.fingerprint import module_fingerprint, place_by_hash


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
