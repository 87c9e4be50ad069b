"""One `threshold` with `reject_by`, in processor, pipelines, extraction, explanation; its old names."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from modeling_mgvmoe import MGVMoEConfig, MultimodalGraphExtractionPipeline, Rejection, ZeroShotMultimodalIEPipeline
from modeling_mgvmoe.evaluation.explanation import explain_post
from modeling_mgvmoe.inference.metrics import confidence, fit_calibration, fit_rejection, fit_threshold
from modeling_mgvmoe.labels import (
    COMPARED,
    LabelSet,
    Threshold,
    check_ranking,
    rank_labels,
    read_thresholds,
    threshold_values,
)
from tests.support.from_scratch import LABELS, POSTS, RELATIONS, posts, scratch_model, scratch_similarity

LOGITS = torch.tensor([5.0, 3.0, 1.0], dtype=torch.double)
CALIBRATION = {"typing": [0.5, -2.0], "relation": [0.3, -1.0]}


def test_what_is_compared():
    probs = LOGITS.softmax(-1)
    assert threshold_values(probs, LOGITS, "probability") is probs
    assert threshold_values(probs, LOGITS, "logit") is LOGITS
    expected = [float(2 * p / (1 - p)) for p in probs]
    assert threshold_values(probs, LOGITS, "ratio").tolist() == pytest.approx(expected)
    # A label that is not open is no other label; one label alone is likelier than all others.
    closed = torch.tensor([5.0, -math.inf, 1.0], dtype=torch.double)
    assert threshold_values(closed.softmax(-1), closed, "ratio")[0] == pytest.approx(math.exp(4))
    alone = torch.tensor([5.0])
    assert threshold_values(alone.softmax(-1), alone, "ratio").tolist() == [math.inf]


def test_dependence_on_the_number_of_labels():
    few, many = (torch.tensor([5.0] + [1.0] * others, dtype=torch.double) for others in (2, 200))
    values = {name: [float(threshold_values(one.softmax(-1), one, name)[0]) for one in (few, many)]
              for name in COMPARED}  # fmt: skip
    assert values["probability"][0] > 0.9 and values["probability"][1] < 0.3
    assert values["ratio"] == pytest.approx([math.exp(4)] * 2) and values["logit"] == [5, 5]


def test_confidence_is_the_same_number():
    logits = np.array([[5.0, 3.0], [1.0, -1.0], [2.0, 2.0]])
    for name in COMPARED:
        own = [float(threshold_values(row.softmax(-1), row, name).max()) for row in torch.tensor(logits)]
        assert confidence(logits, name) == pytest.approx(own)
    # The second post fits both labels badly, and one less so: as sure as the first, by a logit of 4 less.
    assert fit_threshold(logits[:2], [True, False]) == 3.0
    assert confidence(np.array([[7.0]]), "ratio").tolist() == [math.inf]


def test_the_answered_label_is_compared_and_not_the_best():
    """Of inverse relations the answer may be another than that of the greatest logit."""
    labels = LabelSet.__new__(LabelSet)
    labels.labels, labels.paths = ["a", "b", "c"], None
    logits = LOGITS[None]
    for reject_by, below, above in (("logit", 3.1, 2.9), ("probability", 0.12, 0.11), ("ratio", 0.28, 0.26)):
        found = [labels.ranked(logits, Threshold(least, reject_by), answer=1)["label"] for least in (below, above)]
        assert found == [None, "b"], reject_by
        assert labels.ranked(logits, Threshold(below, reject_by))["label"] == "a"


def test_reading():
    assert read_thresholds(None) == {"typing": None, "relation": None}
    assert read_thresholds(0.5) == dict.fromkeys(("typing", "relation"), Threshold(0.5))
    assert read_thresholds({"relation": -3.0}, "logit") == {"typing": None, "relation": Threshold(-3.0, "logit")}


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Threshold(0.5, "energy"), "reject_by: .*probability, ratio, logit.*'energy'"),
        (lambda: Threshold("0.5"), "threshold: .*'0.5'"),
        (lambda: Threshold(float("nan"), "logit"), "threshold: "),
        (lambda: Threshold(1.5), "threshold: .*between 0 and 1.*1.5"),
        (lambda: Threshold(-1, "ratio"), "threshold: .*-1"),
        (lambda: read_thresholds("no"), "threshold: .*'no'"),
        (lambda: read_thresholds({"types": 1.0}), "threshold: .*typing, relation.*types"),
        (lambda: read_thresholds(None, "energy"), "reject_by: "),
        (lambda: read_thresholds(1.0, "calibrated", calibration=CALIBRATION), "threshold: .*1.0"),
        (lambda: read_thresholds(0.5, "calibrated"), "reject_by: .*typing"),
        (
            lambda: read_thresholds({"relation": 0.5}, "calibrated", calibration={"typing": [1, 0]}),
            "reject_by: .*relat",
        ),
        (lambda: Threshold(0.5, "calibrated"), "reject_by: .*'calibrated'"),
        (lambda: rank_labels(LOGITS, ["a", "b", "c"], 0.5, reject_by="calibrated"), "reject_by: .*'calibrated'"),
        (lambda: fit_calibration([1.0, 2.0], [True, True]), "is_right"),
        (lambda: fit_calibration([1.0, 2.0, 3.0], [True, True, False]), "logits"),
        (lambda: check_ranking(1.5, None, "softmax"), "threshold: "),
        (lambda: rank_labels(LOGITS, ["a", "b > c", "b > d"], label_separator=">", reject_by="logit"), "reject_by: "),
        (lambda: confidence(np.zeros((1, 1)), "energy"), "reject_by must be one of .*'energy'"),
    ],
)
def test_errors(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def kept(threshold, reject_by="probability", logits=LOGITS, **options):
    ranked = rank_labels(SimpleNamespace(logits=logits[None]), list("abc"), threshold, reject_by=reject_by, **options)
    return "".join(one["label"] for one in ranked[0])


def test_each_label_of_a_ranking_is_compared():
    assert kept(None) == kept(0.0) == "abc" and kept(0.1) == "ab" and kept(0.2) == "a"
    assert kept(3.0, "logit") == "ab" and kept(5.1, "logit") == "" and kept(3.0, "logit", top_k=1) == "a"
    assert kept(0.2, "ratio") == "ab" and kept(2.0, "ratio") == "a"
    # 0 is a logit like any other, whatever the scores are.
    assert kept(0.0, "logit", LOGITS - 4) == "a" == kept(0.0, "logit", LOGITS - 4, function_to_apply="sigmoid")
    assert kept(0.0, function_to_apply="none", logits=LOGITS - 4) == "abc"
    assert kept(2.0, function_to_apply="none") == "ab"
    assert kept(2.0, "ratio", function_to_apply="none") == "a"


def test_draws_are_averaged():
    draws = torch.stack([LOGITS - 1, LOGITS + 1])[:, None]
    (ranked,) = rank_labels(draws, list("abc"), 3.0, reject_by="logit")
    assert [one["label"] for one in ranked] == ["a", "b"]


def test_pipeline():
    pipe = ZeroShotMultimodalIEPipeline(*scratch_model(torch.double)[:1], processor=scratch_model()[1])
    post = posts()[0]
    logits = pipe(post, candidate_labels=LABELS, function_to_apply="none")
    second = logits[1]["score"]
    found = pipe(post, candidate_labels=LABELS, threshold=second - 1e-9, reject_by="logit")
    assert [one["label"] for one in found] == [one["label"] for one in logits[:2]]
    assert sum(one["score"] for one in pipe(post, candidate_labels=LABELS)) == pytest.approx(1)
    # A label's logit is the same among other labels, and so is the answer.
    fewer = [one["label"] for one in logits[1:]]
    assert [
        one["label"] for one in pipe(post, candidate_labels=fewer, threshold=second - 1e-9, reject_by="logit")
    ] == [logits[1]["label"]]
    with pytest.raises(ValueError, match="reject_by: "):
        pipe(post, candidate_labels=LABELS, threshold=0.5, reject_by="energy")


@pytest.mark.parametrize("make", [scratch_model, scratch_similarity])
def test_extraction_by_logit(make):
    model, processor = make(torch.double)
    (free,) = model.extract(POSTS[:1], LABELS, RELATIONS, processor=processor)
    spans = [tuple(span) for span in POSTS[0]["mentions"]]
    same = {"text": POSTS[0]["text"], "images": [POSTS[0]["image"]], "candidate_labels": RELATIONS}
    pairs = [
        processor(mentions=[spans[one["head"]], spans[one["tail"]]], return_tensors="pt", **same)
        for one in free["relations"]
    ]
    with torch.no_grad():
        # Of the answer, which is not the best label where the pair turned round has that.
        answers = [RELATIONS.index(one["label"]) for one in free["relations"]]
        best = [model(**pair).logits[0, column].item() for pair, column in zip(pairs, answers, strict=True)]
    options = {"threshold": {"relation": sorted(best)[2] - 1e-6}, "reject_by": "logit"}
    (found,) = model.extract(POSTS[:1], LABELS, RELATIONS, processor=processor, **options)
    expected = [
        one for one, value in zip(free["relations"], best, strict=True) if value >= options["threshold"]["relation"]
    ]
    assert len(expected) == 4 and found["relations"] == expected
    pipe = MultimodalGraphExtractionPipeline(model=model, processor=processor)
    graph = pipe(POSTS[0], typing_labels=LABELS, relation_labels=RELATIONS, **options)
    assert [one["label"] for one in graph["relations"]] == [one["label"] for one in expected]
    with pytest.raises(ValueError, match="reject_by: paths have no logits"):
        model.extract(POSTS[:1], LABELS, RELATIONS, processor=processor, label_separator=">", **options)


def test_explanation():
    parts = scratch_model()
    post = posts()[0]
    free = explain_post(*parts, post, LABELS)
    pipe = ZeroShotMultimodalIEPipeline(model=parts[0], processor=parts[1])
    logit = pipe(post, candidate_labels=LABELS, function_to_apply="none")[0]["score"]
    for threshold, answer in ((logit - 1e-3, free.answer), (logit + 1e-3, None)):
        found = explain_post(*parts, post, LABELS, threshold=threshold, reject_by="logit")
        assert found.answer == answer and found.ranking == free.ranking
        assert json.loads(json.dumps(found.as_json()))["reject_by"] == "logit"


def test_only_what_is_asked_needs_a_calibration():
    model, processor = scratch_model(torch.double)
    model.config.score_calibration = {"typing": CALIBRATION["typing"]}
    options = {"processor": processor, "threshold": 0.5, "reject_by": "calibrated"}
    assert len(model.extract(POSTS, LABELS, **options)) == len(POSTS)
    with pytest.raises(ValueError, match="reject_by: .*relation"):
        model.extract(POSTS, LABELS, RELATIONS, **options)


def test_draws_leave_what_a_threshold_of_the_logit_is_about():
    """The logit without noise, in the pipeline as in extraction; noise makes the mean of draws another."""
    model, processor = scratch_model(torch.double)
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    post = {"text": POSTS[0]["text"], "mention": POSTS[0]["mentions"][0]}
    logits = {one["label"]: one["score"] for one in pipe(post, candidate_labels=LABELS, function_to_apply="none")}
    for label, logit in logits.items():
        for threshold in (logit - 1e-6, logit + 1e-6):
            found = pipe(post, LABELS, threshold=threshold, reject_by="logit", num_samples=3)
            assert {one["label"] for one in found} == {name for name, own in logits.items() if own >= threshold}, label
    assert "deviation" in pipe(post, candidate_labels=LABELS, num_samples=3)[0]


def test_numbers_of_numpy():
    model, processor = scratch_model()
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    post = {"text": POSTS[0]["text"], "mention": POSTS[0]["mentions"][0]}
    expected = pipe(post, candidate_labels=LABELS, threshold=0.25, top_k=2)
    assert pipe(post, candidate_labels=LABELS, threshold=np.float32(0.25), top_k=np.int64(2)) == expected
    with pytest.raises(ValueError, match="num_samples"):
        pipe(post, candidate_labels=LABELS, num_samples=2.0)


@pytest.mark.parametrize("make", [scratch_model, scratch_similarity])
def test_calibrated_is_a_logit_of_each_task(make):
    model, processor = make(torch.double)
    model.config.score_calibration = CALIBRATION
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    text, spans = POSTS[0]["text"], POSTS[0]["mentions"]
    for post, labels, (slope, intercept) in (
        ({"text": text, "mention": spans[0]}, LABELS, CALIBRATION["typing"]),
        ({"text": text, "head": spans[0], "tail": spans[1]}, RELATIONS, CALIBRATION["relation"]),
    ):
        logits = [one["score"] for one in pipe(post, candidate_labels=labels, function_to_apply="none")]
        sigmoid = lambda logit, a=slope, b=intercept: 1 / (1 + math.exp(-(a * logit + b)))  # noqa: E731
        for logit, number in ((logits[1] - 1e-3, 2), (logits[1] + 1e-3, 1)):
            assert len(pipe(post, candidate_labels=labels, threshold=sigmoid(logit), reject_by="calibrated")) == number
        probability = sigmoid(logits[1])
    # Without a threshold all labels come; what is no probability is refused by name.
    assert len(pipe(post, candidate_labels=labels, reject_by="calibrated")) == len(labels)
    assert explain_post(model, processor, post, labels, reject_by="calibrated").answer is not None
    model.config.score_calibration = None
    assert explain_post(model, processor, post, labels, reject_by="calibrated").answer is not None
    model.config.score_calibration = CALIBRATION
    for wrong in (1.0, 1.2, 0.0, "0.5"):
        with pytest.raises(ValueError, match="threshold: "):
            pipe(post, candidate_labels=labels, threshold=wrong, reject_by="calibrated")
    explained = explain_post(model, processor, post, RELATIONS, threshold=probability, reject_by="calibrated")
    assert (explained.threshold, explained.reject_by) == (probability, "calibrated")
    assert explained.compared == pytest.approx(sigmoid(logits[0])) and explained.answer is not None
    # Whole posts: types and relations, each by its own numbers.
    options = {"threshold": probability, "reject_by": "calibrated"}
    by_logit = {task: (math.log(probability / (1 - probability)) - b) / a for task, (a, b) in CALIBRATION.items()}
    same = {"threshold": by_logit, "reject_by": "logit"}
    graphs = [model.extract(POSTS, LABELS, RELATIONS, processor=processor, **own) for own in (options, same)]
    assert graphs[0] == graphs[1]


def test_models_without_a_calibration_say_so_before_they_score():
    model, processor = scratch_model()
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    for call in (
        lambda: pipe(posts()[0], candidate_labels=LABELS, threshold=0.5, reject_by="calibrated"),
        lambda: explain_post(model, processor, posts()[0], LABELS, threshold=0.5, reject_by="calibrated"),
        lambda: model.extract(POSTS, LABELS, processor=processor, threshold=0.5, reject_by="calibrated"),
    ):
        with pytest.raises(ValueError, match="reject_by: .*score_calibration"):
            call()


@pytest.mark.parametrize("value", [{"types": [1, 0]}, {"typing": [0, 1]}, {"typing": [1]}, {"typing": [1, math.inf]},
                                   {"typing": "no"}, {"relation": ["1", 0]}])  # fmt: skip
def test_a_calibration_is_a_slope_and_an_intercept(value):
    with pytest.raises(StrictDataclassClassValidationError, match="score_calibration"):
        MGVMoEConfig(score_calibration=value)


def test_fitted_calibration_is_that_of_the_answers():
    """Answers drawn with known odds: the greatest likelihood is near the numbers they were drawn with."""
    generator = np.random.default_rng(0)
    logits = generator.normal(4, 3, 20_000)
    is_right = generator.random(20_000) < 1 / (1 + np.exp(-(0.5 * logits - 2)))
    slope, intercept = fit_calibration(logits, is_right)
    assert slope == pytest.approx(0.5, abs=0.03) and intercept == pytest.approx(-2, abs=0.12)
    # Where the likelihood is greatest its derivative is 0: what is expected is what happened.
    expected = 1 / (1 + np.exp(-(slope * logits + intercept)))
    assert expected.mean() == pytest.approx(is_right.mean(), abs=1e-4)
    assert (expected * logits).mean() == pytest.approx((is_right * logits).mean(), abs=1e-3)


def test_old_names_warn_and_work():
    model, processor = scratch_model()
    with pytest.warns(FutureWarning, match="Rejection"):
        old = Rejection(0.5, "logit")
    assert (old.threshold, old.method, old.reject_by) == (0.5, "logit", "logit")
    with pytest.warns(FutureWarning, match="Rejection"):
        assert fit_rejection(np.array([[5.0, 3.0], [1.0, -1.0]]), [True, False]).threshold == 3.0
    expected = model.extract(POSTS[:1], LABELS, processor=processor, threshold=0.5)
    with pytest.warns(FutureWarning, match="rejection is now called threshold"):
        assert model.extract(POSTS[:1], LABELS, processor=processor, rejection=0.5) == expected
    pipe = MultimodalGraphExtractionPipeline(model=model, processor=processor, typing_labels=LABELS)
    expected = pipe(POSTS[0], threshold={"typing": 0.5}, reject_by="logit")
    with pytest.warns(FutureWarning, match="rejection is now called threshold"):
        assert pipe(POSTS[0], rejection={"typing": old}) == expected
    with pytest.warns(FutureWarning), pytest.raises(ValueError, match="threshold: .*rejection"):
        model.extract(POSTS[:1], LABELS, processor=processor, threshold=0.5, rejection=0.5)
    with pytest.warns(FutureWarning, match="none_threshold is now called threshold"):
        assert explain_post(model, processor, posts()[0], LABELS, none_threshold=1.0).answer is None
