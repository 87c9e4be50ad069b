"""The sketchbook dataset and the schema of posts: what the classes, sentences and drawings must hold to."""

import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from modeling_mgvmoe.data import schema, sketchbook
from modeling_mgvmoe.data import sketchbook as sketchbook_drawings
from modeling_mgvmoe.data import sketchbook as sketchbook_words

TASKS = ("typing", "relation")
SPLITS = ("train", "validation", "test")

# The words that only a drawing may tell, with their nearest relatives.
DRAWN_WORDS = {
    *("red", "blue", "green", "yellow", "colour", "color", "crimson", "navy", "golden", "pink", "purple", "orange"),
    *("circle", "square", "triangle", "star", "round", "disc", "pointed", "corner", "shape"),
    *("beside", "above", "inside", "across", "over", "under", "below", "within", "beneath", "opposite", "next"),
    *("dawn", "noon", "dusk", "night", "tonight", "morning", "evening", "midnight", "sunrise", "sunset", "today"),
}

# Words that tell nothing by themselves; every other word of a template counts as telling its class.
FUNCTION_WORDS = {
    *("a", "an", "the", "and", "or", "of", "to", "in", "into", "on", "onto", "at", "by", "for", "from", "with", "out"),
    *("off", "near", "then", "as", "so", "like", "than", "there", "that", "this", "these", "not", "but", "is", "are"),
    *("was", "be", "has", "have", "had", "did", "do", "got", "can", "could", "would", "i", "we", "us", "our", "my"),
    *("its", "itself", "all", "both", "during", "after", "past", "through", "too", "how", "what", "who", "will"),
}


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def telling_words(templates: tuple[str, ...]) -> set[str]:
    return {word for text in templates for word in words_of(re.sub(r"\{\w+\}", "", text))} - FUNCTION_WORDS


def small(task: str, split: str, **changes) -> list[dict]:
    return sketchbook.generate_posts(task, split, **{"seed": 3, "posts_per_class": 2, "image_size": 16, **changes})


# ----------------------------------------------------------------------------------------------------
# Classes


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", range(6))
def test_classes_are_divided_so_that_neither_modality_suffices(task, seed):
    split = sketchbook.split_classes(task, seed)
    assert [len(getattr(split, name)) for name in SPLITS] == [40, 12, 12]
    assert len({*split.train, *split.validation, *split.test}) == 64

    pairs = {}
    for name in ("validation", "test"):
        parts = [sketchbook.label_parts(task, label) for label in getattr(split, name)]
        pairs[name] = {(first, second) for first, second, _ in parts}
        assert len({first for first, _ in pairs[name]}) == len({second for _, second in pairs[name]}) == 4
        assert len(pairs[name]) == 4
        # Who knows only one part can be right once for each value of that part.
        assert len({written for *_, written in parts}) / len(parts) == 0.25
        assert len(pairs[name]) / len(parts) == pytest.approx(1 / 3)
        assert set(Counter(written for *_, written in parts).values()) == {4}
        assert set(Counter((first, second) for first, second, _ in parts).values()) == {3}
    assert not pairs["validation"] & pairs["test"]

    train = [sketchbook.label_parts(task, label) for label in split.train]
    for position in range(3):  # every part of a held-out class has been seen in training
        assert len({parts[position] for parts in train}) == 4


@pytest.mark.parametrize("task", TASKS)
def test_classes_depend_on_the_seed_only(task):
    assert sketchbook.split_classes(task, 1) == sketchbook.split_classes(task, 1)
    assert len({sketchbook.split_classes(task, seed).test for seed in range(8)}) > 4


def test_labels_read_as_words():
    assert sketchbook.label_parts("typing", "red star boat") == ("red", "star", "boat")
    assert sketchbook.label_parts("relation", "greets above at night") == ("above", "night", "greets")


# ----------------------------------------------------------------------------------------------------
# Sentences


