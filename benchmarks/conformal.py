"""Coverage of split-conformal label sets on held-out posts, of the same classes and across classes.

    python benchmarks/conformal.py --json FILE --model 'runs/mnre{seed}/model' --dataset 'runs/mnre{seed}' --seeds 0 1
    2 python benchmarks/conformal.py --json FILE --model 'runs/sketchbook{seed}/model' --dataset sketchbook

`same classes`: posts of the unseen test classes, divided at random into two halves, one to calibrate with and one to
test on; the mean over `--divisions` splits, and the deviation over these. The two halves are exchangeable.
`across classes`: calibrated with the posts of the validation classes, tested on those of the test classes; these are
not exchangeable, and nothing is promised. {seed} in folders is each seed, which is also the sketchbook's. FILE keeps
the rows of other datasets.
"""

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Sequence
from typing import Self

import numpy as np
from transformers.utils.logging import disable_progress_bar

from modeling_mgvmoe.data.encoding import TypesOfLabels
from modeling_mgvmoe.data.evaluation_data import load_evaluation_data, posts_of_task, without_images
from modeling_mgvmoe.evaluation.report import markdown_table
from modeling_mgvmoe.evaluation.runs import load_model
from modeling_mgvmoe.inference.predict import ModelScorer

# Sets of labels that hold the right one with a stated probability: split conformal prediction.
#
# A score s(x, y) says how little label y conforms to post x. With the scores of n calibration posts and their right
# labels, q is the :math:`\lceil (n + 1)(1 - \alpha) \rceil`-th smallest, and the set of a new post holds all labels
# whose score is at most q (Vovk et al., Algorithmic Learning in a Random World; Angelopoulos and Bates, 2023).
#
# **What must be exchangeable.** If the calibration posts and the new one, with their right labels, could have come in
# any order, the right label is in the set with probability at least :math:`1 - \alpha`, and at most
# :math:`1 - \alpha + 1 / (n + 1)` without ties. That holds for posts of the *same classes* with the same
# candidates, divided at random: label a few hundred posts of the new classes, and the coverage is guaranteed on
# average over posts and splits. It does not hold *across classes*: posts of validation classes, with the validation
# classes as candidates, are no draw from the posts of the test classes. The coverage is then what it turns out to be.


SCORES = ("lac", "aps")


