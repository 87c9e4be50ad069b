"""The datasets that `examples/prepare_data.py` reads, by the names of its sub-commands.

To add one, write a file with its reader and its [`DatasetAdapter`], and name that here.
"""

from __future__ import annotations

import argparse
import os

from .crossner import CONLL
from .crossre import CROSSRE
from .fewrel import FEWREL
from .implicitave import IMPLICITAVE
from .mnre import MNRE
from .multimodal_ner import MULTIMODAL_NER
from .prepare import DatasetAdapter, PreparedData
from .rows import add_rows_flags, prepare_rows
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
# By the name of a prepared dataset, why it may not be passed on as it is written.
NOT_PUBLIC = {
    name: adapter.not_public
    for adapter in ADAPTERS.values()
    if adapter.not_public
    for name in (adapter.name, *adapter.other_names)
}
