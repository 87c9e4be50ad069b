"""Table and image of an evaluation."""

from __future__ import annotations

import os
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ..inference.metrics import TaskResult
from .plots import Glyphs, drawable, widened

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
    lines = [list(heads), *map(list, rows)]
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


def draw_predictions(
    posts: Sequence[Mapping[str, Any]],
    rankings: Sequence[Sequence[Mapping[str, Any]]],
    path: str | os.PathLike,
    title: str | None = None,
    top_k: int = 4,
) -> None:
    """Write a PNG with each post's image, its text with the mentions in colour, and its best labels as bars.

    Args:
        posts: in the package's schema; `label`, if given, is the right answer, whose bar is green when it wins.
        rankings: per post its `{"label", "score"}` with falling scores, as the pipeline returns them.
        path: of the PNG.
        title: above it all.
        top_k: bars per post.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    texts = [title or "", *(post["text"] for post in posts), *(post.get("label", "") for post in posts)]
    texts += [item["label"] for ranking in rankings for item in ranking]
    with drawable(texts) as glyphs:
        columns = 2
        rows = -(-len(posts) // columns)
        figure, axes = plt.subplots(
            rows,
            2 * columns,
            figsize=(5.6 * columns, 1.9 * rows + 0.5),
            width_ratios=[1, 1.6] * columns,
            squeeze=False,
        )
        for axis in axes.flat:
            axis.axis("off")
        for number, (post, ranking) in enumerate(zip(posts, rankings, strict=True)):
            drawn, bars = axes[number // columns][2 * (number % columns) : 2 * (number % columns) + 2]
            if post.get("image") is not None:
                drawn.imshow(post["image"])
            bars.axis("on")
            best = list(ranking[:top_k])[::-1]
            colours = ["#b8c4d0"] * (len(best) - 1)
            right = "label" not in post or best[-1]["label"] == post["label"]
            colours.append("#8fd0a5" if right else "#eba39c")
            bars.barh(range(len(best)), [item["score"] for item in best], color=colours, height=0.7)
            bars.set_xlim(0, 1.15)  # room for the figures beside a bar of 1
            bars.set_xticks([])
            bars.set_yticks([])
            for place, item in enumerate(best):
                bars.text(0.02, place, glyphs.show(item["label"]), va="center", fontsize=9)
                bars.text(1.14, place, f"{item['score']:.2f}", va="center", ha="right", fontsize=9)
            for side in ("top", "right", "bottom", "left"):
                bars.spines[side].set_visible(False)
            bars.set_title(_marked(post, glyphs), fontsize=8.5, loc="left", x=-0.0, pad=6)
            if not right:
                bars.set_xlabel(f"right: {glyphs.show(post['label'])}", fontsize=8, color="#c0504d", loc="left")
        if title:
            figure.suptitle(glyphs.show(title), fontsize=11)
        if glyphs.note:
            figure.supxlabel(glyphs.note, fontsize=8, color="#555555")
        figure.tight_layout()
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _marked(post: Mapping[str, Any], glyphs: Glyphs, width: int = 46) -> str:
    """The marked text as it is drawn, broken into lines."""
    text = glyphs.show(mark_mentions(post))
    return textwrap.fill(text, widened(width, text))


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


def protocol_report(
    results: Mapping[str, Mapping[int, TaskResult]],
    facts: Mapping[str, str],
    images: Mapping[tuple[str, int], Sequence[tuple[str, str]]],
    notes: Sequence[str] = (),
) -> str:
    """The Markdown report of an evaluation.

    Args:
        results: by task and seed, of one protocol.
        facts: what was run, by name: command, seeds, versions, machine.
        images: by task and seed (caption, path relative to the report).
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
            lines += [f"![{caption}]({path})" for caption, path in images.get((task, seed), ())] + [""]
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
