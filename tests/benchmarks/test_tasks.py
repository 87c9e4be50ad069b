"""The datasets of the quality benchmark, on files and posts of our own."""

import sys
from pathlib import Path

import pytest
from comparison import METHODS, Comparison, run_method

from modeling_mgvmoe.data.zero_shot_data import ZeroShotData

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def tasks():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import tasks
    finally:
        sys.path.remove(str(BENCHMARKS))
    return tasks


def data_of(posts, names):
    return ZeroShotData(posts=dict.fromkeys(SPLITS, posts), labels=dict.fromkeys(SPLITS, names), unseen=False)


@pytest.mark.parametrize("column", ["image_text", "image"])
def test_a_column_of_the_post_of_none_and_of_another(tasks, column):
    posts = [{"id": str(row), "text": "Kelo", "mentions": [[0, 4]], "label": "boat", column: f"{row}.png"}
             for row in range(20)]  # fmt: skip
    posts.append({**posts[0], "id": "bare", column: None})
    data = data_of(posts, {"typing": ("boat",)})
    change = {"image_text": tasks.with_image_text, "image": tasks.with_images}[column]
    assert change(data, "own") is data
    assert not any(post[column] for post in change(data, "none").posts["test"])
    shuffled = change(data, "shuffled").posts["test"]
    assert shuffled[-1][column] is None
    values = [post[column] for post in shuffled[:-1]]
    assert sorted(values) == sorted(post[column] for post in posts[:-1])
    assert sum(one == post[column] for one, post in zip(values, posts, strict=False)) < 5


def test_a_product_competes_among_the_values_of_its_attribute(tasks):
    posts = [{"id": "1", "text": "Boot: red", "mentions": [[0, 4]], "label": "Heel: Flat"},
             {"id": "2", "text": "Boot: red", "mentions": [[0, 4]], "label": "Toe: Round"}]  # fmt: skip
    data = tasks.by_attribute(data_of(posts, {"typing": ("Heel: Flat", "Heel: High", "Toe: Round", "Sole: Thick")}))
    # Nothing has a sole here.
    assert data.labels["test"] == {"Heel": ("Heel: Flat", "Heel: High"), "Toe": ("Toe: Round",)}
    assert [post["dataset"] for post in data.posts["test"]] == ["Heel", "Toe"]
    # A method that answers by list of candidates has one for each attribute.
    shared = Comparison(data, None, None, None, {}, {})
    scores = run_method(shared, METHODS["majority"], 0)["none"]
    assert {name: (own["n"], own["accuracy"]) for name, own in scores.items()} == {"Heel": (1, 1.0), "Toe": (1, 1.0)}


def test_tweets_with_captions(tasks, tmp_path):
    words = ["Kelo\tB-OTHER\tB-{kind}", "sails\tO\tO"]
    kinds = ("actor", "musician", "city", "country", "game", "band")
    lines = [line for row, kind in enumerate(kinds) for line in (f"IMGID:{row}", *words, "")]
    counter = iter(kinds)
    text = "\n".join(line.format(kind=next(counter)) if "{kind}" in line else line for line in lines)
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.txt").write_text(
            text if name == "train" else lines[0] + "\nKelo\tO\tO\n", encoding="utf-8"
        )
    (tmp_path / "captions").mkdir()
    captions = "\n".join(f"{row}.jpg :a boat {row}" for row in range(6))
    (tmp_path / "captions" / "a.txt").write_text(captions, encoding="utf-8")
    data, words = tasks.load_task("tweets", str(tmp_path), 0, "own", pixels=False)
    assert sum(len(posts) for posts in data.posts.values()) == 6 and "city" in words[1]
    assert all(post["image_text"] == [f"a boat {post['id'].rsplit('-', 1)[1]}"] for post in data.posts["train"])
    with pytest.raises(FileNotFoundError, match="image-text"):
        tasks.load_task("tweets", str(tmp_path / "captions"), 0, "own", pixels=False)


def test_accuracy_of_mentions_that_are_in_the_image(tasks, tmp_path):
    posts = [
        {"id": f"mner-train-{row}-{image}", "text": "Kelo on Mura", "mentions": [span], "label": label}
        for row, (image, span, label) in enumerate(
            [("7", [0, 4], "boat"), ("7", [8, 12], "lake"), ("8", [0, 4], "boat"), ("8", [8, 12], "boat")]
        )
    ]
    (tmp_path / "visible.json").write_text('{"7": ["Kelo", "Vira"]}', encoding="utf-8")
    data = tasks.with_visibility(data_of(posts, {"typing": ("boat", "lake")}), str(tmp_path / "visible.json"))
    assert [post["visible"] for post in data.posts["test"]] == [True, False, False, False]
    # The majority answers "boat": right for the one in the image and for two of three others.
    scores = run_method(Comparison(data, None, None, None, {}, {}), METHODS["majority"], 0)["none"]["typing"]
    assert scores["accuracy_visible"] == 1 and scores["accuracy_not_visible"] == pytest.approx(2 / 3)
