import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tokenizers import processors
from transformers import (
    AutoImageProcessor,
    BertTokenizer,
    ViTImageProcessorPil,
)

from modeling_mgvmoe.processing_mgvmoe import MGVMoEProcessor
from tests.support.small_tokenizers import SAMPLE, SETTINGS, TOKENIZERS, bert, deberta, modernbert, roberta

NEW_YORK = "I love New York today"


@pytest.fixture(scope="module")
def image_processor():
    return ViTImageProcessorPil(size={"height": 8, "width": 8})


@pytest.fixture
def processor(image_processor):
    return MGVMoEProcessor(image_processor, bert())


@pytest.fixture(params=sorted(TOKENIZERS))
def any_processor(request):
    return MGVMoEProcessor(None, TOKENIZERS[request.param]())


def tokens(processor, text, mentions, **options):
    features = processor.encode_post(text, mentions, **options)
    return " ".join(processor.tokenizer.convert_ids_to_tokens(features["input_ids"]))


# Markers and tokenizers


def test_markers_of_a_vocabulary_with_unused_tokens():
    tokenizer = bert()
    processor = MGVMoEProcessor(None, tokenizer)
    assert processor.typing_markers == ["[unused1]", "[unused2]"]
    assert processor.relation_markers == ["[unused1]", "[unused3]", "[unused2]", "[unused4]"]
    assert processor.vocabulary_size == len(bert())


# The oldest transformers has a placeholder there, which asks for torchvision.
@pytest.mark.skipif(hasattr(AutoImageProcessor, "_backends"), reason="AutoImageProcessor needs torchvision here")
def test_a_processor_from_the_two_encoders_of_a_model(processor, tmp_path):
    processor.tokenizer.save_pretrained(tmp_path / "text")
    processor.image_processor.save_pretrained(tmp_path / "vision")
    composed = MGVMoEProcessor.from_text_vision_pretrained(tmp_path / "text", tmp_path / "vision", max_length=40)
    assert (composed.mention_style, composed.max_length) == ("prefix", 40)
    assert composed.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert composed.image_processor.to_dict() == processor.image_processor.to_dict()
    marked = MGVMoEProcessor.from_text_vision_pretrained(
        tmp_path / "text", tmp_path / "vision", mention_style="markers"
    )
    assert marked.mention_style == "markers"


def test_markers_are_added_where_there_are_no_unused_tokens():
    tokenizer = roberta()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<mine>"]})
    before = len(tokenizer)
    processor = MGVMoEProcessor(None, tokenizer)
    assert processor.typing_markers == ["<m1>", "<m2>"]
    assert processor.relation_markers == ["<m1>", "<m3>", "<m2>", "<m4>"]
    assert processor.vocabulary_size == len(tokenizer) == before + 4
    assert "<mine>" in tokenizer.all_special_tokens
    MGVMoEProcessor(None, tokenizer)
    assert len(tokenizer) == before + 4


def test_own_markers():
    processor = MGVMoEProcessor(None, bert(unused=False), ["[", "]"], ["(", ")", "<", ">"])
    assert tokens(processor, "rain man", (0, 4)) == "[CLS] [ rain ] man [SEP]"
    assert tokens(processor, "rain man", [(5, 8), (0, 4)]) == "[CLS] < rain > ( man ) [SEP]"
    # A sign that serves as a marker is an unknown token when a post contains it.
    assert tokens(processor, "[ man", (2, 5)) == "[CLS] [UNK] [ man ] [SEP]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"typing_markers": ["<e>", "[unused2]"]}, "typing_markers: the tokenizer's vocabulary has no '<e>'"),
        ({"typing_markers": ["[UNK]", "[unused2]"]}, r"the tokenizer's vocabulary has no '\[UNK\]'"),
        ({"typing_markers": ["[unused1]"]}, r"typing_markers: 2 distinct tokens are needed \(got \['\[unused1\]'\]\)"),
        ({"typing_markers": ["[unused1]", "[unused1]"]}, "typing_markers: 2 distinct tokens are needed"),
        ({"typing_markers": "ab"}, r"typing_markers: 2 distinct tokens are needed \(got 'ab'\)"),
        ({"relation_markers": ["a", "b", "c"]}, "relation_markers: 4 distinct tokens are needed"),
        ({"max_length": 0}, r"max_length: a positive integer is needed \(got 0\)"),
        ({"max_length": 12.5}, "max_length: a positive integer is needed"),
        ({"hypothesis_template": "label"}, 'hypothesis_template: a string with exactly one "{}" is needed'),
    ],
)
def test_wrong_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        MGVMoEProcessor(None, bert(), **arguments)


