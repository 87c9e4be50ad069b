"""Candidate labels: checks, texts, types, paths, embeddings, rankings and rejection.

Axes: C = labels (or paths), N = nodes of the paths, T = types of heads and tails.
"""

import difflib
import math
import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, wraps
from numbers import Integral, Real
from threading import Lock
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .objectives import statistics_of_probs
from .spans import as_list, check_unicode

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
        """Texts of the nodes: a description of the path, else of its last part, else that part itself.

        Args:
            descriptions: descriptions of paths, in any spacing around the separator, or of parts.
        """
        given: dict[Path, Any] = {}
        for label, texts in check_descriptions(descriptions).items():
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
            sums: output of [`sums`].
        """
        path = split_path(label, self.separator)
        steps = [path[:depth] for depth in range(1, len(path) + 1)]
        return [{"label": self.join(step), "score": sums[step]} for step in steps]


SLOTS = ("head", "tail")


def read_label_types(
    label_types: Mapping[str, Any] | None, labels: Sequence[str], name: str = "label_types"
) -> tuple[list[str], list[list[list[bool]]]]:
    """Reads the allowed types of some labels.

    Args:
        label_types: For a label (types of the head, types of the tail), each a type or a list of types. Labels without
            an entry may have any; entries of other labels are passed over, as those of a whole dataset may be given.
        labels: Checked labels (C of them).
        name: How to call the argument in messages.

    Returns:
        The types of all entries in order of first appearance (T of them), also of labels that are no candidates now,
        so that a label's score does not depend on the others; and (C, 2, T), which of them head and tail may have.
        Two empty lists if there are no types.

    Raises:
        ValueError: If an entry is not two types or lists of types.
    """
    if label_types is None:
        return [], []
    if not isinstance(label_types, Mapping):
        raise ValueError(f"{name}: a dict of label to (head types, tail types) is needed (got {label_types!r:.80})")
    wrong = [label for label in label_types if not isinstance(label, str) or not label.strip()]
    if wrong:
        raise ValueError(f"{name}: labels are non-empty strings (got {', '.join(map(repr, wrong[:5]))})")
    allowed = {label.strip(): _read_entry(label, entry, name) for label, entry in label_types.items()}
    types = list(dict.fromkeys(one for entry in allowed.values() for slot in entry for one in slot))
    if not types:
        return [], []
    masks = []
    for label in labels:
        entry = allowed.get(label.strip())
        masks.append([[entry is None or one in entry[slot] for one in types] for slot in range(len(SLOTS))])
    return types, masks


def _read_entry(label: str, entry: object, argument: str) -> list[list[str]]:
    slots = as_list(entry) or []
    if len(slots) != len(SLOTS):
        raise ValueError(f"{argument}[{label!r}]: types of the head and types of the tail are needed (got {entry!r})")
    read = []
    for name, slot in zip(SLOTS, slots, strict=True):
        names = [slot] if isinstance(slot, str) else as_list(slot) or []
        if not names or not all(isinstance(one, str) and one.strip() for one in names):
            raise ValueError(f"{argument}[{label!r}], {name}: a type or a list of types is needed (got {slot!r})")
        read.append([one.strip() for one in names])
    return read


SCORE_FUNCTIONS = ("softmax", "sigmoid", "none")
# Arguments of transformers' zero-shot pipelines, and what does the same here.
ELSEWHERE = {
    "multi_label": 'function_to_apply="sigmoid", of ZeroShotMultimodalIEPipeline and post_process_zero_shot_ie',
}


# Arguments as version 0.1 called them, and their names now.
RENAMED = {
    "label_template": "hypothesis_template",
    "none_threshold": "threshold",
    "picture_features": "image_features",
    "share_pictures": "share_images",
}


def with_new_names(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take the arguments that version 0.1 called otherwise, with a FutureWarning. Version 0.3 will refuse them."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for old, new in RENAMED.items():
            if old in kwargs:
                warnings.warn(f"{old} is now called {new}; version 0.3 will refuse it.", FutureWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
        return function(*args, **kwargs)

    return call


def refuse_unknown_arguments(arguments: Mapping[str, Any], where: str) -> None:
    """Refuse arguments that a call does not have, with what ours is called for those of transformers' pipelines.

    Args:
        arguments: unknown arguments.
        where: the call, for the message.

    Raises:
        TypeError: there are any.
    """
    for name in arguments:
        ours = f"; here it is {ELSEWHERE[name]}" if name in ELSEWHERE else ""
        raise TypeError(f"{where} got an unexpected keyword argument {name!r}{ours}")


def check_labels(labels: Any, where: str = "candidate_labels") -> list[str]:
    """Checks one list of candidate labels.

    Args:
        labels: The labels, any sequence (`spans.as_list`).
        where: How to call the argument in messages.

    Returns:
        The labels as given.

    Raises:
        ValueError: If the list is empty, or a label is not a string, is blank, no Unicode, or occurs twice (stripped).
    """
    given, labels = labels, as_list(labels)
    if not labels:
        raise ValueError(f"{where}: a non-empty list of labels is needed (got {given!r:.80})")
    wrong = [label for label in labels if not isinstance(label, str) or not label.strip()]
    if wrong:
        raise ValueError(f"{where}: labels are non-empty strings (got {', '.join(map(repr, wrong[:5]))})")
    for label in labels:
        check_unicode(label, where)
    seen: set[str] = set()
    twice = []
    for label in labels:
        if label.strip() in seen:
            twice.append(label)
        seen.add(label.strip())
    if twice:
        raise ValueError(f"{where}: labels must be distinct (got twice: {', '.join(map(repr, twice[:5]))})")
    return labels


def read_labels(candidate_labels: object) -> tuple[list[str], list[list[int]] | None]:
    """Reads labels shared by the batch or given per post.

    Args:
        candidate_labels: A sequence of str, or for each post one.

    Returns:
        The distinct labels in order of first appearance (C of them), and for lists per post the column of each
        post's labels among them; None if the labels are shared.

    Raises:
        ValueError: See `check_labels`; `candidate_labels[i]` names the list of post i.
    """
    lists = as_list(candidate_labels) or []
    if not any(as_list(labels) is not None for labels in lists):
        return check_labels(candidate_labels), None
    columns: dict[str, int] = {}
    union: list[str] = []
    per_post = []
    for post, labels in enumerate(lists):
        row = []
        for label in check_labels(labels, f"candidate_labels[{post}]"):
            key = label.strip()
            if key not in columns:
                columns[key] = len(union)
                union.append(label)
            row.append(columns[key])
        per_post.append(row)
    return union, per_post


def check_template(hypothesis_template: object) -> str:
    """Returns the template, or raises ValueError if it is not a string with exactly one "{}"."""
    if not isinstance(hypothesis_template, str) or hypothesis_template.count("{}") != 1:
        raise ValueError(
            f'hypothesis_template: a string with exactly one "{{}}" is needed (got {hypothesis_template!r})'
        )
    return hypothesis_template


def check_descriptions(given: Any, name: str = "label_descriptions") -> Mapping[str, Any]:
    """The descriptions by stripped names; none for `None`.

    Args:
        given: name to sentence or sentences, or `None`.
        name: of the argument, for messages.

    Raises:
        ValueError: it is no dict, or an entry is not a non-empty string or a list of distinct ones.
    """
    _check_mapping(given, name)
    given = given or {}
    for label, sentences in given.items():
        _check_sentences(f"{name}[{label!r}]", sentences)
    # The exact name goes before one with white space around it.
    return {label.strip(): sentences for label, sentences in given.items() if isinstance(label, str)} | dict(given)


def _check_mapping(given: Any, name: str) -> None:
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"{name}: a dict of label to sentence is needed (got {given!r:.80})")


def label_texts(
    labels: Sequence[str],
    descriptions: Mapping[str, str | Sequence[str]] | None,
    template: str,
    name: str = "label_descriptions",
) -> list[tuple[str, ...]]:
    """Says what the text encoder reads for each label.

    Args:
        labels: Checked labels.
        descriptions: A sentence, or several that say the same in other words, for some or all labels, and possibly for
            others.
        template: A string with one "{}", where each sentence goes or else the label.
        name: How to call the descriptions in messages.

    Returns:
        The texts of each label, one or several; the label's embedding is the mean of theirs.

    Raises:
        ValueError: If the template has not exactly one "{}" or a description is not a non-empty string or a list of
            distinct ones.
    """
    check_template(template)
    known = check_descriptions(descriptions, name)
    texts = []
    for label in labels:
        given = known.get(label.strip(), label)
        sentences = [given] if isinstance(given, str) else as_list(given) or ()
        texts.append(tuple(template.replace("{}", sentence.strip()) for sentence in sentences))
    return texts


def _check_sentences(where: str, given: object) -> list[str]:
    """One string or several distinct ones as a list; ValueError that begins with `where`."""
    sentences = [given] if isinstance(given, str) else as_list(given)
    if not sentences or not all(isinstance(sentence, str) and sentence.strip() for sentence in sentences):
        raise ValueError(f"{where}: a non-empty string is needed, or a list of them (got {given!r:.200})")
    if len({sentence.strip() for sentence in sentences}) < len(sentences):
        raise ValueError(f"{where}: sentences must be distinct (got {given!r:.200})")
    return sentences


@dataclass(frozen=True)
class Label:
    """A candidate label with what the model reads of it, accepted in `candidate_labels` beside plain strings.

    It says for one label what `label_descriptions` and `label_types` say for many. Where JSON is needed, a dict of
    the same fields stands for it: `{"name": "parent of", "descriptions": ["One person is the parent of another."]}`.

    Attributes:
        name: the label, as answers have it.
        descriptions: a sentence, or several, that the text encoder reads instead of the name. Default: the name.
        head_types, tail_types: of a relation, the types that its head and its tail may have, each a type or several;
            both or none. They need a model with `score="similarity"`.
        inverse: of a relation, its inverse in words, "child of" for "parent of". The name itself says that the
            relation is symmetric.

    Raises:
        ValueError: a field is none of this.
    """

    name: str
    descriptions: str | Sequence[str] = ()
    head_types: str | Sequence[str] = ()
    tail_types: str | Sequence[str] = ()
    inverse: str | None = None

    def __post_init__(self) -> None:
        check_labels([self.name], "Label.name")
        read: dict[str, tuple[str, ...]] = {}
        for name in ("descriptions", "head_types", "tail_types"):
            given = getattr(self, name)
            empty = not isinstance(given, str) and as_list(given) == []
            sentences = [] if empty else _check_sentences(f"Label({self.name!r}).{name}", given)
            read[name] = tuple(sentence.strip() for sentence in sentences)
        if bool(read["head_types"]) != bool(read["tail_types"]):
            missing = "tail_types" if read["head_types"] else "head_types"
            raise ValueError(f"Label({self.name!r}).{missing}: head and tail both need types, or none does (got none)")
        if self.inverse is not None and (not isinstance(self.inverse, str) or not self.inverse.strip()):
            raise ValueError(
                f"Label({self.name!r}).inverse: a non-empty string is needed, or None (got {self.inverse!r:.200})"
            )
        for name, sentences_ in read.items():
            object.__setattr__(self, name, sentences_)

    @property
    def is_symmetric(self) -> bool:
        """Whether the relation is its own inverse."""
        return self.inverse is not None and self.inverse.strip() == self.name.strip()


LABEL_FIELDS = tuple(Label.__dataclass_fields__)


class PlainLabels(NamedTuple):
    """Labels as strings, with what was said of them in [`Label`] objects as loose arguments.

    Attributes:
        labels: as they were given, each [`Label`] replaced by its name.
        descriptions: `label_descriptions`, and those of the objects.
        types: `label_types`, and those of the objects.
        inverses: of each relation whose object names one, its inverse in words.
    """

    labels: Any
    descriptions: Mapping[str, Any] | None
    types: Mapping[str, Any] | None
    inverses: dict[str, str]


def read_label(label: Any, where: str) -> Label | None:
    """The [`Label`] that an object or a dict is; `None` for what is neither.

    Raises:
        ValueError: a dict has other keys than the fields of [`Label`], or no name.
    """
    if isinstance(label, Mapping):
        strange = [key for key in label if key not in LABEL_FIELDS]
        if strange or "name" not in label:
            raise ValueError(
                f"{where}: a dict needs 'name' and may have {', '.join(LABEL_FIELDS[1:])} (got {label!r:.200})"
            )
        return Label(**label)
    # Not by its class, of which a folder from the Hub brings a copy.
    return label if all(hasattr(label, name) for name in LABEL_FIELDS) else None


def plain_labels(
    candidate_labels: Any,
    label_descriptions: Mapping[str, Any] | None = None,
    label_types: Mapping[str, Any] | None = None,
    where: str = "candidate_labels",
) -> PlainLabels:
    """Takes [`Label`] objects apart; strings, and what is wrong in another way, stay as they are.

    Args:
        candidate_labels: shared by the batch or given per post, strings, objects and dicts in any mixture.
        label_descriptions, label_types: of labels that are given as strings.
        where: name of the labels in messages.

    Raises:
        ValueError: a label is given as an object and has an entry in a loose argument, or is given twice with
            different fields, or a dict is no [`Label`].
    """
    lists = as_list(candidate_labels)
    if lists is None:
        return PlainLabels(candidate_labels, label_descriptions, label_types, {})
    per_post = any(as_list(own) is not None for own in lists)
    named = {f"{where}[{post}]": own for post, own in enumerate(lists)} if per_post else {where: lists}
    plain = plain_label_lists(named, label_descriptions, label_types)
    names = list(plain.labels.values())
    if all(own is given for own, given in zip(names, named.values(), strict=True)):
        return plain._replace(labels=candidate_labels)
    return plain._replace(labels=names if per_post else names[0])


def plain_label_lists(
    lists: Mapping[str, Any],
    label_descriptions: Mapping[str, Any] | None = None,
    label_types: Mapping[str, Any] | None = None,
) -> PlainLabels:
    """[`plain_labels`] of several lists that are read together; `labels` of the result is a dict with the same keys.

    Args:
        lists: lists of labels by their names in messages.
        label_descriptions, label_types: as of [`plain_labels`].
    """
    _check_mapping(label_descriptions, "label_descriptions")
    names: dict[str, Any] = {}
    found: dict[str, Label] = {}
    strings: set[str] = set()
    for where, given in lists.items():
        own = as_list(given)
        read = [read_label(label, where) for label in own or ()]
        strings.update(label.strip() for label in own or () if isinstance(label, str))
        names[where] = given
        if own is None or not any(read):
            continue
        names[where] = [label if one is None else one.name for label, one in zip(own, read, strict=True)]
        for one in filter(None, read):
            if vars(found.setdefault(one.name.strip(), one)) != vars(one):
                raise ValueError(f"{where}: one label has one Label (got {found[one.name.strip()]} and {one})")
    if not found:
        return PlainLabels(names, label_descriptions, label_types, {})
    if both := sorted(strings & set(found)):
        raise ValueError(f"{', '.join(lists)}: a label is given as a string or as a Label (got {both[0]!r} as both)")
    for argument, loose in (("label_descriptions", label_descriptions), ("label_types", label_types)):
        keys = {key.strip() for key in loose if isinstance(key, str)} if isinstance(loose, Mapping) else set()
        if both := sorted(keys & set(found)):
            raise ValueError(
                f"{argument}: what belongs to a Label is said in it alone (got {both[0]!r} here and as a Label in "
                f"{', '.join(lists)})"
            )
    labels = found.values()
    own_texts = {one.name: list(one.descriptions) for one in labels if one.descriptions}
    own_types = {one.name: (list(one.head_types), list(one.tail_types)) for one in labels if one.head_types}
    return PlainLabels(
        names,
        {**(label_descriptions or {}), **own_texts} or None,
        {**(label_types or {}), **own_types} or None,
        {one.name: one.inverse for one in labels if one.inverse is not None},
    )


# How much alike two words must be for one to be a slip of the other: "persn" and "person", not "horse" and "house".
SLIP = 0.8
_warned_keys: set[tuple[str, str]] = set()


def check_label_words(
    labels: Iterable[str],
    descriptions: Any = None,
    label_types: Any = None,
    type_descriptions: Any = None,
    separator: str | None = None,
    typed: Iterable[str] | None = None,
    warn: bool = True,
) -> None:
    """Looks for misspelt keys in what is said of labels, which would otherwise have no effect.

    A dictionary may be shared by calls with other labels, so a key of no label is not yet an error. It is one if it is
    a slip (case, spacing, a letter) of a label that has no entry. Any other key of `descriptions` that is no label
    gives a warning, once in a process; a key of the types only where a label has no entry, because the types of a
    whole dataset belong together.

    Args:
        labels: All labels of the call.
        descriptions, label_types, type_descriptions: As the processor takes them.
        separator: Of the parts of paths; descriptions may then be of nodes and parts, too.
        typed: The labels that may have types; default: all.
        warn: Whether all labels of the call are known, and not only those of one post.

    Raises:
        ValueError: If a key is a slip of a label without an entry; the message names both.
    """
    labels = list(labels)
    names = set(labels)
    if separator is not None:
        paths = [split_path(label, separator) for label in labels]
        names = {f" {separator} ".join(path[:depth]) for path in paths for depth in range(1, len(path) + 1)}
        names |= {part for path in paths for part in path}
        descriptions, label_types = with_spacing(descriptions, separator), with_spacing(label_types, separator)
        typed = None if typed is None else [f" {separator} ".join(split_path(label, separator)) for label in typed]
    _check_keys("label_descriptions", descriptions, names, names, warn)
    typed = names if typed is None else set(typed)
    _check_keys("label_types", label_types, names, typed, warn and not _covers(label_types, typed))
    if isinstance(type_descriptions, Mapping):
        types, _ = read_label_types(label_types, [])
        warn = warn and not (types and _covers(type_descriptions, types))
        _check_keys("type_descriptions", type_descriptions, set(types), set(types), warn)


def with_spacing(given: Any, separator: str) -> Any:
    """What is said of labels, with every path among the keys written as [`LabelPaths`] names its nodes."""
    if not isinstance(given, Mapping):
        return given
    paths = {key: [part.strip() for part in key.split(separator)] for key in given if isinstance(key, str)}
    others = {key: value for key, value in given.items() if not isinstance(key, str)}  # their own check says so
    return others | {f" {separator} ".join(parts): given[key] for key, parts in paths.items()}


def _covers(given: Any, names: Iterable[str]) -> bool:
    return isinstance(given, Mapping) and {name.strip() for name in names} <= {str(key).strip() for key in given}


def _check_keys(argument: str, given: Any, names: set[str], needed: set[str], warn: bool) -> None:
    """Looks for slips of `needed` among the keys that are none of `names`, and warns of the others."""
    if not isinstance(given, Mapping):  # its own check says what is wrong
        return
    keys = {key.strip() for key in given if isinstance(key, str)}
    strange = keys - {name.strip() for name in names}
    if not strange:
        return
    slip = _find_slip(frozenset(strange), frozenset(name.strip() for name in needed) - keys)
    if slip is not None:
        raise ValueError(f"{argument}: {slip[0]!r} is none of the labels or types; did you mean {slip[1]!r}?")
    new = sorted(key for key in strange if (argument, key) not in _warned_keys)
    if warn and new:
        _warned_keys.update((argument, key) for key in new)
        shown = []
        for key in new[:5]:
            near = difflib.get_close_matches(key, sorted(names), n=1, cutoff=0.0)
            shown.append(f"{key!r} (nearest: {near[0]!r})" if near else repr(key))
        more = f" and {len(new) - 5} more" if len(new) > 5 else ""
        warnings.warn(f"{argument}: no effect here, for there is no such label or type: {', '.join(shown)}{more}",
                      stacklevel=4)  # fmt: skip


@lru_cache(maxsize=256)
def _find_slip(strange: frozenset[str], missing: frozenset[str]) -> tuple[str, str] | None:
    """A key and the label that it is a slip of; None if there is none."""
    for key in sorted(strange):
        for label in sorted(missing):
            if _is_slip(key, label):
                return key, label
    return None


def _is_slip(key: str, label: str) -> bool:
    """Whether two names differ in case, spacing or punctuation only, or in a letter or two of some words."""
    one, two = (re.findall(r"\w+", name.casefold().replace("_", " ")) for name in (key, label))
    if "".join(one) == "".join(two):
        return bool(one)
    if len(one) != len(two):
        return False
    # "class 1" and "class 2", "type a" and "type b" are two labels.
    return all(
        word == other
        or (not any(map(str.isdigit, word + other)) and difflib.SequenceMatcher(None, word, other).ratio() > SLIP)
        for word, other in zip(one, two, strict=True)
    )


def as_nodes(
    candidate_labels: Any, separator: str | None
) -> tuple[list[str] | list[list[str]] | Any, list[LabelPaths] | None]:
    """Nodes of the tree, which the model scores instead of the paths.

    Args:
        candidate_labels: shared by the batch or given per post.
        separator: separator of the parts of paths; `None`: labels are no paths.

    Returns:
        The nodes, shared or per post as the labels were, and the tree, or that of each post; without a separator the
        labels as they came and `None`.
    """
    candidate_labels = as_list(candidate_labels) or candidate_labels
    if separator is None:
        return candidate_labels, None
    _, columns = read_labels(candidate_labels)
    if columns is None:
        tree = LabelPaths(candidate_labels, separator)
        return tree.names(), [tree]
    trees = [LabelPaths(labels, separator) for labels in candidate_labels]
    return [tree.names() for tree in trees], trees


def rank_labels(
    outputs_or_logits: Any,
    candidate_labels: Sequence[str | Label] | Sequence[Sequence[str | Label]],
    threshold: float | None = None,
    top_k: int | None = None,
    function_to_apply: str = "softmax",
    candidate_mask: Any = None,
    label_separator: str | None = None,
    reject_by: str = "probability",
) -> list[list[dict[str, Any]]]:
    """Turns logits into labels with scores; `MGVMoEProcessor.post_process_zero_shot_ie` documents it."""
    check_ranking(threshold, top_k, function_to_apply, reject_by)
    candidate_labels = plain_labels(candidate_labels).labels
    columns, trees = as_nodes(candidate_labels, check_separator(label_separator))
    if trees is not None and (function_to_apply != "softmax" or candidate_mask is not None):
        raise ValueError(
            "label_separator: paths have probabilities, and posts may have lists of their own; function_to_apply must "
            f"be 'softmax', and there must be no candidate_mask (got {function_to_apply!r})"
        )
    if trees is not None and reject_by == "logit":
        raise ValueError("reject_by: paths have no logits, which 'logit' and 'calibrated' compare (got one of these)")
    if reject_by == "calibrated":
        raise ValueError(
            "reject_by: another is needed, for 'calibrated' takes the score_calibration of a model's configuration, "
            "which its pipeline and `extract` read (got 'calibrated')"
        )
    if reject_by == "probability" and not threshold:
        threshold = None  # 0 keeps raw logits below 0, too
    ranked: list[list[dict[str, Any]]] = []
    logits, samples = _logits_of(outputs_or_logits)
    rows = _rows(logits if samples is None else samples, columns, candidate_mask)
    quiet_rows = rows if samples is None or logits is None else _rows(logits, columns, candidate_mask)
    for (labels, drawn), (_, quiet) in zip(rows, quiet_rows, strict=True):
        # In double precision the order of the labels does not show in the scores.
        values = drawn.detach().cpu().double()
        if bool(torch.isnan(values).any()):
            raise ValueError(f"logits: post {len(ranked)} has NaN scores")
        tree = trees[len(ranked) % len(trees)] if trees else None
        found = _ranking(labels, values, quiet.detach().cpu().double(), function_to_apply, tree, reject_by)[:top_k]
        ranked.append([entry for entry, value in found if threshold is None or value >= threshold])
    return ranked


def check_ranking(threshold: Any, top_k: Any, function_to_apply: Any, reject_by: Any = "probability") -> None:
    """Checks how labels are to be ranked; raises ValueError, see `MGVMoEProcessor.post_process_zero_shot_ie`."""
    if function_to_apply not in SCORE_FUNCTIONS:
        raise ValueError(
            f"function_to_apply: one of {', '.join(SCORE_FUNCTIONS)} is needed (got {function_to_apply!r})"
        )
    check_threshold(threshold, reject_by, bounded=function_to_apply != "none")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, Integral) or top_k < 1):
        raise ValueError(f"top_k: an integer of at least 1, or None, is needed (got {top_k!r})")


def _ranking(
    labels: list[str],
    values: torch.Tensor,
    quiet: torch.Tensor,
    function_to_apply: str,
    paths: LabelPaths | None,
    reject_by: str,
) -> list[tuple[dict[str, Any], float]]:
    """All labels of a post with falling scores, each with what a threshold is about.

    Args:
        labels: C of them.
        values: logits (C,), or (draws, C).
        quiet: logits (C,) without noise, which a threshold of the logit is about; or `values`, whose mean stands for
            them.
        function_to_apply, paths, reject_by: as of [`rank_labels`].
    """
    if paths is not None:
        labels, values, quiet = paths.labels, paths.log_probs(values), paths.log_probs(quiet)
    if function_to_apply == "softmax":
        scores = values.softmax(dim=-1)
    else:
        scores = values.sigmoid() if function_to_apply == "sigmoid" else values
    more: list[dict[str, Any]] = [{} for _ in labels]
    if scores.ndim == 2:
        information = float(statistics_of_probs(values.softmax(-1))["mutual_information"])
        deviations = scores.std(0, correction=min(1, len(scores) - 1)).tolist()
        more = [{"deviation": deviation, "mutual_information": information} for deviation in deviations]
        scores = scores.mean(0)
    if paths is not None:
        sums = paths.sums(scores.tolist())
        more = [{**entry, "levels": paths.levels(label, sums)} for label, entry in zip(labels, more, strict=True)]
    ordered = torch.sort(scores, descending=True, stable=True)
    probs = scores if reject_by == "probability" else _mean_of_draws(values.softmax(dim=-1))
    compared = threshold_values(probs, _mean_of_draws(quiet), reject_by).tolist()
    return [
        ({"label": labels[column], "score": score, **more[column]}, compared[column])
        for score, column in zip(ordered.values.tolist(), ordered.indices.tolist(), strict=True)
    ]


def _mean_of_draws(values: torch.Tensor) -> torch.Tensor:
    """(C,), of (C,) or (draws, C)."""
    return values if values.ndim == 1 else values.mean(0)


def _logits_of(outputs_or_logits: Any) -> tuple[Any, Any]:
    """Logits without noise and those of draws, of a model's output; what is none are logits without draws.

    Raises:
        ValueError: an output has neither.
    """
    if isinstance(outputs_or_logits, Mapping):
        found = outputs_or_logits.get("logits"), outputs_or_logits.get("sample_logits")
    else:
        found = (
            getattr(outputs_or_logits, "logits", outputs_or_logits),
            getattr(outputs_or_logits, "sample_logits", None),
        )
    if found[0] is None and found[1] is None:
        raise ValueError("outputs_or_logits: there are no logits (were candidates given to the model?)")
    return found


def _rows(
    logits: Any, candidate_labels: Sequence[str] | Sequence[Sequence[str]], candidate_mask: Any
) -> list[tuple[list[str], torch.Tensor]]:
    """Pairs each post's allowed labels with their logits, (number of its labels,); of draws, (draws, number)."""
    union, columns = read_labels(candidate_labels)
    if columns is not None and isinstance(logits, (list, tuple)):
        return _own_rows(logits, [list(labels) for labels in candidate_labels], candidate_mask)

    logits = torch.as_tensor(logits)
    if logits.ndim == 1 and columns is None:
        logits = logits[None]
    if logits.ndim not in (2, 3) or logits.shape[-1] != len(union):
        raise ValueError(
            f"logits: (posts, {len(union)}) is needed for {len(union)} candidate labels (got {tuple(logits.shape)})"
        )
    shape = logits.shape[-2:]
    if columns is not None and len(columns) != shape[0]:
        raise ValueError(f"candidate_labels: {shape[0]} lists are needed, one a post (got {len(columns)})")
    if columns is None and candidate_mask is None:
        return [(union, row) for row in logits.unbind(-2)]
    allowed = torch.ones(shape, dtype=torch.bool)
    if candidate_mask is not None:
        allowed = torch.as_tensor(candidate_mask).cpu().bool()
        if allowed.shape != shape:
            raise ValueError(
                f"candidate_mask: {tuple(shape)}, the shape of logits, is needed (got {tuple(allowed.shape)})"
            )
    rows = []
    for post, open_to_post in enumerate(allowed.tolist()):
        names = union if columns is None else list(candidate_labels[post])
        places = range(len(union)) if columns is None else columns[post]
        kept = [(name, place) for name, place in zip(names, places, strict=True) if open_to_post[place]]
        rows.append(([name for name, _ in kept], logits[..., post, :][..., [place for _, place in kept]]))
    return rows


