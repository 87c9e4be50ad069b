"""Read the fields of the page: a post, its mentions and its labels, with errors in plain words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..spans import check_span, read_image_text, read_mentions

# What one request may cost a server that is open to everybody.
MAX_CHARACTERS, MAX_LABELS, MAX_LABEL_CHARACTERS, MAX_MENTIONS = 5000, 100, 500, 12
SEPARATOR = "|"
# A label of a list with commas, Latin or Chinese, or one in quotes, in which a quote is written twice.
LABEL = re.compile(r'\s*"(?:[^"]|"")+"\s*(?=[,，、]|$)|[^,，、]+')
# The two kinds of questions, as the page names them.
TYPING, RELATION = "One mention: its type", "A pair: its relation"
SLOTS = {TYPING: ("mention",), RELATION: ("head", "tail")}


class FormError(ValueError):
    """A field that cannot be used; the message is for the person who filled it in."""


@dataclass(frozen=True)
class UnreadableImage:
    """Instead of an image that is none.

    Attributes:
        reason: what went wrong.
    """

    reason: str


@dataclass(frozen=True)
class Fields:
    """The fields as they come.

    Attributes:
        text: the post.
        image: a PIL image, `None`, or [`UnreadableImage`].
        kind: `TYPING` or `RELATION`.
        numbers: start and end of the mention or the head, then of the tail; `None` where a field is empty.
        labels: see [`read_label_lines`].
        label_types: one relation a line, "label | types of the head | types of the tail", each with commas between.
        type_sentences: one type a line, as labels.
        image_text: words for the image, with or without one; a text on each line.
        mentions: of the whole post, with commas or line ends between them.
        typing_labels, relation_labels: of the whole post, written as labels.
    """

    text: str
    image: Any
    kind: str
    numbers: tuple[float | None, ...]
    labels: str
    label_types: str = ""
    type_sentences: str = ""
    image_text: str = ""
    mentions: str = ""
    typing_labels: str = ""
    relation_labels: str = ""


def read_fields(fields: Fields) -> dict[str, Any]:
    """Arguments of [`explain_post`] after model and processor.

    Raises:
        FormError: a field is missing or wrong.
    """
    post = _read_post(fields)
    if fields.kind not in SLOTS:
        raise FormError("Choose whether one mention or a pair is asked about.")
    spans = read_spans(post["text"], fields.kind, fields.numbers)
    labels, sentences = read_label_lines(fields.labels)
    arguments: dict[str, Any] = {
        "post": {**post, "mentions": [list(span) for span in spans]},
        "candidate_labels": labels,
        "label_descriptions": sentences,
    }
    if fields.kind == RELATION and (fields.label_types or "").strip():
        arguments["label_types"] = read_type_lines(fields.label_types)
        if (fields.type_sentences or "").strip():
            arguments["type_descriptions"] = read_label_lines(fields.type_sentences, "type")[1]
    return arguments


def read_whole_post(fields: Fields) -> dict[str, Any]:
    """Arguments of `model.extract` for one post: its mentions, and labels for types and relations.

    Raises:
        FormError: a field is missing or wrong.
    """
    post = _read_post(fields)
    mentions = read_label_lines(fields.mentions, "mention")[0]
    if len(mentions) > MAX_MENTIONS:
        raise FormError(f"There are {len(mentions)} mentions. At most {MAX_MENTIONS} are taken.")
    try:
        post["mentions"] = [list(check_span(post["text"], words, "mentions")) for words in mentions]
    except ValueError as error:
        raise FormError(f"The mentions cannot be used: {str(error).partition(': ')[2]}") from error
    types, sentences = read_label_lines(fields.typing_labels, "type")
    arguments: dict[str, Any] = {"posts": [post], "typing_labels": types, "label_descriptions": sentences}
    if (fields.relation_labels or "").strip():
        relations, more = read_label_lines(fields.relation_labels, "relation")
        arguments |= {"relation_labels": relations, "label_descriptions": sentences | more}
        allowed = read_type_lines(fields.label_types or "")
        if allowed := {label: allowed[label] for label in relations if label in allowed}:
            arguments |= {"label_types": allowed, "relation_constraints": allowed}
    return arguments


def _read_post(fields: Fields) -> dict[str, Any]:
    """Text, image and image text; `FormError` where one of them is missing or wrong."""
    text = fields.text or ""
    if not text.strip():
        raise FormError("There is no post yet. Type or paste one.")
    if len(text) > MAX_CHARACTERS:
        raise FormError(f"The post has {len(text):,} characters. At most {MAX_CHARACTERS:,} are taken.")
    if len(fields.image_text or "") > MAX_CHARACTERS:
        raise FormError(
            f"The image text has {len(fields.image_text):,} characters. At most {MAX_CHARACTERS:,} are taken."
        )
    if isinstance(fields.image, UnreadableImage):
        raise FormError("The image cannot be read. Take another one, such as a PNG, JPEG or WebP file, or none.")
    post: dict[str, Any] = {"text": text, "image": fields.image}
    if image_text := read_image_text((fields.image_text or "").splitlines()):
        post["image_text"] = image_text
    return post


def read_spans(text: str, kind: str, numbers: Sequence[float | None]) -> list[tuple[int, int]]:
    """One span, or head and tail.

    Args:
        text: the post.
        kind: `TYPING` or `RELATION`.
        numbers: start and end of each span, in characters, end exclusive.

    Raises:
        FormError: a span is missing, or wrong.
    """
    spans = []
    for slot, name in enumerate(SLOTS[kind]):
        start, end = numbers[2 * slot : 2 * slot + 2]
        if start is None and end is None:
            raise FormError(f"No {name} is marked. Select its words in the post, then press “Mark as {name}”.")
        if start is None or end is None:
            raise FormError(f"The {name} has no {'start' if start is None else 'end'}. Fill it in, or mark it anew.")
        if start != int(start) or end != int(end):
            raise FormError(f"Start and end of the {name} are whole numbers of characters, not {start:g} and {end:g}.")
        spans.append((int(start), int(end)))
        if not 0 <= spans[-1][0] < spans[-1][1] <= len(text):
            raise FormError(
                f"The {name} is said to go from character {spans[-1][0]} to {spans[-1][1]}, but the post has "
                f"{len(text)} characters. Mark it anew."
            )
        try:
            read_mentions([spans[-1]], text)
        except ValueError as error:
            raise FormError(f"The {name} cannot be used: {str(error).partition(': ')[2]}") from error
    return spans


def read_label_lines(lines: str, what: str = "label") -> tuple[list[str], dict[str, str | list[str]]]:
    """Labels and the sentences that are read in their place.

    Args:
        lines: labels with commas or line ends between them, `"in quotes"` where a label has a comma itself; or
            "label | sentence" on its own line, with "|" between several sentences. There a comma is a comma.
        what: how to call a label in messages.

    Returns:
        The labels; and for those with one sentence it, for those with several a list.

    Raises:
        FormError: there is no label, one stands twice, is too long, or a sentence stands twice.
    """
    labels: list[str] = []
    sentences: dict[str, str | list[str]] = {}
    for number, line in enumerate((lines or "").splitlines(), 1):
        if SEPARATOR in line:
            label, *rest = (part.strip() for part in line.split(SEPARATOR))
            if not label:
                raise FormError(f"Line {number} of the {what}s has nothing before “{SEPARATOR}”.")
            found, own = [_unquoted(label)], [sentence for sentence in rest if sentence]
            if len(set(own)) < len(own):
                raise FormError(f"The {what} “{found[0]}” has the same sentence twice.")
            if own:
                sentences[found[0]] = own[0] if len(own) == 1 else own
        else:
            found = [_unquoted(label) for label in LABEL.findall(line) if label.strip()]
        longest = max(map(len, [line] if SEPARATOR in line else found), default=0)
        if longest > MAX_LABEL_CHARACTERS:
            raise FormError(
                f"Line {number} of the {what}s has {longest:,} characters. At most {MAX_LABEL_CHARACTERS} are taken."
            )
        for label in found:
            if label in labels:
                raise FormError(f"The {what} “{label}” stands twice.")
            labels.append(label)
    if not labels:
        raise FormError(f"There is no {what} yet. Write some, with commas or line ends between them.")
    if len(labels) > MAX_LABELS:
        raise FormError(f"There are {len(labels)} {what}s. At most {MAX_LABELS} are taken.")
    return labels, sentences


def _unquoted(label: str) -> str:
    """A label without the quotes around it, with single ones for doubled ones inside."""
    label = label.strip()
    if len(label) > 2 and label[0] == label[-1] == '"':
        return label[1:-1].replace('""', '"').strip()
    return label


def read_type_lines(lines: str) -> dict[str, tuple[list[str], list[str]]]:
    """Types that head and tail of relations may have, "label | person, team | organization" a line.

    Raises:
        FormError: a line has not three parts, or one of them is empty.
    """
    types: dict[str, tuple[list[str], list[str]]] = {}
    for line in lines.splitlines():
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split(SEPARATOR)]
        slots = [[name.strip() for name in part.split(",") if name.strip()] for part in parts[1:]]
        if len(parts) != 3 or not parts[0] or not all(slots):
            raise FormError(
                f"Types are written “label | types of the head | types of the tail”, not “{line.strip()}”."
            )
        types[parts[0]] = (slots[0], slots[1])
    return types


def write_label_lines(labels: Sequence[str], sentences: dict[str, Any] | None = None) -> str:
    """The text that [`read_label_lines`] reads, a label a line."""
    lines = []
    for label in labels:
        own = (sentences or {}).get(label, [])
        if not own and (len(LABEL.findall(label)) > 1 or label != _unquoted(label)):
            label = '"' + label.replace('"', '""') + '"'
        lines.append(f" {SEPARATOR} ".join([label, *([own] if isinstance(own, str) else own)]))
    return "\n".join(lines)
