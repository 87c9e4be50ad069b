"""The sketchbook: posts written and drawn from a seed, in which neither modality suffices alone.

Every class is made of three parts. Two of them can be seen only in the drawing, the third can be read only in the
sentence:

- entity typing, "colour shape kind": "red star boat";
- relations, "verb arrangement at time": "greets above at night".

With four values for each part there are 64 classes per task. Those held out for testing are four pairs of drawn parts,
each value in exactly one pair, times three of the four written parts: a test drawing fits three candidates and a test
sentence four, so the best accuracy is 1/3 from drawings alone, 1/4 from sentences alone, and 1 from both. The classes
held out for validation are built likewise on four other pairs, and all the remaining 40 are for training.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from .schema import task_of, validate_post
from .sketchbook_drawings import ARRANGEMENTS, FILLS, SHAPES, SKIES, draw_entity, draw_relation
from .sketchbook_words import (
    KIND_TEMPLATES,
    NEUTRAL_RELATION_TEMPLATES,
    NEUTRAL_TYPING_TEMPLATES,
    VERB_TEMPLATES,
    make_names,
    write_sentence,
)

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class SketchbookSplit:
    """Label names of one task. No label stands in two splits.

    Attributes:
        train: 40 labels.
        validation: 12 labels.
        test: 12 labels.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


MIN_IMAGE_SIZE = 16  # pixels; below this the outlines close up and a star looks like a circle

SPLITS = ("train", "validation", "test")
# "seen_test": other posts of the training classes, to test on seen classes.
POST_SPLITS = (*SPLITS, "seen_test")


@dataclass(frozen=True)
class _Task:
    """The three parts of a task's classes: two drawn, one written."""

    drawn: tuple[tuple[str, ...], tuple[str, ...]]
    templates: dict[str, tuple[str, ...]]  # by written part
    label: str

    def labels(self, pairs: Sequence[tuple[str, str]], written: Sequence[str]) -> tuple[str, ...]:
        return tuple(
            self.label.format(first=first, second=second, written=word)
            for (first, second), word in product(pairs, written)
        )

    def parts(self) -> dict[str, tuple[str, str, str]]:
        """From every label to its two drawn parts and its written part."""
        return {
            self.label.format(first=first, second=second, written=word): (first, second, word)
            for first, second, word in product(*self.drawn, self.templates)
        }


TASKS: dict[str, _Task] = {
    "typing": _Task((tuple(FILLS), SHAPES), KIND_TEMPLATES, "{first} {second} {written}"),
    "relation": _Task((ARRANGEMENTS, tuple(SKIES)), VERB_TEMPLATES, "{written} {first} at {second}"),
}


def label_parts(task: str, label: str) -> tuple[str, str, str]:
    """Take a label apart.

    Args:
        task: `"typing"` or `"relation"`.
        label: one of the 64 labels of that task.

    Returns:
        The two parts that only the drawing shows (colour and shape; arrangement and time), and the part that only the
        sentence tells (kind; verb).

    Raises:
        ValueError: if the task or the label is unknown.
    """
    parts = _task(task).parts()
    if label not in parts:
        raise ValueError(f"label must be a {task} label such as {next(iter(parts))!r}, got {label!r}")
    return parts[label]


def split_classes(task: str, seed: int) -> SketchbookSplit:
    """Divide the 64 labels of a task into 40 for training, 12 for validation and 12 for testing.

    Args:
        task: `"typing"` or `"relation"`.
        seed: draws which pairs of drawn parts, and which written part with them, are held out.

    Returns:
        The label names of each split.

    Raises:
        ValueError: if the task is unknown or the seed is not an integer.
    """
    spec = _task(task)
    rng = _stream(_integer("seed", seed), task, "classes")
    first, second = spec.drawn
    test_pairs = list(zip(first, rng.sample(second, len(second)), strict=True))
    while True:
        validation_pairs = list(zip(first, rng.sample(second, len(second)), strict=True))
        if not set(validation_pairs) & set(test_pairs):
            break
    # Each held-out pair is still drawn in training, with the one written part that is left to it. That part differs
    # between test and validation, so that training posts are spread more evenly over the written parts.
    test_left, validation_left = rng.sample(list(spec.templates), 2)
    test = spec.labels(test_pairs, [word for word in spec.templates if word != test_left])
    validation = spec.labels(validation_pairs, [word for word in spec.templates if word != validation_left])
    held_out = {*test, *validation}
    return SketchbookSplit(tuple(label for label in spec.parts() if label not in held_out), validation, test)


