"""The baselines: what each computes, worked out another way; that each learns; what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from baselines import AttributeRegression, Concatenation, CrossEncoder, FitArguments, Prototype, SimilarityTuned, fit

from modeling_mgvmoe.data.encoding import PostCollator, encode_posts
from modeling_mgvmoe.inference.predict import predict_labels
from tests.support.from_scratch import drawing, scratch_model

TYPES, RELATIONS = ("boat", "bird", "cake"), ("greets", "chases")
MAKERS = {
    "prototype": lambda model: Prototype(model),
    "similarity_tuned": lambda model: SimilarityTuned(model),
    "attribute_regression": lambda model: AttributeRegression(model, len(TYPES) + len(RELATIONS)),
    "concatenation": lambda model: Concatenation(model),
    "cross_encoder": lambda model: CrossEncoder(model, negatives=1, pairs_at_once=4),
}


def some_posts():
    words = {"boat": "sails at dawn", "bird": "in the harbour", "cake": "a cake red robot"}
    posts = []
    for number in range(12):
        label = TYPES[number % 3]
        image = drawing(number) if number % 2 else None
        posts.append({"id": f"t{number}", "text": f"Kelo {words[label]}", "mentions": [[0, 4]], "label": label,
                      "image": image})  # fmt: skip
        verb = RELATIONS[number % 2]
        tail = [len(verb) + 6, len(verb) + 10]
        posts.append({"id": f"r{number}", "text": f"Kelo {verb} Mura", "mentions": [[0, 4], tail], "label": verb,
                      "image": None})  # fmt: skip
    return posts


@pytest.fixture(scope="module")
def material():
    model, processor = scratch_model()
    collator = PostCollator(processor, {"typing": TYPES, "relation": RELATIONS})
    return model, encode_posts(some_posts(), processor), collator


def unlabelled(batch):
    return {name: value for name, value in batch.items() if name != "labels"}


# A cross-encoder reads every post with every label: its training takes seven seconds.
@pytest.fixture(
    params=[name if name != "cross_encoder" else pytest.param(name, marks=pytest.mark.slow) for name in MAKERS]
)
def baseline(request, material):
    torch.manual_seed(0)
    return MAKERS[request.param](copy.deepcopy(material[0])).eval()


# Scores of baselines are in single precision; what is worked out beside them is another sequence of operations, and
# their order of magnitude is 10.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


class TestAll:
    def test_posts_get_scores_for_the_labels_of_their_task_only(self, baseline, material):
        batch = unlabelled(material[2](material[1][:6]))
        logits = baseline(**batch).logits
        assert logits.shape == (6, 5)
        assert torch.equal(logits.isfinite(), batch["candidate_mask"])

    def test_padding_and_company_change_nothing(self, baseline, material):
        together = baseline(**unlabelled(material[2](material[1][:6]))).logits
        alone = torch.cat([baseline(**unlabelled(material[2]([post]))).logits for post in material[1][:6]])
        torch.testing.assert_close(together, alone, **CLOSE)

    def test_known_labels_can_be_used_again(self, baseline, material):
        batch = unlabelled(material[2](material[1][:6]))
        known = baseline.encode_candidates(material[2].candidates)
        rest = {name: value for name, value in batch.items() if name not in material[2].candidates}
        torch.testing.assert_close(baseline(**rest, **known).logits, baseline(**batch).logits, **CLOSE)

    @pytest.mark.slow
    def test_it_learns_and_keeps_the_best_weights(self, baseline, material):
        _, encoded, collator = material
        before = copy.deepcopy(baseline.state_dict())
        scores = iter([0.1, 0.2, 0.9, 0.3])
        kept = []

        def validation_score(trained):
            kept.append(copy.deepcopy(trained.state_dict()))
            return next(scores)

        torch.manual_seed(0)
        arguments = FitArguments(max_train_steps=60, batch_size=12, learning_rate=2e-3, head_learning_rate=5e-3,
                                 freeze_text_layers=0, eval_steps=20, mixed_precision="no")  # fmt: skip
        history = fit(baseline, encoded, collator, arguments, validation_score)
        assert [entry["step"] for entry in history] == [20, 40, 60]
        assert [entry["score"] for entry in history] == [0.1, 0.2, 0.9]
        assert history[-1]["loss"] < history[0]["loss"]
        for name, value in baseline.state_dict().items():
            assert torch.equal(value, kept[2][name]), name
        changed = {name for name, value in baseline.state_dict().items() if not torch.equal(value, before[name])}
        assert any("text_model" in name for name in changed)
        frozen = ("vision_model", "embeddings", "experts", "attribute_encoder", "fusion")
        assert not [name for name in changed if any(part in name for part in frozen)]
        predictions = predict_labels(baseline, encoded, collator)
        right = sum(p == post["label"] for p, post in zip(predictions, encoded, strict=True))
        assert right >= 10  # of 24; by chance 10: what one learns of 24 posts differs, the loss above tells more


def test_the_best_weights_are_kept_also_if_they_are_not_the_last(material):
    baseline, kept, scores = SimilarityTuned(copy.deepcopy(material[0])), [], iter([0.1, 0.9, 0.2])

    def validation_score(trained):
        kept.append(copy.deepcopy(trained.state_dict()))
        return next(scores)

    arguments = FitArguments(max_train_steps=3, batch_size=2, freeze_text_layers=0, eval_steps=1, mixed_precision="no")
    fit(baseline, material[1], material[2], arguments, validation_score)
    assert all(torch.equal(value, kept[1][name]) for name, value in baseline.state_dict().items())
    assert any(not torch.equal(value, kept[2][name]) for name, value in baseline.state_dict().items())


class TestEach:
    def test_similarity_is_twenty_times_the_cosine(self, material):
        baseline = SimilarityTuned(copy.deepcopy(material[0])).eval()
        batch = material[2](material[1][:1])
        ids = batch["input_ids"]
        post = baseline.encoders.text_model(ids).last_hidden_state.mean(1)
        label = baseline.encoders.text_model(batch["candidate_input_ids"][:1]).last_hidden_state.mean(1)
        expected = 20 * F.cosine_similarity(post, label)
        torch.testing.assert_close(baseline(**batch).logits[0, :1], expected, **CLOSE)

    def test_prototype_compares_the_mean_of_the_markers(self, material):
        baseline = Prototype(copy.deepcopy(material[0])).eval()
        batch = material[2]([material[1][1]])  # a relation
        states = baseline.encoders.text_model(batch["input_ids"]).last_hidden_state[0]
        head, tail = batch["mention_positions"][0]
        embeds = baseline.encode_candidates(material[2].candidates)["candidate_embeds"]
        expected = (states[head] + states[tail]) / 2 @ embeds[3:].T
        torch.testing.assert_close(baseline(**batch).logits[0, 3:], expected, **CLOSE)

    def test_attribute_vectors_are_those_of_the_encoder_as_it_came(self, material):
        baseline = AttributeRegression(copy.deepcopy(material[0]), 5).eval()
        before = baseline.encode_candidates(material[2].candidates)["candidate_embeds"]
        with torch.no_grad():
            for parameter in baseline.encoders.text_model.parameters():
                parameter.add_(0.1)
        assert torch.equal(baseline.encode_candidates(material[2].candidates)["candidate_embeds"], before)

    def test_attribute_regression_loss_by_hand(self, material):
        baseline = AttributeRegression(copy.deepcopy(material[0]), 3)
        baseline._class_logits = torch.zeros(2, 3)
        logits = torch.tensor([[0.9, 0.6, 0.1], [0.2, 0.4, 0.0]])
        # Margins 0.5: 0.5 - 0.9 + 0.6 = 0.2 and 0.5 - 0.2 + 0.4 = 0.7, mean 0.45; cross-entropy log 3.
        expected = 0.6 * 0.45 + 0.4 * torch.tensor(3.0).log()
        torch.testing.assert_close(baseline.loss_of(logits, torch.tensor([0, 0]), None), expected)

    def test_concatenation_sees_the_image(self, material):
        torch.manual_seed(0)
        baseline = Concatenation(copy.deepcopy(material[0])).eval()
        batch = material[2]([material[1][2]])
        assert batch["image_mask"].all()
        blind = {**batch, "image_mask": torch.tensor([False])}
        assert not torch.allclose(baseline(**batch).logits[0, :3], baseline(**blind).logits[0, :3])

    def test_cross_encoder_reads_post_and_label_as_one_text(self, material):
        baseline = CrossEncoder(copy.deepcopy(material[0]), pairs_at_once=2).eval()
        batch = material[2](material[1][:3])
        post, label = batch["input_ids"][0], batch["candidate_input_ids"][1]
        post, label = post[batch["attention_mask"][0] > 0], label[batch["candidate_attention_mask"][1] > 0][1:]
        ids = torch.cat([post, label])[None]
        kinds = torch.cat([torch.zeros_like(post), torch.ones_like(label)])[None]
        states = baseline.encoders.text_model(ids, token_type_ids=kinds).last_hidden_state
        expected = baseline.classifier(states.mean(1)).squeeze()
        torch.testing.assert_close(baseline(**batch).logits[0, 1], expected, **CLOSE)

    def test_cross_encoder_meets_the_right_label_and_so_many_others(self, material):
        baseline = CrossEncoder(copy.deepcopy(material[0]), negatives=1).train()
        batch = material[2](material[1][:6])
        logits = baseline(**batch).logits
        assert logits.isfinite().sum(1).tolist() == [2] * 6
        assert logits.gather(1, batch["labels"][:, None]).isfinite().all()
        assert not (logits.isfinite() & ~batch["candidate_mask"]).any()

    def test_cross_encoder_takes_one_text_a_label(self, material):
        baseline = CrossEncoder(copy.deepcopy(material[0]))
        with pytest.raises(ValueError, match="candidate_index: a cross-encoder reads one text per label"):
            baseline(**material[2](material[1][:1]), candidate_index=torch.zeros(5))


@pytest.mark.parametrize("frozen", [True, False])
def test_the_tower_is_trained_where_mgvmoe_trains_it(material, frozen):
    model = copy.deepcopy(material[0])
    model.config.freeze_vision = frozen
    model.mgvmoe.vision_model.requires_grad_(True)
    baseline = Concatenation(model)
    before = copy.deepcopy(baseline.state_dict())
    arguments = FitArguments(max_train_steps=2, batch_size=8, freeze_text_layers=None, mixed_precision="no")
    fit(baseline, material[1], material[2], arguments, lambda trained: 0.0)
    changed = {name for name, value in baseline.state_dict().items() if not torch.equal(value, before[name])}
    assert any("vision_model" in name for name in changed) == (not frozen)
    assert any("word_embeddings" in name for name in changed)  # None freezes nothing of the text encoder


def test_a_loss_that_is_not_finite_stops_the_training(material):
    baseline = SimilarityTuned(copy.deepcopy(material[0]))
    with torch.no_grad():
        baseline.encoders.text_model.encoder.layer[-1].output.LayerNorm.weight.fill_(float("nan"))
    arguments = FitArguments(max_train_steps=2, batch_size=2, freeze_text_layers=0, mixed_precision="no")
    with pytest.raises(ValueError, match="The loss of SimilarityTuned is nan at step 1"):
        fit(baseline, material[1], material[2], arguments, lambda trained: 0.0)
