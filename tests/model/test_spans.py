import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset

from modeling_mgvmoe.spans import (
    Marker,
    Segment,
    as_list,
    check_span,
    is_absent,
    mentions_of,
    read_batch,
    read_mentions,
    split_at_mentions,
    splits_character,
    whole_characters,
    window,
    word_span_to_char_span,
    words_to_text,
)


def layout(text, *spans):
    """Writes the pieces of a post in one line: `[0` and `0]` are the markers of mention 0, `~` means joined."""
    written = []
    for piece in split_at_mentions(text, spans):
        if isinstance(piece, Marker):
            written.append(f"[{piece.mention}" if piece.opening else f"{piece.mention}]")
        else:
            written.append(f"'{'~' if piece.joined else ''}{piece.text}'")
    return " ".join(written)


def test_words_and_spans_of_words():
    text, offsets = words_to_text(["Lionel", "Messi", "plays"])
    assert text == "Lionel Messi plays"
    assert offsets == [(0, 6), (7, 12), (13, 18)]
    assert word_span_to_char_span(offsets, (0, 2)) == (0, 12)
    assert word_span_to_char_span(offsets, np.array([2, 3])) == (13, 18)
    assert words_to_text([]) == ("", [])


@pytest.mark.parametrize("span", [(0, 0), (2, 1), (0, 3), (-1, 1)])
def test_span_of_words_outside_of_the_post(span):
    with pytest.raises(ValueError, match=r"span: 0 <= first < end <= 2 words is needed \(got"):
        word_span_to_char_span([(0, 1), (2, 3)], span)


@pytest.mark.parametrize("words", ["abc", ["a", 1], [None]])
def test_words_that_are_not_words(words):
    with pytest.raises(ValueError, match="words: a list of strings is needed"):
        words_to_text(words)


@pytest.mark.parametrize("mentions", [(0, 3), [0, 3], [(0, 3)], [[0, 3]], np.array([0, 3]), np.array([[0, 3]])])
def test_one_span_is_typing(mentions):
    assert read_mentions(mentions, "New York") == [(0, 3)]


def test_two_spans_are_head_and_tail_in_this_order():
    assert read_mentions([(4, 8), (0, 3)], "New York") == [(4, 8), (0, 3)]
    assert read_mentions([np.array([4, 8]), (np.int64(0), np.int32(3))], "New York") == [(4, 8), (0, 3)]


@pytest.mark.parametrize(
    ("mentions", "message"),
    [
        ([], r"mentions\[2\]: one span \(typing\) or two \(head, tail\) are needed \(got \[\]\)"),
        (None, "one span .* are needed .got None"),
        ([(0, 1), (1, 2), (2, 3)], r"are needed \(got 3\)"),
        ((0, 3.0), r"a span is two integers \(start, end\) \(got \[?\(?0, 3.0"),
        ((False, True), "a span is two integers"),
        ((0, 1, 2), "a span is two integers"),
        ([(0, 3), 4], r"a span is two integers \(start, end\) \(got 4\)"),
        (5, "one span .* are needed .got 5"),
        ("ab", r"mentions\[2\]: the words 'ab' must occur once in the text \(got 0 times, in 'New York'"),
        (" ", r"mentions\[2\]: the words of a mention are needed \(got ' '\)"),
        ({"start": 0}, "'start' and 'end' are needed"),
        ({"start": 0, "end": True}, "a span is two integers"),
        ((torch.tensor(True), torch.tensor(3)), "a span is two integers"),
        ((np.float64(0), np.int64(3)), "a span is two integers"),
        ((torch.tensor([0]), torch.tensor([3])), "a span is two integers"),
        ((3, 3), r"mentions\[2\]: 0 <= start < end <= 8 \(text length\) is needed \(got \(3, 3\)\)"),
        ((-3, 2), r"0 <= start < end <= 8 .* \(got \(-3, 2\)\)"),
        ((4, 9), r"0 <= start < end <= 8 .* \(got \(4, 9\)\)"),
        ((3, 4), r"mentions\[2\]: span \(3, 4\) covers only white space: 'New\[ \]York'"),
    ],
)
def test_wrong_mentions(mentions, message):
    with pytest.raises(ValueError, match=message):
        read_mentions(mentions, "New York", "mentions[2]")


