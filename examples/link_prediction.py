"""Predict relations of an extracted graph with torch-geometric's DistMult.

    python examples/link_prediction.py --graph runs/graph

A tenth of the related pairs is held out, with all that is said of them in either direction. Prints how DistMult ranks
the right tail among all entities, beside chance.
"""

import argparse

import torch
from torch_geometric.nn.kge import DistMult

from modeling_mgvmoe.cli.errors import one_line
from modeling_mgvmoe.graph.hetero_data import read_graph, relation_types


def triples_of(data):
    """Heads, relations and tails, each (E,), of the relations between entities, without those of one to itself."""
    edges = [data["entity", name, "entity"].edge_index for _, name, _ in relation_types(data)]
    if not edges:
        raise ValueError("graph: relations between entities are needed, got none")
    relations = torch.cat([torch.full((edge.shape[1],), number) for number, edge in enumerate(edges)])
    head, tail = torch.cat(edges, dim=1)
    kept = head != tail
    return head[kept], relations[kept], tail[kept]


def hold_out(head, tail, seed, share=0.1):
    """(E,), boolean: triples of a random share of the unordered pairs."""
    pairs = torch.stack([torch.minimum(head, tail), torch.maximum(head, tail)])
    distinct, place = pairs.unique(dim=1, return_inverse=True)
    order = torch.randperm(distinct.shape[1], generator=torch.Generator().manual_seed(seed))
    return (order < share * distinct.shape[1])[place]


@one_line()
def main(argv=None):
    """Train, test, print and return mean rank, mean reciprocal rank and hits at 10."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--graph", required=True, help="folder of examples/extract.py, or its hetero_data")
    parser.add_argument("--epochs", type=int, default=200, help="default 200")
    parser.add_argument("--seed", type=int, default=0, help="of split and weights (default 0)")
    flags = parser.parse_args(argv)
    if flags.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {flags.epochs}")
    data = read_graph(flags.graph)
    head, relations, tail = triples_of(data)
    held = hold_out(head, tail, flags.seed)
    if not held.any() or held.all():
        raise ValueError(f"graph: pairs to train and to test with are needed, got {len(held)} relations in all")
    torch.manual_seed(flags.seed)
    entities = data["entity"].num_nodes
    model = DistMult(entities, int(relations.max()) + 1, hidden_channels=32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-4)
    loader = model.loader(head[~held], relations[~held], tail[~held], batch_size=1024, shuffle=True)
    for _ in range(flags.epochs):
        for batch in loader:
            optimizer.zero_grad()
            model.loss(*batch).backward()
            optimizer.step()
    rank, reciprocal, hits = model.test(head[held], relations[held], tail[held], batch_size=1024, log=False)
    chance = sum(1 / place for place in range(1, entities + 1)) / entities
    print(f"{int(held.sum())} of {len(held)} relations held out, {entities} entities")
    print(f"mean rank {rank:.1f}; mean reciprocal rank {reciprocal:.3f}, chance {chance:.3f}; hits at 10 {hits:.3f}")
    return rank, reciprocal, hits


if __name__ == "__main__":
    main()
