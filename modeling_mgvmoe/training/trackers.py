"""Where a run is reported: means over steps, the log, Accelerate's trackers, the live line."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from ..data.atomic_io import write_whole
from ..data.encoding import image_token_mask
from ..data.environment import choose_precision
from ..data.progress_bar import progress_bar, writes_lines
from ..variational_experts import MODALITIES
from .launch import launch_device

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from .arguments import TrainingArguments
    from .checkpoints import Progress


# What is summed up: since the last entry of the log, and since the last validation.
WINDOWS = ("log", "validation")


def expert_sums(router_probs: torch.Tensor | None, mask: torch.Tensor | None, num_experts: int) -> torch.Tensor | None:
    """Number of real tokens, sum of their routers' entropies in nats, and sums of the K probabilities over them.

    Args:
        router_probs: (B, L, K), or `None`.
        mask: (B, L), or (B,) for whole rows; default: all tokens are real.
        num_experts: K.

    Returns:
        (2 + K,) in double precision, `None` without probabilities.
    """
    if router_probs is None:
        return None
    probs = router_probs.detach().to(_dtype(router_probs.device))
    weights = probs.new_ones(probs.shape[:2]) if mask is None else mask.to(probs.dtype)
    if weights.ndim == 1:
        weights = weights[:, None].expand(probs.shape[:2])
    # Rows without an image may hold anything.
    probs = torch.where(weights[..., None] > 0, probs, 0)
    entropy = torch.special.entr(probs).sum()
    return torch.cat([torch.stack([weights.sum(), entropy]), probs.flatten(0, 1).sum(0)])


def _dtype(device: torch.device) -> torch.dtype:
    # Sums must not depend on when they are read and saved; Apple's GPUs have no double precision.
    return torch.float32 if device.type == "mps" else torch.float64


class Statistics:
    """Sums of the loss terms, of the experts' use and of the router's entropy, for each of `WINDOWS`.

    Args:
        terms: fields of the model's output that are summed, by the names to report them under.
        num_experts: K.
        device: where the sums are.
    """

    def __init__(self, terms: Mapping[str, str], num_experts: int, device: torch.device):
        self.terms, self.num_experts = dict(terms), num_experts
        # Batches, terms, then for each modality tokens, entropy and K probabilities.
        size = 1 + len(self.terms) + len(MODALITIES) * (2 + num_experts)
        self.sums = torch.zeros(len(WINDOWS), size, dtype=_dtype(device), device=device)

    def add(self, output: Mapping[str, Any], batch: Mapping[str, Any]) -> None:
        """Add what the model gave for a batch."""
        terms = torch.stack([output[field].detach().to(self.sums) for field in self.terms.values()])
        images = output.get("image_router_probs")
        masks = (batch.get("attention_mask"), None if images is None else image_token_mask(batch, images))
        experts = [
            expert_sums(probs, mask, self.num_experts)
            for probs, mask in zip((output.get("text_router_probs"), images), masks, strict=True)
        ]
        empty = terms.new_zeros(2 + self.num_experts)
        self.sums += torch.cat([terms.new_ones(1), terms, *(empty if part is None else part for part in experts)])

    def means(self, window: str) -> dict[str, float]:
        """Mean of every loss term over the batches of a window; empty before the first.

        Not reduced: in training every process has the terms of the whole batch.
        """
        batches, *sums = self.sums[WINDOWS.index(window), : 1 + len(self.terms)].tolist()
        return {name: value / batches for name, value in zip(self.terms, sums, strict=True)} if batches else {}

    def experts(self, window: str, accelerator: Accelerator) -> dict[str, float]:
        """Mean router probability of each expert and mean entropy, over the tokens of all processes.

        Returns:
            `router_entropy/text`, `expert_usage/text_0` and so on, and those of images if there were any.
        """
        sums = self.sums[WINDOWS.index(window), 1 + len(self.terms) :].clone()
        rows = accelerator.reduce(sums, "sum").view(len(MODALITIES), -1).tolist()
        found = {}
        for modality, (tokens, entropy, *usage) in zip(MODALITIES, rows, strict=True):
            if tokens:
                found[f"router_entropy/{modality}"] = entropy / tokens
                found |= {f"expert_usage/{modality}_{k}": value / tokens for k, value in enumerate(usage)}
        return found

    def clear(self, window: str) -> None:
        """Begin a window anew."""
        self.sums[WINDOWS.index(window)] = 0

    def state(self, accelerator: Accelerator) -> list[list[list[float]]]:
        """The sums of every process, for a checkpoint; every process calls this."""
        return accelerator.gather(self.sums[None]).tolist()

    def load(self, state: Sequence[Sequence[Sequence[float]]], process: int) -> None:
        """Take the own sums from a checkpoint."""
        self.sums.copy_(torch.tensor(state[process], dtype=torch.float64))


# Seconds between two readings of the loss, for which the device must be waited for.
READING = 0.5


class ProgressLine:
    """A progress bar over the steps, with loss terms, throughput and best macro-F1.

    Args:
        total: steps of the run.
        initial: steps that were done before.
        show: false hides it.
    """

    def __init__(self, total: int, initial: int, show: bool):
        self.bar: Any = progress_bar(desc="training", total=total, unit="step", show=show, initial=initial)
        self.read = 0.0

    def due(self) -> bool:
        """Whether the loss should be read for [`update`]: not at every step of a fast run."""
        if self.bar.disable:
            return False
        if self.bar.n + 1 == self.bar.total:
            return True
        if writes_lines(self.bar):
            # The next step writes a line.
            return time.time() - self.bar.last_print_t >= self.bar.mininterval
        return time.monotonic() - self.read >= READING

    def advance(self) -> None:
        """Count a step."""
        self.bar.update()

    def update(self, means: Mapping[str, float], throughput: float, f1: float | None) -> None:
        """Show these values from now on: means of `loss` and its terms, posts a second, best macro-F1."""
        self.read = time.monotonic()
        shown = [f"{throughput:.3g} posts/s"]
        shown += [f"{name.removesuffix('_loss').replace('_', '-')} {value:.3g}" for name, value in means.items()]
        shown += [] if f1 is None else [f"best F1 {f1:.3f}"]
        self.bar.set_postfix_str(", ".join(shown), refresh=False)

    def close(self) -> None:
        """Leave the line as it is."""
        self.bar.close()


PROJECT = "mgvmoe"
LOG, LOGGING_DIR = "log.jsonl", "trackers"


class JsonLinesTracker(GeneralTracker):
    """A log in a file: one JSON object per line, with its `step`.

    Args:
        path: of the file.
        step: entries after it are removed at the start. They are of steps that a resumed run does again.
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
        write_whole(self.path, "".join(json.dumps(entry) + "\n" for entry in kept).encode())
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
    from accelerate.state import AcceleratorState, is_initialized

    if asked == "auto" and is_initialized():
        # A process has one precision, here that of an earlier training, of `Trainer` for one.
        return AcceleratorState().mixed_precision
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
            # A resumed run has left its configuration there, and its TensorBoard hides what it does again.
            purge = {"tensorboard": {"purge_step": step + 1}} if step else {}
            log.start()  # first of all: it marks the folder as that of a run
            accelerator.init_trackers(PROJECT, None if step else values, purge)
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
        """Leave the time since the last step out of the training time."""
        self.since = time.perf_counter()