def test_tokenizer_is_required_and_fast(image_processor):
    with pytest.raises(ValueError, match=r"tokenizer: a fast tokenizer is needed \(got NoneType\)"):
        MGVMoEProcessor(image_processor)
    with pytest.raises(ValueError, match=r"tokenizer: a fast tokenizer is needed \(got ViTImageProcessor"):
        MGVMoEProcessor(bert(), image_processor)
    for first in (None, image_processor):
        with pytest.raises(TypeError, match="Unexpected keyword argument max_len"):
            MGVMoEProcessor(first, bert(), max_len=3)


# Placement


def test_typing_and_relation_layout_of_bert(processor):
    assert tokens(processor, NEW_YORK, (7, 15)) == "[CLS] i love [unused1] new york [unused2] today [SEP]"
    found = processor.encode_post(NEW_YORK, [(16, 21), (7, 15)])
    assert (
        tokens(processor, NEW_YORK, [(16, 21), (7, 15)])
        == "[CLS] i love [unused2] new york [unused4] [unused1] today [unused3] [SEP]"
    )
    assert found["mention_positions"] == [7, 3]  # head, then tail
    assert found["attention_mask"] == [1] * 11


def test_spaces_of_byte_level_bpe():
    processor = MGVMoEProcessor(None, roberta())
    assert tokens(processor, "in New York, in", (3, 11)) == "<s> in <m1> \u0120New \u0120York <m2> , \u0120in </s>"
    assert tokens(processor, "in (York) in", (4, 8)) == "<s> in \u0120( <m1> York <m2> ) \u0120in </s>"
    assert tokens(processor, "York in ", (0, 5)) == "<s> <m1> York <m2> \u0120in </s>"
    assert tokens(processor, "  in \n York  ", (7, 12)) == "<s> in <m1> \u0120York <m2> </s>"


def test_spaces_of_byte_level_bpe_with_prefix_space():
    processor = MGVMoEProcessor(None, roberta(add_prefix_space=True))
    assert (
        tokens(processor, "in New York, in", (3, 11)) == "<s> \u0120in <m1> \u0120New \u0120York <m2> , \u0120in </s>"
    )


def test_word_signs_of_sentencepiece():
    processor = MGVMoEProcessor(None, deberta())
    assert (
        tokens(processor, "in New York, in", (3, 11))
        == "[CLS] \u2581in <m1> \u2581New \u2581York <m2> , \u2581in [SEP]"
    )
    # No word sign where no word begins: "(York)" is one word, the mention its middle.
    assert tokens(processor, "in (York)", (4, 8)) == "[CLS] \u2581in \u2581( <m1> York <m2> ) [SEP]"
    # A lone sign in front of an unknown character goes as well.
    assert tokens(processor, "in\u5317\u4eac", (2, 4)) == "[CLS] \u2581in <m1> [UNK] <m2> [SEP]"


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("New York", (0, 8)),
        ("playing", (4, 7)),  # in mid-word
        ("New York", [(0, 8), (4, 8)]),  # nested
        ("New York in", [(0, 8), (4, 11)]),  # overlapping
        ("New York", [(0, 8), (0, 8)]),  # identical
        ("NewYork", [(0, 3), (3, 7)]),  # touching
        ("a \U0001f469\u200d\U0001f4bb b", (2, 5)),
        ("\u0645\u064a\u0633\u064a \u0644\u0627\u0639\u0628", (0, 4)),  # Arabic
        ("\u6885\u897f\u5728\u5df4\u9ece", [(0, 2), (3, 5)]),  # Chinese
        ("caf\u00e9 \U0001f1e6\U0001f1f7!", (5, 7)),
    ],
)
def test_every_mention_is_marked_in_every_tokenizer(any_processor, text, mentions):
    found = any_processor.encode_post(text, mentions)
    spans = [mentions] if isinstance(mentions[0], int) else mentions
    names = any_processor.typing_markers if len(spans) == 1 else any_processor.relation_markers
    opening, closing = (any_processor.tokenizer.convert_tokens_to_ids(names[side::2]) for side in (0, 1))
    assert [found["input_ids"][place] for place in found["mention_positions"]] == opening
    for first, last in zip(opening, closing, strict=True):
        assert found["input_ids"].count(first) == found["input_ids"].count(last) == 1
        assert found["input_ids"].index(first) < found["input_ids"].index(last)
    plain = any_processor.tokenizer(text)["input_ids"]
    assert (found["input_ids"][0], found["input_ids"][-1]) == (plain[0], plain[-1])


