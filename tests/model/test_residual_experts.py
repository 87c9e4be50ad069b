"""Experts that move pretrained states: hand-worked numbers, cached states, folders without an encoder."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from modeling_mgvmoe.modeling_mgvmoe import MGVMoEForZeroShotIE
from modeling_mgvmoe.variational_experts import ResidualMixtureOfExperts
from tests.support.tiny import doubled, tiny_config, tiny_inputs, tiny_model, with_mentions, with_types

pytestmark = pytest.mark.numerical

SETTINGS = {
    "expert_type": "residual", "score": "similarity", "objective": "cross_entropy", "adversary": "none",
    "num_experts": 3, "expert_rank": 2, "freeze_text": True,
}  # fmt: skip


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


def moved(module, seed=0):
    """Weights as after a training: none of them 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return module


@pytest.fixture
def experts():
    return moved(ResidualMixtureOfExperts(4, 3, rank=2, prior_std=0.5)).double()


def residual_model(**overrides):
    model = tiny_model(**{**SETTINGS, **overrides}).double()
    moved(model.mgvmoe.experts)
    torch.nn.init.constant_(model.mgvmoe.image_gate, 0.3)
    return model


@pytest.fixture
def inputs():
    words = torch.tensor([[5, 6, 7], [8, 9, 0], [0, 0, 0], [4, 0, 0]])
    return {**doubled(with_types(with_mentions(tiny_inputs()))), "image_text_input_ids": words,
            "image_text_attention_mask": (words > 0).long()}  # fmt: skip


class TestExperts:
    def test_expert_by_expert(self, experts):
        states, noise = torch.randn(2, 5, 4).double(), torch.randn(2, 5, 4).double()
        mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
        probs = experts.router(states).softmax(-1)
        mean, variance, divergence = states.clone(), torch.zeros_like(states), torch.zeros(2, 5).double()
        for k in range(3):
            inside = states @ experts.down.weight[2 * k : 2 * k + 2].T
            delta, s = inside @ experts.expert_means[k], experts.expert_log_variances[k]
            mean += probs[..., k, None] * delta
            variance += (probs[..., k, None] * 0.5) ** 2 * s.exp()
            divergence += probs[..., k] * 0.5 * (delta.square() / 0.25 + s.exp() - s - 1).mean(-1)
        found = experts.eval()(states, mask)
        torch.testing.assert_close(found.hidden_states, mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.kl_loss, divergence[mask.bool()].mean(), rtol=0, atol=1e-12)
        entropy = -(probs * probs.log()).sum(-1)[mask.bool()].mean()
        torch.testing.assert_close(found.router_entropy, entropy, rtol=0, atol=1e-12)
        drawn = experts(states, mask, noise).hidden_states
        torch.testing.assert_close(drawn, mean + variance.sqrt() * noise, rtol=0, atol=1e-12)
        assert torch.equal(experts.train()(states, mask, noise).hidden_states, drawn)

    def test_divergence_by_hand(self):
        experts = ResidualMixtureOfExperts(2, 1, rank=1, prior_std=0.1).double()
        with torch.no_grad():
            experts.down.weight.copy_(float64([[1.0, 0.0]]))
            experts.expert_means.copy_(float64([[[0.0, 0.2]]]))
            experts.expert_log_variances.copy_(float64([[math.log(2.0), 0.0]]))
        found = experts.eval()(float64([[[3.0, 4.0]]]))
        torch.testing.assert_close(found.hidden_states, float64([[[3.0, 4.6]]]), rtol=0, atol=1e-12)
        # delta is (0, 0.6): ((0 + 2 - ln 2 - 1) + (36 + 1 - 0 - 1)) / 2 dimensions / 2
        assert math.isclose(found.kl_loss.item(), (1 - math.log(2.0) + 36.0) / 4, rel_tol=1e-12)

    def test_untrained_they_leave_every_state_as_it_is(self):
        model = tiny_model(**SETTINGS)
        states = torch.randn(2, 3, model.config.hidden_size)
        found = model.mgvmoe.experts(states)
        assert torch.equal(found.hidden_states, states) and found.kl_loss == 0

    def test_gradient(self, experts):
        states, noise = torch.randn(1, 2, 4).double().requires_grad_(), torch.randn(1, 2, 4).double()

        def both(states, *weights):
            names = [name for name, _ in experts.named_parameters()]
            found = torch.func.functional_call(experts, dict(zip(names, weights, strict=True)), (states, None, noise))
            return found.hidden_states, found.kl_loss

        assert torch.autograd.gradcheck(both, (states, *experts.parameters()))

    @pytest.mark.parametrize("name", ["hidden_states", "attention_mask", "noise"])
    def test_refusals(self, experts, name):
        arguments = {"hidden_states": torch.zeros(2, 5, 4), "attention_mask": torch.ones(2, 5)}
        with pytest.raises(ValueError, match=name):
            experts(**{**arguments, name: torch.zeros(2, 3)})

    @pytest.mark.parametrize("sizes", [(0, 3, 2), (4, 0, 2), (4, 3, 0)])
    def test_sizes_below_one(self, sizes):
        with pytest.raises(ValueError, match="hidden_size, num_experts and rank"):
            ResidualMixtureOfExperts(*sizes)

    def test_without_a_prior_nothing_is_drawn(self):
        experts = ResidualMixtureOfExperts(4, 3, prior_std=0.0).train()
        states = torch.randn(1, 2, 4)
        assert torch.equal(experts(states).hidden_states, states) and experts(states).kl_loss == 0
        with pytest.raises(ValueError, match="expert_prior_std"):
            experts.token_variances(states, torch.ones(1, 2, 3) / 3)