def test_no_telling_word_is_shared():
    sources = {**sketchbook_words.KIND_TEMPLATES, **sketchbook_words.VERB_TEMPLATES}
    sources["openers and closers"] = (*sketchbook_words.OPENERS, *sketchbook_words.CLOSERS)
    owners = Counter(word for templates in sources.values() for word in telling_words(templates))
    assert {word for word, count in owners.items() if count > 1} == set()
    neutral = telling_words((*sketchbook_words.NEUTRAL_TYPING_TEMPLATES, *sketchbook_words.NEUTRAL_RELATION_TEMPLATES))
    cues = [*sketchbook_words.KIND_TEMPLATES.values(), *sketchbook_words.VERB_TEMPLATES.values()]
    assert neutral & set().union(*map(telling_words, cues)) == set()
    # Every sentence of a class tells it by at least one word.
    assert all(telling_words((text,)) for templates in cues for text in templates)
    assert len({text for templates in cues for text in templates}) == sum(map(len, cues))


def test_no_sentence_can_tell_what_is_drawn():
    templates = [
        *(text for cues in sketchbook_words.KIND_TEMPLATES.values() for text in cues),
        *(text for cues in sketchbook_words.VERB_TEMPLATES.values() for text in cues),
        *sketchbook_words.NEUTRAL_TYPING_TEMPLATES,
        *sketchbook_words.NEUTRAL_RELATION_TEMPLATES,
        *sketchbook_words.OPENERS,
        *sketchbook_words.CLOSERS,
    ]
    drawn = {part for spec in sketchbook.TASKS.values() for values in spec.drawn for part in values}
    assert drawn <= DRAWN_WORDS
    assert {word for text in templates for word in words_of(text)} & DRAWN_WORDS == set()


def test_head_and_tail_come_in_either_order():
    for templates in (*sketchbook_words.VERB_TEMPLATES.values(), sketchbook_words.NEUTRAL_RELATION_TEMPLATES):
        head_first = sum(text.index("{head}") < text.index("{tail}") for text in templates)
        assert 0 < head_first < len(templates)
        assert head_first == len(templates) / 2


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", SPLITS)
def test_posts(task, split):
    posts = small(task, split)
    labels = getattr(sketchbook.split_classes(task, 3), split)
    assert Counter(post["label"] for post in posts) == dict.fromkeys(labels, 2)
    assert len({post["id"] for post in posts}) == len(posts)
    for post in posts:
        schema.validate_post(post)
        assert schema.task_of(post) == task
        assert post["source"] == "sketchbook"
        assert 6 <= len(post["text"].split()) <= 18, post["text"]
        assert not set(words_of(post["text"])) & DRAWN_WORDS
        for name in (post["text"][start:end] for start, end in post["mentions"]):
            assert re.fullmatch("[A-Z][a-z]+", name)
        assert post["image"].size == (16, 16)
        assert post["image"].mode == "RGB"


def test_the_spans_tell_head_from_tail():
    templates = {
        re.sub(r"\{\w+\}", "@", text): text for cues in sketchbook_words.VERB_TEMPLATES.values() for text in cues
    }
    orders = Counter()
    for post in small("relation", "train"):
        (head, tail), text = post["mentions"], post["text"]
        for start, end in sorted(post["mentions"], reverse=True):
            text = text[:start] + "@" + text[end:]
        (template,) = (full for bare, full in templates.items() if bare in text)
        assert (head < tail) == (template.index("{head}") < template.index("{tail}"))
        orders[head < tail] += 1
    assert min(orders[True], orders[False]) > 10


def test_neutral_text_keeps_all_but_the_sentence():
    allowed = telling_words(
        (
            *sketchbook_words.NEUTRAL_TYPING_TEMPLATES,
            *sketchbook_words.NEUTRAL_RELATION_TEMPLATES,
            *sketchbook_words.OPENERS,
            *sketchbook_words.CLOSERS,
        )
    )
    for task in TASKS:
        sentences = set()
        for post in small(task, "test"):
            before = dict(post)
            neutral = sketchbook.neutral_text(post)
            assert post == before
            assert neutral == sketchbook.neutral_text(post)
            schema.validate_post(neutral)
            assert 6 <= len(neutral["text"].split()) <= 18, neutral["text"]
            names = [post["text"][start:end] for start, end in post["mentions"]]
            assert [neutral["text"][start:end] for start, end in neutral["mentions"]] == names
            assert telling_words((neutral["text"],)) <= allowed | {name.lower() for name in names}
            assert all(neutral[column] is post[column] for column in ("id", "label", "image", "source"))
            sentences.add(neutral["text"])
        assert len(sentences) > 12


