"""Pictures of an evaluation as PNG: the confusion matrix, a chart of the classes, the use of the experts."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .fonts import Glyphs, drawable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .expert_usage import ExpertUsage

# More classes than this and a cell has no room for its count, or an axis none for the names.
MOST_WITH_COUNTS, MOST_WITH_NAMES = 24, 150
MOST_PIXELS = 30_000
BLUE, GREY, RED = "#3f7cac", "#b8c4d0", "#c0504d"


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def shortened(label: str, width: int = 24, lines: int = 2) -> str:
    """The label in at most `lines` lines of `width` characters; of a longer one the middle is left out.

    Names of classes often begin alike, so the end is kept as well.
    """
    length = len(label)
    while True:
        half = length // 2
        text = label if length >= len(label) else label[: length - half].rstrip() + "…" + label[-half:].lstrip()
        rows = textwrap.wrap(text, width, break_on_hyphens=False)
        if len(rows) <= lines:
            return "\n".join(rows)
        length = min(length - 1, width * lines - 1)


def short_names(labels: Sequence[str], width: int, lines: int) -> list[str]:
    """[`shortened`] labels; where two would read the same, all get more room until they do not."""
    while True:
        names = [shortened(label, width, lines) for label in labels]
        if len(set(names)) == len(set(labels)) or width > max(map(len, labels)):
            return names
        width += 4


def draw_confusion(
    matrix: np.ndarray,
    labels: Sequence[str],
    path: str | os.PathLike,
    title: str | None = None,
    divider: int | None = None,
) -> None:
    """Write a PNG of a confusion matrix: colours are shares of a row, cells hold counts where there is room.

    More than 150 classes go without their names: read them from the numbers.

    Args:
        matrix: counts (labels, labels), row the right label, column the answer.
        labels: names of rows and columns.
        path: of the PNG.
        title: above it.
        divider: a line after so many classes, between seen and unseen.
    """
    matrix = np.asarray(matrix)
    count = len(labels)
    if matrix.shape != (count, count) or not count:
        raise ValueError(f"matrix must be ({count}, {count}), a row for each label, got {matrix.shape}.")
    plt = _pyplot()
    with drawable([*labels, title or ""]) as glyphs:
        cell = 0.62 if count <= 6 else 0.46 if count <= MOST_WITH_COUNTS else min(0.26, 0.26 * MOST_WITH_NAMES / count)
        size = max(cell * count, 2.2)
        font = 9 if count <= MOST_WITH_COUNTS else 7.5
        labels = [glyphs.show(label) for label in labels]
        names = short_names(labels, 24, 2) if count <= MOST_WITH_COUNTS else short_names(labels, 36, 1)
        if count > MOST_WITH_NAMES:
            names = [""] * count
        room = 0.075 * font / 9 * max(len(line) for name in names for line in name.split("\n")) + 0.3
        figure, axis = plt.subplots(figsize=(size + room + 1.2, size + room + 0.9), layout="constrained")
        totals = matrix.sum(1, keepdims=True)
        shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals != 0)
        image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axis.set_xticks(range(count), names, rotation=90, fontsize=font)
        axis.set_yticks(range(count), names, fontsize=font)
        axis.set_xlabel("answer")
        axis.set_ylabel("right label")
        axis.set_xticks(np.arange(count - 1) + 0.5, minor=True)
        axis.set_yticks(np.arange(count - 1) + 0.5, minor=True)
        if count <= MOST_WITH_NAMES:
            axis.grid(which="minor", color="white", linewidth=1)
        axis.tick_params(which="both", length=0)
        for side in axis.spines.values():
            side.set_visible(False)
        if count <= MOST_WITH_COUNTS:
            digits = len(str(int(matrix.max())))
            small = min(font, 72 * cell / (0.72 * max(digits, 2)))
            for row, column in zip(*np.nonzero(matrix), strict=True):
                colour = "white" if shares[row, column] > 0.55 else "black"
                axis.text(
                    column, row, f"{matrix[row, column]:d}", ha="center", va="center", fontsize=small, color=colour
                )
        if divider and divider < count:
            axis.axhline(divider - 0.5, color=RED, linewidth=1)
            axis.axvline(divider - 0.5, color=RED, linewidth=1)
        bar = figure.colorbar(image, ax=axis, shrink=min(0.7, 2.8 / (size + room)), aspect=14, pad=0.02)
        bar.set_label("share of the posts of a label", fontsize=8)
        bar.ax.tick_params(labelsize=8)
        bar.outline.set_visible(False)
        if title:
            axis.set_title(glyphs.show(title), fontsize=11, pad=10)
        _add_note(figure, glyphs)
        figure.savefig(path, dpi=110, bbox_inches="tight", pad_inches=0.1)
        plt.close(figure)


def draw_classes(
    scores: Mapping[str, Mapping[str, float]],
    path: str | os.PathLike,
    title: str | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write a PNG with a bar for the F1 of each class and marks for precision and recall, the best first.

    Args:
        scores: of [`per_class_scores`].
        path: of the PNG.
        title: above it.
        groups: classes under headings, such as seen and unseen; default: all without a heading.
    """
    if not scores:
        raise ValueError("scores: there must be at least one class, got none.")
    plt = _pyplot()
    with drawable([*scores, *(groups or ()), title or ""]) as glyphs:
        rows = list(_rows(scores, groups))
        height = 0.3 * len(rows) + 1.3
        short = dict(zip(scores, short_names([glyphs.show(label) for label in scores], 34, 1), strict=True))
        names = [short[label] if label is not None else "" for label, _ in rows]
        room = 0.075 * max(map(len, names)) + 0.2
        figure, axis = plt.subplots(figsize=(5.2 + room, height), layout="constrained")
        places = np.arange(len(rows))
        for place, (label, heading) in zip(places, rows, strict=True):
            if label is None:
                axis.text(0, place + 0.1, glyphs.show(heading), fontsize=9.5, fontweight="bold", va="center")
                continue
            own = scores[label]
            absent = not own["support"]
            axis.barh(place, own["f1"], height=0.62, color=GREY if absent else BLUE)
            axis.plot(own["precision"], place, marker="|", color="black", markersize=9, linestyle="none")
            axis.plot(own["recall"], place, marker="o", color=RED, markersize=4, linestyle="none", clip_on=False)
            axis.text(1.04, place, f"{own['f1']:.2f}", fontsize=8.5, va="center")
            axis.text(1.32, place, f"{own['support']:,}", fontsize=8.5, va="center", ha="right", color="#555555")
        axis.set_yticks(places, names, fontsize=9)
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_xlim(0, 1.34)
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axis.tick_params(axis="y", length=0)
        axis.xaxis.grid(visible=True, color="#e4e8ec", linewidth=0.8)
        axis.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
        axis.spines["bottom"].set_bounds(0, 1)
        axis.text(1.04, -0.75, "F1", fontsize=8.5, va="bottom")
        axis.text(1.32, -0.75, "posts", fontsize=8.5, va="bottom", ha="right", color="#555555")
        _legend(figure)
        if title:
            figure.suptitle(glyphs.show(title), fontsize=11)
        _add_note(figure, glyphs)
        figure.savefig(path, dpi=min(110, MOST_PIXELS / height), bbox_inches="tight", pad_inches=0.1)
        plt.close(figure)


