"""Properties that hold for every input: spans, windows, markers, masks, label sets and adapters.

`make fuzz` runs them on many more generated inputs (`MGVMOE_EXAMPLES` of each property, of new seeds).
"""

import os
import tempfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeling_mgvmoe.data.conll import read_conll
from modeling_mgvmoe.data.mnre import read_mnre
from modeling_mgvmoe.data.wikidiverse import read_wikidiverse
from modeling_mgvmoe.labels import check_labels
from modeling_mgvmoe.spans import (
    Marker,
    check_span,
    name_mentions,
    origins_of_named,
    split_at_mentions,
    window,
    word_span_to_char_span,
    words_to_text,
)
from tests.support.from_scratch import LABELS, scratch_model

EXAMPLES = int(os.environ.get("MGVMOE_EXAMPLES", "15"))


def property_of(**inputs):
    """A test over generated inputs: the same ones in `make test`, new ones in `make fuzz`."""

    def decorate(test):
        quiet = settings(
            max_examples=EXAMPLES,
            derandomize="MGVMOE_EXAMPLES" not in os.environ,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        return quiet(given(**inputs)(test))

    return decorate


CHARACTERS = st.one_of(
    st.sampled_from(" \n\te\u0301\u200d\u200f\u05d0\u0627\U0001f1eb\U0001f1f7\U0001f469\U0001f467\ufe0f\0a.B[]<>"),
    st.characters(exclude_categories=["Cs"]),
)
MARKERS = st.sampled_from(["<m>", "[E1]", "[SEP]", "[CLS]", "[PAD]", "[MASK]", "[ENT]", "</s>", "[UNK]"])
TEXTS = st.lists(st.one_of(CHARACTERS, MARKERS, st.just("Kelo ")), min_size=1, max_size=30).map("".join)
PLACES = st.integers(-3, 40)
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=8).filter(
    lambda word: word.split() == [word]
)


def checked_spans(text, pairs):
    """Those of the pairs that are spans of the text."""
    found = []
    for pair in pairs:
        try:
            found.append(check_span(text, pair))
        except ValueError as error:
            assert "mentions: " in str(error)
    return found


@property_of(text=TEXTS, pairs=st.lists(st.tuples(PLACES, PLACES), min_size=1, max_size=2))
def test_spans_and_markers(text, pairs):
    spans = checked_spans(text, pairs)
    for start, end in spans:
        assert 0 <= start < end <= len(text)
        assert text[start:end].strip()
    pieces = split_at_mentions(text, spans)
    # The text is whole but for its white space, every mention has one opening marker and then one closing one.
    assert "".join("".join(p.text for p in pieces if not isinstance(p, Marker)).split()) == "".join(text.split())
    for number, (start, end) in enumerate(spans):
        opening, closing = pieces.index(Marker(number, True)), pieces.index(Marker(number, False))
        inside = "".join(p.text for p in pieces[opening:closing] if not isinstance(p, Marker))
        assert "".join(inside.split()) == "".join(text[start:end].split())
    for piece in pieces:
        if not isinstance(piece, Marker):
            assert text[piece.start :].startswith(piece.text.lstrip())


@property_of(text=TEXTS, pairs=st.lists(st.tuples(PLACES, PLACES), min_size=1, max_size=2))
def test_named_mentions(text, pairs):
    spans = checked_spans(text, pairs)
    longer, named = name_mentions(text, spans)
    origins = origins_of_named(text, spans)
    assert len(origins) == len(longer)
    assert all(place is None or longer[at] == text[place] for at, place in enumerate(origins))
    for (start, end), (own, later) in zip(spans, named, strict=True):
        assert longer[slice(*later)] == text[start:end]
        assert longer[slice(*own)] == " ".join(text[start:end].split())


@property_of(length=st.integers(4, 60), places=st.lists(st.integers(0, 59), min_size=4, max_size=4, unique=True),
             budget=st.integers(0, 60))  # fmt: skip
def test_windows(length, places, budget):
    places = sorted(place % length for place in places)
    mentions = [(places[0], places[1]), (places[2], places[3])]
    markers = {place for mention in mentions for place in mention}
    if budget < len(markers):
        with pytest.raises(ValueError, match="budget: at least"):
            window(length, mentions, budget)
        return
    kept = window(length, mentions, budget)
    assert kept == sorted(set(kept))
    assert len(kept) == min(length, budget)
    assert markers <= set(kept) <= set(range(length))


