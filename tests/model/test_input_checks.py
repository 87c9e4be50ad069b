"""Every refusal at its bounds: the last value that passes, and the first that does not."""

import pytest
import torch

from modeling_mgvmoe import modeling_mgvmoe as checks

IDS = torch.tensor([[0, 4, 2], [3, 1, 0]])
MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])
PLACES = torch.tensor([[1, -1], [0, 2]])
REAL = torch.tensor([[True, True, False], [True, True, True]])
MARKS = torch.tensor([[[False, True, False], [False] * 3], [[True, False, False], [False, False, True]]])
TYPES = torch.tensor([[[True, False], [False, True]], [[True, True], [True, False]], [[True, True], [True, True]]])


def put(tensor, place, value):
    changed = tensor.clone()
    changed[place] = value
    return changed


def test_what_is_right_passes():
    checks.refuse_unknown({})
    checks.refuse_unknown({"inputs_embeds": None})
    checks.check_tensors(input_ids=IDS, labels=None)
    assert checks.one_for_all(None, "x", 2, 3) is None and checks.one_for_all(IDS, "x", 2, 3) is IDS
    assert torch.equal(checks.one_for_all(IDS.expand(3, 2, 3), "x", 2, 3), IDS)
    checks.check_pixels(torch.zeros(1, 3, 2, 2))
    checks.check_tokens(IDS, MASK, "", 3, 5)
    checks.check_tokens(IDS, MASK, "", None, 5)
    checks.check_index(torch.tensor([1, 0, 1]), 3)
    checks.check_mention_positions(PLACES, REAL, 2)
    checks.check_mention_positions(PLACES[:, :1], REAL, 2)
    checks.check_image_index(torch.tensor([0, 1, 0]), 3, torch.zeros(2, 1))
    checks.check_mention_mask(MARKS, PLACES, REAL.long())
    checks.check_mention_mask(MARKS, PLACES, REAL.float())
    checks.check_types(TYPES, 3, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: checks.check_pixels(torch.zeros(3, 2, 2)), r"got \(3, 2, 2\)"),
        (
            lambda: checks.check_tensors(input_ids=IDS, attention_mask=MASK.tolist()),
            "attention_mask .* return_tensors",
        ),
        (lambda: checks.check_tensors(labels=["boat"]), r"labels must be a tensor \(B,\) of numbers.* got list"),
        (lambda: checks.one_for_all(torch.stack([IDS, IDS + 1]), "x", 2, 2), "x must be the same for every post"),
        (lambda: checks.one_for_all(IDS.expand(2, 2, 3), "x", 2, 3), "x must .* each of 3 posts, got 2"),
        (lambda: checks.check_tokens(IDS[0], MASK[0], "x_", None, 5), r"x_input_ids must be \(rows, tokens\)"),
        (lambda: checks.check_tokens(IDS[:, :0], MASK[:, :0], "", None, 5), r"neither of them 0, got \(2, 0\)"),
        (lambda: checks.check_tokens(IDS[:0], MASK[:0], "", None, 5), r"neither of them 0, got \(0, 3\)"),
        (lambda: checks.check_tokens(IDS, MASK[:, :2], "x_", None, 5), r"x_attention_mask must be \(2, 3\)"),
        (lambda: checks.check_tokens(IDS, MASK, "", 2, 5), "at most 2 tokens, .* got 3"),
        (lambda: checks.check_tokens(IDS, MASK, "", 3, 4), r"in \[0, 4\), the vocabulary, got 0 to 4"),
        (lambda: checks.check_tokens(IDS - 1, MASK, "", 3, 5), "got -1 to 3"),
        (lambda: checks.check_tokens(IDS, put(MASK, (1, 0), 0), "", 3, 5), r"got none in rows \[1\]"),
        (lambda: checks.check_index(torch.tensor([0, 1]), 3), r"must be \(3,\), one a text, got \(2,\)"),
        (lambda: checks.check_index(torch.tensor([0, 2]), 2), r"every number .* got \[0, 2\]"),
        (lambda: checks.check_index(torch.tensor([0, -1]), 2), r"got \[0, -1\]"),
        (lambda: checks.check_mention_positions(PLACES[0], REAL, 2), r"got \(2,\)"),
        (lambda: checks.check_mention_positions(PLACES[:1], REAL, 2), r"B = 2 .* got \(1, 2\)"),
        (lambda: checks.check_mention_positions(PLACES, REAL, 1), r"max_mentions = 1, got \(2, 2\)"),
        (lambda: checks.check_mention_positions(put(PLACES, (1, 1), 3), REAL, 2), r"must be in \[0, 3\)"),
        (lambda: checks.check_mention_positions(put(PLACES, (1, 1), -2), REAL, 2), r"must be in \[0, 3\)"),
        (lambda: checks.check_mention_positions(put(PLACES, (0, 0), -1), REAL, 2), r"must be in \[0, 3\)"),
        (lambda: checks.check_mention_positions(put(PLACES, (0, 0), 2), REAL, 2), "must not be on padding"),
        (
            lambda: checks.check_mention_positions(PLACES[1:], put(REAL, (1, 0), False)[1:], 2),
            "must not be on padding",
        ),
        (lambda: checks.check_image_index(torch.tensor([0]), 2, torch.zeros(2, 1)), r"\(B,\) = \(2,\), got \(1,\)"),
        (lambda: checks.check_image_index(torch.tensor([0]), 1, None), "neither pixel_values nor image_features"),
        (lambda: checks.check_image_index(torch.tensor([2]), 1, torch.zeros(2, 1)), r"in \[0, 2\).* got \[2\]"),
        (lambda: checks.check_image_index(torch.tensor([-1]), 1, torch.zeros(2, 1)), r"got \[-1\]"),
        (lambda: checks.check_mention_mask(MARKS[:, :1], PLACES, REAL), r"= \(2, 2, 3\) and boolean, got \(2, 1, 3\)"),
        (lambda: checks.check_mention_mask(MARKS.long(), PLACES, REAL), "torch.int64"),
        (lambda: checks.check_mention_mask(put(MARKS, (0, 0, 2), True), PLACES, REAL.long()), "mark padding"),
        (lambda: checks.check_mention_mask(put(MARKS, (0, 1, 0), True), PLACES, REAL), "none of an absent one"),
        (lambda: checks.check_mention_mask(put(MARKS, (1, 0, 0), False), PLACES, REAL), "none of an absent one"),
        (lambda: checks.check_mention_mask(put(MARKS, (1, 0, 0), False), put(PLACES, (1, 0), -1), REAL), None),
        (lambda: checks.check_mention_mask(put(MARKS, (1, 0, 0), False), put(PLACES, (1, 0), 0), REAL), "absent one"),
        (lambda: checks.check_types(TYPES, 2, 2), r"= \(2, 2, 2\) and boolean, got \(3, 2, 2\)"),
        (lambda: checks.check_types(TYPES.long(), 3, 2), "torch.int64"),
        (lambda: checks.check_types(put(TYPES, (2, 1), False), 3, 2), "at least one type"),
    ],
)
def test_what_is_wrong_is_named(call, message):
    if message is None:
        call()
        return
    with pytest.raises(ValueError, match=message):
        call()


