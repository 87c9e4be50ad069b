import numpy as np
import pytest
import torch

from modeling_mgvmoe import Rejection
from modeling_mgvmoe.inference.metrics import confidence, fit_rejection
from modeling_mgvmoe.labels import read_rejection
from tests.support.from_scratch import LABELS, POSTS, RELATIONS, scratch_model


def test_probability_and_logit():
    # The second post fits both labels badly, and one less so: as sure as the first, by a logit of 4 less.
    logits = np.array([[5.0, 3.0], [1.0, -1.0]])
    assert confidence(logits, "probability") == pytest.approx([1 / (1 + np.exp(-2))] * 2)
    assert confidence(logits, "logit").tolist() == [5, 1]
    rejection = fit_rejection(logits, [True, False])
    assert rejection == Rejection(3.0, "logit")
    rows, probability = torch.tensor(logits), 1 / (1 + np.exp(-2))
    assert [rejection.rejects(row, probability) for row in rows] == [False, True]
    assert [Rejection(0.9).rejects(row, probability) for row in rows] == [True, True]
    # What is not open does not count.
    assert rejection.rejects(torch.tensor([-torch.inf, 2.0]), 1.0)


def test_reading():
    assert read_rejection(None, "typing") is None
    assert read_rejection(0.5, "typing") == Rejection(0.5)
    both = {"typing": 0.2, "relation": Rejection(-3.0, "logit")}
    assert read_rejection(both, "relation") == Rejection(-3.0, "logit")
    assert read_rejection({"relation": 0.5}, "typing") is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rejection(0.5, "energy"), "method must be one of probability, logit \\(got 'energy'\\)"),
        (lambda: Rejection("0.5"), "threshold must be a number \\(got '0.5'\\)"),
        (lambda: Rejection(float("nan"), "logit"), "threshold must be a number"),
        (lambda: Rejection(1.5), "a probability between 0 and 1 is needed \\(got 1.5\\)"),
        (lambda: read_rejection("no", "typing"), "a probability between 0 and 1 or a Rejection is needed"),
        (lambda: confidence(np.zeros((1, 1)), "energy"), "method must be one of probability, logit, got 'energy'"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_extraction_by_logit():
    model, processor = scratch_model()
    (free,) = model.extract(POSTS[:1], LABELS, RELATIONS, processor=processor)
    spans = [tuple(span) for span in POSTS[0]["mentions"]]
    same = {"text": POSTS[0]["text"], "images": [POSTS[0]["image"]], "candidate_labels": RELATIONS}
    pairs = [
        processor(mentions=[spans[one["head"]], spans[one["tail"]]], return_tensors="pt", **same)
        for one in free["relations"]
    ]
    with torch.no_grad():
        best = [model(**pair).logits.max().item() for pair in pairs]
    threshold = sorted(best)[2] - 1e-4
    rejection = {"relation": Rejection(threshold, "logit")}
    (found,) = model.extract(POSTS[:1], LABELS, RELATIONS, processor=processor, rejection=rejection)
    kept = [relation for relation, value in zip(free["relations"], best, strict=True) if value >= threshold]
    assert len(kept) == 4 and found["relations"] == kept
    with pytest.raises(ValueError, match="paths have no logits of their own"):
        model.extract(POSTS[:1], LABELS, RELATIONS, processor=processor, rejection=rejection, label_separator=">")
