"""Label propagation over the nearest posts: worked by hand, against a plain loop, and with a model."""

import pytest
import torch
import torch.nn.functional as F

from modeling_mgvmoe.extraction import extract
from modeling_mgvmoe.inference.predict import ModelScorer
from modeling_mgvmoe.pipeline_mgvmoe import MultimodalGraphExtractionPipeline, ZeroShotMultimodalIEPipeline
from modeling_mgvmoe.sample_graph import nearest_neighbors, propagate_labels

from ..support.from_scratch import scratch_similarity

pytestmark = pytest.mark.numerical


def test_by_hand():
    # Posts 0 and 1 point the same way, post 2 the other way: it has no neighbour with a positive cosine.
    nodes = torch.tensor([[2.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    probs = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
    found = propagate_labels(probs, nodes, k=1, share=0.25)
    expected = torch.tensor([[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_two_posts_may_share_all_they_have():
    probs = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    found = propagate_labels(probs, torch.ones(2, 3, dtype=torch.float64), share=1.0)
    torch.testing.assert_close(found, probs.flip(0), rtol=0, atol=1e-12)


def test_equals_a_plain_loop(monkeypatch):
    monkeypatch.setattr("modeling_mgvmoe.sample_graph.ROWS_AT_ONCE", 4)
    nodes, probs = torch.randn(11, 5).double(), torch.rand(11, 3).double().softmax(-1)
    found = propagate_labels(probs, nodes, k=4, share=0.6)
    cosines = F.normalize(nodes, dim=-1) @ F.normalize(nodes, dim=-1).T
    for post in range(11):
        others = sorted((other for other in range(11) if other != post), key=lambda other: -cosines[post, other])[:4]
        weights = torch.tensor([max(float(cosines[post, other]), 0.0) for other in others]).double()
        around = (weights / weights.sum()) @ probs[others] if weights.sum() > 0 else probs[post]
        torch.testing.assert_close(found[post], 0.4 * probs[post] + 0.6 * around, rtol=0, atol=1e-7)


def test_posts_of_one_group_share_nothing():
    nodes = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.8, 0.6], [0.7, 0.7]], dtype=torch.float64)
    probs = torch.eye(4, dtype=torch.float64)
    found = propagate_labels(probs, nodes, k=1, share=0.25, groups=torch.tensor([5, 5, 2, 3]))
    # The first two are nearest to each other, and the third is the nearest of the others.
    nearest = torch.tensor([2, 2, 3, 2])
    torch.testing.assert_close(found, 0.75 * probs + 0.25 * probs[nearest], rtol=0, atol=1e-12)
    assert torch.equal(propagate_labels(probs[:2], nodes[:2], groups=torch.tensor([0, 0])), probs[:2])


def test_a_pair_does_not_share_with_itself_turned_round():
    model, processor = scratch_similarity(torch.double)
    relations = ["greets", "chases", "teaches"]
    post = {"text": "Kelo greets Mura", "mentions": [[0, 4], [12, 16]]}
    alone = extract(model, [post], relation_labels=relations, processor=processor)
    shared = extract(model, [post], relation_labels=relations, processor=processor, num_neighbors=3)
    for own, other in zip(shared[0]["relations"], alone[0]["relations"], strict=True):
        assert own["label"] == other["label"] and own["score"] == pytest.approx(other["score"], abs=1e-9)
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    both = [{"text": post["text"], "mentions": order} for order in (post["mentions"], post["mentions"][::-1])]
    expected = pipe(both, candidate_labels=relations)
    found = pipe(both, candidate_labels=relations, num_neighbors=3)
    for own, other in zip(found, expected, strict=True):
        assert [one["score"] for one in own] == pytest.approx([one["score"] for one in other], abs=1e-9)
    logits = ModelScorer(model, processor, num_neighbors=3)(
        [{**own, "id": "", "label": ""} for own in both], relations
    )
    for own, ranking in zip(torch.from_numpy(logits).softmax(-1).tolist(), expected, strict=True):
        assert sorted(own) == pytest.approx(sorted(one["score"] for one in ranking), abs=1e-6)
    many = pipe([*both, {"text": "Mura chases Kelo", "mentions": [[0, 4], [12, 16]]}], relations, num_neighbors=3)
    assert [one["score"] for one in many[0]] != pytest.approx([one["score"] for one in expected[0]], abs=1e-4)


def test_what_changes_nothing():
    probs, nodes = torch.rand(3, 2), torch.randn(3, 4)
    assert propagate_labels(probs, nodes, share=0.0) is probs
    assert torch.equal(propagate_labels(probs[:1], nodes[:1]), probs[:1])
    assert nearest_neighbors(nodes, k=50)[0].shape == (2, 6)


@pytest.mark.parametrize(
    ("changes", "name"), [({"k": 0}, "k"), ({"share": 1.5}, "share"), ({"nodes": torch.zeros(2, 1)}, "nodes")]
)
def test_refusals(changes, name):
    with pytest.raises(ValueError, match=name):
        propagate_labels(**{"probs": torch.rand(3, 2), "nodes": torch.randn(3, 4), **changes})


LABELS = ["boat", "bird", "cake"]
TEXTS = ["Kelo sails at dawn", "Kelo sings at noon", "Kelo is sweet", "Kelo flies home", "Kelo is baked"]
POSTS = [{"id": str(number), "text": text, "mentions": [[0, 4]]} for number, text in enumerate(TEXTS)]


def scores_of(found):
    return [[one[name] for name in LABELS] for one in ({e["label"]: e["score"] for e in own} for own in found)]


def test_pipeline_extraction_and_evaluation_share_alike():
    model, processor = scratch_similarity(torch.double)
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    alone = torch.tensor(scores_of(pipe(POSTS, candidate_labels=LABELS)), dtype=torch.float64)
    more = {"mentions": [0, 4], "candidate_labels": LABELS, "return_tensors": "pt"}
    inputs = [processor(text=post["text"], **more) for post in POSTS]
    nodes = torch.cat([model(**one).mention_embeds.detach() for one in inputs])
    expected = propagate_labels(alone, nodes, 2)
    assert (expected - alone).abs().max() > 1e-4
    shared = pipe(POSTS, candidate_labels=LABELS, num_neighbors=2, batch_size=2)
    assert all(one[0]["score"] >= one[1]["score"] >= one[2]["score"] for one in shared)
    torch.testing.assert_close(torch.tensor(scores_of(shared), dtype=torch.float64), expected, rtol=0, atol=1e-9)
    graphs = extract(model, POSTS, LABELS, processor=processor, num_neighbors=2)
    found = scores_of([graph["mentions"][0]["scores"] for graph in graphs])
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, rtol=0, atol=1e-9)
    logits = torch.from_numpy(ModelScorer(model, processor, num_neighbors=2)(POSTS, LABELS))
    # Nodes are kept in single precision there.
    torch.testing.assert_close(logits.softmax(-1), expected, rtol=0, atol=1e-6)


def test_a_probability_of_nothing_has_a_logarithm(monkeypatch):
    model, processor = scratch_similarity(torch.double)
    shared = torch.tensor([[1.0, 0.0, 0.0]] * len(POSTS), dtype=torch.float64)
    monkeypatch.setattr("modeling_mgvmoe.inference.predict.propagate_labels", lambda *given, **groups: shared)
    logits = ModelScorer(model, processor, num_neighbors=2)(POSTS, LABELS)
    assert torch.from_numpy(logits).isfinite().all()


def test_posts_share_with_those_of_the_same_candidates_only():
    model, processor = scratch_similarity(torch.double)
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor, num_neighbors=3)
    other = {**POSTS[0], "candidate_labels": ["boat", "tree"]}
    broken = {"text": "Kelo", "mentions": [[0, 9]]}
    found = pipe([other, broken, *POSTS], candidate_labels=LABELS, errors="return")
    assert found[0] == pipe(other, candidate_labels=LABELS, num_neighbors=0)
    assert "error" in found[1] and found[2:] == pipe(POSTS, candidate_labels=LABELS)


def test_defaults_of_the_construction_are_checked_with_the_call():
    model, processor = scratch_similarity(torch.double)
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor, num_neighbors=2)
    expected = pipe(POSTS, candidate_labels=LABELS)
    assert pipe(POSTS, candidate_labels=LABELS, num_neighbors=None) == expected
    for wrong in (
        {"num_samples": 2},
        {"function_to_apply": "sigmoid"},
        {"reject_by": "logit", "threshold": 1.0},
        {"label_separator": ">"},
    ):
        with pytest.raises(ValueError, match="num_neighbors"):
            pipe(POSTS, candidate_labels=LABELS, **wrong)


