r"""Why a model answers as it does: words and patches weighed, experts that fired (also over a dataset), confidence.

With the weights :math:`a_j` of the fusion (E7) and the router's probabilities :math:`p_{jk}` (E1) of token j,

.. math::
    f = \sum_j a_j z_j, \quad z_j = \sum_k p_{jk} m_{jk} \qquad
    \text{so } \sum_{j} a_j p_{jk} \text{ is the share of expert } k \text{ in } f.

The weights say what the fusion looked at. They do not say what would have to change for another answer: a model may
give half of them to an image that moves no score. So a post with an image is scored without it as well: without its
pixels and without its image text.

Axes: Lt = text tokens, Li = image tokens, K = experts, C = candidate labels.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ..data.encoding import encode_posts, image_token_mask
from ..data.evaluation_data import select_posts
from ..data.progress_bar import progress_bar
from ..images import to_rgb
from ..labels import (
    TASKS,
    Label,
    check_label_words,
    check_labels,
    check_threshold,
    in_evaluation,
    logit_threshold,
    plain_labels,
    threshold_values,
    with_new_names,
)
from ..spans import is_absent, mentions_of, read_image_text, read_mentions, splits_character
from ..variational_experts import MODALITIES

if TYPE_CHECKING:
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor


# Tokens before the patches: class, distillation and register tokens. No tower of transformers has more.
MOST_BEFORE = 8


def patch_grid(num_tokens: int, height: int, width: int, patch_size: Any = None) -> tuple[int, int, int] | None:
    """Rows and columns of an image's tokens.

    A tower of square patches, with or without tokens before them, is known by its patch size; one that merges patches
    (Swin) or whose feature map was flattened (MobileNetV2) by the shape of the image: among the ways to read the
    tokens as a grid, the one with fewest tokens before it whose cells are square.

    Args:
        num_tokens: Li.
        height, width: of the pixel values.
        patch_size: of the vision configuration, an integer or a pair, if it has one.

    Returns:
        Rows, columns, and the number of tokens before the first patch; `None` if the tokens make no such grid.
    """
    sizes = list(patch_size) if isinstance(patch_size, (list, tuple)) else [patch_size] * 2
    if len(sizes) == 2 and all(isinstance(size, int) and size > 0 for size in sizes):
        rows, columns = height // sizes[0], width // sizes[1]
        if rows and columns and 0 <= num_tokens - rows * columns <= MOST_BEFORE:
            return rows, columns, num_tokens - rows * columns
    for before in range(min(MOST_BEFORE, num_tokens - 1) + 1):
        patches = num_tokens - before
        rows = max(1, round((patches * height / width) ** 0.5))
        # Odd sides are rounded up or down on their way through the layers.
        for own in (rows, rows + 1, rows - 1):
            if own > 0 and patches % own == 0 and _fits(own, patches // own, height, width):
                return own, patches // own, before
    return None


def _fits(rows: int, columns: int, height: int, width: int) -> bool:
    """Whether cells are square but for rounding; those of a square image are without."""
    if height == width:
        return rows == columns
    sides = height / rows, width / columns
    return max(sides) <= 1.25 * min(sides)


def seen_image(image_processor: Any, pixel_values: np.ndarray) -> Image.Image:
    """What the vision encoder is shown of an image, resized, cropped and padded: pixel values (3, h, w) as RGB."""
    pixels = np.asarray(pixel_values, dtype=float).transpose(1, 2, 0)
    if getattr(image_processor, "do_normalize", False):
        pixels = pixels * np.asarray(image_processor.image_std) + np.asarray(image_processor.image_mean)
    if getattr(image_processor, "do_rescale", True):
        pixels = pixels / getattr(image_processor, "rescale_factor", 1 / 255)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


# A smaller change of the best label's score is no effect of the image; a change by FULL_EFFECT or more draws the
# weights of its patches in full colour.
NO_EFFECT, FULL_EFFECT = 0.005, 0.5
# Kana and Chinese characters: languages without spaces between words.
UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True)
class Word:
    """A word of the post.

    Attributes:
        start, end: its characters, end exclusive.
        weight: what its tokens weigh in the fusion together, between 0 and 1.
        was_read: false where the post was too long and this part of it was cut off.
    """

    start: int
    end: int
    weight: float
    was_read: bool = True


@dataclass(frozen=True)
class Explanation:
    """One answer, and what it was made of.

    Attributes:
        text: the post.
        mentions: one span (typing) or two (head, tail), in characters, end exclusive.
        ranking: {"label", "score"} with falling scores, the softmax over the candidates.
        threshold: the answer is "none of these" if the best label has less; `None`: never.
        words: of the text, in order.
        patches: (rows, columns), the weight of each patch; `None` without an image, or if its tokens make no grid.
        patch_experts: (rows, columns, K), p of each patch; `None` as `patches`.
        image: the image, upright, RGB.
        seen_image: what the vision encoder was shown of it, which the patches divide; `None` without an image.
        image_text: words for the image that came with the post; none where there are none.
        shares: weights of "words", "image" (pixels), "image_text" (only if there is one) and "other" (special
            tokens, markers), which add up to 1.
        expert_usage: for "text", and "image" (pixels and image text) if there is one, the mean (K,) of p over the
            tokens, as in the training log.
        expert_shares: likewise, the sum of a_j p_jk (K,); all of them add up to 1.
        ranking_without_image: as `ranking`, of the same post without its image; `None` where it has none.
        gate: g of E8', for a model whose scores begin as similarity: how much of what was weighed is added.
        reject_by: what the threshold is about, of `labels.REJECT_BY`.
        compared: that of the best label; `None`: its score.
    """

    text: str
    mentions: list[tuple[int, int]]
    ranking: list[dict[str, Any]]
    threshold: float | None
    words: list[Word]
    shares: dict[str, float]
    expert_usage: dict[str, np.ndarray]
    expert_shares: dict[str, np.ndarray]
    patches: np.ndarray | None = None
    patch_experts: np.ndarray | None = None
    image: Image.Image | None = field(default=None, repr=False)
    seen_image: Image.Image | None = field(default=None, repr=False)
    image_text: list[str] = field(default_factory=list)
    ranking_without_image: list[dict[str, Any]] | None = None
    gate: float | None = None
    reject_by: str = "probability"
    compared: float | None = None

    @property
    def answer(self) -> str | None:
        """The best label; `None` for "none of these"."""
        best = self.ranking[0]
        compared = best["score"] if self.compared is None else self.compared
        return None if self.threshold is not None and compared < self.threshold else best["label"]

    @property
    def uncertainty(self) -> float:
        """Entropy of the scores over its greatest value, log C: 0 is sure, 1 is all alike. 0 for a single label."""
        return normalized_entropy([entry["score"] for entry in self.ranking])

    @property
    def image_effect(self) -> float | None:
        """Score of the best label minus its score without the image, between -1 and 1; `None` without an image."""
        if self.ranking_without_image is None:
            return None
        without = {entry["label"]: entry["score"] for entry in self.ranking_without_image}
        return float(self.ranking[0]["score"] - without[self.ranking[0]["label"]])

    @property
    def image_changes_answer(self) -> bool:
        """Whether another label is the best one without the image."""
        without = self.ranking_without_image
        return without is not None and without[0]["label"] != self.ranking[0]["label"]

    @property
    def image_strength(self) -> float:
        """Opacity of the drawn patch weights, from 0 (the image changes nothing) to 1."""
        effect = abs(self.image_effect or 0.0)
        if effect < NO_EFFECT and not self.image_changes_answer:
            return 0.0
        return min(1.0, effect / FULL_EFFECT)

    def as_json(self) -> dict[str, Any]:
        """Everything but the images, in types that JSON has."""
        return {
            "text": self.text,
            "mentions": [list(span) for span in self.mentions],
            "ranking": self.ranking,
            "answer": self.answer,
            "threshold": self.threshold,
            "reject_by": self.reject_by,
            "compared": self.compared,
            "uncertainty": self.uncertainty,
            "ranking_without_image": self.ranking_without_image,
            "image_effect": self.image_effect,
            "words": [vars(word) | {"word": self.text[word.start : word.end]} for word in self.words],
            "patches": None if self.patches is None else self.patches.tolist(),
            "image_text": self.image_text,
            "shares": self.shares,
            "expert_usage": {name: usage.tolist() for name, usage in self.expert_usage.items()},
            "expert_shares": {name: shares.tolist() for name, shares in self.expert_shares.items()},
            "gate": self.gate,
        }


def normalized_entropy(scores: Sequence[float]) -> float:
    """Entropy of probabilities, divided by that of equal ones; 0 where there is only one."""
    probs = np.asarray(scores, dtype=float)
    if len(probs) < 2:
        return 0.0
    positive = probs[probs > 0]
    return float(np.clip(-(positive * np.log(positive)).sum() / np.log(len(probs)), 0, 1))


def image_effect_words(explanation: Explanation) -> str:
    """Answer without and with the image, and what the image changes; empty for a post without an image."""
    without = explanation.ranking_without_image
    if without is None or explanation.image_effect is None:
        return ""
    best, before = explanation.ranking[0], without[0]
    words = f"Without the image: {before['label']} {before['score']:.2f}. "
    words += f"With it: {best['label']} {best['score']:.2f}. "
    if explanation.image_changes_answer:
        return words + "The image changes the answer."
    if explanation.image_strength == 0:
        return words + "The image changes nothing here."
    return words + f"The image moves the score by {explanation.image_effect:+.2f}."


@with_new_names
def explain_post(
    model: MGVMoEForZeroShotIE,
    processor: MGVMoEProcessor,
    post: Mapping[str, Any],
    candidate_labels: Sequence[str | Label] | None = None,
    label_descriptions: Mapping[str, str | Sequence[str]] | None = None,
    hypothesis_template: str | None = None,
    label_types: Mapping[str, Any] | None = None,
    type_descriptions: Mapping[str, str | Sequence[str]] | None = None,
    threshold: float | None = None,
    reject_by: str = "probability",
) -> Explanation:
    """Score the labels for one post and say what the scores were made of.

    Args:
        model: left in the mode, training or evaluation, in which it came.
        processor: of the model.
        post: as the pipeline takes it.
        candidate_labels: default: the post's own.
        label_descriptions, hypothesis_template, label_types, type_descriptions: as the pipeline takes them.
        threshold, reject_by: the answer is "none of these" if the best label has less, as of the pipeline. The
            protocol "open" of `examples/evaluate.py` fits one.

    Raises:
        ValueError: as of the pipeline.
    """
    check_threshold(threshold, reject_by)
    mentions, text = mentions_of(post), post["text"]
    spans = read_mentions(mentions, text)
    task, calibration = TASKS[len(spans) - 1], model.config.score_calibration or {}
    logit_threshold(threshold, reject_by, calibration, task)  # raises where the model has no calibration
    labels = post.get("candidate_labels") if candidate_labels is None else candidate_labels
    if labels is None:
        raise ValueError("candidate_labels: a non-empty list of labels is needed, in the call or in the post")
    labels, label_descriptions, label_types, _ = plain_labels(labels, label_descriptions, label_types)
    labels = check_labels(labels)
    check_label_words(labels, label_descriptions, label_types, type_descriptions)
    candidates = processor.encode_candidates(
        labels,
        label_descriptions,
        hypothesis_template,
        return_tensors="pt",
        label_types=label_types,
        type_descriptions=type_descriptions,
    )
    features = processor.encode_post(text, mentions, return_offsets_mapping=True)
    offsets = features.pop("offset_mapping")
    image_text = read_image_text(post.get("image_text"))
    of_image: dict[str, Any] = dict(processor.encode_image_text(image_text)) if image_text else {}
    num_words = len(of_image.get("image_text_input_ids", ()))
    image = None if is_absent(post.get("image")) else to_rgb(post["image"], "image")
    (pixel_values,) = processor.encode_images([image])

    def score(encoded: dict[str, Any]) -> Any:
        inputs = {**processor.pad_posts([encoded], return_tensors="pt"), **candidates}
        return model(
            **{key: value.to(model.device) if hasattr(value, "to") else value for key, value in inputs.items()}
        )

    if pixel_values is not None:
        of_image["pixel_values"] = pixel_values
    without = None
    with in_evaluation(model):
        if of_image:
            (without,) = processor.post_process_zero_shot_ie(score(dict(features)).logits, labels)
        output = score(features | of_image)
    (ranking,) = processor.post_process_zero_shot_ie(output.logits, labels)
    logits = output.logits[0].double().cpu()
    if reject_by == "calibrated" and threshold is not None:
        slope, intercept = calibration[task]
        compared = torch.sigmoid(slope * logits.max() + intercept)
    else:
        own = "logit" if reject_by == "calibrated" else reject_by
        compared = threshold_values(logits.softmax(-1), logits, own)[logits.argmax()]
    # Residual experts have none: they move the score's vectors themselves.
    gate = getattr(getattr(model, "similarity", None), "gate", None)
    return Explanation(
        text=text,
        mentions=spans,
        ranking=ranking,
        threshold=threshold,
        reject_by=reject_by,
        compared=float(compared),
        image=image,
        image_text=image_text,
        ranking_without_image=without,
        gate=None if gate is None else float(gate.detach()),
        **_weights(output, text, offsets, num_words),
        seen_image=None if pixel_values is None else seen_image(processor.image_processor, pixel_values),
        **_patches(output, model, pixel_values, num_words),
    )


def _weights(output: Any, text: str, offsets: Sequence[tuple[int, int]], num_words: int) -> dict[str, Any]:
    """Words, shares of the modalities, and experts; the last `num_words` tokens of the image are its image text's."""
    text_probs = _array(output.text_router_probs)
    image_probs = None if output.image_router_probs is None else _array(output.image_router_probs)
    weights = _array(output.fusion_attentions)
    of_image, of_text = np.split(weights, [len(weights) - len(text_probs)])
    words = weigh_words(text, offsets, of_text)
    of_pixels, of_image_text = np.split(of_image, [len(of_image) - num_words])
    shares = {"words": sum(word.weight for word in words), "image": float(of_pixels.sum())}
    if num_words:
        shares["image_text"] = float(of_image_text.sum())
    shares["other"] = max(0.0, 1 - sum(shares.values()))
    usage, expert_shares = {"text": text_probs.mean(0)}, {"text": of_text @ text_probs}
    if image_probs is not None:
        usage["image"], expert_shares["image"] = image_probs.mean(0), of_image @ image_probs
    return {"words": words, "shares": shares, "expert_usage": usage, "expert_shares": expert_shares}


