"""Posts processed one by one, made into one padded batch."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature

TEXT_NAMES = ("input_ids", "attention_mask", "mention_positions")
# Only where mentions are named before the post (`mention_style="prefix"`).
MENTION_MASK = "mention_mask"
# Only where posts share pictures.
IMAGE_INDEX = "image_index"
# A picture, or what the frozen vision tower made of it.
PICTURE_NAMES = ("pixel_values", "image_features")
FEATURE_NAMES = (*TEXT_NAMES, MENTION_MASK, *PICTURE_NAMES)
MASK_NAMES = ("image_mask", "candidate_mask", "candidate_types", MENTION_MASK)


def pad_rows(
    tokenizer: Any,
    rows: list[list[int]],
    masks: list[list[int]] | None = None,
    padding: bool | str = True,
    length: int | None = None,
    multiple: int | None = None,
) -> dict[str, list[list[int]]]:
    """Pads token ids and attention masks on the right, for mention positions count from the left."""
    padded = tokenizer.pad(
        {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows] if masks is None else masks},
        padding=padding,
        max_length=length,
        pad_to_multiple_of=multiple,
        padding_side="right",
        return_attention_mask=True,
    )
    return {name: padded[name] for name in TEXT_NAMES[:2]}


def pad_features(
    tokenizer: Any,
    features: Sequence[Mapping[str, Any]],
    padding: bool | str = True,
    length: int | None = None,
    multiple: int | None = None,
    share_pictures: bool = False,
) -> dict[str, list[Any]]:
    """Makes lists for a batch of posts; `MGVMoEProcessor.pad_posts` documents it."""
    if not features:
        raise ValueError("features: at least one post is needed (got none)")
    names = {name for post in features for name in post}
    if not names <= set(FEATURE_NAMES):
        raise ValueError(f"features: only {', '.join(FEATURE_NAMES)} can be padded (got {sorted(names)})")
    batch: dict[str, list[Any]] = {}
    if names & set(TEXT_NAMES):
        columns: dict[str, list[list[int]]] = {}
        for name in TEXT_NAMES:
            missing = [number for number, post in enumerate(features) if post.get(name) is None]
            if missing:
                raise ValueError(f"features[{missing[0]}]: {name} is missing")
            columns[name] = [_to_list(post[name]) for post in features]
        batch |= pad_rows(tokenizer, columns["input_ids"], columns["attention_mask"], padding, length, multiple)
        slots = max(len(places) for places in columns["mention_positions"])
        batch["mention_positions"] = [places + [-1] * (slots - len(places)) for places in columns["mention_positions"]]
        if MENTION_MASK in names:
            batch[MENTION_MASK] = _mention_masks(features, slots, [len(row) for row in batch["input_ids"]])
    if set(PICTURE_NAMES) <= names:
        raise ValueError("features: pixel_values and image_features exclude each other (got both)")
    for name in PICTURE_NAMES:
        pictures = [None if post.get(name) is None else _picture(post[name]) for post in features]
        present = [picture for picture in pictures if picture is not None]
        if len({picture.shape for picture in present}) > 1:
            raise ValueError(
                f"{name}: pictures of one size are needed (got {sorted({picture.shape for picture in present})})"
            )
        if not present:
            continue
        shared = _shared(pictures) if share_pictures else None
        if shared is not None:
            batch[name], batch[IMAGE_INDEX] = shared
        else:
            blank = np.zeros(present[0].shape, present[0].dtype)  # "like" would keep a transposed layout
            batch[name] = [blank if picture is None else picture for picture in pictures]
        batch["image_mask"] = [picture is not None for picture in pictures]
    return batch


def distinct_pictures(pictures: Sequence[np.ndarray | None]) -> tuple[list[np.ndarray], list[int]]:
    """Every distinct picture once, and each post's place among them (0 for none)."""
    rows: dict[Any, int] = {}
    distinct, index = [], []
    for picture in pictures:
        if picture is None:
            index.append(0)
            continue
        key = picture.shape, picture.dtype.str, hashlib.blake2b(picture.tobytes()).digest()
        if key not in rows:
            rows[key] = len(rows)
            distinct.append(picture)
        index.append(rows[key])
    return distinct, index


def _shared(pictures: Sequence[np.ndarray | None]) -> tuple[list[np.ndarray], list[int]] | None:
    """The distinct pictures and each post's place among them; `None` if all are distinct."""
    if len(pictures) < 2:
        return None
    distinct, index = distinct_pictures(pictures)
    return (distinct, index) if len(distinct) < sum(picture is not None for picture in pictures) else None


def _mention_masks(
    features: Sequence[Mapping[str, Any]], slots: int, lengths: Sequence[int]
) -> list[list[list[bool]]]:
    """For each post and slot, which of the post's tokens are the mention's; none that pads it to its length."""
    missing = [number for number, post in enumerate(features) if post.get(MENTION_MASK) is None]
    if missing:
        raise ValueError(f"features[{missing[0]}]: {MENTION_MASK} is missing")
    masks = []
    for post, length in zip(features, lengths, strict=True):
        rows = [[bool(token) for token in _to_list(row)] for row in post[MENTION_MASK]]
        rows += [[]] * (slots - len(rows))
        masks.append([row + [False] * (length - len(row)) for row in rows])
    return masks


def to_tensors(batch: Mapping[str, list[Any]], return_tensors: str | None) -> BatchFeature:
    """Turns lists into int64, bool and float arrays ("np") or tensors ("pt"), or leaves them as they are (None)."""
    if return_tensors not in (None, "pt", "np"):
        raise ValueError(f"return_tensors: 'pt', 'np' or None is needed (got {return_tensors!r})")
    if return_tensors is None:
        return BatchFeature(dict(batch))
    arrays: dict[str, Any] = {}
    for name, rows in batch.items():
        if name in PICTURE_NAMES:
            array = np.stack(rows)
        elif (
            name == MENTION_MASK
            and len({len(row) for post in rows for row in post}) > 1
            or len({len(row) for row in rows if isinstance(row, list)}) > 1
        ):
            raise ValueError(f"padding: it is needed with return_tensors ({name} has rows of several lengths)")
        else:
            array = np.array(rows, dtype=bool if name in MASK_NAMES else np.int64)
        arrays[name] = torch.from_numpy(array) if return_tensors == "pt" else array
    return BatchFeature(arrays)


def _picture(values: Any) -> np.ndarray:
    """An array; in single precision where it came as lists of numbers, as streamed posts have it."""
    return np.asarray(values, dtype=np.float32 if isinstance(values, (list, tuple)) else None)


def _to_list(values: Any) -> list[int]:
    return list(values.tolist() if hasattr(values, "tolist") else values)
