"""E12: every term of the total loss for a batch, over the posts of all processes that train together.

Axes: B = posts, C = candidate labels.
"""

from typing import Any

import torch
from torch import nn

from .across_processes import Announcement, gather_rows, number_of_processes, random_generator
from .objectives import info_nce, label_cross_entropy, ranking_loss
from .outputs_mgvmoe import MGVMoEModelOutput
from .sample_graph import adversarial_consistency, learned_adversary_loss, power_perturbation, random_perturbation

# In `labels`: a post of none of the candidates, which takes no part in E9 and in the loss of the types.
NO_LABEL = -100


class TrainingObjectives(nn.Module):
    """What a model with scores needs to learn; a base class of it, for the terms are named in its configuration.

    Attributes:
        config: an [`MGVMoEConfig`]: coefficients and settings of the terms.
        perturbation: the learned adversary of E11, or `None`.
    """

    config: Any
    perturbation: nn.Parameter | None

    def objectives(
        self,
        output: MGVMoEModelOutput,
        logits: torch.Tensor,
        labels: torch.Tensor,
        candidate_mask: torch.Tensor | None = None,
        fit_of_types: torch.Tensor | None = None,
        announced: Announcement | None = None,
    ) -> dict[str, torch.Tensor]:
        """Every term of E12 by name and unweighted.

        In training under several processes (`torch.distributed`) the terms are those of the posts of all processes, on
        every process, so that all of them must call this together. The mean over the processes of their gradients is
        the gradient of one process with all posts. Without gradient, or in evaluation mode, each process is by itself:
        processes may well evaluate different numbers of batches.

        Args:
            output: of [`MGVMoEModel`], with losses.
            logits: (B, C).
            labels: (B,); `NO_LABEL` for posts of no class.
            candidate_mask: (B, C).
            fit_of_types: (B, C), of [`SimilarityScore`], if labels have types.
            announced: to the other processes, by [`announce`], if that was done ahead of time.
        """
        has_image, kl_loss, router_entropy_loss = output.image_mask, output.kl_loss, output.router_entropy_loss
        assert kl_loss is not None and router_entropy_loss is not None, "the output lacks its losses"
        known = labels != NO_LABEL
        ranking, types = self._of_labels(logits, labels, known, candidate_mask, fit_of_types)
        text_embeds, image_embeds = output.text_embeds, output.image_embeds
        # A post without a picture is a node of the graph whose picture half is 0.
        image_embeds = torch.zeros_like(text_embeds) if image_embeds is None else image_embeds
        announced = announced or self.announce(labels)
        if announced is not None:
            assert output.expert_loss_sums is not None, "the output lacks its losses"
            own_sums = output.expert_loss_sums.flatten()
            number = known.sum().to(own_sums)
            own_sums = torch.cat([own_sums, torch.stack([ranking * number, types * number, number])])
            flags = has_image.to(own_sums)
            text_embeds, image_embeds, flags, sums = gather_rows(
                announced, text_embeds, image_embeds, flags, own_sums[None]
            )
            has_image, sums = flags.bool(), sums.sum(0)
            ranking, types = (sums[6:8] / sums[8].clamp(min=1)).unbind()
            # Rows: text, pictures.
            totals, numbers = sums[:6].view(2, 3).split([2, 1], dim=1)
            kl_loss, router_entropy_loss = (totals / numbers.clamp(min=1)).sum(0) / (numbers > 0).sum()
        nodes = torch.cat([image_embeds, text_embeds], dim=-1)
        return {
            "ranking_loss": ranking,
            "kl_loss": kl_loss,
            "router_entropy_loss": router_entropy_loss,
            "alignment_loss": info_nce(
                text_embeds[has_image], image_embeds[has_image], self.config.alignment_temperature
            ),
            "consistency_loss": self._consistency(nodes, announced),
            "type_loss": types,
        }

    def _of_labels(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        known: torch.Tensor,
        candidate_mask: torch.Tensor | None,
        fit_of_types: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """E9 and the loss of the types, means over the posts that have a label."""
        if not torch.compiler.is_compiling() and not bool(known.all()):
            rows = known.nonzero().flatten()
            if not len(rows):
                # With a gradient, for data parallel wrappers wait for one.
                zero = logits.sum() * 0.0
                return zero, zero
            mask = None if candidate_mask is None else candidate_mask[rows]
            fit = None if fit_of_types is None else fit_of_types[rows]
            return self._of_labels(logits[rows], labels[rows], known[rows], mask, fit)
        if self.config.objective == "ranking":
            ranking = ranking_loss(logits, labels, self.config.margin, candidate_mask)
        else:
            ranking = label_cross_entropy(logits, labels, candidate_mask)
        # The mentions should have the types of the right label: the mean over the posts of -log P(allowed types).
        types = ranking.new_zeros(()) if fit_of_types is None else -fit_of_types.gather(1, labels[:, None]).mean()
        return ranking, types

    def announce(self, labels: torch.Tensor | None) -> Announcement | None:
        """Tell the other processes of a batch that [`objectives`] will gather; None where it will not.

        Args:
            labels: (B,), of the batch.
        """
        if labels is None or not self.training or not torch.is_grad_enabled() or number_of_processes() == 1:
            return None
        return Announcement([len(labels)] * 3 + [1], labels.device)

    def total_loss(self, terms: dict[str, torch.Tensor]) -> torch.Tensor:
        """E12: the sum of the terms, each times its coefficient `<term>_coef` of the configuration."""
        return sum(getattr(self.config, f"{name}_coef") * value for name, value in terms.items())

    def _consistency(self, nodes: torch.Tensor, announced: Announcement | None) -> torch.Tensor:
        """E10 and E11 over `nodes`, which are those of all processes if something was announced to these."""
        temperature = self.config.graph_temperature
        if self.perturbation is not None:
            return learned_adversary_loss(nodes, self.perturbation, temperature)
        if self.config.adversary == "none":
            return nodes.new_zeros(())
        # The direction from which the power iteration starts must be the same on every process. At evaluation, which
        # is repeatable, it is always the same.
        if announced is not None:
            generator = announced.generator()
        elif self.training:
            generator = random_generator(nodes.device)
        else:
            generator = torch.Generator(nodes.device).manual_seed(0)
        radius = self.config.adversary_radius
        if self.config.adversary == "random":
            perturbation = random_perturbation(nodes, radius, generator)
        else:
            perturbation = power_perturbation(nodes, radius, temperature, generator)
        return adversarial_consistency(nodes, perturbation, temperature)


__all__ = ["TrainingObjectives"]
