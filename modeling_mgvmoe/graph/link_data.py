"""Relations between entities, divided so that nothing of those to be predicted can be seen in training.

Two entities may be related by several relations, in both directions, and in several posts. All of these are on one
side of the division: what is divided are the unordered pairs. Posts that state a relation of a held-out pair are
hidden as a whole, so that their mentions do not give entities their types either; and who is mentioned together with
whom is no input of the predictor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .hetero_data import relation_types

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

# Unordered pairs that there must be, for figures on a tenth of them to say something.
LEAST_PAIRS = 50
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


@dataclass(frozen=True)
class Links:
    """Statements head, relation, tail.

    Attributes:
        ends: (2, E), entities.
        relations: (E,), numbers from 0 to R - 1.
    """

    ends: torch.Tensor
    relations: torch.Tensor

    def __len__(self) -> int:
        return len(self.relations)

    def select(self, kept: torch.Tensor) -> Links:
        """Those of a mask (E,) or of places."""
        return Links(self.ends[:, kept], self.relations[kept])


@dataclass(frozen=True)
class LinkData:
    """What a link predictor may see of a graph.

    Attributes:
        source: the graph.
        links: between its N entities, without those of an entity to itself.
        names: of the R relations.
    """

    source: HeteroData
    links: Links
    names: tuple[str, ...]

    @property
    def num_entities(self) -> int:
        """N."""
        return int(self.source["entity"].num_nodes)

    def pair_keys(self, ends: torch.Tensor) -> torch.Tensor:
        """(E,), a number for each unordered pair."""
        return ends.min(0).values * self.num_entities + ends.max(0).values

    def features(self, hidden: Sequence[Links] = ()) -> torch.Tensor:
        """Types of the entities.

        Args:
            hidden: held-out links; posts that state a relation between any of these pairs count for nothing.

        Returns:
            (N, T), of each entity the mean score of each type over its mentions, without those of no type; 0 where
            there are none or a ranking was cut off.
        """
        graph = self.source
        count, size, mentions = self.num_entities, graph["entity_type"].num_nodes, graph["mention"].num_nodes
        entity_of, post_of = (torch.empty(mentions, dtype=torch.long) for _ in range(2))
        for target, kind in ((entity_of, "refers_to"), (post_of, "in")):
            mention, other = graph["mention", kind, "entity" if kind == "refers_to" else "post"].edge_index
            target[mention] = other
        kept = (graph["mention"].y >= 0) & ~self._hidden_posts(hidden, entity_of, post_of)[post_of]
        store = graph["mention", "scored", "entity_type"]
        own = kept[store.edge_index[0]]
        keys = entity_of[store.edge_index[0, own]] * size + store.edge_index[1, own]
        total = torch.zeros(count * size).index_add(0, keys, store.edge_attr.flatten()[own])
        return total.view(count, size) / torch.bincount(entity_of[kept], minlength=count).clamp(min=1)[:, None]

    def _hidden_posts(self, hidden: Sequence[Links], entity_of: torch.Tensor, post_of: torch.Tensor) -> torch.Tensor:
        """(posts,), boolean."""
        found = torch.zeros(self.source["post"].num_nodes, dtype=torch.bool)
        secret = torch.cat([torch.empty(0, dtype=torch.long), *(self.pair_keys(links.ends) for links in hidden)])
        for name in self.names:
            between = self.source["mention", name, "mention"].edge_index
            stated = torch.isin(self.pair_keys(entity_of[between]), secret)
            found[post_of[between[0, stated]]] = True
        return found


def link_data(data: HeteroData) -> LinkData:
    """The relations between the entities of a graph.

    Raises:
        ValueError: there are too few related pairs to train and test on.
    """
    names = tuple(kind[1] for kind in relation_types(data))
    edges = [data["entity", name, "entity"].edge_index for name in names]
    ends = torch.cat([torch.empty(2, 0, dtype=torch.long), *edges], 1)
    relations = torch.cat(
        [torch.empty(0, dtype=torch.long), *(torch.full((edge.shape[1],), n) for n, edge in enumerate(edges))]
    )
    found = LinkData(data, Links(ends, relations).select(ends[0] != ends[1]), names)
    pairs = len(found.pair_keys(found.links.ends).unique())
    if pairs < LEAST_PAIRS:
        raise ValueError(f"graph: at least {LEAST_PAIRS} related pairs of entities are needed, got {pairs}")
    return found


def split_links(data: LinkData, seed: int) -> dict[str, Links]:
    """Links for training, validation and testing, by [`SHARES`] of the unordered pairs.

    Args:
        data: to be divided.
        seed: of the draw.
    """
    keys = data.pair_keys(data.links.ends)
    distinct, place = keys.unique(return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    rank = torch.empty(len(distinct), dtype=torch.long)
    rank[torch.randperm(len(distinct), generator=generator)] = torch.arange(len(distinct))
    parts, begin = {}, 0.0
    for name, share in SHARES.items():
        low, high = round(begin * len(distinct)), round((begin + share) * len(distinct))
        parts[name] = data.links.select((rank[place] >= low) & (rank[place] < high))
        begin += share
    return parts


def corrupt(data: LinkData, links: Links, generator: torch.Generator, known: torch.Tensor | None = None) -> Links:
    """For each link one that does not hold: its head or its tail exchanged for a random other entity.

    Args:
        data: of the graph.
        links: E of them.
        generator: of the draw.
        known: keys of pairs that must not be drawn, sorted; default: all pairs that are related in the graph.
    """
    known = data.pair_keys(data.links.ends).unique() if known is None else known
    ends = links.ends.clone()
    wrong = torch.ones(len(links), dtype=torch.bool)
    # Graphs are sparse: a round leaves few. Who is related to everybody keeps a link that holds after the last.
    for _ in range(100):
        number = int(wrong.sum())
        if not number:
            break
        drawn = torch.randint(data.num_entities, (number,), generator=generator)
        slot = torch.randint(2, (number,), generator=generator)
        ends[:, wrong] = links.ends[:, wrong]
        ends[slot, wrong.nonzero().flatten()] = drawn
        keys = data.pair_keys(ends)
        place = torch.searchsorted(known, keys).clamp(max=len(known) - 1)
        wrong = (known[place] == keys) | (ends[0] == ends[1])
    return Links(ends[:, ~wrong], links.relations[~wrong])
