"""None of these: how much the scores of a post speak for some candidate, and a threshold that is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .metrics import fit_rejection_threshold

if TYPE_CHECKING:
    from ..labels import Rejection

METHODS = ("probability", "logit")  # of `Rejection`, which imports torch


def knownness(logits: np.ndarray, method: str) -> np.ndarray:
    """How much each row speaks for some candidate; see [`Rejection`].

    Args:
        logits: (posts, candidates).
        method: "probability" of the best candidate, or its "logit".

    Returns:
        (posts,).
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    best = logits.max(-1)
    return best if method == "logit" else 1 / np.exp(logits - best[:, None]).sum(-1)


def fit_rejection(logits: np.ndarray, is_known: Sequence[bool] | np.ndarray, method: str = "logit") -> Rejection:
    """The rejection with the best F1 on some posts, for `extract` and the pipelines.

    Args:
        logits: (posts, candidates), of posts of classes that are not trained on and of posts of no class.
        is_known: whether a post is of some class.
        method: of [`Rejection`].
    """
    from ..labels import Rejection

    return Rejection(fit_rejection_threshold(knownness(np.asarray(logits, dtype=float), method), is_known), method)
