"""CoNLL files, and the datasets in this format: CrossNER's folders of domains, and tweets with images.

One word and its tag a line, a blank line between sentences; every tagged mention becomes a post.

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

import argparse
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..spans import words_to_text
from .files import Paths, as_paths, nearest, read_lines
from .label_sets import LabelInfo, LabelSet, name_from_tag, read_label_set
from .post_images import add_captions_flag, attach_captions, attach_images, check_folder, read_captions
from .prepare import (
    FILES_SPLIT,
    DatasetAdapter,
    PreparedData,
    add_source_flags,
    check_filled,
    divide_by_class,
    divide_by_file,
    label_file,
)
from .rows import SPLIT_NAMES
from .schema import ON_BAD_SPAN, Counts, check_choice, keep_post, new_post
from .splits import SPLITS, ClassSplit, crossner_class_split
from .zero_shot_data import ZeroShotData, data_from_posts

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
    paths: Paths,
    source: str = "conll",
    on_bad_span: str = "error",
    tag_column: int | None = None,
    word_column: int | None = None,
) -> tuple[list[dict[str, Any]], Counts]:
    """Read CoNLL files into posts with one mention each, without images.

    Args:
        paths: one file, or several that belong together.
        source: of the posts; their ids begin with it.
        on_bad_span: "error" refuses a mention that is white space only, "skip" leaves it out and counts it.
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
    """The posts of a sentence, one for each mention, without images; white space is skipped or refused."""
    text, offsets = words_to_text(sentence.words)
    stem = os.path.splitext(os.path.basename(sentence.path))[0]
    for first, end, label in sentence.mentions():
        post = new_post(
            f"{source}-{stem}-{sentence.lines[first]}", text, [[offsets[first][0], offsets[end - 1][1]]], label, source
        )
        if keep_post(post, f"{sentence.path}, line {sentence.lines[first]}", on_bad_span, counts):
            yield post