def weigh_words(text: str, offsets: Sequence[tuple[int, int]], weights: np.ndarray) -> list[Word]:
    """Lays the weights of tokens on the words they are of.

    A token that reaches over several words is divided among them by characters.

    Args:
        text: the post.
        offsets: (start, end) of the characters of each token; of no characters for special tokens.
        weights: (Lt,).

    Returns:
        The words. Their weights add up to those of the tokens that stand for characters which are no white space.
    """
    characters, covered = np.zeros(len(text)), np.zeros(len(text), dtype=bool)
    for (start, end), weight in zip(offsets, weights, strict=True):
        own = [place for place in range(start, end) if not text[place].isspace()]
        if own:
            characters[own] += weight / len(own)
            covered[own] = True
    return [
        Word(start, end, float(characters[start:end].sum()), bool(covered[start:end].any()))
        for start, end in split_words(text)
    ]


def split_words(text: str) -> list[tuple[int, int]]:
    """Where words are: runs of letters, digits and marks; signs by themselves, Chinese character by character.

    Whatever a reader sees as one character stays together.
    """
    words: list[tuple[int, int]] = []
    for place, char in enumerate(text):
        if char.isspace():
            continue
        if words and words[-1][1] == place and (
            splits_character(text, place) or (_in_word(text, place - 1) and _in_word(text, place))
        ):  # fmt: skip
            words[-1] = (words[-1][0], place + 1)
        else:
            words.append((place, place + 1))
    return words


