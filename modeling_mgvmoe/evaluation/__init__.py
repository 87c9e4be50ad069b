"""Evaluation: predictions over a data set, metrics, protocols, reports.

Names are loaded when they are first used: explanations, which the demo page needs, do without scikit-learn.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .metrics import (
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
    "PROTOCOLS": "protocols",
    "TaskResult": "metrics",
    "accuracy": "metrics",
    "confusion_matrix": "metrics",
    "evaluate_protocol": "protocols",
    "expected_calibration_error": "metrics",
    "fit_rejection_threshold": "metrics",
    "generalised_scores": "metrics",
    "harmonic_mean": "metrics",
    "load_metric": "zero_shot_metric",
    "macro_f1": "metrics",
    "majority_accuracy": "metrics",
    "per_class_scores": "metrics",
    "precision_recall_f1": "metrics",
    "rejection_auroc": "metrics",
    "rejection_f1": "metrics",
    "rejection_scores": "metrics",
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
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
