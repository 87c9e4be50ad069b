"""Posts to try the page with: the sketchbook's own, or those of a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..data.sketchbook import generate_posts, split_classes
from ..pictures import to_rgb
from ..pipeline_mgvmoe import mentions_of
from .form import RELATION, TYPING, Fields, write_label_lines

# Larger than in training, to look at; the image processor makes them as small as those.
IMAGE_SIZE = 256


@dataclass(frozen=True)
class ExamplePost:
    """One button of the page.

    Attributes:
        name: on the button.
        fields: what it fills in.
    """

    name: str
    fields: Fields


def sketchbook_examples(seed: int = 0) -> list[ExamplePost]:
    """Posts of unseen classes: two of each task, one that is of none of its labels, one without a picture.

    Args:
        seed: of the division of the classes, as the model was trained with.
    """
    examples = []
    for task, name in (("typing", "type"), ("relation", "pair")):
        labels = split_classes(task, seed).test
        for number, place in enumerate((0, 4), 1):  # labels come by drawing, three a drawing
            examples.append(ExamplePost(f"{name} {number}", _drawn(task, labels[place], labels, seed)))
    labels = split_classes("typing", seed).test
    parts = set(labels[0].split())
    others = [label for label in labels if not parts & set(label.split())]
    stranger = _drawn("typing", labels[0], others, seed)
    examples.append(ExamplePost("no label fits", stranger))
    alone = _drawn("typing", labels[8], labels, seed)
    examples.append(ExamplePost("without a picture", Fields(**vars(alone) | {"image": None})))
    return examples


def _drawn(task: str, label: str, labels: Sequence[str], seed: int) -> Fields:
    (post,) = generate_posts(task, "test", seed=seed, labels=[label], posts_per_class=1, image_size=IMAGE_SIZE)
    return _fields(post["text"], post["mentions"], post["image"], labels)


def _fields(
    text: str, mentions: Any, image: Any, labels: Sequence[str], sentences: Mapping[str, Any] | None = None
) -> Fields:
    spans = [mentions] if not isinstance(mentions[0], (list, tuple)) else list(mentions)
    numbers = [place for span in spans for place in span]
    return Fields(
        text=text,
        image=image,
        kind=TYPING if len(spans) == 1 else RELATION,
        numbers=tuple((numbers + [None] * 4)[:4]),
        labels=write_label_lines(labels, dict(sentences or {})),
    )


def examples_from_file(path: str | os.PathLike) -> list[ExamplePost]:
    """Posts of a JSON file: a list of posts as the pipeline takes them, pictures beside the file.

    Each needs `candidate_labels`, and may have a `name` for its button and `label_descriptions`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no such list, a post is wrong, or its picture cannot be read.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise FileNotFoundError(f"examples: the file {name!r} does not exist")
    with open(name, encoding="utf-8") as file:
        try:
            posts = json.load(file)
        except ValueError as error:
            raise ValueError(f"examples: {name} holds no JSON: {error}") from error
    if not isinstance(posts, list) or not all(isinstance(post, dict) for post in posts):
        raise ValueError(f"examples: {name} must hold a list of posts, got {posts!r:.80}")
    examples = []
    for number, post in enumerate(posts, 1):
        extra = {key: post.pop(key) for key in ("name", "label_descriptions") if key in post}
        try:
            mentions = mentions_of(post)
            image = post.get("image")
            if image is not None:
                image = to_rgb(os.path.join(os.path.dirname(name), image), "image")
            if not post.get("candidate_labels"):
                raise ValueError("candidate_labels: a non-empty list of labels is needed in each post")
            fields = _fields(post["text"], mentions, image, post["candidate_labels"], extra.get("label_descriptions"))
        except ValueError as error:
            raise ValueError(f"examples: {name}, post {number}: {error}") from error
        examples.append(ExamplePost(extra.get("name", f"post {number}"), fields))
    return examples


def write_examples(examples: Sequence[ExamplePost], folder: str | os.PathLike) -> None:
    """Write `posts.json` and the pictures, for [`examples_from_file`]."""
    from .form import read_label_lines

    os.makedirs(folder, exist_ok=True)
    posts = []
    for number, example in enumerate(examples):
        fields = example.fields
        spans = [list(fields.numbers[:2])] + ([list(fields.numbers[2:])] if fields.kind == RELATION else [])
        marked = {"mention": spans[0]} if len(spans) == 1 else {"head": spans[0], "tail": spans[1]}
        labels, sentences = read_label_lines(fields.labels)
        post: dict[str, Any] = {"name": example.name, "text": fields.text, **marked, "candidate_labels": labels}
        if isinstance(fields.image, Image.Image):
            post["image"] = f"{number}.png"
            fields.image.save(os.path.join(folder, post["image"]))
        if sentences:
            post["label_descriptions"] = sentences
        posts.append(post)
    with open(os.path.join(folder, "posts.json"), "w", encoding="utf-8") as file:
        json.dump(posts, file, indent=1, ensure_ascii=False)
        file.write("\n")
