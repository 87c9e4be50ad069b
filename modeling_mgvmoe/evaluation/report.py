"""What a person reads of an evaluation: a table and a picture."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from .fonts import Glyphs, drawable, widened

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
    """Write a PNG with each post's picture, its text with the mentions in colour, and its best labels as bars.

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
            picture, bars = axes[number // columns][2 * (number % columns) : 2 * (number % columns) + 2]
            if post.get("image") is not None:
                picture.imshow(post["image"])
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
