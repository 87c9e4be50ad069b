"""A prototype per label: the mean over the tokens of its words, compared with the markers of the mentions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .base import Baseline


class Prototype(Baseline):
    """Dot product of the mean of the opening markers' states and the label, ranking loss; text only."""

    def scores(self, batch: Mapping[str, Any], candidate_embeds: torch.Tensor) -> torch.Tensor:
        markers = self.marker_states(batch, self.text_states(batch)).unflatten(1, (-1, self.hidden_size))[:, 1:]
        present = (batch["mention_positions"] >= 0).sum(1, keepdim=True)
        with self.single():
            return (markers.float().sum(1) / present) @ candidate_embeds.float().T
