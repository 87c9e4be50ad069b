"""Where the tokens of a picture lie in it: the grid of patches, and patches that are merged (`spatial_merge_size`)."""

from typing import Any

import torch
import torch.nn.functional as F

# Tokens before the patches: class, distillation and register tokens. No tower of transformers has more.
MOST_BEFORE = 8


def patch_grid(num_tokens: int, height: int, width: int, patch_size: Any = None) -> tuple[int, int, int] | None:
    """Rows and columns of a picture's tokens.

    A tower of square patches, with or without tokens before them, is told by its patch size; one that merges patches
    (Swin) or whose feature map was flattened (MobileNetV2) by the shape of the picture: among the ways to read the
    tokens as a grid, the one with fewest tokens before it whose cells are square.

    Args:
        num_tokens: Li.
        height, width: of the pixel values.
        patch_size: of the vision configuration, an integer or a pair, if it has one.

    Returns:
        Rows, columns, and the number of tokens before the first patch; `None` if the tokens make no such grid.
    """
    sizes = list(patch_size) if isinstance(patch_size, (list, tuple)) else [patch_size] * 2
    if len(sizes) == 2 and all(isinstance(size, int) and size > 0 for size in sizes):
        rows, columns = height // sizes[0], width // sizes[1]
        if rows and columns and 0 <= num_tokens - rows * columns <= MOST_BEFORE:
            return rows, columns, num_tokens - rows * columns
    for before in range(min(MOST_BEFORE, num_tokens - 1) + 1):
        patches = num_tokens - before
        rows = max(1, round((patches * height / width) ** 0.5))
        # Odd sides are rounded up or down on their way through the layers.
        for own in (rows, rows + 1, rows - 1):
            if own > 0 and patches % own == 0 and _fits(own, patches // own, height, width):
                return own, patches // own, before
    return None


def _fits(rows: int, columns: int, height: int, width: int) -> bool:
    """Whether cells are square but for rounding; those of a square picture are without."""
    if height == width:
        return rows == columns
    sides = height / rows, width / columns
    return max(sides) <= 1.25 * min(sides)


def merge_patches(
    states: torch.Tensor, height: int, width: int, patch_size: Any = None, spatial_merge_size: int = 1
) -> torch.Tensor:
    """Means over squares of neighbouring patches; tokens before the patches stay as they are.

    Args:
        states: (B, Li, H'), or a feature map (B, H', h, w).
        height, width: of the pixel values.
        patch_size: of the vision configuration, if it has one.
        spatial_merge_size: s, the side of the squares; 1 merges nothing.

    Returns:
        (B, Li', H') with 1/s^2 of the patches.

    Raises:
        ValueError: the tokens make no grid, or s does not divide its rows and columns.
    """
    if states.ndim == 4:
        before, patches = None, states
    elif spatial_merge_size == 1:
        return states
    else:
        grid = patch_grid(states.shape[1], height, width, patch_size)
        if grid is None:
            raise ValueError(
                "spatial_merge_size must be 1 for a vision encoder whose tokens make no grid, "
                f"got {spatial_merge_size} with {states.shape[1]} tokens for {height} x {width} pixels."
            )
        rows, columns, first = grid
        before, patches = states[:, :first], states[:, first:].transpose(1, 2).unflatten(2, (rows, columns))
    if any(side % spatial_merge_size for side in patches.shape[2:]):
        raise ValueError(
            f"spatial_merge_size must divide the {patches.shape[2]} rows and {patches.shape[3]} columns of patches, "
            f"got {spatial_merge_size}."
        )
    if spatial_merge_size > 1:
        patches = F.avg_pool2d(patches, spatial_merge_size)
    patches = patches.flatten(2).transpose(1, 2)
    return patches if before is None else torch.cat([before, patches], dim=1)


__all__ = ["merge_patches", "patch_grid"]
