import importlib

import pytest
import torch

from modeling_mgvmoe.neighbour_graph import (
    edge_agreement,
    nearest_neighbours,
    neighbour_consistency,
    remember,
    remembered,
)
from modeling_mgvmoe.sample_graph import (
    adversarial_consistency,
    cosine_graph,
    learned_adversary_loss,
    neighbour_agreement,
    power_perturbation,
)
from modeling_mgvmoe.training_objectives import TrainingObjectives
from tests.tiny import tiny_inputs, tiny_model


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_neighbours_by_hand():
    nodes = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    sources = torch.cat([nodes, torch.tensor([[1.0, 1.0], [-3.0, 0.0]])])
    # Cosines of the first: 1, 0, 0.707, -1; of the second: 0, 1, 0.707, 0.
    edges, weights = nearest_neighbours(nodes, sources, 2)
    assert edges.tolist() == [[0, 2, 1, 2], [0, 0, 1, 1]]
    assert weights.tolist() == pytest.approx([1, (1 + 0.5**0.5) / 2] * 2)
    assert nearest_neighbours(nodes, sources, 9)[0].shape == (2, 8)


@pytest.mark.parametrize("k", [None, 7, 100])
@pytest.mark.parametrize("shared", [True, False])
def test_it_is_the_dense_graph_when_k_covers_the_batch(k, shared):
    nodes, moved = drawn(7, 6).requires_grad_(), drawn(1 if shared else 7, 6, seed=1).requires_grad_()
    dense = adversarial_consistency(nodes, moved, 5.0)
    sparse = neighbour_consistency(nodes, moved, 5.0, k=k)
    torch.testing.assert_close(sparse, dense)
    for one, other in zip(
        torch.autograd.grad(sparse, (nodes, moved)), torch.autograd.grad(dense, (nodes, moved)), strict=True
    ):
        torch.testing.assert_close(one, other)
    assert dense > 1e-3


def test_of_one_neighbour_a_post_agrees_with_itself():
    # G is 1: the logits are |n|^2 and 0, over the temperature, which is 1 unless it is given.
    nodes, moved = drawn(4, 3), drawn(1, 3, seed=1)
    for temperature in (1.0, 4.0):
        clean, perturbed = (
            (torch.stack([rows.square().sum(1), torch.zeros(4).double()], 1) / temperature).log_softmax(1)
            for rows in (nodes, nodes + moved)
        )
        expected = (clean.exp() * (clean - perturbed)).sum(1).mean()
        torch.testing.assert_close(neighbour_consistency(nodes, moved, temperature, k=1), expected)
        if temperature == 1:
            torch.testing.assert_close(neighbour_consistency(nodes, moved, k=1), expected)
            edges = nearest_neighbours(nodes, nodes, 1)
            torch.testing.assert_close(edge_agreement(nodes, nodes, *edges).log_softmax(1), clean)


def test_the_memory_takes_the_precision_of_the_nodes():
    nodes, moved, memory = drawn(4, 3), drawn(1, 3, seed=1), drawn(2, 3, seed=2)
    exact = neighbour_consistency(nodes, moved, 4.0, memory=memory)
    single = neighbour_consistency(nodes.float(), moved.float(), 4.0, memory=memory)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, exact.float())


def test_few_neighbours_are_the_dense_graph_with_the_others_out_of_it():
    nodes, moved, k = drawn(6, 5), drawn(1, 5, seed=1), 3
    near = torch.zeros(6, 6, dtype=torch.bool).scatter(1, cosine_graph(nodes).topk(k).indices, True)
    graph = cosine_graph(nodes)

    def agreement(own):
        # Both sums run over the neighbours only.
        close = (own * ((graph * near) @ own)).sum(-1)
        rest = (own * (((1 - graph) * near) @ own)).sum(-1)
        return (torch.stack([close, rest], -1) / 4).log_softmax(-1)

    clean, perturbed = agreement(nodes), agreement(nodes + moved)
    expected = (clean.exp() * (clean - perturbed)).sum(-1).mean()
    torch.testing.assert_close(neighbour_consistency(nodes, moved, 4.0, k=k), expected)
    assert expected != pytest.approx(adversarial_consistency(nodes, moved, 4.0).item(), rel=1e-3)


def test_the_memory_adds_neighbours_that_are_not_perturbed():
    nodes, memory, moved = drawn(4, 5), drawn(3, 5, seed=2), drawn(1, 5, seed=1)
    sources = torch.cat([nodes, memory])
    graph = cosine_graph(sources)

    def agreement(own):
        everyone = torch.cat([own, memory])
        return neighbour_agreement(everyone, graph, 4.0)[:4].log_softmax(-1)

    clean, perturbed = agreement(nodes), agreement(nodes + moved)
    expected = (clean.exp() * (clean - perturbed)).sum(-1).mean()
    memory.requires_grad_()
    found = neighbour_consistency(nodes.requires_grad_(), moved, 4.0, memory=memory)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert memory.grad is None and nodes.grad.abs().max() > 0


