"""The shared variational experts: mixture, noise contract, masks, extremes (E1-E5)."""

import math

import pytest
import torch
from torch import nn

from modeling_mgvmoe import MGVMoEForZeroShotIE, VariationalMixtureOfExperts
from modeling_mgvmoe.configuration_mgvmoe import EXPERTS_IMPLEMENTATIONS
from modeling_mgvmoe.variational_experts import NoExperts, is_plain, losses_of_sums
from tests.support.tiny import doubled, tiny_config, tiny_inputs, tiny_model

pytestmark = pytest.mark.numerical

H, K = 4, 3


@pytest.fixture(params=["chunked", "eager"])
def experts(request):
    config = tiny_config()
    config._experts_implementation = request.param
    return VariationalMixtureOfExperts(H, K, config=config).double()


@pytest.fixture
def states():
    return torch.randn(2, 5, H).double()


class TestMixture:
    def test_evaluation_is_the_weighted_sum_of_the_means_expert_by_expert(self, experts, states):
        output = experts.eval()(states)
        probs = experts.router(states).softmax(-1)
        flat = experts.expert_means(states)
        expected = torch.zeros_like(states)
        for hidden in range(H):
            for expert in range(K):
                expected[..., hidden] += probs[..., expert] * flat[..., hidden * K + expert]  # hidden-major
        torch.testing.assert_close(output.hidden_states, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(output.router_probs, probs, rtol=0, atol=1e-12)

    def test_given_noise_is_scaled_by_the_root_of_the_mixture_s_variance(self, experts, states):
        noise = torch.randn_like(states)
        probs = experts.router(states).softmax(-1)
        log_variances = experts.expert_log_variances(states).view(2, 5, H, K)
        deviation = (probs.square().unsqueeze(-2) * log_variances.exp()).sum(-1).sqrt()
        mean = experts.eval()(states).hidden_states
        for training in (True, False):
            sampled = experts.train(training)(states, noise=noise).hidden_states
            torch.testing.assert_close(sampled, mean + deviation * noise, rtol=0, atol=1e-12)

    def test_one_noise_vector_has_the_mean_and_variance_of_a_noise_for_every_expert(self):
        samples = 40_000
        experts = VariationalMixtureOfExperts(2, K).double().train()
        with torch.no_grad():
            experts.expert_log_variances.weight.mul_(2)
            token = torch.randn(1, 1, 2).double()
            ours = experts(token.expand(1, samples, 2)).hidden_states[0]
            probs = experts.router(token).softmax(-1)[0]
            means = experts.expert_means(token).view(2, K)
            deviations = (experts.expert_log_variances(token).view(2, K) / 2).exp()
            theirs = (probs * (means + deviations * torch.randn(samples, 2, K).double())).sum(-1)
        mean, variance = (probs * means).sum(-1), (probs * deviations).square().sum(-1)
        for drawn in (ours, theirs):
            # Standard errors: sigma / sqrt(n) of the mean, sigma^2 sqrt(2 / n) of the variance; five of them.
            assert ((drawn.mean(0) - mean).abs() < 5 * (variance / samples).sqrt()).all()
            assert ((drawn.var(0) - variance).abs() < 5 * variance * math.sqrt(2 / samples)).all()
        # The two hidden units get independent noise: the correlation of n draws has standard error 1 / sqrt(n).
        assert torch.corrcoef(ours.T)[0, 1].abs() < 5 / math.sqrt(samples)

    def test_one_expert_has_weight_one_and_no_entropy(self, states):
        output = VariationalMixtureOfExperts(H, 1).double().eval()(states)
        assert (output.router_probs == 1).all()
        assert output.router_entropy.item() == 0.0


def test_losses_of_the_sums_of_all_processes_by_hand():
    # E4 and E5 of 4 tokens of the text, of 2 of the images, and of no token at all.
    sums = torch.tensor([[8.0, 2.0, 4.0], [6.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(losses_of_sums(sums[:2]), torch.tensor([2.5, 0.5]), rtol=0, atol=1e-6)
    torch.testing.assert_close(losses_of_sums(sums[[0, 2]]), torch.tensor([2.0, 0.5]), rtol=0, atol=1e-6)
    torch.testing.assert_close(losses_of_sums(torch.tensor([[3.0, 1.0, 1.0]])), torch.tensor([3.0, 1.0]))


class TestNoiseContract:
    def test_evaluation_is_the_same_under_two_seeds(self, experts, states):
        experts.eval()
        torch.manual_seed(1)
        first = experts(states)
        torch.manual_seed(2)
        second = experts(states)
        assert torch.equal(first.hidden_states, second.hidden_states)

    def test_training_differs_under_two_seeds_and_repeats_under_one(self, experts, states):
        experts.train()
        drawn = []
        for seed in (1, 2, 1):
            torch.manual_seed(seed)
            drawn.append(experts(states).hidden_states)
        assert torch.equal(drawn[0], drawn[2])
        assert ((drawn[0] - drawn[1]).abs() > 0).all()

    def test_losses_and_weights_come_before_the_noise_and_are_identical(self, experts, states):
        outputs = []
        for seed, training in ((1, True), (2, True), (3, False)):
            torch.manual_seed(seed)
            outputs.append(experts.train(training)(states))
        for name in ("kl_loss", "router_entropy", "router_probs"):
            assert torch.equal(outputs[0][name], outputs[1][name])
            assert torch.equal(outputs[0][name], outputs[2][name])

    def test_evaluation_without_losses_never_multiplies_the_log_variances(self, experts, states):
        def refuse(*_):
            raise AssertionError("the log variances were multiplied")

        expected = experts.eval()(states).hidden_states
        experts.expert_log_variances.register_forward_pre_hook(refuse)
        output = experts(states, return_losses=False)
        torch.testing.assert_close(output.hidden_states, expected, rtol=0, atol=1e-12)
        assert output.kl_loss is None and output.router_entropy is None


class TestMask:
    def test_losses_are_means_over_real_tokens(self, experts, states):
        mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 0, 0]])
        masked, cut = experts(states, attention_mask=mask), experts(states[:, :3])
        torch.testing.assert_close(masked.kl_loss, cut.kl_loss)
        torch.testing.assert_close(masked.router_entropy, cut.router_entropy)

    def test_padding_gets_no_gradient_from_the_losses(self, experts, states):
        states.requires_grad_()
        output = experts.eval()(states, attention_mask=torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]))
        (output.kl_loss + output.router_entropy).backward()
        real = states.grad.abs().sum(-1) > 0
        assert real.tolist() == [[True] * 3 + [False] * 2, [True] + [False] * 4]


