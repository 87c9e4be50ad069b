"""Checkpoints: a run that was killed at any moment resumes as if it had not been.

A run's folder holds `model/`, the best model so far, and `checkpoints/step-N/`, all that is needed to go on after step
N. Both are written beside their place, to the disk, and then renamed: whoever looks finds them whole or not at all.
Everything is safetensors and JSON; nothing is pickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn

from ..data.atomic_io import remove_folder, whole_folder
from ..data.fingerprint import differences, file_sha256

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from .arguments import TrainingArguments
    from .trackers import Statistics


def random_state(accelerator: Accelerator) -> dict[str, torch.Tensor]:
    """The random state of every process, one row each."""
    version, numbers, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([version, *numbers]),
        "python_gauss": torch.tensor([0.0 if gauss is None else 1.0, gauss or 0.0], dtype=torch.float64),
        "numpy": torch.tensor([*np.asarray(keys).tolist(), position, has_gauss]),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
    }
    if accelerator.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(accelerator.device)
    if accelerator.num_processes == 1:
        return {name: value[None] for name, value in state.items()}
    return {name: accelerator.gather(value[None].to(accelerator.device)).cpu() for name, value in state.items()}


def set_random_state(rows: Mapping[str, torch.Tensor], accelerator: Accelerator) -> None:
    """Take up what [`random_state`] gave; each process takes its own row."""
    # Copies: torch reads a state from the start of its memory, also that of a row further on.
    state = {name: value[accelerator.process_index].clone() for name, value in rows.items()}
    torch.set_rng_state(state["torch"])
    version, *numbers = state["python"].tolist()
    has_gauss, gauss = state["python_gauss"].tolist()
    random.setstate((version, tuple(numbers), gauss if has_gauss else None))
    *keys, position, cached = state["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, cached, state["numpy_gauss"].item()))
    if "cuda" in state and accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], accelerator.device)


MODEL, OPTIMIZER, RANDOM = "model.safetensors", "optimizer.safetensors", "random.safetensors"
STATE, CHECKSUMS = "state.json", "checksums.json"


def find_fault(folder: str) -> str | None:
    """The damage in a checkpoint's files, by name; `None` if they are as written."""
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
        if file_sha256(path) != expected:
            return f"{name} ({os.path.getsize(path)} bytes) does not have the sha256 that {CHECKSUMS} lists"
    return None


def write_tensors(tensors: Mapping[str, torch.Tensor], path: str) -> None:
    """Tensors, also those that are views of others, as safetensors."""
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)


def write_json(value: Any, path: str) -> None:
    """A value as JSON."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)


def remove_leftovers(output_dir: str) -> None:
    """Remove what a killed run has left half written."""
    for folder in (output_dir, os.path.join(output_dir, "checkpoints")):
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            if name.startswith(".") and name.endswith(".partial"):
                shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def discard_run(output_dir: str) -> None:
    """Remove the run that was in a folder before: its checkpoints and model must not be taken for the new one's."""
    for _, folder in list_checkpoints(output_dir):
        remove_folder(folder)
    if os.path.isdir(model := os.path.join(output_dir, "model")):
        remove_folder(model)
    shutil.rmtree(os.path.join(output_dir, "trackers"), ignore_errors=True)
    for name in ("metrics.json", "log.jsonl", "run.json"):
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(output_dir, name))


def _not_ours(output_dir: str) -> list[str]:
    """What [`discard_run`] would remove although no run of ours, of which not even a checkpoint is left, wrote it."""
    model = os.path.join(output_dir, "model")
    found = ["model"] if os.path.isdir(model) and os.listdir(model) else []
    log = os.path.join(output_dir, "log.jsonl")
    if os.path.isfile(log):
        with open(log, "rb") as file:
            # A run begins its log before all else. It may have been killed before the first entry was whole.
            if b'{"step": '.startswith(file.read(9)):
                return found
    others = ("trackers", "log.jsonl", "metrics.json", "run.json")
    return found + [name for name in others if os.path.lexists(os.path.join(output_dir, name))]


