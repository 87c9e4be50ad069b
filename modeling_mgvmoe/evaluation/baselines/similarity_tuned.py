"""The similarity of a pretrained sentence encoder, fine-tuned: the strongest simple baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from .base import Baseline


class SimilarityTuned(Baseline):
    """Scaled cosine of post and label, both means over tokens; cross-entropy over the training classes."""

    scale = 20.0

    def scores(self, batch: Mapping[str, Any], candidate_embeds: torch.Tensor) -> torch.Tensor:
        states = self.text_states(batch)
        with self.single():
            posts = F.normalize(self.mean_of_post(batch, states), dim=-1)
            return self.scale * posts @ F.normalize(candidate_embeds.float(), dim=-1).T

    def loss_of(self, logits: torch.Tensor, labels: torch.Tensor, candidate_mask: torch.Tensor | None) -> torch.Tensor:
        return F.cross_entropy(logits, labels)
