"""Character spans of mentions: how users give them, the one rule that they must meet, marker placement and windows.

Nothing here knows a tokenizer. A span is `(start, end)` in characters of the post, end exclusive.
"""

import difflib
import operator
import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

# Columns by which a post gives its mentions, those that predictions are made from, and others that say nothing.
MENTION_COLUMNS = ("mention", "head", "tail", "mentions")
POST_COLUMNS = ("text", "image", "image_text", *MENTION_COLUMNS, "candidate_labels", "id", "label", "source")
# How much alike an unknown name and a known one are where the known one is suggested.
LIKENESS = 0.6
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
    listed = as_list(words)
    if listed is None or not all(isinstance(word, str) for word in listed):
        raise ValueError(f"words: a list of strings is needed (got {words!r:.80})")
    offsets, start = [], 0
    for word in listed:
        offsets.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(listed), offsets


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


def as_list(values: object) -> list[Any] | None:
    """The elements of any sequence: a list, tuple, array, tensor, Series or column of a dataset.

    Returns:
        A list; None for what is no sequence: a string, bytes, a mapping, a number, a 0-d array.
    """
    if isinstance(values, (str, bytes, bytearray, Mapping)):
        return None
    if hasattr(values, "tolist"):
        values = values.tolist()
        return values if isinstance(values, list) else None
    return list(values) if isinstance(values, Sequence) else None


def is_absent(value: object) -> bool:
    """Whether a column of a row holds nothing: None, NaN or pandas' NA (a table's gap), or an empty string."""
    if isinstance(value, Real):
        return bool(value != value)
    return value is None or (isinstance(value, str) and not value) or type(value).__name__ == "NAType"


def list_mentions(mentions: object, where: str = "mentions") -> list[Any]:
    """Tells one span from a list of spans, without the text.

    Args:
        mentions: A span, or a list of spans, as `check_span` takes them.
        where: How to call the argument in messages.

    Returns:
        The spans, unread: one (typing) or two (head, tail).

    Raises:
        ValueError: If there are neither one nor two.
    """
    spans = [mentions] if isinstance(mentions, (str, Mapping)) else as_list(mentions)
    if not spans:
        raise ValueError(f"{where}: one span (typing) or two (head, tail) are needed (got {mentions!r:.80})")
    # Two integers are one span, whatever their kind; what holds a pair, a dict or a string is a list of spans.
    if not any(isinstance(span, (str, Mapping)) or as_list(span) is not None for span in spans):
        spans = [mentions]
    if len(spans) > 2:
        raise ValueError(f"{where}: one span (typing) or two (head, tail) are needed (got {len(spans)})")
    return spans


def read_mentions(mentions: object, text: str, where: str = "mentions") -> list[tuple[int, int]]:
    """Reads and checks the mentions of one post.

    Args:
        mentions: A span for typing, a list of two spans for head and tail; see `check_span`.
        text: The post.
        where: How to call the argument in messages.

    Returns:
        One checked span (typing) or two (head, tail).

    Raises:
        ValueError: If there are no or more than two spans, or a span breaks the rule of `check_span`.
    """
    spans = list_mentions(mentions, where)
    names = [where] if len(spans) == 1 else [f"{where}, head", f"{where}, tail"]
    return [check_span(text, span, name) for name, span in zip(names, spans, strict=True)]


def mentions_of(post: object, columns: Iterable[str] = POST_COLUMNS) -> Any:
    """The mentions of a post given as columns, unread.

    Args:
        post: A mapping with `text`, and `mention`, or `head` and `tail`, or `mentions`.
        columns: All columns that are known. Others are ignored, with one warning.

    Returns:
        What `read_mentions` reads.

    Raises:
        ValueError: If it is no mapping, has no text, or not exactly one of these; the message names the column.
    """
    if not isinstance(post, Mapping):
        raise ValueError(
            "inputs: each post must be a dict with 'text' and 'mention', or 'text', 'head' and 'tail' "
            f"(got {type(post).__name__}: {post!r:.80})"
        )
    unknown = warn_of_columns(post, columns)
    hint = f"; unknown columns: {', '.join(unknown)}" if unknown else ""
    if post.get("text") is None:
        raise ValueError(f"inputs: a post needs 'text' (got none{hint})")
    given = [name for name in MENTION_COLUMNS if not is_absent(post.get(name))]
    if given == ["head", "tail"]:
        return [post["head"], post["tail"]]
    if given not in (["mention"], ["mentions"]):
        raise ValueError(f"inputs: a post needs either 'mention', or 'head' and 'tail' (got {given or 'none'}{hint})")
    return post[given[0]]


