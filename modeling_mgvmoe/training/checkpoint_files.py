"""The files of a checkpoint: their names, how they are written, and how it shows that they are whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save_file

MODEL, OPTIMIZER, RANDOM = "model.safetensors", "optimizer.safetensors", "random.safetensors"
STATE, CHECKSUMS = "state.json", "checksums.json"


def find_fault(folder: str) -> str | None:
    """What is wrong with a checkpoint's files, by name; `None` if they are as they were written."""
    try:
        with open(os.path.join(folder, CHECKSUMS), encoding="utf-8") as file:
            checksums = json.load(file)
    except FileNotFoundError:
        return f"{CHECKSUMS} is missing"
    except (ValueError, RecursionError) as error:
        return f"{CHECKSUMS} cannot be read ({error})"
    if not isinstance(checksums, dict) or not {MODEL, OPTIMIZER, RANDOM, STATE} <= set(checksums):
        return f"{CHECKSUMS} does not list all files"
    for name, expected in checksums.items():
        if name != os.path.basename(name):
            return f"{CHECKSUMS} lists {name!r}, which is in another folder"
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            return f"{name} is missing"
        if sha256(path) != expected:
            return f"{name} ({os.path.getsize(path)} bytes) does not have the sha256 that {CHECKSUMS} lists"
    return None


def sha256(path: str) -> str:
    """SHA-256, in hex, of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(tensors: Mapping[str, torch.Tensor], path: str) -> None:
    """Tensors, also those that are views of others, as safetensors."""
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)


def write_json(value: Any, path: str) -> None:
    """A value as JSON."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
