"""Head and tail: what the benchmark asks, on posts of our own."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WORDS = {"head_role": ("father or mother", "A parent."), "tail_role": ("son or daughter",)}
PARENT = {"name": "parent of", "description": "", "inverse": "child of", **WORDS}


@pytest.fixture(scope="module")
def direction():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("direction_benchmark", BENCHMARKS / "direction.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def posts(number):
    return [{"id": str(row), "text": f"Kelo raised Mura {row}", "mentions": [[0, 4], [12, 16]], "label": "parent of"}
            for row in range(number)]  # fmt: skip


def test_each_pair_is_asked_about_both_ways_round(direction):
    info = direction.LabelInfo(**PARENT)
    data = direction.directed_data({"train": {info: posts(1)}, "validation": {}, "test": {}})
    one, turned = data.posts["train"]
    assert (one["label"], one["mentions"]) == ("parent of", [[0, 4], [12, 16]])
    assert (turned["label"], turned["mentions"]) == ("child of", [[12, 16], [0, 4]])
    assert data.labels["train"] == {"parent of": ("parent of", "child of")}
    # The roles of one are those of the other, turned round.
    assert data.label_types == {
        "parent of": (("parent of",), ("child of",)),
        "child of": (("child of",), ("parent of",)),
    }


def test_roles_have_words(direction):
    info = direction.LabelInfo(**PARENT)
    assert direction.roles_of(info) == {"parent of": WORDS["head_role"], "child of": WORDS["tail_role"]}
    named = {"parent of": ("parent of the other",), "child of": ("child of the other",)}
    assert direction.roles_of(info, "name") == named
    with pytest.raises(ValueError, match="head_role"):
        direction.roles_of(direction.LabelInfo("parent of", "", inverse="child of"))
    data = direction.directed_data({"train": {info: posts(1)}, "validation": {}, "test": {}})
    assert data.type_descriptions == direction.roles_of(info)


def test_no_text_is_trained_on_and_held_out(direction):
    twice = posts(40) + [{**post, "id": f"again-{post['id']}"} for post in posts(40)]
    own, held = direction.divide(twice, 80)
    assert len(own) + len(held) == 80 and 4 <= len(held) <= 36
    assert not {post["text"] for post in own} & {post["text"] for post in held}


def test_relations_of_crossre(direction, tmp_path):
    # Entities and relations by word, the end inclusive.
    record = {"sentence": ["Kelo", "belongs", "to", "Mura"], "ner": [[0, 0, "misc"], [3, 3, "misc"]],
              "relations": [[0, 0, 3, 3, "part-of", "", False, False]]}  # fmt: skip
    for part in ("train", "dev", "test"):
        (tmp_path / f"ai-{part}.json").write_text(json.dumps({**record, "doc_key": f"ai-{part}-1"}) + "\n")
    found, judged = direction.read_posts("crossre", str(tmp_path))
    ((info, own),) = found.items()
    assert info.inverse and info.name in judged
    assert len(own) == 3 and {post["label"] for post in own} == {"part-of"}


def test_balanced_accuracy_is_a_half_where_order_changes_nothing(direction, monkeypatch):
    info = direction.LabelInfo(**PARENT)
    monkeypatch.setattr(direction, "encode_splits", lambda data, *rest, **more: (
        {"test": [{**post, "task": post["dataset"]} for post in data.posts["test"]]}, {"test": None}))  # fmt: skip

    class Model:
        def eval(self):
            return self

    for answer_of, expected in (
        (lambda post: "parent of", 0.5),
        (lambda post: post["label"], 1.0),
        (lambda post: "child of" if post["label"] == "parent of" else "parent of", 0.0),
    ):
        monkeypatch.setattr(
            direction, "predict_labels", lambda model, own, collator, f=answer_of: [f(one) for one in own]
        )
        assert direction.measured(Model(), None, {info: posts(6)}) == {"parent of": (expected, 6)}
