"""Label propagation over the nearest posts: worked by hand, against a plain loop, and with a model."""

import pytest
import torch
import torch.nn.functional as F

from modeling_mgvmoe.inference.label_propagation import nearest_neighbours, propagate_labels

pytestmark = pytest.mark.numerical


def test_by_hand():
    # Posts 0 and 1 point the same way, post 2 the other way: it has no neighbour with a positive cosine.
    nodes = torch.tensor([[2.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    probs = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
    found = propagate_labels(probs, nodes, k=1, share=0.25)
    expected = torch.tensor([[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_equals_a_plain_loop(monkeypatch):
    monkeypatch.setattr("modeling_mgvmoe.inference.label_propagation.ROWS_AT_ONCE", 4)
    nodes, probs = torch.randn(11, 5).double(), torch.rand(11, 3).double().softmax(-1)
    found = propagate_labels(probs, nodes, k=4, share=0.6)
    cosines = F.normalize(nodes, dim=-1) @ F.normalize(nodes, dim=-1).T
    for post in range(11):
        others = sorted((other for other in range(11) if other != post), key=lambda other: -cosines[post, other])[:4]
        weights = torch.tensor([max(float(cosines[post, other]), 0.0) for other in others]).double()
        around = (weights / weights.sum()) @ probs[others] if weights.sum() > 0 else probs[post]
        torch.testing.assert_close(found[post], 0.4 * probs[post] + 0.6 * around, rtol=0, atol=1e-7)


def test_what_changes_nothing():
    probs, nodes = torch.rand(3, 2), torch.randn(3, 4)
    assert propagate_labels(probs, nodes, share=0.0) is probs
    assert torch.equal(propagate_labels(probs[:1], nodes[:1]), probs[:1])
    assert nearest_neighbours(nodes, k=50)[0].shape == (2, 6)


@pytest.mark.parametrize(
    ("changes", "name"), [({"k": 0}, "k"), ({"share": 1.5}, "share"), ({"nodes": torch.zeros(2, 1)}, "nodes")]
)
def test_refusals(changes, name):
    with pytest.raises(ValueError, match=name):
        propagate_labels(**{"probs": torch.rand(3, 2), "nodes": torch.randn(3, 4), **changes})
