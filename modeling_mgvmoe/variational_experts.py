"""The variational mixture of experts that text and image share (E1 to E5 of docs/method.md).

Axes: B = posts, L = tokens, H = hidden size, K = experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput

from .objectives import at_least_float32, gaussian_kl, masked_mean, router_entropy

# The rows of `expert_loss_sums`.
MODALITIES = ("text", "image")

# E2-E4 expert by expert and in chunks of tokens, with a backward pass that needs little memory.
#
# Written out, the experts' outputs are 2 K matrices of the size of the hidden states, and autograd keeps several more.
# Here a chunk's outputs are computed, used, dropped unless all of them are small, and computed again in the backward
# pass, whose formulas stand below. One matrix of the size of the hidden states is kept. The router (E1) is part of it,
# so that its gradient is added to that of the experts and needs no separate matrix.

# As many tokens as keep a chunk's matrices in a core's cache; a GPU wants larger ones.
TOKENS_ON_CPU, TOKENS_ELSEWHERE = 512, 16384
# Outputs of the experts that are smaller than this are kept for the backward pass, which saves computing them again.
KEPT_BYTES = 2**27


def _chunks(number: int, device: torch.device) -> list[slice]:
    size = TOKENS_ON_CPU if device.type == "cpu" else TOKENS_ELSEWHERE
    return [slice(start, start + size) for start in range(0, number, size)]


class _ChunkedMixture(torch.autograd.Function):
    r"""See [`chunked_mixture`].

    With :math:`v = \sum_k p_k^2 e^{s_k}` and :math:`q = g_z \epsilon / \sqrt v`, where
    :math:`g_z` is the gradient of the mixture and :math:`g_n` that of the divergence of token n:

    .. math::
        \partial m_k = p_k g_z + g_n m_k \qquad \partial s_k = \tfrac12 (q p_k^2 e^{s_k} + g_n (e^{s_k} - 1))

        \partial \log p_k = p_k\, g_z \cdot m_k + q \cdot p_k^2 e^{s_k} \qquad \partial \epsilon = g_z \sqrt v

    With :math:`d_k` for the last but one, the logits of the router have :math:`d_k - p_k \sum_j d_j`, to which comes
    the gradient of the logits that are returned.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: torch.Tensor,
        noise: torch.Tensor | None,
        router: torch.Tensor,
        router_bias: torch.Tensor,
        means: torch.Tensor,
        means_bias: torch.Tensor,
        log_variances: torch.Tensor,
        log_variances_bias: torch.Tensor,
        draw: bool,
        keep: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        states, weights, biases = _operands(hidden_states, (means, log_variances), (means_bias, log_variances_bias))
        logits = at_least_float32(torch.addmm(router_bias.to(states.dtype), states, router.to(states.dtype).T))
        log_probs = logits.log_softmax(-1)
        probs = log_probs.exp()
        mixture = torch.empty_like(states)
        divergence = log_probs.new_empty(len(states))
        # Noise over deviation: all that the way back needs of either.
        sampled = draw or noise is not None
        ratio = torch.empty_like(states, dtype=log_probs.dtype) if sampled else None
        number = 2 * probs.numel() * states.shape[1]
        keep = keep and number * states.element_size() <= KEPT_BYTES
        kept = states.new_empty(2, probs.shape[1], *states.shape) if keep else None
        for rows in _chunks(len(states), states.device):
            mean = log_probs.new_zeros(len(probs[rows]), states.shape[1])
            variance = torch.zeros_like(mean)
            total = log_probs.new_zeros(len(mean))
            for expert in range(probs.shape[1]):
                p = probs[rows, expert, None]
                outputs = _outputs(expert, states[rows], weights, biases)
                if kept is not None:
                    for place, output in zip(kept, outputs, strict=True):
                        place[expert, rows] = output
                m, s = (output.to(mean.dtype) for output in outputs)
                exp_s = s.exp()
                mean.addcmul_(m, p)
                if sampled:
                    variance.addcmul_(exp_s, p.square())
                # The 1 element by element: taken from the sum, it would leave nothing of experts near N(0, I).
                total.add_((exp_s - 1).sub_(s).addcmul_(m, m).sum(1))
            divergence[rows] = 0.5 * total
            if ratio is not None:
                deviation = variance.sqrt_()
                drawn = torch.randn_like(mean) if noise is None else noise[rows]
                mean.addcmul_(deviation, drawn)
                # Where every variance underflows its gradient is 0, and not infinite.
                ratio[rows] = torch.where(deviation > 0, drawn / deviation, 0)
            mixture[rows] = mean
        parameters = (means, means_bias, log_variances, log_variances_bias)
        ctx.save_for_backward(hidden_states, log_probs, ratio, kept, router, *parameters)
        ctx.dtype = states.dtype
        return mixture, divergence, logits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,
        mixture_gradient: torch.Tensor,
        divergence_gradient: torch.Tensor,
        router_gradient: torch.Tensor,
    ) -> tuple[Any, ...]:
        hidden_states, log_probs, ratio, kept, router, *parameters = ctx.saved_tensors
        matrices, vectors = (parameters[0], parameters[2]), (parameters[1], parameters[3])
        states, weights, biases = _operands(hidden_states, matrices, vectors, ctx.dtype)
        probs = log_probs.exp()
        needs_states, needs_noise = ctx.needs_input_grad[:2]
        noise_gradient = torch.zeros_like(ratio) if needs_noise else None
        states_gradient = torch.zeros_like(states, dtype=log_probs.dtype) if needs_states else None
        logits_gradient = torch.zeros_like(log_probs)
        size, experts = states.shape[1], probs.shape[1]
        of_weights = [torch.zeros(size, experts, size, dtype=log_probs.dtype, device=states.device) for _ in weights]
        of_biases = [torch.zeros(size, experts, dtype=log_probs.dtype, device=states.device) for _ in biases]
        for rows in _chunks(len(states), states.device):
            g = mixture_gradient[rows].to(log_probs.dtype)
            g_n = divergence_gradient[rows, None]
            q = None if ratio is None else g * ratio[rows]
            # A view: the mixture's variance is summed up in it; its root times g, the noise's gradient, stays there.
            variance = None if noise_gradient is None else noise_gradient[rows]
            x = states[rows]
            for expert in range(experts):
                p = probs[rows, expert, None]
                outputs = _outputs(expert, x, weights, biases) if kept is None else kept[:, expert, rows]
                # Kept ones may be asked for again: nothing below may change them.
                m, s = (output.to(g.dtype, copy=kept is not None) for output in outputs)
                of_p = (g * m).sum(1) * p[:, 0]
                of_m = m.mul_(g_n).addcmul_(g, p)
                exp_s = s.exp_()
                of_s = (exp_s - 1).mul_(0.5 * g_n)
                if variance is not None:
                    variance.addcmul_(exp_s, p.square())
                if q is not None:
                    part = exp_s.mul_(q).mul_(p.square())
                    of_p += part.sum(1)
                    of_s.add_(part, alpha=0.5)
                logits_gradient[rows, expert] = of_p
                for gradient, weight, weight_gradient, bias_gradient in zip(
                    (of_m, of_s), weights, of_weights, of_biases, strict=True
                ):
                    bias_gradient[:, expert] += gradient.sum(0)
                    gradient = gradient.to(states.dtype)
                    weight_gradient[:, expert] += gradient.T @ x
                    if states_gradient is not None:
                        states_gradient[rows] += gradient @ weight[:, expert]
            if variance is not None:
                variance.sqrt_().mul_(g)
        logits_gradient.addcmul_(probs, logits_gradient.sum(1, keepdim=True), value=-1).add_(router_gradient)
        if states_gradient is not None:
            states_gradient.addmm_(logits_gradient, router.to(log_probs.dtype))
        of_router = logits_gradient.to(states.dtype).T @ states
        flat = [gradient for pair in zip(of_weights, of_biases, strict=True) for gradient in pair]
        gradients = [gradient.view(parameter.shape) for gradient, parameter in zip(flat, parameters, strict=True)]
        # Autograd gives every gradient the dtype of what it belongs to.
        return states_gradient, noise_gradient, of_router, logits_gradient.sum(0), *gradients, None, None


