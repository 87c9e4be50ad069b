"""Candidate labels, and types of head and tail, as token ids.

Axes: C candidate labels, P their texts, Lc label tokens, T types.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from transformers.feature_extraction_utils import BatchFeature

from .candidates import as_nodes, check_labels, label_texts, read_labels
from .label_paths import check_separator
from .label_types import read_label_types
from .padding import pad_rows, to_tensors
from .plain_tokens import TokenizerRules, encode_segments
from .spans import Segment


class CandidateEncoding:
    """What the processor does with labels; a base class of it.

    Attributes:
        tokenizer: A fast tokenizer.
        label_template: What the text encoder reads for a label.
    """

    tokenizer: Any
    label_template: str
    _rules: TokenizerRules

    def _limit(self, max_length: int | None) -> int:
        """The length that holds, of which the processor knows."""
        raise NotImplementedError

    def candidate_texts(
        self,
        candidate_labels: Sequence[str],
        label_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        label_template: str | None = None,
    ) -> list[tuple[str, ...]]:
        """Says what the text encoder reads for each label: the template around its sentences, or else the label.

        Raises:
            ValueError: If labels are not distinct non-empty strings, a description is not a non-empty string or a list
                of distinct ones, or the template has not exactly one "{}".
        """
        template = self.label_template if label_template is None else label_template
        return label_texts(check_labels(candidate_labels), label_descriptions, template)

    def encode_candidates(
        self,
        candidate_labels: Sequence[str] | Sequence[Sequence[str]],
        label_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        label_template: str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = None,
        label_types: Mapping[str, Any] | None = None,
        type_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        label_separator: str | None = None,
    ) -> BatchFeature:
        """Tokenizes candidate labels, each distinct label once; see `__call__` for the arguments.

        Returns:
            candidate_input_ids and candidate_attention_mask, (C,Lc) or (P,Lc), cut at `max_length`, with a warning;
            candidate_index, candidate_mask, type_input_ids, type_attention_mask, type_index and candidate_types as
            `__call__` says. A warning also names labels that the model cannot tell apart.

        Raises:
            ValueError: See `candidate_texts` and `label_types.read_label_types`; also if a label or type has no token
                in the vocabulary.
        """
        candidate_labels, trees = as_nodes(candidate_labels, check_separator(label_separator))
        if trees is not None:
            label_descriptions = {
                node: text for tree in trees for node, text in tree.node_descriptions(label_descriptions).items()
            }
        labels, columns = read_labels(candidate_labels)
        texts = self.candidate_texts(labels, label_descriptions, label_template)
        batch = self._encode_texts(labels, texts, "candidate", max_length)
        if columns is not None:
            batch["candidate_mask"] = [[column in own for column in range(len(labels))] for own in map(set, columns)]
        types, allowed = read_label_types(label_types, labels)
        if types:
            batch |= self._encode_texts(types, label_texts(types, type_descriptions, "{}"), "type", max_length)
            batch["candidate_types"] = allowed
        return to_tensors(batch, return_tensors)

    def encode_texts(
        self,
        texts: Sequence[Sequence[str]],
        return_tensors: str | None = None,
        labels: Sequence[str] | None = None,
    ) -> BatchFeature:
        """Tokenizes what `candidate_texts` gave; outputs as of `encode_candidates`.

        Args:
            texts: The texts of each label.
            return_tensors: "pt", "np" or None for padded lists.
            labels: Their names, for messages; default: their first texts.
        """
        names = [own[0] for own in texts] if labels is None else labels
        return to_tensors(self._encode_texts(names, texts, "candidate", None), return_tensors)

    def _encode_texts(
        self, labels: Sequence[str], texts: Sequence[Sequence[str]], name: str, max_length: int | None
    ) -> dict[str, list[Any]]:
        """Rows of token ids of all texts, padded, and to which label each belongs if one has several."""
        limit = self._limit(max_length)
        room = limit - self._rules.number_around
        if room < 1:
            raise ValueError(f"max_length: at least {limit - room + 1} is needed for a label (got {limit})")
        index = [column for column, own in enumerate(texts) for _ in own]
        encoded = encode_segments(
            self.tokenizer, self._rules, [Segment(text, joined=False) for own in texts for text in own]
        )
        for column, ids in zip(index, encoded, strict=True):
            if not ids:
                where = "candidate_labels: the tokenizer makes no token of label"
                where = where if name == "candidate" else "label_types: the tokenizer makes no token of type"
                raise ValueError(f"{where} {labels[column]!r}")
        _warn_of_what_is_lost(labels, index, encoded, room, name)
        padded = pad_rows(
            self.tokenizer, [self._rules.prefix_ids + ids[:room] + self._rules.suffix_ids for ids in encoded]
        )
        batch = {f"{name}_input_ids": padded["input_ids"], f"{name}_attention_mask": padded["attention_mask"]}
        return batch if len(index) == len(labels) else {**batch, f"{name}_index": index}


def _warn_of_what_is_lost(
    labels: Sequence[str], index: Sequence[int], encoded: Sequence[Sequence[int]], room: int, name: str
) -> None:
    """Warns of texts that are cut, and of labels that the model cannot tell apart.

    Args:
        labels: C names.
        index: The label of each of P texts.
        encoded: The token ids of each text.
        room: How many of them are kept.
        name: "candidate" or "type".
    """
    argument = "label_types" if name == "type" else "candidate_labels"
    cut = dict.fromkeys(
        f"{labels[column]!r:.60} ({len(ids)} tokens)"
        for column, ids in zip(index, encoded, strict=True)
        if len(ids) > room
    )
    if cut:
        warnings.warn(
            f"{argument}: max_length leaves room for {room} tokens of a text, and longer ones are cut: {_some(cut)}.",
            stacklevel=2,
        )
    kept: list[list[tuple[int, ...]]] = [[] for _ in labels]
    for column, ids in zip(index, encoded, strict=True):
        kept[column].append(tuple(ids[:room]))
    first: dict[tuple[tuple[int, ...], ...], str] = {}
    same: dict[str, None] = {}
    for label, own in zip(labels, kept, strict=True):
        other = first.setdefault(tuple(own), label)
        if other is not label:
            same[f"{other!r:.60} and {label!r:.60}"] = None
    if same:
        warnings.warn(
            f"{argument}: the model reads the same tokens for, and cannot tell apart: {_some(same)}.", stacklevel=2
        )


def _some(items: Mapping[str, Any], number: int = 5) -> str:
    more = f" and {len(items) - number} more" if len(items) > number else ""
    return ", ".join(list(items)[:number]) + more
