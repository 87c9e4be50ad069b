"""ONNX: a trained model as graphs for onnxruntime, mention side and label side apart.

Importing this package is cheap: every name is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .onnx_check import check_onnx
    from .onnx_folder import export_onnx
    from .onnx_model import OnnxModelForZeroShotIE, onnx_pipeline

_HOME = {
    "OnnxModelForZeroShotIE": "onnx_model",
    "check_onnx": "onnx_check",
    "export_onnx": "onnx_folder",
    "onnx_pipeline": "onnx_model",
}

__all__ = ["OnnxModelForZeroShotIE", "check_onnx", "export_onnx", "onnx_pipeline"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