class TestModel:
    def test_scores_are_plain_arithmetic(self, inputs):
        model = residual_model(mention_weight=0.25, image_text_weight=0.2, type_score_coef=2.0)
        base, scale = model.mgvmoe, model.config.similarity_scale

        def move(rows):
            return F.normalize(base.experts(rows[None]).hidden_states[0], dim=-1)

        def pooled(ids, mask):
            states = base.text_model(ids, attention_mask=mask).last_hidden_state
            return F.normalize((states * mask[..., None]).sum(-2) / mask.sum(-1, keepdim=True), dim=-1)

        states = base.text_model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        labels = move(pooled(inputs["candidate_input_ids"], inputs["candidate_attention_mask"]))
        types = move(pooled(inputs["type_input_ids"], inputs["type_attention_mask"]))
        pixels = base.vision_projection(base.get_image_features(inputs["pixel_values"])).mean(1)
        output = model(**inputs)
        for post in range(4):
            whole = move(pooled(inputs["input_ids"][post : post + 1], inputs["attention_mask"][post : post + 1]))[0]
            mentions = [move(F.normalize(states[post][own].mean(0), dim=-1)[None])[0]
                        for own in inputs["mention_mask"][post] if own.any()]  # fmt: skip
            fused = whole if len(mentions) == 2 else 0.75 * whole + 0.25 * mentions[0]
            if inputs["image_mask"][post]:
                fused = fused + 0.3 * move(F.normalize(pixels[post], dim=-1)[None])[0]
            if inputs["image_text_attention_mask"][post].any():
                own = slice(post, post + 1)
                words = pooled(inputs["image_text_input_ids"][own], inputs["image_text_attention_mask"][own])
                fused = fused + 0.2 * move(words)[0]
            expected = scale * F.normalize(fused, dim=-1) @ labels.T
            if len(mentions) == 2:
                for slot, mention in enumerate(mentions):
                    probs = (scale * mention @ types.T).softmax(-1)
                    allowed = inputs["candidate_types"][:, slot]
                    expected = expected + 2 * torch.stack([probs[own].sum().log() for own in allowed])
            torch.testing.assert_close(output.logits[post], expected, rtol=0, atol=1e-9)

    def test_weights_of_tokens_are_what_moves_the_score(self, inputs):
        output = residual_model()(**inputs)
        torch.testing.assert_close(output.fusion_attentions.sum(1), torch.ones(4).double(), rtol=0, atol=1e-12)
        words = output.fusion_attentions[:, -inputs["input_ids"].shape[1] - 3 : -inputs["input_ids"].shape[1]]
        assert bool((words[inputs["image_text_attention_mask"] == 0] == 0).all())

    def test_cached_states_give_the_same_scores_and_losses(self, inputs):
        model = residual_model()
        base, wanted = model.mgvmoe, model(**inputs)
        names = ("input_ids", "attention_mask", "mention_mask", "image_text_input_ids", "image_text_attention_mask")
        found = model(
            post_states=base.get_post_states(**{name: inputs[name] for name in names}),
            candidate_states=base.get_candidate_states(
                inputs["candidate_input_ids"], inputs["candidate_attention_mask"]
            ),
            type_states=base.get_candidate_states(inputs["type_input_ids"], inputs["type_attention_mask"]),
            candidate_types=inputs["candidate_types"],
            image_features=model.get_image_features(inputs["pixel_values"]),
            image_mask=inputs["image_mask"],
            labels=inputs["labels"],
        )
        # The vision encoder ran for other rows.
        for name in ("logits", "loss", "kl_loss", "type_loss", "router_entropy_loss"):
            torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-10)

    def test_a_mixed_batch_equals_each_post_alone(self, inputs):
        model = residual_model()
        together = model(**inputs).logits
        shared = {name for name in inputs if name.startswith(("candidate", "type"))}
        for post in range(4):
            alone = {name: value if name in shared else value[post : post + 1] for name, value in inputs.items()}
            torch.testing.assert_close(model(**alone).logits[0], together[post], rtol=0, atol=1e-10)

    @pytest.mark.slow
    @pytest.mark.parametrize("with_images", [True, False])
    def test_compiled_it_scores_as_it_does_uncompiled(self, inputs, with_images):
        model = residual_model().eval()
        given = {
            name: value for name, value in inputs.items() if with_images or not name.startswith(("pixel", "image"))
        }
        torch.compiler.reset()
        with torch.no_grad():
            found = torch.compile(model, backend="eager")(**given)
            own = model(**given)
        torch.testing.assert_close(found.logits, own.logits, rtol=0, atol=1e-12)
        assert (found.image_router_probs is None) == (not with_images)

    def test_label_order_changes_no_bit(self, inputs):
        model, order = residual_model(), torch.tensor([3, 0, 4, 2, 1])
        changed = {**inputs, **{name: inputs[name][order] for name in
                   ("candidate_input_ids", "candidate_attention_mask", "candidate_types")}}  # fmt: skip
        changed.pop("labels")
        assert torch.equal(model(**changed).logits, model(**inputs).logits[:, order])

    def test_only_what_is_behind_the_frozen_encoders_trains(self, inputs):
        model = residual_model().train()
        assert not model.mgvmoe.text_model.training
        model(**inputs).loss.backward()
        trained = {name for name, own in model.named_parameters() if own.grad is not None and bool(own.grad.any())}
        assert trained == {name for name, own in model.named_parameters() if own.requires_grad}
        assert not any("text_model" in name or "vision_model" in name for name in trained)

    def test_draws_scatter_around_the_mean(self, inputs):
        model = residual_model()
        wanted = {name: value for name, value in inputs.items() if name != "labels"}
        output = model(**wanted, num_samples=3)
        assert output.sample_logits.shape == (3, *output.logits.shape) and bool(output.mutual_information.gt(0).all())
        quiet = model(**wanted, sample_noise=torch.zeros(1, 4, model.config.hidden_size).double())
        torch.testing.assert_close(quiet.sample_logits[0], output.logits, rtol=0, atol=1e-10)

    @pytest.mark.parametrize(
        ("changes", "name"),
        [({"score": "projection"}, "score"), ({"num_experts": 0}, "num_experts"), ({"expert_rank": 0}, "expert_rank"),
         ({"expert_prior_std": -1.0}, "expert_prior_std"), ({"text_base": {"revision": "x"}}, "text_base"),
         ({"deterministic_experts": True}, "deterministic_experts")],
    )  # fmt: skip
    def test_refused_settings(self, changes, name):
        with pytest.raises(Exception, match=name):
            tiny_config(**{**SETTINGS, **changes})

    @pytest.mark.parametrize(
        ("name", "value"),
        [("type_input_ids", 10**6), ("type_index", 7), ("candidate_input_ids", 10**6), ("candidate_index", 7)],
    )
    def test_errors_name_types_as_types_and_labels_as_labels(self, inputs, name, value):
        for side in ("type", "candidate"):
            inputs[f"{side}_index"] = torch.arange(len(inputs[f"{side}_input_ids"]))
        inputs[name] = inputs[name].clone()
        inputs[name].view(-1)[0] = value
        with pytest.raises(ValueError, match=f"^{name} "):
            residual_model().eval()(**inputs)

    def test_refused_inputs(self, inputs):
        with pytest.raises(ValueError, match="mention_mask"):
            residual_model()(**{**inputs, "mention_mask": None})
        with pytest.raises(ValueError, match="post_states"):
            residual_model()(**inputs, post_states=torch.zeros(4, 4, 3))
        with pytest.raises(ValueError, match="candidate_states"):
            tiny_model()(**{**tiny_inputs(), "candidate_input_ids": None}, candidate_states=torch.zeros(5, 32))


