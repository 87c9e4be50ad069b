"""Classes of a dataset in words: a plain name, a sentence and, for relations, the types of head and tail.

The files are `configuration/labels/*.json`, written for this project. The adapters yield a dataset's own class names
("/per/per/peer", "politicalparty"); a [`LabelSet`] turns them into the words that a text encoder understands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..labels import TASKS
from .files import check_keys, nearest, read_json_object
from .schema import check_choice


@dataclass(frozen=True)
class LabelInfo:
    """One class in words.

    Attributes:
        name: plain, unique within its label set.
        description: one sentence, or nothing where none was written.
        head_types, tail_types: of a relation, the names of the types that its head and tail may have.
        phrasings: further sentences that say the same in other words.
        parent: the coarse class that this one is a kind of, by the dataset's own name, or nothing.
        inverse: of a relation, its name from tail to head, "child of" for "parent of"; its own name if it is
            symmetric, nothing where it was not written.
        head_role, tail_role: of a relation, what its head and its tail are to each other, each in several wordings:
            "father or mother" and "son or daughter". They tell head from tail where types do not.
    """

    name: str
    description: str
    head_types: tuple[str, ...] = ()
    tail_types: tuple[str, ...] = ()
    phrasings: tuple[str, ...] = ()
    parent: str = ""
    inverse: str = ""
    head_role: tuple[str, ...] = ()
    tail_role: tuple[str, ...] = ()

    def texts(self) -> tuple[str, ...]:
        """Everything that says what the class is: the name, for a relation between its types, and all sentences."""
        name = f"{self.head_types[0]} {self.name} {self.tail_types[0]}" if self.head_types else self.name
        return tuple(dict.fromkeys(text for text in (name, self.description, *self.phrasings) if text))


@dataclass(frozen=True)
class LabelSet:
    """The classes of one dataset in words.

    Attributes:
        name: of the dataset.
        version: raised with every change of the words, for they change scores.
        task: "typing" or "relation".
        classes: for each class of the dataset, by the name it has there, its words. The order is the order of first
            appearance in the dataset where a split depends on it (MNRE).
        types: for relations, the types of heads and tails, each with a sentence; empty where the dataset has none.
        type_phrasings: for these types, further sentences.
        none: the class that says that none of the others holds, or `None`. It is not in `classes`.
        none_info: its words.
        left_out: classes that take no part, for they are a rest without a meaning of their own. They may be in
            `classes` or not.
        domains: for each domain, its classes; empty where there are none.
        parents: coarse classes, of which the classes are kinds; empty where there are none.
        source: where the classes come from.

    Raises:
        ValueError: the parts do not fit each other.
    """

    name: str
    version: int
    task: str
    classes: Mapping[str, LabelInfo]
    types: Mapping[str, str] = field(default_factory=dict)
    type_phrasings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    none: str | None = None
    none_info: LabelInfo | None = None
    left_out: tuple[str, ...] = ()
    domains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source: str = ""
    parents: Mapping[str, LabelInfo] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("task", self.task, TASKS)
        if (self.none is None) != (self.none_info is None):
            raise ValueError(f"none and none_info must be given together, got {self.none!r} and {self.none_info!r}")
        if self.none in self.classes:
            raise ValueError(f"none must not be one of the classes, got {self.none!r}")
        self._check_names()
        self._check_types()
        for raw, info in self.classes.items():
            _check_known(f"class {raw!r}: parent", [info.parent] if info.parent else [], self.parents, "parents")
        for domain, names in self.domains.items():
            _check_known(f"domain {domain!r}: its classes", names, self.classes, "classes of the label set")

    def words_of(self, raw: str, where: str = "") -> LabelInfo:
        """The words of a class, of the one that is `none`, too.

        Raises:
            ValueError: the class is not known; the nearest known one is named.
        """
        known = self._all_classes()
        if raw not in known:
            place = f"{where}: " if where else ""
            raise ValueError(f"{place}class {raw!r} is not in the label set {self.name!r}; {nearest(raw, known)}")
        return known[raw]

    def in_words(self, posts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Copies of posts whose labels are the plain names instead of the dataset's own.

        Raises:
            ValueError: a label is not known, naming the post, the class and the nearest known one.
        """
        return [{**post, "label": self.words_of(post["label"], f"post {post.get('id')!r}").name} for post in posts]

    def descriptions(self) -> dict[str, str]:
        """For each class that has one, `none` not among them, its sentence by its plain name."""
        return {info.name: info.description for info in self.classes.values() if info.description}

    def texts(self) -> dict[str, tuple[str, ...]]:
        """For each class, `none` not among them, all texts of [`LabelInfo.texts`] by its plain name."""
        return {info.name: info.texts() for info in self.classes.values()}

    def type_texts(self) -> dict[str, tuple[str, ...]]:
        """For each type of heads and tails its sentences."""
        return {name: (sentence, *self.type_phrasings.get(name, ())) for name, sentence in self.types.items()}

    def allowed_types(self) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        """For each relation, by its plain name, the types that its head and its tail may have."""
        if not self.types:
            return {}
        return {info.name: (info.head_types, info.tail_types) for info in self.classes.values()}

    def role_types(self) -> tuple[dict[str, tuple[tuple[str], tuple[str]]], dict[str, tuple[str, ...]]]:
        """The roles of all relations, to be read as types: `label_types` and `type_descriptions`, by plain name.

        Raises:
            ValueError: a relation has no roles.
        """
        types: dict[str, tuple[tuple[str], tuple[str]]] = {}
        texts: dict[str, tuple[str, ...]] = {}
        for info in self.classes.values():
            if not info.head_role:
                raise ValueError(f"head_role: {info.name!r} of the label set {self.name!r} has none")
            head, tail = f"head of {info.name}", f"tail of {info.name}"
            if info.head_role == info.tail_role:
                head = tail = f"end of {info.name}"
            types[info.name] = ((head,), (tail,))
            texts |= {head: info.head_role, tail: info.tail_role}
        return types, texts

    def inverses(self) -> dict[str, str]:
        """For each relation that has one, by its plain name, its name from tail to head."""
        return {info.name: info.inverse for info in self.classes.values() if info.inverse}

    def _all_classes(self) -> Mapping[str, LabelInfo]:
        if self.none is None or self.none_info is None:
            return self.classes
        return {**self.classes, self.none: self.none_info}

    def _check_names(self) -> None:
        owners: dict[str, str] = {}
        for raw, info in self._all_classes().items():
            if info.name in owners:
                raise ValueError(
                    f"class {raw!r}: name must be unique, got {info.name!r}, as {owners[info.name]!r} has"
                )
            owners[info.name] = raw

    def _check_types(self) -> None:
        _check_known("type_phrasings", self.type_phrasings, self.types, "types")
        for raw, info in self.classes.items():
            if info.inverse and self.task != "relation":
                raise ValueError(f"class {raw!r}: inverse belongs to relations, got {info.inverse!r}")
            if bool(info.head_role) != bool(info.tail_role) or (info.head_role and self.task != "relation"):
                raise ValueError(
                    f"class {raw!r}: head_role and tail_role belong to relations, and together, got "
                    f"{info.head_role!r} and {info.tail_role!r}"
                )
            if info.inverse == info.name and info.head_role != info.tail_role:
                raise ValueError(
                    f"class {raw!r}: head_role and tail_role of a symmetric relation must be the same, got "
                    f"{info.head_role!r} and {info.tail_role!r}"
                )
            for key in ("head_types", "tail_types"):
                names = getattr(info, key)
                if bool(names) != (self.task == "relation" and bool(self.types)):
                    raise ValueError(
                        f"class {raw!r}: {key} belong to relations, and to each if there are types, got {names!r}"
                    )
                _check_known(f"class {raw!r}: {key}", names, self.types, "types")


