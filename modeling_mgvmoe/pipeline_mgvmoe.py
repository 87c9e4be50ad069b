"""The pipeline: a post with its image and its marked mentions in, labels with scores out."""

import inspect
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import GeneratorType
from typing import Any, cast

import torch
import transformers
from torch.utils.data import Dataset
from transformers import Pipeline

from .extraction import ERRORS, GraphExtractor, broken_graph
from .images import to_rgb
from .labels import (
    TASKS,
    CandidateEmbedder,
    Label,
    LabelPaths,
    check_label_words,
    check_labels,
    check_processor,
    check_separator,
    check_threshold,
    in_evaluation,
    label_texts,
    logit_threshold,
    plain_labels,
    refuse_unknown_arguments,
    with_new_names,
    with_spacing,
)
from .sample_graph import check_num_neighbors, number_groups, propagate_labels
from .spans import as_list, is_absent, mentions_of, pair_key, read_image_text, read_mentions

TASK = "zero-shot-multimodal-ie"


# Since 5.0 transformers has "image-to-text" only as another, deprecated name of this task.
CAPTION_TASK = "image-text-to-text"
# What a model that chats is asked.
CAPTION_PROMPT = "Describe the image in one sentence."


class ImageCaptioner:
    """Words for an image, by a model that the user names.

    Args:
        captioner: the name or folder of a model that `pipeline("image-text-to-text")` of transformers loads (BLIP,
            GIT, models that chat), such a pipeline, or any function of an RGB image that returns a string or a list of
            strings.
        device: device of a captioner given by name; it is loaded when the first image comes.

    Raises:
        ValueError: `captioner` is something else.
    """

    def __init__(self, captioner: Any, device: Any = None) -> None:
        if not isinstance(captioner, str) and not callable(captioner):
            raise ValueError(
                f"image_captioner: the name of a model, an {CAPTION_TASK} pipeline or a function of an image is "
                f"needed (got {type(captioner).__name__})"
            )
        self.captioner, self.device = captioner, device

    def __call__(self, image: Any) -> list[str]:
        """The captions of an RGB image, without white space around; none where the model says nothing.

        Raises:
            ValueError: the model cannot be loaded as a captioner, or gives something else than text.
        """
        if isinstance(self.captioner, str):
            self.captioner = self._load(self.captioner)
        if getattr(self.captioner, "task", None) != CAPTION_TASK:
            found = self.captioner(image)
        elif getattr(self.captioner.processor, "chat_template", None) is None:
            found = self.captioner(image, text="", return_full_text=False)
        else:
            content = [{"type": "image", "image": image}, {"type": "text", "text": CAPTION_PROMPT}]
            found = self.captioner(text=[{"role": "user", "content": content}], return_full_text=False)
        texts = found if isinstance(found, (list, tuple)) else [found]
        return read_image_text(
            [one.get("generated_text") if isinstance(one, Mapping) else one for one in texts],
            "image_captioner: the caption",
        )

    def _load(self, name: str) -> Any:
        load: Callable[..., Any] = transformers.pipeline
        try:
            return load(CAPTION_TASK, model=name, device=self.device)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"image_captioner: {name!r} cannot be loaded as {CAPTION_TASK}; for a model without a processor of "
                f"its own give a function of an image: {error}"
            ) from error


@dataclass(frozen=True)
class _Candidates:
    """The checked labels of a post and what the model reads of them. No dict, which transformers would walk through.

    Attributes:
        labels: C of them, as answers have them.
        texts, column_names: of each of the N nodes that are scored, the labels themselves where they are no paths.
        types, type_names: texts and names of the T types of heads and tails.
        allowed: (N, 2, T), which of them a label allows; `None` for each without types.
    """

    labels: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    column_names: tuple[str, ...]
    types: tuple[tuple[str, ...], ...]
    type_names: tuple[str, ...]
    allowed: Sequence[Any]


