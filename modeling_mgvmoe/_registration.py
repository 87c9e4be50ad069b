"""Makes the Auto classes and `pipeline` know this package, at no cost before they are used.

Importing the Auto classes and our model takes seconds, importing a package should not. So each registration waits
until the module of transformers whose table it extends is imported.
"""

import importlib.abc
import importlib.util
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_config() -> None:
    """`AutoConfig` knows model_type "mgvmoe"."""
    from transformers.models.auto.configuration_auto import AutoConfig

    from .configuration_mgvmoe import MGVMoEConfig

    AutoConfig.register("mgvmoe", MGVMoEConfig, exist_ok=True)


def register_model() -> None:
    """`AutoModel` gives [`MGVMoEForZeroShotIE`]."""
    from transformers.models.auto.modeling_auto import AutoModel

    from .configuration_mgvmoe import MGVMoEConfig
    from .modeling_mgvmoe import MGVMoEForZeroShotIE

    register_config()
    AutoModel.register(MGVMoEConfig, MGVMoEForZeroShotIE, exist_ok=True)


def register_processor() -> None:
    """`AutoProcessor` gives [`MGVMoEProcessor`]."""
    from transformers.models.auto.processing_auto import AutoProcessor

    from .configuration_mgvmoe import MGVMoEConfig
    from .processing_mgvmoe import MGVMoEProcessor

    register_config()
    AutoProcessor.register(MGVMoEConfig, MGVMoEProcessor, exist_ok=True)


def register_pipeline() -> None:
    """`pipeline("zero-shot-multimodal-ie")` and `pipeline("multimodal-graph-extraction")` give our classes."""
    from transformers.models.auto.modeling_auto import AutoModel
    from transformers.pipelines import PIPELINE_REGISTRY

    from .graph_pipeline_mgvmoe import GRAPH_TASK, MultimodalGraphExtractionPipeline
    from .pipeline_mgvmoe import TASK, ZeroShotMultimodalIEPipeline

    for task, pipeline_class in (
        (TASK, ZeroShotMultimodalIEPipeline),
        (GRAPH_TASK, MultimodalGraphExtractionPipeline),
    ):
        if task not in PIPELINE_REGISTRY.supported_tasks:
            PIPELINE_REGISTRY.register_pipeline(
                task, pipeline_class=pipeline_class, pt_model=AutoModel, type="multimodal"
            )


# Module of transformers that holds the table -> what extends the table.
REGISTRATIONS: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": register_config,
    "transformers.models.auto.modeling_auto": register_model,
    "transformers.models.auto.processing_auto": register_processor,
    "transformers.pipelines": register_pipeline,
}


class _AfterImport(importlib.abc.MetaPathFinder):
    """Runs each registration once its table is there and no import of transformers or of this package is under way.

    Waiting for the outermost import matters: inside of one, modules that we need may be half-made.
    """

    def __init__(self, registrations: dict[str, Callable[[], None]]) -> None:
        self.waiting = dict(registrations)
        self.local = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        state = self.local.__dict__
        finding = state.setdefault("finding", set())
        watched = fullname.partition(".")[0] in ("transformers", __package__)
        if not self.waiting or not watched or fullname in finding:
            return None
        finding.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            finding.discard(fullname)
        if spec is None or spec.loader is None:
            return None
        run_module = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            state["depth"] = state.get("depth", 0) + 1
            try:
                run_module(module)
            finally:
                state["depth"] -= 1
            if state["depth"] == 0:
                self.run_ready()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def run_ready(self) -> None:
        for name in [name for name in self.waiting if name in sys.modules]:
            action = self.waiting.pop(name, None)
            if action is not None:
                action()


def register_when_imported() -> None:
    """Register now in what transformers has imported already, and later in the rest."""
    finder = _AfterImport(REGISTRATIONS)
    sys.meta_path.insert(0, finder)
    finder.run_ready()
