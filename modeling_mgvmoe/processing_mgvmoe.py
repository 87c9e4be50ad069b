"""Processor of MG-VMoE: posts with marked mentions, their images and candidate labels in, model inputs out.

Axes: B posts, Lt text tokens, Lw tokens of an image text, S mention slots (1 if every post is typing, else 2), C
candidate labels, Lc label tokens, h and w pixels.
"""

import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoTokenizer
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ImagesKwargs, ProcessorMixin

from .images import MAX_PIXELS, to_rgb
from .labels import (
    Label,
    as_nodes,
    check_label_words,
    check_labels,
    check_separator,
    check_template,
    label_texts,
    plain_labels,
    rank_labels,
    read_label_types,
    read_labels,
    refuse_unknown_arguments,
    with_new_names,
    with_spacing,
)
from .loading import check_image_processor, reading
from .spans import (
    Marker,
    Segment,
    Token,
    TokenizerRules,
    as_list,
    check_unicode,
    encode_segments,
    encode_with_places,
    is_absent,
    join_image_texts,
    name_mentions,
    origins_of_named,
    read_batch,
    read_image_text,
    read_mentions,
    split_at_mentions,
    study_tokenizer,
    token_id,
    whole_characters,
    window,
    word_span_to_char_span,
    words_to_text,
)

UNUSED_MARKERS = ("[unused1]", "[unused2]", "[unused3]", "[unused4]")
ADDED_MARKERS = ("<m1>", "<m2>", "<m3>", "<m4>")


def choose_markers(
    tokenizer: Any, typing: Sequence[str] | None, relation: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """The markers asked for, else the paper's; else `ADDED_MARKERS`, if the vocabulary lacks the paper's.

    Args:
        tokenizer: A fast tokenizer.
        typing: [open, close], or None.
        relation: [head open, head close, tail open, tail close], or None.

    Returns:
        Both, as tokens of the vocabulary.

    Raises:
        ValueError: If a marker is not in the vocabulary or markers are not distinct.
    """
    first: tuple[str, ...] = UNUSED_MARKERS
    wanted = typing is None or relation is None
    if wanted and any(token_id(tokenizer, token) is None for token in UNUSED_MARKERS):
        first = ADDED_MARKERS
        tokenizer.add_special_tokens({"extra_special_tokens": list(ADDED_MARKERS)}, replace_extra_special_tokens=False)
    typing = first[:2] if typing is None else typing
    relation = (first[0], first[2], first[1], first[3]) if relation is None else relation
    for name, markers, number in (("typing_markers", typing, 2), ("relation_markers", relation, 4)):
        if isinstance(markers, str) or len(markers) != number or len(set(markers)) != number:
            raise ValueError(f"{name}: {number} distinct tokens are needed (got {markers!r})")
        missing = [token for token in markers if token_id(tokenizer, token) is None]
        if missing:
            raise ValueError(f"{name}: the tokenizer's vocabulary has no {', '.join(map(repr, missing))}")
    return list(typing), list(relation)


TEXT_NAMES = ("input_ids", "attention_mask", "mention_positions")
# Only where mentions are named before the post (`mention_style="prefix"`).
MENTION_MASK = "mention_mask"
# Only where posts share images.
IMAGE_INDEX = "image_index"
# An image, or what the frozen vision tower made of it.
IMAGE_NAMES = ("pixel_values", "image_features")
# Words for the image. A post without them has neither.
IMAGE_TEXT_NAMES = ("image_text_input_ids", "image_text_attention_mask")
FEATURE_NAMES = (*TEXT_NAMES, MENTION_MASK, *IMAGE_NAMES, *IMAGE_TEXT_NAMES)
MASK_NAMES = ("image_mask", "candidate_mask", "candidate_types", MENTION_MASK)


def pad_rows(
    tokenizer: Any,
    rows: list[list[int]],
    masks: list[list[int]] | None = None,
    padding: bool | str = True,
    length: int | None = None,
    multiple: int | None = None,
) -> dict[str, list[list[int]]]:
    """Pads token ids and attention masks on the right, for mention positions count from the left."""
    padded = tokenizer.pad(
        {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows] if masks is None else masks},
        padding=padding,
        max_length=length,
        pad_to_multiple_of=multiple,
        padding_side="right",
        return_attention_mask=True,
    )
    return {name: padded[name] for name in TEXT_NAMES[:2]}


def pad_features(
    tokenizer: Any,
    features: Sequence[Mapping[str, Any]],
    padding: bool | str = True,
    length: int | None = None,
    multiple: int | None = None,
    share_images: bool = False,
    image_text_length: int | None = None,
) -> dict[str, list[Any]]:
    """Makes lists for a batch of posts; `MGVMoEProcessor.pad_posts` documents it."""
    if not features:
        raise ValueError("features: at least one post is needed (got none)")
    names = {name for post in features for name in post}
    if not names <= set(FEATURE_NAMES):
        raise ValueError(f"features: only {', '.join(FEATURE_NAMES)} can be padded (got {sorted(names)})")
    batch: dict[str, list[Any]] = {}
    if names & set(TEXT_NAMES):
        columns: dict[str, list[list[int]]] = {}
        for name in TEXT_NAMES:
            missing = [number for number, post in enumerate(features) if post.get(name) is None]
            if missing:
                raise ValueError(f"features[{missing[0]}]: {name} is missing")
            columns[name] = [_to_list(post[name]) for post in features]
        batch |= pad_rows(tokenizer, columns["input_ids"], columns["attention_mask"], padding, length, multiple)
        slots = max(len(places) for places in columns["mention_positions"])
        batch["mention_positions"] = [places + [-1] * (slots - len(places)) for places in columns["mention_positions"]]
        if MENTION_MASK in names:
            batch[MENTION_MASK] = _mention_masks(features, slots, [len(row) for row in batch["input_ids"]])
    if set(IMAGE_NAMES) <= names:
        raise ValueError("features: pixel_values and image_features exclude each other (got both)")
    for name in IMAGE_NAMES:
        images = [None if post.get(name) is None else _image(post[name]) for post in features]
        present = [image for image in images if image is not None]
        if len({image.shape for image in present}) > 1:
            raise ValueError(
                f"{name}: images of one size are needed (got {sorted({image.shape for image in present})})"
            )
        if not present:
            continue
        shared = _shared(images) if share_images else None
        if shared is not None:
            batch[name], batch[IMAGE_INDEX] = shared
        else:
            blank = np.zeros(present[0].shape, present[0].dtype)  # "like" would keep a transposed layout
            batch[name] = [blank if image is None else image for image in images]
        batch["image_mask"] = [image is not None for image in images]
    return batch | _pad_image_texts(tokenizer, features, padding, image_text_length, multiple)


