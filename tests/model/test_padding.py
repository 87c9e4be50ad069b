"""Posts made into a batch, worked by hand: tokens, masks, mention places, shared images."""

import numpy as np
import pytest
import torch

from modeling_mgvmoe.processing_mgvmoe import distinct_images, pad_features, pad_rows, to_tensors


class Tokenizer:
    """Pads with 9, on the side that is asked for."""

    def pad(self, rows, padding, max_length, pad_to_multiple_of, padding_side, return_attention_mask):
        assert padding_side == "right" and return_attention_mask is True
        if not padding:
            return rows
        length = max_length if padding == "max_length" else max(map(len, rows["input_ids"]))
        if pad_to_multiple_of:
            length = -(-length // pad_to_multiple_of) * pad_to_multiple_of
        return {
            name: [row + [value] * (length - len(row)) for row in rows[name]]
            for name, value in (("input_ids", 9), ("attention_mask", 0))
        }


def post(ids, places, **more):
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "mention_positions": places, **more}


def test_rows_get_a_mask_of_ones_unless_one_is_given():
    assert pad_rows(Tokenizer(), [[1, 2], [3]]) == {
        "input_ids": [[1, 2], [3, 9]],
        "attention_mask": [[1, 1], [1, 0]],
    }
    assert pad_rows(Tokenizer(), [[1, 2]], [[1, 0]], "max_length", 3, 2)["attention_mask"] == [[1, 0, 0, 0]]


def test_tokens_places_and_mention_masks_side_by_side():
    posts = [
        post(torch.tensor([5, 6, 7]), [1], mention_mask=[[0, 1, 0]]),
        post([8, 4], [0, 1], mention_mask=np.array([[1, 0], [0, 1]])),
    ]
    assert pad_features(Tokenizer(), posts) == {
        "input_ids": [[5, 6, 7], [8, 4, 9]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "mention_positions": [[1, -1], [0, 1]],
        "mention_mask": [[[False, True, False], [False] * 3], [[True, False, False], [False, True, False]]],
    }


def test_arrays_become_lists_of_numbers_and_rows_stay_as_long_as_they_are_without_padding():
    posts = [post(torch.tensor([5, 6]), np.array([1])), post([8], [0])]
    ids = pad_features(Tokenizer(), posts, padding=False)["input_ids"]
    assert ids == [[5, 6], [8]] and {type(token) for row in ids for token in row} == {int}
    places = pad_features(Tokenizer(), posts)["mention_positions"]
    assert places == [[1], [0]] and type(places[0][0]) is int


def test_a_missing_image_is_zeros_and_masked():
    drawing = np.full((3, 2, 2), 7.0, dtype=np.float32)
    batch = pad_features(Tokenizer(), [{"pixel_values": None}, {"pixel_values": drawing}])
    assert set(batch) == {"pixel_values", "image_mask"} and batch["image_mask"] == [False, True]
    assert batch["pixel_values"][0].dtype == np.float32 and batch["pixel_values"][0].shape == (3, 2, 2)
    assert not batch["pixel_values"][0].any() and batch["pixel_values"][1] is drawing
    assert pad_features(Tokenizer(), [{"pixel_values": None}]) == {}


def test_shared_images_are_there_once():
    one, two = np.ones((1, 1, 1)), np.zeros((1, 1, 1))
    posts = [{"pixel_values": drawing} for drawing in (one, two, None, one.copy())]
    batch = pad_features(Tokenizer(), posts, share_images=True)
    assert [drawing.item() for drawing in batch["pixel_values"]] == [1, 0] and batch["image_index"] == [0, 1, 0, 0]
    assert batch["image_mask"] == [True, True, False, True]
    # All are distinct: nothing to share, with or without a post that has none.
    for own in (posts[:2], posts[:3], posts[:1]):
        assert "image_index" not in pad_features(Tokenizer(), own, share_images=True)
    # Two posts of one image are enough.
    assert pad_features(Tokenizer(), [posts[0], posts[3]], share_images=True)["image_index"] == [0, 0]
    assert "image_index" not in pad_features(Tokenizer(), posts)


def test_images_differ_by_shape_and_type_too():
    drawings = [np.zeros((1, 4)), np.zeros((2, 2)), np.zeros((1, 4), dtype=np.int64), None, np.zeros((1, 4))]
    distinct, index = distinct_images(drawings)
    assert index == [0, 1, 2, 0, 0] and [drawing is drawings[i] for i, drawing in enumerate(distinct)] == [True] * 3
    # And not by the order in which memory holds them.
    drawing = np.arange(4.0).reshape(2, 2)
    assert distinct_images([drawing.T, np.ascontiguousarray(drawing.T), drawing])[1] == [0, 0, 1]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "at least one post"),
        ([{"pixels": 1}], r"can be padded \(got \['pixels'\]\)"),
        ([post([1], [0]), {"input_ids": [1], "attention_mask": [1]}], r"features\[1\]: mention_positions is missing"),
        ([post([1], [0], mention_mask=[[1]]), post([1], [0])], r"features\[1\]: mention_mask is missing"),
        ([{"pixel_values": np.ones(1), "image_features": np.ones(1)}], "exclude each other"),
        (
            [post([1], [0], mention_mask=[[1]], pixel_values=np.ones(1), image_features=np.ones(1))],
            "exclude each other",
        ),
        (
            [{"pixel_values": np.ones(1)}, {"pixel_values": np.ones(2)}],
            r"one size are needed \(got \[\(1,\), \(2,\)\]\)",
        ),
    ],
)
def test_what_cannot_be_padded_is_refused(features, message):
    with pytest.raises(ValueError, match=message):
        pad_features(Tokenizer(), features)


def test_tensors_have_the_types_of_their_names():
    batch = {
        "input_ids": [[1, 2]],
        "image_mask": [True],
        "candidate_mask": [[1, 0]],
        "mention_mask": [[[1, 0], [0, 1]]],
        "pixel_values": [np.ones((3, 2), dtype=np.float32)],
    }
    arrays, tensors = to_tensors(batch, "np"), to_tensors(batch, "pt")
    kinds = {name: array.dtype for name, array in arrays.items()}
    assert kinds == {
        "input_ids": np.int64, "image_mask": np.bool_, "candidate_mask": np.bool_, "mention_mask": np.bool_,
        "pixel_values": np.float32,
    }  # fmt: skip
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    assert all((tensors[name].numpy() == array).all() for name, array in arrays.items())
    assert to_tensors(batch, None)["input_ids"] is batch["input_ids"]


@pytest.mark.parametrize("batch", [{"input_ids": [[1, 2], [3]]}, {"mention_mask": [[[1, 0]], [[1]]]}])
def test_rows_of_several_lengths_need_padding(batch):
    with pytest.raises(ValueError, match="padding: it is needed"):
        to_tensors(batch, "np")
    assert to_tensors(batch, None)
    with pytest.raises(ValueError, match="'pt', 'np' or None is needed \\(got 'tf'\\)"):
        to_tensors(batch, "tf")