def conformity_scores(logits: np.ndarray, score: str = "lac", draws: np.ndarray | None = None) -> np.ndarray:
    r"""How little each label conforms to each post.

    Args:
        logits: (posts, labels); -inf for labels that a post does not have.
        score: "lac", :math:`1 - p_y` (Sadinle et al., 2019), which gives the smallest sets, and empty ones to posts
            that nothing conforms to; "aps", :math:`\sum_{p_j > p_y} p_j + u p_y` (Romano et al., 2020), whose sets
            grow with how unsure a post is.
        draws: (posts,), u of "aps", uniform on [0, 1); without it u is 1, and the coverage more than stated.

    Returns:
        (posts, labels), between 0 and 1.
    """
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
    values = np.asarray(logits, dtype=float)
    if values.ndim != 2 or not values.size or np.isnan(values).any():
        raise ValueError(f"logits must be (posts, labels) without NaN, got shape {values.shape}")
    probs = np.exp(values - values.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    if score == "lac":
        return 1 - probs
    order = np.argsort(-probs, axis=-1, kind="stable")
    ranked = np.take_along_axis(probs, order, -1)
    before = np.cumsum(ranked, -1) - ranked
    u = np.ones(len(values)) if draws is None else np.asarray(draws, dtype=float)
    total = np.empty_like(probs)
    np.put_along_axis(total, order, before + u[:, None] * ranked, -1)
    return np.clip(total, 0, 1)


class SplitConformal:
    """Sets of labels with a stated coverage.

    ```python
    conformal = SplitConformal(coverage=0.9).fit(logits, labels, references)
    sets = conformal.predict(new_logits, labels)
    ```

    Args:
        coverage: 1 - alpha, the stated share of posts whose set holds the right label.
        score: of [`conformity_scores`].
        seed: of the draws of "aps".

    Attributes:
        quantile: q, after [`fit`]; infinite if there were too few calibration posts for the coverage, and every set
            then holds all labels.

    Raises:
        ValueError: the coverage is not between 0 and 1, or the score unknown.
    """

    def __init__(self, coverage: float = 0.9, score: str = "lac", seed: int = 0) -> None:
        if not 0 < coverage < 1:
            raise ValueError(f"coverage must be between 0 and 1, got {coverage}")
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
        self.coverage, self.score, self.seed = coverage, score, seed
        self.quantile: float | None = None

    def _scores(self, logits: np.ndarray, stream: int) -> np.ndarray:
        # Calibration and prediction draw from streams of their own.
        draws = np.random.default_rng([self.seed, stream]).random(len(logits)) if self.score == "aps" else None
        return conformity_scores(logits, self.score, draws)

    def fit(self, logits: np.ndarray, labels: Sequence[str], references: Sequence[str]) -> Self:
        """Set the quantile by calibration posts, which must not have been trained on.

        Args:
            logits: (posts, labels).
            labels: their columns.
            references: the right label per post.

        Raises:
            ValueError: shapes do not fit, or a reference is not among the labels.
        """
        column = {label: place for place, label in enumerate(labels)}
        strange = sorted(set(references) - set(column))
        if strange:
            raise ValueError(f"references must be among the labels, got others: {strange[:5]}")
        if np.shape(logits) != (len(references), len(labels)):
            raise ValueError(f"logits must be ({len(references)}, {len(labels)}), got {np.shape(logits)}")
        own = self._scores(logits, 0)[np.arange(len(references)), [column[name] for name in references]]
        # Of 9 posts and 0.9: the 9th smallest, and rounding must not make it the 10th.
        rank = math.ceil(round((len(own) + 1) * self.coverage, 9))
        self.quantile = float(np.sort(own)[rank - 1]) if rank <= len(own) else math.inf
        return self

    def mask(self, logits: np.ndarray) -> np.ndarray:
        """(posts, labels), whether each label is in the post's set; see [`predict`]."""
        if self.quantile is None:
            raise ValueError("SplitConformal: fit must come before predict")
        return self._scores(logits, 1) <= self.quantile

    def predict(self, logits: np.ndarray, labels: Sequence[str]) -> list[list[str]]:
        """The set of every post, best labels first.

        Args:
            logits: (posts, labels).
            labels: their columns, the same as in [`fit`] or, without a guarantee, others.
        """
        sets = []
        for row, inside in zip(np.asarray(logits, dtype=float), self.mask(logits), strict=True):
            sets.append([labels[place] for place in np.argsort(-row, kind="stable") if inside[place]])
        return sets

    @property
    def threshold(self) -> float:
        """For "lac" the least probability of a label in a set: as `threshold` of the pipeline it gives these sets."""
        if self.score != "lac" or self.quantile is None:
            raise ValueError(
                f'threshold: it is that of a fitted score="lac", got {self.score!r}, fitted to {self.quantile}'
            )
        return max(0.0, 1 - self.quantile)


def set_statistics(mask: np.ndarray, labels: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """What sets are worth.

    Args:
        mask: (posts, labels), whether a label is in the post's set.
        labels: their columns.
        references: the right label per post.

    Returns:
        `coverage`, the share of sets with the right label; `size`, the mean number of labels in a set; `empty` and
        `single`, the shares of sets with none and with one.
    """
    column = {label: place for place, label in enumerate(labels)}
    sizes = np.asarray(mask).sum(-1)
    inside = np.asarray(mask)[np.arange(len(references)), [column[name] for name in references]]
    return {
        "coverage": float(inside.mean()),
        "size": float(sizes.mean()),
        "empty": float((sizes == 0).mean()),
        "single": float((sizes == 1).mean()),
    }


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
            scored[split] = scorer(posts, labels), labels, [post["label"] for post in without_images(posts)]
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
