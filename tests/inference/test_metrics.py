"""Scores against hand-worked numbers and against scikit-learn; the metric for `evaluate` without network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modeling_mgvmoe.inference.metrics import (
    accuracy,
    confusion_matrix,
    expected_calibration_error,
    fit_rejection_threshold,
    generalised_scores,
    harmonic_mean,
    macro_f1,
    majority_accuracy,
    majority_label,
    per_class_scores,
    precision_recall_f1,
    rejection_auroc,
    rejection_f1,
    rejection_scores,
)

ROOT = Path(__file__).resolve().parents[2]
# a: TP 2, FP 1, FN 1; b: TP 1, FP 2, FN 1; c: TP 1, FP 0, FN 1.
REFERENCES = ["a", "a", "a", "b", "b", "c", "c"]
PREDICTIONS = ["a", "a", "b", "b", "a", "b", "c"]


def test_hand_worked():
    assert accuracy(PREDICTIONS, REFERENCES) == 4 / 7
    scores = per_class_scores(PREDICTIONS, REFERENCES, ["a", "b", "c", "d"])
    assert scores["a"] == {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3}
    # 2 TP / (2 TP + FP + FN) = 2 / 5
    assert scores["b"] == {"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5, "support": 2}
    assert scores["c"] == {"precision": 1.0, "recall": 1 / 2, "f1": 2 / 3, "support": 2}
    # Neither predicted nor there.
    assert scores["d"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    macro = precision_recall_f1(PREDICTIONS, REFERENCES, ["a", "b", "c"])
    assert macro["precision"] == pytest.approx((2 / 3 + 1 / 3 + 1) / 3)
    assert macro["recall"] == pytest.approx((2 / 3 + 1 / 2 + 1 / 2) / 3)
    assert macro["f1"] == pytest.approx((2 / 3 + 2 / 5 + 2 / 3) / 3)
    assert macro["f1"] == macro_f1(PREDICTIONS, REFERENCES, ["a", "b", "c"])
    weighted = precision_recall_f1(PREDICTIONS, REFERENCES, ["a", "b", "c"], "weighted")
    assert weighted["precision"] == pytest.approx((3 * 2 / 3 + 2 * 1 / 3 + 2 * 1) / 7)
    # A wrong answer is one FP and one FN: all three are the accuracy.
    micro = precision_recall_f1(PREDICTIONS, REFERENCES, ["a", "b", "c"], "micro")
    assert micro == {"precision": 4 / 7, "recall": 4 / 7, "f1": 4 / 7}
    counts = confusion_matrix(PREDICTIONS, REFERENCES, ["a", "b", "c"])
    assert counts.tolist() == [[2, 1, 0], [1, 1, 0], [0, 1, 1]] and counts.dtype == np.int64
    assert majority_accuracy(REFERENCES) == 3 / 7 and majority_label(["b", "a", "a", "b"]) == "b"


def test_subset_of_the_labels():
    # Over a and b only: TP 3, FP 3, FN 2.
    micro = precision_recall_f1(PREDICTIONS, REFERENCES, ["a", "b"], "micro")
    assert micro == {"precision": 3 / 6, "recall": 3 / 5, "f1": 6 / 11}


@pytest.mark.parametrize(("seed", "decimals"), [(0, 0), (1, 1), (2, 8)])
def test_the_fitted_threshold_is_the_best(seed, decimals):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.random(50), decimals)  # few decimals make ties
    known = rng.random(50) < 0.6
    # No threshold at all is better than the fitted one.
    best = rejection_f1(scores, known, fit_rejection_threshold(scores, known))
    everywhere = [*scores, *np.nextafter(scores, 2)]
    assert best == max(rejection_f1(scores, known, threshold) for threshold in everywhere)


def test_rejection_hand_worked():
    scores, known = [0.9, 0.8, 0.4, 0.4, 0.1], [True, True, True, False, False]
    # Of 3 x 2 pairs five are in order and one, 0.4 and 0.4, is tied.
    assert rejection_auroc(scores, known) == 5.5 / 6
    assert rejection_auroc([1, 1, 1], [True, False, True]) == 0.5
    # Below 0.4: one rejected, right: P 1, R 1/2, F1 2/3. Below 0.6: three, two of them right: F1 4/5. The best.
    assert rejection_f1(scores, known, 0.4) == pytest.approx(2 / 3)
    assert fit_rejection_threshold(scores, known) == pytest.approx(0.6)
    assert rejection_scores(scores, known, 0.6) == {
        "accuracy": 0.8, "precision": pytest.approx(2 / 3), "recall": 1.0, "f1": 0.8,
    }  # fmt: skip


def test_fitted_thresholds_at_the_edges():
    # All are without a class: rejecting all is best, with a threshold above every score.
    threshold = fit_rejection_threshold([0.2, 1.0], [False, False])
    assert threshold > 1.0 and np.isfinite(threshold) and rejection_f1([0.2, 1.0], [False, False], threshold) == 1
    # One score for all: reject all or none; all has F1 2/3.
    assert rejection_f1([0.5, 0.5], [True, False], fit_rejection_threshold([0.5, 0.5], [True, False])) == 2 / 3
    # Neighbouring numbers have none between them.
    low, high = 0.5, np.nextafter(0.5, 1)
    assert fit_rejection_threshold([low, high], [False, True]) == high
    # Two equally good: reject 0.1 (F1 2/3) or all (F1 4/6): the lower.
    assert fit_rejection_threshold([0.1, 0.5, 0.6, 0.7], [False, True, True, False]) == pytest.approx(0.3)


def test_expected_calibration_error_hand_worked():
    # Two bins. (0, 0.5]: 0.5 and 0.3, one right: |1/2 - 0.4| x 2/4. (0.5, 1]: 0.9 and 0.7, both: |1 - 0.8| x 2/4.
    found = expected_calibration_error([0.5, 0.3, 0.9, 0.7], [True, False, True, True], num_bins=2)
    assert found == pytest.approx(0.05 + 0.1)
    # A bound belongs to the bin below it: 0.5 alone below, 0.6 alone above.
    assert expected_calibration_error([0.5, 0.6], [True, False], 2) == pytest.approx((0.5 + 0.6) / 2)
    # In one bin errors cancel; a confidence of 0 is in the first bin.
    assert expected_calibration_error([0.0, 1.0], [True, False], 1) == 0.0
    assert expected_calibration_error([0.0, 1.0], [True, False], 2) == 1.0
    assert expected_calibration_error([1.0 + 1e-7], [True], 15) == pytest.approx(0, abs=1e-6)


def test_a_confidence_may_exceed_1_by_a_millionth():
    assert expected_calibration_error([1 + 1e-6], [True]) == pytest.approx(1e-6)
    with pytest.raises(ValueError, match="lie in"):
        expected_calibration_error([1 + 1.5e-6], [True])


def test_numbers_of_few_bits_are_worked_with_in_double_precision():
    low = np.float16(0.3)
    assert expected_calibration_error(np.array([low]), [True]) == 1 - float(low)
    # Below 0 bytes begin again at 255.
    scores = np.array([0, 1, 2], dtype=np.uint8)
    assert rejection_auroc(scores, [False, False, True]) == 1
    # Truths may be 0 and 1.
    assert rejection_auroc([0.1, 0.9, 0.8], [0, 1, 1]) == 1
    assert rejection_f1([0.1, 0.9, 0.8], [0.0, 1.0, 1.0], 0.5) == 1


def test_expected_calibration_error_in_every_bin_by_hand():
    rng = np.random.default_rng(0)
    confidences, right = rng.random(500), rng.random(500) < 0.5
    total = 0.0
    for number in range(10):
        inside = (confidences > number / 10) & (confidences <= (number + 1) / 10)
        if inside.any():
            total += inside.sum() / 500 * abs(right[inside].mean() - confidences[inside].mean())
    assert expected_calibration_error(confidences, right, 10) == pytest.approx(total)


def test_harmonic_mean():
    assert harmonic_mean(0.5, 0.25) == pytest.approx(1 / 3) and harmonic_mean(0.5, 0.5) == 0.5
    assert harmonic_mean(0, 0.7) == harmonic_mean(0, 0) == 0
    with pytest.raises(ValueError, match="must not be negative, got -1 and 1"):
        harmonic_mean(-1, 1)


def test_generalised_hand_worked():
    # Seen a: 2 of 3 right. Unseen u: 1 of 2; v: 0 of 1, taken for a.
    references = ["a", "a", "a", "u", "u", "v"]
    predictions = ["a", "a", "u", "u", "v", "a"]
    scores = generalised_scores(predictions, references, ["a", "b"], ["u", "v"])
    # b has no post: 0. a: TP 2, FP 1, FN 1. u: TP 1, FP 1, FN 1. v: 0.
    assert scores["seen"] == {"accuracy": pytest.approx(2 / 3), "macro_f1": pytest.approx((4 / 6 + 0) / 2)}
    assert scores["unseen"] == {"accuracy": pytest.approx(1 / 3), "macro_f1": pytest.approx((2 / 4 + 0) / 2)}
    # 2 (2/3)(1/3) / 1; 2 (1/3)(1/4) / (7/12)
    assert scores["harmonic"] == {"accuracy": pytest.approx(4 / 9), "macro_f1": pytest.approx(2 / 7)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy([], []), "equally long and not empty, got 0 and 0"),
        (lambda: accuracy(["a"], []), "got 1 and 0"),
        (lambda: accuracy("ab", "ab"), "must be sequences of labels, got a string"),
        (lambda: accuracy("ab", ["a", "b"]), "got a string"),
        (lambda: accuracy(["a", "b"], "ab"), "got a string"),
        (lambda: macro_f1(["a"], ["a", "a"], ["a"]), "equally long and not empty, got 1 and 2"),
        (lambda: confusion_matrix(["a"], ["a", "a"], ["a"]), "equally long and not empty, got 1 and 2"),
        (lambda: generalised_scores(["u"], ["u", "a"], ["a"], ["u"]), "equally long and not empty, got 1 and 2"),
        (lambda: macro_f1(["a"], ["a"], "a"), "labels must be one or more different labels"),
        (lambda: harmonic_mean(-0.1, 0.5), "must not be negative, got -0.1 and 0.5"),
        (lambda: harmonic_mean(0.5, -0.1), "must not be negative, got 0.5 and -0.1"),
        (lambda: rejection_auroc([0.1, 0.2], [False, False]), "both kinds, got 0 true and 2 false"),
        (lambda: rejection_auroc([[0.1, 0.2]], [[True, False]]), "equally long"),
        (lambda: rejection_auroc([0.1], [True, False]), "equally long"),
        (lambda: fit_rejection_threshold([float("inf"), 0.2], [True, False]), "must be finite"),
        (lambda: expected_calibration_error([[0.2]], [[True]]), "equally long"),
        (lambda: expected_calibration_error([0.2], [True, False]), "equally long"),
        (lambda: expected_calibration_error([-0.1], [True]), "lie in"),
        (lambda: expected_calibration_error([1 + 1e-5], [True]), "lie in"),
        (lambda: generalised_scores(["a"], ["u"], ["a"], ["u"]), "posts of seen classes are needed, got none"),
        (lambda: generalised_scores(["a"], ["a"], [], ["u"]), "seen must be one or more"),
        (lambda: generalised_scores(["a"], ["a"], ["a"], []), "unseen must be one or more"),
        (lambda: majority_accuracy([]), "not empty"),
        (lambda: macro_f1(["a"], ["a"], []), "labels must be one or more different labels"),
        (lambda: macro_f1(["a"], ["a"], ["a", "a"]), "different labels, got"),
        (lambda: precision_recall_f1(["a"], ["a"], ["a"], "mean"), "one of macro, micro, weighted, got 'mean'"),
        (lambda: confusion_matrix(["a"], ["b"], ["a"]), r"got others: \['b'\]"),
        (lambda: rejection_auroc([0.1], [True]), "both kinds, got 1 true and 0 false"),
        (lambda: rejection_auroc([], []), r"not empty, got shapes \(0,\)"),
        (lambda: rejection_auroc([float("nan"), 1], [True, False]), "got NaN in 1 places"),
        (lambda: rejection_f1([1.0], [2], 0.5), r"true and false, got \[2\]"),
        (lambda: rejection_f1([1.0], [True], float("nan")), "threshold must be a number"),
        (lambda: fit_rejection_threshold([0.1, 0.2], [True, True]), "posts without a class, got 2 times true"),
        (lambda: expected_calibration_error([], []), "not empty"),
        (lambda: expected_calibration_error([1.2], [True]), r"lie in \[0, 1\], got 1.2"),
        (lambda: expected_calibration_error([0.2], [True], 0), "num_bins must be at least 1, got 0"),
        (lambda: generalised_scores(["a"], ["a"], ["a"], ["u"]), "posts of unseen classes are needed, got none"),
        (lambda: generalised_scores(["a"], ["a"], ["a"], ["a"]), r"share no class, got \['a'\]"),
        (lambda: generalised_scores(["a"], ["x"], ["a"], ["u"]), r"got others: \['x'\]"),
    ],
)
def test_what_is_not_defined_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


OFFLINE = """
import json, os, sys
import evaluate
from modeling_mgvmoe.evaluation import load_metric
from modeling_mgvmoe.evaluation.zero_shot_metric.zero_shot_metric import ZeroShotMetric

