"""What the models return: every term and every intermediate result by name, with its shape.

Axes: B = posts, Lt = text tokens, Li = picture tokens, H = hidden size, K = experts, C = candidate labels, D =
projection size, N = draws from the experts.
"""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class MGVMoEModelOutput(ModelOutput):
    """Output of [`MGVMoEModel`]. Fields typed as plain tensors are always there.

    Args:
        fused_embeds: (B, H), f of E7.
        fused_variance: (B, H), its variance where tokens are drawn as in E3; only if asked for.
        text_states: (B, Lt, H), the text encoder's states.
        mention_states: (B, (max_mentions + 1) H), q of E7: the text encoder's states of the first token and of the
            opening markers; zeros for absent mentions.
        text_embeds: (B, H), t of E6.
        image_embeds: (B, H), v of E6; zeros for posts without a picture. `None` if no post has one.
        image_mask: (B,), true for posts with a picture.
        kl_loss: scalar, E4 averaged over the modalities present; only if losses were asked for.
        router_entropy_loss: scalar, E5, likewise.
        expert_loss_sums: (2, 3), what several processes add up: for text and for pictures the sum of E4 and the sum of
            E5 over the tokens, and the number of tokens. Only with losses.
        fusion_attentions: (B, Li + Lt), the weights a of E7, picture first; 0 on padding.
        text_router_probs: (B, Lt, K). image_router_probs: (B, Li, K) or `None`.
        hidden_states, attentions: the text encoder's, if asked for.
        vision_hidden_states, vision_attentions: the vision encoder's, if asked for and if it ran.
    """

    fused_embeds: torch.Tensor = None  # type: ignore[assignment]
    fused_variance: torch.Tensor | None = None
    text_states: torch.Tensor = None  # type: ignore[assignment]
    mention_states: torch.Tensor = None  # type: ignore[assignment]
    text_embeds: torch.Tensor = None  # type: ignore[assignment]
    image_embeds: torch.Tensor | None = None
    image_mask: torch.Tensor = None  # type: ignore[assignment]
    kl_loss: torch.Tensor | None = None
    router_entropy_loss: torch.Tensor | None = None
    expert_loss_sums: torch.Tensor | None = None
    fusion_attentions: torch.Tensor = None  # type: ignore[assignment]
    text_router_probs: torch.Tensor = None  # type: ignore[assignment]
    image_router_probs: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    vision_hidden_states: tuple[torch.Tensor, ...] | None = None
    vision_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class MGVMoEOutput(ModelOutput):
    """Output of [`MGVMoEForZeroShotIE`]. The terms of E12 are unweighted and present if `labels` were given.

    Args:
        loss: scalar, E12.
        logits: (B, C), E8; -inf where `candidate_mask` is false.
        ranking_loss: scalar, E9, or the cross-entropy that `objective` sets in its place.
        kl_loss: scalar, E4, averaged over the modalities.
        router_entropy_loss: scalar, E5, averaged over the modalities.
        alignment_loss: scalar, E6.
        consistency_loss: scalar, E11.
        type_loss: scalar, -log P of the types that the right label allows, mean over posts; 0 without types.
        sample_logits: (N, B, C), E8 for each draw; only with `num_samples`, as are
        mean_probs, std_probs: (B, C), mean and deviation over the draws of the softmax of `sample_logits`, and
        mutual_information: (B,), in nats; see `uncertainty.py`.
        mention_embeds: (B, D), the posts' side of E8.
        candidate_embeds: (C, H) or (B, C, H), l of E8, to be given back as `candidate_embeds`.
        text_embeds: (B, H), t of E6. image_embeds: (B, H), v of E6, or `None`.
        fusion_attentions: (B, Li + Lt), a of E7, picture first.
        text_router_probs: (B, Lt, K). image_router_probs: (B, Li, K) or `None`.
        hidden_states, attentions: the text encoder's, if asked for.
        vision_hidden_states, vision_attentions: the vision encoder's, if asked for.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    ranking_loss: torch.Tensor | None = None
    kl_loss: torch.Tensor | None = None
    router_entropy_loss: torch.Tensor | None = None
    alignment_loss: torch.Tensor | None = None
    consistency_loss: torch.Tensor | None = None
    type_loss: torch.Tensor | None = None
    sample_logits: torch.Tensor | None = None
    mean_probs: torch.Tensor | None = None
    std_probs: torch.Tensor | None = None
    mutual_information: torch.Tensor | None = None
    mention_embeds: torch.Tensor | None = None
    candidate_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    fusion_attentions: torch.Tensor | None = None
    text_router_probs: torch.Tensor | None = None
    image_router_probs: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    vision_hidden_states: tuple[torch.Tensor, ...] | None = None
    vision_attentions: tuple[torch.Tensor, ...] | None = None


__all__ = ["MGVMoEModelOutput", "MGVMoEOutput"]
