"""Where a run is reported: the log, Accelerate's trackers, the live line, and at the end the curves."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from ..data.precision import choose_precision
from .curves import draw_curves
from .processes import launch_device
from .progress import ProgressLine

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from .arguments import TrainingArguments
    from .checkpoints import Progress
    from .statistics import Statistics

PROJECT = "mgvmoe"
LOG, CURVES, LOGGING_DIR = "log.jsonl", "training_curves.png", "trackers"


class JsonLinesTracker(GeneralTracker):
    """A log in a file: one JSON object per line, with its `step`.

    Args:
        path: of the file.
        step: entries after it are removed at the start. They are of steps that a run which goes on does again.
    """

    name = "jsonl"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, path: str, step: int = 0):
        super().__init__()
        self.path, self.step = path, step
        self.file: Any = None

    @property
    def tracker(self) -> Any:
        """The open file."""
        return self.file

    def start(self) -> None:
        """Open the file, without what is after `step`.

        Raises:
            ValueError: a line other than the last, which a kill may have cut, is not JSON.
        """
        kept = [entry for entry in read_log(self.path) if entry["step"] <= self.step]
        partial = os.path.join(os.path.dirname(self.path), f".{os.path.basename(self.path)}.partial")
        with open(partial, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in kept)
        os.replace(partial, self.path)
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed by `finish`

    def log(self, values: dict, step: int | None = None, **kwargs: Any) -> None:
        """Write a line; it is there when this returns."""
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()

    def finish(self) -> None:
        """Close the file."""
        self.file.close()


def read_log(path: str) -> list[dict[str, Any]]:
    """Entries of a log, the first one first; none if there is no file.

    Raises:
        ValueError: a line other than the last is not JSON.
    """
    if not os.path.exists(path):
        return []
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a text file in UTF-8 is needed ({error}); move the file away.") from error
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                raise ValueError(f"{path}: line {number} is not JSON ({error}); move the file away.") from error
    return entries


def tracker_names(report_to: str) -> list[str]:
    """Names of Accelerate's trackers in `report_to`, "jsonl" left out.

    Raises:
        ValueError: a name is unknown, or the tracker's package is not installed.
    """
    installed, names = [str(name) for name in get_available_trackers()], []
    for name in filter(None, (part.strip() for part in report_to.split(","))):
        if name not in ("jsonl", *LOGGER_TYPE_TO_CLASS):
            raise ValueError(
                f"report_to must name trackers out of jsonl, {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}, got {name!r}."
            )
        if name != "jsonl" and name not in installed:
            raise ValueError(
                f"report_to: the package of {name!r} is not installed (installed: {installed or 'none'})."
            )
        names.append(name)
    return [name for name in dict.fromkeys(names) if name != "jsonl"]


def make_accelerator(arguments: TrainingArguments, model: nn.Module) -> Accelerator:
    """An accelerator with the arguments' precision, accumulation and trackers.

    Args:
        arguments: of the training.
        model: that will be trained.

    Raises:
        ValueError: a tracker is unknown or not installed, or fp16 was asked for on a CPU.

    Warns:
        UserWarning: bf16 was asked for on a processor without it.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration

    # Running means of batch norms are sent in every step; the positions that most encoders keep never change.
    buffers = any(buffer.is_floating_point() for buffer in model.buffers())
    accelerator = Accelerator(
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=buffers, gradient_as_bucket_view=True)],
        mixed_precision=_precision(arguments.mixed_precision),
        gradient_accumulation_steps=arguments.gradient_accumulation_steps,
        log_with=tracker_names(arguments.report_to) or None,
        project_config=ProjectConfiguration(
            project_dir=arguments.output_dir, logging_dir=os.path.join(arguments.output_dir, LOGGING_DIR)
        ),
    )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        # Accelerate would train in single precision and not say so.
        raise ValueError('mixed_precision: "fp16" needs a GPU, got a CPU, which has "bf16" and "no".')
    if arguments.mixed_precision == "auto":
        accelerator.print(f"mixed_precision: {accelerator.mixed_precision}", file=sys.stderr)
    return accelerator