def _pad_image_texts(
    tokenizer: Any,
    features: Sequence[Mapping[str, Any]],
    padding: bool | str,
    length: int | None,
    multiple: int | None,
) -> dict[str, list[list[int]]]:
    """Ids and masks of the image texts, (B, Lw); masked padding for a post without one, no keys without any."""
    ids_name, mask_name = IMAGE_TEXT_NAMES
    if not any(post.get(ids_name) is not None for post in features):
        return {}
    rows, masks = [], []
    for post in features:
        row = [] if post.get(ids_name) is None else _to_list(post[ids_name])
        mask = [1] * len(row) if post.get(mask_name) is None else _to_list(post[mask_name])
        # What is all padding is none, whatever another batch padded it to.
        present = any(mask)
        rows.append(row if present else [tokenizer.pad_token_id or 0])
        masks.append(mask if present else [0])
    if not any(map(any, masks)):
        return {}
    padded = pad_rows(tokenizer, rows, masks, padding, length, multiple)
    return {ids_name: padded[TEXT_NAMES[0]], mask_name: padded[TEXT_NAMES[1]]}


def distinct_images(images: Sequence[np.ndarray | None]) -> tuple[list[np.ndarray], list[int]]:
    """Every distinct image once, and each post's place among them (0 for none)."""
    rows: dict[Any, int] = {}
    distinct, index = [], []
    for image in images:
        if image is None:
            index.append(0)
            continue
        key = image.shape, image.dtype.str, hashlib.blake2b(image.tobytes()).digest()
        if key not in rows:
            rows[key] = len(rows)
            distinct.append(image)
        index.append(rows[key])
    return distinct, index


def _shared(images: Sequence[np.ndarray | None]) -> tuple[list[np.ndarray], list[int]] | None:
    """The distinct images and each post's place among them; `None` if all are distinct."""
    if len(images) < 2:
        return None
    distinct, index = distinct_images(images)
    return (distinct, index) if len(distinct) < sum(image is not None for image in images) else None


def _mention_masks(
    features: Sequence[Mapping[str, Any]], slots: int, lengths: Sequence[int]
) -> list[list[list[bool]]]:
    """For each post and slot, which of the post's tokens are the mention's; none that pads it to its length."""
    missing = [number for number, post in enumerate(features) if post.get(MENTION_MASK) is None]
    if missing:
        raise ValueError(f"features[{missing[0]}]: {MENTION_MASK} is missing")
    masks = []
    for post, length in zip(features, lengths, strict=True):
        rows = [[bool(token) for token in _to_list(row)] for row in post[MENTION_MASK]]
        rows += [[]] * (slots - len(rows))
        masks.append([row + [False] * (length - len(row)) for row in rows])
    return masks


def to_tensors(batch: Mapping[str, list[Any]], return_tensors: str | None) -> BatchFeature:
    """Turns lists into int64, bool and float arrays ("np") or tensors ("pt"), or leaves them as they are (None)."""
    if return_tensors not in (None, "pt", "np"):
        raise ValueError(f"return_tensors: 'pt', 'np' or None is needed (got {return_tensors!r})")
    if return_tensors is None:
        return BatchFeature(dict(batch))
    arrays: dict[str, Any] = {}
    for name, rows in batch.items():
        if name in IMAGE_NAMES:
            array = np.stack(rows)
        elif (
            name == MENTION_MASK
            and len({len(row) for post in rows for row in post}) > 1
            or len({len(row) for row in rows if isinstance(row, list)}) > 1
        ):
            raise ValueError(f"padding: it is needed with return_tensors ({name} has rows of several lengths)")
        else:
            array = np.array(rows, dtype=bool if name in MASK_NAMES else np.int64)
        arrays[name] = torch.from_numpy(array) if return_tensors == "pt" else array
    return BatchFeature(arrays)


def _image(values: Any) -> np.ndarray:
    """An array; in single precision where it came as lists of numbers, as streamed posts have it."""
    return np.asarray(values, dtype=np.float32 if isinstance(values, (list, tuple)) else None)


def _to_list(values: Any) -> list[int]:
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _only_image(image: Any, number: int) -> Any:
    """Takes the image out of a post's list of one; a list of none is None."""
    if not isinstance(image, (list, tuple)):
        return image
    if len(image) > 1:
        raise ValueError(f"images[{number}]: a post takes one image at most (got {len(image)})")
    return image[0] if image else None


# Of tokens that stand for no character of the post, as the tokenizers have it.
NOWHERE = (0, 0)


class NoTokenError(ValueError):
    """The tokenizer makes no token of a mention, which depends on its vocabulary and not on the post alone."""


