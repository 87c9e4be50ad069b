"""What a user can do wrong, each with what is said, end to end: through the pipeline, the model, the loading."""

import re
import sys

import numpy as np
import pytest
import torch
from transformers import pipeline

from modeling_mgvmoe import ZeroShotMultimodalIEPipeline
from tests.support.from_scratch import LABELS, RELATIONS, drawing, posts, scratch_model
from tests.support.tiny import tiny_inputs, tiny_model


@pytest.fixture(scope="module")
def pipe():
    model, processor = scratch_model()
    return ZeroShotMultimodalIEPipeline(model=model, processor=processor)


def assert_says(error, *parts):
    for part in parts:
        assert part in str(error.value)


SPANS = {
    "behind the text": ("Kelo sails", (5, 11), "0 <= start < end <= 10 (text length) is needed (got (5, 11))"),
    "before the text": ("Kelo sails", (-1, 4), "0 <= start < end <= 10 (text length) is needed (got (-1, 4))"),
    "reversed": ("Kelo sails", (4, 0), "0 <= start < end <= 10 (text length) is needed (got (4, 0))"),
    "empty": ("Kelo sails", (4, 4), "0 <= start < end <= 10 (text length) is needed (got (4, 4))"),
    "in an empty text": ("", (0, 1), "0 <= start < end <= 0 (text length) is needed (got (0, 1))"),
    "white space": ("Kelo  sails", (4, 6), "span (4, 6) covers only white space: 'Kelo[  ]sails'"),
    "not of integers": ("Kelo sails", (0.0, 4.0), "a span is two integers (start, end) (got (0.0, 4.0))"),
    "of one number": ("Kelo sails", (0,), "a span is two integers (start, end) (got (0,))"),
    "a word that is not there": ("Kelo sails", "Mura", "the words 'Mura' must occur once in the text (got 0 times"),
    "a word that is there twice": ("Kelo Kelo", "Kelo", "(got 2 times, at 0, 5; give (start, end)"),
    "a dict of one": ("Kelo sails", {"start": 0}, "'start' and 'end' are needed (got {'start': 0})"),
}


@pytest.mark.parametrize("case", SPANS)
@pytest.mark.parametrize("kind", ["mention", "head", "tail"])
def test_span(pipe, case, kind):
    text, span, message = SPANS[case]
    good = (0, len(text) or 1)
    post = {"mention": span} if kind == "mention" else {"head": good, "tail": good, kind: span}
    with pytest.raises(ValueError) as error:
        pipe({"text": text, **post}, candidate_labels=LABELS)
    # In an empty text the head, though good elsewhere, is wrong too and comes first.
    named = "mentions: " if kind == "mention" else f"mentions, {kind if text else 'head'}: "
    assert_says(error, named, message, f", in the post {text!r}")


@pytest.mark.parametrize(
    ("mentions", "message"),
    [
        ([], "one span (typing) or two (head, tail) are needed (got [])"),
        ([(0, 4), (5, 10), (0, 1)], "one span (typing) or two (head, tail) are needed (got 3)"),
        ([(0, 4), None], "a span is two integers (start, end) (got None)"),
        (["Kelo", "sails", "Kelo"], "one span (typing) or two (head, tail) are needed (got 3)"),
    ],
)
def test_mentions(pipe, mentions, message):
    with pytest.raises(ValueError) as error:
        pipe({"text": "Kelo sails", "mentions": mentions}, candidate_labels=LABELS)
    assert_says(error, message)


LABEL_LISTS = [
    (None, "candidate_labels: a non-empty list of labels is needed, in the call or in the post"),
    ([], "candidate_labels: a non-empty list of labels is needed (got [])"),
    (["boat", "bird", "boat"], "candidate_labels: labels must be distinct (got twice: 'boat')"),
    (["boat", " boat "], "candidate_labels: labels must be distinct (got twice: ' boat ')"),
    (["boat", ""], "candidate_labels: labels are non-empty strings (got '')"),
    (["boat", "  \n"], "candidate_labels: labels are non-empty strings (got '  \\n')"),
    (["boat", None], "candidate_labels: labels are non-empty strings (got None)"),
    (["boat", 7], "candidate_labels: labels are non-empty strings (got 7)"),
    ("boat", "candidate_labels: a non-empty list of labels is needed (got 'boat')"),
    ({"boat": 1}, "candidate_labels: a non-empty list of labels is needed (got {'boat': 1})"),
]


