"""One post from flags: its text, its picture, and mentions given as characters or as words."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..spans import places_of, read_mentions
from .errors import UsageError

SLOTS = {"mention": "the mention to be typed", "head": "the head of a relation", "tail": "its tail"}


def add_post_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of one post."""
    group = parser.add_argument_group("one post")
    group.add_argument("--text", help="of the post")
    for slot, what in SLOTS.items():
        group.add_argument(
            f"--{slot}",
            nargs=2,
            type=int,
            metavar=("START", "END"),
            help=f"{what}, in characters of the text, the end exclusive",
        )
        group.add_argument(f"--{slot}-text", metavar="WORDS", help=f"{what}, as it is written there")
        group.add_argument(
            f"--{slot}-index",
            type=int,
            metavar="N",
            help="which one, from 1, where the words occur several times",
        )
    group.add_argument("--image", help="path or URL of the picture")


def post_from_flags(flags: argparse.Namespace) -> dict[str, Any]:
    """The post that the flags describe, as the pipeline takes it.

    Raises:
        UsageError: a flag is missing or does not fit the text.
    """
    if not flags.text or not flags.text.strip():
        raise UsageError(f"--text: a post with words in it is needed, got {flags.text!r}")
    spans = {slot: _span(flags, slot) for slot in SLOTS}
    given = [slot for slot, span in spans.items() if span is not None]
    if given not in (["mention"], ["head", "tail"]):
        raise UsageError(
            f"--mention, or --head and --tail, must be given (or the same with -text), got {given or 'none'}"
        )
    for slot in given:
        try:
            read_mentions(spans[slot], flags.text, f"--{slot}")
        except ValueError as error:
            raise UsageError(str(error)) from error
    check_image(flags.image, "--image")
    return {"text": flags.text, **{slot: spans[slot] for slot in given}, "image": flags.image}


def check_image(image: Any, where: str) -> None:
    """Refuse a path where no file is; a URL is only known to be there when it is read."""
    if isinstance(image, str) and not image.startswith(("http://", "https://", "data:")) and not os.path.isfile(image):
        raise UsageError(f"{where}: the file {image!r:.300} does not exist")


def _span(flags: argparse.Namespace, slot: str) -> tuple[int, int] | None:
    """The characters of a mention, or `None` where it is not given."""
    span, words, index = (getattr(flags, name) for name in (slot, f"{slot}_text", f"{slot}_index"))
    if span is not None and words is not None:
        raise UsageError(f"--{slot} and --{slot}-text exclude each other, got both")
    if words is None:
        if index is not None:
            raise UsageError(f"--{slot}-index goes with --{slot}-text, got {index} without")
        return None if span is None else (span[0], span[1])
    start = _place_of(words, flags.text, index, slot)
    return start, start + len(words)


def _place_of(words: str, text: str, index: int | None, slot: str) -> int:
    """Where the words begin in the text."""
    try:
        places = places_of(words, text)
    except ValueError as error:
        raise UsageError(f"--{slot}-text: {error}") from error
    if not places:
        folded = text.casefold().find(words.casefold())
        # Folding may change a text's length ("ß"): then nothing is suggested.
        near = text[folded : folded + len(words)] if folded >= 0 and len(text.casefold()) == len(text) else ""
        hint = f"; did you mean {near!r}?" if near else ""
        raise UsageError(f"--{slot}-text: {words!r} does not occur in the text{hint}")
    if index is None and len(places) > 1:
        raise UsageError(
            f"--{slot}-text: {words!r} occurs {len(places)} times in the text, at {', '.join(map(str, places[:9]))}; "
            f"--{slot}-index 1 to {len(places)} says which"
        )
    if index is not None and not 1 <= index <= len(places):
        raise UsageError(f"--{slot}-index must be from 1 to {len(places)}, as often as {words!r} occurs, got {index}")
    return places[(index or 1) - 1]