def test_span_of_invisible_characters():
    with pytest.raises(ValueError, match="covers only white space"):
        check_span("a \u200b\t b", (2, 4))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("cafe\u0301", 4),  # combining acute
        ("\u2764\ufe0f", 1),  # heart and variation selector
        ("1\ufe0f\u20e3", 2),  # keycap
        ("\U0001f469\u200d\U0001f4bb", 1),  # woman, joiner, laptop
        ("\U0001f469\u200d\U0001f4bb", 2),
        ("\U0001f44d\U0001f3fd", 1),  # thumb and skin tone
        ("\U0001f1e6\U0001f1f7", 1),  # flag of Argentina
        ("\U0001f1e6\U0001f1f7\U0001f1e7\U0001f1f7", 3),  # second of two flags
        ("\U0001f3f4\U000e0067\U000e007f", 1),  # flag made of tags
        ("\u0915\u093e", 1),  # Devanagari vowel sign
        ("\u0628\u064e", 1),  # Arabic vowel mark
        ("\u1112\u1161\u11ab", 2),  # Korean letters, decomposed
    ],
)
def test_places_inside_a_character(text, place):
    assert splits_character(text, place)
    # The span is as given, the markers go around the whole character.
    assert check_span(text, (0, place)) == (0, place)
    start, end = whole_characters(text, (place, len(text)))
    assert start < place and end == len(text) and not splits_character(text, start)
    end = whole_characters(text, (0, place))[1]
    assert end > place and not splits_character(text, end)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("cafe\u0301s", 5),
        ("\U0001f1e6\U0001f1f7\U0001f1e7\U0001f1f7", 2),  # between two flags
        ("a\U0001f1e6\U0001f1f7", 1),
        ("\U0001f469\U0001f4bb", 1),  # two emoji, not joined
        ("\u0d28\u0d4d\u200d word", 3),  # a Malayalam word may end in a joiner
        ("word \ufe0f", 5),  # a selector after a space has nothing to select
        ("\u5317\u4eac", 1),
        ("ab", 0),
        ("ab", 2),
    ],
)
def test_places_between_characters(text, place):
    assert not splits_character(text, place)


def test_bounds_move_to_those_of_the_whole_character_and_no_further():
    assert whole_characters("aCafe\u0301s", (5, 7)) == (4, 7)
    assert whole_characters("aCafe\u0301s", (1, 5)) == (1, 6)
    assert whole_characters("aCafe\u0301s", (1, 4)) == (1, 4)


SPAN_OF_NEW = [
    (0, 3), [0, 3], (np.int64(0), np.int32(3)), [np.array(0), np.array(3)], np.array([0, 3], dtype=np.uint8),
    (torch.tensor(0), torch.tensor(3)), torch.tensor([0, 3]), tuple(np.array([[0, 3]])[0]), pd.Series([0, 3]),
    {"start": 0, "end": 3}, {"start": np.int64(0), "end": torch.tensor(3), "score": 0.5}, "New",
]  # fmt: skip


@pytest.mark.parametrize("span", SPAN_OF_NEW, ids=repr)
def test_every_form_of_a_span_is_the_same_span_alone_in_a_list_and_in_a_pair(span):
    assert check_span("New York", span) == (0, 3)
    assert read_mentions(span, "New York") == read_mentions([span], "New York") == [(0, 3)]
    assert read_mentions([span, (4, 8)], "New York") == [(0, 3), (4, 8)]
    assert read_mentions(("York", span), "New York") == [(4, 8), (0, 3)]


def test_words_must_occur_once_and_the_message_says_how_often():
    assert check_span("anna", "nna") == (1, 4)
    with pytest.raises(ValueError, match=r"m: the words 'aa' .* \(got 2 times, at 0, 1; give \(start, end\)"):
        check_span("aaa", "aa", "m")


def test_gaps_of_a_table_are_absent():
    assert all(map(is_absent, (None, "", float("nan"), np.float32("nan"), pd.NA)))
    assert not any(map(is_absent, (0, 0.0, " ", [], np.array([]), (0, 4), "a")))


def test_sequences_of_any_kind_are_lists():
    column = Dataset.from_list([{"a": [0, 1]}, {"a": [1, 2]}])["a"]
    for given in ([[0, 1], [1, 2]], ((0, 1), (1, 2)), np.array([[0, 1], [1, 2]]), torch.tensor([[0, 1], [1, 2]]),
                  pd.Series([[0, 1], [1, 2]]), column):  # fmt: skip
        assert [list(one) for one in as_list(given)] == [[0, 1], [1, 2]]
        assert [list(one) for one in read_batch(pd.Series(["ab", "cd"]), given)[1]] == [[0, 1], [1, 2]]
    assert [as_list(one) for one in ("ab", b"ab", {"a": 1}, 3, np.array(3), None)] == [None] * 6
    assert read_batch(np.array(["a", "b"]), "b", is_split_into_words=True) == (["a b"], ["b"])


POST = {"text": "Kelo sails", "mention": (0, 4)}


