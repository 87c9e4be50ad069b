"""Tables of an evaluation, and the image of its confusion matrix."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from modeling_mgvmoe.evaluation.protocols import evaluate_protocol
from modeling_mgvmoe.evaluation.report import class_table, draw_confusion, markdown_table, seed_table, summary
from tests.support.documents import read_table
from tests.support.evaluation_data import by_table, hand_made, make_post


def test_the_table_by_hand():
    posts = [make_post(0, "a"), make_post(1, "b")]
    both = by_table({post["id"]: {post["label"]: 40.0} for post in posts})
    one = by_table({post["id"]: {"a": 40.0} for post in posts})
    results = {
        seed: evaluate_protocol("unseen", {"ours": scorer}, hand_made({"test": posts}))["typing"]
        for seed, scorer in ((0, both), (7, one))
    }
    rows = read_table(seed_table(results).split("\n"))
    (mean,) = (row for row in rows if row["method"] == "ours" and row["seed"] == "mean of 2")
    # 1 and 1/2: 0.75, deviation 0.5 / sqrt(2) = 0.354. F1 of a alone 2/3, macro 1/3; with 1: 0.667, 0.471.
    assert (mean["accuracy"], mean["macro-F1"]) == ("0.750 ± 0.354", "0.667 ± 0.471")
    assert summary({0: results[0]})["ours"]["accuracy"] == {"mean": 1.0, "std": 0.0}


def result_of(labels, wrong=()):
    """A result of one post for each label; the answer to those in `wrong` is the first label."""
    posts = [make_post(number, label) for number, label in enumerate(labels)]
    table = {post["id"]: {labels[0] if post["label"] in wrong else post["label"]: 40.0} for post in posts}
    return evaluate_protocol("unseen", {"ours": by_table(table)}, hand_made({"test": posts}, test=labels))["typing"]


def test_classes_by_hand():
    rows = read_table(class_table(result_of(["a", "b", "c"], wrong=["b"]), "ours").split("\n"))
    # a: 1 of its 2 answers is right, F1 2 / 3; b has no answer.
    assert [(row["class"], row["F1"], row["precision"], row["recall"], row["posts"]) for row in rows] == [
        ("c", "1.000", "1.000", "1.000", "1"),
        ("a", "0.667", "0.500", "1.000", "1"),
        ("b", "0.000", "0.000", "0.000", "1"),
    ]


@pytest.mark.parametrize("count", [2, 30, pytest.param(160, marks=pytest.mark.slow)])
def test_a_confusion_matrix_of_any_number_of_classes(count, tmp_path):
    labels = [f"$class^ {number} with a rather long name, longer than its room" for number in range(count)]
    draw_confusion(result_of(labels), "ours", str(tmp_path / "a.png"), "a title with $5^")
    with Image.open(tmp_path / "a.png") as image:
        assert min(image.size) > 100 and max(image.size) < 5000
        assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_cells_do_not_break_a_table():
    table = markdown_table(["a|b", "c"], [["d\ne", "1"]])
    assert table.split("\n") == [r"| a\|b | c |", "|------|--:|", "| d e  | 1 |"]


@pytest.mark.slow
def test_tables_of_an_export_need_no_scikit_learn():
    code = "import sys; sys.modules['sklearn'] = None; import modeling_mgvmoe.export.onnx_check"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
