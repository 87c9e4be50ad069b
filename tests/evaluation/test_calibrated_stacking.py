import numpy as np
import pytest

from modeling_mgvmoe.evaluation.protocols import evaluate_protocol, halves_by_id
from modeling_mgvmoe.inference.metrics import calibrated, fit_gamma, generalised_scores
from tests.support.evaluation_data import by_table, hand_made, make_post

LABELS = ["s", "t", "u", "v"]


def test_gamma_by_hand():
    # Best seen minus best unseen: 3 (right if seen), 1 (right if seen), 2 (unseen), 0.5 (unseen), -1 (unseen).
    logits = np.array([[3, 0, 0, 0], [0, 2, 1, 0], [4, 0, 2, 0], [1, 0, 0.5, 0], [0, 0, 0, 1]], dtype=float)
    references = ["s", "t", "u", "u", "v"]
    # gamma below 0.5: 2/2 and 1/3, harmonic 1/2. 0.5 to 1: 2/2, 2/3: 4/5. 1 to 2: 1/2, 2/3: 4/7. 2 to 3: 1/2, 1: 2/3.
    gamma = fit_gamma(logits, LABELS, references, ["s", "t"])
    assert gamma == 0.75
    answers = [LABELS[column] for column in calibrated(logits, [True, True, False, False], gamma).argmax(-1)]
    assert answers == ["s", "t", "s", "u", "v"]


def test_gamma_is_the_best_of_a_fine_grid():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(200, 4)) + np.array([1.0, 1.0, 0.0, 0.0])
    references = [LABELS[column] for column in generator.integers(0, 4, 200)]
    logits[np.arange(200), [LABELS.index(reference) for reference in references]] += 1

    right, of_seen = np.array(references), np.isin(references, ["s", "t"])

    def harmonic(gamma):
        answers = np.array(LABELS)[calibrated(logits, [1, 1, 0, 0], gamma).argmax(-1)]
        seen, unseen = ((answers == right)[own].mean() for own in (of_seen, ~of_seen))
        return 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0

    gamma = fit_gamma(logits, LABELS, references, ["s", "t"])
    assert harmonic(gamma) == pytest.approx(max(harmonic(value) for value in np.linspace(-5, 5, 2001)))
    assert gamma > 0.3 and harmonic(gamma) > harmonic(0) + 0.01
    answers = [LABELS[column] for column in calibrated(logits, [1, 1, 0, 0], gamma).argmax(-1)]
    scored = generalised_scores(answers, references, ["s", "t"], ["u", "v"])
    assert harmonic(gamma) == pytest.approx(scored["harmonic"]["accuracy"])


def test_without_bias_gamma_is_0():
    logits = np.eye(4) * 5
    assert fit_gamma(logits, LABELS, LABELS, ["s", "t"]) == 0


def test_a_model_that_only_answers_seen_classes_is_turned():
    logits = np.array([[9.0, 0], [9.0, 1]])
    gamma = fit_gamma(logits, ["s", "u"], ["s", "u"], ["s"])
    assert 8 < gamma < 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 3)), ["s", "u"], ["s", "u"], ["s"]), r"logits must be finite and \(2, 2\), .*got \(2, 3\)"),
        ((np.full((2, 2), np.inf), ["s", "u"], ["s", "u"], ["s"]), "logits must be finite"),
        ((np.zeros((2, 2)), ["s", "u"], ["s", "s"], ["s"]), "references must be of seen and of unseen classes, got 2"),
        ((np.zeros((2, 2)), ["s", "u"], ["s", "u"], []), "labels must be of seen and of unseen classes, got 0"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_gamma(*arguments)


def test_the_protocol_fits_on_one_half_and_tests_on_the_other():
    seen = [make_post(number, "s") for number in range(20)]
    fitting, testing = halves_by_id(seen)
    validation, test = [make_post(0, "v"), make_post(1, "v")], [make_post(0, "a"), make_post(1, "b")]
    # Everything is taken for "s": posts of s by 6, all others by 2. Of the half that is tested on one is a little
    # below the gamma of 4 that the other half and validation give.
    table = {post["id"]: {"s": 6.0, "t": 0.0, "v": 0.0, "w": 0.0, "a": 0.0, "b": 0.0} for post in seen}
    table[testing[0]["id"]]["s"] = 3.9
    table |= {post["id"]: {"s": 2.0, "t": 0.0, "v": 0.0, "w": -1.0, "a": 0.0, "b": -1.0} for post in validation}
    table |= {test[0]["id"]: {"s": 2.0, "a": 0.0}, test[1]["id"]: {"s": 2.0, "b": 0.0}}
    calls = []

    def scorer(posts, labels):
        calls.append(([post["id"] for post in posts], tuple(labels)))
        return by_table(table)(posts, labels)

    data = hand_made({"test": test, "seen_test": seen, "validation": validation})
    result = evaluate_protocol("generalised", {"ours": scorer}, data)["typing"]
    asked = {labels: [post for ids, own in calls if own == labels for post in ids] for _, labels in calls}
    assert asked["s", "t", "a", "b"] == [post["id"] for post in [*testing, *test]]
    assert asked["s", "t", "v", "w"] == [post["id"] for post in [*fitting, *validation]]
    ours, count = result.scores["ours"], len(testing)
    assert ours["gamma"] == 4.0
    assert (ours["seen_accuracy"], ours["unseen_accuracy"], ours["harmonic_accuracy"]) == (1, 0, 0)
    share = (count - 1) / count
    assert (ours["calibrated_seen_accuracy"], ours["calibrated_unseen_accuracy"]) == (share, 1)
    assert ours["calibrated_harmonic_accuracy"] == pytest.approx(2 * share / (1 + share))
    assert 0 < ours["calibrated_harmonic_macro_f1"] < 1
    assert result.counts["posts of seen classes"] == count
    assert result.counts["gamma fitted on: posts of seen classes"] == 20 - count
    assert result.counts["gamma fitted on: candidates"] == 4
    # The table shows it.
    from modeling_mgvmoe.evaluation.report import seed_table

    assert "accuracy harmonic, calibrated" in seed_table({0: result}) and "| 4.000 |" in seed_table({0: result})


def test_too_few_held_out_posts():
    data = hand_made(
        {"test": [make_post(0, "a")], "seen_test": [make_post(0, "s")], "validation": [make_post(0, "v")]}
    )
    with pytest.raises(ValueError, match="the held-out typing posts of seen classes into two halves"):
        evaluate_protocol("generalised", {"ours": by_table({})}, data)
