"""Text as plain token ids: no special tokens around it, none forged inside it, no invented word beginnings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .spans import Segment

# How sentencepiece and byte-level BPE write "a new word begins here".
WORD_SIGNS = ("\u2581", "\u0120")
# A token's id and the (start, end) of its characters.
Token = tuple[int, tuple[int, int]]


@dataclass(frozen=True)
class TokenizerRules:
    """What is learnt about a tokenizer by trying it.

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
    """As `encode_segments`, and each token's (start, end) in the post that the segments were cut from."""
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
