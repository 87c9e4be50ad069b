"""E4 and E5 of a whole batch: of the experts' terms for text and for pictures, as the model's output has them."""

from collections.abc import Sequence
from typing import cast

import torch

from .variational_experts import VariationalMixtureOutput


def expert_losses(
    mixtures: Sequence[VariationalMixtureOutput], masks: Sequence[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """E4 and E5, means over the modalities, and the sums behind them.

    Args:
        mixtures: with their terms, of the pictures' tokens, if there are any, and last of the text's.
        masks: (B, L) of each.

    Returns:
        `kl_loss`, `router_entropy_loss` and `expert_loss_sums` of [`MGVMoEModelOutput`].
    """
    *image, text = mixtures
    # Pictures that are all masked are no modality: their terms are 0 and must not halve those of the text.
    number = 1 + masks[0].any() if image else 1
    return {
        "kl_loss": torch.stack([cast(torch.Tensor, mixture.kl_loss) for mixture in mixtures]).sum() / number,
        "router_entropy_loss": (
            torch.stack([cast(torch.Tensor, mixture.router_entropy) for mixture in mixtures]).sum() / number
        ),
        "expert_loss_sums": torch.stack(
            [
                _loss_sums(text, masks[-1]),
                _loss_sums(image[0], masks[0]) if image else _loss_sums(None, masks[0][:0]),
            ]
        ),
    }


def _loss_sums(mixture: VariationalMixtureOutput | None, mask: torch.Tensor) -> torch.Tensor:
    """One row of `expert_loss_sums`, in no less than single precision: it holds a count."""
    number = mask.sum().float()
    if mixture is None:
        return torch.stack([torch.zeros_like(number)] * 2 + [number])
    assert mixture.kl_loss is not None and mixture.router_entropy is not None, "they were asked for"
    return torch.stack([mixture.kl_loss * number, mixture.router_entropy * number, number])


__all__ = ["expert_losses"]
