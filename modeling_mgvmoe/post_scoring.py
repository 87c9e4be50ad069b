"""E8 in two steps: posts as vectors, which may be kept, and their scores against any labels.

Axes: B = posts, Lt = text tokens, H = hidden size, C = candidate labels, D = projection size, S = marked mentions of a
post, T = types of heads and tails, N = draws from the experts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from transformers.utils import ModelOutput

from .canonical_order import canonical_order
from .extraction import extract
from .fusion import project
from .input_checks import check_mention_mask, check_tensors, check_types, refuse_unknown
from .outputs_mgvmoe import MGVMoEModelOutput
from .similarity_score import SimilarityScore

PICTURE_ARGUMENTS = ("pixel_values", "image_features", "image_mask", "image_index")


@dataclass
class PostEmbeds(ModelOutput):
    """All that the scores of posts are made of: to be kept, and scored against labels that are not known yet.

    Args:
        mention_embeds: (B, D), the posts' side of E8.
        mention_directions: (B, S, H), of length 1, the mentions by themselves, zeros for absent ones; only with
            `score="similarity"`, for the types of heads and tails.
        sample_embeds: (N, B, D), the same as `mention_embeds` for each draw from the experts; only if asked for.
    """

    mention_embeds: torch.Tensor = None  # type: ignore[assignment]
    mention_directions: torch.Tensor | None = None
    sample_embeds: torch.Tensor | None = None

    def rows(self, index: torch.Tensor | slice | Sequence[int]) -> Self:
        """Some of the posts."""
        samples = self.sample_embeds
        return type(self)(
            mention_embeds=self.mention_embeds[index],
            mention_directions=None if self.mention_directions is None else self.mention_directions[index],
            sample_embeds=None if samples is None else samples[:, index],
        )

    @classmethod
    def concatenate(cls, parts: Sequence["PostEmbeds"]) -> "PostEmbeds":
        """Several batches as one.

        Raises:
            ValueError: there are none, or some have what others have not.
        """
        if not parts or len({tuple(part.keys()) for part in parts}) > 1:
            raise ValueError(f"parts: posts that were encoded alike are needed, got {[list(part) for part in parts]}.")
        joined = {"mention_embeds": torch.cat([part.mention_embeds for part in parts])}
        if parts[0].sample_embeds is not None:
            joined["sample_embeds"] = torch.cat([part.sample_embeds for part in parts], dim=1)
        if parts[0].mention_directions is not None:
            # A batch of typing posts has one slot, others two.
            slots = max(part.mention_directions.shape[1] for part in parts)
            joined["mention_directions"] = torch.cat(
                [
                    nn.functional.pad(part.mention_directions, (0, 0, 0, slots - part.mention_directions.shape[1]))
                    for part in parts
                ]
            )
        return cls(**joined)


class PostScoring(nn.Module):
    """What a model with scores does with posts and labels; a base class of it.

    Attributes:
        config: an [`MGVMoEConfig`].
        mgvmoe: backbones, experts and fusion.
        mention_projection, candidate_projection, dropout: of E8.
        similarity: of E8', or `None`.
    """

    config: Any
    mgvmoe: Any
    mention_projection: nn.Linear
    candidate_projection: nn.Linear
    dropout: nn.Dropout
    similarity: SimilarityScore | None

    def get_candidate_embeds(
        self,
        candidate_input_ids: torch.Tensor,
        candidate_attention_mask: torch.Tensor | None = None,
        candidate_index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See [`MGVMoEModel.get_candidate_embeds`]."""
        return self.mgvmoe.get_candidate_embeds(candidate_input_ids, candidate_attention_mask, candidate_index)

    def encode_candidates(self, encoded: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Labels, and types if there are any, as what `forward` and `score` take in place of their words.

        Args:
            encoded: of `processor.encode_candidates`.
        """
        taken = {"candidate_embeds": self._embeds_of(encoded, "candidate")}
        if "type_input_ids" in encoded:
            taken |= {"type_embeds": self._embeds_of(encoded, "type"), "candidate_types": encoded["candidate_types"]}
        if "candidate_mask" in encoded:
            taken["candidate_mask"] = encoded["candidate_mask"]
        return taken

    def _embeds_of(self, encoded: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
        return self.get_candidate_embeds(
            encoded[f"{name}_input_ids"], encoded.get(f"{name}_attention_mask"), encoded.get(f"{name}_index")
        )

    def extract(
        self,
        posts: Iterable[Mapping[str, Any]],
        typing_labels: Sequence[str] | None = None,
        relation_labels: Sequence[str] | None = None,
        processor: Any = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Type every mention of whole posts and relate every ordered pair; see `extraction.extract`."""
        return extract(self, posts, typing_labels, relation_labels, processor, **options)

    def encode_posts(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        mention_positions: torch.Tensor | None = None,
        mention_mask: torch.Tensor | None = None,
        num_samples: int | None = None,
        sample_noise: torch.Tensor | None = None,
        **pictures: Any,
    ) -> PostEmbeds:
        """The posts' side of the scores, for labels that may change without a second pass of the encoders.

        ```python
        posts = model.encode_posts(**processor(text=..., mentions=..., images=..., return_tensors="pt"))
        labels = processor.encode_candidates(["boat", "bird"], return_tensors="pt")
        logits = model.score(posts, **model.encode_candidates(labels))
        ```

        Args:
            input_ids, attention_mask, mention_positions, mention_mask: see `forward`.
            num_samples, sample_noise: see `forward`.
            pictures: `pixel_values`, `image_features`, `image_mask`, `image_index`: see [`MGVMoEModel.forward`].
        """
        refuse_unknown({name: value for name, value in pictures.items() if name not in PICTURE_ARGUMENTS})
        check_tensors(input_ids=input_ids, attention_mask=attention_mask, mention_mask=mention_mask)
        self._check_posts(mention_mask, num_samples, sample_noise)
        if attention_mask is None and input_ids is not None:
            attention_mask = torch.ones_like(input_ids)
        output = self.mgvmoe(
            input_ids=input_ids,
            attention_mask=attention_mask,
            mention_positions=mention_positions,
            return_variance=num_samples is not None or sample_noise is not None,
            return_dict=True,
            **pictures,
        )
        return self.posts_of(output, attention_mask, mention_positions, mention_mask, num_samples, sample_noise)

    def _check_posts(
        self, mention_mask: torch.Tensor | None, num_samples: int | None, sample_noise: torch.Tensor | None
    ) -> None:
        if self.similarity is not None and mention_mask is None:
            raise ValueError(
                'mention_mask must be given with score="similarity"; a processor with mention_style="prefix" makes it.'
            )
        if num_samples is None and sample_noise is None:
            return
        if num_samples is not None and (isinstance(num_samples, bool) or num_samples < 1):
            raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
        if num_samples is not None and sample_noise is not None and len(sample_noise) != num_samples:
            raise ValueError(f"sample_noise must have num_samples = {num_samples} draws, got {len(sample_noise)}.")
        if self.training:
            raise ValueError("num_samples asks for draws at inference; call model.eval() first.")

    def posts_of(
        self,
        output: MGVMoEModelOutput,
        attention_mask: torch.Tensor,
        mention_positions: torch.Tensor,
        mention_mask: torch.Tensor | None,
        num_samples: int | None = None,
        sample_noise: torch.Tensor | None = None,
    ) -> PostEmbeds:
        """E8's vectors of posts, of the output of the model without scores."""
        fused, query = output.fused_embeds, output.mention_states
        mention_embeds = project(self.mention_projection, self.dropout(torch.cat([fused, query], dim=-1)))
        samples = None
        if output.fused_variance is not None:
            deviation = output.fused_variance.sqrt()
            if sample_noise is None:
                sample_noise = torch.randn(
                    num_samples, *deviation.shape, device=deviation.device, dtype=deviation.dtype
                )
            elif sample_noise.shape[1:] != deviation.shape:
                raise ValueError(
                    f"sample_noise must be (N, B, H) with (B, H) = {tuple(deviation.shape)}, "
                    f"got {tuple(sample_noise.shape)}."
                )
            drawn = (fused + deviation * sample_noise).to(fused.dtype)
            samples = self.mention_projection(torch.cat([drawn, query.expand(len(drawn), *query.shape)], dim=-1))
        if self.similarity is None:
            return PostEmbeds(mention_embeds=mention_embeds, sample_embeds=samples)
        assert mention_mask is not None, "it was asked for"
        check_mention_mask(mention_mask, mention_positions, attention_mask)
        with torch.autocast(mention_embeds.device.type, enabled=False):
            post_embeds, mentions = self.similarity.embed_posts(
                output.text_states, attention_mask.bool(), mention_mask
            )
            return PostEmbeds(
                mention_embeds=self.similarity.with_residual(post_embeds, mention_embeds),
                mention_directions=mentions,
                sample_embeds=None if samples is None else self.similarity.with_residual(post_embeds, samples),
            )

    def score(
        self,
        mention_embeds: torch.Tensor | PostEmbeds,
        candidate_embeds: torch.Tensor,
        candidate_mask: torch.Tensor | None = None,
        candidate_types: torch.Tensor | None = None,
        type_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """E8: inner products of posts and projected labels; with `score="similarity"` of posts and labels, scaled.

        Args:
            mention_embeds: (..., B, D), or the posts as [`encode_posts`] gave them, which types need.
            candidate_embeds: (C, H), shared by the posts, or (B, C, H).
            candidate_mask: (B, C), true for the candidates that a post has; the others score -inf.
            candidate_types, type_embeds: see `forward`.

        Returns:
            (..., B, C).
        """
        posts = mention_embeds if isinstance(mention_embeds, PostEmbeds) else None
        if (candidate_types is None) != (type_embeds is None):
            raise ValueError("candidate_types and type_embeds must be given together.")
        if candidate_types is not None and (posts is None or posts.mention_directions is None):
            raise ValueError(
                'candidate_types need a model with score="similarity", and posts as its encode_posts gives them.'
            )
        if posts is None:
            return self._products(mention_embeds, candidate_embeds, candidate_mask)
        logits = self._products(posts.mention_embeds, candidate_embeds, candidate_mask)
        fit = self._fit_of_types(posts, candidate_types, type_embeds)
        return logits if fit is None else logits + self.similarity.type_coef * fit

    def score_samples(
        self,
        posts: PostEmbeds,
        candidate_embeds: torch.Tensor,
        candidate_mask: torch.Tensor | None = None,
        candidate_types: torch.Tensor | None = None,
        type_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[`score`] for each draw, (N, B, C); `posts` must have been encoded with `num_samples`."""
        if posts.sample_embeds is None:
            raise ValueError("posts: they have no draws; encode them with num_samples.")
        logits = self._products(posts.sample_embeds, candidate_embeds, candidate_mask)
        fit = self._fit_of_types(posts, candidate_types, type_embeds)
        return logits if fit is None else logits + self.similarity.type_coef * fit

    def _fit_of_types(
        self, posts: PostEmbeds, candidate_types: torch.Tensor | None, type_embeds: torch.Tensor | None
    ) -> torch.Tensor | None:
        """How well the mentions fit the types of each label, (B, C), if there are types."""
        if candidate_types is None or type_embeds is None or posts.mention_directions is None:
            return None
        check_types(candidate_types, candidate_types.shape[0], type_embeds.shape[0])
        mentions = posts.mention_directions
        with torch.autocast(mentions.device.type, enabled=False):
            return self.similarity.fit_of_types(
                self.similarity.type_log_probs(mentions, type_embeds), candidate_types, mentions != 0
            )

    def _products(
        self, mention_embeds: torch.Tensor, candidate_embeds: torch.Tensor, candidate_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """(..., B, C), of posts (..., B, D) and labels."""
        batch_size, hidden_size = mention_embeds.shape[-2], self.config.hidden_size
        shape = tuple(candidate_embeds.shape)
        if shape[-1] != hidden_size or len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] != batch_size):
            raise ValueError(
                f"candidate_embeds must be (C, {hidden_size}) or ({batch_size}, C, {hidden_size}), got {shape}."
            )
        device_type = mention_embeds.device.type
        # The differences of similarities that decide are below what half precision tells apart.
        in_half = self.similarity is None and torch.is_autocast_enabled(device_type)
        with torch.autocast(device_type, enabled=in_half):
            if torch.compiler.is_exporting():
                # Ordering goes through the numbers one by one, and an exported graph takes any number of labels.
                logits = self._inner_products(mention_embeds, candidate_embeds)
            else:
                # Embeddings that agree in their first four numbers without being equal do not happen.
                order = canonical_order(candidate_embeds[..., :4].detach())
                candidate_embeds = candidate_embeds.gather(-2, order[..., None].expand(shape))
                logits = self._inner_products(mention_embeds, candidate_embeds)
                logits = logits.gather(-1, order.argsort(-1).expand(logits.shape))
        if candidate_mask is None:
            return logits
        if candidate_mask.shape != logits.shape[-2:]:
            raise ValueError(
                f"candidate_mask must be (B, C) = {tuple(logits.shape[-2:])}, got {tuple(candidate_mask.shape)}."
            )
        return logits.masked_fill(~candidate_mask.bool(), float("-inf"))

    def _inner_products(self, mention_embeds: torch.Tensor, candidate_embeds: torch.Tensor) -> torch.Tensor:
        """[`_products`] in the order of the rows."""
        candidate_embeds = candidate_embeds.to(mention_embeds.dtype)
        if self.similarity is None:
            projected = project(self.candidate_projection, self.dropout(candidate_embeds))
        else:
            projected = self.similarity.scale * candidate_embeds
        if projected.ndim == 2:
            return mention_embeds @ projected.T
        return torch.einsum("...bd,bcd->...bc", mention_embeds, projected)


__all__ = ["PostEmbeds", "PostScoring"]
