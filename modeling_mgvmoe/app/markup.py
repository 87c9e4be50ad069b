"""What the page shows of an explanation, as HTML. Everything that people wrote is escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.attention_overlay import STRONGEST, attention_overlay, relative_weights, resized
from ..evaluation.explanation import best_label, normalized_entropy

if TYPE_CHECKING:
    from PIL import Image

    from ..evaluation.explanation import Explanation

MOST_BARS = 12
LONGEST_SIDE = 520  # pixels of a shown picture
EMPTY = '<p class="mg-hint">The answer will stand here.</p>'
NOTHING_MARKED = '<p class="mg-hint">Nothing is marked. Select words in the post, then press “Mark as mention”.</p>'


def message(text: str) -> str:
    """What went wrong, in words."""
    return f'<div class="mg-message" role="alert">{escape(text)}</div>'


def verdict(ranking: Sequence[Mapping[str, Any]], none_threshold: float) -> str:
    """The answer or "none of these", how sure it is, and a bar for each label."""
    answer = best_label(ranking, none_threshold)
    best, uncertainty = ranking[0], normalized_entropy([entry["score"] for entry in ranking])
    if answer is None:
        head = '<p class="mg-answer mg-none">None of these</p>'
        head += (
            f'<p class="mg-hint">The best, “{escape(best["label"])}”, has {best["score"]:.2f}, which is below '
            f"{none_threshold:.2f}.</p>"
        )
    else:
        head = f'<p class="mg-answer">{escape(answer)}</p>'
    if len(ranking) == 1:
        head += '<p class="mg-hint">With one label its score is always 1: give it others to be compared with.</p>'
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
        f'{head}<ul class="mg-bars" aria-label="Scores of the labels">{bars}</ul>{rest}'
        f'<ul class="mg-bars mg-uncertainty" aria-label="Uncertainty">'
        f"{_bar(f'uncertainty: {words}', uncertainty, f'{uncertainty:.2f}', '')}</ul>"
    )


def _bar(name: str, share: float, figure: str, kind: str) -> str:
    return (
        f'<li class="{kind}"><span class="mg-fill" style="width:{100 * share:.1f}%"></span>'
        f'<span class="mg-name">{escape(name)}</span><span class="mg-figure">{figure}</span></li>'
    )


def weighed(explanation: Explanation) -> str:
    """The post with its words tinted by their weights and its mentions underlined, and the picture."""
    shares = explanation.shares
    parts = [f"words {shares['words']:.0%}"]
    if explanation.image is not None:
        parts.append(f"picture {shares['picture']:.0%}")
    parts.append(f"markers and special tokens {shares['other']:.0%}")
    html = '<p class="mg-title">What was weighed</p>'
    html += f'<p class="mg-hint">Of the fusion’s weights: {", ".join(parts)}.</p>{_post(explanation)}'
    if any(not word.was_read for word in explanation.words):
        html += '<p class="mg-hint">Grey words were not read: the post is longer than the model takes.</p>'
    if explanation.image is not None:
        html += _pictures(explanation)
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


def _pictures(explanation: Explanation) -> str:
    image = explanation.image
    assert image is not None  # the caller has asked
    shown = _figure(resized(image, LONGEST_SIDE), "The picture of the post", "picture")
    if explanation.patches is not None:
        row, column = np.unravel_index(explanation.patches.argmax(), explanation.patches.shape)
        rows, columns = explanation.patches.shape
        caption = f"orange: weighed more ({rows} × {columns} patches)"
        alt = f"The picture in grey, orange where it is weighed; the strongest patch is row {row + 1} of {rows}, "
        shown += _figure(
            attention_overlay(explanation, LONGEST_SIDE), alt + f"column {column + 1} of {columns}", caption
        )
    return f'<div class="mg-pictures">{shown}</div>'


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
    picture = explanation.expert_shares.get("picture", np.zeros_like(text))
    widest = max(float((text + picture).max()), 1e-9)
    bars = []
    for number, (of_text, of_picture) in enumerate(zip(text, picture, strict=True)):
        fills = "".join(
            f'<span class="mg-part mg-{name}" style="width:{100 * part / widest:.1f}%"></span>'
            for name, part in (("text", of_text), ("picture", of_picture))
        )
        said = f"{of_text:.1%} text" + (f", {of_picture:.1%} picture" if explanation.image is not None else "")
        bars.append(
            f'<li title="{said}"><span class="mg-expert">{number}</span><span class="mg-track">{fills}</span>'
            f'<span class="mg-figure">{of_text + of_picture:.0%}</span></li>'
        )
    key = '<span class="mg-key mg-text"></span>text'
    if explanation.image is not None:
        key += ' <span class="mg-key mg-picture"></span>picture'
    html = (
        '<p class="mg-title">Experts that fired</p>'
        f'<ul class="mg-experts" aria-label="Shares of the experts">{"".join(bars)}</ul><p class="mg-hint">{key}</p>'
    )
    if explanation.mutual_information is not None:
        most = np.log(len(explanation.ranking))
        html += (
            '<p class="mg-hint">Uncertainty that comes from the experts (mutual information of the answer and samples '
            f"of them): {explanation.mutual_information:.3f} of at most {most:.3f} nats.</p>"
        )
    return html
