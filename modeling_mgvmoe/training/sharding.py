"""Models whose weights are spread over the processes, by FSDP2 or DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .checkpoints import can_checkpoint

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..data.encoding import PostCollator
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor


def is_spread(accelerator: Accelerator) -> bool:
    """Whether a process may have only a part of the weights, so that all must run the model, and equally often."""
    return not can_checkpoint(accelerator)


def even_pictures(
    accelerator: Accelerator, collator: PostCollator, processor: MGVMoEProcessor
) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
    """A collator that gives a batch without pictures blank, masked ones, where the model is spread; else the same.

    The processes bring the weights of every layer together when it runs: one that left out the vision tower would let
    the others wait forever. Masked pictures train like none.
    """
    if not is_spread(accelerator) or collator.feature_cache is not None:
        return collator
    from PIL import Image

    (blank,) = processor.encode_images([Image.new("RGB", (1, 1))])
    assert blank is not None  # for the type checker: there is an image

    def collate(posts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = collator(posts)
        if "pixel_values" not in batch:
            batch["pixel_values"] = torch.zeros(len(posts), *blank.shape)
            batch["image_mask"] = torch.zeros(len(posts), dtype=torch.bool)
        return batch

    return collate


def open_methods(accelerator: Accelerator, model: nn.Module) -> None:
    """Let methods that are called beside `forward` gather the weights as `forward` does."""
    if accelerator.is_fsdp2:
        from torch.distributed.fsdp import register_fsdp_forward_method

        register_fsdp_forward_method(model, "get_candidate_embeds")


def whole_model(accelerator: Accelerator, wrapped: nn.Module) -> MGVMoEForZeroShotIE:
    """The model with all its weights and of its own class, to be saved; every process calls this.

    Of a model that is spread this is a copy on the CPU, on the main process; elsewhere it may lack its weights.
    """
    model = accelerator.unwrap_model(wrapped)
    if not is_spread(accelerator):
        return model
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE

    weights = accelerator.get_state_dict(wrapped)
    # FSDP2 gives the model a class of its own, which cannot be saved. On "meta" nothing is drawn or filled.
    with torch.device("meta"):
        whole = MGVMoEForZeroShotIE(model.config)
    if weights:
        whole.load_state_dict(weights, assign=True)
    return whole
