r"""Scores that begin as the similarity a pretrained text encoder already knows: `score="similarity"` in place of E8.

E8 compares posts and labels through two projections. Started at random they lose what the encoder knows of labels
that are not trained on, and a few training classes do not teach it back. Here the encoder's own similarity is the
score, and what the experts made of post and picture is added through a gate that opens from 0.

Axes: B = posts, L = tokens, H = hidden size, C = candidate labels, S = mentions, T = types of heads and tails.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from .objectives import at_least_float32


def masked_token_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of (B, L, H) states over the tokens that `mask` (B, S, L) marks; zeros where none are. To (B, S, H)."""
    weights = mask.to(states.dtype)
    return torch.einsum("blh,bsl->bsh", states, weights / weights.sum(-1, keepdim=True).clamp(min=1))


def label_mean(embeds: torch.Tensor, index: torch.Tensor | None, directions: bool = True) -> torch.Tensor:
    """Each label as the mean of its texts.

    One sentence has its accidents, which make a label near to every post or to none; several that say the same in
    other words have fewer.

    Args:
        embeds: (P, H), of one text each.
        index: (P,), the label of each text, every label from 0 to C - 1 present; `None` for one text a label.
        directions: the mean is that of directions, and of length 1; else that of the vectors as they are.

    Returns:
        (C, H).
    """
    if directions:
        embeds = F.normalize(at_least_float32(embeds), dim=-1)
    if index is None:
        return embeds
    # `item`, not `int`: an exported graph has any number of labels.
    number = cast(int, index.max().item()) + 1
    sums = embeds.new_zeros(number, embeds.shape[1]).index_add(0, index, embeds)
    if directions:
        return F.normalize(sums, dim=-1)
    return sums / embeds.new_zeros(number).index_add(0, index, embeds.new_ones(index.shape))[:, None]


def one_of_each(index: torch.Tensor) -> torch.Tensor:
    """For each label one of its texts, drawn from torch's generator.

    Args:
        index: (P,), the label of each text.

    Returns:
        (C,), rows.
    """
    order = torch.rand(len(index), device=index.device).argsort()
    # Of a label's texts, the one that comes first in a random order of all.
    first = torch.full((int(index.max()) + 1,), len(index), device=index.device)
    ranks = first.scatter_reduce(0, index[order], torch.arange(len(index), device=index.device), "amin")
    return order[ranks]


class SimilarityScore(nn.Module):
    r"""E8': similarity as the start, a gated residual, and the types of head and tail.

    .. math::
        u = (1 - w)\,\bar x + w\,\bar x_{mention} \qquad
        s_c = \tau\, \langle \hat u + g\, \widehat{P_m[f ; q]},\; \hat l_c \rangle
              + \lambda \sum_{i} \log \sum_{t \in T_{c,i}} p_i(t) \qquad
        p_i = \mathrm{softmax}_t(\tau\, \langle \hat x_{mention_i}, \hat l_t \rangle)

    :math:`\bar x` is the mean of the text encoder's states over the post, :math:`\bar x_{mention}` over a mention,
    hats are directions (length 1), w is 0 for pairs, whose mentions speak through their types, g starts at 0,
    :math:`T_{c,i}` are the types that label c allows for mention i.

    Args:
        scale: tau.
        mention_weight: w of posts with one mention.
        type_coef: lambda.
    """

    def __init__(self, scale: float, mention_weight: float, type_coef: float) -> None:
        super().__init__()
        self.scale, self.mention_weight, self.type_coef = scale, mention_weight, type_coef
        self.gate = nn.Parameter(torch.zeros(1))

    def embed_posts(
        self, states: torch.Tensor, mask: torch.Tensor, mention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The directions of posts and mentions.

        Args:
            states: (B, L, H), of the text encoder.
            mask: (B, L), true for real tokens.
            mention_mask: (B, S, L), true for the tokens of each mention; all false for an absent second mention.

        Returns:
            u, (B, H), and the mentions, (B, S, H), zeros for absent ones; all of length 1.
        """
        states = at_least_float32(states)
        whole = F.normalize(masked_token_mean(states, mask[:, None]).squeeze(1), dim=-1)
        mentions = F.normalize(masked_token_mean(states, mention_mask), dim=-1)
        single = mention_mask.any(-1).sum(-1) == 1
        weight = (self.mention_weight * single.to(whole.dtype))[:, None]
        return F.normalize((1 - weight) * whole + weight * mentions[:, 0], dim=-1), mentions

    def with_residual(self, post_embeds: torch.Tensor, projected: torch.Tensor) -> torch.Tensor:
        """The posts' side of the score: u with what the experts add, both (B, H)."""
        return post_embeds + self.gate * F.normalize(at_least_float32(projected), dim=-1)

    def type_log_probs(self, mentions: torch.Tensor, type_embeds: torch.Tensor) -> torch.Tensor:
        """log p of every type for every mention, (B, S, T), of mentions (B, S, H) and types (T, H)."""
        return (self.scale * at_least_float32(mentions) @ at_least_float32(type_embeds).T).log_softmax(-1)

    @staticmethod
    def fit_of_types(
        log_probs: torch.Tensor, candidate_types: torch.Tensor, mention_mask: torch.Tensor
    ) -> torch.Tensor:
        """How well the mentions fit the types that each label allows: sum over the mentions of log P(allowed).

        Args:
            log_probs: (B, S, T).
            candidate_types: (C, S', T), true for the allowed types, S' at least S. All true: no constraint, worth 0.
            mention_mask: (B, S, L).

        Returns:
            (B, C).
        """
        allowed = candidate_types[None, :, : log_probs.shape[1]]
        fit = log_probs[:, None].masked_fill(~allowed, float("-inf")).logsumexp(-1)
        # Types are those of heads and tails: a post with one mention has none. And rounding must not tell a label
        # without constraint from 0.
        pairs = (mention_mask.any(-1).sum(-1) == 2)[:, None, None]
        counts = pairs & ~allowed.all(-1)
        return torch.where(counts, fit, 0).sum(-1)


__all__ = ["SimilarityScore", "label_mean", "masked_token_mean", "one_of_each"]
