"""Scores for transformers' `Trainer`, which hands over logits and label numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..modeling_mgvmoe import NO_LABEL
from .metrics import accuracy, macro_f1

if TYPE_CHECKING:
    from transformers import EvalPrediction

    from ..data.encoding import PostCollator


def make_compute_metrics(collators: Mapping[str, PostCollator]) -> Callable[[EvalPrediction], dict[str, float]]:
    """A function for `Trainer(compute_metrics=...)`.

    It returns `macro_f1` and `accuracy`, each the mean over the tasks that have posts, and both for each of these
    tasks, as in `typing_macro_f1`. `macro_f1` is what our own loop chooses by: `metric_for_best_model="macro_f1"`.

    Which task a post is of is told by its candidates, the columns whose logits are not -inf. Posts without a label
    (-100) do not count; where no post has one, there are no scores.

    Args:
        collators: for each split that is evaluated the one that made its batches.
    """
    # The candidates of each task, as the mask of a row of logits; and the names of all columns.
    splits = [
        ({mask.numpy().tobytes(): task for task, mask in collator.task_masks.items()}, collator.candidate_labels)
        for collator in collators.values()
    ]

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        """Scores of all posts.

        Args:
            prediction: `predictions` (N, C), logits; `label_ids` (N,), columns, or -100.

        Raises:
            ValueError: there are other outputs than logits, a logit is NaN, the logits have other candidates than
                those of any split, or a label is none of the columns.
        """
        logits: Any = prediction.predictions
        if isinstance(logits, tuple):
            raise ValueError(
                f"predictions must be logits alone, got {len(logits)} outputs; name the others in "
                "model.config.keys_to_ignore_at_inference or leave output_hidden_states and output_attentions off."
            )
        if np.isnan(logits).any():
            raise ValueError(f"predictions hold NaN, got it in {int(np.isnan(logits).any(-1).sum())} posts.")
        patterns = [row.tobytes() for row in logits != -np.inf]
        fitting = (
            (tasks, names) for tasks, names in splits if len(names) == logits.shape[1] and set(patterns) <= set(tasks)
        )
        tasks, names = next(fitting, (None, None))
        if tasks is None or names is None:
            sizes = sorted({len(names) for _, names in splits})
            raise ValueError(
                f"predictions must be over the candidates of one split, of which there are {sizes}, got logits "
                f"{logits.shape} with {len(set(patterns))} sets of candidates."
            )
        predicted, actual = logits.argmax(-1), np.asarray(prediction.label_ids)
        known = actual != NO_LABEL
        if (wrong := actual[known & ((actual < 0) | (actual >= logits.shape[1]))]).size:
            raise ValueError(f"label_ids must be in [0, {logits.shape[1]}), or {NO_LABEL} for none, got {wrong[:5]}.")
        scores: dict[str, dict[str, float]] = {}
        for pattern, task in tasks.items():
            rows = [row for row, own in enumerate(patterns) if own == pattern and known[row]]
            if not rows:
                continue
            guesses, truths = ([names[column] for column in columns[rows]] for columns in (predicted, actual))
            classes = [name for name, own in zip(names, np.frombuffer(pattern, dtype=bool), strict=True) if own]
            scores[task] = {"macro_f1": macro_f1(guesses, truths, classes), "accuracy": accuracy(guesses, truths)}
        if not scores:
            return {}
        means = {
            metric: sum(own[metric] for own in scores.values()) / len(scores) for metric in ("macro_f1", "accuracy")
        }
        return means | {f"{task}_{metric}": value for task, own in scores.items() for metric, value in own.items()}

    return compute_metrics
