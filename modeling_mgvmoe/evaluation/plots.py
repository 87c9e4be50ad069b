"""Charts of an evaluation as PNG: the confusion matrix, a chart of the classes, the use of the experts."""

from __future__ import annotations

import os
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .explanation import image_effect_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .explanation import ExpertUsage, Explanation


BASE = "DejaVu Sans"  # comes with matplotlib
# Preferred where several fonts have a character: plain faces of many characters. The others follow by name.
PREFERRED = ("Noto Sans CJK", "Noto Sans", "Noto Emoji", "Symbola", "WenQuanYi")
# Fonts of boxes for every character, and fonts of bitmaps or layers, which matplotlib cannot draw.
EXCLUDED = ("last resort", "lastresort", "adobe blank", "color emoji", "colr")
# Debian's packages with the characters, by the first word of their Unicode name.
CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH")
CJK_PACKAGE, SYMBOL_PACKAGE, OTHER_PACKAGE = "fonts-noto-cjk", "fonts-symbola", "fonts-noto-core"
MOST_NAMED = 6


@dataclass(frozen=True)
class Glyphs:
    """Characters that the fonts can draw.

    Attributes:
        families: names of fonts for matplotlib, in the order in which they are asked for a character.
        missing: visible characters that none of them has.
        dropped: invisible ones (joiners, variation selectors) that none of them has.
    """

    families: tuple[str, ...] = (BASE,)
    missing: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()

    def show(self, text: str) -> str:
        """The text as it is drawn: a character that no font has becomes its code point, ‹1F642›."""
        if not self.missing and not self.dropped:
            return text
        return "".join(
            "" if char in self.dropped else f"‹{ord(char):04X}›" if char in self.missing else char for char in text
        )

    @property
    def note(self) -> str:
        """One sentence that names missing characters and packages; empty if nothing is missing."""
        if not self.missing:
            return ""
        codes = [f"U+{ord(char):04X}" for char in sorted(self.missing)]
        more = f" and {len(codes) - MOST_NAMED} more" if len(codes) > MOST_NAMED else ""
        packages = sorted({_package(char) for char in self.missing})
        return (
            f"No installed font has {', '.join(codes[:MOST_NAMED])}{more}: shown as ‹code point›. "
            f"Debian has them in {', '.join(packages)}."
        )


@contextmanager
def drawable(texts: Iterable[str]) -> Iterator[Glyphs]:
    """A context in which matplotlib draws these texts, with all fonts that they need and without reading formulas.

    Args:
        texts: everything that is drawn and not ours.

    Yields:
        [`Glyphs`], whose `show` every text goes through.
    """
    import matplotlib

    glyphs = find_glyphs(frozenset("".join(texts)))
    with matplotlib.rc_context({"font.family": list(glyphs.families), "text.parse_math": False}):
        yield glyphs


def find_glyphs(characters: frozenset[str]) -> Glyphs:
    """The installed fonts that have these characters, as few as a search in order of preference finds."""
    from matplotlib import font_manager

    # Bold text is drawn with the bold file, which has fewer characters.
    files = [
        font_manager.findfont(font_manager.FontProperties(family=[BASE], weight=own)) for own in ("normal", "bold")
    ]
    needed = {char for char in characters if char != "\n" and not all(_has(file, char) for file in files)}
    families = [BASE]
    for family, file in _installed() if needed else ():
        found = {char for char in needed if _has(file, char)}
        if found:
            families.append(family)
            needed -= found
        if not needed:
            break
    dropped = frozenset(char for char in needed if _is_invisible(char))
    return Glyphs(tuple(families), frozenset(needed) - dropped, dropped)


@lru_cache(maxsize=1)
def _installed() -> tuple[tuple[str, str], ...]:
    """Family and file of the upright fonts of normal weight, the preferred first."""
    from matplotlib import font_manager

    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for file in font_manager.findSystemFonts():
        if file not in known:  # installed after matplotlib wrote its list
            try:
                font_manager.fontManager.addfont(file)
            except (OSError, RuntimeError):  # no font that FreeType reads
                continue
    fonts = {
        entry.name: entry.fname
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal"
        and entry.weight in (400, "normal", "regular", "medium", "book")
        and not any(word in f"{entry.name} {entry.fname}".lower() for word in EXCLUDED)
    }

    def rank(font: tuple[str, str]) -> tuple[int, str]:
        places = [place for place, start in enumerate(PREFERRED) if font[0].startswith(start)]
        return min(places, default=len(PREFERRED)), font[0]

    return tuple(sorted(fonts.items(), key=rank))


