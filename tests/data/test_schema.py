"""The schema of posts: columns, the check of one post, and what is counted."""

from dataclasses import asdict

import pytest

from modeling_mgvmoe.data.schema import (
    OPTIONAL_COLUMNS,
    Counts,
    char_span,
    check_choice,
    keep_post,
    post_features,
    task_of,
    validate_post,
)
from modeling_mgvmoe.spans import words_to_text

POST = {"id": "a", "text": "Kelo greets Mura", "mentions": [[0, 4]], "label": "boat", "image": None, "source": "own"}


def test_a_post_is_checked_and_its_task_told():
    validate_post(POST)
    validate_post({**POST, "mentions": [(0, 4), (0, 16)], "image_text": "a boat", "candidate_labels": ["boat"]})
    assert task_of(POST) == "typing" and task_of({**POST, "mentions": [[0, 4], [12, 16]]}) == "relation"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 3}, "here: post 3: id .*3"),
        ({"text": " "}, "post 'a': text .*' '"),
        ({"label": None}, "post 'a': label .*None"),
        ({"text": "Kelo \ud800"}, "post 'a': text"),
        ({"mentions": []}, "post 'a': mentions"),
        ({"mentions": [[0, 4]] * 3}, "post 'a': mentions"),
        ({"mentions": [[0, 17]]}, r"post 'a': mentions\[0\]"),
        ({"mentions": [[0, 4], [4, 4]]}, r"post 'a': mentions\[1\]"),
        ({"candidate_labels": ["boat", ""]}, "post 'a': candidate_labels"),
        ({"image_text": [3]}, "post 'a': image_text"),
    ],
)
def test_what_breaks_the_schema_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        validate_post({**POST, **change}, "here")


def test_columns():
    assert set(post_features()) == set(POST)
    assert set(post_features(*OPTIONAL_COLUMNS)) == {*POST, *OPTIONAL_COLUMNS}
    with pytest.raises(ValueError, match="optional .*'colour'"):
        post_features("colour")
    with pytest.raises(ValueError, match="colour must be one of 1, 'red', got 2"):
        check_choice("colour", 2, (1, "red"))


def test_a_span_that_does_not_fit_is_refused_or_left_out():
    counts, bad = Counts("typing"), {**POST, "mentions": [[0, 99]]}
    assert keep_post(POST, "here", "error", counts) and not keep_post(bad, "here", "skip", counts)
    assert counts.bad_spans == ["a"]
    with pytest.raises(ValueError, match=r"here: post 'a': mentions\[0\]"):
        keep_post(bad, "here", "error", counts)
    with pytest.raises(ValueError, match="label"):  # nothing else is left out in silence
        keep_post({**bad, "label": ""}, "here", "skip", counts)


def test_spans_of_words():
    text, offsets = words_to_text(["Kelo", "greets", "Mura"])
    assert char_span((1, 3), offsets) == [5, 16]
    for words in ((-1, 2), (2, 4), (2, 2)):
        start, end = char_span(words, offsets)
        assert (start, end) == (0, len(text) + 1)


def test_counts_in_words():
    counts = Counts("relation")
    counts.count_posts([{"label": label} for label in ("greets", "None", "greets", "chases")], "None")
    assert (counts.records, counts.none, counts.classes) == (4, 1, {"greets": 2, "chases": 1})
    counts.bad_spans = [f"post-{number}" for number in range(7)]
    assert "4 records (1 without a relation, 2 relations)" in str(counts) and "and 2 more" in str(counts)
    assert asdict(counts)["classes"] == counts.classes