def _outputs(
    expert: int, states: torch.Tensor, weights: list[torch.Tensor], biases: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Means and log variances of one expert, for tokens (n, H)."""
    return [
        torch.addmm(bias[:, expert], states, weight[:, expert].T) for weight, bias in zip(weights, biases, strict=True)
    ]


def _operands(
    states: torch.Tensor,
    matrices: tuple[torch.Tensor, torch.Tensor],
    vectors: tuple[torch.Tensor, torch.Tensor],
    dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """States, weights as (H, K, H) and biases as (H, K) in the dtype in which autocast multiplies."""
    device = states.device.type
    if dtype is None:
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
    size = states.shape[1]
    weights = [matrix.to(dtype).view(size, -1, size) for matrix in matrices]
    return states.to(dtype), weights, [vector.to(dtype).view(size, -1) for vector in vectors]


def chunked_mixture(
    hidden_states: torch.Tensor,
    noise: torch.Tensor | None,
    router: torch.nn.Linear,
    expert_means: torch.nn.Linear,
    expert_log_variances: torch.nn.Linear,
    draw: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""The mixture of E3, or its mean without noise, the summand of E4 for every token, and the router's logits.

    Args:
        hidden_states: (N, H).
        noise: (N, H), epsilon of E3; `None`: drawn here if `draw`, else z is the mean.
        draw: draw the noise chunk by chunk; ignored if `noise` is given.
        router: H to K.
        expert_means, expert_log_variances: H to H*K, hidden-major.

    Returns:
        z (N, H); :math:`-\frac12 \sum_{k,h} (1 + s - m^2 - e^s)` (N,); the router's logits (N, K);
        the last two in at least single precision.
    """
    return cast(
        tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        _ChunkedMixture.apply(
            hidden_states,
            noise,
            router.weight,
            router.bias,
            expert_means.weight,
            expert_means.bias,
            expert_log_variances.weight,
            expert_log_variances.bias,
            draw,
            # Here, for within `forward` it is always off.
            torch.is_grad_enabled(),
        ),
    )


def is_plain(layer: nn.Module, kind: type[nn.Module] = nn.Linear) -> bool:
    """Whether the layer's weights may be used without its own forward, which would change or see nothing.

    For `experts_implementation="auto"`, which must not pass over what is added to a model once it is made.

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


def check_mixture_inputs(
    hidden_size: int,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    noise: torch.Tensor | None,
) -> None:
    """Raise ValueError for states that are not (B, L, H), or a mask or noise of another shape."""
    if hidden_states.ndim != 3 or hidden_states.shape[-1] != hidden_size:
        raise ValueError(f"hidden_states must be (B, L, {hidden_size}), got {tuple(hidden_states.shape)}.")
    if attention_mask is not None and attention_mask.shape != hidden_states.shape[:2]:
        raise ValueError(
            f"attention_mask must be (B, L) = {tuple(hidden_states.shape[:2])}, got {tuple(attention_mask.shape)}."
        )
    if noise is not None and noise.shape != hidden_states.shape:
        raise ValueError(f"noise must be (B, L, H) = {tuple(hidden_states.shape)}, got {tuple(noise.shape)}.")


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
        config: whose `experts_implementation` says which form runs; `None`: `"auto"`.
    """

    def __init__(
        self, hidden_size: int, num_experts: int, deterministic: bool = False, config: PreTrainedConfig | None = None
    ) -> None:
        super().__init__()
        self.config = config
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
            ValueError: a shape does not fit, or see `is_chunked`.
        """
        check_mixture_inputs(self.hidden_size, hidden_states, attention_mask, noise)
        wanted = self.training or noise is not None or return_losses
        # An exported graph takes any number of tokens, so it has no loop over chunks.
        if wanted and not self.deterministic and self.is_chunked and not torch.compiler.is_exporting():
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
    def is_chunked(self) -> bool:
        """Whether [`chunked_mixture`] runs, which reads the layers' weights and does not call their forward.

        `experts_implementation` decides. `"auto"` has to look in every pass: adapters, offloading and quantised
        weights come after the model is made, and must be called. Under `torch.compile` it takes the form that is
        written out, which the compiler fuses.

        Raises:
            ValueError: `"chunked"` was asked for, and would pass over what hooks into a layer or replaces it.
        """
        asked = getattr(self.config, "_experts_implementation", None) or "auto"
        if asked == "eager":
            return False
        if asked == "auto" and torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            return False
        others = [name for name, layer in self.named_children() if not is_plain(layer)]
        others += [] if is_plain(self, VariationalMixtureOfExperts) else ["the experts themselves"]
        if asked == "chunked" and others:
            raise ValueError(
                'experts_implementation must be "auto" or "eager" where hooks, adapters or quantised weights are in '
                f'the experts, got "chunked", which would pass over those in: {", ".join(others)}.'
            )
        return not others

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

    # Given the router, the means are linear in the tokens ("Linearity" in docs/method.md). Evaluation needs inner
    # products of them with a few vectors and weighted sums, for which no token is multiplied by an expert.

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


class ResidualMixtureOfExperts(nn.Module):
    r"""K experts of low rank that move a pretrained state; the bottleneck pulls back to where the encoder left it.

    .. math::
        \delta_k = A_k B_k x \qquad
        z = x + \sum_k p_k \delta_k + \sqrt{\textstyle\sum_k p_k^2 \sigma_0^2 e^{s_k}}\; \epsilon,
        \quad \epsilon \sim N(0, I)

    E1 to E3 with :math:`N(x, \sigma_0^2 I)` as the prior instead of :math:`N(0, I)`: E4 becomes

    .. math::
        \sum_k p_k \, \frac{1}{H} \sum_h \tfrac12 \left(\delta_k^2 / \sigma_0^2 + e^{s_k} - s_k - 1\right)

    per token, which is 0 where no expert moves it. An expert's log variances :math:`s_k` are one vector, whatever x.
    They and :math:`A_k` start at 0, so an untrained mixture leaves every state as it is, and evaluation, which takes
    the mean, begins with what the encoder knows. No matrix of all experts and states is written out:
    :math:`|\delta_k|^2 = h^T A_k^T A_k h` with :math:`h = B_k x`, and :math:`A_k^T A_k` is r x r.

    Args:
        hidden_size: H.
        num_experts: K.
        rank: r, of each expert.
        prior_std: :math:`\sigma_0`, in the units of the states; 0 for experts without noise and bottleneck.
    """

    def __init__(self, hidden_size: int, num_experts: int, rank: int = 16, prior_std: float = 0.1) -> None:
        super().__init__()
        if min(hidden_size, num_experts, rank) < 1:
            raise ValueError(
                f"hidden_size, num_experts and rank must be at least 1, got {hidden_size}, {num_experts}, {rank}."
            )
        self.hidden_size, self.num_experts, self.rank, self.prior_std = hidden_size, num_experts, rank, prior_std
        self.router = nn.Linear(hidden_size, num_experts)
        # B_k of all experts, H to K r; and A_k transposed, named as in the Gaussian experts.
        self.down = nn.Linear(hidden_size, num_experts * rank, bias=False)
        self.expert_means = nn.Parameter(torch.zeros(num_experts, rank, hidden_size))
        if prior_std:
            self.expert_log_variances = nn.Parameter(torch.zeros(num_experts, hidden_size))

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        return_losses: bool = True,
    ) -> VariationalMixtureOutput:
        """Arguments, output and errors as of [`VariationalMixtureOfExperts`]."""
        check_mixture_inputs(self.hidden_size, hidden_states, attention_mask, noise)
        # Pooled states come in single precision, also those of a model whose weights are in half.
        states = hidden_states.to(self.expert_means.dtype)
        router_logits = self.router(states)
        probs = router_logits.softmax(-1)
        low_rank = self.down(states).unflatten(-1, (self.num_experts, self.rank))
        mixture = hidden_states + torch.einsum("blk,blkr,krh->blh", probs, low_rank, self.expert_means)
        if self.prior_std and (self.training or noise is not None):
            noise = torch.randn_like(mixture) if noise is None else noise
            mixture = mixture + self.token_variances(hidden_states, probs).sqrt().to(mixture.dtype) * noise
        kl_loss = entropy = None
        if return_losses:
            entropy = router_entropy(router_logits, attention_mask)
            kl_loss = masked_mean(self._divergences(low_rank, probs), attention_mask)
        return VariationalMixtureOutput(
            hidden_states=mixture, router_probs=probs, kl_loss=kl_loss, router_entropy=entropy
        )

    def _divergences(self, low_rank: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
        """E4 of every token, (B, L), of B_k x (B, L, K, r) and p (B, L, K), in no less than single precision."""
        probs = at_least_float32(probs)
        if not self.prior_std:
            return torch.zeros_like(probs[..., 0])
        means, low_rank = at_least_float32(self.expert_means), at_least_float32(low_rank)
        moves = torch.einsum("blkr,krs,blks->blk", low_rank, means @ means.transpose(1, 2), low_rank)
        log_variances = at_least_float32(self.expert_log_variances)
        spread = (log_variances.exp() - log_variances - 1).mean(-1)
        return 0.5 * (probs * (moves / (self.hidden_size * self.prior_std**2) + spread)).sum(-1)

    def token_variances(self, hidden_states: torch.Tensor, router_probs: torch.Tensor) -> torch.Tensor:
        r"""The variances of mixtures as training draws them, :math:`\sum_k p_k^2 \sigma_0^2 e^{s_k}`.

        Args:
            hidden_states: (..., H), of which they do not depend.
            router_probs: (..., K).

        Returns:
            (..., H), in no less than single precision.

        Raises:
            ValueError: `prior_std` is 0, so there is nothing to draw.
        """
        if not self.prior_std:
            raise ValueError("expert_prior_std: experts without variances have nothing to draw, got 0.")
        variances = self.prior_std**2 * at_least_float32(self.expert_log_variances).exp()
        return at_least_float32(router_probs).square() @ variances


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


def expert_losses(
    mixtures: Sequence[VariationalMixtureOutput], masks: Sequence[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """E4 and E5, means over the modalities, and the sums behind them.

    Args:
        mixtures: with their terms, of the images' tokens, if there are any, and last of the text's.
        masks: (B, L) of each.

    Returns:
        `kl_loss`, `router_entropy_loss` and `expert_loss_sums` of [`MGVMoEModelOutput`].
    """
    *image, text = mixtures
    # Images that are all masked are no modality: their terms are 0 and must not halve those of the text.
    number = 1 + masks[0].any() if image else 1
    return {
        "kl_loss": torch.stack([cast(torch.Tensor, mixture.kl_loss) for mixture in mixtures]).sum() / number,
        "router_entropy_loss": (
            torch.stack([cast(torch.Tensor, mixture.router_entropy) for mixture in mixtures]).sum() / number
        ),
        "expert_loss_sums": torch.stack(
            [
                loss_sums(text, masks[-1]),
                loss_sums(image[0], masks[0]) if image else loss_sums(None, masks[0][:0]),
            ]
        ),
    }


def loss_sums(mixture: VariationalMixtureOutput | None, mask: torch.Tensor) -> torch.Tensor:
    """One row of `expert_loss_sums`, (3,), in no less than single precision: it holds a count."""
    number = mask.sum().float()
    if mixture is None:
        return torch.stack([torch.zeros_like(number)] * 2 + [number])
    assert mixture.kl_loss is not None and mixture.router_entropy is not None, "they were asked for"
    return torch.stack([mixture.kl_loss * number, mixture.router_entropy * number, number])


def losses_of_sums(sums: torch.Tensor) -> torch.Tensor:
    """E4 and E5, (2,): means over the modalities that have tokens, of rows (M, 3) of `expert_loss_sums`."""
    totals, numbers = sums.split([2, 1], dim=1)
    return (totals / numbers.clamp(min=1)).sum(0) / (numbers > 0).sum()


__all__ = [
    "MODALITIES",
    "NoExperts",
    "ResidualMixtureOfExperts",
    "VariationalMixtureOfExperts",
    "VariationalMixtureOutput",
    "check_mixture_inputs",
    "chunked_mixture",
    "expert_losses",
    "loss_sums",
    "losses_of_sums",
]