def test_the_memory_forgets_the_oldest():
    memory, seen = torch.zeros(5, 1), torch.zeros(1, dtype=torch.long)
    rows = torch.arange(1.0, 20).unsqueeze(1)
    assert remembered(memory, seen).shape == (0, 1)
    remember(memory, seen, rows[:3])
    assert remembered(memory, seen).flatten().tolist() == [1, 2, 3]
    remember(memory, seen, rows[3:7])
    assert sorted(remembered(memory, seen).flatten().tolist()) == [3, 4, 5, 6, 7]
    remember(memory, seen, rows[7:19])  # more than there is room for
    assert sorted(remembered(memory, seen).flatten().tolist()) == [15, 16, 17, 18, 19] and seen.item() == 19
    # Its precision stays, and no gradient goes where the nodes came from.
    remember(memory, seen, torch.tensor([[20.0]], dtype=torch.double, requires_grad=True))
    assert memory.max() == 20 and memory.dtype == torch.float32 and not memory.requires_grad


def test_adversaries_take_the_graph():
    nodes = drawn(5, 6)
    dense = power_perturbation(nodes, 0.5, 4.0, torch.Generator().manual_seed(3))
    covered = power_perturbation(nodes, 0.5, 4.0, torch.Generator().manual_seed(3), neighbour_consistency)
    torch.testing.assert_close(dense, covered)
    moved = drawn(1, 6, seed=1)
    torch.testing.assert_close(
        learned_adversary_loss(nodes, moved, 4.0), learned_adversary_loss(nodes, moved, 4.0, neighbour_consistency)
    )


@pytest.mark.parametrize("adversary", ["learned", "power", "random"])
def test_in_the_model_k_that_covers_the_batch_changes_nothing(adversary):
    inputs = tiny_inputs()
    found = []
    for options in ({}, {"graph_neighbours": 4}, {"graph_neighbours": 2}):
        torch.manual_seed(0)
        found.append(tiny_model(adversary=adversary, **options)(**inputs).consistency_loss.detach())
    torch.testing.assert_close(found[1], found[0])
    assert found[2] != pytest.approx(found[0].item(), rel=1e-3)


def test_the_memory_of_a_model_fills_in_training_and_is_saved(tmp_path):
    model, inputs = tiny_model(graph_memory=6), tiny_inputs()
    plain = tiny_model()
    assert model(**inputs).consistency_loss == plain(**inputs).consistency_loss and model.graph_seen.item() == 0
    torch.manual_seed(0)
    first = model.train()(**inputs)
    nodes = torch.cat([first.image_embeds, first.text_embeds], -1)
    torch.testing.assert_close(model.graph_memory[:4], nodes.detach())
    first.loss.backward()
    torch.manual_seed(1)
    second = model(**tiny_inputs(seed=1))
    second.loss.backward()
    # The second batch had the first as further neighbours, and took the place of two of its posts.
    nodes = torch.cat([second.image_embeds, second.text_embeds], -1).detach()
    graph = neighbour_consistency(
        nodes, model.perturbation.detach(), model.config.graph_temperature, memory=first_of(first)
    )
    torch.testing.assert_close(second.consistency_loss.detach(), graph)
    assert model.graph_seen.item() == 8
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert torch.equal(loaded.graph_memory, model.graph_memory) and loaded.graph_seen.item() == 8


def first_of(output):
    return torch.cat([output.image_embeds, output.text_embeds], -1).detach()


def test_errors(monkeypatch):
    nodes = drawn(3, 4)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        neighbour_consistency(nodes, nodes, k=0)
    with pytest.raises(ValueError, match=r"memory must be \(M, 4\), got \(2, 5\)"):
        neighbour_consistency(nodes, nodes, memory=drawn(2, 5))
    with pytest.raises(ValueError, match=r"perturbation must be \(1, N\) or \(B, N\) with N = 4, got \(1, 5\)"):
        neighbour_consistency(nodes, drawn(1, 5))
    for name in ("graph_neighbours", "graph_memory"):
        with pytest.raises(Exception, match=f"{name} must"):
            tiny_model(**{name: -1})

    load = importlib.import_module

    def missing(name, *given):
        if name.startswith("torch_geometric"):
            raise ImportError(name)
        return load(name, *given)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match="need torch-geometric in training: pip install torch-geometric"):
        neighbour_consistency(nodes, nodes)
    # Evaluation needs it for graph_neighbours only where it computes losses.
    assert tiny_model(graph_neighbours=2)(**tiny_inputs(labels=False)).logits is not None
    assert issubclass(type(tiny_model()), TrainingObjectives)
