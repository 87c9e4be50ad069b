"""Parts of a graph, and what gets into their tables."""

import math

import pytest

from modeling_mgvmoe.graph.runner import answers_of
from modeling_mgvmoe.graph.shards import Part, RowError, all_parts, share


def test_shares_are_neighbouring_parts_and_leave_none_out():
    parts = all_parts(103, 10)
    assert parts[0] == Part(0, 10) and parts[-1] == Part(100, 103) and len(parts) == 11
    for number in (1, 2, 3, 11, 20):
        assert [part for index in range(number) for part in share(parts, index, number)] == parts


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"head": 0, "tail": 2, "label": "greets", "score": 0.5, "scores": []},
            "must be between two of 2 mentions",
        ),
        (
            {"head": 0, "tail": 1, "label": "greets", "score": math.nan, "scores": []},
            "scores must be finite, got nan",
        ),
    ],
)
def test_what_is_no_answer_gets_into_no_table(entry, message):
    def careless(posts):
        mentions = [{"start": 0, "end": 4, "text": "Kelo"}] * 2
        return [{"id": "1", "text": "Kelo", "mentions": mentions, "relations": [entry]}]

    (answer,) = answers_of(careless, [{}])
    with pytest.raises(RowError, match=message):
        raise answer
