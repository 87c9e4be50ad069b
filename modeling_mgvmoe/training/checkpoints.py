"""Checkpoints: a run that was killed at any moment goes on as if it had not been.

A run's folder holds `model/`, the best model so far, and `checkpoints/step-N/`, all that is needed to go on after step
N. Both are written beside their place, to the disk, and then renamed: whoever looks finds them whole or not at all.
Everything is safetensors and JSON; nothing is pickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_model
from torch import nn

from ..data.whole_folder import remove_folder, whole_folder
from .checkpoint_files import CHECKSUMS, MODEL, OPTIMIZER, RANDOM, STATE, sha256, write_json, write_tensors
from .random_state import random_state, set_random_state
from .run_folder import checkpoint_folder, list_checkpoints
from .run_identity import differences

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from .statistics import Statistics

KEPT = 2
# What to do when there is room again on a full disk.
GO_ON = "--resume_from_checkpoint latest"


@dataclasses.dataclass
class Progress:
    """How far a run has come, but for its tensors.

    Attributes:
        step: optimizer steps done.
        statistics: of every process what [`Statistics`] had summed up when the last checkpoint was written.
        history: one entry per validation.
        best: the entry whose weights are in `model/`.
    """

    step: int = 0
    statistics: list[Any] = dataclasses.field(default_factory=list)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: dict[str, Any] = dataclasses.field(default_factory=dict)

    def validations_without_improvement(self) -> int:
        """Validations since the first one with the best macro-F1."""
        scores = [entry["macro_f1"] for entry in self.history]
        return len(scores) - 1 - scores.index(max(scores)) if scores else 0


@contextlib.contextmanager
def _reading(folder: str) -> Iterator[None]:
    """What fails for files that are as their checksums say, but not as we write them, is told with the folder."""
    try:
        yield
    except (json.JSONDecodeError, AttributeError, LookupError, RecursionError, RuntimeError, SafetensorError,
            TypeError) as error:  # fmt: skip
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        raise ValueError(f"resume_from_checkpoint: {folder} was not written by this program ({reason})") from error


def read_progress(folder: str) -> Progress:
    """How far the run of a checkpoint had come."""
    with _reading(folder), open(os.path.join(folder, STATE), encoding="utf-8") as file:
        return Progress(**json.load(file)["progress"])


def can_checkpoint(accelerator: Accelerator) -> bool:
    """Whether every process holds the whole model and optimizer; parts of them are not gathered here."""
    return accelerator.distributed_type.value in ("NO", "MULTI_CPU", "MULTI_GPU")


def _bytes_of(tensors: Iterator[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def model_bytes(model: nn.Module) -> int:
    """Bytes that the weights take, and some for what is beside them."""
    return _bytes_of(iter(model.state_dict().values())) + 2**16


@dataclasses.dataclass
class Checkpointer:
    """Writes and reads the checkpoints of one run.

    Args:
        output_dir: of the run.
        identity: of the run, see [`identity`].
        accelerator: of the run.
        model: as it was before or after `accelerator.prepare`.
        optimizer: likewise.
        schedule: of the learning rates.
    """

    output_dir: str
    identity: dict[str, Any]
    accelerator: Accelerator
    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler

    def save(self, progress: Progress, statistics: Statistics) -> str | None:
        """Write a checkpoint and remove those that are not among the last two; every process calls this.

        Returns:
            The folder, `None` if this kind of distributed run cannot have one.
        """
        if not can_checkpoint(self.accelerator):
            return None
        folder, rows = checkpoint_folder(self.output_dir, progress.step), random_state(self.accelerator)
        progress.statistics = statistics.state(self.accelerator)
        if self.accelerator.is_main_process:
            self._write(folder, progress, rows)
            # A later one is of a way that was left: the run went on from one before it.
            steps = [step for step, _ in list_checkpoints(self.output_dir) if step <= progress.step]
            for step, path in list_checkpoints(self.output_dir):
                if step not in steps[-KEPT:]:
                    remove_folder(path)
        self.accelerator.wait_for_everyone()
        return folder

    def _write(self, folder: str, progress: Progress, rows: Mapping[str, torch.Tensor]) -> None:
        model, whole = self.accelerator.unwrap_model(self.model), self.optimizer.state_dict()
        tensors: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for index, values in whole["state"].items():
            for name, value in values.items():
                (tensors if isinstance(value, torch.Tensor) else others)[f"{index}.{name}"] = value
        scaler = self.accelerator.scaler
        state = {
            "progress": dataclasses.asdict(progress),
            "identity": self.identity,
            "schedule": self.schedule.state_dict(),
            "optimizer": {"param_groups": whole["param_groups"], "state": others},
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        needed = model_bytes(model) + _bytes_of(iter(tensors.values())) + 2**16
        with whole_folder(folder, needed, GO_ON) as partial:
            save_model(model, os.path.join(partial, MODEL))
            write_tensors(tensors, os.path.join(partial, OPTIMIZER))
            write_tensors(rows, os.path.join(partial, RANDOM))
            write_json(state, os.path.join(partial, STATE))
            checksums = {name: sha256(os.path.join(partial, name)) for name in sorted(os.listdir(partial))}
            write_json(checksums, os.path.join(partial, CHECKSUMS))

    def load(self, folder: str) -> Progress:
        """Take model, optimizer and schedule from a checkpoint that [`find_fault`] finds nothing wrong with.

        Random states come last, with [`restore_random_state`], since to start a data loader draws a number.

        Raises:
            ValueError: it belongs to a run with other arguments, another model or other data.
        """
        if not can_checkpoint(self.accelerator):
            raise ValueError(
                f"resume_from_checkpoint: runs of the kind {self.accelerator.distributed_type.value} cannot be "
                f"resumed, got {folder}."
            )
        with _reading(folder):
            return self._load(folder)

    def _load(self, folder: str) -> Progress:
        with open(os.path.join(folder, STATE), encoding="utf-8") as file:
            state = json.load(file)
        # Version 0.1 wrote null for the default, which was float32.
        there = state["identity"]
        if "mixed_precision" in there and there["mixed_precision"] is None:
            there = {**there, "mixed_precision": "no"}
        found = list(differences(there, self.identity))
        if found:
            raise ValueError(
                f"resume_from_checkpoint: {folder} belongs to another run: {'; '.join(found[:5])}"
                f"{f' (and {len(found) - 5} more)' if len(found) > 5 else ''}."
            )
        load_model(self.accelerator.unwrap_model(self.model), os.path.join(folder, MODEL))
        values: dict[int, dict[str, Any]] = {}
        for key, value in {**load_file(os.path.join(folder, OPTIMIZER)), **state["optimizer"]["state"]}.items():
            index, _, name = key.partition(".")
            values.setdefault(int(index), {})[name] = value
        groups = [
            {name: tuple(value) if name == "betas" else value for name, value in group.items()}
            for group in state["optimizer"]["param_groups"]
        ]
        self.optimizer.load_state_dict({"state": values, "param_groups": groups})
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        return Progress(**state["progress"])

    def restore_random_state(self, folder: str) -> None:
        """Set torch, numpy, Python and CUDA to draw the numbers that come after a checkpoint."""
        with _reading(folder):
            set_random_state(load_file(os.path.join(folder, RANDOM)), self.accelerator)
