"""What must be installed for an export to be made or run."""

from __future__ import annotations

from importlib.util import find_spec

from ..evaluation.loading import check_packages


def check_onnx_packages(*names: str) -> None:
    """Raise ImportError unless packages of the extra `onnx` are installed, and a transformers that can export."""
    check_packages("onnx", *names)
    # Since 5.23.
    if find_spec("transformers.exporters") is None or find_spec("transformers.exporters.runners") is None:
        import transformers

        raise ImportError(f"transformers 5.23 or newer is needed for ONNX, got {transformers.__version__}.")
