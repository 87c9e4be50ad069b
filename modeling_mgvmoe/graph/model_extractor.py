"""A model, its processor and labels as what the extraction in bulk calls; and what tells them from others."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.fingerprint import module_fingerprint
from ..data.precision import MIXED_PRECISIONS, choose_precision
from ..data.schema import check_choice
from ..extraction import GraphExtractor
from .label_file import CandidateLabels

if TYPE_CHECKING:
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor

PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# What a saved processor says about how it was loaded, and not about what it does.
LOADING = ("auto_map", "transformers_version", "is_local", "local_files_only", "name_or_path")
# Any model should be able to make something of it.
TRIAL = {"id": "trial", "text": "this and that", "mentions": [(0, 4), (9, 13)]}


@dataclass(frozen=True)
class ExtractionOptions:
    """How a model extracts, beside its labels.

    Attributes:
        texts_at_once: marked texts in one forward pass.
        top_k: labels in each ranking; default all.
        threshold: least that the answered label needs, for all, or by task ("typing", "relation").
        reject_by: what the threshold is about, of `labels.REJECT_BY`.
        max_length: of a tokenized text.
        mixed_precision: "no", "bf16", "fp16", or "auto": bf16 where the hardware has it. A run resumes only in the
            precision in which it began.
    """

    texts_at_once: int = 32
    top_k: int | None = None
    threshold: float | Mapping[str, float] | None = None
    reject_by: str = "probability"
    max_length: int | None = None
    mixed_precision: str = "no"

    def __post_init__(self) -> None:
        check_choice("mixed_precision", self.mixed_precision, MIXED_PRECISIONS)

    def identity(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: value if not isinstance(value, Mapping) else dict(value) for name, value in vars(self).items()}


class ModelExtractor:
    """Posts to what a model finds in them.

    Args:
        model: on its device.
        processor: of the model.
        labels: candidates.
        options: how.
        mention_finder: a token-classification pipeline for posts without mentions.

    Attributes:
        identity: of all this, as JSON values: digests of weights, processor and finder, labels, options.

    Raises:
        ValueError: they do not fit each other.
    """

    def __init__(
        self,
        model: MGVMoEForZeroShotIE,
        processor: MGVMoEProcessor,
        labels: CandidateLabels,
        options: ExtractionOptions,
        mention_finder: Any = None,
    ) -> None:
        options = replace(options, mixed_precision=choose_precision(options.mixed_precision, model.device))
        self.model, self.processor, self.dtype = model, processor, PRECISIONS[options.mixed_precision]
        with self._precision():
            self.extractor = GraphExtractor(
                model,
                processor,
                list(labels.typing) or None,
                list(labels.relation) or None,
                mention_finder=mention_finder,
                threshold=options.threshold,
                reject_by=options.reject_by,
                top_k=options.top_k,
                batch_size=options.texts_at_once,
                max_length=options.max_length,
                errors="return",
                **labels.options,
            )
        self.identity: dict[str, Any] = {
            "model": module_fingerprint(model, model.config.to_dict()),
            "processor": processor_fingerprint(processor),
            "mention_finder": None if mention_finder is None else finder_fingerprint(mention_finder),
            "labels": labels.identity(),
            "options": options.identity(),
        }
        (answer,) = self([TRIAL])
        if "error" in answer:
            raise ValueError(f"model: it cannot extract from so simple a text as {TRIAL['text']!r}: {answer['error']}")

    def __call__(self, posts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """For each post its mentions and relations, or `error`."""
        with self._precision():
            return self.extractor(posts)

    def picture_features(self, pictures: Sequence[Any]) -> np.ndarray:
        """(n, H'), the mean of the vision encoder's tokens, which no trained part has touched."""
        pixels = [torch.from_numpy(one) for one in self.processor.encode_images(list(pictures))]
        found = []
        with torch.inference_mode(), self._precision():
            for start in range(0, len(pixels), self.extractor.batch_size):
                batch = torch.stack(pixels[start : start + self.extractor.batch_size]).to(self.model.device)
                found.append(self.model.get_image_features(batch).float().mean(1).cpu().numpy())
        return np.concatenate(found)

    @property
    def feature_size(self) -> int:
        """H'."""
        return int(self.model.config.vision_width)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.model.device.type, dtype=self.dtype)


def load_mention_finder(name: str, device: torch.device | str | int) -> Callable[..., Any]:
    """A token-classification pipeline of transformers, from a folder or the Hub."""
    from transformers import pipeline

    return pipeline("token-classification", model=name, aggregation_strategy="simple", device=device)


def finder_fingerprint(finder: Any) -> str:
    """SHA-256, in hex, of the weights and the configuration of a pipeline's model; of a function its name."""
    model = getattr(finder, "model", None)
    if model is None:
        return getattr(finder, "__qualname__", type(finder).__qualname__)
    return module_fingerprint(model, model.config.to_dict())


def processor_fingerprint(processor: MGVMoEProcessor) -> str:
    """SHA-256, in hex, of all files but the code that a processor saves."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        for name in sorted(os.listdir(folder)):
            if name.endswith(".py"):
                continue
            with open(os.path.join(folder, name), "rb") as file:
                content = file.read()
            if name.endswith(".json"):
                values = json.loads(content)
                for key in LOADING:
                    values.pop(key, None)
                content = json.dumps(values, sort_keys=True).encode()
            digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()
