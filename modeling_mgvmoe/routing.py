"""Which experts a token may go to."""

import torch


def top_logits(router_logits: torch.Tensor, num_experts_per_tok: int | None) -> torch.Tensor:
    """Logits of which only a token's greatest are left, so that the softmax of E1 chooses among these alone.

    Args:
        router_logits: (..., K).
        num_experts_per_tok: so many stay as they are, the others become minus infinity; `None`, all stay.

    Returns:
        (..., K).
    """
    if num_experts_per_tok is None or num_experts_per_tok >= router_logits.shape[-1]:
        return router_logits
    logits, experts = router_logits.topk(num_experts_per_tok, dim=-1)
    return torch.full_like(router_logits, -torch.inf).scatter(-1, experts, logits)


__all__ = ["top_logits"]