def test_tokenizer_without_special_tokens_around():
    tokenizer = modernbert()
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    assert tokens(MGVMoEProcessor(None, tokenizer), "in York", (3, 7)) == "in [unused1] \u0120York [unused2]"


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_nothing_in_a_post_can_pass_for_a_marker_or_special_token(name):
    processor = MGVMoEProcessor(None, TOKENIZERS[name]())
    tokenizer = processor.tokenizer
    reserved = set(tokenizer.all_special_tokens) | {*processor.typing_markers, *processor.relation_markers}
    reserved -= {tokenizer.unk_token}
    forged = [*sorted(reserved), "[unused1]", "[SEP]", "</s>", "<m1>", "<mask>"]
    for text in [*forged, *("a" + word + "b" for word in forged), " ".join(forged), "".join(forged)]:
        text = f"in {text} York"
        found = tokens(processor, text, (len(text) - 4, len(text))).split()
        # Only what the processor put in itself: two markers and the first and last token.
        assert [token for token in found if token in reserved] == [found[0], *processor.typing_markers, found[-1]]
        label = processor.encode_candidates([text])["candidate_input_ids"][0]
        label = tokenizer.convert_ids_to_tokens(label)
        assert [token for token in label if token in reserved] == [found[0], found[-1]]


def test_forging_would_work_without_protection():
    """The two ways past `split_special_tokens`; if this fails, `_spell_reserved` may no longer be needed."""
    found = deberta()("[SEP]", add_special_tokens=False, split_special_tokens=True).tokens()
    assert "[SEP]" in found
    found = modernbert()("[unused1]", add_special_tokens=False, split_special_tokens=True).tokens()
    assert found == ["[unused1]"]


def test_forged_text_is_spelled_out():
    processor = MGVMoEProcessor(None, deberta())
    assert tokens(processor, "in [SEP] York", (9, 13)) == "[CLS] \u2581in \u2581 [ S E P ] <m1> \u2581York <m2> [SEP]"


# Windows


def test_post_of_2000_words_with_mentions_at_both_ends(any_processor):
    text = "York " + "rain " * 1998 + "Spain"
    found = any_processor.encode_post(text, [(0, 4), (len(text) - 5, len(text))], max_length=40)
    names = any_processor.tokenizer.convert_ids_to_tokens(found["input_ids"])
    assert len(names) == 40
    markers = any_processor.relation_markers
    assert [name for name in names if name in markers] == markers
    assert [names[place] for place in found["mention_positions"]] == markers[::2]
    for first, last, word in zip(markers[::2], markers[1::2], ("York", "Spain"), strict=True):
        mention = any_processor.tokenizer.decode(
            any_processor.tokenizer.convert_tokens_to_ids(names[names.index(first) + 1 : names.index(last)])
        )
        assert mention.strip().lower() == word.lower()


def test_window_is_even_around_one_mention(processor):
    text = "a " * 50 + "york" + " b" * 50
    found = tokens(processor, text, (100, 104), max_length=12)
    assert found == "[CLS] a a a a [unused1] york [unused2] b b b [SEP]"


def test_mention_longer_than_the_window_keeps_both_markers(processor):
    text = "new york " * 100
    found = tokens(processor, text, (0, len(text)), max_length=7)
    assert found == "[CLS] [unused1] new york new [unused2] [SEP]"


