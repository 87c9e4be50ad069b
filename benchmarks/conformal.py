"""Coverage of split-conformal label sets on held-out posts, of the same classes and across classes.

    python benchmarks/conformal.py --json FILE --model 'runs/mnre{seed}/model' --dataset 'runs/mnre{seed}' --seeds 0 1
    2 python benchmarks/conformal.py --json FILE --model 'runs/sketchbook{seed}/model' --dataset sketchbook

`same classes`: posts of the unseen test classes, divided at random into two halves, one to calibrate with and one to
test on; the mean over `--divisions` divisions, and the deviation over these. The two halves are exchangeable.
`across classes`: calibrated with the posts of the validation classes, tested on those of the test classes; these are
not exchangeable, and nothing is promised. {seed} in folders is each seed, which is also the sketchbook's. FILE keeps
the rows of other data sets.
"""

import argparse
import json
import os
import statistics
import sys

import numpy as np
from transformers.utils.logging import disable_progress_bar

from modeling_mgvmoe.data.encoding import TypesOfLabels
from modeling_mgvmoe.data.evaluation_data import load_evaluation_data, posts_of_task, without_pictures
from modeling_mgvmoe.evaluation.conformal import SCORES, SplitConformal, set_statistics
from modeling_mgvmoe.evaluation.predict import ModelScorer
from modeling_mgvmoe.evaluation.report import markdown_table
from modeling_mgvmoe.evaluation.runs import load_model


def same_classes(logits, labels, references, coverage, score, divisions):
    """Means over random halves, and the deviation of the coverage."""
    found = []
    for seed in range(divisions):
        order = np.random.default_rng(seed).permutation(len(references))
        first, second = np.array_split(order, 2)
        conformal = SplitConformal(coverage, score, seed).fit(
            logits[first], labels, [references[row] for row in first]
        )
        found.append(set_statistics(conformal.mask(logits[second]), labels, [references[row] for row in second]))
    means = {name: statistics.mean(one[name] for one in found) for name in found[0]}
    return {**means, "deviation": statistics.stdev(one["coverage"] for one in found)}


def across_classes(fitting, testing, coverage, score):
    """Of one calibration on other classes."""
    conformal = SplitConformal(coverage, score).fit(*fitting)
    logits, labels, references = testing
    return set_statistics(conformal.mask(logits), labels, references)


def measure(flags, seed):
    """Rows of one seed."""
    data = load_evaluation_data(flags.dataset.replace("{seed}", str(seed)), seed=seed)
    model, processor = load_model(flags.model.replace("{seed}", str(seed)), "cpu")
    types = TypesOfLabels(data.label_types, data.type_descriptions)
    scorer = ModelScorer(model, processor, data.label_descriptions, types=types, progress=True)
    rows = []
    for task in data.labels["test"]:
        scored = {}
        for split in ("validation", "test"):
            posts, labels = posts_of_task(data.posts[split], task), data.labels[split][task]
            scored[split] = scorer(posts, labels), labels, [post["label"] for post in without_pictures(posts)]
        for score in SCORES:
            shared = {"task": task, "seed": seed, "score": score, "labels": len(scored["test"][1])}
            found = same_classes(*scored["test"], flags.coverage, score, flags.divisions)
            rows.append({**shared, "calibrated on": "same classes", "n": len(scored["test"][2]) // 2, **found})
            found = across_classes(scored["validation"], scored["test"], flags.coverage, score)
            rows.append({**shared, "calibrated on": "other classes", "n": len(scored["validation"][2]), **found})
    return rows


def table(rows):
    """A line for each row, and means over the seeds."""
    numbers = ("coverage", "size", "empty", "single")
    lines = []
    for task, score, where in dict.fromkeys((row["task"], row["score"], row["calibrated on"]) for row in rows):
        own = [row for row in rows if (row["task"], row["score"], row["calibrated on"]) == (task, score, where)]
        for row in own:
            spread = f" ± {row['deviation']:.3f}" if "deviation" in row else ""
            cells = [f"{row['coverage']:.3f}{spread}", *[f"{row[name]:.3f}" for name in numbers[1:]]]
            lines.append([task, score, where, *[str(row[name]) for name in ("seed", "n", "labels")], *cells])
        if len(own) > 1:
            means = [f"{statistics.mean(row[name] for row in own):.3f}" for name in numbers]
            lines.append([task, score, where, f"mean of {len(own)}", "", "", *means])
    heads = ["task", "score", "calibrated on", "seed", "posts to calibrate", "labels", *numbers]
    return markdown_table(heads, lines)


def main(argv=None):
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True, help="file for the results")
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--coverage", type=float, default=0.9)
    parser.add_argument("--divisions", type=int, default=100)
    flags = parser.parse_args(argv)
    if flags.divisions < 2 or not 0 < flags.coverage < 1:
        parser.error("--divisions must be at least 2 and --coverage between 0 and 1")
    disable_progress_bar()
    rows = [row for seed in flags.seeds for row in measure(flags, seed)]
    print(table(rows))
    known = {}
    if os.path.exists(flags.json):
        with open(flags.json, encoding="utf-8") as file:
            known = json.load(file)
    name = os.path.basename(os.path.normpath(flags.dataset.replace("{seed}", "")))
    known[name] = {"coverage": flags.coverage, "divisions": flags.divisions, "rows": rows}
    with open(flags.json, "w", encoding="utf-8") as file:
        json.dump(known, file, indent=1)
    return rows


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
