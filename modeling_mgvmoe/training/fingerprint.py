"""Which run a checkpoint belongs to: arguments, model and data that must be the same for it to go on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .arguments import TrainingArguments


# Of these arguments the weights do not depend, or only on the way that is still ahead.
FREE_ARGUMENTS = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "checkpointing_steps",
                  "early_stopping_patience", "per_device_eval_batch_size", "num_threads", "report_to",
                  "logging_steps")  # fmt: skip
# Of a model's configuration, what saving and loading write into it.
FREE_CONFIG = ("transformers_version", "_name_or_path", "dtype", "architectures", "auto_map")


def identity(
    arguments: TrainingArguments,
    model_config: Mapping[str, Any],
    posts: Mapping[str, Sequence[Mapping[str, Any]]],
    labels: Mapping[str, Any],
    num_processes: int,
) -> dict[str, Any]:
    """What must be the same for a run to go on from a checkpoint: arguments, model, data.

    Args:
        arguments: of the training, with the precision that is computed in for "auto".
        model_config: the model's configuration.
        posts: encoded ones of each split; ids, labels and tokens count, those of image texts too; images do not.
        labels: candidates of each split and descriptions.
        num_processes: of the run; batch and noise depend on it.
    """
    values = {name: value for name, value in dataclasses.asdict(arguments).items() if name not in FREE_ARGUMENTS}
    hashes = {}
    for split, rows in posts.items():
        digest = hashlib.sha256()
        for post in rows:
            tokens = np.asarray(post["input_ids"]).tolist()
            whole = [str(post["id"]), post["task"], post["label"], tokens]
            if "image_text_input_ids" in post:
                whole.append(np.asarray(post["image_text_input_ids"]).tolist())
            digest.update(json.dumps(whole).encode())
        hashes[f"{split} posts"] = digest.hexdigest()
    hashes["labels"] = hashlib.sha256(json.dumps(labels, default=str).encode()).hexdigest()
    everything = {**values, "num_processes": num_processes, "model_config": _fixed(model_config), "data": hashes}
    return json.loads(json.dumps(everything, default=str))


def _fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(name): _fixed(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in FREE_CONFIG
    }


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Says what two identities of a run, nested mappings of JSON values, do not have in common."""
    for name in sorted({*there, *here}):
        old, new = there.get(name), here.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name} was {old!r:.80} and is {new!r:.80}"
