"""Posts to try the page with: everyday ones, the sketchbook's for a model of the sketchbook, or those of a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image, ImageDraw

from ..data.files import read_json
from ..data.label_sets import TASKS
from ..data.sketchbook import generate_posts, split_classes
from ..images import to_rgb
from ..spans import mentions_of, read_image_text, read_mentions
from .form import RELATION, TYPING, Fields, write_label_lines

# Larger than in training, to look at; the image processor makes them as small as those.
IMAGE_SIZE = 256
# Fields of the page that belong to the whole post, not to the marked mention or pair.
WHOLE_FIELDS = ("label_types", "mentions", "typing_labels", "relation_labels")


@dataclass(frozen=True)
class ExamplePost:
    """One button of the page.

    Attributes:
        name: on the button.
        fields: what it fills in.
    """

    name: str
    fields: Fields


# Labels of the whole posts, and of the pairs, among those that `mgvmoe-small` knows best: with sentences and types.
TYPES = ("person", "company", "city", "country")
RELATIONS = {
    "works for": "A person has a job at a company or an office.",
    "married to": "Two people are husband and wife.",
    "located in": "A company or a team has its seat in a city or a country.",
    "city of": "A city lies in a country.",
}
RELATION_TYPES = """\
works for | person | company
married to | person | person
located in | company | city, country
city of | city | country"""


@dataclass(frozen=True)
class Everyday:
    """A post as people write them, about made-up people.

    Attributes:
        name: on the button.
        text: the post.
        marked: words of the mention, or of head and tail.
        labels: of the mention; a pair has `RELATIONS`.
        image_text: words for an image.
        has_pitch: whether a football pitch is drawn as its image.
        mentions: of the whole post; default: those that are marked.
    """

    name: str
    text: str
    marked: tuple[str, ...]
    labels: tuple[str, ...] = ()
    image_text: str = ""
    has_pitch: bool = False
    mentions: tuple[str, ...] = ()


EVERYDAY = (
    Everyday("a band, or a bird", "Kestrel tonight, cannot wait", ("Kestrel",),
             ("band", "bird", "aircraft", "city"), "four musicians with guitars on a stage"),
    Everyday("a city", "Best espresso in Norway: Nordlys Coffee opens in Bergen, run by Marta Olsen",
             ("Bergen",), TYPES, "a cup of espresso on a wooden table, with a spoon",
             mentions=("Norway", "Nordlys Coffee", "Bergen", "Marta Olsen")),
    Everyday("a club", "What a comeback! Three goals in ten minutes, the Harbour Rovers are going up ⚽",
             ("Harbour Rovers",), ("person", "city", "sports club", "band", "television series"),
             "a ball in front of the goal of a full stadium", has_pitch=True),
    Everyday("a job", "Tomas Lind films in Bergen this morning for Harbour Television",
             ("Tomas Lind", "Harbour Television"), (), "a cameraman in a long coat with a camera on a tripod",
             mentions=("Tomas Lind", "Bergen", "Harbour Television")),
    Everyday("a couple", "Marta Olsen and her husband Tomas Lind are home at last, says the cat",
             ("Marta Olsen", "Tomas Lind"), (), "a ginger cat looks into the camera"),
    Everyday("no label fits", "Finally tried the seafood stew at Marta's place, still dreaming of it",
             ("seafood stew",), TYPES),
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
    # Of several datasets labels are listed under "name/task".
    trained = [key.rpartition("/")[2] for key, names in record["labels"]["train"].items() if names]
    return everyday_examples(trained or TASKS)


def everyday_examples(tasks: Sequence[str] = TASKS) -> list[ExamplePost]:
    """Posts as people write them, with made-up people; images are drawn here, and some have none.

    Args:
        tasks: "typing" or "relation", or both.
    """
    examples = []
    for post in EVERYDAY:
        if TASKS[len(post.marked) - 1] in tasks:
            spans = [(post.text.index(words), post.text.index(words) + len(words)) for words in post.marked]
            image = _pitch() if post.has_pitch else None
            labels = post.labels or list(RELATIONS)
            fields = _fields(post.text, spans, image, labels, RELATIONS, [post.image_text] if post.image_text else [])
            whole: dict[str, Any] = {
                "label_types": RELATION_TYPES,
                "mentions": ", ".join(post.mentions or post.marked),
                "typing_labels": ", ".join(TYPES),
                "relation_labels": write_label_lines(list(RELATIONS), RELATIONS),
            }
            examples.append(ExamplePost(post.name, replace(fields, **whole)))
    return examples


def _pitch() -> Image.Image:
    """A flat drawing of a football pitch."""
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE * 3 // 4))
    draw = ImageDraw.Draw(image)
    width = image.width
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
    types, relations = (split_classes(name, seed).test for name in TASKS)
    return replace(
        _fields(post["text"], post["mentions"], post["image"], labels),
        mentions=", ".join(post["text"][start:end] for start, end in post["mentions"]),
        typing_labels=", ".join(types),
        relation_labels=", ".join(relations),
    )


def _fields(
    text: str,
    mentions: Sequence[Sequence[int]],
    image: Any,
    labels: Sequence[str],
    sentences: Mapping[str, Any] | None = None,
    image_text: Sequence[str] = (),
) -> Fields:
    numbers = [place for span in mentions for place in span]
    return Fields(
        text=text,
        image=image,
        kind=TYPING if len(mentions) == 1 else RELATION,
        numbers=tuple((numbers + [None] * 4)[:4]),
        labels=write_label_lines(labels, dict(sentences or {})),
        image_text="\n".join(" ".join(text.split()) for text in image_text),
    )


def examples_from_file(path: str | os.PathLike) -> list[ExamplePost]:
    """Posts of a JSON file: a list of posts as the pipeline takes them, images beside the file.

    Each needs `candidate_labels`, and may have a `name` for its button, `label_descriptions`, and `form`,
    further fields of the page as they are filled in: [`WHOLE_FIELDS`].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no such list, a post is wrong, or its image cannot be read.
    """
    name = os.fspath(path)
    posts = read_json(name, "examples")
    if not isinstance(posts, list) or not all(isinstance(post, dict) for post in posts):
        raise ValueError(f"examples: {name} must hold a list of posts, got {posts!r:.80}")
    examples = []
    for number, post in enumerate(posts, 1):
        extra = {key: post.pop(key) for key in ("name", "label_descriptions", "form") if key in post}
        try:
            mentions = read_mentions(mentions_of(post), post["text"])
            image = post.get("image")
            if image is not None:
                image = to_rgb(os.path.join(os.path.dirname(name), image), "image")
            if not post.get("candidate_labels"):
                raise ValueError("candidate_labels: a non-empty list of labels is needed in each post")
            image_text = read_image_text(post.get("image_text"))
            sentences = extra.get("label_descriptions")
            fields = _fields(post["text"], mentions, image, post["candidate_labels"], sentences, image_text)
            fields = replace(fields, **_read_form(extra.get("form", {})))
        except ValueError as error:
            raise ValueError(f"examples: {name}, post {number}: {error}") from error
        examples.append(ExamplePost(extra.get("name", f"post {number}"), fields))
    return examples


def _read_form(form: Any) -> dict[str, Any]:
    """Fields of the whole post; ValueError for others."""
    if not isinstance(form, Mapping) or not all(isinstance(value, str) for value in form.values()):
        raise ValueError(f"form: an object of texts is needed, got {form!r:.80}")
    if unknown := sorted(set(form) - set(WHOLE_FIELDS)):
        raise ValueError(f"form: its keys must be among {', '.join(WHOLE_FIELDS)}, got {unknown}")
    return dict(form)


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
        if form := {name: getattr(fields, name) for name in WHOLE_FIELDS if getattr(fields, name)}:
            post["form"] = form
        posts.append(post)
    with open(os.path.join(folder, "posts.json"), "w", encoding="utf-8") as file:
        json.dump(posts, file, indent=1, ensure_ascii=False)
        file.write("\n")
