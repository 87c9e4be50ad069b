"""Processor of MG-VMoE: posts with marked mentions, their pictures and candidate labels in, model inputs out.

Axes: B posts, Lt text tokens, S mention slots (1 if every post is typing, else 2), C candidate labels, Lc label
tokens, h and w pixels.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .candidate_encoding import CandidateEncoding
from .candidates import check_label_words, check_template, rank_labels, read_labels
from .label_paths import check_separator
from .label_types import read_label_types
from .markers import choose_markers
from .padding import MENTION_MASK, TEXT_NAMES, pad_features, to_tensors
from .picture_encoding import PictureEncoding
from .pictures import MAX_PIXELS
from .plain_tokens import Token, encode_with_places, study_tokenizer
from .post_encoding import PostEncoding
from .saved_folder import check_image_processor, reading
from .spans import (
    Segment,
    as_list,
    check_unicode,
    is_absent,
    read_batch,
    read_mentions,
    whole_characters,
    word_span_to_char_span,
    words_to_text,
)

# Tokenizers without a limit of their own report 1e30.
LARGEST_MODEL_LENGTH = 1_000_000
MENTION_STYLES = ("markers", "prefix")


class MGVMoEProcessor(ProcessorMixin, PictureEncoding, CandidateEncoding):
    """Prepares posts for MG-VMoE: an image processor and a fast tokenizer in one.

    In the style "markers", the paper's, a typing post is marked `[open] mention [close]`, a relation post `[head open]
    head [head close]` and `[tail open] tail [tail close]`. Markers are put in as token ids, never as text, so that
    nothing written in a post can pass for one. In the style "prefix" mentions are named before the post, "mention:
    post" or "head and tail: post", in words that a pretrained encoder knows, and `mention_mask` says where they stand.
    A post that is too long is windowed around its mentions, so that no mention is ever cut off.

    Args:
        image_processor: Any image processor whose `pixel_values` are (3,h,w) a picture. None if no pictures are ever
            given; such a processor works but cannot be saved.
        tokenizer: A fast tokenizer.
        typing_markers: [open, close], tokens of the vocabulary.
        relation_markers: [head open, head close, tail open, tail close], tokens of the vocabulary. Where markers are
            None, `[unused1]` to `[unused4]` serve as in the paper if the vocabulary has them (typing 1 and 2, relation
            1, 3, 2 and 4); otherwise `<m1>` to `<m4>` are ADDED to the tokenizer, and the caller must resize the
            model's token embeddings to at least `vocabulary_size`.
        max_length: Number of tokens of a post and of a label, special tokens and markers included.
        label_template: What the text encoder reads for a label; "{}" stands for the label or its description.
        mention_style: "markers" or "prefix".
        **kwargs: For `ProcessorMixin`.

    Raises:
        ValueError: If the tokenizer is missing or not a fast one, a marker is not in the vocabulary, markers are not
            distinct, `max_length` is not a positive integer or `label_template` has not exactly one "{}".
    """

    _auto_class = "AutoProcessor"  # a saved processor names its class, so that `AutoProcessor` finds it

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        typing_markers: list[str] | None = None,
        relation_markers: list[str] | None = None,
        max_length: int = 128,
        label_template: str = "{}",
        mention_style: str = "markers",
        **kwargs: Any,
    ):
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
        self.label_template = check_template(label_template)
        if mention_style not in MENTION_STYLES:
            raise ValueError(f"mention_style: one of {', '.join(MENTION_STYLES)} is needed (got {mention_style!r})")
        self.mention_style = mention_style
        self.typing_markers, self.relation_markers = choose_markers(tokenizer, typing_markers, relation_markers)
        self._rules = study_tokenizer(tokenizer, [*self.typing_markers, *self.relation_markers])

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

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[Any] | None = None,
        mentions: Any = None,
        candidate_labels: Sequence[str] | Sequence[Sequence[str]] | None = None,
        label_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        label_template: str | None = None,
        label_types: Mapping[str, Any] | None = None,
        type_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        label_separator: str | None = None,
        is_split_into_words: bool = False,
        padding: bool | str = True,
        max_length: int | None = None,
        return_tensors: str | None = None,
        allow_image_urls: bool | str = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepares one post or a batch; outputs always have the batch axis.

        Args:
            images: One picture or None, or a list with one for each post; see `pictures.to_rgb` for the kinds. Where
                other processors of transformers want a list for each post, such a list may hold one picture or none.
                This list and those below may be any sequence: a tuple, an array, a Series, a column of a dataset.
            text: A post or a list of posts. With `is_split_into_words`, a list of words or a list of such lists.
            mentions: For each post a span for typing, or [span, span], head and tail, for a relation. A span is
                (start, end), characters of the post as given, end exclusive, or of its words joined by single spaces;
                or {"start", "end"}; or the mention's words, if they occur once (`spans.check_span`). A batch takes a
                list of these and may mix both kinds.
            candidate_labels: Labels shared by all posts, or a list of labels for each post.
            label_descriptions: Sentences to read in place of labels, one or several for each; labels without one stay
                as they are.
            label_template: In place of the processor's own.
            label_types: For some labels the types that head and tail may have: (types of the head, types of the
                tail), each a type or a list of types. They go with `score="similarity"`.
            type_descriptions: Sentences to read in place of these types.
            label_separator: Makes labels paths, ">" for "person > politician": the candidates are then the nodes of
                their tree (`label_paths.py`), to be given to `post_process_zero_shot_ie` with the same argument.
            is_split_into_words: Whether posts are lists of words.
            padding: True or "longest", "max_length", or False. Posts are padded on the right.
            max_length: In place of the processor's own; the tokenizer's limit caps both.
            return_tensors: "pt", "np" or None for padded lists.
            allow_image_urls: Whether pictures may be http(s) addresses, which are fetched from public hosts;
                "private": from any host.
            **kwargs: Arguments of the image processor, each by itself or together as `images_kwargs`.

        Returns:
            input_ids, attention_mask: (B,Lt).
            mention_positions: (B,S), the places of the opening markers; -1 in an unused slot. In the style "prefix"
                the places of the mentions' first tokens in the post.
            mention_mask: (B,S,Lt) bool, the tokens of each mention, those that name it before the post too; only in
                the style "prefix".
            pixel_values: (B,3,h,w), zeros for a post without picture; absent if there are no pictures at all.
            image_mask: (B,) bool, True for a post with picture; absent together with `pixel_values`.
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
            posts = [self.encode_post(texts[i], spans[i], max_length, post=i) for i in range(len(texts))]
        elif mentions is not None:
            raise ValueError("mentions: they need the text they are in (got text=None)")
        if images is not None:
            pictures = _as_pictures(images)
            if text is not None and len(pictures) != len(posts):
                raise ValueError(f"images: {len(posts)} are needed, one for each text (got {len(pictures)})")
            posts = posts or [{} for _ in pictures]
            arrays = self.encode_images(pictures, allow_image_urls, **image_arguments)
            for post, pixels in zip(posts, arrays, strict=True):
                if pixels is not None:
                    post["pixel_values"] = pixels
        batch = self.pad_posts(posts, padding, max_length, return_tensors) if posts else BatchFeature()
        if candidate_labels is not None:
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
                label_template,
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
    ) -> dict[str, Any]:
        """Marks, tokenizes and windows one post.

        Args:
            text: The post.
            mentions: A span, or two for head and tail; see `spans.read_mentions`.
            max_length: In place of the processor's own.
            post: Number of the post in its batch, for messages; None if it stands alone.
            return_offsets_mapping: Whether offset_mapping is returned as well.

        Returns:
            input_ids and attention_mask, lists of Lt, and mention_positions, a list of 1 or 2; not padded. In the
            style "prefix" also mention_mask, for each mention a list of Lt. If asked for, offset_mapping: for each
            token the (start, end) of its characters in the post, (0, 0) for special tokens, markers and what else
            stands for none. The tokens that name a mention before the post have those of the mention.

        Raises:
            ValueError: If the text is not a string, a mention is wrong (see `spans.read_mentions`) or
                `max_length` cannot hold the special tokens, the markers and one token.
        """
        prepared = self.prepare_post(text, mentions, max_length, post)
        return prepared.finish(self.encode_segments(prepared.segments()), return_offsets_mapping)

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

    def pad_posts(
        self,
        features: Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        return_tensors: str | None = None,
        pad_to_multiple_of: int | None = None,
        share_pictures: bool = False,
    ) -> BatchFeature:
        """Makes one batch of posts processed one by one.

        Args:
            features: For each post input_ids, attention_mask and mention_positions (lists or 1-D arrays) and
                optionally pixel_values (3,h,w) or, in its place, image_features (Li,H') of the vision tower; or one
                of these two alone.
            padding: True or "longest", "max_length", or False.
            max_length: Length for padding="max_length", in place of the processor's own.
            return_tensors: "pt", "np" or None for lists.
            pad_to_multiple_of: Rounds the padded length up.
            share_pictures: Whether a picture that several posts have comes once, so that the model encodes it once.

        Returns:
            The keys that `__call__` gives for posts; image_features (B,Li,H') in place of pixel_values if the posts
            came with them. With shared pictures these have a row for each picture, and image_index (B,) says which is
            a post's.

        Raises:
            ValueError: If a feature is missing from some posts, or unknown, or pictures differ in size, or both kinds
                of them came.
        """
        target = self._limit(max_length) if padding == "max_length" else None
        batch = pad_features(self.tokenizer, features, padding, target, pad_to_multiple_of, share_pictures)
        return to_tensors(batch, return_tensors)

    def post_process_zero_shot_ie(
        self,
        outputs_or_logits: Any,
        candidate_labels: Sequence[str] | Sequence[Sequence[str]],
        threshold: float = 0.0,
        top_k: int | None = None,
        function_to_apply: str = "softmax",
        candidate_mask: Any = None,
        label_separator: str | None = None,
    ) -> list[list[dict[str, Any]]]:
        """Turns logits into labels with scores.

        Args:
            outputs_or_logits: The model's outputs, or logits (B,C), or (N,B,C) of N draws. With labels per post C
                counts the distinct labels in order of first appearance, as `__call__` lays them out; a LIST (not a
                tensor) is then read as one vector for each post, of this post's own labels only.
            candidate_labels: Labels shared by all posts, or a list of labels for each post.
            threshold: Lowest score to keep; 0 keeps all, also negative ones with "none".
            top_k: How many labels of a post to keep at most.
            function_to_apply: "softmax" over a post's own labels, "sigmoid" of each, or "none": raw logits.
            candidate_mask: (B,C) bool; False takes a label out for a post, before the softmax.
            label_separator: Labels are paths, and C counts the nodes of their tree, as `__call__` lays them out.

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
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Any:  # type: ignore[override]
        """As transformers has it; OSError or ValueError that names the folder where a file is damaged."""
        with reading(pretrained_model_name_or_path, "processor"):
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

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
        limit = self.max_length if max_length is None else _positive_int(max_length, "max_length")
        model_limit = self.tokenizer.model_max_length
        return min(limit, int(model_limit)) if model_limit and model_limit < LARGEST_MODEL_LENGTH else limit


def _as_pictures(images: Any) -> list[Any]:
    """One picture or a sequence of them as a list; an array of numbers is one picture, one of objects is a list."""
    is_picture = hasattr(images, "tolist") and str(getattr(images, "dtype", "")) not in ("object", "str", "string")
    pictures = None if is_picture else as_list(images)
    return [images] if pictures is None else [None if is_absent(one) else one for one in pictures]


def _positive_int(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: a positive integer is needed (got {value!r})")
    return value