_warned_columns: set[frozenset[str]] = set()


def warn_of_columns(names: Iterable[object], known: Iterable[str]) -> list[str]:
    """Warns, once in a process for each set of them, of columns that are ignored.

    Args:
        names: The columns of a post or a file.
        known: Those that are read, or known to say nothing.

    Returns:
        The unknown ones, sorted.
    """
    known = tuple(known)
    unknown = sorted(str(name) for name in names if name not in known)
    if unknown and (key := frozenset(unknown)) not in _warned_columns:
        _warned_columns.add(key)
        shown = []
        for name in unknown:
            near = difflib.get_close_matches(name, known, n=1, cutoff=LIKENESS)
            shown.append(f"{name!r} (did you mean {near[0]!r}?)" if near else repr(name))
        warnings.warn(f"columns that are not read: {', '.join(shown)}; known: {', '.join(known)}", stacklevel=3)
    return unknown


def read_batch(text: Any, mentions: Any, is_split_into_words: bool = False) -> tuple[list[str], list[Any]]:
    """Brings one post or a batch of posts to lists.

    Args:
        text: A post or a sequence of posts. With `is_split_into_words`, words or a sequence of such sequences.
        mentions: The mentions of the one post, or a sequence with those of each post.
        is_split_into_words: Whether posts are lists of words.

    Returns:
        The texts and, unread, the mentions of each; both as long as the batch.

    Raises:
        ValueError: If there is no post, mentions are missing, or there are not as many as posts.
    """
    texts = as_list(text)
    single = isinstance(text, str) or bool(is_split_into_words and texts and isinstance(texts[0], str))
    texts = [text] if single else texts
    if not texts:
        raise ValueError(f"text: a post or a non-empty list of posts is needed (got {text!r:.80})")
    if mentions is None:
        raise ValueError("mentions: every post needs one span (typing) or two (head, tail) (got None)")
    spans = [mentions] if single else as_list(mentions)
    if spans is None or len(spans) != len(texts):
        number = repr(mentions) if spans is None else len(spans)
        raise ValueError(f"mentions: {len(texts)} are needed, one entry for each text (got {number})")
    if is_split_into_words:
        texts = [words_to_text(words)[0] for words in texts]
    return texts, spans


def read_image_text(image_text: object, where: str = "image_text") -> list[str]:
    """The words for a post's image: a caption, alternative text, what is written in it.

    Args:
        image_text: A string, a list of strings, or nothing: None, NaN, an empty string, white space, a list of these.
        where: How to call the argument in messages.

    Returns:
        The distinct texts, without white space around, in their order; none for nothing.

    Raises:
        ValueError: If it is something else, or no valid text.
    """
    texts = [image_text] if is_absent(image_text) or isinstance(image_text, str) else as_list(image_text)
    if texts is None or not all(is_absent(one) or isinstance(one, str) for one in texts):
        raise ValueError(f"{where}: a string or a list of strings is needed (got {image_text!r:.80})")
    found = list(dict.fromkeys(one.strip() for one in texts if isinstance(one, str) and one.strip()))
    for one in found:
        check_unicode(one, where)
    return found


def join_image_texts(texts: Sequence[str]) -> str:
    """Several texts of an image as one, with ". " between them where a text does not end a sentence itself."""
    ended = [text if text.endswith((".", "!", "?", "\u2026")) else f"{text}." for text in texts[:-1]]
    return " ".join([*ended, *texts[-1:]])


def check_unicode(text: str, where: str) -> None:
    """Refuses half of a surrogate pair, as JSON may hold it: it is no character, and no tokenizer or file takes it.

    Raises:
        ValueError: If there is one.
    """
    if re.search("[\ud800-\udfff]", text):
        raise ValueError(f"{where}: it holds half of a surrogate pair and is no valid text (got {text!a:.80})")