def checkpoint_folder(output_dir: str, step: int) -> str:
    """Where the checkpoint after a step is."""
    return os.path.join(output_dir, "checkpoints", f"step-{step:08d}")


def list_checkpoints(output_dir: str) -> list[tuple[int, str]]:
    """Steps and folders of a run's checkpoints, the oldest first."""
    folder = os.path.join(output_dir, "checkpoints")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = [(match, name) for name in names if (match := re.fullmatch(r"step-(\d+)", name))]
    return sorted((int(match[1]), os.path.join(folder, name)) for match, name in found)


def starting_point(arguments: TrainingArguments) -> str | None:
    """The checkpoint to go on from, `None` to begin.

    Raises:
        FileExistsError: the folder holds a run that the arguments neither resume nor overwrite, or files of others
            where a run writes its own.
        FileNotFoundError: the checkpoint to go on from is not there.
        ValueError: it is not whole, or of another folder.
    """
    output_dir, wanted = arguments.output_dir, arguments.resume_from_checkpoint
    checkpoints = [folder for _, folder in list_checkpoints(output_dir)]
    model = os.path.join(output_dir, "model")
    holds_model = os.path.exists(os.path.join(model, "config.json"))
    if wanted is None or (wanted == "latest" and not checkpoints):
        if (holds_model or checkpoints) and not arguments.overwrite_output_dir:
            what = f"{model} already holds a model" if holds_model else f"{output_dir} already holds checkpoints"
            going_on = "--resume_from_checkpoint latest or " if checkpoints else ""
            raise FileExistsError(f"output_dir: {what}; choose another or {going_on}--overwrite_output_dir.")
        if not arguments.overwrite_output_dir and (others := _not_ours(output_dir)):
            raise FileExistsError(
                f"output_dir: {output_dir} holds {', '.join(others)} that no run has written; choose another, or "
                "--overwrite_output_dir removes them."
            )
        return None
    path = checkpoints[-1] if wanted == "latest" else wanted
    if not os.path.isdir(path):
        raise FileNotFoundError(
            f"resume_from_checkpoint: there is no folder {path}; {output_dir} has {checkpoints or 'no checkpoint'}."
        )
    if os.path.realpath(path) not in [os.path.realpath(folder) for folder in checkpoints]:
        raise ValueError(
            f"resume_from_checkpoint: {path} is not a checkpoint of output_dir, {output_dir}, which has "
            f"{checkpoints or 'none'}."
        )
    fault = find_fault(path)
    if fault is not None:
        others = [folder for folder in reversed(checkpoints) if folder != path and find_fault(folder) is None]
        advice = (
            f"The last whole one is {others[0]}: --resume_from_checkpoint {shlex.quote(others[0])} continues from it."
            if others
            else "No other whole one is there: --overwrite_output_dir begins anew."
        )
        raise ValueError(f"resume_from_checkpoint: {path} is not whole: {fault}. {advice}")
    return path


KEPT = 2
# What to do when there is room again on a full disk.
GO_ON = "--resume_from_checkpoint latest"


@dataclasses.dataclass
class Progress:
    """State of a run, without its tensors.

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
    """Re-raise errors from files with the right checksum but another format, naming the folder."""
    try:
        yield
    except (json.JSONDecodeError, AttributeError, LookupError, RecursionError, RuntimeError, SafetensorError,
            TypeError) as error:  # fmt: skip
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        raise ValueError(f"resume_from_checkpoint: {folder} was not written by this program ({reason})") from error


def read_progress(folder: str) -> Progress:
    """State of the run at a checkpoint."""
    with _reading(folder), open(os.path.join(folder, STATE), encoding="utf-8") as file:
        return Progress(**json.load(file)["progress"])


def can_checkpoint(accelerator: Accelerator) -> bool:
    """Whether every process holds the whole model and optimizer; with FSDP or DeepSpeed none does."""
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
            checksums = {name: file_sha256(os.path.join(partial, name)) for name in sorted(os.listdir(partial))}
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
