"""Candidate labels of an extraction, from JSON files of the kinds that this project has."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..data.files import check_keys, read_json_object
from ..data.label_sets import TASKS, read_label_set
from ..data.splits import SPLITS
from ..data.zero_shot_data import read_prepared_labels
from ..labels import RENAMED

# Of a file of candidates, what `extract` of a model takes by the same name.
LABELS = ("typing_labels", "relation_labels")
OPTIONS = (
    "label_descriptions",
    "label_types",
    "type_descriptions",
    "hypothesis_template",
    "label_separator",
    "relation_constraints",
    "symmetric",
    "inverses",
)


@dataclass(frozen=True)
class CandidateLabels:
    """What mentions and pairs may be.

    Attributes:
        typing, relation: labels; empty for a task that is not asked for.
        options: of [`OPTIONS`], as `extract` of a model takes them.
    """

    typing: tuple[str, ...] = ()
    relation: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """As JSON values."""
        return {"typing": list(self.typing), "relation": list(self.relation), "options": dict(self.options)}


def read_candidate_labels(
    paths: Sequence[str | os.PathLike[str]], split: str = "test", with_types: bool = True
) -> CandidateLabels:
    """Read one file or several, whose labels are taken together.

    A file is one of these, told by its keys:

    - candidates: `typing_labels` and `relation_labels`, lists of which one may be missing, and what belongs to them,
      of [`OPTIONS`];
    - a label set of `configuration/labels/`, of one task;
    - `labels.json` of a prepared folder, of which one split is taken.

    Args:
        paths: of the files.
        split: of `labels.json`.
        with_types: take the types of head and tail that a label set or a `labels.json` names, for models with
            `score="similarity"`, the only ones that read them. A file of candidates is taken as it is.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: it breaks its format, gives no label, or contradicts another.
    """
    found = [_read(os.fspath(path), split, with_types) for path in paths]
    merged: dict[str, Any] = {}
    for path, one in zip(paths, found, strict=True):
        for name, value in one.options.items():
            known = merged.setdefault(name, value)
            if isinstance(value, Mapping) and isinstance(known, Mapping):
                both = [key for key in value if key in known and known[key] != value[key]]
                if both:
                    raise ValueError(f"labels: {os.fspath(path)}: {name} of {both[0]!r} differs from another file's")
                merged[name] = {**known, **value}
            elif isinstance(value, list) and isinstance(known, list):
                merged[name] = list(dict.fromkeys([*known, *value]))
            elif value != known:
                raise ValueError(f"labels: {os.fspath(path)}: {name} differs from another file's")
    labels = {task: tuple(dict.fromkeys(label for one in found for label in getattr(one, task))) for task in TASKS}
    if not any(labels.values()):
        raise ValueError(f"labels: at least one label is needed, got none in {', '.join(str(path) for path in paths)}")
    return CandidateLabels(**labels, options=merged)


def _read(path: str, split: str, with_types: bool) -> CandidateLabels:
    content = read_json_object(path)
    if "classes" in content:
        label_set = read_label_set(path)
        names = tuple(info.name for raw, info in label_set.classes.items() if raw not in label_set.left_out)
        options: dict[str, Any] = {"label_descriptions": _of(names, label_set.texts())}
        types = {"label_types": _of(names, label_set.allowed_types()), "type_descriptions": label_set.type_texts()}
        return CandidateLabels(**{label_set.task: names}, options=_filled(options | (types if with_types else {})))
    if "dataset" in content:
        if split not in SPLITS:
            raise ValueError(f"label_split must be one of {', '.join(SPLITS)}, got {split!r}")
        prepared = read_prepared_labels(path)
        words = prepared["words"]
        labels = prepared["labels"][split]
        candidates = [name for own in labels.values() for name in own]
        # The types of all splits stay: a label's score depends on them.
        kept = {**(words if with_types else {}), "label_descriptions": _of(candidates, words["label_descriptions"])}
        return CandidateLabels(**labels, options=_filled(kept))
    try:
        content = {RENAMED.get(name, name): value for name, value in content.items()}
        check_keys(content, (), (*LABELS, *OPTIONS))
        for name in LABELS:
            labels = content.get(name, [])
            if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
                raise ValueError(f"{name} must be a list of strings, got {labels!r:.80}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    typing, relation = (tuple(content.get(name, ())) for name in LABELS)
    return CandidateLabels(typing, relation, _filled({name: content[name] for name in OPTIONS if name in content}))


def _of(names: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


def _filled(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that say something."""
    return {name: value for name, value in options.items() if value}