def _rows(
    scores: Mapping[str, Mapping[str, float]], groups: Mapping[str, Sequence[str]] | None
) -> list[tuple[str | None, str]]:
    """(class, "") in falling F1, each group of classes after (None, its heading)."""
    rows: list[tuple[str | None, str]] = []
    for heading, labels in (groups or {"": list(scores)}).items():
        if heading:
            rows.append((None, heading))
        # A class without posts has no F1 worth a rank: last.
        rows += [
            (label, "")
            for label in sorted(labels, key=lambda name: (not scores[name]["support"], -scores[name]["f1"], name))
        ]
    return rows


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=BLUE, label="F1"),
        Line2D([], [], marker="|", color="black", linestyle="none", markersize=9, label="precision"),
        Line2D([], [], marker="o", color=RED, linestyle="none", markersize=4, label="recall"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)


def draw_expert_usage(usage: ExpertUsage, path: str | os.PathLike, title: str | None = None) -> None:
    """Write a PNG of how much each expert is used: a row for all posts and for each class, by modality.

    Args:
        usage: of [`expert_usage`].
        path: of the PNG.
        title: above it.
    """
    plt = _pyplot()
    with drawable([*(label for own in usage.by_class.values() for label in own), title or ""]) as glyphs:
        modalities = list(usage.overall)
        rows: list[tuple[str, dict[str, np.ndarray] | None, int]] = [
            ("all posts", usage.overall, sum(number for own in usage.posts.values() for number in own.values()))
        ]
        for task, classes in usage.by_class.items():
            rows.append((task, None, 0))
            rows += [(label, own, usage.posts[task][label]) for label, own in classes.items()]
        experts = len(usage.overall[modalities[0]])
        headings = {task for task, own, _ in rows if own is None}
        names = short_names([glyphs.show(name) for name, _, _ in rows], 34, 1)
        cell = 0.42
        room = 0.075 * max(map(len, names)) + 0.2
        height = 0.26 * len(rows) + 1.5
        figure, axes = plt.subplots(
            1, len(modalities), figsize=(room + cell * experts * len(modalities) + 1.6, height), layout="constrained",
            sharey=True, squeeze=False,
        )  # fmt: skip
        most = max(float(part.max()) for _, own, _ in rows if own is not None for part in own.values())
        for axis, modality in zip(axes[0], modalities, strict=True):
            empty = np.full(experts, np.nan)
            values = np.array([empty if own is None else own.get(modality, empty) for _, own, _ in rows])
            image = axis.imshow(values, cmap="Blues", vmin=0, vmax=most, aspect="auto")
            for row, column in zip(*np.nonzero(~np.isnan(values)), strict=True):
                share = values[row, column]
                colour = "white" if share > 0.6 * most else "black"
                axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7.5, color=colour)
            axis.set_xticks(range(experts), [str(number) for number in range(experts)], fontsize=8.5)
            axis.set_title(modality, fontsize=10)
            axis.set_xlabel("expert")
            axis.tick_params(length=0)
            for side in axis.spines.values():
                side.set_visible(False)
        labels = [f"{name}  ({number:,})" if own else name for name, (_, own, number) in zip(names, rows, strict=True)]
        axes[0][0].set_yticks(range(len(rows)), labels, fontsize=8.5)
        for tick, (name, own, _) in zip(axes[0][0].get_yticklabels(), rows, strict=True):
            if own is None and name in headings:
                tick.set_fontweight("bold")
        bar = figure.colorbar(image, ax=axes[0].tolist(), shrink=min(0.7, 2.8 / height), aspect=14, pad=0.02)
        bar.set_label("mean router probability (cells: %)", fontsize=8)
        bar.ax.tick_params(labelsize=8)
        bar.outline.set_visible(False)
        if title:
            figure.suptitle(glyphs.show(title), fontsize=11)
        _add_note(figure, glyphs)
        figure.savefig(path, dpi=min(110, MOST_PIXELS / height), bbox_inches="tight", pad_inches=0.1)
        plt.close(figure)


def _add_note(figure: Figure, glyphs: Glyphs) -> None:
    """Say below the picture which characters no font has."""
    if glyphs.note:
        figure.text(0, -0.01, "\n".join(textwrap.wrap(glyphs.note, 70)), fontsize=8, color="#555555", va="top")
