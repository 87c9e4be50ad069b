"""None of these: when a post is taken to be of none of its candidate labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

TASKS = ("typing", "relation")


@dataclass(frozen=True)
class Rejection:
    """A decision by one number: a post is rejected below the threshold.

    Attributes:
        threshold: in units of the probability of the best label.
    """

    threshold: float

    def rejects(self, logits: torch.Tensor, probability: float) -> bool:
        """Whether a post is of none of its labels.

        Args:
            logits: (C,), of its labels; -inf for those that are not open to it.
            probability: of the best of them.
        """
        return probability < self.threshold


def read_rejection(rejection: Any, task: str) -> Rejection | None:
    """The decision for a task, of a number, a [`Rejection`], a dict of these by task, or `None`.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(rejection, Mapping):
        strange = sorted(set(rejection) - set(TASKS))
        if strange:
            raise ValueError(f"rejection: the keys {', '.join(TASKS)} are known (got {strange})")
        rejection = rejection.get(task)
    if rejection is None or isinstance(rejection, Rejection):
        return rejection
    if isinstance(rejection, bool) or not isinstance(rejection, (int, float)) or not 0 <= rejection <= 1:
        raise ValueError(f"rejection: a probability between 0 and 1 or a Rejection is needed (got {rejection!r})")
    return Rejection(float(rejection))


__all__ = ["Rejection", "read_rejection"]