def test_unknown_columns_are_ignored_and_named_once():
    with pytest.warns(UserWarning, match=r"'imgae' \(did you mean 'image'\?\), 'likes_7'; known: text, image"):
        assert mentions_of({**POST, "likes_7": 3, "imgae": None}) == (0, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mentions_of({"imgae": 1, **POST, "likes_7": 4}) == (0, 4)
        assert mentions_of({**POST, "head": float("nan"), "tail": "", "mentions": None}) == (0, 4)
    with pytest.warns(UserWarning, match="'likes_8'"):
        mentions_of({**POST, "likes_8": 3})


def test_space_before_a_boundary_goes_behind_the_marker():
    assert layout("I love New York today", (7, 15)) == "'I love' [0 ' New York' 0] ' today'"
    assert layout("I love New York today", (6, 16)) == "'I love' [0 ' New York' 0] ' today'"
    assert layout("a  \n New\t York", (5, 8)) == "'a' [0 ' New' 0] ' York'"


def test_joined_segments_know_it():
    assert layout("(York)s", (1, 5)) == "'(' [0 '~York' 0] '~)s'"
    assert layout("playing", (4, 7)) == "'play' [0 '~ing' 0]"


def test_space_around_the_post_is_dropped():
    assert layout("  York \n", (2, 6)) == "[0 'York' 0]"
    assert layout("  York \n", (0, 8)) == "[0 'York' 0]"
    assert layout("  in York ", (5, 9)) == "'in' [0 ' York' 0]"


def test_nested_overlapping_touching_and_identical_mentions():
    # The reference's order for words Rain man, head [0,2), tail [1,2).
    assert layout("Rain man", (0, 8), (5, 8)) == "[0 'Rain' [1 ' man' 0] 1]"
    assert layout("Rain man", (5, 8), (0, 8)) == "[1 'Rain' [0 ' man' 0] 1]"
    assert layout("a b c", (0, 3), (2, 5)) == "[0 'a' [1 ' b' 0] ' c' 1]"
    assert layout("Rain", (0, 4), (0, 4)) == "[0 [1 'Rain' 0] 1]"
    assert layout("Rain man", (0, 4), (5, 8)) == "[0 'Rain' 0] [1 ' man' 1]"
    assert layout("Rain man", (5, 8), (0, 4)) == "[1 'Rain' 1] [0 ' man' 0]"
    assert layout("Rainman", (0, 4), (4, 7)) == "[0 'Rain' 0] [1 '~man' 1]"
    assert layout("Rain man", (0, 5), (4, 8)) == "[0 'Rain' 0] [1 ' man' 1]"  # overlap in the space only


def test_pieces_hold_the_whole_post():
    text = "one two three four"
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            if text[start:end].strip():
                pieces = split_at_mentions(text, [(start, end), (4, 7)])
                assert "".join(piece.text for piece in pieces if isinstance(piece, Segment)) == text
                assert sum(isinstance(piece, Marker) for piece in pieces) == 4


def test_window_keeps_everything_that_fits():
    assert window(5, [(1, 3)], 5) == [0, 1, 2, 3, 4]


def test_window_order_of_importance():
    # 0 1 2 [3 4 5 6] 7 8: markers, then the mention from its start, then the left and right neighbours in turn.
    grown = [set(window(9, [(3, 6)], budget)) for budget in range(2, 10)]
    assert grown[0] == {3, 6}
    assert [(after - before).pop() for before, after in zip(grown, grown[1:], strict=False)] == [4, 5, 2, 7, 1, 8, 0]


def test_window_around_two_far_mentions():
    # Mentions 0-2 and 97-99 of 100 tokens: both stay, the middle goes.
    assert window(100, [(0, 2), (97, 99)], 10) == [0, 1, 2, 3, 4, 95, 96, 97, 98, 99]
    # An odd budget leaves the tie to the token on the left of its mention.
    assert window(100, [(0, 2), (97, 99)], 7) == [0, 1, 2, 96, 97, 98, 99]


def test_window_of_a_mention_longer_than_the_budget():
    assert window(50, [(0, 49)], 5) == [0, 1, 2, 3, 49]


def test_window_of_nested_mentions():
    # [0 a b [1 c d 1] e 0]: offsets count from the nearer start.
    assert window(9, [(0, 8), (3, 6)], 6) == [0, 1, 3, 4, 6, 8]


def test_window_too_small_for_the_markers():
    with pytest.raises(ValueError, match=r"budget: at least 4 tokens, the markers, are needed \(got 3\)"):
        window(9, [(0, 1), (2, 3)], 3)


def test_read_batch():
    assert read_batch("ab", (0, 1)) == (["ab"], [(0, 1)])
    assert read_batch(["ab", "cd"], [(0, 1), [(0, 1), (1, 2)]]) == (["ab", "cd"], [(0, 1), [(0, 1), (1, 2)]])
    assert read_batch(["a", "b"], (0, 1), is_split_into_words=True) == (["a b"], [(0, 1)])
    assert read_batch([["a", "b"], ["c"]], [(0, 1), (0, 1)], is_split_into_words=True)[0] == ["a b", "c"]
    assert read_batch(["ab", "cd"], np.array([[0, 1], [1, 2]]))[1] == [[0, 1], [1, 2]]


@pytest.mark.parametrize(
    ("text", "mentions", "message"),
    [
        ([], [], r"text: a post or a non-empty list of posts is needed \(got \[\]\)"),
        (5, (0, 1), r"text: a post or a non-empty list of posts is needed \(got 5\)"),
        ("ab", None, "mentions: every post needs one span"),
        (["ab", "cd"], [(0, 1)], r"mentions: 2 are needed, one entry for each text \(got 1\)"),
        (["ab", "cd"], 3, r"mentions: 2 are needed, one entry for each text \(got 3\)"),
    ],
)
def test_wrong_batches(text, mentions, message):
    with pytest.raises(ValueError, match=message):
        read_batch(text, mentions)