@dataclass(frozen=True)
class PostEncoding:
    """A post on its way to its features, before and after the tokenizer.

    Attributes:
        text: the post.
        spans: one or two mentions, characters of the text.
        rules: the tokenizer's span rules.
        markers: ids of the tokens around the mentions, opening and closing in turn; `None`: mentions are named before
            the post instead.
        limit: most tokens, those around the text included.
        number: "[3]" for the fourth post of a batch, for messages.

    Raises:
        ValueError: `limit` cannot hold the special tokens, the markers or names, and one token.
    """

    text: str
    spans: Sequence[tuple[int, int]]
    rules: TokenizerRules
    markers: Sequence[int] | None
    limit: int
    number: str = ""

    def __post_init__(self) -> None:
        if self.markers is None:
            needed, what = 4 * len(self.spans), "the mentions, named before the post and in it"
        else:
            needed, what = len(self.markers) + 1, "markers and one token"
        around = self.rules.number_around
        if self.limit - around < needed:
            join = " and" if self.markers is None else ","
            raise ValueError(
                f"max_length: at least {around + needed} is needed for special tokens{join} {what} (got {self.limit})"
            )

    @cached_property  # asked for before and after the tokenizer
    def pieces(self) -> list[Segment | Marker]:
        """The text between the borders of the mentions, and these."""
        if self.markers is not None:
            return split_at_mentions(self.text, self.spans)
        named, spans_of = name_mentions(self.text, self.spans)
        return split_at_mentions(named, [span for both in spans_of for span in both])

    def segments(self) -> list[Segment]:
        """Text that the tokenizer reads."""
        return [piece for piece in self.pieces if isinstance(piece, Segment)]

    def finish(self, encoded: Sequence[Sequence[Token]], return_offsets_mapping: bool = False) -> dict[str, Any]:
        """The features of the post; see `MGVMoEProcessor.encode_post`.

        Args:
            encoded: the tokens of each of the [`segments`].
            return_offsets_mapping: whether offset_mapping is among them.

        Raises:
            NoTokenError: the tokenizer made no token of a mention.
        """
        if self.markers is None:
            return self._finish_named(iter(encoded), return_offsets_mapping)
        return self._finish_marked(iter(encoded), self.markers, return_offsets_mapping)

    def _finish_marked(
        self, encoded: Iterator[Sequence[Token]], markers: Sequence[int], return_offsets_mapping: bool
    ) -> dict[str, Any]:
        tokens: list[Token] = []
        places: dict[Marker, int] = {}
        for piece in self.pieces:
            if isinstance(piece, Segment):
                tokens += next(encoded)
            else:
                places[piece] = len(tokens)
                tokens.append((markers[2 * piece.mention + (not piece.opening)], NOWHERE))
        bounds = [(places[Marker(own, True)], places[Marker(own, False)]) for own in range(len(self.spans))]
        kept = window(len(tokens), bounds, self.limit - self.rules.number_around)
        features = self._with_tokens_around([tokens[place] for place in kept], return_offsets_mapping)
        positions = [len(self.rules.prefix_ids) + kept.index(opening) for opening, _ in bounds]
        return {**features, "mention_positions": positions}

    def _finish_named(self, encoded: Iterator[Sequence[Token]], return_offsets_mapping: bool) -> dict[str, Any]:
        """No marker stays, but what stood between two is known."""
        tokens: list[Token | None] = []  # None: a boundary, which is not kept
        found: dict[Marker, int] = {}
        for piece in self.pieces:
            if isinstance(piece, Segment):
                tokens += next(encoded)
            else:
                found[piece] = len(tokens)
                tokens.append(None)
        bounds = [(found[Marker(own, True)], found[Marker(own, False)]) for own in range(2 * len(self.spans))]
        room = self.limit - self.rules.number_around
        kept = [place for place in window(len(tokens), bounds, room + 2 * len(bounds)) if tokens[place] is not None]
        first = len(self.rules.prefix_ids)
        origins = origins_of_named(self.text, self.spans) if return_offsets_mapping else []
        features = self._with_tokens_around(
            [
                (token[0], _origin(origins[slice(*token[1])]) if return_offsets_mapping else NOWHERE)
                for token in map(tokens.__getitem__, kept)
                if token is not None
            ],
            return_offsets_mapping,
        )
        mask, positions = [], []
        for number, span in enumerate(self.spans):
            own = [bounds[2 * number], bounds[2 * number + 1]]
            inside = [any(start < place < end for start, end in own) for place in kept]
            in_post = [place for place in kept if own[1][0] < place < own[1][1]]
            if not in_post:
                mention = self.text[slice(*span)]
                raise NoTokenError(
                    f"mentions{self.number}: the tokenizer makes no token of the mention {mention!r:.80}"
                )
            mask.append([False] * first + inside + [False] * len(self.rules.suffix_ids))
            positions.append(first + kept.index(in_post[0]))
        return {**features, "mention_positions": positions, MENTION_MASK: mask}

    def _with_tokens_around(self, tokens: Sequence[Token], return_offsets_mapping: bool) -> dict[str, Any]:
        """Ids, mask and, if asked for, places of the tokens of a post and of the special ones around them."""
        before, after = self.rules.prefix_ids, self.rules.suffix_ids
        input_ids = [*before, *(number for number, _ in tokens), *after]
        features: dict[str, Any] = {"input_ids": input_ids, "attention_mask": [1] * len(input_ids)}
        if return_offsets_mapping:
            places = [place for _, place in tokens]
            features["offset_mapping"] = [*[NOWHERE] * len(before), *places, *[NOWHERE] * len(after)]
        return features


def _origin(places: Sequence[int | None]) -> tuple[int, int]:
    """The stretch of the post that characters come from; [`NOWHERE`] if all of them were put in."""
    known = [place for place in places if place is not None]
    return (min(known), max(known) + 1) if known else NOWHERE