def test_neutral_text_takes_names_that_overlap():
    post = {"id": "1", "text": "the Port of Ombra today", "mentions": [[4, 17], [12, 17]], "label": "part of"}
    neutral = sketchbook.neutral_text(post)
    assert [neutral["text"][start:end] for start, end in neutral["mentions"]] == ["Port of Ombra", "Ombra"]


# ----------------------------------------------------------------------------------------------------
# Determinism


def pixels(posts: list[dict]) -> np.ndarray:
    return np.stack([np.asarray(post["image"]) for post in posts])


def written(posts: list[dict]) -> list[dict]:
    return [{key: value for key, value in post.items() if key != "image"} for post in posts]


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_posts(task):
    first, again, other = small(task, "test"), small(task, "test"), small(task, "test", seed=4)
    assert written(first) == written(again)
    assert np.array_equal(pixels(first), pixels(again))
    assert written(first) != written(other)
    assert not np.array_equal(pixels(first), pixels(other))


def test_the_drawing_size_does_not_change_the_sentences():
    assert written(small("typing", "test")) == written(small("typing", "test", image_size=20))


def test_splits_have_streams_of_their_own():
    labels = sketchbook.split_classes("typing", 3).test
    train, test = (small("typing", split, labels=labels) for split in ("train", "test"))
    assert {post["text"] for post in train}.isdisjoint(post["text"] for post in test)
    assert {post["id"] for post in train}.isdisjoint(post["id"] for post in test)
    assert not {image.tobytes() for image in pixels(train)} & {image.tobytes() for image in pixels(test)}


def test_more_posts_keep_the_first_ones():
    few, many = small("relation", "test"), small("relation", "test", posts_per_class=3)
    assert {(post["text"], post["label"]) for post in few} <= {(post["text"], post["label"]) for post in many}


@pytest.mark.parametrize(
    ("task", "text", "label", "colour"),
    [
        ("typing", "from my sketchbook: both sails of Nartor tore in the storm #inkpals", "red square boat",
         (183.7, 89.9, 102.8)),
        ("relation", "dear diary, Vekyibnar let Quindra have the last dumpling", "feeds inside at dusk",
         (185.0, 96.3, 96.0)),
    ],
)  # fmt: skip
def test_every_process_gives_the_same_posts(task, text, label, colour):
    # Every process has a hash seed of its own: against what another one gave, a use of hash() or of the order of a
    # set shows.
    post = small(task, "test", posts_per_class=1)[5]
    assert (post["text"], post["label"]) == (text, label)
    # Anti-aliasing may differ from one Pillow to the next, the mean colour not by much.
    assert pixels([post]).mean(axis=(0, 1, 2)) == pytest.approx(colour, abs=3)


# ----------------------------------------------------------------------------------------------------
# Drawings


def reduced(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32)


def nearest(pixel: np.ndarray, palette: dict[str, np.ndarray]) -> str:
    return min(palette, key=lambda name: float(np.abs(pixel - palette[name]).sum()))


def test_colour_and_shape_can_be_seen_at_32_pixels():
    palette = {name: np.asarray(colour, dtype=np.float32) for name, colour in sketchbook_drawings.FILLS.items()}
    extents = {shape: [] for shape in sketchbook_drawings.SHAPES}
    for post in small("typing", "train", posts_per_class=3, image_size=64):
        colour, shape, _ = sketchbook.label_parts("typing", post["label"])
        image = reduced(post["image"])
        distance = np.stack([np.abs(image - fill).sum(axis=-1) for fill in palette.values()])
        close = (distance < 70).sum(axis=(1, 2))
        assert list(palette)[close.argmax()] == colour
        mask = distance[list(palette).index(colour)] < 90
        rows, columns = np.nonzero(mask)
        box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        extents[shape].append(mask.sum() / box)
    # How much of its bounding box a figure fills: a crude measure, yet on average it sets all four shapes apart.
    means = {shape: np.mean(values) for shape, values in extents.items()}
    order = [means[shape] for shape in ("square", "circle", "triangle", "star")]
    assert np.all(np.diff(order) < -0.03), means


