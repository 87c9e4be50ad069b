"""The explanation of one answer as a PNG: the post with its words, its picture, the labels and the experts."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from .attention_overlay import STRONGEST, attention_overlay, relative_weights, resized
from .explanation import image_effect_words
from .fonts import Glyphs, drawable
from .plots import BLUE, GREY, RED, _pyplot, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .explanation import Explanation

ORANGE = "#e08214"
SIDE = 480  # pixels of a picture
WIDTH, MARGIN, FONT = 9.0, 0.25, 12.0  # inches, inches, points
LINE = 0.31  # inches from one line of the post to the next
SMALL_LINE, SMALL_WIDTH = 0.18, 112  # of the sentences below: inches from line to line, characters a line


def draw_explanation(
    explanation: Explanation, path: str | os.PathLike, title: str | None = None, top_k: int = 6
) -> None:
    """Write the PNG.

    Args:
        explanation: of [`explain_post`].
        path: of the PNG.
        title: above it all.
        top_k: bars of labels.
    """
    plt = _pyplot()
    texts = [explanation.text, title or "", *(entry["label"] for entry in explanation.ranking)]
    with drawable(texts) as glyphs:
        figure = plt.figure(figsize=(WIDTH, 4), dpi=110)
        try:
            _fill(figure, explanation, glyphs, title, min(top_k, len(explanation.ranking)))
            figure.savefig(path)
        finally:
            plt.close(figure)


def _fill(figure: Figure, explanation: Explanation, glyphs: Glyphs, title: str | None, shown: int) -> None:
    """Lay everything out from top to bottom; the figure becomes as high as it needs to be."""
    lines = _wrap(figure, explanation, glyphs)
    has_picture = explanation.image is not None
    effect = textwrap.wrap(
        image_effect_words(explanation, lambda label: shortened(glyphs.show(label), 40, 1)), SMALL_WIDTH
    )
    note = textwrap.wrap(glyphs.note, SMALL_WIDTH)
    heights = {
        "title": 0.35 if title else 0.0,
        "post": LINE * len(lines) + 0.3,
        "middle": max(2.1 if has_picture else 0.0, 0.3 * shown + 0.5),
        "effect": SMALL_LINE * len(effect) + 0.15 if effect else 0.0,
        "experts": 1.75 if explanation.expert_usage["text"].size else 0.9,
        "note": SMALL_LINE * len(note) + 0.05 if note else 0.0,
    }
    total = sum(heights.values()) + 2 * MARGIN
    figure.set_size_inches(WIDTH, total)
    top = total - MARGIN
    if title:
        figure.text(MARGIN / WIDTH, top / total, glyphs.show(title), fontsize=12.5, va="top", fontweight="bold")
    top -= heights["title"]
    _draw_post(_axes(figure, 0, top, WIDTH - 2 * MARGIN, heights["post"]), lines, explanation, glyphs)
    top -= heights["post"] + 0.1
    left = 0.0
    if has_picture:
        side = heights["middle"] - 0.2
        _draw_picture(_axes(figure, 0, top, side, side), explanation, weighed=False)
        _draw_picture(_axes(figure, side + 0.1, top, side, side), explanation, weighed=True)
        left = 2 * side + 0.35
    room = WIDTH - 2 * MARGIN - left
    _draw_labels(_axes(figure, left, top - 0.25, room, heights["middle"] - 0.45), explanation, shown, glyphs)
    top -= heights["middle"] + 0.1
    if effect:
        figure.text(MARGIN / WIDTH, top / total, "\n".join(effect), fontsize=9, va="top", linespacing=1.3)
        top -= heights["effect"]
    if explanation.expert_usage["text"].size:
        _draw_experts(_axes(figure, 0.4, top - 0.25, 4.2, heights["experts"] - 0.65), explanation)
    _draw_facts(_axes(figure, 5.0, top, WIDTH - 2 * MARGIN - 5.0, heights["experts"]), explanation)
    if note:
        figure.text(MARGIN / WIDTH, 0.15 / total, "\n".join(note), fontsize=8, va="bottom", color="#555555")


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes in inches, measured from the margin and, to their top, from below."""
    total_width, total = figure.get_size_inches()
    return figure.add_axes(
        ((MARGIN + left) / total_width, (top - height) / total, width / total_width, height / total)
    )


def _wrap(figure: Figure, explanation: Explanation, glyphs: Glyphs) -> list[list[tuple[int, float, float]]]:
    """The lines of the post: for each word its number, left end and width in inches."""
    renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    probe = figure.text(0, 0, "", fontsize=FONT)

    def width(text: str) -> float:
        probe.set_text(text)
        return probe.get_window_extent(renderer).width / figure.dpi

    space, room = width("a a") - width("aa"), WIDTH - 2 * MARGIN
    lines: list[list[tuple[int, float, float]]] = [[]]
    right = 0.0
    for number, word in enumerate(explanation.words):
        own = width(glyphs.show(explanation.text[word.start : word.end]))
        gap = space if number and explanation.words[number - 1].end < word.start else 0.0
        if right + gap + own > room and lines[-1]:
            lines.append([])
            right = gap = 0.0
        lines[-1].append((number, right + gap, own))
        right += gap + own
    probe.remove()
    return lines


