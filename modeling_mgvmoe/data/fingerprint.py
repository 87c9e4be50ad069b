"""Fingerprints: digests of files, models and runs, and in what two runs differ."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from torch import nn


# Fields of a configuration that change no output: where it came from, how it is run, names of classes.
IDLE_FIELDS = (
    "transformers_version",
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "id2label",
    "label2id",
    "problem_type",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
)


def place_by_hash(name: str) -> float:
    """A number in [0, 1) for a name, the same on every machine: posts below a share are held out.

    It depends on neither order nor seed, and stays when posts are added.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def module_fingerprint(module: nn.Module, config: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of a module's configuration and of all its weights and buffers."""
    kept = _without_idle(json.loads(json.dumps(config, default=str)))
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_sha256(path: str) -> str:
    """SHA-256, in hex, of a file of any size."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(settings: Any, *files: str) -> str:
    """SHA-256, in hex, of JSON values, whatever the order of their keys, and of the content of files."""
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()


def _without_idle(config: Any) -> Any:
    if not isinstance(config, Mapping):
        return config
    return {name: _without_idle(value) for name, value in config.items() if name not in IDLE_FIELDS}


# Arguments that change no weight, or only the steps still ahead.
FREE_ARGUMENTS = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "checkpointing_steps",
                  "early_stopping_patience", "per_device_eval_batch_size", "num_threads", "report_to",
                  "logging_steps")  # fmt: skip
# Fields of a configuration that saving and loading write.
FREE_CONFIG = ("transformers_version", "_name_or_path", "dtype", "architectures", "auto_map")


def identity(
    arguments: DataclassInstance,
    model_config: Mapping[str, Any],
    posts: Mapping[str, Sequence[Mapping[str, Any]]],
    labels: Mapping[str, Any],
    num_processes: int,
) -> dict[str, Any]:
    """Arguments, model and data that a resumed run must share with its checkpoint.

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
        hashed = hashlib.sha256()
        for post in rows:
            tokens = np.asarray(post["input_ids"]).tolist()
            whole = [str(post["id"]), post["task"], post["label"], tokens]
            if "image_text_input_ids" in post:
                whole.append(np.asarray(post["image_text_input_ids"]).tolist())
            hashed.update(json.dumps(whole).encode())
        hashes[f"{split} posts"] = hashed.hexdigest()
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
