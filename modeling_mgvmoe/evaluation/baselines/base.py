"""What the trained baselines share: the encoders of an MG-VMoE, and its way of being called.

Axes: B = posts, L = tokens, H = hidden size, C = candidate labels, S = marked mentions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from ...modeling_mgvmoe import MGVMoEForZeroShotIE, token_mean
from ...objectives import ranking_loss


@dataclass
class BaselineOutput(ModelOutput):
    """Output of a baseline.

    Args:
        loss: scalar, if labels were given.
        logits: (B, C), -inf where `candidate_mask` is false.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class Baseline(nn.Module):
    """A model that takes the batches of [`PostCollator`] and is evaluated like MG-VMoE.

    Args:
        model: its encoders are taken, and trained, in place; nothing else of it is used.
    """

    def __init__(self, model: MGVMoEForZeroShotIE) -> None:
        super().__init__()
        self.encoders = model.mgvmoe
        self.hidden_size: int = model.config.hidden_size

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def text_states(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """(B, L, H), of the text encoder."""
        return self.encoders.text_model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state

    def marker_states(self, batch: Mapping[str, Any], states: torch.Tensor) -> torch.Tensor:
        """(B, (S + 1) H): the first token and the opening marker of each mention, zeros for an absent one."""
        return self.encoders._mention_states(states, batch["attention_mask"].bool(), batch["mention_positions"])

    def mean_of_post(self, batch: Mapping[str, Any], states: torch.Tensor) -> torch.Tensor:
        """(B, H)."""
        return token_mean(states.float(), batch["attention_mask"])

    def single(self) -> torch.autocast:
        """No half precision within: what decides between labels is below what it tells apart, here as in MG-VMoE."""
        return torch.autocast(self.device.type, enabled=False)

    def encode_candidates(self, encoded: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Labels as what `forward` takes in place of their words."""
        return {
            "candidate_embeds": self.encoders.get_candidate_embeds(
                encoded["candidate_input_ids"], encoded["candidate_attention_mask"], encoded.get("candidate_index")
            )
        }

    def scores(self, batch: Mapping[str, Any], candidate_embeds: torch.Tensor) -> torch.Tensor:
        """Scores (B, C) of labels (C, H)."""
        raise NotImplementedError

    def loss_of(self, logits: torch.Tensor, labels: torch.Tensor, candidate_mask: torch.Tensor | None) -> torch.Tensor:
        """The training objective; default: E9, the ranking loss with margin 1."""
        return ranking_loss(logits, labels, 1.0, candidate_mask)

    def forward(
        self,
        labels: torch.Tensor | None = None,
        candidate_mask: torch.Tensor | None = None,
        candidate_embeds: torch.Tensor | None = None,
        **batch: Any,
    ) -> BaselineOutput:
        """As [`MGVMoEForZeroShotIE`] is called, of which a baseline uses what it needs."""
        if candidate_embeds is None:
            candidate_embeds = self.encode_candidates(batch)["candidate_embeds"]
        logits = self.scores(batch, candidate_embeds).float()
        if candidate_mask is not None:
            logits = logits.masked_fill(~candidate_mask, float("-inf"))
        loss = None if labels is None else self.loss_of(logits, labels, candidate_mask)
        return BaselineOutput(loss=loss, logits=logits)