def _in_word(text: str, place: int) -> bool:
    char = text[place]
    if char in "'\u2019":  # don't
        return 0 < place < len(text) - 1 and text[place - 1].isalpha() and text[place + 1].isalpha()
    spelled = char.isalnum() or char == "_" or unicodedata.category(char).startswith("M")
    return spelled and not UNSPACED.match(char)


def _patches(output: Any, model: Any, pixel_values: np.ndarray | None, num_words: int) -> dict[str, Any]:
    """The weights and experts of the image's patches; its last `num_words` tokens are words."""
    if pixel_values is None:
        return {}
    probs = _array(output.image_router_probs)
    probs = probs[: len(probs) - num_words]
    height, width = pixel_values.shape[-2:]
    grid = patch_grid(len(probs), height, width, getattr(model.config.vision_config, "patch_size", None))
    if grid is None:
        return {}
    rows, columns, before = grid
    weights = _array(output.fusion_attentions)[before : len(probs)]
    return {
        "patches": weights.reshape(rows, columns),
        "patch_experts": probs[before:].reshape(rows, columns, -1),
    }


def _array(values: torch.Tensor) -> np.ndarray:
    """The only post's values, in double precision."""
    return values[0].double().cpu().numpy()


# Posts that are encoded at a time: their prepared images are in memory together.
ENCODED_AT_ONCE = 512


@dataclass(frozen=True)
class ExpertUsage:
    """The router's probabilities over posts.

    Attributes:
        overall: for "text" and "image" the mean (K,) over the tokens of all posts; without "image" if no post has
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
    # Residual experts alone read where the mentions are.
    residual = model.config.expert_type == "residual"
    inputs = {name: value.to(model.device) for name, value in batch.items() if residual or name != "mention_mask"}
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
