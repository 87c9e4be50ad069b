"""Posts to try the page with: everyday ones, the sketchbook's for a model of the sketchbook, or those of a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from ..data.label_sets import TASKS
from ..data.sketchbook import generate_posts, split_classes
from ..images import to_rgb
from ..pipeline_mgvmoe import mentions_of
from ..spans import read_image_text
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


# Written and drawn for this page: text, its marked words, labels, and how its image is drawn.
EVERYDAY: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...], str | None], ...] = (
    ("a place", "First morning in Porto and the light over the river is unreal #travel", ("Porto",),
     ("person", "city", "film", "sports club", "music festival", "company"), "river"),
    ("a club", "What a comeback! Three goals in ten minutes, the Harbour Rovers are going up ⚽", ("Harbour Rovers",),
     ("person", "city", "sports club", "band", "television series"), "pitch"),
    ("a person", "So proud of Irene Duarte, today she opens a restaurant of her own", ("Irene Duarte",),
     ("person", "city", "dish", "organization", "event"), None),
    ("a team", "Official: Mateo Ruiz signs a three-year deal with the Harbour Rovers",
     ("Mateo Ruiz", "Harbour Rovers"),
     ("member of", "founder of", "born in", "married to", "fan of"), "pitch"),
    ("a couple", "Jonas and Leila said yes by the river, congratulations you two ❤️", ("Jonas", "Leila"),
     ("married to", "colleague of", "parent of", "rival of"), "river"),
    ("no label fits", "Finally tried the seafood stew at Marta's place, still dreaming of it", ("seafood stew",),
     ("person", "film", "sports club", "politician", "television series"), None),
)  # fmt: skip


def examples_for(record: Mapping[str, Any] | None) -> list[ExamplePost]:
    """Posts that are like those the model was trained on.

    Args:
        record: the `run.json` of the training, or `None` where it is not known.

    Returns:
        The sketchbook's for a model of the sketchbook, with the classes that it has not seen; everyday ones otherwise,
        of the tasks that it was trained for.
    """
    if record is None:
        return everyday_examples()
    if record["dataset"]["name"] == "sketchbook":
        seed = record["arguments"]["data"].get("dataset_seed", 0)
        return sketchbook_examples(seed)
    return everyday_examples([task for task, names in record["labels"]["train"].items() if names] or TASKS)


def everyday_examples(tasks: Sequence[str] = TASKS) -> list[ExamplePost]:
    """Posts as people write them, with made-up people; images are drawn here, and some have none.

    Args:
        tasks: "typing" or "relation", or both.
    """
    examples = []
    for name, text, marked, labels, scene in EVERYDAY:
        if TASKS[len(marked) - 1] in tasks:
            spans = [(text.index(words), text.index(words) + len(words)) for words in marked]
            image = None if scene is None else _scene(scene)
            examples.append(ExamplePost(name, _fields(text, spans, image, labels)))
    return examples


def _scene(kind: str) -> Image.Image:
    """A flat drawing of a river at sunrise or of a football pitch."""
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE * 3 // 4), "#f6c38b")
    draw = ImageDraw.Draw(image)
    width, height = image.size
    if kind == "river":
        draw.ellipse((150, 25, 200, 75), fill="#fff2c9")
        for number, colour in enumerate(("#d97b55", "#e8d6c0", "#c9583f", "#e7b45c", "#d99a7a")):
            left = 10 + 48 * number
            draw.rectangle((left, 70 - 7 * (number % 3), left + 44, 112), fill=colour)
            draw.polygon([(left - 3, 71 - 7 * (number % 3)), (left + 22, 52 - 7 * (number % 3)),
                          (left + 47, 71 - 7 * (number % 3))], fill="#8f3b2a")  # fmt: skip
            for window in (8, 26):
                draw.rectangle((left + window, 82, left + window + 9, 96), fill="#3f4a5a")
        draw.rectangle((0, 112, width, height), fill="#4f8fb0")
        for y in range(120, height, 14):
            draw.line([(x, y + (x // 16) % 2 * 3) for x in range(0, width + 16, 16)], fill="#86b9d2", width=2)
        draw.polygon([(70, 150), (150, 150), (136, 168), (84, 168)], fill="#5b3a29")
    else:
        draw.rectangle((0, 0, width, 60), fill="#7aa7d6")
        draw.rectangle((0, 30, width, 60), fill="#55606e")
        for x in range(4, width, 12):
            draw.ellipse((x, 36 + x % 3 * 5, x + 7, 43 + x % 3 * 5), fill=("#e8c547", "#d8dee5", "#c0504d")[x % 3])
        for number in range(6):
            draw.rectangle((0, 60 + 22 * number, width, 82 + 22 * number), fill=("#3f8f4f", "#4aa05b")[number % 2])
        draw.rectangle((88, 62, 168, 108), outline="white", width=4)
        draw.line([(30, 130), (226, 130)], fill="white", width=3)
        draw.ellipse((118, 140, 140, 162), fill="white", outline="#222222", width=2)
        draw.regular_polygon((129, 151, 5), 5, fill="#222222")
    return image


def sketchbook_examples(seed: int = 0) -> list[ExamplePost]:
    """Posts of unseen classes: two of each task, one that is of none of its labels, one without an image.

    Args:
        seed: of the split of the classes, as the model was trained with.
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
    examples.append(ExamplePost("without an image", Fields(**vars(alone) | {"image": None})))
    return examples


def _drawn(task: str, label: str, labels: Sequence[str], seed: int) -> Fields:
    (post,) = generate_posts(task, "test", seed=seed, labels=[label], posts_per_class=1, image_size=IMAGE_SIZE)
    return _fields(post["text"], post["mentions"], post["image"], labels)


def _fields(
    text: str,
    mentions: Any,
    image: Any,
    labels: Sequence[str],
    sentences: Mapping[str, Any] | None = None,
    image_text: Sequence[str] = (),
) -> Fields:
    spans = [mentions] if not isinstance(mentions[0], (list, tuple)) else list(mentions)
    numbers = [place for span in spans for place in span]
    return Fields(
        text=text,
        image=image,
        kind=TYPING if len(spans) == 1 else RELATION,
        numbers=tuple((numbers + [None] * 4)[:4]),
        labels=write_label_lines(labels, dict(sentences or {})),
        image_text="\n".join(" ".join(text.split()) for text in image_text),
    )


def examples_from_file(path: str | os.PathLike) -> list[ExamplePost]:
    """Posts of a JSON file: a list of posts as the pipeline takes them, images beside the file.

    Each needs `candidate_labels`, and may have a `name` for its button and `label_descriptions`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no such list, a post is wrong, or its image cannot be read.
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
            image_text = read_image_text(post.get("image_text"))
            sentences = extra.get("label_descriptions")
            fields = _fields(post["text"], mentions, image, post["candidate_labels"], sentences, image_text)
        except ValueError as error:
            raise ValueError(f"examples: {name}, post {number}: {error}") from error
        examples.append(ExamplePost(extra.get("name", f"post {number}"), fields))
    return examples


def write_examples(examples: Sequence[ExamplePost], folder: str | os.PathLike) -> None:
    """Write `posts.json` and the images, for [`examples_from_file`]."""
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
        if fields.image_text:
            post["image_text"] = fields.image_text.splitlines()
        if sentences:
            post["label_descriptions"] = sentences
        posts.append(post)
    with open(os.path.join(folder, "posts.json"), "w", encoding="utf-8") as file:
        json.dump(posts, file, indent=1, ensure_ascii=False)
        file.write("\n")