def _precision(asked: str) -> str:
    """The argument, with "auto" resolved."""
    # Without a word about precision, `accelerate launch` says "no".
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked == "auto" and launched != "no":
        asked = launched
    return choose_precision(asked, launch_device())


class Reporter:
    """Reports one run while it is open.

    Args:
        accelerator: of the run; its trackers are started and finished.
        arguments: of the run.
        statistics: what is reported; `log` clears its window.
        progress: how far the run has come.
    """

    def __init__(
        self, accelerator: Accelerator, arguments: TrainingArguments, statistics: Statistics, progress: Progress
    ):
        self.accelerator, self.arguments, self.statistics = accelerator, arguments, statistics
        self.first_step = progress.step
        self.posts_per_step = (
            arguments.per_device_train_batch_size * accelerator.gradient_accumulation_steps * accelerator.num_processes
        )
        # Steps and seconds since the last entry of the log, without validations and checkpoints.
        self.steps, self.seconds, self.since = 0, 0.0, time.perf_counter()

    def __enter__(self) -> Reporter:
        accelerator, step = self.accelerator, self.first_step
        log = JsonLinesTracker(os.path.join(self.arguments.output_dir, LOG), step)
        if accelerator.is_main_process:
            values = {
                name: value
                for name, value in dataclasses.asdict(self.arguments).items()
                if isinstance(value, str | int | float)
            }
            # A run that goes on has left its configuration there, and its TensorBoard hides what it does again.
            purge = {"tensorboard": {"purge_step": step + 1}} if step else {}
            accelerator.init_trackers(PROJECT, None if step else values, purge)
            log.start()
            accelerator.trackers.append(log)
        self.line = ProgressLine(self.arguments.max_train_steps, step, accelerator.is_main_process)
        self.since = time.perf_counter()
        return self

    def __exit__(self, *error: Any) -> None:
        self.line.close()
        # Not `end_training`, which would also end the process group, and that is the caller's.
        while self.accelerator.trackers:
            self.accelerator.trackers.pop().finish()

    @property
    def throughput(self) -> float:
        """Posts a second, of all processes together, since the last entry of the log."""
        return self.steps * self.posts_per_step / self.seconds if self.seconds else 0.0

    def stepped(self, progress: Progress) -> None:
        """Count a step that is done and show it."""
        now = time.perf_counter()
        self.steps, self.seconds, self.since = self.steps + 1, self.seconds + now - self.since, now
        if self.line.due():
            self.line.update(self.statistics.means("log"), self.throughput, progress.best.get("macro_f1"))
        self.line.advance()

    def log(
        self, progress: Progress, rates: Mapping[str, float], scores: Mapping[str, Any] | None, last: bool
    ) -> None:
        """Write an entry if one is due; every process calls this after every step.

        Args:
            progress: how far the run has come.
            rates: learning rate of each part.
            scores: of the validation after this step, if there was one.
            last: an entry is due even if `logging_steps` does not say so.
        """
        values: dict[str, float] = {}
        if last or progress.step % self.arguments.logging_steps == 0:
            values |= {f"train/{name}": value for name, value in self.statistics.means("log").items()}
            values |= {f"learning_rate/{part}": rate for part, rate in rates.items()}
            values |= self.statistics.experts("log", self.accelerator)
            values["train/posts_per_second"] = self.throughput
            self.statistics.clear("log")
            self.steps, self.seconds = 0, 0.0
        if scores is not None:
            values["validation/macro_f1"] = scores["macro_f1"]
            for task, numbers in scores["validation"].items():
                values |= {f"validation/{task}/{name}": numbers[name] for name in ("accuracy", "macro_f1")}
        if values:
            self.accelerator.log(values, step=progress.step)

    def restart_clock(self) -> None:
        """What was done since the last step is not training."""
        self.since = time.perf_counter()

    def draw(self) -> None:
        """Write the picture of the curves, or say why not."""
        if self.accelerator.is_main_process:
            path = os.path.join(self.arguments.output_dir, CURVES)
            fault = draw_curves(read_log(os.path.join(self.arguments.output_dir, LOG)), path)
            self.accelerator.print(f"curves: {path}" if fault is None else f"{CURVES} was not drawn: {fault}")
