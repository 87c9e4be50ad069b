"""Where mentions are in a post: span checks, marker placement and windows, on plain strings and lists.

Nothing here knows a tokenizer or a tensor. A span is `(start, end)` in characters of the post, end exclusive.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

ZERO_WIDTH_JOINER = "\u200d"
# Characters shown of the post on each side of a wrong span, in messages.
CONTEXT = 12


@dataclass(frozen=True)
class Segment:
    """A stretch of the post between two markers.

    Attributes:
        text: Never empty, never white space only. White space it begins with is one space.
        joined: True if the character before it, across a marker, is not white space: it continues a word or
            follows punctuation, so a tokenizer must not put a word boundary in front of it.
        start: Place in the post of its first character that is not white space.
    """

    text: str
    joined: bool
    start: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Marker:
    """The place of one marker: mention 0 or 1, opening or closing."""

    mention: int
    opening: bool


def words_to_text(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Joins words with single spaces.

    Args:
        words: The words of one post.

    Returns:
        The text and every word's (start, end) in it, end exclusive.

    Raises:
        ValueError: If `words` is a plain string or holds something that is not a string.
    """
    if isinstance(words, str) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"words: a list of strings is needed (got {words!r:.80})")
    offsets, start = [], 0
    for word in words:
        offsets.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), offsets


def word_span_to_char_span(offsets: Sequence[tuple[int, int]], span: tuple[int, int]) -> tuple[int, int]:
    """Turns a span of words into a span of characters.

    Args:
        offsets: Every word's (start, end), as `words_to_text` gives them.
        span: (first word, last word + 1).

    Returns:
        (start, end) in characters, end exclusive.

    Raises:
        ValueError: If not 0 <= first < end <= number of words.
    """
    first, end = _pair_of_ints(span, "span")
    if not 0 <= first < end <= len(offsets):
        raise ValueError(f"span: 0 <= first < end <= {len(offsets)} words is needed (got {(first, end)})")
    return offsets[first][0], offsets[end - 1][1]


def _pair_of_ints(span: object, where: str) -> tuple[int, int]:
    pair = span.tolist() if hasattr(span, "tolist") else span
    if (
        not isinstance(pair, (list, tuple))
        or len(pair) != 2
        or not all(isinstance(place, Integral) and not isinstance(place, bool) for place in pair)
    ):
        raise ValueError(f"{where}: a span is two integers (start, end) (got {span!r})")
    return int(pair[0]), int(pair[1])


def read_mentions(mentions: object, text: str, where: str = "mentions") -> list[tuple[int, int]]:
    """Reads and checks the mentions of one post.

    Args:
        mentions: (start, end) or [(start, end)] for typing, [(start, end), (start, end)] for head and tail.
        text: The post.
        where: How to call the argument in messages.

    Returns:
        One checked span (typing) or two (head, tail).

    Raises:
        ValueError: If there are no or more than two spans, or a span is not two integers, lies outside of the
            text, has nothing visible in it or cuts a character in two.
    """
    spans = mentions.tolist() if hasattr(mentions, "tolist") else mentions
    if not isinstance(spans, (list, tuple)) or not spans:
        raise ValueError(f"{where}: one span (typing) or two (head, tail) are needed (got {mentions!r})")
    if not any(isinstance(span, (list, tuple)) or hasattr(span, "tolist") for span in spans):
        spans = [spans]
    if len(spans) > 2:
        raise ValueError(f"{where}: one span (typing) or two (head, tail) are needed (got {len(spans)})")
    names = [where] if len(spans) == 1 else [f"{where}, head", f"{where}, tail"]
    return [check_span(text, span, name) for name, span in zip(names, spans, strict=True)]