def test_the_graph_pipeline_needs_a_batch_to_share_in():
    model, processor = scratch_similarity(torch.double)
    pipe = MultimodalGraphExtractionPipeline(model=model, processor=processor)
    expected = extract(model, POSTS, LABELS, processor=processor, num_neighbors=2)
    found = pipe(POSTS, typing_labels=LABELS, num_neighbors=2, batch_size=len(POSTS))
    for own, other in zip(found, expected, strict=True):
        assert own["mentions"][0]["score"] == pytest.approx(other["mentions"][0]["score"], abs=1e-9)
    with pytest.warns(UserWarning, match="num_neighbors.*batch_size"):
        alone = pipe(POSTS, typing_labels=LABELS, num_neighbors=2)
    assert alone[0]["mentions"][0]["score"] != pytest.approx(expected[0]["mentions"][0]["score"], abs=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_neighbors": -1},
        {"num_neighbors": True},
        {"num_neighbors": 1, "num_samples": 2},
        {"num_neighbors": 1, "threshold": 1.0, "reject_by": "logit"},
    ],
)
def test_no_number_of_neighbors(wrong):
    model, processor = scratch_similarity()
    with pytest.raises(ValueError, match="num_neighbors"):
        extract(model, POSTS, LABELS, processor=processor, **wrong)
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    with pytest.raises(ValueError, match="num_neighbors"):
        pipe(POSTS, candidate_labels=LABELS, **wrong)
    for inputs, more in ((POSTS[0], {}), (iter(POSTS), {}), (POSTS, {"function_to_apply": "sigmoid"})):
        with pytest.raises(ValueError, match="num_neighbors"):
            pipe(inputs, candidate_labels=LABELS, num_neighbors=2, **more)