def _own_rows(
    logits: Sequence[Any], labels: list[list[str]], candidate_mask: Any
) -> list[tuple[list[str], torch.Tensor]]:
    """Pairs lists of labels per post with one vector per post, or one a draw, of exactly these labels' logits."""
    if candidate_mask is not None:
        raise ValueError("candidate_mask: it goes with logits (posts, candidates), not with a list of vectors")
    rows = [torch.as_tensor(row) for row in logits]
    if [row.shape[-1:] for row in rows] != [(len(own),) for own in labels] or any(row.ndim > 2 for row in rows):
        raise ValueError(
            f"logits: vectors of {[len(own) for own in labels]} scores are needed, the labels of each post "
            f"(got shapes {[tuple(row.shape) for row in rows]})"
        )
    return list(zip(labels, rows, strict=True))


PROCESSOR_FILES = ("processor_config.json", "tokenizer_config.json", "tokenizer.json")


class CandidateEmbedder:
    """Texts of labels to vectors, with a memory of the last ones.

    Args:
        model: encodes; what it made before its weights changed must be forgotten with `clear`.
        processor: the model's processor.
        size: texts that are remembered.
        batch_size: labels that are encoded in one forward pass.
    """

    def __init__(self, model: Any, processor: Any, size: int = 100_000, batch_size: int = 256) -> None:
        if size < 1:
            raise ValueError(f"candidate_cache_size must be at least 1, got {size}.")
        self.model, self.processor, self.size, self.batch_size = model, processor, size, batch_size
        self.cache: OrderedDict[tuple[str, ...], torch.Tensor] = OrderedDict()

    def clear(self) -> None:
        """Forget all."""
        self.cache.clear()

    def __call__(self, texts: Sequence[tuple[str, ...]], labels: Sequence[str] | None = None) -> torch.Tensor:
        """(C, H), of C labels or types; each is known by all its texts.

        Args:
            texts: texts of each label.
            labels: their names, for messages; default: their first texts.
        """
        names = dict(zip(texts, labels or [own[0] for own in texts], strict=True))
        # Other threads may shorten the cache at any moment: each step is one operation on it, and none may fail.
        known = ((text, self.cache.get(text)) for text in texts)
        found = {text: embeds for text, embeds in known if embeds is not None}
        missing = list(dict.fromkeys(text for text in texts if text not in found))
        # Vectors made with dropout would stay wrong for as long as they are kept.
        with in_evaluation(self.model):
            for start in range(0, len(missing), self.batch_size):
                chunk = missing[start : start + self.batch_size]
                own = [names[text] for text in chunk]
                encoded = self.processor.encode_texts(chunk, return_tensors="pt", labels=own)
                embeds = self.model.get_candidate_embeds(**encoded.to(self.model.device))
                found.update(zip(chunk, embeds.unbind(0), strict=True))
        with suppress(KeyError):
            for text in texts:
                self.cache[text] = found[text]
                self.cache.move_to_end(text)
            while len(self.cache) > self.size:
                self.cache.popitem(last=False)
        return torch.stack([found[text] for text in texts])


