"""Arguments of a training run: dataclasses, filled from a YAML recipe and from flags that override it."""

from __future__ import annotations

import argparse
import difflib
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

from ..data.environment import MIXED_PRECISIONS
from ..data.flags import unknown_flags, with_our_names

# Names of transformers' get_scheduler.
SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")
# Fields that are mappings, given as JSON on the command line.
JSON_FIELDS = ("model_config",)


def argument(default: Any, text: str, choices: Sequence[str] = ()) -> Any:
    """A field with its help and choices, as HfArgumentParser reads them."""
    metadata: dict[str, Any] = {"help": text}
    return field(default=default, metadata={**metadata, "choices": list(choices)} if choices else metadata)


def _check_values(arguments: Any) -> None:
    """Check choices, which argparse does not for a recipe's values, and that numbers are finite."""
    for item in fields(arguments):
        value, choices = getattr(arguments, item.name), item.metadata.get("choices")
        if choices and value not in choices and (value is not None or item.default is not None):
            hint = " (in YAML with the quotes)" if value in ("False", "True") else ""
            raise ValueError(f"{item.name} must be one of {', '.join(choices)}{hint}, got {value!r}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{item.name} must be finite, got {value}.")


@dataclass
class ModelArguments:
    """Which model is trained: a saved one, two pretrained encoders, or one from nothing."""

    model_name_or_path: str | None = argument(None, "A saved MG-VMoE, model and processor, to go on from.")
    text_model_name_or_path: str | None = argument(None, "A pretrained text encoder.")
    vision_model_name_or_path: str | None = argument(None, "A pretrained vision encoder with its image processor.")
    model_config: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "JSON: fields of MGVMoEConfig, merged into the recipe's. Alone, with text_config and "
            "vision_config: a model from nothing."
        },
    )
    max_length: int | None = argument(None, "Longest marked post, in tokens; default: a saved model's own, or 128.")
    hypothesis_template: str | None = argument(
        None, 'What is read for a label; default: a saved model\'s own, or "{}".'
    )
    mention_style: str | None = argument(
        None,
        'How mentions are shown to the text encoder: "markers" around them, or "prefix", named before the '
        "post; default: a saved model's own, or what its score needs.",
        ["markers", "prefix"],
    )

    def __post_init__(self) -> None:
        pair = (self.text_model_name_or_path, self.vision_model_name_or_path)
        if (pair[0] is None) != (pair[1] is None):
            raise ValueError(
                "text_model_name_or_path and vision_model_name_or_path must be given together, "
                f"got {pair[0]!r} and {pair[1]!r}."
            )
        if self.model_name_or_path is not None and (pair[0] is not None or self.model_config):
            raise ValueError(
                "model_name_or_path excludes text_model_name_or_path, vision_model_name_or_path and model_config."
            )
        if self.model_name_or_path is None and pair[0] is None and not self.model_config:
            raise ValueError(
                "A model is needed: --config with a recipe, --model_name_or_path, or --text_model_name_or_path and "
                "--vision_model_name_or_path."
            )
        from ..configuration_mgvmoe import MGVMoEConfig

        known = [item.name for item in fields(MGVMoEConfig)]
        for key in self.model_config:
            _check_key(key, known, "model_config")
        _check_values(self)
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {self.max_length}.")


@dataclass
class DataArguments:
    """Which posts are trained on."""

    dataset: str = argument(
        "sketchbook",
        '"sketchbook", built in; a folder of prepare_data.py; or rows of your own: a .jsonl, .csv or '
        ".parquet file, a folder of these, or a dataset on the Hub. Several with commas between: a post competes "
        "among the classes of its dataset, and class_balanced draws from all of them alike.",
    )
    dataset_seed: int = argument(0, "Seed of the sketchbook's classes and posts.")
    posts_per_class: int = argument(60, "Training posts of each class (sketchbook).")
    eval_posts_per_class: int = argument(20, "Validation and test posts of each class (sketchbook).")
    label_words: str = argument(
        "all", 'What is read for a label: "all" sentences the dataset has for it, or its "name" only.', ["all", "name"]
    )
    image_feature_cache: str | None = argument(
        None,
        "Folder of the frozen vision tower's features, read instead of running it; made by "
        "examples/prepare_data.py --cache-image-features.",
    )

    def __post_init__(self) -> None:
        _check_values(self)


