"""Flags of an evaluation, apart from it: reading them needs neither scikit-learn nor matplotlib."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING

from ..inference.model_folder import DTYPES

if TYPE_CHECKING:
    from .runs import EvaluationArguments


def add_loading_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """How a model is loaded, as [`load_model`] takes it."""
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")
    parser.add_argument(
        "--dtype", help=f"of the weights: {', '.join(DTYPES)} (default: as saved; auto: by the hardware)"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    parser.add_argument(
        "--trust_remote_code",
        "--trust-remote-code",
        action="store_true",
        help="run code that an encoder or tokenizer of the model brings along (MG-VMoE itself is the installed one)",
    )


def add_evaluation_flags(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument(
        "--output_dir", "--output-dir", default="runs/evaluation", help="for the files (default runs/evaluation)"
    )
    parser.add_argument(
        "--similarity_model",
        "--similarity-model",
        help="untrained text encoder for label similarity; default: that of the model evaluated",
    )
    parser.add_argument("--batch_size", "--batch-size", type=int, default=64, help="posts at a time (default 64)")
    parser.add_argument(
        "--max_posts", "--max-posts", type=int, help="this many posts of each kind, for a quick look; default all"
    )
    parser.add_argument(
        "--num_neighbors",
        "--num-neighbors",
        type=int,
        default=0,
        help="posts share their scores with this many nearest ones, label propagation (default 0: with none)",
    )
    add_loading_flags(parser)


def evaluation_arguments(flags: argparse.Namespace, command: str) -> EvaluationArguments:
    """The flags of [`add_evaluation_flags`], checked.

    Args:
        flags: parsed.
        command: as typed, for the report.

    Raises:
        ValueError, FileNotFoundError: see [`EvaluationArguments`].
    """
    from .runs import EvaluationArguments  # here, for it takes seconds to import what it needs

    names = [field.name for field in fields(EvaluationArguments)]
    given = {name: getattr(flags, name) for name in names if hasattr(flags, name)}
    return EvaluationArguments(**given | {"seeds": tuple(flags.seeds), "command": command})