# Models that threads are reading, with how many and which modules were in training mode before the first of them.
_READ: WeakKeyDictionary[nn.Module, tuple[int, list[nn.Module]]] = WeakKeyDictionary()
_READ_LOCK = Lock()


@contextmanager
def in_evaluation(model: Any) -> Iterator[None]:
    """Run a model without dropout, noise and gradients; afterwards every module is in the mode in which it came.

    Threads may share the model: the last one to leave restores the modes. A model that is no module of torch, an ONNX
    export, has no modes.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    with _READ_LOCK:
        readers, training = _READ.get(model, (0, []))
        if not readers:
            training = [module for module in model.modules() if module.training]
            model.eval()
        _READ[model] = (readers + 1, training)
    try:
        with torch.no_grad():
            yield
    finally:
        with _READ_LOCK:
            readers, training = _READ.pop(model)
            if readers > 1:
                _READ[model] = (readers - 1, training)
            else:
                for module in training:
                    module.training = True


def check_processor(model: Any, processor: Any) -> None:
    """Raise ValueError if the model cannot read what the processor makes."""
    if not hasattr(processor, "encode_post"):
        raise ValueError(
            f"processor: an MGVMoEProcessor is needed (got {type(processor).__name__}). "
            f"{_why_no_processor(model.name_or_path)}Save one beside the model with "
            "processor.save_pretrained(folder), or pass processor=... to pipeline()."
        )
    vocab_size = model.config.text_config.vocab_size
    if processor.vocabulary_size > vocab_size:
        raise ValueError(
            f"model: its text encoder has {vocab_size} token embeddings, but the processor's tokenizer has "
            f"{processor.vocabulary_size} tokens, markers included. Call "
            "model.resize_token_embeddings(processor.vocabulary_size), and train."
        )
    limit = getattr(model, "mgvmoe", model).max_text_length
    if limit is not None and processor.longest > limit:
        raise ValueError(
            f"processor: posts may have {processor.longest} tokens, but the model's text encoder has "
            f"positions for {limit}. Set processor.max_length to at most {limit}."
        )
    if model.config.score == "similarity" and processor.mention_style != "prefix":
        raise ValueError(
            'processor: a model with score="similarity" needs one with mention_style="prefix", '
            f"got {processor.mention_style!r}."
        )


def _why_no_processor(source: str) -> str:
    """A sentence on what the model's folder lacks, or where to look; nothing for a model that was not loaded."""
    if not source:
        return ""
    missing = [name for name in PROCESSOR_FILES if not os.path.isfile(os.path.join(source, name))]
    if missing and os.path.isdir(source):
        return f"The folder {source!r} has no {', no '.join(missing)}. "
    return f"If {source!r} has one, AutoProcessor.from_pretrained on it says what is wrong. "


