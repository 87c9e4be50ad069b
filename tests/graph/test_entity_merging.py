"""Which mentions are one entity."""

import pytest

from modeling_mgvmoe.graph.entity_merging import entity_key, normalised_name


@pytest.mark.parametrize(
    ("mention", "name"),
    [
        ("Kelo", "kelo"),
        ("@Kelo_Mar's ", "kelo_mar"),
        ("“Dunvik   UNITED”,", "dunvik united"),
        ("#kelo", "kelo"),
        ("the Kelos’", "the kelos"),
        ("U.S.", "u.s"),
        ("ＫＥＬＯ ①", "kelo 1"),
        ("Straße", "strasse"),
        ("C++", "c"),
        ("!!", "!!"),
        ("'s", "s"),
    ],
)
def test_names_are_normalised(mention, name):
    assert normalised_name(mention) == name


def test_a_normalised_name_stays_as_it_is():
    for mention in ("@Kelo_Mar's ", "“Dunvik   UNITED”,", "#x's'", "a's's", "(b)'"):
        once = normalised_name(mention)
        assert normalised_name(once) == once


def test_types_keep_entities_apart_where_asked():
    assert entity_key("Paris", "city", "name") == entity_key("paris", "person", "name")
    assert entity_key("Paris", "city", "name_and_type") != entity_key("paris", "person", "name_and_type")
    with pytest.raises(ValueError, match="merging must be one of 'name', 'name_and_type', got 'id'"):
        entity_key("Paris", None, "id")
