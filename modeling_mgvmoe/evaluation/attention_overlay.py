"""The image of a post with its patches tinted by their weights, as far as the image moves the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from .explanation import Explanation

TINT = (224, 130, 20)
STRONGEST = 0.8  # of the tint, where the weight is greatest and the image decides the answer
# The picture turns grey, so that no colour of its own is taken for the tint; what the model was not shown turns pale.
PALE = 0.85


def relative_weights(explanation: Explanation) -> list[float]:
    """The weight of each word over that of the strongest one, 0 to 1."""
    strongest = max((word.weight for word in explanation.words), default=0.0)
    return [word.weight / strongest if strongest > 0 else 0.0 for word in explanation.words]


def resized(image: Image.Image, longest_side: int) -> Image.Image:
    """The picture with at most so many pixels a side; a small drawing enlarged by a whole number, pixel by pixel."""
    longest = max(image.size)
    if longest > longest_side:
        factor = longest_side / longest
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        return image.resize(size, Image.Resampling.LANCZOS)
    times = longest_side // longest
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def attention_overlay(explanation: Explanation, longest_side: int) -> Image.Image:
    """The image in grey, each patch tinted by its weight over that of the strongest one, times `image_strength`.

    An image that changes nothing stays grey, wherever the fusion looked.

    Args:
        explanation: with a picture and its patches.
        longest_side: see [`resized`].

    Raises:
        ValueError: there is no picture, or its tokens make no grid.
    """
    patches, area, image = explanation.patches, explanation.patch_area, explanation.image
    if patches is None or area is None or image is None:
        raise ValueError("explanation: one with a picture and a grid of patches is needed (got none)")
    picture = resized(image, longest_side)
    left, top, right, bottom = area
    x = (np.arange(picture.width) + 0.5) * image.width / picture.width
    y = (np.arange(picture.height) + 0.5) * image.height / picture.height
    rows, columns = patches.shape
    column = np.floor((x - left) / (right - left) * columns).astype(int)
    row = np.floor((y - top) / (bottom - top) * rows).astype(int)
    shown = ((row >= 0) & (row < rows))[:, None] & ((column >= 0) & (column < columns))[None]
    share = STRONGEST * explanation.image_strength * patches / max(patches.max(), np.finfo(float).tiny)
    alpha = np.where(shown, share[row.clip(0, rows - 1)][:, column.clip(0, columns - 1)], PALE)[..., None]
    over = np.where(shown[..., None], np.array(TINT), 255)
    grey = np.asarray(picture.convert("L"), dtype=float)[..., None]
    return Image.fromarray((grey * (1 - alpha) + over * alpha).round().astype(np.uint8))
