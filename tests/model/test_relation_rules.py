import pytest
import torch

from modeling_mgvmoe.extraction import RelationRules

pytestmark = pytest.mark.numerical

LABELS = ["married to", "employs", "works for", "lives in"]
RULES = {"symmetric": ["married to"], "inverses": {"employs": "works for"}}
INF = float("inf")


def test_readings_of_one_statement_get_their_mean():
    rules = RelationRules(LABELS, **RULES)
    forward, backward = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([5.0, 6.0, 7.0, 8.0])
    one, other = rules.average_readings(forward, backward)
    # married to: (1 + 5) / 2 in both; a employs b = b works for a: (2 + 7) / 2; a works for b = b employs a:
    # (3 + 6) / 2; lives in: untouched.
    assert one.tolist() == [3.0, 4.5, 4.5, 4.0]
    assert other.tolist() == [3.0, 4.5, 4.5, 8.0]
    forward, backward = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([5.0, 6.0, 8.0, 8.0])
    one, other = rules.average_readings(forward, backward)
    assert one[1] == other[2] == 5.0 and one[2] == other[1] == 4.5
    # Draws: a leading axis changes nothing.
    stacked, _ = rules.average_readings(forward.expand(2, 4), backward.expand(2, 4))
    assert torch.equal(stacked, one.expand(2, 4))


def test_without_rules_nothing_is_averaged():
    rules = RelationRules(LABELS)
    forward, backward = torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    one, other = rules.average_readings(forward, backward)
    assert torch.equal(one, forward) and torch.equal(other, backward)
    assert rules.answer(forward, backward) == (int(forward.argmax()), int(backward.argmax()))


@pytest.mark.parametrize(
    ("forward", "backward", "answers"),
    [
        # Both say "married to".
        ([0.6, 0.1, 0.1, 0.2], [0.6, 0.1, 0.1, 0.2], (0, 0)),
        # a employs b (0.7) is surer than b lives in a (0.5): b works for a.
        ([0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.4, 0.5], (1, 2)),
        # b lives in a (0.8) is surer than that a employs b (0.4); that a lives in b, too, cannot be.
        ([0.1, 0.4, 0.2, 0.3], [0.05, 0.05, 0.1, 0.8], (-1, 3)),
        # The surer one is the other direction and symmetric.
        ([0.3, 0.1, 0.1, 0.4], [0.9, 0.0, 0.0, 0.1], (0, 0)),
        # Neither is said in both directions: the less sure one takes its next best.
        ([0.1, 0.1, 0.1, 0.7], [0.1, 0.1, 0.2, 0.6], (3, -1)),
    ],
)
def test_answers_do_not_contradict_each_other(forward, backward, answers):
    rules = RelationRules(LABELS, **RULES)
    assert rules.answer(torch.tensor(forward), torch.tensor(backward)) == answers
    # Turned round, the same.
    assert rules.answer(torch.tensor(backward), torch.tensor(forward)) == answers[::-1]


def test_a_direction_may_be_left_without_an_answer():
    rules = RelationRules(LABELS[:3] + ["lives in"], **RULES)
    # One relation, not symmetric: it holds the way round that is surer, and nothing is left for the other.
    assert RelationRules(["lives in"]).answer(torch.tensor([0.4]), torch.tensor([0.5])) == (-1, 0)
    # "lives in" is not open to the first direction (0), which wanted "employs".
    assert rules.answer(torch.tensor([0.1, 0.5, 0.4, 0.0]), torch.tensor([0.1, 0.1, 0.1, 0.7])) == (-1, 3)


def test_constraints():
    rules = RelationRules(
        LABELS, {"lives in": ("person", ["city", "country"]), "employs": ("firm", "person")}, **RULES
    )
    names = lambda head, tail: [name for name, fits in zip(LABELS, rules.may_join(head, tail), strict=True) if fits]  # noqa: E731
    assert names("person", "city") == ["married to", "lives in"]
    assert names("city", "person") == ["married to"]
    # A constraint of one relation holds, turned round, for its inverse.
    assert names("firm", "person") == ["married to", "employs"]
    assert names("person", "firm") == ["married to", "works for"]
    # A mention of no type fits no constraint.
    assert names("person", None) == names(None, None) == ["married to"]


def test_both_constraints_of_inverse_relations_hold():
    rules = RelationRules(["a", "b"], {"a": ("x", "y"), "b": (["y", "z"], "x")}, inverses={"a": "b"})
    assert rules.may_join("x", "y").tolist() == [True, False]
    assert rules.may_join("y", "x").tolist() == [False, True]
    assert rules.may_join("z", "x").tolist() == [False, False]


def test_a_symmetric_relation_takes_its_types_in_any_order():
    rules = RelationRules(["near"], {"near": ("house", "tree")}, symmetric=["near"])
    assert rules.may_join("house", "tree").item() and rules.may_join("tree", "house").item()
    assert not rules.may_join("tree", "tree").item()


def test_a_constraint_allows_what_is_below_its_type():
    rules = RelationRules(["lives in"], {"lives in": ("person", "place>city")}, separator=">")
    rules.check_types(["person > politician", "place > city > capital", "place > river"])
    assert rules.may_join("person > politician", "place > city > capital").item()
    assert not rules.may_join("person > politician", "place > river").item()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"symmetric": "married to"}, "symmetric: a list of relations is needed \\(got 'married to'\\)"),
        ({"symmetric": ["likes"]}, "symmetric: relations must be of relation_labels \\(got 'likes'\\)"),
        ({"inverses": ["employs"]}, "inverses: a dict of relation to relation is needed"),
        ({"inverses": {"employs": "likes"}}, "inverses: relations must be of relation_labels \\(got 'likes'\\)"),
        ({"inverses": {"employs": "employs"}}, "inverses: 'employs' is its own inverse; name it in symmetric"),
        ({"inverses": {"employs": "works for", "works for": "lives in"}}, "a relation has one inverse"),
        ({"inverses": {"employs": "works for"}, "symmetric": ["employs"]}, "one inverse and is not symmetric"),
        ({"constraints": {"likes": ("a", "b")}}, "relation_constraints: relations must be of relation_labels"),
        ({"constraints": {"employs": "a"}}, "relation_constraints\\['employs'\\]: types of the head and types of the"),
        ({"constraints": ["employs"]}, "relation_constraints: a dict of label to"),
    ],
)
def test_bad_rules(arguments, message):
    with pytest.raises(ValueError, match=message):
        RelationRules(LABELS, **arguments)


def test_types_that_no_mention_gets():
    rules = RelationRules(LABELS, {"employs": ("firm", "persn")})
    with pytest.raises(ValueError, match="relation_constraints: types must be typing labels \\(got 'persn'\\)"):
        rules.check_types(["firm", "person"])
