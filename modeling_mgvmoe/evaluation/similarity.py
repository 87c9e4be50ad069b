"""The baseline that no training needs: the label whose words lie nearest to the post's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.evaluation_data import without_images
from ..data.progress_bar import progress_bar
from ..labels import check_labels, in_evaluation, label_texts
from ..modeling_mgvmoe import label_mean, token_mean
from ..objectives import at_least_float32

if TYPE_CHECKING:
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor

# Distinct texts to one row each of (texts, H).
Embed = Callable[[Sequence[str]], torch.Tensor]

# Cosines times this are taken for logits: usual for encoders trained on similarities. It moves confidences, no ranks.
SCALE = 20.0


def similarity_predictions(
    model: MGVMoEForZeroShotIE,
    processor: MGVMoEProcessor,
    posts: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    label_descriptions: Mapping[str, str | Sequence[str]] | None = None,
    batch_size: int = 64,
) -> list[str]:
    """The label with the greatest cosine to the post, both as the mean of the text encoder's states.

    Only the text encoder takes part: with a pretrained one this is what is known before any training, and what a
    trained model must beat. A post is read as "mention: text" or "head and tail: text"; its image is not seen.

    Args:
        model: its text encoder is used, in evaluation mode, and left as it came.
        processor: of the model.
        posts: in the package's schema.
        labels: candidates of all posts.
        label_descriptions: sentences instead of labels.
        batch_size: in posts; changes nothing but speed.

    Returns:
        A label per post.
    """
    scorer = SimilarityScorer(
        embed_with_model(model, processor), label_descriptions, processor.hypothesis_template, batch_size
    )
    return [labels[column] for column in scorer(posts, labels).argmax(-1).tolist()]


class SimilarityScorer:
    """Scores posts by the cosine of a text encoder's means, as the protocols ask for it.

    Args:
        embed: texts to vectors: [`embed_with_model`] or [`embed_with_encoder`].
        label_descriptions: sentences instead of labels.
        hypothesis_template: text around each label, with one "{}".
        batch_size: in posts; changes nothing but speed.
        progress: show a progress bar.
    """

    def __init__(
        self,
        embed: Embed,
        label_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        hypothesis_template: str = "{}",
        batch_size: int = 64,
        progress: bool = False,
    ):
        self.embed, self.label_descriptions, self.hypothesis_template = embed, label_descriptions, hypothesis_template
        self.batch_size, self.progress = batch_size, progress

    @torch.no_grad()
    def __call__(self, posts: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> np.ndarray:
        """Cosines times `SCALE` (posts, labels)."""
        texts = [
            (" and ".join(post["text"][start:end] for start, end in post["mentions"]) + ": " + post["text"]).strip()
            for post in without_images(posts)
        ]
        targets = self._labels(
            label_texts(check_labels(list(labels)), self.label_descriptions, self.hypothesis_template)
        )
        distinct = sorted(dict.fromkeys(texts), key=len)  # of like length together, so that little is padded
        found: dict[str, np.ndarray] = {}
        with progress_bar(desc="similarity", total=len(distinct), show=self.progress) as bar:
            for start in range(0, len(distinct), self.batch_size):
                chunk = distinct[start : start + self.batch_size]
                cosines = self._unit(chunk) @ targets.T
                found.update(zip(chunk, SCALE * cosines.double().cpu().numpy(), strict=True))
                bar.update(len(chunk))
        return np.stack([found[text] for text in texts])

    def _labels(self, texts: Sequence[Sequence[str]]) -> torch.Tensor:
        """The direction of each label: of several texts, the mean of theirs."""
        rows = self._unit([text for own in texts for text in own])
        index = torch.tensor([column for column, own in enumerate(texts) for _ in own], device=rows.device)
        return label_mean(rows, index)

    def _unit(self, texts: Sequence[str]) -> torch.Tensor:
        # Labels may share a description, but a text is embedded once.
        distinct = list(dict.fromkeys(text.strip() for text in texts))
        place = {text: row for row, text in enumerate(distinct)}
        rows = torch.nn.functional.normalize(at_least_float32(self.embed(distinct)), dim=-1)
        return rows[[place[text.strip()] for text in texts]]


def embed_with_model(model: MGVMoEForZeroShotIE, processor: MGVMoEProcessor) -> Embed:
    """Means of the states of the model's text encoder, in evaluation mode."""

    def embed(texts: Sequence[str]) -> torch.Tensor:
        encoded = processor.encode_candidates(list(texts), hypothesis_template="{}", return_tensors="pt").to(
            model.device
        )
        with in_evaluation(model):
            return model.get_candidate_embeds(**encoded)

    return embed


def embed_with_encoder(name: str, device: str | torch.device = "cpu", max_length: int = 128) -> Embed:
    """Means of the states of a text encoder, the special tokens' included.

    Args:
        name: folder or Hub name of any `AutoModel` with a tokenizer.
        device: where it runs.
        max_length: in tokens; a longer text is cut.
    """
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name)
    encoder = AutoModel.from_pretrained(name).to(device).eval()
    limit = min(max_length, tokenizer.model_max_length)

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> torch.Tensor:
        encoded = tokenizer(
            list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt", padding_side="right"
        ).to(device)
        return token_mean(encoder(**encoded).last_hidden_state, encoded["attention_mask"])

    return embed
