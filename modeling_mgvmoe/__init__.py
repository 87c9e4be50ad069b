"""MG-VMoE: zero-shot multimodal information extraction for Hugging Face transformers.

Importing this package is cheap: every name is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING

from ._registration import register_when_imported

if TYPE_CHECKING:
    from .configuration_mgvmoe import MGVMoEConfig
    from .extraction import GraphExtractor
    from .graph_pipeline_mgvmoe import MultimodalGraphExtractionPipeline
    from .modeling_mgvmoe import MGVMoEForZeroShotIE, MGVMoEModel
    from .outputs_mgvmoe import MGVMoEModelOutput, MGVMoEOutput
    from .pipeline_mgvmoe import ZeroShotMultimodalIEPipeline
    from .post_scoring import PostEmbeds
    from .processing_mgvmoe import MGVMoEProcessor
    from .rejection import Rejection
    from .variational_experts import VariationalMixtureOfExperts

__version__ = "0.1.0"

_HOME = {
    "GraphExtractor": "extraction",
    "MGVMoEConfig": "configuration_mgvmoe",
    "MGVMoEForZeroShotIE": "modeling_mgvmoe",
    "MGVMoEModel": "modeling_mgvmoe",
    "MGVMoEModelOutput": "outputs_mgvmoe",
    "MGVMoEOutput": "outputs_mgvmoe",
    "MGVMoEProcessor": "processing_mgvmoe",
    "MultimodalGraphExtractionPipeline": "graph_pipeline_mgvmoe",
    "PostEmbeds": "post_scoring",
    "Rejection": "rejection",
    "VariationalMixtureOfExperts": "variational_experts",
    "ZeroShotMultimodalIEPipeline": "pipeline_mgvmoe",
}

__all__ = [
    "GraphExtractor",
    "MGVMoEConfig",
    "MGVMoEForZeroShotIE",
    "MGVMoEModel",
    "MGVMoEModelOutput",
    "MGVMoEOutput",
    "MGVMoEProcessor",
    "MultimodalGraphExtractionPipeline",
    "PostEmbeds",
    "Rejection",
    "VariationalMixtureOfExperts",
    "ZeroShotMultimodalIEPipeline",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


register_when_imported()
