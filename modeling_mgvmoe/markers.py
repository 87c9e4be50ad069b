"""The tokens that mark mentions: which ones, and that the tokenizer has them."""

from collections.abc import Sequence
from typing import Any

from .plain_tokens import token_id

UNUSED_MARKERS = ("[unused1]", "[unused2]", "[unused3]", "[unused4]")
ADDED_MARKERS = ("<m1>", "<m2>", "<m3>", "<m4>")


def choose_markers(
    tokenizer: Any, typing: Sequence[str] | None, relation: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Those that were asked for, or else the paper's; `ADDED_MARKERS` are added where the vocabulary has not these.

    Args:
        tokenizer: A fast tokenizer.
        typing: [open, close], or None.
        relation: [head open, head close, tail open, tail close], or None.

    Returns:
        Both, as tokens of the vocabulary.

    Raises:
        ValueError: If a marker is not in the vocabulary or markers are not distinct.
    """
    first: tuple[str, ...] = UNUSED_MARKERS
    wanted = typing is None or relation is None
    if wanted and any(token_id(tokenizer, token) is None for token in UNUSED_MARKERS):
        first = ADDED_MARKERS
        tokenizer.add_special_tokens({"extra_special_tokens": list(ADDED_MARKERS)}, replace_extra_special_tokens=False)
    typing = first[:2] if typing is None else typing
    relation = (first[0], first[2], first[1], first[3]) if relation is None else relation
    for name, markers, number in (("typing_markers", typing, 2), ("relation_markers", relation, 4)):
        if isinstance(markers, str) or len(markers) != number or len(set(markers)) != number:
            raise ValueError(f"{name}: {number} distinct tokens are needed (got {markers!r})")
        missing = [token for token in markers if token_id(tokenizer, token) is None]
        if missing:
            raise ValueError(f"{name}: the tokenizer's vocabulary has no {', '.join(map(repr, missing))}")
    return list(typing), list(relation)
