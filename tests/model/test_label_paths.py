import pytest
import torch

from modeling_mgvmoe.labels import LabelPaths
from modeling_mgvmoe.pipeline_mgvmoe import ZeroShotMultimodalIEPipeline
from tests.support.from_scratch import drawing, scratch_model, scratch_similarity

pytestmark = pytest.mark.numerical

LABELS = ["person > politician", "person > singer > tenor", "place"]
POST = {"text": "Kelo sails at dawn", "mention": (0, 4), "image": drawing(1)}


def test_the_tree():
    tree = LabelPaths(LABELS, ">")
    assert tree.names() == ["person", "place", "person > politician", "person > singer", "person > singer > tenor"]


def test_a_path_has_the_product_of_its_levels():
    tree = LabelPaths(LABELS, ">")
    # Softmax of 0 and log 3: 1/4 person, 3/4 place. Of log 2 and 0 below person: 2/3 politician, 1/3 singer. A tenor
    # is alone among his siblings: 1.
    logits = torch.tensor([0.0, torch.tensor(3.0).log(), torch.tensor(2.0).log(), 0.0, 7.0])
    probs = tree.log_probs(logits).exp()
    assert probs.tolist() == pytest.approx([1 / 4 * 2 / 3, 1 / 4 * 1 / 3, 3 / 4])
    sums = tree.sums(probs.tolist())
    assert tree.levels("person > singer > tenor", sums) == [
        {"label": "person", "score": pytest.approx(1 / 4)},
        {"label": "person > singer", "score": pytest.approx(1 / 12)},
        {"label": "person > singer > tenor", "score": pytest.approx(1 / 12)},
    ]
    assert torch.equal(tree.log_probs(logits.expand(2, 5))[1], tree.log_probs(logits))


def test_what_is_read_for_a_node():
    tree = LabelPaths(LABELS, ">")
    read = tree.node_descriptions({"person>singer": "sings", "politician": ["rules", "is elected"], "unused > x": "y"})
    assert read == {
        "person": "person",
        "place": "place",
        "person > politician": ["rules", "is elected"],
        "person > singer": "sings",
        "person > singer > tenor": "tenor",
    }


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["person", "person > singer"], "no path may be the beginning of another \\(got 'person'\\)"),
        (["a > b", "a>b"], "paths must be distinct"),
        (["a > ", "b"], "no part of a path may be empty \\(got 'a > '\\)"),
    ],
)
def test_bad_paths(labels, message):
    with pytest.raises(ValueError, match=message):
        LabelPaths(labels, ">")


@pytest.fixture
def pipe():
    model, processor = scratch_model(torch.double)
    return ZeroShotMultimodalIEPipeline(model=model, processor=processor)


@pytest.mark.parametrize("spelling", ["job>greets", "job  > greets", " job > greets "])
def test_types_of_paths_in_any_spacing(spelling):
    model, processor = scratch_similarity(torch.double)
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    post = {"text": "Kelo greets Mura", "mentions": [(0, 4), (12, 16)]}
    labels = [spelling, "place > chases", "job>teaches"]
    types = {spelling: ("person", "place"), "place>chases": ("place", "person")}
    found = processor.encode_candidates(labels, label_types=types, label_separator=">")
    # The nodes: two roots, without types, and three leaves.
    assert found["candidate_types"] == [
        [[True, True], [True, True]],
        [[True, True], [True, True]],
        [[True, False], [False, True]],
        [[False, True], [True, False]],
        [[True, True], [True, True]],
    ]
    exact = {"job > greets": types[spelling], "place > chases": types["place>chases"]}
    arguments = {"candidate_labels": ["job > greets", *labels[1:]], "label_separator": ">"}
    expected = [one["score"] for one in pipe(post, label_types=exact, **arguments)]
    arguments["candidate_labels"] = labels
    assert [one["score"] for one in pipe(post, label_types=types, **arguments)] == pytest.approx(expected)
    assert [one["score"] for one in pipe(post, **arguments)] != pytest.approx(expected, abs=1e-3)
    graph = model.extract([post], None, labels, processor=processor, label_types=types, label_separator=">")
    assert graph[0]["relations"][0]["scores"][0]["score"] == pytest.approx(expected[0])


def test_the_pipeline_scores_level_by_level(pipe):
    def flat(labels, described=None):
        return {entry["label"]: entry["score"] for entry in pipe(POST, labels, label_descriptions=described)}

    top, below = flat(["person", "place"]), flat(["politician", "singer"])
    found = pipe(POST, candidate_labels=LABELS, label_separator=">")
    scores = {entry["label"]: entry["score"] for entry in found}
    assert scores == pytest.approx(
        {
            "person > politician": top["person"] * below["politician"],
            "person > singer > tenor": top["person"] * below["singer"],
            "place": top["place"],
        },
        abs=1e-9,
    )
    assert sum(scores.values()) == pytest.approx(1)
    assert [entry["score"] for entry in found] == sorted(scores.values(), reverse=True)
    levels = {entry["label"]: entry["levels"] for entry in found}
    assert levels["place"] == [{"label": "place", "score": pytest.approx(top["place"], abs=1e-9)}]
    assert levels["person > politician"][0]["score"] == pytest.approx(top["person"], abs=1e-9)


def test_posts_with_paths_of_their_own_share_a_batch(pipe):
    own = {**POST, "candidate_labels": ["person > singer", "thing > boat", "thing > cake"]}
    options = {"candidate_labels": LABELS, "label_separator": ">"}
    together = pipe([POST, own], batch_size=2, **options)
    for post, ranking in zip([POST, own], together, strict=True):
        alone = {entry["label"]: entry["score"] for entry in pipe(post, **options)}
        assert {entry["label"]: entry["score"] for entry in ranking} == pytest.approx(alone, abs=1e-9)


def test_processor_and_model_alone_agree_with_the_pipeline(pipe):
    lists = [LABELS, ["place > city", "place > river"]]
    inputs = pipe.processor(
        text=[POST["text"]] * 2,
        mentions=[POST["mention"]] * 2,
        images=[POST["image"]] * 2,
        candidate_labels=lists,
        label_separator=">",
        return_tensors="pt",
    )
    with torch.no_grad():
        output = pipe.model(**inputs)
    rankings = pipe.processor.post_process_zero_shot_ie(output, lists, label_separator=">")
    for labels, ranking in zip(lists, rankings, strict=True):
        # The words of two labels may be the same tokens here; which of them is first is up to rounding.
        expected = {entry["label"]: entry for entry in pipe(POST, candidate_labels=labels, label_separator=">")}
        assert {entry["label"]: entry["score"] for entry in ranking} == pytest.approx(
            {label: entry["score"] for label, entry in expected.items()}, abs=1e-9
        )
        for entry in ranking:
            levels = [level["score"] for level in expected[entry["label"]]["levels"]]
            assert [level["score"] for level in entry["levels"]] == pytest.approx(levels, abs=1e-9)


def test_without_a_separator_labels_are_no_paths(pipe):
    assert "levels" not in pipe(POST, candidate_labels=LABELS)[0]


def test_bad_arguments(pipe):
    with pytest.raises(ValueError, match="label_separator: a string that is not blank"):
        pipe(POST, candidate_labels=LABELS, label_separator=" ")
    with pytest.raises(ValueError, match="function_to_apply must be 'softmax'"):
        pipe(POST, candidate_labels=LABELS, label_separator=">", function_to_apply="sigmoid")
