"""Where the tokens of a picture lie in it: the grid of patches."""

from typing import Any

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
