"""Zero-shot classification scores for the library `evaluate`; the arithmetic is in `evaluation/metrics.py`.

`evaluate.load` copies this file into its cache and runs it there, so it names the installed package in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from modeling_mgvmoe.inference.metrics import (
    AVERAGES,
    accuracy,
    expected_calibration_error,
    generalised_scores,
    per_class_scores,
    precision_recall_f1,
)

_DESCRIPTION = "Accuracy; macro, micro and weighted precision, recall and F1; scores of seen and unseen classes."

_INPUTS = """
Args:
    predictions: a label (string) per post.
    references: the right label per post.
    labels: classes to average over; default: those among the references.
    seen_labels: classes of training, if any are candidates: adds `seen_*`, `unseen_*` and `harmonic_*`.
    confidences: probability of the predicted label, per post: adds `expected_calibration_error`.
    per_class: adds `per_class`, the scores and the support of each class.

Returns:
    `accuracy`, and `macro_*`, `micro_*` and `weighted_*` for `precision`, `recall` and `f1`.
"""


class ZeroShotMetric(evaluate.Metric):
    """The metric; `compute` takes the arguments of its `inputs_description`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        labels: Sequence[str] | None = None,
        seen_labels: Sequence[str] | None = None,
        confidences: Sequence[float] | None = None,
        per_class: bool = False,
    ) -> dict[str, Any]:
        predictions, references = list(predictions), list(references)
        labels = list(dict.fromkeys(references)) if labels is None else list(labels)
        scores: dict[str, Any] = {"accuracy": accuracy(predictions, references)}
        for average in AVERAGES:
            values = precision_recall_f1(predictions, references, labels, average)
            scores |= {f"{average}_{name}": value for name, value in values.items()}
        if seen_labels is not None:
            unseen = [name for name in dict.fromkeys([*labels, *references]) if name not in set(seen_labels)]
            for group, values in generalised_scores(predictions, references, seen_labels, unseen).items():
                scores |= {f"{group}_{name}": value for name, value in values.items()}
        if confidences is not None:
            right = [p == r for p, r in zip(predictions, references, strict=True)]
            scores["expected_calibration_error"] = expected_calibration_error(confidences, right)
        if per_class:
            scores["per_class"] = per_class_scores(predictions, references, labels)
        return scores
