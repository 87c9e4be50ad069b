r"""MG-VMoE: two backbones, a variational mixture of experts over both, fusion and scores (E7, E8).

Axes: B = posts, Lt = text tokens, Li = picture tokens, H = hidden size, H' = width of the vision encoder, K = experts,
C = candidate labels, D = projection size, S = marked mentions of a post (1 for typing, 2 for a relation).
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .canonical_order import canonical_order
from .configuration_mgvmoe import MGVMoEConfig
from .fusion import AdditiveFusionScore, experts_of_means, fuse, fuse_means, fused_variance
from .input_checks import (
    check_image_index,
    check_index,
    check_mention_positions,
    check_pixels,
    check_tokens,
    check_types,
    refuse_unknown,
)
from .outputs_mgvmoe import MGVMoEModelOutput, MGVMoEOutput
from .post_scoring import PostScoring
from .saved_folder import check_weights, other_shapes, reading
from .similarity_score import SimilarityScore, label_mean, masked_token_mean, one_of_each
from .training_objectives import TrainingObjectives
from .uncertainty import predictive_statistics
from .variational_experts import NoExperts, VariationalMixtureOfExperts, VariationalMixtureOutput

if TYPE_CHECKING:
    # Never run. `save_pretrained` copies the files named here, so a saved model brings processor and pipelines, and
    # what an Inference Endpoint runs.
    from .graph_pipeline_mgvmoe import MultimodalGraphExtractionPipeline  # noqa: F401
    from .handler import EndpointHandler  # noqa: F401
    from .pipeline_mgvmoe import ZeroShotMultimodalIEPipeline  # noqa: F401
    from .processing_mgvmoe import MGVMoEProcessor  # noqa: F401


def token_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of (B, L, H) states over the tokens that `mask` (B, L) marks; zeros for rows without one. To (B, H)."""
    return masked_token_mean(states, mask[:, None]).squeeze(1)


def _all_true(mask: torch.Tensor) -> bool:
    """Whether nothing is masked, where asking costs no wait for a device and no branch of a compiled graph."""
    return mask.device.type == "cpu" and not torch.compiler.is_compiling() and bool(mask.all())


