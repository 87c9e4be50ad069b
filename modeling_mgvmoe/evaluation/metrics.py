"""Scores of predictions, as plain functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def _check(predictions: Sequence[str], references: Sequence[str]) -> None:
    if len(predictions) != len(references) or not references:
        raise ValueError(
            "predictions and references must be equally long and not empty, "
            f"got {len(predictions)} and {len(references)}."
        )


def accuracy(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Share of predictions that are right."""
    _check(predictions, references)
    return sum(p == r for p, r in zip(predictions, references, strict=True)) / len(references)


def macro_f1(predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> float:
    """Mean over `labels` of F1 = 2 TP / (2 TP + FP + FN), 0 for a label that is neither predicted nor there."""
    _check(predictions, references)
    right = Counter(p for p, r in zip(predictions, references, strict=True) if p == r)
    predicted, actual = Counter(predictions), Counter(references)
    return sum(
        2 * right[label] / (predicted[label] + actual[label]) if right[label] else 0.0 for label in labels
    ) / len(labels)


def majority_accuracy(references: Sequence[str]) -> float:
    """Accuracy of always answering the label that is most frequent among the references, the best constant answer."""
    return Counter(references).most_common(1)[0][1] / len(references)
