r"""E2-E4 expert by expert and in chunks of tokens, with a backward pass that needs little to be kept.

Written out, the experts' outputs are K times 2 matrices of the size of the hidden states, and autograd keeps several
more of that size. Here a chunk's are computed, used and, unless all of them together are small, dropped, and computed
again in the backward pass, whose formulas stand below. What is kept is one matrix of the size of the hidden states.
The router (E1) is in it, so that its part of their gradient is added to the experts' and needs no matrix of its own.

Axes: N = tokens, H = hidden size, K = experts.
"""

from typing import Any, cast

import torch

from .objectives import at_least_float32

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
        variances: torch.Tensor,
        variances_bias: torch.Tensor,
        draw: bool,
        keep: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        states, weights, biases = _operands(hidden_states, (means, variances), (means_bias, variances_bias))
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
        parameters = (means, means_bias, variances, variances_bias)
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
        noise: (N, H), or `None` for the mean, or for
        draw: noise that is drawn here, chunk by chunk.
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


__all__ = ["chunked_mixture"]
