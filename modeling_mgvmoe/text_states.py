"""What the model takes from its text encoder: the states at the mentions (q of E7) and the embeddings of labels (E8).

Axes: B = posts, Lt = text tokens, H = hidden size, C = candidate labels, Lc = label tokens, P = texts of labels, S =
marked mentions of a post.
"""

from typing import Any

import torch
from torch import nn

from .canonical_order import canonical_order
from .input_checks import check_index, check_mention_positions, check_tensors, check_tokens
from .similarity_score import label_mean, masked_token_mean, one_of_each


def token_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of (B, L, H) states over the tokens that `mask` (B, L) marks; zeros for rows without one. To (B, H)."""
    return masked_token_mean(states, mask[:, None]).squeeze(1)


class TextStates(nn.Module):
    """What the model does with texts; a base class of it.

    Attributes:
        config: an [`MGVMoEConfig`].
        text_model: the text encoder.
    """

    config: Any
    text_model: Any

    def get_candidate_embeds(
        self,
        candidate_input_ids: torch.Tensor,
        candidate_attention_mask: torch.Tensor | None = None,
        candidate_index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """E8: l_c, the mean over the real tokens of the text encoder's states for the words of each label.

        Args:
            candidate_input_ids: (C, Lc), or (P, Lc) where labels have several texts.
            candidate_attention_mask: (C, Lc) or (P, Lc).
            candidate_index: (P,), to which label from 0 to C - 1 each text belongs.

        Returns:
            (C, H), the mean over a label's texts; with `score="similarity"` of their directions, of length 1.
        """
        check_tensors(
            candidate_input_ids=candidate_input_ids,
            candidate_attention_mask=candidate_attention_mask,
            candidate_index=candidate_index,
        )
        if candidate_attention_mask is None:
            candidate_attention_mask = torch.ones_like(candidate_input_ids)
        self._check_tokens(candidate_input_ids, candidate_attention_mask, "candidate_")
        if candidate_index is not None:
            check_index(candidate_index, candidate_input_ids.shape[0])
        if candidate_index is not None and self.training and self.config.sample_candidate_texts:
            drawn = one_of_each(candidate_index)
            candidate_input_ids, candidate_attention_mask = candidate_input_ids[drawn], candidate_attention_mask[drawn]
            candidate_index = None
        if torch.compiler.is_exporting():
            # Ordering goes through the tokens one by one, and an exported graph takes labels of any length.
            return self._embed_texts(candidate_input_ids, candidate_attention_mask, candidate_index)
        order = canonical_order(candidate_input_ids.masked_fill(~candidate_attention_mask.bool(), -1))
        index = None if candidate_index is None else candidate_index[order]
        embeds = self._embed_texts(candidate_input_ids[order], candidate_attention_mask[order], index)
        return embeds[order.argsort()] if index is None else embeds

    def _embed_texts(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, index: torch.Tensor | None
    ) -> torch.Tensor:
        """`get_candidate_embeds` in the order of the rows."""
        states = self.text_model(input_ids, attention_mask=attention_mask).last_hidden_state
        return label_mean(token_mean(states, attention_mask), index, directions=self.config.score == "similarity")

    @property
    def max_text_length(self) -> int | None:
        """Most tokens that the text encoder has position embeddings for; `None` where it has no such table."""
        table = getattr(getattr(self.text_model, "embeddings", None), "position_embeddings", None)
        if not isinstance(table, nn.Embedding):
            return None
        # RoBERTa counts positions from the padding id on.
        return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)

    def _check_tokens(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, name: str) -> None:
        check_tokens(input_ids, attention_mask, name, self.max_text_length, self.config.text_config.vocab_size)

    def _mention_states(
        self, text_states: torch.Tensor, text_mask: torch.Tensor, mention_positions: torch.Tensor
    ) -> torch.Tensor:
        """q of E7, (B, (max_mentions + 1) H), zeros where a position is -1."""
        size, slots = text_states.shape, self.config.max_mentions
        check_mention_positions(mention_positions, text_mask, slots)
        index = mention_positions.clamp(min=0)[..., None].expand(-1, -1, size[2])
        markers = text_states.gather(1, index) * (mention_positions >= 0)[..., None]
        markers = nn.functional.pad(markers, (0, 0, 0, slots - markers.shape[1]))
        return torch.cat([text_states[:, :1], markers], dim=1).flatten(1)


__all__ = ["TextStates", "token_mean"]
