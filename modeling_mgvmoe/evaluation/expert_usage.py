"""Which experts a dataset goes to: by modality and by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.encoding import encode_posts, image_token_mask
from ..data.evaluation_data import select_posts
from ..data.progress_bar import progress_bar
from ..labels import in_evaluation
from ..variational_experts import MODALITIES

if TYPE_CHECKING:
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor

# Posts that are encoded at a time: their prepared images are in memory together.
ENCODED_AT_ONCE = 512


@dataclass(frozen=True)
class ExpertUsage:
    """The router's probabilities over posts.

    Attributes:
        overall: for "text" and "picture" the mean (K,) over the tokens of all posts; without "picture" if no post has
            one.
        by_class: for each task and class of it, as `overall`, over the posts of the class, in alphabetical order.
        posts: number of posts of each task and class.
    """

    overall: dict[str, np.ndarray]
    by_class: dict[str, dict[str, dict[str, np.ndarray]]]
    posts: dict[str, dict[str, int]]

    def as_json(self) -> dict[str, Any]:
        """The same in types that JSON has."""
        return {
            "overall": {name: usage.tolist() for name, usage in self.overall.items()},
            "by_class": {
                task: {
                    label: {name: usage.tolist() for name, usage in own.items()} | {"posts": self.posts[task][label]}
                    for label, own in classes.items()
                }
                for task, classes in self.by_class.items()
            },
        }


def expert_usage(
    model: MGVMoEForZeroShotIE,
    processor: MGVMoEProcessor,
    posts: Sequence[Mapping[str, Any]],
    batch_size: int = 64,
    progress: bool = False,
) -> ExpertUsage:
    """Means of p (E1) over the tokens of posts.

    Args:
        model: left in the mode, training or evaluation, in which it came.
        processor: of the model.
        posts: in the package's schema, of one task or of both.
        batch_size: in posts; changes nothing but speed.
        progress: show a progress bar.

    Raises:
        ValueError: there are no posts, or the model has no experts.
    """
    if not len(posts):
        raise ValueError("posts: at least one is needed, got none.")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    num_experts = model.config.num_experts
    if not num_experts:
        raise ValueError("model: its num_experts is 0, so no expert is used.")
    sums: dict[tuple[str, str], np.ndarray] = {}
    counts: dict[tuple[str, str], int] = {}
    with in_evaluation(model), progress_bar(desc="experts", total=len(posts), show=progress) as bar:
        for start in range(0, len(posts), ENCODED_AT_ONCE):
            chosen = range(start, min(start + ENCODED_AT_ONCE, len(posts)))
            encoded = encode_posts(select_posts(posts, chosen), processor)
            for first in range(0, len(encoded), batch_size):
                batch = encoded[first : first + batch_size]
                for post, own in zip(batch, _sums_of_posts(model, processor, batch), strict=True):
                    key = post["task"], post["label"]
                    sums[key] = sums.get(key, 0) + own
                    counts[key] = counts.get(key, 0) + 1
                bar.update(len(batch))
    by_class: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    numbers: dict[str, dict[str, int]] = {}
    for (task, label), own in sorted(sums.items()):
        by_class.setdefault(task, {})[label] = _means(own)
        numbers.setdefault(task, {})[label] = counts[task, label]
    return ExpertUsage(_means(sum(sums.values())), by_class, numbers)  # type: ignore[arg-type]


def _sums_of_posts(model: Any, processor: Any, encoded: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """For each post and modality the number of tokens and the sums of K probabilities, (B, 2, 1 + K)."""
    names = set(processor.model_input_names)
    batch = processor.pad_posts(
        [{name: value for name, value in post.items() if name in names} for post in encoded], return_tensors="pt"
    )
    inputs = {name: value.to(model.device) for name, value in batch.items() if name != "mention_mask"}
    output = model.mgvmoe(**inputs)
    found = np.zeros((len(encoded), len(MODALITIES), 1 + model.config.num_experts))
    images = output.image_router_probs
    masks = inputs["attention_mask"].bool(), None if images is None else image_token_mask(inputs, images)
    for modality, (probs, mask) in enumerate(zip((output.text_router_probs, images), masks, strict=True)):
        if probs is not None and mask is not None:
            found[:, modality, 0] = mask.sum(1).cpu()
            # Rows without an image may hold anything.
            found[:, modality, 1:] = probs.double().masked_fill(~mask[..., None], 0).sum(1).cpu()
    return found


def _means(sums: np.ndarray) -> dict[str, np.ndarray]:
    """(2, 1 + K) sums as a mean (K,) for each modality that there is."""
    return {name: own[1:] / own[0] for name, own in zip(MODALITIES, sums, strict=True) if own[0]}
