"""Digests that tell whether two models are the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

# What of a configuration changes no output: where it came from, how it is run, names of classes.
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


def _without_idle(config: Any) -> Any:
    if not isinstance(config, Mapping):
        return config
    return {name: _without_idle(value) for name, value in config.items() if name not in IDLE_FIELDS}
