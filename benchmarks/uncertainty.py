"""Draws from the variational experts: what 32 of them cost, and whether they tell when a model errs.

    python benchmarks/uncertainty.py cost --json FILE [--repetitions 9]
    python benchmarks/uncertainty.py errors --json FILE --model 'runs/mnre{seed}/model' --dataset 'runs/mnre{seed}' \
        --seeds 0 1 2
    python benchmarks/uncertainty.py errors --json FILE --model 'runs/sketchbook{seed}/model' --dataset sketchbook

`cost`: at the size of benchmarks/full_size.py (ViT-B/16-384, BERT-base, batch 4, 4 known labels), a call with
32 draws and one without, in turn; the median of their quotients. `errors`: posts of the unseen test classes; for each
measure of uncertainty its AUROC in telling wrong answers from right ones. {seed} in folders is each seed, which is
also the sketchbook's. FILE keeps the rows of other datasets.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from modeling_mgvmoe.data.encoding import TypesOfLabels
from modeling_mgvmoe.data.evaluation_data import load_evaluation_data, posts_of_task, without_images
from modeling_mgvmoe.evaluation.report import markdown_table
from modeling_mgvmoe.evaluation.runs import load_model
from modeling_mgvmoe.inference.metrics import accuracy, rejection_auroc
from modeling_mgvmoe.inference.predict import ModelScorer

# Of the single answer, without draws; and of the draws.
WITHOUT_DRAWS = ("softmax entropy", "1 - probability")
OF_DRAWS = ("mutual information", "entropy of the mean", "deviation")


def _entropy(probs: np.ndarray) -> np.ndarray:
    return -np.where(probs > 0, probs * np.log(np.where(probs > 0, probs, 1)), 0).sum(-1)


def uncertainties(logits: np.ndarray) -> dict[str, np.ndarray]:
    """Measures of uncertainty, each (posts,), high for what is unsure.

    Args:
        logits: (1 + draws, posts, labels), first those without noise, as `ModelScorer.with_samples` gives them; with
            no draws only the measures of `WITHOUT_DRAWS` are returned.

    Returns:
        "softmax entropy" and "1 - probability" of the best label, without noise; "mutual information" of answer and
        draw, "entropy of the mean" probabilities and "deviation" of the best label's probability over the draws.
    """
    if logits.ndim != 3 or not logits.size or np.isnan(logits).any():
        raise ValueError(f"logits must be (1 + draws, posts, labels) without NaN, got shape {logits.shape}.")
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    found = {"softmax entropy": _entropy(probs[0]), "1 - probability": 1 - probs[0].max(-1)}
    if len(probs) == 1:
        return found
    draws, best = probs[1:], probs[0].argmax(-1)
    of_mean = _entropy(draws.mean(0))
    return {
        **found,
        "mutual information": of_mean - _entropy(draws).mean(0),
        "entropy of the mean": of_mean,
        "deviation": draws[:, np.arange(len(best)), best].std(0),
    }


def error_detection(logits: np.ndarray, labels: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """AUROC of each measure in telling posts that are answered wrongly from those that are answered rightly.

    Answers are the best labels without noise, so that all measures are of the same errors.

    Args:
        logits: as of [`uncertainties`].
        labels: their columns.
        references: the right label per post.

    Raises:
        ValueError: all answers are right, or all are wrong.
    """
    answers = [labels[column] for column in logits[0].argmax(-1).tolist()]
    right = [answer == reference for answer, reference in zip(answers, references, strict=True)]
    return {name: rejection_auroc(-values, right) for name, values in uncertainties(logits).items()}


@torch.no_grad()
def cost(flags):
    """Seconds with and without draws, in turn."""
    from full_size import full_model, pixels, posts

    model = full_model()
    batch = {**posts(), "pixel_values": pixels(), "candidate_embeds": torch.randn(4, 768)}
    pairs = []
    for _ in range(flags.repetitions + 1):
        pair = []
        for number in (None, flags.num_samples):
            started = time.perf_counter()
            model(**batch, num_samples=number)
            pair.append(time.perf_counter() - started)
        pairs.append(pair)
    pairs = pairs[1:]
    row = {
        "num_samples": flags.num_samples,
        "seconds without": statistics.median(one for one, _ in pairs),
        "seconds with": statistics.median(other for _, other in pairs),
        "quotient": statistics.median(other / one for one, other in pairs),
        "least": min(other / one for one, other in pairs),
        "greatest": max(other / one for one, other in pairs),
        "repetitions": flags.repetitions,
        "threads": torch.get_num_threads(),
    }
    print(markdown_table(list(row), [[f"{value:.3g}" for value in row.values()]]))
    return {"cost": row}


def errors(flags):
    """AUROC of error detection by dataset, task and seed."""
    rows = []
    for seed in flags.seeds:
        data = load_evaluation_data(flags.dataset.replace("{seed}", str(seed)), seed=seed)
        model, processor = load_model(flags.model.replace("{seed}", str(seed)), "cpu")
        types = TypesOfLabels(data.label_types, data.type_descriptions)
        scorer = ModelScorer(model, processor, data.label_descriptions, types=types, progress=True)
        for task, labels in data.labels["test"].items():
            posts = posts_of_task(data.posts["test"], task)
            torch.manual_seed(0)
            logits = scorer.with_samples(posts, labels, flags.num_samples)
            references = [post["label"] for post in without_images(posts)]
            answers = [labels[column] for column in logits[0].argmax(-1)]
            row = {"task": task, "seed": seed, "posts": len(posts), "accuracy": accuracy(answers, references)}
            right = round(row["accuracy"] * len(posts))
            # A model that errs nowhere has no errors to be told.
            found = {} if right in (0, len(posts)) else error_detection(logits, labels, references)
            rows.append({**row, "errors": len(posts) - right, **found})
    name = os.path.basename(os.path.normpath(flags.dataset.replace("{seed}", "")))
    print(table(rows))
    return {name: {"num_samples": flags.num_samples, "rows": rows}}


def table(rows):
    """A line for each task and seed, and the means over the seeds that have errors."""
    measures = (*WITHOUT_DRAWS, *OF_DRAWS)
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        for row in own:
            lines.append([task, *[str(row[name]) for name in ("seed", "posts", "errors")], f"{row['accuracy']:.3f}",
                          *[f"{row[name]:.3f}" if name in row else "" for name in measures]])  # fmt: skip
        told = [row for row in own if measures[0] in row]
        if told:
            means = [f"{statistics.mean(row[name] for row in told):.3f}" for name in measures]
            lines.append([task, f"mean of {len(told)}", "", "", "", *means])
    return markdown_table(["task", "seed", "posts", "errors", "accuracy", *measures], lines)


def main(argv=None):
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cost", "errors"])
    parser.add_argument("--json", required=True, help="file for the results")
    parser.add_argument("--num_samples", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--model", help="folder of a model, for errors")
    parser.add_argument("--dataset", help='"sketchbook" or a prepared folder, for errors')
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    flags = parser.parse_args(argv)
    if flags.what == "errors" and not (flags.model and flags.dataset):
        parser.error("--model and --dataset: needed for errors")
    if flags.repetitions < 1 or flags.num_samples < 1:
        parser.error("--repetitions and --num_samples must be at least 1")
    disable_progress_bar()
    known = {}
    if os.path.exists(flags.json):
        with open(flags.json, encoding="utf-8") as file:
            known = json.load(file)
    known |= {"cost": cost, "errors": errors}[flags.what](flags)
    with open(flags.json, "w", encoding="utf-8") as file:
        json.dump(known, file, indent=1)
    return known


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
