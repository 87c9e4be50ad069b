"""What a scorer answers: logits, checked, the best candidates, and their probabilities.

A scorer is any function of posts and candidate labels that returns logits (posts, labels), whose softmax are the
probabilities: a model ([`ModelScorer`]), label similarity ([`SimilarityScorer`]), or a baseline of one's own. Of
several labels with the best score the first is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .metrics import expected_calibration_error

if TYPE_CHECKING:
    from ..data.held_out import Posts

Scorer = Callable[[Sequence[Mapping[str, Any]], Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Answers:
    """What a scorer answers.

    Attributes:
        predictions: the best candidate per post.
        confidences: its probability (posts,).
    """

    predictions: list[str]
    confidences: np.ndarray

    def calibration_error(self, references: Sequence[str], rows: Sequence[int] | None = None) -> float:
        """ECE of all posts, or of some."""
        chosen = range(len(references)) if rows is None else rows
        right = [self.predictions[row] == references[row] for row in chosen]
        return expected_calibration_error(self.confidences[list(chosen)], right)


def answer(scorer: Scorer, posts: Posts, candidates: Sequence[str]) -> Answers:
    """The best candidate of every post and its probability."""
    return best_of(scores_of(scorer, posts, candidates), candidates)


def scores_of(scorer: Scorer, posts: Posts, candidates: Sequence[str]) -> np.ndarray:
    """Logits (posts, candidates), checked."""
    logits = np.asarray(scorer(posts, candidates), dtype=float)
    if logits.shape != (len(posts), len(candidates)) or np.isnan(logits).any():
        raise ValueError(
            f"scorer: logits ({len(posts)}, {len(candidates)}) without NaN are needed, got shape {logits.shape}"
            + (" with NaN" if np.isnan(logits).any() else "")
        )
    return logits


def best_of(logits: np.ndarray, candidates: Sequence[str]) -> Answers:
    """The best candidate of every row of logits and its probability."""
    best = logits.argmax(-1)
    confidences = 1 / np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)
    return Answers([candidates[column] for column in best.tolist()], confidences)
