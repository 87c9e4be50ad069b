r"""Hierarchical labels: paths such as "person > politician", scored level by level.

.. math::
    P(\text{path}) = \prod_{d} \mathrm{softmax}_{\text{siblings}}(s)_{\text{node}_d}

Siblings are the nodes right below the same node. What the text encoder reads for a node is its own part of the path,
"politician", or its description. A path may be of any length; none may be the beginning of another, so that the
probabilities of all paths sum to 1.

Axes: C = paths, N = nodes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

Path = tuple[str, ...]


def check_separator(separator: object) -> str | None:
    """The separator stripped, or `None`; ValueError if it is no string or blank."""
    if separator is None:
        return None
    if not isinstance(separator, str) or not separator.strip():
        raise ValueError(f"label_separator: a string that is not blank is needed, or None (got {separator!r})")
    return separator.strip()


def split_path(label: str, separator: str | None) -> Path:
    """The parts of a label, stripped; the whole label if there is no separator.

    Raises:
        ValueError: a part is empty.
    """
    parts = (label.strip(),) if separator is None else tuple(part.strip() for part in label.split(separator))
    if not all(parts):
        raise ValueError(f"candidate_labels: no part of a path may be empty (got {label!r})")
    return parts


class LabelPaths:
    """The tree that some paths span.

    Args:
        labels: C paths.
        separator: between their parts.

    Attributes:
        nodes: N paths, every beginning of every path once, parents before children.

    Raises:
        ValueError: a path is the beginning of another, occurs twice, or has an empty part.
    """

    def __init__(self, labels: Sequence[str], separator: str) -> None:
        self.labels, self.separator = list(labels), separator
        self.paths = [split_path(label, separator) for label in labels]
        self.nodes: list[Path] = list(
            dict.fromkeys(path[:depth] for path in self.paths for depth in range(1, len(path) + 1))
        )
        inner = {node[:-1] for node in self.nodes}
        wrong = [label for label, path in zip(labels, self.paths, strict=True) if path in inner]
        if wrong:
            raise ValueError(
                f"candidate_labels: no path may be the beginning of another (got {', '.join(map(repr, wrong[:5]))})"
            )
        if len(set(self.paths)) < len(self.paths):
            raise ValueError(f"candidate_labels: paths must be distinct (got {self.labels!r:.200})")
        self.nodes.sort(key=len)
        place = {node: number for number, node in enumerate(self.nodes)}
        families: dict[Path, list[int]] = {}
        for node, number in place.items():
            families.setdefault(node[:-1], []).append(number)
        self.families = [torch.tensor(members) for members in families.values()]
        self.parents = [place.get(node[:-1], -1) for node in self.nodes]
        self.leaves = torch.tensor([place[path] for path in self.paths])

    def names(self) -> list[str]:
        """(N,), every node written as a path: what its description may be given for."""
        return [self.join(node) for node in self.nodes]

    def join(self, node: Path) -> str:
        """A node written as a path."""
        return f" {self.separator} ".join(node)

    def node_descriptions(self, descriptions: Mapping[str, Any] | None) -> dict[str, Any]:
        """What is read for the nodes: a description of the path, else one of its last part, else this part.

        Args:
            descriptions: of paths, in any spacing around the separator, or of parts.
        """
        given: dict[Path, Any] = {}
        for label, texts in (descriptions or {}).items():
            if isinstance(label, str) and all(part.strip() for part in label.split(self.separator)):
                given[split_path(label, self.separator)] = texts
        return {self.join(node): given.get(node, given.get(node[-1:], node[-1])) for node in self.nodes}

    def log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        """Log P of every path.

        Args:
            logits: (..., N), of the nodes.

        Returns:
            (..., C).
        """
        own = torch.empty_like(logits)
        for members in self.families:
            own[..., members] = logits[..., members].log_softmax(-1)
        total: list[torch.Tensor] = []
        for number, parent in enumerate(self.parents):
            total.append(own[..., number] if parent < 0 else own[..., number] + total[parent])
        return torch.stack(total, dim=-1)[..., self.leaves]

    def sums(self, probs: Sequence[float]) -> dict[Path, float]:
        """For every node the sum of the probabilities (C,) of the paths through it."""
        total = dict.fromkeys(self.nodes, 0.0)
        for path, probability in zip(self.paths, probs, strict=True):
            for depth in range(1, len(path) + 1):
                total[path[:depth]] += probability
        return total

    def levels(self, label: str, sums: Mapping[Path, float]) -> list[dict[str, Any]]:
        """The nodes on the way to a path, {"label", "score"} of each.

        Args:
            label: one of the paths.
            sums: of [`sums`].
        """
        path = split_path(label, self.separator)
        steps = [path[:depth] for depth in range(1, len(path) + 1)]
        return [{"label": self.join(step), "score": sums[step]} for step in steps]


__all__ = ["LabelPaths", "check_separator", "split_path"]
