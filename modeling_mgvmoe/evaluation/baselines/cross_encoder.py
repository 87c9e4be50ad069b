"""Text and label in one pass, as a model of natural language inference reads premise and hypothesis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...modeling_mgvmoe import MGVMoEForZeroShotIE, token_mean
from .base import Baseline, BaselineOutput


class CrossEncoder(Baseline):
    """One number per pair of post and label, from the mean over the tokens of both; cross-entropy over the labels.

    In training a post meets its own label and `negatives` others, drawn anew each time. Text only. Every post is
    encoded once per label: with C labels it costs C times what the other models cost.

    Args:
        model: its text encoder is taken.
        negatives: wrong labels per post and step.
        pairs_at_once: of evaluation.
    """

    def __init__(self, model: MGVMoEForZeroShotIE, negatives: int = 3, pairs_at_once: int = 128) -> None:
        super().__init__(model)
        self.negatives, self.pairs_at_once = negatives, pairs_at_once
        self.dropout = nn.Dropout(model.config.projection_dropout)
        self.classifier = nn.Linear(self.hidden_size, 1)

    def encode_candidates(self, encoded: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The labels' words as they are: nothing of them can be computed before the post is there."""
        return {name: encoded[name] for name in ("candidate_input_ids", "candidate_attention_mask")}

    def forward(  # type: ignore[override]
        self, labels: torch.Tensor | None = None, candidate_mask: torch.Tensor | None = None, **batch: Any
    ) -> BaselineOutput:
        """See the class; a label must have one text."""
        if batch.get("candidate_index") is not None:
            raise ValueError("candidate_index: a cross-encoder reads one text per label, got several")
        number, columns = len(batch["input_ids"]), len(batch["candidate_input_ids"])
        open_pairs = torch.ones(number, columns, dtype=torch.bool, device=self.device)
        if candidate_mask is not None:
            open_pairs &= candidate_mask
        if labels is not None and self.training:
            open_pairs = self._draw(open_pairs, labels)
        rows, labels_of = open_pairs.nonzero(as_tuple=True)
        found = [
            self._pairs(batch, rows[start : start + self.pairs_at_once], labels_of[start : start + self.pairs_at_once])
            for start in range(0, len(rows), self.pairs_at_once)
        ]
        logits = torch.full(open_pairs.shape, float("-inf"), device=self.device)
        logits = logits.index_put((rows, labels_of), torch.cat(found).float())
        return BaselineOutput(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)

    def _draw(self, open_pairs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The right label of each post and `negatives` others that are open to it."""
        right = F.one_hot(labels, open_pairs.shape[1]).bool()
        order = torch.rand(open_pairs.shape, device=self.device).masked_fill(~open_pairs | right, -1)
        kept = min(self.negatives, open_pairs.shape[1] - 1)
        wrong = torch.zeros_like(open_pairs).scatter(1, order.topk(kept).indices, True) & open_pairs
        return right | wrong

    def _pairs(self, batch: Mapping[str, Any], rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """(N,), of posts `rows` with labels `columns`: [first post last] [label last]."""
        label_ids = batch["candidate_input_ids"][columns, 1:]
        label_mask = batch["candidate_attention_mask"][columns, 1:]
        ids = torch.cat([batch["input_ids"][rows], label_ids], dim=1)
        limit = self.encoders.max_text_length
        if limit is not None and ids.shape[1] > limit:
            raise ValueError(
                f"input_ids and candidate_input_ids together must have at most {limit} tokens, as the text encoder "
                f"has positions for, got {ids.shape[1]}. Give the processor a smaller max_length."
            )
        mask = torch.cat([batch["attention_mask"][rows], label_mask], dim=1)
        # Positions go on over the padding between the two, as if there were none.
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        kinds = torch.cat([torch.zeros_like(batch["input_ids"][rows]), torch.ones_like(label_ids)], dim=1)
        states = self.encoders.text_model(
            ids, attention_mask=mask, position_ids=positions, token_type_ids=kinds
        ).last_hidden_state
        with self.single():
            return self.classifier(self.dropout(token_mean(states.float(), mask))).squeeze(-1)