@dataclass
class TrainingArguments:
    """Arguments of the training loop."""

    output_dir: str = argument("runs/train", "Folder for the model, in `model/`, and the metrics.")
    overwrite_output_dir: bool = argument(False, "Write into a folder that holds a run.")
    resume_from_checkpoint: str | None = argument(
        None, 'Go on from a checkpoint of output_dir: its path, or "latest", which begins where none is yet.'
    )
    checkpointing_steps: int = argument(0, "Steps between checkpoints; 0: only at validations and the end.")
    seed: int = argument(0, "Seed of weights, order, dropout and noise.")
    max_train_steps: int = argument(1000, "Optimizer steps.")
    per_device_train_batch_size: int = argument(16, "Posts in a batch, per process.")
    per_device_eval_batch_size: int = argument(64, "Posts in a batch of evaluation.")
    gradient_accumulation_steps: int = argument(
        1,
        "Batches per optimizer step, whose gradients are averaged. Alignment and consistency couple the "
        "posts of a batch only: 2 batches of 4 are not 1 of 8 to them, while 4 posts on each of 2 processes are.",
    )
    gradient_checkpointing: bool = argument(
        False, "Compute the encoders' activations again on the way back: less memory, slower."
    )
    learning_rate: float = argument(1e-5, "Peak learning rate; that of the two encoders where the rest has its own.")
    head_learning_rate: float | None = argument(None, "Of everything but the two encoders; default: learning_rate.")
    lr_scheduler_type: str = argument(
        "linear",
        'A schedule of transformers\' get_scheduler by its name; all parts follow it. All but "constant" '
        "begin with warmup_ratio.",
        list(SCHEDULES),
    )
    freeze_text_layers: int | None = argument(
        None, "Keep the text encoder's embeddings and this many of its first layers as they are; 0: embeddings."
    )
    weight_decay: float = argument(0.0, "Of AdamW; not on biases and norms.")
    warmup_ratio: float = argument(0.1, "Share of the steps in which the rate rises linearly.")
    max_grad_norm: float = argument(1.0, "Gradient norm above which it is scaled down; 0: never.")
    class_balanced: bool = argument(True, "Draw posts with replacement, every class alike; else epoch after epoch.")
    class_order: str = argument(
        "drawn",
        'Of class_balanced: "drawn" draws the class of every post, "in_turn" takes each class once in a '
        "round (the reference's way).",
        ["drawn", "in_turn"],
    )
    eval_steps: int = argument(200, "Steps between validations.")
    max_eval_samples: int | None = argument(
        None,
        "Validate on at most this many posts, whose ids have the lowest SHA-256; all candidate labels "
        "stay. Default: on all.",
    )
    early_stopping_patience: int = argument(0, "Stop after this many validations without a better macro-F1; 0: never.")
    keep_best: bool = argument(True, "Save the weights with the best validation macro-F1, not the last ones.")
    mixed_precision: str = argument(
        "auto",
        '"no" (float32), "fp16", "bf16", or "auto": what `accelerate launch --mixed_precision` asks for, '
        "else bf16 where the hardware has it (GPU; AVX-512-BF16, AMX, Arm), else float32.",
        list(MIXED_PRECISIONS),
    )
    num_threads: int | None = argument(None, "Threads of torch on the CPU; default: torch's own.")
    report_to: str = argument(
        "jsonl",
        'Trackers by name, with commas between: "jsonl", log.jsonl in output_dir, which is always there; '
        "and Accelerate's (tensorboard, wandb, ...), whose packages must be installed.",
    )
    logging_steps: int = argument(10, "Steps between entries of the log, each the mean over the steps since the last.")

    def __post_init__(self) -> None:
        at_least_one = ("max_train_steps", "per_device_train_batch_size", "per_device_eval_batch_size",
                        "gradient_accumulation_steps", "eval_steps", "logging_steps", "num_threads",
                        "max_eval_samples")  # fmt: skip
        for name in at_least_one:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be between 0 and 2**32 - 1, got {self.seed}.")
        for name in ("learning_rate", "head_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not rate > 0:
                raise ValueError(f"{name} must be greater than 0, got {rate}.")
        if self.freeze_text_layers is not None and self.freeze_text_layers < 0:
            raise ValueError(f"freeze_text_layers must not be negative, got {self.freeze_text_layers}.")
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"warmup_ratio must be between 0 and 1, got {self.warmup_ratio}.")
        for name in ("weight_decay", "max_grad_norm", "checkpointing_steps", "early_stopping_patience"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        _check_values(self)
        if self.class_order != "drawn" and not self.class_balanced:
            raise ValueError(f"class_order: {self.class_order!r} needs class_balanced, got class_balanced False.")


ARGUMENT_CLASSES = (ModelArguments, DataArguments, TrainingArguments)


def read_recipe(path: str) -> dict[str, Any]:
    """Values of a YAML recipe, its sections laid flat.

    Raises:
        ValueError: the file is not a mapping, has a key twice, or a key is unknown; the message names the nearest
            known key.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that a mapping has twice, of which YAML's own takes the last."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            if twice := [key for key in keys if keys.count(key) > 1]:
                raise yaml.YAMLError(f"key {twice[0]!r} twice in the mapping from line {node.start_mark.line + 1} on")
            return super().construct_mapping(node, deep)

    if not os.path.isfile(path):
        raise FileNotFoundError(f"config: the file {path!r} does not exist")
    with open(path, encoding="utf-8") as file:
        try:
            recipe = Loader(file).get_single_data()
        # What is no YAML; what is, but no date or number of it (ValueError, AttributeError); nested too deep.
        except (yaml.YAMLError, ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{path}: a recipe in YAML is needed: {error!s:.300}") from error
    if not isinstance(recipe, dict):
        raise ValueError(
            f"{path}: a mapping with the sections model, data and training is needed (got {recipe!r:.80})"
        )
    sections = dict(zip(("model", "data", "training"), ARGUMENT_CLASSES, strict=True))
    values: dict[str, Any] = {}
    for section, content in recipe.items():
        _check_key(section, sections, path)
        known = {item.name: item for item in fields(sections[section])}
        if not isinstance(content or {}, dict):
            raise ValueError(f"{path}, section {section}: it must be a mapping, got {content!r:.80}")
        for key, value in (content or {}).items():
            from ..labels import RENAMED

            key = RENAMED.get(key, key)
            _check_key(key, known, f"{path}, section {section}")
            _check_kind(known[key], value, f"{path}, section {section}")
            values[key] = value
    return values


def _check_key(key: str, known: Any, where: str) -> None:
    if key not in known:
        nearest = difflib.get_close_matches(str(key), list(known), n=1, cutoff=0.0)
        raise ValueError(f"{where}: unknown key {key!r}; did you mean {nearest[0]!r}?")


def _check_kind(item: Field, value: Any, where: str) -> None:
    if item.default_factory is dict:
        fits, wanted = isinstance(value, dict), "a mapping"
    else:
        fits, wanted = isinstance(value, str | int | float) or (value is None and item.default is None), "one value"
    if not fits:
        raise ValueError(f"{where}: {item.name} must be {wanted}, got {value!r:.80}")


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """Read `--config RECIPE` and flags named like the fields, which override the recipe.

    Args:
        argv: default `sys.argv[1:]`.

    Raises:
        ValueError: a flag is unknown, which is found out first of all, or a value is out of range.
    """
    argv = words = with_our_names(sys.argv[1:] if argv is None else argv, _flags())
    fault = unknown_flags(words, _flags())
    if fault:
        raise ValueError(fault)
    from transformers import HfArgumentParser

    # Without abbreviations: a flag that is not a field is an error, not a guess.
    parser = HfArgumentParser(ARGUMENT_CLASSES, allow_abbrev=False)  # type: ignore[arg-type]
    parser.add_argument("--config", help="YAML recipe, see configuration/recipes/.")
    for action in parser._actions:
        if action.dest in JSON_FIELDS:
            action.type = _json_object
    has_config = any(word.partition("=")[0] == "--config" for word in words)
    config = parser.parse_known_args(argv)[0].config if has_config else None
    if config is not None:
        values = read_recipe(config)
        for action in parser._actions:
            if action.dest in JSON_FIELDS:
                recipe = values.get(action.dest) or {}
                action.type = lambda text, recipe=recipe: _merged(recipe, _json_object(text))
        # argparse converts and checks string defaults like flags, and no others. A YAML 1e-4 is a string already.
        parser.set_defaults(
            **{key: str(value) if isinstance(value, int | float) else value for key, value in values.items()}
        )
    model, data, training, _ = parser.parse_args_into_dataclasses(argv)
    return model, data, training


def _flags() -> list[str]:
    """The flags of HfArgumentParser, without the seconds that importing it takes."""
    found = ["help", "config"]
    for item in (item for kind in ARGUMENT_CLASSES for item in fields(kind)):
        found += [item.name, f"no_{item.name}"] if item.default is True else [item.name]
    return [f"--{spelt}" for name in found for spelt in (name, name.replace("_", "-"))]


def _merged(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """`values` with `overrides` on top, mappings within mappings too; a new model_type replaces its mapping."""
    merged = dict(values)
    for key, value in overrides.items():
        old = merged.get(key)
        same_kind = isinstance(old, dict) and isinstance(value, dict) and "model_type" not in value
        merged[key] = _merged(old, value) if same_kind else value  # type: ignore[arg-type]
    return merged


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"a JSON object is needed, got {text!r}: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"a JSON object is needed, got {text!r}")
    return value
