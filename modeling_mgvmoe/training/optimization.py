"""Parameter groups, optimizer and learning rate schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel, get_scheduler

from .arguments import TrainingArguments

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import LRScheduler

    from ..modeling_mgvmoe import MGVMoEForZeroShotIE


def freeze_text_layers(model: MGVMoEForZeroShotIE, number: int) -> None:
    """Take the gradient off the text encoder's embeddings and its first layers.

    Few training classes soon spoil what the lower layers know about all other words.

    Args:
        model: changed in place.
        number: of layers, from the first; 0 freezes the embeddings alone.

    Raises:
        ValueError: the text encoder has fewer layers, or none that can be found.
    """
    freeze_layers(model.mgvmoe.text_model, number)


def freeze_layers(text_model: PreTrainedModel, number: int) -> None:
    """[`freeze_text_layers`] for a text encoder by itself."""
    total = text_model.config.num_hidden_layers
    if not 0 <= number <= total:
        raise ValueError(f"freeze_text_layers must be between 0 and {total}, the text encoder's layers, got {number}.")
    # All embeddings of a layout like BERT's (positions, norm), else those of the words.
    embeddings = getattr(text_model, "embeddings", None)
    (embeddings if isinstance(embeddings, nn.Module) else text_model.get_input_embeddings()).requires_grad_(False)
    if number == 0:
        return
    stacks = [part for part in text_model.modules() if isinstance(part, nn.ModuleList) and len(part) == total]
    if not stacks:
        raise ValueError(
            f"freeze_text_layers: {type(text_model).__name__} has no list of {total} layers to freeze, got {number}."
        )
    for layer in stacks[0][:number]:
        layer.requires_grad_(False)


# Parts of the model by what their parameters' names contain; everything else is "heads".
PARTS = {".mgvmoe.text_model.": "text", ".mgvmoe.vision_model.": "vision", ".perturbation.": "perturbation"}


def part_of(name: str) -> str:
    """The part to which a parameter of this name belongs: a value of `PARTS`, or "heads".

    Wrappers put something before the names (PEFT "base_model.model.") or behind them (".default").
    """
    return next((part for inside, part in PARTS.items() if inside in f".{name}."), "heads")


def learning_rates(arguments: TrainingArguments) -> dict[str, float]:
    """Peak learning rate of each part."""
    heads = arguments.head_learning_rate or arguments.learning_rate
    return {
        "text": arguments.learning_rate,
        "vision": arguments.learning_rate,
        "heads": heads,
        "perturbation": heads,
    }


def parameter_groups(
    model: nn.Module, weight_decay: float, rates: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters in groups, each with a `name`: the part, and "(no decay)" where there is none.

    Args:
        model: to be trained.
        weight_decay: of matrices; biases, norms and the perturbation have none.
        rates: learning rate of each part, see [`learning_rates`]; default: the optimizer's for all.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = part_of(name)
            groups.setdefault((part, parameter.ndim > 1 and part != "perturbation"), []).append(parameter)
    return [
        {
            "params": parameters,
            "name": part if decayed else f"{part} (no decay)",
            "weight_decay": weight_decay if decayed else 0.0,
            **({} if rates is None else {"lr": rates[part]}),
        }
        for (part, decayed), parameters in groups.items()
    ]


def current_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Learning rate of each part that is trained, as it is now."""
    return {group["name"].removesuffix(" (no decay)"): group["lr"] for group in optimizer.param_groups}


def make_optimizer(model: MGVMoEForZeroShotIE, arguments: TrainingArguments) -> torch.optim.Optimizer:
    """AdamW over what is to be trained; what is not is frozen first."""
    if arguments.freeze_text_layers is not None:
        freeze_text_layers(model, arguments.freeze_text_layers)
    if arguments.gradient_checkpointing:
        # Called otherwise before transformers 5.23.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    groups = parameter_groups(model, arguments.weight_decay, learning_rates(arguments))
    # One pass over each weight, on a CPU too, where it is not the default: a third of the time (benchmarks/LOG.md).
    return torch.optim.AdamW(groups, lr=arguments.learning_rate, fused=True)


def make_schedule(optimizer: torch.optim.Optimizer, arguments: TrainingArguments) -> LRScheduler:
    """The schedule that the arguments name, over all steps, the same shape for every group."""
    steps = arguments.max_train_steps
    return get_scheduler(
        arguments.lr_scheduler_type,
        optimizer,
        num_warmup_steps=round(steps * arguments.warmup_ratio),
        num_training_steps=steps,
    )
