"""Whole posts in, a graph out: every mention typed and every ordered pair of mentions related.

A picture goes through the vision encoder once for all that is asked of its post, labels are encoded once, and the
marked texts of all posts are scored together, those of like length in one batch.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .candidate_embedder import CandidateEmbedder, check_processor, in_evaluation
from .candidates import check_label_words, check_labels, refuse_unknown_arguments
from .extraction_posts import MentionFinder, PostToExtract, read_post
from .label_paths import check_separator
from .label_set import LabelSet
from .padding import distinct_pictures
from .rejection import read_rejection
from .relation_rules import RelationRules

ERRORS = ("raise", "return")
# Batches whose marked texts are encoded together, to be sorted by length.
BATCHES_AT_ONCE = 16


@dataclass
class _Work:
    """A post on its way: what was read of it and what has been found so far."""

    post: PostToExtract
    picture: int = -1
    mentions: list[dict[str, Any]] = field(default_factory=list)
    relations: list[dict[str, Any]] = field(default_factory=list)
    image_embeds: np.ndarray | None = None
    error: str | None = None


class GraphExtractor:
    """Types mentions and relates pairs; [`extract`] says what the arguments mean.

    Labels are encoded here, so that an extractor that is kept encodes them once.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        typing_labels: Sequence[str] | None = None,
        relation_labels: Sequence[str] | None = None,
        *,
        mention_finder: Any = None,
        label_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        label_types: Mapping[str, Any] | None = None,
        type_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        label_template: str | None = None,
        label_separator: str | None = None,
        relation_constraints: Mapping[str, Any] | None = None,
        symmetric: Sequence[str] = (),
        inverses: Mapping[str, str] | None = None,
        rejection: Any = None,
        top_k: int | None = None,
        batch_size: int = 16,
        num_samples: int | None = None,
        max_length: int | None = None,
        return_embeds: bool = False,
        errors: str = "raise",
        embedder: CandidateEmbedder | None = None,
        **unknown: Any,
    ) -> None:
        refuse_unknown_arguments(unknown, "extract")
        check_processor(model, processor)
        typing_labels = None if typing_labels is None else check_labels(typing_labels, "typing_labels")
        relation_labels = None if relation_labels is None else check_labels(relation_labels, "relation_labels")
        if typing_labels is None and relation_labels is None:
            raise ValueError("typing_labels, relation_labels: at least one list of labels is needed (got none)")
        for name, number in (("batch_size", batch_size), ("top_k", top_k), ("num_samples", num_samples)):
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
                raise ValueError(f"{name}: an integer of at least 1 is needed (got {number!r})")
        if not isinstance(model, torch.nn.Module) and (num_samples is not None or return_embeds):
            raise ValueError(
                "num_samples, return_embeds: an ONNX export has neither draws nor vectors of pictures; use the model "
                f"that it was made from (got {num_samples!r}, {return_embeds!r})"
            )
        check_label_words(
            dict.fromkeys([*(typing_labels or ()), *(relation_labels or ())]),
            label_descriptions,
            label_types,
            type_descriptions,
            check_separator(label_separator),
            typed=relation_labels,
        )
        if errors not in ERRORS:
            raise ValueError(f"errors: one of {', '.join(ERRORS)} is needed (got {errors!r})")
        self.model, self.processor, self.finder = model, processor, MentionFinder(mention_finder)
        self.batch_size, self.top_k, self.num_samples = batch_size, top_k, num_samples
        self.max_length, self.return_embeds, self.errors = max_length, return_embeds, errors
        self.texts_at_once = BATCHES_AT_ONCE * batch_size
        embedder = CandidateEmbedder(model, processor) if embedder is None else embedder
        words: dict[str, Any] = {
            "descriptions": label_descriptions,
            "label_types": label_types,
            "type_descriptions": type_descriptions,
            "template": label_template,
            "separator": label_separator,
        }
        with in_evaluation(model):
            self.types, self.relations = (
                None if labels is None else LabelSet(labels, name, embedder, **words)
                for labels, name in ((typing_labels, "typing_labels"), (relation_labels, "relation_labels"))
            )
        self.rejection = {task: read_rejection(rejection, task) for task in ("typing", "relation")}
        if label_separator is not None and any(one and one.method == "logit" for one in self.rejection.values()):
            raise ValueError(
                'rejection: paths have no logits of their own; method="probability" is needed (got "logit")'
            )
        if relation_labels is None and (relation_constraints or symmetric or inverses):
            raise ValueError("relation_constraints, symmetric, inverses: they need relation_labels (got None)")
        self.rules = RelationRules(relation_labels or [], relation_constraints, symmetric, inverses, label_separator)
        if relation_constraints:
            if typing_labels is None:
                raise ValueError("relation_constraints: they need typing_labels, for they are about types (got None)")
            self.rules.check_types(typing_labels)

    def __call__(self, posts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The graph of each post, in the order of the posts."""
        return list(self.stream(posts))

    def stream(self, posts: Iterable[Mapping[str, Any]], posts_at_once: int = 64) -> Iterator[dict[str, Any]]:
        """The same one by one, for any number of posts, of which so many are read and worked on together."""
        if posts_at_once < 1:
            raise ValueError(f"posts_at_once must be at least 1, got {posts_at_once}.")
        if isinstance(posts, (Mapping, str)) or not isinstance(posts, Iterable):
            raise ValueError(f"posts: a list of posts is needed; put one post into a list (got {posts!r:.80})")
        return self._stream(posts, posts_at_once)

    def _stream(self, posts: Iterable[Mapping[str, Any]], posts_at_once: int) -> Iterator[dict[str, Any]]:
        waiting: list[Mapping[str, Any]] = []
        first = 0
        for post in posts:
            waiting.append(post)
            if len(waiting) == posts_at_once:
                with in_evaluation(self.model):
                    found = self._extract(waiting, first)
                yield from found
                waiting, first = [], first + posts_at_once
        with in_evaluation(self.model):
            found = self._extract(waiting, first)
        yield from found

    def _extract(self, posts: list[Mapping[str, Any]], first: int) -> list[dict[str, Any]]:
        """The graphs of posts, of which the first has a number of its own."""
        work, pixels = [], []
        for number, given in enumerate(posts, first):
            where = f"posts[{number}]"
            try:
                post = read_post(given, where, self.finder)
                pixels.append(self.processor.encode_images([post.image])[0])
                work.append(_Work(post))
            except ValueError as error:
                if self.errors == "raise":
                    # Where the processor speaks, it does not know which post it reads.
                    raise ValueError(str(error) if str(error).startswith(where) else f"{where}: {error}") from error
                pixels.append(None)
                work.append(_Work(PostToExtract.of_broken(given), error=str(error)))
        features = self._encode_pictures(work, pixels)
        if self.types is not None:
            self._type_mentions(work, features)
        else:
            for one in work:
                one.mentions = [self._mention(one.post, span) for span in one.post.mentions]
        if self.relations is not None:
            self._relate_pairs(work, features)
        return [self._finished(one) for one in work]

    def _encode_pictures(self, work: list[_Work], pixels: list[np.ndarray | None]) -> torch.Tensor | None:
        """The tower's tokens (P, Li, H') of every distinct picture; each post is told its row."""
        asked = [
            None if one.error or not one.post.mentions else picture for one, picture in zip(work, pixels, strict=True)
        ]
        distinct, index = distinct_pictures(asked)
        for one, picture, row in zip(work, asked, index, strict=True):
            one.picture = -1 if picture is None else row
        if not distinct:
            return None
        found = []
        for start in range(0, len(distinct), self.batch_size):
            batch = torch.from_numpy(np.stack(distinct[start : start + self.batch_size]))
            found.append(self.model.get_image_features(batch.to(self.model.device)))
        return torch.cat(found)

    def _scored(
        self, asked: Sequence[tuple[_Work, Any]], labels: LabelSet, features: torch.Tensor | None
    ) -> list[tuple[torch.Tensor, np.ndarray | None] | None]:
        """Logits (1 + samples, C) of every marked text, in double precision, and its post's picture vector, if any.

        Args:
            asked: posts with the spans to mark.
        """
        encoded = self._encode_texts(asked)
        order = sorted(
            (place for place, post in enumerate(encoded) if post is not None),
            key=lambda place: (asked[place][0].picture >= 0, len(encoded[place]["input_ids"])),  # type: ignore[index]
        )
        found: list[Any] = [None] * len(asked)
        for start in range(0, len(order), self.batch_size):
            chunk = order[start : start + self.batch_size]
            batch = self.processor.pad_posts([encoded[place] for place in chunk], return_tensors="pt")
            batch = dict(batch.to(self.model.device))
            rows = torch.tensor([asked[place][0].picture for place in chunk], device=self.model.device)
            if features is not None and bool((rows >= 0).any()):
                needed, index = rows.clamp(min=0).unique(return_inverse=True)
                batch |= {"image_features": features[needed], "image_index": index, "image_mask": rows >= 0}
            output = self.model(**batch, **labels.model_inputs, num_samples=self.num_samples)
            logits = output.logits[None]
            if output.sample_logits is not None:
                logits = torch.cat([logits, output.sample_logits])
            logits = logits.double().cpu()
            if bool(torch.isnan(logits).any()):
                raise ValueError("logits: a post has NaN scores, so the weights are damaged or there was an overflow")
            image_embeds = None if output.image_embeds is None else output.image_embeds.float().cpu().numpy()
            for place, row in enumerate(chunk):
                own = None if image_embeds is None or asked[row][0].picture < 0 else image_embeds[place]
                found[row] = (labels.scores_of(logits[:, place]), own)
        return found

    def _encode_texts(self, asked: Sequence[tuple[_Work, Any]]) -> list[dict[str, Any] | None]:
        """Features of every marked text, tokenized together; `None` where a post turns out to be broken."""
        segments: list[Any] = []
        waiting: list[Any] = []
        for one, spans in asked:
            prepared = self._try(one, self.processor.prepare_post, one.post.text, spans, self.max_length)
            own = [] if prepared is None else prepared.segments()
            waiting.append((one, prepared, slice(len(segments), len(segments) + len(own))))
            segments += own
        encoded = self.processor.encode_segments(segments)
        return [
            None if prepared is None else self._try(one, prepared.finish, encoded[own])
            for one, prepared, own in waiting
        ]

    def _try(self, one: _Work, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function returns; `None` if it finds the post broken and errors are to be returned."""
        try:
            return function(*arguments)
        except ValueError as error:
            if self.errors == "raise":
                raise ValueError(f"{error}, in the post {one.post.text!r:.100}") from error
            one.error = one.error or str(error)
            return None

    def _mention(self, post: PostToExtract, span: tuple[int, int]) -> dict[str, Any]:
        start, end = span
        return {"start": start, "end": end, "text": post.text[start:end]}

    def _type_mentions(self, work: list[_Work], features: torch.Tensor | None) -> None:
        assert self.types is not None
        asked = ((one, span) for one in work if not one.error for span in one.post.mentions)
        for chunk in _chunks(asked, self.texts_at_once):
            for (one, span), found in zip(chunk, self._scored(chunk, self.types, features), strict=True):
                if found is None:
                    continue
                logits, one.image_embeds = found
                answer = self.types.ranked(logits, self.rejection["typing"], self.top_k)
                one.mentions.append({**self._mention(one.post, span), **answer})

    def _relate_pairs(self, work: list[_Work], features: torch.Tensor | None) -> None:
        assert self.relations is not None
        # Two mentions are asked about in both directions together, and answered before the next ones are encoded: of
        # pairs, which grow with the square of the mentions, no more than the relations stay.
        for chunk in _chunks(self._pairs(work), max(1, self.texts_at_once // 2)):
            asked = [(one, pair, open_) for one, readings in chunk for pair, open_ in readings]
            spans = [(one, [one.post.mentions[place] for place in pair]) for one, pair, _ in asked]
            scored = iter(zip(asked, self._scored(spans, self.relations, features), strict=True))
            for one, readings in chunk:
                masked = []
                for (_, _, open_), found in (next(scored) for _ in readings):
                    if found is not None:
                        logits, image_embeds = found
                        one.image_embeds = image_embeds if one.image_embeds is None else one.image_embeds
                        masked.append(logits.masked_fill(~open_, float("-inf")))
                if len(masked) == len(readings):  # else the post is broken
                    one.relations += self._answers(readings[0][0], *masked)
        for one in work:
            one.relations.sort(key=lambda relation: (relation["head"], relation["tail"]))

    def _pairs(self, work: list[_Work]) -> Iterator[tuple[_Work, list[tuple[tuple[int, int], torch.Tensor]]]]:
        """For every two mentions the directions that any relation may have, each with the relations open to it."""
        for one in work:
            types = [mention.get("label") for mention in one.mentions]
            for two in itertools.combinations(range(len(types)), 2):
                if one.error:
                    break
                directions = [
                    (pair, self.rules.may_join(*(types[place] for place in pair))) for pair in (two, two[::-1])
                ]
                readings = [(pair, open_) for pair, open_ in directions if bool(open_.any())]
                if readings:
                    yield one, readings

    def _answers(
        self, pair: tuple[int, int], forward: torch.Tensor, backward: torch.Tensor | None = None
    ) -> list[dict[str, Any]]:
        """The relations of a pair and of the pair turned round, without those that are rejected."""
        assert self.relations is not None
        readings = [forward] if backward is None else list(self.rules.average_readings(forward, backward))
        probs = [reading.softmax(-1) for reading in readings]
        if backward is not None:
            probs = list(self.rules.average_readings(*probs))
        means = [one[0] if len(one) == 1 else one[1:].mean(0) for one in probs]
        answers = [int(mean.argmax()) for mean in means]
        if backward is not None:
            answers = list(self.rules.answer(*means))
        found = []
        for turned, (reading, own, column) in enumerate(zip(readings, probs, answers, strict=True)):
            if column < 0 or (turned and column == answers[0] and bool(self.rules.symmetric[column])):
                continue
            answer = self.relations.ranked(reading, self.rejection["relation"], self.top_k, probs=own, answer=column)
            if answer["label"] is not None:
                head, tail = pair[::-1] if turned else pair
                found.append({"head": head, "tail": tail, **answer})
        return found

    def _finished(self, one: _Work) -> dict[str, Any]:
        result: dict[str, Any] = {"id": one.post.id, "text": one.post.text, "mentions": [], "relations": []}
        if one.error:
            return {**result, "error": one.error}
        result |= {"mentions": one.mentions, "relations": one.relations}
        if self.return_embeds:
            result["image_embeds"] = one.image_embeds
        return result


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter; each is read when it is asked for."""
    items = iter(items)
    return iter(lambda: list(itertools.islice(items, size)), [])


def extract(
    model: Any,
    posts: Iterable[Mapping[str, Any]],
    typing_labels: Sequence[str] | None = None,
    relation_labels: Sequence[str] | None = None,
    processor: Any = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Type every mention of every post and relate every ordered pair of its mentions.

    Args:
        model: an [`MGVMoEForZeroShotIE`].
        posts: dicts with `text`, `mentions` (a list of spans, as `spans.check_span` takes them: (start, end) in
            characters, end exclusive, {"start", "end"}, or words that occur once; may be missing if there is a
            `mention_finder`), and optionally `image`, as the pipeline takes it, and `id`.
        typing_labels: candidates for every mention; `None`: mentions get no types.
        relation_labels: candidates for every pair; `None`: no relations.
        processor: of the model.
        options:
            mention_finder: a token-classification pipeline, or any function of a text that returns a list of dicts
                with `start` and `end`. Asked for posts without `mentions`.
            label_descriptions, label_types, type_descriptions, label_template: as of the pipeline.
            label_separator: makes labels paths, ">" for "person > politician"; see `label_paths.py`.
            relation_constraints: relation to (types of the head, types of the tail), each a type or a list of types. A
                pair is asked about the relations that its mentions' predicted types allow, and not at all about none.
            symmetric, inverses: relations that are said in both directions, and {relation: its inverse}: both readings
                get one score, from the mean of their logits, and do not contradict each other. A symmetric relation is
                listed once, from the mention that is listed first.
            rejection: when a mention or pair is of none of the labels: a number, the least probability of the best
                label, or a [`Rejection`], as `evaluation.rejection.fit_rejection` fits it; or a dict of these for
                "typing" and "relation".
            top_k: labels in `scores`; default all.
            batch_size: marked texts, and pictures, at a time; changes nothing but speed and memory.
            num_samples: draws from the experts; see `uncertainty.py`. Scores are then means over them, and come with
                `deviation` and, for each mention and relation, `mutual_information`.
            max_length: of a tokenized text.
            return_embeds: add `image_embeds`, the picture's vector (H,) after the experts (v of E6) or `None`.
            errors: "raise", or "return": a post that cannot be read comes back with `error`, the reason.

    Returns:
        For each post {"id", "text", "mentions", "relations"}. A mention is {"start", "end", "text", "label", "score",
        "scores"}, its label `None` if it is rejected; a relation {"head", "tail", "label", "score", "scores"}, head
        and tail being places in `mentions`. `scores` is a list of {"label", "score"}, falling.

    Raises:
        ValueError: a post or an option is wrong; the message names it.
    """
    if processor is None:
        raise ValueError("processor: the model's processor is needed, AutoProcessor.from_pretrained(...) (got None)")
    return GraphExtractor(model, processor, typing_labels, relation_labels, **options)(posts)


__all__ = ["GraphExtractor", "extract"]
