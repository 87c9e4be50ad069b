"""Sums over steps."""

import math

import pytest
import torch
from accelerate import Accelerator

from modeling_mgvmoe.training.statistics import Statistics, expert_sums
from tests.support.tiny import doubled, tiny_inputs, tiny_model

pytestmark = pytest.mark.numerical


def test_expert_sums_by_hand():
    # Two real tokens: the entropy of (1/2, 1/2) is log 2, that of (1, 0) is 0; the usage is (1.5, 0.5). Then padding.
    probs = torch.tensor([[[0.5, 0.5], [1.0, 0.0], [math.nan, 0.3]]])
    found = expert_sums(probs, torch.tensor([[1, 1, 0]]), 2)
    torch.testing.assert_close(found, torch.tensor([2.0, math.log(2), 1.5, 0.5], dtype=torch.float64))
    # A mask of whole rows, of which none is real; no mask; no probabilities.
    assert expert_sums(probs, torch.tensor([False]), 2).tolist() == [0, 0, 0, 0]
    assert expert_sums(probs[:, :2], None, 2).tolist() == pytest.approx(found.tolist())
    assert expert_sums(None, None, 2) is None


def test_means_by_hand():
    statistics = Statistics({"loss": "loss", "kl_loss": "kl_loss"}, 2, torch.device("cpu"))
    assert statistics.means("log") == {}
    accelerator = Accelerator(cpu=True)
    for loss, kl, tokens in ((1.0, 10.0, 1), (2.0, 40.0, 3)):
        probs = torch.tensor([0.25, 0.75] if tokens == 1 else [1.0, 0.0]).expand(1, tokens, 2)
        output = {"loss": torch.tensor(loss), "kl_loss": torch.tensor(kl), "text_router_probs": probs}
        statistics.add(output, {})
    assert statistics.means("log") == statistics.means("validation") == {"loss": 1.5, "kl_loss": 25.0}
    # One token of (1/4, 3/4), three of (1, 0), and no image.
    found = statistics.experts("log", accelerator)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / 4
    assert found == pytest.approx(
        {"router_entropy/text": entropy, "expert_usage/text_0": 3.25 / 4, "expert_usage/text_1": 0.75 / 4}
    )
    state = statistics.state(accelerator)
    statistics.clear("log")
    assert statistics.means("log") == {} and statistics.means("validation") == {"loss": 1.5, "kl_loss": 25.0}
    other = Statistics({"loss": "loss", "kl_loss": "kl_loss"}, 2, torch.device("cpu"))
    other.load(state, 0)
    assert other.means("log") == {"loss": 1.5, "kl_loss": 25.0}
    assert other.state(accelerator) == state


def test_the_entropies_of_a_model_are_those_of_its_loss():
    model, inputs = tiny_model().double(), doubled(tiny_inputs())
    terms = {"loss": "loss", "router_entropy_loss": "router_entropy_loss"}
    statistics = Statistics(terms, model.config.num_experts, torch.device("cpu"))
    with torch.no_grad():
        output = model(**inputs)
    statistics.add(output, inputs)
    found = statistics.experts("log", Accelerator(cpu=True))
    mean = (found["router_entropy/text"] + found["router_entropy/picture"]) / 2
    assert mean == pytest.approx(output.router_entropy_loss.item(), rel=1e-9)
    for modality in ("text", "picture"):
        assert sum(found[f"expert_usage/{modality}_{k}"] for k in range(3)) == pytest.approx(1)


def test_nothing_is_read_before_it_is_asked_for():
    """A meta tensor has no numbers to read: `add` would fail if it waited for one."""
    with torch.device("meta"):
        output = {"loss": torch.ones(()), "text_router_probs": torch.ones(2, 3, 4), "image_router_probs": None}
        statistics = Statistics({"loss": "loss"}, 4, torch.device("meta"))
        statistics.add(output, {"attention_mask": torch.ones(2, 3)})
    with pytest.raises(NotImplementedError):
        statistics.means("log")
