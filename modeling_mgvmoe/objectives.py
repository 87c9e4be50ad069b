"""The objectives of MG-VMoE as pure functions (E4, E5, E6 and E9 of docs/method.md).

Axes: B = posts, L = tokens, C = candidate labels, K = experts, H = hidden size. Every function returns a scalar and
an unweighted loss; the coefficients are the model's.
"""

import torch
import torch.nn.functional as F


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Half precision becomes single; single and double stay. Losses are sums that half precision cannot hold."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def masked_mean(values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of one value per token over the real tokens.

    Args:
        values: (B, L), one value per token.
        mask: (B, L), true or non-zero for real tokens; `None` means that all are real.

    Returns:
        A scalar; 0 when no token is real.
    """
    if mask is None:
        return values.mean()
    mask = mask.bool()
    # `where` and not a product: padding may hold anything, and 0 * inf is NaN.
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def ranking_loss(
    logits: torch.Tensor, labels: torch.Tensor, margin: float = 1.0, candidate_mask: torch.Tensor | None = None
) -> torch.Tensor:
    r"""E9: mean over posts of :math:`\sum_{c \neq y} \max(0, margin - s_y + s_c)`.

    Args:
        logits: (B, C) scores.
        labels: (B,) index of the right candidate of every post.
        margin: in units of the logits.
        candidate_mask: (B, C), true for the candidates that a post has. Others take no part.

    Returns:
        A scalar. The subgradient at the hinge is 0, as `relu` has it.

    Raises:
        ValueError: a label is outside of the candidates or masked out.
    """
    gold = _gold(logits, labels, candidate_mask)
    logits = at_least_float32(logits)
    others = ~gold if candidate_mask is None else ~gold & candidate_mask.bool()
    gold_logits = logits.gather(1, labels[:, None])
    # Masked logits are -inf, for which relu gives 0 and no gradient.
    violations = F.relu(margin - gold_logits + logits)
    return torch.where(others, violations, 0).sum(1).mean()


def label_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, candidate_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy of every post over its candidates, instead of E9; arguments and errors of [`ranking_loss`]."""
    _gold(logits, labels, candidate_mask)
    logits = at_least_float32(logits)
    if candidate_mask is not None:
        logits = logits.masked_fill(~candidate_mask.bool(), float("-inf"))
    return F.cross_entropy(logits, labels)


def _gold(logits: torch.Tensor, labels: torch.Tensor, candidate_mask: torch.Tensor | None) -> torch.Tensor:
    """(B, C), true for the right candidate, which must be there and not masked out."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits must be (B, C) and labels (B,), got {tuple(logits.shape)} and {tuple(labels.shape)}."
        )
    checked = not torch.compiler.is_compiling()
    if checked and not bool(((labels >= 0) & (labels < logits.shape[1])).all()):
        raise ValueError(f"labels must be in [0, {logits.shape[1]}), got {labels.tolist()}.")
    gold = F.one_hot(labels, logits.shape[1]).bool()
    if checked and candidate_mask is not None and bool((gold & ~candidate_mask.bool()).any()):
        rows = (gold & ~candidate_mask.bool()).any(1).nonzero().flatten().tolist()
        raise ValueError(f"labels must be among the candidates of their post; candidate_mask hides those of {rows}.")
    return gold


def gaussian_kl(means: torch.Tensor, log_variances: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    r"""E4: KL divergence of the experts' Gaussians from N(0, I), :math:`-\frac12 \sum (1 + s - m^2 - e^s)`.

    Args:
        means: (B, L, ...) means m.
        log_variances: (B, L, ...) log variances s, of the same shape.
        mask: (B, L), non-zero for real tokens.

    Returns:
        A scalar: summed over everything after L, mean over the real tokens.
    """
    means, log_variances = at_least_float32(means), at_least_float32(log_variances)
    divergence = -0.5 * (1 + log_variances - means.square() - log_variances.exp())
    return masked_mean(divergence.flatten(2).sum(-1), mask)


def router_entropy(router_logits: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    r"""E5: entropy of the router, :math:`-\sum_k p_k \log p_k`, in nats, mean over the real tokens.

    From `log_softmax`: the reference takes the logarithm of the probabilities and gives NaN once one of them is 0.

    Args:
        router_logits: (B, L, K) before the softmax.
        mask: (B, L), non-zero for real tokens.
    """
    log_probs = at_least_float32(router_logits).log_softmax(-1)
    return masked_mean(-(log_probs.exp() * log_probs).sum(-1), mask)


def info_nce(text_embeds: torch.Tensor, image_embeds: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """E6: symmetric InfoNCE on the inner products of text and image over the batch.

    The reference clips the probabilities of one of the two directions at 1e-7, which stops their gradient; we do not.

    Args:
        text_embeds: (N, H), only posts that have an image.
        image_embeds: (N, H), in the same order.
        temperature: divides the inner products; 1 is the paper's, which also does not normalise.

    Returns:
        A scalar; 0 for N = 0.
    """
    if text_embeds.shape != image_embeds.shape or text_embeds.ndim != 2:
        raise ValueError(
            "text_embeds and image_embeds must both be (N, H), "
            f"got {tuple(text_embeds.shape)} and {tuple(image_embeds.shape)}."
        )
    if text_embeds.shape[0] == 0:
        return text_embeds.sum() + image_embeds.sum()
    logits = at_least_float32(text_embeds) @ at_least_float32(image_embeds).T / temperature
    targets = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


# Statistics of draws from the experts.
#
# In training every token's mixture is z_j ~ N(mu_j, v_j) (E3) and the fused vector is f = sum_j a_j z_j (E7). With the
# weights a of the means, as evaluation has them, f is Gaussian with mean sum_j a_j mu_j and variance sum_j a_j^2 v_j.
# So f is drawn instead of all tokens, and everything before it is computed once. What the noise does to the weights is
# left out, and the text encoder's states, which also enter the score, carry no noise.


def entropy(probs: torch.Tensor) -> torch.Tensor:
    """Entropy of distributions (..., C), in nats."""
    return -torch.xlogy(probs, probs).sum(-1)


def predictive_statistics(sample_logits: torch.Tensor) -> dict[str, torch.Tensor]:
    r"""Mean and deviation of the probabilities over the draws, and what the draws disagree in.

    .. math::
        I = H\big(\tfrac1N \sum_n p_n\big) - \tfrac1N \sum_n H(p_n)

    The entropy of the mean is all uncertainty, the mean entropy that which every draw has by itself (Houlsby et al.,
    2011); their difference is the mutual information of the answer and the draw.

    Args:
        sample_logits: (N, ..., C); -inf for candidates that a post does not have.

    Returns:
        `mean_probs` and `std_probs`, (..., C), and `mutual_information`, (...), in nats; one draw has no deviation: 0.
    """
    return statistics_of_probs(at_least_float32(sample_logits).softmax(-1))


def statistics_of_probs(probs: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same of the probabilities (N, ..., C) of the draws."""
    mean = probs.mean(0)
    # Rounding may take it a little below 0.
    information = (entropy(mean) - entropy(probs).mean(0)).clamp(min=0)
    return {
        "mean_probs": mean,
        "std_probs": probs.std(0, correction=min(1, len(probs) - 1)),
        "mutual_information": information,
    }


__all__ = [
    "at_least_float32",
    "entropy",
    "gaussian_kl",
    "info_nce",
    "label_cross_entropy",
    "masked_mean",
    "predictive_statistics",
    "ranking_loss",
    "router_entropy",
    "statistics_of_probs",
]
