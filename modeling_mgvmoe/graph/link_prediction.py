r"""A small graph network that predicts relations between entities: whether an extracted graph is of use.

.. math::
    z = \mathrm{SAGE}_2(\mathrm{SAGE}_1(e + W x)), \qquad s(h, r, t) = \sum_d z_{hd} R_{rd} z_{td}

e is a learned vector of each entity, x the scores of its types; both layers send messages along every relation and
back, with weights of their own. The decoder is DistMult (Yang et al., 2015), which scores both directions alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from ..data.progress_bar import progress_bar
from ..evaluation.metrics import average_precision, rejection_auroc
from .link_data import LinkData, Links, corrupt, link_data, split_links

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

SIZE, DROPOUT = 32, 0.3
LEARNING_RATE, WEIGHT_DECAY, EPOCHS, PATIENCE = 0.01, 1e-4, 300, 60
# Of the training links so many are to be predicted in an epoch; the others carry messages.
ASKED = 0.3
METHODS = ("graph network", "type pairs", "common neighbours", "degrees")


def predict_links(data: HeteroData, seeds: Sequence[int] = (0, 1, 2), progress: bool = False) -> dict[str, Any]:
    """Train the predictor and score it on held-out relations, beside what needs no training.

    Args:
        data: of `hetero_data.build_hetero_data`.
        seeds: each draws a division of the related pairs, wrong links and weights.
        progress: show a progress bar.

    Returns:
        `rows`, for each seed and method AUROC and average precision on as many wrong links as right ones; `means` and
        `deviations` by method; `chance`; numbers of links and pairs; `verdict`, a sentence.

    Raises:
        ValueError: there are too few related pairs.
    """
    links = link_data(data)
    rows = []
    for seed in progress_bar(seeds, "link prediction", unit="seed", show=progress):
        parts = split_links(links, seed)
        generator = torch.Generator().manual_seed(seed)
        wrong = {name: corrupt(links, parts[name], generator) for name in ("validation", "test")}
        features = links.features([parts["validation"], parts["test"]])
        scorers: dict[str, Callable[[Links], torch.Tensor]] = {
            "graph network": _train(links, features, parts["train"], parts["validation"], wrong["validation"], seed),
            **_baselines(links, features, parts["train"]),
        }
        for method, scorer in scorers.items():
            scores = torch.cat([scorer(parts["test"]), scorer(wrong["test"])]).numpy()
            right = [True] * len(parts["test"]) + [False] * len(wrong["test"])
            rows.append(
                {
                    "seed": seed,
                    "method": method,
                    "auroc": rejection_auroc(scores, right),
                    "average precision": average_precision(scores, right),
                    "links": len(parts["test"]),
                }
            )
    return {"rows": rows, **_summary(rows), "entities": links.num_entities, "links": len(links.links)}


class LinkPredictor(nn.Module):
    """Two layers of SAGEConv over all relations and their reverses, and DistMult.

    Args:
        num_entities: N.
        feature_size: T.
        names: of the R relations.
    """

    def __init__(self, num_entities: int, feature_size: int, names: Sequence[str]) -> None:
        from torch_geometric.nn import HeteroConv, SAGEConv

        super().__init__()
        self.entities = nn.Embedding(num_entities, SIZE)
        nn.init.normal_(self.entities.weight, std=0.1)
        self.features = nn.Linear(feature_size, SIZE)
        kinds = [("entity", f"{way} {number}", "entity") for number in range(len(names)) for way in ("to", "from")]
        self.layers = nn.ModuleList(
            HeteroConv({kind: SAGEConv((SIZE, SIZE), SIZE) for kind in kinds}, aggr="mean") for _ in range(2)
        )
        # Random: from equal ones the relations are slow to part.
        self.relations = nn.Parameter(torch.randn(len(names), SIZE) * 0.5)

    def encode(self, features: torch.Tensor, messages: Links) -> torch.Tensor:
        """(N, SIZE), entities; `messages` are the links that they know of."""
        edges = {}
        for number in range(len(self.relations)):
            own = messages.ends[:, messages.relations == number]
            edges["entity", f"to {number}", "entity"], edges["entity", f"from {number}", "entity"] = own, own.flip(0)
        states = self.entities.weight + self.features(features)
        for layer in self.layers:
            states = functional.dropout(states, DROPOUT, self.training)
            # What an entity is stays, also of one without a neighbour.
            states = states + layer({"entity": states}, edges)["entity"].relu()
        return states

    def score(self, states: torch.Tensor, links: Links) -> torch.Tensor:
        """(E,), logits."""
        head, tail = states[links.ends]
        return (head * self.relations[links.relations] * tail).sum(-1)


def _train(
    data: LinkData, features: torch.Tensor, train: Links, validation: Links, wrong: Links, seed: int
) -> Callable[[Links], torch.Tensor]:
    """The scores of the network with the best AUROC on the validation links."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed + 1)
        model = LinkPredictor(data.num_entities, features.shape[1], data.names)
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        train_keys = data.pair_keys(train.ends)
        known = train_keys.unique()
        best, best_states, since = -1.0, torch.empty(0), 0
        for epoch in range(EPOCHS):
            model.train()
            # Whole pairs again: the reverse of what is asked must not be among the messages.
            drawn = torch.rand(len(known), generator=generator)[torch.searchsorted(known, train_keys)] < ASKED
            asked, messages = train.select(drawn), train.select(~drawn)
            if not len(asked):
                continue
            false = corrupt(data, asked, generator, known)
            states = model.encode(features, messages)
            logits = torch.cat([model.score(states, asked), model.score(states, false)])
            targets = torch.cat([torch.ones(len(asked)), torch.zeros(len(false))])
            loss = functional.binary_cross_entropy_with_logits(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if epoch % 5 == 4:
                model.eval()
                with torch.no_grad():
                    states = model.encode(features, train)
                    scores = torch.cat([model.score(states, validation), model.score(states, wrong)])
                found = rejection_auroc(scores.numpy(), [True] * len(validation) + [False] * len(wrong))
                since += 5
                if found > best:
                    best, since, best_states = found, 0, states
                    relations = model.relations.detach().clone()
                if since >= PATIENCE:
                    break
        model.relations.data = relations
    return lambda links: model.score(best_states, links).detach()


def _baselines(data: LinkData, features: torch.Tensor, train: Links) -> dict[str, Callable[[Links], torch.Tensor]]:
    """Scores that follow from the training links by counting."""
    neighbours: list[set[int]] = [set() for _ in range(data.num_entities)]
    for head, tail in train.ends.t().tolist():
        neighbours[head].add(tail)
        neighbours[tail].add(head)
    degrees = torch.tensor([len(own) for own in neighbours], dtype=torch.float)
    kinds = features.argmax(-1) if features.shape[1] else torch.zeros(data.num_entities, dtype=torch.long)
    size = max(1, features.shape[1])
    of_kind = torch.bincount(kinds, minlength=size).float()

    def keys_of(links: Links) -> Iterator[torch.Tensor]:
        for head, tail in (links.ends, links.ends.flip(0)):
            yield (links.relations * size + kinds[head]) * size + kinds[tail]

    counts = torch.zeros(len(data.names) * size * size)
    for keys in keys_of(train):
        counts += torch.bincount(keys, minlength=len(counts))

    def type_pairs(links: Links) -> torch.Tensor:
        # How many of the possible pairs of such types are related so, in any direction, as the decoder has it.
        head, tail = links.ends
        keys, _ = keys_of(links)
        return counts[keys] / (of_kind[kinds[head]] * of_kind[kinds[tail]])

    return {
        "type pairs": type_pairs,
        "common neighbours": lambda links: torch.tensor(
            [float(len(neighbours[head] & neighbours[tail])) for head, tail in links.ends.t().tolist()]
        ),
        "degrees": lambda links: degrees[links.ends[0]] * degrees[links.ends[1]],
    }


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    means: dict[str, dict[str, float]] = {}
    deviations: dict[str, dict[str, float]] = {}
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        for target, of in ((means, torch.mean), (deviations, torch.std)):
            target[method] = {
                name: float(of(torch.tensor([row[name] for row in own], dtype=torch.float64)))
                if len(own) > 1 or of is torch.mean
                else 0.0
                for name in ("auroc", "average precision")
            }
    best = max(METHODS[1:], key=lambda method: means[method]["auroc"])
    ahead = means["graph network"]["auroc"] - means[best]["auroc"]
    by_seed = [
        row["auroc"] - other["auroc"]
        for row in rows
        for other in rows
        if row["seed"] == other["seed"] and row["method"] == "graph network" and other["method"] == best
    ]
    wins = sum(one > 0 for one in by_seed)
    verdict = (
        f"The graph network is {abs(ahead):.3f} AUROC {'above' if ahead > 0 else 'below'} the best baseline, {best}, "
        f"and above it for {wins} of {len(by_seed)} seeds"
        + ("." if ahead > 0 and wins == len(by_seed) else ": it is not reliably better.")
    )
    return {"means": means, "deviations": deviations, "chance": {"auroc": 0.5, "average precision": 0.5},
            "verdict": verdict}  # fmt: skip
