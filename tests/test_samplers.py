from collections import Counter

import torch

from modeling_mgvmoe.training.samplers import ClassBalancedSampler, From, ShuffledSampler


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