def check_span(text: str, span: object, where: str = "mentions") -> tuple[int, int]:
    """Reads one span and checks it: the one rule, for prediction, extraction and training data alike.

    A span lies within the text and covers something visible. It may begin or end inside what a reader sees as one
    character, as annotations of public data do: markers are then placed around the whole of it (`whole_characters`).

    Args:
        text: The post.
        span: (start, end): a list, tuple, array or tensor of two integers of any kind; a dict with "start" and "end";
            or the words of the mention, which must occur exactly once.
        where: How to call the span in messages.

    Returns:
        (start, end), as given.

    Raises:
        ValueError: If it is none of these or breaks the rule; the message names the rule and the value.
    """
    if isinstance(span, str):
        return _span_of_words(text, span, where)
    if isinstance(span, Mapping):
        if span.get("start") is None or span.get("end") is None:
            raise ValueError(f"{where}: 'start' and 'end' are needed (got {dict(span)!r:.80})")
        span = (span["start"], span["end"])
    start, end = _pair_of_ints(span, where)
    if not 0 <= start < end <= len(text):
        raise ValueError(f"{where}: 0 <= start < end <= {len(text)} (text length) is needed (got {(start, end)})")
    if not covers_something(text[start:end]):
        around = f"{text[max(0, start - CONTEXT) : start]}[{text[start:end]:.60}]{text[end : end + CONTEXT]}"
        raise ValueError(f"{where}: span {(start, end)} covers only white space: {around!r}")
    return start, end


def pair_key(text: str, spans: Sequence[Sequence[int]]) -> tuple[str, frozenset[Any]] | None:
    """What the two directions of a pair have in common; `None` for a post with one mention."""
    return (text, frozenset(map(tuple, spans))) if len(spans) == 2 else None


def covers_something(text: str) -> bool:
    """Whether any of it is visible."""
    return not all(char.isspace() or unicodedata.category(char) in ("Cc", "Cf") for char in text)


def places_of(words: str, text: str) -> list[int]:
    """Where words begin in a text, overlapping occurrences included.

    Raises:
        ValueError: If there are no words.
    """
    if not words.strip():
        raise ValueError(f"the words of a mention are needed (got {words!r})")
    return [match.start() for match in re.finditer(f"(?={re.escape(words)})", text)]


def _span_of_words(text: str, words: str, where: str) -> tuple[int, int]:
    try:
        places = places_of(words, text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if len(places) != 1:
        raise ValueError(
            f"{where}: the words {words!r:.80} must occur once in the text (got {len(places)} times"
            + (f", at {', '.join(map(str, places[:9]))}; give (start, end)" if places else "")
            + f", in {text!r:.100})"
        )
    return check_span(text, (places[0], places[0] + len(words)), where)


def _pair_of_ints(span: object, where: str) -> tuple[int, int]:
    pair = as_list(span)
    places = [_as_int(place) for place in pair or ()]
    if len(places) != 2 or places[0] is None or places[1] is None:
        raise ValueError(f"{where}: a span is two integers (start, end) (got {span!r:.80})")
    return places[0], places[1]


def _as_int(place: Any) -> int | None:
    """An integer of Python or NumPy, or a 0-d array or tensor of one; None for what is none, bool among them."""
    if isinstance(place, bool) or "bool" in str(getattr(place, "dtype", "")) or getattr(place, "ndim", None):
        return None
    try:
        return operator.index(place)
    except TypeError:
        return None


def whole_characters(text: str, span: tuple[int, int]) -> tuple[int, int]:
    """Moves the bounds of a checked span outwards until neither cuts a character in two (`splits_character`)."""
    start, end = span
    while splits_character(text, start):
        start -= 1
    while splits_character(text, end):
        end += 1
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


# Text as plain token ids: no special tokens around it, none forged inside it, no invented word beginnings.

# How sentencepiece and byte-level BPE write "a new word begins here".
WORD_SIGNS = ("\u2581", "\u0120")
# A token's id and the (start, end) of its characters.
Token = tuple[int, tuple[int, int]]


@dataclass(frozen=True)
class TokenizerRules:
    """Properties of a tokenizer, found by trying it.

    Attributes:
        prefix_ids: Token ids it puts before a text.
        suffix_ids: Token ids it puts after a text.
        word_sign: The sign it puts in front of every text, even in the middle of a word; "" if it does not.
        reserved_ids: Special tokens and markers, which a text must never contain.
    """

    prefix_ids: list[int]
    suffix_ids: list[int]
    word_sign: str
    reserved_ids: frozenset[int]

    @property
    def number_around(self) -> int:
        """Number of tokens the tokenizer puts around a text."""
        return len(self.prefix_ids) + len(self.suffix_ids)


def token_id(tokenizer: Any, token: str) -> int | None:
    """Returns the id of a token of the vocabulary; None if it is not in there or is the unknown token."""
    found = tokenizer.convert_tokens_to_ids(token)
    return None if found is None or found == tokenizer.unk_token_id else found


def study_tokenizer(tokenizer: Any, markers: Sequence[str]) -> TokenizerRules:
    """Learns the rules of a fast tokenizer.

    Args:
        tokenizer: The tokenizer.
        markers: Tokens of its vocabulary to reserve besides the special tokens.

    Returns:
        The rules.

    Raises:
        ValueError: If the tokenizer makes no token of the letter "a".
    """
    sample = _call(tokenizer, "a", return_special_tokens_mask=True)
    ids = list(sample["input_ids"])
    inside = [place for place, special in enumerate(sample["special_tokens_mask"]) if not special]
    if not inside:
        raise ValueError("tokenizer: it makes no token of the text 'a', so it cannot be used")
    first = tokenizer.convert_ids_to_tokens(ids[inside[0]])
    reserved = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    reserved |= set(tokenizer.all_special_ids) | set(tokenizer.convert_tokens_to_ids(list(markers)))
    return TokenizerRules(
        prefix_ids=ids[: inside[0]],
        suffix_ids=ids[inside[-1] + 1 :],
        word_sign=first[0] if first.startswith(WORD_SIGNS) else "",
        reserved_ids=frozenset(reserved - {tokenizer.unk_token_id}),
    )


def _call(tokenizer: Any, text: Any, **kwargs: Any) -> Any:
    """Calls a tokenizer; what its library throws, no `Exception` even where it panics, becomes a ValueError."""
    try:
        return tokenizer(text, **kwargs)
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"tokenizer: it cannot read {text!r:.100}: {error}") from error