TASKS = ("typing", "relation")
COMPARED = ("probability", "ratio", "logit")
# What a calibrated threshold is compared with, the logit, `logit_threshold` says.
REJECT_BY = (*COMPARED, "calibrated")


def check_threshold(threshold: Any, reject_by: str = "probability", bounded: bool = True) -> None:
    """Check what a label needs to be kept.

    Args:
        threshold: a number, or `None`, which keeps every label.
        reject_by: one of `REJECT_BY`.
        bounded: whether a probability must be between 0 and 1.

    Raises:
        ValueError: `reject_by` is unknown, or the threshold is no number or out of its range.
    """
    if reject_by not in REJECT_BY:
        raise ValueError(f"reject_by: one of {', '.join(REJECT_BY)} is needed (got {reject_by!r})")
    if threshold is None:
        return
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or threshold != threshold:
        raise ValueError(f"threshold: a number is needed (got {threshold!r})")
    number = float(threshold)
    if reject_by == "probability" and bounded and not 0 <= number <= 1:
        raise ValueError(f"threshold: a score between 0 and 1 is needed (got {threshold!r})")
    if reject_by == "ratio" and number < 0:
        raise ValueError(f"threshold: a ratio that is not negative is needed (got {threshold!r})")
    if reject_by == "calibrated" and not 0 < number < 1:
        raise ValueError(f"threshold: a probability between 0 and 1, neither of them, is needed (got {threshold!r})")


