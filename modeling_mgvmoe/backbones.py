"""The two encoders of the model, from random weights or from a pretrained checkpoint, without what it does not use."""

import inspect
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel


def without_unused(config: Any) -> dict[str, bool]:
    """Leaves pooler, pooling head and mask token out: they would never get a gradient, which stops DDP.

    Returns:
        Keyword for the backbone's constructor; what the backbone's configuration rules is set there.
    """
    # SigLIP, which has its head too where an older configuration does not say so, and DINOv2.
    for name, default in (("vision_use_head", config.model_type == "siglip_vision_model"), ("use_mask_token", False)):
        if getattr(config, name, default):
            setattr(config, name, False)
    model_class: Any = AutoModel._model_mapping.get(type(config), None)
    accepted = model_class is not None and "add_pooling_layer" in inspect.signature(model_class).parameters
    return {"add_pooling_layer": False} if accepted else {}


def random_backbone(config: Any) -> PreTrainedModel:
    """An encoder by its configuration, with random weights.

    Raises:
        ValueError: the configuration's values do not fit together.
    """
    # The dtype is named, because sub-configurations from the Hub bring their own and would give a mixture.
    try:
        return AutoModel.from_config(config, dtype=torch.get_default_dtype(), **without_unused(config))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ZeroDivisionError) as error:
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        kind = config.model_type
        raise ValueError(f"config: no encoder of type {kind!r} can be built of it: {reason}") from error


def pretrained_backbone(source: str, is_vision: bool, **kwargs: Any) -> PreTrainedModel:
    """An encoder from a checkpoint.

    Args:
        source: Hub name or folder.
        is_vision: of a text-image model the vision part is taken.
        kwargs: for `AutoModel.from_pretrained`.
    """
    config = kwargs.pop("config", None) or AutoConfig.from_pretrained(source, **kwargs)
    if is_vision and not hasattr(config, "hidden_size") and hasattr(config, "vision_config"):
        config = config.vision_config
    # One dtype for the whole model: checkpoints of different dtypes would give a mixture.
    kwargs.setdefault("dtype", torch.get_default_dtype())
    return AutoModel.from_pretrained(source, config=config, **without_unused(config), **kwargs)


__all__ = ["pretrained_backbone", "random_backbone", "without_unused"]
