"""Text and picture side by side: MG-VMoE's inputs and score without experts, fusion or graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...modeling_mgvmoe import MGVMoEForZeroShotIE, token_mean
from .base import Baseline

# What a batch may hold of its pictures.
PICTURES = ("pixel_values", "image_features", "image_mask", "image_index")


class Concatenation(Baseline):
    """[first token and markers; mean of the text; mean of the picture] and the label, projected to one space (E8).

    Ranking loss. A post without a picture has zeros there.

    Args:
        model: its encoders and the projection of the picture's states are taken.
    """

    def __init__(self, model: MGVMoEForZeroShotIE) -> None:
        super().__init__(model)
        width = (model.config.max_mentions + 3) * self.hidden_size
        self.dropout = nn.Dropout(model.config.projection_dropout)
        self.post_projection = nn.Linear(width, self.hidden_size)
        self.label_projection = nn.Linear(self.hidden_size, self.hidden_size)

    def scores(self, batch: Mapping[str, Any], candidate_embeds: torch.Tensor) -> torch.Tensor:
        states = self.text_states(batch)
        given = {name: batch.get(name) for name in PICTURES}
        pictures, has_picture, _ = self.encoders._picture_states(states, **given, extras={})
        if pictures is not None and given["image_index"] is not None:
            pictures = pictures[given["image_index"]]
        mean = torch.zeros_like(states[:, 0])
        if pictures is not None:
            mean = token_mean(pictures, has_picture[:, None].expand(pictures.shape[:2]))
        post = torch.cat([self.marker_states(batch, states), self.mean_of_post(batch, states), mean], dim=-1)
        labels = self.label_projection(self.dropout(candidate_embeds.to(post.dtype)))
        posts = self.post_projection(self.dropout(post))
        with self.single():
            return posts.float() @ labels.float().T