def _draw_post(
    axis: Axes, lines: list[list[tuple[int, float, float]]], explanation: Explanation, glyphs: Glyphs
) -> None:
    width, height = WIDTH - 2 * MARGIN, LINE * len(lines) + 0.3
    axis.set(xlim=(0, width), ylim=(height, 0))
    axis.axis("off")
    weights = relative_weights(explanation)
    from matplotlib.patches import Rectangle

    for row, line in enumerate(lines):
        base = LINE * row + 0.2
        for number, left, own in line:
            word = explanation.words[number]
            box = Rectangle(
                (left, base - 0.15), own, 0.24, color=ORANGE, alpha=STRONGEST * weights[number], linewidth=0
            )
            axis.add_patch(box)
            colour = "black" if word.was_read else "#9a9a9a"
            text = glyphs.show(explanation.text[word.start : word.end])
            axis.text(left, base, text, fontsize=FONT, va="center_baseline", color=colour)
            for slot, (start, end) in enumerate(explanation.mentions):
                if word.start < end and start < word.end:
                    below = base + 0.105 + 0.03 * slot
                    axis.plot([left, left + own], [below, below], color=(BLUE, RED)[slot], linewidth=1.8)
    legend = "underlined: " + ("head blue, tail red" if len(explanation.mentions) == 2 else "the mention")
    axis.text(0, height - 0.04, f"darker: weighed more;  {legend}", fontsize=8, color="#555555", va="bottom")


def _draw_picture(axis: Axes, explanation: Explanation, weighed: bool) -> None:
    image = explanation.image
    assert image is not None  # the caller has asked
    if weighed and explanation.patches is None:
        axis.axis("off")
        return
    axis.imshow(attention_overlay(explanation, SIDE) if weighed else resized(image, SIDE))
    axis.set(xticks=[], yticks=[])
    for side in axis.spines.values():
        side.set_visible(False)
    tint = "orange: weighed more" if explanation.image_strength else "no orange: it changes nothing"
    axis.set_xlabel(tint if weighed else "image", fontsize=8, color="#555555")


def _draw_labels(axis: Axes, explanation: Explanation, shown: int, glyphs: Glyphs) -> None:
    best = explanation.ranking[:shown][::-1]
    answered = explanation.answer is not None
    colours = [GREY] * (shown - 1) + ["#8fb8d8" if answered else GREY]
    axis.barh(range(shown), [entry["score"] for entry in best], color=colours, height=0.72)
    for place, entry in enumerate(best):
        axis.text(0.015, place, shortened(glyphs.show(entry["label"]), 40, 1), va="center", fontsize=9)
        axis.text(1.13, place, f"{entry['score']:.2f}", va="center", ha="right", fontsize=9)
    if explanation.none_threshold:
        axis.axvline(explanation.none_threshold, color=RED, linewidth=1, linestyle="--", zorder=0)
    axis.set(xlim=(0, 1.13), xticks=[], yticks=[])
    for side in axis.spines.values():
        side.set_visible(False)
    answer = shortened(glyphs.show(explanation.answer or "none of these"), 40, 1)
    axis.set_title(answer, loc="left", fontsize=11, fontweight="bold", color="black" if answered else RED)


def _draw_experts(axis: Axes, explanation: Explanation) -> None:
    text, picture = (explanation.expert_shares.get(name) for name in ("text", "picture"))
    assert text is not None  # every post has text
    places = np.arange(len(text))
    axis.bar(places, text, color=BLUE, width=0.7, label="text")
    if picture is not None:
        axis.bar(places, picture, bottom=text, color=ORANGE, width=0.7, label="image")
    axis.set_xticks(places, [str(place) for place in places], fontsize=8.5)
    axis.tick_params(length=0)
    axis.tick_params(axis="y", labelsize=8)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.yaxis.grid(visible=True, color="#e4e8ec", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.set_title("experts, share in the fused vector", loc="left", fontsize=9)
    axis.legend(fontsize=8, frameon=False, loc="upper right", bbox_to_anchor=(1.0, 1.28), ncols=2)


def _draw_facts(axis: Axes, explanation: Explanation) -> None:
    axis.axis("off")
    facts = [f"uncertainty {explanation.uncertainty:.2f}  (0 sure, 1 all labels alike)"]
    if explanation.none_threshold:
        facts.append(f"none of these below {explanation.none_threshold:.2f}")
    if explanation.mutual_information is not None:
        facts.append(f"mutual information {explanation.mutual_information:.3f} nats")
    if explanation.gate is not None:
        facts.append(f"gate of what was weighed {explanation.gate:.2f}")
    axis.text(0, 0.97, "\n".join(facts), fontsize=9, va="top", linespacing=1.6, transform=axis.transAxes)