@pytest.mark.parametrize(("labels", "message"), LABEL_LISTS)
@pytest.mark.parametrize("place", ["call", "post"])
def test_labels(pipe, labels, message, place):
    post, call = {"text": "Kelo sails", "mention": (0, 4)}, {"candidate_labels": labels}
    if place == "post":
        # What is wrong in the post is not covered up by the labels of the call, which serve if the post has none.
        post, call = {**post, **call}, {"candidate_labels": LABELS if labels is not None else None}
    with pytest.raises(ValueError) as error:
        pipe(post, **call)
    assert_says(error, message)


def bad_images(folder):
    (folder / "text.png").write_text("no picture")
    drawing().save(folder / "whole.png")
    whole = (folder / "whole.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    return {
        "missing": (str(folder / "missing.png"), f"cannot read image {str(folder / 'missing.png')!r}"),
        "text": (folder / "text.png", "text.png': it is no image of the formats"),
        "half": (folder / "half.png", f"cannot read image {str(folder / 'half.png')!r}"),
        "empty": (folder / "empty.png", f"cannot read image {str(folder / 'empty.png')!r}"),
        "folder": (folder, f"cannot read image {str(folder)!r}"),
        "bytes": (whole[:20], "cannot read image <20 bytes>"),
        "number": (3, "cannot read image <int>: a PIL image, path, URL, bytes, array"),
        "array": (
            np.zeros((5, 5, 7), np.uint8),
            "an array needs 1, 3 or 4 channels, first or last (got shape (5, 5, 7))",
        ),
        "range": (np.full((4, 4, 3), 300.0), "array needs values in [0,1] (got 300 to 300)"),
    }


@pytest.mark.parametrize("case", ["missing", "text", "half", "empty", "folder", "bytes", "number", "array", "range"])
def test_image(pipe, tmp_path, case):
    image, message = bad_images(tmp_path)[case]
    with pytest.raises(ValueError) as error:
        pipe({"text": "Kelo sails", "mention": (0, 4), "image": image}, candidate_labels=LABELS)
    assert_says(error, "images[0]: ", message)


# The model: B = 4 posts, Lt = 11, Li = 5, C = 5, H = 32, H' = 24