class TestTrainedOnly:
    def test_there_and_back(self, tmp_path, inputs):
        model = residual_model().float()
        model.mgvmoe.text_model.save_pretrained(tmp_path / "encoder")
        model.config.text_base = {"name": str(tmp_path / "encoder"), "revision": None}
        model.save_pretrained(tmp_path / "whole")
        model.save_pretrained(tmp_path / "small", trained_only=True)
        sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("small", "whole")]
        assert sizes[0] < sizes[1]
        for loaded in (
            MGVMoEForZeroShotIE.from_pretrained(tmp_path / "small"),
            AutoModel.from_pretrained(tmp_path / "small", trust_remote_code=True),
        ):
            for name, value in model.state_dict().items():
                assert torch.equal(loaded.state_dict()[name], value), name
            assert not any(own.requires_grad for own in loaded.mgvmoe.text_model.parameters())
        _, report = MGVMoEForZeroShotIE.from_pretrained(tmp_path / "small", output_loading_info=True)
        assert not report["missing_keys"]
        changed = MGVMoEForZeroShotIE.from_pretrained(tmp_path / "small", similarity_scale=7.0, mention_weight=0.1)
        assert (changed.config.similarity_scale, changed.config.mention_weight) == (7.0, 0.1)
        assert changed.similarity.scale == 7.0
        assert MGVMoEForZeroShotIE.from_pretrained(tmp_path / "small", output_attentions=True).config.output_attentions

    def test_the_encoder_is_fetched_as_the_folder_is(self, tmp_path, monkeypatch):
        asked = []

        def refuse(*args, **kwargs):
            asked.append(kwargs)
            raise OSError("not there")

        model = tiny_model(**SETTINGS, text_base={"name": "no/encoder", "revision": "abc"})
        with pytest.warns(UserWarning, match="trained_only"):
            model.save_pretrained(tmp_path, trained_only=True)
        monkeypatch.setattr("modeling_mgvmoe.loading.pretrained_backbone", refuse)
        hub = {"cache_dir": str(tmp_path / "cache"), "local_files_only": True, "token": "x"}
        with pytest.raises(OSError, match="text_base"):
            MGVMoEForZeroShotIE.from_pretrained(tmp_path, **hub)
        assert asked == [{"revision": "abc", "use_safetensors": True, **hub}]

    def test_an_encoder_that_is_not_there_is_named(self, tmp_path):
        model = tiny_model(**SETTINGS, text_base={"name": str(tmp_path / "nowhere")})
        with pytest.warns(UserWarning, match="trained_only.*nowhere"):
            model.save_pretrained(tmp_path / "small", trained_only=True)
        with pytest.raises(OSError, match="nowhere.*text_model_name_or_path"):
            MGVMoEForZeroShotIE.from_pretrained(tmp_path / "small")
        model.mgvmoe.text_model.save_pretrained(tmp_path / "elsewhere")
        loaded = MGVMoEForZeroShotIE.from_pretrained(
            tmp_path / "small", text_model_name_or_path=str(tmp_path / "elsewhere")
        )
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())

    def test_a_whole_folder_in_several_files_is_read_as_it_is(self, tmp_path):
        model = tiny_model(**SETTINGS, text_base={"name": "nowhere/at-all"})
        model.save_pretrained(tmp_path, max_shard_size="40KB")
        assert not (tmp_path / "model.safetensors").exists()
        loaded = MGVMoEForZeroShotIE.from_pretrained(tmp_path)
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())

    def test_not_where_the_encoder_may_have_changed(self, tmp_path):
        for changes in ({"freeze_text": False, "text_base": {"name": "x"}}, {}):
            with pytest.raises(ValueError, match="text_base"):
                tiny_model(**{**SETTINGS, **changes}).save_pretrained(tmp_path, trained_only=True)
        model = tiny_model(**SETTINGS, text_base={"name": str(tmp_path / "encoder")})
        model.mgvmoe.text_model.save_pretrained(tmp_path / "encoder")
        with torch.no_grad():
            next(model.mgvmoe.text_model.parameters())[0] += 1
        with pytest.raises(ValueError, match="trained_only.*text_base"):
            model.save_pretrained(tmp_path / "small", trained_only=True)
        states = {name: value.clone() for name, value in model.state_dict().items()}
        next(value for name, value in states.items() if ".text_model." in name)[0] -= 1
        model.save_pretrained(tmp_path / "small", trained_only=True, state_dict=states)  # what is saved is compared

    def test_an_encoder_of_another_size_is_named(self, tmp_path):
        model = tiny_model(**SETTINGS, text_base={"name": str(tmp_path / "encoder")})
        model.mgvmoe.text_model.save_pretrained(tmp_path / "encoder")
        model.save_pretrained(tmp_path / "small", trained_only=True)
        model.resize_token_embeddings(model.config.text_config.vocab_size + 2)
        model.mgvmoe.text_model.save_pretrained(tmp_path / "larger")
        with pytest.raises(ValueError, match="text_base.*larger"):
            MGVMoEForZeroShotIE.from_pretrained(tmp_path / "small", text_model_name_or_path=str(tmp_path / "larger"))

    def test_a_whole_folder_takes_no_other_encoder(self, tmp_path):
        tiny_model().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="text_model_name_or_path"):
            MGVMoEForZeroShotIE.from_pretrained(tmp_path, text_model_name_or_path="x")
