"""The graph over the posts of a batch, its consistency and the three adversaries (E10, E11)."""

import importlib.util
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, kl_divergence

from modeling_mgvmoe import sample_graph
from modeling_mgvmoe.sample_graph import (
    adversarial_consistency,
    cosine_graph,
    learned_adversary_loss,
    neighbour_agreement,
    power_perturbation,
    random_perturbation,
    to_pyg_data,
)

pytestmark = pytest.mark.numerical


@pytest.fixture
def nodes():
    return torch.randn(6, 8).double() / 2


class TestGraph:
    def test_graph_is_symmetric_between_zero_and_one_with_self_loops(self, nodes):
        graph = cosine_graph(nodes)
        torch.testing.assert_close(graph, graph.T)
        torch.testing.assert_close(graph.diagonal(), torch.ones(6).double())
        assert ((graph >= 0) & (graph <= 1 + 1e-12)).all()

    def test_graph_is_half_of_the_cosine_plus_one(self):
        # Right angle: (0 + 1) / 2;  opposite: (-1 + 1) / 2;  cos((1, 0), (1, 1)) = 0.7071.
        nodes = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [1.0, 1.0]])
        expected = [[1.0, 0.5, 0.0, 0.85355339], [0.5, 1.0, 0.5, 0.85355339]]
        torch.testing.assert_close(cosine_graph(nodes)[:2], torch.tensor(expected))

    def test_length_of_a_node_does_not_matter_and_a_node_of_zeros_is_no_nan(self, nodes):
        torch.testing.assert_close(cosine_graph(nodes * torch.rand(6, 1).double()), cosine_graph(nodes))
        nodes[2] = 0
        assert (cosine_graph(nodes)[2] == 0.5).all()

    def test_agreement_sums_over_neighbours_and_over_the_rest(self, nodes):
        graph = cosine_graph(nodes)
        logits = neighbour_agreement(nodes, graph)
        for post in range(6):
            near = sum(float(graph[post, other] * (nodes[post] @ nodes[other])) for other in range(6))
            rest = sum(float((1 - graph[post, other]) * (nodes[post] @ nodes[other])) for other in range(6))
            assert logits[post].tolist() == pytest.approx([near, rest], abs=1e-12)

    def test_temperature_divides_the_logits(self, nodes):
        graph = cosine_graph(nodes)
        torch.testing.assert_close(
            neighbour_agreement(nodes, graph, 4.0), neighbour_agreement(nodes, graph) / 4, rtol=0, atol=1e-15
        )

    def test_order_of_the_posts_does_not_matter(self, nodes):
        order = torch.randperm(6)
        graph = cosine_graph(nodes)
        torch.testing.assert_close(cosine_graph(nodes[order]), graph[order][:, order])
        torch.testing.assert_close(
            neighbour_agreement(nodes[order], graph[order][:, order]), neighbour_agreement(nodes, graph)[order]
        )

    def test_shapes_that_do_not_fit_are_named(self, nodes):
        with pytest.raises(ValueError, match=r"graph must be \(B, B\) with B = 6 nodes, got \(5, 6\)"):
            neighbour_agreement(nodes, torch.zeros(5, 6).double())
        with pytest.raises(ValueError, match=r"perturbation must be \(1, N\) or \(B, N\) with N = 8, got \(8,\)"):
            adversarial_consistency(nodes, torch.zeros(8))
        with pytest.raises(ValueError, match=r"with N = 8, got \(1, 4\)"):
            adversarial_consistency(nodes, torch.zeros(1, 4))