SHAPES = {
    "text with an axis too few": (
        {"input_ids": torch.ones(4, dtype=torch.long)},
        "input_ids must be (rows, tokens), neither of them 0, got (4,)",
    ),
    "no text": ({"input_ids": None}, "input_ids and mention_positions must be given"),
    "no mentions": ({"mention_positions": None}, "input_ids and mention_positions must be given"),
    "mask of another length": (
        {"attention_mask": torch.ones(4, 7)},
        "attention_mask must be (4, 11), like input_ids, got (4, 7)",
    ),
    "token outside the vocabulary": (
        {"input_ids": torch.full((4, 11), 99)},
        "input_ids must be in [0, 99), the vocabulary, got 99 to 99",
    ),
    "three mentions": (
        {"mention_positions": torch.ones(4, 3, dtype=torch.long)},
        "S at most max_mentions = 2, got (4, 3)",
    ),
    "mentions of another batch": (
        {"mention_positions": torch.ones(3, 1, dtype=torch.long)},
        "mention_positions must be (B, S) with B = 4 and S at most max_mentions = 2, got (3, 1)",
    ),
    "mention behind the text": (
        {"mention_positions": torch.full((4, 1), 11)},
        "mention_positions must be in [0, 11), or -1 for an absent second mention",
    ),
    "first mention absent": ({"mention_positions": torch.full((4, 1), -1)}, "mention_positions must be in [0, 11)"),
    "picture with an axis too few": (
        {"pixel_values": torch.zeros(4, 8, 8), "image_mask": None},
        "pixel_values must be (B, channels, height, width), got (4, 8, 8)",
    ),
    "pictures of another batch": (
        {"pixel_values": torch.zeros(3, 3, 8, 8)},
        "one row for each of the 4 posts, got image_mask (4,) and images (3, 3, 8, 8)",
    ),
    "mask of another batch": ({"image_mask": torch.ones(3, dtype=torch.bool)}, "4 posts, got image_mask (3,)"),
    "mask without pictures": ({"pixel_values": None}, "image_mask marks posts with an image, but neither"),
    "pictures twice": (
        {"image_features": torch.zeros(4, 5, 24)},
        "pixel_values and image_features exclude each other",
    ),
    "features of another width": (
        {"pixel_values": None, "image_features": torch.zeros(4, 5, 25)},
        "image_features must be (B, Li, 24), got (4, 5, 25)",
    ),
    "no candidates": (
        {"candidate_input_ids": None},
        "candidate_embeds and candidate_states must be given, got neither",
    ),
    "candidates twice": ({"candidate_embeds": torch.zeros(5, 32)}, "candidate_states must be given, got both"),
    "candidates with an axis too few": (
        {"candidate_input_ids": torch.ones(5, dtype=torch.long)},
        "candidate_input_ids must be (rows, tokens), neither of them 0, got (5,)",
    ),
    "zero candidates": (
        {"candidate_input_ids": torch.ones(0, 3, dtype=torch.long), "candidate_attention_mask": None},
        "candidate_input_ids must be (rows, tokens), neither of them 0, got (0, 3)",
    ),
    "candidate mask of another length": (
        {"candidate_attention_mask": torch.ones(5, 9)},
        "like candidate_input_ids, got (5, 9)",
    ),
    "a candidate without a token": (
        {"candidate_input_ids": torch.ones(2, 3, dtype=torch.long), "candidate_attention_mask": torch.eye(2, 3) * 0},
        "candidate_attention_mask must leave every row at least one token, got none in rows [0, 1]",
    ),
    "a post without a token": (
        {"attention_mask": torch.zeros(4, 11)},
        "attention_mask must leave every row at least one token, got none in rows [0, 1, 2, 3]",
    ),
    "a negative token": (
        {"input_ids": torch.full((4, 11), -1)},
        "input_ids must be in [0, 99), the vocabulary, got -1",
    ),
    "more tokens than positions": (
        {"input_ids": torch.ones(4, 999, dtype=torch.long), "attention_mask": None},
        "tokens, as the text encoder has positions for, got 999. Give the processor a smaller max_length",
    ),
    "a mention on padding": (
        {
            "attention_mask": (torch.arange(11) < 4).expand(4, -1),
            "mention_positions": torch.tensor([[10]] * 4),
        },
        "mention_positions must not be on padding, got [[10], [10], [10], [10]]",
    ),
    "candidates of another width": (
        {"candidate_input_ids": None, "candidate_embeds": torch.zeros(5, 31)},
        "candidate_embeds must be (C, 32) or (4, C, 32), got (5, 31)",
    ),
    "candidate mask of another size": (
        {"candidate_mask": torch.ones(4, 6, dtype=torch.bool)},
        "candidate_mask must be (B, C) = (4, 5), got (4, 6)",
    ),
    "labels of another batch": (
        {"labels": torch.zeros(3, dtype=torch.long)},
        "logits must be (B, C) and labels (B,), got (4, 5) and (3,)",
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes_into_the_model(case):
    change, message = SHAPES[case]
    with pytest.raises(ValueError) as error:
        tiny_model()(**{**tiny_inputs(), **change})
    assert_says(error, message)


# Loading


@pytest.mark.parametrize("missing", ["all", "processor_config.json", "tokenizer.json"])
def test_a_checkpoint_without_the_processor(tmp_path, own_module_cache, missing):
    model, processor = scratch_model()
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    if missing != "all":
        processor.save_pretrained(folder)
        (folder / missing).unlink()
    names = "processor_config.json, no tokenizer_config.json, no tokenizer.json" if missing == "all" else missing
    message = (
        f"processor: an MGVMoEProcessor is needed (got NoneType). The folder {str(folder)!r} has no {names}. "
        "Save one beside the model with processor.save_pretrained(folder), or pass processor=... to pipeline()."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        pipeline(model=str(folder), trust_remote_code=True)
    # What the message tells to do helps.
    assert pipeline(model=str(folder), trust_remote_code=True, processor=processor)
    processor.save_pretrained(folder)
    assert pipeline(model=str(folder), trust_remote_code=True)


def test_a_processor_that_cannot_be_read(tmp_path):
    model, processor = scratch_model()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text("{")
    with pytest.raises(ValueError, match="AutoProcessor.from_pretrained on it says what is wrong"):
        pipeline("zero-shot-multimodal-ie", model=str(tmp_path), pipeline_class=ZeroShotMultimodalIEPipeline)


def test_inference_works_without_the_libraries_of_training(pipe, monkeypatch):
    expected = pipe(posts(), candidate_labels=[*LABELS, *RELATIONS])
    for name in ("torch_geometric", "datasets", "accelerate", "sklearn", "evaluate", "yaml"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it is an ImportError
    with pytest.raises(ImportError):
        import torch_geometric  # noqa: F401
    model, processor = scratch_model()
    bare = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    assert bare(posts(), candidate_labels=[*LABELS, *RELATIONS]) == expected
