"""Posts as the processor encodes them, once per post, and the collator that makes batches of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..modeling_mgvmoe import NO_LABEL
from ..processing_mgvmoe import IMAGE_TEXT_NAMES, MENTION_MASK, TEXT_NAMES, NoTokenError
from .post_images import read_image, undecoded
from .progress_bar import progress_bar
from .schema import task_of

if TYPE_CHECKING:
    from ..processing_mgvmoe import MGVMoEProcessor
    from .feature_cache import ImageFeatureCache
    from .zero_shot_data import ZeroShotData


def encode_posts(
    posts: Iterable[Mapping[str, Any]],
    processor: MGVMoEProcessor,
    progress: str | None = None,
    image_batch_size: int = 64,
    feature_cache: ImageFeatureCache | None = None,
    skip_without_token: bool = False,
) -> list[dict[str, Any]]:
    """Tokenize the posts and prepare their images.

    Args:
        posts: in the package's schema.
        processor: encodes them.
        progress: title of a progress bar; `None` shows none.
        image_batch_size: images that are prepared together.
        feature_cache: images are looked up in it and not prepared.
        skip_without_token: leave out posts with a mention that has no token, with a warning; else they are an error.

    Returns:
        Per post the unpadded features of `processor.encode_post`; with an image `pixel_values` (3, h, w) or, with a
        cache, `image_row`; its `id`, its `task` (its `dataset` if it has one), its `label` and `post_states` if it has
        them. A missing or broken image counts as none; a warning says how many and which.

    Raises:
        ValueError: a post does not fit the schema, or the cache does not have its image.
    """
    posts = undecoded(posts)
    unreadable: list[str] = []
    skipped: list[str] = []
    encoded: list[dict[str, Any]] = []
    waiting: list[tuple[dict[str, Any], Any]] = []
    total = len(posts) if isinstance(posts, Sized) else None
    for post in progress_bar(posts, progress, total):
        try:
            features = processor.encode_post(post["text"], post["mentions"], image_text=post.get("image_text"))
        except ValueError as error:
            if skip_without_token and isinstance(error, NoTokenError):
                skipped.append(f"{post['id']} ({error})")
                continue
            raise ValueError(f"post {post['id']!r}: {error}") from error
        features |= {"id": post["id"], "task": post.get("dataset") or task_of(post)}
        features |= {name: post[name] for name in ("label", "dataset", "post_states") if name in post}
        encoded.append(features)
        waiting.append((features, post.get("image")))
        if len(waiting) == image_batch_size:
            unreadable += _prepare_images(waiting, processor, feature_cache)
            waiting = []
    unreadable += _prepare_images(waiting, processor, feature_cache)
    _warn_of(skipped, "are left out, for the tokenizer makes no token of their mention")
    _warn_of(unreadable, "have an image that is missing or broken and are taken without it")
    return encoded


def _warn_of(posts: Sequence[str], what: str) -> None:
    """One warning that counts posts and names the first, if there are any."""
    if posts:
        shown = ", ".join(posts[:5]) + ("" if len(posts) <= 5 else ", ...")
        warnings.warn(f"{len(posts)} posts {what}: {shown}", stacklevel=3)


def _prepare_images(
    waiting: Sequence[tuple[dict[str, Any], Any]], processor: MGVMoEProcessor, feature_cache: ImageFeatureCache | None
) -> list[str]:
    """Add the images to the features that wait for them; the ids of posts with a missing or broken image."""
    found = [read_image(image) for _, image in waiting]
    if feature_cache is None:
        arrays = processor.encode_images([image for image, _ in found])
        for (features, _), pixel_values in zip(waiting, arrays, strict=True):
            if pixel_values is not None:
                features["pixel_values"] = pixel_values
    else:
        for (features, _), (image, _) in zip(waiting, found, strict=True):
            if image is not None:
                features["image_row"] = feature_cache.row_of(image, f"the image of post {features['id']!r}")
    return [
        f"{features['id']} ({reason})"
        for (features, _), (_, reason) in zip(waiting, found, strict=True)
        if reason in ("missing", "broken")
    ]


def has_image(post: Mapping[str, Any]) -> bool:
    """Whether an encoded post has pixels, prepared or in a cache."""
    return "pixel_values" in post or "image_row" in post


def has_image_text(post: Mapping[str, Any]) -> bool:
    """Whether an encoded post has words for its image."""
    return IMAGE_TEXT_NAMES[0] in post


def image_token_mask(batch: Mapping[str, Any], probs: torch.Tensor) -> torch.Tensor | None:
    """Which tokens of images in a batch are real: those of pixels first, then those of image texts.

    Args:
        batch: arguments of the model's `forward`.
        probs: (B, Li, K), `image_router_probs` of its output.

    Returns:
        (B, Li), boolean; `None` if all are.
    """
    pixels, words = batch.get("image_mask"), batch.get(IMAGE_TEXT_NAMES[1])
    if words is None or not bool(words.any()):
        return None if pixels is None else pixels.bool()[:, None].expand(probs.shape[:2])
    number = probs.shape[1] - words.shape[1]
    if pixels is None:
        pixels = words.new_ones(len(words))
    return torch.cat([pixels.bool()[:, None].expand(-1, number), words.bool()], dim=1)


@dataclass(frozen=True)
class TypesOfLabels:
    """Types of heads and tails, as a processor takes them.

    Attributes:
        allowed: for a label the types that its head and its tail may have.
        descriptions: sentences instead of these types.
    """

    allowed: Mapping[str, Any]
    descriptions: Mapping[str, str | Sequence[str]] = field(default_factory=dict)


class PostCollator:
    """Makes a batch of encoded posts, with the candidate labels of each post's task.

    Args:
        processor: pads the posts and encodes the labels.
        labels: for each task its candidate labels. A post's candidates are those of its own task.
        label_descriptions: sentences instead of labels, one or several for each.
        feature_cache: that with which the posts were encoded; it gives `image_features` instead of `pixel_values`.
        with_ids: add the posts' `ids`, which the model does not take: to be popped.
        types: types of heads and tails, for models with `score="similarity"`.
    """

    def __init__(
        self,
        processor: MGVMoEProcessor,
        labels: Mapping[str, Sequence[str]],
        label_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        feature_cache: ImageFeatureCache | None = None,
        with_ids: bool = False,
        types: TypesOfLabels | None = None,
    ):
        self.processor, self.feature_cache, self.with_ids = processor, feature_cache, with_ids
        self.labels = {task: tuple(names) for task, names in labels.items()}
        # Tasks may share a label: it is one column, open to both.
        self.candidate_labels = list(dict.fromkeys(name for names in self.labels.values() for name in names))
        self.column_of = {name: column for column, name in enumerate(self.candidate_labels)}
        self.candidates = dict(
            processor.encode_candidates(
                self.candidate_labels,
                label_descriptions,
                label_types=None if types is None else types.allowed,
                type_descriptions=None if types is None else types.descriptions,
                return_tensors="pt",
            )
        )
        self.task_masks = {
            task: torch.tensor([name in set(names) for name in self.candidate_labels])
            for task, names in self.labels.items()
        }

    def __call__(self, posts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate.

        Args:
            posts: of [`encode_posts`]; the label `None` means no class, a missing one that the class is not known.

        Returns:
            The arguments of the model's `forward`, with `labels` if the posts have them; and `ids`, if asked for.

        Raises:
            ValueError: a post's label is not among the candidates of its task, only some posts have the key `label`,
                or an image is in a cache and the collator has none.
        """
        without = [str(post["id"]) for post in posts if "label" not in post]
        if without and len(without) < len(posts):
            raise ValueError(
                f"label: all posts of a batch must have one, or none of them (None: without a class), got "
                f"{len(without)} of {len(posts)} without, the first {without[0]!r}."
            )
        for post in [] if without else posts:
            if post["label"] is not None and post["label"] not in self.labels.get(post["task"], ()):
                raise ValueError(
                    f"labels: post {post['id']!r} has {post['label']!r}, which is not one of the "
                    f"{len(self.labels.get(post['task'], ()))} {post['task']} labels of this collator."
                )
        batch = {**self.model_inputs(posts), **self.candidates}
        if not without:
            batch["labels"] = torch.tensor(
                [NO_LABEL if post["label"] is None else self.column_of[post["label"]] for post in posts]
            )
        if self.with_ids:
            batch["ids"] = [str(post["id"]) for post in posts]
        return batch

    def model_inputs(self, posts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch without `labels` and without the candidates' tokens: a post may be of no candidate class.

        Args:
            posts: of [`encode_posts`].

        Returns:
            Arguments of the model's `forward`, `candidate_mask` (B, C) included.

        Raises:
            ValueError: there are no candidates for a post's task, or its image is in a cache and the collator has
                none.
        """
        for post in posts:
            if post["task"] not in self.task_masks:
                raise ValueError(
                    f"labels: post {post['id']!r} is a {post['task']} post, got candidates for "
                    f"{', '.join(self.task_masks)} only."
                )
        states = [post["post_states"] for post in posts if "post_states" in post]
        names = ("pixel_values",) if states else (*TEXT_NAMES, MENTION_MASK, "pixel_values", *IMAGE_TEXT_NAMES)
        features = [{name: post[name] for name in names if name in post} for post in posts]
        cached = [place for place, post in enumerate(posts) if "image_row" in post]
        if cached and self.feature_cache is None:
            raise ValueError(
                f"feature_cache: post {posts[cached[0]]['id']!r} was encoded with one, got a collator without"
            )
        if cached and self.feature_cache is not None:
            images = self.feature_cache.read([posts[place]["image_row"] for place in cached])
            for place, image in zip(cached, images, strict=True):
                features[place]["image_features"] = image
        return {
            **(self.processor.pad_posts(features, return_tensors="pt") if any(features) else {}),
            **({"post_states": torch.stack(states)} if states else {}),
            "candidate_mask": torch.stack([self.task_masks[post["task"]] for post in posts]),
        }


class SplitCollator:
    """Collates batches with the candidates of their own split, for transformers' `Trainer`, which has one collator.

    Accelerate cuts every tensor of a streamed batch along its first axis: candidates therefore come once per post.

    Args:
        collators: of each split.
    """

    def __init__(self, collators: Mapping[str, PostCollator]):
        self.collators = dict(collators)

    def __call__(self, posts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate.

        Args:
            posts: of [`encode_splits`], all of one split.

        Returns:
            See [`PostCollator`]; every tensor has an axis of posts (B, ...) before its own axes.

        Raises:
            ValueError: posts of several splits, or of one that has no collator.
        """
        splits = sorted({str(post.get("split")) for post in posts})
        if len(splits) != 1 or splits[0] not in self.collators:
            raise ValueError(
                f"posts: all of a batch must be of one split of {', '.join(self.collators)}, got {', '.join(splits)}."
            )
        collator = self.collators[splits[0]]
        shared = {name: value.expand(len(posts), *value.shape) for name, value in collator.candidates.items()}
        return {**collator(posts), **shared}


def encode_splits(
    data: ZeroShotData,
    processor: MGVMoEProcessor,
    splits: Sequence[str],
    with_types: bool = False,
    feature_cache: ImageFeatureCache | None = None,
    progress: bool = False,
    with_ids: Sequence[str] = (),
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, PostCollator]]:
    """Encoded posts of each split, and a collator for them.

    Args:
        data: posts and classes.
        processor: encodes them.
        splits: which.
        with_types: the types of heads and tails too, for models with `score="similarity"`.
        feature_cache: images are looked up in it.
        progress: show a bar for each split.
        with_ids: splits whose batches have `ids`.

    Returns:
        Both by split; each post says its `split`.
    """
    encoded = {
        split: encode_posts(
            data.posts[split],
            processor,
            f"encoding {split} posts" if progress else None,
            feature_cache=feature_cache,
            skip_without_token=True,
        )
        for split in splits
    }
    for split, posts in encoded.items():
        for post in posts:
            post["split"] = split
    types = TypesOfLabels(data.label_types, data.type_descriptions) if with_types else None
    collators = {
        split: PostCollator(
            processor,
            data.labels[split],
            data.label_descriptions,
            feature_cache,
            with_ids=split in with_ids,
            types=types,
        )
        for split in splits
    }
    return encoded, collators