def _check_known(what: str, names: Iterable[str], known: Mapping[str, Any], of: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{what} must be among the {of}, got {name!r}; {nearest(name, known)}")


def name_from_tag(tag: str) -> str:
    """Words instead of a tag: split at separators and inner capitals, in small letters."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", re.sub(r"[\W_]+", " ", tag))
    return parted.strip().lower() or tag


def read_label_set(path: str | os.PathLike[str]) -> LabelSet:
    """Read a file of `configuration/labels/`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it breaks the format; the message names file, class, rule and value.
    """
    content = read_json_object(path)
    try:
        return _label_set(content)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error


def _label_set(content: Mapping[str, Any]) -> LabelSet:
    required = ("name", "version", "source", "task", "classes")
    check_keys(content, required, ("types", "type_phrasings", "none", "left_out", "domains", "parents"))
    version = content["version"]
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"version must be an integer from 1, got {version!r}")
    check_choice("task", content["task"], TASKS)
    for key in ("classes", "types", "type_phrasings", "domains", "parents"):
        if not isinstance(content.get(key, {}), Mapping):
            raise ValueError(f"{key} must be an object, got {content[key]!r:.80}")
    if not content["classes"]:
        raise ValueError("classes must not be empty, got {}")
    types = ("head_types", "tail_types") if content["task"] == "relation" and content.get("types") else ()
    classes = {raw: _label_info(raw, entry, types) for raw, entry in content["classes"].items()}
    none = none_info = None
    if content.get("none") is not None:
        entry = content["none"]
        try:
            check_keys(entry, ("class", "name", "description"))
        except ValueError as error:
            raise ValueError(f"none: {error}") from error
        none = _text(entry["class"], "none: class")
        none_info = LabelInfo(
            _text(entry["name"], f"class {none!r}: name"),
            _text(entry["description"], f"class {none!r}: description"),
        )
    return LabelSet(
        name=_text(content["name"], "name"),
        version=version,
        source=_text(content["source"], "source"),
        task=content["task"],
        classes=classes,
        types={name: _text(sentence, f"type {name!r}") for name, sentence in content.get("types", {}).items()},
        type_phrasings={
            name: _texts(sentences, f"type {name!r}: phrasings")
            for name, sentences in content.get("type_phrasings", {}).items()
        },
        none=none,
        none_info=none_info,
        left_out=_texts(content["left_out"], "left_out") if "left_out" in content else (),
        domains={name: _texts(names, f"domain {name!r}") for name, names in content.get("domains", {}).items()},
        parents={raw: _label_info(raw, entry) for raw, entry in content.get("parents", {}).items()},
    )


def _label_info(raw: str, entry: Any, types: Iterable[str] = ()) -> LabelInfo:
    place = f"class {raw!r}"
    try:
        check_keys(
            entry, ("name", "description", *types), ("phrasings", "parent", "inverse", "head_role", "tail_role")
        )
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    return LabelInfo(
        name=_text(entry["name"], f"{place}: name"),
        description=_text(entry["description"], f"{place}: description"),
        **{key: _texts(entry[key], f"{place}: {key}") for key in types},
        **{
            key: _texts(entry[key], f"{place}: {key}")
            for key in ("phrasings", "head_role", "tail_role")
            if key in entry
        },
        parent=_text(entry["parent"], f"{place}: parent") if "parent" in entry else "",
        inverse=_text(entry["inverse"], f"{place}: inverse") if "inverse" in entry else "",
    )


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip() or value != value.strip():
        raise ValueError(f"{what} must be a string that is not empty, without white space around it, got {value!r}")
    return value


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{what} must be a list of strings that is not empty, got {value!r}")
    names = tuple(_text(name, what) for name in value)
    if len(set(names)) != len(names):
        raise ValueError(f"{what} must not hold a string twice, got {value!r}")
    return names
