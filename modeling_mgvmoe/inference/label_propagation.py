"""Posts that are scored together share their answers with their neighbours: label propagation over a k-NN graph.

Axes: B = posts, C = candidate labels, N = size of a node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F

from ..data.encoding import PostCollator
from ..labels import in_evaluation
from .predict import embed_candidates

if TYPE_CHECKING:
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE

# Rows of the matrix of cosines that are in memory together.
ROWS_AT_ONCE = 1024


def nearest_neighbours(nodes: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest other posts of each post by cosine, and their weights.

    Args:
        nodes: (B, N).
        k: at least 1; at most B - 1 neighbours there are.

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
    sources, weights = [], []
    for rows in torch.arange(len(nodes), device=nodes.device).split(ROWS_AT_ONCE):
        cosines = directions[rows] @ directions.T
        cosines[torch.arange(len(rows), device=nodes.device), rows] = -torch.inf  # itself
        found = cosines.topk(k, dim=-1)
        own = found.values.clamp(min=0)
        weights.append(own / own.sum(-1, keepdim=True).clamp(min=torch.finfo(own.dtype).tiny))
        sources.append(found.indices)
    targets = torch.arange(len(nodes), device=nodes.device).repeat_interleave(k)
    return torch.stack([torch.cat(sources).flatten(), targets]), torch.cat(weights).flatten()


def propagate_labels(probs: torch.Tensor, nodes: torch.Tensor, k: int = 20, share: float = 0.5) -> torch.Tensor:
    r"""One step of label propagation, :math:`(1 - \alpha) p_b + \alpha \sum_{j \in N_k(b)} w_{bj} p_j`.

    Args:
        probs: (B, C), each post's probabilities of the candidates.
        nodes: (B, N), vectors of the posts, whose cosines choose and weigh the neighbours.
        k: neighbours of a post.
        share: alpha, in [0, 1]; 0 leaves the probabilities as they are.

    Returns:
        (B, C). A post without neighbours keeps its own.

    Raises:
        ValueError: an argument is out of its range.
    """
    from torch_geometric.nn import SimpleConv

    if not 0 <= share <= 1:
        raise ValueError(f"share must be between 0 and 1, got {share}.")
    if len(probs) != len(nodes):
        raise ValueError(f"probs and nodes must have one row for each post, got {len(probs)} and {len(nodes)}.")
    if len(probs) < 2 or not share:
        return probs
    edge_index, edge_weight = nearest_neighbours(nodes, k)
    edge_weight = edge_weight.to(probs.dtype)
    around = SimpleConv(aggr="sum")(probs, edge_index, edge_weight)
    total = probs.new_zeros(len(probs)).index_add(0, edge_index[1], edge_weight)
    return torch.where(total[:, None] > 0, (1 - share) * probs + share * around, probs)


def probs_and_nodes(
    model: MGVMoEForZeroShotIE,
    encoded_posts: Sequence[Mapping[str, Any]],
    collator: PostCollator,
    batch_size: int = 64,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What [`propagate_labels`] takes: probabilities of the candidates, and the vectors of post and mentions.

    Args:
        model: with `score="similarity"`.
        encoded_posts: of `encode_posts`, of one task.
        collator: with the candidate labels.
        batch_size: in posts; changes nothing but speed.

    Returns:
        (B, C) and (B, (1 + max_mentions) D).

    Raises:
        ValueError: the model has no vectors of mentions.
    """
    if model.config.score != "similarity":
        raise ValueError(f'model: score="similarity" is needed, got {model.config.score!r}.')
    candidates = embed_candidates(model, collator)
    order = sorted(range(len(encoded_posts)), key=lambda index: len(encoded_posts[index]["input_ids"]))
    probs, nodes = [], []
    for start in range(0, len(order), batch_size):
        inputs = collator.model_inputs([encoded_posts[index] for index in order[start : start + batch_size]])
        mask = inputs.pop("candidate_mask").to(model.device)
        with in_evaluation(model):
            posts = model.encode_posts(**{name: value.to(model.device) for name, value in inputs.items()})
            probs.append(model.score(posts, **candidates, candidate_mask=mask).softmax(-1))
        mentions = cast(torch.Tensor, posts.mention_directions)
        mentions = F.pad(mentions, (0, 0, 0, model.config.max_mentions - mentions.shape[1]))
        nodes.append(torch.cat([posts.mention_embeds[:, None], mentions], dim=1).flatten(1))
    back = torch.tensor(order).argsort()
    return torch.cat(probs)[back], torch.cat(nodes)[back]
