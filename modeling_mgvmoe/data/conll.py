"""CoNLL files: one word and its tag a line, a blank line between sentences; every tagged mention becomes a post.

    Mura    B-person
    sails   O
    to      O
    Kelo    B-location
    Bay     I-location

Columns are separated by tabs or, in a line without a tab, by blanks; other white space, a no-break space say, is part
of a word. Tags are "O" and a letter with a type: B-, I- and O (IOB1, IOB2), B-, I-, E-, S- (BIOES) or B-, I-, L-, U-
(BILOU). A mention begins at B, S and U, and at another letter whose word before is "O", of another type, or the last
of its mention (E, S, L, U): as the CoNLL shared tasks' own scorer counts.

What else such files hold follows from the whole file, or from all files that are read together:

- A first column of numbers that count up from word to word is an index; the word is the column behind it.
- The tags are in the column in which every line has a tag. Of several such columns, one that holds nothing but the
  names of chunks (NP, VP, ...) or nothing but "O" is not meant. Of several that are left, the outer and the nested
  entities of GermEval say, the first is read, with a warning that names the others.
- Before a sentence, a line that begins with "# " and is no word with its tags is a comment, and a line "IMGID:7"
  names the image of the post.
- A line whose first column is -DOCSTART- separates documents.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..spans import words_to_text
from .files import read_lines
from .schema import ON_BAD_SPAN, Counts, check_choice, keep_post

TAG = re.compile(r"O|[BIESLU]-\S+")
LAST = ("E", "S", "L", "U")
FIRST = ("B", "S", "U")
# Types of phrases, which CoNLL-2000 and CoNLL-2003 give in a column before the one of the entities.
CHUNKS = {"NP", "VP", "PP", "ADVP", "SBAR", "ADJP", "PRT", "CONJP", "INTJ", "LST", "UCP"}
IMAGE = "IMGID:"


@dataclass(frozen=True)
class Sentence:
    """A sentence of a CoNLL file.

    Attributes:
        path: of the file.
        lines: number in the file of each word's line.
        words, tags: as in the file.
        image: what stands behind "IMGID:", or `None`.
    """

    path: str
    lines: tuple[int, ...]
    words: tuple[str, ...]
    tags: tuple[str, ...]
    image: str | None = None

    def mentions(self) -> Iterator[tuple[int, int, str]]:
        """First word, last word + 1 and type of each mention."""
        first: int | None = None
        for place, tag in enumerate([*self.tags, "O"]):
            before = self.tags[place - 1] if place else "O"
            inside = tag[2:] == before[2:] and tag != "O" and tag[0] not in FIRST and before[0] not in LAST
            if not inside:
                if first is not None:
                    yield first, place, self.tags[first][2:]
                first = None if tag == "O" else place


def read_conll(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    source: str = "conll",
    on_bad_span: str = "error",
    tag_column: int | None = None,
    word_column: int | None = None,
) -> tuple[list[dict[str, Any]], Counts]:
    """Read CoNLL files into posts with one mention each, without images.

    Args:
        paths: one file, or several that belong together.
        source: of the posts; their ids begin with it.
        on_bad_span: a mention may be white space only, if the words of a file are. "error" refuses such a file,
            "skip" leaves the mention out and counts it.
        tag_column, word_column: of [`read_sentences`].

    Returns:
        Posts in the package's schema and order of the files, with ids like "conll-train-17" (file, and line of the
        mention's first word) and the type as label; and what was counted. A sentence is its words with single spaces
        between them, and is in as many posts as it has mentions. Images that the files name are not read, with a
        warning: `multimodal_ner.read_multimodal_ner` reads them.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a line breaks the format; the message names file and line.
    """
    check_choice("on_bad_span", on_bad_span, ON_BAD_SPAN)
    counts = Counts("typing")
    posts: list[dict[str, Any]] = []
    images = 0
    for sentence in read_sentences(paths, tag_column, word_column):
        images += sentence.image is not None
        posts += sentence_posts(sentence, source, on_bad_span, counts)
    if images:
        warnings.warn(
            f"paths: the images of {images:,} posts, named by {IMAGE}, are not read as CoNLL; "
            "`prepare_data.py mner` reads them",
            stacklevel=2,
        )
    counts.count_posts(posts)
    return posts, counts


def sentence_posts(sentence: Sentence, source: str, on_bad_span: str, counts: Counts) -> Iterator[dict[str, Any]]:
    """The posts of a sentence, one for each mention; `image` is `None`.

    Args:
        sentence: of [`read_sentences`].
        source, on_bad_span: of [`read_conll`].
        counts: gets the mentions that are left out.

    Raises:
        ValueError: a mention is white space only, and `on_bad_span` is "error".
    """
    text, offsets = words_to_text(sentence.words)
    stem = os.path.splitext(os.path.basename(sentence.path))[0]
    for first, end, label in sentence.mentions():
        post = {
            "id": f"{source}-{stem}-{sentence.lines[first]}",
            "text": text,
            "mentions": [[offsets[first][0], offsets[end - 1][1]]],
            "label": label,
            "image": None,
            "source": source,
        }
        if keep_post(post, f"{sentence.path}, line {sentence.lines[first]}", on_bad_span, counts):
            yield post


def read_sentences(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    tag_column: int | None = None,
    word_column: int | None = None,
) -> list[Sentence]:
    """The sentences of CoNLL files.

    Args:
        paths: one file, or several that belong together and have the same columns.
        tag_column: number of the column of the tags, from 1; `None` finds it, see the module.
        word_column: number of the column of the words, from 1; `None` takes the first one, or the second one behind
            an index.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a line breaks the format, naming file and line; a column is not there; or the first column has
            numbers that do not count up, so that nobody can say whether they are an index or words.
    """
    sentences = [
        one for path in ([paths] if isinstance(paths, str | os.PathLike) else paths) for one in _read_rows(path)
    ]
    if not sentences:
        return []
    width = len(sentences[0].rows[0].columns)
    for row in _rows(sentences):
        if len(row.columns) != width or width < 2:
            raise ValueError(
                f"{row.where}: a word and its tag are needed, in {max(width, 2)} columns as in the first line, "
                f"got {row.line!r:.80}"
            )
    for name, column in (("tag_column", tag_column), ("word_column", word_column)):
        if column is not None and not (type(column) is int and 1 <= column <= width):
            raise ValueError(f"{name} must be an integer from 1 to {width}, the number of columns, got {column!r}")
    if word_column is None and width > 2:
        word, sentences = _behind_index(sentences)
    else:
        word = 0 if word_column is None else word_column - 1
    tag = _find_tags(list(_rows(sentences)), word) if tag_column is None else tag_column - 1
    if tag == word:
        raise ValueError(f"tag_column must differ from word_column, the words are in column {word + 1}")
    for row in _rows(sentences):
        if not row.columns[word] or not TAG.fullmatch(row.columns[tag]):
            raise ValueError(
                f'{row.where}: a word and its tag, "O" or one like "B-type", are needed in columns {word + 1} and '
                f"{tag + 1}, got {row.line!r:.80}; word_column and tag_column name others"
            )
    return [
        Sentence(
            sentence.path,
            tuple(row.number for row in sentence.rows),
            tuple(row.columns[word] for row in sentence.rows),
            tuple(row.columns[tag] for row in sentence.rows),
            sentence.image,
        )
        for sentence in sentences
    ]


@dataclass(frozen=True)
class _Row:
    """A line with a word."""

    where: str
    number: int
    line: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class _Rows:
    """The lines of a sentence, and the image that was named before them."""

    path: str
    rows: list[_Row]
    image: str | None


def _rows(sentences: Sequence[_Rows]) -> Iterator[_Row]:
    return (row for sentence in sentences for row in sentence.rows)


def _read_rows(path: str | os.PathLike[str]) -> list[_Rows]:
    """A file as sentences of rows; which column is which is not known yet."""
    name = os.fspath(path)
    lines = [(number, line, _columns(line)) for number, line in read_lines(path)]
    tabs = any("\t" in line for _, line, _ in lines)
    width = next((len(columns) for _, line, columns in lines if columns and not _starts(line)), 0)
    sentences: list[_Rows] = []
    rows: list[_Row] = []
    image: str | None = None
    for number, line, columns in lines:
        if not columns or columns[0] == "-DOCSTART-":
            if rows:
                sentences.append(_Rows(name, rows, image))
                rows, image = [], None
        elif not rows and line.startswith(IMAGE):
            image = line.removeprefix(IMAGE).strip()
            if not image:
                raise ValueError(f"{name}, line {number}: {IMAGE} must have an id behind it, got {line!r:.80}")
        elif rows or not line.startswith("# ") or _is_word(columns, width, tabs and "\t" not in line):
            rows.append(_Row(f"{name}, line {number}", number, line, columns))
    if rows:
        sentences.append(_Rows(name, rows, image))
    return sentences


def _starts(line: str) -> bool:
    """Whether a line may stand before a sentence only."""
    return line.startswith(("# ", IMAGE, "-DOCSTART-"))


def _is_word(columns: tuple[str, ...], width: int, tab_missing: bool) -> bool:
    """Whether "# O" is the word "#" and no comment: it has the columns of the other lines, a tag among them."""
    return not tab_missing and len(columns) == width and any(map(TAG.fullmatch, columns[1:]))


def _columns(line: str) -> tuple[str, ...]:
    """Columns of a line, none of a blank one; empty ones at its end, which a tab there makes, are dropped."""
    if not line.strip():
        return ()
    if "\t" not in line:
        return tuple(column for column in line.split(" ") if column)
    columns = [column.strip(" ") or column for column in line.split("\t")]
    while not columns[-1]:
        columns.pop()
    return tuple(columns)


def _behind_index(sentences: Sequence[_Rows]) -> tuple[int, list[_Rows]]:
    """Place of the column of the words, behind an index if there is one, and the sentences.

    With CoNLL-U's index go the lines of tokens of several words ("3-4") and of words that are not in the text ("5.1").
    """
    first = [row.columns[0] for row in _rows(sentences)]
    if not all(re.fullmatch(r"\d+([-.]\d+)?", column, flags=re.ASCII) for column in first):
        return 0, list(sentences)
    words = [_Rows(one.path, [row for row in one.rows if row.columns[0].isdigit()], one.image) for one in sentences]
    numbers = [[int(row.columns[0]) for row in one.rows] for one in words]
    counts_up = all(own == list(range(own[0], own[0] + len(own))) for own in numbers if own)
    if not counts_up or max(map(len, numbers)) < 2:
        raise ValueError(
            f"{sentences[0].rows[0].where}: word_column must be given, for the first column is numbers that do not "
            f"count up in every sentence: an index, or words? 1 reads it as words, 2 the column behind it"
        )
    return 1, [one for one in words if one.rows]


def _find_tags(rows: Sequence[_Row], word: int) -> int:
    """Place of the column of the tags; the last one where no column has tags only, for the error."""
    width = len(rows[0].columns)
    types = {
        place: {row.columns[place][2:] for row in rows} - {""}
        for place in range(word + 1, width)
        if all(TAG.fullmatch(row.columns[place]) for row in rows)
    }
    entities = {place: found for place, found in types.items() if not found or not found <= CHUNKS} or types
    left = [place for place, found in entities.items() if found] or list(entities)
    if len(left) > 1:
        others = " or ".join(str(place + 1) for place in left[1:])
        warnings.warn(
            f"{rows[0].where}: columns {', '.join(str(place + 1) for place in left)} all hold tags, column "
            f"{left[0] + 1} is read; tag_column {others} reads another one",
            stacklevel=4,
        )
    return left[0] if left else width - 1