class TestConsistency:
    @pytest.mark.parametrize("temperature", [1.0, 5.0])
    def test_consistency_is_the_kl_of_torch_distributions_with_one_graph_for_both(self, nodes, temperature):
        perturbation = torch.randn(1, 8).double() / 2
        graph = cosine_graph(nodes)
        clean = Categorical(logits=neighbour_agreement(nodes, graph) / temperature)
        perturbed = Categorical(logits=neighbour_agreement(nodes + perturbation, graph) / temperature)
        torch.testing.assert_close(
            adversarial_consistency(nodes, perturbation, temperature), kl_divergence(clean, perturbed).mean()
        )

    def test_no_perturbation_costs_nothing_and_has_no_slope(self, nodes):
        perturbation = torch.zeros(1, 8).double().requires_grad_()
        loss = adversarial_consistency(nodes, perturbation)
        loss.backward()
        assert loss.item() == 0.0
        assert perturbation.grad.abs().max() < 1e-12

    def test_nodes_of_real_size_are_finite_in_value_and_gradient(self):
        nodes = (20 * torch.randn(6, 8)).requires_grad_()
        loss = adversarial_consistency(nodes, torch.randn(1, 8))
        loss.backward()
        assert torch.isfinite(loss) and loss >= 0
        assert torch.isfinite(nodes.grad).all()

    def test_one_shared_perturbation_is_the_same_for_every_post(self, nodes):
        perturbation = torch.randn(1, 8).double()
        torch.testing.assert_close(
            adversarial_consistency(nodes, perturbation), adversarial_consistency(nodes, perturbation.expand(6, 8))
        )


class TestLearnedAdversary:
    def test_value_is_the_kl_and_gradients_have_opposite_signs(self, nodes):
        nodes.requires_grad_()
        perturbation = torch.randn(1, 8).double().requires_grad_()
        kl = adversarial_consistency(nodes, perturbation)
        of_nodes, of_perturbation = torch.autograd.grad(kl, (nodes, perturbation))
        loss = learned_adversary_loss(nodes, perturbation)
        loss.backward()
        torch.testing.assert_close(loss, kl)
        torch.testing.assert_close(nodes.grad, of_nodes)  # the network descends on KL
        norm = perturbation.detach() / perturbation.detach().norm()
        torch.testing.assert_close(perturbation.grad, norm - of_perturbation)  # d descends on ||d|| - KL

    def test_descending_on_the_loss_raises_kl_minus_norm_of_the_adversary(self, nodes):
        perturbation = torch.randn(1, 8).double().requires_grad_()

        def aim() -> float:
            with torch.no_grad():
                return float(adversarial_consistency(nodes, perturbation) - perturbation.norm())

        before = aim()
        learned_adversary_loss(nodes, perturbation).backward()
        with torch.no_grad():
            perturbation -= 1e-3 * perturbation.grad
        assert aim() > before


