"""Writes a model as a folder for onnxruntime: graphs of what can be computed apart, configuration and processor.

Axes: B = posts, S = mention slots, Lt = text tokens, Li = image tokens, Lw = image text's tokens, H = hidden size,
H' = width of the vision encoder, D = projection size, C = candidate labels, P = their texts, Lc = tokens of a text,
T = types.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import nn

from ..data.atomic_io import whole_folder
from ..data.progress_bar import progress_bar
from ..inference.model_folder import check_export_folder, check_packages
from ..labels import in_evaluation

if TYPE_CHECKING:
    from transformers.exporters.base import ExportedModel

    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor


# Sizes of what is traced: all different, and none of them 0 or 1, which torch would take for constants.
POSTS, TEXT_TOKENS, IMAGE_TOKENS, LABELS, TEXTS, LABEL_TOKENS, TYPES, IMAGE_TEXT_TOKENS = 3, 11, 7, 4, 6, 5, 2, 9


class VisionGraph(nn.Module):
    """Images to the vision encoder's tokens, which may be cached."""

    def __init__(self, model: MGVMoEForZeroShotIE):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """`image_features` (B, Li, H') of `pixel_values` (B, 3, h, w)."""
        return {"image_features": self.model.get_image_features(pixel_values)}


class MentionGraph(nn.Module):
    """Posts with their mentions to the posts' side of the score."""

    def __init__(self, model: MGVMoEForZeroShotIE):
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        mention_positions: torch.Tensor,
        image_features: torch.Tensor,
        image_mask: torch.Tensor,
        mention_mask: torch.Tensor | None = None,
        image_text_input_ids: torch.Tensor | None = None,
        image_text_attention_mask: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """See [`PostScoring.posts_of`].

        Args:
            input_ids, attention_mask: (B, Lt). mention_positions: (B, S), S = `max_mentions`, -1 for an absent one.
            image_features: (B, Li, H'); any one token, say zeros, for posts without an image.
            image_mask: (B,), true for posts with pixels.
            mention_mask: (B, S, Lt), with `score="similarity"`.
            image_text_input_ids, image_text_attention_mask: (B, Lw), a mask of zeros for posts without image text;
                only of an export with `image_text`.
        """
        output = self.model.mgvmoe(
            input_ids=input_ids,
            attention_mask=attention_mask,
            mention_positions=mention_positions,
            image_features=image_features,
            image_mask=image_mask,
            image_text_input_ids=image_text_input_ids,
            image_text_attention_mask=image_text_attention_mask,
            mention_mask=mention_mask if self.model.mgvmoe.residual else None,
        )
        return dict(self.model.posts_of(output, attention_mask, mention_positions, mention_mask))


