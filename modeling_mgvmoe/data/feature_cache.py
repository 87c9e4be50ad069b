"""The frozen vision tower's tokens, computed once per distinct picture and read from disk in training.

A cache is a folder: `header.json` and shards `shard-00000.npy`, ..., each a plain NumPy file (pictures, Li, H') in
half precision. A shard is written whole or not at all, always from the same batches, so a run that was killed and
started again, alone or in several processes, ends with the same bytes as one that was not disturbed.

The key of a picture is the SHA-256 of its upright RGB pixels and its size, not of its file: `datasets` hands over
decoded pictures, the sketchbook has no files, and two files of one picture need one entry.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch.utils.data import DataLoader

from ..labels import in_evaluation
from .feature_cache_files import (
    DTYPE,
    FORMAT,
    HEADER,
    PLAN,
    VERSION,
    array_layout,
    json_bytes,
    read_header,
    read_json,
    shard_name,
    write_header,
    write_shard,
)
from .feature_cache_origin import check_frozen, difference, preprocessing_fingerprint, tower_fingerprint
from .feature_cache_reader import ImageFeatureCache
from .post_pictures import picture_key, read_picture, undecoded
from .progress_bar import progress_bar
from .whole_file import write_whole

if TYPE_CHECKING:
    from accelerate import PartialState

    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor

# In the folder while it is filled.
LOCK = ".lock"


class _Pictures:
    """Map-style data set of pictures, for a `DataLoader` whose workers decode and, with a processor, prepare them."""

    def __init__(
        self,
        posts: Mapping[str, Any],
        places: Sequence[tuple[str, str, int]],
        processor: MGVMoEProcessor | None = None,
    ):
        self.posts, self.places, self.processor = posts, places, processor

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[str, str, Any]:
        """Key, reason for there being none, and pixel values if there is a processor."""
        key, split, row = self.places[index]
        picture, reason = read_picture(self.posts[split][row].get("image"))
        found = "" if picture is None else picture_key(picture)
        if self.processor is None:
            return found, reason, None
        if found != key:
            raise ValueError(f"post {row} of {split}: its picture changed while the cache was being filled")
        return found, reason, self.processor.encode_images([picture])[0]


def _load(pictures: _Pictures, batch_size: int, num_workers: int) -> Iterator[list[Any]]:
    # Anything with a length and places is a map-style data set; the type of torch's argument says less.
    return iter(DataLoader(pictures, batch_size, num_workers=num_workers, collate_fn=list))  # type: ignore[arg-type]


def build_feature_cache(
    folder: str | os.PathLike[str],
    posts: Mapping[str, Sequence[Mapping[str, Any]]],
    model: MGVMoEForZeroShotIE,
    processor: MGVMoEProcessor,
    batch_size: int = 32,
    shard_size: int = 128,
    num_workers: int = 0,
    state: PartialState | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Run the frozen vision tower once over every distinct picture, or go on with a run that was stopped.

    Args:
        folder: of the cache; made if it is not there.
        posts: per split, in the package's schema.
        model: its vision tower runs, on the device on which it is.
        processor: prepares the pictures.
        batch_size: pictures in a run of the tower. Part of what the bytes depend on, so it cannot change on the way.
        shard_size: pictures in a file, and what a kill can cost each process.
        num_workers: processes that decode and prepare pictures for each process that runs the tower.
        state: of Accelerate, under several processes; each makes every n-th shard. Default: this process is alone.
        progress: show progress bars.

    Returns:
        The summary: `records`, and of these `with_picture`, `without` one, with a file that is `missing` and with a
        picture that is `broken`; and how many `distinct` pictures there are.

    Raises:
        ValueError: an argument is out of range, the tower is not frozen, there is no picture, a feature is not finite
            in half precision, or the folder holds a cache of another tower, preprocessing, batch size or other posts.
        BlockingIOError: another run is filling the folder.
    """
    check_cache_arguments(batch_size, shard_size, num_workers)
    check_frozen(model)
    folder = os.fspath(folder)
    posts = {split: _only_pictures(undecoded(rows)) for split, rows in posts.items()}
    rank, processes = (0, 1) if state is None else (state.process_index, state.num_processes)
    os.makedirs(folder, exist_ok=True)
    with _lock(folder, rank == 0):
        if rank == 0:
            plan = _plan(posts, num_workers, progress)
            plan |= {"tower": tower_fingerprint(model), "preprocessing": preprocessing_fingerprint(processor)}
            _begin(folder, {**plan, "batch_size": batch_size, "shard_size": shard_size})
        if state is not None:
            state.wait_for_everyone()
        if not os.path.exists(os.path.join(folder, HEADER)):
            plan = read_json(os.path.join(folder, PLAN))
            _fill(folder, plan, posts, model, processor, num_workers, rank, processes, progress)
            if state is not None:
                state.wait_for_everyone()
            if rank == 0:
                _finish(folder, plan)
        if state is not None:
            state.wait_for_everyone()
        if rank == 0:
            _clean(folder)
        cache = ImageFeatureCache(folder, verify=rank == 0, progress=progress and rank == 0)
    return dict(cache.header["summary"])


def check_cache_arguments(batch_size: int, shard_size: int, num_workers: int) -> None:
    """Raise ValueError for numbers that no cache can be made with."""
    numbers = (("batch_size", batch_size, 1), ("shard_size", shard_size, 1), ("num_workers", num_workers, 0))
    for name, value, lowest in numbers:
        if value < lowest:
            raise ValueError(f"{name} must be at least {lowest}, got {value}")


def _only_pictures(posts: Any) -> Any:
    return posts.select_columns(["image"]) if hasattr(posts, "select_columns") else posts


