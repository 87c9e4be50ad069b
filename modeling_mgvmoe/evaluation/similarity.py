"""The baseline that no training needs: the label whose words lie nearest to the post's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor


@torch.no_grad()
def similarity_predictions(
    model: MGVMoEForZeroShotIE,
    processor: MGVMoEProcessor,
    posts: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    label_descriptions: Mapping[str, str] | None = None,
    batch_size: int = 64,
) -> list[str]:
    """The label with the greatest cosine to the post, both as the mean of the text encoder's states.

    Only the text encoder takes part: with a pretrained one this is what is known before any training, and what a
    trained model must beat. A post is read as "mention: text" or "head and tail: text"; its picture is not seen.

    Args:
        model: its text encoder is used, in evaluation mode, and left as it came.
        processor: of the model.
        posts: in the package's schema.
        labels: candidates of all posts.
        label_descriptions: sentences in place of labels.
        batch_size: in posts; changes nothing but speed.

    Returns:
        A label per post.
    """
    was_training = model.training
    model.eval()
    texts = [
        " and ".join(post["text"][start:end] for start, end in post["mentions"]) + ": " + post["text"]
        for post in posts
    ]
    distinct = sorted(set(texts), key=len)  # of like length together, so that little is padded
    found: dict[str, str] = {}
    targets = _embed(model, processor, processor.candidate_texts(list(labels), label_descriptions))
    for start in range(0, len(distinct), batch_size):
        chunk = distinct[start : start + batch_size]
        nearest = (_embed(model, processor, chunk) @ targets.T).argmax(-1).tolist()
        found.update((text, labels[column]) for text, column in zip(chunk, nearest, strict=True))
    model.train(was_training)
    return [found[text] for text in texts]


def _embed(model: MGVMoEForZeroShotIE, processor: MGVMoEProcessor, texts: Sequence[str]) -> torch.Tensor:
    encoded = processor.encode_candidates(list(texts), label_template="{}", return_tensors="pt").to(model.device)
    return torch.nn.functional.normalize(model.get_candidate_embeds(**encoded), dim=-1)
