"""What the model takes from its vision encoder: tokens of pictures, where some posts have none or share one.

Axes: B = posts, Li = picture tokens, H = hidden size, H' = width of the vision encoder.
"""

from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from .input_checks import check_image_index, check_pixels


def _all_true(mask: torch.Tensor) -> bool:
    """Whether nothing is masked, where asking costs no wait for a device and no branch of a compiled graph."""
    return mask.device.type == "cpu" and not torch.compiler.is_compiling() and bool(mask.all())


class PictureStates(nn.Module):
    """What the model does with pictures; a base class of it.

    Attributes:
        config: an [`MGVMoEConfig`].
        vision_model: the vision encoder.
        vision_projection: from its width to H.
    """

    config: Any
    dtype: Any
    vision_model: Any
    vision_projection: nn.Module

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The vision encoder's tokens, before any trained part: what may be cached as `image_features`.

        Args:
            pixel_values: (B, 3, height, width).

        Returns:
            (B, Li, H').
        """
        return self._encode_images(pixel_values)[0]

    def _encode_images(self, pixel_values: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, ModelOutput]:
        check_pixels(pixel_values)
        # A frozen tower has nothing to train but adapters.
        trains = not self.config.freeze_vision or any(one.requires_grad for one in self.vision_model.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trains):
            output = self.vision_model(pixel_values=pixel_values.to(self.vision_model.dtype), **kwargs)
        states = output.last_hidden_state
        # A feature map (B, H', h, w) becomes tokens, row by row.
        return states.flatten(2).transpose(1, 2) if states.ndim == 4 else states, output

    def _picture_states(
        self,
        text_states: torch.Tensor,
        pixel_values: torch.Tensor | None,
        image_features: torch.Tensor | None,
        image_mask: torch.Tensor | None,
        image_index: torch.Tensor | None,
        extras: dict[str, Any],
    ) -> tuple[torch.Tensor | None, torch.Tensor, ModelOutput | None]:
        """Projected tokens of the rows of pictures or `None`, the mask of posts with a picture, the tower's output."""
        batch_size, source = text_states.shape[0], pixel_values if pixel_values is not None else image_features
        if image_mask is None:
            image_mask = torch.full((batch_size,), source is not None, device=text_states.device)
        image_mask = image_mask.bool()
        if image_index is not None:
            check_image_index(image_index, batch_size, source)
        rows = batch_size if source is None or image_index is not None else source.shape[0]
        if image_mask.shape != (batch_size,) or rows != batch_size:
            raise ValueError(
                f"image_mask and the pictures must have one row for each of the {batch_size} posts, got image_mask "
                f"{tuple(image_mask.shape)}" + ("." if source is None else f" and pictures {tuple(source.shape)}.")
            )
        if source is None:
            if not torch.compiler.is_compiling() and bool(image_mask.any()):
                raise ValueError(
                    "image_mask marks posts with a picture, but neither pixel_values nor image_features came."
                )
            return None, image_mask, None
        output = None
        # Of each row of the pictures, whether any post has it.
        present = image_mask if image_index is None else image_mask.new_zeros(source.shape[0])
        if image_index is not None:
            present[image_index[image_mask]] = True
        if pixel_values is not None:
            image_features, output = self._encode_present(pixel_values, present, extras)
        elif image_features.ndim != 3 or image_features.shape[-1] != self.config.vision_width:
            raise ValueError(
                f"image_features must be (B, Li, {self.config.vision_width}), got {tuple(image_features.shape)}."
            )
        # Rows without a picture may hold anything, also NaN, which a weight of 0 would let through.
        states = image_features.to(self.dtype)
        if not _all_true(present):
            states = torch.where(present[:, None, None], states, 0)
        return self.vision_projection(states), image_mask, output

    def _encode_present(
        self, pixel_values: torch.Tensor, image_mask: torch.Tensor, extras: dict[str, Any]
    ) -> tuple[torch.Tensor, ModelOutput]:
        """The tower's tokens (B, Li, H'), for the posts with a picture only where some have none; zeros for those."""
        check_pixels(pixel_values)
        if _all_true(image_mask):
            return self._encode_images(pixel_values, **extras)
        number = image_mask.shape[0] if torch.compiler.is_compiling() or extras else int(image_mask.sum())
        if 0 < number < image_mask.shape[0]:
            present = image_mask.nonzero().flatten()
            states, output = self._encode_images(pixel_values[present])
            return states.new_zeros(image_mask.shape[0], *states.shape[1:]).index_copy(0, present, states), output
        # NaN in a row without a picture would spoil the gradient of the tower, even with a weight of 0 further up.
        row_mask = image_mask.view(-1, *[1] * (pixel_values.ndim - 1))
        return self._encode_images(torch.where(row_mask, pixel_values, 0), **extras)

    def _zero_of_the_vision_side(self) -> torch.Tensor | float:
        """0, with a gradient of 0 for every trained parameter that a batch without any picture does not use.

        DDP waits in vain for parameters without a gradient, and of several processes one may have no picture. Its own
        remedy, `find_unused_parameters`, searches the graph in every step. And thus a batch without pictures means the
        same to the optimizer whether its pictures are left out or masked, in one process or in several.
        """
        vision = (*self.vision_model.parameters(), *self.vision_projection.parameters())
        # One number of each is enough, and cannot overflow.
        return sum((parameter.flatten()[0] * 0.0 for parameter in vision if parameter.requires_grad), start=0.0)


__all__ = ["PictureStates"]
