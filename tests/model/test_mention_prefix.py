"""Mentions named before the post, in words: what is read, where the mentions are, and that no mention is lost."""

import pytest
import torch

from modeling_mgvmoe import MGVMoEProcessor
from modeling_mgvmoe.labels import read_label_types
from modeling_mgvmoe.spans import name_mentions
from tests.support.small_tokenizers import bert, modernbert, roberta


@pytest.fixture
def processor():
    return MGVMoEProcessor(None, bert(), mention_style="prefix")


def words(processor, ids):
    return processor.tokenizer.convert_ids_to_tokens(ids)


def test_mentions_are_named_in_the_order_of_the_spans():
    text = "rain on  New York"
    named, ((tail, tail_in_post), (head, head_in_post)) = name_mentions(text, [(9, 17), (0, 4)])
    assert named == "New York and rain: rain on  New York"
    assert named[slice(*tail)] == named[slice(*tail_in_post)] == "New York"
    assert named[slice(*head)] == named[slice(*head_in_post)] == "rain"


@pytest.mark.parametrize("tokenizer", [bert, roberta, modernbert])
@pytest.mark.parametrize("spans", [(5, 13), [(5, 13), (0, 4)], [(5, 13), (9, 13)], [(0, 4), (0, 4)]])
def test_what_is_read_is_the_text_with_its_mentions_before_it(tokenizer, spans):
    processor = MGVMoEProcessor(None, tokenizer(), mention_style="prefix")
    text = "rain new york man today"
    both = [spans] if isinstance(spans[0], int) else spans
    named = " and ".join(text[start:end] for start, end in both) + ": " + text
    found = processor.encode_post(text, spans)
    decoded = processor.tokenizer.decode(found["input_ids"], skip_special_tokens=True)
    assert decoded.replace(" ", "") == named.replace(" ", "")
    for (start, end), mask, place in zip(both, found["mention_mask"], found["mention_positions"], strict=True):
        tokens = [token for token, inside in zip(found["input_ids"], mask, strict=True) if inside]
        assert processor.tokenizer.decode(tokens).replace(" ", "") == (2 * text[start:end]).replace(" ", "")
        in_post = [token for token, inside in zip(found["input_ids"][place:], mask[place:], strict=True) if inside]
        assert processor.tokenizer.decode(in_post).strip() == text[start:end]


def test_a_long_post_keeps_its_mentions_before_it_and_in_it(processor):
    text = " ".join(["today"] * 500 + ["york"] + ["love"] * 500 + ["rain"] + ["man"] * 300)
    york, rain = text.index("york"), text.index("rain")
    found = processor.encode_post(text, [(rain, rain + 4), (york, york + 4)], max_length=30)
    assert len(found["input_ids"]) == 30
    tokens = words(processor, found["input_ids"])
    assert tokens[1] == "rain"
    assert tokens.count("rain") == tokens.count("york") == 2
    assert [words(processor, [found["input_ids"][place]]) for place in found["mention_positions"]] == [
        ["rain"],
        ["york"],
    ]


def test_a_batch_of_both_kinds_is_padded(processor):
    batch = processor(
        text=["rain today", "new york love man today"],
        mentions=[(0, 4), [(0, 8), (14, 17)]],
        return_tensors="pt",
    )
    mask = batch["mention_mask"]
    assert mask.dtype == torch.bool
    assert mask.shape == (2, 2, batch["input_ids"].shape[1])
    assert mask.sum(-1).tolist() == [[2, 0], [4, 2]]
    assert batch["mention_positions"][0, 1] == -1
    alone = processor(text="rain today", mentions=(0, 4))
    assert batch["input_ids"][0][: len(alone["input_ids"][0])].tolist() == alone["input_ids"][0]
    assert not (mask & ~batch["attention_mask"].bool()[:, None]).any()


def test_the_style_is_saved(tmp_path, processor):
    from transformers import ViTImageProcessorPil

    MGVMoEProcessor(ViTImageProcessorPil(), bert(), mention_style="prefix").save_pretrained(tmp_path)
    loaded = MGVMoEProcessor.from_pretrained(tmp_path)
    assert loaded.mention_style == "prefix"
    assert loaded.encode_post("rain today", (0, 4)) == processor.encode_post("rain today", (0, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: MGVMoEProcessor(None, bert(), mention_style="suffix"), "mention_style: one of markers, prefix"),
        (lambda p: p.encode_post("rain today", (0, 4), max_length=5), "max_length: at least 6 is needed"),
        (lambda p: p.pad_posts([{**p.encode_post("rain", (0, 4))}, {"input_ids": [2], "attention_mask": [1],
                                 "mention_positions": [0]}]), r"features\[1\]: mention_mask is missing"),
        (lambda p: p(text=["rain", "rain man"], mentions=[(0, 4), (0, 4)], padding=False, return_tensors="pt"),
         "padding: it is needed with return_tensors"),
    ],
)  # fmt: skip
def test_refusals(processor, call, message):
    with pytest.raises(ValueError, match=message):
        call(processor)


class TestLabelTypes:
    def test_masks_over_the_types_of_the_whole_data_set(self):
        types, allowed = read_label_types({"b": ("x", ["y", "z"]), "other": ("w", "w")}, ["a", "b "])
        assert types == ["x", "y", "z", "w"]
        assert allowed == [
            [[True] * 4, [True] * 4],
            [[True, False, False, False], [False, True, True, False]],
        ]

    def test_none_of_them(self):
        assert read_label_types(None, ["a"]) == ([], []) == read_label_types({}, ["a"])

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (["a"], "label_types: a dict of label to"),
            ({"a": "person"}, r"label_types\['a'\]: types of the head and types of the tail"),
            ({"a": ("x",)}, r"label_types\['a'\]: types of the head and types of the tail"),
            ({"a": ("x", [])}, r"label_types\['a'\], tail: a type or a list of types"),
            ({"a": ("x", [" "])}, r"label_types\['a'\], tail: a type or a list of types"),
        ],
    )
    def test_refusals(self, given, message):
        with pytest.raises(ValueError, match=message):
            read_label_types(given, ["a"])

    def test_several_sentences_of_labels_and_types(self, processor):
        batch = processor(
            candidate_labels=["man", "rain"],
            label_descriptions={"rain": ["new rain", "love"]},
            label_types={"man": ("york", "today")},
            type_descriptions={"today": ["today", "new york"]},
        )
        assert batch["candidate_index"] == [0, 1, 1]
        assert [words(processor, row)[1] for row in batch["candidate_input_ids"]] == ["man", "new", "love"]
        assert batch["type_index"] == [0, 1, 1]
        assert [words(processor, row)[1] for row in batch["type_input_ids"]] == ["york", "today", "new"]
        assert batch["candidate_types"] == [[[True, False], [False, True]], [[True, True], [True, True]]]

    @pytest.mark.parametrize("given", [[], ["a", ""], ["a", "a "], [3]])
    def test_wrong_sentences(self, processor, given):
        with pytest.raises(ValueError, match=r"label_descriptions\['man'\]: "):
            processor(candidate_labels=["man"], label_descriptions={"man": given})
