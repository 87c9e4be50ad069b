"""CoNLL files: one word and its tag a line, a blank line between sentences; every tagged mention becomes a post.

    Mura    B-person
    sails   O
    to      O
    Kelo    B-location
    Bay     I-location

The word is the first column and the tag the last one. Columns are parted by tabs or, in a line without a tab, by
white space. A line whose first column is -DOCSTART- parts documents. Tags are "O", "B-type" and "I-type". A mention
begins at every B, and at an I whose word before is "O" or of another type, as the CoNLL shared tasks' own scorer
counts: so files that write B only between two mentions that touch are read rightly, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ..spans import words_to_text
from .counts import Counts
from .files import read_lines
from .schema import ON_BAD_SPAN, check_choice, validate_post

TAG = re.compile(r"O|[BI]-\S+")


def read_conll(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    source: str = "conll",
    on_bad_span: str = "error",
) -> tuple[list[dict[str, Any]], Counts]:
    """Read CoNLL files into posts with one mention each, without pictures.

    Args:
        paths: one file, or several that belong together.
        source: of the posts; their ids begin with it.
        on_bad_span: a mention may be white space only, if the words of a file are. "error" refuses such a file,
            "skip" leaves the mention out and counts it.

    Returns:
        Posts in the package's schema and order of the files, with ids like "conll-train-17" (file, and line of the
        mention's first word) and the type as label; and what was counted. A sentence is its words with single spaces
        between them, and is in as many posts as it has mentions.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a line breaks the format; the message names file and line.
    """
    check_choice("on_bad_span", on_bad_span, ON_BAD_SPAN)
    counts = Counts("typing")
    posts = []
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        stem = os.path.splitext(os.path.basename(os.fspath(path)))[0]
        for sentence in _sentences(path):
            text, offsets = words_to_text([word for _, word, _ in sentence])
            for first, end in _mentions([tag for _, _, tag in sentence]):
                line, _, tag = sentence[first]
                start, stop = offsets[first][0], offsets[end - 1][1]
                identifier = f"{source}-{stem}-{line}"
                if not text[start:stop].strip() and on_bad_span == "skip":
                    counts.bad_spans.append(identifier)
                    continue
                post = {
                    "id": identifier,
                    "text": text,
                    "mentions": [[start, stop]],
                    "label": tag[2:],
                    "image": None,
                    "source": source,
                }
                validate_post(post, f"{os.fspath(path)}, line {line}")
                posts.append(post)
    counts.count_posts(posts)
    return posts, counts


def _sentences(path: str | os.PathLike[str]) -> Iterator[list[tuple[int, str, str]]]:
    """Line number, word and tag of the words of each sentence."""
    sentence: list[tuple[int, str, str]] = []
    for number, line in read_lines(path):
        columns = line.split("\t") if "\t" in line else line.split()
        if line.strip() and columns[0] != "-DOCSTART-":
            tag = columns[-1].strip()
            if len(columns) < 2 or not columns[0] or not TAG.fullmatch(tag):
                raise ValueError(
                    f'{os.fspath(path)}, line {number}: a word and its tag, "O", "B-type" or "I-type", are needed, '
                    f"got {line!r:.80}"
                )
            sentence.append((number, columns[0], tag))
        elif sentence:
            yield sentence
            sentence = []
    if sentence:
        yield sentence


def _mentions(tags: Sequence[str]) -> Iterator[tuple[int, int]]:
    """First word of each mention and the word after its last."""
    first: int | None = None
    for place, tag in enumerate([*tags, "O"]):
        goes_on = first is not None and tag == f"I-{tags[first][2:]}"
        if not goes_on:
            if first is not None:
                yield first, place
            first = None if tag == "O" else place