@cache
def _font(file: str) -> Any:
    """The opened font; `None` if it cannot be opened or holds bitmaps of fixed sizes only."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
    except (OSError, RuntimeError):
        return None
    return font if font.scalable else None


def _has(file: str, char: str) -> bool:
    font = _font(file)
    return font is not None and font.get_char_index(ord(char)) != 0


def _is_invisible(char: str) -> bool:
    return unicodedata.category(char) in ("Cf", "Cc") or "VARIATION SELECTOR" in unicodedata.name(char, "")


def _package(char: str) -> str:
    name = unicodedata.name(char, "")
    if name.split(" ")[0].split("-")[0] in CJK:
        return CJK_PACKAGE
    return SYMBOL_PACKAGE if unicodedata.category(char) in ("So", "Sk", "Sm") else OTHER_PACKAGE


def widened(width: int, text: str) -> int:
    """Number of characters of `text` that fit into `width` Latin ones; Chinese ones are twice as wide."""
    columns = sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
    return max(1, width * len(text) // columns) if columns else width


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
        divider: a line after this many classes, between seen and unseen.
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
    """Say below the image which characters no font has."""
    if glyphs.note:
        figure.text(0, -0.01, "\n".join(textwrap.wrap(glyphs.note, 70)), fontsize=8, color="#555555", va="top")


TINT = (224, 130, 20)
STRONGEST = 0.8  # of the tint, where the weight is greatest and the image decides the answer
# The image turns grey, so that no colour in it is taken for the tint; what the model was not shown turns pale.
PALE = 0.85


def relative_weights(explanation: Explanation) -> list[float]:
    """The weight of each word over that of the strongest one, 0 to 1."""
    strongest = max((word.weight for word in explanation.words), default=0.0)
    return [word.weight / strongest if strongest > 0 else 0.0 for word in explanation.words]


def resized(image: Image.Image, longest_side: int) -> Image.Image:
    """The image with at most this many pixels a side; a small drawing enlarged by a whole number, pixel by pixel."""
    longest = max(image.size)
    if longest > longest_side:
        factor = longest_side / longest
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        return image.resize(size, Image.Resampling.LANCZOS)
    times = longest_side // longest
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def attention_overlay(explanation: Explanation, longest_side: int) -> Image.Image:
    """The image in grey, each patch tinted by its weight over that of the strongest one, times `image_strength`.

    An image that changes nothing stays grey, wherever the fusion looked.

    Args:
        explanation: with an image and its patches.
        longest_side: see [`resized`].

    Raises:
        ValueError: there is no image, or its tokens make no grid.
    """
    patches, area, image = explanation.patches, explanation.patch_area, explanation.image
    if patches is None or area is None or image is None:
        raise ValueError("explanation: one with an image and a grid of patches is needed (got none)")
    small = resized(image, longest_side)
    left, top, right, bottom = area
    x = (np.arange(small.width) + 0.5) * image.width / small.width
    y = (np.arange(small.height) + 0.5) * image.height / small.height
    rows, columns = patches.shape
    column = np.floor((x - left) / (right - left) * columns).astype(int)
    row = np.floor((y - top) / (bottom - top) * rows).astype(int)
    shown = ((row >= 0) & (row < rows))[:, None] & ((column >= 0) & (column < columns))[None]
    share = STRONGEST * explanation.image_strength * patches / max(patches.max(), np.finfo(float).tiny)
    alpha = np.where(shown, share[row.clip(0, rows - 1)][:, column.clip(0, columns - 1)], PALE)[..., None]
    over = np.where(shown[..., None], np.array(TINT), 255)
    grey = np.asarray(small.convert("L"), dtype=float)[..., None]
    return Image.fromarray((grey * (1 - alpha) + over * alpha).round().astype(np.uint8))


ORANGE = "#e08214"
SIDE = 480  # pixels of an image
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
    has_image = explanation.image is not None
    effect = textwrap.wrap(
        image_effect_words(explanation, lambda label: shortened(glyphs.show(label), 40, 1)), SMALL_WIDTH
    )
    note = textwrap.wrap(glyphs.note, SMALL_WIDTH)
    heights = {
        "title": 0.35 if title else 0.0,
        "post": LINE * len(lines) + 0.3,
        "middle": max(2.1 if has_image else 0.0, 0.3 * shown + 0.5),
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
    if has_image:
        side = heights["middle"] - 0.2
        _draw_image(_axes(figure, 0, top, side, side), explanation, weighed=False)
        _draw_image(_axes(figure, side + 0.1, top, side, side), explanation, weighed=True)
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


def _draw_image(axis: Axes, explanation: Explanation, weighed: bool) -> None:
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
    if explanation.threshold and explanation.reject_by == "probability":
        axis.axvline(explanation.threshold, color=RED, linewidth=1, linestyle="--", zorder=0)
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
    if explanation.threshold is not None:
        facts.append(f"none of these below {explanation.threshold:.2f} ({explanation.reject_by})")
    if explanation.gate is not None:
        facts.append(f"gate of what was weighed {explanation.gate:.2f}")
    axis.text(0, 0.97, "\n".join(facts), fontsize=9, va="top", linespacing=1.6, transform=axis.transAxes)
