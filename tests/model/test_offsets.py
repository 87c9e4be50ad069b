"""`return_offsets_mapping`: which characters of the post each token stands for."""

import pytest

from modeling_mgvmoe.processing_mgvmoe import MGVMoEProcessor
from modeling_mgvmoe.spans import name_mentions, origins_of_named
from tests.support.small_tokenizers import TOKENIZERS

TEXTS = [
    ("I love New York today", (7, 15)),
    ("  New York,  in (York) \n New ", (17, 21)),
    ("New York in", [(4, 11), (0, 8)]),  # overlapping
    ("NewYork", [(3, 7), (0, 3)]),  # touching
    ("in [SEP] York</s> <m1>[unused1]", (9, 13)),  # words that look like special tokens
]


def tokens_of(processor, text, mentions, **options):
    found = processor.encode_post(text, mentions, return_offsets_mapping=True, **options)
    offsets = found.pop("offset_mapping")
    assert found == processor.encode_post(text, mentions, **options)
    names = processor.tokenizer.convert_ids_to_tokens(found["input_ids"])
    return list(zip(names, offsets, strict=True))


def written(name):
    """The letters that a token of plain ASCII spells."""
    return name.removeprefix("##").replace("\u2581", "").replace("\u0120", "").replace("\u010a", "").strip()


@pytest.mark.parametrize("style", ["markers", "prefix"])
@pytest.mark.parametrize("text, mentions", TEXTS)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_each_token_stands_for_what_it_spells(kind, text, mentions, style):
    processor = MGVMoEProcessor(None, TOKENIZERS[kind](), mention_style=style)
    added = {*processor.typing_markers, *processor.relation_markers}
    added |= set(processor.tokenizer.all_special_tokens) - {processor.tokenizer.unk_token}
    covered = set()
    for name, (start, end) in tokens_of(processor, text, mentions):
        if name in added or (start, end) == (0, 0):
            assert (start, end) == (0, 0)
            # Put in by the processor: special tokens, markers, and between names and post " and " and ": ".
            assert name in added or written(name) == ":" or written(name) in "and" or "unk" in name.lower()
            continue
        covered.update(range(start, end))
        if name != processor.tokenizer.unk_token and written(name):
            assert written(name).lower() == text[start:end].strip().lower()
    assert {place for place, char in enumerate(text) if not char.isspace()} <= covered


def test_a_window_keeps_the_places():
    processor = MGVMoEProcessor(None, TOKENIZERS["bert"]())
    text = "rain " * 30 + "york" + " man" * 30
    found = tokens_of(processor, text, (150, 154), max_length=11)
    assert [text[slice(*span)] for _, span in found] == [
        "",
        "rain",
        "rain",
        "rain",
        "",
        "york",
        "",
        "man",
        "man",
        "man",
        "",
    ]
    assert found[5][1] == (150, 154)


def test_names_before_the_post_come_from_the_mentions():
    text, spans = "a big  town of Kelo", [(15, 19), (2, 11)]
    named, _ = name_mentions(text, spans)
    assert named == "Kelo and big town: a big  town of Kelo"
    origins = origins_of_named(text, spans)
    assert len(origins) == len(named)
    put_in = "".join(char for char, origin in zip(named, origins, strict=True) if origin is None)
    assert put_in == " and  : "  # " and ", the one space in "big town", ": "
    assert all(origin is None or text[origin] == char for char, origin in zip(named, origins, strict=True))
    assert origins[:4] == [15, 16, 17, 18] and origins[9:17] == [2, 3, 4, None, 7, 8, 9, 10]
