"""E7: one vector of all tokens of a post, weighed for its mention; and the layers that stand beside it.

Axes: B = posts, L = tokens, H = hidden size, K = experts, Q = (max_mentions + 1) H, the size of the query q.
"""

from collections.abc import Sequence

import torch
from torch import nn

from .objectives import at_least_float32
from .text_states import token_mean
from .variational_experts import VariationalMixtureOfExperts, VariationalMixtureOutput, is_plain

# States (B, L, H) of one modality and their mask (B, L).
Tokens = tuple[torch.Tensor, torch.Tensor]
# Whose variances are in memory together.
TOKENS_AT_ONCE = 512


def project(layer: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """`layer` of rows (..., n), bitwise the same wherever in memory its weights lie.

    BLAS takes another way for the product with a single row, whose last bit depends on the weights' alignment: a model
    would score otherwise once it is saved and loaded.
    """
    if torch.compiler.is_compiling() or rows.shape[:-1].numel() != 1:
        return layer(rows)
    two = layer(rows.reshape(1, -1).expand(2, -1))
    return two[:1].view(*rows.shape[:-1], -1)


class AdditiveFusionScore(nn.Module):
    """E7's w . [q ; z_j] + b for every token, without writing the concatenations out.

    No subclass of `nn.Linear`: what takes the place of linear layers (PEFT's "all-linear", quantised weights) would
    call it with the concatenation, and one row has neither a lower rank nor bytes to save.

    Args:
        size: of the concatenation, Q + H.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        layer = nn.Linear(size, 1)
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, mention_states: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Scores (B, L) of tokens (B, L, H) for posts (B, Q)."""
        query_weight, token_weight = self.weight.split([mention_states.shape[1], states.shape[2]], 1)
        # The first summand is the same for every token of a post and cancels in the softmax; it is the paper's.
        scores = nn.functional.linear(mention_states, query_weight, self.bias)
        return scores + nn.functional.linear(states, token_weight).squeeze(-1)


def _attend(scores: torch.Tensor, mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weights (B, L) of tokens: the softmax of their scores over those that `mask` marks."""
    return scores.masked_fill(~mask, float("-inf")).softmax(-1).to(dtype)


def _query(layer: nn.Module, mention_states: torch.Tensor, hidden_size: int) -> torch.Tensor:
    """(B, H), with which tokens are multiplied in the query fusion."""
    return project(layer, mention_states) / hidden_size**0.5


def fuse(
    layer: nn.Module, mention_states: torch.Tensor, states: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """E7 of mixtures that are written out.

    Args:
        layer: an [`AdditiveFusionScore`], or for the query fusion a linear layer of Q to H.
        mention_states: (B, Q), q.
        states: (B, L, H), z.
        mask: (B, L), true for real tokens.

    Returns:
        The fused vector (B, H) and the weights (B, L).
    """
    if isinstance(layer, AdditiveFusionScore):
        scores = layer(mention_states, states)
    else:
        scores = torch.einsum("bh,blh->bl", _query(layer, mention_states, states.shape[-1]), states)
    weights = _attend(scores, mask, states.dtype)
    return torch.einsum("bl,blh->bh", weights, states), weights


def fuse_means(
    layer: nn.Module,
    experts: VariationalMixtureOfExperts,
    mention_states: torch.Tensor,
    modalities: Sequence[Tokens],
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """E7 and the means of E6 at evaluation, of mixtures that are never written out ("Linearity" in the design).

    Args:
        layer: as in [`fuse`]; its weights and those of the experts must be plain, see [`experts_of_means`].
        experts: of the tokens.
        mention_states: (B, Q), q.
        modalities: states (B, L, H) before the experts and mask (B, L) of each.

    Returns:
        The fused vector (B, H), the weights over the tokens of all modalities, and for each modality the mean of its
        mixtures (B, H) and the router's probabilities (B, L, K).
    """
    if isinstance(layer, AdditiveFusionScore):
        # The rest of the score is the same for every token of a post.
        query = layer.weight[0, -experts.hidden_size :]
    else:
        query = _query(layer, mention_states, experts.hidden_size)
    probs = [experts.route(states) for states, _ in modalities]
    products = [experts.mean_products(states, p, query) for (states, _), p in zip(modalities, probs, strict=True)]
    masks = [mask for _, mask in modalities]
    weights = _attend(torch.cat(products, dim=1), torch.cat(masks, dim=1), mention_states.dtype)
    shares = weights.split([mask.shape[1] for mask in masks], dim=1)
    fused, means = [], []
    for (states, mask), p, share in zip(modalities, probs, shares, strict=True):
        equal = mask.to(share.dtype) / mask.sum(-1, keepdim=True).clamp(min=1)
        sums = experts.mean_sums(states, p, torch.stack([share, equal], dim=1))
        fused.append(sums[:, 0])
        means.append(sums[:, 1])
    return sum(fused[1:], start=fused[0]), weights, means, probs


def fuse_modalities(
    layer: nn.Module,
    experts: nn.Module,
    mention_states: torch.Tensor,
    modalities: Sequence[Tokens],
    noises: Sequence[torch.Tensor | None],
    sampled: bool,
    return_losses: bool,
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], list[torch.Tensor], list[VariationalMixtureOutput]]:
    """E1 to E3 of every token and E7, in the form that [`experts_of_means`] allows where nothing is drawn.

    Args:
        layer, mention_states: as in [`fuse`].
        experts: of the tokens.
        modalities: states (B, L, H) before the experts and mask (B, L) of each, text last.
        noises: (B, L, H) of each, or `None`: of the experts' own.
        sampled: whether the mixtures have noise.
        return_losses: whether the mixtures are asked for, with E4 and E5.

    Returns:
        As [`fuse_means`], and the mixtures, none where they were not needed.
    """
    plain = None if sampled else experts_of_means(layer, experts)
    mixtures: list[VariationalMixtureOutput] = []
    if return_losses or plain is None:
        # The text draws its noise first.
        mixtures = [
            experts(*tokens, noise, return_losses)
            for tokens, noise in zip(modalities[::-1], noises[::-1], strict=True)
        ][::-1]
    if plain is not None:
        # With and without losses, so that these change no score.
        return *fuse_means(layer, plain, mention_states, modalities), mixtures
    masks = [mask for _, mask in modalities]
    states = torch.cat([mixture.hidden_states for mixture in mixtures], dim=1)
    fused, weights = fuse(layer, mention_states, states, torch.cat(masks, dim=1))
    means = [token_mean(mixture.hidden_states, mask) for mixture, mask in zip(mixtures, masks, strict=True)]
    return fused, weights, means, [mixture.router_probs for mixture in mixtures], mixtures


def fused_variance(
    experts: VariationalMixtureOfExperts,
    modalities: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]],
) -> torch.Tensor:
    r"""The variance of f in E7, given the weights a, if every token's mixture is drawn by itself, as E3 draws it.

    .. math::
        \mathrm{Var}(f) = \sum_j a_j^2 \sum_k p_{jk}^2\, e^{s_{jk}}

    The sum of independent Gaussians is Gaussian, so that mean and variance are the whole distribution of f.

    Args:
        experts: of the tokens.
        modalities: of each the states before the experts (P, L, H), the weights (B, L), and the row of each post among
            the states (B,), or `None` where every post has its own. A row of several posts is computed once.

    Returns:
        (B, H), in no less than single precision.
    """
    states, weights, _ = modalities[0]
    total = at_least_float32(states.new_zeros(len(weights), states.shape[-1]))
    for states, weights, index in modalities:
        probs = experts.route(states)
        squares = at_least_float32(weights).square()
        for row in range(len(states)):
            posts = [row] if index is None else index == row
            # Not the padding, nor a picture that no post of this row has.
            needed = squares[posts].any(0).nonzero().flatten()
            for chunk in needed.split(TOKENS_AT_ONCE):
                variances = experts.token_variances(states[row, chunk], probs[row, chunk])
                total[posts] += squares[posts][:, chunk] @ variances
    return total


def experts_of_means(layer: nn.Module, experts: nn.Module) -> VariationalMixtureOfExperts | None:
    """The experts, if [`fuse_means`] gives what the layers' own forward would: nothing hooks in or replaces them."""
    if isinstance(layer, AdditiveFusionScore) and not is_plain(layer, AdditiveFusionScore):
        return None
    return experts if isinstance(experts, VariationalMixtureOfExperts) and experts.has_plain_weights else None


__all__ = [
    "AdditiveFusionScore",
    "Tokens",
    "experts_of_means",
    "fuse",
    "fuse_means",
    "fuse_modalities",
    "fused_variance",
    "project",
]
