"""Scores that begin as similarity: hand-worked numbers, equality with plain arithmetic, properties, refusals."""

import math

import pytest
import torch
import torch.nn.functional as F

from modeling_mgvmoe.modeling_mgvmoe import SimilarityScore, label_mean, masked_token_mean, one_of_each
from tests.support.tiny import doubled, tiny_config, tiny_inputs, tiny_model, with_mentions, with_types

pytestmark = pytest.mark.numerical


@pytest.fixture
def model():
    return tiny_model(score="similarity", type_score_coef=2.0, mention_weight=0.25).double()


@pytest.fixture
def inputs():
    return doubled(with_mentions(tiny_inputs()))


class TestParts:
    def test_mean_over_the_tokens_of_each_mention(self):
        states = torch.tensor([[[2.0, 0.0], [4.0, 2.0], [100.0, 100.0]]])
        mask = torch.tensor([[[True, True, False], [False, False, False]]])
        assert masked_token_mean(states, mask).tolist() == [[[3.0, 1.0], [0.0, 0.0]]]
        # Of one token it is the token.
        assert masked_token_mean(states, torch.tensor([[[False, True, False]]])).tolist() == [[[4.0, 2.0]]]

    def test_a_label_is_the_direction_of_the_mean_of_its_texts_directions(self):
        # (3, 0) and (0, 8) have directions (1, 0) and (0, 1), whose mean points at 45 degrees: lengths do not count.
        embeds = label_mean(torch.tensor([[3.0, 0.0], [5.0, 0.0], [0.0, 8.0]]), torch.tensor([0, 1, 0]))
        assert torch.allclose(embeds, torch.tensor([[math.sqrt(0.5), math.sqrt(0.5)], [1.0, 0.0]]))
        assert torch.equal(label_mean(torch.tensor([[3.0, 4.0]]), None), torch.tensor([[0.6, 0.8]]))

    def test_one_label_may_have_all_the_texts(self):
        texts, index = torch.tensor([[3.0, 0.0], [0.0, 8.0]]), torch.tensor([0, 0])
        assert torch.allclose(label_mean(texts, index), torch.tensor([[math.sqrt(0.5), math.sqrt(0.5)]]))
        assert label_mean(texts, index, directions=False).tolist() == [[1.5, 4.0]]

    def test_one_text_of_each_label_is_drawn_and_every_text_has_its_turn(self):
        torch.manual_seed(0)
        index = torch.tensor([0, 2, 1, 2, 2, 0])
        drawn = torch.stack([one_of_each(index) for _ in range(600)])
        assert torch.equal(index[drawn], torch.arange(3).expand(600, 3))
        counts = torch.bincount(drawn.flatten(), minlength=6) / 600
        assert torch.allclose(counts, torch.tensor([0.5, 1 / 3, 1.0, 1 / 3, 1 / 3, 0.5]), atol=0.07)

    def test_mention_has_its_share_in_a_typing_post_and_none_in_a_pair(self):
        score = SimilarityScore(scale=1.0, mention_weight=0.25, type_coef=1.0)
        states = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]).repeat(2, 1, 1)
        mask = torch.ones(2, 2, dtype=torch.bool)
        mention_mask = torch.tensor([[[False, True], [False, False]], [[False, True], [True, False]]])
        posts, mentions = score.embed_posts(states, mask, mention_mask)
        half = math.sqrt(0.5)
        # Typing: 0.75 * (half, half) + 0.25 * (0, 1), made a direction.
        typing = F.normalize(torch.tensor([0.75 * half, 0.75 * half + 0.25]), dim=0)
        assert torch.allclose(posts, torch.stack([typing, torch.tensor([half, half])]))
        assert mentions.tolist() == [[[0.0, 1.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]]

    def test_the_share_of_a_mention_keeps_double_precision(self):
        # 0.3 is no number of single precision: taken there, it would be off by 1e-8.
        score = SimilarityScore(scale=1.0, mention_weight=0.3, type_coef=1.0)
        states = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]).double()
        posts, _ = score.embed_posts(states, torch.ones(1, 2).bool(), torch.tensor([[[False, True]]]))
        half = math.sqrt(0.5)
        typing = F.normalize(torch.tensor([[0.7 * half, 0.7 * half + 0.3]], dtype=torch.float64), dim=1)
        torch.testing.assert_close(posts, typing, rtol=0, atol=1e-12)

    def test_the_residual_is_a_direction_times_the_gate(self):
        score = SimilarityScore(scale=1.0, mention_weight=0.25, type_coef=1.0)
        posts, projected = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])
        with torch.no_grad():
            assert score.with_residual(posts, projected).tolist() == [[1.0, 0.0]]
            score.gate.fill_(0.5)
            assert torch.allclose(score.with_residual(posts, projected), torch.tensor([[1.3, 0.4]]))

    def test_labels_may_have_types_for_more_slots_than_there_are_mentions(self):
        log_probs = torch.tensor([[[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]]]).log()
        allowed = torch.tensor([[[True, False, False], [False, True, True], [False, False, True]]])
        fit = SimilarityScore.type_compatibility(log_probs, allowed, torch.ones(1, 2, 4, dtype=torch.bool))
        assert torch.allclose(fit, torch.tensor([[math.log(0.35)]]))  # 0.7 and 0.25 + 0.25

    def test_type_compatibility_is_the_log_probability_of_the_allowed_types_of_both_mentions(self):
        log_probs = torch.tensor([[[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]]]).log()
        allowed = torch.tensor(
            [
                [[True, False, False], [False, True, True]],  # 0.7 and 0.25 + 0.25
                [[True, True, True], [True, False, False]],  # any, and 0.5
                [[True, True, True], [True, True, True]],
            ]
        )
        both = torch.ones(1, 2, 4, dtype=torch.bool)
        fit = SimilarityScore.type_compatibility(log_probs, allowed, both)
        assert torch.allclose(fit, torch.tensor([[math.log(0.35), math.log(0.5), 0.0]]))
        assert fit[0, 2] == 0  # no constraint is worth nothing, to the last bit
        alone = torch.tensor([[[True] * 4, [False] * 4]])
        fit = SimilarityScore.type_compatibility(log_probs, allowed, alone)
        assert torch.equal(fit, torch.zeros(1, 3))  # a typing post has neither head nor tail


