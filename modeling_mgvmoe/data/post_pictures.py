"""The picture of a post: read or why not, and what makes it the same as another post's."""

from __future__ import annotations

import hashlib
from typing import Any

from PIL import Image

from ..images import to_rgb


def picture_key(picture: Image.Image) -> str:
    """SHA-256, in hex, of the size and the pixels of an RGB picture."""
    digest = hashlib.sha256(f"{picture.width}x{picture.height}".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()


def undecoded(posts: Any) -> Any:
    """The posts with pictures as bytes or path where they are a data set, so that a broken one can be met."""
    feature = getattr(posts, "features", {}).get("image") if hasattr(posts, "cast_column") else None
    if feature is None or not getattr(feature, "decode", False) or getattr(feature, "mode", None) is not None:
        return posts
    return posts.cast_column("image", type(feature)(decode=False))


def read_picture(image: Any) -> tuple[Image.Image | None, str]:
    """The RGB picture of a post, or `None` and the reason: "without" a picture, file "missing", or "broken"."""
    if isinstance(image, list | tuple):  # as the processor takes it: a list of one picture at most
        image = image[0] if image else None
    if image is None:
        return None, "without"
    try:
        return to_rgb(image), ""
    except ValueError as error:
        return None, "missing" if isinstance(error.__cause__, FileNotFoundError) else "broken"
