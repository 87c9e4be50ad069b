"""Whole datasets: several to train on, and another to test on, all of whose classes are new."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from comparison import fewer_posts

from modeling_mgvmoe.data.conll import complete_label_set, multimodal_ner_files, read_crossner, read_multimodal_ner
from modeling_mgvmoe.data.crossre import crossre_files, read_crossre
from modeling_mgvmoe.data.fewrel import fewrel_files, read_fewrel
from modeling_mgvmoe.data.label_sets import LabelSet, read_label_set
from modeling_mgvmoe.data.mnre import mnre_files, read_mnre
from modeling_mgvmoe.data.post_images import read_captions
from modeling_mgvmoe.data.splits import SPLITS
from modeling_mgvmoe.data.zero_shot_data import ZeroShotData, combine_data

LABELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "configuration", "labels")
DOMAINS = ("politics", "science", "ai")
# A label set and posts whose labels are its classes.
Pool = tuple[LabelSet, list[dict[str, Any]]]


def _labels(name: str) -> LabelSet:
    return read_label_set(os.path.join(LABELS, f"{name}.json"))


def _pool(label_set: LabelSet, posts: Iterable[dict[str, Any]]) -> Pool:
    """Leaves out the posts that have no class, or one that takes no part."""
    return label_set, [post for post in posts if post["label"] not in (*label_set.left_out, label_set.none)]


def _crossner(folder: str) -> dict[str, Pool]:
    by_domain, _ = read_crossner(folder, DOMAINS)
    tags = (post["label"] for posts in by_domain.values() for post in posts)
    label_set, known = complete_label_set(_labels("crossner"), tags)
    return {
        f"crossner_{domain}": _pool(label_set, ({**post, "label": known[post["label"]]} for post in posts))
        for domain, posts in by_domain.items()
    }


def _fewrel(folder: str) -> dict[str, Pool]:
    return {"fewrel": _pool(_labels("fewrel"), read_fewrel(fewrel_files(folder, "nyt"))[0])}


def _mnre(folder: str) -> dict[str, Pool]:
    return {"mnre": _pool(_labels("mnre"), read_mnre(mnre_files(folder))[0])}


def _twitter10000(folder: str) -> dict[str, Pool]:
    captions = [os.path.join(folder, "captions", name) for name in ("BLIP2_15.txt", "BLIP2_17.txt")]
    posts, _ = read_multimodal_ner(multimodal_ner_files(folder), None, read_captions(captions), "fine")
    return {"twitter10000": _pool(_labels("twitter10000"), posts)}


def _crossre(folder: str) -> dict[str, Pool]:
    # Its types are CrossNER's.
    return {"crossre": _pool(_labels("crossre"), read_crossre(crossre_files(folder, DOMAINS))["relation"][0])}


READERS: dict[str, Callable[[str], dict[str, Pool]]] = {
    "crossner": _crossner, "fewrel": _fewrel, "mnre": _mnre, "twitter10000": _twitter10000, "crossre": _crossre
}  # fmt: skip


def read_pools(folders: Mapping[str, str]) -> dict[str, Pool]:
    """All posts of some datasets; CrossNER is a dataset for each of its domains.

    Args:
        folders: by name of [`READERS`]; only FewRel's news are read.
    """
    return {name: pool for dataset, folder in folders.items() for name, pool in READERS[dataset](folder).items()}


def seen_data(pool: Pool, posts_per_class: int) -> ZeroShotData:
    """Some posts of each class to train on, one each to watch, and the classes that have posts."""
    label_set, posts = pool
    chosen = label_set.in_words(fewer_posts(posts, posts_per_class))
    return _data(label_set, chosen, train=chosen, validation=fewer_posts(chosen, 1))


def _data(
    label_set: LabelSet, posts: Sequence[Mapping[str, Any]], **splits: Sequence[Mapping[str, Any]]
) -> ZeroShotData:
    """The splits that are given, with the classes of `posts` as candidates of each."""
    names = {label_set.task: tuple(dict.fromkeys(post["label"] for post in posts))}
    return ZeroShotData(
        posts={split: splits.get(split, []) for split in SPLITS},
        labels=dict.fromkeys(SPLITS, names),
        label_descriptions={name: text for name, text in label_set.texts().items() if name in names[label_set.task]},
        label_types=label_set.allowed_types(),
        type_descriptions=label_set.type_texts(),
        unseen=False,
    )


def leave_one_out(pools: Mapping[str, Pool], left_out: str, posts_per_class: int, test_posts: int) -> ZeroShotData:
    """Train on all datasets but one and test on that one.

    No text of the test is in training (MNRE and Twitter10000 share tweets, CrossNER and CrossRE sentences), and no
    class whose name is one of the test's.

    Args:
        pools: by name.
        left_out: name, or the part of it before "_": "crossner" leaves out all of its domains.
        posts_per_class: the most that are trained on.
        test_posts: the most that are tested on of each dataset, drawn at random.
    """
    is_test = {name: name.partition("_")[0] == left_out for name in pools}
    tests = {}
    for name in (name for name in pools if is_test[name]):
        label_set, posts = pools[name]
        drawn = random.Random(0).sample(posts, min(test_posts, len(posts)))
        tests[name] = _data(label_set, label_set.in_words(posts), test=label_set.in_words(drawn))
    texts = {post["text"] for data in tests.values() for post in data.posts["test"]}
    names = {label for data in tests.values() for own in data.labels["test"].values() for label in own}
    parts = {}
    for name, (label_set, posts) in pools.items():
        if is_test[name]:
            continue
        kept = [
            post for post in posts
            if post["text"] not in texts and label_set.classes[post["label"]].name not in names
        ]  # fmt: skip
        parts[name] = seen_data((label_set, kept), posts_per_class)
    data = combine_data({**parts, **tests})
    seen, new = (
        {name: own for name, own in data.labels["train"].items() if name.partition("/")[0] in kept}
        for kept in (parts, tests)
    )
    return replace(data, labels={"train": seen, "validation": seen, "test": new})
