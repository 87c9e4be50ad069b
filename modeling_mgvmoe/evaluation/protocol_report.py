"""What a person reads of a protocol: one table per task over seeds, and a Markdown report with its pictures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .report import markdown_table
from .task_result import TaskResult

# The columns of each protocol's table; the metrics JSON holds more.
UNSEEN_COLUMNS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "macro_precision": "macro-P",
    "macro_recall": "macro-R",
    "weighted_f1": "weighted-F1",
    "ece": "ECE",
}
COLUMNS = {
    "unseen": UNSEEN_COLUMNS,
    "seen": UNSEEN_COLUMNS,
    "generalised": {
        "seen_accuracy": "accuracy seen",
        "unseen_accuracy": "accuracy unseen",
        "harmonic_accuracy": "accuracy harmonic",
        "seen_macro_f1": "macro-F1 seen",
        "unseen_macro_f1": "macro-F1 unseen",
        "harmonic_macro_f1": "macro-F1 harmonic",
        "gamma": "gamma",
        "calibrated_seen_accuracy": "accuracy seen, calibrated",
        "calibrated_unseen_accuracy": "accuracy unseen, calibrated",
        "calibrated_harmonic_accuracy": "accuracy harmonic, calibrated",
        "calibrated_harmonic_macro_f1": "macro-F1 harmonic, calibrated",
        "ece": "ECE",
    },
    "open": {
        "auroc": "rejection AUROC",
        "rejection_f1": "rejection F1",
        "rejection_accuracy": "rejection accuracy",
        "logit_auroc": "AUROC by best logit",
        "logit_rejection_f1": "F1 by best logit",
        "known_accuracy": "accuracy of known",
        "known_macro_f1": "macro-F1 of known",
        "ece": "ECE of known",
    },
}

MEANING = {
    "unseen": "Posts of unseen classes; candidates are these classes. Averages are over the classes that have posts.",
    "seen": (
        "Posts of classes of which all or some are seen in training, so this is not a zero-shot result. Candidates "
        "are all of them. Averages are over the classes that have posts."
    ),
    "generalised": (
        "Posts of unseen classes and held-out posts of seen ones; candidates are both. "
        "Accuracy of a group is that of its posts; macro-F1 of a group is the mean over its classes, which posts of "
        "the other group that are taken for them lower; harmonic is the harmonic mean of seen and unseen. Calibrated: "
        "gamma is taken off the logits of seen classes (calibrated stacking). It is fitted for the best harmonic mean "
        "of the accuracies on half of the held-out posts of seen classes, picked by a hash of the id, and the "
        "posts of validation classes, which stand in for unseen ones; the other half is tested on."
    ),
    "open": (
        "Posts of unseen classes and posts of no class; candidates are the unseen classes. A post is rejected when "
        "its greatest probability, or its greatest logit, is below a threshold, fitted for the best F1 on posts of "
        "the validation classes and "
        "half of the posts of no class, picked by a hash of the id; the other half is tested on. Rejection F1 is that "
        "of posts of no class as rejected; accuracy, macro-F1 and ECE of known are those of the best candidate of "
        "posts of unseen classes, before rejection."
    ),
}

ECE_MEANING = (
    "ECE: expected calibration error of the probability of the best label, 15 bins. Label similarity takes the "
    "softmax of 20 times the cosine."
)


def summary(results: Mapping[int, TaskResult]) -> dict[str, dict[str, dict[str, float]]]:
    """By method and metric the `mean` and the sample standard deviation `std` over seeds, 0 for one seed."""
    first = next(iter(results.values()))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for method, scores in first.scores.items():
        found[method] = {}
        for metric in scores:
            values = [result.scores[method][metric] for result in results.values()]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            found[method][metric] = {"mean": statistics.mean(values), "std": spread}
    return found


def seed_table(results: Mapping[int, TaskResult]) -> str:
    """A Markdown table of one task: with several seeds mean ± deviation of each method, then the rows of each seed.

    Seeds differ in their classes and are not comparable with each other, so compare methods within a seed.

    Args:
        results: by seed, of one task and protocol.
    """
    first = next(iter(results.values()))
    columns = COLUMNS[first.protocol]
    rows = []
    if len(results) > 1:
        for method, scores in summary(results).items():
            cells = [
                f"{scores[metric]['mean']:.3f} ± {scores[metric]['std']:.3f}" if metric in scores else ""
                for metric in columns
            ]
            rows.append([method, f"mean of {len(results)}", *cells])
    for seed, result in results.items():
        for method, own in result.scores.items():
            cells = [f"{own[metric]:.3f}" if metric in own else "" for metric in columns]
            rows.append([method, str(seed), *cells])
    return markdown_table(["method", "seed", *columns.values()], rows)


def counts_line(results: Mapping[int, TaskResult]) -> str:
    """How many posts and candidates, once if all seeds have as many, else by seed."""
    lines = {
        seed: ", ".join(f"{name} {count:,}" for name, count in result.counts.items())
        for seed, result in results.items()
    }
    if len(set(lines.values())) == 1:
        return next(iter(lines.values())) + "."
    return "; ".join(f"seed {seed}: {line}" for seed, line in lines.items()) + "."


def protocol_report(
    results: Mapping[str, Mapping[int, TaskResult]],
    facts: Mapping[str, str],
    pictures: Mapping[tuple[str, int], Sequence[tuple[str, str]]],
    notes: Sequence[str] = (),
) -> str:
    """The Markdown report of an evaluation.

    Args:
        results: by task and seed, of one protocol.
        facts: what was run, by name: command, seeds, versions, machine.
        pictures: by task and seed (caption, path relative to the report).
        notes: what a reader must know to judge the numbers.
    """
    protocol = next(result.protocol for own in results.values() for result in own.values())
    lines = [f"# Evaluation: {protocol}", "", MEANING[protocol], "", ECE_MEANING, ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", *(f"> {note}\n" for note in notes)]
    for task, own in results.items():
        lines += [f"## {task.capitalize()}", "", counts_line(own).capitalize(), "", seed_table(own), ""]
        for seed in own:
            lines += [f"### {task.capitalize()}, seed {seed}", ""]
            lines += [f"![{caption}]({path})" for caption, path in pictures.get((task, seed), ())] + [""]
    return "\n".join(lines).rstrip() + "\n"


def result_as_json(result: TaskResult, method: str) -> dict[str, Any]:
    """Numbers of a result; classes and confusion matrix are those of one method."""
    return {
        "task": result.task,
        "counts": result.counts,
        "candidates": list(result.candidates),
        "seen": list(result.seen),
        "scores": result.scores,
        "per_class": result.per_class(method),
        "confusion": {"classes": result.classes, "matrix": result.confusion(method).tolist()},
    }
