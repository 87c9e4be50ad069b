"""What is known of relations beforehand: which types they join, which are symmetric, which are inverse to each other.

A pair of mentions is read in both directions, and a statement may be said in both: "a is married to b" and "b is
married to a", "a employs b" and "b works for a". Such readings get one score.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from .label_paths import split_path
from .label_types import read_label_types


class RelationRules:
    """Rules for some relations.

    Args:
        labels: the relations that there are, R of them.
        constraints: for a relation (types of the head, types of the tail), each a type or a list of types. Relations
            without an entry join any mentions.
        symmetric: relations that hold in both directions or in none.
        inverses: relation to relation; what holds of head and tail holds in the other of tail and head.
        separator: of hierarchical types; a constraint then also allows the types below the one that it names.

    Raises:
        ValueError: a rule is no rule, names what is no relation, or contradicts another.
    """

    def __init__(
        self,
        labels: Sequence[str],
        constraints: Mapping[str, Any] | None = None,
        symmetric: Sequence[str] = (),
        inverses: Mapping[str, str] | None = None,
        separator: str | None = None,
    ) -> None:
        self.labels, self.separator = [label.strip() for label in labels], separator
        types, masks = read_label_types(constraints, labels, name="relation_constraints")
        _check_known(constraints or {}, self.labels, "relation_constraints")
        self.types = [split_path(name, separator) for name in types]
        constrained = {name.strip() for name in constraints or {}}
        self.allowed = {
            label: [{path for path, fits in zip(self.types, slot, strict=True) if fits} for slot in mask]
            for label, mask in zip(self.labels, masks, strict=False)
            if label in constrained
        }
        if isinstance(symmetric, str) or not isinstance(symmetric, (list, tuple, set, frozenset)):
            raise ValueError(f"symmetric: a list of relations is needed (got {symmetric!r:.80})")
        if not isinstance(inverses or {}, Mapping):
            raise ValueError(f"inverses: a dict of relation to relation is needed (got {inverses!r:.80})")
        _check_known(symmetric, self.labels, "symmetric")
        _check_known([name for pair in (inverses or {}).items() for name in pair], self.labels, "inverses")
        # Of each relation that is said in both directions, how it is called in the other.
        self.turned: dict[str, str] = {name.strip(): name.strip() for name in symmetric}
        for one, other in (inverses or {}).items():
            for name, reverse in ((one.strip(), other.strip()), (other.strip(), one.strip())):
                if name == reverse:
                    raise ValueError(f"inverses: {name!r} is its own inverse; name it in symmetric")
                if self.turned.setdefault(name, reverse) != reverse:
                    raise ValueError(
                        f"inverses: a relation has one inverse and is not symmetric (got {reverse!r} for {name!r}, "
                        f"which has {self.turned[name]!r})"
                    )
        self._joins: dict[tuple[str | None, str | None], torch.Tensor] = {}
        column = {label: number for number, label in enumerate(self.labels)}
        self.turned_columns = torch.tensor([column[self.turned.get(label, label)] for label in self.labels])
        self.linked = torch.tensor([label in self.turned for label in self.labels], dtype=torch.bool)
        self.symmetric = torch.tensor([self.turned.get(label) == label for label in self.labels], dtype=torch.bool)

    def check_types(self, typing_labels: Iterable[str]) -> None:
        """Raise ValueError if a constraint names a type that no mention can get."""
        known = {path for label in typing_labels for path in self._upwards(label)}
        strange = [f" {self.separator} ".join(path) for path in self.types if path not in known]
        if strange:
            raise ValueError(
                f"relation_constraints: types must be typing labels (got {', '.join(map(repr, strange))})"
            )

    def _upwards(self, label: str) -> list[tuple[str, ...]]:
        """A type and, if types are paths, all that it is below."""
        path = split_path(label, self.separator)
        return [path[:depth] for depth in range(1, len(path) + 1)]

    def may_join(self, head: str | None, tail: str | None) -> torch.Tensor:
        """Which relations may hold between mentions of two types.

        Args:
            head, tail: their types; `None` for a mention of no type, which no constraint allows.

        Returns:
            (R,), boolean. A symmetric relation fits if it does so in one of the directions; of inverse relations
            both constraints must fit, where both have one.
        """
        if (head, tail) not in self._joins:
            self._joins[head, tail] = self._may_join(head, tail)
        return self._joins[head, tail]

    def _may_join(self, head: str | None, tail: str | None) -> torch.Tensor:
        fits = []
        for label in self.labels:
            forward = self._fits(label, head, tail)
            turned = self.turned.get(label)
            if turned == label:
                fits.append(forward or self._fits(label, tail, head))
            else:
                fits.append(forward and (turned is None or self._fits(turned, tail, head)))
        return torch.tensor(fits, dtype=torch.bool)

    def _fits(self, label: str, head: str | None, tail: str | None) -> bool:
        if label not in self.allowed:
            return True
        return all(
            name is not None and not allowed.isdisjoint(self._upwards(name))
            for name, allowed in zip((head, tail), self.allowed[label], strict=True)
        )

    def average_readings(self, forward: torch.Tensor, backward: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One number for both readings of a statement: their mean, for every relation that has two.

        Args:
            forward, backward: (..., R), of a pair and of the pair turned round.

        Returns:
            Both again. Relations that are neither symmetric nor inverse to another keep their numbers.
        """
        turned = self.turned_columns
        return (
            torch.where(self.linked, (forward + backward[..., turned]) / 2, forward),
            torch.where(self.linked, (backward + forward[..., turned]) / 2, backward),
        )

    def answer(self, forward: torch.Tensor, backward: torch.Tensor) -> tuple[int, int]:
        """The relations of a pair and of the pair turned round, so that they do not contradict each other.

        The surer direction decides. If its answer is said in both directions, the other one says the same; else the
        other answers with the best of its relations that are said in one direction only, if it has any.

        Args:
            forward, backward: scores (R,) of [`average_readings`]; -inf or 0 for what may not hold.

        Returns:
            The columns of the two answers; -1 for a direction that has none.
        """
        best = [int(forward.argmax()), int(backward.argmax())]
        if not (bool(self.linked[best[0]]) or bool(self.linked[best[1]])):
            return best[0], best[1]
        scores = (forward, backward)
        # Readings of one statement score alike, so that a tie between directions is mostly agreement.
        surer = int(scores[1][best[1]] > scores[0][best[0]])
        decided = best[surer]
        if bool(self.linked[decided]):
            best[1 - surer] = int(self.turned_columns[decided])
        elif bool(self.linked[best[1 - surer]]):
            own = scores[1 - surer].masked_fill(self.linked, float("-inf"))
            best[1 - surer] = int(own.argmax()) if bool(own.max() > 0) else -1
        return best[0], best[1]


def _check_known(names: Iterable[Any], labels: Sequence[str], argument: str) -> None:
    strange = [name for name in names if not isinstance(name, str) or name.strip() not in labels]
    if strange:
        raise ValueError(f"{argument}: relations must be of relation_labels (got {', '.join(map(repr, strange[:5]))})")


__all__ = ["RelationRules"]
