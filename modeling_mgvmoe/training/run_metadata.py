"""`run.json`: what a finished run was, for whoever reads, repeats or publishes it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..data.atomic_io import write_whole
from ..data.environment import machine, versions
from ..data.splits import SPLITS
from ..data.zero_shot_data import LABELS_FILE, ZeroShotData

if TYPE_CHECKING:
    from .arguments import DataArguments, ModelArguments, TrainingArguments


RUN_FILE = "run.json"
# Fields that name places of one machine, or say how often one run was begun.
NOT_KEPT = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint")
PATHS = ("model_name_or_path", "text_model_name_or_path", "vision_model_name_or_path", "image_feature_cache")


def write_run_record(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    training_arguments: TrainingArguments,
    data: ZeroShotData,
    parameters: tuple[int, int],
) -> str:
    """Write `run.json` into the run's folder, in the form that [`read_run_record`] gives back.

    Args:
        model_arguments, data_arguments, training_arguments: of the run.
        data: what it was trained on.
        parameters: how many there are, and how many of them learn.

    Returns:
        Its path.
    """
    dataset = dataset_facts(data_arguments)
    kept = {name: value for name, value in asdict(training_arguments).items() if name not in NOT_KEPT}
    model = {name: _name(value) if name in PATHS else value for name, value in asdict(model_arguments).items()}
    posts = {name: _name(value) if name in PATHS else value for name, value in asdict(data_arguments).items()}
    record = {
        "arguments": {"model": model, "data": {**posts, "dataset": dataset["name"]}, "training": kept},
        "dataset": dataset,
        "labels": {name: {task: list(names) for task, names in data.labels[name].items()} for name in SPLITS},
        "posts": {name: len(data.posts[name]) for name in SPLITS},
        "parameters": {"all": parameters[0], "trained": parameters[1]},
        "versions": versions(),
        "machine": machine(),
    }
    path = os.path.join(training_arguments.output_dir, RUN_FILE)
    write_whole(path, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
    return path


def dataset_facts(arguments: DataArguments) -> dict[str, Any]:
    """Name, split and version of the label words of a dataset, as its `labels.json` tells them.

    Of several datasets all names with ", " between them, and only what all of them have the same of the rest.
    """
    facts = [_facts_of(name.strip(), arguments.dataset_seed) for name in arguments.dataset.split(",")]
    shared = {key: value if all(own[key] == value for own in facts) else None for key, value in facts[0].items()}
    return {**shared, "name": ", ".join(own["name"] for own in facts)}


def _facts_of(dataset: str, seed: int) -> dict[str, Any]:
    if dataset == "sketchbook":
        return {"name": "sketchbook", "split": f"seed {seed}", "label_set_version": None}
    path = os.path.join(dataset, LABELS_FILE)
    found: dict[str, Any] = {}
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    name = found.get("dataset") or os.path.basename(os.path.normpath(dataset))
    return {"name": name, "split": found.get("split"), "label_set_version": found.get("label_set_version")}


def read_run_record(folder: str) -> dict[str, Any] | None:
    """The record from [`write_run_record`], or `None` without a file; ValueError if the file is damaged."""
    path = os.path.join(folder, RUN_FILE)
    if not os.path.isfile(path):
        return None
    with open(path, encoding="utf-8") as file:
        try:
            record = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: it must be JSON: {error}") from error
    missing = {"arguments", "dataset", "labels"} - set(record if isinstance(record, dict) else ())
    if missing:
        raise ValueError(f"{path}: a record of a run has {', '.join(sorted(missing))}, which are missing")
    for name, parts in (("arguments", ("model", "data", "training")), ("labels", SPLITS)):
        own = record[name]
        if not isinstance(own, dict) or not all(isinstance(own.get(part), dict) for part in parts):
            raise ValueError(f"{path}: {name} must hold an object for each of {', '.join(parts)}, got {own!r:.80}")
    if not isinstance(record["dataset"], dict) or not isinstance(record["dataset"].get("name"), str):
        raise ValueError(f"{path}: dataset must be an object with a name, got {record['dataset']!r:.80}")
    return record


def _name(source: str | None) -> str | None:
    """A Hub name as it is; of a folder only its last part, for the rest tells of one machine."""
    if source is None or not (os.path.isdir(source) or os.path.isabs(source)):
        return source
    return os.path.basename(os.path.normpath(source))
