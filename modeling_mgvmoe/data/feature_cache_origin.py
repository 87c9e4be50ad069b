"""What the features of a cache were made by, tower and preprocessing, and where that differs from what is at hand."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from .feature_cache_files import json_bytes
from .fingerprint import module_fingerprint

if TYPE_CHECKING:
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor


def tower_fingerprint(model: MGVMoEForZeroShotIE) -> str:
    """SHA-256, in hex, of the vision tower's configuration and of all its weights and buffers."""
    # Neither a dict nor `None` in a model, nor a tensor.
    vision_model: Any = model.mgvmoe.vision_model
    vision_config: Any = model.config.vision_config
    return module_fingerprint(vision_model, vision_config.to_dict())


def preprocessing_fingerprint(processor: MGVMoEProcessor) -> dict[str, Any]:
    """The image processor's configuration and class; two classes of one configuration differ in how they resize."""
    image_processor = processor.image_processor
    if image_processor is None:
        raise ValueError("image_processor: this processor has none, so there are no picture features to cache")
    config = json.loads(image_processor.to_json_string())
    # Saving adds the names of classes that load the whole; they say nothing about pictures.
    kept = {name: value for name, value in config.items() if name not in ("auto_map", "processor_class")}
    return {**kept, "class": type(image_processor).__name__}


def check_frozen(model: MGVMoEForZeroShotIE) -> None:
    """ValueError if the tower is trained, or adapters in it are."""
    if not model.config.freeze_vision:
        raise ValueError(
            "freeze_vision must be true with image_feature_cache, for the features of a trained tower change "
            f"(got {model.config.freeze_vision})"
        )
    trained = [name for name, value in model.mgvmoe.vision_model.named_parameters() if value.requires_grad]
    if trained:
        raise ValueError(
            "image_feature_cache: the vision encoder must have no trained parameters, for its features change with "
            f"them (got {len(trained)}, the first {trained[0]!r})"
        )


def difference(name: str, known: Any, value: Any) -> str:
    """Says where two values of a field differ, without printing a whole cache."""
    if isinstance(known, dict) and isinstance(value, dict):
        inner = next(key for key in sorted({*known, *value}) if known.get(key) != value.get(key))
        return difference(f"{name}.{inner}", known.get(inner), value.get(inner))
    if isinstance(known, list) and isinstance(value, list):
        place = next((i for i, (a, b) in enumerate(zip(known, value, strict=False)) if a != b), None)
        known, value = (
            f"{len(items)} of them"
            + (f", number {place} being {items[place]}" if place is not None else f", sha256 {_short(items)}")
            for items in (known, value)
        )
        return f"{name}: the cache has {known}; got {value}"
    return f"{name}: the cache has {known!r}, got {value!r}"


def _short(value: Any) -> str:
    return hashlib.sha256(json_bytes(value)).hexdigest()[:12]