class TestExtremes:
    def set_constant(self, linear: nn.Linear, bias: torch.Tensor):
        with torch.no_grad():
            linear.weight.zero_()
            linear.bias.copy_(bias)

    def check_finite(self, experts, states):
        states = states.requires_grad_()
        output = experts(states)
        (output.hidden_states.sum() + output.kl_loss + output.router_entropy).backward()
        for tensor in (output.hidden_states, output.kl_loss, output.router_entropy, states.grad):
            assert torch.isfinite(tensor).all()
        for parameter in experts.parameters():
            assert torch.isfinite(parameter.grad).all()
        return output

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    @pytest.mark.parametrize("training", [True, False])
    def test_a_saturated_router_gives_neither_nan_values_nor_nan_gradients(self, training, dtype):
        experts = VariationalMixtureOfExperts(H, K).to(dtype).train(training)
        self.set_constant(experts.router, torch.tensor([1e4, -1e4, 0.0]))
        output = self.check_finite(experts, torch.randn(2, 5, H, dtype=dtype))
        assert output.router_probs[0, 0].tolist() == [1.0, 0.0, 0.0]
        assert output.router_entropy.item() == 0.0

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_log_variances_of_minus_200_give_neither_nan_values_nor_nan_gradients(self, dtype):
        experts = VariationalMixtureOfExperts(H, K).to(dtype).train()
        # exp(-200) = 1e-87 is 0 in single precision, and the root of 0 has an infinite derivative.
        self.set_constant(experts.expert_log_variances, torch.full((H * K,), -200.0))
        states = torch.randn(2, 5, H, dtype=dtype)
        output = self.check_finite(experts, states)
        torch.testing.assert_close(output.hidden_states, experts.eval()(states).hidden_states)

    def test_a_saturated_router_on_an_expert_without_variance_is_finite(self):
        experts = VariationalMixtureOfExperts(H, K).train()
        self.set_constant(experts.router, torch.tensor([1e4, -1e4, 0.0]))
        self.set_constant(experts.expert_log_variances, torch.tensor([-200.0, 5.0, 5.0]).repeat(H))
        self.check_finite(experts, torch.randn(2, 5, H))