def test_max_length_too_small(processor):
    assert len(tokens(processor, NEW_YORK, (7, 15), max_length=5).split()) == 5
    with pytest.raises(ValueError, match=r"max_length: at least 5 is needed for special tokens, .* \(got 4\)"):
        processor.encode_post(NEW_YORK, (7, 15), max_length=4)
    with pytest.raises(ValueError, match=r"max_length: at least 7 is needed .* \(got 6\)"):
        processor.encode_post(NEW_YORK, [(7, 15), (0, 1)], max_length=6)
    with pytest.raises(ValueError, match=r"max_length: at least 3 is needed for a label \(got 2\)"):
        processor.encode_candidates(["a"], max_length=2)
    with pytest.raises(ValueError, match=r"max_length: a positive integer is needed \(got '9'\)"):
        processor.encode_post(NEW_YORK, (7, 15), max_length="9")


def test_the_tokenizers_limit_caps_max_length():
    tokenizer = bert()
    tokenizer.model_max_length = 10
    processor = MGVMoEProcessor(None, tokenizer, max_length=64)
    assert len(tokens(processor, "rain " * 50, (0, 4)).split()) == 10
    assert len(tokens(processor, "rain " * 50, (0, 4), max_length=20).split()) == 10
    assert len(tokens(processor, "rain " * 50, (0, 4), max_length=8).split()) == 8


# The reference's text processing


