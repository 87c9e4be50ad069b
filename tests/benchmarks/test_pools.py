"""Datasets of which one is left out of training: nothing of its test may be seen, by text or by name."""

import pools
import pytest

from modeling_mgvmoe.data.label_sets import LabelInfo, LabelSet


def pool(task, classes, posts, none=None):
    """`classes`: names by the dataset's own; `posts`: texts and labels."""
    information = {raw: LabelInfo(name, f"A {name}.") for raw, name in classes.items()}
    label_set = LabelSet(
        "own", 1, task, information, none=none, none_info=LabelInfo("none", "None.") if none else None
    )
    mentions = [[0, 4]] if task == "typing" else [[0, 4], [5, 9]]
    rows = [{"id": f"{text}-{label}", "text": text, "mentions": mentions, "label": label, "image": None}
            for text, label in posts]  # fmt: skip
    return label_set, rows


@pytest.fixture
def own():
    return {
        "crossner_sea": pool("typing", {"B": "boat", "H": "harbour"}, [("Kelo sank", "B"), ("Mura dock", "H")]),
        "crossner_air": pool("typing", {"P": "plane"}, [("Vira flew", "P")]),
        "tweets": pool("typing", {"boat": "boat", "bird": "bird"},
                       [("Kelo sails", "boat"), *[(f"Fino sings {row}", "bird") for row in range(5)]]),
        "relations": pool("relation", {"on": "sails on", "in": "lies in"}, [("Kelo Mura", "on"), ("Vira flew", "in")]),
    }  # fmt: skip


def texts(data, split):
    return sorted(post["text"] for post in data.posts[split])


def test_no_text_and_no_class_of_the_test_is_trained_on(own):
    data = pools.leave_one_out(own, "crossner", posts_per_class=3, test_posts=10)
    assert texts(data, "test") == ["Kelo sank", "Mura dock", "Vira flew"]
    # Of the tweets "boat" is a class of the test; of the relations one has a text of the test.
    assert "Kelo Mura" in texts(data, "train") and "Vira flew" not in texts(data, "train")
    assert {post["label"] for post in data.posts["train"]} == {"bird", "sails on"}
    assert len(data.posts["train"]) == 3 + 1  # at most three of a class
    assert data.labels["train"] == {"tweets/typing": ("bird",), "relations/relation": ("sails on",)}
    assert data.labels["validation"] == data.labels["train"]
    assert data.labels["test"] == {
        "crossner_sea/typing": ("boat", "harbour"), "crossner_air/typing": ("plane",)
    }  # fmt: skip


def test_few_posts_are_tested_on_with_every_class_as_a_candidate(own):
    data = pools.leave_one_out(own, "tweets", posts_per_class=10, test_posts=1)
    assert len(data.posts["test"]) == 1
    assert set(data.labels["test"]["tweets/typing"]) == {"boat", "bird"}
    assert {post["label"] for post in data.posts["train"]} == {"harbour", "plane", "sails on", "lies in"}


def test_posts_of_no_class_take_no_part():
    label_set, rows = pool("relation", {"on": "sails on"}, [("Kelo Mura", "on"), ("Mura Kelo", "None")], none="None")
    assert [post["text"] for post in pools._pool(label_set, rows)[1]] == ["Kelo Mura"]
