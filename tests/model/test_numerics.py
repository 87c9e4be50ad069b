"""Scores at the edges: one expert and many, one label, one post, no images, huge weights, half precision."""

import pytest
import torch

from tests.support.tiny import tiny_inputs, tiny_model, with_mentions, with_types

pytestmark = pytest.mark.numerical

HALVES = [torch.bfloat16, torch.float16]
# bfloat16 rounds by up to 0.4 % and float16 by 0.05 %, some 25 times in a row up to a score: by 10 % and 1.25 %
# of the largest score at worst. How often, and in which order sums are made, depends on the processor.
ERRORS = {torch.float64: 1e-9, torch.bfloat16: 0.1, torch.float16: 0.0125}


def in_dtype(inputs, dtype):
    return {name: own.to(dtype) if own.is_floating_point() else own for name, own in inputs.items()}


@torch.no_grad()
def scores(model, inputs):
    dtype = next(model.parameters()).dtype
    return model(**in_dtype(inputs, dtype)).logits.double()


@pytest.mark.parametrize("num_experts", [1, 64])
@pytest.mark.parametrize("dtype", HALVES)
def test_one_expert_and_many(num_experts, dtype):
    model = tiny_model(num_experts=num_experts).double().eval()
    expected = scores(model, tiny_inputs())
    found = scores(model.to(dtype), tiny_inputs())
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, atol=ERRORS[dtype] * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_ranks_as_single(dtype):
    """Where two labels are further apart than half precision may move both, their order is the same."""
    model = tiny_model().double().eval()
    expected = scores(model, tiny_inputs())
    found = scores(model.to(dtype), tiny_inputs())
    gaps = expected[:, :, None] - expected[:, None, :]
    clear = gaps > 2 * ERRORS[dtype] * expected.abs().max()
    assert clear.any()
    assert ((found[:, :, None] - found[:, None, :])[clear] > 0).all()


@pytest.mark.parametrize("dtype", HALVES)
def test_residual_experts_in_half_precision(dtype):
    """Their pooled states are in single precision, their weights are not; with pixels, image text and types."""
    torch.manual_seed(0)
    settings = {"expert_type": "residual", "score": "similarity", "objective": "cross_entropy", "adversary": "none"}
    model = tiny_model(**settings).double().eval()
    with torch.no_grad():
        for parameter in model.mgvmoe.experts.parameters():
            parameter.normal_(std=0.3)
    words = torch.tensor([[5, 6, 7], [8, 9, 0], [0, 0, 0], [4, 0, 0]])
    inputs = {**with_types(with_mentions(tiny_inputs())), "image_text_input_ids": words,
              "image_text_attention_mask": (words > 0).long()}  # fmt: skip
    expected = scores(model, inputs)
    found = scores(model.to(dtype), inputs)
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, atol=ERRORS[dtype] * expected.abs().max().item(), rtol=0)
    loss = model.train()(**in_dtype(inputs, dtype)).loss
    loss.backward()
    assert loss.isfinite() and model.mgvmoe.experts.expert_means.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", ERRORS)
def test_a_single_label_a_single_post_and_no_images(dtype):
    model = tiny_model().eval().to(dtype)
    inputs = tiny_inputs()
    inputs.pop("labels", None)
    whole = scores(model, inputs)
    candidates = {
        name: own[:1] for name, own in inputs.items() if name in ("candidate_input_ids", "candidate_attention_mask")
    }
    one_label = scores(model, {**inputs, **candidates})
    assert one_label.shape == (len(whole), 1)
    tolerance = {"atol": ERRORS[dtype] * whole.abs().max().item(), "rtol": 0}
    torch.testing.assert_close(one_label[:, 0], whole[:, 0], **tolerance)
    shared = ("candidate_input_ids", "candidate_attention_mask")
    one_post = scores(model, {name: own if name in shared else own[:1] for name, own in inputs.items()})
    torch.testing.assert_close(one_post[0], whole[0], **tolerance)
    blind = {**inputs, "image_mask": torch.zeros(len(whole), dtype=torch.bool)}
    without = {name: own for name, own in inputs.items() if name not in ("pixel_values", "image_mask")}
    assert scores(model, blind).isfinite().all()
    torch.testing.assert_close(scores(model, blind), scores(model, without), **tolerance)


def test_huge_weights_give_no_nan():
    """A saturated router, an attention of one token, logits of ten thousands: no NaN in scores, loss and gradients."""
    model = tiny_model().train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if (
                any(part in name for part in ("router", "fusion", "mention_projection", "candidate_projection"))
                and parameter.ndim > 1
            ):
                parameter.mul_(1e4)
    inputs = tiny_inputs()
    output = model(**inputs)
    assert output.logits.abs().max() > 1e4
    assert output.logits.isfinite().all() and output.loss.isfinite()
    output.loss.backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
    model.eval()
    assert scores(model, inputs).isfinite().all()


def test_all_images_missing_in_training():
    model = tiny_model().train()
    inputs = tiny_inputs()
    output = model(**{**inputs, "image_mask": torch.zeros(len(inputs["input_ids"]), dtype=torch.bool)})
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
