"""A picture field that hands over a picture it cannot read, so that the page can say so in words."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .form import UnreadablePicture


class PictureInput(gr.Image):
    """`gr.Image` of type "pil" whose `preprocess` never raises; Gradio would show no more than "Error"."""

    is_template = True  # on the page it is a `gr.Image`

    def preprocess(self, payload: Any) -> Any:
        """The PIL picture, `None` if there is none, or [`UnreadablePicture`]."""
        try:
            return super().preprocess(payload)
        except Exception as error:  # PIL raises a dozen kinds
            return UnreadablePicture(type(error).__name__)
