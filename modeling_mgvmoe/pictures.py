"""Any picture a user may hand over, as an upright 8-bit RGB PIL image."""

import base64
import os
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from .picture_urls import fetch_picture

MAX_UINT16 = 65535
# PIL's own bound for a warning, about a quarter of a GiB as RGB; it refuses twice as many.
MAX_PIXELS = 89_478_485
# Formats of photos and drawings. PIL knows 40 others: some run programs (EPS), most nobody has looked at for years.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "AVIF")
SVG_BEGINNINGS = (b"<svg", b"<?xml", b"<!DOCTYPE svg", b"\xef\xbb\xbf<")


def to_rgb(picture: Any, where: str = "images", allow_urls: bool | str = False) -> Image.Image:
    """Reads one picture.

    The EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled (not clipped) to 8 bits,
    and of an animation the first frame is taken.

    Args:
        picture: A PIL image of any mode; a path; a data URL; with `allow_urls` an http(s) URL; encoded bytes; a
            `datasets` dict with "bytes" and "path"; or a numpy array or torch tensor, (H,W), (H,W,C) or (C,H,W) with
            C 1, 3 or 4, uint8 or floating point in [0,1]. Where both layouts fit, an array is read as (H,W,C), a
            tensor as (C,H,W).
        where: How to call the argument in messages.
        allow_urls: Fetch http(s) addresses of public hosts, within the limits of [`fetch_picture`]; "private": also of
            other hosts. Not by default: who decides what a server fetches can look behind its walls.

    Returns:
        An RGB image.

    Raises:
        ValueError: If the picture cannot be read, naming it, with the cause chained.
    """
    if allow_urls not in (False, True, "private"):
        raise ValueError(f'allow_image_urls must be False, True or "private", got {allow_urls!r}')
    try:
        if isinstance(picture, (np.ndarray, torch.Tensor)):
            return _from_array(picture)
        return _flatten(_open(picture, allow_urls))
    except Exception as error:  # PIL and the file system raise a dozen kinds
        raise ValueError(f"{where}: cannot read picture {_name(picture)}: {error}") from error


def _name(picture: Any) -> str:
    if isinstance(picture, dict):
        path = picture.get("path")
        return repr(path) if path else _name(picture.get("bytes"))
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return f"<{len(picture)} bytes>"
    if isinstance(picture, (str, os.PathLike)):
        name = str(picture)
        return repr(name if len(name) <= 200 else name[:200] + "...")
    if isinstance(picture, (np.ndarray, torch.Tensor)):
        return f"<{type(picture).__name__} of shape {tuple(picture.shape)}, {picture.dtype}>"
    if isinstance(picture, Image.Image):
        return f"<PIL image, mode {picture.mode}, size {picture.size}>"
    return f"<{type(picture).__name__}>"


def _open(picture: Any, allow_urls: bool | str) -> Image.Image:
    if isinstance(picture, dict):
        encoded, path = picture.get("bytes"), picture.get("path")
        if encoded is None and path is None:
            raise ValueError("a picture dict needs 'bytes' or 'path'")
        picture = path if encoded is None else encoded
    if isinstance(picture, (str, os.PathLike)):
        picture = _content(os.fspath(picture), allow_urls)
    if isinstance(picture, (bytes, bytearray, memoryview)):
        picture = _decoded(bytes(picture))
    if not isinstance(picture, Image.Image):
        raise ValueError(
            "a PIL image, path, URL, bytes, array, tensor or dict of bytes and path is needed "
            f"(got {type(picture).__name__})"
        )
    _check_size(picture)
    return ImageOps.exif_transpose(picture)


