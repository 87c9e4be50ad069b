"""ONNX: a trained model as graphs for onnxruntime, mention side and label side apart."""

from .onnx_check import check_onnx
from .onnx_folder import export_onnx
from .onnx_model import OnnxModelForZeroShotIE, onnx_pipeline

__all__ = ["OnnxModelForZeroShotIE", "check_onnx", "export_onnx", "onnx_pipeline"]
