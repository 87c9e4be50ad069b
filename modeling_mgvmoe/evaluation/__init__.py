"""Evaluation: predictions over a dataset, metrics, protocols, reports.

Names are loaded when they are first used: explanations, which the demo page needs, do without scikit-learn.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..inference.metrics import (
        TaskResult,
        accuracy,
        confusion_matrix,
        expected_calibration_error,
        fit_rejection_threshold,
        generalised_scores,
        harmonic_mean,
        macro_f1,
        majority_accuracy,
        per_class_scores,
        precision_recall_f1,
        rejection_auroc,
        rejection_f1,
        rejection_scores,
    )
    from .protocols import PROTOCOLS, evaluate_protocol
    from .zero_shot_metric import load_metric

_HOME = {
    "PROTOCOLS": ".protocols",
    "TaskResult": "..inference.metrics",
    "accuracy": "..inference.metrics",
    "confusion_matrix": "..inference.metrics",
    "evaluate_protocol": ".protocols",
    "expected_calibration_error": "..inference.metrics",
    "fit_rejection_threshold": "..inference.metrics",
    "generalised_scores": "..inference.metrics",
    "harmonic_mean": "..inference.metrics",
    "load_metric": ".zero_shot_metric",
    "macro_f1": "..inference.metrics",
    "majority_accuracy": "..inference.metrics",
    "per_class_scores": "..inference.metrics",
    "precision_recall_f1": "..inference.metrics",
    "rejection_auroc": "..inference.metrics",
    "rejection_f1": "..inference.metrics",
    "rejection_scores": "..inference.metrics",
}

__all__ = [
    "PROTOCOLS",
    "TaskResult",
    "accuracy",
    "confusion_matrix",
    "evaluate_protocol",
    "expected_calibration_error",
    "fit_rejection_threshold",
    "generalised_scores",
    "harmonic_mean",
    "load_metric",
    "macro_f1",
    "majority_accuracy",
    "per_class_scores",
    "precision_recall_f1",
    "rejection_auroc",
    "rejection_f1",
    "rejection_scores",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
