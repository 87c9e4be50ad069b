"""Divisions of classes into training, validation and test, by protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .labels import LabelSet

# The relation that MNRE gives to two mentions between which none of its relations holds.
MNRE_NONE = "None"


@dataclass(frozen=True)
class ClassSplit:
    """Classes of each split; none stands in two.

    Attributes:
        train: classes to learn from.
        validation: unseen classes to choose with.
        test: unseen classes to report.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def in_words(self, label_set: LabelSet) -> ClassSplit:
        """The same division of the plain names that a label set gives to the classes."""
        return ClassSplit(
            *(tuple(label_set.words_of(raw, name).name for raw in classes) for name, classes in vars(self).items())
        )


def mre_class_split(relations: Sequence[str], seed: int) -> ClassSplit:
    """The paper's division of MNRE's relations.

    "None" is left out and the rest is shuffled with numpy's `RandomState(seed)`; of these n, the first n // 3 + 1 are
    for training, the next n // 3 for validation, and all others for testing: 8, 7 and 7 of MNRE's 22.

    Args:
        relations: distinct names in order of first appearance (training, then validation, then test file), "None"
            or not. The order decides: another one gives another division.
        seed: of the shuffle. Results of two seeds cannot be compared with each other, for their classes differ.

    Raises:
        ValueError: a relation occurs twice, or there are fewer than four, so that a split would be empty.
    """
    import numpy as np

    names = [name for name in relations if name != MNRE_NONE]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"relations must be distinct, got twice: {', '.join(map(repr, twice))}")
    if len(names) < 4:
        raise ValueError(f"relations: at least 4 besides {MNRE_NONE!r} are needed for three splits, got {names!r}")
    np.random.RandomState(seed).shuffle(names)
    third = len(names) // 3
    return ClassSplit(
        train=tuple(names[: third + 1]),
        validation=tuple(names[third + 1 : 2 * third + 1]),
        test=tuple(names[2 * third + 1 :]),
    )
