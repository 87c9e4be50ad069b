"""Whole posts in, a graph out: every mention typed and every ordered pair of mentions related.

An image goes through the vision encoder once for all that is asked of its post, labels are encoded once, and the
marked texts of all posts are scored together, those of like length in one batch.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, cast

import numpy as np
import torch

from .labels import (
    TASKS,
    CandidateEmbedder,
    Label,
    LabelSet,
    check_label_words,
    check_labels,
    check_processor,
    check_separator,
    in_evaluation,
    plain_label_lists,
    read_label_types,
    read_thresholds,
    refuse_unknown_arguments,
    split_path,
    with_new_names,
)
from .processing_mgvmoe import distinct_images
from .sample_graph import check_num_neighbors, number_groups, propagate_labels
from .spans import as_list, check_span, covers_something, is_absent, read_image_text, warn_of_columns

POST_KEYS = ("id", "text", "image", "image_text", "mentions")
# Columns of the datasets of this package that say nothing about what is to be predicted from.
IGNORED_KEYS = ("label", "source", "candidate_labels")
FINDER_TASKS = ("token-classification", "ner")


@dataclass(frozen=True)
class PostToExtract:
    """A post that was checked.

    Attributes:
        id: as given, or `None`.
        text: as given.
        image: as given, or `None`.
        mentions: distinct spans (start, end) of the text.
        image_text: words for the image; none where there are none.
    """

    id: Any
    text: str
    image: Any
    mentions: tuple[tuple[int, int], ...]
    image_text: tuple[str, ...] = ()

    @classmethod
    def of_broken(cls, post: object) -> "PostToExtract":
        """The result of a post that could not be read."""
        known = post if isinstance(post, Mapping) else {}
        text = known.get("text")
        return cls(known.get("id"), text if isinstance(text, str) else "", None, ())


class MentionFinder:
    """Finds the mentions of a text with what the user gave.

    Args:
        finder: a token-classification pipeline of transformers, or any function of a text that returns dicts with
            `start` and `end`; `None`: nothing is ever found.

    Raises:
        ValueError: it cannot be called.
    """

    def __init__(self, finder: Any = None) -> None:
        if finder is not None and not callable(finder):
            raise ValueError(
                "mention_finder: a token-classification pipeline or a function of a text is needed "
                f"(got {type(finder).__name__})"
            )
        self.finder = finder
        self.arguments: dict[str, Any] = {}
        if getattr(finder, "task", None) in FINDER_TASKS:
            own = getattr(finder, "_postprocess_params", {}).get("aggregation_strategy")
            if own is None or getattr(own, "value", own) == "none":
                # Left to itself it tells of every token, and a name is of several.
                self.arguments = {"aggregation_strategy": "simple"}

    def __call__(self, text: str, where: str) -> list[tuple[int, int]]:
        """Distinct spans, without white space around, in the order of the text."""
        if self.finder is None:
            raise ValueError(
                f"{where}: 'mentions' is needed, a list of spans; or a mention_finder, a token-classification "
                "pipeline that finds them (got neither)"
            )
        spans = set()
        entities = self.finder(text, **self.arguments)
        if not isinstance(entities, (list, tuple)):
            raise ValueError(f"mention_finder: it must return a list of dicts (got {entities!r:.200})")
        for entity in entities:
            places = [entity.get(key) if isinstance(entity, Mapping) else None for key in ("start", "end")]
            if not all(isinstance(place, Integral) for place in places):
                raise ValueError(
                    f"mention_finder: 'start' and 'end' are needed of every mention, integers (got {entity!r:.200})"
                )
            start, end = (int(cast(Any, place)) for place in places)
            if not 0 <= start <= end <= len(text):
                raise ValueError(
                    "mention_finder: 'start' and 'end', within the text, are needed of every mention "
                    f"(got {entity!r:.200} for {len(text)} characters)"
                )
            found = text[start:end]
            start, end = start + len(found) - len(found.lstrip()), end - len(found) + len(found.rstrip())
            if covers_something(text[start:end]):
                spans.add((start, end))
        return sorted(spans)


def read_post(post: object, where: str, finder: MentionFinder) -> PostToExtract:
    """Check one post and find its mentions if it has none.

    Args:
        post: a dict with `text`, and optionally `id`, `image`, `image_text` and `mentions`, a list of spans
            (`spans.check_span`).
        where: name of the post in messages.
        finder: finds mentions.

    Raises:
        ValueError: it is no such dict, or a span does not fit its text.
    """
    if not isinstance(post, Mapping):
        raise ValueError(
            f"{where}: a dict with 'text' and 'mentions' is needed (got {type(post).__name__}: {post!r:.80})"
        )
    warn_of_columns(post, (*POST_KEYS, *IGNORED_KEYS))
    text = post.get("text")
    if not isinstance(text, str):
        raise ValueError(f"{where}: 'text' must be a string (got {type(text).__name__})")
    given = post.get("mentions")
    if is_absent(given):
        mentions = finder(text, where)
    else:
        spans = as_list(given)
        if spans is None:
            raise ValueError(f"{where}: 'mentions' must be a list of spans (got {given!r:.80})")
        mentions = [check_span(text, span, f"{where}, mentions[{number}]") for number, span in enumerate(spans)]
        if len(set(mentions)) < len(mentions):
            raise ValueError(f"{where}: mentions must be distinct (got {mentions!r:.200})")
    image = None if is_absent(post.get("image")) else post["image"]
    image_text = read_image_text(post.get("image_text"), f"{where}: image_text")
    return PostToExtract(post.get("id"), text, image, tuple(mentions), tuple(image_text))


class RelationRules:
    """Rules for some relations.

    Args:
        labels: the relations that there are, R of them.
        constraints: for a relation (types of the head, types of the tail), each a type or a list of types. Relations
            without an entry join any mentions.
        symmetric: relations that hold in both directions or in none.
        inverses: relation to relation; what holds of head and tail holds in the other of tail and head.
        separator: of hierarchical types; a constraint then also allows the types below the one that it names.
        in_words: inverses that [`labels.Label`] objects name; see [`inverse_rules`].

    Raises:
        ValueError: a rule is no rule, names what is no relation, or contradicts another.
    """

    def __init__(
        self,
        labels: Sequence[str],
        constraints: Mapping[str, Any] | None = None,
        symmetric: Sequence[str] = (),
        inverses: Mapping[str, str] | None = None,
        separator: str | None = None,
        in_words: Mapping[str, str] | None = None,
    ) -> None:
        self.labels, self.separator = [label.strip() for label in labels], separator
        types, masks = read_label_types(constraints, labels, name="relation_constraints")
        _check_known(constraints or {}, self.labels, "relation_constraints")
        self.types = [split_path(name, separator) for name in types]
        constrained = {name.strip() for name in constraints or {}}
        self.allowed = {
            label: [{path for path, fits in zip(self.types, slot, strict=True) if fits} for slot in mask]
            for label, mask in zip(self.labels, masks, strict=False)
            if label in constrained
        }
        if not isinstance(symmetric, (set, frozenset)) and as_list(symmetric) is None:
            raise ValueError(f"symmetric: a list of relations is needed (got {symmetric!r:.80})")
        if not isinstance(inverses or {}, Mapping):
            raise ValueError(f"inverses: a dict of relation to relation is needed (got {inverses!r:.80})")
        _check_known(symmetric, self.labels, "symmetric")
        _check_known([name for pair in (inverses or {}).items() for name in pair], self.labels, "inverses")
        given = {name.strip() for name in (*symmetric, *(inverses or {}).keys(), *(inverses or {}).values())}
        if both := sorted(name for name in in_words or {} if name.strip() in given):
            raise ValueError(
                "symmetric, inverses: what belongs to a Label is said in it alone "
                f"(got {both[0]!r} here and in a Label)"
            )
        own_symmetric, own_inverses = inverse_rules(in_words or {}, self.labels)
        symmetric, inverses = [*symmetric, *own_symmetric], {**(inverses or {}), **own_inverses}
        # Of each relation that is said in both directions, how it is called in the other.
        self.turned: dict[str, str] = {name.strip(): name.strip() for name in symmetric}
        for one, other in (inverses or {}).items():
            for name, reverse in ((one.strip(), other.strip()), (other.strip(), one.strip())):
                if name == reverse:
                    raise ValueError(f"inverses: {name!r} is its own inverse; name it in symmetric")
                if self.turned.setdefault(name, reverse) != reverse:
                    raise ValueError(
                        f"inverses: a relation has one inverse and is not symmetric (got {reverse!r} for {name!r}, "
                        f"which has {self.turned[name]!r})"
                    )
        self._joins: dict[tuple[str | None, str | None], torch.Tensor] = {}
        column = {label: number for number, label in enumerate(self.labels)}
        self.turned_columns = torch.tensor([column[self.turned.get(label, label)] for label in self.labels])
        self.linked = torch.tensor([label in self.turned for label in self.labels], dtype=torch.bool)
        self.symmetric = torch.tensor([self.turned.get(label) == label for label in self.labels], dtype=torch.bool)

    def check_types(self, typing_labels: Iterable[str]) -> None:
        """Raise ValueError if a constraint names a type that no mention can get."""
        known = {path for label in typing_labels for path in self._upwards(label)}
        strange = [f" {self.separator} ".join(path) for path in self.types if path not in known]
        if strange:
            raise ValueError(
                f"relation_constraints: types must be typing labels (got {', '.join(map(repr, strange))})"
            )

    def _upwards(self, label: str) -> list[tuple[str, ...]]:
        """A type and, if types are paths, all that it is below."""
        path = split_path(label, self.separator)
        return [path[:depth] for depth in range(1, len(path) + 1)]

    def may_join(self, head: str | None, tail: str | None) -> torch.Tensor:
        """Which relations may hold between mentions of two types.

        Args:
            head, tail: their types; `None` for a mention of no type, which no constraint allows.

        Returns:
            (R,), boolean. A symmetric relation fits if it does so in one of the directions; of inverse relations
            both constraints must fit, where both have one.
        """
        if (head, tail) not in self._joins:
            self._joins[head, tail] = self._may_join(head, tail)
        return self._joins[head, tail]

    def _may_join(self, head: str | None, tail: str | None) -> torch.Tensor:
        fits = []
        for label in self.labels:
            forward = self._fits(label, head, tail)
            turned = self.turned.get(label)
            if turned == label:
                fits.append(forward or self._fits(label, tail, head))
            else:
                fits.append(forward and (turned is None or self._fits(turned, tail, head)))
        return torch.tensor(fits, dtype=torch.bool)

    def _fits(self, label: str, head: str | None, tail: str | None) -> bool:
        if label not in self.allowed:
            return True
        return all(
            name is not None and not allowed.isdisjoint(self._upwards(name))
            for name, allowed in zip((head, tail), self.allowed[label], strict=True)
        )

    def average_readings(self, forward: torch.Tensor, backward: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One number for both readings of a statement: their mean, for every relation that has two.

        Args:
            forward, backward: (..., R), of a pair and of the pair turned round.

        Returns:
            Both again. Relations that are neither symmetric nor inverse to another keep their numbers.
        """
        turned = self.turned_columns
        return (
            torch.where(self.linked, (forward + backward[..., turned]) / 2, forward),
            torch.where(self.linked, (backward + forward[..., turned]) / 2, backward),
        )

    def answer(self, forward: torch.Tensor, backward: torch.Tensor) -> tuple[int, int]:
        """The relations of a pair and of the pair turned round, so that they do not contradict each other.

        The surer direction decides. If its answer is said in both directions, the other one says the same; else the
        other answers with the best of its relations that are said in one direction only, if it has any, and that is
        never the surer direction's answer: a relation that is not symmetric holds one way round.

        Args:
            forward, backward: scores (R,) of [`average_readings`]; -inf or 0 for what may not hold.

        Returns:
            The columns of the two answers; -1 for a direction that has none.
        """
        best = [int(forward.argmax()), int(backward.argmax())]
        scores = (forward, backward)
        # Readings of one statement score alike, so that a tie between directions is mostly agreement.
        surer = int(scores[1][best[1]] > scores[0][best[0]])
        decided = best[surer]
        if bool(self.linked[decided]):
            best[1 - surer] = int(self.turned_columns[decided])
        elif bool(self.linked[best[1 - surer]]) or best[1 - surer] == decided:
            own = scores[1 - surer].masked_fill(self.linked, float("-inf"))
            own[decided] = float("-inf")
            best[1 - surer] = int(own.argmax()) if bool(own.max() > 0) else -1
        return best[0], best[1]


