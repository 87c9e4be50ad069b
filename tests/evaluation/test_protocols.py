"""Which posts meet which candidates under each protocol, and what comes out: by hand, and on a tiny model."""

import numpy as np
import pytest
import torch

from modeling_mgvmoe.data.evaluation_data import EvaluationData, id_digest
from modeling_mgvmoe.evaluation.protocols import CHANCE, MAJORITY, PROTOCOLS, evaluate_protocol, halves_by_id
from modeling_mgvmoe.evaluation.similarity import SimilarityScorer, embed_with_model
from modeling_mgvmoe.inference.metrics import NONE, rejection_auroc
from modeling_mgvmoe.inference.predict import ModelScorer, predict_labels, score_predictions
from tests.support.evaluation_data import by_table, drawn_posts, hand_made, make_post
from tests.support.small_runs import small_trainee

TEST = [make_post(0, "a"), make_post(1, "a"), make_post(2, "a"), make_post(3, "b")]


def watched(scorer):
    """The scorer, and the calls that it got: ids and candidates."""
    calls = []

    def score(posts, labels):
        calls.append(([post["id"] for post in posts], tuple(labels)))
        return scorer(posts, labels)

    return score, calls


def test_unseen_by_hand():
    # Probabilities of a: 0.8, 0.8, 0.2, 0.2; right, right, wrong, right, each with confidence 0.8.
    sure, low = {"a": np.log(4), "b": 0.0}, {"a": 0.0, "b": np.log(4)}
    scorer, calls = watched(by_table(dict(zip((post["id"] for post in TEST), (sure, sure, low, low), strict=True))))
    result = evaluate_protocol("unseen", {"ours": scorer}, hand_made({"test": TEST}))["typing"]
    assert calls == [([post["id"] for post in TEST], ("a", "b"))]
    assert result.predictions["ours"] == ["a", "a", "b", "b"] and result.references == ["a", "a", "a", "b"]
    assert result.confidences["ours"] == pytest.approx([0.8] * 4)
    ours = result.scores["ours"]
    # a: TP 2, FP 0, FN 1; b: TP 1, FP 1, FN 0.
    assert ours["accuracy"] == 3 / 4 and ours["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert ours["ece"] == pytest.approx(0.8 - 0.75)
    # Always a: F1 6/7, and 0 for b.
    assert result.scores[MAJORITY]["accuracy"] == 3 / 4
    assert result.scores[MAJORITY]["macro_f1"] == pytest.approx((6 / 7) / 2)
    assert result.scores[CHANCE] == {"accuracy": 1 / 2}
    assert result.counts == {"posts": 4, "candidates": 2}
    assert result.confusion("ours").tolist() == [[2, 1], [0, 1]]
    assert result.per_class("ours")["b"] == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1}


def test_a_candidate_without_a_post_has_an_f1_of_0():
    scorer = by_table({post["id"]: {post["label"]: 1.0} for post in TEST})
    data = hand_made({"test": TEST}, test=("a", "b", "c"))
    result = evaluate_protocol("unseen", {"ours": scorer}, data)["typing"]
    assert result.scores["ours"]["macro_f1"] == pytest.approx(2 / 3) and result.scores[CHANCE]["accuracy"] == 1 / 3