class TestModel:
    def test_before_training_the_score_is_the_encoders_own_similarity(self, model, inputs):
        inputs.pop("labels")
        text = model.mgvmoe.text_model
        states = text(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        labels = text(
            inputs["candidate_input_ids"], attention_mask=inputs["candidate_attention_mask"]
        ).last_hidden_state

        def mean(rows, mask):
            return F.normalize((rows * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)

        post = mean(states, inputs["attention_mask"].double())
        mention = mean(states, inputs["mention_mask"][:, 0].double())
        typing = torch.tensor([False, True, False, True])
        post = torch.where(typing[:, None], F.normalize(0.75 * post + 0.25 * mention, dim=-1), post)
        expected = 20 * post @ mean(labels, inputs["candidate_attention_mask"].double()).T
        torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-12, atol=1e-12)

    def test_the_gate_lets_the_experts_in(self, model, inputs):
        before = model(**inputs).logits
        with torch.no_grad():
            model.similarity.gate.fill_(0.5)
        output = model(**inputs)
        assert not torch.allclose(output.logits, before)
        residual = output.mention_embeds - model(**{**inputs}).mention_embeds
        assert torch.equal(residual, torch.zeros_like(residual))  # repeatable
        with torch.no_grad():
            model.similarity.gate.fill_(0.0)
            length = (output.mention_embeds - model(**inputs).mention_embeds).norm(dim=-1)
        torch.testing.assert_close(length, torch.full_like(length, 0.5))

    def test_the_gate_and_everything_behind_it_learn(self, model, inputs):
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        model(**inputs).ranking_loss.backward()
        assert model.similarity.gate.grad.abs().sum() > 0
        optimizer.step()
        optimizer.zero_grad()
        model(**inputs).ranking_loss.backward()
        assert model.mention_projection.weight.grad.abs().sum() > 0
        assert model.mgvmoe.experts.expert_means.weight.grad.abs().sum() > 0

    def test_types_add_their_log_probability_times_the_coefficient(self, model, inputs):
        plain, typed = model(**inputs), model(**with_types(inputs))
        inputs = with_types(inputs)
        types = model.get_candidate_embeds(inputs["type_input_ids"], inputs["type_attention_mask"])
        states = model.mgvmoe(
            **{name: inputs[name] for name in ("input_ids", "attention_mask", "mention_positions")}
        ).text_states
        expected = plain.logits.clone()
        for post in range(4):
            for slot in range(2):
                tokens = states[post][inputs["mention_mask"][post, slot]]
                if len(tokens) and post % 2 == 0:  # the pairs
                    p = (20 * F.normalize(tokens.mean(0), dim=0) @ types.T).softmax(-1)
                    for candidate in range(2):
                        allowed = inputs["candidate_types"][candidate, slot]
                        expected[post, candidate] += 2.0 * p[allowed].sum().log()
        torch.testing.assert_close(typed.logits, expected)
        gold = (typed.logits - plain.logits).gather(1, inputs["labels"][:, None]).mean() / 2.0
        torch.testing.assert_close(typed.type_loss, -gold)
        assert plain.type_loss == 0

    def test_scores_do_not_depend_on_the_order_of_labels_and_types(self, inputs):
        model = tiny_model(score="similarity")
        inputs = with_types({name: v.float() if v.is_floating_point() else v for name, v in inputs.items()})
        inputs.pop("labels")
        order = torch.tensor([3, 0, 4, 1, 2])
        permuted = {**inputs, **{n: inputs[n][order] for n in ("candidate_input_ids", "candidate_attention_mask",
                                                                "candidate_types")}}  # fmt: skip
        assert torch.equal(model(**permuted).logits, model(**inputs).logits[:, order])

    def test_labels_of_several_texts_equal_their_mean_worked_out_by_hand(self, model, inputs):
        ids, mask = inputs["candidate_input_ids"], inputs["candidate_attention_mask"]
        index = torch.tensor([1, 0, 1, 2, 0])
        single = model.get_candidate_embeds(ids, mask)
        expected = torch.stack([F.normalize(single[index == label].mean(0), dim=0) for label in range(3)])
        torch.testing.assert_close(model.get_candidate_embeds(ids, mask, index), expected)
        paper = tiny_model().double()
        single = paper.get_candidate_embeds(ids, mask)
        expected = torch.stack([single[index == label].mean(0) for label in range(3)])
        torch.testing.assert_close(paper.get_candidate_embeds(ids, mask, index), expected)

    def test_texts_are_drawn_in_training_only(self, inputs):
        model = tiny_model(score="similarity", sample_candidate_texts=True).double()
        ids, mask = inputs["candidate_input_ids"], inputs["candidate_attention_mask"]
        index = torch.tensor([1, 0, 1, 2, 0])
        single = model.get_candidate_embeds(ids, mask)
        assert not torch.allclose(model.get_candidate_embeds(ids, mask, index)[0], single[1])
        model.train()
        drawn = {tuple(model.get_candidate_embeds(ids, mask, index)[1].tolist()) for _ in range(20)}
        known = {tuple(single[row].tolist()) for row in (0, 2)}
        assert len(drawn) == 2
        for row in drawn:
            assert min((torch.tensor(row) - torch.tensor(other)).abs().max() for other in known) < 1e-12

    def test_what_candidates_give_can_be_used_again(self, model, inputs):
        inputs = with_types(inputs)
        names = [name for name in inputs if name.startswith(("candidate_", "type_"))]
        taken = model.encode_candidates({name: inputs[name] for name in names})
        rest = {name: value for name, value in inputs.items() if name not in names}
        assert torch.equal(model(**rest, **taken).logits, model(**inputs).logits)

    def test_padding_changes_nothing(self, model, inputs):
        inputs = with_types(inputs)
        names = ("input_ids", "attention_mask", "mention_mask", "type_input_ids", "type_attention_mask")
        padded = {**inputs, **{name: F.pad(inputs[name], (0, 3)) for name in names}}
        torch.testing.assert_close(model(**padded).logits, model(**inputs).logits, rtol=1e-12, atol=1e-12)

    def test_saved_and_loaded_it_scores_the_same(self, tmp_path, inputs):
        model = tiny_model(score="similarity")
        with torch.no_grad():
            model.similarity.gate.fill_(0.3)
        inputs = {name: v.float() if v.is_floating_point() else v for name, v in inputs.items()}
        model.save_pretrained(tmp_path)
        assert torch.equal(type(model).from_pretrained(tmp_path)(**inputs).logits, model(**inputs).logits)


class TestAblations:
    def test_without_experts_tokens_stay_as_they_are(self, inputs):
        model = tiny_model(num_experts=0).double()
        output = model(**{name: value for name, value in inputs.items() if name != "mention_mask"})
        states = model.mgvmoe.text_model(
            inputs["input_ids"], attention_mask=inputs["attention_mask"]
        ).last_hidden_state
        mask = inputs["attention_mask"].double()
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        torch.testing.assert_close(output.text_embeds, mean)
        assert output.kl_loss == 0 and output.router_entropy_loss == 0
        model.train()(**{name: value for name, value in inputs.items() if name != "mention_mask"}).loss.backward()

    def test_deterministic_experts_make_no_noise_in_training_and_equal_the_means(self, inputs):
        inputs.pop("mention_mask")
        model, full = tiny_model(deterministic_experts=True).double(), tiny_model().double()
        names = dict(full.named_parameters())
        model.load_state_dict({name: names[name] for name in dict(model.named_parameters())}, strict=True)
        torch.testing.assert_close(model(**inputs).logits, full(**inputs).logits)
        model.train()
        first, second = model(**inputs), model(**inputs)
        assert torch.equal(first.logits, second.logits)
        assert first.kl_loss == 0 and first.router_entropy_loss > 0

    def test_random_perturbation_has_the_length_and_no_aim(self):
        from modeling_mgvmoe.sample_graph import (
            adversarial_consistency,
            power_perturbation,
            random_perturbation,
        )

        nodes = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)).double()
        random = random_perturbation(nodes, 0.5, torch.Generator().manual_seed(1))
        power = power_perturbation(nodes, 0.5, 10.0, torch.Generator().manual_seed(1))
        torch.testing.assert_close(random.norm(dim=-1), torch.full((16,), 0.5 * nodes.norm(dim=-1).mean()).double())
        assert adversarial_consistency(nodes, power, 10.0) > 2 * adversarial_consistency(nodes, random, 10.0)


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"mention_mask": None}, 'mention_mask must be given with score="similarity"'),
            ({"mention_mask": torch.ones(4, 11)}, r"mention_mask must be \(B, S, Lt\) = \(4, 2, 11\) and boolean"),
            ({"mention_mask": torch.ones(4, 1, 11).bool()}, r"mention_mask must be \(B, S, Lt\) = \(4, 2, 11\)"),
            ({"mention_mask": torch.ones(4, 2, 11).bool()}, "mention_mask must not mark padding"),
            ({"mention_mask": torch.zeros(4, 2, 11).bool()}, "mention_mask must mark a token of every mention"),
            ({"candidate_types": torch.ones(5, 1, 2).bool()}, r"candidate_types must be \(C, 2, T\) = \(5, 2, 2\)"),
            ({"candidate_types": torch.ones(5, 2, 2)}, "candidate_types must be .* boolean, got .* torch.float32"),
            ({"candidate_types": torch.zeros(5, 2, 2).bool()}, "candidate_types must allow every label at least one"),
            ({"labels": torch.tensor([9, 0, 0, 0])}, r"labels must be in \[0, 5\)"),
            ({"type_input_ids": None, "type_attention_mask": None}, "candidate_types and type_input_ids"),
            ({"candidate_types": None}, "candidate_types and type_input_ids"),
            ({"candidate_index": torch.tensor([0, 1])}, r"candidate_index must be \(5,\), one a text, got \(2,\)"),
            ({"candidate_index": torch.tensor([0, 0, 2, 2, 2])}, "candidate_index must hold every number from 0"),
        ],
    )
    def test_by_name(self, model, inputs, change, message):
        with pytest.raises(ValueError, match=message):
            model(**{**with_types(inputs), **change})

    def test_types_need_a_model_that_knows_them(self, inputs):
        with pytest.raises(ValueError, match='candidate_types need a model with score="similarity"'):
            tiny_model().double()(**with_types(inputs))

    def test_a_hidden_label_under_cross_entropy(self, inputs):
        model = tiny_model(score="similarity", objective="cross_entropy").double()
        mask = torch.ones(4, 5, dtype=torch.bool)
        mask[2, inputs["labels"][2]] = False
        with pytest.raises(ValueError, match=r"candidate_mask hides those of \[2\]"):
            model(**inputs, candidate_mask=mask)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"mention_weight": 1.5}, "mention_weight must be between 0 and 1, got 1.5"),
            ({"similarity_scale": 0.0}, "similarity_scale must be greater than 0, got 0.0"),
            ({"type_score_coef": -1.0}, "type_score_coef must not be negative, got -1.0"),
        ],
    )
    def test_of_the_configuration(self, values, message):
        with pytest.raises(Exception, match=message):
            tiny_config(**values)
