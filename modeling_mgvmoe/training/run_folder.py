"""What lies in a run's folder: which checkpoints there are, from which one to go on, what an earlier run has left."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
from typing import TYPE_CHECKING

from ..data.whole_folder import remove_folder
from .checkpoint_files import find_fault

if TYPE_CHECKING:
    from .arguments import TrainingArguments


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
    for name in ("metrics.json", "log.jsonl", "training_curves.png"):
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(output_dir, name))


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
        FileExistsError: the folder holds a run that the arguments neither go on with nor overwrite.
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
            f"The last whole one is {others[0]}: --resume_from_checkpoint {shlex.quote(others[0])} goes on from it."
            if others
            else "No other whole one is there: --overwrite_output_dir begins anew."
        )
        raise ValueError(f"resume_from_checkpoint: {path} is not whole: {fault}. {advice}")
    return path
