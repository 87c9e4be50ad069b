"""Cache of frozen encoders' outputs: the vision encoder's tokens on disk, the text encoder's pooled states in memory.

A cache is a folder: `header.json` and shards `shard-00000.npy`, ..., each a plain NumPy file (images, Li, H') in
half precision. A shard is written whole or not at all, always from the same batches, so a run that was killed and
started again, alone or in several processes, ends with the same bytes as one that was not disturbed.

The key of an image is the SHA-256 of its upright RGB pixels and its size, not of its file: `datasets` hands over
decoded images, the sketchbook has no files, and two files of one image need one entry.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ..labels import in_evaluation
from .atomic_io import LOCK, locked, whole_file, write_whole
from .encoding import PostCollator
from .files import read_json_object
from .fingerprint import differences, file_sha256, module_fingerprint
from .post_images import image_key, read_image, undecoded
from .progress_bar import progress_bar

if TYPE_CHECKING:
    from accelerate import PartialState

    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor


FORMAT, VERSION = "mgvmoe image features", 1
HEADER, PLAN = "header.json", "plan.json"
DTYPE = np.dtype("<f2")


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.npy"


def write_shard(folder: str, number: int, features: np.ndarray) -> None:
    """Write features (images, Li, H') in half precision; the digest appears before the file, both when complete."""
    path = os.path.join(folder, shard_name(number))
    with whole_file(path) as part:
        with open(part, "wb") as file:  # `np.save` would add its ending to a name
            np.save(file, np.ascontiguousarray(features, dtype=DTYPE))
        entry = {"file": shard_name(number), "pictures": len(features), "sha256": file_sha256(part)}
        write_whole(f"{path}.json", json_bytes(entry))


def write_header(folder: str, header: dict[str, Any]) -> None:
    """Make the cache complete: its header, with a digest of itself."""
    header = {**header, "dtype": "float16"}
    header["sha256"] = hashlib.sha256(json_bytes(header)).hexdigest()
    write_whole(os.path.join(folder, HEADER), json_bytes(header))


def read_header(path: str) -> dict[str, Any]:
    """The header of a complete cache; ValueError if it is corrupt or has another format."""
    try:
        header = read_json_object(path)
    except ValueError as error:
        raise ValueError(f"{path}: corrupt: {error}") from error
    for name, value in (("format", FORMAT), ("version", VERSION), ("dtype", "float16")):
        if header.get(name) != value:
            raise ValueError(f"{path}: {name} must be {value!r}, got {header.get(name)!r}")
    content = {name: value for name, value in header.items() if name != "sha256"}
    digest = hashlib.sha256(json_bytes(content)).hexdigest()
    if header.get("sha256") != digest:
        raise ValueError(f"{path}: corrupt, its sha256 must be {header.get('sha256')!r}, got {digest!r}")
    return header


def json_bytes(content: Any) -> bytes:
    """JSON of a value, always the same bytes."""
    return json.dumps(content, sort_keys=True, indent=1).encode("utf-8")


def tower_fingerprint(model: MGVMoEForZeroShotIE) -> str:
    """SHA-256, in hex, of the vision tower's configuration and of all its weights and buffers."""
    # Neither a dict nor `None` in a model, nor a tensor.
    vision_model: Any = model.mgvmoe.vision_model
    vision_config: Any = model.config.vision_config
    return module_fingerprint(vision_model, vision_config.to_dict())


def preprocessing_fingerprint(processor: MGVMoEProcessor) -> dict[str, Any]:
    """The image processor's configuration and class; two classes of one configuration differ in how they resize."""
    image_processor = processor.image_processor
    if image_processor is None:
        raise ValueError("image_processor: this processor has none, so there are no image features to cache")
    config = json.loads(image_processor.to_json_string())
    # Saving adds the names of classes that load the whole; they say nothing about images.
    kept = {name: value for name, value in config.items() if name not in ("auto_map", "processor_class")}
    return {**kept, "class": type(image_processor).__name__}


def check_frozen(model: MGVMoEForZeroShotIE) -> None:
    """ValueError if the tower is trained, or adapters in it are."""
    if not model.config.freeze_vision:
        raise ValueError(
            "freeze_vision must be true with image_feature_cache, for the features of a trained tower change "
            f"(got {model.config.freeze_vision})"
        )
    trained = [name for name, value in model.mgvmoe.vision_model.named_parameters() if value.requires_grad]
    if trained:
        raise ValueError(
            "image_feature_cache: the vision encoder must have no trained parameters, for its features change with "
            f"them (got {len(trained)}, the first {trained[0]!r})"
        )


def check_same(path: str, known: Mapping[str, Any], wanted: Mapping[str, Any], advice: str) -> None:
    """ValueError if a cache was not made with these values; a long list appears as its digest."""

    def brief(values: Mapping[str, Any]) -> dict[str, Any]:
        lists = {name: value for name, value in values.items() if isinstance(value, list)}
        digests = {name: hashlib.sha256(json_bytes(value)).hexdigest()[:12] for name, value in lists.items()}
        return {**values, **{name: f"{len(lists[name])} of them, sha256 {digests[name]}" for name in lists}}

    found = next(differences(brief({name: known.get(name) for name in wanted}), brief(wanted)), None)
    if found is not None:
        raise ValueError(f"{path}: {found}. {advice}")


class ImageFeatureCache:
    """A complete cache, for reading. It holds no file open and no page mapped, so workers may have copies of it.

    Args:
        folder: of the cache.
        verify: compare every shard with its digest; it reads the whole cache once.
        progress: show a progress bar meanwhile.

    Raises:
        FileNotFoundError: the folder has no header, so it is no cache or not yet a complete one; or a shard is gone.
        ValueError: a file is corrupt, truncated or of another format; the message names file, field and values.
    """

    def __init__(self, folder: str | os.PathLike[str], verify: bool = True, progress: bool = False):
        self.folder = os.fspath(folder)
        self.path = os.path.join(self.folder, HEADER)
        if not os.path.isfile(self.path):
            unfinished = os.path.isfile(os.path.join(self.folder, PLAN))
            raise FileNotFoundError(
                f"image_feature_cache: {self.path} does not exist; "
                + ("the cache is not complete: run" if unfinished else "make the cache with")
                + " examples/prepare_data.py --cache-image-features"
                + (" again, it resumes where it stopped" if unfinished else "")
            )
        try:
            self._read_layout()
        except (AttributeError, LookupError, TypeError) as error:
            raise ValueError(f"{self.path}: corrupt, a field is missing or of another type: {error!r}") from error
        if verify:
            self.verify(progress)

    def _read_layout(self) -> None:
        self.header = read_header(self.path)
        self.tokens, self.width = int(self.header["tokens"]), int(self.header["width"])
        self.rows = {key: row for row, key in enumerate(self.header["pictures"])}
        self.shard_size = int(self.header["shard_size"])
        names = [entry["file"] for entry in self.header["shards"]]
        if names != [shard_name(number) for number in range(len(names))]:
            raise ValueError(f"{self.path}: shards must be files beside it, got {names[:3]}")
        self.files = [os.path.join(self.folder, name) for name in names]
        self.counts = [int(entry["pictures"]) for entry in self.header["shards"]]
        for number, count in enumerate(self.counts):
            full = count == self.shard_size or (number == len(self.counts) - 1 and 0 < count < self.shard_size)
            if not full:
                raise ValueError(f"{self.files[number]}: images must be {self.shard_size}, got {count}")
            self._map(number)
        if sum(self.counts) != len(self.rows):
            raise ValueError(f"{self.path}: the shards hold {sum(self.counts)} images, got {len(self.rows)} keys")

    def __len__(self) -> int:
        return len(self.rows)

    def verify(self, progress: bool = False) -> None:
        """Compare every shard with its digest.

        Raises:
            ValueError: one differs.
        """
        for path, entry in zip(
            progress_bar(self.files, "checking the feature cache", unit="file", show=progress),
            self.header["shards"],
            strict=True,
        ):
            digest = file_sha256(path)
            if digest != entry["sha256"]:
                raise ValueError(
                    f"{path}: corrupt, its sha256 must be {entry['sha256']}, got {digest}; remove the cache and make "
                    "it again"
                )

    def check(self, model: MGVMoEForZeroShotIE, processor: MGVMoEProcessor) -> None:
        """Make sure that the features are those which the model's own tower would give.

        Raises:
            ValueError: the tower is trained, or tower or preprocessing differ from those that made the cache.
        """
        check_frozen(model)
        wanted = {
            "tower": tower_fingerprint(model),
            "preprocessing": preprocessing_fingerprint(processor),
            "width": model.config.vision_width,
        }
        check_same(self.path, self.header, wanted, "Make the cache again.")

    def row_of(self, image: Image.Image, where: str = "image") -> int:
        """Where the features of an RGB image are.

        Raises:
            ValueError: the cache does not have the image.
        """
        key = image_key(image)
        if key not in self.rows:
            raise ValueError(
                f"{self.path}: images: {where} is not among the {len(self)} that were cached, got sha256 {key}. "
                "Make the cache again."
            )
        return self.rows[key]

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Features of some images, copied out of the files.

        Each row is mapped, copied and unmapped: pages that stay mapped count as resident memory of the process, up to
        the whole cache in an epoch. The system keeps them in its page cache all the same.

        Args:
            rows: of [`row_of`].

        Returns:
            (len(rows), Li, H'), half precision.
        """
        features = np.empty((len(rows), self.tokens, self.width), dtype=np.float16)
        for place, row in enumerate(rows):
            if not 0 <= row < len(self):
                raise ValueError(f"rows: they must be in [0, {len(self)}), got {row}")
            shard, number = divmod(row, self.shard_size)
            features[place] = self._map(shard)[number]
        return features

    def _map(self, number: int) -> np.ndarray:
        """A shard, mapped; opening it checks its size, since a map behind the end of a file kills the process."""
        path, wanted = self.files[number], (self.counts[number], self.tokens, self.width)
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path} does not exist, but {self.path} lists it")
        try:
            found = np.lib.format.open_memmap(path, mode="r")
        except ValueError as error:
            raise ValueError(f"{path}: truncated or corrupt: {error}") from error
        if found.shape != wanted or found.dtype != DTYPE:
            raise ValueError(f"{path}: shape must be {wanted}, got {found.shape} in {found.dtype}")
        return found


class _Images:
    """Map-style dataset of images, for a `DataLoader` whose workers decode and, with a processor, prepare them."""

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
        image, reason = read_image(self.posts[split][row].get("image"))
        found = "" if image is None else image_key(image)
        if self.processor is None:
            return found, reason, None
        if found != key:
            raise ValueError(f"post {row} of {split}: its image changed while the cache was being filled")
        return found, reason, self.processor.encode_images([image])[0]


def _load(images: _Images, batch_size: int, num_workers: int) -> Iterator[list[Any]]:
    # Anything with a length and places is a map-style dataset; the type of torch's argument says less.
    return iter(DataLoader(images, batch_size, num_workers=num_workers, collate_fn=list))  # type: ignore[arg-type]


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
    """Run the frozen vision tower once over every distinct image, or resume a run that was stopped.

    Args:
        folder: of the cache; made if it is not there.
        posts: per split, in the package's schema.
        model: its vision tower runs, on the device on which it is.
        processor: prepares the images.
        batch_size: images in a run of the tower. The bytes depend on it, so a resumed run needs the same.
        shard_size: images in a file, and what a kill can cost each process.
        num_workers: processes that decode and prepare images for each process that runs the tower.
        state: of Accelerate, under several processes; each makes every n-th shard. Default: this process is alone.
        progress: show progress bars.

    Returns:
        The summary: how many `records`, `with_picture`, `without`, `missing` and `broken` ones, and `distinct` images.

    Raises:
        ValueError: an argument is out of range, the tower is not frozen, there is no image, a feature is not finite
            in half precision, or the folder holds a cache of another tower, preprocessing, batch size or other posts.
        FileExistsError: another run is filling the folder.
    """
    check_cache_arguments(batch_size, shard_size, num_workers)
    check_frozen(model)
    folder = os.fspath(folder)
    posts = {split: _only_images(undecoded(rows)) for split, rows in posts.items()}
    rank, processes = (0, 1) if state is None else (state.process_index, state.num_processes)
    with locked(folder, rank == 0, argument="folder"):
        if rank == 0:
            plan = _plan(posts, num_workers, progress)
            plan |= {"tower": tower_fingerprint(model), "preprocessing": preprocessing_fingerprint(processor)}
            _begin(folder, {**plan, "batch_size": batch_size, "shard_size": shard_size})
        if state is not None:
            state.wait_for_everyone()
        if not os.path.exists(os.path.join(folder, HEADER)):
            plan = read_json_object(os.path.join(folder, PLAN))
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


def _only_images(posts: Any) -> Any:
    return posts.select_columns(["image"]) if hasattr(posts, "select_columns") else posts


def _plan(posts: Mapping[str, Any], num_workers: int, progress: bool) -> dict[str, Any]:
    """Decode every image; the distinct ones in order of first appearance, and what was counted."""
    places = [("", split, row) for split, rows in posts.items() for row in range(len(rows))]
    counts = {"records": len(places), "with_picture": 0, "distinct": 0, "without": 0, "missing": 0, "broken": 0}
    distinct: dict[str, tuple[str, int]] = {}
    found = (item for batch in _load(_Images(posts, places), 16, num_workers) for item in batch)
    bar = progress_bar(found, "looking for distinct images", len(places), show=progress)
    for (_, split, row), (key, reason, _) in zip(places, bar, strict=True):
        counts[reason or "with_picture"] += 1
        if key:
            distinct.setdefault(key, (split, row))
    counts["distinct"] = len(distinct)
    if not distinct:
        raise ValueError(f"posts: at least one image that can be read is needed, got {counts}")
    return {"summary": counts, "pictures": [[key, split, row] for key, (split, row) in distinct.items()]}


def _begin(folder: str, plan: dict[str, Any]) -> None:
    """Write the plan down, or make sure that what is in the folder was made by the same one."""
    plan = {"format": FORMAT, "version": VERSION, **plan}
    header_path, plan_path = os.path.join(folder, HEADER), os.path.join(folder, PLAN)
    if os.path.exists(header_path):
        known, path = read_header(header_path), header_path
        plan = {**plan, "pictures": [key for key, _, _ in plan["pictures"]]}
    elif os.path.exists(plan_path) and any(name.endswith(".npy") for name in os.listdir(folder)):
        known, path = read_json_object(plan_path), plan_path
    else:
        stray = sorted(set(os.listdir(folder)) - {PLAN, LOCK})
        stray = [name for name in stray if not name.endswith((".partial", ".npy.json"))]
        if stray:
            raise ValueError(f"folder: {folder} must be empty or hold a cache, got {stray[:5]}")
        write_whole(plan_path, json_bytes(plan))
        return
    check_same(path, known, plan, "Choose another folder or remove this one.")


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
                loader = _load(_Images(posts, shard, processor), plan["batch_size"], num_workers)
                write_shard(folder, number, np.concatenate([_features(model, batch, bar) for batch in loader]))
            else:
                bar.update(len(shard))


@torch.no_grad()
def _features(model: MGVMoEForZeroShotIE, batch: list[tuple[str, str, np.ndarray]], bar: Any) -> np.ndarray:
    shapes = {pixels.shape for _, _, pixels in batch}
    if len(shapes) > 1:
        raise ValueError(f"image_processor: images of one size are needed, got {sorted(shapes)}")
    pixel_values = torch.from_numpy(np.stack([pixels for _, _, pixels in batch])).to(model.device)
    features = model.get_image_features(pixel_values).to(torch.float16).cpu()
    finite = torch.isfinite(features).flatten(1).all(1).tolist()
    if not all(finite):
        raise ValueError(
            "image_features: they must be finite in half precision, got others for the image with sha256 "
            f"{batch[finite.index(False)][0]}"
        )
    bar.update(len(batch))
    return features.numpy()


def _finish(folder: str, plan: dict[str, Any]) -> None:
    number = -(-len(plan["pictures"]) // plan["shard_size"])
    entries = [read_json_object(os.path.join(folder, f"{shard_name(shard)}.json")) for shard in range(number)]
    names = [shard_name(shard) for shard in range(number)]
    shapes = {name: np.lib.format.open_memmap(os.path.join(folder, name), mode="r").shape for name in names}
    _, tokens, width = shapes[shard_name(0)]
    for name, shape in shapes.items():
        if shape[1:] != (tokens, width):
            raise ValueError(f"{name}: every image must have {(tokens, width)} features, got {shape[1:]}")
    keys = [key for key, _, _ in plan["pictures"]]
    write_header(folder, {**plan, "tokens": tokens, "width": width, "shards": entries, "pictures": keys})


def _clean(folder: str) -> None:
    for name in os.listdir(folder):
        if name == PLAN or name.endswith((".npy.json", ".partial")):
            os.remove(os.path.join(folder, name))


def caches_states(model: MGVMoEForZeroShotIE) -> bool:
    """Whether the states of the model's text encoder can be read once: it is frozen and its experts are residual."""
    trains = any(parameter.requires_grad for parameter in model.mgvmoe.text_model.parameters())
    return model.config.expert_type == "residual" and model.config.freeze_text and not trains


def cache_states(
    model: MGVMoEForZeroShotIE,
    encoded: Mapping[str, Sequence[dict[str, Any]]],
    collators: Mapping[str, PostCollator],
    batch_size: int = 64,
    progress: bool = False,
) -> None:
    """Read the posts and labels of all splits once, where [`caches_states`] says that this is enough.

    Args:
        model: whose batches the collators make.
        encoded: by split, of [`encode_posts`], changed in place.
        collators: by split, changed in place.
        batch_size: in posts; changes nothing but speed.
        progress: show a bar for each split.
    """
    if not caches_states(model):
        return
    for split, posts in encoded.items():
        title = f"reading {split} posts once" if progress else None
        cache_post_states(model, posts, collators[split], batch_size, title)
        cache_candidate_states(model, collators[split])


def cache_post_states(
    model: MGVMoEForZeroShotIE,
    encoded_posts: Sequence[dict[str, Any]],
    collator: PostCollator,
    batch_size: int = 64,
    progress: str | None = None,
) -> None:
    """Give every encoded post that has none its `post_states`, which a collator then takes instead of its tokens.

    Args:
        model: with a frozen text encoder.
        encoded_posts: of [`encode_posts`], changed in place.
        collator: pads them.
        batch_size: in posts; changes nothing but speed.
        progress: title of a progress bar; `None` shows none.
    """
    # Posts of like length together, so that little is padded.
    waiting = [index for index, post in enumerate(encoded_posts) if "post_states" not in post]
    order = sorted(waiting, key=lambda index: len(encoded_posts[index]["input_ids"]))
    names = ("input_ids", "attention_mask", "mention_mask", "image_text_input_ids", "image_text_attention_mask")
    with progress_bar(desc=progress, total=len(order)) as bar:
        for start in range(0, len(order), batch_size):
            chunk = [encoded_posts[index] for index in order[start : start + batch_size]]
            without_pixels = [
                {name: value for name, value in post.items() if name not in ("pixel_values", "image_row")}
                for post in chunk
            ]
            batch = collator.model_inputs(without_pixels)
            inputs = {name: batch[name].to(model.device) for name in names if name in batch}
            with in_evaluation(model):
                states = model.mgvmoe.get_post_states(**inputs)
            for post, own in zip(chunk, states.cpu(), strict=True):
                post["post_states"] = own
            bar.update(len(chunk))


def cache_candidate_states(model: MGVMoEForZeroShotIE, collator: PostCollator) -> None:
    """Replace the tokens of a collator's labels and types by their pooled states, in place."""
    candidates = collator.candidates
    for name in ("candidate", "type"):
        ids, mask = candidates.pop(f"{name}_input_ids", None), candidates.pop(f"{name}_attention_mask", None)
        if ids is not None:
            with in_evaluation(model):
                states = model.mgvmoe.get_candidate_states(
                    ids.to(model.device), None if mask is None else mask.to(model.device)
                )
            candidates[f"{name}_states"] = states.cpu()
