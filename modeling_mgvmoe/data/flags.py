"""Flags that a command does not know: told before anything else, with the nearest one."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn


def unknown_flags(words: Sequence[str], known: Iterable[str]) -> str | None:
    """The error in a command line's flags, or `None`.

    Args:
        words: of the command line.
        known: flags with their dashes.
    """
    known = sorted(flag for flag in known if flag.startswith("--"))
    told = []
    for word in words:
        if word == "--":
            break
        flag = word.partition("=")[0]
        if word.startswith("--") and flag not in known:
            (nearest,) = difflib.get_close_matches(flag, known, n=1, cutoff=0.0)
            told.append(f"{flag} (did you mean {nearest}?)")
    return f"unrecognized arguments: {', '.join(told)}" if told else None


# Names of flags in transformers' own scripts, where ours are shorter (`train` has theirs), and as version 0.1 had
# them.
OTHER_NAMES = {
    "--model_name_or_path": "--model",
    "--model": "--model_name_or_path",
    "--dataset_name": "--dataset",
    "--label_template": "--hypothesis_template",
}


def with_our_names(words: Sequence[str], known: Iterable[str]) -> list[str]:
    """A command line with every flag as it is declared: dashes or underscores, and the names of [`OTHER_NAMES`]."""
    known = list(known)
    spelled, found = {_underlined(flag): flag for flag in known}, []
    for word in words:
        flag, equals, value = word.partition("=")
        name = _underlined(flag)
        ours = spelled.get(name) or spelled.get(OTHER_NAMES.get(name, ""))
        found.append(word if flag in known or ours is None else ours + equals + value)
    return found


def _underlined(flag: str) -> str:
    return "--" + flag[2:].replace("-", "_") if flag.startswith("--") else flag


class FlagParser(argparse.ArgumentParser):
    """Reports unknown flags first, and any error in one line; takes dashes for underscores and transformers' names."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2, without the usage, which hides the message: `--help` shows it."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """See `argparse.ArgumentParser.error`."""
        words = sys.argv[1:] if args is None else list(args)
        known = _flags_of(self, words)
        words = with_our_names(words, known)
        fault = unknown_flags(words, known)
        if fault:
            needed = [one for one in self._actions if isinstance(one, argparse._SubParsersAction) and one.required]
            if needed and not needed[0].choices.keys() & set(words):
                fault = f"a command is needed before its flags: {' or '.join(needed[0].choices)}"
            self.error(fault)
        return super().parse_args(words, namespace)


class RenamedFlag(argparse.Action):
    """The old name of a flag: works and says what it is called now."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Set the value under the new name, which is that of `dest`."""
        print(f"{parser.prog}: warning: {option_string} is now called --{self.dest}", file=sys.stderr)
        setattr(namespace, self.dest, True if self.nargs == 0 else values)


def _flags_of(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """Flags of a parser, and of the command that the words name, or of all its commands."""
    found: list[str] = []
    for action in parser._actions:
        found += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            named = [word for word in words if word in action.choices][:1]
            for name in named or action.choices:
                found += _flags_of(action.choices[name], words)
    return found