def encode_segments(tokenizer: Any, rules: TokenizerRules, segments: Sequence[Segment]) -> list[list[int]]:
    """Tokenizes segments of posts, or labels, in one call.

    Args:
        tokenizer: A fast tokenizer.
        rules: Its rules.
        segments: The texts.

    Returns:
        The token ids of each, without special tokens around and with no reserved token inside.
    """
    return [[number for number, _ in tokens] for tokens in encode_with_places(tokenizer, rules, segments)]


def encode_with_places(tokenizer: Any, rules: TokenizerRules, segments: Sequence[Segment]) -> list[list[Token]]:
    """`encode_segments`, with each token's (start, end) in the post that the segments were cut from."""
    if not segments:
        return []
    # A tokenizer that begins every text with a word sign would make a second one of a leading space.
    texts = [segment.text.lstrip() if rules.word_sign else segment.text for segment in segments]
    encoded = _call(
        tokenizer,
        texts,
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    found = []
    for segment, text, ids, offsets in zip(
        segments, texts, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        tokens: list[Token] = list(zip(ids, offsets, strict=True))
        if not rules.reserved_ids.isdisjoint(ids):
            tokens = _spell_reserved(tokenizer, rules, text, tokens)
        if segment.joined:
            tokens = _without_word_sign(tokenizer, rules, tokens)
        shift = segment.start - (len(text) - len(text.lstrip()))
        # A byte-level token may begin with the space before its word.
        found.append([
            (number, (max(start + shift, segment.start), max(end + shift, segment.start)))
            for number, (start, end) in tokens
        ])  # fmt: skip
    return found


def _spell_reserved(tokenizer: Any, rules: TokenizerRules, text: str, tokens: Sequence[Token]) -> list[Token]:
    """Spells out, character by character, the places where a text happens to read like a reserved token.

    `split_special_tokens` alone is not enough: added tokens that are not marked "special" still match, and the
    vocabulary of a sentencepiece model can itself hold "[SEP]".
    """
    spelled: list[Token] = []
    for token, (start, end) in tokens:
        if token not in rules.reserved_ids:
            spelled.append((token, (start, end)))
            continue
        written = text[start:end]
        for place, char in enumerate(written.strip(), start + len(written) - len(written.lstrip())):
            letter = _call(tokenizer, char, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            pairs = [(number, (place, place + 1)) for number in letter]
            kept = [pair for pair in _without_word_sign(tokenizer, rules, pairs) if pair[0] not in rules.reserved_ids]
            if not kept and tokenizer.unk_token_id is not None:
                kept = [(tokenizer.unk_token_id, (place, place + 1))]
            spelled += kept
    return spelled


def _without_word_sign(tokenizer: Any, rules: TokenizerRules, tokens: Sequence[Token]) -> list[Token]:
    """Takes back the word sign that the tokenizer put in front of a text that does not begin a word."""
    tokens = list(tokens)
    if not tokens or not rules.word_sign:
        return tokens
    (number, span), *rest = tokens
    first = tokenizer.convert_ids_to_tokens(number)
    if first == rules.word_sign:
        return rest
    if not first.startswith(rules.word_sign):
        return tokens
    bare = token_id(tokenizer, first[1:])
    return tokens if bare is None or bare in rules.reserved_ids else [(bare, span), *rest]
