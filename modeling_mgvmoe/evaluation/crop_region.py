"""Which part of a picture the grid of its patches covers."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

# Deviations below this share of a side come from the 256 steps of a ramp.
TOLERANCE = 0.01

Area = tuple[float, float, float, float]


def crop_region(image_processor: Any, width: int, height: int) -> Area:
    """The part of a picture that its pixel values show, learnt by trying: image processors crop and pad.

    Two pictures that grow brighter from left to right, and from top to bottom, go through the image processor; how
    bright its output is says where it comes from.

    Args:
        image_processor: whose `pixel_values` are (3, h, w) a picture.
        width, height: of the picture.

    Returns:
        Left, top, right and bottom in pixels of the picture; outside of it where it is padded.
    """

    def processed(pixels: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(np.broadcast_to(pixels.astype(np.uint8)[..., None], (height, width, 3)).copy())
        return np.asarray(image_processor(images=[picture])["pixel_values"][0], dtype=float)[0]

    plain = np.zeros((height, width))
    middle = tuple(side // 2 for side in processed(plain).shape)
    black, white = (float(processed(plain + value)[middle]) for value in (0, 255))
    if black == white:
        return 0.0, 0.0, float(width), float(height)
    bounds = []
    for axis, side in ((1, width), (0, height)):
        ramp = np.linspace(0, 255, side).round()
        values = processed(np.broadcast_to(ramp if axis else ramp[:, None], (height, width)))
        bounds.append(_ends((values - black) / (white - black), axis, side))
    (left, right), (top, bottom) = bounds
    return left, top, right, bottom


def _ends(brightness: np.ndarray, axis: int, side: int) -> tuple[float, float]:
    """Where the first and the last cell of a ramp of `side` pixels, as it came out, begin and end."""
    length = brightness.shape[axis]
    # The middle half: no padding, and no pixels that have no neighbour.
    inner = [slice(size // 4, size - size // 4) for size in brightness.shape]
    steps = brightness[tuple(inner)].mean(1 - axis)
    places = np.arange(length)[inner[axis]] + 0.5
    if side < 2 or len(steps) < 2:
        return 0.0, float(side)
    slope, offset = np.polyfit(places, 0.5 + steps * (side - 1), 1)
    ends = np.array([offset, offset + slope * length])
    whole = np.array([0.0, side])
    first, last = np.where(np.abs(ends - whole) < TOLERANCE * side, whole, ends)
    return float(first), float(last)
