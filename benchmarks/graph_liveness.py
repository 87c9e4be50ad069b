"""Is the graph part alive? E11 on real posts by temperature and perturbation, with the weights a training starts from.

    python benchmarks/graph_liveness.py --data MNRE

As published the softmax of E10 saturates at real sizes, so that E11 and its gradient are 0; at a high temperature it
is flat, with the same result. Batches of 16 posts of MNRE's seed-0 training relations, text only, no training;
`--seed` sets weights, posts and noise. Flags that are not named are fields of the recipe mgvmoe_small.yaml.
"""

import argparse
import os

import torch
from quality import comparison, load, read_command_line
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from modeling_mgvmoe.data.encoding import PostCollator, encode_posts
from modeling_mgvmoe.evaluation.report import markdown_table
from modeling_mgvmoe.sample_graph import (
    adversarial_consistency,
    cosine_graph,
    neighbour_agreement,
    power_perturbation,
    random_perturbation,
)
from modeling_mgvmoe.training.build import build_model

TEMPERATURES, RADII = (0.02, 0.1, 1.0, 10.0, 384.0), (0.1, 0.5, 1.0)


@torch.no_grad()
def nodes_of(model, processor, posts, data):
    """The nodes of E10 for one batch, as training makes them: noise on, no images."""
    collator = PostCollator(processor, data.labels["train"])
    batch = collator.model_inputs(encode_posts([{**post, "image": None} for post in posts], processor))
    names = ("input_ids", "attention_mask", "mention_positions")
    text = model.train().mgvmoe(**{name: batch[name] for name in names}).text_embeds
    return torch.cat([torch.zeros_like(text), text], dim=-1)


def main():
    """Print the size of the node products and E11 by temperature, radius and kind of perturbation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR", help="of MNRE's text files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batches", type=int, default=4)
    own, others = parser.parse_known_args()
    flags, others = read_command_line(["--task", "mre", "--data", own.data, "--json", os.devnull, *others])
    disable_progress_bar()
    set_verbosity_error()
    data, _, words = load(flags, 0)
    shared = comparison(flags, others, data, words)
    config = {**shared.model_arguments.model_config, "adversary": "learned"}
    shared.model_arguments.model_config = config
    model, processor = build_model(shared.model_arguments, data, own.seed)
    order = torch.randperm(len(data.posts["train"]), generator=torch.Generator().manual_seed(own.seed)).tolist()
    batches = [[data.posts["train"][row] for row in order[16 * k : 16 * k + 16]] for k in range(own.batches)]
    nodes = [nodes_of(model, processor, posts, data) for posts in batches]
    products = torch.cat([neighbour_agreement(one, cosine_graph(one)) for one in nodes])
    near, rest = products.mean(0)
    norm = torch.cat(nodes).norm(dim=-1).mean()
    print(f"{len(products)} posts; products of nodes: near {near:.2f}, rest {rest:.2f}; norm of a node {norm:.2f}\n")
    lines = []
    for temperature in TEMPERATURES:
        learned = [adversarial_consistency(one, model.perturbation.detach(), temperature) for one in nodes]
        for radius in RADII:
            power = [power_perturbation(one, radius, temperature, draw(own.seed)) for one in nodes]
            random = [random_perturbation(one, radius, draw(own.seed)) for one in nodes]
            cells = [
                sum(adversarial_consistency(one, other, temperature) for one, other in zip(nodes, kind, strict=True))
                / len(nodes)
                for kind in (power, random)
            ]
            values = [*cells, sum(learned) / len(learned)]
            lines.append([f"{temperature:g}", f"{radius:g}", *(f"{float(value):.1e}" for value in values)])
    print(markdown_table(["temperature", "radius", "power", "random", "learned, at its start"], lines))


def draw(seed):
    """A generator for every use."""
    return torch.Generator().manual_seed(seed)


if __name__ == "__main__":
    main()