def test_generalised_by_hand():
    seen = [make_post(number, "s") for number in range(3)]
    answers = ["s", "s", "a", "a", "s", "b", "b"]  # three of s; three of a; one of b
    table = {post["id"]: {label: 5.0} for post, label in zip([*seen, *TEST], answers, strict=True)}
    scorer, calls = watched(by_table(table))
    data = hand_made({"test": TEST, "seen_test": seen})
    result = evaluate_protocol("generalised", {"ours": scorer}, data)["typing"]
    # All candidates, seen first, for all posts.
    assert [labels for _, labels in calls] == [("s", "t", "a", "b")] * 2
    assert result.candidates == ("s", "t", "a", "b") and result.seen == ("s", "t")
    ours = result.scores["ours"]
    assert (ours["seen_accuracy"], ours["unseen_accuracy"]) == (2 / 3, 2 / 4)
    # 2 (2/3)(1/2) / (7/6) = 4/7
    assert ours["harmonic_accuracy"] == pytest.approx(4 / 7)
    # s: TP 2, FP 1, FN 1. a: TP 1, FP 1, FN 2. b: TP 1, FP 1, FN 0. t has no post: 0.
    assert ours["seen_macro_f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert ours["unseen_macro_f1"] == pytest.approx((2 / 5 + 2 / 3) / 2)
    # 2 (1/3)(8/15) / (13/15) = 16/39
    assert ours["harmonic_macro_f1"] == pytest.approx(16 / 39)
    # Every answer has the probability e^5 / (e^5 + 3 e^-9).
    assert ours["ece"] == pytest.approx(1 / (1 + 3 * np.exp(-14)) - 4 / 7)
    # Three of s, three of a: the first of them, s, right for all seen posts and no other.
    assert result.scores[MAJORITY]["seen_accuracy"] == 1 and result.scores[MAJORITY]["harmonic_accuracy"] == 0
    assert result.scores[CHANCE]["harmonic_accuracy"] == 1 / 4


def test_open_by_hand():
    validation = [make_post(0, "v"), make_post(1, "w")]
    none = [make_post(number, "none of these") for number in range(40)]
    fitting, testing = halves_by_id(none)
    # Validation has confidence 0.9, posts without a class 0.6 when fitted: the threshold is half way, 0.75.
    table = {post["id"]: {"v": np.log(9), "w": 0.0} for post in validation}
    table |= {post["id"]: {"v": np.log(1.5), "w": 0.0} for post in fitting}
    # In the test one post of a is below it, and one without a class above.
    table |= {post["id"]: {"a": np.log(9), "b": 0.0} for post in TEST}
    table[TEST[2]["id"]] = {"a": np.log(1.5), "b": 0.0}
    table |= {post["id"]: {"b": np.log(1.5), "a": 0.0} for post in testing}
    table[testing[0]["id"]] = {"b": np.log(9), "a": 0.0}
    scorer, calls = watched(by_table(table))
    data = hand_made({"test": TEST, "validation": validation, "none": none})
    result = evaluate_protocol("open", {"ours": scorer}, data)["typing"]
    asked = {labels: [post for ids, own in calls if own == labels for post in ids] for _, labels in calls}
    assert asked[("v", "w")] == [post["id"] for post in [*validation, *fitting]]
    assert asked[("a", "b")] == [post["id"] for post in [*TEST, *testing]]
    ours, count = result.scores["ours"], len(testing)
    assert ours["threshold"] == pytest.approx(0.75)
    # Rejected: all but one without a class, and one of four known.
    assert ours["rejection_recall"] == pytest.approx((count - 1) / count)
    assert ours["rejection_precision"] == pytest.approx((count - 1) / count)
    assert ours["rejection_f1"] == pytest.approx((count - 1) / count)
    assert ours["rejection_accuracy"] == pytest.approx((count + 4 - 2) / (count + 4))
    scores = [0.9, 0.9, 0.6, 0.9, *[0.9 if post is testing[0] else 0.6 for post in testing]]
    assert ours["auroc"] == pytest.approx(rejection_auroc(scores, [True] * 4 + [False] * count))
    # Before rejection: a for all four, three of them right.
    assert ours["known_accuracy"] == 3 / 4
    # (0.6, right) in one bin, 0.9 with two of three right in another.
    assert ours["ece"] == pytest.approx((1 - 0.6) / 4 + 3 / 4 * (0.9 - 2 / 3))
    assert result.predictions["ours"][:5] == ["a", "a", NONE, "a", "b"]
    assert result.classes == ["a", "b", NONE] and result.confusion("ours")[2].tolist() == [0, 1, count - 1]
    # Rejection as the class "none of them" has the same F1.
    assert result.per_class("ours")[NONE]["f1"] == pytest.approx(ours["rejection_f1"])
    # More posts without a class than known ones: the best constant answer is to reject.
    assert result.scores[MAJORITY]["rejection_accuracy"] == pytest.approx(count / (count + 4))
    assert result.scores[MAJORITY]["rejection_f1"] == pytest.approx(2 * count / (2 * count + 4))


def test_open_rejects_by_the_best_logit_too():
    """Posts without a class are sure of their answer, but it fits badly."""
    validation, none = [make_post(0, "v"), make_post(1, "w")], [make_post(number, "none") for number in range(20)]
    to_fit, to_test = halves_by_id(none)
    # The best probability is the same for all, e^4 / (e^4 + 1); the best logit is 6 or 2, and 3 where it is fitted.
    table = {post["id"]: {post["label"]: 6.0, "v": 2.0, "w": 2.0} | {post["label"]: 6.0} for post in validation}
    table |= {post["id"]: {"v": 3.0, "w": -1.0} for post in to_fit}
    table |= {post["id"]: {"a": 2.0, "b": 2.0} | {post["label"]: 6.0} for post in TEST}
    table |= {post["id"]: {"a": 2.0, "b": -2.0} for post in to_test}
    scorer, calls = watched(by_table(table))
    data = hand_made({"test": TEST, "validation": validation, "none": none})
    result = evaluate_protocol("open", {"ours": scorer}, data)["typing"]
    assert calls[1] == ([post["id"] for post in to_fit], ("v", "w"))
    assert calls[3] == ([post["id"] for post in to_test], ("a", "b"))
    ours = result.scores["ours"]
    assert ours["auroc"] == 0.5 and ours["logit_auroc"] == 1.0
    assert ours["logit_threshold"] == 4.5 and ours["logit_rejection_f1"] == 1.0
    assert result.counts["fitted on: posts without a class"] == len(to_fit)


def test_without_unseen_validation_posts_generalised_has_no_gamma_and_open_is_refused():
    """Rows without a validation file are validated on classes of training."""
    trained, none = [make_post(number, "s") for number in range(4)], [make_post(number, "none") for number in range(9)]
    own = {"ours": by_table({})}
    bare = evaluate_protocol("generalised", own, hand_made({"test": TEST, "seen_test": trained}))["typing"]
    for validation in (trained, []):
        data = hand_made({"test": TEST, "seen_test": trained, "validation": validation}, validation=("s", "t"))
        assert evaluate_protocol("generalised", own, data)["typing"] == bare
    data = hand_made({"test": TEST, "none": none, "validation": trained}, validation=("s", "v"))
    with pytest.raises(ValueError, match="'open' needs validation classes that are not in training; .* both: s"):
        evaluate_protocol("open", own, data)
    # Of a mixture the unseen ones are left.
    seen = [make_post(number, "s") for number in range(20)]
    posts = {"test": TEST, "seen_test": seen, "validation": [*trained, make_post(0, "v")]}
    data = hand_made(posts, validation=("s", "t", "v"))
    counts = evaluate_protocol("generalised", own, data)["typing"].counts
    assert counts["gamma fitted on: posts of validation classes"] == 1
    assert counts["gamma fitted on: candidates"] == 3


def test_open_does_not_take_shared_log_probabilities_for_logits():
    none = [make_post(number, "none") for number in range(9)]
    data = hand_made({"test": TEST, "none": none, "validation": [make_post(0, "v")]})
    scorer = by_table({})
    scorer.num_neighbors = 2
    scores = evaluate_protocol("open", {"ours": scorer}, data)["typing"].scores["ours"]
    assert "auroc" in scores and not [name for name in scores if name.startswith("logit_")]


def test_halves_hang_on_the_id_alone():
    posts = [make_post(number, "x") for number in range(60)]
    fitting, testing = halves_by_id(posts)
    assert {post["id"] for post in fitting} | {post["id"] for post in testing} == {post["id"] for post in posts}
    assert not {post["id"] for post in fitting} & {post["id"] for post in testing}
    assert 15 < len(fitting) < 45 and all(id_digest(post) % 2 == 0 for post in fitting)
    again = halves_by_id([*reversed(posts[10:]), make_post(99, "x")])[0]
    assert {post["id"] for post in again if post["id"] != "post-x-99"} <= {post["id"] for post in fitting}
    # SHA-256 of "a" is ca978112...bb, an odd number: the same on every machine.
    assert id_digest({"id": "a"}) == int("ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", 16)


def everything(needed=("seen_test", "validation", "none")):
    posts, labels = drawn_posts()
    return EvaluationData(posts={name: posts[name] for name in ("test", *needed)}, labels=labels)


@pytest.mark.parametrize(
    "protocol", [name if name == "open" else pytest.param(name, marks=pytest.mark.slow) for name in PROTOCOLS]
)
def test_batch_size_and_order_of_the_posts_change_nothing(protocol):
    model, processor = small_trainee(dtype=torch.double)
    model.train()
    data = everything()
    # "seen" needs classes of which some are in training.
    labels = {**data.labels, "train": data.labels["test"]} if protocol == "seen" else data.labels
    data = EvaluationData({name: posts[::2] for name, posts in data.posts.items()}, labels)
    turned = EvaluationData({name: posts[::-1] for name, posts in data.posts.items()}, data.labels)
    results = []
    for size, own in ((64, data), (1, data), (5, turned)):
        scorers = {
            "similarity": SimilarityScorer(embed_with_model(model, processor), batch_size=size),
            "ours": ModelScorer(model, processor, batch_size=size),
        }
        results.append(evaluate_protocol(protocol, scorers, own))
    assert model.training
    for task in ("typing", "relation"):
        first = results[0][task]
        answers = dict(zip(first.ids, first.predictions["ours"], strict=True))
        for other in (own[task] for own in results[1:]):
            assert dict(zip(other.ids, other.predictions["ours"], strict=True)) == answers
            assert other.scores.keys() == first.scores.keys()
            for method, scores in first.scores.items():
                assert other.scores[method] == pytest.approx(scores, abs=1e-9), method


def test_logits_are_those_of_the_model_and_predictions_those_of_predict_labels():
    from modeling_mgvmoe.data.encoding import PostCollator, encode_posts

    model, processor = small_trainee(dtype=torch.double)
    model.eval()
    posts, labels = drawn_posts()
    typing = [post for post in posts["test"] if len(post["mentions"]) == 1]
    logits = ModelScorer(model, processor, batch_size=4)(typing, labels["test"]["typing"])
    for post, row in zip(typing[:3], logits, strict=False):
        inputs = processor(
            text=post["text"], images=post["image"], mentions=[tuple(post["mentions"][0])],
            candidate_labels=list(labels["test"]["typing"]), return_tensors="pt",
        )  # fmt: skip
        assert row == pytest.approx(model(**inputs).logits[0].detach().numpy(), abs=1e-9)
    encoded = encode_posts(typing, processor)
    few = ModelScorer(model, processor)
    few.encoded_at_once = 5
    assert few(typing, labels["test"]["typing"]) == pytest.approx(logits, abs=1e-9)
    best = [labels["test"]["typing"][column] for column in logits.argmax(-1)]
    assert predict_labels(model, encoded, PostCollator(processor, labels["test"])) == best
    result = evaluate_protocol("unseen", {"ours": ModelScorer(model, processor)}, everything(()))["typing"]
    assert result.predictions["ours"] == best


def test_the_label_of_a_post_is_not_looked_at():
    model, processor = small_trainee()
    posts, labels = drawn_posts()
    names = labels["test"]["typing"]
    typing = [post for post in posts["test"] if len(post["mentions"]) == 1]
    hidden = [{**post, "label": "something else"} for post in typing]
    scorers = (ModelScorer(model, processor), SimilarityScorer(embed_with_model(model, processor)))
    for scorer in scorers:
        assert (scorer(typing, names) == scorer(hidden, names)).all()


@pytest.mark.parametrize(
    ("protocol", "posts", "message"),
    [
        ("closed", {"test": TEST}, "protocol must be one of unseen, seen, generalised, open, got 'closed'"),
        ("generalised", {"test": TEST}, r"needs the posts test, seen_test \(missing: \['seen_test'\]\)"),
        ("generalised", {"test": TEST, "seen_test": []}, "needs typing posts in seen_test, got none"),
        ("unseen", {"test": []}, "there are no test posts"),
        ("unseen", {"test": [make_post(0, "s")]}, "has 's', which is not a class of its split"),
        ("open", {"test": TEST, "validation": [make_post(0, "v")], "none": [make_post(0, "x")]}, "into two halves"),
    ],
)
def test_bad_data_is_refused(protocol, posts, message):
    with pytest.raises(ValueError, match=message):
        evaluate_protocol(protocol, {"ours": by_table({})}, hand_made(posts))


def test_bad_scorers_are_refused():
    data = hand_made({"test": TEST})
    with pytest.raises(ValueError, match=r"logits \(4, 2\) without NaN are needed, got shape \(4, 3\)"):
        evaluate_protocol("unseen", {"ours": lambda posts, labels: np.zeros((4, 3))}, data)
    with pytest.raises(ValueError, match="with NaN"):
        evaluate_protocol("unseen", {"ours": lambda posts, labels: np.full((4, 2), np.nan)}, data)
    with pytest.raises(ValueError, match="names of the floors"):
        evaluate_protocol("unseen", {MAJORITY: by_table({})}, data)
    with pytest.raises(ValueError, match=r"labels\['typing'\]: all labels .* got others: \['a'\]"):
        score_predictions([{"task": "typing", "label": "a"}], ["b"], {"typing": ["b"]})
    model, processor = small_trainee()
    with pytest.raises(ValueError, match="of one task"):
        ModelScorer(model, processor)([make_post(0, "a"), make_post(0, "a", relation=True)], ["a", "b"])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        ModelScorer(model, processor, batch_size=0)([make_post(0, "a")], ["a", "b"])
    with pytest.raises(ValueError, match=r"no class may be called '\(none\)'"):
        evaluate_protocol(
            "open",
            {"ours": by_table({})},
            hand_made({"test": TEST, "validation": TEST, "none": TEST}, test=("a", NONE)),
        )
