"""Splits of classes into training, validation and test, by protocol."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .files import check_keys, nearest, read_json_object
from .label_sets import LabelSet

# What MNRE calls the relation of two mentions between which none of its relations holds, in versions 2 and 1.
MNRE_NONE = ("None", "none")


SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ClassSplit:
    """Classes of each split; none stands in two.

    Attributes:
        train: classes to learn from.
        validation: unseen classes to choose with.
        test: unseen classes to report.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def in_words(self, label_set: LabelSet) -> ClassSplit:
        """The same split of the plain names that a label set gives to the classes."""
        return ClassSplit(
            *(tuple(label_set.words_of(raw, name).name for raw in classes) for name, classes in vars(self).items())
        )


def read_splits(path: str | os.PathLike[str]) -> dict[str, ClassSplit]:
    """Read a file of `configuration/splits/`: splits of a dataset's own class names, by their names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it breaks the format, or a class stands in two splits; the message names file, split and value.
    """
    content = read_json_object(path)
    place = os.fspath(path)
    found = {}
    try:
        check_keys(content, ("name", "version", "source", "splits"))
        if type(content["version"]) is not int or content["version"] < 1:
            raise ValueError(f"version must be an integer from 1, got {content['version']!r}")
        if not isinstance(content["splits"], Mapping) or not content["splits"]:
            raise ValueError(f"splits must be an object that is not empty, got {content['splits']!r:.80}")
        for name, entry in content["splits"].items():
            place = f"{os.fspath(path)}: split {name!r}"
            check_keys(entry, SPLITS, ("train_domains", "test_domain"))
            for key in SPLITS:
                classes = entry[key]
                if not isinstance(classes, list) or not classes or not all(isinstance(one, str) for one in classes):
                    raise ValueError(f"{key} must be a list of strings that is not empty, got {classes!r:.80}")
            _check_distinct("classes", [one for key in SPLITS for one in entry[key]])
            found[name] = ClassSplit(*(tuple(entry[key]) for key in SPLITS))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    return found


def mre_class_split(relations: Sequence[str], seed: int) -> ClassSplit:
    """The paper's split of MNRE's relations: [`thirds_class_split`] without "None" ("none" in version 1).

    Of the 22 relations of version 2, 8 are for training, 7 for validation and 7 for testing.

    Args:
        relations: in order of first appearance (training, validation, test file), on which the split depends.
        seed: of the shuffle. Results of two seeds cannot be compared with each other, for their classes differ.

    Raises:
        ValueError: a relation occurs twice, or there are fewer than four.
    """
    return thirds_class_split([name for name in relations if name not in MNRE_NONE], seed)


def thirds_class_split(classes: Sequence[str], seed: int) -> ClassSplit:
    """A third each: n // 3 + 1 classes for training, n // 3 for validation, the rest for testing.

    Shuffled with numpy's `RandomState(seed)`.

    Args:
        classes: distinct names, on whose order the split depends.
        seed: of the shuffle.

    Raises:
        ValueError: a class occurs twice, or there are fewer than four, so that a split would be empty.
    """
    import numpy as np

    names = list(classes)
    _check_distinct("classes", names)
    if len(names) < 4:
        raise ValueError(f"classes: at least 4 are needed for three splits, got {names!r}")
    np.random.RandomState(seed).shuffle(names)
    third = len(names) // 3
    return ClassSplit(
        train=tuple(names[: third + 1]),
        validation=tuple(names[third + 1 : 2 * third + 1]),
        test=tuple(names[2 * third + 1 :]),
    )


def grouped_class_split(groups: Mapping[str, Sequence[str]], seed: int) -> ClassSplit:
    """[`thirds_class_split`] of groups whose classes stay together: the two directions of a relation, say.

    Args:
        groups: classes by the name of their group.
        seed: of the shuffle of the groups.

    Raises:
        ValueError: a class is in two groups, or there are fewer than four groups.
    """
    _check_distinct("classes", [name for names in groups.values() for name in names])
    split = thirds_class_split(list(groups), seed)
    return ClassSplit(*(tuple(name for group in own for name in groups[group]) for own in vars(split).values()))


def met_class_splits() -> dict[str, ClassSplit]:
    """The paper's three splits of WikiDiverse's types: three groups of four, each once in training and so on."""
    groups = (
        ("People", "Site", "Building", "Currency"),
        ("Location", "Event", "Book", "Music"),
        ("Organization", "Country", "APP", "Movie"),
    )
    return {f"task-{turn + 1}": ClassSplit(*groups[turn:], *groups[:turn]) for turn in range(3)}


def crossner_class_split(
    domain_types: Mapping[str, Sequence[str]],
    train_domains: Sequence[str],
    test_domain: str,
    seed: int = 0,
    left_out: Sequence[str] = ("misc",),
) -> ClassSplit:
    """Transfer to another domain: its own types, those that no training domain has, are the test.

    The training domains' n types, sorted and shuffled with numpy's `RandomState(seed)`, give the first max(1, n // 4)
    to validation and the rest to training, all in alphabetical order.

    Args:
        domain_types: for each domain its types.
        train_domains: domains to learn from.
        test_domain: another one.
        seed: of the shuffle.
        left_out: types that take no part.

    Raises:
        ValueError: a domain is not known, stands twice or on both sides; or a split would be empty.
    """
    import numpy as np

    domains = [*train_domains, test_domain]
    for domain in domains:
        if domain not in domain_types:
            raise ValueError(f"domains: {domain!r} is not known; {nearest(domain, domain_types)}")
    _check_distinct("train_domains and test_domain", domains)
    seen = sorted({name for domain in train_domains for name in domain_types[domain]} - set(left_out))
    unseen = sorted(set(domain_types[test_domain]) - set(seen) - set(left_out))
    if len(seen) < 2 or not unseen:
        raise ValueError(
            f"domains: two types to learn from, and one that only {test_domain!r} has, are needed, "
            f"got {seen!r} and {unseen!r}"
        )
    order = list(seen)
    np.random.RandomState(seed).shuffle(order)
    held_out = set(order[: max(1, len(order) // 4)])
    return ClassSplit(
        train=tuple(name for name in seen if name not in held_out),
        validation=tuple(sorted(held_out)),
        test=tuple(unseen),
    )


def m_unseen_split(classes: Sequence[str], m: int, seed: int) -> ClassSplit:
    """m unseen classes for testing, as the papers on zero-shot relation extraction draw them, and m for validation.

    The classes are shuffled with numpy's `RandomState(seed)`; the first m are for testing, the next m for validation
    and all others for training. (ZS-BERT draws with Python's `random.sample` and has no validation classes, so the
    same seed gives other classes there.)

    Args:
        classes: distinct names. The order decides: another one gives another split.
        m: 5, 10 and 15 are usual.
        seed: of the shuffle.

    Raises:
        ValueError: a class occurs twice, m is less than 1, or fewer than 2 m + 1 classes are given.
    """
    import numpy as np

    names = list(classes)
    _check_distinct("classes", names)
    if isinstance(m, bool) or not isinstance(m, int) or not 1 <= 2 * m < len(names):
        raise ValueError(f"m must be an integer from 1 with 2 m < {len(names)}, the number of classes, got {m!r}")
    np.random.RandomState(seed).shuffle(names)
    return ClassSplit(train=tuple(names[2 * m :]), validation=tuple(names[m : 2 * m]), test=tuple(names[:m]))


def _check_distinct(what: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what} must be distinct, got twice: {', '.join(map(repr, twice))}")
