"""An exported folder in onnxruntime, in the place of the model that it was made from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import torch

from ..modeling_mgvmoe import MGVMoEOutput
from ..pipeline_mgvmoe import ZeroShotMultimodalIEPipeline
from .onnx_folder import check_onnx_packages

if TYPE_CHECKING:
    from transformers.exporters.base import ExportedModel

    from ..configuration_mgvmoe import MGVMoEConfig

# The folder of `export_onnx` holds these.
PARTS = ("vision", "mention", "labels", "score")


class OnnxModelForZeroShotIE:
    """Scores candidate labels with onnxruntime; takes what [`ZeroShotMultimodalIEPipeline`] gives a model.

    No weights of torch are loaded. Tensors in and out are torch's, in place, on the device of onnxruntime's session.

    Args:
        exported: of [`export_onnx`], loaded.
        name_or_path: where from, for messages.

    Raises:
        ValueError: it is an export of something else.
    """

    def __init__(self, exported: ExportedModel, name_or_path: str = ""):
        missing = [name for name in PARTS if name not in exported.components]
        if missing or getattr(exported.config, "model_type", None) != "mgvmoe":
            raise ValueError(
                f"model: {name_or_path or 'the export'} must hold the graphs {', '.join(PARTS)} of an mgvmoe model, "
                f"got {', '.join(exported.components)} of {getattr(exported.config, 'model_type', None)!r}"
            )
        self.exported, self.name_or_path = exported, name_or_path
        self.config: MGVMoEConfig = exported.config  # type: ignore[assignment]

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Load an exported folder, or one from the Hub.

        Args:
            name_or_path: folder or Hub name.
            kwargs: for `ExportedModel.from_pretrained`: `device`, `revision`, `token`, `providers`, `session_options`.

        Raises:
            ImportError: the extra `onnx` is not installed.
        """
        check_onnx_packages("onnxruntime", "onnxscript")
        from transformers.exporters.base import ExportedModel

        name = os.fspath(name_or_path)
        return cls(ExportedModel.from_pretrained(name, **kwargs), name)

    @property
    def device(self) -> torch.device:
        """Where onnxruntime computes."""
        return self.exported.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return self.exported.dtype

    @property
    def max_text_length(self) -> int | None:
        """Most tokens of a text, where the export has a limit."""
        return None

    # What transformers' pipelines ask of a model.

    input_modalities = ("image", "text")

    def eval(self) -> Self:
        return self

    def to(self, device: Any) -> Self:
        """Open the sessions on another device."""
        self.exported.to(device)
        return self

    def can_generate(self) -> bool:
        return False

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """See [`MGVMoEModel.get_image_features`]."""
        return self._run("vision", pixel_values=pixel_values)["image_features"]

    def get_candidate_embeds(
        self,
        candidate_input_ids: torch.Tensor,
        candidate_attention_mask: torch.Tensor | None = None,
        candidate_index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See [`MGVMoEModel.get_candidate_embeds`]. The model's own may be used here, and these there."""
        if candidate_attention_mask is None:
            candidate_attention_mask = torch.ones_like(candidate_input_ids)
        if candidate_index is None:
            candidate_index = torch.arange(len(candidate_input_ids), device=candidate_input_ids.device)
        return self._run(
            "labels",
            candidate_input_ids=candidate_input_ids,
            candidate_attention_mask=candidate_attention_mask,
            candidate_index=candidate_index,
        )["candidate_embeds"]

    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        mention_positions: torch.Tensor,
        candidate_embeds: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        mention_mask: torch.Tensor | None = None,
        type_embeds: torch.Tensor | None = None,
        candidate_types: torch.Tensor | None = None,
        num_samples: int | None = None,
        sample_noise: torch.Tensor | None = None,
        image_text_input_ids: torch.Tensor | None = None,
        image_text_attention_mask: torch.Tensor | None = None,
    ) -> MGVMoEOutput:
        """Logits, `mention_embeds` and `candidate_embeds`; the arguments are those of [`MGVMoEForZeroShotIE`].

        Raises:
            ValueError: what only the model itself can do: draws, or types without `score="similarity"`; or the export
                reads no image text.
        """
        if num_samples is not None or sample_noise is not None:
            raise ValueError(
                "num_samples: an ONNX export has no draws from the experts; use the model that it was made from, "
                f"got {num_samples}."
            )
        if candidate_types is not None and self.config.score != "similarity":
            raise ValueError(
                f'candidate_types need a model with score="similarity", got one with {self.config.score!r}.'
            )
        posts = len(input_ids)
        if image_mask is None:
            image_mask = torch.full((posts,), pixel_values is not None or image_features is not None)
        if pixel_values is not None:
            image_features = self._features(pixel_values, image_mask, image_index)
        elif image_features is None:
            # One token that is masked.
            image_features = torch.zeros(posts, 1, self.config.vision_width, dtype=self.dtype)
        elif image_index is not None:
            image_features = image_features[image_index]
        slots = self.config.max_mentions - mention_positions.shape[1]
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "mention_positions": torch.nn.functional.pad(mention_positions, (0, slots), value=-1),
            "image_features": image_features,
            "image_mask": image_mask,
        }
        if mention_mask is not None:
            inputs["mention_mask"] = torch.nn.functional.pad(mention_mask, (0, 0, 0, slots))
        inputs |= self._image_text(posts, image_text_input_ids, image_text_attention_mask)
        embedded = self._run("mention", **inputs)
        scored = {**embedded, "candidate_embeds": candidate_embeds}
        if self.config.score == "similarity":
            if type_embeds is None or candidate_types is None:
                # One type, allowed for all.
                type_embeds = torch.zeros(1, self.config.hidden_size, dtype=self.dtype)
                candidate_types = torch.ones(len(candidate_embeds), 2, 1, dtype=torch.bool)
            scored |= {"type_embeds": type_embeds, "candidate_types": candidate_types}
        logits = self._run("score", **scored)["logits"]
        return MGVMoEOutput(
            logits=logits, mention_embeds=embedded["mention_embeds"], candidate_embeds=candidate_embeds
        )

    @property
    def reads_image_text(self) -> bool:
        """Whether the posts' graph takes words for images."""
        program = getattr(self.exported.components["mention"], "program", None)
        return program is not None and any(value.name == "image_text_input_ids" for value in program.graph.inputs)

    def _image_text(
        self, posts: int, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """The image texts as the posts' graph takes them: where no post has one, a masked token for each."""
        if not self.reads_image_text:
            if input_ids is not None:
                raise ValueError(
                    "image_text: this export reads no words for images; export the model with image_text=True "
                    f"(mgvmoe export --image_text), got image_text_input_ids {tuple(input_ids.shape)}."
                )
            return {}
        if input_ids is None:
            input_ids = torch.zeros(posts, 2, dtype=torch.long)
            attention_mask = torch.zeros_like(input_ids)
        elif attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        assert attention_mask is not None  # for the type checker
        return {"image_text_input_ids": input_ids, "image_text_attention_mask": attention_mask}

    def _features(
        self, pixel_values: torch.Tensor, image_mask: torch.Tensor, image_index: torch.Tensor | None
    ) -> torch.Tensor:
        """(B, Li, H'), of images that a post has, each once; zeros for posts without."""
        rows = torch.arange(len(image_mask)) if image_index is None else image_index
        used, place = rows[image_mask.bool()].unique(return_inverse=True)
        if not len(used):
            return torch.zeros(len(image_mask), 1, self.config.vision_width, dtype=self.dtype)
        features = self.get_image_features(pixel_values[used])
        states = features.new_zeros(len(image_mask), *features.shape[1:])
        states[image_mask.bool()] = features[place]
        return states

    def _run(self, part: str, **inputs: torch.Tensor) -> Mapping[str, torch.Tensor]:
        runner: Any = self.exported.runners[part]
        return runner(**inputs)


def onnx_pipeline(
    name_or_path: str | os.PathLike[str], processor: Any = None, **kwargs: Any
) -> ZeroShotMultimodalIEPipeline:
    """The pipeline over an exported folder: posts in, ranked labels out, without torch's weights.

    Args:
        name_or_path: folder or Hub name of an export.
        processor: default: the one in the folder.
        kwargs: see [`OnnxModelForZeroShotIE.from_pretrained`].
    """
    from ..processing_mgvmoe import MGVMoEProcessor

    model: Any = OnnxModelForZeroShotIE.from_pretrained(name_or_path, **kwargs)
    if processor is None:
        source = {name: kwargs[name] for name in ("revision", "token", "cache_dir") if name in kwargs}
        processor = MGVMoEProcessor.from_pretrained(name_or_path, trust_remote_code=False, **source)
    return ZeroShotMultimodalIEPipeline(model=model, processor=processor)
