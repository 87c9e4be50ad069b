"""An order of rows that does not depend on the order in which they came."""

import torch


def canonical_order(keys: torch.Tensor) -> torch.Tensor:
    """The order that sorts rows lexicographically, so that what is computed in it does not depend on the rows' order.

    Matrix products round the same row differently at another place, and a score must not depend on the place of its
    label, not even in the last bit.

    Args:
        keys: (..., C, n), n numbers to compare for each of the C rows.

    Returns:
        (..., C), a permutation.
    """
    order = torch.arange(keys.shape[-2], device=keys.device).expand(keys.shape[:-1])
    for column in reversed(range(keys.shape[-1])):
        order = order.gather(-1, keys[..., column].gather(-1, order).argsort(dim=-1, stable=True))
    return order


__all__ = ["canonical_order"]
