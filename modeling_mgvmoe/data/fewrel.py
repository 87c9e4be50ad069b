"""FewRel: sentences with two marked mentions by relation, brought into the package's schema.

A file is a JSON object: for each relation its sentences, with name, identifier and places in the words of head and
tail; the first place counts.

    {"P26": [{"tokens": ["Kelo", "married", "Mura"], "h": ["kelo", "Q1", [[0]]], "t": ["mura", "Q2", [[2]]]}]}

Relations are properties of Wikidata, whose names and sentences are in "pid2name.json" beside the files. Those of
SemEval-2010 task 8, in the same form, have the direction in their name: "Cause-Effect(e2,e1)" says that the head, e1,
is the effect. The files are not part of this project.
"""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..spans import words_to_text
from .files import Paths, as_paths, check_keys, read_json_object
from .label_sets import LabelInfo, LabelSet, name_from_tag, read_label_set
from .prepare import DatasetAdapter, PreparedData, add_source_flags, choose_split, divide, label_file
from .schema import ON_BAD_SPAN, Counts, char_span, check_choice, keep_post, new_post
from .splits import ClassSplit, grouped_class_split

PARTS = ("train", "val", "test")
NAMES_FILE = "pid2name.json"
# What the file of names has where Wikidata has nothing.
NOTHING = ("", "None", "No description defined")
DIRECTION = re.compile(r"(.+)\((?:e1,e2|e2,e1)\)")


def fewrel_files(folder: str | os.PathLike[str], domain: str) -> list[str]:
    """Paths of the files of a domain: "train_wiki.json", "val_wiki.json" and "test_wiki.json", those that are there.

    Raises:
        FileNotFoundError: there is none; the domains that are there are named.
    """
    paths = [os.path.join(folder, f"{part}_{domain}.json") for part in PARTS]
    found = [path for path in paths if os.path.isfile(path)]
    if not found:
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        there = {match[1]: None for name in names if (match := re.fullmatch(r"(?:train|val|test)_(\w+)\.json", name))}
        raise FileNotFoundError(
            f"domain: none of {', '.join(paths)} exists; domains in the folder: {', '.join(there) or 'none'}"
        )
    return found


def read_fewrel(paths: Paths, on_bad_span: str = "error") -> tuple[list[dict[str, Any]], Counts]:
    """Read files in FewRel's format: every sentence becomes a post with two mentions, without an image.

    Args:
        paths: one file, or several that belong together.
        on_bad_span: a mention may reach beyond its sentence. "error" refuses the file, "skip" leaves the sentence out
            and counts it.

    Returns:
        Posts in the package's schema and order of the files, with ids like "fewrel-val_wiki-P26-17" (file, relation,
        sentence from 1) and the relation's key as label; and what was counted.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a record breaks the format; the message names file, relation and sentence.
    """
    check_choice("on_bad_span", on_bad_span, ON_BAD_SPAN)
    counts = Counts("relation")
    posts: list[dict[str, Any]] = []
    for path in as_paths(paths):
        name = os.fspath(path)
        stem, before = os.path.splitext(os.path.basename(name))[0], len(posts)
        for relation, records in read_json_object(path).items():
            if not relation.strip() or not isinstance(records, list):
                raise ValueError(f"{name}: relation {relation!r} must have a list of sentences, got {records!r:.80}")
            for number, record in enumerate(records, 1):
                where = f"{name}, relation {relation!r}, sentence {number}"
                identifier = f"fewrel-{stem}-{relation}-{number}"
                try:
                    text, mentions = _read_record(record)
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from error
                post = new_post(identifier, text, mentions, relation, "fewrel")
                if keep_post(post, where, on_bad_span, counts):
                    posts.append(post)
        counts.files[os.path.basename(name)] = len(posts) - before
    counts.count_posts(posts)
    return posts, counts


