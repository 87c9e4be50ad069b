"""MG-VMoE: zero-shot multimodal information extraction for Hugging Face transformers.

Importing the package registers its classes: `AutoConfig`, `AutoModel`, `AutoProcessor` and `pipeline` know them.
"""

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_mgvmoe import MGVMoEConfig
from .extraction import GraphExtractor
from .labels import Label, Rejection
from .modeling_mgvmoe import MGVMoEForZeroShotIE, MGVMoEModel, MGVMoEModelOutput, MGVMoEOutput, PostEmbeds
from .pipeline_mgvmoe import GRAPH_TASK, TASK, MultimodalGraphExtractionPipeline, ZeroShotMultimodalIEPipeline
from .processing_mgvmoe import MGVMoEProcessor
from .variational_experts import VariationalMixtureOfExperts

__version__ = "0.2.0"

AutoConfig.register("mgvmoe", MGVMoEConfig, exist_ok=True)
AutoModel.register(MGVMoEConfig, MGVMoEForZeroShotIE, exist_ok=True)
AutoProcessor.register(MGVMoEConfig, MGVMoEProcessor, exist_ok=True)
for _task, _pipeline in ((TASK, ZeroShotMultimodalIEPipeline), (GRAPH_TASK, MultimodalGraphExtractionPipeline)):
    PIPELINE_REGISTRY.register_pipeline(_task, pipeline_class=_pipeline, pt_model=AutoModel, type="multimodal")

__all__ = [
    "GraphExtractor",
    "Label",
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