def _warn_of_what_is_lost(
    labels: Sequence[str], index: Sequence[int], encoded: Sequence[Sequence[int]], room: int, name: str
) -> None:
    """Warns of texts that are cut, and of labels that the model cannot tell apart.

    Args:
        labels: C names.
        index: The label of each of P texts.
        encoded: The token ids of each text.
        room: How many of them are kept.
        name: "candidate" or "type".
    """
    argument = "label_types" if name == "type" else "candidate_labels"
    cut = dict.fromkeys(
        f"{labels[column]!r:.60} ({len(ids)} tokens)"
        for column, ids in zip(index, encoded, strict=True)
        if len(ids) > room
    )
    if cut:
        warnings.warn(
            f"{argument}: max_length leaves room for {room} tokens of a text, and longer ones are cut: {_some(cut)}.",
            stacklevel=2,
        )
    kept: list[list[tuple[int, ...]]] = [[] for _ in labels]
    for column, ids in zip(index, encoded, strict=True):
        kept[column].append(tuple(ids[:room]))
    first: dict[tuple[tuple[int, ...], ...], str] = {}
    same: dict[str, None] = {}
    for label, own in zip(labels, kept, strict=True):
        other = first.setdefault(tuple(own), label)
        if other is not label:
            same[f"{other!r:.60} and {label!r:.60}"] = None
    if same:
        warnings.warn(
            f"{argument}: the model reads the same tokens for, and cannot tell apart: {_some(same)}.", stacklevel=2
        )


def _some(items: Mapping[str, Any], number: int = 5) -> str:
    more = f" and {len(items) - number} more" if len(items) > number else ""
    return ", ".join(list(items)[:number]) + more


# Tokenizers without a limit of their own report 1e30.
LARGEST_MODEL_LENGTH = 1_000_000
MENTION_STYLES = ("markers", "prefix")


