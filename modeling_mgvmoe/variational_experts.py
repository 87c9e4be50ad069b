r"""The variational mixture of experts that text and picture share (E1-E5 of the design).

Axes: B = posts, L = tokens, H = hidden size, K = experts.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import ModelOutput

from .chunked_mixture import chunked_mixture
from .objectives import at_least_float32, gaussian_kl, masked_mean, router_entropy


def is_plain(layer: nn.Module, kind: type[nn.Module] = nn.Linear) -> bool:
    """Whether the layer's weights may be used without its own forward, which would change or see nothing.

    Not where something takes its place (adapters), where a weight is a tensor of another class, which may lack what a
    plain one can do (torchao's quantised weights), or where something stands in its way: hooks, which also fetch
    weights that wait on another device (Accelerate) or in other processes (FSDP).
    """
    if not all(_is_plain_tensor(parameter) for parameter in layer.parameters(recurse=False)):
        return False
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks)
    return type(layer) is kind and not any(hooks) and not hasattr(layer, "_hf_hook")


def _is_plain_tensor(tensor: torch.Tensor) -> bool:
    # Tracing (`torch.export`) puts classes of torch's own in the place of plain tensors.
    return type(tensor) in (torch.Tensor, nn.Parameter) or type(tensor).__module__.startswith("torch._subclasses.")


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

        wanted = self.training or noise is not None or return_losses
        if wanted and not self.deterministic and not torch.compiler.is_compiling() and self.has_plain_weights:
            return self._chunked(hidden_states, attention_mask, noise, return_losses)
        router_logits = self.router(hidden_states)
        per_expert = (*hidden_states.shape, self.num_experts)
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

    @property
    def has_plain_weights(self) -> bool:
        """Whether the experts' weights may be multiplied by other means than their layers' own forward, and this one.

        Not under `torch.compile`, which fuses the written-out form itself; but in what `torch.export` makes, which
        nothing fuses.
        """
        return (
            (not torch.compiler.is_compiling() or torch.compiler.is_exporting())
            and is_plain(self, VariationalMixtureOfExperts)
            and all(is_plain(layer) for layer in self.children())
        )

    def _chunked(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        noise: torch.Tensor | None,
        return_losses: bool,
    ) -> VariationalMixtureOutput:
        """The same as the rest of `forward`, with the memory of one matrix of hidden states."""
        shape = hidden_states.shape
        mixture, divergence, router_logits = chunked_mixture(
            hidden_states.flatten(0, 1),
            None if noise is None else noise.flatten(0, 1),
            self.router,
            self.expert_means,
            self.expert_log_variances,
            draw=self.training and noise is None,
        )
        router_logits = router_logits.view(*shape[:2], -1)
        probs = router_logits.softmax(-1)
        return VariationalMixtureOutput(
            hidden_states=mixture.view(shape),
            router_probs=probs.to(mixture.dtype),
            kl_loss=masked_mean(divergence.view(shape[:2]), attention_mask) if return_losses else None,
            router_entropy=router_entropy(router_logits, attention_mask) if return_losses else None,
        )

    # Given the router, the means are linear in the tokens ("Linearity" in the design). What evaluation wants of them
    # are inner products with a few vectors and weighted sums, for which no token is multiplied by an expert.

    def route(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, L, K), p of E1."""
        return self.router(hidden_states).softmax(-1)

    def token_variances(self, hidden_states: torch.Tensor, router_probs: torch.Tensor) -> torch.Tensor:
        r"""The variances of mixtures as E3 draws them, :math:`\sum_k p_k^2 e^{s_k}`.

        Args:
            hidden_states: (n, H). router_probs: (n, K).

        Returns:
            (n, H), in no less than single precision.

        Raises:
            ValueError: the experts have no variances.
        """
        if self.deterministic:
            raise ValueError("deterministic_experts: experts without variances have nothing to draw.")
        log_variances = at_least_float32(self.expert_log_variances(hidden_states))
        shares = at_least_float32(router_probs).square()
        variances = log_variances.view(*hidden_states.shape, self.num_experts).exp()
        return torch.einsum("nhk,nk->nh", variances, shares)

    def mean_products(
        self, hidden_states: torch.Tensor, router_probs: torch.Tensor, query: torch.Tensor
    ) -> torch.Tensor:
        r"""Inner products of the mixtures' means with a vector, :math:`\sum_k p_k (x \cdot W_k^T q + b_k \cdot q)`.

        Args:
            hidden_states: (B, L, H). router_probs: (B, L, K).
            query: (H,), or (B, H), one for each post.

        Returns:
            (B, L).
        """
        size = self.hidden_size
        query = query.expand(hidden_states.shape[0], size)
        keys = (query @ self.expert_means.weight.view(size, -1)).view(-1, self.num_experts, size)
        offsets = query @ self.expert_means.bias.view(size, -1)
        products = hidden_states @ keys.transpose(1, 2) + offsets[:, None]
        return (products * router_probs).sum(-1)

    def mean_sums(
        self, hidden_states: torch.Tensor, router_probs: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        r"""Weighted sums of the mixtures' means, :math:`\sum_k W_k \sum_j a_j p_{jk} x_j + b_k \sum_j a_j p_{jk}`.

        Args:
            hidden_states: (B, L, H). router_probs: (B, L, K).
            weights: (B, R, L), R weights a for every token.

        Returns:
            (B, R, H).
        """
        shares = weights.unsqueeze(-1) * router_probs.unsqueeze(1)
        sums = shares.transpose(2, 3).flatten(1, 2) @ hidden_states
        sums = sums.view(*weights.shape[:2], -1)
        # The weight is hidden-major, the sums are expert by expert: as (H, K * H) both have the same order.
        weight = self.expert_means.weight.view(self.hidden_size, -1)
        return sums @ weight.T + shares.sum(2) @ self.expert_means.bias.view(self.hidden_size, -1).T


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
