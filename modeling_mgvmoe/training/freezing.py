"""Parts of the text encoder that are kept as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE


def freeze_text_layers(model: MGVMoEForZeroShotIE, number: int) -> None:
    """Take the gradient off the text encoder's embeddings and its first layers.

    Few classes and few posts, as zero-shot learning has them for training, soon spoil what the lower layers know about
    all the words that are not among them.

    Args:
        model: changed in place.
        number: of layers, from the first; 0 freezes the embeddings alone.

    Raises:
        ValueError: the text encoder has fewer layers, or none that can be found.
    """
    freeze_layers(model.mgvmoe.text_model, number)


def freeze_layers(text_model: PreTrainedModel, number: int) -> None:
    """As [`freeze_text_layers`], for a text encoder by itself."""
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