class _PostPipeline(Pipeline):
    """Common base of both pipelines: processor, cache of label embeddings, reading of posts."""

    # Optional for `pipeline()`, so that a checkpoint without it comes to the message of `__init__`.
    _load_processor = None
    _load_tokenizer = False  # type: ignore[assignment]  # transformers declares the three as None
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]

    processor: Any

    def __init__(self, *args: Any, candidate_cache_size: int = 100_000, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_processor(self.model, self.processor)
        self.candidate_embedder = CandidateEmbedder(self.model, self.processor, candidate_cache_size)
        # The labels that the posts of a call share: the call's arguments, and what was read of them.
        self._read_labels: tuple[tuple[Any, ...], _Candidates] | None = None

    def _answers(self, inputs: Any, **kwargs: Any) -> Any:
        """Call the pipeline. No posts give no answers, where transformers' own method fails with an IndexError."""
        inputs = as_inputs(inputs)
        if isinstance(inputs, list) and not inputs:
            return []
        if getattr(self.model, "training", False):
            # Its weights change between calls, and with them the vectors of the labels.
            self.clear_candidate_cache()
        return super().__call__(inputs, **kwargs)

    def _captioner(self, captioner: Any) -> ImageCaptioner | None:
        """The image captioner, or `None`. A named model is loaded once for the pipeline."""
        if captioner is None or isinstance(captioner, ImageCaptioner):
            return captioner
        known: dict[str, ImageCaptioner] = self.__dict__.setdefault("_captioners", {})
        if isinstance(captioner, str):
            return known.setdefault(captioner, ImageCaptioner(captioner, self.device))
        return ImageCaptioner(captioner)

    def clear_candidate_cache(self) -> None:
        """Forget the label embeddings of earlier calls."""
        self.candidate_embedder.clear()


class ZeroShotMultimodalIEPipeline(_PostPipeline):
    """Types a mention or relates two mentions of a post, with any labels written in words.

    ```python
    pipe({"text": "Kelo sails at dawn", "image": image, "mention": (0, 4)}, candidate_labels=["boat", "bird"])
    pipe({"text": "Kelo greets Mura", "head": (0, 4), "tail": (12, 16)}, candidate_labels=["greets", "chases"])
    ```

    A post is a dict with `text`; `mention` for typing, or `head` and `tail` for a relation (or `mentions`, a list of
    one or two), each a span: (start, end) in characters of the text, end exclusive, {"start", "end"}, or words that
    occur once in the text; optionally `image` (PIL image, path, data URL, bytes, array or `None`), `image_text` (words
    for the image, with or without one: a string or a list of strings) and its own `candidate_labels`, instead of the
    call's. Other columns are ignored, with one warning. Input is one
    post, a list, a generator, or a dataset of posts of `datasets` or `torch`, streamed or not; `batch_size` batches
    them. The order of the labels changes no score.

    Arguments of the call, or of the pipeline's construction as defaults:

    - candidate_labels (`list[str | Label]`): for all posts without their own labels. A [`labels.Label`], or a dict
      with its fields, carries its sentences and types itself.
    - label_descriptions (`dict[str, str | list[str]]`): sentences that the model reads instead of labels, one or
      several for each.
    - label_types (`dict[str, tuple]`), type_descriptions (`dict[str, str | list[str]]`): for relations the types that
      head and tail may have, `{"member of": ("person", "organization")}`, and sentences instead of these types. For
      models with `score="similarity"`.
    - hypothesis_template (`str`): with one "{}" for the label or its description.
    - label_separator (`str`): makes labels paths, ">" for "person > politician", scored level by level; each answer
      has the scores of its "levels".
    - num_samples (`int`): draws from the experts. Scores are then means over them, and each answer has its "deviation"
      and the "mutual_information" of its post.
    - num_neighbors (`int`): the posts of a list or dataset share their probabilities with this many nearest ones of
      the same candidates, [`sample_graph.propagate_labels`]; default 0, and each answer depends on its post alone.
    - top_k (`int`): at most this many labels per post; default: all.
    - threshold (`float`), reject_by ("probability", "ratio", "logit", "calibrated"): least that a label needs to be
      returned, and of what: its score (default), how many times as likely as the average other label it is, its logit,
      which does not depend on the other labels, or the probability that `score_calibration` of the model's
      configuration makes of the logit. Default: all are returned.
    - function_to_apply ("softmax", "sigmoid", "none"): logits to scores; default "softmax" over the post's labels.
    - is_split_into_words (`bool`): `text` is a list of words; spans are then characters of the words joined by spaces.
    - max_length (`int`): of the tokenized post.
    - allow_image_urls (`bool` or "private"): images may be http(s) addresses, which are fetched from public hosts
      (with "private" from any) and within limits; default `False`.
    - image_captioner (`str`, a pipeline or a function): writes the `image_text` of posts with an image and without
      image text; see [`ImageCaptioner`]. Default: nothing is captioned.
    - errors ("raise", "return"): with "return" a post that cannot be read, or its image, gets `{"error": reason}` and
      the others their labels; default "raise".

    Returns, per post, a list of `{"label", "score"}` with falling scores.

    The text of each label is encoded once and kept for later calls, `candidate_cache_size` texts at most; call
    `clear_candidate_cache()` after changing the model's weights. A model in training mode scores in evaluation mode
    and keeps its mode; its labels are encoded anew in every call.
    """

    @property
    def _calibration(self) -> Mapping[str, Sequence[float]] | None:
        """`score_calibration` of the model; `None` without, as for an exported one."""
        return getattr(self.model.config, "score_calibration", None)

    def __call__(  # type: ignore[override]  # transformers' own takes *args, which mean nothing
        self, inputs: Any, candidate_labels: Sequence[str | Label] | None = None, **kwargs: Any
    ) -> Any:
        """See the class."""
        given = {name: value for name, value in kwargs.items() if value is not None}
        # The construction's defaults count, too.
        defaults = {**self._preprocess_params, **self._forward_params, **self._postprocess_params}
        settings = defaults | given
        number = settings.get("num_neighbors", 0)
        check_num_neighbors(number, settings.get("num_samples"))
        function, separator, by = map(settings.get, ("function_to_apply", "label_separator", "reject_by"))
        shares = function in (None, "softmax") and separator is None and by not in ("logit", "calibrated")
        if number and not shares:
            raise ValueError(
                'num_neighbors: function_to_apply must be "softmax", label_separator None and reject_by "probability" '
                f'or "ratio", for neighbors share probabilities (got {function!r}, {separator!r} and {by!r})'
            )
        if number and (isinstance(inputs, Mapping) or not hasattr(inputs, "__len__")):
            raise ValueError(f"num_neighbors: a list or a dataset of posts is needed (got {type(inputs).__name__})")
        self._read_labels = None
        found = self._answers(inputs, candidate_labels=candidate_labels, **given)
        return _share(list(found), number) if number else found

    @with_new_names
    def _sanitize_parameters(
        self,
        candidate_labels: Sequence[str | Label] | None = None,
        label_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        hypothesis_template: str | None = None,
        label_types: Mapping[str, Any] | None = None,
        type_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        label_separator: str | None = None,
        num_samples: int | None = None,
        is_split_into_words: bool | None = None,
        max_length: int | None = None,
        allow_image_urls: bool | str | None = None,
        image_captioner: Any = None,
        num_neighbors: int | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        reject_by: str | None = None,
        function_to_apply: str | None = None,
        errors: str | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        refuse_unknown_arguments(unknown, type(self).__name__)
        if reject_by == "calibrated":
            check_threshold(threshold, reject_by)
            if not self._calibration:
                raise ValueError(
                    "reject_by: 'calibrated' needs a model whose configuration has a score_calibration (got none)"
                )
        if errors not in (None, *ERRORS):
            raise ValueError(f"errors: one of {', '.join(ERRORS)} is needed (got {errors!r})")
        preprocess = {
            "candidate_labels": candidate_labels,
            "label_descriptions": label_descriptions,
            "hypothesis_template": hypothesis_template,
            "label_types": label_types,
            "type_descriptions": type_descriptions,
            "label_separator": label_separator,
            "is_split_into_words": is_split_into_words,
            "max_length": max_length,
            "allow_image_urls": allow_image_urls,
            "image_captioner": self._captioner(image_captioner),
            "errors": errors,
        }
        postprocess = {
            "top_k": top_k,
            "threshold": threshold,
            "reject_by": reject_by,
            "function_to_apply": function_to_apply,
            "label_separator": label_separator,
            "num_neighbors": num_neighbors,
        }
        return (
            {name: value for name, value in preprocess.items() if value is not None},
            {} if num_samples is None else {"num_samples": num_samples},
            {name: value for name, value in postprocess.items() if value is not None},
        )

    def preprocess(  # type: ignore[override]  # parameters by name, where the base class says only **kwargs
        self,
        input_: Mapping[str, Any],
        candidate_labels: Sequence[str | Label] | None = None,
        label_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        hypothesis_template: str | None = None,
        label_types: Mapping[str, Any] | None = None,
        type_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        label_separator: str | None = None,
        is_split_into_words: bool = False,
        max_length: int | None = None,
        allow_image_urls: bool | str = False,
        image_captioner: ImageCaptioner | None = None,
        errors: str = "raise",
    ) -> dict[str, Any]:
        """Reads one post. Lists of one keep the default collation from touching what only `_forward` can pad."""
        words = (label_descriptions, hypothesis_template, label_types, type_descriptions, label_separator)
        try:
            mentions = mentions_of(input_)
            own: _Candidates | None = None
            if not is_absent(input_.get("candidate_labels")):
                own = self._candidates(input_["candidate_labels"], *words, warn=False)
            elif candidate_labels is None:
                raise ValueError("candidate_labels: a non-empty list of labels is needed, in the call or in the post")
        except ValueError as error:
            return _broken(input_, error, errors)
        if own is None:
            # The call's labels are no fault of the post, and the cheapest thing to get wrong.
            own = self._shared_candidates(cast(Sequence[str | Label], candidate_labels), *words)
        text, image = input_["text"], input_.get("image")
        try:
            if is_split_into_words:
                text = self.processor.words_to_text(text)[0]
            image_text = read_image_text(input_.get("image_text"))
            if image_captioner is not None and not image_text and not is_absent(image):
                image = to_rgb(_alone(image), "image", allow_image_urls)
                image_text = image_captioner(image)
            post = self.processor.encode_post(text, mentions, max_length, image_text=image_text)
            (pixel_values,) = self.processor.encode_images([None if is_absent(image) else image], allow_image_urls)
        except ValueError as error:
            return _broken(input_, error, errors)
        if pixel_values is not None:
            post["pixel_values"] = pixel_values
        is_pair = len(post["mention_positions"]) == 2
        pair = pair_key(text, read_mentions(mentions, text)) if is_pair else None
        return {"posts": [post], "candidates": [own], "errors": [None], "pairs": [pair]}

    def _shared_candidates(self, *given: Any) -> _Candidates:
        """[`_candidates`] of the call's arguments, read once for all its posts."""
        read = self._read_labels
        if read is None or any(one is not other for one, other in zip(read[0], given, strict=True)):
            read = self._read_labels = given, self._candidates(*given)
        return read[1]

    def _candidates(
        self,
        labels: Sequence[str | Label],
        label_descriptions: Mapping[str, str | Sequence[str]] | None,
        hypothesis_template: str | None,
        label_types: Mapping[str, Any] | None,
        type_descriptions: Mapping[str, str | Sequence[str]] | None,
        label_separator: str | None,
        warn: bool = True,
    ) -> _Candidates:
        """The checked texts that the model reads for labels."""
        labels, label_descriptions, label_types, _ = plain_labels(labels, label_descriptions, label_types)
        columns = names = check_labels(labels)
        separator = check_separator(label_separator)
        check_label_words(columns, label_descriptions, label_types, type_descriptions, separator, warn=warn)
        if separator is not None:
            tree = LabelPaths(columns, separator)
            columns, label_descriptions = tree.names(), tree.node_descriptions(label_descriptions)
            label_types = with_spacing(label_types, separator)
        texts = self.processor.candidate_texts(columns, label_descriptions, hypothesis_template)
        types, allowed = self.processor.read_label_types(label_types, columns)
        return _Candidates(
            labels=tuple(names),
            texts=tuple(texts),
            column_names=tuple(columns),
            types=tuple(label_texts(types, type_descriptions, "{}", "type_descriptions")),
            type_names=tuple(types),
            allowed=allowed or [None] * len(texts),
        )

    def _forward(self, input_tensors: dict[str, Any], **forward_parameters: Any) -> Any:
        """Score a batch in evaluation mode, whatever mode the model is in: training would draw dropout and noise."""
        posts, candidates, errors, pairs = (
            _flatten(input_tensors[name]) for name in ("posts", "candidates", "errors", "pairs")
        )
        found, nodes = [torch.zeros(1, 0)] * len(errors), [torch.zeros(1, 0)] * len(errors)
        # Types of a call compete with each other, so that posts with other types are scored apart.
        alike: dict[Any, list[int]] = {}
        for row, error in enumerate(errors):
            if error is None:
                alike.setdefault(candidates[row].types, []).append(row)
        with in_evaluation(self.model):
            for rows in alike.values():
                own = [posts[row] for row in rows], [candidates[row] for row in rows]
                for row, logits, node in zip(rows, *self._score(*own, forward_parameters), strict=True):
                    found[row], nodes[row] = logits, node
        tasks = ["" if post is None else TASKS[len(post["mention_positions"]) - 1] for post in posts]
        return {
            "logits": found,
            "nodes": nodes,
            "candidates": candidates,
            "errors": errors,
            "tasks": tasks,
            "pairs": pairs,
        }

    def _score(
        self, posts: list[dict[str, Any]], candidates: list[_Candidates], forward_parameters: Mapping[str, Any]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Logits (1 + draws, C) of each post for its own candidates, first those without noise; and vectors (B, D).

        All posts have the same types.
        """
        batch = self.processor.pad_posts(posts, return_tensors="pt", share_images=True).to(self.device)
        # One column per distinct candidate of the batch, words and types; every post then takes its own columns.
        keys = [[(words, repr(types)) for words, types in zip(own.texts, own.allowed, strict=True)]
                for own in candidates]  # fmt: skip
        column_of = {key: column for column, key in enumerate(dict.fromkeys(key for row in keys for key in row))}
        names = {key: name for row, own in zip(keys, candidates, strict=True)
                 for key, name in zip(row, own.column_names, strict=True)}  # fmt: skip
        inputs = {
            "candidate_embeds": self.candidate_embedder(
                [words for words, _ in column_of], [names[key] for key in column_of]
            )
        }
        if candidates[0].types:
            allowed = {key: types for row, own in zip(keys, candidates, strict=True)
                       for key, types in zip(row, own.allowed, strict=True)}  # fmt: skip
            inputs["type_embeds"] = self.candidate_embedder(candidates[0].types, candidates[0].type_names)
            inputs["candidate_types"] = torch.tensor([allowed[key] for key in column_of], device=self.device)
        output = self.model(**batch, **inputs, **forward_parameters)
        scores = output.logits[None]
        if output.sample_logits is not None:
            scores = torch.cat([scores, output.sample_logits])
        logits = [
            row[..., torch.tensor([column_of[key] for key in own], device=row.device)]
            for row, own in zip(scores.unbind(-2), keys, strict=True)
        ]
        return logits, output.mention_embeds

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: dict[str, Any],
        top_k: int | None = None,
        threshold: float | None = None,
        function_to_apply: str = "softmax",
        label_separator: str | None = None,
        reject_by: str = "probability",
        num_neighbors: int = 0,
    ) -> Any:
        (error,) = _flatten([model_outputs["errors"]])
        if error is not None:
            return {"error": error}
        # Alone a post comes as lists of one; taken out of a batch bare, and its logits with one more axis.
        (own,), (pair,), (task,) = (_flatten([model_outputs[name]]) for name in ("candidates", "pairs", "tasks"))
        labels = list(own.labels)
        logits = model_outputs["logits"][0].double()
        threshold, reject_by = logit_threshold(threshold, reject_by, self._calibration, task)

        def rank(logits: torch.Tensor) -> list[dict[str, Any]]:
            outputs = {"logits": logits[:1], "sample_logits": logits[1:, None] if len(logits) > 1 else None}
            (ranked,) = self.processor.post_process_zero_shot_ie(
                outputs,
                labels,
                threshold=threshold,
                top_k=top_k,
                function_to_apply=function_to_apply,
                label_separator=label_separator,
                reject_by=reject_by,
            )
            return ranked

        if num_neighbors:
            return _Unshared(tuple(labels), logits[0], model_outputs["nodes"][0].reshape(-1), pair, rank)
        return rank(logits)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save everything that `pipeline(model=save_directory, trust_remote_code=True)` needs.

        transformers' own method leaves the processor out.
        """
        # Left to itself it also writes a preprocessor_config.json, from which AutoProcessor would build a processor
        # with default values in silence, should processor_config.json get lost.
        image_processor, self.image_processor = self.image_processor, None
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            self.image_processor = image_processor
        self.processor.save_pretrained(save_directory, **kwargs)


@dataclass
class _Unshared:
    """A post whose labels are ranked once its neighbours are known."""

    labels: tuple[str, ...]
    logits: torch.Tensor
    node: torch.Tensor
    pair: Any
    rank: Callable[[torch.Tensor], list[dict[str, Any]]]


def _share(found: list[Any], num_neighbors: int) -> list[Any]:
    """The rankings after label propagation among the posts of the same candidates; broken posts stay as they are."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for row, one in enumerate(found):
        if isinstance(one, _Unshared):
            groups.setdefault(one.labels, []).append(row)
    for rows in groups.values():
        probs = torch.stack([found[row].logits for row in rows]).softmax(-1)
        nodes = torch.stack([found[row].node for row in rows]).cpu()
        pairs = number_groups(found[row].pair for row in rows)
        shared = propagate_labels(probs.cpu(), nodes, num_neighbors, groups=pairs)
        for row, own in zip(rows, shared, strict=True):
            found[row] = found[row].rank(own.log()[None])
    return found


class _Rows(Dataset[Any]):
    """A sequence of posts as a `torch` dataset, which a pipeline iterates with a length and batches."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Any:
        return self.rows[place]


def as_inputs(inputs: Any) -> Any:
    """Brings what holds posts to what transformers iterates: a column or a Series to a list, a dataset to a dataset.

    transformers takes lists, generators and `torch` datasets; a map-style dataset of the library `datasets` is none.
    """
    if isinstance(inputs, tuple):
        return list(inputs)
    if isinstance(inputs, Iterator) and not isinstance(inputs, GeneratorType):
        return (post for post in inputs)
    if isinstance(inputs, (str, list, Mapping, Dataset)) or not hasattr(inputs, "__getitem__"):
        return inputs
    if hasattr(inputs, "column_names") and hasattr(inputs, "__len__"):
        return _Rows(inputs)
    posts = None if getattr(inputs, "ndim", 1) != 1 else as_list(inputs)
    return inputs if posts is None else posts


def _broken(post: object, error: ValueError, errors: str) -> dict[str, Any]:
    """Raise, or stand in the batch for a post that cannot be read, with the keys of the others."""
    if errors == "raise":
        # Posts may come from a generator, where a number would tell nothing.
        text = post.get("text") if isinstance(post, Mapping) else None
        raise ValueError(f"{error}, in the post {(post if text is None else text)!r:.100}") from error
    return {"posts": [None], "candidates": [None], "errors": [str(error)], "pairs": [None]}


def _alone(image: Any) -> Any:
    """The image of a list of one."""
    return image[0] if isinstance(image, (list, tuple)) and len(image) == 1 else image


def _flatten(items: list[Any]) -> list[Any]:
    """One list, of lists of one (a batch) or already flat (a single post)."""
    return [element for item in items for element in (item if isinstance(item, list) else [item])]


def _captioned(post: Any, captioner: ImageCaptioner, allow_image_urls: bool | str) -> Any:
    """The post with a caption as its image text, if it has an image and no image text; a broken post as it is."""
    image = post.get("image") if isinstance(post, Mapping) else None
    if is_absent(image):
        return post
    try:
        if read_image_text(post.get("image_text")):
            return post
        read = to_rgb(_alone(image), "image", allow_image_urls)
    except ValueError:
        return post
    return {**post, "image_text": captioner(read)}


GRAPH_TASK = "multimodal-graph-extraction"
# `batch_size` is the pipeline's own, and there `texts_at_once`.
EXTRACTION_OPTIONS = set(inspect.signature(GraphExtractor).parameters) - {
    "model", "processor", "batch_size", "embedder", "unknown"
}  # fmt: skip


class MultimodalGraphExtractionPipeline(_PostPipeline):
    """Types every mention of a post and relates every ordered pair of its mentions, in one call.

    ```python
    pipe = pipeline("multimodal-graph-extraction", model=folder, trust_remote_code=True)
    post = {"id": "1", "text": "Kelo greets Mura", "image": image, "mentions": [(0, 4), (12, 16)]}
    graph = pipe(post, typing_labels=["person", "boat"], relation_labels=["greets", "chases"])
    graph["mentions"][0]["label"], graph["relations"][0]["head"], graph["relations"][0]["label"]
    ```

    Input is one post, a list, a generator, or a dataset of posts of `datasets` or `torch`; `batch_size` is how many
    posts are worked on together and `texts_at_once` how many of their marked texts are in one forward pass. What a
    post is, what comes out of it, and all other arguments of the call, or of the pipeline's construction as defaults,
    are those of `extraction.extract`. `image_captioner` writes the `image_text` of posts with an image and without
    image text; see [`ImageCaptioner`].

    The text of each label is encoded once and kept for later calls, `candidate_cache_size` texts at most; call
    `clear_candidate_cache()` after changing the model's weights. A model in training mode scores in evaluation mode
    and keeps its mode; its labels are encoded anew in every call.
    """

    def __call__(  # type: ignore[override]
        self,
        inputs: Any,
        typing_labels: Sequence[str | Label] | None = None,
        relation_labels: Sequence[str | Label] | None = None,
        **kwargs: Any,
    ) -> Any:
        """See the class."""
        number = self._forward_params.get("num_neighbors") if (own := kwargs.get("num_neighbors")) is None else own
        together = self._batch_size if (size := kwargs.get("batch_size")) is None else size
        if number and (together or 1) < 2 and not isinstance(inputs, Mapping):
            warnings.warn(
                "num_neighbors: posts share with those of their batch; without a batch_size of 2 or more only the "
                "mentions, and the pairs, of one post share with each other.",
                stacklevel=2,
            )
        return self._answers(inputs, typing_labels=typing_labels, relation_labels=relation_labels, **kwargs)

    @with_new_names
    def _sanitize_parameters(
        self, image_captioner: Any = None, texts_at_once: int | None = None, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        refuse_unknown_arguments(
            {name: value for name, value in options.items() if name not in EXTRACTION_OPTIONS}, type(self).__name__
        )
        given = {name: value for name, value in options.items() if value is not None}
        before: dict[str, Any] = {name: given[name] for name in ("allow_image_urls", "errors") if name in given}
        if image_captioner is not None:
            before["image_captioner"] = self._captioner(image_captioner)
        return before, given if texts_at_once is None else {**given, "batch_size": texts_at_once}, {}

    def preprocess(  # type: ignore[override]
        self,
        input_: Any,
        image_captioner: ImageCaptioner | None = None,
        allow_image_urls: bool | str = False,
        errors: str = "raise",
    ) -> dict[str, Any]:
        """Lists of one, so that the default collation touches nothing of the post."""
        post, reason = input_, None
        if image_captioner is not None:
            try:
                post = _captioned(input_, image_captioner, allow_image_urls)
            except ValueError as error:
                if errors == "raise":
                    raise
                reason = str(error)
        return {"posts": [post], "reasons": [reason]}

    def _forward(self, input_tensors: dict[str, Any], **options: Any) -> Any:
        posts, reasons = (_flatten(input_tensors[name]) for name in ("posts", "reasons"))
        # Made anew for each batch, which costs little: the labels' vectors are remembered.
        extractor = GraphExtractor(self.model, self.processor, embedder=self.candidate_embedder, **options)
        extractor.numbered = False
        graphs = iter(extractor([post for post, reason in zip(posts, reasons, strict=True) if reason is None]))
        found = zip(posts, reasons, strict=True)
        return {"graphs": [next(graphs) if reason is None else broken_graph(post, reason) for post, reason in found]}

    def postprocess(self, model_outputs: Any) -> dict[str, Any]:  # type: ignore[override]
        graphs = model_outputs["graphs"]
        return graphs[0] if isinstance(graphs, list) else graphs

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save everything that `pipeline("multimodal-graph-extraction", model=save_directory, ...)` needs.

        transformers' own method would leave the processor out, and list this pipeline instead of the default one.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


__all__ = [
    "CAPTION_TASK",
    "GRAPH_TASK",
    "ImageCaptioner",
    "MultimodalGraphExtractionPipeline",
    "TASK",
    "ZeroShotMultimodalIEPipeline",
    "as_inputs",
]
