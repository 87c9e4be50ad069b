"""Tables of an evaluation."""

from modeling_mgvmoe.evaluation.protocols import evaluate_protocol
from modeling_mgvmoe.evaluation.report import seed_table, summary
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
