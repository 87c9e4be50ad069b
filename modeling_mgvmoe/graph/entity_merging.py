"""Which mentions are of one entity: those whose normalised names are the same."""

from __future__ import annotations

import re
import unicodedata

from ..data.schema import check_choice

# What mentions must share to be of one entity.
MERGING = ("name", "name_and_type")
POSSESSIVE = re.compile(r"['’]s?$")


def normalised_name(mention: str) -> str:
    """The form of a name by which mentions are compared.

    In this order: Unicode NFKC; case folded; white space to single blanks; "#" and "@" before it, and punctuation and
    symbols around it, taken off; a possessive "'s" or "'" at its end taken off. Of a mention that consists of
    punctuation only, everything stays.

    ```python
    normalised_name("@Kelo_Mar's ")  # "kelo_mar"
    normalised_name("“Dunvik   UNITED”,")  # "dunvik united"
    ```
    """
    whole = " ".join(unicodedata.normalize("NFKC", mention).casefold().split())
    name, before = _stripped(whole), ""
    while name != before:  # so that a normalised name stays as it is
        name, before = _stripped(POSSESSIVE.sub("", name)), name
    return name or whole


def entity_key(mention: str, label: str | None, merging: str) -> tuple[str, str | None]:
    """Equal for two mentions of one entity.

    Args:
        mention: its words.
        label: its type, `None` for a rejected one.
        merging: "name", or "name_and_type", which keeps a river apart from a person of its name.

    Raises:
        ValueError: `merging` is neither.
    """
    check_choice("merging", merging, MERGING)
    return normalised_name(mention), label if merging == "name_and_type" else None


def _stripped(name: str) -> str:
    """Without punctuation, symbols and blanks at both ends."""
    start, end = 0, len(name)
    while start < end and _is_edge(name[start]):
        start += 1
    while end > start and _is_edge(name[end - 1]):
        end -= 1
    return name[start:end]


def _is_edge(char: str) -> bool:
    return char.isspace() or unicodedata.category(char)[0] in "PS"
