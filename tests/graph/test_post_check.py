"""Ids that occur twice."""

import random

from modeling_mgvmoe.graph.post_check import find_duplicates


def test_duplicates_are_those_of_a_dictionary(tmp_path):
    draw = random.Random(1)
    kinds = (None, draw.randrange, "{}".format, "row-{}".format, "\0{}".format)
    ids = [kind and kind(draw.randrange(1, 900)) for kind in draw.choices(kinds, k=1000)]
    ids[5], ids[6] = 1.5, 1.5  # no ids: their rows are refused for that
    first, expected = {}, []
    for row, one in enumerate(ids):
        if not isinstance(one, float):
            name = f"row-{row}" if one is None else str(one)
            if name in first:
                expected.append([row, first[name]])
            first.setdefault(name, row)
    assert find_duplicates(enumerate(ids), str(tmp_path)).tolist() == expected
    assert len(expected) > 100 and not list(tmp_path.iterdir())
    assert find_duplicates([], str(tmp_path)).shape == (0, 2)