@property_of(words=st.lists(WORDS, min_size=1, max_size=9), pair=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_words(words, pair):
    text, offsets = words_to_text(words)
    assert [text[start:end] for start, end in offsets] == words
    if pair[0] < pair[1] <= len(words):
        start, end = word_span_to_char_span(offsets, pair)
        assert text[start:end] == " ".join(words[pair[0] : pair[1]])
    else:
        with pytest.raises(ValueError, match="is needed"):
            word_span_to_char_span(offsets, pair)


@property_of(labels=st.lists(st.one_of(st.text(max_size=4), st.none(), st.integers()), max_size=6))
def test_label_lists(labels):
    names = [label.strip() if isinstance(label, str) else label for label in labels]
    good = labels and all(isinstance(name, str) and name for name in names) and len(set(names)) == len(names)
    if good:
        assert check_labels(labels) == labels
    else:
        with pytest.raises(ValueError, match="candidate_labels: "):
            check_labels(labels)


MODEL, PROCESSOR = scratch_model()


@property_of(text=TEXTS, pairs=st.lists(st.tuples(PLACES, PLACES), min_size=1, max_size=2))
def test_masks_and_forged_markers(text, pairs):
    spans = checked_spans(text, pairs)
    if not spans:
        return
    inputs = PROCESSOR(text=["Kelo sails", text], mentions=[[(0, 4)], spans], candidate_labels=LABELS)
    rows, masks = inputs["input_ids"], inputs["attention_mask"]
    for row, mask in zip(rows, masks, strict=True):
        assert sorted(mask, reverse=True) == list(mask)  # padding is at the end
        assert len(row) == len(mask) <= 48
    positions = [place for place in inputs["mention_positions"][1] if place >= 0]
    assert len(positions) == len(spans)
    assert all(masks[1][place] == 1 for place in positions)
    # Each special token stands as often as the processor put it there, whatever the post spells.
    tokenizer = PROCESSOR.tokenizer
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id, tokenizer.pad_token_id}
    plain = PROCESSOR(text="Kelo " * len(spans), mentions=[(5 * n, 5 * n + 4) for n in range(len(spans))],
                      candidate_labels=LABELS)["input_ids"][0]  # fmt: skip
    assert sorted(t for t in rows[1] if t in special) == sorted(t for t in plain if t in special)


@property_of(sentences=st.lists(st.lists(st.tuples(WORDS, st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y"])),
             min_size=1, max_size=6), min_size=1, max_size=4))  # fmt: skip
def test_conll(sentences):
    sentences = [[(word, tag) for word, tag in sentence if word != "-DOCSTART-"] for sentence in sentences]
    content = "\n\n".join("\n".join(f"{word}\t{tag}" for word, tag in sentence) for sentence in sentences)
    posts, _ = read(read_conll, content)
    covered = sum(len(post["text"][slice(*post["mentions"][0])].split(" ")) for post in posts)
    assert covered == sum(tag != "O" for sentence in sentences for _, tag in sentence)
    assert all(post["label"] in ("x", "y") for post in posts)


@property_of(words=st.lists(WORDS, min_size=1, max_size=9), pairs=st.tuples(*[st.integers(-1, 9)] * 4))
def test_mnre(words, pairs):
    head, tail = pairs[:2], pairs[2:]
    record = {
        "token": words,
        "h": {"pos": list(head)},
        "t": {"pos": list(tail)},
        "img_id": "a.jpg",
        "relation": "None",
    }
    if all(0 <= first < end <= len(words) for first, end in (head, tail)):
        (post,), _ = read(read_mnre, repr(record))
        found = [post["text"][slice(*span)] for span in post["mentions"]]
        assert found == [" ".join(words[slice(*span)]) for span in (head, tail)]
    else:
        with pytest.raises(ValueError, match=r"line 1: .: span: 0 <= first < end"):
            read(read_mnre, repr(record))


@property_of(text=TEXTS, pair=st.tuples(PLACES, PLACES))
def test_wikidiverse(text, pair):
    import json

    start, end = pair
    mention = text[max(0, start) : max(0, end)] or "Kelo"
    content = json.dumps([[text, None, "t", [[mention, "People", start, end, ""]]]])
    if not text.strip() or not mention.strip():
        with pytest.raises(ValueError, match="record 1"):
            read(read_wikidiverse, content)
        return
    posts, counts = read(read_wikidiverse, content)
    assert len(posts) + len(counts.bad_spans) == 1
    if posts:
        assert posts[0]["text"] == text
        assert posts[0]["text"][slice(*posts[0]["mentions"][0])].strip() == mention.strip()


def read(reader, content):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "train.txt")
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(content)
        return reader(path)


@property_of(seed=st.integers(0, 2**31 - 1), order=st.permutations(range(4)))
def test_scores_follow_their_labels(seed, order):
    # Another order of the labels, and only the order of the scores changes.
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(4, 32, generator=generator)
    inputs = PROCESSOR(text="Kelo sails", mentions=(0, 4), return_tensors="pt")
    with torch.no_grad():
        one = MODEL(**inputs, candidate_embeds=embeds).logits
        other = MODEL(**inputs, candidate_embeds=embeds[list(order)]).logits
    assert torch.equal(one[:, list(order)], other)  # to the last bit, on every processor
