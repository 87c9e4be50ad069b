"""Token ids of one post: what its marked or named text is cut into, and what the cut text's tokens become."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .padding import MENTION_MASK
from .plain_tokens import Token, TokenizerRules
from .spans import Marker, Segment, name_mentions, origins_of_named, split_at_mentions, window

# Of tokens that stand for no character of the post, as the tokenizers have it.
NOWHERE = (0, 0)


class NoTokenError(ValueError):
    """The tokenizer makes no token of a mention, which depends on its vocabulary and not on the post alone."""


@dataclass(frozen=True)
class PostEncoding:
    """A post on its way to its features, before and after the tokenizer.

    Attributes:
        text: the post.
        spans: one or two mentions, characters of the text.
        rules: of the tokenizer.
        markers: ids of the tokens around the mentions, opening and closing in turn; `None`: mentions are named before
            the post instead.
        limit: most tokens, those around the text included.
        number: "[3]" for the fourth post of a batch, for messages.

    Raises:
        ValueError: `limit` cannot hold the special tokens, the markers or names, and one token.
    """

    text: str
    spans: Sequence[tuple[int, int]]
    rules: TokenizerRules
    markers: Sequence[int] | None
    limit: int
    number: str = ""

    def __post_init__(self) -> None:
        if self.markers is None:
            needed, what = 4 * len(self.spans), "the mentions, named before the post and in it"
        else:
            needed, what = len(self.markers) + 1, "markers and one token"
        around = self.rules.number_around
        if self.limit - around < needed:
            join = " and" if self.markers is None else ","
            raise ValueError(
                f"max_length: at least {around + needed} is needed for special tokens{join} {what} (got {self.limit})"
            )

    @cached_property  # asked for before and after the tokenizer
    def pieces(self) -> list[Segment | Marker]:
        """The text between the borders of the mentions, and these."""
        if self.markers is not None:
            return split_at_mentions(self.text, self.spans)
        named, spans_of = name_mentions(self.text, self.spans)
        return split_at_mentions(named, [span for both in spans_of for span in both])

    def segments(self) -> list[Segment]:
        """What the tokenizer is to read."""
        return [piece for piece in self.pieces if isinstance(piece, Segment)]

    def finish(self, encoded: Sequence[Sequence[Token]], return_offsets_mapping: bool = False) -> dict[str, Any]:
        """The features of the post; see `MGVMoEProcessor.encode_post`.

        Args:
            encoded: the tokens of each of the [`segments`].
            return_offsets_mapping: whether offset_mapping is among them.

        Raises:
            NoTokenError: the tokenizer made no token of a mention.
        """
        if self.markers is None:
            return self._finish_named(iter(encoded), return_offsets_mapping)
        return self._finish_marked(iter(encoded), self.markers, return_offsets_mapping)

    def _finish_marked(
        self, encoded: Iterator[Sequence[Token]], markers: Sequence[int], return_offsets_mapping: bool
    ) -> dict[str, Any]:
        tokens: list[Token] = []
        places: dict[Marker, int] = {}
        for piece in self.pieces:
            if isinstance(piece, Segment):
                tokens += next(encoded)
            else:
                places[piece] = len(tokens)
                tokens.append((markers[2 * piece.mention + (not piece.opening)], NOWHERE))
        bounds = [(places[Marker(own, True)], places[Marker(own, False)]) for own in range(len(self.spans))]
        kept = window(len(tokens), bounds, self.limit - self.rules.number_around)
        features = self._with_tokens_around([tokens[place] for place in kept], return_offsets_mapping)
        positions = [len(self.rules.prefix_ids) + kept.index(opening) for opening, _ in bounds]
        return {**features, "mention_positions": positions}

    def _finish_named(self, encoded: Iterator[Sequence[Token]], return_offsets_mapping: bool) -> dict[str, Any]:
        """No marker stays, but what stood between two is known."""
        tokens: list[Token | None] = []  # None: a boundary, which is not kept
        found: dict[Marker, int] = {}
        for piece in self.pieces:
            if isinstance(piece, Segment):
                tokens += next(encoded)
            else:
                found[piece] = len(tokens)
                tokens.append(None)
        bounds = [(found[Marker(own, True)], found[Marker(own, False)]) for own in range(2 * len(self.spans))]
        room = self.limit - self.rules.number_around
        kept = [place for place in window(len(tokens), bounds, room + 2 * len(bounds)) if tokens[place] is not None]
        first = len(self.rules.prefix_ids)
        origins = origins_of_named(self.text, self.spans) if return_offsets_mapping else []
        features = self._with_tokens_around(
            [
                (token[0], _origin(origins[slice(*token[1])]) if return_offsets_mapping else NOWHERE)
                for token in map(tokens.__getitem__, kept)
                if token is not None
            ],
            return_offsets_mapping,
        )
        mask, positions = [], []
        for number, span in enumerate(self.spans):
            own = [bounds[2 * number], bounds[2 * number + 1]]
            inside = [any(start < place < end for start, end in own) for place in kept]
            in_post = [place for place in kept if own[1][0] < place < own[1][1]]
            if not in_post:
                mention = self.text[slice(*span)]
                raise NoTokenError(
                    f"mentions{self.number}: the tokenizer makes no token of the mention {mention!r:.80}"
                )
            mask.append([False] * first + inside + [False] * len(self.rules.suffix_ids))
            positions.append(first + kept.index(in_post[0]))
        return {**features, "mention_positions": positions, MENTION_MASK: mask}

    def _with_tokens_around(self, tokens: Sequence[Token], return_offsets_mapping: bool) -> dict[str, Any]:
        """Ids, mask and, if asked for, places of the tokens of a post and of the special ones around them."""
        before, after = self.rules.prefix_ids, self.rules.suffix_ids
        input_ids = [*before, *(number for number, _ in tokens), *after]
        features: dict[str, Any] = {"input_ids": input_ids, "attention_mask": [1] * len(input_ids)}
        if return_offsets_mapping:
            places = [place for _, place in tokens]
            features["offset_mapping"] = [*[NOWHERE] * len(before), *places, *[NOWHERE] * len(after)]
        return features


def _origin(places: Sequence[int | None]) -> tuple[int, int]:
    """The stretch of the post that characters come from; [`NOWHERE`] if all of them were put in."""
    known = [place for place in places if place is not None]
    return (min(known), max(known) + 1) if known else NOWHERE


__all__ = ["NOWHERE", "NoTokenError", "PostEncoding"]
