import pytest

from modeling_mgvmoe.inference.predict import (
    score_predictions,
)


def test_scores_by_task():
    posts = [{"task": task, "label": label} for task, label in (("typing", "a"), ("typing", "b"), ("relation", "c"))]
    found = score_predictions(posts, ["a", "a", "c"], {"typing": ["a", "b"], "relation": ["c", "d", "e", "f"]})
    assert found["typing"] == {
        "n": 2,
        "accuracy": 0.5,
        "macro_f1": pytest.approx(1 / 3),
        "chance": 0.5,
        "majority": 0.5,
    }
    assert found["relation"] == {"n": 1, "accuracy": 1.0, "macro_f1": 0.25, "chance": 0.25, "majority": 1.0}
    assert set(score_predictions(posts[:2], ["a", "b"], {"typing": ["a", "b"], "relation": ["c"]})) == {"typing"}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