class TestPowerAdversary:
    def test_norm_of_every_row_is_the_radius_times_the_mean_norm_of_the_nodes(self, nodes):
        for radius in (0.1, 1.0, 3.0):
            perturbation = power_perturbation(nodes, radius, temperature=5.0)
            expected = radius * nodes.norm(dim=-1).mean()
            torch.testing.assert_close(perturbation.norm(dim=-1), expected.expand(6))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_power_direction_raises_the_kl_more_than_random_directions_of_the_same_norm(self, dtype):
        power, random = [], []
        for seed in range(20):
            generator = torch.Generator().manual_seed(seed)
            nodes = torch.randn(6, 8, generator=generator, dtype=dtype)
            found = power_perturbation(nodes, 0.05, temperature=5.0, generator=generator)
            drawn = torch.randn(6, 8, generator=generator, dtype=dtype)
            drawn = F.normalize(drawn, dim=-1) * found.norm(dim=-1, keepdim=True)
            power.append(adversarial_consistency(nodes, found, 5.0))
            random.append(adversarial_consistency(nodes, drawn, 5.0))
        # The KL has one steep direction among 8: a random one meets 1/8 of its square on average.
        assert sum(power) > 3 * sum(random)

    def test_direction_follows_the_generator_and_carries_no_gradient(self, nodes):
        nodes.requires_grad_()
        first = power_perturbation(nodes, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():  # evaluation too
            second = power_perturbation(nodes, generator=torch.Generator().manual_seed(3))
        assert torch.equal(first, second)
        assert not first.requires_grad

    def test_where_the_kl_is_flat_there_is_no_direction_and_no_perturbation(self):
        # Saturated by products of 16 x 100 at temperature 1: the gradient underflows to 0.
        assert not power_perturbation(10 * torch.randn(8, 16)).any()

    def test_nodes_of_zeros_give_no_nan(self):
        assert not power_perturbation(torch.zeros(3, 4)).any()

    def test_it_is_the_direction_of_the_gradient_beside_zero_written_out(self, nodes):
        found = power_perturbation(nodes, temperature=5.0, generator=torch.Generator().manual_seed(3))
        scale = nodes.norm(dim=1).mean()
        drawn = torch.randn(6, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        start = (scale / 1000 * drawn / drawn.norm(dim=1, keepdim=True)).requires_grad_()
        adversarial_consistency(nodes, start, 5.0).backward()
        expected = scale * start.grad / start.grad.norm(dim=1, keepdim=True)
        # The radius is 1 unless it is given.
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)

    def test_temperature_is_1_unless_it_is_given(self):
        nodes = torch.randn(4, 3).double() / 10
        default, given = (
            power_perturbation(nodes, generator=torch.Generator().manual_seed(3), **more)
            for more in ({}, {"temperature": 1.0})
        )
        other = power_perturbation(nodes, temperature=2.0, generator=torch.Generator().manual_seed(3))
        assert torch.equal(default, given) and not torch.equal(default, other)

    def test_in_inference_mode_too(self):
        with torch.inference_mode():
            nodes = torch.randn(4, 3)
            found = power_perturbation(nodes, 0.5, temperature=5.0)
        torch.testing.assert_close(found.norm(dim=1), (0.5 * nodes.norm(dim=1).mean()).expand(4))


class TestRandomPerturbation:
    def test_it_is_the_drawn_direction_at_the_mean_norm_of_the_nodes(self):
        # Norms 5 and 13: the mean is 9.
        nodes = torch.tensor([[3.0, 4.0, 0.0], [0.0, 5.0, 12.0]], dtype=torch.float64, requires_grad=True)
        drawn = torch.randn(2, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        directions = drawn / drawn.norm(dim=1, keepdim=True)
        for radius, length in ((1.0, 9.0), (0.5, 4.5)):
            found = random_perturbation(nodes, radius, torch.Generator().manual_seed(5))
            torch.testing.assert_close(found, length * directions)
            assert found.dtype == torch.float64 and not found.requires_grad
        default = random_perturbation(nodes, generator=torch.Generator().manual_seed(5))
        torch.testing.assert_close(default, 9.0 * directions)


class TestPyTorchGeometric:
    def test_aggregation_over_the_edges_is_the_product_with_the_dense_graph(self, nodes):
        conv = pytest.importorskip("torch_geometric.nn").SimpleConv(aggr="sum")
        data = to_pyg_data(nodes)
        assert data.num_nodes == 6 and data.num_edges == 36  # self loops kept
        torch.testing.assert_close(conv(data.x, data.edge_index, data.edge_weight), cosine_graph(nodes) @ nodes)

    def test_a_given_graph_is_taken_and_its_zeros_are_no_edges(self, nodes):
        pytest.importorskip("torch_geometric")
        graph = (cosine_graph(nodes) > 0.5).double()
        data = to_pyg_data(nodes, graph)
        assert data.num_edges == int(graph.sum())
        assert (data.edge_weight == 1).all()

    def test_missing_package_is_named_with_the_way_to_get_it(self, nodes, monkeypatch):
        for name in ("torch_geometric", "torch_geometric.data", "torch_geometric.utils"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match="to_pyg_data needs torch-geometric.*pip install torch-geometric"):
            to_pyg_data(nodes)

    def test_the_rest_of_the_module_works_without_the_package(self, nodes, monkeypatch):
        for name in ("torch_geometric", "torch_geometric.data", "torch_geometric.utils"):
            monkeypatch.setitem(sys.modules, name, None)
        spec = importlib.util.spec_from_file_location("modeling_mgvmoe.fresh_sample_graph", sample_graph.__file__)
        fresh = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(fresh)
        assert torch.equal(fresh.cosine_graph(nodes), cosine_graph(nodes))