def read_batch(text: Any, mentions: Any, is_split_into_words: bool = False) -> tuple[list[str], list[Any]]:
    """Brings one post or a batch of posts to lists.

    Args:
        text: A post or a list of posts. With `is_split_into_words`, a list of words or a list of such lists.
        mentions: The mentions of the one post, or a list with those of each post.
        is_split_into_words: Whether posts are lists of words.

    Returns:
        The texts and, unread, the mentions of each; both as long as the batch.

    Raises:
        ValueError: If there is no post, mentions are missing, or there are not as many as posts.
    """
    inner = text[0] if is_split_into_words and isinstance(text, (list, tuple)) and text else text
    texts, spans = ([text], [mentions]) if isinstance(inner, str) else (text, mentions)
    if not isinstance(texts, (list, tuple)) or not texts:
        raise ValueError(f"text: a post or a non-empty list of posts is needed (got {text!r:.80})")
    if mentions is None:
        raise ValueError("mentions: every post needs one span (typing) or two (head, tail) (got None)")
    if hasattr(spans, "tolist"):
        spans = spans.tolist()
    if not isinstance(spans, (list, tuple)) or len(spans) != len(texts):
        number = len(spans) if isinstance(spans, (list, tuple)) else repr(spans)
        raise ValueError(f"mentions: {len(texts)} are needed, one entry for each text (got {number})")
    if is_split_into_words:
        texts = [words_to_text(words)[0] for words in texts]
    return list(texts), list(spans)


def check_unicode(text: str, where: str) -> None:
    """Refuses half of a surrogate pair, as JSON may hold it: it is no character, and no tokenizer or file takes it.

    Raises:
        ValueError: If there is one.
    """
    if re.search("[\ud800-\udfff]", text):
        raise ValueError(f"{where}: it holds half of a surrogate pair and is no valid text (got {text!a:.80})")


def check_span(text: str, span: object, where: str = "mentions") -> tuple[int, int]:
    """Checks one span; see `read_mentions` for the rules."""
    start, end = _pair_of_ints(span, where)
    if not 0 <= start < end <= len(text):
        raise ValueError(f"{where}: 0 <= start < end <= {len(text)} (text length) is needed (got {(start, end)})")
    around = f"{text[max(0, start - CONTEXT) : start]}[{text[start:end]:.60}]{text[end : end + CONTEXT]}"
    if all(char.isspace() or unicodedata.category(char) in ("Cc", "Cf") for char in text[start:end]):
        raise ValueError(f"{where}: span {(start, end)} covers only white space: {around!r}")
    for name, place in (("start", start), ("end", end)):
        if splits_character(text, place):
            raise ValueError(
                f"{where}: the {name} of span {(start, end)} cuts a character in two, between {text[place - 1]!a} "
                f"and {text[place]!a}: {around!r}"
            )
    return start, end


def splits_character(text: str, place: int) -> bool:
    """Tells whether a boundary before `text[place]` would cut what a reader sees as one character.

    Covers combining marks and variation selectors, emoji joined by U+200D, skin tones, flags (pairs of regional
    indicators, tag sequences) and conjoining Korean letters. It is not the whole of Unicode's UAX 29.
    """
    if not 0 < place < len(text) or text[place - 1].isspace():
        return False
    before, after = text[place - 1], text[place]
    if unicodedata.category(after) in ("Mn", "Mc", "Me") or after == ZERO_WIDTH_JOINER:
        return True
    if before == ZERO_WIDTH_JOINER:
        # Indic words may end in a joiner: it only holds on to a letter or symbol.
        return not after.isspace() and unicodedata.category(after)[0] not in "PCZ"
    if "\U0001f3fb" <= after <= "\U0001f3ff" or "\U000e0020" <= after <= "\U000e007f":
        return True
    if _is_regional_indicator(before) and _is_regional_indicator(after):
        first = place
        while first > 0 and _is_regional_indicator(text[first - 1]):
            first -= 1
        return (place - first) % 2 == 1
    return "\u1100" <= before <= "\u11ff" and "\u1160" <= after <= "\u11ff"


