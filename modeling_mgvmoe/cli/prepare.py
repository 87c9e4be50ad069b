"""The command line of `examples/prepare_data.py`: a raw download in, a folder of Parquet files out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from ..data.adapters import ADAPTERS
from ..data.parquet_folder import check_output, check_public, push_prepared, write_prepared
from ..data.prepare import PreparedData, check_share, hold_out_seen
from ..data.splits import SPLITS


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
