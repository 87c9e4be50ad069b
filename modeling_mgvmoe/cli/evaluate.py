"""Score a model on classes that it was not trained on, beside what needs no training.

    mgvmoe evaluate --model FOLDER --dataset sketchbook
    mgvmoe evaluate --model 'runs/{seed}/model' --dataset FOLDER --protocol generalised --seeds 0 1 2

Protocols: "unseen", candidates are the unseen classes; "seen", the same for classes that were trained on;
"generalised", seen and unseen ones together; "open", posts without a class are to be rejected. A table per task is
printed, with --json all numbers; these, images and a report go to the output folder.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from ..data.flags import FlagParser
from ..evaluation.command import add_evaluation_flags as add_flags
from ..evaluation.command import evaluation_arguments
from ..inference.model_folder import check_packages
from .errors import UsageError, one_line, usage

__all__ = ["add_flags", "main", "run"]


def run(flags: argparse.Namespace, argv: Sequence[str]) -> None:
    """Evaluate and print.

    Args:
        flags: of [`add_flags`].
        argv: as typed, for the report.

    Raises:
        UsageError: a flag is wrong, or a folder lacks what the protocol needs.
    """
    # The tables are for a person.
    with contextlib.redirect_stdout(sys.stderr if flags.json else sys.stdout):
        arguments, _ = _evaluate(flags, argv)
    if flags.json:
        with open(os.path.join(arguments.output_dir, f"{arguments.protocol}.json"), encoding="utf-8") as file:
            print(file.read(), end="")


@one_line()
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluate and return the results by task and seed."""
    argv = sys.argv[1:] if argv is None else argv
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add_flags(parser)
    flags = parser.parse_args(argv)
    try:
        return _evaluate(flags, ["evaluate", *argv])[1]
    except UsageError as error:
        parser.error(" ".join(str(error).split()))


def _evaluate(flags: argparse.Namespace, argv: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """The arguments of the evaluation, and its results by task and seed."""
    check_packages("demo", "datasets", "matplotlib")
    with usage():
        arguments = evaluation_arguments(flags, shlex.join(["mgvmoe", *argv]))
    from ..data.progress_bar import hide_bars_of_libraries
    from ..evaluation.runs import run_evaluation

    hide_bars_of_libraries()
    return arguments, run_evaluation(arguments)
