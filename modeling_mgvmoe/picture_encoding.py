"""Pictures as pixel values: one picture of each post, read, and run through an image processor.

Axes: h and w pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers.processing_utils import ImagesKwargs

from .candidates import refuse_unknown_arguments
from .pictures import to_rgb


class PictureEncoding:
    """What the processor does with pictures; a base class of it.

    Attributes:
        image_processor: Any image processor, or None.
    """

    image_processor: Any

    def encode_images(
        self, images: Sequence[Any], allow_image_urls: bool | str = False, **kwargs: Any
    ) -> list[np.ndarray | None]:
        """Reads pictures and runs the image processor.

        Args:
            images: Pictures (see `pictures.to_rgb`) or None.
            allow_image_urls: Whether they may be http(s) addresses; see `__call__`.
            **kwargs: Arguments of the image processor.

        Returns:
            For each picture its pixel values, (3,h,w) float, or None.

        Raises:
            ValueError: If a picture cannot be read, or the processor has no image processor or one of another kind.
        """
        images = [_only_picture(image, number) for number, image in enumerate(images)]
        images = [
            None if image is None else to_rgb(image, f"images[{number}]", allow_image_urls)
            for number, image in enumerate(images)
        ]
        if all(image is None for image in images):
            return [None] * len(images)
        if self.image_processor is None:
            raise ValueError("images: this processor has no image_processor, so it takes no pictures")
        pictures = [image for image in images if image is not None]
        pixels = iter(self.image_processor(images=pictures, **kwargs)["pixel_values"])
        arrays = [None if image is None else np.asarray(next(pixels)) for image in images]
        for array in arrays:
            if array is not None and (array.ndim != 3 or array.shape[0] != 3):
                raise ValueError(f"image_processor: pixel values (3,h,w) are needed (got shape {array.shape})")
        return arrays

    def _image_arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The image processor's own of `kwargs`, in one dict; ValueError or TypeError for others."""
        known = set(ImagesKwargs.__annotations__) - {"return_tensors"}
        for name in kwargs:
            if name != "images_kwargs" and name not in known:
                refuse_unknown_arguments({name: None}, f"{type(self).__name__}.__call__")
        together = kwargs.pop("images_kwargs", None) or {}
        twice = sorted(set(together) & set(kwargs))
        if twice:
            raise ValueError(f"images_kwargs: {', '.join(twice)} can be given only once (got it by itself too)")
        return {**together, **kwargs}


def _only_picture(image: Any, number: int) -> Any:
    """Takes the picture out of a post's list of one; a list of none is None."""
    if not isinstance(image, (list, tuple)):
        return image
    if len(image) > 1:
        raise ValueError(f"images[{number}]: a post takes one picture at most (got {len(image)})")
    return image[0] if image else None
