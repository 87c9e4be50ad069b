r"""Sets of labels that hold the right one with a stated probability: split conformal prediction.

A score s(x, y) says how little label y conforms to post x. With the scores of n calibration posts and their right
labels, q is the :math:`\lceil (n + 1)(1 - \alpha) \rceil`-th smallest, and the set of a new post holds all labels
whose score is at most q (Vovk et al., Algorithmic Learning in a Random World; Angelopoulos and Bates, 2023).

**What must be exchangeable.** If the calibration posts and the new one, with their right labels, could have come in
any order, the right label is in the set with probability at least :math:`1 - \alpha`, and at most :math:`1 - \alpha +
1 / (n + 1)` without ties. That holds for posts of the *same classes* with the same candidates, divided at random:
label a few hundred posts of the new classes, and the coverage is guaranteed on average over posts and divisions. It
does not hold *across classes*: posts of validation classes, with the validation classes as candidates, are no draw
from the posts of the test classes. The coverage is then what it turns out to be, and must be measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

SCORES = ("lac", "aps")


def conformity_scores(logits: np.ndarray, score: str = "lac", draws: np.ndarray | None = None) -> np.ndarray:
    r"""How little each label conforms to each post.

    Args:
        logits: (posts, labels); -inf for labels that a post does not have.
        score: "lac", :math:`1 - p_y` (Sadinle et al., 2019), which gives the smallest sets, and empty ones to posts
            that nothing conforms to; "aps", :math:`\sum_{p_j > p_y} p_j + u p_y` (Romano et al., 2020), whose sets
            grow with how unsure a post is.
        draws: (posts,), u of "aps", uniform on [0, 1); without it u is 1, and the coverage more than stated.

    Returns:
        (posts, labels), between 0 and 1.
    """
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
    values = np.asarray(logits, dtype=float)
    if values.ndim != 2 or not values.size or np.isnan(values).any():
        raise ValueError(f"logits must be (posts, labels) without NaN, got shape {values.shape}")
    probs = np.exp(values - values.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    if score == "lac":
        return 1 - probs
    order = np.argsort(-probs, axis=-1, kind="stable")
    ranked = np.take_along_axis(probs, order, -1)
    before = np.cumsum(ranked, -1) - ranked
    u = np.ones(len(values)) if draws is None else np.asarray(draws, dtype=float)
    total = np.empty_like(probs)
    np.put_along_axis(total, order, before + u[:, None] * ranked, -1)
    return np.clip(total, 0, 1)


class SplitConformal:
    """Sets of labels with a stated coverage.

    ```python
    conformal = SplitConformal(coverage=0.9).fit(logits, labels, references)
    sets = conformal.predict(new_logits, labels)
    ```

    Args:
        coverage: 1 - alpha, the stated share of posts whose set holds the right label.
        score: of [`conformity_scores`].
        seed: of the draws of "aps".

    Attributes:
        quantile: q, after [`fit`]; infinite if there were too few calibration posts for the coverage, and every set
            then holds all labels.

    Raises:
        ValueError: the coverage is not between 0 and 1, or the score unknown.
    """

    def __init__(self, coverage: float = 0.9, score: str = "lac", seed: int = 0) -> None:
        if not 0 < coverage < 1:
            raise ValueError(f"coverage must be between 0 and 1, got {coverage}")
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
        self.coverage, self.score, self.seed = coverage, score, seed
        self.quantile: float | None = None

    def _scores(self, logits: np.ndarray, stream: int) -> np.ndarray:
        # Calibration and prediction draw from streams of their own.
        draws = np.random.default_rng([self.seed, stream]).random(len(logits)) if self.score == "aps" else None
        return conformity_scores(logits, self.score, draws)

    def fit(self, logits: np.ndarray, labels: Sequence[str], references: Sequence[str]) -> SplitConformal:
        """Set the quantile by calibration posts, which must not have been trained on.

        Args:
            logits: (posts, labels).
            labels: their columns.
            references: the right label per post.

        Raises:
            ValueError: shapes do not fit, or a reference is not among the labels.
        """
        column = {label: place for place, label in enumerate(labels)}
        strange = sorted(set(references) - set(column))
        if strange:
            raise ValueError(f"references must be among the labels, got others: {strange[:5]}")
        if np.shape(logits) != (len(references), len(labels)):
            raise ValueError(f"logits must be ({len(references)}, {len(labels)}), got {np.shape(logits)}")
        own = self._scores(logits, 0)[np.arange(len(references)), [column[name] for name in references]]
        # Of 9 posts and 0.9: the 9th smallest, and rounding must not make it the 10th.
        rank = math.ceil(round((len(own) + 1) * self.coverage, 9))
        self.quantile = float(np.sort(own)[rank - 1]) if rank <= len(own) else math.inf
        return self

    def mask(self, logits: np.ndarray) -> np.ndarray:
        """(posts, labels), whether each label is in the post's set; see [`predict`]."""
        if self.quantile is None:
            raise ValueError("SplitConformal: fit must come before predict")
        return self._scores(logits, 1) <= self.quantile

    def predict(self, logits: np.ndarray, labels: Sequence[str]) -> list[list[str]]:
        """The set of every post, best labels first.

        Args:
            logits: (posts, labels).
            labels: their columns, the same as in [`fit`] or, without a guarantee, others.
        """
        sets = []
        for row, inside in zip(np.asarray(logits, dtype=float), self.mask(logits), strict=True):
            sets.append([labels[place] for place in np.argsort(-row, kind="stable") if inside[place]])
        return sets

    @property
    def threshold(self) -> float:
        """For "lac" the least probability of a label in a set: as `threshold` of the pipeline it gives these sets."""
        if self.score != "lac" or self.quantile is None:
            raise ValueError(
                f'threshold: it is that of a fitted score="lac", got {self.score!r}, fitted to {self.quantile}'
            )
        return max(0.0, 1 - self.quantile)


def set_statistics(mask: np.ndarray, labels: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """What sets are worth.

    Args:
        mask: (posts, labels), whether a label is in the post's set.
        labels: their columns.
        references: the right label per post.

    Returns:
        `coverage`, the share of sets with the right label; `size`, the mean number of labels in a set; `empty` and
        `single`, the shares of sets with none and with one.
    """
    column = {label: place for place, label in enumerate(labels)}
    sizes = np.asarray(mask).sum(-1)
    inside = np.asarray(mask)[np.arange(len(references)), [column[name] for name in references]]
    return {
        "coverage": float(inside.mean()),
        "size": float(sizes.mean()),
        "empty": float((sizes == 0).mean()),
        "single": float((sizes == 1).mean()),
    }