class MGVMoEProcessor(ProcessorMixin):
    """Prepares posts for MG-VMoE: an image processor and a fast tokenizer in one.

    In the style "markers", the paper's, a typing post is marked `[open] mention [close]`, a relation post `[head open]
    head [head close]` and `[tail open] tail [tail close]`. Markers are put in as token ids, never as text, so that
    nothing written in a post can pass for one. In the style "prefix" mentions are named before the post, "mention:
    post" or "head and tail: post", in words that a pretrained encoder knows, and `mention_mask` says where they stand.
    A post that is too long is windowed around its mentions, so that no mention is ever cut off.

    Args:
        image_processor: Any image processor whose `pixel_values` are (3,h,w) an image. None if no images are ever
            given; such a processor works but cannot be saved.
        tokenizer: A fast tokenizer.
        typing_markers: [open, close], tokens of the vocabulary.
        relation_markers: [head open, head close, tail open, tail close], tokens of the vocabulary. Where markers are
            None, `[unused1]` to `[unused4]` serve as in the paper if the vocabulary has them (typing 1 and 2, relation
            1, 3, 2 and 4); otherwise `<m1>` to `<m4>` are ADDED to the tokenizer, and the caller must resize the
            model's token embeddings to at least `vocabulary_size`.
        max_length: Number of tokens of a post and of a label, special tokens and markers included.
        hypothesis_template: What the text encoder reads for a label; "{}" stands for the label or its description.
        mention_style: "markers" or "prefix".
        image_text_max_length: Number of tokens of a post's image text, special tokens included. What is longer is cut.
        **kwargs: For `ProcessorMixin`.

    Raises:
        ValueError: If the tokenizer is missing or not a fast one, a marker is not in the vocabulary, markers are not
            distinct, `max_length` is not a positive integer, `image_text_max_length` cannot hold one token, or
            `hypothesis_template` has not exactly one "{}".
    """

    _auto_class = "AutoProcessor"  # a saved processor names its class, so that `AutoProcessor` finds it

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        typing_markers: list[str] | None = None,
        relation_markers: list[str] | None = None,
        max_length: int = 128,
        hypothesis_template: str = "{}",
        mention_style: str = "markers",
        image_text_max_length: int = 64,
        **kwargs: Any,
    ):
        # Folders that version 0.1 saved have it by its old name.
        hypothesis_template = kwargs.pop("label_template", hypothesis_template)
        if tokenizer is None or not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"tokenizer: a fast tokenizer is needed (got {type(tokenizer).__name__})")
        if image_processor is not None:
            check_image_processor(image_processor, MAX_PIXELS)
            super().__init__(image_processor, tokenizer, **kwargs)
        else:  # ProcessorMixin refuses a part that is None
            self.chat_template = kwargs.pop("chat_template", None)
            if kwargs:
                raise TypeError(f"Unexpected keyword argument {next(iter(kwargs))}.")
            self.image_processor, self.tokenizer = None, tokenizer
        self.max_length = _positive_int(max_length, "max_length")
        self.hypothesis_template = check_template(hypothesis_template)
        if mention_style not in MENTION_STYLES:
            raise ValueError(f"mention_style: one of {', '.join(MENTION_STYLES)} is needed (got {mention_style!r})")
        self.mention_style = mention_style
        self.typing_markers, self.relation_markers = choose_markers(tokenizer, typing_markers, relation_markers)
        self._rules = study_tokenizer(tokenizer, [*self.typing_markers, *self.relation_markers])
        self.image_text_max_length = _positive_int(image_text_max_length, "image_text_max_length")
        if self._image_text_limit <= self._rules.number_around:
            raise ValueError(
                f"image_text_max_length: at least {self._rules.number_around + 1} is needed for special tokens and "
                f"one token (got {image_text_max_length})"
            )

    @property
    def vocabulary_size(self) -> int:
        """Rows the model's token embeddings must have at least."""
        return len(self.tokenizer)

    @property
    def longest(self) -> int:
        """Most tokens that a post can have: `max_length`, or the tokenizer's own limit where that is less."""
        return self._limit(None)

    @property
    def model_input_names(self) -> list[str]:
        """Names of all outputs of `__call__`."""
        return [
            *TEXT_NAMES,
            *([MENTION_MASK] if self.mention_style == "prefix" else []),
            "pixel_values",
            "image_mask",
            *IMAGE_TEXT_NAMES,
            "candidate_input_ids",
            "candidate_attention_mask",
            "candidate_index",
            "candidate_mask",
            "type_input_ids",
            "type_attention_mask",
            "type_index",
            "candidate_types",
        ]

    read_label_types = staticmethod(read_label_types)
    words_to_text = staticmethod(words_to_text)
    word_span_to_char_span = staticmethod(word_span_to_char_span)

    @with_new_names
    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[Any] | None = None,
        mentions: Any = None,
        candidate_labels: Sequence[str | Label] | Sequence[Sequence[str | Label]] | None = None,
        label_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        hypothesis_template: str | None = None,
        label_types: Mapping[str, Any] | None = None,
        type_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        label_separator: str | None = None,
        is_split_into_words: bool = False,
        padding: bool | str = True,
        max_length: int | None = None,
        return_tensors: str | None = None,
        allow_image_urls: bool | str = False,
        image_text: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepares one post or a batch; outputs always have the batch axis.

        Args:
            images: One image or None, or a list with one for each post; see `images.to_rgb` for the kinds. Where
                other processors of transformers want a list for each post, such a list may hold one image or none.
                This list and those below may be any sequence: a tuple, an array, a Series, a column of a dataset.
            text: A post or a list of posts. With `is_split_into_words`, a list of words or a list of such lists.
            mentions: For each post a span for typing, or [span, span], head and tail, for a relation. A span is
                (start, end), characters of the post as given, end exclusive, or of its words joined by single spaces;
                or {"start", "end"}; or the mention's words, if they occur once (`spans.check_span`). A batch takes a
                list of these and may mix both kinds.
            candidate_labels: Labels shared by all posts, or a list of labels for each post: strings, or
                [`labels.Label`] objects (or dicts with their fields), which say what the next two arguments say.
            label_descriptions: Sentences to read instead of labels, one or several for each; labels without one stay
                as they are.
            hypothesis_template: Instead of the processor's own.
            label_types: For some labels the types that head and tail may have: (types of the head, types of the
                tail), each a type or a list of types. They go with `score="similarity"`.
            type_descriptions: Sentences to read instead of these types.
            label_separator: Makes labels paths, ">" for "person > politician": the candidates are then the nodes of
                their tree (`labels.py`), to be given to `post_process_zero_shot_ie` with the same argument.
            is_split_into_words: Whether posts are lists of words.
            padding: True or "longest", "max_length", or False. Posts are padded on the right.
            max_length: Instead of the processor's own; the tokenizer's limit caps both.
            return_tensors: "pt", "np" or None for padded lists.
            allow_image_urls: Whether images may be http(s) addresses, which are fetched from public hosts;
                "private": from any host.
            image_text: Words for the image of the one post, with or without the image itself: a string (a caption,
                alternative text, words in the image) or a list of strings, which become one text with ". " between
                them. For a list of posts a list with such an entry for each. None, "", white space, an empty list and
                a list of these are a post without image text. It is cut at `image_text_max_length` tokens.
            **kwargs: Arguments of the image processor, each by itself or together as `images_kwargs`.

        Returns:
            input_ids, attention_mask: (B,Lt).
            mention_positions: (B,S), the places of the opening markers; -1 in an unused slot. In the style "prefix"
                the places of the mentions' first tokens in the post.
            mention_mask: (B,S,Lt) bool, the tokens of each mention, those that name it before the post too; only in
                the style "prefix".
            pixel_values: (B,3,h,w), zeros for a post without image; absent if there are no images at all.
            image_mask: (B,) bool, True for a post with image; absent together with `pixel_values`.
            image_text_input_ids, image_text_attention_mask: (B,Lw), a mask of zeros for a post without image text;
                absent if no post has one.
            candidate_input_ids, candidate_attention_mask: (C,Lc); with labels per post C counts the distinct labels
                in order of first appearance. Where a label has several sentences, (P,Lc), a row for each, and
            candidate_index: (P,), to which label a row belongs; only then.
            candidate_mask: (B,C) bool, True for a post's own labels; only with labels per post.
            type_input_ids, type_attention_mask, type_index: (T,Lc) or more, as for labels; candidate_types: (C,2,T)
                bool, which types the head and the tail of a label may have; only with `label_types`.

        Raises:
            ValueError: If an argument is missing, wrong or does not fit the others; the message names it.
            TypeError: If a keyword argument is unknown.
        """
        if images is None and text is None and candidate_labels is None:
            raise ValueError("text: at least one of text, images and candidate_labels is needed (got none)")
        image_arguments = self._image_arguments(kwargs)
        posts: list[dict[str, Any]] = []
        if text is not None:
            texts, spans = read_batch(text, mentions, is_split_into_words)
            words = _image_texts(image_text, len(texts), _is_single(text, is_split_into_words))
            posts = [
                self.encode_post(texts[i], spans[i], max_length, post=i, image_text=words[i])
                for i in range(len(texts))
            ]
        elif image_text is not None:
            raise ValueError("image_text: it needs the text of its post (got text=None)")
        elif mentions is not None:
            raise ValueError("mentions: they need the text they are in (got text=None)")
        if images is not None:
            given = _as_images(images)
            if text is not None and len(given) != len(posts):
                raise ValueError(f"images: {len(posts)} are needed, one for each text (got {len(given)})")
            posts = posts or [{} for _ in given]
            arrays = self.encode_images(given, allow_image_urls, **image_arguments)
            for post, pixels in zip(posts, arrays, strict=True):
                if pixels is not None:
                    post["pixel_values"] = pixels
        batch = self.pad_posts(posts, padding, max_length, return_tensors) if posts else BatchFeature()
        if candidate_labels is not None:
            candidate_labels, label_descriptions, label_types, _ = plain_labels(
                candidate_labels, label_descriptions, label_types
            )
            check_label_words(
                read_labels(candidate_labels)[0],
                label_descriptions,
                label_types,
                type_descriptions,
                check_separator(label_separator),
            )
            candidates = self.encode_candidates(
                candidate_labels,
                label_descriptions,
                hypothesis_template,
                max_length,
                return_tensors,
                label_types=label_types,
                type_descriptions=type_descriptions,
                label_separator=label_separator,
            )
            mask = candidates.get("candidate_mask")
            if posts and mask is not None and len(mask) != len(posts):
                raise ValueError(f"candidate_labels: {len(posts)} lists are needed, one a post (got {len(mask)})")
            batch.update(candidates)
        return batch

    def encode_post(
        self,
        text: str,
        mentions: Any,
        max_length: int | None = None,
        post: int | None = None,
        return_offsets_mapping: bool = False,
        image_text: Any = None,
    ) -> dict[str, Any]:
        """Marks, tokenizes and windows one post.

        Args:
            text: The post.
            mentions: A span, or two for head and tail; see `spans.read_mentions`.
            max_length: Instead of the processor's own.
            post: Number of the post in its batch, for messages; None if it stands alone.
            return_offsets_mapping: Whether offset_mapping is returned as well.
            image_text: Words for the image, a string or a list; see `__call__`.

        Returns:
            input_ids and attention_mask, lists of Lt, and mention_positions, a list of 1 or 2; not padded. In the
            style "prefix" also mention_mask, for each mention a list of Lt. If asked for, offset_mapping: for each
            token the (start, end) of its characters in the post, (0, 0) for special tokens, markers and what else
            stands for none. The tokens that name a mention before the post have those of the mention. With an image
            text also image_text_input_ids and image_text_attention_mask, lists of Lw.

        Raises:
            ValueError: If the text is not a string, a mention is wrong (see `spans.read_mentions`), `max_length`
                cannot hold the special tokens, the markers and one token, or `image_text` is neither a string nor a
                list of strings.
        """
        prepared = self.prepare_post(text, mentions, max_length, post)
        features = prepared.finish(self.encode_segments(prepared.segments()), return_offsets_mapping)
        return features | self.encode_image_text(image_text, "" if post is None else f"[{post}]")

    def encode_image_text(self, image_text: Any, number: str = "") -> dict[str, list[int]]:
        """Tokenizes the words for one post's image.

        Args:
            image_text: A string, a list of strings or nothing; see `__call__`.
            number: "[3]" for the fourth post of a batch, for messages.

        Returns:
            image_text_input_ids and image_text_attention_mask, lists of Lw; nothing where there are no words, or none
            of which the tokenizer makes a token.

        Raises:
            ValueError: If it is neither a string nor a list of strings.
        """
        texts = read_image_text(image_text, f"image_text{number}")
        if not texts:
            return {}
        (ids,) = encode_segments(self.tokenizer, self._rules, [Segment(join_image_texts(texts), joined=False)])
        if not ids:
            return {}
        room = self._image_text_limit - self._rules.number_around
        row = [*self._rules.prefix_ids, *ids[:room], *self._rules.suffix_ids]
        return dict(zip(IMAGE_TEXT_NAMES, (row, [1] * len(row)), strict=True))

    def prepare_post(
        self, text: str, mentions: Any, max_length: int | None = None, post: int | None = None
    ) -> PostEncoding:
        """`encode_post` before the tokenizer, which is faster with the segments of many posts at once.

        Returns:
            The post, with its `segments()` and `finish(...)`, which makes `encode_post`'s features of what
            `encode_segments` gives for them.

        Raises:
            ValueError: See `encode_post`.
        """
        number = "" if post is None else f"[{post}]"
        if not isinstance(text, str):
            raise ValueError(f"text{number}: a string is needed (got {type(text).__name__})")
        check_unicode(text, f"text{number}")
        # Markers never cut what a reader sees as one character, whatever the annotation says.
        spans = [whole_characters(text, span) for span in read_mentions(mentions, text, f"mentions{number}")]
        markers = None
        if self.mention_style == "markers":
            names = self.typing_markers if len(spans) == 1 else self.relation_markers
            markers = self.tokenizer.convert_tokens_to_ids(names)
        return PostEncoding(text, spans, self._rules, markers, self._limit(max_length), number)

    def encode_segments(self, segments: Sequence[Segment]) -> list[list[Token]]:
        """The tokens of the segments of any number of posts, in one call of the tokenizer."""
        return encode_with_places(self.tokenizer, self._rules, segments)

    @with_new_names
    def pad_posts(
        self,
        features: Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        return_tensors: str | None = None,
        pad_to_multiple_of: int | None = None,
        share_images: bool = False,
    ) -> BatchFeature:
        """Makes one batch of posts processed one by one.

        Args:
            features: For each post input_ids, attention_mask and mention_positions (lists or 1-D arrays) and
                optionally pixel_values (3,h,w) or, in its place, image_features (Li,H') of the vision tower; or one
                of these two alone; and image_text_input_ids with image_text_attention_mask, for posts that have them.
            padding: True or "longest", "max_length", or False.
            max_length: Length for padding="max_length", instead of the processor's own. Image texts are then padded to
                `image_text_max_length`.
            return_tensors: "pt", "np" or None for lists.
            pad_to_multiple_of: Rounds the padded length up.
            share_images: Whether an image that several posts have comes once, so that the model encodes it once.

        Returns:
            The keys that `__call__` gives for posts; image_features (B,Li,H') instead of pixel_values if the posts
            came with them. With shared images these have a row for each image, and image_index (B,) says which is
            a post's.

        Raises:
            ValueError: If a feature is missing from some posts, or unknown, or images differ in size, or both kinds
                of them came.
        """
        target = self._limit(max_length) if padding == "max_length" else None
        words = self._image_text_limit if padding == "max_length" else None
        batch = pad_features(self.tokenizer, features, padding, target, pad_to_multiple_of, share_images, words)
        return to_tensors(batch, return_tensors)

    def post_process_zero_shot_ie(
        self,
        outputs_or_logits: Any,
        candidate_labels: Sequence[str | Label] | Sequence[Sequence[str | Label]],
        threshold: float | None = None,
        top_k: int | None = None,
        function_to_apply: str = "softmax",
        candidate_mask: Any = None,
        label_separator: str | None = None,
        reject_by: str = "probability",
    ) -> list[list[dict[str, Any]]]:
        """Turns logits into labels with scores.

        Args:
            outputs_or_logits: The model's outputs, or logits (B,C), or (N,B,C) of N draws. With labels per post C
                counts the distinct labels in order of first appearance, as `__call__` lays them out; a LIST (not a
                tensor) is then read as one vector for each post, of this post's own labels only.
            candidate_labels: Labels shared by all posts, or a list of labels for each post.
            threshold: Least of what a label needs to be kept; `None` keeps all, and so does a score of 0.
            top_k: How many labels of a post to keep at most.
            function_to_apply: "softmax" over a post's own labels, "sigmoid" of each, or "none": raw logits.
            candidate_mask: (B,C) bool; False takes a label out for a post, before the softmax.
            label_separator: Labels are paths, and C counts the nodes of their tree, as `__call__` lays them out.
            reject_by: What the threshold is about: "probability", the label's score (with "none" its logit); "ratio",
                how many times as likely as the average other label it is; or "logit", which the other labels do not
                change. The last two are the same whatever `function_to_apply` is.

        Returns:
            For each post {"label", "score"} with falling scores; equal scores keep the order of the labels. Of draws
            (`num_samples` of the model) the score is the mean, and there are "deviation", of the score over the draws,
            and "mutual_information", in nats, the same for all labels of a post. Of paths there is "levels", the
            {"label", "score"} of every node on the way.

        Raises:
            ValueError: If the shapes do not fit the labels, logits are NaN, or an argument is out of its range.
        """
        return rank_labels(
            outputs_or_logits,
            candidate_labels,
            threshold,
            top_k,
            function_to_apply,
            candidate_mask=candidate_mask,
            label_separator=label_separator,
            reject_by=reject_by,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Any:  # type: ignore[override]
        """Load a saved processor; OSError or ValueError names the folder if a file is damaged."""
        with reading(pretrained_model_name_or_path, "processor"):
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_text_vision_pretrained(
        cls,
        text_id: str,
        vision_id: str,
        text_kwargs: dict[str, Any] | None = None,
        vision_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Composes the processor of `MGVMoEForZeroShotIE.from_text_vision_pretrained` with the same two encoders.

        Mentions are named before the post (`mention_style="prefix"`), as `score="similarity"` needs it, unless
        `kwargs` say otherwise.

        Args:
            text_id: Hub name or folder of a text encoder.
            vision_id: Hub name or folder of a vision encoder or of a text-image model.
            text_kwargs, vision_kwargs: For the tokenizer's and the image processor's `from_pretrained` (`revision`,
                `token`, ...).
            **kwargs: Of [`MGVMoEProcessor`].

        Raises:
            ValueError: If one of the two does not fit, or an argument is out of its range.
        """
        return cls(
            AutoImageProcessor.from_pretrained(vision_id, **(vision_kwargs or {})),
            AutoTokenizer.from_pretrained(text_id, **(text_kwargs or {})),
            **{"mention_style": "prefix", **kwargs},
        )

    def save_pretrained(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Saves all parts; ValueError if there is no image processor, for nothing could be loaded in its place."""
        if self.image_processor is None:
            raise ValueError("image_processor: a processor without one cannot be saved (got None)")
        saved = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        self.__dict__.pop("auto_map", None)  # of the saved file; ProcessorMixin leaves it on the processor too
        return saved

    def _limit(self, max_length: int | None) -> int:
        """Returns the length that holds: the argument, else the processor's, at most the tokenizer's."""
        return self._at_most(self.max_length if max_length is None else _positive_int(max_length, "max_length"))

    @property
    def _image_text_limit(self) -> int:
        """Most tokens of an image text."""
        return self._at_most(self.image_text_max_length)

    def _at_most(self, limit: int) -> int:
        """The limit, or the tokenizer's own where that is less."""
        model_limit = self.tokenizer.model_max_length
        return min(limit, int(model_limit)) if model_limit and model_limit < LARGEST_MODEL_LENGTH else limit

    def encode_images(
        self, images: Sequence[Any], allow_image_urls: bool | str = False, **kwargs: Any
    ) -> list[np.ndarray | None]:
        """Reads images and runs the image processor.

        Args:
            images: Images (see `images.to_rgb`) or None.
            allow_image_urls: Whether they may be http(s) addresses; see `__call__`.
            **kwargs: Arguments of the image processor.

        Returns:
            For each image its pixel values, (3,h,w) float, or None.

        Raises:
            ValueError: If an image cannot be read, or the processor has no image processor or one of another kind.
        """
        images = [_only_image(image, number) for number, image in enumerate(images)]
        images = [
            None if image is None else to_rgb(image, f"images[{number}]", allow_image_urls)
            for number, image in enumerate(images)
        ]
        if all(image is None for image in images):
            return [None] * len(images)
        if self.image_processor is None:
            raise ValueError("images: this processor has no image_processor, so it takes no images")
        present = [image for image in images if image is not None]
        pixels = iter(self.image_processor(images=present, **kwargs)["pixel_values"])
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

    @with_new_names
    def candidate_texts(
        self,
        candidate_labels: Sequence[str | Label],
        label_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        hypothesis_template: str | None = None,
    ) -> list[tuple[str, ...]]:
        """Says what the text encoder reads for each label: the template around its sentences, or else the label.

        Raises:
            ValueError: If labels are not distinct non-empty strings, a description is not a non-empty string or a list
                of distinct ones, or the template has not exactly one "{}".
        """
        template = self.hypothesis_template if hypothesis_template is None else hypothesis_template
        candidate_labels, label_descriptions, _, _ = plain_labels(candidate_labels, label_descriptions)
        return label_texts(check_labels(candidate_labels), label_descriptions, template)

    @with_new_names
    def encode_candidates(
        self,
        candidate_labels: Sequence[str | Label] | Sequence[Sequence[str | Label]],
        label_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        hypothesis_template: str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = None,
        label_types: Mapping[str, Any] | None = None,
        type_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        label_separator: str | None = None,
    ) -> BatchFeature:
        """Tokenizes candidate labels, each distinct label once; see `__call__` for the arguments.

        Returns:
            candidate_input_ids and candidate_attention_mask, (C,Lc) or (P,Lc), cut at `max_length`, with a warning;
            candidate_index, candidate_mask, type_input_ids, type_attention_mask, type_index and candidate_types as
            `__call__` says. A warning also names labels that the model cannot tell apart.

        Raises:
            ValueError: See `candidate_texts` and `label_types.read_label_types`; also if a label or type has no token
                in the vocabulary.
        """
        candidate_labels, label_descriptions, label_types, _ = plain_labels(
            candidate_labels, label_descriptions, label_types
        )
        candidate_labels, trees = as_nodes(candidate_labels, check_separator(label_separator))
        if trees is not None:
            label_descriptions = {
                node: text for tree in trees for node, text in tree.node_descriptions(label_descriptions).items()
            }
            label_types = with_spacing(label_types, trees[0].separator)
        labels, columns = read_labels(candidate_labels)
        texts = self.candidate_texts(labels, label_descriptions, hypothesis_template)
        batch = self._encode_texts(labels, texts, "candidate", max_length)
        if columns is not None:
            batch["candidate_mask"] = [[column in own for column in range(len(labels))] for own in map(set, columns)]
        types, allowed = read_label_types(label_types, labels)
        if types:
            type_texts = label_texts(types, type_descriptions, "{}", "type_descriptions")
            batch |= self._encode_texts(types, type_texts, "type", max_length)
            batch["candidate_types"] = allowed
        return to_tensors(batch, return_tensors)

    def encode_texts(
        self,
        texts: Sequence[Sequence[str]],
        return_tensors: str | None = None,
        labels: Sequence[str] | None = None,
    ) -> BatchFeature:
        """Tokenizes what `candidate_texts` gave; outputs as of `encode_candidates`.

        Args:
            texts: The texts of each label.
            return_tensors: "pt", "np" or None for padded lists.
            labels: Their names, for messages; default: their first texts.
        """
        names = [own[0] for own in texts] if labels is None else labels
        return to_tensors(self._encode_texts(names, texts, "candidate", None), return_tensors)

    def _encode_texts(
        self, labels: Sequence[str], texts: Sequence[Sequence[str]], name: str, max_length: int | None
    ) -> dict[str, list[Any]]:
        """Rows of token ids of all texts, padded, and to which label each belongs if one has several."""
        limit = self._limit(max_length)
        room = limit - self._rules.number_around
        if room < 1:
            raise ValueError(f"max_length: at least {limit - room + 1} is needed for a label (got {limit})")
        index = [column for column, own in enumerate(texts) for _ in own]
        encoded = encode_segments(
            self.tokenizer, self._rules, [Segment(text, joined=False) for own in texts for text in own]
        )
        for column, ids in zip(index, encoded, strict=True):
            if not ids:
                where = "candidate_labels: the tokenizer makes no token of label"
                where = where if name == "candidate" else "label_types: the tokenizer makes no token of type"
                raise ValueError(f"{where} {labels[column]!r}")
        _warn_of_what_is_lost(labels, index, encoded, room, name)
        padded = pad_rows(
            self.tokenizer, [self._rules.prefix_ids + ids[:room] + self._rules.suffix_ids for ids in encoded]
        )
        batch = {f"{name}_input_ids": padded["input_ids"], f"{name}_attention_mask": padded["attention_mask"]}
        return batch if len(index) == len(labels) else {**batch, f"{name}_index": index}


def _as_images(images: Any) -> list[Any]:
    """One image or a sequence of them as a list; an array of numbers is one image, one of objects is a list."""
    # Arrays of numpy and pandas have a kind of numbers; tensors of torch have none.
    kind = getattr(getattr(images, "dtype", None), "kind", "f")
    given = None if hasattr(images, "tolist") and kind in "uifb" else as_list(images)
    return [images] if given is None else [None if is_absent(one) else one for one in given]


def _is_single(text: Any, is_split_into_words: bool) -> bool:
    """Whether `text` is one post, and not a list of posts."""
    words = as_list(text) if is_split_into_words else None
    return isinstance(text, str) or bool(words and isinstance(words[0], str))


def _image_texts(image_text: Any, number: int, single: bool) -> list[Any]:
    """The image text of each of `number` posts, unread; of a single post it may come by itself or as a list of one."""
    if image_text is None:
        return [None] * number
    listed = as_list(image_text)
    if single and (listed is None or len(listed) != 1):
        return [image_text]
    if listed is None or len(listed) != number:
        given = repr(image_text)[:80] if listed is None else len(listed)
        raise ValueError(f"image_text: {number} are needed, one for each text (got {given})")
    return listed


def _positive_int(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: a positive integer is needed (got {value!r})")
    return value


__all__ = [
    "NOWHERE",
    "NoTokenError",
    "PostEncoding",
]
