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
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..data.flags import FlagParser
from ..inference.model_folder import DTYPES, check_packages
from .errors import UsageError, one_line, usage

if TYPE_CHECKING:
    from ..evaluation.runs import EvaluationArguments


def add_loading_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Arguments of [`load_model`], from the flags."""
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")
    parser.add_argument(
        "--dtype", help=f"of the weights: {', '.join(DTYPES)} (default: as saved; auto: by the hardware)"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run code that an encoder or tokenizer of the model brings along (MG-VMoE itself is the installed one)",
    )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for each field of [`EvaluationArguments`] that a user sets."""
    parser.add_argument("--model", required=True, help="folder or Hub name; {seed} in it is each seed")
    parser.add_argument(
        "--dataset",
        required=True,
        help='"sketchbook" (seeds are its seeds), a prepared FOLDER, or rows of your own: a file, folder or Hub name; '
        "{seed} as above",
    )
    parser.add_argument("--protocol", default="unseen", help="unseen, seen, generalised or open (default unseen)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default 0")
    parser.add_argument("--output_dir", default="runs/evaluation", help="for the files (default runs/evaluation)")
    parser.add_argument(
        "--similarity_model",
        help="untrained text encoder for label similarity; default: that of the model evaluated",
    )
    parser.add_argument("--batch_size", type=int, default=64, help="posts at a time (default 64)")
    parser.add_argument("--max_posts", type=int, help="this many posts of each kind, for a quick look; default all")
    parser.add_argument(
        "--num_neighbors",
        type=int,
        default=0,
        help="posts share their scores with this many nearest ones, label propagation (default 0: with none)",
    )
    add_loading_flags(parser)


def evaluation_arguments(flags: argparse.Namespace, command: str) -> EvaluationArguments:
    """The flags of [`add_flags`], checked.

    Args:
        flags: parsed.
        command: as typed, for the report.

    Raises:
        ValueError, FileNotFoundError: see [`EvaluationArguments`].
    """
    from ..evaluation.runs import EvaluationArguments  # here, for it takes seconds to import what it needs

    names = [field.name for field in fields(EvaluationArguments)]
    given = {name: getattr(flags, name) for name in names if hasattr(flags, name)}
    return EvaluationArguments(**given | {"seeds": tuple(flags.seeds), "command": command})


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
