import dataclasses
import math
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING, PreTrainedConfig

from modeling_mgvmoe import MGVMoEConfig
from modeling_mgvmoe.training.arguments import (
    DataArguments,
    ModelArguments,
    TrainingArguments,
    parse_arguments,
    read_recipe,
)
from modeling_mgvmoe.training.build import build_model

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configuration" / "recipes").rglob("*.yaml"))
MODEL = "model: {model_config: {num_experts: 2}}\n"


def recipe(folder, text):
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return str(folder / "recipe.yaml")


def test_a_recipe_and_flags_over_it(tmp_path):
    path = recipe(
        tmp_path,
        MODEL + "data: {dataset_seed: 3}\n"
        "training: {learning_rate: 1e-4, weight_decay: 1, keep_best: false, num_threads: 2, output_dir: 2026}\n",
    )
    model, data, training = parse_arguments(["--config", path])
    assert model.model_config == {"num_experts": 2}
    assert (data.dataset, data.dataset_seed) == ("sketchbook", 3)
    assert training.learning_rate == 1e-4  # YAML reads 1e-4 as a string
    assert isinstance(training.weight_decay, float)
    assert (training.keep_best, training.num_threads, training.output_dir) == (False, 2, "2026")

    flags = ["--learning_rate", "0.5", "--keep_best", "true", "--no_class_balanced", "--dataset=posts"]
    model, data, training = parse_arguments([*flags, f"--config={path}", "--model_config", '{"fusion": "query"}'])
    assert model.model_config == {"num_experts": 2, "fusion": "query"}  # merged
    assert (data.dataset, data.dataset_seed) == ("posts", 3)
    assert (training.learning_rate, training.keep_best, training.class_balanced) == (0.5, True, False)


def test_model_config_of_flag_and_recipe_are_merged_also_within_sub_configurations(tmp_path):
    text = "model: {model_config: {text_config: {model_type: bert, hidden_size: 32}, fusion: query}}\n"
    flags = ["--config", recipe(tmp_path, text), "--model_config"]
    model, _, _ = parse_arguments([*flags, '{"text_config": {"hidden_size": 16}}'])
    assert model.model_config == {"text_config": {"model_type": "bert", "hidden_size": 16}, "fusion": "query"}
    model, _, _ = parse_arguments([*flags, '{"text_config": {"model_type": "roberta"}}'])
    assert model.model_config["text_config"] == {"model_type": "roberta"}


def test_model_config_with_an_unknown_key_or_without_sub_configurations():
    with pytest.raises(ValueError, match="model_config: unknown key 'fusionn'; did you mean 'fusion'"):
        ModelArguments(model_config={"fusionn": "query"})
    with pytest.raises(ValueError, match="--text_model_name_or_path and --vision_.* needs text_config and vision"):
        build_model(ModelArguments(model_config={"fusion": "query"}), None)


def test_flags_alone():
    model, data, training = parse_arguments(["--model_name_or_path", "saved", "--max_train_steps", "7"])
    assert (model.model_name_or_path, training.max_train_steps) == ("saved", 7)
    assert data == DataArguments()
    assert dataclasses.replace(training, max_train_steps=1000) == TrainingArguments()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainings: {}", r"recipe.yaml: unknown key 'trainings'; did you mean 'training'\?"),
        ("training: {learning_rat: 1}", "section training: unknown key 'learning_rat'; did you mean 'learning_rate'"),
        ("data: {learning_rate: 1}", "section data: unknown key 'learning_rate'; did you mean"),
        ("- training", r"a mapping with the sections model, data and training is needed \(got \['training'\]\)"),
        ("training: {seed: 1, seed: 2}", "recipe.yaml: a recipe in YAML is needed: key 'seed' twice"),
        ("", r"sections model, data and training is needed \(got None\)"),
        ("training: [3]", r"section training: it must be a mapping, got \[3\]"),
        ("model: {model_config: [1]}", r"section model: model_config must be a mapping, got \[1\]"),
        ("training: {learning_rate: [1]}", r"section training: learning_rate must be one value, got \[1\]"),
        (MODEL + "data: {label_words: names}", "label_words must be one of all, name, got 'names'"),
        ("training: {max_train_steps: null}", "section training: max_train_steps must be one value, got None"),
    ],
)
def test_recipe_errors(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--config", recipe(tmp_path, text)])


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        (MODEL + "training: {max_train_steps: 1.5}", [], "invalid int value: '1.5'"),
        (MODEL + "training: {learning_rate: fast}", [], "invalid float value: 'fast'"),
        (MODEL + "training: {keep_best: 3}", [], "got 3 but expected one of yes/no"),
        (MODEL + "training: {seed: true}", [], "invalid int value: 'True'"),
        (MODEL, ["--model_config", "[1]"], "a JSON object is needed, got '[1]'"),
        (MODEL, ["--model_config", "{"], "a JSON object is needed, got '{'"),
        (MODEL, ["--mixed_precision", "fp8"], "invalid choice: 'fp8'"),
    ],
)
def test_values_of_the_wrong_type(tmp_path, capsys, text, flags, message):
    with pytest.raises(SystemExit):
        parse_arguments(["--config", recipe(tmp_path, text), *flags])
    assert message in capsys.readouterr().err


