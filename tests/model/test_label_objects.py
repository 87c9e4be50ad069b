"""`Label` objects say the same as the loose arguments, wherever candidate labels are taken."""

import json

import numpy as np
import pytest
import torch

from modeling_mgvmoe import Label, MultimodalGraphExtractionPipeline, ZeroShotMultimodalIEPipeline
from modeling_mgvmoe.evaluation.explanation import explain_post
from modeling_mgvmoe.handler import EndpointHandler
from modeling_mgvmoe.labels import plain_labels
from tests.support.from_scratch import LABELS, POSTS, RELATIONS, nearly, posts, scratch_similarity

DESCRIPTIONS = {"greets": ["says hello to", "waves at"], "boat": "it sails"}
TYPES = {"greets": (["bird", "robot"], ["bird"]), "chases": (["robot"], ["cake"])}
OBJECTS = [
    Label("greets", DESCRIPTIONS["greets"], ["bird", "robot"], "bird", inverse="is greeted by"),
    Label("chases", head_types="robot", tail_types=["cake"]),
    "teaches",
]
PAIR = posts()[2]


@pytest.fixture(scope="module")
def parts():
    return scratch_similarity(torch.double)


def as_json(label):
    return {name: value for name, value in vars(label).items() if value} if isinstance(label, Label) else label


def test_fields_are_read_and_frozen():
    label = Label("parent of", "one raised the other ", ["person"], "person", inverse="child of")
    assert (label.descriptions, label.head_types, label.tail_types) == (
        ("one raised the other",), ("person",), ("person",),
    )  # fmt: skip
    assert not label.is_symmetric and Label("married to", inverse="married to ").is_symmetric
    assert Label("boat").descriptions == () and hash(label) == hash(Label(**vars(label)))
    with pytest.raises(AttributeError):
        label.name = "boat"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": " "}, "Label.name"),
        ({"name": 3}, "Label.name"),
        ({"name": "a", "descriptions": ""}, r"Label\('a'\).descriptions"),
        ({"name": "a", "descriptions": ["x", "x "]}, r"Label\('a'\).descriptions"),
        ({"name": "a", "descriptions": {"x": "y"}}, r"Label\('a'\).descriptions"),
        ({"name": "a", "head_types": "person"}, r"Label\('a'\).tail_types"),
        ({"name": "a", "tail_types": "person"}, r"Label\('a'\).head_types"),
        ({"name": "a", "head_types": [3], "tail_types": "b"}, r"Label\('a'\).head_types"),
        ({"name": "a", "inverse": " "}, r"Label\('a'\).inverse"),
        ({"name": "a", "inverse": 3}, r"Label\('a'\).inverse"),
    ],
)
def test_wrong_fields(fields, named):
    with pytest.raises(ValueError, match=named):
        Label(**fields)


def test_taken_apart():
    plain = plain_labels(OBJECTS, {"teaches": "x"})
    assert plain.labels == RELATIONS and plain.inverses == {"greets": "is greeted by"}
    assert plain.descriptions == {"teaches": "x", "greets": DESCRIPTIONS["greets"]}
    assert plain.types == {"greets": (["bird", "robot"], ["bird"]), "chases": (["robot"], ["cake"])}
    # Without an object nothing is touched.
    for given in (RELATIONS, np.array(RELATIONS), [RELATIONS, LABELS], "boat", None):
        assert plain_labels(given).labels is given
    assert plain_labels([OBJECTS, ["boat"], OBJECTS[:1]]).labels == [RELATIONS, ["boat"], ["greets"]]
    assert plain_labels(json.loads(json.dumps([as_json(label) for label in OBJECTS]))) == plain_labels(OBJECTS)
    assert plain_labels(np.array(OBJECTS, dtype=object)) == plain_labels(OBJECTS)


