r"""What draws from the variational experts say about a prediction.

What is drawn: in training every token's mixture is :math:`z_j \sim N(\mu_j, v_j)` (E3), and the fused vector is
:math:`f = \sum_j a_j z_j` (E7). With the weights a of the means, as evaluation has them, f is exactly Gaussian, of
mean :math:`\sum_j a_j \mu_j` and variance :math:`\sum_j a_j^2 v_j`. So f is drawn in place of all tokens, and
everything before it is computed once for all draws. What the noise would do to the weights themselves is left out. The
text encoder's own states, which also enter the score, carry no noise.

Axes: N = draws, B = posts, C = candidate labels.
"""

import torch

from .objectives import at_least_float32


def entropy(probs: torch.Tensor) -> torch.Tensor:
    """Of distributions (..., C), in nats."""
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


__all__ = ["entropy", "predictive_statistics", "statistics_of_probs"]