def test_arrangement_and_time_can_be_seen_at_32_pixels():
    skies = {
        time: np.asarray(colours, dtype=np.float32).mean(axis=0) for time, colours in sketchbook_drawings.SKIES.items()
    }
    fills = [np.asarray(colour, dtype=np.float32) for colour in sketchbook_drawings.FILLS.values()]
    for post in small("relation", "train", posts_per_class=3, image_size=64):
        arrangement, time, _ = sketchbook.label_parts("relation", post["label"])
        image = reduced(post["image"])
        edge = np.concatenate([image[[0, 31]].reshape(-1, 3), image[1:31, [0, 31]].reshape(-1, 3)])
        assert nearest(np.median(edge, axis=0), skies) == time

        coloured = np.min([np.abs(image - fill).sum(axis=-1) for fill in fills], axis=0) < 70
        assert (coloured[14:18, 14:18].mean() > 0.3) == (arrangement == "inside")
        if arrangement != "inside":
            rows, columns = np.nonzero(coloured)
            steepness = np.std(rows) / np.std(columns)
            assert arrangement == ("beside" if steepness < 0.6 else "above" if steepness > 1.6 else "across")


# ----------------------------------------------------------------------------------------------------
# The dataset


def test_load_sketchbook():
    data = sketchbook.load_sketchbook(seed=3, posts_per_class=2, eval_posts_per_class=1, image_size=16)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 160, "validation": 24, "test": 24}
    labels = {split: set(rows["label"]) for split, rows in data.items()}
    assert labels["train"].isdisjoint(labels["test"] | labels["validation"])
    assert labels["test"].isdisjoint(labels["validation"])
    ids = [value for rows in data.values() for value in rows["id"]]
    assert len(set(ids)) == len(ids)
    for rows in data.values():
        assert rows.features == schema.post_features()
        assert Counter(schema.task_of(row) for row in rows) == {"typing": len(rows) / 2, "relation": len(rows) / 2}

    made = small("typing", "train")
    for row, post in zip(data["train"], made, strict=False):
        assert written([row]) == written([post])
        assert np.array_equal(np.asarray(row["image"]), np.asarray(post["image"]))
        assert row["image"].format == "PNG"
    schema.validate_post(sketchbook.neutral_text(data["test"][0]))

    only = sketchbook.load_sketchbook(
        seed=3, posts_per_class=1, eval_posts_per_class=1, tasks=("relation",), image_size=16
    )
    assert {schema.task_of(row) for row in only["test"]} == {"relation"}


