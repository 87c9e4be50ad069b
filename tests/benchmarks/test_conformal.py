import math

import numpy as np
import pytest
from conformal import SplitConformal, conformity_scores, set_statistics

from modeling_mgvmoe.pipeline_mgvmoe import ZeroShotMultimodalIEPipeline
from tests.support.from_scratch import LABELS, posts, scratch_model

ABC = ["a", "b", "c"]


def logits_of(probs):
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(probs, dtype=float))


def test_scores_by_hand():
    logits = logits_of([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    assert conformity_scores(logits).ravel() == pytest.approx([0.5, 0.7, 0.8, 0.9, 0.9, 0.2])
    # In falling order 0.5, 0.3, 0.2: what is before, and half of the own share.
    scores = conformity_scores(logits, "aps", np.array([0.5, 0.5]))
    assert scores[0] == pytest.approx([0.25, 0.65, 0.9])
    assert scores[1] == pytest.approx([0.85, 0.95, 0.4])
    assert conformity_scores(logits, "aps")[0] == pytest.approx([0.5, 0.8, 1.0])


def test_the_quantile_by_hand():
    # Nine posts whose right label has the probability 0.1 to 0.9: scores 0.9 to 0.1. Of 10 * 0.8 = 8 the 8th smallest.
    right = np.arange(1, 10) / 10
    logits = logits_of(np.stack([right, 1 - right], 1))
    conformal = SplitConformal(0.8).fit(logits, ["a", "b"], ["a"] * 9)
    assert conformal.quantile == pytest.approx(0.8) and conformal.threshold == pytest.approx(0.2)
    # 10 * 0.9 = 9, the largest; 10 * 0.95 = 9.5, rounded up to 10, of which there are too few.
    assert SplitConformal(0.9).fit(logits, ["a", "b"], ["a"] * 9).quantile == pytest.approx(0.9)
    everything = SplitConformal(0.95).fit(logits, ["a", "b"], ["a"] * 9)
    assert everything.quantile == math.inf
    assert everything.predict(logits[:1], ["a", "b"]) == [["b", "a"]] and everything.threshold == 0


def test_sets_are_ranked_and_may_be_empty():
    conformal = SplitConformal(0.5)
    conformal.quantile = 0.6
    logits = logits_of([[0.4, 0.45, 0.15], [0.3, 0.3, 0.4], [0.34, 0.33, 0.33]])
    assert conformal.predict(logits, ABC) == [["b", "a"], ["c"], []]
    found = set_statistics(conformal.mask(logits), ABC, ["a", "b", "c"])
    assert found == {"coverage": pytest.approx(1 / 3), "size": 1.0, "empty": 1 / 3, "single": 1 / 3}


def labelled(count, seed):
    """Posts whose labels are drawn by probabilities that a model knows."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(count, 5)) * 1.5
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    drawn = [generator.choice(5, p=row) for row in probs]
    return logits, [f"label {column}" for column in drawn]


@pytest.mark.parametrize("score", ["lac", "aps"])
@pytest.mark.parametrize("coverage", [0.6, 0.9])
def test_exchangeable_posts_are_covered_as_stated(score, coverage):
    labels = [f"label {column}" for column in range(5)]
    logits, references = labelled(4000, 0)
    found = []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(references))
        first, second = order[:2000], order[2000:]
        conformal = SplitConformal(coverage, score, seed).fit(
            logits[first], labels, [references[row] for row in first]
        )
        found.append(set_statistics(conformal.mask(logits[second]), labels, [references[row] for row in second]))
    assert np.mean([one["coverage"] for one in found]) == pytest.approx(coverage, abs=0.01)
    # Not by sets that hold everything.
    assert np.mean([one["size"] for one in found]) < 4


def test_lac_sets_are_those_of_the_pipeline_with_its_threshold():
    model, processor = scratch_model()
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    typing = [post for post in posts() if "mention" in post and "candidate_labels" not in post]
    rankings = pipe(typing, candidate_labels=LABELS, function_to_apply="none")
    logits = np.array(
        [[{entry["label"]: entry["score"] for entry in one}[name] for name in LABELS] for one in rankings]
    )
    conformal = SplitConformal(0.9)
    conformal.quantile = 0.7
    answers = pipe(typing, candidate_labels=LABELS, threshold=conformal.threshold)
    assert conformal.predict(logits, LABELS) == [[entry["label"] for entry in one] for one in answers]


def test_errors():
    with pytest.raises(ValueError, match="coverage must be between 0 and 1, got 1"):
        SplitConformal(1)
    with pytest.raises(ValueError, match="score must be one of lac, aps, got 'raps'"):
        SplitConformal(score="raps")
    with pytest.raises(ValueError, match="fit must come before predict"):
        SplitConformal().predict(np.zeros((1, 2)), ["a", "b"])
    with pytest.raises(ValueError, match=r"references must be among the labels, got others: \['c'\]"):
        SplitConformal().fit(np.zeros((1, 2)), ["a", "b"], ["c"])
    with pytest.raises(ValueError, match=r"logits must be \(1, 2\), got \(2, 2\)"):
        SplitConformal().fit(np.zeros((2, 2)), ["a", "b"], ["a"])
    with pytest.raises(ValueError, match="without NaN"):
        SplitConformal().fit(np.full((1, 2), np.nan), ["a", "b"], ["a"])
    with pytest.raises(ValueError, match='threshold: it is that of a fitted score="lac"'):
        SplitConformal(score="aps").fit(np.zeros((9, 2)), ["a", "b"], ["a"] * 9).threshold  # noqa: B018