def inverse_rules(inverses: Mapping[str, str], labels: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """`symmetric` and `inverses` of relations whose inverses are given in words; one that is no label says nothing.

    Args:
        inverses: relation to its name from tail to head, of [`labels.Label`] or a label set.
        labels: the relations that there are.
    """
    names = {label.strip() for label in labels}
    known = {name.strip(): other.strip() for name, other in inverses.items()}
    known = {name: other for name, other in known.items() if {name, other} <= names}
    return [name for name, other in known.items() if name == other], {n: o for n, o in known.items() if n != o}


def _check_known(names: Iterable[Any], labels: Sequence[str], argument: str) -> None:
    strange = [name for name in names if not isinstance(name, str) or name.strip() not in labels]
    if strange:
        raise ValueError(f"{argument}: relations must be of relation_labels (got {', '.join(map(repr, strange[:5]))})")


def _pair_of(one: "_Work", spans: Any) -> tuple[int, Any]:
    """What the two directions of a pair have in common; a single mention is by itself."""
    return id(one), frozenset(spans) if isinstance(spans, list) else spans


ERRORS = ("raise", "return")
# Batches whose marked texts are encoded together, to be sorted by length.
BATCHES_AT_ONCE = 16


def _named(post: object) -> str:
    """A post by its text, for messages."""
    text = post.get("text") if isinstance(post, Mapping) else None
    return f"the post {(post if text is None else text)!r:.100}"


@dataclass
class _Work:
    """A post on its way: what was read of it and what has been found so far."""

    post: PostToExtract
    image_row: int = -1
    # The features of the image text.
    words: dict[str, list[int]] = field(default_factory=dict)
    mentions: list[dict[str, Any]] = field(default_factory=list)
    relations: list[dict[str, Any]] = field(default_factory=list)
    image_embeds: np.ndarray | None = None
    error: str | None = None


class GraphExtractor:
    """Types mentions and relates pairs; [`extract`] says what the arguments mean.

    Labels are encoded here, so that an extractor that is kept encodes them once.
    """

    @with_new_names
    def __init__(
        self,
        model: Any,
        processor: Any,
        typing_labels: Sequence[str | Label] | None = None,
        relation_labels: Sequence[str | Label] | None = None,
        *,
        mention_finder: Any = None,
        label_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        label_types: Mapping[str, Any] | None = None,
        type_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        hypothesis_template: str | None = None,
        label_separator: str | None = None,
        relation_constraints: Mapping[str, Any] | None = None,
        symmetric: Sequence[str] = (),
        inverses: Mapping[str, str] | None = None,
        threshold: float | Mapping[str, float] | None = None,
        reject_by: str = "probability",
        rejection: Any = None,
        top_k: int | None = None,
        batch_size: int = 16,
        num_samples: int | None = None,
        max_length: int | None = None,
        num_neighbors: int = 0,
        allow_image_urls: bool | str = False,
        return_embeds: bool = False,
        errors: str = "raise",
        embedder: CandidateEmbedder | None = None,
        **unknown: Any,
    ) -> None:
        refuse_unknown_arguments(unknown, "extract")
        check_processor(model, processor)
        plain, label_descriptions, label_types, in_words = plain_label_lists(
            {"typing_labels": typing_labels, "relation_labels": relation_labels}, label_descriptions, label_types
        )
        typing_labels, relation_labels = plain.values()
        typing_labels = None if typing_labels is None else check_labels(typing_labels, "typing_labels")
        relation_labels = None if relation_labels is None else check_labels(relation_labels, "relation_labels")
        if typing_labels is None and relation_labels is None:
            raise ValueError("typing_labels, relation_labels: at least one list of labels is needed (got none)")
        numbers: dict[str, Any] = {"batch_size": batch_size, "top_k": top_k, "num_samples": num_samples}
        for name, number in numbers.items():
            if number is not None and (isinstance(number, bool) or not isinstance(number, Integral) or number < 1):
                raise ValueError(f"{name}: an integer of at least 1 is needed (got {number!r})")
        if not isinstance(model, torch.nn.Module) and (num_samples is not None or return_embeds):
            raise ValueError(
                "num_samples, return_embeds: an ONNX export has neither draws nor vectors of images; use the model "
                f"that it was made from (got {num_samples!r}, {return_embeds!r})"
            )
        check_num_neighbors(num_neighbors, num_samples)
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
        # Posts that come one at a time have no number, and are named by their text.
        self.numbered = True
        self.batch_size, self.top_k, self.num_samples = batch_size, top_k, num_samples
        self.max_length, self.return_embeds, self.errors = max_length, return_embeds, errors
        self.allow_image_urls = allow_image_urls
        self.texts_at_once, self.num_neighbors = BATCHES_AT_ONCE * batch_size, num_neighbors
        embedder = CandidateEmbedder(model, processor) if embedder is None else embedder
        words: dict[str, Any] = {
            "descriptions": label_descriptions,
            "label_types": label_types,
            "type_descriptions": type_descriptions,
            "template": hypothesis_template,
            "separator": label_separator,
        }
        with in_evaluation(model):
            self.types, self.relations = (
                None if labels is None else LabelSet(labels, name, embedder, **words)
                for labels, name in ((typing_labels, "typing_labels"), (relation_labels, "relation_labels"))
            )
        calibration = getattr(model.config, "score_calibration", None)  # an exported model may lack one
        asked = [task for task, own in zip(TASKS, (typing_labels, relation_labels), strict=True) if own is not None]
        self.thresholds = read_thresholds(threshold, reject_by, rejection, calibration, asked)
        if label_separator is not None and any(one and one.reject_by == "logit" for one in self.thresholds.values()):
            raise ValueError(f"reject_by: paths have no logits of their own; another is needed (got {reject_by!r})")
        if num_neighbors and any(one and one.reject_by == "logit" for one in self.thresholds.values()):
            raise ValueError(
                "num_neighbors: neighbors share probabilities, no logits; another reject_by is needed "
                f"(got {reject_by!r})"
            )
        if relation_labels is None and (relation_constraints or symmetric or inverses):
            raise ValueError("relation_constraints, symmetric, inverses: they need relation_labels (got None)")
        self.rules = RelationRules(
            relation_labels or [], relation_constraints, symmetric, inverses, label_separator, in_words
        )
        if relation_constraints:
            if typing_labels is None:
                raise ValueError("relation_constraints: they need typing_labels, for they are about types (got None)")
            self.rules.check_types(typing_labels)

    def __call__(self, posts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The graph of each post, in the order of the posts."""
        return list(self.stream(posts))

    def stream(self, posts: Iterable[Mapping[str, Any]], posts_at_once: int = 64) -> Iterator[dict[str, Any]]:
        """The same one by one, for any number of posts, of which this many are read and worked on together."""
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
        """The graphs of posts, of which the first has its own number."""
        work, pixels = [], []
        for number, given in enumerate(posts, first):
            where = f"posts[{number}]" if self.numbered else _named(given)
            try:
                post = read_post(given, where, self.finder)
                pixels.append(self.processor.encode_images([post.image], self.allow_image_urls)[0])
                work.append(_Work(post, words=self.processor.encode_image_text(post.image_text)))
            except ValueError as error:
                if self.errors == "raise":
                    # Where the processor speaks, it does not know which post it reads.
                    raise ValueError(str(error) if str(error).startswith(where) else f"{where}: {error}") from error
                pixels.append(None)
                work.append(_Work(PostToExtract.of_broken(given), error=str(error)))
        features = self._encode_images(work, pixels)
        if self.types is not None:
            self._type_mentions(work, features)
        else:
            for one in work:
                one.mentions = [self._mention(one.post, span) for span in one.post.mentions]
        if self.relations is not None:
            self._relate_pairs(work, features)
        return [self._finished(one) for one in work]

    def _encode_images(self, work: list[_Work], pixels: list[np.ndarray | None]) -> torch.Tensor | None:
        """The tower's tokens (P, Li, H') of every distinct image; each post gets its row."""
        asked = [
            None if one.error or not one.post.mentions else image for one, image in zip(work, pixels, strict=True)
        ]
        distinct, index = distinct_images(asked)
        for one, image, row in zip(work, asked, index, strict=True):
            one.image_row = -1 if image is None else row
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
        """Logits (1 + samples, C) of every marked text, in double precision, and its post's image vector, if any.

        Args:
            asked: posts with the spans to mark.
        """
        encoded = self._encode_texts(asked)
        order = sorted(
            (place for place, post in enumerate(encoded) if post is not None),
            key=lambda place: (
                asked[place][0].image_row >= 0,
                bool(asked[place][0].words),
                len(encoded[place]["input_ids"]),  # type: ignore[index]
            ),
        )
        found: list[Any] = [None] * len(asked)
        nodes: list[Any] = [None] * len(asked)
        for start in range(0, len(order), self.batch_size):
            chunk = order[start : start + self.batch_size]
            batch = self.processor.pad_posts([encoded[place] for place in chunk], return_tensors="pt")
            batch = dict(batch.to(self.model.device))
            rows = torch.tensor([asked[place][0].image_row for place in chunk], device=self.model.device)
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
                has_image = asked[row][0].image_row >= 0 or bool(asked[row][0].words)
                own = image_embeds[place] if image_embeds is not None and has_image else None
                found[row] = (labels.scores_of(logits[:, place]), own)
                nodes[row] = output.mention_embeds[place].cpu() if self.num_neighbors else None
        if self.num_neighbors and order:
            probs = torch.cat([found[row][0] for row in order]).softmax(-1)
            # A pair is nearest to itself turned round, of which the contrary is true.
            groups = number_groups(_pair_of(*asked[row]) for row in order)
            shared = propagate_labels(
                probs, torch.stack([nodes[row] for row in order]), self.num_neighbors, groups=groups
            )
            for row, own in zip(order, shared, strict=True):
                found[row] = (own.log()[None], found[row][1])
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
        found = [
            None if prepared is None else self._try(one, prepared.finish, encoded[own])
            for one, prepared, own in waiting
        ]
        return [
            None if features is None else features | one.words
            for features, (one, _, _) in zip(found, waiting, strict=True)
        ]

    def _try(self, one: _Work, function: Callable[..., Any], *arguments: Any) -> Any:
        """Result of a function; `None` if it refuses the post and errors are returned, not raised."""
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
                answer = self.types.ranked(logits, self.thresholds["typing"], self.top_k)
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
            answer = self.relations.ranked(reading, self.thresholds["relation"], self.top_k, probs=own, answer=column)
            if answer["label"] is not None:
                head, tail = pair[::-1] if turned else pair
                found.append({"head": head, "tail": tail, **answer})
        return found

    def _finished(self, one: _Work) -> dict[str, Any]:
        if one.error:
            return _empty_graph(one.post, one.error)
        result = {"id": one.post.id, "text": one.post.text, "mentions": one.mentions, "relations": one.relations}
        if self.return_embeds:
            result["image_embeds"] = one.image_embeds
        return result


def _empty_graph(post: PostToExtract, error: str) -> dict[str, Any]:
    return {"id": post.id, "text": post.text, "mentions": [], "relations": [], "error": error}


def broken_graph(post: object, error: str) -> dict[str, Any]:
    """The answer for a post that could not be read."""
    return _empty_graph(PostToExtract.of_broken(post), error)


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter; each is read when it is asked for."""
    items = iter(items)
    return iter(lambda: list(itertools.islice(items, size)), [])


def extract(
    model: Any,
    posts: Iterable[Mapping[str, Any]],
    typing_labels: Sequence[str | Label] | None = None,
    relation_labels: Sequence[str | Label] | None = None,
    processor: Any = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Type every mention of every post and relate every ordered pair of its mentions.

    Args:
        model: an [`MGVMoEForZeroShotIE`].
        posts: dicts with `text`, `mentions` (a list of spans, as `spans.check_span` takes them: (start, end) in
            characters, end exclusive, {"start", "end"}, or words that occur once; may be missing if there is a
            `mention_finder`), and optionally `image`, as the pipeline takes it, `image_text`, words for it, and `id`.
        typing_labels: candidates for every mention, strings or [`labels.Label`] objects; `None`: mentions get no
            types.
        relation_labels: candidates for every pair; `None`: no relations.
        processor: the model's processor.
        options:
            mention_finder: a token-classification pipeline, or any function of a text that returns a list of dicts
                with `start` and `end`. Asked for posts without `mentions`.
            label_descriptions, label_types, type_descriptions, hypothesis_template: as of the pipeline.
            label_separator: makes labels paths, ">" for "person > politician"; see `labels.py`.
            relation_constraints: relation to (types of the head, types of the tail), each a type or a list of types. A
                pair is asked about the relations that its mentions' predicted types allow, and not at all about none.
            symmetric, inverses: relations that are said in both directions, and {relation: its inverse}: both readings
                get one score, from the mean of their logits, and do not contradict each other. A symmetric relation is
                listed once, from the mention that is listed first.
            threshold: least that the answered label needs; below it a mention or pair has none of the labels. A
                number, or a dict of numbers for "typing" and "relation"; `inference.metrics.fit_threshold` fits one.
            reject_by: what the threshold is about: "probability" of the label (default); "ratio" of this to the
                average other label's; or its "logit", which does not depend on the number of labels.
            top_k: labels in `scores`; default all.
            batch_size: marked texts, and images, at a time; changes nothing but speed and memory.
            num_samples: draws from the experts; see `objectives.py`. Scores are then means over them, and come with
                `deviation` and, for each mention and relation, `mutual_information`.
            max_length: most tokens of a text.
            num_neighbors: marked texts that are scored together, at most 16 * batch_size mentions or pairs of 64
                posts, share their probabilities with this many nearest ones; see `sample_graph.propagate_labels`. 0:
                with none, and each post's answer depends on that post alone.
            allow_image_urls: images may be http(s) addresses, as of the pipeline.
            return_embeds: add `image_embeds`, the vector (H,) of the image, pixels and image text, after the experts
                (v of E6), or `None`.
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


__all__ = [
    "GraphExtractor",
    "MentionFinder",
    "PostToExtract",
    "RelationRules",
    "broken_graph",
    "extract",
    "read_post",
]
