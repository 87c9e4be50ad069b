"""Prepare data for training: a data set as a folder of Parquet files, or the features of a frozen vision tower.

    python examples/prepare_data.py mnre --data FOLDER [--images FOLDER] --output_dir OUT [--split mnre:seed-0]
    python examples/prepare_data.py sketchbook --output_dir OUT [--seed 0]
    python examples/prepare_data.py rows --data train.jsonl --output_dir OUT
    python examples/prepare_data.py --help               all data sets
    python examples/prepare_data.py mnre --help          the flags of one
    python examples/prepare_data.py --cache-image-features [FOLDER] --config RECIPE [--dataset ...] [--batch_size 32]

A data set's command reads and checks the raw download, or your own rows, prints what it found, and writes posts,
images inside, and the words of the labels into a folder that `examples/train.py --dataset OUT` reads. The README says
where to get the data.

The last one, whose flags `--cache-image-features --help` lists, runs the tower once per distinct picture. The recipe
and its flags are those of `examples/train.py`: they name the posts (a folder of Parquet files or the sketchbook) and
the model, whose tower and image processor run. Without FOLDER, the recipe's `image_feature_cache`. Stopped at any
moment and started again, it goes on. Under `accelerate launch --num_processes N` the work is shared.
"""

import argparse
import os
import sys

import torch
from transformers.utils.logging import disable_progress_bar

from modeling_mgvmoe.cli.errors import one_line
from modeling_mgvmoe.cli.prepare import prepare_command
from modeling_mgvmoe.data.feature_cache import ImageFeatureCache, build_feature_cache, check_cache_arguments
from modeling_mgvmoe.inference.model_folder import check_output_folder
from modeling_mgvmoe.training.arguments import parse_arguments
from modeling_mgvmoe.training.build import build_model, check_sources, load_data
from modeling_mgvmoe.training.launch import patient_state

CONFIGURATION = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "configuration")


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
            f"{summary['records']:,} records: {summary['with_picture']:,} with a picture ({summary['distinct']:,} "
            f"distinct), {summary['without']:,} without, {summary['missing']:,} with a missing one, "
            f"{summary['broken']:,} with a broken one\n"
            f"{folder}: {len(cache):,} pictures of {cache.tokens} x {cache.width} numbers in half precision, "
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
        help="cache the features of every distinct picture in FOLDER",
    )
    parser.add_argument("--batch_size", type=int, default=32, help="pictures in a run of the tower (default 32)")
    parser.add_argument("--shard_size", type=int, default=128, help="pictures in a file (default 128)")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that decode pictures (default 0)")
    arguments, flags = parser.parse_known_args(argv)
    disable_progress_bar()  # of loading weights; the pictures have their own
    return cache_image_features(arguments.cache_image_features, arguments, flags)


if __name__ == "__main__":
    main()