@pytest.mark.parametrize(
    ("labels", "loose", "named"),
    [
        ([Label("a"), "b"], {"label_descriptions": {"a ": "x"}}, "label_descriptions: .*'a'.*Label.*candidate_labels"),
        ([Label("a"), "b"], {"label_types": {"a": ("x", "y")}}, "label_types: .*'a'.*Label.*candidate_labels"),
        ([[Label("a")], [Label("a", "x")]], {}, r"candidate_labels\[1\]"),
        ([[Label("a", "x")], ["a"]], {}, "candidate_labels.*'a'"),
        ([{"name": "a", "description": "x"}], {}, "candidate_labels: .*descriptions"),
        ([{"descriptions": "x"}], {}, "candidate_labels: .*'name'"),
        ([Label("a"), Label("a")], {}, "candidate_labels: labels must be distinct"),
    ],
)
def test_what_contradicts_itself(parts, labels, loose, named):
    with pytest.raises(ValueError, match=named):
        parts[1](candidate_labels=labels, **loose)


def test_processor(parts):
    _, processor = parts
    loose = processor(
        candidate_labels=RELATIONS, label_types=TYPES, label_descriptions={"greets": DESCRIPTIONS["greets"]}
    )
    for objects in (OBJECTS, [as_json(label) for label in OBJECTS]):
        assert dict(processor(candidate_labels=objects)) == dict(loose)
        assert dict(processor.encode_candidates(objects)) == dict(loose)
        assert processor.candidate_texts(objects)[0] == tuple(DESCRIPTIONS["greets"])
        ranked = processor.post_process_zero_shot_ie(torch.tensor([[3.0, 2.0, 1.0]]), objects)
        assert [one["label"] for one in ranked[0]] == RELATIONS
    paths = [Label("bird > heron", "a grey bird"), "boat"]
    given = processor(candidate_labels=paths, label_separator=">")
    assert len(given["candidate_input_ids"]) == 3
    both = processor(text=["a b", "a b"], mentions=[(0, 1), (0, 1)], candidate_labels=[OBJECTS, OBJECTS[:2]])
    assert both["candidate_mask"] == [[True] * 3, [True, True, False]]


def test_pipeline_handler_and_explanation(parts):
    model, processor = parts
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    words = {"label_types": TYPES, "label_descriptions": {"greets": DESCRIPTIONS["greets"]}}
    expected = pipe(PAIR, candidate_labels=RELATIONS, **words)
    assert expected != pipe(PAIR, candidate_labels=RELATIONS)
    assert pipe(PAIR, candidate_labels=OBJECTS) == expected
    assert pipe({**PAIR, "candidate_labels": OBJECTS}) == expected
    explained = explain_post(model, processor, PAIR, OBJECTS)
    assert [one["label"] for one in explained.ranking] == [one["label"] for one in expected]
    handler = EndpointHandler.__new__(EndpointHandler)
    handler.pipeline, handler.allow_image_urls = pipe, False
    post = {name: value for name, value in PAIR.items() if name != "image"}
    parameters = json.loads(json.dumps({"candidate_labels": [as_json(label) for label in OBJECTS]}))
    expected = pipe(post, candidate_labels=RELATIONS, **words)
    assert handler({"inputs": post, "parameters": parameters}) == expected
    parameters["label_types"] = TYPES
    assert "label_types" in handler({"inputs": post, "parameters": parameters})["error"]


def test_extraction(parts):
    model, processor = parts
    types = [Label("boat", DESCRIPTIONS["boat"]), *LABELS[1:]]
    expected = model.extract(
        POSTS, LABELS, RELATIONS, processor=processor, label_descriptions=DESCRIPTIONS, label_types=TYPES
    )
    assert model.extract(POSTS, types, OBJECTS, processor=processor) == expected
    pipe = MultimodalGraphExtractionPipeline(model=model, processor=processor)
    assert pipe(POSTS, typing_labels=types, relation_labels=OBJECTS) == nearly(expected)
    with pytest.raises(ValueError, match="label_descriptions: .*'boat'"):
        model.extract(POSTS, types, OBJECTS, processor=processor, label_descriptions=DESCRIPTIONS)
    with pytest.raises(ValueError, match="relation_labels: one label has one Label"):
        model.extract(POSTS, types, [Label("boat")], processor=processor)
