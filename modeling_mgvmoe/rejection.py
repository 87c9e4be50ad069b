"""None of these: when a mention or pair is taken to be of none of its candidate labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

TASKS = ("typing", "relation")
METHODS = ("probability", "logit")


@dataclass(frozen=True)
class Rejection:
    """A decision by one number: what is below the threshold is rejected.

    A probability says how much better the best label is than the others, which a post of no label may well have. A
    logit says how well it fits, whatever the others do.

    Attributes:
        threshold: least value of what is kept.
        method: "probability" of the best label, or its "logit", raw as the model gives it.

    Raises:
        ValueError: the method is unknown, or the threshold no number or no probability.
    """

    threshold: float
    method: str = "probability"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"rejection: method must be one of {', '.join(METHODS)} (got {self.method!r})")
        number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if not number or self.threshold != self.threshold:
            raise ValueError(f"rejection: threshold must be a number (got {self.threshold!r})")
        if self.method == "probability" and not 0 <= self.threshold <= 1:
            raise ValueError(f"rejection: a probability between 0 and 1 is needed (got {self.threshold!r})")

    def rejects(self, logits: torch.Tensor, probability: float) -> bool:
        """Whether none of the labels is right.

        Args:
            logits: (C,), -inf for labels that are not open.
            probability: of the best label.
        """
        value = probability if self.method == "probability" else float(logits.max())
        return value < self.threshold


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
    # Not by its class, of which a folder from the Hub brings a copy.
    if rejection is None or hasattr(rejection, "rejects"):
        return rejection
    if isinstance(rejection, bool) or not isinstance(rejection, (int, float)):
        raise ValueError(f"rejection: a probability between 0 and 1 or a Rejection is needed (got {rejection!r})")
    return Rejection(float(rejection))


__all__ = ["Rejection", "read_rejection"]