def logit_threshold(
    threshold: float | None, reject_by: str, calibration: Mapping[str, Sequence[float]] | None, task: str
) -> tuple[float | None, str]:
    """The threshold of the logit that a calibrated one stands for, with its `reject_by`; any other as it is.

    Args:
        threshold: a probability, or `None`, which keeps every label.
        reject_by: one of `REJECT_BY`.
        calibration: `score_calibration` of the model's configuration.
        task: "typing" or "relation".

    Raises:
        ValueError: the threshold is no probability, or the model has no calibration for the task.
    """
    if reject_by != "calibrated":
        return threshold, reject_by
    check_threshold(threshold, reject_by)
    if threshold is None:
        return None, "logit"
    if task not in (calibration or {}):
        raise ValueError(
            f"reject_by: 'calibrated' needs a model whose configuration has a score_calibration for {task!r} "
            f"(got one for {sorted(calibration or {})})"
        )
    slope, intercept = cast(Mapping[str, Sequence[float]], calibration)[task]
    return (math.log(threshold / (1 - threshold)) - intercept) / slope, "logit"


def threshold_values(scores: torch.Tensor, logits: torch.Tensor, reject_by: str) -> torch.Tensor:
    """The value of each label that a threshold is compared with.

    Args:
        scores: (C,), "probability" itself, of which "ratio" is made.
        logits: (C,), "logit" itself; -inf for labels that are not open.
        reject_by: one of `COMPARED`.

    Returns:
        (C,). A ratio is how many times as likely as the average other open label a label is; inf for a single one.
    """
    if reject_by == "probability":
        return scores
    if reject_by == "logit":
        return logits
    others = (logits > float("-inf")).sum() - 1
    rest = scores.sum() - scores
    return torch.where(rest > 0, scores * others / rest, float("inf"))


