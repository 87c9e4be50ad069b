"""The two encoders of the model, from random weights or from a pretrained checkpoint, without what it does not use."""

import inspect
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

# Encoders that draw at random in evaluation, too: scores would differ from call to call.
DRAWING = {
    "vit_mae": 'it hides patches at random; its weights load as a ViT (model_type "vit"), which sees all of them',
    "reformer": "its attention hashes at random unless its hash_seed is set",
}


def check_repeatable(name: str, config: Any) -> None:
    """Refuse an encoder that draws at random in evaluation.

    Args:
        name: of the argument, for the message.
        config: of the encoder.

    Raises:
        ValueError: it is of a family that does.
    """
    kind = config.model_type
    if kind in DRAWING and getattr(config, "hash_seed", None) is None:
        raise ValueError(f"{name} must be repeatable in evaluation, got an encoder of type {kind!r}: {DRAWING[kind]}.")


def check_side(name: str, config: Any, takes_images: bool) -> None:
    """Refuse an encoder of the other kind: texts and images may have been given in the wrong order.

    Args:
        name: of the argument, for the message.
        config: of the encoder.
        takes_images: whether it must.

    Raises:
        ValueError: it takes the other kind of input.
    """
    if not takes_images and hasattr(config, "vision_config"):
        raise ValueError(f"{name} must be a text encoder, got {config.model_type!r}, a text-image model.")
    model_class: Any = AutoModel._model_mapping.get(type(config), None)
    if not isinstance(model_class, type):  # several, or code from the Hub
        return
    main_input = getattr(model_class, "main_input_name", "")
    kind = {"input_ids": False, "pixel_values": True}.get(main_input)
    if kind is not None and kind != takes_images:
        wanted, given = ("a vision", "a text") if takes_images else ("a text", "a vision")
        raise ValueError(
            f"{name} must be {wanted} encoder, got {config.model_type!r}, {given} encoder; the text encoder comes "
            "first, then the vision encoder."
        )


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

    What it must be is checked before its weights are read.

    Args:
        source: Hub name or folder.
        is_vision: of a text-image model the vision part is taken.
        kwargs: for `AutoModel.from_pretrained`.

    Raises:
        ValueError: it is not of the kind that is asked for, or draws at random in evaluation.
    """
    config = kwargs.pop("config", None) or AutoConfig.from_pretrained(source, **kwargs)
    if is_vision and not hasattr(config, "hidden_size") and hasattr(config, "vision_config"):
        config = config.vision_config
    name = "vision_id" if is_vision else "text_id"
    check_side(name, config, is_vision)
    check_repeatable(name, config)
    # One dtype for the whole model: checkpoints of different dtypes would give a mixture.
    kwargs.setdefault("dtype", torch.get_default_dtype())
    return AutoModel.from_pretrained(source, config=config, **without_unused(config), **kwargs)


__all__ = ["check_repeatable", "check_side", "pretrained_backbone", "random_backbone", "without_unused"]
