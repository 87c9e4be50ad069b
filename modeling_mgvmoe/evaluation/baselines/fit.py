"""One short training for every baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import get_linear_schedule_with_warmup

from ...data.encoding import PostCollator
from ...data.precision import choose_precision
from ...data.progress_bar import progress_bar
from ...training.optimization import freeze_layers
from ...training.samplers import ClassBalancedSampler
from .base import Baseline


@dataclass(frozen=True)
class FitArguments:
    """How a baseline is trained.

    Attributes:
        max_train_steps: optimizer steps.
        batch_size: posts, drawn class-balanced.
        learning_rate: of the encoders.
        head_learning_rate: of everything else.
        freeze_text_layers: the text encoder's embeddings and so many of its first layers stay as they are; `None`:
            nothing does.
        eval_steps: steps between validations; the weights of the best one are kept.
        seed: of weights and order.
        mixed_precision: "no", "bf16", or "auto": bf16 where the hardware has it.
    """

    max_train_steps: int = 200
    batch_size: int = 16
    learning_rate: float = 2e-5
    head_learning_rate: float = 1e-3
    freeze_text_layers: int | None = 3
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    eval_steps: int = 50
    seed: int = 0
    mixed_precision: str = "auto"


def fit(
    baseline: Baseline,
    encoded_posts: Sequence[Mapping[str, Any]],
    collator: PostCollator,
    arguments: FitArguments,
    validation_score: Callable[[Baseline], float],
    progress: str | None = None,
) -> list[dict[str, float]]:
    """Train a baseline in place, with AdamW and a linear schedule, and leave it with its best weights.

    Args:
        baseline: fresh.
        encoded_posts: of training.
        collator: with the training labels.
        arguments: how.
        validation_score: called every `eval_steps` steps and at the end; greater is better.
        progress: title of a progress bar; `None` shows none.

    Returns:
        Step, mean loss since the last entry and score of every validation.

    Raises:
        ValueError: the loss is not finite.
    """
    freeze_text_layers_of(baseline, arguments.freeze_text_layers)
    steps = arguments.max_train_steps
    classes = [(post["task"], post["label"]) for post in encoded_posts]
    sampler = ClassBalancedSampler(classes, steps * arguments.batch_size, arguments.seed)
    loader: DataLoader[Any] = DataLoader(encoded_posts, arguments.batch_size, sampler=sampler, collate_fn=collator)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(_groups(baseline, arguments), lr=arguments.learning_rate)
    schedule = get_linear_schedule_with_warmup(optimizer, round(steps * arguments.warmup_ratio), steps)
    history: list[dict[str, float]] = []
    best: dict[str, torch.Tensor] = {}
    total, since = 0.0, 0
    baseline.train()
    half = choose_precision(arguments.mixed_precision, baseline.device) == "bf16"
    for step, batch in enumerate(progress_bar(loader, progress, unit="step"), 1):
        inputs = {name: value.to(baseline.device) for name, value in batch.items()}
        with torch.autocast(baseline.device.type, torch.bfloat16, enabled=half):
            loss = baseline(**inputs).loss
        if not torch.isfinite(loss):
            raise ValueError(f"The loss of {type(baseline).__name__} is {loss.item()} at step {step}.")
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        total, since = total + loss.item(), since + 1
        if step % arguments.eval_steps == 0 or step == steps:
            score = validation_score(baseline)
            if not history or score > max(entry["score"] for entry in history):
                best = {name: deepcopy(value) for name, value in baseline.state_dict().items()}
            history.append({"step": step, "loss": total / since, "score": score})
            total, since = 0.0, 0
            baseline.train()
    baseline.load_state_dict(best)
    baseline.eval()
    return history


def freeze_text_layers_of(baseline: Baseline, number: int | None) -> None:
    """As for MG-VMoE, a frozen vision tower too; what only MG-VMoE uses is left out of the training."""
    if number is not None:
        freeze_layers(baseline.encoders.text_model, number)
    if baseline.encoders.config.freeze_vision:
        baseline.encoders.vision_model.requires_grad_(False)
    for name, part in baseline.encoders.named_children():
        if name not in ("text_model", "vision_model", "vision_projection"):
            part.requires_grad_(False)


def _groups(baseline: Baseline, arguments: FitArguments) -> list[dict[str, Any]]:
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in baseline.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith(("encoders.text_model.", "encoders.vision_model.")), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": arguments.learning_rate if encoder else arguments.head_learning_rate,
            "weight_decay": arguments.weight_decay if decayed else 0.0,
        }
        for (encoder, decayed), parameters in groups.items()
    ]
