"""Prepare data for training: a dataset as a folder of Parquet files, or the features of a frozen vision tower.

    mgvmoe prepare mnre --data FOLDER [--images FOLDER] --output_dir OUT [--split mnre:seed-0]
    mgvmoe prepare sketchbook --output_dir OUT [--seed 0]
    mgvmoe prepare rows --data train.jsonl --output_dir OUT
    mgvmoe prepare --help               all datasets
    mgvmoe prepare mnre --help          the flags of one
    mgvmoe prepare --cache-image-features [FOLDER] --config RECIPE [--dataset ...] [--batch_size 32]

A dataset's command reads and checks the raw download, or your own rows, prints what it found, and writes posts,
images inside, and the words of the labels into a folder that `mgvmoe train --dataset OUT` reads. The README says
where to get the data.

The last one, whose flags `--cache-image-features --help` lists, runs the tower once per distinct image. The recipe
and its flags are those of `mgvmoe train`: they name the posts (a folder of Parquet files or the sketchbook) and
the model, whose tower and image processor run. Without FOLDER, the recipe's `image_feature_cache`. Stopped at any
moment and started again, it resumes. Under `accelerate launch --num_processes N` the work is shared.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..data.adapters import ADAPTERS, check_public, push_prepared
from ..data.feature_cache import ImageFeatureCache, build_feature_cache, check_cache_arguments
from ..data.flags import FlagParser, with_our_names
from ..data.prepare import (
    PreparedData,
    check_output,
    check_share,
    hold_out_seen,
    write_prepared,
)
from ..data.splits import SPLITS
from ..inference.model_folder import check_output_folder
from ..training.arguments import parse_arguments
from ..training.build import build_model, check_sources, load_data
from ..training.launch import patient_state
from .errors import one_line

# `labels/` and `splits/` lie beside the package in a checkout.
CONFIGURATION = Path(__file__).resolve().parents[2] / "configuration"


def prepare_command(
    argv: Sequence[str], configuration: str | os.PathLike[str], description: str | None = None
) -> dict[str, int]:
    """Read the command line, prepare a dataset, print what was found and write it.

    Args:
        argv: the name of a dataset and its flags.
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
        if push:  # again: rows may be those of a dataset that was prepared before
            check_public(prepared.dataset, arguments.private)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    written = write_prepared(prepared, arguments.output_dir, arguments.overwrite, progress=True)
    print(_report(prepared, arguments.output_dir))
    if push:
        print(f"pushed: {push_prepared(arguments.output_dir, arguments.push_to_hub, arguments.private)}")
    return written


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = FlagParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    kinds = parser.add_subparsers(
        dest="dataset", required=True, title="datasets", description="Each has its own --help."
    )
    for name, adapter in ADAPTERS.items():
        sub = kinds.add_parser(name, help=adapter.help, description=adapter.help, allow_abbrev=False)
        sub.add_argument("--output_dir", required=True, help="folder to write; new, or empty")
        sub.add_argument("--overwrite", action="store_true", help="replace a folder that was written so before")
        sub.add_argument(
            "--seen_test_share",
            type=float,
            default=0.0,
            help="share of the training classes' posts that is held out of training for seen_test.parquet (default 0)",
        )
        sub.add_argument("--push_to_hub", metavar="USER/NAME", help="push it as a dataset")
        sub.add_argument("--private", action="store_true", help="nobody else may see what is pushed")
        adapter.add_flags(sub)
    return parser


def _report(prepared: PreparedData, folder: str | os.PathLike[str]) -> str:
    lines = [f"{name}: {counts}" for name, counts in prepared.counts.items()]
    lines.append(f"{os.fspath(folder)}: {prepared.dataset}, split {prepared.split}")
    for name, posts in prepared.parts().items():
        images = sum(post["image"] is not None for post in posts)
        classes = f" of {sum(map(len, prepared.data.labels[name].values()))} classes" if name in SPLITS else ""
        words = sum(post.get("image_text") is not None for post in posts)
        told = f", {words:,} with an image text" if any("image_text" in post for post in posts) else ""
        lines.append(f"  {name}.parquet: {len(posts):,} posts{classes}, {images:,} with an image{told}")
    if prepared.left_out:
        names = ", ".join(prepared.left_out)
        lines.append(f"  left out: {sum(prepared.left_out.values()):,} posts ({names})")
    return "\n".join(lines)


def cache_image_features(folder: str, arguments: argparse.Namespace, flags: list[str]) -> dict[str, int]:
    """Fill a cache, print what was counted and return it."""
    model_arguments, data_arguments, training_arguments = parse_arguments(flags)
    folder = folder or data_arguments.image_feature_cache or ""
    if not folder:
        raise SystemExit(
            "--cache-image-features: a folder is needed, here or as image_feature_cache in the recipe (got none)"
        )
    check_output_folder("cache-image-features", folder)
    check_cache_arguments(arguments.batch_size, arguments.shard_size, arguments.num_workers)
    check_sources(model_arguments)
    import torch

    if training_arguments.num_threads is not None:
        torch.set_num_threads(training_arguments.num_threads)
    # A process may wait long for the others: while the first looks through the posts, and after an uneven restart.
    state = patient_state()
    data = load_data(data_arguments)
    model, processor = build_model(model_arguments, data, training_arguments.seed)
    summary = build_feature_cache(
        folder,
        data.posts,
        model.to(state.device),
        processor,
        batch_size=arguments.batch_size,
        shard_size=arguments.shard_size,
        num_workers=arguments.num_workers,
        state=state,
        progress=state.is_main_process,
    )
    if state.is_main_process:
        cache = ImageFeatureCache(folder, verify=False)
        print(
            f"{summary['records']:,} records: {summary['with_picture']:,} with an image ({summary['distinct']:,} "
            f"distinct), {summary['without']:,} without, {summary['missing']:,} with a missing one, "
            f"{summary['broken']:,} with a broken one\n"
            f"{folder}: {len(cache):,} images of {cache.tokens} x {cache.width} numbers in half precision, "
            f"{len(cache) * cache.tokens * cache.width * 2 / 2**20:,.1f} MiB in {len(cache.files)} files"
        )
    return summary


@one_line()
def main(argv: list[str] | None = None) -> dict[str, int]:
    """Read the command line and run what it asks for."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or not argv[0].startswith("-") or argv[0] in ("-h", "--help"):
        return prepare_command(argv, CONFIGURATION, __doc__)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--cache-image-features",
        "--cache_image_features",
        metavar="FOLDER",
        nargs="?",
        const="",
        required=True,
        help="cache the features of every distinct image in FOLDER",
    )
    parser.add_argument("--batch_size", type=int, default=32, help="images in a run of the tower (default 32)")
    parser.add_argument("--shard_size", type=int, default=128, help="images in a file (default 128)")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that decode images (default 0)")
    arguments, flags = parser.parse_known_args(with_our_names(argv, parser._option_string_actions))
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading weights; the images have their own
    return cache_image_features(arguments.cache_image_features, arguments, flags)