def read_sentences(
    paths: Paths,
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
    sentences = [one for path in as_paths(paths) for one in _read_rows(path)]
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


CROSSNER_FILES = ("train.txt", "dev.txt", "test.txt")


def read_crossner(
    folder: str | os.PathLike[str],
    domains: Sequence[str],
    on_bad_span: str = "error",
    tag_column: int | None = None,
    word_column: int | None = None,
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Counts]]:
    """Posts of some domains, all three files of each: which of them a sentence is in plays no part.

    Args:
        folder: holds a folder for each domain.
        domains: names of these folders.
        on_bad_span, tag_column, word_column: of [`read_conll`].

    Returns:
        For each domain its posts, with ids like "crossner-politics-train-17", and what was counted.

    Raises:
        FileNotFoundError: a folder or one of its files is missing; the domains that are there are named.
        ValueError: a line breaks the format.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"folder: the folder {os.fspath(folder)!r} does not exist")
    there = sorted(name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name, "train.txt")))
    posts, counts = {}, {}
    for domain in domains:
        if domain not in there:
            raise FileNotFoundError(
                f"domains: {os.path.join(folder, domain, 'train.txt')} does not exist; {nearest(domain, there)} "
                f"(there: {', '.join(there)})"
            )
        files = [os.path.join(folder, domain, name) for name in CROSSNER_FILES]
        posts[domain], counts[domain] = read_conll(files, f"crossner-{domain}", on_bad_span, tag_column, word_column)
    return posts, counts


def transfer_data(
    posts: Mapping[str, Sequence[Mapping[str, Any]]],
    train_domains: Sequence[str],
    test_domain: str,
    label_set: LabelSet,
    seed: int = 0,
) -> tuple[ZeroShotData, ClassSplit, LabelSet]:
    """Divide posts by domain and type.

    The types of a domain are those that its posts have, whatever the label set says of it.

    Args:
        posts: for each domain, labelled with the tags of the files.
        train_domains, test_domain, seed: of [`splits.crossner_class_split`].
        label_set: words for the types; see [`complete_label_set`].

    Returns:
        The data with labels in words, the split of the types, and the label set with the types it did not know.
    """
    label_set, known = complete_label_set(label_set, (post["label"] for domain in posts.values() for post in domain))
    relabelled = {
        domain: [{**post, "label": known[post["label"]]} for post in domain_posts]
        for domain, domain_posts in posts.items()
    }
    types = {domain: list(dict.fromkeys(post["label"] for post in kept)) for domain, kept in relabelled.items()}
    split = crossner_class_split(types, train_domains, test_domain, seed, label_set.left_out)
    source = [post for domain in train_domains for post in relabelled[domain]]
    pools = {"train": source, "validation": source, "test": relabelled[test_domain]}
    return data_from_posts(pools, split, "typing", label_set), split, label_set


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add_source_flags(parser)
    parser.add_argument("--train_domains", nargs="+", required=True, metavar="DOMAIN")
    parser.add_argument("--test_domain", required=True, metavar="DOMAIN")
    parser.add_argument("--split_seed", type=int, default=0, help="of the choice of validation types (default 0)")
    for name in ("tag", "word"):
        parser.add_argument(
            f"--{name}_column",
            type=int,
            metavar="N",
            help=f"of the {name}s, from 1 (default: found)",
        )


def _prepare(arguments: argparse.Namespace, configuration: str | os.PathLike[str]) -> PreparedData:
    label_set = read_label_set(label_file(arguments, configuration, "crossner"))
    train, test, seed = arguments.train_domains, arguments.test_domain, arguments.split_seed
    posts, counts = read_crossner(
        arguments.data, [*train, test], arguments.on_bad_span, arguments.tag_column, arguments.word_column
    )
    data, _, label_set = transfer_data(posts, train, test, label_set, seed)
    name = f"{'+'.join(train)}-to-{test}, seed {seed}"
    known = {*train, test} <= set(label_set.domains)
    dataset = label_set.name if known else os.path.basename(os.path.abspath(arguments.data))
    return PreparedData(dataset, name, check_filled(data), counts, label_set.version)


CONLL = DatasetAdapter(
    "conll", "CrossNER, and any folder of domains with CoNLL files: types of mentions", _add_flags, _prepare
)


def complete_label_set(label_set: LabelSet, tags: Iterable[str]) -> tuple[LabelSet, dict[str, str]]:
    """Add the types that a label set does not know, named after their tags: "rockBand" is "rock band".

    A tag that differs from a class, or from its plain name, by capitals and separators only ("Political_Party",
    "PERSON") is that class. A warning names all tags that the label set does not know.

    Args:
        label_set: of typing.
        tags: types as the files write them.

    Returns:
        The label set, with a class for every tag, and for each tag its class.
    """
    classes = dict(label_set.classes)
    by_letters = {_letters(raw): raw for raw in label_set.left_out}
    for raw, info in classes.items():
        by_letters.setdefault(_letters(info.name), raw)
        by_letters[_letters(raw)] = raw
    known: dict[str, str] = {}
    guesses: list[str] = []
    for tag in dict.fromkeys(tags):
        if tag in classes or tag in label_set.left_out:
            known[tag] = tag
            continue
        if _letters(tag) not in by_letters:
            by_letters[_letters(tag)] = tag
            classes[tag] = LabelInfo(name_from_tag(tag), "")
        known[tag] = by_letters[_letters(tag)]
        guesses.append(f"{tag!r} is taken for {classes[known[tag]].name if known[tag] in classes else known[tag]!r}")
    if guesses:
        warnings.warn(
            f"label set {label_set.name!r} does not know {len(guesses)} types: {', '.join(guesses)}. "
            "Those that are new to it have no description.",
            stacklevel=2,
        )
    return replace(label_set, classes=classes), known


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower() or name


MULTIMODAL_NER_FILES = (("train.txt",), ("dev.txt", "valid.txt"), ("test.txt",))
# Number of the column of the tags, by what they are.
TAG_COLUMNS = {"coarse": 2, "fine": 3}
# What Twitter-2015 and Twitter-2017 call the coarse types.
SHORT_NAMES = {"PER": "person", "LOC": "location", "ORG": "organization", "MISC": "other", "OTHER": "other"}


def multimodal_ner_files(folder: str | os.PathLike[str]) -> list[str]:
    """Paths of the training, validation and test file in a folder; FileNotFoundError if one is missing."""
    found = []
    for names in MULTIMODAL_NER_FILES:
        there = [path for name in names if os.path.isfile(path := os.path.join(folder, name))]
        if not there:
            raise FileNotFoundError(f"folder: {' or '.join(names)} is needed in {os.fspath(folder)!r}")
        found.append(there[0])
    return found


def read_multimodal_ner(
    paths: Paths,
    image_dir: str | os.PathLike[str] | None = None,
    captions: Mapping[str, Sequence[str]] | None = None,
    tag_column: str = "fine",
    progress: str | None = None,
    on_bad_span: str = "error",
) -> tuple[list[dict[str, Any]], Counts]:
    """Read multimodal NER files: every mention becomes a post.

    Args:
        paths: one file, or several that belong together.
        image_dir: folder with the images, "<id>.jpg"; a post without a readable one has none.
        captions: of [`post_images.read_captions`]; a post's are its `image_text`.
        tag_column: "coarse", the tag behind the word, or "fine", the one behind that.
        progress: title of a progress bar over the images; `None` shows none.
        on_bad_span: "error" refuses a mention that is white space only, "skip" leaves it out and counts it.

    Returns:
        Posts in the package's schema and order of the files, with ids like "mner-train-17-K_7" (file, line of the
        mention's first word, image), the type of the file as label and paths for images; and what was counted.

    Raises:
        FileNotFoundError: a file or the folder does not exist.
        ValueError: a line breaks the format, a tweet has no image line, or there is no column of fine tags; the
            message names file and line.
    """
    check_choice("tag_column", tag_column, tuple(TAG_COLUMNS))
    check_choice("on_bad_span", on_bad_span, ON_BAD_SPAN)
    check_folder(image_dir)
    counts = Counts("typing")
    posts: list[dict[str, Any]] = []
    for path in as_paths(paths):
        before = len(posts)
        for sentence in _read_tweets(path, tag_column):
            where = f"{sentence.path}, line {sentence.lines[0]}"
            image = sentence.image
            if image is None:
                raise ValueError(f'{where}: a line "{IMAGE}id" must stand before each tweet')
            if os.path.basename(image) != image or not image.strip("."):
                # An id with folders in it could reach outside of the folder of images.
                raise ValueError(f"{where}: the id of an image must name no folder, got {image!r:.80}")
            counts.texts += 1
            for post in sentence_posts(sentence, "mner", on_bad_span, counts):
                post["id"] += f"-{image}"
                post["image"] = f"{image}.jpg"
                posts.append(post)
        counts.files[os.path.basename(os.fspath(path))] = len(posts) - before
    counts.count_posts(posts)
    attach_captions(posts, captions, counts)
    attach_images(posts, image_dir, counts, progress)
    return posts, counts


def coarse_label_set(label_set: LabelSet) -> LabelSet:
    """The coarse types of a label set, which must have some, as its classes."""
    if not label_set.parents:
        raise ValueError(f"label set {label_set.name!r}: coarse types, `parents`, are needed to read coarse tags")
    return replace(label_set, classes=label_set.parents, parents={}, domains={})


def _read_tweets(path: str | os.PathLike[str], tag_column: str) -> Any:
    try:
        return read_sentences(path, TAG_COLUMNS[tag_column], 1)
    except ValueError as error:
        if tag_column == "fine" and str(error).startswith("tag_column must be"):
            raise ValueError(
                f"tag_column: {os.fspath(path)} has no column of fine tags; --tag-column coarse reads the others"
            ) from error
        raise


def _add_tweet_flags(parser: argparse.ArgumentParser) -> None:
    add_source_flags(parser, "twitter10000:seed-0", images=True, files=True)
    add_captions_flag(parser)
    parser.add_argument(
        "--tag_column",
        choices=tuple(TAG_COLUMNS)[::-1],
        default="fine",
        help="coarse tags are behind the word, fine ones behind these (default fine)",
    )


def _prepare_tweets(arguments: argparse.Namespace, configuration: str | os.PathLike[str]) -> PreparedData:
    label_set = read_label_set(label_file(arguments, configuration, "twitter10000"))
    captions = None if arguments.captions is None else read_captions(arguments.captions)
    posts, counts = read_multimodal_ner(
        multimodal_ner_files(arguments.data),
        arguments.images,
        captions,
        arguments.tag_column,
        "checking images",
        arguments.on_bad_span,
    )
    if arguments.tag_column == "coarse":
        label_set = coarse_label_set(label_set)
        posts = [{**post, "label": SHORT_NAMES.get(post["label"], post["label"])} for post in posts]
        counts.count_posts(posts)
    if arguments.split == FILES_SPLIT:
        own: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        for post in posts:
            own[SPLIT_NAMES[post["id"].split("-")[1]]].append(post)
        return divide_by_file("mner", own, counts, label_set)
    return divide_by_class("mner", posts, counts, arguments.split, label_set, configuration)


MULTIMODAL_NER = DatasetAdapter(
    "mner",
    "Twitter10000 (GMNER, FMNERG), Twitter-2015, Twitter-2017: types of mentions in tweets with an image",
    _add_tweet_flags,
    _prepare_tweets,
    not_public="its tweets may not be passed on",
)
