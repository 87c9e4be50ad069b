"""A picture field that hands over what it cannot read, so that the page can say so in words."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .form import UnreadablePicture


def picture_input(**kwargs: Any) -> gr.Image:
    """A `gr.Image` that never raises on what was uploaded: Gradio would show no more than "Error".

    It gives the picture as it was uploaded, a PIL picture of any mode; `None` if there is none; or
    [`UnreadablePicture`].

    Args:
        kwargs: of `gr.Image`.
    """
    component = gr.Image(type="pil", image_mode=None, format="png", **kwargs)
    read = component.preprocess

    def preprocess(payload: Any) -> Any:
        try:
            return read(payload)
        except Exception as error:  # PIL raises a dozen kinds
            return UnreadablePicture(type(error).__name__)

    # Not a subclass: of each, Gradio would write a stub file beside this one.
    component.preprocess = preprocess
    return component
