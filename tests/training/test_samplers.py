from collections import Counter

import pytest
import torch

from modeling_mgvmoe.training.arguments import TrainingArguments
from modeling_mgvmoe.training.samplers import ClassBalancedSampler, From, ShuffledSampler, training_sampler


def test_class_balanced_sampler():
    classes = ["rare"] * 2 + ["common"] * 50 + ["usual"] * 10
    drawn = list(ClassBalancedSampler(classes, 6000, seed=1))
    assert len(drawn) == len(ClassBalancedSampler(classes, 6000, seed=1)) == 6000
    # Binomial with p = 1/3: standard deviation 37.
    counts = Counter(classes[index] for index in drawn)
    assert set(counts) == {"rare", "common", "usual"}
    assert all(abs(count - 2000) < 150 for count in counts.values())
    # Within a class every post alike, with replacement: 1000 each for the rare ones, 40 for the common ones.
    posts = Counter(drawn)
    assert set(posts) == set(range(len(classes)))
    assert all(abs(posts[index] - 1000) < 120 for index in (0, 1))
    assert all(abs(posts[index] - 40) < 30 for index in range(2, 52))


def test_samplers_are_repeatable_and_differ_by_seed():
    for make in (
        lambda seed: ClassBalancedSampler("aabbb", 40, seed),
        lambda seed: ShuffledSampler(5, 40, seed),
    ):
        first = list(make(1))
        torch.rand(3)
        assert list(make(1)) == first
        assert list(make(2)) != first


def test_shuffled_sampler_takes_every_post_once_per_epoch():
    drawn = list(ShuffledSampler(5, 13, seed=0))
    assert len(drawn) == 13
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == list(range(5))
    assert len(set(drawn[10:])) == 3
    assert drawn[:5] != drawn[5:10]


def test_samplers_from_the_middle():
    for sampler in (ClassBalancedSampler("aabbb", 40, 1), ShuffledSampler(5, 40, 1)):
        whole = list(sampler)
        for start in (0, 1, 17, 40):
            assert list(From(sampler, start)) == whole[start:]
            assert len(From(sampler, start)) == 40 - start


def test_classes_in_turn():
    classes = ["rare"] * 2 + ["common"] * 50 + ["usual"] * 10
    drawn = list(ClassBalancedSampler(classes, 3 * 20 + 1, seed=1, in_turn=True))
    rounds = [tuple(classes[index] for index in drawn[start : start + 3]) for start in range(0, 60, 3)]
    assert all(set(names) == {"rare", "common", "usual"} for names in rounds) and len(drawn) == 61
    assert len(set(rounds)) > 2  # in a new order every round
    assert len(set(drawn)) > 15  # and a new post
    assert list(ClassBalancedSampler(classes, 0, seed=1, in_turn=True)) == []


# 12 posts of 4 labels of either task.
POSTS = [
    {"task": task, "label": label} for task, label in zip(["typing", "relation"] * 12, "abcdefgh" * 3, strict=True)
]


def test_arguments_of_sampling():
    with pytest.raises(ValueError, match="class_order must be one of drawn, in_turn, got 'both'"):
        TrainingArguments(class_order="both")
    with pytest.raises(ValueError, match="class_order: 'in_turn' needs class_balanced, got class_balanced False"):
        TrainingArguments(class_order="in_turn", class_balanced=False)
    in_turn = training_sampler(POSTS, TrainingArguments(class_order="in_turn"), 16)
    # 8 pairs of task and label, each twice in two rounds.
    assert set(Counter((POSTS[index]["task"], POSTS[index]["label"]) for index in in_turn).values()) == {2}


def test_datasets_alike():
    posts = [{"task": "a/typing", "dataset": "a/typing", "label": f"c{index % 3}"} for index in range(9)]
    posts += [{"task": "b/relation", "dataset": "b/relation", "label": "d"} for _ in range(100)]
    drawn = list(training_sampler(posts, TrainingArguments(), 4000))
    counts = Counter((posts[index]["dataset"], posts[index]["label"]) for index in drawn)
    # Half to each dataset, and a sixth of all to each class of the first: standard deviations 32 and 24.
    assert abs(counts["b/relation", "d"] - 2000) < 130
    assert all(abs(counts["a/typing", f"c{index}"] - 667) < 100 for index in range(3))
    with pytest.raises(ValueError, match="class_order"):
        training_sampler(posts, TrainingArguments(class_order="in_turn"), 4)