references, predictions = json.loads(sys.argv[2])
found = []
for metric in (evaluate.load(sys.argv[1]), load_metric(), ZeroShotMetric()):
    found.append(metric.compute(predictions=predictions, references=references, per_class=True))
parts = load_metric()
for prediction, reference in zip(predictions, references):
    parts.add(prediction=prediction, reference=reference)
found.append(parts.compute(per_class=True))
found.append(load_metric().compute(
    predictions=predictions, references=references, labels=["a", "b"], seen_labels=["a"], confidences=[0.5] * 7))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_metric_loads_offline(tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    folder = ROOT / "modeling_mgvmoe" / "evaluation" / "zero_shot_metric"
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(folder), json.dumps([REFERENCES, PREDICTIONS])],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    *same, other = json.loads(done.stdout.strip().splitlines()[-1])
    labels = ["a", "b", "c"]
    expected = {"accuracy": 4 / 7, "per_class": per_class_scores(PREDICTIONS, REFERENCES, labels)}
    for average in ("macro", "micro", "weighted"):
        values = precision_recall_f1(PREDICTIONS, REFERENCES, labels, average)
        expected |= {f"{average}_{name}": value for name, value in values.items()}
    assert len(same) == 4 and all(scores == expected for scores in same)
    # b and c are unseen. Accuracy of a: 2 of 3; of b and c: 2 of 4.
    assert (other["seen_accuracy"], other["unseen_accuracy"]) == (2 / 3, 1 / 2)
    assert other["harmonic_accuracy"] == pytest.approx(harmonic_mean(2 / 3, 1 / 2))
    assert other["expected_calibration_error"] == pytest.approx(4 / 7 - 1 / 2)
    assert other["macro_f1"] == pytest.approx((2 / 3 + 2 / 5) / 2)