class LabelGraph(nn.Module):
    """Texts of labels, or of types, to embeddings, which may be cached."""

    def __init__(self, model: MGVMoEForZeroShotIE):
        super().__init__()
        self.model = model

    def forward(
        self,
        candidate_input_ids: torch.Tensor,
        candidate_attention_mask: torch.Tensor,
        candidate_index: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """`candidate_embeds` (C, H) of tokens (P, Lc) of texts and the label (P,) that each belongs to."""
        embeds = self.model.get_candidate_embeds(candidate_input_ids, candidate_attention_mask, candidate_index)
        return {"candidate_embeds": embeds}


class ScoreGraph(nn.Module):
    """Both sides to logits."""

    def __init__(self, model: MGVMoEForZeroShotIE):
        super().__init__()
        self.model = model

    def forward(
        self,
        mention_embeds: torch.Tensor,
        candidate_embeds: torch.Tensor,
        mention_directions: torch.Tensor | None = None,
        type_embeds: torch.Tensor | None = None,
        candidate_types: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """`logits` (B, C).

        Args:
            mention_embeds: (B, D). candidate_embeds: (C, H).
            mention_directions: (B, S, H), with `score="similarity"`, together with
            type_embeds: (T, H), and candidate_types: (C, 2, T), true for the types that a label allows for head and
                tail. Where labels have no types: any one type, allowed for all, which changes nothing.
        """
        logits = self.model.score(mention_embeds, candidate_embeds)
        similarity = self.model.similarity
        if similarity is not None:
            assert mention_directions is not None and type_embeds is not None and candidate_types is not None
            log_probs = similarity.type_log_probs(mention_directions, type_embeds)
            # A direction has length 1; zeros are an absent mention.
            fit = similarity.type_compatibility(log_probs, candidate_types, mention_directions != 0)
            logits = logits + similarity.type_coef * fit
        return {"logits": logits}


@dataclass(frozen=True)
class Part:
    """A part of a model and how it is traced.

    Attributes:
        graph: the module.
        inputs: of its `forward`, by name.
        axes: for each input the names of its axes of any length, by place.
        limits: greatest lengths of such axes, where there is one.
    """

    graph: nn.Module
    inputs: dict[str, torch.Tensor]
    axes: dict[str, dict[int, str]]
    limits: dict[str, int]


def parts_of(
    model: MGVMoEForZeroShotIE, image_size: tuple[int, int, int], image_text: bool = False
) -> dict[str, Part]:
    """The parts "vision", "mention", "labels" and "score".

    Args:
        model: in evaluation mode.
        image_size: channels, height and width of a prepared image.
        image_text: whether "mention" takes the image text of posts, for which it runs the text encoder once more.
    """
    config = model.config
    slots, hidden, similarity = config.max_mentions, config.hidden_size, config.score == "similarity"
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def tokens(*shape: int) -> torch.Tensor:
        return torch.randint(config.text_config.vocab_size, shape, generator=generator)

    positions = torch.tensor([[2] + [-1] * (slots - 1)]).repeat(POSTS, 1)
    mention: dict[str, torch.Tensor] = {
        "input_ids": tokens(POSTS, TEXT_TOKENS),
        "attention_mask": torch.ones(POSTS, TEXT_TOKENS, dtype=torch.long),
        "mention_positions": positions,
        "image_features": numbers(POSTS, IMAGE_TOKENS, config.vision_width),
        "image_mask": torch.arange(POSTS) != 1,
    }
    if image_text:
        mention["image_text_input_ids"] = tokens(POSTS, IMAGE_TEXT_TOKENS)
        mention["image_text_attention_mask"] = torch.ones(POSTS, IMAGE_TEXT_TOKENS, dtype=torch.long)
    score: dict[str, torch.Tensor] = {
        "mention_embeds": numbers(POSTS, hidden if similarity else config.projection_dim),
        "candidate_embeds": numbers(LABELS, hidden),
    }
    if similarity:
        mask = torch.zeros(POSTS, slots, TEXT_TOKENS, dtype=torch.bool)
        mask[:, 0, 2] = True
        mention["mention_mask"] = mask
        score["mention_directions"] = nn.functional.normalize(numbers(POSTS, slots, hidden), dim=-1)
        score["type_embeds"] = nn.functional.normalize(numbers(TYPES, hidden), dim=-1)
        score["candidate_types"] = torch.ones(LABELS, 2, TYPES, dtype=torch.bool)
    labels = {
        "candidate_input_ids": tokens(TEXTS, LABEL_TOKENS),
        "candidate_attention_mask": torch.ones(TEXTS, LABEL_TOKENS, dtype=torch.long),
        "candidate_index": torch.arange(TEXTS) % LABELS,
    }
    axes: dict[str, dict[int, str]] = {
        "pixel_values": {0: "images"},
        "input_ids": {0: "posts", 1: "text_tokens"},
        "attention_mask": {0: "posts", 1: "text_tokens"},
        "mention_positions": {0: "posts"},
        "mention_mask": {0: "posts", 2: "text_tokens"},
        "image_features": {0: "posts", 1: "image_tokens"},
        "image_mask": {0: "posts"},
        "image_text_input_ids": {0: "posts", 1: "image_text_tokens"},
        "image_text_attention_mask": {0: "posts", 1: "image_text_tokens"},
        "candidate_input_ids": {0: "texts", 1: "label_tokens"},
        "candidate_attention_mask": {0: "texts", 1: "label_tokens"},
        "candidate_index": {0: "texts"},
        "mention_embeds": {0: "posts"},
        "mention_directions": {0: "posts"},
        "candidate_embeds": {0: "labels"},
        "type_embeds": {0: "types"},
        "candidate_types": {0: "labels", 2: "types"},
    }
    found: dict[str, tuple[Any, dict[str, torch.Tensor]]] = {
        "vision": (VisionGraph, {"pixel_values": numbers(2, *image_size)}),
        "mention": (MentionGraph, mention),
        "labels": (LabelGraph, labels),
        "score": (ScoreGraph, score),
    }
    longest = model.mgvmoe.max_text_length
    kinds = ("text_tokens", "label_tokens", "image_text_tokens")
    limits = {} if longest is None else dict.fromkeys(kinds, longest)
    return {
        name: Part(kind(model), inputs, {key: axes[key] for key in inputs}, limits)
        for name, (kind, inputs) in found.items()
    }


def check_onnx_packages(*names: str) -> None:
    """Raise ImportError unless packages of the extra `onnx` are installed, and a transformers that can export."""
    check_packages("onnx", *names)
    # Since 5.23.
    if find_spec("transformers.exporters") is None or find_spec("transformers.exporters.runners") is None:
        import transformers

        raise ImportError(f"transformers 5.23 or newer is needed for ONNX, got {transformers.__version__}.")


def export_graphs(
    model: MGVMoEForZeroShotIE, processor: MGVMoEProcessor, progress: bool = False, image_text: bool = False
) -> ExportedModel:
    """The four graphs "vision", "mention", "labels" and "score" of a model; see [`parts_of`] for what each takes.

    Posts, tokens of a post, images' tokens, labels, their texts and tokens, and types may be of any number; the size
    of an image is that of the processor.

    Args:
        model: in single precision, on the CPU; left as it came.
        processor: of the model.
        progress: show a bar over the graphs.
        image_text: whether the export reads words for images; the text encoder then runs twice for a batch of posts.

    Raises:
        ImportError: the extra `onnx` is not installed.
        ValueError: the model is in another precision or on another device.
    """
    check_onnx_packages("onnx", "onnxscript", "onnxruntime")
    if model.dtype != torch.float32 or model.device.type != "cpu":
        raise ValueError(
            f"model must be in float32 on the CPU to be exported, got {str(model.dtype).removeprefix('torch.')} on "
            f"{model.device.type}; load it with dtype=torch.float32."
        )
    from transformers.exporters.base import ExportedComponent, ExportedModel
    from transformers.exporters.exporter_onnx import OnnxExporter

    components: dict[str, ExportedComponent] = {}
    with in_evaluation(model), _quiet():
        parts = parts_of(model, _image_size(processor), image_text)
        exporter = OnnxExporter()
        for name, part in progress_bar(parts.items(), "exporting", len(parts), "graph", progress):
            components[name] = _export(exporter, part)
    return ExportedModel(components, exporter.export_format, config=model.config)


def export_onnx(
    model: MGVMoEForZeroShotIE,
    processor: MGVMoEProcessor,
    folder: str | os.PathLike[str],
    overwrite: bool = False,
    progress: bool = False,
    image_text: bool = False,
) -> None:
    """Write the graphs of [`export_graphs`], the configuration and the processor, whole or not at all.

    Args:
        model, processor, progress, image_text: as there.
        folder: what [`onnx_pipeline`] reads; `NAME.onnx` with its weights in `NAME.onnx.data`.
        overwrite: replace an export that is there.

    Raises:
        FileExistsError: the folder is there and not empty, or no export, which alone is replaced.
        OSError: the disk is full.
    """
    folder = os.fspath(folder)
    check_export_folder(folder, overwrite)
    exported = export_graphs(model, processor, progress, image_text)
    os.makedirs(os.path.dirname(os.path.abspath(folder)), exist_ok=True)
    # Mention side and label side each have the text encoder.
    needed = 2 * sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with whole_folder(folder, needed, "export again") as partial:
        exported.save_pretrained(partial)
        processor.save_pretrained(partial)


def _export(exporter: Any, part: Part) -> Any:
    """One graph, with the axes named as in [`parts_of`]."""
    import onnx_ir.passes.common
    from transformers.exporters.configs import OnnxConfig

    names = {name for axes in part.axes.values() for name in axes.values()}
    dims = {name: torch.export.Dim(name, max=part.limits.get(name)) for name in names}
    shapes = {name: {axis: dims[kind] for axis, kind in axes.items()} for name, axes in part.axes.items()}
    component = exporter.export(part.graph, dict(part.inputs), OnnxConfig(dynamic_shapes=shapes)).components["model"]
    _name_axes(component.program, part.axes)
    # What torch notes of every node: lines of code, with the paths of this machine.
    onnx_ir.passes.common.ClearMetadataAndDocStringPass()(component.program)
    return component


def _name_axes(program: Any, axes: Mapping[str, Mapping[int, str]]) -> None:
    """Give the axes that torch numbers ("s50") their names, for whoever looks at the graph."""
    import onnx_ir

    graph = program.graph
    named = {str(value.shape[axis]): name for value in graph.inputs for axis, name in axes[value.name].items()}
    values = [*graph.inputs, *(output for node in graph.all_nodes() for output in node.outputs)]
    for value in values:
        if value.shape is not None and not value.shape.frozen:
            for axis, dim in enumerate(value.shape):
                if str(dim) in named:
                    value.shape[axis] = onnx_ir.SymbolicDim(named[str(dim)])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the steps that torch prints, and warnings of its translations and of versions: the check tells more."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "transformers.exporters")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _image_size(processor: MGVMoEProcessor) -> tuple[int, int, int]:
    """Channels, height and width of an image as the processor makes it."""
    (pixels,) = processor.encode_images([Image.new("RGB", (64, 48))])
    assert pixels is not None
    channels, height, width = pixels.shape
    return int(channels), int(height), int(width)
