"""CrossRE: sentences of several domains with all their entities and directed relations, brought into the schema.

A file, "ai-train.json" say, has one JSON object a line. Spans count words, end inclusive; behind a relation's label
are an explanation and two marks of the annotators, which are not read:

    {"doc_key": "sea-train-1", "sentence": ["Kelo", "sails", "the", "Mura"],
     "ner": [[0, 0, "person"], [3, 3, "product"]], "relations": [[0, 0, 3, 3, "usage", "", false, false]]}

The entities become typing posts and the relations relation posts. A pair with several relations is in as many posts,
as in the published counts: then no single answer is right for all of them. The files are not part of this project.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from typing import Any

from ..spans import words_to_text
from .files import Paths, as_paths, check_keys, read_json_lines
from .label_sets import read_label_set
from .prepare import DatasetAdapter, PreparedData, add_source_flags, check_filled, choose_split, divide, label_file
from .schema import ON_BAD_SPAN, Counts, char_span, check_choice, keep_post, new_post
from .splits import SPLITS
from .zero_shot_data import ZeroShotData

FILE = re.compile(r"(\w+)-(train|dev|test)\.json")


def crossre_files(folder: str | os.PathLike[str], domains: Sequence[str] | None = None) -> list[str]:
    """Paths of the files of some domains, or of all that are there.

    Raises:
        FileNotFoundError: a domain has no file, or there is none at all; the domains that are there are named.
    """
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    there: dict[str, list[str]] = {}
    for name in names:
        if match := FILE.fullmatch(name):
            there.setdefault(match[1], []).append(name)
    missing = [domain for domain in domains or () if domain not in there]
    if missing or not there:
        raise FileNotFoundError(
            f"domains: no file of {', '.join(missing) or 'any domain'}, like ai-train.json, is in "
            f"{os.fspath(folder)!r} (domains there: {', '.join(there) or 'none'})"
        )
    order = ("train", "dev", "test")
    return [
        os.path.join(folder, name)
        for domain in dict.fromkeys(domains or there)
        for name in sorted(there[domain], key=lambda name: order.index(FILE.fullmatch(name)[2]))  # type: ignore[index]
    ]


def read_crossre(paths: Paths, on_bad_span: str = "error") -> dict[str, tuple[list[dict[str, Any]], Counts]]:
    """Read files in CrossRE's format, into posts without images.

    Args:
        paths: one file, or several that belong together.
        on_bad_span: a span may reach beyond its sentence. "error" refuses the file, "skip" leaves the entity or the
            relation out and counts it.

    Returns:
        For "relation" and "typing" the posts, in the package's schema and order of the files, and what was counted.
        Ids are like "crossre-ai-train-1-r3" and "crossre-ai-train-1-e2" (document, relation or entity from 1); labels
        are those of the files.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a line breaks the format, or two have one `doc_key`; the message names file and line.
    """
    check_choice("on_bad_span", on_bad_span, ON_BAD_SPAN)
    found: dict[str, tuple[list[dict[str, Any]], Counts]] = {
        task: ([], Counts(task)) for task in ("relation", "typing")
    }
    keys: set[str] = set()
    for path in as_paths(paths):
        name = os.fspath(path)
        before = {task: len(posts) for task, (posts, _) in found.items()}
        for number, record in read_json_lines(path):
            where = f"{name}, line {number}"
            try:
                text, offsets = _read_sentence(record)
                if record["doc_key"] in keys:
                    raise ValueError(f"doc_key must occur once, got {record['doc_key']!r} again")
                entries = [
                    ("typing", "e", place, _read_entry(entry, 1)) for place, entry in enumerate(record["ner"], 1)
                ]
                entries += [
                    ("relation", "r", place, _read_entry(entry, 2))
                    for place, entry in enumerate(record["relations"], 1)
                ]
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            keys.add(record["doc_key"])
            for task, letter, place, (spans, label) in entries:
                posts, counts = found[task]
                post = new_post(
                    f"crossre-{record['doc_key']}-{letter}{place}",
                    text,
                    [char_span(span, offsets) for span in spans],
                    label,
                    "crossre",
                )
                if keep_post(post, where, on_bad_span, counts):
                    posts.append(post)
            for _, counts in found.values():
                counts.texts += 1
        for task, (posts, counts) in found.items():
            counts.files[os.path.basename(name)] = len(posts) - before[task]
    for posts, counts in found.values():
        counts.count_posts(posts)
    return found


def _read_sentence(record: Any) -> tuple[str, list[tuple[int, int]]]:
    """Text and places of the words; entities and relations are lists then."""
    check_keys(record, ("doc_key", "sentence", "ner", "relations"))
    if not isinstance(record["doc_key"], str) or not record["doc_key"].strip():
        raise ValueError(f"doc_key must be a string that is not empty, got {record['doc_key']!r:.80}")
    for key in ("sentence", "ner", "relations"):
        if not isinstance(record[key], list) or (key == "sentence" and not record[key]):
            raise ValueError(f"{key} must be a list, and that of the sentence not empty, got {record[key]!r:.80}")
    return words_to_text(record["sentence"])


def _read_entry(entry: Any, spans: int) -> tuple[list[tuple[int, int]], str]:
    """Spans of words, end exclusive, and label of an entity (one span) or a relation (two)."""
    places = entry[: 2 * spans] if isinstance(entry, list) else []
    label = entry[2 * spans] if isinstance(entry, list) and len(entry) > 2 * spans else None
    if len(places) != 2 * spans or not all(type(place) is int for place in places) or not isinstance(label, str):
        raise ValueError(f"{2 * spans} places of words and a label are needed, got {entry!r:.80}")
    return [(places[2 * number], places[2 * number + 1] + 1) for number in range(spans)], label


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add_source_flags(parser, "seed-0", labels="words of the relations (default: in configuration/labels)")
    parser.add_argument(
        "--domains", nargs="+", metavar="DOMAIN", help="politics, science, ... (default: all in the folder)"
    )


def _prepare(arguments: argparse.Namespace, configuration: str | os.PathLike[str]) -> PreparedData:
    found = read_crossre(crossre_files(arguments.data, arguments.domains), arguments.on_bad_span)
    # The types of the entities are CrossNER's.
    paths = {
        "relation": label_file(arguments, configuration, "crossre"),
        "typing": os.path.join(configuration, "labels", "crossner.json"),
    }
    parts = []
    for task, (posts, counts) in found.items():
        label_set = read_label_set(paths[task])
        # In alphabetical order, which does not depend on the domains that are read.
        classes = sorted(set(counts.classes) - set(label_set.left_out))
        chosen = choose_split(arguments.split, classes, configuration)
        parts.append(divide("crossre", posts, counts, arguments.split, chosen, label_set))
    relations, types = parts
    shared = set(relations.data.label_descriptions) & set(types.data.label_descriptions)
    if shared:
        raise ValueError(f"labels: relations and types must have different names, got {', '.join(sorted(shared))}")
    data = ZeroShotData(
        posts={name: [*relations.data.posts[name], *types.data.posts[name]] for name in SPLITS},
        labels={name: {**relations.data.labels[name], **types.data.labels[name]} for name in SPLITS},
        label_descriptions={**relations.data.label_descriptions, **types.data.label_descriptions},
        label_types=relations.data.label_types,
        type_descriptions=relations.data.type_descriptions,
    )
    return PreparedData(
        "crossre",
        arguments.split,
        check_filled(data),
        {f"crossre, {task}": counts for task, (_, counts) in found.items()},
        relations.label_set_version,
        left_out={**relations.left_out, **types.left_out},
    )


CROSSRE = DatasetAdapter(
    "crossre",
    "CrossRE: directed relations, and types of entities, of sentences of several domains",
    _add_flags,
    _prepare,
    not_public="its licence is the GPL, version 3, which the prepared folder does not carry",
)
