"""The presets in configuration/models/ are what MGVMoEConfig takes, and hold the paper's values."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from modeling_mgvmoe import MGVMoEConfig, MGVMoEForZeroShotIE
from modeling_mgvmoe.configuration_mgvmoe import DEFAULTS_0_1
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
    with pytest.raises(TypeError, match="paper got \\['kl_coef'\\], which MGVMoEConfig does not have"):
        MGVMoEConfig.paper("mre", kl_coef=0.1)


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


def own_fields(config):
    """The fields of `MGVMoEConfig` alone, and what the presets say of the backbones."""
    return {item.name: getattr(config, item.name) for item in fields(MGVMoEConfig) if not item.name.endswith("_config")
            and item.name in MGVMoEConfig.__annotations__}  # fmt: skip


@pytest.mark.parametrize("task", ["met", "mre"])
def test_the_papers_setting_is_that_of_its_files(task):
    config, saved = MGVMoEConfig.paper(task), MGVMoEConfig.from_pretrained(PRESETS[0].parent / f"paper_{task}.json")
    assert own_fields(config) == own_fields(saved)
    for name, wanted in json.loads((PRESETS[0].parent / f"paper_{task}.json").read_text(encoding="utf-8")).items():
        if name.endswith("_config"):
            assert {key: getattr(getattr(config, name), key) for key in wanted} == wanted
    assert MGVMoEConfig.paper(task, num_experts=3, text_config={"model_type": "roberta"}).num_experts == 3
    assert MGVMoEConfig.paper(task, text_config={"model_type": "roberta"}).text_config.model_type == "roberta"


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="task must be one of met, mre, got 'ner'"):
        MGVMoEConfig.paper("ner")


def test_the_defaults_are_those_of_the_weights_that_ship():
    shipped = own_fields(MGVMoEConfig.from_pretrained(PRESETS[0].parent / "mgvmoe-small"))
    of_weights = {name: shipped[name] for name in ("text_base", "score_calibration")}
    assert {**own_fields(MGVMoEConfig()), **of_weights} == shipped


def test_a_file_without_a_field_has_the_value_of_version_0_1(tmp_path):
    """Saved before the field was there, or by hand; `MGVMoEConfig()` has other values."""
    (tmp_path / "config.json").write_text('{"model_type": "mgvmoe", "num_experts": 5}', encoding="utf-8")
    config = MGVMoEConfig.from_pretrained(tmp_path)
    assert {name: getattr(config, name) for name in DEFAULTS_0_1} == DEFAULTS_0_1 and config.num_experts == 5
    assert all(getattr(MGVMoEConfig(), name) != value for name, value in DEFAULTS_0_1.items())


@pytest.mark.parametrize("config", [MGVMoEConfig(), MGVMoEConfig.paper("mre")], ids=["best", "paper"])
def test_a_saved_file_holds_every_field_so_that_no_default_is_asked(config, tmp_path):
    config.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert set(own_fields(config)) <= set(content)
    assert own_fields(MGVMoEConfig.from_pretrained(tmp_path)) == own_fields(config)
