"""The posts to evaluate on: held-out posts of seen classes, posts without a class, and what is refused."""

import json

import pytest

from modeling_mgvmoe.data.evaluation_data import load_evaluation_data, posts_of_task, without_images
from modeling_mgvmoe.data.schema import task_of
from modeling_mgvmoe.data.sketchbook import generate_posts, split_classes
from modeling_mgvmoe.data.zero_shot_data import SPLITS
from tests.support.evaluation_data import drawn_posts, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("posts"))


def rewrite(folder, name, change):
    import datasets

    path = folder / f"{name}.parquet"
    posts = datasets.Dataset.from_parquet(str(path), keep_in_memory=True, cache_dir=str(folder / "cache"))
    posts.map(change, load_from_cache_file=False).to_parquet(path)


@pytest.mark.parametrize("task", ["typing", "relation"])
def test_sketchbook_posts_of_seen_classes_are_not_those_of_training(task):
    train, held_out = (
        generate_posts(task, split, seed=3, posts_per_class=4, image_size=16) for split in ("train", "seen_test")
    )
    assert {post["label"] for post in held_out} == set(split_classes(task, 3).train) == {p["label"] for p in train}
    assert not {post["id"] for post in held_out} & {post["id"] for post in train}
    # Neither a sentence nor a drawing of training.
    assert not {post["text"] for post in held_out} & {post["text"] for post in train}
    assert not {post["image"].tobytes() for post in held_out} & {post["image"].tobytes() for post in train}


@pytest.mark.slow
def test_sketchbook_stand_ins_for_posts_of_no_class():
    data = load_evaluation_data("sketchbook", ("validation", "none"), seed=1)
    assert list(data.posts) == ["validation", "test", "none"] and not data.sampled
    for task in ("typing", "relation"):
        classes = split_classes(task, 1)
        labels = {name: {p["label"] for p in posts_of_task(data.posts[name], task)} for name in data.posts}
        assert labels["test"] == set(classes.test) == set(data.labels["test"][task])
        # Halves of the validation classes: candidates when fitting, and the classes that no candidate is of.
        assert labels["validation"] == set(data.labels["validation"][task]) and len(labels["validation"]) == 6
        assert labels["none"] == set(classes.validation) - labels["validation"]
    seen = load_evaluation_data("sketchbook", ("seen_test",), seed=1).posts["seen_test"]
    assert {post["id"].split("-")[2] for post in seen} == {"seen_test"} and len(seen) == 2 * 40 * 20
    # Without the need they stay validation posts, those that training chooses on.
    whole = load_evaluation_data("sketchbook", seed=1, max_posts=9)
    assert whole.sampled and set(whole.posts) == {"validation", "test"}
    assert len(whole.labels["validation"]["typing"]) == 12


@pytest.mark.slow
def test_sketchbook_test_posts_are_those_of_sketchbook_data():
    from modeling_mgvmoe.data.zero_shot_data import sketchbook_data

    expected = sketchbook_data(seed=2, posts_per_class=1).posts["test"]
    found = load_evaluation_data("sketchbook", seed=2).posts["test"]
    assert [post["id"] for post in found] == expected["id"] and [post["text"] for post in found] == expected["text"]


def test_a_folder(folder):
    posts, labels = drawn_posts()
    data = load_evaluation_data(str(folder), ("seen_test", "none"))
    assert {name: len(own) for name, own in data.posts.items()} == {
        name: len(posts[name]) for name in ("validation", "test", "seen_test", "none")
    }
    assert {split: {task: set(names) for task, names in own.items()} for split, own in data.labels.items()} == {
        split: {task: set(names) for task, names in own.items()} for split, own in labels.items()
    }
    relations = posts_of_task(data.posts["none"], "relation")
    assert len(relations) == 12 and {task_of(post) for post in without_images(relations)} == {"relation"}
    assert relations[0]["image"].size == (16, 16) and "image" not in without_images(relations)[0]


