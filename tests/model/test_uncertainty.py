import math

import pytest
import torch

from modeling_mgvmoe import modeling_mgvmoe as fusion
from modeling_mgvmoe.modeling_mgvmoe import fused_variance
from modeling_mgvmoe.objectives import predictive_statistics, statistics_of_probs
from modeling_mgvmoe.pipeline_mgvmoe import ZeroShotMultimodalIEPipeline
from modeling_mgvmoe.variational_experts import VariationalMixtureOfExperts
from tests.support.from_scratch import LABELS, RELATIONS, drawing, posts, scratch_model, scratch_similarity
from tests.support.tiny import doubled, tiny_config, tiny_inputs, tiny_model

pytestmark = pytest.mark.numerical


def test_draws_that_agree_carry_no_information():
    logits = torch.log(torch.tensor([[0.9, 0.1], [0.9, 0.1]]))
    found = predictive_statistics(logits)
    assert found["mean_probs"].tolist() == pytest.approx([0.9, 0.1])
    assert found["std_probs"].tolist() == pytest.approx([0, 0], abs=1e-7)
    assert found["mutual_information"].item() == pytest.approx(0, abs=1e-6)


def test_draws_that_are_sure_of_different_things():
    # Each draw is certain, their mean is a coin: all of its entropy, log 2, is disagreement.
    logits = torch.tensor([[[0.0, -math.inf, -math.inf]], [[-math.inf, 0.0, -math.inf]]])
    found = predictive_statistics(logits)
    assert found["mean_probs"].tolist() == [[0.5, 0.5, 0.0]]
    assert found["mutual_information"].item() == pytest.approx(math.log(2))
    # Of 1 and 0 over two draws: sqrt((0.25 + 0.25) / 1).
    assert found["std_probs"][0].tolist() == pytest.approx([math.sqrt(0.5), math.sqrt(0.5), 0])


def test_the_deviation_is_that_of_a_sample():
    logits = torch.log(torch.tensor([[0.2, 0.8], [0.4, 0.6], [0.6, 0.4]]))
    # sqrt((0.04 + 0 + 0.04) / 2).
    assert predictive_statistics(logits)["std_probs"].tolist() == pytest.approx([0.2, 0.2])


def test_rounding_takes_no_information_below_0():
    # Three draws that agree: what is left is rounding, of either sign.
    probs = torch.randn(1, 1000, 7).softmax(-1).expand(3, -1, -1)
    assert statistics_of_probs(probs)["mutual_information"].min() >= 0


def test_one_draw_has_no_deviation():
    found = predictive_statistics(torch.randn(1, 2, 3))
    assert found["std_probs"].tolist() == [[0.0] * 3] * 2
    assert found["mutual_information"].abs().max() < 1e-6


def test_the_variance_of_the_fused_vector_by_hand():
    experts = VariationalMixtureOfExperts(1, 2)
    with torch.no_grad():
        for layer in experts.children():
            layer.weight.zero_()
            layer.bias.zero_()
        experts.expert_log_variances.bias.copy_(torch.log(torch.tensor([4.0, 8.0])))
    # Both tokens: router 1/2 and 1/2, variance 1/4 * 4 + 1/4 * 8 = 3. Weights 0.2 and 0.8: (0.04 + 0.64) * 3.
    variance = fused_variance(experts, [(torch.zeros(1, 2, 1), torch.tensor([[0.2, 0.8]]), None)])
    assert variance.item() == pytest.approx(2.04)


def test_the_variance_of_shared_rows_is_the_same_in_pieces_and_token_by_token(monkeypatch):
    torch.manual_seed(0)
    experts = VariationalMixtureOfExperts(4, 3).double()
    states, weights = torch.randn(2, 5, 4).double(), torch.rand(3, 5).double()
    weights[:, 2] = 0  # padding for everyone
    index = torch.tensor([1, 0, 1])
    with torch.no_grad():
        probs = experts.route(states)
        log_variances = experts.expert_log_variances(states).view(2, 5, 4, 3)
        own = (probs.square()[:, :, None] * log_variances.exp()).sum(-1)
        expected = sum(weights[:, token, None].square() * own[index, token] for token in range(5))
        for at_once in (512, 2):
            monkeypatch.setattr(fusion, "TOKENS_AT_ONCE", at_once)
            torch.testing.assert_close(fused_variance(experts, [(states, weights, index)]), expected)
            whole = fused_variance(experts, [(states[index], weights, None), (states, weights, index)])
            torch.testing.assert_close(whole, 2 * expected)


