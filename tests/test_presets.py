"""The presets in configuration/models/ are what MGVMoEConfig takes, and hold the paper's values."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from modeling_mgvmoe import MGVMoEConfig, MGVMoEForZeroShotIE

PRESETS = sorted((Path(__file__).resolve().parents[1] / "configuration" / "models").glob("*.json"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_has_known_keys_only_and_makes_a_model(path):
    values = json.loads(path.read_text(encoding="utf-8"))
    known = {field.name for field in fields(MGVMoEConfig)} | {"model_type"}
    assert set(values) <= known
    config = MGVMoEConfig.from_pretrained(path)
    for part in ("text_config", "vision_config"):
        assert all(hasattr(getattr(config, part), key) for key in values[part])
    with torch.device("meta"):
        model = MGVMoEForZeroShotIE(config)
    assert model.mgvmoe.experts.expert_means.weight.shape == (768 * 8, 768)


def test_the_papers_two_tasks_differ_in_projection_and_mentions():
    assert [path.stem for path in PRESETS] == ["paper_met", "paper_mre"]
    typing, relation = (MGVMoEConfig.from_pretrained(path) for path in PRESETS)
    assert (typing.projection_dim, typing.max_mentions) == (768, 1)
    assert (relation.projection_dim, relation.max_mentions) == (256, 2)
    assert relation.vision_config.image_size == 384