def test_words_and_types_of_the_labels_come_along(tmp_path):
    import json

    folder = write_folder(tmp_path / "posts")
    labels = {split: {task: list(names) for task, names in own.items()} for split, own in drawn_posts()[1].items()}
    name = labels["test"]["relation"][0]
    words = {
        "label_descriptions": {name: "One of them meets the other."},
        "label_types": {name: [["person"], ["person", "place"]]},
        "type_descriptions": {"person": "somebody", "place": ["some place"]},
    }
    content = {"dataset": "ours", "split": "by hand", "labels": labels, **words}
    (folder / "labels.json").write_text(json.dumps(content), encoding="utf-8")
    for most in (None, 5):
        data = load_evaluation_data(str(folder), ("seen_test",), max_posts=most)
        assert data.label_descriptions == words["label_descriptions"]
        assert data.label_types == {name: (("person",), ("person", "place"))}
        assert data.type_descriptions == {"person": "somebody", "place": ("some place",)}
        assert data.sampled is (most is not None)


def test_max_posts_takes_the_same_posts_whatever_their_order(folder):
    few = load_evaluation_data(str(folder), ("none",), max_posts=5)
    assert few.sampled and {len(posts) for posts in few.posts.values()} == {5}
    ids = [post["id"] for post in few.posts["test"]]
    # A mixture of classes and tasks, in the order of the file.
    assert ids == [post["id"] for post in drawn_posts()[0]["test"] if post["id"] in ids]
    assert not load_evaluation_data(str(folder), max_posts=1000).sampled


def test_files_that_are_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match='dataset: "sketchbook", a folder or a file of rows is needed'):
        load_evaluation_data(str(tmp_path / "none such"))
    folder = write_folder(tmp_path / "posts", SPLITS)
    load_evaluation_data(str(folder))
    with pytest.raises(FileNotFoundError, match=r"`mgvmoe prepare ... --seen_test_share 0.1` writes it"):
        load_evaluation_data(str(folder), ("seen_test",))
    with pytest.raises(FileNotFoundError, match=r"none.parquet \(posts without a class\) does not exist"):
        load_evaluation_data(str(folder), ("none",))
    with pytest.raises(ValueError, match=r"needed must be of .*, got \['nine'\]"):
        load_evaluation_data(str(folder), ("nine",))
    with pytest.raises(ValueError, match="max_posts must be at least 1, got 0"):
        load_evaluation_data("sketchbook", max_posts=0)


def test_posts_that_do_not_belong_are_refused(tmp_path):
    posts, _ = drawn_posts()
    folder = write_folder(tmp_path / "a")
    first = posts["seen_test"][0]["id"]
    trained = {name: posts["train"][0][name] for name in ("id", "text", "mentions")}
    rewrite(folder, "seen_test", lambda post: trained if post["id"] == first else {})
    with pytest.raises(ValueError, match="must not be training posts, got 'sketchbook-typing-train-0-00000' of both"):
        load_evaluation_data(str(folder), ("seen_test",))
    folder = write_folder(tmp_path / "b")
    rewrite(folder, "seen_test", lambda post: {"label": "purple"})
    with pytest.raises(ValueError, match="must be training classes, got 'purple' of post"):
        load_evaluation_data(str(folder), ("seen_test",))
    rewrite(folder, "none", lambda post: {"label": posts["test"][0]["label"]})
    with pytest.raises(ValueError, match="must be without a class, got .* which is a class of test"):
        load_evaluation_data(str(folder), ("none",))
    rewrite(folder, "none", lambda post: {"mentions": [[5, 2]]})
    with pytest.raises(ValueError, match=r"none.parquet, row 0: post"):
        load_evaluation_data(str(folder), ("none",))


def test_rows_without_ids_are_numbered_alike_in_two_files(tmp_path):
    for name in ("train", "test", "seen_test"):
        label = "bird" if name == "test" else "boat"
        rows = [{"id": i, "text": f"Kelo {i} of {name}", "mention": "Kelo", "label": label} for i in range(2)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(load_evaluation_data(str(tmp_path), ("seen_test",)).posts["seen_test"]) == 2