FIGURES = json.loads((Path(__file__).resolve().parents[1] / "fixtures" / "tokenize.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def reference_processor():
    vocab = {}
    for token in FIGURES["vocab"]:
        vocab[token] = len(vocab)  # "##s" is listed twice and ends with the id of "rain", as in the reference
    tokenizer = BertTokenizer(vocab=vocab, do_lower_case=True, strip_accents=True)
    return MGVMoEProcessor(None, tokenizer, max_length=FIGURES["max_length"])


def reference_post(sample):
    if "pos" in sample:
        return sample["sentence"], tuple(sample["pos"]), [sample["mask_in_index"]]
    text, offsets = MGVMoEProcessor.words_to_text(sample["tokens"])
    spans = [MGVMoEProcessor.word_span_to_char_span(offsets, sample[name]) for name in ("head", "tail")]
    return text, spans, [sample["head_in_index"], sample["tail_in_index"]]


# The reference cuts these two after max_length tokens and loses a mention or its closing marker.
CUT = {("MET", 4), ("MRE", 1)}
KEPT = [
    (task, number)
    for task in ("MET", "MRE")
    for number in range(len(FIGURES[task]["samples"]))
    if (task, number) not in CUT
]


@pytest.mark.parametrize(("task", "number"), KEPT)
def test_posts_equal_the_reference(reference_processor, task, number):
    sample = FIGURES[task]["samples"][number]
    text, mentions, positions = reference_post(sample)
    batch = reference_processor(text=text, mentions=mentions, padding="max_length")
    assert batch["input_ids"] == [sample["ids"]]
    assert batch["mention_positions"] == [positions]


@pytest.mark.parametrize(
    ("task", "number", "kept"),
    [
        ("MET", 4, "[CLS] " + "rain " * 19 + "[unused1] man [unused2] [SEP]"),
        (
            "MRE",
            1,
            "[CLS] [unused2] the [unused4] rain the rain the rain the rain the the rain the rain the rain the rain "
            "[unused1] man [unused3] [SEP]",
        ),
    ],
)
def test_difference_posts_are_windowed_where_the_reference_cuts_a_mention_off(reference_processor, task, number, kept):
    sample = FIGURES[task]["samples"][number]
    text, mentions, positions = reference_post(sample)
    assert max(positions) >= FIGURES["max_length"] - 1  # at or behind the reference's cut
    batch = reference_processor(text=text, mentions=mentions)
    vocab = {token: number for token, number in reference_processor.tokenizer.get_vocab().items() if token != "##s"}
    names = {number: token for token, number in vocab.items()}
    assert [names[token] for token in batch["input_ids"][0]] == kept.split()


def test_difference_one_unknown_token_for_an_unknown_word(reference_processor):
    # The reference gives one [UNK] for each unknown character; the library's WordPiece one for the whole word.
    found = tokens(reference_processor, "\u2602\u2603 rain", (3, 7))
    assert found.startswith("[CLS] [UNK] [unused1] ")


@pytest.mark.parametrize("task", ["MET", "MRE"])
def test_labels_equal_the_reference(reference_processor, task):
    for figures in FIGURES[task]["labels"]:
        batch = reference_processor.encode_candidates([figures["label"]], max_length=figures["max_len"])
        (ids,) = batch["candidate_input_ids"]
        assert ids + [0] * (figures["max_len"] - len(ids)) == figures["ids"]


# Batches


def test_batch_of_typing_and_relation_posts(processor):
    batch = processor(
        text=[NEW_YORK, "rain man"],
        mentions=[(7, 15), [(0, 4), (5, 8)]],
        images=[None, Image.new("RGB", (5, 3), "white")],
        candidate_labels=["city", "person"],
        return_tensors="pt",
    )
    plain = [name for name in processor.model_input_names if not name.startswith(("type_", "image_text_"))]
    assert list(batch) == [n for n in plain if n not in ("candidate_index", "candidate_mask", "candidate_types")]
    assert batch["input_ids"].shape == (2, 9) and batch["input_ids"].dtype == torch.int64
    assert batch["attention_mask"].sum(-1).tolist() == [9, 8]
    assert batch["mention_positions"].tolist() == [[3, -1], [1, 4]]
    assert batch["pixel_values"].shape == (2, 3, 8, 8) and batch["pixel_values"].dtype == torch.float32
    assert batch["pixel_values"][0].abs().sum() == 0
    assert torch.all(batch["pixel_values"][1] == 1)  # white, by ViT's mean and deviation of 0.5
    assert batch["image_mask"].dtype == torch.bool and batch["image_mask"].tolist() == [False, True]
    assert batch["candidate_input_ids"].shape == batch["candidate_attention_mask"].shape == (2, 8)
    assert batch["candidate_attention_mask"].sum(-1).tolist() == [6, 8]


def test_one_post_has_the_batch_axis(processor):
    batch = processor(text="rain man", mentions=(0, 4), images=Image.new("L", (4, 4)), return_tensors="np")
    assert batch["input_ids"].shape == (1, 6) and batch["mention_positions"].tolist() == [[1]]
    assert batch["image_mask"].dtype == bool and isinstance(batch["pixel_values"], np.ndarray)
    assert list(processor(None, "rain man", (0, 4))) == processor.model_input_names[:3]


def test_posts_are_the_same_alone_and_in_a_batch(any_processor):
    texts, mentions = [NEW_YORK, "rain man"], [(7, 15), [(0, 4), (5, 8)]]
    batch = any_processor(text=texts, mentions=mentions)
    for row, (text, spans) in enumerate(zip(texts, mentions, strict=True)):
        alone = any_processor.encode_post(text, spans)
        length = len(alone["input_ids"])
        assert batch["input_ids"][row][:length] == alone["input_ids"]
        assert batch["attention_mask"][row] == [1] * length + [0] * (len(batch["input_ids"][row]) - length)
        assert batch["mention_positions"][row][: len(alone["mention_positions"])] == alone["mention_positions"]


def test_padding_is_always_on_the_right():
    tokenizer = bert()
    tokenizer.padding_side = "left"
    batch = MGVMoEProcessor(None, tokenizer)(text=["rain", "rain man"], mentions=[(0, 4), (0, 4)])
    assert batch["attention_mask"] == [[1, 1, 1, 1, 1, 0], [1] * 6]
    assert batch["mention_positions"] == [[1], [1]]


def test_kinds_of_padding(processor):
    posts = {"text": ["rain", "rain man"], "mentions": [(0, 4), (0, 4)]}
    assert [len(row) for row in processor(**posts, padding=False)["input_ids"]] == [5, 6]
    assert [len(row) for row in processor(**posts, padding="max_length", max_length=9)["input_ids"]] == [9, 9]
    assert [len(row) for row in processor(**posts, padding="max_length")["input_ids"]] == [128, 128]
    with pytest.raises(ValueError, match=r"padding: it is needed with return_tensors \(input_ids has rows of"):
        processor(**posts, padding=False, return_tensors="pt")


@pytest.mark.parametrize(
    ("text", "span", "whole"),
    [
        ("the cafe\u0301 rain", (4, 8), (4, 9)),
        ("in \U0001f1eb\U0001f1f7 rain", (4, 5), (3, 5)),
        ("I \u2764\ufe0f rain", (2, 3), (2, 4)),
    ],
)
@pytest.mark.parametrize("style", ["markers", "prefix"])
def test_markers_go_around_the_whole_of_what_a_reader_sees_as_a_character(text, span, whole, style):
    for name in (
        "roberta",
        "deberta",
    ):  # whose vocabularies have these characters, or a token for each that is unknown
        processor = MGVMoEProcessor(None, TOKENIZERS[name](), mention_style=style)
        assert processor.encode_post(text, span) == processor.encode_post(text, whole)
        assert processor.encode_post(text, [span, "rain"]) == processor.encode_post(text, [whole, "rain"])


def test_words_with_spans_of_characters(processor):
    words = [["I", "love", "New", "York", "today"], ["rain"]]
    batch = processor(text=words, mentions=[(7, 15), (0, 4)], is_split_into_words=True)
    assert batch["input_ids"] == processor(text=[NEW_YORK, "rain"], mentions=[(7, 15), (0, 4)])["input_ids"]
    alone = processor(text=words[0], mentions=(7, 15), is_split_into_words=True)
    assert alone["input_ids"] == batch["input_ids"][:1]


def test_lists_without_return_tensors(processor):
    batch = processor(text="rain", mentions=(0, 4), images=[Image.new("RGB", (2, 2))], candidate_labels=[["a"]])
    assert isinstance(batch["input_ids"][0][0], int)
    assert batch["image_mask"] == [True] and batch["candidate_mask"] == [[True]]
    assert batch["pixel_values"][0].shape == (3, 8, 8)


def test_only_images_or_only_labels(processor):
    batch = processor(images=[None, np.zeros((4, 4), np.uint8)], return_tensors="pt")
    assert list(batch) == ["pixel_values", "image_mask"] and batch["image_mask"].tolist() == [False, True]
    assert list(processor(candidate_labels=["a"])) == ["candidate_input_ids", "candidate_attention_mask"]
    assert list(processor(images=[None])) == []


def test_arguments_of_the_image_processor(processor):
    drawing = Image.new("RGB", (4, 4))
    size = {"height": 6, "width": 5}
    assert processor(images=drawing, size=size)["pixel_values"][0].shape == (3, 6, 5)
    assert processor(images=drawing, images_kwargs={"size": size})["pixel_values"][0].shape == (3, 6, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "text: at least one of text, images and candidate_labels is needed"),
        ({"mentions": (0, 1), "images": [None]}, r"mentions: they need the text they are in \(got text=None\)"),
        ({"text": "rain"}, r"mentions: every post needs one span \(typing\) or two \(head, tail\) \(got None\)"),
        ({"text": ["rain"], "mentions": [None]}, r"mentions\[0\]: one span .* are needed \(got None\)"),
        ({"text": ["rain", "man"], "mentions": [(0, 4), (0, 4)]}, r"mentions\[1\]: 0 <= start < end <= 3"),
        ({"text": ["a", "b"], "mentions": [(0, 1)]}, r"mentions: 2 are needed, one entry for each text \(got 1\)"),
        ({"text": ["a", 5], "mentions": [(0, 1), (0, 1)]}, r"text\[1\]: a string is needed \(got int\)"),
        ({"text": "a \ud83d", "mentions": (0, 1)}, r"text\[0\]: it holds half of a surrogate pair"),
        ({"text": "rain rain", "mentions": "rain"}, r"mentions\[0\]: the words 'rain' .* \(got 2 times"),
        ({"text": "a", "mentions": (0, 1), "images": [None, None]}, r"images: 1 are needed, .* text \(got 2\)"),
        ({"images": [None, "gone.png"]}, r"images\[1\]: cannot read image 'gone.png'"),
        ({"text": "a", "mentions": (0, 1), "candidate_labels": [["a"], ["b"]]}, r"candidate_labels: 1 lists are"),
        ({"candidate_labels": ["a", "a"]}, r"labels must be distinct \(got twice: 'a'\)"),
        ({"candidate_labels": []}, "candidate_labels: a non-empty list of labels is needed"),
        ({"candidate_labels": ["\u200b"]}, "candidate_labels: the tokenizer makes no token of label"),
        ({"candidate_labels": ["a"], "hypothesis_template": "x"}, "hypothesis_template: a string with exactly one"),
        ({"candidate_labels": ["a"], "label_descriptions": {"a": ""}}, r"label_descriptions\['a'\]: a non-empty"),
        ({"candidate_labels": ["a"], "return_tensors": "tf"}, r"return_tensors: 'pt', 'np' or None .*\(got 'tf'\)"),
    ],
)
def test_wrong_calls(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(**arguments)


def test_unknown_keyword(processor):
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'mention'"):
        processor(text="rain", mention=(0, 4))


def test_processor_without_image_processor():
    processor = MGVMoEProcessor(None, bert())
    assert list(processor(text="rain", mentions=(0, 4), images=None)) == list(processor.model_input_names[:3])
    assert "pixel_values" not in processor(text="rain", mentions=(0, 4), images=[None])
    with pytest.raises(ValueError, match="images: this processor has no image_processor"):
        processor(images=Image.new("RGB", (2, 2)))
    with pytest.raises(ValueError, match="image_processor: a processor without one cannot be saved"):
        processor.save_pretrained("never-written")


# Posts processed one by one


def test_arrays_of_paths_are_several_images(processor, tmp_path):
    paths = []
    for colour in ("red", "blue"):
        paths.append(str(tmp_path / f"{colour}.png"))
        Image.new("RGB", (8, 8), colour).save(paths[-1])
    expected = processor(text=["rain", "rain"], mentions=[(0, 4)] * 2, images=paths, return_tensors="pt")
    for given in (np.array(paths), np.array(paths, dtype=object), pd.Series(paths, dtype="category")):
        found = processor(text=["rain", "rain"], mentions=[(0, 4)] * 2, images=given, return_tensors="pt")
        assert torch.equal(found["pixel_values"], expected["pixel_values"])


def test_pad_posts_keeps_a_shared_image_once(processor):
    post = processor.encode_post("rain again", (0, 4))
    sun, moon = np.full((3, 8, 8), 0.5, np.float32), np.full((3, 8, 8), 0.25, np.float32)
    posts = [{**post, "pixel_values": drawing} for drawing in (moon, sun, moon.copy())] + [post]
    batch = processor.pad_posts(posts, return_tensors="pt", share_images=True)
    assert batch["pixel_values"].shape == (2, 3, 8, 8)
    assert batch["image_index"].tolist() == [0, 1, 0, 0] and batch["image_mask"].tolist() == [True] * 3 + [False]
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [0.25, 0.5]
    distinct = processor.pad_posts(posts[:2], return_tensors="pt", share_images=True)
    assert "image_index" not in distinct and distinct["pixel_values"].shape == (2, 3, 8, 8)
    with pytest.warns(FutureWarning, match="share_pictures"):
        old = processor.pad_posts(posts, return_tensors="pt", share_pictures=True)
    assert torch.equal(old["pixel_values"], batch["pixel_values"])
    assert processor.pad_posts(posts, return_tensors="pt")["pixel_values"].shape == (4, 3, 8, 8)


def test_pad_posts_takes_lists_arrays_and_tensors(processor):
    first = processor.encode_post(NEW_YORK, (7, 15))
    second = {name: torch.tensor(values) for name, values in processor.encode_post("rain", [(0, 4), (1, 3)]).items()}
    second["pixel_values"] = torch.ones(3, 8, 8)
    second["attention_mask"] = second["attention_mask"].numpy()
    batch = processor.pad_posts([first, second], return_tensors="pt")
    assert batch["mention_positions"].tolist() == [[3, -1], [1, 3]]
    assert batch["image_mask"].tolist() == [False, True]
    assert batch["pixel_values"].shape == (2, 3, 8, 8)
    assert processor.pad_posts([first], pad_to_multiple_of=8, return_tensors="np")["input_ids"].shape == (1, 16)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "features: at least one post is needed"),
        ([{"input_ids": [1], "attention_mask": [1]}], r"features\[0\]: mention_positions is missing"),
        (
            [{"input_ids": [1], "labels": 0}],
            r"features: only input_ids, .* can be padded .*'labels'",
        ),
        (
            [{"pixel_values": np.zeros((3, 2, 2))}, {"pixel_values": np.zeros((3, 2, 4))}],
            r"pixel_values: images of one size are needed \(got \[\(3, 2, 2\), \(3, 2, 4\)\]\)",
        ),
    ],
)
def test_wrong_features(processor, features, message):
    with pytest.raises(ValueError, match=message):
        processor.pad_posts(features)


