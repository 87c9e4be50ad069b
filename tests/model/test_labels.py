import math
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset

from modeling_mgvmoe import MGVMoEProcessor, ZeroShotMultimodalIEPipeline
from modeling_mgvmoe.labels import check_label_words, check_labels, label_texts, rank_labels, read_labels
from tests.support.from_scratch import scratch_model


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], r"candidate_labels: a non-empty list of labels is needed \(got \[\]\)"),
        ("person", "candidate_labels: a non-empty list of labels is needed .got 'person'"),
        ({"person"}, "a non-empty list of labels is needed"),
        (["person", 3], r"labels are non-empty strings \(got 3\)"),
        (["person", " "], r"labels are non-empty strings \(got ' '\)"),
        (["person", "city", "person "], r"labels must be distinct \(got twice: 'person '\)"),
    ],
)
def test_wrong_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        check_labels(labels)


def test_labels_per_post_are_joined_in_order_of_first_appearance():
    assert read_labels(["b", "a"]) == (["b", "a"], None)
    assert read_labels([["b", "a"], ["c", "b "]]) == (["b", "a", "c"], [[0, 1], [2, 0]])
    with pytest.raises(ValueError, match=r"candidate_labels\[1\]: a non-empty list"):
        read_labels([["a"], []])
    with pytest.raises(ValueError, match=r"candidate_labels\[1\]: a non-empty list .* \(got 'b'\)"):
        read_labels([["a"], "b"])


def test_labels_in_any_sequence():
    names = Dataset.from_list([{"name": "a b", "own": ["x", "y"]}, {"name": "c", "own": ["y"]}])
    for given in (("a b", "c"), np.array(["a b", "c"]), pd.Series(["a b", "c"]), names["name"]):
        assert check_labels(given) == ["a b", "c"] and read_labels(given) == (["a b", "c"], None)
    for given in ((("x", "y"), ("y",)), np.array([["x", "y"], ["y", "z"]]), names["own"], pd.Series([["x"], ["y"]])):
        assert read_labels(given)[1][0][0] == 0
    assert rank_labels(torch.tensor([[0.0, 1.0]]), pd.Series(["a", "b"], index=[7, 8]), top_k=1)[0][0]["label"] == "b"


@pytest.mark.parametrize(
    ("labels", "argument", "words", "key", "label"),
    [
        (["Boat", "bird"], "label_descriptions", {"boat": "a ship"}, "boat", "Boat"),
        (["boat", "bird"], "label_descriptions", {"boat ": "a ship", "birds": "an animal"}, "birds", "bird"),
        (["lives in"], "label_types", {"lives_in": ("person", "city")}, "lives_in", "lives in"),
        (["lives in"], "label_descriptions", {"livesIn": "a sentence"}, "livesIn", "lives in"),
        (["member of", "peer of"], "label_types", {"membre of": ("person", "team")}, "membre of", "member of"),
    ],
)
def test_a_slip_of_a_label_without_an_entry_is_an_error(labels, argument, words, key, label):
    given = {"label_descriptions": "descriptions"}.get(argument, argument)
    with pytest.raises(ValueError, match=f"{argument}: '{key}' .* did you mean '{label}'"):
        check_label_words(labels, **{given: words})
    with pytest.raises(ValueError, match=f"{argument}: '{key}'"):
        check_label_words(labels, **{given: words}, warn=False)


def test_a_slip_of_a_type_is_an_error():
    with pytest.raises(ValueError, match="type_descriptions: 'persn' .* did you mean 'person'"):
        check_label_words(["lives in"], label_types={"lives in": ("person", "city")}, type_descriptions={"persn": "x"})


