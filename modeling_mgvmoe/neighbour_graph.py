r"""The sample graph beyond all pairs of one batch: k nearest neighbours, and posts of earlier batches (E10, E11).

E10 joins every pair of posts of a batch. Here a post b has the neighbours N(b), its k most similar ones among the
batch (itself included, as E10 keeps self loops) and a memory of recent posts, whose nodes carry no gradient:

.. math:: a(n)_b = \mathrm{softmax}\Big(\big[\,n_b \cdot \!\!\sum_{j \in N(b)}\! G_{bj} n_j,\;
    n_b \cdot \!\!\sum_{j \in N(b)}\! (1 - G_{bj}) n_j\,\big] / T\Big)

With k as large as the batch and no memory this is E10. The sums run over edges, through torch-geometric.

Axes: B = posts, M = posts of the memory, N = size of a node, E = edges.
"""

import importlib
from typing import Any

import torch
import torch.nn.functional as F

from .objectives import at_least_float32


def nearest_neighbours(nodes: torch.Tensor, sources: torch.Tensor, k: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    r"""The edges from every post's neighbours to it, and their weights :math:`G = (\cos + 1) / 2`.

    Args:
        nodes: (B, N).
        sources: (B + M, N), among which the neighbours are.
        k: neighbours of each post, those with the greatest cosines; `None`, or more than there are: all.

    Returns:
        edge_index (2, E), rows of `sources` and of `nodes`, and edge_weight (E,), through which gradients flow.
    """
    similarity = (F.normalize(nodes, dim=-1) @ F.normalize(sources, dim=-1).T + 1) / 2
    number = similarity.shape[1] if k is None else min(k, similarity.shape[1])
    chosen = similarity.topk(number, dim=-1).indices
    targets = torch.arange(len(nodes), device=nodes.device)[:, None].expand_as(chosen)
    edge_index = torch.stack([chosen.flatten(), targets.flatten()])
    return edge_index, similarity.gather(1, chosen).flatten()


def edge_agreement(
    nodes: torch.Tensor,
    sources: torch.Tensor,
    edge_index: torch.Tensor,
    edge_weight: torch.Tensor,
    temperature: float = 1.0,
) -> torch.Tensor:
    """E10's logits over edges, (B, 2); arguments as of [`nearest_neighbours`]."""
    conv = _sum_over_edges()
    near = (nodes * conv((sources, nodes), edge_index, edge_weight)).sum(-1)
    rest = (nodes * conv((sources, nodes), edge_index, 1 - edge_weight)).sum(-1)
    return torch.stack([near, rest], dim=-1) / temperature


def neighbour_consistency(
    nodes: torch.Tensor,
    perturbation: torch.Tensor,
    temperature: float = 1.0,
    k: int | None = None,
    memory: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""E11 over this graph: :math:`KL(a(n) \,\|\, a(n + d))`, the same edges and weights in both, mean over the posts.

    The posts of the batch are perturbed, those of the memory are not.

    Args:
        nodes: (B, N).
        perturbation: d, (1, N) shared by the posts or (B, N).
        temperature: T of E10.
        k: neighbours of each post; `None`: all.
        memory: (M, N), or `None`.

    Returns:
        A scalar; equal to `sample_graph.adversarial_consistency` with k of at least B and no memory.

    Raises:
        ValueError: a shape does not fit.
        ImportError: torch-geometric is not installed.
    """
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    if memory is not None and (memory.ndim != 2 or memory.shape[1] != nodes.shape[1]):
        raise ValueError(f"memory must be (M, {nodes.shape[1]}), got {tuple(memory.shape)}.")
    if perturbation.ndim != 2 or perturbation.shape[-1] != nodes.shape[-1]:
        raise ValueError(
            f"perturbation must be (1, N) or (B, N) with N = {nodes.shape[-1]}, got {tuple(perturbation.shape)}."
        )
    nodes, perturbation = at_least_float32(nodes), at_least_float32(perturbation)
    rows = nodes.new_zeros(0, nodes.shape[1]) if memory is None else memory.detach().to(nodes)
    sources = torch.cat([nodes, rows])
    edges, weights = nearest_neighbours(nodes, sources, k)
    clean = edge_agreement(nodes, sources, edges, weights, temperature).log_softmax(-1)
    moved = nodes + perturbation
    perturbed = edge_agreement(moved, torch.cat([moved, rows]), edges, weights, temperature).log_softmax(-1)
    return (clean.exp() * (clean - perturbed)).sum(-1).mean()


def remember(memory: torch.Tensor, seen: torch.Tensor, nodes: torch.Tensor) -> None:
    """Put nodes in the place of the oldest ones, in place.

    Args:
        memory: (M, N).
        seen: (1,), how many nodes were ever put in; counted on.
        nodes: (n, N); of more than M the last ones stay.
    """
    size = len(memory)
    kept = nodes.detach()[-size:].to(memory)
    first = seen + len(nodes) - len(kept)
    places = (first + torch.arange(len(kept), device=memory.device)) % size
    memory.index_copy_(0, places, kept)
    seen += len(nodes)


def remembered(memory: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """A copy of the nodes that are there, (at most M, N)."""
    return memory[: min(int(seen), len(memory))].clone()


def _sum_over_edges() -> Any:
    """torch-geometric's convolution without weights of its own: the sum over a node's edges, weighted."""
    try:
        # Not an import statement: the Hub's loader refuses a repository with one for a package that is missing.
        return importlib.import_module("torch_geometric.nn").SimpleConv(aggr="sum")
    except ImportError as error:
        raise ImportError(
            "graph_neighbours and graph_memory need torch-geometric in training: pip install torch-geometric"
        ) from error


__all__ = [
    "edge_agreement",
    "nearest_neighbours",
    "neighbour_consistency",
    "remember",
    "remembered",
]