@dataclass(frozen=True)
class Threshold:
    """The least that the answered label needs; below it the mention or pair has none of the labels.

    Attributes:
        threshold: the number.
        reject_by: what it is about: "probability" of the label; "ratio" of this to the average other label's, which
            does not fall where labels are added that fit equally badly; "logit", raw as the model gives it, which
            does not depend on the other labels at all. "calibrated" is one of the logit, by [`logit_threshold`].

    Raises:
        ValueError: see [`check_threshold`].
    """

    threshold: float
    reject_by: str = "probability"

    def __post_init__(self) -> None:
        check_threshold(self.threshold, self.reject_by)
        if self.reject_by not in COMPARED:
            raise ValueError(f"reject_by: one of {', '.join(COMPARED)} is needed here (got {self.reject_by!r})")

    def rejects(self, column: int, probs: torch.Tensor, logits: torch.Tensor) -> bool:
        """Whether the label of a column is none that holds.

        Args:
            column: column of the answered label.
            probs: (C,).
            logits: (C,), -inf for labels that are not open.
        """
        return float(threshold_values(probs, logits, self.reject_by)[column]) < self.threshold


class Rejection(Threshold):
    """A threshold as version 0.1 had it; version 0.3 will not have it."""

    def __init__(self, threshold: float, method: str = "probability") -> None:
        warnings.warn(
            "Rejection(threshold, method) is now said by the arguments threshold and reject_by; version 0.3 will not "
            "have it.",
            FutureWarning,
            stacklevel=2,
        )
        super().__init__(threshold, method)

    @property
    def method(self) -> str:
        """`reject_by`."""
        return self.reject_by