@pytest.mark.parametrize(
    ("labels", "key"),
    [
        (["class 1"], "class 2"),
        (["type a"], "type b"),
        (["horse"], "house"),
        (["boat"], "boat race"),
        (["boat"], "x1"),
    ],
)
def test_other_labels_give_one_warning_that_names_the_nearest(labels, key, monkeypatch):
    monkeypatch.setattr("modeling_mgvmoe.labels._warned_keys", set())
    with pytest.warns(UserWarning, match=f"label_descriptions: .* '{key}' .nearest: '{labels[0]}'"):
        check_label_words(labels, {key: "a sentence"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_label_words(labels, {key: "a sentence"})
        # Labels of one post alone tell nothing of those of others.
        check_label_words(labels, {f"{key} zzz": "a sentence"}, warn=False)


def test_words_of_a_whole_dataset_pass_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        types = {"lives in": ("person", "city"), "born in": ("person", "city"), "peer of": ("person", "person")}
        check_label_words(["lives in"], None, types, {"person": "x", "city": "y", "team": "z"})
        check_label_words(["a > b", "a > c"], {"a>b": "x", "c": "y", "a": "z"}, separator=">")
        check_label_words(["robot", "lives in"], None, types, typed=["lives in"])
    with pytest.raises(ValueError, match="label_descriptions: 'a > persn' .* 'a > person'"):
        check_label_words(["a > person", "a > c"], {"a>persn": "x"}, separator=">")


def test_template_and_descriptions():
    texts = label_texts(["city", " person"], {"person": "a human being", "other": "unused"}, "It is {}.")
    assert texts == [("It is city.",), ("It is a human being.",)]
    assert label_texts(["a{}b"], None, "{}") == [("a{}b",)]  # braces in a label are only text


@pytest.mark.parametrize("template", ["", "label", "{} {}", "{0}", None, 3])
def test_wrong_template(template):
    with pytest.raises(ValueError, match='hypothesis_template: a string with exactly one "{}" is needed'):
        label_texts(["a"], None, template)


@pytest.mark.parametrize("sentence", ["", " ", None, 4])
def test_wrong_description(sentence):
    with pytest.raises(ValueError, match=r"label_descriptions\['a'\]: a non-empty string is needed"):
        label_texts(["a"], {"a": sentence}, "{}")


def test_descriptions_are_a_dict():
    with pytest.raises(ValueError, match="label_descriptions: a dict of label to sentence is needed"):
        label_texts(["a"], ["a"], "{}")


def test_softmax_scores_are_sorted():
    # softmax(0, ln 2, ln 3) = (1, 2, 3) / 6
    logits = torch.tensor([[0.0, math.log(2), math.log(3)]])
    (found,) = rank_labels(logits, ["a", "b", "c"])
    assert [entry["label"] for entry in found] == ["c", "b", "a"]
    assert [entry["score"] for entry in found] == pytest.approx([3 / 6, 2 / 6, 1 / 6])
    assert isinstance(found[0]["score"], float)


def test_sigmoid_and_none():
    (found,) = rank_labels(torch.tensor([[0.0, -1.0]]), ["a", "b"], function_to_apply="sigmoid")
    assert [entry["score"] for entry in found] == pytest.approx([0.5, 1 / (1 + math.e)])
    (found,) = rank_labels(torch.tensor([[-2.0, -1.0]]), ["a", "b"], function_to_apply="none")
    assert found == [{"label": "b", "score": -1.0}, {"label": "a", "score": -2.0}]


def test_threshold_and_top_k():
    logits = torch.tensor([[0.0, math.log(2), math.log(3)]])
    assert [entry["label"] for entry in rank_labels(logits, ["a", "b", "c"], threshold=0.3)[0]] == ["c", "b"]
    assert [entry["label"] for entry in rank_labels(logits, ["a", "b", "c"], top_k=1)[0]] == ["c"]
    assert rank_labels(logits, ["a", "b", "c"], threshold=0.9) == [[]]
    (found,) = rank_labels(logits - 5, ["a", "b", "c"], threshold=-4.5, function_to_apply="none")
    assert [entry["label"] for entry in found] == ["c", "b"]


def test_ties_keep_the_order_of_the_labels():
    (found,) = rank_labels(torch.tensor([[1.0, 2.0, 1.0, 2.0]]), ["a", "b", "c", "d"])
    assert [entry["label"] for entry in found] == ["b", "d", "a", "c"]


def test_kinds_of_logits():
    expected = rank_labels(torch.tensor([[1.0, 2.0]]), ["a", "b"])
    for logits in (
        SimpleNamespace(logits=torch.tensor([[1.0, 2.0]])),
        {"logits": torch.tensor([[1.0, 2.0]])},
        np.array([[1.0, 2.0]]),
        [[1.0, 2.0]],
        torch.tensor([1.0, 2.0]),
        torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16, requires_grad=True),
    ):
        assert rank_labels(logits, ["a", "b"]) == expected


def test_mask_takes_labels_out_before_the_softmax():
    logits = torch.tensor([[0.0, 5.0, 0.0], [1.0, 1.0, 1.0]])
    mask = torch.tensor([[True, False, True], [False, False, False]])
    found = rank_labels(logits, ["a", "b", "c"], candidate_mask=mask)
    assert found == [[{"label": "a", "score": 0.5}, {"label": "c", "score": 0.5}], []]


def test_labels_per_post_take_their_columns():
    labels = [["b", "a"], ["c", "b"]]  # columns b, a, c
    logits = torch.tensor([[0.0, 1.0, 9.0], [0.0, 9.0, 1.0]])
    found = rank_labels(logits, labels)
    assert [[entry["label"] for entry in row] for row in found] == [["a", "b"], ["c", "b"]]
    assert sum(entry["score"] for entry in found[0]) == pytest.approx(1)
    assert rank_labels([torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])], labels) == found


