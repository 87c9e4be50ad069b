"""The pipeline for whole posts: text, picture and mentions in; typed mentions and their relations out."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import Pipeline
from transformers.pipelines.base import GenericTensor

from .candidate_embedder import CandidateEmbedder, check_processor
from .candidates import refuse_unknown_arguments
from .extraction import GraphExtractor
from .pipeline_mgvmoe import as_inputs

GRAPH_TASK = "multimodal-graph-extraction"


class MultimodalGraphExtractionPipeline(Pipeline):
    """Types every mention of a post and relates every ordered pair of its mentions, in one call.

    ```python
    pipe = pipeline("multimodal-graph-extraction", model=folder, trust_remote_code=True)
    post = {"id": "1", "text": "Kelo greets Mura", "image": picture, "mentions": [(0, 4), (12, 16)]}
    graph = pipe(post, typing_labels=["person", "boat"], relation_labels=["greets", "chases"])
    graph["mentions"][0]["label"], graph["relations"][0]["head"], graph["relations"][0]["label"]
    ```

    Input is one post, a list, a generator, or a dataset of posts of `datasets` or `torch`; `batch_size` is how many
    posts are worked on together and `texts_at_once` how many of their marked texts are in one forward pass. What a
    post is, what comes out of it, and all other arguments of the call, or of the pipeline's construction as defaults,
    are those of `extraction.extract`.

    The text of each label is encoded once and kept for later calls, `candidate_cache_size` texts at most; call
    `clear_candidate_cache()` after changing the model's weights. A model in training mode scores in evaluation mode
    and keeps its mode; its labels are encoded anew in every call.
    """

    # Optional for `pipeline()`, so that a checkpoint without it comes to the message of `__init__`.
    _load_processor = None
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False

    def __init__(self, *args: Any, candidate_cache_size: int = 100_000, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_processor(self.model, self.processor)
        self.candidate_embedder = CandidateEmbedder(self.model, self.processor, candidate_cache_size)

    def __call__(
        self,
        inputs: Any,
        typing_labels: Sequence[str] | None = None,
        relation_labels: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """See the class. No posts give no graphs, where transformers' own method fails with an IndexError."""
        inputs = as_inputs(inputs)
        if isinstance(inputs, list) and not inputs:
            return []
        if getattr(self.model, "training", False):
            # Its weights change between calls, and with them the vectors of the labels.
            self.clear_candidate_cache()
        return super().__call__(inputs, typing_labels=typing_labels, relation_labels=relation_labels, **kwargs)

    def clear_candidate_cache(self) -> None:
        """Forget the label embeddings of earlier calls."""
        self.candidate_embedder.clear()

    def _sanitize_parameters(
        self,
        typing_labels: Sequence[str] | None = None,
        relation_labels: Sequence[str] | None = None,
        mention_finder: Any = None,
        label_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        label_types: Mapping[str, Any] | None = None,
        type_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        label_template: str | None = None,
        label_separator: str | None = None,
        relation_constraints: Mapping[str, Any] | None = None,
        symmetric: Sequence[str] | None = None,
        inverses: Mapping[str, str] | None = None,
        rejection: Any = None,
        top_k: int | None = None,
        texts_at_once: int | None = None,
        num_samples: int | None = None,
        max_length: int | None = None,
        return_embeds: bool | None = None,
        errors: str | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        options = {
            name: value for name, value in locals().items() if name not in ("self", "unknown") and value is not None
        }
        refuse_unknown_arguments(unknown, type(self).__name__)
        return {}, options, {}

    def preprocess(self, input_: Any) -> dict[str, Any]:
        """A list of one, so that the default collation touches nothing of the post."""
        return {"posts": [input_]}

    def _forward(self, input_tensors: dict[str, GenericTensor], **options: Any) -> dict[str, Any]:
        posts = [post for own in input_tensors["posts"] for post in (own if isinstance(own, list) else [own])]
        if "texts_at_once" in options:
            options["batch_size"] = options.pop("texts_at_once")
        # Made anew for each batch, which costs little: the labels' vectors are remembered.
        extractor = GraphExtractor(self.model, self.processor, embedder=self.candidate_embedder, **options)
        return {"graphs": extractor(posts)}

    def postprocess(self, model_outputs: dict[str, Any]) -> dict[str, Any]:
        graphs = model_outputs["graphs"]
        return graphs[0] if isinstance(graphs, list) else graphs

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save everything that `pipeline("multimodal-graph-extraction", model=save_directory, ...)` needs.

        transformers' own method would leave the processor out, and list this pipeline in place of the default one.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


__all__ = ["GRAPH_TASK", "MultimodalGraphExtractionPipeline"]