@pytest.mark.parametrize("fusion", ["additive", "query"])
def test_the_variance_is_that_of_tokens_drawn_one_by_one(fusion):
    """Many posts alike with noise of their own on every token, the weights held at those of the means."""
    model = tiny_model(tiny_config(fusion=fusion)).mgvmoe
    inputs = {name: value for name, value in tiny_inputs(labels=False).items() if not name.startswith("candidate")}
    with torch.no_grad():
        output = model(**inputs, return_variance=True)
        plain = model(**inputs)
        assert torch.equal(output.fused_embeds, plain.fused_embeds) and plain.fused_variance is None
        text = model.text_model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        image = model.vision_projection(model.get_image_features(inputs["pixel_values"]))
        states = torch.cat([image, text], dim=1)
        weights = output.fusion_attentions
        many = states.repeat(500, 1, 1)
        drawn = model.experts(many, noise=torch.randn_like(many)).hidden_states
        draws = torch.einsum("bl,nblh->nbh", weights, drawn.unflatten(0, (500, -1)))
    # The second post has no image, and the weights of its image tokens are 0.
    assert weights[1, : image.shape[1]].abs().max() == 0
    error = (draws.mean(0) - output.fused_embeds).abs()
    assert (error < 5 * (output.fused_variance / len(draws)).sqrt() + 1e-4).all()
    # The deviation of a variance over 500 draws is sqrt(2 / 500) = 6.3 % of it: five of them.
    torch.testing.assert_close(draws.var(0), output.fused_variance, rtol=0.32, atol=1e-4)


def test_posts_that_share_an_image_have_the_variance_that_they_have_alone():
    model = tiny_model().double().mgvmoe
    inputs = doubled(tiny_inputs(labels=False))
    inputs = {name: value for name, value in inputs.items() if not name.startswith("candidate")}
    inputs["pixel_values"] = inputs["pixel_values"][[0, 0, 2, 0]]
    expected = model(**inputs, return_variance=True).fused_variance
    shared = {**inputs, "pixel_values": inputs["pixel_values"][[2, 0]], "image_index": torch.tensor([1, 1, 0, 1])}
    torch.testing.assert_close(model(**shared, return_variance=True).fused_variance, expected)


def test_the_model_gives_mean_deviation_and_information(model, inputs):
    inputs.pop("labels")
    with torch.no_grad():
        plain = model(**inputs)
        drawn = model(**inputs, num_samples=7)
    assert torch.equal(plain.logits, drawn.logits)
    assert plain.sample_logits is plain.mean_probs is plain.mutual_information is None
    size = plain.logits.shape
    assert drawn.sample_logits.shape == (7, *size) and drawn.mean_probs.shape == drawn.std_probs.shape == size
    assert drawn.mutual_information.shape == size[:1] and bool((drawn.mutual_information > 0).all())
    torch.testing.assert_close(drawn.mean_probs, drawn.sample_logits.softmax(-1).mean(0))


def test_no_noise_gives_the_logits_and_noise_moves_them_by_the_deviation(model, inputs):
    model, inputs = model.double(), doubled(inputs)
    inputs.pop("labels")
    size = (len(inputs["input_ids"]), model.config.hidden_size)
    with torch.no_grad():
        quiet = model(**inputs, sample_noise=torch.zeros(2, *size).double())
        torch.testing.assert_close(quiet.sample_logits, quiet.logits.expand(2, -1, -1))
        noise = torch.randn(1, *size).double()
        found = model(**inputs, sample_noise=noise).sample_logits[0]
        posts = {name: value for name, value in inputs.items() if not name.startswith("candidate")}
        output = model.mgvmoe(**posts, return_variance=True)
        moved = torch.cat([output.fused_embeds + output.fused_variance.sqrt() * noise[0], output.mention_states], -1)
        candidates = model.get_candidate_embeds(inputs["candidate_input_ids"], inputs["candidate_attention_mask"])
        expected = model.mention_projection(moved) @ model.candidate_projection(candidates).T
    torch.testing.assert_close(found, expected)
    assert (found - quiet.logits).abs().max() > 0.01


