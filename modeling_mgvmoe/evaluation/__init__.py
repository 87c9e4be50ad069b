"""Evaluation: predictions over a data set, metrics, protocols, reports."""

from .metrics import (
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
from .task_result import TaskResult
from .zero_shot_metric import load_metric

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
