r"""MG-VMoE: two backbones, a variational mixture of experts over both, fusion and scores (E7, E8).

Axes: B = posts, Lt = text tokens, Li = picture tokens, H = hidden size, H' = width of the vision encoder, K = experts,
C = candidate labels, D = projection size, S = marked mentions of a post (1 for typing, 2 for a relation).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import can_return_tuple

from .backbones import check_repeatable, random_backbone
from .configuration_mgvmoe import MGVMoEConfig
from .expert_losses import expert_losses
from .fusion import AdditiveFusionScore, fuse_modalities, fused_variance
from .input_checks import check_tensors, check_types, one_for_all, refuse_unknown
from .outputs_mgvmoe import MGVMoEModelOutput, MGVMoEOutput
from .picture_states import PictureStates
from .post_scoring import PostScoring
from .pretrained_mgvmoe import MGVMoEPreTrainedModel
from .similarity_score import SimilarityScore
from .text_states import TextStates
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


class MGVMoEModel(TextStates, PictureStates, MGVMoEPreTrainedModel):
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
        check_repeatable("text_config", config.text_config)
        check_repeatable("vision_config", config.vision_config)
        self.text_model = text_model or random_backbone(config.text_config)
        self.vision_model = vision_model or random_backbone(config.vision_config)
        # One configuration object each, so that `resize_token_embeddings` and the attention back end stay in step.
        self.text_model.config, self.vision_model.config = config.text_config, config.vision_config
        # Names and classes of the tower as it is now: what is added later, adapters, is not frozen with it.
        tower = self.vision_model.named_modules()
        self._tower: dict[str, type[nn.Module]] = {name: type(module) for name, module in tower}
        self._freeze_tower()
        self.vision_projection = (
            nn.Identity() if config.vision_width == hidden_size else nn.Linear(config.vision_width, hidden_size)
        )
        self.experts = (
            VariationalMixtureOfExperts(hidden_size, config.num_experts, config.deterministic_experts)
            if config.num_experts
            else NoExperts()
        )
        if config.fusion == "additive":
            self.fusion_score = AdditiveFusionScore(mention_size + hidden_size)
        else:
            self.fusion_query = nn.Linear(mention_size, hidden_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.config.freeze_vision:
            # The reference leaves dropout on inside its frozen tower; without it, features can be cached.
            for name, module in self.vision_model.named_modules():
                if name in self._tower and isinstance(module, self._tower[name]):
                    module.training = False
        return self

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
        check_tensors(
            input_ids=input_ids,
            attention_mask=attention_mask,
            mention_positions=mention_positions,
            pixel_values=pixel_values,
            image_features=image_features,
            image_mask=image_mask,
            image_index=image_index,
        )
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
        sampled = self.training or text_noise is not None or image_noise is not None
        if return_variance and (sampled or not isinstance(self.experts, VariationalMixtureOfExperts)):
            raise ValueError(
                "return_variance, num_samples: they need experts, evaluation mode and no text_noise or image_noise."
            )
        noises = [image_noise, text_noise][-len(modalities) :]
        layer = self.fusion_score if self.config.fusion == "additive" else self.fusion_query
        fused, weights, means, probs, mixtures = fuse_modalities(
            layer, self.experts, mention_states, modalities, noises, sampled, return_losses
        )
        losses = self._losses(mixtures, [mask for _, mask in modalities]) if return_losses else {}
        variance = None
        if return_variance:
            assert isinstance(self.experts, VariationalMixtureOfExperts)  # checked above
            shares = weights.split([mask.shape[1] for _, mask in modalities], dim=1)
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
        """Those of `expert_losses`, which without pictures depend on all that is trained for pictures, by 0."""
        if len(mixtures) == 1 and self.training:
            assert mixtures[0].kl_loss is not None, "it was asked for"
            mixtures[0].kl_loss = mixtures[0].kl_loss + self._zero_of_the_vision_side()
        return expert_losses(mixtures, masks)


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
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MGVMoEForZeroShotIE) and module.perturbation is not None:
            # At 0 neither the KL nor the norm has a direction, so the adversary would never move.
            init.normal_(module.perturbation, std=self.config.initializer_range)

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
            candidate_attention_mask: (C, Lc). What describes labels and types may also come once for each post,
                (B, ...), all rows the same: `Trainer` and Accelerate take a batch apart along the first axis.
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
        check_tensors(
            input_ids=input_ids,
            attention_mask=attention_mask,
            mention_mask=mention_mask,
            candidate_input_ids=candidate_input_ids,
            candidate_attention_mask=candidate_attention_mask,
            candidate_embeds=candidate_embeds,
            candidate_index=candidate_index,
            candidate_mask=candidate_mask,
            candidate_types=candidate_types,
            type_input_ids=type_input_ids,
            type_attention_mask=type_attention_mask,
            type_index=type_index,
            type_embeds=type_embeds,
            labels=labels,
        )
        if (candidate_input_ids is None) == (candidate_embeds is None):
            raise ValueError(
                "Exactly one of candidate_input_ids and candidate_embeds must be given, "
                f"got {'neither' if candidate_embeds is None else 'both'}."
            )
        if (candidate_types is None) != (type_input_ids is None and type_embeds is None):
            raise ValueError("candidate_types and type_input_ids or type_embeds must be given together.")
        number = 0 if input_ids is None else input_ids.shape[0]
        candidate_input_ids = one_for_all(candidate_input_ids, "candidate_input_ids", 2, number)
        candidate_attention_mask = one_for_all(candidate_attention_mask, "candidate_attention_mask", 2, number)
        candidate_index = one_for_all(candidate_index, "candidate_index", 1, number)
        candidate_types = one_for_all(candidate_types, "candidate_types", 3, number)
        type_input_ids = one_for_all(type_input_ids, "type_input_ids", 2, number)
        type_attention_mask = one_for_all(type_attention_mask, "type_attention_mask", 2, number)
        type_index = one_for_all(type_index, "type_index", 1, number)
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