# Candidates


def test_candidates_with_template_and_descriptions(processor):
    options = {"label_descriptions": {"city": "new york", "other": "x"}, "hypothesis_template": "love {} today"}
    assert processor.candidate_texts(["city", "man"], **options) == [("love new york today",), ("love man today",)]
    batch = processor(candidate_labels=["city", "man"], **options)
    names = [processor.tokenizer.convert_ids_to_tokens(row) for row in batch["candidate_input_ids"]]
    assert names == [
        ["[CLS]", "love", "new", "york", "today", "[SEP]"],
        ["[CLS]", "love", "man", "today", "[SEP]", "[PAD]"],
    ]
    own = MGVMoEProcessor(None, bert(), hypothesis_template="new {}")
    assert own.candidate_texts(["rain"]) == [("new rain",)]


def test_candidates_per_post(processor):
    batch = processor(
        text=["rain", "man"],
        mentions=[(0, 4), (0, 3)],
        candidate_labels=[["york", "rain"], ["man", "york "]],
        return_tensors="pt",
    )
    shared = processor(candidate_labels=["york", "rain", "man"], return_tensors="pt")
    assert torch.equal(batch["candidate_input_ids"], shared["candidate_input_ids"])
    assert batch["candidate_mask"].tolist() == [[True, True, False], [True, False, True]]
    assert batch["candidate_mask"].dtype == torch.bool
    assert "candidate_mask" not in shared


