"""Two ways to the same numbers: experts in chunks against written out, and evaluation without writing mixtures out."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from modeling_mgvmoe import VariationalMixtureOfExperts
from modeling_mgvmoe import variational_experts as chunked_mixture
from modeling_mgvmoe.modeling_mgvmoe import QueryFusion, _attend, fuse, fuse_means, stable_linear
from modeling_mgvmoe.variational_experts import TOKENS_ON_CPU
from tests.support.tiny import doubled, tiny_inputs, tiny_model

pytestmark = pytest.mark.numerical

H, K = 6, 3


def double_close(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def written_out(experts):
    """The same experts, kept from multiplying in chunks by a hook on a layer."""
    twin = copy.deepcopy(experts)
    twin.expert_means.register_forward_pre_hook(lambda *_: None)
    assert experts.is_chunked and not twin.is_chunked
    return twin


@pytest.mark.parametrize("kept", [0, 2**27], ids=["recomputed", "kept"])
@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("length", [3, TOKENS_ON_CPU // 2 + 1], ids=["one chunk", "two chunks"])
def test_values_and_gradients_are_those_of_the_written_out_experts(monkeypatch, length, noisy, kept):
    monkeypatch.setattr(chunked_mixture, "KEPT_BYTES", kept)
    torch.manual_seed(0)
    experts = VariationalMixtureOfExperts(H, K).double().train(noisy)
    found = []
    for module in (experts, written_out(experts)):
        torch.manual_seed(1)
        states = torch.randn(2, length, H).double().requires_grad_()
        noise = torch.randn(2, length, H).double().requires_grad_() if noisy else None
        mask = torch.rand(2, length) > 0.3
        output = module(states, mask, noise)
        weights = torch.randn_like(output.hidden_states)
        loss = (weights * output.hidden_states).sum() + 0.7 * output.kl_loss + 0.3 * output.router_entropy
        inputs = [states, *([noise] if noisy else []), *module.parameters()]
        gradients = torch.autograd.grad(loss, inputs, retain_graph=True)
        # The way back may be gone twice.
        for once, again in zip(gradients, torch.autograd.grad(loss, inputs), strict=True):
            assert torch.equal(once, again)
        found.append([output.hidden_states, output.kl_loss, output.router_entropy, output.router_probs, *gradients])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


def test_the_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    experts = VariationalMixtureOfExperts(3, 2).double()
    states, noise = (torch.randn(4, 3).double().requires_grad_() for _ in range(2))

    def function(states, noise, *weights):
        layers = [torch.nn.Linear(3, size).double() for size in (2, 6, 6)]
        for layer, weight, bias in zip(layers, weights[::2], weights[1::2], strict=True):
            del layer.weight, layer.bias
            layer.weight, layer.bias = weight, bias
        return chunked_mixture.chunked_mixture(states, noise, *layers)

    weights = [
        parameter.detach().clone().requires_grad_()
        for layer in (experts.router, experts.expert_means, experts.expert_log_variances)
        for parameter in (layer.weight, layer.bias)
    ]
    assert torch.autograd.gradcheck(function, (states, noise, *weights))


def test_under_autocast_the_chunks_multiply_in_half_precision_and_add_up_in_single():
    torch.manual_seed(0)
    experts = VariationalMixtureOfExperts(32, 4).train()
    states, noise = torch.randn(2, 300, 32, requires_grad=True), torch.randn(2, 300, 32)
    exact = experts(states, noise=noise)
    with torch.autocast("cpu", torch.bfloat16):
        half = experts(states, noise=noise)
    assert half.hidden_states.dtype == torch.bfloat16 and half.kl_loss.dtype == torch.float32
    torch.testing.assert_close(half.hidden_states.float(), exact.hidden_states, rtol=0.05, atol=0.05)
    torch.testing.assert_close(half.kl_loss, exact.kl_loss, rtol=0.01, atol=0.01)
    expected = torch.autograd.grad(exact.kl_loss + exact.hidden_states.sum(), states)[0]
    found = torch.autograd.grad(half.kl_loss + half.hidden_states.float().sum(), states)[0]
    assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("autocast", [True, False])
def test_given_half_precision_all_but_the_products_is_single_precision(autocast):
    """Against autograd of the equations, given what the products in half precision are."""
    torch.manual_seed(0)
    number, dtype = TOKENS_ON_CPU + 3, torch.float32 if autocast else torch.bfloat16
    experts = VariationalMixtureOfExperts(H, K).to(dtype)
    states, noise = (torch.randn(number, H).to(dtype).requires_grad_() for _ in range(2))
    layers = (experts.router, experts.expert_means, experts.expert_log_variances)
    with torch.no_grad():
        logits, means, log_variances = (
            torch.addmm(layer.bias.bfloat16(), states.bfloat16(), layer.weight.bfloat16().T).float().requires_grad_()
            for layer in layers
        )
    eps = noise.detach().float().requires_grad_()
    log_probs = logits.log_softmax(-1)
    p, m, s = log_probs.exp()[:, None], means.view(number, H, K), log_variances.view(number, H, K)
    mixture = (p * m).sum(-1) + (p.square() * s.exp()).sum(-1).sqrt() * eps
    divergence = -0.5 * (1 + s - m.square() - s.exp()).sum((1, 2))
    weights = [torch.randn_like(mixture).bfloat16().float(), torch.randn(number), torch.randn(number, K)]
    loss = sum((weight * value).sum() for weight, value in zip(weights, (mixture, divergence, logits), strict=True))
    of_logits, of_means, of_log_variances, of_noise = torch.autograd.grad(loss, (logits, means, log_variances, eps))

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = chunked_mixture.chunked_mixture(states, noise, *layers)
    assert [value.dtype for value in found] == [torch.bfloat16, torch.float32, torch.float32]
    torch.testing.assert_close(found[0], mixture.bfloat16())
    torch.testing.assert_close(found[1:], (divergence, logits), rtol=1e-5, atol=1e-5)
    loss = sum((weight * value).sum() for weight, value in zip(weights, found, strict=True))
    inputs = [states, noise, *(layer.weight for layer in layers), *(layer.bias for layer in layers)]
    of_states, *gradients = torch.autograd.grad(loss, inputs)
    assert {gradient.dtype for gradient in (of_states, *gradients)} == {dtype}
    # Noise and biases are multiplied by nothing: their gradients are rounded at the end, by 2^-8, or not at all.
    expected = [of_noise, *(gradient.sum(0) for gradient in (of_logits, of_means, of_log_variances))]
    for ours, theirs in zip([gradients[0], *gradients[4:]], expected, strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-4 if autocast else 0.004, atol=1e-4)
    expected = [gradient.T @ states.float() for gradient in (of_logits, of_means, of_log_variances)]
    expected.append(of_logits @ layers[0].weight.float())
    expected[-1] += of_means @ layers[1].weight.float() + of_log_variances @ layers[2].weight.float()
    for ours, theirs in zip([*gradients[1:4], of_states], expected, strict=True):
        assert (ours.float() - theirs).norm() < 0.01 * theirs.norm()


def test_drawing_and_losses_never_write_the_experts_outputs_out(monkeypatch):
    experts, states = VariationalMixtureOfExperts(H, K), torch.randn(1, 5, H)

    def refuse(*_):
        raise AssertionError("written out")

    monkeypatch.setattr(torch.nn.Linear, "forward", refuse)
    experts.train()(states, return_losses=False)
    experts.eval()(states, noise=torch.randn(1, 5, H), return_losses=False)
    experts(states)
    with pytest.raises(AssertionError, match="written out"):
        experts(states, return_losses=False)


def test_written_out_experts_draw_their_noise_in_training():
    experts, states = written_out(VariationalMixtureOfExperts(H, K)), torch.randn(1, 5, H)
    for losses in (True, False):
        torch.manual_seed(3)
        drawn = experts.train()(states, return_losses=losses).hidden_states
        torch.manual_seed(3)
        given = experts.eval()(states, noise=torch.randn(1, 5, H), return_losses=losses).hidden_states
        assert torch.equal(drawn, given) and not torch.allclose(given, experts(states).hidden_states)


def test_tokens_in_double_precision_take_the_parameters_with_them():
    torch.manual_seed(0)
    experts = VariationalMixtureOfExperts(H, K)
    exact = copy.deepcopy(experts).double()
    states, noise = torch.randn(5, H).double(), torch.randn(5, H)
    found = []
    for module, own in ((experts, noise), (exact, noise.double())):
        states = states.detach().requires_grad_()
        layers = (module.router, module.expert_means, module.expert_log_variances)
        values = chunked_mixture.chunked_mixture(states, own, *layers)
        gradients = torch.autograd.grad(sum(value.square().sum() for value in values), [states, *module.parameters()])
        assert [gradient.dtype for gradient in gradients[1:]] == [parameter.dtype for parameter in module.parameters()]
        found.append([*values, gradients[0], *(gradient.float() for gradient in gradients[1:])])
    for mixed, double in zip(*found, strict=True):
        torch.testing.assert_close(mixed, double)


def test_without_noise_it_is_the_mean_unless_noise_is_to_be_drawn():
    torch.manual_seed(0)
    experts, states = VariationalMixtureOfExperts(H, K).double().eval(), torch.randn(1, 5, H).double()
    layers = (experts.router, experts.expert_means, experts.expert_log_variances)
    mean = experts(states, return_losses=False).hidden_states[0]
    torch.testing.assert_close(chunked_mixture.chunked_mixture(states[0], None, *layers)[0], mean)
    assert ((chunked_mixture.chunked_mixture(states[0], None, *layers, draw=True)[0] - mean).abs() > 1e-6).any()


def test_chunks_are_larger_where_there_are_no_caches_of_cores():
    assert chunked_mixture._chunks(1024, torch.device("cpu")) == [slice(0, 512), slice(512, 1024)]
    assert chunked_mixture._chunks(16385, torch.device("meta")) == [slice(0, 16384), slice(16384, 32768)]


def test_of_large_outputs_of_the_experts_nothing_is_kept_for_the_way_back(monkeypatch):
    monkeypatch.setattr(chunked_mixture, "KEPT_BYTES", 50_000)
    experts = VariationalMixtureOfExperts(8, 16).train()
    states = torch.randn(2, 50, 8, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x):
        experts(states)
    parameters = {parameter.numel() for parameter in experts.parameters()}
    # Router probabilities are (2, 50, 16), states (2, 50, 8); outputs of experts would be (2, 50, 8, 16) = 12,800.
    assert max(number for number in kept if number not in parameters) <= 2 * 50 * 16


@pytest.mark.parametrize("fusion", ["additive", "query"])
@pytest.mark.parametrize("drawings", [True, False])
def test_evaluation_equals_the_written_out_mixtures(fusion, drawings):
    model = tiny_model(fusion=fusion).double().eval()
    inputs = doubled(tiny_inputs())
    inputs.pop("labels")
    if not drawings:
        inputs = {name: value for name, value in inputs.items() if not name.startswith(("pixel", "image"))}
    fast = model(**inputs)
    model.mgvmoe.experts = written_out(model.mgvmoe.experts)
    plain = model(**inputs)
    for name in ("logits", "mention_embeds", "text_embeds", "image_embeds", "fusion_attentions", "text_router_probs"):
        if getattr(fast, name) is None:
            assert getattr(plain, name) is None and not drawings
            continue
        double_close(fast[name], plain[name])


def test_evaluation_multiplies_no_token_by_an_expert(monkeypatch):
    model, inputs = tiny_model().eval(), tiny_inputs()
    inputs.pop("labels")
    experts, forward = model.mgvmoe.experts, torch.nn.Linear.forward

    def refuse(layer, states):
        assert layer not in (experts.expert_means, experts.expert_log_variances), "tokens were multiplied by an expert"
        return forward(layer, states)

    monkeypatch.setattr(torch.nn.Linear, "forward", refuse)
    assert torch.isfinite(model(**inputs).logits).all()
    with pytest.raises(AssertionError, match="multiplied by an expert"):
        written_out(experts).expert_means(torch.zeros(1, 1, 32))
        experts.expert_means(torch.zeros(1, 1, 32))


# What stands in the way of a layer, as adapters, offloading and those who watch activations do it.
OBSTACLES = {
    "forward hook": lambda layer: layer.register_forward_hook(lambda module, given, output: 2 * output),
    "hook before": lambda layer: layer.register_forward_pre_hook(lambda module, given: None),
    "backward hook": lambda layer: layer.register_full_backward_hook(lambda module, given, output: None),
    "another class": lambda layer: setattr(layer, "__class__", type("Adapted", (type(layer),), {})),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
@pytest.mark.parametrize("name", ["expert_means", "expert_log_variances", "router", ""])
def test_layers_that_are_not_plain_are_left_to_their_own_forward(name, obstacle):
    experts = VariationalMixtureOfExperts(H, K).train()
    assert experts.is_chunked
    OBSTACLES[obstacle](experts.get_submodule(name))
    assert not experts.is_chunked


def test_a_hook_on_the_fusion_or_the_experts_is_heard_at_evaluation():
    model, inputs = tiny_model(fusion="additive").eval(), tiny_inputs()
    inputs.pop("labels")
    before = model(**inputs)
    for layer in (model.mgvmoe.fusion_score, model.mgvmoe.experts.expert_means):
        handle = layer.register_forward_hook(lambda module, given, output: output * torch.arange(output.shape[1])[
            (...,) if output.ndim == 2 else (slice(None), None)])  # fmt: skip
        assert not torch.allclose(model(**inputs).fusion_attentions, before.fusion_attentions)
        handle.remove()
    assert torch.equal(model(**inputs).logits, before.logits)


def test_a_divergence_near_0_is_not_lost_in_single_precision():
    torch.manual_seed(0)
    experts = VariationalMixtureOfExperts(64, 8)
    with torch.no_grad():
        for layer in (experts.expert_means, experts.expert_log_variances):
            layer.weight.zero_()
            layer.bias.normal_(std=1e-3)
    states = torch.randn(1, 4, 64)
    exact = copy.deepcopy(experts).double()(states.double()).kl_loss
    # -1/2 (1 + s - m^2 - e^s) is about (m^2 + s^2 / 2) / 2.
    mean, spread = (
        layer.bias.double().square().sum() for layer in (experts.expert_means, experts.expert_log_variances)
    )
    torch.testing.assert_close(exact, (mean + spread / 2) / 2, rtol=1e-3, atol=0)
    torch.testing.assert_close(experts(states).kl_loss.double(), exact, rtol=5e-3, atol=0)


def test_validation_keeps_nothing_for_a_way_back(monkeypatch):
    experts, states = VariationalMixtureOfExperts(8, 4).eval(), torch.randn(2, 5, 8)
    made = []
    new_empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: made.append(new_empty(*a, **k)) or made[-1])
    with torch.no_grad():
        experts(states)
    assert max(tensor.numel() for tensor in made) < 2 * 4 * 10 * 8
    made.clear()
    experts(states)
    assert max(tensor.numel() for tensor in made) == 2 * 4 * 10 * 8
    # Not one byte more than the bound, of 4 bytes a number.
    for bound, kept in ((4 * 640, True), (4 * 640 - 1, False)):
        monkeypatch.setattr(chunked_mixture, "KEPT_BYTES", bound)
        made.clear()
        experts(states)
        assert (max(tensor.numel() for tensor in made) == 640) is kept


def test_query_fusion_by_hand():
    layer = torch.nn.Linear(1, 9)
    with torch.no_grad():
        layer.weight.zero_()[0] = 3 * math.log(3)
        layer.bias.zero_()
    states = F.pad(torch.tensor([[[0.0, 4, 0, 0], [1, 0, 8, 0], [5, 5, 5, 5]]]), (0, 5))
    # H is 9 and its root 3: scores 0 and log 3, weights 1/4 and 3/4; the third token is padding.
    fused, weights = fuse(QueryFusion(layer), torch.ones(1, 1), states, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(weights, torch.tensor([[0.25, 0.75, 0.0]]))
    torch.testing.assert_close(fused, F.pad(torch.tensor([[0.75, 1.0, 6.0]]), (0, 6)))
    # Scores of single precision give weights in the precision of the states.
    assert _attend(torch.zeros(1, 2), torch.ones(1, 2).bool(), torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (2,), (1, 3)])
def test_a_single_row_is_projected_as_any_other(shape):
    layer, rows = torch.nn.Linear(5, 3).double(), torch.randn(*shape, 5).double()
    torch.testing.assert_close(stable_linear(layer, rows), layer(rows))


def test_modalities_of_one_token_and_of_none_have_their_means():
    torch.manual_seed(0)
    experts = VariationalMixtureOfExperts(H, K).double().eval()
    fusion = QueryFusion(torch.nn.Linear(4, H).double())
    query, masks = torch.randn(2, 4).double(), [torch.ones(2, 3).bool(), torch.tensor([[True, False], [False, False]])]
    states = [torch.randn(2, 3, H).double(), torch.randn(2, 2, H).double()]
    fused, weights, means, _ = fuse_means(fusion, experts, query, list(zip(states, masks, strict=True)))
    mixtures = [experts(one).hidden_states for one in states]
    expected = fuse(fusion, query, torch.cat(mixtures, 1), torch.cat(masks, 1))
    double_close((fused, weights), expected)
    double_close(means[0], mixtures[0].mean(1))
    double_close(means[1], torch.stack([mixtures[1][0, 0], torch.zeros(H).double()]))


@pytest.mark.parametrize("fusion", ["additive", "query"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_do_not_depend_on_where_in_memory_the_weights_lie(fusion, batch_size):
    model = tiny_model(fusion=fusion).eval()
    inputs = tiny_inputs(batch_size=batch_size)
    inputs = {name: value for name, value in inputs.items() if not name.startswith(("pixel", "image"))}
    inputs["candidate_input_ids"] = inputs["candidate_input_ids"][:1]
    inputs["candidate_attention_mask"] = inputs["candidate_attention_mask"][:1]
    inputs.pop("labels")
    expected = model(**inputs).logits
    for shift in (1, 9):
        for parameter in model.parameters():
            # A memory map of a file puts weights at any multiple of four bytes.
            room = torch.empty(parameter.numel() + 32)
            start = (-room.data_ptr() // 4) % 16 + shift
            parameter.data = room[start : start + parameter.numel()].view(parameter.shape).copy_(parameter.data)
        assert torch.equal(model(**inputs).logits, expected)


class TestSharedImages:
    def test_scores_are_those_of_the_images_repeated(self):
        model, inputs = tiny_model().double().eval(), doubled(tiny_inputs())
        inputs.pop("labels")
        batch = len(inputs["input_ids"])
        rows = torch.arange(batch) % 2
        shared = {**inputs, "pixel_values": inputs["pixel_values"][:2], "image_index": rows}
        repeated = {**inputs, "pixel_values": inputs["pixel_values"][rows]}
        seen = []
        model.mgvmoe.vision_model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
        )
        double_close(model(**shared).logits, model(**repeated).logits)
        assert seen[0] <= 2

    def test_an_image_that_no_post_has_is_not_encoded(self):
        model, inputs = tiny_model().double().eval(), doubled(tiny_inputs())
        inputs.pop("labels")
        inputs["pixel_values"][1] = float("nan")
        index = torch.zeros(len(inputs["input_ids"]), dtype=torch.long)
        seen = []
        model.mgvmoe.vision_model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
        )
        assert torch.isfinite(model(**inputs, image_index=index).logits).all()
        assert seen == [1]

    @pytest.mark.parametrize(
        "index, message",
        [
            ([0, 1], r"image_index must be \(B,\) = \(4,\), got \(2,\)"),
            ([0, 1, 2, 9], r"image_index must be in \[0, 4\), the rows of images, got \[0, 1, 2, 9\]"),
            ([0, 1, 2, -1], r"image_index must be in \[0, 4\), the rows of images, got \[0, 1, 2, -1\]"),
        ],
    )
    def test_rows_that_are_not_there_are_named(self, index, message):
        with pytest.raises(ValueError, match=message):
            tiny_model()(**tiny_inputs(), image_index=torch.tensor(index))

    def test_an_index_without_images_is_refused(self):
        inputs = {name: value for name, value in tiny_inputs().items() if name not in ("pixel_values", "image_mask")}
        with pytest.raises(ValueError, match="image_index came, but neither pixel_values nor image_features"):
            tiny_model()(**inputs, image_index=torch.zeros(4, dtype=torch.long))
