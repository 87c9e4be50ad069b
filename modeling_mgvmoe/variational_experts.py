r"""The variational mixture of experts that text and picture share (E1-E5 of the design).

Axes: B = posts, L = tokens, H = hidden size, K = experts.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import ModelOutput

from .objectives import gaussian_kl, router_entropy


@dataclass
class VariationalMixtureOutput(ModelOutput):
    """Output of [`VariationalMixtureOfExperts`].

    Args:
        hidden_states: (B, L, H), the mixture z.
        router_probs: (B, L, K), the weights p of the experts; padded tokens hold values without meaning.
        kl_loss: scalar, E4; `None` if it was not asked for.
        router_entropy: scalar, E5; `None` if it was not asked for.
    """

    hidden_states: torch.Tensor = None  # type: ignore[assignment]
    router_probs: torch.Tensor = None  # type: ignore[assignment]
    kl_loss: torch.Tensor | None = None
    router_entropy: torch.Tensor | None = None


class VariationalMixtureOfExperts(nn.Module):
    r"""K Gaussian experts whose mixture, weighted by a router, replaces every token.

    .. math::
        p = \mathrm{softmax}(W_r x + b_r) \qquad m_k = W_k x + b_k \qquad s_k = U_k x + c_k

        z = \sum_k p_k m_k + \sqrt{\textstyle\sum_k p_k^2 e^{s_k}}\; \epsilon, \quad \epsilon \sim N(0, I)

    The reference draws one noise per expert, also at evaluation. The sum of independent Gaussians is Gaussian, so one
    noise vector per token has the same distribution; and evaluation takes the mean, so that scores do not change
    from call to call.

    Args:
        hidden_size: H.
        num_experts: K. The H*K outputs of the experts are hidden-major: flat index = hidden * K + expert.
        deterministic: an ablation, experts without variances: no noise in training and no bottleneck, E4 is 0.
    """

    def __init__(self, hidden_size: int, num_experts: int, deterministic: bool = False) -> None:
        super().__init__()
        if hidden_size < 1 or num_experts < 1:
            raise ValueError(f"hidden_size and num_experts must be at least 1, got {hidden_size} and {num_experts}.")
        self.hidden_size = hidden_size
        self.num_experts = num_experts
        self.deterministic = deterministic
        self.router = nn.Linear(hidden_size, num_experts)
        self.expert_means = nn.Linear(hidden_size, hidden_size * num_experts)
        if not deterministic:
            self.expert_log_variances = nn.Linear(hidden_size, hidden_size * num_experts)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        return_losses: bool = True,
    ) -> VariationalMixtureOutput:
        """Mix the experts for every token.

        Args:
            hidden_states: (B, L, H).
            attention_mask: (B, L), non-zero for real tokens; the losses are means over those.
            noise: (B, L, H), takes the place of the drawn noise. Given at evaluation, it asks for a sample there.
            return_losses: whether E4 and E5 are computed. At evaluation without them and without noise the
                log variances are never multiplied (E3').

        Raises:
            ValueError: a shape does not fit.
        """
        if hidden_states.ndim != 3 or hidden_states.shape[-1] != self.hidden_size:
            raise ValueError(f"hidden_states must be (B, L, {self.hidden_size}), got {tuple(hidden_states.shape)}.")
        if attention_mask is not None and attention_mask.shape != hidden_states.shape[:2]:
            raise ValueError(
                f"attention_mask must be (B, L) = {tuple(hidden_states.shape[:2])}, got {tuple(attention_mask.shape)}."
            )
        if noise is not None and noise.shape != hidden_states.shape:
            raise ValueError(f"noise must be (B, L, H) = {tuple(hidden_states.shape)}, got {tuple(noise.shape)}.")

        per_expert = (*hidden_states.shape, self.num_experts)
        router_logits = self.router(hidden_states)
        log_probs = router_logits.log_softmax(-1)
        router_probs = log_probs.exp()
        means = self.expert_means(hidden_states).view(per_expert)
        mixture = torch.einsum("blhk,blk->blh", means, router_probs)

        if self.deterministic:
            return VariationalMixtureOutput(
                hidden_states=mixture,
                router_probs=router_probs,
                kl_loss=mixture.new_zeros((), dtype=torch.float32) if return_losses else None,
                router_entropy=router_entropy(router_logits, attention_mask) if return_losses else None,
            )
        sample = self.training or noise is not None
        kl_loss = entropy = None
        if sample or return_losses:
            log_variances = self.expert_log_variances(hidden_states).view(per_expert)
            if sample:
                # In logarithms, so that a router or a variance that underflows leaves no infinite gradient of a root.
                log_variance = torch.logsumexp(2 * log_probs.unsqueeze(-2) + log_variances, dim=-1)
                noise = torch.randn_like(mixture) if noise is None else noise
                mixture = mixture + (0.5 * log_variance).exp() * noise
            if return_losses:
                kl_loss = gaussian_kl(means, log_variances, attention_mask)
                entropy = router_entropy(router_logits, attention_mask)
        return VariationalMixtureOutput(
            hidden_states=mixture, router_probs=router_probs, kl_loss=kl_loss, router_entropy=entropy
        )


class NoExperts(nn.Module):
    """An ablation: every token stays as it is, and there is nothing to route; E4 and E5 are 0."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        return_losses: bool = True,
    ) -> VariationalMixtureOutput:
        """Arguments as of [`VariationalMixtureOfExperts`]; `router_probs` are (B, L, 0)."""
        zero = hidden_states.new_zeros((), dtype=torch.float32) if return_losses else None
        return VariationalMixtureOutput(
            hidden_states=hidden_states,
            router_probs=hidden_states.new_zeros(*hidden_states.shape[:2], 0),
            kl_loss=zero,
            router_entropy=zero,
        )


__all__ = ["NoExperts", "VariationalMixtureOfExperts", "VariationalMixtureOutput"]
