"""A prepared dataset on the disk: Parquet files with the images inside, and `labels.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .adapters import NOT_PUBLIC
from .atomic_io import whole_folder
from .progress_bar import progress_bar
from .rows import LABELS_FILE
from .schema import OPTIONAL_COLUMNS, post_features
from .splits import SPLITS
from .zero_shot_data import OPTIONAL_PARTS

if TYPE_CHECKING:
    from .prepare import PreparedData

# Posts that are in memory at a time, with their images.
BATCH = 256


def write_prepared(
    prepared: PreparedData, output_dir: str | os.PathLike[str], overwrite: bool = False, progress: bool = False
) -> dict[str, int]:
    """Write a folder that [`data_from_folder`] reads, whole or not at all.

    Args:
        prepared: what to write. Images that are paths are put into the files.
        output_dir: the folder. One that is there must be empty, or hold nothing but what was written so.
        overwrite: put it in the place of one that was written before.
        progress: show progress bars.

    Returns:
        Number of posts by file.

    Raises:
        FileExistsError: the folder is not empty, and `overwrite` is not set or it holds other files.
        OSError: the disk is full. The folder is as before.
    """
    check_output(output_dir, overwrite)
    parts = prepared.parts()
    optional = [name for name in OPTIONAL_COLUMNS if any(name in post for posts in parts.values() for post in posts)]
    needed = 2**20 + sum(_bytes_of(post) for posts in parts.values() for post in posts)
    with whole_folder(os.fspath(output_dir), needed, "run the command again") as partial:
        for name, posts in parts.items():
            _write_parquet(os.path.join(partial, f"{name}.parquet"), posts, optional, name if progress else None)
        with open(os.path.join(partial, LABELS_FILE), "w", encoding="utf-8") as file:
            json.dump(_labels(prepared), file, indent=1, ensure_ascii=False)
            file.write("\n")
    return {name: len(posts) for name, posts in parts.items()}


def check_output(output_dir: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Refuse a folder that [`write_prepared`] may not replace, before much is read.

    Raises:
        FileExistsError: see there.
    """
    there = sorted(os.listdir(output_dir)) if os.path.isdir(output_dir) else []
    if os.path.lexists(output_dir) and not os.path.isdir(output_dir):
        raise FileExistsError(f"output_dir: {os.fspath(output_dir)!r} is no folder")
    if there and not overwrite:
        raise FileExistsError(f"output_dir: {os.fspath(output_dir)!r} is not empty; --overwrite replaces it")
    ours = {LABELS_FILE, *(f"{name}.parquet" for name in (*SPLITS, *OPTIONAL_PARTS))}
    others = [name for name in there if name not in ours]
    if others:
        raise FileExistsError(
            f"output_dir: {os.fspath(output_dir)!r} holds files that were not written by this command, and is not "
            f"replaced: {', '.join(others[:5])}"
        )


def push_prepared(output_dir: str | os.PathLike[str], repo_id: str, private: bool = False) -> str:
    """Put a written folder on the Hub, as a dataset with a split for each file, and `labels.json` beside them.

    Args:
        output_dir: of [`write_prepared`].
        repo_id: "user/name".
        private: nobody else may see it.

    Returns:
        Address of the commit of `labels.json`.

    Raises:
        ValueError: the dataset may not be passed on, and `private` is not set.
    """
    from datasets import load_dataset
    from huggingface_hub import HfApi

    path = os.path.join(output_dir, LABELS_FILE)
    with open(path, encoding="utf-8") as file:
        check_public(json.load(file)["dataset"], private)
    names = (*SPLITS, *OPTIONAL_PARTS)
    files = {name: os.path.join(output_dir, f"{name}.parquet") for name in names}
    posts = load_dataset("parquet", data_files={name: one for name, one in files.items() if os.path.isfile(one)})
    posts.push_to_hub(repo_id, private=private)
    commit = HfApi().upload_file(path_or_fileobj=path, path_in_repo=LABELS_FILE, repo_id=repo_id, repo_type="dataset")
    return str(commit.commit_url)


def check_public(dataset: str, private: bool) -> None:
    """Refuse to make a dataset public that may not be passed on, before much is read.

    Raises:
        ValueError: naming the dataset.
    """
    if dataset in NOT_PUBLIC and not private:
        raise ValueError(f"private must be set for {dataset!r}, for {NOT_PUBLIC[dataset]}, got {private!r}")


def _labels(prepared: PreparedData) -> dict[str, Any]:
    data = prepared.data
    return {
        "dataset": prepared.dataset,
        "split": prepared.split,
        "label_set_version": prepared.label_set_version,
        "labels": {name: {task: list(names) for task, names in data.labels[name].items()} for name in SPLITS},
        "label_descriptions": dict(data.label_descriptions),
        "label_types": {name: [list(heads), list(tails)] for name, (heads, tails) in data.label_types.items()},
        "type_descriptions": dict(data.type_descriptions),
        "none": prepared.none,
        "counts": {name: counts.as_dict() for name, counts in prepared.counts.items()},
        **({} if data.unseen else {"unseen": False}),
    }


def _bytes_of(post: Mapping[str, Any]) -> int:
    """About how many bytes a post takes on the disk."""
    image = post.get("image")
    if isinstance(image, Mapping):
        return len(post["text"]) + (os.path.getsize(image["path"]) if image["bytes"] is None else len(image["bytes"]))
    if isinstance(image, str):
        return len(post["text"]) + os.path.getsize(image)
    return len(post["text"]) + (0 if image is None else 3 * image.width * image.height)


def _write_parquet(
    path: str, posts: Sequence[Mapping[str, Any]], optional: Sequence[str], progress: str | None
) -> None:
    import pyarrow.parquet  # comes with datasets
    from datasets import Dataset
    from datasets.table import embed_table_storage

    features = post_features(*optional)
    with (
        pyarrow.parquet.ParquetWriter(path, features.arrow_schema) as writer,
        progress_bar(total=len(posts), desc=f"writing {progress}", show=progress is not None) as bar,
    ):
        for start in range(0, len(posts), BATCH):
            # One by one: a slice of a dataset is not a list of posts.
            batch = [dict(posts[place]) for place in range(start, min(start + BATCH, len(posts)))]
            batch = [{name: post.get(name) for name in features} for post in batch]
            table = Dataset.from_list(batch, features=features).with_format("arrow")[:]
            writer.write_table(embed_table_storage(table).cast(features.arrow_schema))
            bar.update(len(batch))
