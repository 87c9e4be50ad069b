r"""The graph over the posts of a batch, its adversarial consistency (E10 and E11), and label propagation.

Axes: B = posts, C = candidate labels, N = size of a node, 2H when a node of E10 is [image ; text].
"""

import importlib
from collections.abc import Hashable, Iterable
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F

from .objectives import at_least_float32


def cosine_graph(nodes: torch.Tensor) -> torch.Tensor:
    r"""E10: :math:`G_{ij} = (\cos(n_i, n_j) + 1) / 2`, self loops kept.

    Args:
        nodes: (B, N).

    Returns:
        (B, B), symmetric, in [0, 1].
    """
    directions = F.normalize(nodes, dim=-1)
    return (directions @ directions.T + 1) / 2


def neighbour_agreement(nodes: torch.Tensor, graph: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    r"""E10: logits of how much a post agrees with its neighbours against the rest.

    :math:`[\,n_b \cdot (G n)_b,\; n_b \cdot ((1 - G) n)_b\,] / T`; their softmax is a(n).

    Args:
        nodes: (B, N).
        graph: (B, B).
        temperature: T. 1 is the paper's, at which the softmax saturates for nodes of real size, so that E11 and its
            gradient vanish.

    Returns:
        (B, 2).
    """
    if graph.shape != (len(nodes), len(nodes)):
        raise ValueError(f"graph must be (B, B) with B = {len(nodes)} nodes, got {tuple(graph.shape)}.")
    near = (nodes * (graph @ nodes)).sum(-1)
    rest = (nodes * ((1 - graph) @ nodes)).sum(-1)
    return torch.stack([near, rest], dim=-1) / temperature


def adversarial_consistency(nodes: torch.Tensor, perturbation: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    r"""E11: :math:`KL(a(n) \,\|\, a(n + d))`, the same graph in both, mean over the posts.

    The reference clips the probabilities at 1e-7, which stops the gradient of saturated posts; ours is exact, from
    logarithms.

    Args:
        nodes: (B, N). The gradient flows through the graph and through both agreements.
        perturbation: d, (1, N) shared by the posts or (B, N).
        temperature: see [`neighbour_agreement`].

    Returns:
        A scalar.
    """
    if perturbation.ndim != 2 or perturbation.shape[-1] != nodes.shape[-1]:
        raise ValueError(
            f"perturbation must be (1, N) or (B, N) with N = {nodes.shape[-1]}, got {tuple(perturbation.shape)}."
        )
    nodes, perturbation = at_least_float32(nodes), at_least_float32(perturbation)
    graph = cosine_graph(nodes)
    clean = neighbour_agreement(nodes, graph, temperature).log_softmax(-1)
    perturbed = neighbour_agreement(nodes + perturbation, graph, temperature).log_softmax(-1)
    return (clean.exp() * (clean - perturbed)).sum(-1).mean()


class _ReverseGradient(torch.autograd.Function):
    """Identity whose gradient changes its sign, so that one backward pass descends and ascends."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return -gradient


def learned_adversary_loss(
    nodes: torch.Tensor,
    perturbation: torch.Tensor,
    temperature: float = 1.0,
) -> torch.Tensor:
    """E11 with a learned perturbation: worth KL; its gradient is that of KL for the network, of ||d|| - KL for d.

    Differs from the reference, which moves d in an extra forward and backward pass and then lets the
    network's step, which descends on KL, move d back.

    Args:
        nodes: (B, N).
        perturbation: the parameter d, (1, N).
        temperature: see [`neighbour_agreement`].
    """
    divergence = adversarial_consistency(nodes, _ReverseGradient.apply(perturbation), temperature)
    norm = torch.linalg.vector_norm(perturbation)
    return divergence + (norm - norm.detach())


def power_perturbation(
    nodes: torch.Tensor,
    radius: float = 1.0,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    r"""E11's perturbation by one step of power iteration, the usual form of virtual adversarial training.

    :math:`d = r\, g / \|g\|` per post, g the gradient of the KL at a small random d.

    Args:
        nodes: (B, N); no gradient flows into them from here.
        radius: r, in units of the mean norm of the nodes.
        temperature: see [`neighbour_agreement`].
        generator: source of the random direction.

    Returns:
        (B, N), without gradient.
    """
    # Also where gradients are off: evaluation asks for the loss too. A clone, because inference mode's tensors cannot
    # take part in a gradient.
    with torch.inference_mode(False), torch.enable_grad():
        nodes = at_least_float32(nodes.detach().clone())
        scale = nodes.norm(dim=-1).mean()
        start = torch.randn(nodes.shape, generator=generator, device=nodes.device, dtype=nodes.dtype)
        # KL is flat at d = 0, so the step starts a little beside it; in single precision 1e-3 is far above rounding.
        start = (1e-3 * scale * F.normalize(start, dim=-1)).requires_grad_()
        (gradient,) = torch.autograd.grad(adversarial_consistency(nodes, start, temperature), start)
    return radius * scale * F.normalize(gradient, dim=-1)


def random_perturbation(
    nodes: torch.Tensor, radius: float = 1.0, generator: torch.Generator | None = None
) -> torch.Tensor:
    """A perturbation without an adversary, for comparison: a random direction of the same length.

    Args:
        nodes, radius, generator: see [`power_perturbation`].

    Returns:
        (B, N), without gradient.
    """
    nodes = at_least_float32(nodes.detach())
    start = torch.randn(nodes.shape, generator=generator, device=nodes.device, dtype=nodes.dtype)
    return radius * nodes.norm(dim=-1).mean() * F.normalize(start, dim=-1)


def to_pyg_data(nodes: torch.Tensor, graph: torch.Tensor | None = None) -> Any:
    """The sample graph as a `torch_geometric.data.Data`, for whoever wants to work on it with PyTorch Geometric.

    Args:
        nodes: (B, N).
        graph: (B, B); default [`cosine_graph`] of the nodes.

    Returns:
        `Data` with `x` (B, N), `edge_index` (2, E) and `edge_weight` (E,), one edge per non-zero entry.

    Raises:
        ImportError: torch-geometric is not installed. Nothing else in the package's inference needs it.
    """
    try:
        # Not an import statement: the Hub's loader refuses a repository with one for a package that is missing.
        data_module = importlib.import_module("torch_geometric.data")
        utils_module = importlib.import_module("torch_geometric.utils")
    except ImportError as error:
        raise ImportError(
            "to_pyg_data needs torch-geometric, which is not installed: pip install torch-geometric"
        ) from error
    edge_index, edge_weight = utils_module.dense_to_sparse(cosine_graph(nodes) if graph is None else graph)
    return data_module.Data(x=nodes, edge_index=edge_index, edge_weight=edge_weight)


# Rows of the matrix of cosines that are in memory together.
ROWS_AT_ONCE = 1024


def check_num_neighbors(num_neighbors: Any, num_samples: int | None = None) -> None:
    """Refuse what is no number of neighbours.

    Raises:
        ValueError: it is no integer of at least 0, or there are draws, which neighbours do not share.
    """
    if isinstance(num_neighbors, bool) or not isinstance(num_neighbors, Integral) or num_neighbors < 0:
        raise ValueError(f"num_neighbors: an integer of at least 0 is needed (got {num_neighbors!r})")
    if num_neighbors and num_samples is not None:
        raise ValueError(f"num_neighbors: it excludes num_samples (got {num_neighbors} and {num_samples})")


def number_groups(keys: Iterable[Hashable | None]) -> torch.Tensor:
    """(B,), equal numbers for equal keys, which are not `None`: `groups` of [`nearest_neighbors`]."""
    first: dict[Hashable, int] = {}
    return torch.tensor([row if key is None else first.setdefault(key, row) for row, key in enumerate(keys)])


def nearest_neighbors(
    nodes: torch.Tensor, k: int, groups: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest other posts of each post by cosine, and their weights.

    Args:
        nodes: (B, N).
        k: at least 1; at most B - 1 neighbours there are.
        groups: (B,), numbers; posts of one group are no neighbours. Default: each post has its own.

    Returns:
        `edge_index` (2, E) from neighbour to post, and `edge_weight` (E,), cosines (0 for negative ones) that add up
        to 1 for each post, or to 0 where all are negative.

    Raises:
        ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    directions = F.normalize(nodes, dim=-1)
    k = min(k, len(nodes) - 1)
    groups = torch.arange(len(nodes), device=nodes.device) if groups is None else groups
    sources, weights = [], []
    for rows in torch.arange(len(nodes), device=nodes.device).split(ROWS_AT_ONCE):
        cosines = directions[rows] @ directions.T
        cosines[groups[rows, None] == groups] = -torch.inf  # itself, too
        found = cosines.topk(k, dim=-1)
        own = found.values.clamp(min=0)
        weights.append(own / own.sum(-1, keepdim=True).clamp(min=torch.finfo(own.dtype).tiny))
        sources.append(found.indices)
    targets = torch.arange(len(nodes), device=nodes.device).repeat_interleave(k)
    return torch.stack([torch.cat(sources).flatten(), targets]), torch.cat(weights).flatten()


def propagate_labels(
    probs: torch.Tensor,
    nodes: torch.Tensor,
    k: int = 20,
    share: float = 0.5,
    groups: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""One step of label propagation, :math:`(1 - \alpha) p_b + \alpha \sum_{j \in N_k(b)} w_{bj} p_j`.

    Args:
        probs: (B, C), each post's probabilities of the candidates.
        nodes: (B, N), vectors of the posts, whose cosines choose and weigh the neighbours.
        k: neighbours of a post.
        share: alpha, in [0, 1]; 0 leaves the probabilities as they are.
        groups: (B,), numbers; posts of one group do not share, as the two directions of a pair, which are near each
            other and say the contrary. Default: each post has its own.

    Returns:
        (B, C). A post without neighbours keeps its own.

    Raises:
        ValueError: an argument is out of its range.
    """
    # Not by an import statement: a folder on the Hub runs without this library until it is asked for neighbours.
    try:
        layer = importlib.import_module("torch_geometric.nn").SimpleConv(aggr="sum")
    except ImportError as error:
        raise ImportError("num_neighbors needs the package torch-geometric: pip install torch-geometric") from error
    if not 0 <= share <= 1:
        raise ValueError(f"share must be between 0 and 1, got {share}.")
    if len(probs) != len(nodes):
        raise ValueError(f"probs and nodes must have one row for each post, got {len(probs)} and {len(nodes)}.")
    if len(probs) < 2 or not share:
        return probs
    edge_index, edge_weight = nearest_neighbors(nodes, k, groups)
    edge_weight = edge_weight.to(probs.dtype)
    around = layer(probs, edge_index, edge_weight)
    total = probs.new_zeros(len(probs)).index_add(0, edge_index[1], edge_weight)
    return torch.where(total[:, None] > 0, (1 - share) * probs + share * around, probs)


__all__ = [
    "adversarial_consistency",
    "check_num_neighbors",
    "cosine_graph",
    "learned_adversary_loss",
    "nearest_neighbors",
    "neighbour_agreement",
    "number_groups",
    "power_perturbation",
    "propagate_labels",
    "random_perturbation",
    "to_pyg_data",
]