def _without_unused(config: Any) -> dict[str, bool]:
    """Leaves pooler, pooling head and mask token out: they would never get a gradient, which stops DDP.

    Returns:
        Keyword for the backbone's constructor; what the backbone's configuration rules is set there.
    """
    # SigLIP, which has its head too where an older configuration does not say so, and DINOv2.
    for name, default in (("vision_use_head", config.model_type == "siglip_vision_model"), ("use_mask_token", False)):
        if getattr(config, name, default):
            setattr(config, name, False)
    model_class: Any = AutoModel._model_mapping.get(type(config), None)
    accepted = model_class is not None and "add_pooling_layer" in inspect.signature(model_class).parameters
    return {"add_pooling_layer": False} if accepted else {}


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
        if isinstance(module, MGVMoEForZeroShotIE) and module.perturbation is not None:
            # At 0 neither the KL nor the norm has a direction, so the adversary would never move.
            init.normal_(module.perturbation, std=self.config.initializer_range)
        if isinstance(module, MGVMoEForZeroShotIE) and self.config.graph_memory:
            init.zeros_(module.graph_memory)
            init.zeros_(module.graph_seen)
        if isinstance(module, SimilarityScore):
            init.zeros_(module.gate)

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

        Args:
            text_id: Hub name or folder of a text encoder.
            vision_id: Hub name or folder of a vision encoder, or of a text-image model, whose vision part is taken.
            text_kwargs, vision_kwargs: for the two calls of `AutoModel.from_pretrained` (`revision`, `token`, ...).
            config_kwargs: fields of [`MGVMoEConfig`].

        Raises:
            TypeError: a keyword is not a field of the configuration.
        """
        config_class: type[Any] = cls.config_class  # type: ignore[assignment]  # None only in the abstract base
        known = {field.name for field in fields(config_class)}
        unknown = sorted(set(config_kwargs) - known)
        if unknown:
            raise TypeError(f"from_text_vision_pretrained got {unknown}, which MGVMoEConfig does not have.")
        backbones = {}
        for name, source, kwargs in (("text", text_id, text_kwargs), ("vision", vision_id, vision_kwargs)):
            kwargs = dict(kwargs or {})
            config = kwargs.pop("config", None) or AutoConfig.from_pretrained(source, **kwargs)
            if name == "vision" and not hasattr(config, "hidden_size") and hasattr(config, "vision_config"):
                config = config.vision_config
            # One dtype for the whole model: checkpoints of different dtypes would give a mixture.
            kwargs.setdefault("dtype", torch.get_default_dtype())
            backbones[f"{name}_model"] = AutoModel.from_pretrained(
                source, config=config, **_without_unused(config), **kwargs
            )
        config = config_class(
            text_config=backbones["text_model"].config,
            vision_config=backbones["vision_model"].config,
            **config_kwargs,
        )
        return cls(config, **backbones)


class MGVMoEModel(MGVMoEPreTrainedModel):
    """Backbones, shared experts and fusion: posts in, one fused vector per post out.

    Args:
        config: the configuration.
        text_model, vision_model: backbones that are already there; default: random ones by the configuration.
    """

    def __init__(
        self,
        config: MGVMoEConfig,
        text_model: PreTrainedModel | None = None,
        vision_model: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        hidden_size, mention_size = config.hidden_size, (config.max_mentions + 1) * config.hidden_size
        self.text_model = text_model or self._random_backbone(config.text_config)
        self.vision_model = vision_model or self._random_backbone(config.vision_config)
        # One configuration object each, so that `resize_token_embeddings` and the attention back end stay in step.
        self.text_model.config, self.vision_model.config = config.text_config, config.vision_config  # type: ignore[assignment]
        if config.freeze_vision:
            self.vision_model.requires_grad_(False)
        self.vision_projection = (
            nn.Identity() if config.vision_width == hidden_size else nn.Linear(config.vision_width, hidden_size)
        )
        self.experts = (
            VariationalMixtureOfExperts(hidden_size, config.num_experts, config.deterministic_experts)
            if config.num_experts
            else NoExperts()
        )
        if config.fusion == "additive":
            self.fusion_score = AdditiveFusionScore(mention_size + hidden_size, 1)
        else:
            self.fusion_query = nn.Linear(mention_size, hidden_size)
        self.post_init()

    @staticmethod
    def _random_backbone(config: Any) -> PreTrainedModel:
        # The dtype is named, because sub-configurations from the Hub bring their own and would give a mixture.
        try:
            return AutoModel.from_config(config, dtype=torch.get_default_dtype(), **_without_unused(config))
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ZeroDivisionError) as error:
            reason = f"{type(error).__name__}: {str(error)[:300]}"
            kind = config.model_type
            raise ValueError(f"config: no encoder of type {kind!r} can be built of it: {reason}") from error

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.config.freeze_vision:
            # The reference leaves dropout on inside its frozen tower; without it, features can be cached. Loading
            # makes new parameters, which want a gradient again, and ends with `eval()`.
            self.vision_model.eval().requires_grad_(False)
        return self

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The vision encoder's own tokens, before any trained part: what may be cached as `image_features`.

        Args:
            pixel_values: (B, 3, height, width).

        Returns:
            (B, Li, H').
        """
        return self._encode_images(pixel_values)[0]

    def _encode_images(self, pixel_values: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, ModelOutput]:
        check_pixels(pixel_values)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_vision):
            output = self.vision_model(pixel_values=pixel_values.to(self.vision_model.dtype), **kwargs)
        states = output.last_hidden_state
        if states.ndim == 4:
            states = states.flatten(2).transpose(1, 2)
        return states, output

    def get_candidate_embeds(
        self,
        candidate_input_ids: torch.Tensor,
        candidate_attention_mask: torch.Tensor | None = None,
        candidate_index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """E8: l_c, the mean over the real tokens of the text encoder's states for the words of each label.

        Args:
            candidate_input_ids: (C, Lc), or (P, Lc) where labels have several texts.
            candidate_attention_mask: (C, Lc) or (P, Lc).
            candidate_index: (P,), to which label from 0 to C - 1 each text belongs.

        Returns:
            (C, H), the mean over a label's texts; with `score="similarity"` of their directions, of length 1.
        """
        if candidate_attention_mask is None:
            candidate_attention_mask = torch.ones_like(candidate_input_ids)
        self._check_tokens(candidate_input_ids, candidate_attention_mask, "candidate_")
        if candidate_index is not None:
            check_index(candidate_index, candidate_input_ids.shape[0])
        if candidate_index is not None and self.training and self.config.sample_candidate_texts:
            drawn = one_of_each(candidate_index)
            candidate_input_ids, candidate_attention_mask = candidate_input_ids[drawn], candidate_attention_mask[drawn]
            candidate_index = None
        if torch.compiler.is_exporting():
            # Ordering goes through the tokens one by one, and an exported graph takes labels of any length.
            return self._embed_texts(candidate_input_ids, candidate_attention_mask, candidate_index)
        order = canonical_order(candidate_input_ids.masked_fill(~candidate_attention_mask.bool(), -1))
        index = None if candidate_index is None else candidate_index[order]
        embeds = self._embed_texts(candidate_input_ids[order], candidate_attention_mask[order], index)
        return embeds[order.argsort()] if index is None else embeds

    def _embed_texts(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, index: torch.Tensor | None
    ) -> torch.Tensor:
        """`get_candidate_embeds` in the order of the rows."""
        states = self.text_model(input_ids, attention_mask=attention_mask).last_hidden_state
        return label_mean(token_mean(states, attention_mask), index, directions=self.config.score == "similarity")

    @property
    def max_text_length(self) -> int | None:
        """Most tokens that the text encoder has position embeddings for; `None` where it has no such table."""
        table = getattr(getattr(self.text_model, "embeddings", None), "position_embeddings", None)
        if not isinstance(table, nn.Embedding):
            return None
        # RoBERTa counts positions from the padding id on.
        return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)

    def _check_tokens(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, name: str) -> None:
        check_tokens(input_ids, attention_mask, name, self.max_text_length, self.config.text_config.vocab_size)

    def _mention_states(
        self, text_states: torch.Tensor, text_mask: torch.Tensor, mention_positions: torch.Tensor
    ) -> torch.Tensor:
        """q of E7, (B, (max_mentions + 1) H), zeros where a position is -1."""
        size, slots = text_states.shape, self.config.max_mentions
        check_mention_positions(mention_positions, text_mask, slots)
        index = mention_positions.clamp(min=0)[..., None].expand(-1, -1, size[2])
        markers = text_states.gather(1, index) * (mention_positions >= 0)[..., None]
        markers = nn.functional.pad(markers, (0, 0, 0, slots - markers.shape[1]))
        return torch.cat([text_states[:, :1], markers], dim=1).flatten(1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        mention_positions: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        text_noise: torch.Tensor | None = None,
        image_noise: torch.Tensor | None = None,
        return_losses: bool = False,
        return_variance: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        **kwargs: Any,
    ) -> MGVMoEModelOutput:
        """Encode posts.

        Args:
            input_ids: (B, Lt), with markers around the mentions.
            attention_mask: (B, Lt); default: no padding.
            mention_positions: (B, S), positions of the opening markers; -1 for an absent second mention.
            pixel_values: (B, 3, height, width), or
            image_features: (B, Li, H'), the output of [`get_image_features`].
            image_mask: (B,), true for posts that have a picture; default: all, if there are pictures at all.
            image_index: (B,), for each post the row of `pixel_values` or `image_features` that is its picture, where
                posts share pictures: these then have one row for each picture, in place of one for each post.
            text_noise: (B, Lt, H), image_noise: (B, Li, H): take the place of the experts' noise (E3).
            return_losses: compute E4 and E5.
            return_variance: compute the variance of f; at inference only.
            output_attentions, output_hidden_states: of the backbones; the latter may list the states to keep.

        Raises:
            ValueError: an argument is missing or a shape does not fit.
        """
        refuse_unknown(kwargs)
        if input_ids is None or mention_positions is None:
            raise ValueError("input_ids and mention_positions must be given.")
        if pixel_values is not None and image_features is not None:
            raise ValueError("pixel_values and image_features exclude each other, got both.")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        self._check_tokens(input_ids, attention_mask, "")
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        # Only if asked for: not every backbone takes both arguments (MobileNetV2 has no attention).
        extras: dict[str, Any] = {"output_attentions": True} if output_attentions else {}
        if output_hidden_states:
            extras["output_hidden_states"] = output_hidden_states

        text_output = self.text_model(input_ids, attention_mask=attention_mask, **extras)
        text_states = text_output.last_hidden_state
        text_mask = attention_mask.bool()
        mention_states = self._mention_states(text_states, text_mask, mention_positions)
        pictures, image_mask, vision_output = self._picture_states(
            text_states, pixel_values, image_features, image_mask, image_index, extras
        )
        image_states = pictures if pictures is None or image_index is None else pictures[image_index]
        modalities = [(text_states, text_mask)]
        if image_states is not None:
            modalities.insert(0, (image_states, image_mask[:, None].expand(image_states.shape[:2])))
        layer = self.fusion_score if self.config.fusion == "additive" else self.fusion_query
        sampled = self.training or text_noise is not None or image_noise is not None
        if return_variance and (sampled or not isinstance(self.experts, VariationalMixtureOfExperts)):
            raise ValueError(
                "return_variance, num_samples: they need experts, evaluation mode and no text_noise or image_noise."
            )
        plain = None if sampled else experts_of_means(layer, self.experts)
        masks = [mask for _, mask in modalities]
        mixtures = []
        if return_losses or plain is None:
            noises = [image_noise, text_noise][-len(modalities) :]
            # The text draws its noise first.
            mixtures = [
                self.experts(*tokens, noise, return_losses)
                for tokens, noise in zip(modalities[::-1], noises[::-1], strict=True)
            ][::-1]
        if plain is not None:
            # With and without losses, so that these change no score.
            fused, weights, means, probs = fuse_means(layer, plain, mention_states, modalities)
        else:
            states = torch.cat([mixture.hidden_states for mixture in mixtures], dim=1)
            fused, weights = fuse(layer, mention_states, states, torch.cat(masks, dim=1))
            means = [token_mean(mixture.hidden_states, mask) for mixture, mask in zip(mixtures, masks, strict=True)]
            probs = [mixture.router_probs for mixture in mixtures]
        losses = self._losses(mixtures, masks) if return_losses else {}
        variance = None
        if return_variance:
            assert isinstance(self.experts, VariationalMixtureOfExperts)  # checked above
            shares = weights.split([mask.shape[1] for mask in masks], dim=1)
            variance = fused_variance(
                self.experts,
                [(text_states, shares[-1], None), *([] if pictures is None else [(pictures, shares[0], image_index)])],
            )
        return MGVMoEModelOutput(
            fused_embeds=fused,
            fused_variance=variance,
            text_states=text_states,
            mention_states=mention_states,
            text_embeds=means[-1],
            image_embeds=None if image_states is None else means[0],
            image_mask=image_mask,
            fusion_attentions=weights,
            text_router_probs=probs[-1],
            image_router_probs=None if image_states is None else probs[0],
            **losses,
            hidden_states=text_output.get("hidden_states"),
            attentions=text_output.get("attentions"),
            vision_hidden_states=vision_output.get("hidden_states") if vision_output else None,
            vision_attentions=vision_output.get("attentions") if vision_output else None,
        )

    def _losses(
        self, mixtures: Sequence[VariationalMixtureOutput], masks: Sequence[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """E4 and E5, means over the modalities, and the sums behind them; text is last."""
        *image, text = mixtures
        assert text.kl_loss is not None and text.router_entropy is not None, "they were asked for"
        if not image and self.training:
            text.kl_loss = text.kl_loss + self._zero_of_the_vision_side()
        # Pictures that are all masked are no modality: their terms are 0 and must not halve those of the text.
        number = 1 + masks[0].any() if image else 1
        return {
            "kl_loss": torch.stack([cast(torch.Tensor, mixture.kl_loss) for mixture in mixtures]).sum() / number,
            "router_entropy_loss": (
                torch.stack([cast(torch.Tensor, mixture.router_entropy) for mixture in mixtures]).sum() / number
            ),
            "expert_loss_sums": torch.stack(
                [
                    self._loss_sums(text, masks[-1]),
                    self._loss_sums(image[0], masks[0]) if image else self._loss_sums(None, masks[0][:0]),
                ]
            ),
        }

    @staticmethod
    def _loss_sums(mixture: VariationalMixtureOutput | None, mask: torch.Tensor) -> torch.Tensor:
        """One row of `expert_loss_sums`, in no less than single precision: it holds a count."""
        number = mask.sum().float()
        if mixture is None:
            return torch.stack([torch.zeros_like(number)] * 2 + [number])
        assert mixture.kl_loss is not None and mixture.router_entropy is not None, "they were asked for"
        return torch.stack([mixture.kl_loss * number, mixture.router_entropy * number, number])

    def _zero_of_the_vision_side(self) -> torch.Tensor | float:
        """0, with a gradient of 0 for every trained parameter that a batch without any picture does not use.

        DDP waits in vain for parameters without a gradient, and of several processes one may have no picture. Its own
        remedy, `find_unused_parameters`, searches the graph in every step. And thus a batch without pictures means the
        same to the optimizer whether its pictures are left out or masked, in one process or in several.
        """
        vision = (*self.vision_model.parameters(), *self.vision_projection.parameters())
        # One number of each is enough, and cannot overflow.
        return sum((parameter.flatten()[0] * 0.0 for parameter in vision if parameter.requires_grad), start=0.0)

    def _picture_states(
        self,
        text_states: torch.Tensor,
        pixel_values: torch.Tensor | None,
        image_features: torch.Tensor | None,
        image_mask: torch.Tensor | None,
        image_index: torch.Tensor | None,
        extras: dict[str, Any],
    ) -> tuple[torch.Tensor | None, torch.Tensor, ModelOutput | None]:
        """Projected tokens of the rows of pictures or `None`, the mask of posts with a picture, the tower's output."""
        batch_size, source = text_states.shape[0], pixel_values if pixel_values is not None else image_features
        if image_mask is None:
            image_mask = torch.full((batch_size,), source is not None, device=text_states.device)
        image_mask = image_mask.bool()
        if image_index is not None:
            check_image_index(image_index, batch_size, source)
        rows = batch_size if source is None or image_index is not None else source.shape[0]
        if image_mask.shape != (batch_size,) or rows != batch_size:
            raise ValueError(
                f"image_mask and the pictures must have one row for each of the {batch_size} posts, got image_mask "
                f"{tuple(image_mask.shape)}" + ("." if source is None else f" and pictures {tuple(source.shape)}.")
            )
        if source is None:
            if not torch.compiler.is_compiling() and bool(image_mask.any()):
                raise ValueError(
                    "image_mask marks posts with a picture, but neither pixel_values nor image_features came."
                )
            return None, image_mask, None
        output = None
        # Of each row of the pictures, whether any post has it.
        present = image_mask if image_index is None else image_mask.new_zeros(source.shape[0])
        if image_index is not None:
            present[image_index[image_mask]] = True
        if pixel_values is not None:
            image_features, output = self._encode_present(pixel_values, present, extras)
        elif image_features.ndim != 3 or image_features.shape[-1] != self.config.vision_width:
            raise ValueError(
                f"image_features must be (B, Li, {self.config.vision_width}), got {tuple(image_features.shape)}."
            )
        # Rows without a picture may hold anything, also NaN, which a weight of 0 would let through.
        states = image_features.to(self.dtype)
        if not _all_true(present):
            states = torch.where(present[:, None, None], states, 0)
        return self.vision_projection(states), image_mask, output

    def _encode_present(
        self, pixel_values: torch.Tensor, image_mask: torch.Tensor, extras: dict[str, Any]
    ) -> tuple[torch.Tensor, ModelOutput]:
        """The tower's tokens (B, Li, H'), for the posts with a picture only where some have none; zeros for those."""
        check_pixels(pixel_values)
        if _all_true(image_mask):
            return self._encode_images(pixel_values, **extras)
        number = image_mask.shape[0] if torch.compiler.is_compiling() or extras else int(image_mask.sum())
        if 0 < number < image_mask.shape[0]:
            present = image_mask.nonzero().flatten()
            states, output = self._encode_images(pixel_values[present])
            return states.new_zeros(image_mask.shape[0], *states.shape[1:]).index_copy(0, present, states), output
        # NaN in a row without a picture would spoil the gradient of the tower, even with a weight of 0 further up.
        row_mask = image_mask.view(-1, *[1] * (pixel_values.ndim - 1))
        return self._encode_images(torch.where(row_mask, pixel_values, 0), **extras)


class MGVMoEForZeroShotIE(TrainingObjectives, PostScoring, MGVMoEPreTrainedModel):
    """MG-VMoE with a score for every candidate label, and its objectives: what `AutoModel` loads from the Hub."""

    _auto_class = "AutoModel"  # a saved model names its class, so that `AutoModel` finds it without this package
    # `Trainer` would go by the `**kwargs` of forward and believe that the loss is a mean over accumulated batches.
    accepts_loss_kwargs = False

    def __init__(self, config: MGVMoEConfig, **backbones: PreTrainedModel | None):
        super().__init__(config)
        self.mgvmoe = MGVMoEModel(config, **backbones)
        mention_size = (config.max_mentions + 2) * config.hidden_size
        self.dropout = nn.Dropout(config.projection_dropout)
        self.similarity: SimilarityScore | None = None
        if config.score == "similarity":
            # Posts are compared with labels in the text encoder's own space.
            self.mention_projection = nn.Linear(mention_size, config.hidden_size)
            self.similarity = SimilarityScore(config.similarity_scale, config.mention_weight, config.type_score_coef)
        else:
            self.mention_projection = nn.Linear(mention_size, config.projection_dim)
            self.candidate_projection = nn.Linear(config.hidden_size, config.projection_dim)
        self.perturbation = (
            nn.Parameter(torch.zeros(1, 2 * config.hidden_size)) if config.adversary == "learned" else None
        )
        if config.graph_memory:
            # Saved: a training that goes on from a checkpoint goes on with them.
            self.register_buffer("graph_memory", torch.zeros(config.graph_memory, 2 * config.hidden_size))
            self.register_buffer("graph_seen", torch.zeros(1, dtype=torch.long))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.mgvmoe.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.mgvmoe.set_input_embeddings(value)

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """See [`MGVMoEModel.get_image_features`]."""
        return self.mgvmoe.get_image_features(pixel_values)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        mention_positions: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        candidate_input_ids: torch.Tensor | None = None,
        candidate_attention_mask: torch.Tensor | None = None,
        candidate_embeds: torch.Tensor | None = None,
        candidate_index: torch.Tensor | None = None,
        candidate_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        mention_mask: torch.Tensor | None = None,
        candidate_types: torch.Tensor | None = None,
        type_input_ids: torch.Tensor | None = None,
        type_attention_mask: torch.Tensor | None = None,
        type_index: torch.Tensor | None = None,
        type_embeds: torch.Tensor | None = None,
        text_noise: torch.Tensor | None = None,
        image_noise: torch.Tensor | None = None,
        num_samples: int | None = None,
        sample_noise: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        **kwargs: Any,
    ) -> MGVMoEOutput:
        """Score every candidate label for every post, and compute E12 if `labels` are given.

        Args:
            input_ids, attention_mask, mention_positions, pixel_values, image_features, image_mask, image_index,
            text_noise, image_noise, output_attentions, output_hidden_states: see [`MGVMoEModel.forward`].
            candidate_input_ids: (C, Lc), the words of the labels, each label once, or
            candidate_embeds: (C, H) or (B, C, H), the output of [`get_candidate_embeds`].
            candidate_attention_mask: (C, Lc).
            candidate_index: (P,), to which label each text belongs; see [`MGVMoEModel.get_candidate_embeds`].
            candidate_mask: (B, C), true for the candidates that a post has.
            labels: (B,), index of the right candidate; -100 for a post of none of them.
            mention_mask: (B, S, Lt), true for the tokens of each mention. With `score="similarity"` it is needed.
            candidate_types: (C, 2, T), true for the types that a label allows for head and tail. Only with
                `score="similarity"`, and together with
            type_input_ids: (T, Lc), the words of the types, with type_attention_mask and type_index, or
            type_embeds: (T, H), the output of [`get_candidate_embeds`] for them.
            num_samples: N draws of the fused vector at inference, beside the mean that gives `logits`; see
                `uncertainty.py` for what is drawn and what comes out.
            sample_noise: (N, B, H), standard normal, takes the place of their noise.

        Raises:
            ValueError: an argument is missing or a shape does not fit.
        """
        refuse_unknown(kwargs)
        if (candidate_input_ids is None) == (candidate_embeds is None):
            raise ValueError(
                "Exactly one of candidate_input_ids and candidate_embeds must be given, "
                f"got {'neither' if candidate_embeds is None else 'both'}."
            )
        if (candidate_types is None) != (type_input_ids is None and type_embeds is None):
            raise ValueError("candidate_types and type_input_ids or type_embeds must be given together.")
        if attention_mask is None and input_ids is not None:
            attention_mask = torch.ones_like(input_ids)
        if self.similarity is None and candidate_types is not None:
            raise ValueError('candidate_types need a model with score="similarity", got one with "projection".')
        self._check_posts(mention_mask, num_samples, sample_noise)
        if candidate_embeds is None:
            assert candidate_input_ids is not None  # for the type checker: it was checked above
            candidate_embeds = self.get_candidate_embeds(
                candidate_input_ids, candidate_attention_mask, candidate_index
            )
        if type_embeds is None and type_input_ids is not None:
            type_embeds = self.get_candidate_embeds(type_input_ids, type_attention_mask, type_index)
        if candidate_types is not None and type_embeds is not None:
            check_types(candidate_types, candidate_embeds.shape[-2], type_embeds.shape[0])
        announced = self.announce(labels)
        output = self.mgvmoe(
            input_ids=input_ids,
            attention_mask=attention_mask,
            mention_positions=mention_positions,
            pixel_values=pixel_values,
            image_features=image_features,
            image_mask=image_mask,
            image_index=image_index,
            text_noise=text_noise,
            image_noise=image_noise,
            return_losses=labels is not None,
            return_variance=num_samples is not None or sample_noise is not None,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        assert attention_mask is not None and mention_positions is not None  # for the type checker: it was checked
        posts = self.posts_of(output, attention_mask, mention_positions, mention_mask, num_samples, sample_noise)
        fit = self._fit_of_types(posts, candidate_types, type_embeds)
        logits = self.score(posts.mention_embeds, candidate_embeds, candidate_mask)
        if fit is not None:
            logits = logits + self.similarity.type_coef * fit
        statistics = {}
        if posts.sample_embeds is not None:
            samples = self.score_samples(posts, candidate_embeds, candidate_mask, candidate_types, type_embeds)
            statistics = {"sample_logits": samples, **predictive_statistics(samples)}
        # Inner products of whole vectors overflow in float16, and the KL of E11 is a difference that bfloat16 loses.
        with torch.autocast(logits.device.type, enabled=False):
            terms = (
                self.objectives(output, logits, labels, candidate_mask, fit, announced) if labels is not None else {}
            )
        return MGVMoEOutput(
            loss=self.total_loss(terms) if terms else None,
            logits=logits,
            ranking_loss=terms.get("ranking_loss"),
            kl_loss=terms.get("kl_loss"),
            router_entropy_loss=terms.get("router_entropy_loss"),
            alignment_loss=terms.get("alignment_loss"),
            consistency_loss=terms.get("consistency_loss"),
            type_loss=terms.get("type_loss"),
            none_loss=terms.get("none_loss"),
            **statistics,
            mention_embeds=posts.mention_embeds,
            candidate_embeds=candidate_embeds,
            text_embeds=output.text_embeds,
            image_embeds=output.image_embeds,
            fusion_attentions=output.fusion_attentions,
            text_router_probs=output.text_router_probs,
            image_router_probs=output.image_router_probs,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            vision_hidden_states=output.vision_hidden_states,
            vision_attentions=output.vision_attentions,
        )


__all__ = ["MGVMoEForZeroShotIE", "MGVMoEModel", "MGVMoEPreTrainedModel"]