# ----------------------------------------------------------------------------------------------------
# Bad arguments


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sketchbook.split_classes("mood", 0), "task must be one of 'typing', 'relation', got 'mood'"),
        (lambda: sketchbook.split_classes("typing", 0.5), "seed must be an integer, got 0.5"),
        (lambda: sketchbook.label_parts("typing", "pink star boat"), "label must be .* got 'pink star boat'"),
        (lambda: small("mood", "test"), "task must be one of 'typing', 'relation', got 'mood'"),
        (lambda: small("typing", "dev"), "split must be one of 'train', 'validation', 'test', 'seen_test', got 'dev'"),
        (lambda: small("typing", "test", seed="x"), "seed must be an integer, got 'x'"),
        (
            lambda: small("typing", "test", posts_per_class=0),
            "posts_per_class must be an integer of at least 1, got 0",
        ),
        (lambda: small("typing", "test", image_size=15), "image_size must be an integer of at least 16, got 15"),
        (lambda: small("typing", "test", labels=[]), r"labels must be .* got \[\]"),
        (lambda: small("typing", "test", labels="red star boat"), "labels must be a sequence .* got 'red star boat'"),
        (lambda: small("typing", "test", labels=["red star boat"] * 2), "labels must be .* different labels, got"),
        (lambda: small("typing", "test", labels=["greets above at night"]), "label must be a typing label .* got"),
        (lambda: sketchbook.load_sketchbook(tasks=()), r"tasks must name one or more different tasks, got \(\)"),
        (lambda: sketchbook.load_sketchbook(tasks=("typing", "typing")), "tasks must name one or more different"),
        (lambda: sketchbook.load_sketchbook(tasks=("mood",)), "task must be one of 'typing', 'relation', got 'mood'"),
        (lambda: sketchbook.load_sketchbook(posts_per_class=0), "^posts_per_class must be .* at least 1, got 0"),
        (lambda: sketchbook.load_sketchbook(eval_posts_per_class=0), "^eval_posts_per_class must be .* got 0"),
        (lambda: sketchbook.load_sketchbook(image_size=8), "image_size must be an integer of at least 16, got 8"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


GOOD = {"id": "p7", "text": "Ombra sails", "mentions": [[0, 5]], "label": "boat", "image": None, "source": "ours"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "post None: id must be a string that is not empty, got None"),
        ({"text": " "}, "post 'p7': text must be a string that is not empty, got ' '"),
        ({"label": ""}, "post 'p7': label must be a string that is not empty, got ''"),
        ({"label": 3}, "post 'p7': label must be a string that is not empty, got 3"),
        ({"mentions": []}, r"post 'p7': mentions: one span .* or two .*got \[\]"),
        ({"mentions": [[0, 1]] * 3}, "post 'p7': mentions: one span"),
        ({"mentions": None}, "post 'p7': mentions: one span .*got None"),
        ({"mentions": "ab"}, r"post 'p7': mentions\[0\]: the words 'ab' .*got 0 times"),
        ({"mentions": [[0, 12]]}, r"post 'p7': mentions\[0\]: 0 <= start < end <= 11 .*got \(0, 12\)"),
        ({"mentions": [[-5, -1]]}, r"mentions\[0\]: 0 <= start < end"),
        ({"mentions": [[0, 5], [3, 3]]}, r"mentions\[1\]: 0 <= start < end .*got \(3, 3\)"),
        ({"mentions": [[5, 0]]}, r"mentions\[0\]: 0 <= start < end .*got \(5, 0\)"),
        ({"mentions": [[5, 6]]}, r"mentions\[0\]: span \(5, 6\) covers only white space"),
        ({"mentions": [[0, 5, 6]]}, r"mentions\[0\]: a span is two integers .*got \[0, 5, 6\]"),
        ({"mentions": [[0, 5.0]]}, r"mentions\[0\]: a span is two integers .*got \[0, 5.0\]"),
        ({"text": "a \u200b b", "mentions": [[2, 3]]}, r"mentions\[0\]: span \(2, 3\) covers only white space"),
    ],
)
def test_bad_posts_are_named(change, message):
    schema.validate_post(GOOD)
    with pytest.raises(ValueError, match=message):
        schema.validate_post({**GOOD, **change})
    with pytest.raises(ValueError, match="^posts.txt, line 4: post "):
        schema.validate_post({**GOOD, **change}, where="posts.txt, line 4")


def test_good_posts_pass():
    schema.validate_post({**GOOD, "mentions": ((0, 5), (2, 5))})
    schema.validate_post({**GOOD, "mentions": np.array([[0, 5]])})
    schema.validate_post({**GOOD, "mentions": [0, 5]})
    assert schema.task_of({"mentions": [[0, 1]]}) == "typing"
    assert schema.task_of({"mentions": [[0, 1], [2, 3]]}) == "relation"


def test_optional_columns():
    for value in (None, [], ["a boat"], ["a boat", "at dawn"]):
        schema.validate_post({**GOOD, "image_text": value, "candidate_labels": value})
    schema.validate_post({**GOOD, "image_text": "a boat"})
    for column, value in (("image_text", [" "]), ("image_text", 3), ("candidate_labels", "boat, bird")):
        with pytest.raises(ValueError, match=f"post 'p7': {column} must be a list of strings"):
            schema.validate_post({**GOOD, column: value})
    assert list(schema.post_features("image_text"))[-2:] == ["source", "image_text"]
    with pytest.raises(ValueError, match="optional must be one of 'image_text', 'candidate_labels', got 'caption'"):
        schema.post_features("caption")
