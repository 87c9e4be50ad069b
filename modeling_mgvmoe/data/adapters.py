"""The data sets that `examples/prepare_data.py` reads, by the names of its sub-commands.

To add one, write a file with its reader and its [`DatasetAdapter`], and name that here.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from .crossner import CONLL
from .crossre import CROSSRE
from .fewrel import FEWREL
from .implicitave import IMPLICITAVE
from .mnre import MNRE
from .multimodal_ner import MULTIMODAL_NER
from .parquet_folder import check_output, check_public, push_prepared, write_prepared
from .prepare import DatasetAdapter, PreparedData, check_share, hold_out_seen
from .rows import add_rows_flags, prepare_rows
from .splits import SPLITS
from .wikidiverse import WIKIDIVERSE
from .zero_shot_data import sketchbook_data


def prepare_sketchbook(seed: int = 0, posts_per_class: int = 60, eval_posts_per_class: int = 20) -> PreparedData:
    """The built-in posts, typing and relations together; arguments of [`sketchbook_data`]."""
    return PreparedData("sketchbook", f"seed-{seed}", sketchbook_data(seed, posts_per_class, eval_posts_per_class))


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of split and posts (default 0)")
    parser.add_argument("--posts_per_class", type=int, default=60, help="in training (default 60)")
    parser.add_argument("--eval_posts_per_class", type=int, default=20, help="elsewhere (default 20)")


def _prepare(arguments: argparse.Namespace, configuration: str | os.PathLike[str]) -> PreparedData:
    return prepare_sketchbook(arguments.seed, arguments.posts_per_class, arguments.eval_posts_per_class)


SKETCHBOOK = DatasetAdapter("sketchbook", "the built-in drawings and sentences, from a seed", _add_flags, _prepare)

ROWS = DatasetAdapter(
    "rows", "your own rows: JSON lines, CSV, Parquet, a folder, a Hub dataset", add_rows_flags, prepare_rows
)

ADAPTERS = {
    adapter.name: adapter
    for adapter in (MNRE, MULTIMODAL_NER, WIKIDIVERSE, IMPLICITAVE, CONLL, CROSSRE, FEWREL, SKETCHBOOK, ROWS)
}
# By the name of a prepared data set, why it may not be passed on as it is written.
NOT_PUBLIC = {
    name: adapter.not_public
    for adapter in ADAPTERS.values()
    if adapter.not_public
    for name in (adapter.name, *adapter.other_names)
}


def prepare_command(
    argv: Sequence[str], configuration: str | os.PathLike[str], description: str | None = None
) -> dict[str, int]:
    """Read the command line, prepare a data set, print what was found and write it.

    Args:
        argv: the name of a data set and its flags.
        configuration: folder with `labels/` and `splits/`.
        description: for the help.

    Returns:
        Number of posts by file.

    Raises:
        SystemExit: the command line is not understood, or what it asks for fails; the message says why.
    """
    parser = _parser(description)
    arguments = parser.parse_args(argv)
    push = arguments.push_to_hub is not None
    if arguments.private and not push:
        parser.error("--private: only what is pushed with --push-to-hub can be private")
    try:
        check_output(arguments.output_dir, arguments.overwrite)
        check_share(arguments.seen_test_share)
        if push:
            check_public(arguments.dataset, arguments.private)
        prepared = hold_out_seen(
            ADAPTERS[arguments.dataset].prepare(arguments, configuration), arguments.seen_test_share
        )
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    written = write_prepared(prepared, arguments.output_dir, arguments.overwrite, progress=True)
    print(_report(prepared, arguments.output_dir))
    if push:
        print(f"pushed: {push_prepared(arguments.output_dir, arguments.push_to_hub, arguments.private)}")
    return written


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    kinds = parser.add_subparsers(
        dest="dataset", required=True, title="data sets", description="Each has a --help of its own."
    )
    for name, adapter in ADAPTERS.items():
        sub = kinds.add_parser(name, help=adapter.help, description=adapter.help, allow_abbrev=False)
        sub.add_argument("--output_dir", "--output-dir", required=True, help="folder to write; new, or empty")
        sub.add_argument("--overwrite", action="store_true", help="replace a folder that was written so before")
        sub.add_argument(
            "--seen_test_share",
            "--seen-test-share",
            type=float,
            default=0.0,
            help="share of the training classes' posts that is held out of training for seen_test.parquet (default 0)",
        )
        sub.add_argument("--push_to_hub", "--push-to-hub", metavar="USER/NAME", help="push it as a data set")
        sub.add_argument("--private", action="store_true", help="nobody else may see what is pushed")
        adapter.add_flags(sub)
    return parser


def _report(prepared: PreparedData, folder: str | os.PathLike[str]) -> str:
    lines = [f"{name}: {counts}" for name, counts in prepared.counts.items()]
    lines.append(f"{os.fspath(folder)}: {prepared.dataset}, split {prepared.split}")
    for name, posts in prepared.parts().items():
        pictures = sum(post["image"] is not None for post in posts)
        classes = f" of {sum(map(len, prepared.data.labels[name].values()))} classes" if name in SPLITS else ""
        lines.append(f"  {name}.parquet: {len(posts):,} posts{classes}, {pictures:,} with a picture")
    if prepared.left_out:
        names = ", ".join(prepared.left_out)
        lines.append(f"  left out: {sum(prepared.left_out.values()):,} posts ({names})")
    return "\n".join(lines)