def test_long_labels_are_cut(processor):
    batch = processor.encode_candidates(["rain " * 500, "man"], max_length=6, return_tensors="pt")
    assert batch["candidate_input_ids"].shape == (2, 6)
    assert batch["candidate_input_ids"][0, -1] == processor.tokenizer.sep_token_id


def test_post_process(processor):
    labels = [["york", "rain"], ["man", "york"]]
    logits = torch.tensor([[0.0, 2.0, 9.0], [1.0, 9.0, 0.0]])  # columns york, rain, man
    found = processor.post_process_zero_shot_ie(logits, labels, top_k=1)
    assert [[entry["label"] for entry in row] for row in found] == [["rain"], ["york"]]


def test_decode_goes_to_the_tokenizer(processor):
    ids = processor.encode_post("rain man", (0, 4))["input_ids"]
    assert processor.decode(ids) == processor.tokenizer.decode(ids)


# Saving and loading


@pytest.fixture
def auto_class(monkeypatch):
    monkeypatch.setattr(MGVMoEProcessor, "_auto_class", None)
    MGVMoEProcessor.register_for_auto_class("AutoProcessor")


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_save_and_load(tmp_path, image_processor, name, auto_class):
    saved = MGVMoEProcessor(image_processor, TOKENIZERS[name](), **SETTINGS)
    drawing = Image.linear_gradient("L")
    expected = saved(**SAMPLE, images=drawing, return_tensors="pt")
    saved.save_pretrained(tmp_path)
    loaded = MGVMoEProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    for setting in ("max_length", "hypothesis_template", "typing_markers", "relation_markers", "vocabulary_size"):
        assert getattr(loaded, setting) == getattr(saved, setting)
    found = loaded(**SAMPLE, images=drawing, return_tensors="pt")
    assert set(found) == set(expected)
    for key in expected:
        assert torch.equal(found[key], expected[key]), key


def test_settings_can_be_changed_on_loading(tmp_path, processor):
    processor.save_pretrained(tmp_path)
    assert MGVMoEProcessor.from_pretrained(tmp_path, max_length=20).max_length == 20
