r"""Seen and unseen classes as candidates together: one number that takes the bias towards seen classes off the scores.

.. math:: \hat y = \arg\max_c\; s_c - \gamma\, [c \text{ was trained on}]

Chao et al., An Empirical Study and Analysis of Generalized Zero-Shot Learning for Object Recognition in the Wild
(ECCV 2016). A model prefers the classes that it was trained on; gamma is fitted on posts of seen classes that are not
trained on and posts of validation classes, which stand in for the unseen ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def calibrated(logits: np.ndarray, is_seen: Sequence[bool] | np.ndarray, gamma: float) -> np.ndarray:
    """Logits (posts, labels) with gamma taken off those of seen classes."""
    return np.asarray(logits, dtype=float) - gamma * np.asarray(is_seen, dtype=float)


def fit_gamma(logits: np.ndarray, labels: Sequence[str], references: Sequence[str], seen: Sequence[str]) -> float:
    """The gamma with the greatest harmonic mean of the accuracies of seen and of unseen classes.

    All values at which an answer changes are tried. Of those that are equally good the one nearest to 0 is taken.

    Args:
        logits: (posts, labels), of posts of both kinds.
        labels: their columns.
        references: the right label per post.
        seen: those of the labels that were trained on.

    Raises:
        ValueError: there are not posts and labels of both kinds, or logits are not finite.
    """
    scores = np.asarray(logits, dtype=float)
    if scores.shape != (len(references), len(labels)) or not np.isfinite(scores).all():
        raise ValueError(
            f"logits must be finite and ({len(references)}, {len(labels)}), posts and labels, got {scores.shape}."
        )
    groups = np.array([label in set(seen) for label in labels])
    of_seen = np.array([reference in set(seen) for reference in references])
    for name, own in (("labels", groups), ("references", of_seen)):
        if own.all() or not own.any():
            raise ValueError(f"{name} must be of seen and of unseen classes, got {int(own.sum())} of seen classes.")
    names = np.array(labels, dtype=object)
    best = {}
    for kind, columns in ((True, np.flatnonzero(groups)), (False, np.flatnonzero(~groups))):
        place = scores[:, columns].argmax(-1)
        right = names[columns[place]] == np.array(references, dtype=object)
        best[kind] = scores[np.arange(len(scores)), columns[place]], right
    # A post gets its best unseen label where gamma is above its margin.
    margins = best[True][0] - best[False][0]
    distinct = np.unique(margins)
    tried = np.concatenate([[distinct[0] - 1], (distinct[:-1] + distinct[1:]) / 2, [distinct[-1] + 1], [0.0]])
    order = np.sort(margins[of_seen & best[True][1]]), np.sort(margins[~of_seen & best[False][1]])
    # Right are seen posts whose margin is at least gamma, and unseen ones whose margin is below.
    seen_accuracy = (len(order[0]) - np.searchsorted(order[0], tried, side="left")) / of_seen.sum()
    unseen_accuracy = np.searchsorted(order[1], tried, side="left") / (~of_seen).sum()
    total = seen_accuracy + unseen_accuracy
    harmonic = np.divide(2 * seen_accuracy * unseen_accuracy, total, out=np.zeros_like(total), where=total > 0)
    equal = tried[harmonic >= harmonic.max() - 1e-12]
    return float(equal[np.abs(equal).argmin()])
