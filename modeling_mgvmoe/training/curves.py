"""A picture of how a training went."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .statistics import TERM_NAMES

# Panels in reading order: title, the entries it draws as a pattern of which the group names a line, vertical scale.
# Terms that are not among them get a panel each.
PANELS = (
    ("loss (E12)", r"train/(loss)", "linear"),
    *((names.curve, rf"train/({term})", names.scale) for term, names in TERM_NAMES.items()),
    ("learning rate", r"learning_rate/(.+)", "rate"),
    ("validation", r"validation/(.*macro_f1)", "score"),
    ("expert usage, text", r"expert_usage/text_(\d+)", "share"),
    ("expert usage, picture", r"expert_usage/picture_(\d+)", "share"),
    ("router entropy, nats per token", r"router_entropy/(.+)", "linear"),
    ("posts a second", r"train/(posts_per_second)", "linear"),
)
COLUMNS = 4
# More lines than this are told apart by their place alone.
LEGEND = 8


def series(entries: Sequence[Mapping[str, Any]], pattern: str) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of everything in the log whose name matches, by the pattern's group."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for entry in entries:
        for name, value in entry.items():
            match = re.fullmatch(pattern, name)
            if match:
                steps, values = found.setdefault(match[1], ([], []))
                steps.append(entry["step"])
                values.append(value)
    return found


def panels(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, tuple[list[int], list[float]]], str]]:
    """Title, lines and vertical scale of every panel that has something to draw."""
    chosen = list(PANELS)
    names = dict.fromkeys(name for entry in entries for name in entry if name.startswith("train/"))
    for name in names:
        if not any(re.fullmatch(pattern, name) for _, pattern, _ in PANELS):
            title = name.removeprefix("train/").replace("_", " ")
            chosen.insert(1 + len(TERM_NAMES), (title, f"({re.escape(name)})", "linear"))
    drawn = [(title, series(entries, pattern), scale) for title, pattern, scale in chosen]
    return [panel for panel in drawn if panel[1]]


def draw_curves(entries: Sequence[Mapping[str, Any]], path: str) -> str | None:
    """Write a PNG: loss terms, learning rates, validation scores, use of the experts, router entropy over the steps.

    Args:
        entries: of the log.
        path: of the PNG.

    Returns:
        Why there is no picture, `None` if there is one.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "matplotlib is not installed (it is in the extra `demo`)."
    drawn = panels(entries)
    if not drawn:
        return "the log is empty."
    rows = -(-len(drawn) // COLUMNS)
    figure = Figure(figsize=(4.1 * COLUMNS, 2.9 * rows))
    axes = figure.subplots(rows, COLUMNS, squeeze=False)
    for axis, (title, lines, scale) in zip(axes.flat, drawn, strict=False):
        _draw_panel(axis, title, lines, scale)
    for axis in axes.flat[len(drawn) :]:
        axis.remove()
    for axis in axes.flat[max(len(drawn) - COLUMNS, 0) : len(drawn)]:
        axis.set_xlabel("step")
    figure.subplots_adjust(
        left=0.04, right=0.99, bottom=0.55 / (2.9 * rows), top=1 - 0.35 / (2.9 * rows), wspace=0.2, hspace=0.3
    )
    figure.savefig(path, dpi=100)
    return None


def _draw_panel(axis: Any, title: str, lines: Mapping[str, tuple[list[int], list[float]]], scale: str) -> None:
    # One place for one number: "typing/macro_f1" is the line of typing, "macro_f1" that of their mean.
    names = {name: name.replace("/macro_f1", "").replace("macro_f1", "macro-F1, mean") for name in lines}
    # Lines that are the same, as learning rates often are, would hide all but the last.
    same: dict[tuple[tuple[int, ...], tuple[float, ...]], list[str]] = {}
    for name, (steps, values) in lines.items():
        same.setdefault((tuple(steps), tuple(values)), []).append(names[name])
    for (across, up), labels in same.items():
        dots = "o" if len(across) < 30 else ""
        axis.plot(across, up, label="\n".join(labels), linewidth=1.4, marker=dots, markersize=3)
    axis.set_title(title, fontsize=10)
    axis.tick_params(which="both", labelsize=8)
    axis.grid(alpha=0.25)
    axis.xaxis.get_major_locator().set_params(integer=True, nbins=5)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    everything = [value for _, column in lines.values() for value in column]
    highest = [max(column) for _, column in lines.values()]
    if (scale == "log" and min(everything) > 0 and max(everything) > 10 * min(everything)) or (
        scale == "rate" and max(highest) > 5 * min(highest) > 0
    ):
        axis.set_yscale("log", nonpositive="mask")
    elif scale == "score":
        axis.set_ylim(-0.02, 1.02)
    else:
        axis.ticklabel_format(axis="y", scilimits=(-3, 5))
        axis.yaxis.get_offset_text().set_fontsize(8)
        axis.set_ylim(bottom=min(0, *everything))
    if scale == "share":
        axis.axhline(1 / len(lines), color="grey", linewidth=0.8, linestyle=":")
    if 1 < len(lines) <= LEGEND:
        axis.legend(fontsize=7, frameon=False, ncols=2 if len(lines) > 4 else 1)