def read_thresholds(
    threshold: Any,
    reject_by: str = "probability",
    rejection: Any = None,
    calibration: Mapping[str, Sequence[float]] | None = None,
    asked: Iterable[str] = TASKS,
) -> dict[str, Any]:
    """For each of `TASKS` its [`Threshold`], or `None`.

    Args:
        threshold: a number, a dict of numbers by task, or `None`.
        reject_by: one of `REJECT_BY`.
        rejection: as version 0.1 called it: a number, a [`Rejection`], or a dict of these by task.
        calibration: `score_calibration` of the model's configuration.
        asked: the tasks that there are labels for; others need no calibration.

    Raises:
        ValueError: it is none of these, both `threshold` and `rejection` are given, or the model has no calibration.
    """
    check_threshold(None, reject_by)
    if rejection is not None:
        warnings.warn("rejection is now called threshold, with reject_by; version 0.3 will refuse it.", FutureWarning,
                      stacklevel=3)  # fmt: skip
        if threshold is not None:
            raise ValueError(f"threshold: it excludes its old name, rejection (got {threshold!r} and {rejection!r})")
        threshold = rejection
    by_task = threshold if isinstance(threshold, Mapping) else dict.fromkeys(TASKS, threshold)
    if strange := sorted(set(by_task) - set(TASKS)):
        raise ValueError(f"threshold: the keys {', '.join(TASKS)} are known (got {strange})")
    found: dict[str, Any] = {}
    for task in TASKS:
        own = by_task.get(task)
        if reject_by == "calibrated" and task not in asked:
            own = None
        found[task] = own
        # Not by its class, of which a folder from the Hub brings a copy.
        if own is not None and not hasattr(own, "rejects"):
            found[task] = Threshold(*cast(Any, logit_threshold(own, reject_by, calibration, task)))
    return found


