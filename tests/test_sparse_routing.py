"""A token that goes to some of the experts only (`num_experts_per_tok`)."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from modeling_mgvmoe import VariationalMixtureOfExperts
from modeling_mgvmoe.routing import top_logits
from tests.tiny import tiny_config, tiny_inputs, tiny_model


def experts_by_hand(per_token, logits, means, log_variances):
    """One hidden unit, three experts that do not look at the token: everything is in the biases."""
    experts = VariationalMixtureOfExperts(1, 3, num_experts_per_tok=per_token).eval()
    with torch.no_grad():
        for layer, bias in (
            (experts.router, logits),
            (experts.expert_means, means),
            (experts.expert_log_variances, log_variances),
        ):
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor(bias))
    return experts


def test_the_softmax_goes_over_the_greatest_logits():
    logits = torch.tensor([[0.0, math.log(3), -1.0, math.log(3) - 5]])
    probs = top_logits(logits, 2).softmax(-1)
    torch.testing.assert_close(probs, torch.tensor([[0.25, 0.75, 0.0, 0.0]]))
    assert top_logits(logits, 4) is logits and top_logits(logits, None) is logits


@pytest.mark.parametrize("plain", [True, False], ids=["in chunks", "written out"])
def test_two_of_three_experts_by_hand(plain):
    experts = experts_by_hand(2, [math.log(3), 0.0, -4.0], [1.0, 5.0, 100.0], [math.log(4), 0.0, 9.0])
    if not plain:
        experts.expert_means.register_forward_pre_hook(lambda *_: None)
    output = experts(torch.zeros(1, 1, 1), noise=torch.full((1, 1, 1), 2.0))
    # p = 3/4, 1/4. Mean 3/4 + 5/4 = 2, variance 9/16 * 4 + 1/16 = 37/16, noise 2.
    assert output.hidden_states.item() == pytest.approx(2 + 2 * math.sqrt(37) / 4, rel=1e-5)
    assert output.router_probs.flatten().tolist() == pytest.approx([0.75, 0.25, 0.0])
    # Of the two: -1/2 (1 + ln 4 - 1 - 4) and -1/2 (1 + 0 - 25 - 1); of the third nothing.
    assert output.kl_loss.item() == pytest.approx(0.5 * (4 - math.log(4)) + 12.5, rel=1e-5)
    # E5 is that of all three.
    shares = torch.tensor([math.log(3), 0.0, -4.0]).softmax(0)
    assert output.router_entropy.item() == pytest.approx(-(shares * shares.log()).sum().item(), rel=1e-5)


def test_an_expert_that_no_token_goes_to_learns_from_the_entropy_alone():
    experts = experts_by_hand(2, [1.0, 0.0, -4.0], [1.0, 5.0, 100.0], [0.0, 0.0, 9.0]).train()
    output = experts(torch.ones(1, 5, 1))
    (output.hidden_states.sum() + output.kl_loss).backward(retain_graph=True)
    assert [bias.item() != 0 for bias in experts.expert_means.bias.grad] == [True, True, False]
    assert experts.router.bias.grad[2] == 0 and torch.isfinite(experts.router.weight.grad).all()
    output.router_entropy.backward()
    assert experts.router.bias.grad[2] != 0


def test_only_the_chosen_experts_are_multiplied(monkeypatch):
    rows = []
    addmm = torch.addmm

    def count(bias, states, weight, **options):
        rows.append(len(states))
        return addmm(bias, states, weight, **options)

    states = torch.randn(1, 40, 16)
    for per_token in (None, 2):
        experts = VariationalMixtureOfExperts(16, 8, num_experts_per_tok=per_token).eval()
        rows.clear()
        with monkeypatch.context() as patch:
            patch.setattr(torch, "addmm", count)
            experts(states)
        # The router, then means and variances of the experts.
        assert rows[0] == 40 and sum(rows[1:]) == 2 * 40 * (per_token or 8)


def test_what_is_not_a_number_is_not_hidden():
    experts = VariationalMixtureOfExperts(4, 3, num_experts_per_tok=1).eval()
    states = torch.zeros(1, 2, 4)
    states[0, 1] = float("nan")
    found = experts(states).hidden_states
    assert torch.isfinite(found[0, 0]).all() and torch.isnan(found[0, 1]).all()


def test_a_model_trains_and_comes_back(tmp_path):
    model, inputs = tiny_model(num_experts_per_tok=1), tiny_inputs()
    output = model.train()(**inputs)
    output.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)
    assert ((output.text_router_probs > 0).sum(-1) == 1).all()
    model.eval().save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert loaded.config.num_experts_per_tok == 1
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("number", [0, -1, 9])
def test_a_number_that_no_token_can_have_is_refused(number):
    message = rf"num_experts_per_tok must be between 1 and num_experts = \d, got {number}"
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        tiny_config(num_experts_per_tok=number)
    with pytest.raises(ValueError, match=message):
        VariationalMixtureOfExperts(4, 3, num_experts_per_tok=number)
