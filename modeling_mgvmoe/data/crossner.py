"""CrossNER and folders like it: one folder a domain, with train.txt, dev.txt and test.txt in the CoNLL format.

Zero-shot transfer: learn types in some domains, be tested on the types that only another domain has.
"""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .conll import read_conll
from .files import nearest
from .label_sets import LabelInfo, LabelSet, read_label_set
from .prepare import DatasetAdapter, PreparedData, add_source_flags, check_filled, label_file
from .schema import Counts
from .splits import ClassSplit, crossner_class_split
from .zero_shot_data import ZeroShotData, data_from_posts

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


def crossner_data(
    folder: str | os.PathLike[str],
    train_domains: Sequence[str],
    test_domain: str,
    label_set: LabelSet,
    seed: int = 0,
    on_bad_span: str = "error",
) -> ZeroShotData:
    """Typing posts for the transfer from some domains to another one; see [`transfer_data`].

    Args:
        folder: any folder in CrossNER's format.
        train_domains: names of folders in it; their posts are for training and validation.
        test_domain: another one; its posts are for testing.
        label_set: words for the types. A type that it does not know gets a name made of its tag and no description,
            and a warning says so.
        seed: of the choice of the validation types.
        on_bad_span: of [`read_conll`].

    Raises:
        FileNotFoundError: a folder or file is missing.
        ValueError: a line breaks the format, or the types give no split.
    """
    posts, _ = read_crossner(folder, [*train_domains, test_domain], on_bad_span)
    data, _, _ = transfer_data(posts, train_domains, test_domain, label_set, seed)
    return data


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
    parser.add_argument("--train_domains", "--train-domains", nargs="+", required=True, metavar="DOMAIN")
    parser.add_argument("--test_domain", "--test-domain", required=True, metavar="DOMAIN")
    parser.add_argument(
        "--split_seed", "--split-seed", type=int, default=0, help="of the choice of validation types (default 0)"
    )
    for name in ("tag", "word"):
        parser.add_argument(
            f"--{name}_column",
            f"--{name}-column",
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
    return PreparedData(label_set.name, name, check_filled(data), counts, label_set.version)


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


def name_from_tag(tag: str) -> str:
    """Words instead of a tag: split at separators and inner capitals, in small letters."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", re.sub(r"[\W_]+", " ", tag))
    return parted.strip().lower() or tag


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower() or name
