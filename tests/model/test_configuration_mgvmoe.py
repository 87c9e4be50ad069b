"""The presets in configuration/models/ are what MGVMoEConfig takes, and hold the paper's values."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from modeling_mgvmoe import MGVMoEConfig, MGVMoEForZeroShotIE
from modeling_mgvmoe.training.arguments import parse_arguments

PRESETS = sorted((Path(__file__).resolve().parents[2] / "configuration" / "models").glob("*.json"))


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
    hidden_size = config.text_config.hidden_size
    assert model.mgvmoe.experts.expert_means.weight.shape == (hidden_size * 8, hidden_size)


def test_the_papers_two_tasks_differ_in_projection_and_mentions():
    assert [path.stem for path in PRESETS] == ["mgvmoe_small", "paper_met", "paper_mre"]
    typing, relation = (MGVMoEConfig.from_pretrained(path) for path in PRESETS[1:])
    assert (typing.projection_dim, typing.max_mentions) == (768, 1)
    assert (relation.projection_dim, relation.max_mentions) == (256, 2)
    assert relation.vision_config.image_size == 384


RECIPES = sorted((PRESETS[0].parents[1] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_goes_through_the_parser_of_the_script(path):
    parse_arguments(["--config", str(path), "--output_dir", "nowhere"])


@pytest.mark.parametrize("name", ["mgvmoe_small", "paper_met", "paper_mre"])
def test_a_recipe_trains_what_the_preset_of_its_name_is(name):
    preset = json.loads((PRESETS[0].parent / f"{name}.json").read_text(encoding="utf-8"))
    recipe = parse_arguments(["--config", str(PRESETS[0].parents[1] / "recipes" / f"{name}.yaml")])[0]
    backbones = {"model_type", "text_config", "vision_config"}  # a recipe names pretrained ones
    defaults = {item.name: item.default for item in fields(MGVMoEConfig)}
    expected = {key: value for key, value in preset.items() if key not in backbones}
    given = {key: value for key, value in recipe.model_config.items() if key not in backbones}
    assert {**defaults, **given} == {**defaults, **expected}
