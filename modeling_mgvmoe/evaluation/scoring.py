"""Logits of a model for every post: what predictions, confidences and protocols are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.encoding import PostCollator, encode_posts, has_picture
from ..data.schema import task_of

if TYPE_CHECKING:
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor


@torch.no_grad()
def logits_in_batches(
    model: MGVMoEForZeroShotIE,
    encoded_posts: Sequence[Mapping[str, Any]],
    collator: PostCollator,
    batch_size: int = 64,
    progress: str | None = None,
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """The model's logits, batch by batch.

    Args:
        model: left in the mode, training or evaluation, in which it came.
        encoded_posts: of [`encode_posts`]; their labels are not looked at.
        collator: with the C candidate labels.
        batch_size: in posts; changes nothing but speed.
        progress: title of a progress bar over the posts; `None` shows none.

    Yields:
        The numbers of B posts, and their logits (B, C) on the model's device, -inf for the labels of other tasks.
    """
    from tqdm.auto import tqdm

    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    was_training = model.training
    model.eval()
    device = model.device
    try:
        encoded = {name: value.to(device) for name, value in collator.candidates.items()}
        candidate_embeds = model.get_candidate_embeds(**encoded)
        # Posts of like length together, so that little is padded; those with a picture apart from the others, so that
        # the vision tower runs for few batches where few posts have one.
        order = sorted(
            range(len(encoded_posts)),
            key=lambda index: (has_picture(encoded_posts[index]), len(encoded_posts[index]["input_ids"])),
        )
        with tqdm(desc=progress, total=len(order), disable=progress is None, unit="post") as bar:
            for start in range(0, len(order), batch_size):
                chunk = order[start : start + batch_size]
                batch = collator.model_inputs([encoded_posts[index] for index in chunk])
                inputs = {name: value.to(device) for name, value in batch.items()}
                yield chunk, model(**inputs, candidate_embeds=candidate_embeds).logits
                bar.update(len(chunk))
    finally:
        model.train(was_training)


def score_encoded_posts(
    model: MGVMoEForZeroShotIE,
    encoded_posts: Sequence[Mapping[str, Any]],
    collator: PostCollator,
    batch_size: int = 64,
    progress: str | None = None,
) -> np.ndarray:
    """Logits (posts, C) in the order of the posts, in double precision; see [`logits_in_batches`]."""
    logits = np.empty((len(encoded_posts), len(collator.candidate_labels)))
    for rows, values in logits_in_batches(model, encoded_posts, collator, batch_size, progress):
        logits[rows] = values.double().cpu().numpy()
    return logits


class ModelScorer:
    """Scores posts with a model, as the protocols ask for it.

    Args:
        model: scores.
        processor: of the model.
        label_descriptions: sentences in place of labels, as in training.
        batch_size: in posts; changes nothing but speed.
        progress: show progress bars.
    """

    def __init__(
        self,
        model: MGVMoEForZeroShotIE,
        processor: MGVMoEProcessor,
        label_descriptions: Mapping[str, str] | None = None,
        batch_size: int = 64,
        progress: bool = False,
    ):
        self.model, self.processor, self.label_descriptions = model, processor, label_descriptions
        self.batch_size, self.progress = batch_size, progress

    def __call__(self, posts: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> np.ndarray:
        """Logits (posts, labels).

        Args:
            posts: in the package's schema, all of one task.
            labels: the candidates.
        """
        tasks = {task_of(post) for post in posts}
        if len(tasks) != 1:
            raise ValueError(f"posts must be of one task, got {sorted(tasks) or 'none'}.")
        encoded = encode_posts(posts, self.processor, "encoding" if self.progress else None)
        collator = PostCollator(self.processor, {tasks.pop(): labels}, self.label_descriptions)
        return score_encoded_posts(
            self.model, encoded, collator, self.batch_size, "scoring" if self.progress else None
        )
