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

from ..evaluation.command import add_evaluation_flags as add_flags
from ..evaluation.command import evaluation_arguments
from ..inference.model_folder import check_packages
from .errors import usage

__all__ = ["add_flags", "run"]


def run(flags: argparse.Namespace, argv: Sequence[str]) -> None:
    """Evaluate and print.

    Raises:
        UsageError: a flag is wrong, or a folder lacks what the protocol needs.
    """
    check_packages("demo", "datasets", "matplotlib")
    with usage():
        arguments = evaluation_arguments(flags, shlex.join(["mgvmoe", *argv]))
    from ..data.progress_bar import hide_bars_of_libraries
    from ..evaluation.runs import run_evaluation

    hide_bars_of_libraries()
    # The tables are for a person.
    with contextlib.redirect_stdout(sys.stderr if flags.json else sys.stdout):
        run_evaluation(arguments)
    if flags.json:
        with open(os.path.join(arguments.output_dir, f"{arguments.protocol}.json"), encoding="utf-8") as file:
            print(file.read(), end="")