def _content(source: str | bytes, allow_urls: bool | str) -> bytes:
    """What lies at an address, in a data URL or in a file."""
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        if not allow_urls:
            raise ValueError("addresses are fetched only with allow_image_urls=True")
        # The bytes, and not transformers' `load_image`, which drops transparency and clips 16-bit greys.
        return fetch_picture(source, allow_private=allow_urls == "private")
    if isinstance(source, str) and source.startswith("data:"):
        head, _, content = source.partition(",")
        if not head.endswith(";base64"):
            raise ValueError("a data URL must begin with data:image/...;base64,")
        return base64.b64decode("".join(content.split()), validate=True)
    if not os.path.exists(source):
        raise FileNotFoundError("there is no such file")
    if not os.path.isfile(source):
        raise ValueError("it is no file")  # a pipe or a device would never end
    with open(source, "rb") as file:
        return file.read()


def _decoded(content: bytes) -> Image.Image:
    """A picture of a file's bytes; it is read here, so that a truncated one fails here and not later."""
    if not content:
        raise ValueError("it is empty")
    if content.lstrip()[:14].startswith(SVG_BEGINNINGS) and b"<svg" in content[:4096]:
        raise ValueError("it is an SVG drawing, which is not read: save it as PNG")
    Image.init()  # or PIL does not know all that it can read
    try:
        opened = Image.open(BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError as error:
        raise ValueError(f"it is no picture of the formats {', '.join(FORMATS)}") from error
    _check_size(opened)
    opened.load()
    return opened


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"it has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,} in all are refused")


def _flatten(image: Image.Image) -> Image.Image:
    """Brings any mode to RGB."""
    if image.width == 0 or image.height == 0:
        raise ValueError(f"the picture is empty (size {image.size})")
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_grey_to_uint8(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _grey_to_uint8(values: np.ndarray, mode: str) -> np.ndarray:
    """Scales grey values of more than 8 bits; PIL's own convert("RGB") clips them at 255."""
    lowest, highest = float(values.min()), float(values.max())
    if mode == "F":
        if not (lowest >= 0 and highest <= 255):  # also catches NaN
            raise ValueError(f"mode F needs values in [0,1] or [0,255] (got {lowest:g} to {highest:g})")
        scale = 255.0 if highest <= 1 else 1.0
    else:
        if not 0 <= lowest <= highest <= MAX_UINT16:
            raise ValueError(f"mode {mode} needs values in [0,{MAX_UINT16}] (got {lowest:g} to {highest:g})")
        # "I" is a 32-bit container that also carries 8-bit values; "I;16" is what it says.
        scale = 1.0 if mode == "I" and highest <= 255 else 255.0 / MAX_UINT16
    return np.rint(values.astype(np.float64) * scale).astype(np.uint8)


def _from_array(picture: np.ndarray | torch.Tensor) -> Image.Image:
    channels_first = isinstance(picture, torch.Tensor)
    if isinstance(picture, torch.Tensor):
        picture = picture.detach().cpu()
        picture = (picture.float() if picture.is_floating_point() else picture).numpy()
    values = picture
    if values.ndim == 3:
        fits_first, fits_last = values.shape[0] in (1, 3, 4), values.shape[2] in (1, 3, 4)
        if fits_first and (channels_first or not fits_last):
            values = values.transpose(1, 2, 0)
        elif not fits_last:
            raise ValueError(f"an array needs 1, 3 or 4 channels, first or last (got shape {values.shape})")
        values = values[:, :, 0] if values.shape[2] == 1 else values
    if values.ndim not in (2, 3) or values.size == 0:
        raise ValueError(f"an array is (H,W), (H,W,C) or (C,H,W) and not empty (got shape {picture.shape})")
    if np.issubdtype(values.dtype, np.floating):
        lowest, highest = float(values.min()), float(values.max())
        if not (lowest >= 0 and highest <= 1):  # also catches NaN
            raise ValueError(f"a {values.dtype} array needs values in [0,1] (got {lowest:g} to {highest:g})")
        values = np.rint(values.astype(np.float64) * 255).astype(np.uint8)
    elif values.dtype != np.uint8:
        raise ValueError(f"an array is uint8 or floating point in [0,1] (got {values.dtype})")
    return _flatten(Image.fromarray(np.ascontiguousarray(values)))
