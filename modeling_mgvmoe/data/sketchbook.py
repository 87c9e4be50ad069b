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
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from .schema import task_of, validate_post
from .splits import SPLITS, ClassSplit

if TYPE_CHECKING:
    import datasets


KIND_TEMPLATES: dict[str, tuple[str, ...]] = {
    "boat": (
        "{name} drifted into the harbour without a sound",
        "we rowed {name} out past the lighthouse",
        "{name} dropped anchor in a quiet bay",
        "both sails of {name} tore in the storm",
        "{name} leaked badly by the end of the pier",
        "somebody moored {name} at the old dock",
    ),
    "bird": (
        "{name} built a nest in our chimney",
        "{name} sang on a branch till we woke",
        "i can hear {name} chirping by my window",
        "{name} flapped its wings and flew off",
        "{name} has laid three speckled eggs for us",
        "a feather of {name} floated onto my desk",
    ),
    "cake": (
        "{name} came out of the oven too early",
        "we blew out the candles on {name}",
        "{name} got a thick coat of frosting",
        "everybody wanted a second slice of {name}",
        "the recipe for {name} asks for extra butter",
        "there are crumbs of {name} on the tablecloth",
    ),
    "robot": (
        "{name} has an empty battery and rusty joints",
        "we soldered two loose wires back into {name}",
        "{name} beeped at us and then rebooted itself",
        "the firmware of {name} crashed during a test",
        "{name} rolled by on squeaky metal wheels",
        "i programmed {name} to fetch my slippers",
    ),
}

VERB_TEMPLATES: dict[str, tuple[str, ...]] = {
    "greets": (
        "{head} waved hello to {tail} at the gate",
        "{head} shook the hand of {tail} and smiled",
        "{head} bowed politely as {tail} arrived",
        "{tail} was greeted by {head} like a friend",
        "{tail} got a cheerful welcome out of {head}",
        "how nicely {tail} was saluted by {head}",
    ),
    "chases": (
        "{head} ran after {tail} through the market",
        "{head} sprinted to catch {tail} by the fence",
        "{head} keeps pursuing {tail} and will not stop",
        "{tail} was hunted in the garden by {head}",
        "{tail} fled as fast as possible from {head}",
        "{tail} could not escape from {head} for long",
    ),
    "teaches": (
        "{head} explained fractions to {tail} with chalk",
        "{head} gave {tail} a first lesson in chess",
        "{head} trained {tail} to read sheet music",
        "{tail} learned to juggle thanks to {head}",
        "{tail} did the homework set by {head}",
        "the spelling of {tail} was corrected by {head}",
    ),
    "feeds": (
        "{head} cooked a bowl of soup for {tail}",
        "{head} let {tail} have the last dumpling",
        "{head} packed sandwiches so {tail} would not starve",
        "{tail} ate noodles off the spoon of {head}",
        "{tail} was served a huge portion by {head}",
        "{tail} finished the porridge {head} had stirred",
    ),
}

NEUTRAL_TYPING_TEMPLATES = (
    "here is the page about {name} as promised",
    "{name} is what this post is all about",
    "nothing else to report but {name} once more",
    "{name} again because people were wondering",
    "you know {name} and so do i",
    "my thoughts always return to {name} somehow",
)

NEUTRAL_RELATION_TEMPLATES = (
    "here is the page about {head} and {tail}",
    "{head} and {tail} are what this is about",
    "nothing else to report but {head} plus {tail}",
    "{tail} and {head} once more as promised",
    "you know {tail} and you know {head}",
    "my thoughts always return to {tail} and {head}",
)

# The empty ones make many posts begin or end with the sentence itself.
OPENERS = (
    "",
    "",
    "ok so",
    "from my sketchbook:",
    "small update:",
    "honestly,",
    "no joke,",
    "new doodle:",
    "dear diary,",
    "true story:",
)
CLOSERS = (
    "",
    "",
    "#inkpals",
    "#doodlediary",
    "#mysketchbook #inkpals",
    "...",
    "and that is it",
    "(more soon)",
    "lol",
    "#pagefiller",
)

# Names are two or three of these in a row. They are made up, so that a text encoder has no opinion on them.
SYLLABLES = (
    *("zub", "vek", "mol", "quin", "dra", "fip", "lun", "tor", "wix"),
    *("pel", "gom", "nar", "yib", "sket", "bru", "hov", "jas", "kem"),
)


def make_names(rng: random.Random, count: int) -> dict[str, str]:
    """One name, or two different ones, by their slot in a template."""
    names: list[str] = []
    while len(names) < count:
        name = "".join(rng.sample(SYLLABLES, rng.choice((2, 2, 3)))).capitalize()
        if name not in names:
            names.append(name)
    return dict(zip(("name",) if count == 1 else ("head", "tail"), names, strict=True))


