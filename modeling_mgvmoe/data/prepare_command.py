"""The command line of `examples/prepare_data.py`: a raw download in, a folder of Parquet files out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from .labels import read_label_set
from .parquet_folder import check_output, check_public, push_prepared, write_prepared
from .prepare import (
    PreparedData,
    check_share,
    divide_none,
    hold_out_seen,
    prepare_conll,
    prepare_mnre,
    prepare_sketchbook,
    prepare_wikidiverse,
)
from .rows import add_rows_flags, prepare_rows
from .schema import ON_BAD_SPAN
from .splits import SPLITS

DATA_SETS = ("mnre", "wikidiverse", "conll", "sketchbook", "rows")


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
        prepared = hold_out_seen(_prepare(arguments, configuration), arguments.seen_test_share)
        prepared = divide_none(prepared) if arguments.divide_none else prepared
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
    kinds = parser.add_subparsers(dest="dataset", required=True)
    found = {name: kinds.add_parser(name, allow_abbrev=False) for name in DATA_SETS}
    for name, sub in found.items():
        sub.add_argument("--output_dir", "--output-dir", required=True, help="folder to write; new, or empty")
        sub.add_argument("--overwrite", action="store_true", help="replace a folder that was written so before")
        sub.add_argument(
            "--seen_test_share",
            "--seen-test-share",
            type=float,
            default=0.0,
            help="share of the training classes' posts that is held out of training for seen_test.parquet (default 0)",
        )
        sub.add_argument(
            "--divide_none",
            "--divide-none",
            action="store_true",
            help="posts of no class by the data set's own files: none_train.parquet to train with, "
            "none_validation.parquet to fit a threshold with, none.parquet to test on",
        )
        sub.add_argument("--push_to_hub", "--push-to-hub", metavar="USER/NAME", help="push it as a data set")
        sub.add_argument("--private", action="store_true", help="nobody else may see what is pushed")
        if name == "rows":
            add_rows_flags(sub)
        elif name != "sketchbook":
            sub.add_argument("--data", required=True, metavar="FOLDER", help="folder of the raw text files")
            sub.add_argument("--labels", metavar="FILE", help="words of the labels (default: in configuration/labels)")
            sub.add_argument(
                "--on_bad_span",
                "--on-bad-span",
                choices=ON_BAD_SPAN,
                default="skip" if name == "wikidiverse" else "error",
                help="where a mention is not where the file says: refuse the file, or leave the record out",
            )
        if name in ("mnre", "wikidiverse"):
            sub.add_argument("--images", metavar="FOLDER", help="folder of the pictures; without it no post has one")
    found["mnre"].add_argument("--version", type=int, choices=(1, 2), default=2, help="of the data set (default 2)")
    found["mnre"].add_argument(
        "--split", help="FILE:NAME in configuration/splits, or seed-S for any seed (default mnre:seed-0)"
    )
    found["wikidiverse"].add_argument(
        "--split", default="wikidiverse:task-1", help="FILE:NAME in configuration/splits (default wikidiverse:task-1)"
    )
    found["conll"].add_argument("--train_domains", "--train-domains", nargs="+", required=True, metavar="DOMAIN")
    found["conll"].add_argument("--test_domain", "--test-domain", required=True, metavar="DOMAIN")
    found["conll"].add_argument(
        "--split_seed", "--split-seed", type=int, default=0, help="of the choice of validation types (default 0)"
    )
    found["sketchbook"].add_argument("--seed", type=int, default=0, help="of split and posts (default 0)")
    found["sketchbook"].add_argument("--posts_per_class", type=int, default=60, help="in training (default 60)")
    found["sketchbook"].add_argument("--eval_posts_per_class", type=int, default=20, help="elsewhere (default 20)")
    return parser


def _prepare(arguments: argparse.Namespace, configuration: str | os.PathLike[str]) -> PreparedData:
    if arguments.dataset == "sketchbook":
        return prepare_sketchbook(arguments.seed, arguments.posts_per_class, arguments.eval_posts_per_class)
    if arguments.dataset == "rows":
        return prepare_rows(arguments)
    first_version = arguments.dataset == "mnre" and arguments.version == 1
    file = "mnre_v1" if first_version else {"conll": "crossner"}.get(arguments.dataset, arguments.dataset)
    label_set = read_label_set(arguments.labels or os.path.join(configuration, "labels", f"{file}.json"))
    splits_folder = os.path.join(configuration, "splits")
    if arguments.dataset == "conll":
        return prepare_conll(
            arguments.data,
            arguments.train_domains,
            arguments.test_domain,
            label_set,
            arguments.split_seed,
            arguments.on_bad_span,
        )
    if arguments.dataset == "wikidiverse":
        return prepare_wikidiverse(
            arguments.data, arguments.split, label_set, splits_folder, arguments.images, arguments.on_bad_span, True
        )
    # The order of first appearance in version 1, on which the division rests, is in no file of ours.
    split = arguments.split or ("seed-0" if first_version else "mnre:seed-0")
    return prepare_mnre(
        arguments.data,
        split,
        label_set,
        splits_folder,
        arguments.images,
        arguments.version,
        arguments.on_bad_span,
        True,
    )


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