def test_a_threshold_is_not_below_itself():
    # 0.5 is kept, 0.4 rejected; right are 0.4 (no class) and 0.5 (known), wrong 0.6 (no class).
    scores = rejection_scores([0.4, 0.5, 0.6], [False, True, False], 0.5)
    assert scores == pytest.approx({"accuracy": 2 / 3, "precision": 1.0, "recall": 0.5, "f1": 2 / 3})


def test_a_threshold_that_rejects_nothing_is_the_lowest_score():
    # Rejecting 0.1 alone is wrong (F1 0), both 0.1 and 0.2 right once: F1 2/3; the threshold lies above both.
    threshold = fit_rejection_threshold([0.1, 0.2], [True, False])
    assert threshold == np.nextafter(0.2, np.inf)
    # Half way between 1 and 4.
    assert fit_rejection_threshold([1.0, 4.0], [False, True]) == 2.5


def test_calibration_has_15_bins_unless_it_is_given():
    # 14/15 parts 0.93 and 0.935; 15/16 does not, and their errors nearly cancel.
    assert expected_calibration_error([0.93, 0.935], [True, False]) == pytest.approx((0.07 + 0.935) / 2)
    assert expected_calibration_error([0.93, 0.935], [True, False], 16) == pytest.approx((0.935 - 0.07) / 2)
    assert expected_calibration_error([0.3, 0.9], [1, 0], 1) == pytest.approx(abs(0.5 - 0.6))


def test_metrics_by_hand():
    references = ["a", "a", "a", "b", "b", "c"]
    predictions = ["a", "a", "b", "b", "d", "a"]
    assert accuracy(predictions, references) == 3 / 6
    # a: 2 right of 3 predicted and 3 actual: 4/6. b: 1 of 2 and 2: 2/4. c: 0 of 0 and 1. d: 0 of 1 and 0.
    assert macro_f1(predictions, references, ["a", "b", "c", "d"]) == pytest.approx((4 / 6 + 2 / 4) / 4)
    assert macro_f1(predictions, references, ["a", "b"]) == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert majority_accuracy(references) == 3 / 6


def test_metrics_need_as_many_predictions_as_references():
    for pair in ((["a"], ["a", "b"]), ([], [])):
        with pytest.raises(ValueError, match="equally long and not empty, got"):
            accuracy(*pair)
        with pytest.raises(ValueError, match="equally long and not empty, got"):
            macro_f1(*pair, ["a"])


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