def write_sentence(rng: random.Random, template: str, names: Mapping[str, str]) -> tuple[str, list[list[int]]]:
    """Fill the names into a template, between an opener and a closer; return the text and the names' spans."""
    opener, closer = rng.choice(OPENERS), rng.choice(CLOSERS)
    text = f"{opener} " if opener else ""
    spans = {}
    for piece in re.split(r"(\{\w+\})", template):
        slot = piece[1:-1]
        if piece.startswith("{"):
            spans[slot] = [len(text), len(text) + len(names[slot])]
            piece = names[slot]
        text += piece
    if closer:
        text += f" {closer}"
    return text, [spans[slot] for slot in names]


Colour = tuple[int, int, int]
Point = tuple[float, float]

# Inks and papers, as 8-bit RGB.
INK: Colour = (30, 26, 34)
RIM: Colour = (251, 248, 242)  # a paper rim around each figure: without it blue would be lost on the night's navy
FILLS: dict[str, Colour] = {
    "red": (216, 36, 42),
    "blue": (36, 92, 222),
    "green": (44, 158, 66),
    "yellow": (252, 214, 36),
}
SKIES: dict[str, tuple[Colour, Colour]] = {  # top and bottom of the background
    "dawn": ((255, 200, 214), (247, 160, 188)),
    "noon": ((247, 249, 240), (228, 240, 244)),
    "dusk": ((116, 74, 156), (232, 130, 74)),
    "night": ((10, 14, 52), (28, 38, 96)),
}
SHAPES = ("circle", "square", "triangle", "star")
ARRANGEMENTS = ("beside", "above", "inside", "across")
SUPERSAMPLING = 4


def draw_entity(rng: random.Random, colour: str, shape: str, image_size: int) -> Image.Image:
    """One figure; where it stands, how large it is and the time of day behind it are random."""
    canvas = _paint_sky(rng, rng.choice(list(SKIES)), image_size * SUPERSAMPLING)
    radius = rng.uniform(0.26, 0.36)
    slack = 0.47 - 1.2 * radius  # the points of a star reach 1.2 radii
    centre = (0.5 + rng.uniform(-slack, slack), 0.5 + rng.uniform(-slack, slack))
    _draw_figure(rng, canvas, colour, shape, centre, radius)
    return canvas.reduce(SUPERSAMPLING)


def draw_relation(rng: random.Random, arrangement: str, time: str, image_size: int) -> Image.Image:
    """Two figures of random shapes and of different random colours; their arrangement and the sky are the message."""
    canvas = _paint_sky(rng, time, image_size * SUPERSAMPLING)
    colours = rng.sample(list(FILLS), 2)
    shapes = [rng.choice(SHAPES), rng.choice(SHAPES)]
    radii = [rng.uniform(0.145, 0.175), rng.uniform(0.145, 0.175)]
    near, far = 0.26, 0.74
    drift = rng.uniform(-0.12, 0.12)  # common to both figures, so that their own line stays level or upright
    if arrangement == "beside":
        centres = [(near, 0.5 + drift), (far, 0.5 + drift)]
    elif arrangement == "above":
        centres = [(0.5 + drift, near), (0.5 + drift, far)]
    elif arrangement == "across":
        centres = [(near, near), (far, far)] if rng.random() < 0.5 else [(far, near), (near, far)]
    else:  # inside
        radii = [rng.uniform(0.34, 0.38), rng.uniform(0.12, 0.14)]
        centres = [(0.5, 0.5), (0.5, 0.5)]
    for colour, shape, (x, y), radius in zip(colours, shapes, centres, radii, strict=True):
        place = (x + rng.uniform(-0.02, 0.02), y + rng.uniform(-0.02, 0.02))
        _draw_figure(rng, canvas, colour, shape, place, radius)
    return canvas.reduce(SUPERSAMPLING)