def test_an_unknown_flag(tmp_path):
    with pytest.raises(ValueError, match="--learnin_rate"):
        parse_arguments(["--config", recipe(tmp_path, MODEL), "--learnin_rate", "1"])


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TrainingArguments, {"max_train_steps": 0}, "max_train_steps must be at least 1, got 0"),
        (TrainingArguments, {"eval_steps": 0}, "eval_steps must be at least 1, got 0"),
        (TrainingArguments, {"per_device_train_batch_size": -1}, "per_device_train_batch_size must be at least 1"),
        (TrainingArguments, {"learning_rate": 0.0}, "learning_rate must be greater than 0, got 0.0"),
        (TrainingArguments, {"learning_rate": math.nan}, "learning_rate must be greater than 0, got nan"),
        (TrainingArguments, {"warmup_ratio": 1.1}, "warmup_ratio must be between 0 and 1, got 1.1"),
        (TrainingArguments, {"weight_decay": -0.1}, "weight_decay must not be negative, got -0.1"),
        (TrainingArguments, {"mixed_precision": "False"}, "must be .*, no, .*in YAML with the quotes.*got 'False'"),
        (TrainingArguments, {"weight_decay": math.nan}, "weight_decay must be finite, got nan"),
        (ModelArguments, {"model_name_or_path": "a", "max_length": 0}, "max_length must be at least 1, got 0"),
        (DataArguments, {"label_words": "names"}, "label_words must be one of all, name, got 'names'"),
        (ModelArguments, {"model_name_or_path": "a", "mention_style": "x"}, "mention_style must be one of markers,"),
        (ModelArguments, {}, "A model is needed: --config .*--model_name_or_path"),
        (ModelArguments, {"text_model_name_or_path": "bert"}, "must be given together, got 'bert' and None"),
        (ModelArguments, {"model_name_or_path": "a", "model_config": {"margin": 1}}, "model_name_or_path excludes"),
    ],
)
def test_wrong_values(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)


def known_fields(kind):
    """Fields of a configuration class, of all that it is derived from too."""
    return {field.name for field in dataclasses.fields(kind)} | {
        field.name for field in dataclasses.fields(PreTrainedConfig)
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_read_and_its_model_config_has_known_fields(path):
    model, _, training = parse_arguments(["--config", str(path)])
    for name, value in read_recipe(str(path)).items():
        if isinstance(value, float):
            assert getattr(training, name, value) == value
    if not model.model_config:
        return
    assert set(model.model_config) <= known_fields(MGVMoEConfig) - known_fields(PreTrainedConfig)
    config = MGVMoEConfig(**model.model_config)
    for part in ("text_config", "vision_config"):
        values = dict(model.model_config.get(part, {}))
        if values:
            assert set(values) - {"model_type"} <= known_fields(CONFIG_MAPPING[values["model_type"]]), part
            assert getattr(config, part).model_type == values["model_type"]


def test_there_are_recipes():
    assert RECIPES


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
