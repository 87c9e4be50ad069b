"""Candidate labels: checks, the text that stands for a label, and scores turned into ranked labels."""

import difflib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from .label_paths import LabelPaths, check_separator, split_path
from .label_types import read_label_types
from .spans import as_list, check_unicode
from .uncertainty import statistics_of_probs

SCORE_FUNCTIONS = ("softmax", "sigmoid", "none")
# Arguments of transformers' zero-shot pipelines, and what does the same here.
ELSEWHERE = {
    "hypothesis_template": "label_template",
    "multi_label": 'function_to_apply="sigmoid", of ZeroShotMultimodalIEPipeline and post_process_zero_shot_ie',
}


def refuse_unknown_arguments(arguments: Mapping[str, Any], where: str) -> None:
    """Refuse arguments that a call does not have, with what ours is called for those of transformers' pipelines.

    Args:
        arguments: that are left over.
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


def check_template(label_template: object) -> str:
    """Returns the template, or raises ValueError if it is not a string with exactly one "{}"."""
    if not isinstance(label_template, str) or label_template.count("{}") != 1:
        raise ValueError(f'label_template: a string with exactly one "{{}}" is needed (got {label_template!r})')
    return label_template


def label_texts(
    labels: Sequence[str], descriptions: Mapping[str, str | Sequence[str]] | None, template: str
) -> list[tuple[str, ...]]:
    """Says what the text encoder reads for each label.

    Args:
        labels: Checked labels.
        descriptions: A sentence, or several that say the same in other words, for some or all labels, and possibly for
            others.
        template: A string with one "{}", where each sentence goes or else the label.

    Returns:
        The texts of each label, one or several; the label's embedding is the mean of theirs.

    Raises:
        ValueError: If the template has not exactly one "{}" or a description is not a non-empty string or a list of
            distinct ones.
    """
    check_template(template)
    descriptions = {} if descriptions is None else descriptions
    if not isinstance(descriptions, Mapping):
        raise ValueError(f"label_descriptions: a dict of label to sentence is needed (got {descriptions!r:.80})")
    for label, given in descriptions.items():
        _check_sentences(label, given)
    texts = []
    for label in labels:
        given = descriptions.get(label, descriptions.get(label.strip(), label))
        sentences = [given] if isinstance(given, str) else as_list(given) or ()
        texts.append(tuple(template.replace("{}", sentence.strip()) for sentence in sentences))
    return texts


def _check_sentences(label: str, given: object) -> None:
    sentences = [given] if isinstance(given, str) else as_list(given)
    if not sentences or not all(isinstance(sentence, str) and sentence.strip() for sentence in sentences):
        raise ValueError(
            f"label_descriptions[{label!r}]: a non-empty string is needed, or a list of them (got {given!r:.200})"
        )
    if len({sentence.strip() for sentence in sentences}) < len(sentences):
        raise ValueError(f"label_descriptions[{label!r}]: sentences must be distinct (got {given!r:.200})")


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
        descriptions = _with_spacing(descriptions, separator)
    _check_keys("label_descriptions", descriptions, names, names, warn)
    typed = names if typed is None else set(typed)
    _check_keys("label_types", label_types, names | set(labels), typed, warn and not _covers(label_types, typed))
    if isinstance(type_descriptions, Mapping):
        types, _ = read_label_types(label_types, [])
        warn = warn and not (types and _covers(type_descriptions, types))
        _check_keys("type_descriptions", type_descriptions, set(types), set(types), warn)


def _with_spacing(descriptions: Any, separator: str) -> Any:
    """The descriptions with every path written as the nodes are."""
    if not isinstance(descriptions, Mapping):
        return descriptions
    paths = {key: [part.strip() for part in key.split(separator)] for key in descriptions if isinstance(key, str)}
    return {f" {separator} ".join(parts): descriptions[key] for key, parts in paths.items()}


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
    """What the model scores in place of paths: every node of their tree.

    Args:
        candidate_labels: shared by the batch or given per post.
        separator: of the parts of paths; `None`: labels are no paths.

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
    candidate_labels: Sequence[str] | Sequence[Sequence[str]],
    threshold: float = 0.0,
    top_k: int | None = None,
    function_to_apply: str = "softmax",
    candidate_mask: Any = None,
    label_separator: str | None = None,
) -> list[list[dict[str, Any]]]:
    """Turns logits into labels with scores; `MGVMoEProcessor.post_process_zero_shot_ie` documents it."""
    check_ranking(threshold, top_k, function_to_apply)
    columns, trees = as_nodes(candidate_labels, check_separator(label_separator))
    if trees is not None and (function_to_apply != "softmax" or candidate_mask is not None):
        raise ValueError(
            "label_separator: paths have probabilities, and posts may have lists of their own; function_to_apply must "
            f"be 'softmax', and there must be no candidate_mask (got {function_to_apply!r})"
        )
    ranked: list[list[dict[str, Any]]] = []
    for labels, logits in _rows(outputs_or_logits, columns, candidate_mask):
        # In double precision the order of the labels does not show in the scores.
        values = logits.detach().cpu().double()
        if bool(torch.isnan(values).any()):
            raise ValueError(f"logits: post {len(ranked)} has NaN scores")
        found = _ranking(labels, values, function_to_apply, trees[len(ranked) % len(trees)] if trees else None)
        ranked.append([entry for entry in found[:top_k] if not threshold or entry["score"] >= threshold])
    return ranked


def check_ranking(threshold: Any, top_k: Any, function_to_apply: Any) -> None:
    """Checks how labels are to be ranked; raises ValueError, see `MGVMoEProcessor.post_process_zero_shot_ie`."""
    if function_to_apply not in SCORE_FUNCTIONS:
        raise ValueError(
            f"function_to_apply: one of {', '.join(SCORE_FUNCTIONS)} is needed (got {function_to_apply!r})"
        )
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or threshold != threshold:
        raise ValueError(f"threshold: a number is needed (got {threshold!r})")
    if function_to_apply != "none" and not 0 <= threshold <= 1:
        raise ValueError(f"threshold: a score between 0 and 1 is needed (got {threshold!r})")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise ValueError(f"top_k: an integer of at least 1, or None, is needed (got {top_k!r})")


def _ranking(
    labels: list[str], values: torch.Tensor, function_to_apply: str, paths: LabelPaths | None
) -> list[dict[str, Any]]:
    """All labels of a post with falling scores, of logits (C,), or (draws, C)."""
    if paths is not None:
        labels, values = paths.labels, paths.log_probs(values)
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
    return [
        {"label": labels[column], "score": score, **more[column]}
        for score, column in zip(ordered.values.tolist(), ordered.indices.tolist(), strict=True)
    ]


def _rows(
    outputs_or_logits: Any, candidate_labels: Sequence[str] | Sequence[Sequence[str]], candidate_mask: Any
) -> list[tuple[list[str], torch.Tensor]]:
    """Pairs each post's allowed labels with their logits, (number of its labels,); of draws, (draws, number)."""
    union, columns = read_labels(candidate_labels)
    logits = getattr(outputs_or_logits, "sample_logits", None)
    logits = getattr(outputs_or_logits, "logits", outputs_or_logits) if logits is None else logits
    if isinstance(logits, Mapping):
        logits = logits.get("logits") if logits.get("sample_logits") is None else logits["sample_logits"]
    if logits is None:
        raise ValueError("outputs_or_logits: there are no logits (were candidates given to the model?)")
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