def generate_posts(
    task: str,
    split: str,
    *,
    seed: int = 0,
    labels: Sequence[str] | None = None,
    posts_per_class: int = 60,
    image_size: int = 64,
) -> list[dict[str, Any]]:
    """Write and draw the posts of one task and split.

    The same arguments give the same posts. Splits, labels, sentences and drawings draw on separate random streams: a
    change of `labels`, `posts_per_class` or `image_size` leaves the sentences of the other posts as they were.

    Args:
        task: `"typing"` (one mention per post) or `"relation"` (two: head, tail).
        split: `"train"`, `"validation"`, `"test"`, or `"seen_test"`: posts of the training labels that are not those
            of training.
        seed: of the classes of the split, the sentences and the drawings.
        labels: labels to use instead of those that `split_classes(task, seed)` gives to the split.
        posts_per_class: posts for each label.
        image_size: width and height of the drawings in pixels.

    Returns:
        Posts in the columns of `schema.post_features`, in shuffled order. `image` is an RGB `PIL.Image`.

    Raises:
        ValueError: if the task, the split or a label is unknown, if labels repeat, if `posts_per_class` is below 1 or
            `image_size` below 16.
    """
    spec = _task(task)
    if split not in POST_SPLITS:
        raise ValueError(f"split must be one of {', '.join(map(repr, POST_SPLITS))}, got {split!r}")
    _integer("seed", seed)
    _integer("posts_per_class", posts_per_class, minimum=1)
    _integer("image_size", image_size, minimum=MIN_IMAGE_SIZE)
    if labels is None:
        labels = getattr(split_classes(task, seed), "train" if split == "seen_test" else split)
    elif isinstance(labels, str) or len(set(labels)) != len(labels) or not labels:
        raise ValueError(f"labels must be a sequence of one or more different labels, got {labels!r}")

    posts = []
    for label in labels:
        first, second, word = label_parts(task, label)
        words = _stream(seed, task, split, label, "words")
        strokes = _stream(seed, task, split, label, "strokes")
        for _ in range(posts_per_class):
            names = make_names(words, count=1 if task == "typing" else 2)
            text, mentions = write_sentence(words, words.choice(spec.templates[word]), names)
            image = (
                draw_entity(strokes, first, second, image_size)
                if task == "typing"
                else draw_relation(strokes, first, second, image_size)
            )
            posts.append({"text": text, "mentions": mentions, "label": label, "image": image, "source": "sketchbook"})

    # Numbered after the shuffle: an id says nothing about the class.
    _stream(seed, task, split, "order").shuffle(posts)
    return [{"id": f"sketchbook-{task}-{split}-{seed}-{number:05d}", **post} for number, post in enumerate(posts)]


def load_sketchbook(
    seed: int = 0,
    posts_per_class: int = 60,
    eval_posts_per_class: int = 20,
    tasks: Sequence[str] = ("typing", "relation"),
    image_size: int = 64,
) -> datasets.DatasetDict:
    """Make the sketchbook as a data set. The labels of the three splits are disjoint.

    Args:
        seed: of the division of the classes, the sentences and the drawings.
        posts_per_class: posts for each of the 40 training labels of a task.
        eval_posts_per_class: posts for each of the 12 validation and the 12 test labels of a task.
        tasks: tasks to include, one after the other; the number of mentions tells a post's task (`schema.task_of`).
        image_size: width and height of the drawings in pixels.

    Returns:
        A `datasets.DatasetDict` with `train`, `validation` and `test`, the columns as in `schema.post_features` and
        the drawings stored as PNG.

    Raises:
        ValueError: if `tasks` is empty, repeats a task or names an unknown one, or a number is too small.
    """
    import datasets  # here, because it takes over a second to import

    from .schema import post_features

    tasks = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    if not tasks or len(set(tasks)) != len(tasks):
        raise ValueError(f"tasks must name one or more different tasks, got {tasks!r}")
    for task in tasks:
        _task(task)
    _integer("posts_per_class", posts_per_class, minimum=1)
    _integer("eval_posts_per_class", eval_posts_per_class, minimum=1)

    features = post_features()
    result = datasets.DatasetDict()
    for split in SPLITS:
        count = posts_per_class if split == "train" else eval_posts_per_class
        posts = [
            post
            for task in tasks
            for post in generate_posts(task, split, seed=seed, posts_per_class=count, image_size=image_size)
        ]
        result[split] = datasets.Dataset.from_list(posts, features=features, split=split)
    return result


def neutral_text(post: Mapping[str, Any]) -> dict[str, Any]:
    """Exchange the sentence of a post for one that says nothing about its class, for the "picture only" condition.

    Which sentence it becomes depends on the post's `id` alone, so it is the same every time.

    Args:
        post: a post of any data set in the schema.

    Returns:
        A copy of the post with the same mentioned names in a new `text`, and with their new `mentions`.

    Raises:
        ValueError: if the post breaks the schema.
    """
    validate_post(post)
    typing = task_of(post) == "typing"
    names = {
        slot: post["text"][start:end]
        for slot, (start, end) in zip(("name",) if typing else ("head", "tail"), post["mentions"], strict=True)
    }
    digest = hashlib.sha256(post["id"].encode("utf-8")).hexdigest()
    rng = _stream(0, "neutral", digest)
    template = rng.choice(NEUTRAL_TYPING_TEMPLATES if typing else NEUTRAL_RELATION_TEMPLATES)
    text, mentions = write_sentence(rng, template, names)
    return {**post, "text": text, "mentions": mentions}


def _task(task: str) -> _Task:
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(map(repr, TASKS))}, got {task!r}")
    return TASKS[task]


def _integer(name: str, value: int, minimum: int | None = None) -> int:
    rule = "an integer" if minimum is None else f"an integer of at least {minimum}"
    if not isinstance(value, int) or isinstance(value, bool) or (minimum is not None and value < minimum):
        raise ValueError(f"{name} must be {rule}, got {value!r}")
    return value


def _stream(seed: int, *purpose: str) -> random.Random:
    # Seeded with a string, `random` digests it with SHA-512: unlike hash(), the same in every process.
    return random.Random("/".join(["sketchbook", str(seed), *purpose]))
