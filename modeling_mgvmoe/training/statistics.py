"""Means over steps, summed up on the device and read only when they are shown: reading waits for the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..data.encoding import image_token_mask
from ..variational_experts import MODALITIES

if TYPE_CHECKING:
    from accelerate import Accelerator

# What is summed up: since the last entry of the log, and since the last validation.
WINDOWS = ("log", "validation")


class TermNames(NamedTuple):
    """How a loss term is called in the bar, in a narrow bar and above its curve, and the scale of the curve."""

    bar: str
    short: str
    curve: str
    scale: str = "linear"


# By the names of `MGVMoEConfig.loss_terms`. Terms that are not here are shown by these names.
TERM_NAMES = {
    "ranking_loss": TermNames("ranking", "rank", "ranking loss (E9)"),
    "cross_entropy_loss": TermNames("cross-entropy", "CE", "cross-entropy of the labels"),
    "kl_loss": TermNames("KL", "KL", "KL of the experts (E4)", "log"),
    "router_entropy_loss": TermNames("entropy", "ent", "router entropy, the loss term (E5)"),
    "alignment_loss": TermNames("alignment", "align", "alignment (E6)"),
    "consistency_loss": TermNames("consistency", "cons", "consistency (E11)"),
    "type_loss": TermNames("types", "types", "types of heads and tails"),
}


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

        Of this process alone: in training it has the terms of the whole batch of all processes.
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