def _is_regional_indicator(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def name_mentions(
    text: str, spans: Sequence[tuple[int, int]]
) -> tuple[str, list[tuple[tuple[int, int], tuple[int, int]]]]:
    """Names the mentions before the post: "mention: post", "head and tail: post".

    Args:
        text: The post.
        spans: Checked spans (see `read_mentions`).

    Returns:
        The longer text, and for each mention its span in the part before the post and its span in the post.
    """
    before, named = "", []
    for number, (start, end) in enumerate(spans):
        before += " and " if number else ""
        name = " ".join(text[start:end].split())
        named.append((len(before), len(before) + len(name)))
        before += name
    before += ": "
    return before + text, [
        (own, (start + len(before), end + len(before))) for own, (start, end) in zip(named, spans, strict=True)
    ]


def origins_of_named(text: str, spans: Sequence[tuple[int, int]]) -> list[int | None]:
    """Says where the characters of `name_mentions` come from.

    Args:
        text: The post.
        spans: Checked spans.

    Returns:
        For each character of the longer text its place in the post; None for those that were put in.
    """
    origins: list[int | None] = []
    for number, (start, end) in enumerate(spans):
        origins += [None] * len(" and ") if number else []
        for count, word in enumerate(re.finditer(r"\S+", text[start:end])):
            origins += [None] if count else []  # the single space
            origins += range(start + word.start(), start + word.end())
    return [*origins, *[None] * len(": "), *range(len(text))]


def split_at_mentions(text: str, spans: Sequence[tuple[int, int]]) -> list[Segment | Marker]:
    """Cuts a post at its mentions' boundaries.

    White space before a boundary goes to the segment after it, so that a tokenizer which keeps the space with the
    word sees " York" and never a lone space. White space around the whole post is dropped. At one place closings
    come before openings and the head before the tail, as in the paper's reference implementation.

    Args:
        text: The post.
        spans: Checked spans (see `read_mentions`); they may nest, overlap, touch or be identical.

    Returns:
        Segments and markers in order: one opening and one closing marker for each span.
    """

    def pull_left(place: int) -> int:
        while place > 0 and text[place - 1].isspace():
            place -= 1
        return place

    places = [(pull_left(start), True, mention) for mention, (start, _) in enumerate(spans)]
    places += [(pull_left(end), False, mention) for mention, (_, end) in enumerate(spans)]
    pieces: list[Segment | Marker] = []
    done = 0
    for place, opening, mention in sorted(places):  # False sorts before True: closings first
        _append_segment(pieces, text, done, place)
        pieces.append(Marker(mention, opening))
        done = place
    _append_segment(pieces, text, done, pull_left(len(text)))
    return pieces


def _append_segment(pieces: list[Segment | Marker], text: str, start: int, end: int) -> None:
    words = text[start:end].lstrip()
    if not words:
        return
    spaced = text[start].isspace()
    first = end - len(words)
    if not text[:start].strip():  # start of the post: no word before it
        pieces.append(Segment(words, joined=False, start=first))
    else:
        pieces.append(Segment(" " + words if spaced else words, joined=not spaced, start=first))


def window(length: int, mentions: Sequence[tuple[int, int]], budget: int) -> list[int]:
    """Chooses the tokens that stay when a marked post is too long.

    Markers stay first; then tokens inside a mention, by their offset from its start; then context, by distance
    to the nearest mention, left before right.

    Args:
        length: Number of tokens of the post, markers included.
        mentions: For each mention the places of its opening and closing marker.
        budget: How many tokens may stay; at least the number of markers.

    Returns:
        The places of the kept tokens, ascending; all of them if `length <= budget`.

    Raises:
        ValueError: If `budget` cannot hold the markers.
    """
    markers = {place for mention in mentions for place in mention}
    if budget < len(markers):
        raise ValueError(f"budget: at least {len(markers)} tokens, the markers, are needed (got {budget})")
    if length <= budget:
        return list(range(length))

    def priority(place: int) -> tuple[int, int, bool, int]:
        if place in markers:
            return 0, 0, False, place
        offsets = [place - opening for opening, closing in mentions if opening < place < closing]
        if offsets:
            return 1, min(offsets), False, place
        distance, right = min(
            (opening - place, False) if place < opening else (place - closing, True) for opening, closing in mentions
        )
        return 2, distance, right, place

    return sorted(sorted(range(length), key=priority)[:budget])