def test_candidates_that_a_post_does_not_have_stay_out(model, inputs):
    inputs.pop("labels")
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[0, 2] = False
    drawn = model(**inputs, candidate_mask=mask, num_samples=3)
    assert bool((drawn.sample_logits[:, 0, 2] == -math.inf).all())
    assert drawn.mean_probs[0, 2] == drawn.std_probs[0, 2] == 0
    assert bool(drawn.mutual_information.isfinite().all())


def test_draws_of_a_model_whose_scores_begin_as_similarity():
    post = {"text": "Kelo sails at dawn", "mention": (0, 4), "image": drawing(1)}
    model, processor = scratch_similarity(torch.double)
    inputs = processor(text=post["text"], mentions=post["mention"], candidate_labels=LABELS, return_tensors="pt")
    with torch.no_grad():
        closed = model(**inputs, num_samples=4)
        torch.testing.assert_close(closed.sample_logits, closed.logits.expand(4, -1, -1))
        model.similarity.gate.fill_(0.5)
        opened = model(**inputs, num_samples=4)
    assert (opened.sample_logits - opened.logits).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("overrides", "arguments", "message"),
    [
        ({}, {"num_samples": 0}, "num_samples must be an integer of at least 1, got 0"),
        ({}, {"num_samples": 2, "sample_noise": torch.zeros(3, 4, 32)}, "sample_noise must have num_samples = 2"),
        (
            {},
            {"sample_noise": torch.zeros(3, 4, 31)},
            "sample_noise must be \\(N, B, H\\) with \\(B, H\\) = \\(4, 32\\)",
        ),
        ({}, {"num_samples": 2, "text_noise": torch.zeros(4, 11, 32)}, "no text_noise or image_noise"),
        ({"num_experts": 0}, {"num_samples": 2}, "num_samples: they need experts"),
        ({"deterministic_experts": True}, {"num_samples": 2}, "experts without variances have nothing to draw"),
    ],
)
def test_what_cannot_be_drawn(overrides, arguments, message):
    inputs = tiny_inputs(labels=False)
    with pytest.raises(ValueError, match=message):
        tiny_model(**overrides)(**inputs, **arguments)


def test_draws_are_for_inference(model, inputs):
    with pytest.raises(ValueError, match="draws at inference; call model.eval"):
        model.train()(**inputs, num_samples=2)


# The pipeline


def test_the_pipeline_ranks_by_the_mean_over_the_draws():
    model, processor = scratch_model()
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    torch.manual_seed(5)
    found = pipe(posts(), candidate_labels=LABELS, num_samples=64, batch_size=3)
    for post, ranking in zip(posts(), found, strict=True):
        labels = post.get("candidate_labels", LABELS)
        assert [set(entry) for entry in ranking] == [{"label", "score", "deviation", "mutual_information"}] * len(
            labels
        )
        assert sum(entry["score"] for entry in ranking) == pytest.approx(1)
        assert [entry["score"] for entry in ranking] == sorted((entry["score"] for entry in ranking), reverse=True)
        assert len({entry["mutual_information"] for entry in ranking}) == 1
        assert all(entry["deviation"] > 0 for entry in ranking)
    torch.manual_seed(5)
    assert pipe(posts(), candidate_labels=LABELS, num_samples=64, batch_size=3) == found
    alone = pipe(posts()[0], candidate_labels=LABELS, num_samples=2000)
    model_alone = {entry["label"]: entry["score"] for entry in alone}
    # The deviation of a mean over 64 draws is an eighth of that of a draw.
    for entry in found[0]:
        assert entry["score"] == pytest.approx(model_alone[entry["label"]], abs=5 * entry["deviation"] / 8)
    raw = pipe(posts()[1], candidate_labels=RELATIONS, num_samples=8, function_to_apply="none")
    assert raw[0]["deviation"] > 0