class LabelSet:
    """Labels, what the model takes for them, and rankings of them.

    Args:
        labels: C of them.
        name: name of their argument, for messages.
        embedder: encodes and remembers them.
        descriptions, label_types, type_descriptions, template: as of the pipeline.
        separator: makes the labels paths.

    Attributes:
        model_inputs: arguments of the model's `forward` instead of the labels' words.

    Raises:
        ValueError: labels or what belongs to them are wrong.
    """

    def __init__(
        self,
        labels: Sequence[str],
        name: str,
        embedder: CandidateEmbedder,
        descriptions: Mapping[str, str | Sequence[str]] | None = None,
        label_types: Mapping[str, Any] | None = None,
        type_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        template: str | None = None,
        separator: str | None = None,
    ) -> None:
        self.labels = check_labels(labels, name)
        separator = check_separator(separator)
        self.paths = None if separator is None else LabelPaths(self.labels, separator)
        columns = self.labels
        if self.paths is not None:
            columns, descriptions = self.paths.names(), self.paths.node_descriptions(descriptions)
            label_types = with_spacing(label_types, self.paths.separator)
        processor = embedder.processor
        texts = processor.candidate_texts(columns, descriptions, template)
        types, allowed = read_label_types(label_types, columns)
        self.model_inputs = {"candidate_embeds": embedder(texts, columns)}
        if types:
            self.model_inputs["type_embeds"] = embedder(
                label_texts(types, type_descriptions, "{}", "type_descriptions"), types
            )
            self.model_inputs["candidate_types"] = torch.tensor(allowed, device=embedder.model.device)

    def scores_of(self, logits: torch.Tensor) -> torch.Tensor:
        """(..., C) numbers whose softmax are the labels' probabilities, of the model's logits."""
        return logits if self.paths is None else self.paths.log_probs(logits)

    def ranked(
        self,
        logits: torch.Tensor,
        threshold: Threshold | None = None,
        top_k: int | None = None,
        probs: torch.Tensor | None = None,
        answer: int | None = None,
    ) -> dict[str, Any]:
        """The answer and the ranking of one mention or pair.

        Args:
            logits: (1 + samples, C), first those without noise; -inf for labels that are not open to it.
            threshold: decides whether it has any of the labels.
            top_k: length of the ranking; default all.
            probs: (1 + samples, C), instead of the softmax of the logits.
            answer: column of the label, instead of the best.

        Returns:
            {"label", "score", "scores"}; the label is `None` if it is rejected. With samples also "deviation", here
            and in `scores`, and "mutual_information"; with paths "levels", the score of every level of the label.
        """
        probs = logits.softmax(-1) if probs is None else probs
        mean = probs[0] if len(probs) == 1 else probs[1:].mean(0)
        answer = int(mean.argmax()) if answer is None else answer
        means, open_ = mean.tolist(), (logits[0] > float("-inf")).tolist()
        # Stable: equal scores keep the order of the labels.
        order = [column for column in sorted(range(len(means)), key=means.__getitem__, reverse=True) if open_[column]]
        ranking = [{"label": self.labels[column], "score": means[column]} for column in order]
        result: dict[str, Any] = {
            "label": self.labels[answer],
            "score": means[answer],
            "scores": ranking[:top_k],
        }
        if len(probs) > 1:
            statistics = statistics_of_probs(probs[1:])
            result["deviation"] = float(statistics["std_probs"][answer])
            result["mutual_information"] = float(statistics["mutual_information"])
            for entry, column in zip(ranking, order, strict=True):
                entry["deviation"] = float(statistics["std_probs"][column])
        if self.paths is not None:
            result["levels"] = self.paths.levels(self.labels[answer], self.paths.sums(means))
        if threshold is not None and threshold.rejects(answer, mean, logits[0]):
            result["label"] = None
        return result


__all__ = [
    "CandidateEmbedder",
    "Label",
    "LabelPaths",
    "LabelSet",
    "Rejection",
    "Threshold",
    "check_processor",
    "check_separator",
    "in_evaluation",
    "plain_labels",
    "read_label_types",
    "logit_threshold",
    "read_thresholds",
    "split_path",
]