def test_scores_do_not_depend_on_the_order_of_the_labels():
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    names = [f"label {number}" for number in range(50)]
    order = list(range(49, -1, -1))
    straight = rank_labels(logits, names)[0]
    turned = rank_labels(logits[:, order], [names[column] for column in order])[0]
    assert [entry["label"] for entry in straight] == [entry["label"] for entry in turned]
    assert [entry["score"] for entry in straight] == pytest.approx([entry["score"] for entry in turned], abs=1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.5}, r"threshold: a score between 0 and 1 is needed \(got 1.5\)"),
        ({"threshold": -0.1}, "threshold: a score between 0 and 1 is needed"),
        ({"threshold": "0.5"}, r"threshold: a number is needed \(got '0.5'\)"),
        ({"threshold": float("nan")}, "threshold: a number is needed"),
        ({"top_k": 0}, r"top_k: an integer of at least 1, or None, is needed \(got 0\)"),
        ({"top_k": 1.0}, "top_k: an integer"),
        ({"top_k": True}, "top_k: an integer"),
        ({"function_to_apply": "tanh"}, r"function_to_apply: one of softmax, sigmoid, none is needed \(got 'tanh'\)"),
        ({"candidate_mask": [[True]]}, r"candidate_mask: \(1, 2\), the shape of logits, is needed \(got \(1, 1\)\)"),
        ({"candidate_labels": ["a"]}, r"logits: \(posts, 1\) is needed for 1 candidate labels \(got \(1, 2\)\)"),
        ({"candidate_labels": [["a", "b"], ["a"]]}, r"candidate_labels: 1 lists are needed, one a post \(got 2\)"),
        ({"outputs_or_logits": torch.tensor([[float("nan"), 1.0]])}, "logits: post 0 has NaN scores"),
        ({"outputs_or_logits": SimpleNamespace(logits=None)}, "outputs_or_logits: there are no logits"),
        (
            {"outputs_or_logits": [torch.zeros(2)], "candidate_labels": [["a", "b", "c"]]},
            r"logits: vectors of \[3\] scores are needed, the labels of each post \(got shapes \[\(2,\)\]\)",
        ),
        (
            {
                "outputs_or_logits": [torch.zeros(2)],
                "candidate_labels": [["a", "b"]],
                "candidate_mask": [[True, True]],
            },
            r"candidate_mask: it goes with logits \(posts, candidates\)",
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    good = {"outputs_or_logits": torch.tensor([[0.0, 1.0]]), "candidate_labels": ["a", "b"]}
    with pytest.raises(ValueError, match=message):
        rank_labels(**{**good, **arguments})


def test_the_name_of_version_0_1_is_taken_with_a_warning():
    model, processor = scratch_model()
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    post = {"text": "Kelo sails", "mention": (0, 4)}
    expected = pipe(post, candidate_labels=["boat", "bird"], hypothesis_template="a {}")
    with pytest.warns(FutureWarning, match="label_template is now called hypothesis_template"):
        assert pipe(post, candidate_labels=["boat", "bird"], label_template="a {}") == expected
    # A processor that version 0.1 saved has it by the old name, and nobody is warned.
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        old = MGVMoEProcessor(processor.image_processor, processor.tokenizer, label_template="a {}")
    assert old.hypothesis_template == "a {}"


def test_white_space_around_the_names_of_descriptions():
    expected = [("An animal.",), ("boat",)]
    for key in ("bird", " bird "):
        assert label_texts(["bird", "boat"], {key: "An animal."}, "{}") == expected
        assert label_texts([" bird", "boat"], {key: "An animal."}, "{}") == expected


@pytest.mark.parametrize("labels", [["boat", "bird"], [{"name": "boat"}, "bird"]])
@pytest.mark.parametrize("separator", [None, ">"])
def test_descriptions_that_are_no_dict_are_named(labels, separator):
    model, processor = scratch_model(torch.double)
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    with pytest.raises(ValueError, match="^label_descriptions"):
        pipe({"text": "Kelo sails", "mention": (0, 4)}, labels, label_descriptions=["x"], label_separator=separator)
    types = {"type_descriptions": {"person": 3}, "label_types": {"bird": ("person", "person")}}
    with pytest.raises(ValueError, match="^type_descriptions"):
        processor.encode_candidates(labels, label_separator=separator, **types)
