"""Posts for training and evaluation: one schema, and the datasets that are brought into it.

The functions that need `datasets` import it when called.
"""

from .schema import post_features, task_of, validate_post
from .sketchbook import generate_posts, load_sketchbook, neutral_text, split_classes

__all__ = [
    "generate_posts",
    "load_sketchbook",
    "neutral_text",
    "post_features",
    "split_classes",
    "task_of",
    "validate_post",
]
