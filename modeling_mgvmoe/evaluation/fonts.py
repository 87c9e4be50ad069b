"""Text in pictures: installed fonts that have its characters, and words where no font has one.

matplotlib draws with one font unless it is given several, and a character that the font lacks becomes a box.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

BASE = "DejaVu Sans"  # comes with matplotlib
# Preferred where several fonts have a character: plain faces of many characters. The others follow by name.
PREFERRED = ("Noto Sans CJK", "Noto Sans", "Noto Emoji", "Symbola", "WenQuanYi")
# Fonts of boxes for every character, and fonts of bitmaps or layers, which matplotlib cannot draw.
EXCLUDED = ("last resort", "lastresort", "adobe blank", "color emoji", "colr")
# Debian's packages with the characters, by the first word of their Unicode name.
CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH")
CJK_PACKAGE, SYMBOL_PACKAGE, OTHER_PACKAGE = "fonts-noto-cjk", "fonts-symbola", "fonts-noto-core"
MOST_NAMED = 6


@dataclass(frozen=True)
class Glyphs:
    """What can be drawn.

    Attributes:
        families: names of fonts for matplotlib, in the order in which they are asked for a character.
        missing: visible characters that none of them has.
        dropped: invisible ones (joiners, variation selectors) that none of them has.
    """

    families: tuple[str, ...] = (BASE,)
    missing: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()

    def show(self, text: str) -> str:
        """The text as it is drawn: a character that no font has becomes its code point, ‹1F642›."""
        if not self.missing and not self.dropped:
            return text
        return "".join(
            "" if char in self.dropped else f"‹{ord(char):04X}›" if char in self.missing else char for char in text
        )

    @property
    def note(self) -> str:
        """One sentence that names missing characters and packages; empty if nothing is missing."""
        if not self.missing:
            return ""
        codes = [f"U+{ord(char):04X}" for char in sorted(self.missing)]
        more = f" and {len(codes) - MOST_NAMED} more" if len(codes) > MOST_NAMED else ""
        packages = sorted({_package(char) for char in self.missing})
        return (
            f"No installed font has {', '.join(codes[:MOST_NAMED])}{more}: shown as ‹code point›. "
            f"Debian has them in {', '.join(packages)}."
        )


@contextmanager
def drawable(texts: Iterable[str]) -> Iterator[Glyphs]:
    """A context in which matplotlib draws these texts, with all fonts that they need and without reading formulas.

    Args:
        texts: everything that is drawn and not ours.

    Yields:
        [`Glyphs`], whose `show` every text goes through.
    """
    import matplotlib

    glyphs = find_glyphs(frozenset("".join(texts)))
    with matplotlib.rc_context({"font.family": list(glyphs.families), "text.parse_math": False}):
        yield glyphs


def find_glyphs(characters: frozenset[str]) -> Glyphs:
    """The installed fonts that have these characters, as few as a search in order of preference finds."""
    from matplotlib import font_manager

    # Bold text is drawn with the bold file, which has fewer characters.
    files = [
        font_manager.findfont(font_manager.FontProperties(family=[BASE], weight=own)) for own in ("normal", "bold")
    ]
    needed = {char for char in characters if char != "\n" and not all(_has(file, char) for file in files)}
    families = [BASE]
    for family, file in _installed() if needed else ():
        found = {char for char in needed if _has(file, char)}
        if found:
            families.append(family)
            needed -= found
        if not needed:
            break
    dropped = frozenset(char for char in needed if _is_invisible(char))
    return Glyphs(tuple(families), frozenset(needed) - dropped, dropped)


@lru_cache(maxsize=1)
def _installed() -> tuple[tuple[str, str], ...]:
    """Family and file of the upright fonts of normal weight, the preferred first."""
    from matplotlib import font_manager

    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for file in font_manager.findSystemFonts():
        if file not in known:  # installed after matplotlib wrote its list
            try:
                font_manager.fontManager.addfont(file)
            except (OSError, RuntimeError):  # no font that FreeType reads
                continue
    fonts = {
        entry.name: entry.fname
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal"
        and entry.weight in (400, "normal", "regular", "medium", "book")
        and not any(word in f"{entry.name} {entry.fname}".lower() for word in EXCLUDED)
    }

    def rank(font: tuple[str, str]) -> tuple[int, str]:
        places = [place for place, start in enumerate(PREFERRED) if font[0].startswith(start)]
        return min(places, default=len(PREFERRED)), font[0]

    return tuple(sorted(fonts.items(), key=rank))


@cache
def _font(file: str) -> Any:
    """The opened font; `None` if it cannot be opened or holds bitmaps of fixed sizes only."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
    except (OSError, RuntimeError):
        return None
    return font if font.scalable else None


def _has(file: str, char: str) -> bool:
    font = _font(file)
    return font is not None and font.get_char_index(ord(char)) != 0


def _is_invisible(char: str) -> bool:
    return unicodedata.category(char) in ("Cf", "Cc") or "VARIATION SELECTOR" in unicodedata.name(char, "")


def _package(char: str) -> str:
    name = unicodedata.name(char, "")
    if name.split(" ")[0].split("-")[0] in CJK:
        return CJK_PACKAGE
    return SYMBOL_PACKAGE if unicodedata.category(char) in ("So", "Sk", "Sm") else OTHER_PACKAGE


def widened(width: int, text: str) -> int:
    """How many characters of `text` take the room of `width` Latin ones: Chinese ones are twice as wide."""
    columns = sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
    return max(1, width * len(text) // columns) if columns else width
