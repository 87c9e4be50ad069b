"""Does a model know when it errs? How well measures of uncertainty tell wrong answers from right ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .metrics import rejection_auroc

# Of the single answer, without draws; and of the draws.
WITHOUT_DRAWS = ("softmax entropy", "1 - probability")
OF_DRAWS = ("mutual information", "entropy of the mean", "deviation")


def _entropy(probs: np.ndarray) -> np.ndarray:
    return -np.where(probs > 0, probs * np.log(np.where(probs > 0, probs, 1)), 0).sum(-1)


def uncertainties(logits: np.ndarray) -> dict[str, np.ndarray]:
    """Measures of uncertainty, each (posts,), high for what is unsure.

    Args:
        logits: (1 + draws, posts, labels), first those without noise, as `ModelScorer.with_samples` gives them; with
            no draws only the measures of `WITHOUT_DRAWS` are returned.

    Returns:
        "softmax entropy" and "1 - probability" of the best label, without noise; "mutual information" of answer and
        draw, "entropy of the mean" probabilities and "deviation" of the best label's probability over the draws.
    """
    if logits.ndim != 3 or not logits.size or np.isnan(logits).any():
        raise ValueError(f"logits must be (1 + draws, posts, labels) without NaN, got shape {logits.shape}.")
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    found = {"softmax entropy": _entropy(probs[0]), "1 - probability": 1 - probs[0].max(-1)}
    if len(probs) == 1:
        return found
    draws, best = probs[1:], probs[0].argmax(-1)
    of_mean = _entropy(draws.mean(0))
    return {
        **found,
        "mutual information": of_mean - _entropy(draws).mean(0),
        "entropy of the mean": of_mean,
        "deviation": draws[:, np.arange(len(best)), best].std(0),
    }


def error_detection(logits: np.ndarray, labels: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """AUROC of each measure in telling posts that are answered wrongly from those that are answered rightly.

    Answers are the best labels without noise, so that all measures are of the same errors.

    Args:
        logits: as of [`uncertainties`].
        labels: their columns.
        references: the right label per post.

    Raises:
        ValueError: all answers are right, or all are wrong.
    """
    answers = [labels[column] for column in logits[0].argmax(-1).tolist()]
    right = [answer == reference for answer, reference in zip(answers, references, strict=True)]
    return {name: rejection_auroc(-values, right) for name, values in uncertainties(logits).items()}
