"""How the model gets its weights: initial ones, those of a checkpoint, those of two pretrained encoders."""

import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .backbones import pretrained_backbone
from .configuration_mgvmoe import MGVMoEConfig
from .fusion import AdditiveFusionScore
from .saved_folder import check_weights, other_shapes, reading
from .similarity_score import SimilarityScore


class MGVMoEPreTrainedModel(PreTrainedModel):
    """What the base model and the model with scores share: loading, initial weights, attention back ends."""

    config: MGVMoEConfig
    base_model_prefix = "mgvmoe"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SimilarityScore):
            init.zeros_(module.gate)
        if isinstance(module, AdditiveFusionScore):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)

    def _freeze_tower(self) -> None:
        """Take the gradient off every parameter of the vision encoder, if the configuration says `freeze_vision`.

        Done at construction and after loading, not in `train()`: parameters that are added later, such as adapters,
        keep theirs.
        """
        base = getattr(self, self.base_model_prefix, self)
        if self.config.freeze_vision:
            base.vision_model.requires_grad_(False)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch has it, and also of the names that `save_pretrained` writes.

        Some backbones (ViT) have other names on the disk than in memory. `Trainer` reads its checkpoints by this
        method, and would leave the weights of other names as they are, with no more than a warning.
        """
        known = set(self.state_dict())
        if not known.issuperset(state_dict):
            loaded: Any = type(self).from_pretrained(
                None, config=self.config, state_dict=dict(state_dict), dtype=self.dtype, output_loading_info=True
            )
            model, report = loaded
            there = model.state_dict()
            renamed = {name: there[name] for name in there if name not in report["missing_keys"]}
            # Those that nothing answers to, for torch to name.
            state_dict = renamed | {name: state_dict[name] for name in report["unexpected_keys"] if name in state_dict}
        return super().load_state_dict(state_dict, strict, assign)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers has it, but of safetensors only: no pickle is read.

        Raises:
            OSError: a file is missing or damaged.
            ValueError: `use_safetensors` is false, or weights and configuration do not go together.
        """
        source, asked = pretrained_model_name_or_path, kwargs.get("use_safetensors")
        if asked is False:
            raise ValueError("use_safetensors must not be False: pickles are not read, got False")
        kwargs["use_safetensors"] = True
        with reading(source, "model"):
            check_weights(source, kwargs.get("config"))
            with_report = kwargs.pop("output_loading_info", False)
            try:
                loaded: Any = super().from_pretrained(source, *args, output_loading_info=True, **kwargs)
            except RuntimeError as error:
                if "ignore_mismatched_sizes" not in str(error):
                    raise
                raise ValueError(cls._what_differs(source, kwargs.get("config"))) from error
            model, report = loaded
            # Who asks for the report sees it.
            nothing_loaded = source is not None and len(report["missing_keys"]) == len(model.state_dict())
            if nothing_loaded and not with_report:
                raise ValueError(f"model: {str(source)!r} must hold weights of {cls.__name__}, no tensor of it is one")
            model._freeze_tower()  # loading made new parameters, which require a gradient
            return loaded if with_report else model

    @classmethod
    def _what_differs(cls, source: Any, config: Any) -> str:
        """Says which weights of a folder have other shapes than its configuration asks for."""
        config_class: type[Any] = cls.config_class  # type: ignore[assignment]
        with torch.device("meta"):
            model = cls(config if config is not None else config_class.from_pretrained(source))
        found = other_shapes(source, model) or "transformers' report lists the tensors"
        return f"model: the weights of {str(source)!r} must have the shapes that its config.json asks for: {found}"

    @classmethod
    def from_text_vision_pretrained(
        cls,
        text_id: str,
        vision_id: str,
        text_kwargs: dict[str, Any] | None = None,
        vision_kwargs: dict[str, Any] | None = None,
        **config_kwargs: Any,
    ) -> Self:
        """Compose two pretrained encoders; everything between them starts from random weights.

        A warning says so where the scores are random, too, until the model is trained: with `score="projection"`.

        Args:
            text_id: Hub name or folder of a text encoder.
            vision_id: Hub name or folder of a vision encoder, or of a text-image model, whose vision part is taken.
            text_kwargs, vision_kwargs: for the two calls of `AutoModel.from_pretrained` (`revision`, `token`, ...).
            config_kwargs: fields of [`MGVMoEConfig`].

        Raises:
            TypeError: a keyword is not a field of the configuration.
            ValueError: an encoder is of the other kind, or draws at random in evaluation.
        """
        config_class: type[Any] = cls.config_class  # type: ignore[assignment]  # None only in the abstract base
        known = {field.name for field in fields(config_class)}
        unknown = sorted(set(config_kwargs) - known)
        if unknown:
            raise TypeError(f"from_text_vision_pretrained got {unknown}, which MGVMoEConfig does not have.")
        text_model = pretrained_backbone(text_id, False, **(text_kwargs or {}))
        vision_model = pretrained_backbone(vision_id, True, **(vision_kwargs or {}))
        config = config_class(text_config=text_model.config, vision_config=vision_model.config, **config_kwargs)
        model = cls(config, text_model=text_model, vision_model=vision_model)
        if config.score == "projection" and hasattr(model, "candidate_projection"):
            warnings.warn(
                'from_text_vision_pretrained: with score="projection" all scores are random until the model is '
                'trained; score="similarity" begins with what the text encoder knows.',
                stacklevel=2,
            )
        return model


__all__ = ["MGVMoEPreTrainedModel"]
