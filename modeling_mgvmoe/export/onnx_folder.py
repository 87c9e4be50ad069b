"""Writes a model as a folder for onnxruntime: graphs, configuration and processor."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from ..data.atomic_io import whole_folder
from ..data.progress_bar import progress_bar
from ..inference.model_folder import check_packages
from ..labels import in_evaluation
from .graphs import Part, parts_of

if TYPE_CHECKING:
    from transformers.exporters.base import ExportedModel

    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor


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
    """The four graphs "vision", "mention", "labels" and "score" of a model; see `graphs.py` for what each takes.

    Posts, tokens of a post, pictures' tokens, labels, their texts and tokens, and types may be of any number; the size
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
        overwrite: replace a folder that is there.

    Raises:
        FileExistsError: the folder is there and not empty.
        OSError: the disk is full.
    """
    folder = os.fspath(folder)
    if not overwrite and os.path.isdir(folder) and os.listdir(folder):
        raise FileExistsError(f"folder: {folder} is not empty; overwrite=True replaces it.")
    exported = export_graphs(model, processor, progress, image_text)
    os.makedirs(os.path.dirname(os.path.abspath(folder)), exist_ok=True)
    # Mention side and label side each have the text encoder.
    needed = 2 * sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with whole_folder(folder, needed, "export again") as partial:
        exported.save_pretrained(partial)
        processor.save_pretrained(partial)


def _export(exporter: Any, part: Part) -> Any:
    """One graph, with the axes named as in `graphs.py`."""
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