def fewrel_label_set(relations: Iterable[str], names: Mapping[str, Any]) -> LabelSet:
    """Words for relations from the file of names.

    Args:
        relations: as the files write them.
        names: by relation, a list of name and sentence; the content of "pid2name.json".

    Returns:
        A label set with a class for each relation. One that the names do not have is named after its key ("may_treat":
        "may treat"), with a warning.

    Raises:
        ValueError: a property of Wikidata ("P26") has no name, or two relations have the same.
    """
    classes, guesses = {}, []
    for relation in relations:
        entry = names.get(relation, ["", ""])
        if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(text, str) for text in entry):
            raise ValueError(f"{NAMES_FILE}: {relation!r} must have a list of name and sentence, got {entry!r:.80}")
        name, sentence = ("" if text.strip() in NOTHING else " ".join(text.split()) for text in entry)
        if not name and re.fullmatch(r"P\d+", relation):
            raise ValueError(f"{NAMES_FILE}: {relation!r} must have a name, got {entry!r:.80}")
        if not name:
            name = name_from_tag(relation)
            guesses.append(f"{relation!r} is taken for {name!r}")
        classes[relation] = LabelInfo(name, sentence)
    if guesses:
        warnings.warn(f"{NAMES_FILE} does not know {len(guesses)} relations: {', '.join(guesses)}", stacklevel=2)
    return LabelSet("fewrel", 1, "relation", classes)


def fewrel_class_split(relations: Sequence[str], seed: int) -> ClassSplit:
    """[`splits.thirds_class_split`] of relations; both directions of one are in the same split.

    Otherwise an unseen relation would be a seen one read backwards.
    """
    groups: dict[str, list[str]] = {}
    for relation in relations:
        match = DIRECTION.fullmatch(relation)
        groups.setdefault(match[1] if match else relation, []).append(relation)
    return grouped_class_split(groups, seed)


def _read_record(record: Any) -> tuple[str, list[list[int]]]:
    """Text and spans of head and tail, as [`schema.char_span`] has them."""
    check_keys(record, ("tokens", "h", "t"))
    words = record["tokens"]
    if not isinstance(words, list) or not words:
        raise ValueError(f"tokens must be a list of words that is not empty, got {words!r:.80}")
    text, offsets = words_to_text(words)
    mentions = []
    for key in ("h", "t"):
        entry = record[key]
        places = entry[2][0] if _has_places(entry) else None
        if not isinstance(places, list) or not places or not all(type(place) is int for place in places):
            raise ValueError(f"{key} must be a list of name, identifier and places in the words, got {entry!r:.80}")
        if places != list(range(places[0], places[0] + len(places))):
            raise ValueError(f"{key}: places of a mention must count up by one, got {places!r:.80}")
        mentions.append(char_span((places[0], places[-1] + 1), offsets))
    return text, mentions


def _has_places(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 3 and isinstance(entry[2], list) and bool(entry[2])


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add_source_flags(
        parser,
        "seed-0",
        labels=f"words of the relations (default: {NAMES_FILE} in the folder; for semeval, in configuration/labels)",
    )
    parser.add_argument(
        "--domain",
        default="wiki",
        help="of the files: wiki, nyt, pubmed or semeval, as in val_wiki.json (default wiki)",
    )


def _prepare(arguments: argparse.Namespace, configuration: str | os.PathLike[str]) -> PreparedData:
    posts, counts = read_fewrel(fewrel_files(arguments.data, arguments.domain), arguments.on_bad_span)
    own = arguments.labels is not None or arguments.domain == "semeval"
    if own:
        label_set = read_label_set(label_file(arguments, configuration, "semeval"))
    else:
        names = read_json_object(os.path.join(arguments.data, NAMES_FILE))
        label_set = fewrel_label_set(counts.classes, names)
    chosen = choose_split(arguments.split, [*counts.classes], configuration, fewrel_class_split)
    name = f"{arguments.domain}, {arguments.split}"
    prepared = divide("fewrel", posts, counts, name, chosen, label_set)
    return prepared if own else replace(prepared, label_set_version=None)


FEWREL = DatasetAdapter(
    "fewrel", "FewRel, and SemEval-2010 task 8 in its format: directed relations of sentences", _add_flags, _prepare
)