@contextmanager
def _lock(folder: str, wanted: bool) -> Iterator[None]:
    """Hold the folder against a second run; the system lets go of it however this process ends."""
    if not wanted:
        yield
        return
    lock = FileLock(os.path.join(folder, LOCK))
    try:
        lock.acquire(timeout=1)
    except Timeout as error:
        raise BlockingIOError(f"folder: {folder} is being filled by another run") from error
    try:
        yield
    finally:
        os.unlink(os.path.join(folder, LOCK))
        lock.release()


def _plan(posts: Mapping[str, Any], num_workers: int, progress: bool) -> dict[str, Any]:
    """Decode every picture; the distinct ones in order of first appearance, and what was counted."""
    places = [("", split, row) for split, rows in posts.items() for row in range(len(rows))]
    counts = {"records": len(places), "with_picture": 0, "distinct": 0, "without": 0, "missing": 0, "broken": 0}
    distinct: dict[str, tuple[str, int]] = {}
    found = (item for batch in _load(_Pictures(posts, places), 16, num_workers) for item in batch)
    bar = progress_bar(found, "looking for distinct images", len(places), show=progress)
    for (_, split, row), (key, reason, _) in zip(places, bar, strict=True):
        counts[reason or "with_picture"] += 1
        if key:
            distinct.setdefault(key, (split, row))
    counts["distinct"] = len(distinct)
    if not distinct:
        raise ValueError(f"posts: at least one picture that can be read is needed, got {counts}")
    return {"summary": counts, "pictures": [[key, split, row] for key, (split, row) in distinct.items()]}


def _begin(folder: str, plan: dict[str, Any]) -> None:
    """Write the plan down, or make sure that what is in the folder was made by the same one."""
    plan = {"format": FORMAT, "version": VERSION, **plan}
    header_path, plan_path = os.path.join(folder, HEADER), os.path.join(folder, PLAN)
    if os.path.exists(header_path):
        known, path = read_header(header_path), header_path
        plan = {**plan, "pictures": [key for key, _, _ in plan["pictures"]]}
    elif os.path.exists(plan_path) and any(name.endswith(".npy") for name in os.listdir(folder)):
        known, path = read_json(plan_path), plan_path
    else:
        stray = sorted(set(os.listdir(folder)) - {PLAN, LOCK})
        stray = [name for name in stray if not name.endswith((".partial", ".npy.json"))]
        if stray:
            raise ValueError(f"folder: {folder} must be empty or hold a cache, got {stray[:5]}")
        write_whole(plan_path, json_bytes(plan))
        return
    for name, value in plan.items():
        if known.get(name) != value:
            raise ValueError(
                f"{path}: {difference(name, known.get(name), value)}. Choose another folder or remove this one."
            )


def _fill(
    folder: str,
    plan: dict[str, Any],
    posts: Mapping[str, Any],
    model: MGVMoEForZeroShotIE,
    processor: MGVMoEProcessor,
    num_workers: int,
    rank: int,
    processes: int,
    progress: bool,
) -> None:
    places = [(key, split, row) for key, split, row in plan["pictures"]]
    size = plan["shard_size"]
    numbers = range(rank, -(-len(places) // size), processes)
    mine = sum(len(places[number * size : (number + 1) * size]) for number in numbers)
    with (
        in_evaluation(model),
        progress_bar(total=mine, desc="vision tower", unit="image", show=progress and rank == 0) as bar,
    ):
        for number in numbers:
            shard = places[number * size : (number + 1) * size]
            if not os.path.exists(os.path.join(folder, shard_name(number))):
                loader = _load(_Pictures(posts, shard, processor), plan["batch_size"], num_workers)
                write_shard(folder, number, len(shard), (_features(model, batch, bar) for batch in loader))
            else:
                bar.update(len(shard))


@torch.no_grad()
def _features(model: MGVMoEForZeroShotIE, batch: list[tuple[str, str, np.ndarray]], bar: Any) -> np.ndarray:
    shapes = {pixels.shape for _, _, pixels in batch}
    if len(shapes) > 1:
        raise ValueError(f"image_processor: pictures of one size are needed, got {sorted(shapes)}")
    pixel_values = torch.from_numpy(np.stack([pixels for _, _, pixels in batch])).to(model.device)
    features = model.get_image_features(pixel_values).to(torch.float16).cpu()
    finite = torch.isfinite(features).flatten(1).all(1).tolist()
    if not all(finite):
        raise ValueError(
            "image_features: they must be finite in half precision, got others for the picture with sha256 "
            f"{batch[finite.index(False)][0]}"
        )
    bar.update(len(batch))
    return features.numpy().astype(DTYPE, copy=False)


def _finish(folder: str, plan: dict[str, Any]) -> None:
    number = -(-len(plan["pictures"]) // plan["shard_size"])
    entries = [read_json(os.path.join(folder, f"{shard_name(shard)}.json")) for shard in range(number)]
    shapes = {shard_name(shard): array_layout(os.path.join(folder, shard_name(shard)))[0] for shard in range(number)}
    _, tokens, width = shapes[shard_name(0)]
    for name, shape in shapes.items():
        if shape[1:] != (tokens, width):
            raise ValueError(f"{name}: every picture must have {(tokens, width)} features, got {shape[1:]}")
    keys = [key for key, _, _ in plan["pictures"]]
    write_header(folder, {**plan, "tokens": tokens, "width": width, "shards": entries, "pictures": keys})


def _clean(folder: str) -> None:
    for name in os.listdir(folder):
        if name == PLAN or name.endswith((".npy.json", ".partial")):
            os.remove(os.path.join(folder, name))


__all__ = ["ImageFeatureCache", "build_feature_cache", "check_cache_arguments"]
