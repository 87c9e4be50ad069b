"""Files as other people wrote them, read strictly: a slip is named with its place and not passed over."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def as_paths(paths: Paths) -> list[str]:
    """One path or several, as a list of strings."""
    return [os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """The lines of a text file in UTF-8 with their numbers, from 1, and without what ends them.

    A newline ends a line, with a carriage return before it or not: posts hold other characters that Python's universal
    newlines would take for an end. Only in a file without a single newline do carriage returns end the lines.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not in UTF-8.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise FileNotFoundError(f"paths: the file {name!r} does not exist")
    # "utf-8-sig" drops the mark that some editors put at the beginning of a file.
    with open(name, encoding="utf-8-sig", newline="\n") as file:
        try:
            for number, line in enumerate(file, 1):
                if number == 1 and not line.endswith("\n"):
                    yield from enumerate(line.removesuffix("\r").split("\r"), 1)
                else:
                    yield number, line.removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}: a text file in UTF-8 is needed, {error}") from error


def read_json(path: str | os.PathLike[str], argument: str = "path") -> Any:
    """The value in a UTF-8 JSON file, whose path messages call `argument`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no JSON, or an object in it has a key twice; the message names the file.
    """
    name = os.fspath(path)
    if not os.path.exists(name) or os.path.isdir(name):  # a pipe is no file, and can be read
        raise FileNotFoundError(f"{argument}: the file {name!r} does not exist")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            raise ValueError(f"keys must be distinct, got twice: {', '.join(map(repr, twice))}")
        return content

    with open(name, encoding="utf-8-sig") as file:
        try:
            return json.load(file, object_pairs_hook=unique)
        except (ValueError, RecursionError) as error:  # JSON's and Unicode's errors; nested too deep
            raise ValueError(f"{name}: a JSON file is needed, {error}") from error


def same_file(path: str, other: str) -> bool:
    """Whether two paths name one file that is there."""
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)


def read_json_object(path: str | os.PathLike[str], argument: str = "path") -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        FileNotFoundError, ValueError: as for [`read_json`], and a ValueError where it holds another value.
    """
    content = read_json(path, argument)
    if not isinstance(content, dict):
        raise ValueError(f"{os.fspath(path)}: a JSON object is needed, got {content!r:.80}")
    return content


def read_json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, Any]]:
    """The values of a file with one JSON value a line, with the numbers of their lines; blank lines are skipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no JSON; the message names file and line.
    """
    for number, line in read_lines(path):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{os.fspath(path)}, line {number}: one JSON value is needed, {error}") from error


def check_keys(content: Any, required: Iterable[str], optional: Iterable[str] = ()) -> None:
    """Refuse what is no mapping, a key that is not known, and one that is missing.

    Raises:
        ValueError: naming the key; for an unknown one, also the nearest known one.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"an object with keys is needed, got {content!r:.80}")
    required = list(required)
    known = [*required, *optional]
    for key in content:
        if key not in known:
            raise ValueError(f"unknown key {key!r}; {nearest(key, known)}")
    missing = [key for key in required if key not in content]
    if missing:
        raise ValueError(
            f"{', '.join(map(repr, missing))} must be given, got {', '.join(map(repr, content)) or 'nothing'}"
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that is spelt most like it."""
    found = difflib.get_close_matches(str(name), [str(one) for one in known], n=1, cutoff=0.0)
    return f"did you mean {found[0]!r}?" if found else "none is known"
