"""The whole model on tiny random backbones: what may not change a score, what must, and what is refused."""

import math
from dataclasses import fields
from typing import get_args

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import AutoModel, PreTrainedConfig

from modeling_mgvmoe import MGVMoEConfig, MGVMoEForZeroShotIE, MGVMoEModel
from modeling_mgvmoe.modeling_mgvmoe import FUSIONS, fuse
from modeling_mgvmoe.objectives import info_nce
from tests.support.tiny import doubled, tiny_config, tiny_inputs, tiny_model, tiny_text_config, tiny_vision_config

pytestmark = pytest.mark.numerical

ADVERSARIES = ("learned", "power", "none")
TERMS = ("ranking_loss", "kl_loss", "router_entropy_loss", "alignment_loss", "consistency_loss", "type_loss")
CANDIDATES = ("candidate_input_ids", "candidate_attention_mask")


def close(ours: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-10):
    torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)


def without(inputs: dict, *names: str) -> dict:
    return {name: value for name, value in inputs.items() if name not in names}


def rows(inputs: dict, index: torch.Tensor) -> dict:
    """The posts that `index` names, with the same candidates."""
    return {name: value if name in CANDIDATES else value[index] for name, value in inputs.items()}


def dropping(inputs: dict, kept: torch.Tensor) -> dict:
    """The same posts with the candidates that `kept` names."""
    changed = {name: inputs[name][kept] for name in CANDIDATES}
    return {**inputs, **changed}


@pytest.fixture(params=FUSIONS)
def double_model(request):
    """Both fusions in double precision: what must not change may then differ by rounding only."""
    return tiny_model(fusion=request.param).double()


@pytest.fixture
def double_inputs():
    return doubled(tiny_inputs())


class TestOutput:
    @pytest.mark.parametrize("fusion", FUSIONS)
    def test_output_has_the_documented_shapes(self, fusion, inputs):
        output = tiny_model(fusion=fusion)(**inputs)
        shapes = {
            "logits": (4, 5),
            "mention_embeds": (4, 16),
            "candidate_embeds": (5, 32),
            "text_embeds": (4, 32),
            "image_embeds": (4, 32),
            "fusion_attentions": (4, 5 + 11),
            "text_router_probs": (4, 11, 3),
            "image_router_probs": (4, 5, 3),
            "loss": (),
            **dict.fromkeys(TERMS, ()),
        }
        assert {name: tuple(value.shape) for name, value in output.items()} == shapes

    def test_total_loss_is_the_weighted_sum_of_the_named_terms(self, double_inputs):
        coefs = dict(zip((f"{term}_coef" for term in TERMS), (2.0, 0.5, 0.0, 3.0, 7.0, 11.0), strict=True))
        output = tiny_model(**coefs).double()(**double_inputs)
        expected = sum(coefs[f"{term}_coef"] * output[term] for term in TERMS)
        torch.testing.assert_close(output.loss, expected)

    @pytest.mark.parametrize("objective", ["ranking", "cross_entropy"])
    def test_posts_of_no_class_take_no_part_in_the_losses_of_labels(self, objective):
        """Of four posts two have a class: these losses are those of the two alone."""
        inputs, model = doubled(tiny_inputs()), tiny_model(objective=objective).double()
        mixed = {**inputs, "labels": torch.tensor([2, -100, 0, -100])}
        output = model(**mixed)
        rows = torch.tensor([0, 2])
        alone = model(**{name: value if "candidate" in name else value[rows] for name, value in mixed.items()})
        torch.testing.assert_close(output.ranking_loss, alone.ranking_loss)
        coefs = {term: getattr(model.config, f"{term}_coef") for term in TERMS}
        torch.testing.assert_close(output.loss, sum(coef * output[term] for term, coef in coefs.items()))

    def test_a_batch_of_posts_of_no_class_alone(self):
        model = tiny_model().train()
        output = model(**{**tiny_inputs(), "labels": torch.full((4,), -100)})
        assert output.ranking_loss == output.type_loss == 0
        output.loss.backward()
        # Every trained parameter gets a gradient, or data parallel training waits for it in vain.
        assert all(one.grad is not None for one in model.parameters() if one.requires_grad)

    def test_without_labels_there_is_no_loss_and_no_term(self, model, inputs):
        output = model(**without(inputs, "labels"))
        assert output.loss is None
        assert not set(TERMS) & set(output.keys())
        assert torch.equal(output.logits, model(**inputs).logits)

    def test_return_dict_false_gives_the_same_values_as_a_tuple(self, model, inputs):
        output = model(**inputs)
        values = model(**inputs, return_dict=False)
        assert isinstance(values, tuple)
        assert all(torch.equal(ours, expected) for ours, expected in zip(values, output.to_tuple(), strict=True))
        assert torch.equal(values[0], output.loss) and torch.equal(values[1], output.logits)

    def test_states_and_attentions_of_the_backbones_come_when_asked_for(self, inputs):
        model = tiny_model()
        model.set_attn_implementation("eager")
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
        assert len(output.hidden_states) == len(output.vision_hidden_states) == 2 + 1
        assert [tuple(attention.shape) for attention in output.attentions] == [(4, 4, 11, 11)] * 2
        assert [tuple(attention.shape) for attention in output.vision_attentions] == [(4, 3, 5, 5)] * 2
        plain = model(**inputs)
        assert plain.hidden_states is None and plain.vision_attentions is None

    @pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions"])
    def test_what_the_configuration_asks_for_is_returned(self, name, inputs):
        model = tiny_model()
        model.set_attn_implementation("eager")
        setattr(model.config, name, True)
        field = name.removeprefix("output_")
        output = model(**inputs)
        assert output[field] is not None and output[f"vision_{field}"] is not None

    def test_attention_over_the_tokens_is_a_distribution_over_the_real_ones(self, double_model, double_inputs):
        attentions = double_model(**double_inputs).fusion_attentions
        close(attentions.sum(1), torch.ones(4).double())
        image, text = attentions.split([5, 11], dim=1)
        assert not image[1].any()  # the second post has no image
        assert (image[[0, 2, 3]] > 0).all()
        assert torch.equal(text > 0, double_inputs["attention_mask"].bool())

    def test_scores_are_the_projections_inner_products(self, double_model, double_inputs):
        output = double_model(**double_inputs)
        projected = double_model.candidate_projection(output.candidate_embeds)
        close(output.logits, torch.stack([(post * projected).sum(-1) for post in output.mention_embeds]))

    def test_candidate_embeds_are_means_over_the_real_tokens_of_each_label(self, double_model, double_inputs):
        embeds = double_model.get_candidate_embeds(*(double_inputs[name] for name in CANDIDATES))
        for row, (ids, mask) in enumerate(zip(*(double_inputs[name] for name in CANDIDATES), strict=True)):
            states = double_model.mgvmoe.text_model(ids[mask.bool()][None]).last_hidden_state
            close(embeds[row], states[0].mean(0))

    def test_mention_states_are_the_first_token_and_the_markers(self, double_inputs):
        model = tiny_model(model_class=MGVMoEModel).double()
        inputs = without(double_inputs, *CANDIDATES, "labels")
        output = model(**inputs, output_hidden_states=True)
        states = output.hidden_states[-1]
        for post, position in enumerate(inputs["mention_positions"][:, 0]):
            expected = torch.cat([states[post, 0], states[post, position], torch.zeros(32).double()])
            close(output.mention_states[post], expected)