def test_values_are_not_looked_at_while_torch_compiles(monkeypatch):
    # Tensors without values, of shapes that are right: whoever asks for a value of theirs gets an error.
    tensors = {name: globals()[name].to("meta") for name in ("IDS", "MASK", "PLACES", "REAL", "MARKS", "TYPES")}
    calls = [
        lambda: checks.check_tokens(tensors["IDS"], tensors["MASK"], "", 3, 5),
        lambda: checks.check_index(torch.zeros(3, dtype=torch.long, device="meta"), 3),
        lambda: checks.check_mention_positions(tensors["PLACES"], tensors["REAL"], 2),
        lambda: checks.check_image_index(torch.zeros(3, dtype=torch.long, device="meta"), 3, torch.zeros(2, 1)),
        lambda: checks.check_mention_mask(tensors["MARKS"], tensors["PLACES"], tensors["REAL"]),
        lambda: checks.check_types(tensors["TYPES"], 3, 2),
    ]
    for call in calls:
        with pytest.raises((RuntimeError, NotImplementedError)):
            call()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for call in calls:
        call()


def test_unknown_arguments_are_named_in_order():
    with pytest.raises(TypeError, match=r"unknown arguments: a, b\."):
        checks.refuse_unknown({"b": 1, "a": 2})


def test_lists_in_place_of_tensors_are_refused_by_name(model, inputs):
    for name in ("input_ids", "mention_positions", "pixel_values", "candidate_input_ids", "labels"):
        with pytest.raises(ValueError, match=f"^{name} must be a tensor"):
            model(**{**inputs, name: inputs[name].tolist()})
    with pytest.raises(ValueError, match="^input_ids must be a tensor"):
        model.encode_posts(input_ids=[[1, 2]], mention_positions=torch.tensor([[0]]))
    with pytest.raises(ValueError, match="^candidate_input_ids must be a tensor"):
        model.get_candidate_embeds([[1, 2]])
    with pytest.raises(ValueError, match="^pixel_values must be a tensor"):
        model.get_image_features([1.0])
