"""Tables and image of an evaluation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # scikit-learn, which it imports, is of another extra than an export, whose tables are made here
    from ..inference.metrics import TaskResult

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]


def conditions_table(results: Scores, metrics: Sequence[str] = ("accuracy", "macro_f1")) -> str:
    """A Markdown table of [`evaluate_conditions`]: a row per condition, then uniform chance and the majority class.

    Chance and majority are accuracies; their macro-F1 is left out.
    """
    tasks = list(next(iter(results.values())))
    heads = [f"{task} {metric.replace('_', '-')}" for task in tasks for metric in metrics]
    rows = [
        [condition, *(f"{scores[task][metric]:.3f}" for task in tasks for metric in metrics)]
        for condition, scores in results.items()
    ]
    first = next(iter(results.values()))
    for name, key in (("uniform chance", "chance"), ("majority class", "majority")):
        cells = [f"{first[task][key]:.3f}" if metric == "accuracy" else "" for task in tasks for metric in metrics]
        rows.append([name, *cells])
    return markdown_table(["the model sees", *heads], rows)


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with padded columns, the first to the left, the others to the right."""
    lines = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        text.append("| " + " | ".join([line[0].ljust(widths[0]), *cells[1:]]) + " |")
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([text[0], rule, *text[1:]])


def mark_mentions(post: Mapping[str, Any]) -> str:
    """The text of a post with brackets around its mentions; head and tail are told apart."""
    text, names = post["text"], ("head ", "tail ") if len(post["mentions"]) == 2 else ("",)
    # Later brackets first, so that the places of the earlier ones stay right. At one place closing ones stand before
    # opening ones, and the longer mention opens first, so that brackets nest.
    brackets = [(start, 1, -end, f"[{name}") for name, (start, end) in zip(names, post["mentions"], strict=True)]
    brackets += [(end, 0, 0, "]") for _, end in post["mentions"]]
    for place, _, _, bracket in sorted(brackets, reverse=True):
        text = text[:place] + bracket + text[place:]
    return text


# Fonts with the characters that matplotlib's own lacks, asked for in this order where they are installed.
FONTS = ("Noto Sans CJK JP", "Noto Sans", "Noto Emoji", "Symbola", "WenQuanYi Zen Hei")
MOST_WITH_COUNTS = 24  # classes; the cells of more have no room for their counts


def drawing_style() -> AbstractContextManager[None]:
    """A context in which matplotlib reads no formulas in texts, and falls back on other installed fonts."""
    import matplotlib
    from matplotlib.font_manager import fontManager

    installed = {entry.name for entry in fontManager.ttflist}
    families = ["DejaVu Sans", *(name for name in FONTS if name in installed)]
    return matplotlib.rc_context({"font.family": "sans-serif", "font.sans-serif": families, "text.parse_math": False})


def draw_confusion(result: TaskResult, method: str, path: str, title: str) -> None:
    """Write a PNG of a method's confusion matrix by scikit-learn, seen classes first."""
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay

    # Names of classes often begin alike, so a long one keeps its end, too.
    names = [name if len(name) <= 40 else f"{name[:19]}…{name[-20:]}" for name in result.classes]
    size = 3 + 0.45 * len(names) * min(1, 60 / len(names))
    with drawing_style():
        figure = Figure(figsize=(size, size), layout="constrained")
        axis = figure.subplots()
        ConfusionMatrixDisplay(result.confusion(method), display_labels=names).plot(
            ax=axis, cmap="Blues", colorbar=False, xticks_rotation="vertical", values_format="d",
            include_values=len(names) <= MOST_WITH_COUNTS,
        )  # fmt: skip
        axis.tick_params(labelsize=min(9, 900 / max(100, len(names))))
        axis.set_title(title)
        figure.savefig(path, dpi=110)


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
    "unseen": (
        "Posts of unseen classes; candidates are these classes. A class without posts counts as 0 in the averages."
    ),
    "seen": (
        "Posts of classes of which all or some are seen in training, so this is not a zero-shot result. Candidates "
        "are all of them. A class without posts counts as 0 in the averages."
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
        "Posts of unseen classes, posts without a class; candidates are the unseen classes. A post is rejected when "
        "its greatest probability, or its greatest logit, is below a threshold, fitted for the best F1 on posts of "
        "the validation classes and "
        "half of the posts without a class, by a hash of the id; the other half is tested on. Rejection F1 is that "
        "of posts without a class as rejected; accuracy, macro-F1 and ECE of known are those of the best candidate of "
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
    """Number of posts and candidates, once if all seeds agree, else by seed."""
    lines = {
        seed: ", ".join(f"{name} {count:,}" for name, count in result.counts.items())
        for seed, result in results.items()
    }
    if len(set(lines.values())) == 1:
        return next(iter(lines.values())) + "."
    return "; ".join(f"seed {seed}: {line}" for seed, line in lines.items()) + "."


def class_table(result: TaskResult, method: str) -> str:
    """A Markdown table of the classes, best F1 first, unseen ones after seen ones; those without posts last."""
    scores, seen = result.per_class(method), set(result.seen)
    order = sorted(scores, key=lambda name: (name not in seen, not scores[name]["support"], -scores[name]["f1"], name))
    return markdown_table(
        ["class", "", "F1", "precision", "recall", "posts"],
        [
            [name, "seen" if name in seen else "unseen",
             *(f"{scores[name][key]:.3f}" for key in ("f1", "precision", "recall")), f"{scores[name]['support']:,}"]
            for name in order
        ],
    )  # fmt: skip


def protocol_report(
    results: Mapping[str, Mapping[int, TaskResult]],
    method: str,
    facts: Mapping[str, str],
    images: Mapping[tuple[str, int], str],
    notes: Sequence[str] = (),
) -> str:
    """The Markdown report of an evaluation.

    Args:
        results: by task and seed, of one protocol.
        method: whose classes are shown.
        facts: what was run, by name: command, seeds, versions, machine.
        images: by task and seed the path of the confusion matrix, relative to the report.
        notes: what a reader must know to judge the numbers.
    """
    protocol = next(result.protocol for own in results.values() for result in own.values())
    lines = [f"# Evaluation: {protocol}", "", MEANING[protocol], "", ECE_MEANING, ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", *(f"> {note}\n" for note in notes)]
    for task, own in results.items():
        lines += [f"## {task.capitalize()}", "", counts_line(own).capitalize(), "", seed_table(own), ""]
        for seed in own:
            lines += [f"### {task.capitalize()}, seed {seed}", "", class_table(own[seed], method), ""]
            lines += [f"![Confusion matrix, {task}, seed {seed}]({images[task, seed]})", ""]
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