class TestErrors:
    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"hidden_states": torch.zeros(2, H)}, r"hidden_states must be \(B, L, 4\), got \(2, 4\)"),
            ({"hidden_states": torch.zeros(2, 5, 7)}, r"hidden_states must be \(B, L, 4\), got \(2, 5, 7\)"),
            (
                {"hidden_states": torch.zeros(2, 5, H), "attention_mask": torch.ones(2, 4)},
                r"attention_mask must be \(B, L\) = \(2, 5\), got \(2, 4\)",
            ),
            (
                {"hidden_states": torch.zeros(2, 5, H), "noise": torch.zeros(2, 5, 1)},
                r"noise must be \(B, L, H\) = \(2, 5, 4\), got \(2, 5, 1\)",
            ),
        ],
    )
    def test_shapes_that_do_not_fit_are_named(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            VariationalMixtureOfExperts(H, K)(**arguments)

    @pytest.mark.parametrize("sizes", [(0, 3), (4, 0)])
    def test_sizes_below_one_are_refused(self, sizes):
        with pytest.raises(ValueError, match="hidden_size and num_experts must be at least 1, got"):
            VariationalMixtureOfExperts(*sizes)


class TestDeterministic:
    def test_it_is_the_mean_with_the_router_s_entropy_and_no_divergence(self, states):
        experts = VariationalMixtureOfExperts(H, K, deterministic=True).double()
        mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
        probs = experts.router(states).softmax(-1)
        means = experts.expert_means(states).view(2, 5, H, K)
        expected = (means * probs[:, :, None]).sum(-1)
        entropy = -(probs * probs.log()).sum(-1)
        for training in (True, False):
            output = experts.train(training)(states, mask)
            torch.testing.assert_close(output.hidden_states, expected, rtol=0, atol=1e-12)
            torch.testing.assert_close(output.router_probs, probs, rtol=0, atol=1e-12)
            assert output.kl_loss.item() == 0 and output.kl_loss.shape == () and output.kl_loss.dtype == torch.float32
            torch.testing.assert_close(output.router_entropy, entropy[mask.bool()].sum() / 7, rtol=0, atol=1e-12)
            silent = experts(states, mask, return_losses=False)
            assert silent.kl_loss is None and silent.router_entropy is None

    def test_its_variances_are_refused(self, states):
        experts = VariationalMixtureOfExperts(H, K, deterministic=True).double()
        with pytest.raises(ValueError, match="nothing to draw"):
            experts.token_variances(states[0], experts.route(states[0]))


def test_variances_of_tokens_expert_by_expert(experts, states):
    tokens = states[0]
    probs = experts.route(tokens)
    flat = experts.expert_log_variances(tokens)
    expected = torch.zeros_like(tokens)
    for hidden in range(H):
        for expert in range(K):
            expected[:, hidden] += probs[:, expert] ** 2 * flat[:, hidden * K + expert].exp()
    torch.testing.assert_close(experts.token_variances(tokens, probs), expected, rtol=0, atol=1e-12)


def test_no_experts_leave_every_token_as_it_is(states):
    output = NoExperts()(states)
    assert output.hidden_states is states
    assert output.router_probs.shape == (2, 5, 0)
    for loss in (output.kl_loss, output.router_entropy):
        assert loss.item() == 0 and loss.shape == () and loss.dtype == torch.float32
    silent = NoExperts()(states, return_losses=False)
    assert silent.kl_loss is None and silent.router_entropy is None


def test_one_hidden_unit_and_one_expert_are_enough_and_none_are_refused():
    assert VariationalMixtureOfExperts(1, 1).eval()(torch.ones(1, 1, 1)).router_probs.item() == 1
    for sizes in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            VariationalMixtureOfExperts(*sizes)


@pytest.mark.parametrize(
    "hook",
    [
        "register_forward_pre_hook",
        "register_forward_hook",
        "register_full_backward_pre_hook",
        "register_full_backward_hook",
    ],
)
def test_layers_that_something_hooks_into_are_not_plain(hook):
    layer = nn.Linear(2, 2)
    assert is_plain(layer)
    handle = getattr(layer, hook)(lambda *_: None)
    assert not is_plain(layer)
    handle.remove()
    assert is_plain(layer)
    layer._hf_hook = object()  # Accelerate's
    assert not is_plain(layer)


class Packed(torch.Tensor):
    """A weight that can be multiplied and no more, as those of a library that quantises."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.view:
            raise NotImplementedError(function)
        if function is torch.Tensor.detach:  # of which `nn.Parameter` asks that the class stays
            return super().__torch_function__(function, types, args, kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))


def packed(layer):
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Packed), requires_grad=False)


def test_layers_whose_weight_is_of_another_class_are_not_plain():
    layer = nn.Linear(2, 2)
    assert is_plain(layer) and is_plain(nn.Linear(2, 2, bias=False))
    packed(layer)
    assert not is_plain(layer)


@pytest.mark.parametrize("fusion", ["additive", "query"])
def test_experts_with_weights_of_another_class_score_the_same(fusion):
    model, inputs = tiny_model(fusion=fusion).double(), doubled(tiny_inputs(labels=False))
    with torch.no_grad():
        expected = model(**inputs).logits
        for layer in [module for module in model.modules() if isinstance(module, nn.Linear)]:
            packed(layer)
        found = model(**inputs).logits
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


class TestImplementations:
    """`experts_implementation`: which form of the experts runs."""

    @staticmethod
    def results(model, training):
        """Logits, loss and gradients."""
        torch.manual_seed(1)
        model.zero_grad()
        noises = {"text_noise": torch.randn(4, 11, 32).double(), "image_noise": torch.randn(4, 5, 32).double()}
        output = model.train(training)(**doubled(tiny_inputs()), **(noises if training else {}))
        output.loss.backward()
        # E7's bias cancels: one form never reads it, in the others its gradient is 0.
        gradients = {
            name: torch.zeros_like(value) if value.grad is None else value.grad
            for name, value in model.named_parameters()
        }
        return {"logits": output.logits, "loss": output.loss, **gradients}

    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("fusion", ["additive", "query"])
    def test_all_give_the_same_logits_and_gradients(self, fusion, training):
        model = tiny_model(fusion=fusion, projection_dropout=0.0).double()
        found = {}
        for name in EXPERTS_IMPLEMENTATIONS:
            model.set_experts_implementation(name)
            found[name] = self.results(model, training)
        for name, value in found["eager"].items():
            assert torch.equal(found["auto"][name], found["chunked"][name]), name
            torch.testing.assert_close(found["chunked"][name], value, rtol=1e-9, atol=1e-9, msg=name)

    @pytest.mark.parametrize(("name", "calls"), [("auto", 0), ("chunked", 0), ("eager", 2)])
    def test_only_eager_calls_the_layers(self, monkeypatch, name, calls):
        model = tiny_model(experts_implementation=name).train()
        seen, forward = [], nn.Linear.forward
        monkeypatch.setattr(nn.Linear, "forward", lambda layer, rows: seen.append(layer) or forward(layer, rows))
        model(**tiny_inputs())
        assert seen.count(model.mgvmoe.experts.expert_means) == calls  # for text and for images

    def test_chunked_refuses_what_it_would_pass_over_and_auto_hears_it(self):
        model, inputs = tiny_model(), tiny_inputs(labels=False)
        before = model(**inputs).logits
        model.mgvmoe.experts.expert_means.register_forward_hook(lambda layer, given, output: 2 * output)
        heard = model(**inputs).logits
        assert not torch.allclose(heard, before)
        for training in (True, False):
            model.train(training).set_experts_implementation("chunked")
            with pytest.raises(ValueError, match="experts_implementation must be .* expert_means"):
                model(**inputs)
        model.set_experts_implementation("eager")
        assert torch.equal(model.eval()(**inputs).logits, heard)

    def test_it_is_chosen_at_loading_and_not_saved(self, tmp_path):
        model = tiny_model(experts_implementation="eager")
        model.save_pretrained(tmp_path)
        assert "experts_implementation" not in (tmp_path / "config.json").read_text(encoding="utf-8")
        loaded = MGVMoEForZeroShotIE.from_pretrained(tmp_path, experts_implementation="chunked")
        assert model.get_experts_implementation()[""] == "eager"
        assert loaded.get_experts_implementation()[""] == "chunked" and loaded.mgvmoe.experts.config is loaded.config
        assert MGVMoEForZeroShotIE.from_pretrained(tmp_path).get_experts_implementation()[""] == "auto"

    def test_a_name_is_for_our_experts_alone(self):
        model = tiny_model()
        before = model.get_experts_implementation()
        model.set_experts_implementation("chunked")
        assert model.get_experts_implementation() == {**before, "": "chunked"}
        model.set_experts_implementation({"": "eager", "text_config": before["text_config"]})
        assert model.get_experts_implementation() == {**before, "": "eager"}

    def test_unknown_ones_are_refused_by_name(self):
        for refused in (
            lambda: tiny_config(experts_implementation="grouped_mm"),
            lambda: tiny_model().set_experts_implementation("grouped_mm"),
            lambda: tiny_config(experts_implementation="chunked", expert_type="residual", score="similarity"),
        ):
            with pytest.raises(ValueError, match="experts_implementation"):
                refused()


def test_half_precision_keeps_its_type_in_training():
    experts = VariationalMixtureOfExperts(H, K).bfloat16().train()
    output = experts(torch.randn(1, 3, H).bfloat16())
    assert output.hidden_states.dtype == output.router_probs.dtype == torch.bfloat16
    assert output.kl_loss.dtype == output.router_entropy.dtype == torch.float32
