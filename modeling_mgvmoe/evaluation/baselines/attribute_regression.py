"""ZS-BERT's way (Chen and Li, NAACL 2021): a post is mapped onto the attribute vector of its class."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...modeling_mgvmoe import MGVMoEForZeroShotIE
from .base import Baseline


class AttributeRegression(Baseline):
    """A post's first token and markers, through a hidden layer, are drawn to its class's attribute vector.

    The attribute vectors are those of a sentence encoder that is not trained, here the text encoder as it came, for
    the labels' descriptions. The loss is ZS-BERT's: a hinge that wants the right attribute nearer than the nearest
    wrong one by a margin, and cross-entropy of a classifier over the training classes, weighted 0.6 and 0.4. Its
    margin of 7.5 is for inner products of BERT; ours are cosines, with 0.5. Text only.

    Args:
        model: its encoders are taken.
        num_classes: of the training.
    """

    margin, share = 0.5, 0.4

    def __init__(self, model: MGVMoEForZeroShotIE, num_classes: int) -> None:
        super().__init__(model)
        self.attribute_encoder = deepcopy(model.mgvmoe.text_model).requires_grad_(False)
        width = (model.config.max_mentions + 1) * self.hidden_size
        self.hidden = nn.Linear(width, self.hidden_size)
        self.attributes = nn.Linear(self.hidden_size, self.hidden_size)
        self.classifier = nn.Linear(self.hidden_size, num_classes)
        self._class_logits: torch.Tensor | None = None

    @torch.no_grad()
    def encode_candidates(self, encoded: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        own, self.encoders.text_model = self.encoders.text_model, self.attribute_encoder.eval()
        try:
            return super().encode_candidates(encoded)
        finally:
            self.encoders.text_model = own

    def scores(self, batch: Mapping[str, Any], candidate_embeds: torch.Tensor) -> torch.Tensor:
        markers = self.marker_states(batch, self.text_states(batch))
        attributes = self.attributes(torch.tanh(self.hidden(markers)))
        self._class_logits = self.classifier(attributes) if self.training else None
        with self.single():
            return F.normalize(attributes.float(), dim=-1) @ F.normalize(candidate_embeds.float(), dim=-1).T

    def loss_of(self, logits: torch.Tensor, labels: torch.Tensor, candidate_mask: torch.Tensor | None) -> torch.Tensor:
        right = logits.gather(1, labels[:, None]).squeeze(1)
        wrong = logits.scatter(1, labels[:, None], float("-inf")).amax(1)
        hinge = F.relu(self.margin - right + wrong).mean()
        assert self._class_logits is not None, "the loss is that of training"
        classes = self._class_logits.float()
        if candidate_mask is not None:
            classes = classes.masked_fill(~candidate_mask, float("-inf"))
        return (1 - self.share) * hinge + self.share * F.cross_entropy(classes, labels)
