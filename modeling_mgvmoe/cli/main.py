"""Reads the command line, runs a command, and turns what goes wrong into one line and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__
from ..data.flags import FlagParser
from ..inference.model_folder import check_packages
from .errors import FAILED, GOOD, MISUSED, PARTIAL, STOPPED, TRACEBACK, Ended, UsageError, one_line

PROGRAM = "mgvmoe"
DESCRIPTION = f"""Zero-shot multimodal information extraction with MG-VMoE.

    {PROGRAM} predict --text "Kelo sails at dawn" --mention-text Kelo --labels boat bird
    {PROGRAM} predict --model FOLDER --input posts.jsonl --output answers.jsonl --labels boat bird
    {PROGRAM} prepare sketchbook --output_dir FOLDER
    {PROGRAM} train --config RECIPE --dataset FOLDER --output_dir RUN
    {PROGRAM} evaluate --model RUN/model --dataset FOLDER

Exit code {GOOD}: done; {MISUSED}: the command line is wrong, for predict and evaluate also a file that it names;
{FAILED}: it failed; {PARTIAL}: done, but some posts have an error; {STOPPED}: stopped with Ctrl-C.
"""
# Module of each command, with `add_flags(parser)` and `run(flags, argv)`, which may return an exit code, and its line
# of help.
COMMANDS = {
    "predict": "score labels for one post, or for every post of a file",
    "evaluate": "score a model on classes that it was not trained on",
}
# Module of each command that reads its flags itself, with `main(argv)`, whose result `--json` prints, and its help.
PROGRAMS = {
    "extract": "extract a graph from any number of posts",
    "train": "train a model by a recipe",
    "prepare": "bring a dataset, or your own rows, into a folder that training reads",
    "explain": "draw what an answer is made of, or which experts are used",
    "export": "export a model to ONNX",
    "app": "start the demo page, or write it as a Space",
}


class OneLineParser(FlagParser):
    """Says what is wrong in one line, without the list of all flags."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISUSED, f"{self.prog}: error: {_one_line(message)} ({self.prog} --help lists the flags)\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = OneLineParser(
        prog=PROGRAM,
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        module = importlib.import_module(f".{name}", __package__)
        own = commands.add_parser(
            name,
            help=text,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_flags(own)
        own.add_argument("--json", action="store_true", help="print the answer as JSON")
        own.add_argument("--traceback", action="store_true", help="where it fails, show where in the code")
        own.set_defaults(run=module.run)
    for name, text in PROGRAMS.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


# The extra of a command whose module cannot be imported without it, and what is imported of it.
EXTRAS = {"extract": ("graph", "accelerate", "datasets", "pyarrow", "rdflib")}
# What every one of them takes here, and its own help does not know.
MORE_HELP = """
also:
  --json       print the result as JSON, and all else on standard error
  --traceback  where it fails, show where in the code"""


def run_program(name: str, words: Sequence[str]) -> int:
    """Run a command of `PROGRAMS`; with `--json` its result goes to standard output and all else to standard error."""
    as_json, before, code = "--json" in words, sys.argv, GOOD
    if "--traceback" in words:
        os.environ[TRACEBACK] = "1"  # also of the processes that it starts
    words = [word for word in words if word not in ("--json", "--traceback")]
    sys.argv = [f"{PROGRAM} {name}", *words]  # what its help and its messages call it
    try:
        # A package of an extra that is not installed is named in one line.
        with one_line(), contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
            check_packages(*EXTRAS.get(name, ("",)))
            result = importlib.import_module(f".{name}", __package__).main(words)
    except Ended as end:
        result, code = end.result, int(str(end.code))
    except SystemExit as end:
        if not end.code and {"-h", "--help"} & set(words):
            print(MORE_HELP)
        raise
    finally:
        sys.argv = before
    if as_json and result is not None:
        print(json.dumps(result, default=lambda value: getattr(value, "__dict__", str(value)), ensure_ascii=False))
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the words after the program's name; default: those of this process.

    Returns:
        The exit code. Standard output carries the answer and nothing else, messages go to standard error.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in PROGRAMS:
        return run_program(words[0], words[1:])
    flags = make_parser().parse_args(words)
    name = f"{PROGRAM} {flags.command}"
    try:
        code = flags.run(flags, words) or GOOD
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has stopped reading, as `head` does. Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return STOPPED
    except Exception as error:  # whatever fails, below a library too, is reported in one line
        if flags.traceback:
            raise
        misused = isinstance(error, UsageError)
        kind = "" if isinstance(error, (ValueError, OSError, ImportError)) else f"{type(error).__name__}: "
        print(f"{name}: error: {kind}{_one_line(str(error)) or type(error).__name__}", file=sys.stderr)
        return MISUSED if misused else FAILED
    return code


def _one_line(message: str) -> str:
    return " ".join(message.split())
