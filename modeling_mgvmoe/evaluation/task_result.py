"""The result of one task under one protocol: scores, and all answers behind them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .metrics import confusion_matrix, per_class_scores

# How the answer "of no candidate class" is written. No class may be called so.
NONE = "(none)"


@dataclass(frozen=True)
class TaskResult:
    """The result of one task under one protocol.

    Attributes:
        protocol: its name.
        task: "typing" or "relation".
        candidates: the labels among which was chosen.
        seen: those of them that were trained on.
        counts: number of posts by kind.
        scores: by method and metric. What a method does not have, such as the calibration of a majority, is left out.
        ids: of the posts.
        references: the right label per post, `NONE` for a post of no class.
        predictions: by scorer, per post; under "open" `NONE` where it is rejected.
        confidences: by scorer, the probability of the best candidate per post.
    """

    protocol: str
    task: str
    candidates: tuple[str, ...]
    seen: tuple[str, ...]
    counts: dict[str, int]
    scores: dict[str, dict[str, float]]
    ids: list[str]
    references: list[str]
    predictions: dict[str, list[str]]
    confidences: dict[str, list[float]] = field(repr=False)

    @property
    def classes(self) -> list[str]:
        """The candidates, and `NONE` if posts of no class were asked about: the rows of the confusion matrix."""
        return [*self.candidates, *([NONE] if self.protocol == "open" else [])]

    def per_class(self, method: str) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and support of each class."""
        return per_class_scores(self.predictions[method], self.references, self.classes)

    def confusion(self, method: str) -> np.ndarray:
        """Counts (classes, classes): row the right label, column the answer."""
        return confusion_matrix(self.predictions[method], self.references, self.classes)