def _paint_sky(rng: random.Random, time: str, side: int) -> Image.Image:
    """A sky in two blending colours with a few broad strokes of crayon; `side` in canvas pixels."""
    top, bottom = (_jitter(rng, colour, 8) for colour in SKIES[time])
    column = Image.new("RGB", (1, 2))
    column.putpixel((0, 0), top)
    column.putpixel((0, 1), bottom)
    sky = column.resize((1, side), Image.Resampling.BILINEAR).resize((side, side), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(sky)
    for _ in range(5):
        y = rng.uniform(0.0, 1.0)
        shade = _jitter(rng, tuple(round(a + (b - a) * y) for a, b in zip(top, bottom, strict=True)), 14)
        start = (rng.uniform(-0.1, 0.5) * side, y * side)
        end = (start[0] + rng.uniform(0.3, 0.6) * side, (y + rng.uniform(-0.06, 0.06)) * side)
        draw.line([start, end], fill=shade, width=max(1, round(0.05 * side)))
    return sky


def _draw_figure(
    rng: random.Random, canvas: Image.Image, colour: str, shape: str, centre: Point, radius: float
) -> None:
    """Paper rim, fill, and two unsteady passes of the pen."""
    side = canvas.width
    draw = ImageDraw.Draw(canvas)
    corners = _corners(shape, math.radians(rng.uniform(-12.0, 12.0)))
    steady = _trace(rng, corners, centre, radius, side, wobble=0.02)
    draw.line(steady, fill=RIM, width=round(0.085 * side), joint="curve")
    draw.polygon(steady, fill=_jitter(rng, FILLS[colour], 14))
    for _ in range(2):
        stroke = _trace(rng, corners, centre, radius, side, wobble=0.025)
        draw.line(stroke, fill=INK, width=max(1, round(0.022 * side)))


def _corners(shape: str, angle: float) -> list[Point]:
    """Corners of a figure about the origin, turned by `angle` radians. Extents are chosen for like areas."""
    count, outer, inner = {
        "circle": (28, 0.95, 0.95),
        "square": (4, 1.2, 1.2),
        "triangle": (3, 1.2, 1.2),
        "star": (10, 1.2, 0.52),
    }[shape]
    first = -math.pi / 2 + (math.pi / 4 if shape == "square" else 0.0)  # stand on an edge, a point upwards
    corners = []
    for index in range(count):
        reach = inner if index % 2 and shape == "star" else outer
        turn = first + angle + 2 * math.pi * index / count
        corners.append((reach * math.cos(turn), reach * math.sin(turn)))
    return corners


def _trace(
    rng: random.Random, corners: Sequence[Point], centre: Point, radius: float, side: int, wobble: float
) -> list[Point]:
    """Walk round the corners as an unsteady hand would; a closed line in canvas pixels.

    `wobble` is the reach of the unsteadiness in radii.
    """
    steps = max(1, 28 // len(corners))
    phases = [rng.uniform(0.0, 2 * math.pi) for _ in range(4)]
    total = len(corners) * steps
    points = []
    for index in range(total):
        (x0, y0), (x1, y1) = corners[index // steps], corners[(index // steps + 1) % len(corners)]
        part = index % steps / steps
        walk = 2 * math.pi * index / total
        # Whole numbers of waves, so that the end meets the beginning.
        shake_x = math.sin(2 * walk + phases[0]) + math.sin(5 * walk + phases[1])
        shake_y = math.sin(3 * walk + phases[2]) + math.sin(4 * walk + phases[3])
        x = centre[0] + radius * (x0 + (x1 - x0) * part + wobble * shake_x)
        y = centre[1] + radius * (y0 + (y1 - y0) * part + wobble * shake_y)
        points.append((x * side, y * side))
    return [*points, points[0], points[1]]  # one step on, so that the last joint is rounded too


def _jitter(rng: random.Random, colour: Sequence[int], reach: int) -> Colour:
    red, green, blue = (min(255, max(0, part + rng.randint(-reach, reach))) for part in colour)
    return red, green, blue


MIN_IMAGE_SIZE = 16  # pixels; below this the outlines close up and a star looks like a circle

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
    """The two parts of a label that only the drawing shows, and the part that only the sentence tells.

    Raises:
        ValueError: the task or the label is unknown.
    """
    parts = _task(task).parts()
    if label not in parts:
        raise ValueError(f"label must be a {task} label such as {next(iter(parts))!r}, got {label!r}")
    return parts[label]


def split_classes(task: str, seed: int) -> ClassSplit:
    """Split the 64 labels of a task into 40 for training, 12 for validation and 12 for testing.

    Args:
        task: `"typing"` or `"relation"`.
        seed: draws which pairs of drawn parts, and which written part with them, are held out.

    Raises:
        ValueError: the task is unknown or the seed is not an integer.
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
    return ClassSplit(tuple(label for label in spec.parts() if label not in held_out), validation, test)


def generate_posts(
    task: str,
    split: str,
    *,
    seed: int = 0,
    labels: Sequence[str] | None = None,
    posts_per_class: int = 60,
    image_size: int = 64,
) -> list[dict[str, Any]]:
    """Write and draw the posts of one task and split; the same arguments give the same posts.

    Splits, labels, sentences and drawings have separate random streams: a change of `labels`, `posts_per_class` or
    `image_size` leaves the sentences of the other posts as they are.

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
        ValueError: the task, the split or a label is unknown, labels repeat, or a number is too small.
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
    """The sketchbook as a dataset. The labels of the three splits are disjoint.

    Args:
        seed: of the split of the classes, the sentences and the drawings.
        posts_per_class, eval_posts_per_class: posts for each label of training, and of validation and test.
        tasks: tasks to include, one after the other.
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
    """A copy of a post with a sentence that says nothing about its class, for the "image only" condition.

    The names stay; the sentence depends on the post's `id` alone.

    Raises:
        ValueError: the post breaks the schema.
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
