"""HTML of the page's answers and explanations. Text from users is escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..evaluation.explanation import image_effect_words, normalized_entropy
from ..spans import join_image_texts

if TYPE_CHECKING:
    from ..evaluation.explanation import Explanation

MOST_BARS = 12
LONGEST_SIDE = 520  # pixels of a shown image
EMPTY = '<p class="mg-hint">The answer will stand here.</p>'
NOTHING_MARKED = '<p class="mg-hint">Nothing is marked. Select words in the post, then press “Mark as mention”.</p>'


def message(text: str) -> str:
    """An error as HTML."""
    return f'<div class="mg-message" role="alert">{escape(text)}</div>'


def lead(ranking: Sequence[Mapping[str, Any]]) -> float:
    """Ratio of the best label's probability to the mean of the others; infinite for a single label.

    A share of the whole falls with every label that is added. This does not: against 11 or 99 labels that fit equally
    badly it is the same number.
    """
    best, others = ranking[0]["score"], [entry["score"] for entry in ranking[1:]]
    average = sum(others) / len(others) if others else 0.0
    return best / average if average > 0 else math.inf


# How many times as likely as the average other label the best one must be, where nothing else is said; see [`lead`].
LEAST = 4.0


def check_least(least: float) -> float:
    """Returns it, or raises ValueError if no `lead` could be compared with it."""
    if not isinstance(least, (int, float)) or not 1 <= least < math.inf:
        raise ValueError(
            "threshold must be at least 1: how many times as likely as the average other label the best one must "
            f"be. Got {least!r}."
        )
    return float(least)


def verdict(ranking: Sequence[Mapping[str, Any]], least: float) -> str:
    """The answer or "none of these", how sure it is, and a bar for each label.

    Args:
        ranking: {"label", "score"} with falling scores.
        least: the answer is "none of these" if [`lead`] is below it.
    """
    ahead = lead(ranking)
    answer = ranking[0]["label"] if ahead >= least else None
    best = ranking[0]
    if answer is None:
        head = '<p class="mg-answer mg-none">None of these</p>'
        head += (
            f'<p class="mg-hint">The best, “{escape(best["label"])}”, is only {ahead:.1f} times as likely as the '
            f"average other label, which is below {least:g}.</p>"
        )
    else:
        head = f'<p class="mg-answer">{escape(answer)}</p>'
    if len(ranking) == 1:
        head += '<p class="mg-hint">With one label its score is always 1: give it others to be compared with.</p>'
    return head + _scores(ranking, answer)


def _scores(ranking: Sequence[Mapping[str, Any]], answer: str | None) -> str:
    """A bar for each label, and one for the uncertainty."""
    uncertainty = normalized_entropy([entry["score"] for entry in ranking])
    bars = "".join(
        _bar(entry["label"], entry["score"], f"{entry['score']:.3f}", "mg-best" if entry["label"] == answer else "")
        for entry in ranking[:MOST_BARS]
    )
    more = len(ranking) - MOST_BARS
    rest = (
        f'<p class="mg-hint">and {more} more, each at most {ranking[MOST_BARS]["score"]:.3f}</p>' if more > 0 else ""
    )
    words = ("sure", "fairly sure", "unsure", "undecided")[min(int(uncertainty * 4), 3)]
    return (
        f'<ul class="mg-bars" aria-label="Scores of the labels">{bars}</ul>{rest}'
        f'<ul class="mg-bars mg-uncertainty" aria-label="Uncertainty">'
        f"{_bar(f'uncertainty: {words}', uncertainty, f'{uncertainty:.2f}', '')}</ul>"
    )


def _bar(name: str, share: float, figure: str, kind: str) -> str:
    return (
        f'<li class="{kind}"><span class="mg-fill" style="width:{100 * share:.1f}%"></span>'
        f'<span class="mg-name">{escape(name)}</span><span class="mg-figure">{figure}</span></li>'
    )


def chips(lines: str) -> str:
    """The labels of the field as they are read, a chip each, or what is wrong with them."""
    from .form import FormError, read_label_lines

    if not (lines or "").strip():
        return ""
    try:
        labels, sentences = read_label_lines(lines)
    except FormError as error:
        return f'<p class="mg-hint mg-wrong">{escape(str(error))}</p>'
    shown = "".join(
        f"<li{' class=mg-described' if label in sentences else ''}>{escape(label)}</li>" for label in labels
    )
    count = "1 label" if len(labels) == 1 else f"{len(labels)} labels"
    return f'<ul class="mg-chips" aria-label="{count} that will be scored">{shown}</ul><p class="mg-hint">{count}</p>'


def served(title: str, training: str) -> str:
    """Which model answers."""
    return f'<p class="mg-hint">Model: <b>{escape(title)}</b>, {escape(training)}.</p>'


def side_by_side(explanation: Explanation) -> str:
    """The scores with the image and its text, and without, in two columns; empty for a post without either."""
    without = explanation.ranking_without_image
    if without is None:
        return ""
    scores = {entry["label"]: entry["score"] for entry in without}
    named = "image" if explanation.image is not None else "image text"
    shown = explanation.ranking[:MOST_BARS]
    columns = []
    for title, ranking in (
        ("with", shown),
        ("without", [{**entry, "score": scores[entry["label"]]} for entry in shown]),
    ):
        best = max(entry["score"] for entry in ranking)
        bars = "".join(
            _bar(entry["label"], entry["score"], f"{entry['score']:.3f}", "mg-best" * (entry["score"] == best))
            for entry in ranking
        )
        bars = f'<ul class="mg-bars" aria-label="{title} the {named}">{bars}</ul>'
        columns.append(f'<div><p class="mg-hint">{title} it</p>{bars}</div>')
    return (
        f'<p class="mg-title">With and without the {named}</p><div class="mg-columns">{"".join(columns)}</div>'
        f'<p class="mg-effect">{escape(image_effect_words(explanation))}</p>'
    )


TINT = (224, 130, 20)
STRONGEST = 0.8  # of the tint, where the weight is greatest and the image decides the answer


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
    """What the encoder was shown, grey, each patch tinted by its weight over the strongest's, times `image_strength`.

    An image that changes nothing stays grey, wherever the fusion looked.

    Args:
        explanation: with an image and its patches.
        longest_side: see [`resized`].

    Raises:
        ValueError: there is no image, or its tokens make no grid.
    """
    patches, image = explanation.patches, explanation.seen_image
    if patches is None or image is None:
        raise ValueError("explanation: one with an image and a grid of patches is needed (got none)")
    small = resized(image, longest_side)
    share = STRONGEST * explanation.image_strength * patches / max(patches.max(), np.finfo(float).tiny)
    share = np.asarray(Image.fromarray(share.astype(np.float32)).resize(small.size, Image.Resampling.NEAREST))[
        ..., None
    ]
    # Grey, so that no colour in the image is taken for the tint.
    grey = np.asarray(small.convert("L"), dtype=float)[..., None]
    return Image.fromarray((grey * (1 - share) + np.array(TINT) * share).round().astype(np.uint8))


def weighed(explanation: Explanation) -> str:
    """The post with its words tinted by their weights and its mentions underlined."""
    html = f'<p class="mg-title">What was weighed</p>{_post(explanation)}'
    if any(not word.was_read for word in explanation.words):
        html += '<p class="mg-hint">Grey words were not read: the post is longer than the model takes.</p>'
    if explanation.image_text:
        html += f'<p class="mg-hint" dir="auto">Image text: {escape(join_image_texts(explanation.image_text))}</p>'
    if explanation.image is not None:
        html += _images(explanation)
    if explanation.gate is not None:
        html += (
            '<p class="mg-hint">The scores of this model begin as the similarity of post and label; what was weighed '
            f"is added through a gate of {explanation.gate:.2f}.</p>"
        )
    return html


def _post(explanation: Explanation) -> str:
    names = ("head", "tail") if len(explanation.mentions) == 2 else ("mention",)
    html, done = [], 0
    for word, tint in zip(explanation.words, relative_weights(explanation), strict=True):
        html.append(escape(explanation.text[done : word.start]))
        classes = ["mg-word", *([] if word.was_read else ["mg-unread"])]
        classes += [
            f"mg-{name}"
            for name, (start, end) in zip(names, explanation.mentions, strict=True)
            if word.start < end and start < word.end
        ]
        html.append(
            f'<span class="{" ".join(classes)}" style="--tint:{STRONGEST * tint:.3f}" '
            f'title="{word.weight:.1%}">{escape(explanation.text[word.start : word.end])}</span>'
        )
        done = word.end
    html.append(escape(explanation.text[done:]))
    return f'<p class="mg-post" dir="auto">{"".join(html)}</p>'


def _images(explanation: Explanation) -> str:
    image = explanation.image
    assert image is not None  # the caller has asked
    shown = _figure(resized(image, LONGEST_SIDE), "The image of the post", "image")
    if explanation.patches is not None:
        row, column = np.unravel_index(explanation.patches.argmax(), explanation.patches.shape)
        rows, columns = explanation.patches.shape
        if explanation.image_strength == 0:
            alt, caption = "The image in grey, for it changes nothing", "no orange: the image changes nothing here"
        else:
            caption = f"as the encoder is shown it ({rows} × {columns} patches); orange: weighed more"
            alt = f"The image in grey, orange where it is weighed; the strongest patch is row {row + 1} of {rows}, "
            alt += f"column {column + 1} of {columns}"
        shown += _figure(attention_overlay(explanation, LONGEST_SIDE), alt, caption)
    return f'<div class="mg-images">{shown}</div>'


def _figure(image: Image.Image, alt: str, caption: str) -> str:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    source = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{source}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def experts(explanation: Explanation) -> str:
    """A bar for each expert: its share in the fused vector, by modality."""
    text = explanation.expert_shares["text"]
    if not text.size:
        return '<p class="mg-hint">This model has no experts.</p>'
    image = explanation.expert_shares.get("image", np.zeros_like(text))
    widest = max(float((text + image).max()), 1e-9)
    bars = []
    for number, (of_text, of_image) in enumerate(zip(text, image, strict=True)):
        fills = "".join(
            f'<span class="mg-part mg-{name}" style="width:{100 * part / widest:.1f}%"></span>'
            for name, part in (("text", of_text), ("image", of_image))
        )
        said = f"{of_text:.1%} text" + (f", {of_image:.1%} image" if "image" in explanation.expert_shares else "")
        bars.append(
            f'<li title="{said}"><span class="mg-expert">{number}</span><span class="mg-track">{fills}</span>'
            f'<span class="mg-figure">{of_text + of_image:.0%}</span></li>'
        )
    key = '<span class="mg-key mg-text"></span>text'
    if "image" in explanation.expert_shares:
        key += ' <span class="mg-key mg-image"></span>image'
    return (
        '<p class="mg-title">Experts that fired</p>'
        f'<ul class="mg-experts" aria-label="Shares of the experts">{"".join(bars)}</ul>'
        f'<p class="mg-hint">{key}: shares of the vector that is compared with the labels, not of the answer</p>'
    )


# What the page's theme says there.
THEME = (
    ":root { color-scheme: light dark; --body-text-color: CanvasText; --background-fill-primary: Canvas; "
    "--background-fill-secondary: rgba(128, 128, 128, 0.12); } "
    "body { font-family: system-ui, sans-serif; max-width: 46rem; margin: 1.5rem auto; padding: 0 1rem; } "
    "section { margin-bottom: 1.6rem; }"
)


def document(explanation: Explanation) -> str:
    """An explanation as a whole HTML document, which needs nothing beside it."""
    style = files("modeling_mgvmoe.app").joinpath("page.css").read_text(encoding="utf-8")
    answer = explanation.answer
    title = escape(answer or "None of these")
    head = f'<p class="mg-answer{"" if answer else " mg-none"}">{title}</p>'
    if explanation.threshold is not None:
        compared = explanation.ranking[0]["score"] if explanation.compared is None else explanation.compared
        head += (
            f'<p class="mg-hint">none of these below {explanation.threshold:.2f}: {escape(explanation.reject_by)}, of '
            f"which the best label has {compared:.2f}</p>"
        )
    sections = (
        head + _scores(explanation.ranking, answer),
        side_by_side(explanation),
        weighed(explanation),
        experts(explanation),
    )
    body = "".join(f"<section>{section}</section>" for section in sections if section)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{THEME}\n{style}</style></head>'
        f'<body class="gradio-container">{body}</body></html>\n'
    )


# The drawing of a post's graph, in units of its `viewBox`.
GRAPH_SIZE, GRAPH_RADII, MOST_OF_NAME = (520, 360), (185, 130), 24
TYPE_COLOURS = ("#4a90c4", "#e08214", "#5aa469", "#b07aa1", "#c0504d", "#9c755f", "#76b7b2", "#edc948")


def post_graph(graph: Mapping[str, Any]) -> str:
    """A post's mentions around an ellipse, coloured by type, with an arrow for each relation; and the same in words.

    Args:
        graph: an answer of `model.extract`.
    """
    mentions, relations = graph["mentions"], graph["relations"]
    width, height = GRAPH_SIZE
    places = [
        (width / 2 - GRAPH_RADII[0] * math.cos(turn), height / 2 - GRAPH_RADII[1] * math.sin(turn))
        for turn in (2 * math.pi * number / max(len(mentions), 1) for number in range(len(mentions)))
    ]
    kinds = list(dict.fromkeys(own["label"] for own in mentions))
    arrows = "".join(_arrow(places[own["head"]], places[own["tail"]], own["label"]) for own in relations)
    nodes = "".join(
        _node(place, own["text"], own["label"], TYPE_COLOURS[kinds.index(own["label"]) % len(TYPE_COLOURS)])
        for place, own in zip(places, mentions, strict=True)
    )
    types = "".join(f"<li>{own['score']:.2f} {escape(own['text'])}: {escape(own['label'])}</li>" for own in mentions)
    triples = "".join(
        f"<li>{own['score']:.2f} {escape(mentions[own['head']]['text'])} <b>{escape(own['label'])}</b> "
        f"{escape(mentions[own['tail']]['text'])}</li>"
        for own in relations
    )
    return (
        f'<svg class="mg-graph" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Graph of {len(mentions)} mentions and {len(relations)} relations">{arrows}{nodes}</svg>'
        f'<ul class="mg-types" aria-label="Types">{types}</ul>'
        + (f'<ul class="mg-triples" aria-label="Relations">{triples}</ul>' if triples else "")
        + ("" if relations else '<p class="mg-hint">No two mentions are related.</p>')
    )


def _node(place: tuple[float, float], name: str, kind: str, colour: str) -> str:
    x, y = place
    name = name if len(name) <= MOST_OF_NAME else name[: MOST_OF_NAME - 1] + "…"
    half = max(34.0, 4.7 * max(len(name), len(kind)) + 8)
    x = min(max(x, half + 2), GRAPH_SIZE[0] - half - 2)
    return (
        f'<rect x="{x - half:.1f}" y="{y - 21:.1f}" width="{2 * half:.1f}" height="42" rx="9" '
        f'style="stroke:{colour}"/><text x="{x:.1f}" y="{y - 2:.1f}">{escape(name)}</text>'
        f'<text class="mg-kind" x="{x:.1f}" y="{y + 14:.1f}" style="fill:{colour}">{escape(kind)}</text>'
    )


def _arrow(head: tuple[float, float], tail: tuple[float, float], label: str) -> str:
    """A curve from head to tail, bent to its left so that both directions of a pair are seen."""
    (x, y), (to_x, to_y) = head, tail
    along = math.hypot(to_x - x, to_y - y) or 1.0
    ahead, aside = ((to_x - x) / along, (to_y - y) / along), (-(to_y - y) / along, (to_x - x) / along)
    bend = 36.0
    bent = (x + to_x) / 2 + bend * aside[0], (y + to_y) / 2 + bend * aside[1]

    def at(part: float) -> tuple[float, float]:
        """A point of this quadratic Bézier curve."""
        first, second, third = (1 - part) ** 2, 2 * part * (1 - part), part**2
        return first * x + second * bent[0] + third * to_x, first * y + second * bent[1] + third * to_y

    (tip_x, tip_y), (word_x, word_y) = at(0.68), at(0.4)  # not at the middle, where other curves cross
    points = " ".join(
        f"{tip_x + far * ahead[0] + wide * aside[0]:.1f},{tip_y + far * ahead[1] + wide * aside[1]:.1f}"
        for far, wide in ((9, 0), (-5, 6), (-5, -6))
    )
    return (
        f'<path d="M{x:.1f},{y:.1f} Q{bent[0]:.1f},{bent[1]:.1f} {to_x:.1f},{to_y:.1f}"/><polygon points="{points}"/>'
        f'<text class="mg-relation" x="{word_x:.1f}" y="{word_y + 4:.1f}">{escape(label)}</text>'
    )