class TestOrderAndPadding:
    """What stands beside a post or a label, and in which order, cannot change a score."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("number", [1, 2, 5, 7, 11, 33])
    @pytest.mark.parametrize("form", ["token ids", "shared embeddings", "embeddings per post"])
    def test_permuting_labels_permutes_scores_exactly(self, inputs, dtype, number, form):
        # Sizes at which matrix products of several libraries round the last columns otherwise than the first.
        model = tiny_model().to(dtype).eval()
        posts = doubled(without(inputs, *CANDIDATES, "labels")) if dtype == torch.float64 else inputs
        posts = without(posts, *CANDIDATES, "labels")
        generator = torch.Generator().manual_seed(number)
        ids = torch.randint(5, 90, (number, 4), generator=generator)
        mask = (torch.arange(4) <= torch.randint(4, (number, 1), generator=generator)).long()
        embeds = model.get_candidate_embeds(ids, mask).detach()
        order = torch.randperm(number, generator=generator)
        labels = {
            "token ids": {"candidate_input_ids": ids, "candidate_attention_mask": mask},
            "shared embeddings": {"candidate_embeds": embeds},
            "embeddings per post": {"candidate_embeds": embeds.expand(len(posts["input_ids"]), -1, -1)},
        }[form]
        axis = 1 if form == "embeddings per post" else 0
        permuted = {name: value.index_select(axis, order) for name, value in labels.items()}
        expected, output = model(**posts, **labels), model(**posts, **permuted)
        assert torch.equal(output.logits, expected.logits[:, order])
        assert torch.equal(output.candidate_embeds, expected.candidate_embeds.index_select(axis, order))

    def test_permuting_labels_leaves_the_loss(self, double_model, double_inputs):
        order = torch.tensor([3, 0, 4, 1, 2])
        labels = order.argsort()[double_inputs["labels"]]
        permuted = {**dropping(double_inputs, order), "labels": labels}
        close(double_model(**permuted).loss, double_model(**double_inputs).loss)

    def test_permuting_posts_leaves_each_prediction_and_the_loss(self, double_model, double_inputs):
        order = torch.tensor([2, 0, 3, 1])
        expected, output = double_model(**double_inputs), double_model(**rows(double_inputs, order))
        close(output.logits, expected.logits[order])
        for term in (*TERMS, "loss"):
            close(output[term], expected[term])

    def test_a_post_s_scores_do_not_depend_on_the_rest_of_the_batch(self, double_model, double_inputs):
        expected = double_model(**double_inputs).logits
        for post in range(4):
            alone = double_model(**rows(double_inputs, torch.tensor([post])))
            close(alone.logits, expected[post : post + 1])

    def test_longer_padding_of_the_text_changes_nothing(self, double_model, double_inputs):
        expected = double_model(**double_inputs)
        garbage = torch.randint(5, 99, (4, 7))
        output = double_model(
            **{
                **double_inputs,
                "input_ids": torch.cat([double_inputs["input_ids"], garbage], dim=1),
                "attention_mask": torch.cat([double_inputs["attention_mask"], torch.zeros_like(garbage)], dim=1),
            }
        )
        close(output.logits, expected.logits)
        for term in (*TERMS, "loss"):
            close(output[term], expected[term])
        assert not output.fusion_attentions[:, -7:].any()

    def test_longer_padding_of_the_labels_changes_nothing(self, double_model, double_inputs):
        expected = double_model(**double_inputs)
        garbage = torch.randint(5, 99, (5, 3))
        ids, mask = (double_inputs[name] for name in CANDIDATES)
        changed = (torch.cat([ids, garbage], dim=1), torch.cat([mask, torch.zeros_like(garbage)], dim=1))
        output = double_model(**{**double_inputs, **dict(zip(CANDIDATES, changed, strict=True))})
        close(output.logits, expected.logits)
        close(output.loss, expected.loss)

    def test_posts_without_an_image_leave_those_with_one(self, double_model, double_inputs):
        with_images = rows(double_inputs, torch.tensor([0, 2]))
        added = rows(double_inputs, torch.tensor([0, 2, 1, 1]))
        expected, output = double_model(**with_images), double_model(**added)
        close(output.logits[:2], expected.logits)
        close(output.alignment_loss, expected.alignment_loss)  # they take no part in E6

    @pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30, 0.0])
    @pytest.mark.parametrize("source", ["pixel_values", "image_features"])
    def test_what_stands_in_the_row_of_a_missing_image_does_not_matter(
        self, double_model, double_inputs, source, garbage
    ):
        if source == "image_features":
            features = double_model.get_image_features(double_inputs.pop("pixel_values"))
            double_inputs["image_features"] = features.clone()
        expected = double_model(**double_inputs)
        double_inputs[source][1] = garbage
        output = double_model(**double_inputs)
        assert torch.equal(output.logits, expected.logits)
        assert torch.equal(output.loss, expected.loss)
        assert not output.image_embeds[1].any()

    @pytest.mark.parametrize("freeze_vision", [True, False])
    @pytest.mark.parametrize("garbage", [math.nan, math.inf])
    def test_the_row_of_a_missing_image_spoils_no_gradient(self, inputs, freeze_vision, garbage):
        model = tiny_model(freeze_vision=freeze_vision).train()
        inputs["pixel_values"][1] = garbage
        model(**inputs).loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name

    def test_a_post_without_an_image_equals_one_in_a_batch_without_images(self, double_model, double_inputs):
        expected = double_model(**double_inputs).logits[1:2]
        text_only = without(rows(double_inputs, torch.tensor([1])), "pixel_values", "image_mask")
        close(double_model(**text_only).logits, expected)

    def test_typing_and_relation_posts_of_one_batch_equal_separate_ones(self, double_model):
        typing, relation = doubled(tiny_inputs(num_mentions=1)), doubled(tiny_inputs(num_mentions=2, seed=1))
        candidates = {name: typing[name] for name in CANDIDATES}
        absent = torch.full((4, 1), -1)
        mixed = {
            name: torch.cat([typing[name], relation[name]])
            for name in without(typing, *CANDIDATES, "mention_positions")
        }
        positions = torch.cat([typing["mention_positions"], absent], dim=1)
        mixed["mention_positions"] = torch.cat([positions, relation["mention_positions"]])
        output = double_model(**mixed, **candidates)
        close(output.logits[:4], double_model(**typing).logits)
        close(output.logits[4:], double_model(**{**relation, **candidates}).logits)

    def test_head_and_tail_are_not_interchangeable(self, double_model):
        relation = doubled(tiny_inputs(num_mentions=2))
        swapped = {**relation, "mention_positions": relation["mention_positions"].flip(1)}
        difference = double_model(**relation).logits - double_model(**swapped).logits
        assert difference.abs().amax(1).min() > 1e-3

    def test_absent_mask_means_no_padding_and_absent_image_mask_means_all_have_one(self, double_model, double_inputs):
        double_inputs["attention_mask"] = torch.ones_like(double_inputs["attention_mask"])
        double_inputs["candidate_attention_mask"] = torch.ones_like(double_inputs["candidate_attention_mask"])
        double_inputs["image_mask"] = torch.ones(4, dtype=torch.bool)
        expected = double_model(**double_inputs)
        names = ("attention_mask", "candidate_attention_mask", "image_mask")
        output = double_model(**without(double_inputs, *names))
        assert torch.equal(output.logits, expected.logits)
        assert torch.equal(output.loss, expected.loss)


class TestRepeatability:
    @pytest.mark.parametrize("adversary", ADVERSARIES)
    @pytest.mark.parametrize("grad", [True, False])
    def test_evaluation_is_bitwise_repeatable_with_its_loss(self, adversary, grad, inputs):
        model = tiny_model(adversary=adversary)
        with torch.set_grad_enabled(grad):
            torch.manual_seed(1)
            first = model(**inputs)
            torch.manual_seed(2)
            second = model(**inputs)
        for name in first:
            assert torch.equal(first[name], second[name]), name

    def test_evaluation_leaves_the_global_random_state_alone(self, inputs):
        model = tiny_model(adversary="power")
        before = torch.get_rng_state()
        model(**inputs)
        assert torch.equal(torch.get_rng_state(), before)

    def test_training_draws_noise_and_its_losses_before_the_noise_are_identical(self, model, inputs):
        model.train()
        torch.manual_seed(1)
        first = model(**inputs)
        torch.manual_seed(2)
        second = model(**inputs)
        assert ((first.logits - second.logits).abs() > 0).all()
        assert torch.equal(first.kl_loss, second.kl_loss)
        assert torch.equal(first.router_entropy_loss, second.router_entropy_loss)

    def test_given_noise_replaces_the_drawn_noise_of_text_and_image(self, double_model, double_inputs):
        model, inputs = double_model, double_inputs
        noise = doubled({"text_noise": torch.randn(4, 11, 32), "image_noise": torch.randn(4, 5, 32)})
        model.train()
        first, second = model(**inputs, **noise), model(**inputs, **noise)
        assert torch.equal(first.loss, second.loss)
        sampled = model.eval()(**inputs, **noise)
        close(sampled.logits, first.logits)
        zero = model(**inputs, **{name: torch.zeros_like(value) for name, value in noise.items()})
        close(zero.logits, model(**inputs).logits)

    def test_dropout_stands_before_both_projections_in_training_only(self, inputs):
        model = tiny_model(projection_dropout=0.5)
        dropped = []
        model.dropout.register_forward_hook(lambda module, given, output: dropped.append((given[0].shape, output)))
        model.train()(**inputs)
        assert [tuple(shape) for shape, _ in dropped] == [(4, 4 * 32), (5, 32)]
        assert all(0.3 < float((output == 0).float().mean()) < 0.75 for _, output in dropped)


class TestAdversary:
    def test_no_adversary_has_no_perturbation_and_no_consistency_loss(self, inputs):
        model = tiny_model(adversary="none")
        assert model.perturbation is None
        assert model(**inputs).consistency_loss.item() == 0.0

    def test_power_adversary_has_no_parameter_and_trains_the_network(self, inputs):
        model = tiny_model(adversary="power").train()
        assert model.perturbation is None
        model(**inputs).consistency_loss.backward()
        assert model.mgvmoe.experts.expert_means.weight.grad.abs().sum() > 0

    def test_power_adversary_of_a_larger_radius_costs_more(self, inputs):
        losses = [
            tiny_model(adversary="power", adversary_radius=radius)(**inputs).consistency_loss.item()
            for radius in (0.1, 0.5, 1.0)
        ]
        assert 0 < losses[0] < losses[1] < losses[2]

    def test_learned_perturbation_starts_beside_zero_and_ascends(self, inputs):
        model = tiny_model()
        assert model.perturbation.shape == (1, 64)
        assert model.perturbation.abs().min() > 0
        model(**inputs).consistency_loss.backward()
        assert model.perturbation.grad.abs().min() > 0

    def test_temperatures_of_the_configuration_reach_the_objectives(self, inputs):
        for field, term in (("graph_temperature", "consistency_loss"), ("alignment_temperature", "alignment_loss")):
            values = [tiny_model(**{field: value})(**inputs)[term].item() for value in (20.0, 60.0)]
            assert abs(values[0] - values[1]) > 1e-6, field

    def test_margin_of_the_configuration_reaches_the_ranking_loss(self, inputs):
        # With a margin beyond all scores every one of the 4 other candidates costs 1 more per unit of margin.
        losses = [tiny_model(margin=margin)(**inputs).ranking_loss.item() for margin in (1000.0, 1001.0)]
        assert losses[1] - losses[0] == pytest.approx(4.0, abs=1e-2)


class TestFusion:
    def moved(self, fusion: str) -> float:
        """How far the weights over the tokens move when another mention is marked."""
        model = tiny_model(fusion=fusion).double()
        inputs = doubled(tiny_inputs())
        first = model(**inputs).fusion_attentions
        inputs["mention_positions"] = inputs["mention_positions"] % 3 + 1
        return (model(**inputs).fusion_attentions - first).abs().max().item()

    def test_every_fusion_of_the_configuration_has_a_class(self):
        values = {field.name: field.type for field in fields(MGVMoEConfig)}["fusion"]
        assert set(get_args(values)) == set(FUSIONS)

    @pytest.mark.parametrize("name", FUSIONS)
    def test_scores_are_products_with_the_query_up_to_what_all_tokens_share(self, name):
        fusion = FUSIONS[name](FUSIONS[name].make_layer(12, 5).double())
        mention, states = torch.randn(2, 12).double(), torch.randn(2, 7, 5).double()
        query = fusion.query(mention, 5).expand(2, 5)
        rest = fusion.scores(mention, states) - torch.einsum("bh,blh->bl", query, states)
        close(rest, rest[:, :1].expand(2, 7))

    @pytest.mark.parametrize("name", FUSIONS)
    def test_a_fusion_adds_no_prefix_to_the_names_of_its_weights(self, name):
        model = tiny_model(fusion=name, model_class=MGVMoEModel)
        ours = {key for key in model.state_dict() if "fusion" in key}
        assert ours == {f"{FUSIONS[name].layer_name}.{part}" for part in ("weight", "bias")}

    def test_additive_fusion_cannot_depend_on_the_mention(self):
        assert self.moved("additive") < 1e-12

    def test_query_fusion_depends_on_the_mention(self):
        assert self.moved("query") > 1e-3

    def test_query_fusion_is_scaled_dot_product_attention(self):
        model = tiny_model(fusion="query", model_class=MGVMoEModel).double()
        mention, states = torch.randn(2, 96).double(), torch.randn(2, 7, 32).double()
        mask = torch.arange(7) < torch.tensor([[7], [4]])
        fused, weights = fuse(model.fusion, mention, states, mask)
        query = model.fusion_query(mention)[:, None]
        expected = torch.nn.functional.scaled_dot_product_attention(query, states, states, mask[:, None])
        close(fused, expected[:, 0])
        assert not weights[1, 4:].any()


class TestCandidates:
    def test_three_ways_to_give_the_candidates_agree(self, double_model, double_inputs):
        expected = double_model(**double_inputs)
        inputs = without(double_inputs, *CANDIDATES)
        embeds = double_model.get_candidate_embeds(*(double_inputs[name] for name in CANDIDATES))
        assert torch.equal(embeds, expected.candidate_embeds)
        for given in (embeds, embeds.expand(4, -1, -1)):
            output = double_model(**inputs, candidate_embeds=given)
            close(output.logits, expected.logits)
            close(output.loss, expected.loss)
            assert output.candidate_embeds.shape == given.shape

    def test_masking_candidates_equals_dropping_them(self, double_model, double_inputs):
        mask = torch.ones(4, 5, dtype=torch.bool)
        mask[:, [1, 3]] = False
        double_inputs["labels"] = torch.tensor([0, 4, 2, 0])
        masked = double_model(**double_inputs, candidate_mask=mask)
        kept = torch.tensor([0, 2, 4])
        labels = torch.tensor([0, 2, 1, 0])
        dropped = double_model(**{**dropping(double_inputs, kept), "labels": labels})
        close(masked.logits[:, kept], dropped.logits)
        assert (masked.logits[:, [1, 3]] == -math.inf).all()
        close(masked.loss, dropped.loss)

    def test_every_post_may_have_candidates_of_its_own(self, double_model, double_inputs):
        mask = torch.rand(4, 5) < 0.5
        mask[torch.arange(4), double_inputs["labels"]] = True
        output = double_model(**double_inputs, candidate_mask=mask.long())
        plain = double_model(**double_inputs).logits
        assert torch.equal(output.logits, plain.masked_fill(~mask, -math.inf))
        output.loss.backward()
        assert all(
            torch.isfinite(parameter.grad).all()
            for parameter in double_model.parameters()
            if parameter.grad is not None
        )

    def test_one_label_and_one_post_are_enough(self, model):
        inputs = tiny_inputs(batch_size=1, num_candidates=1)
        output = model.train()(**inputs)
        assert output.logits.shape == (1, 1)
        assert output.ranking_loss.item() == output.alignment_loss.item() == 0.0
        output.loss.backward()
        assert torch.isfinite(output.loss)

    def test_one_expert_is_enough(self, inputs):
        output = tiny_model(num_experts=1).train()(**inputs)
        assert output.router_entropy_loss.item() == 0.0
        assert (output.text_router_probs == 1).all()


class TestImages:
    def test_the_tower_runs_on_posts_with_an_image_only(self, model, inputs, monkeypatch):
        sizes = []
        tower = model.mgvmoe.vision_model.forward
        monkeypatch.setattr(
            model.mgvmoe.vision_model,
            "forward",
            lambda pixel_values, **kwargs: sizes.append(len(pixel_values)) or tower(pixel_values, **kwargs),
        )
        mask = torch.tensor([True, False, True, False])
        model(**{**inputs, "image_mask": mask})
        model(**{**inputs, "image_mask": ~mask | mask})
        assert sizes == [2, 4]

    def test_features_and_pixels_give_the_same_scores(self, double_model, double_inputs):
        expected = double_model(**double_inputs)
        features = double_model.get_image_features(double_inputs["pixel_values"])
        assert features.shape == (4, 5, 24)  # the tower's own width, before the projection
        output = double_model(**without(double_inputs, "pixel_values"), image_features=features)
        close(output.logits, expected.logits)  # not bitwise: pixels run through the tower without the blank rows
        close(output.loss, expected.loss)

    def test_experts_get_the_projected_tokens_of_the_image(self, double_model, double_inputs):
        base = double_model.mgvmoe
        projected = base.vision_projection(base.get_image_features(double_inputs["pixel_values"]))
        output = double_model(**double_inputs)
        shown = double_inputs["image_mask"]
        close(output.image_router_probs[shown], base.experts.router(projected).softmax(-1)[shown])
        close(output.image_embeds[shown], base.experts(projected).hidden_states.mean(1)[shown])

    def test_a_tower_of_the_text_encoder_s_width_needs_no_projection(self, inputs):
        config = tiny_config(vision_config=tiny_vision_config(hidden_size=32, num_attention_heads=4))
        model = tiny_model(config)
        assert isinstance(model.mgvmoe.vision_projection, torch.nn.Identity)
        assert torch.isfinite(model(**inputs).loss)

    def test_a_batch_without_images_has_a_loss(self, model, inputs):
        inputs = without(inputs, "pixel_values", "image_mask")
        output = model(**inputs)
        assert output.image_embeds is None and output.image_router_probs is None
        assert output.fusion_attentions.shape == (4, 11)
        assert output.alignment_loss.item() == 0.0
        output.loss.backward()
        assert torch.isfinite(output.loss)

    @pytest.mark.parametrize("adversary", ADVERSARIES)
    def test_images_that_are_all_masked_equal_a_batch_without_images(self, adversary, inputs):
        model = tiny_model(adversary=adversary).double()
        inputs = doubled(inputs)
        expected = model(**without(inputs, "pixel_values", "image_mask"))
        output = model(**{**inputs, "image_mask": torch.zeros(4, dtype=torch.bool)})
        close(output.logits, expected.logits)
        for term in (*TERMS, "loss"):
            close(output[term], expected[term])

    def test_losses_of_the_two_modalities_are_averaged(self, double_model, double_inputs):
        mixtures = []
        double_model.mgvmoe.experts.register_forward_hook(lambda module, given, output: mixtures.append(output))
        output = double_model(**double_inputs)
        close(output.kl_loss, (mixtures[0].kl_loss + mixtures[1].kl_loss) / 2)
        close(output.router_entropy_loss, (mixtures[0].router_entropy + mixtures[1].router_entropy) / 2)

    def test_an_image_changes_the_score(self, double_model, double_inputs):
        expected = double_model(**double_inputs).logits
        double_inputs["pixel_values"] = double_inputs["pixel_values"].flip(-1)
        moved = (double_model(**double_inputs).logits - expected).abs().amax(1)
        assert (moved[[0, 2, 3]] > 1e-3).all() and moved[1] < 1e-10


class TestFrozenVision:
    def test_frozen_tower_stays_in_evaluation_and_gets_no_gradient(self, inputs):
        model = tiny_model().train()
        assert model.training and model.mgvmoe.training and model.mgvmoe.text_model.training
        assert not any(module.training for module in model.mgvmoe.vision_model.modules())
        model(**inputs).loss.backward()
        assert all(parameter.grad is None for parameter in model.mgvmoe.vision_model.parameters())
        assert model.mgvmoe.vision_projection.weight.grad.abs().sum() > 0
        # The graph ends before the tower, whatever goes in: nothing is kept for a backward pass through it.
        assert not model.get_image_features(inputs["pixel_values"].requires_grad_()).requires_grad

    def test_unfrozen_tower_trains(self, inputs):
        model = tiny_model(freeze_vision=False).train()
        assert all(module.training for module in model.mgvmoe.vision_model.modules())
        model(**inputs).loss.backward()
        assert all(parameter.grad is not None for parameter in model.mgvmoe.vision_model.parameters())

    @pytest.mark.parametrize("freeze_vision", [True, False])
    def test_freezing_survives_saving_and_loading(self, tmp_path, freeze_vision, inputs):
        model = tiny_model(freeze_vision=freeze_vision)
        model.save_pretrained(tmp_path)
        loaded = MGVMoEForZeroShotIE.from_pretrained(tmp_path)
        assert loaded.config.freeze_vision is freeze_vision
        requires = {parameter.requires_grad for parameter in loaded.mgvmoe.vision_model.parameters()}
        assert requires == {not freeze_vision}
        assert loaded.train().mgvmoe.vision_model.training is not freeze_vision
        assert torch.equal(loaded.eval()(**inputs).loss, model(**inputs).loss)


class TestLibraryFeatures:
    @pytest.mark.parametrize("freeze_vision", [True, False])
    def test_gradient_checkpointing_gives_equal_gradients(self, double_inputs, freeze_vision):
        gradients = []
        for checkpointing in (False, True):
            model = tiny_model(freeze_vision=freeze_vision).double().train()
            if checkpointing:
                getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
                assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
            torch.manual_seed(1)
            model(**double_inputs).loss.backward()
            gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        for name, expected in gradients[0].items():
            close(gradients[1][name], expected, 1e-10 * max(1.0, float(expected.abs().max())))

    def test_resized_vocabulary_keeps_the_scores_and_lets_new_markers_in(self, model, inputs):
        expected = model(**inputs).logits
        model.resize_token_embeddings(103)
        assert model.config.text_config.vocab_size == 103
        assert model.get_input_embeddings().weight.shape == (103, 32)
        assert torch.equal(model(**inputs).logits, expected)
        inputs["input_ids"][0, 1] = 102
        assert torch.isfinite(model(**inputs).logits).all()

    def test_embeddings_can_be_replaced(self, model):
        embeddings = torch.nn.Embedding(99, 32)
        model.set_input_embeddings(embeddings)
        assert model.get_input_embeddings() is embeddings
        assert model.mgvmoe.text_model.get_input_embeddings() is embeddings

    def test_saved_model_is_loaded_bitwise_by_auto_model(self, model, inputs, tmp_path):
        model.save_pretrained(tmp_path)
        loaded, information = MGVMoEForZeroShotIE.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(information.values())
        assert torch.equal(loaded(**inputs).loss, model(**inputs).loss)
        automatic = AutoModel.from_pretrained(tmp_path)
        assert type(automatic) is MGVMoEForZeroShotIE
        assert torch.equal(automatic(**inputs).logits, model(**inputs).logits)

    def test_base_model_and_the_model_with_scores_load_each_other_s_weights(self, model, inputs, tmp_path):
        model.save_pretrained(tmp_path / "scores")
        base = MGVMoEModel.from_pretrained(tmp_path / "scores")
        posts = without(inputs, *CANDIDATES, "labels")
        assert torch.equal(base(**posts).fused_embeds, model.mgvmoe(**posts).fused_embeds)
        base.save_pretrained(tmp_path / "base")
        again = MGVMoEForZeroShotIE.from_pretrained(tmp_path / "base")
        assert torch.equal(again.mgvmoe(**posts).fused_embeds, base(**posts).fused_embeds)
        # At 0 the adversary would never move: what was missing in the checkpoint got its initial value.
        assert again.perturbation.abs().min() > 0

    def test_double_precision_is_not_narrowed_on_the_way(self, double_model, double_inputs):
        output = double_model(**double_inputs)
        assert {value.dtype for value in output.values() if torch.is_tensor(value)} == {torch.float64}

    def test_initial_weights_have_the_configured_deviation(self):
        model = MGVMoEForZeroShotIE(tiny_config(initializer_range=0.01))
        for weight in (model.mention_projection.weight, model.mgvmoe.experts.expert_means.weight, model.perturbation):
            assert 0.007 < weight.std().item() < 0.013
        assert not model.mention_projection.bias.any()


class TestConfiguration:
    @pytest.mark.parametrize(
        "values, message",
        [
            ({"num_experts": -1}, "num_experts must not be negative, got -1"),
            ({"projection_dim": 0}, "projection_dim must be at least 1, got 0"),
            ({"max_mentions": -1}, "max_mentions must be at least 1, got -1"),
            ({"vision_hidden_size": 0}, "vision_hidden_size must be at least 1, got 0"),
            ({"adversary_radius": 0.0}, "adversary_radius must be greater than 0, got 0.0"),
            ({"adversary_radius": math.nan}, "adversary_radius must be greater than 0, got nan"),
            ({"alignment_temperature": -1.0}, "alignment_temperature must be greater than 0, got -1.0"),
            ({"graph_temperature": 0}, "graph_temperature must be greater than 0, got 0"),
            ({"margin": -0.5}, "margin must not be negative, got -0.5"),
            ({"initializer_range": -0.02}, "initializer_range must not be negative, got -0.02"),
            *(({f"{term}_coef": -1.0}, f"{term}_coef must not be negative, got -1.0") for term in TERMS),
            ({"kl_loss_coef": math.nan}, "kl_loss_coef must not be negative, got nan"),
            ({"projection_dropout": 1.0}, "projection_dropout must be at least 0 and below 1, got 1.0"),
            ({"projection_dropout": -0.1}, "projection_dropout must be at least 0 and below 1, got -0.1"),
        ],
    )
    def test_values_out_of_range_are_refused_by_name(self, values, message):
        with pytest.raises(StrictDataclassClassValidationError, match=message):
            MGVMoEConfig(**values)

    @pytest.mark.parametrize(
        "values",
        [
            {"fusion": "concat"},
            {"adversary": "strong"},
            {"num_experts": 2.5},
            {"projection_dim": "768"},
            {"freeze_vision": "yes"},
            {"margin": "1"},
        ],
    )
    def test_values_of_another_kind_are_refused_by_name(self, values):
        with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(values))):
            MGVMoEConfig(**values)

    def test_a_value_set_later_is_checked_too(self, config):
        config.num_experts = -1
        with pytest.raises(StrictDataclassClassValidationError, match="num_experts must not be negative, got -1"):
            config.validate()

    def test_configuration_survives_saving_and_loading(self, tmp_path):
        config = tiny_config(fusion="query", adversary="power", kl_loss_coef=0.001, max_mentions=1)
        config.save_pretrained(tmp_path)
        assert MGVMoEConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()

    def test_defaults_are_bert_base_and_vit_base(self):
        config = MGVMoEConfig()
        assert (config.text_config.model_type, config.vision_config.model_type) == ("bert", "vit")
        assert config.hidden_size == config.vision_width == 768

    def test_a_width_that_nothing_tells_is_asked_for(self):
        class Nameless(PreTrainedConfig):
            model_type = "nameless"

        config = tiny_config()
        config.vision_config = Nameless()
        with pytest.raises(ValueError, match="vision_hidden_size must be given for vision_config of type 'nameless'"):
            _ = config.vision_width
        config.vision_hidden_size = 7
        assert config.vision_width == 7


class TestRefusals:
    """Every argument that does not fit is named, with the rule and what came."""

    def refuse(self, message: str, remove: tuple[str, ...] = (), **changes):
        model = tiny_model()
        with pytest.raises(ValueError, match=message):
            model(**{**without(tiny_inputs(), *remove), **changes})

    @pytest.mark.parametrize("name", ["input_ids", "mention_positions"])
    def test_missing_texts_or_mentions(self, name):
        self.refuse("input_ids and mention_positions must be given", (name,))

    def test_missing_or_doubled_candidates(self):
        message = "candidate_embeds and candidate_states must be given, got "
        self.refuse(message + "neither", CANDIDATES)
        self.refuse(message + "both", candidate_embeds=torch.zeros(5, 32))

    def test_texts_of_a_wrong_shape(self):
        self.refuse(
            r"input_ids must be \(rows, tokens\), neither of them 0, got \(11,\)",
            input_ids=torch.ones(11, dtype=torch.long),
        )
        self.refuse(
            r"attention_mask must be \(4, 11\), like input_ids, got \(4, 10\)", attention_mask=torch.ones(4, 10)
        )

    def test_candidates_of_a_wrong_shape(self):
        ids = torch.ones(4, 5, 3, 2, dtype=torch.long)
        self.refuse(r"candidate_input_ids must be \(rows, tokens\), .* got \(4, 5, 3, 2\)", candidate_input_ids=ids)
        self.refuse("candidate_input_ids must .* each of 4 posts, got 3", candidate_input_ids=ids[:3, ..., 0])
        for shape in ((5, 31), (3, 5, 32), (32,)):
            message = rf"candidate_embeds must be \(C, 32\) or \(4, C, 32\), got \({shape[0]},"
            self.refuse(message, CANDIDATES, candidate_embeds=torch.zeros(shape))
        self.refuse(r"candidate_mask must be \(B, C\) = \(4, 5\), got \(5,\)", candidate_mask=torch.ones(5))

    @pytest.mark.parametrize("name", ["input_ids", "candidate_input_ids"])
    def test_token_ids_beyond_the_vocabulary_tell_the_way_out(self, name):
        ids = tiny_inputs()[name]
        ids[0, 0] = 99
        message = rf"{name} must be in \[0, 99\), .* to 99. .* model.resize_token_embeddings\(processor"
        self.refuse(message, **{name: ids})

    def test_mention_positions_of_a_wrong_shape(self):
        message = r"mention_positions must be \(B, S\) with B = 4 and S at most max_mentions = 2, got "
        for shape in ((4,), (3, 1), (4, 3)):
            self.refuse(message + rf"\({shape[0]},", mention_positions=torch.ones(shape, dtype=torch.long))

    @pytest.mark.parametrize("positions", [[1, 11], [-1, 2], [1, -2]])
    def test_mention_positions_outside_of_the_text(self, positions):
        message = r"mention_positions must be in \[0, 11\), or -1 for an absent second mention, got "
        self.refuse(message, mention_positions=torch.tensor([positions] * 4))

    def test_images_given_twice_or_not_at_all(self):
        features = torch.zeros(4, 5, 24)
        self.refuse("pixel_values and image_features exclude each other, got both", image_features=features)
        self.refuse("image_mask marks posts with an image, but neither", ("pixel_values",))

    def test_images_of_a_wrong_shape(self):
        self.refuse(
            r"pixel_values must be \(B, channels, height, width\), got \(4, 8, 8\)", pixel_values=torch.zeros(4, 8, 8)
        )
        message = r"image_features must be \(B, Li, 24\), got "
        self.refuse(message + r"\(4, 5, 32\)", ("pixel_values",), image_features=torch.zeros(4, 5, 32))
        self.refuse(message + r"\(4, 24\)", ("pixel_values",), image_features=torch.zeros(4, 24))

    def test_images_and_posts_that_do_not_match(self):
        message = "image_mask and the images must have one row for each of the 4 posts, got image_mask "
        self.refuse(message + r"\(3,\)", image_mask=torch.ones(3))
        self.refuse(message + r"\(4, 1\)", image_mask=torch.ones(4, 1))
        self.refuse(message + r"\(4,\) and images \(3, 3, 8, 8\)", pixel_values=torch.zeros(3, 3, 8, 8))

    def test_a_second_mention_of_a_model_for_typing(self):
        model = tiny_model(max_mentions=1)
        with pytest.raises(ValueError, match="S at most max_mentions = 1"):
            model(**tiny_inputs(num_mentions=2))
        assert torch.isfinite(model(**tiny_inputs(num_mentions=1)).loss)

    def test_labels_that_are_no_candidates(self):
        self.refuse(r"labels must be in \[0, 5\)", labels=torch.tensor([0, 1, 2, 5]))
        mask = torch.ones(4, 5, dtype=torch.bool)
        mask[2, 0] = False
        self.refuse(
            r"candidate_mask hides those of \[2\]", labels=torch.zeros(4, dtype=torch.long), candidate_mask=mask
        )


def test_text_configs_of_the_same_kind_do_not_share_an_object():
    text = tiny_text_config()
    first, second = tiny_model(tiny_config(text_config=text)), tiny_model(tiny_config(text_config=tiny_text_config()))
    assert first.config.text_config is first.mgvmoe.text_model.config
    assert first.config.text_config is not second.config.text_config


class TestPrecision:
    """Losses keep their meaning in half precision."""

    @pytest.mark.parametrize("adversary", ["learned", "power"])
    def test_losses_under_bfloat16_autocast_are_near_those_in_single_precision(self, adversary, inputs):
        # At this margin no candidate is near the hinge, whatever the random weights are.
        model = tiny_model(adversary=adversary, graph_temperature=30.0, margin=20.0)
        expected = model(**inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(**inputs)
        for term in TERMS:
            assert output[term].dtype == torch.float32, term
            torch.testing.assert_close(output[term], expected[term], rtol=0.1, atol=0.01)

    def test_alignment_of_long_vectors_does_not_overflow(self):
        # Inner products of 3 * 10^6: float16 ends at 65504.
        embeds = (torch.eye(4, 300) * 100 + 100).half()
        assert torch.isfinite(info_nce(embeds, embeds))

    @pytest.mark.parametrize("adversary", ["learned", "power", "none"])
    def test_inference_mode_gives_the_loss_of_no_grad(self, adversary, inputs):
        model = tiny_model(adversary=adversary)
        with torch.no_grad():
            expected = model(**inputs).loss
        with torch.inference_mode():
            assert torch.equal(model(**inputs).loss, expected)


@pytest.mark.parametrize("model_class", [MGVMoEModel, MGVMoEForZeroShotIE])
def test_a_misspelt_argument_is_refused(model_class, inputs):
    with pytest.raises(TypeError, match="forward got unknown arguments: image_maks"):
        tiny_model(model_class=model_class)(**without(inputs, *CANDIDATES, "labels"), image_maks=inputs["image_mask"])
