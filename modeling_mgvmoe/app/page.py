"""The page itself: its fields, how they are laid out, and what its buttons do."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import gradio as gr

from ..spans import read_mentions
from . import markup
from .example_posts import ExamplePost
from .served_model import ServedModel


def picture_input(**kwargs: Any) -> gr.Image:
    """A `gr.Image` that never raises on what was uploaded: Gradio would show no more than "Error".

    It gives the picture as it was uploaded, a PIL picture of any mode; `None` if there is none; or
    [`UnreadablePicture`].

    Args:
        kwargs: of `gr.Image`.
    """
    component = gr.Image(type="pil", image_mode=None, format="png", **kwargs)
    read = component.preprocess

    def preprocess(payload: Any) -> Any:
        try:
            return read(payload)
        except Exception as error:  # PIL raises a dozen kinds
            return UnreadablePicture(type(error).__name__)

    # Not a subclass: of each, Gradio would write a stub file beside this one.
    component.preprocess = preprocess
    return component


# Draws of the experts for the mutual information; they cost next to nothing beside the encoders.
NUM_SAMPLES = 64

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shown:
    """What the page shows.

    Attributes:
        verdict: HTML of the answer and the scores, or of a message.
        weighed, experts: HTML of the explanation; empty beside a message.
        ranking: the scores, for another threshold; `None` beside a message.
    """

    verdict: str
    weighed: str = ""
    experts: str = ""
    ranking: list[dict[str, Any]] | None = None


def answer(served: ServedModel, fields: Fields, least: float) -> Shown:
    """Score the labels and explain the scores. Never raises: what goes wrong is shown in words.

    Args:
        served: the model.
        fields: of the page.
        least: see [`markup.verdict`].
    """
    from ..evaluation.explanation import explain_post, offers_samples

    try:
        if not served.has_types:
            fields = replace(fields, label_types="", type_sentences="")
        explanation = explain_post(
            served.model,
            served.processor,
            **read_fields(fields),
            num_samples=NUM_SAMPLES if offers_samples(served.model) else None,
        )
        return Shown(
            markup.verdict(explanation.ranking, least),
            markup.weighed(explanation),
            markup.experts(explanation),
            explanation.ranking,
        )
    except FormError as error:
        return Shown(markup.message(str(error)))
    except ValueError as error:  # of processor or model, which name the argument and the rule
        return Shown(markup.message(f"This cannot be answered. {error}"))
    except Exception:
        logger.exception("the page could not answer")
        return Shown(markup.message("Something went wrong on the server while answering; its log says what."))


def verdict_again(ranking: Sequence[Mapping[str, Any]] | None, least: float) -> str | None:
    """The verdict of known scores under another threshold; `None` if there is no answer yet."""
    return None if ranking is None else markup.verdict(ranking, least)


# What one request may cost a server that is open to everybody.
MAX_CHARACTERS, MAX_LABELS, MAX_LABEL_CHARACTERS = 5000, 100, 500
SEPARATOR = "|"
# A label of a list with commas, Latin or Chinese, or one in quotes, in which a quote is written twice.
LABEL = re.compile(r'\s*"(?:[^"]|"")+"\s*(?=[,，、]|$)|[^,，、]+')
# The two kinds of questions, as the page names them.
TYPING, RELATION = "One mention: its type", "A pair: its relation"
SLOTS = {TYPING: ("mention",), RELATION: ("head", "tail")}


class FormError(ValueError):
    """A field that cannot be used; the message is for the person who filled it in."""


@dataclass(frozen=True)
class UnreadablePicture:
    """In place of a picture that is none.

    Attributes:
        reason: what went wrong.
    """

    reason: str


@dataclass(frozen=True)
class Fields:
    """The fields as they come.

    Attributes:
        text: the post.
        image: a PIL picture, `None`, or [`UnreadablePicture`].
        kind: `TYPING` or `RELATION`.
        numbers: start and end of the mention or the head, then of the tail; `None` where a field is empty.
        labels: see [`read_label_lines`].
        label_types: one relation a line, "label | types of the head | types of the tail", each with commas between.
        type_sentences: one type a line, as labels.
    """

    text: str
    image: Any
    kind: str
    numbers: tuple[float | None, ...]
    labels: str
    label_types: str = ""
    type_sentences: str = ""


def read_fields(fields: Fields) -> dict[str, Any]:
    """Arguments of [`explain_post`] after model and processor.

    Raises:
        FormError: a field is missing or wrong.
    """
    text = fields.text or ""
    if not text.strip():
        raise FormError("There is no post yet. Type or paste one.")
    if len(text) > MAX_CHARACTERS:
        raise FormError(f"The post has {len(text):,} characters. At most {MAX_CHARACTERS:,} are taken.")
    if isinstance(fields.image, UnreadablePicture):
        raise FormError("The image cannot be read. Take another one, such as a PNG, JPEG or WebP file, or none.")
    if fields.kind not in SLOTS:
        raise FormError("Choose whether one mention or a pair is asked about.")
    spans = read_spans(text, fields.kind, fields.numbers)
    labels, sentences = read_label_lines(fields.labels)
    arguments: dict[str, Any] = {
        "post": {"text": text, "image": fields.image, "mentions": [list(span) for span in spans]},
        "candidate_labels": labels,
        "label_descriptions": sentences,
    }
    if fields.kind == RELATION and (fields.label_types or "").strip():
        arguments["label_types"] = read_type_lines(fields.label_types)
        if (fields.type_sentences or "").strip():
            arguments["type_descriptions"] = read_label_lines(fields.type_sentences, "type")[1]
    return arguments


def read_spans(text: str, kind: str, numbers: Sequence[float | None]) -> list[tuple[int, int]]:
    """One span, or head and tail.

    Args:
        text: the post.
        kind: `TYPING` or `RELATION`.
        numbers: start and end of each span, in characters, end exclusive.

    Raises:
        FormError: a span is missing, or wrong.
    """
    spans = []
    for slot, name in enumerate(SLOTS[kind]):
        start, end = numbers[2 * slot : 2 * slot + 2]
        if start is None and end is None:
            raise FormError(f"No {name} is marked. Select its words in the post, then press “Mark as {name}”.")
        if start is None or end is None:
            raise FormError(f"The {name} has no {'start' if start is None else 'end'}. Fill it in, or mark it anew.")
        if start != int(start) or end != int(end):
            raise FormError(f"Start and end of the {name} are whole numbers of characters, not {start:g} and {end:g}.")
        spans.append((int(start), int(end)))
        if not 0 <= spans[-1][0] < spans[-1][1] <= len(text):
            raise FormError(
                f"The {name} is said to go from character {spans[-1][0]} to {spans[-1][1]}, but the post has "
                f"{len(text)} characters. Mark it anew."
            )
        try:
            read_mentions([spans[-1]], text)
        except ValueError as error:
            raise FormError(f"The {name} cannot be used: {str(error).partition(': ')[2]}") from error
    return spans


def read_label_lines(lines: str, what: str = "label") -> tuple[list[str], dict[str, str | list[str]]]:
    """Labels and the sentences that are read in their place.

    Args:
        lines: labels with commas or line ends between them, `"in quotes"` where a label has a comma itself; or
            "label | sentence" on a line of its own, with "|" between several sentences. There a comma is a comma.
        what: how to call a label in messages.

    Returns:
        The labels; and for those with one sentence it, for those with several a list.

    Raises:
        FormError: there is no label, one stands twice, is too long, or a sentence stands twice.
    """
    labels: list[str] = []
    sentences: dict[str, str | list[str]] = {}
    for number, line in enumerate((lines or "").splitlines(), 1):
        if SEPARATOR in line:
            label, *rest = (part.strip() for part in line.split(SEPARATOR))
            if not label:
                raise FormError(f"Line {number} of the {what}s has nothing before “{SEPARATOR}”.")
            found, own = [_unquoted(label)], [sentence for sentence in rest if sentence]
            if len(set(own)) < len(own):
                raise FormError(f"The {what} “{found[0]}” has the same sentence twice.")
            if own:
                sentences[found[0]] = own[0] if len(own) == 1 else own
        else:
            found = [_unquoted(label) for label in LABEL.findall(line) if label.strip()]
        longest = max(map(len, [line] if SEPARATOR in line else found), default=0)
        if longest > MAX_LABEL_CHARACTERS:
            raise FormError(
                f"Line {number} of the {what}s has {longest:,} characters. At most {MAX_LABEL_CHARACTERS} are taken."
            )
        for label in found:
            if label in labels:
                raise FormError(f"The {what} “{label}” stands twice.")
            labels.append(label)
    if not labels:
        raise FormError(f"There is no {what} yet. Write some, with commas or line ends between them.")
    if len(labels) > MAX_LABELS:
        raise FormError(f"There are {len(labels)} {what}s. At most {MAX_LABELS} are taken.")
    return labels, sentences


def _unquoted(label: str) -> str:
    """A label without the quotes around it, with single ones for doubled ones inside."""
    label = label.strip()
    if len(label) > 2 and label[0] == label[-1] == '"':
        return label[1:-1].replace('""', '"').strip()
    return label


def read_type_lines(lines: str) -> dict[str, tuple[list[str], list[str]]]:
    """Types that head and tail of relations may have, "label | person, team | organization" a line.

    Raises:
        FormError: a line has not three parts, or one of them is empty.
    """
    types: dict[str, tuple[list[str], list[str]]] = {}
    for line in lines.splitlines():
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split(SEPARATOR)]
        slots = [[name.strip() for name in part.split(",") if name.strip()] for part in parts[1:]]
        if len(parts) != 3 or not parts[0] or not all(slots):
            raise FormError(
                f"Types are written “label | types of the head | types of the tail”, not “{line.strip()}”."
            )
        types[parts[0]] = (slots[0], slots[1])
    return types


def write_label_lines(labels: Sequence[str], sentences: dict[str, Any] | None = None) -> str:
    """The text that [`read_label_lines`] reads, a label a line."""
    lines = []
    for label in labels:
        own = (sentences or {}).get(label, [])
        if not own and (len(LABEL.findall(label)) > 1 or label != _unquoted(label)):
            label = '"' + label.replace('"', '""') + '"'
        lines.append(f" {SEPARATOR} ".join([label, *([own] if isinstance(own, str) else own)]))
    return "\n".join(lines)


# Nothing is fetched from elsewhere: the fonts are those of the machine that shows the page.
FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
FONT_MONO = ("ui-monospace", "Menlo", "Consolas", "monospace")
MAX_PICTURE = "20mb"
LABELS_INFO = (
    "With commas or line ends between them; in quotes where a label has a comma itself. On a line “label | sentence” "
    "the sentence is read in place of the label."
)
# How many times as likely as the average other label the best one must be; see `markup.lead`.
LEAST, MOST_LEAST = 5.0, 50.0
NONE_INFO = (
    "if the best label is less than this many times as likely as the average other label, however many there are"
)

# The functions of `page.js` get these, in this order.
ARGUMENTS = "(kind, text, start, end, tailStart, tailEnd)"
FIELDS = "[start, end, tailStart, tailEnd]"
SLOTS_OF_KIND = f"(kind === {TYPING!r} ? 1 : 2)"


def _calls(function: str) -> str:
    """A JavaScript function of `ARGUMENTS` that calls one of `page.js`."""
    return f"{ARGUMENTS} => window.mgvmoe.{function}"


def build_page(served: ServedModel, examples: Sequence[ExamplePost] = (), least: float = LEAST) -> gr.Blocks:
    """The page for a model.

    Args:
        served: answers.
        examples: posts to try it with, a button each.
        least: where the slider of "none of these" stands at first.
    """
    with gr.Blocks(title="MG-VMoE", analytics_enabled=False) as page:
        gr.Markdown(
            "# MG-VMoE\nScore any labels for a mention or a pair in a post, with or without an image, and see what "
            "the scores were made of."
        )
        gr.HTML(markup.served(served.title, served.training), elem_id="mg-model")
        if examples:
            gr.Markdown("Try it with:", elem_classes="mg-hint")
        with gr.Row():
            buttons = [
                gr.Button(example.name, size="sm", min_width=100, elem_id=f"mg-example-{number}")
                for number, example in enumerate(examples)
            ]
        with gr.Row():
            with gr.Column():
                fields = _fields(served)
                ask = gr.Button("Score the labels", variant="primary", elem_id="mg-ask")
            with gr.Column():
                shown = _results(least)
        _fill_in(examples, buttons, fields, shown)
        _connect(served, fields, shown, ask)
    return page


def launch_page(page: gr.Blocks, server_name: str | None = None, server_port: int | None = None, **kwargs: Any) -> Any:
    """Serve the page; no link to it is made outside, and no error shows more than its words.

    Args:
        page: of [`build_page`].
        server_name: address to listen at; default: the variable GRADIO_SERVER_NAME, which a Space sets, or this
            machine only.
        server_port: default: GRADIO_SERVER_PORT, or the first free port from 7860 on.
        kwargs: more arguments of `gr.Blocks.launch`.
    """
    home = files(__package__)
    page.queue(max_size=32, default_concurrency_limit=1)
    fixed = {
        "theme": gr.themes.Default(font=list(FONT), font_mono=list(FONT_MONO)),
        "css": (home / "page.css").read_text(encoding="utf-8"),
        "js": (home / "page.js").read_text(encoding="utf-8"),
        "share": False,
        "show_error": False,
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,  # it needs Node.js
        "footer_links": [],
        "max_file_size": MAX_PICTURE,
    }
    return page.launch(server_name=server_name, server_port=server_port, **{**fixed, **kwargs})


def _fields(served: ServedModel) -> dict[str, Any]:
    """The components of the form, by name."""
    found: dict[str, Any] = {}
    found["kind"] = gr.Radio([TYPING, RELATION], value=TYPING, label="What is asked", elem_id="mg-kind")
    found["text"] = gr.Textbox(
        label="Post", lines=3, max_lines=12, max_length=MAX_CHARACTERS, elem_id="mg-post",
        placeholder="Type or paste a post, then select the words of the mention.",
    )  # fmt: skip
    with gr.Row():
        for name, kind in (("mention", TYPING), ("head", RELATION), ("tail", RELATION)):
            found[f"mark_{name}"] = gr.Button(
                f"Mark as {name}", size="sm", min_width=100, visible=kind == TYPING, elem_id=f"mg-mark-{name}"
            )
        found["clear"] = gr.Button("Clear marks", size="sm", min_width=100, elem_id="mg-clear")
    found["marked"] = gr.HTML(markup.NOTHING_MARKED, elem_id="mg-marked")
    with gr.Accordion("Mark by numbers", open=False, elem_id="mg-by-numbers"):
        gr.Markdown("Characters of the post from 0, the end exclusive.", elem_classes="mg-hint")
        for name in ("first", "second"):
            with gr.Row(visible=name == "first") as row:
                for end in ("start", "end"):
                    label = ("mention" if name == "first" else "tail") + f", {end}"
                    found[f"{name}_{end}"] = gr.Number(
                        value=None, label=label, precision=0, min_width=100, elem_id=f"mg-{name}-{end}"
                    )
            found[f"{name}_row"] = row
    found["image"] = picture_input(
        label="Image (if there is one)", sources=["upload", "clipboard"], height=240, buttons=[], elem_id="mg-image"
    )
    found["labels"] = gr.Textbox(label="Labels", info=LABELS_INFO, lines=4, max_lines=16, elem_id="mg-labels")
    found["chips"] = gr.HTML(elem_id="mg-chips")
    with gr.Accordion("Types of head and tail", open=False, visible=served.has_types):
        found["label_types"] = gr.Textbox(
            label="Types that a relation allows", lines=3, info="label | types of the head | types of the tail",
            placeholder="member of | person | team, organization", elem_id="mg-label-types",
        )  # fmt: skip
        found["type_sentences"] = gr.Textbox(
            label="Sentences in place of types", lines=3, info="type | sentence", elem_id="mg-type-sentences"
        )
    return found


def _results(least: float) -> dict[str, Any]:
    """The components of the answer, by name."""
    found: dict[str, Any] = {}
    gr.Markdown("### Answer")
    found["verdict"] = gr.HTML(markup.EMPTY, elem_id="mg-verdict")
    found["threshold"] = gr.Slider(
        1, MOST_LEAST, value=least, step=0.5, label="“None of these”", info=NONE_INFO, elem_id="mg-threshold"
    )
    found["weighed"] = gr.HTML(elem_id="mg-weighed")
    found["experts"] = gr.HTML(elem_id="mg-experts")
    found["ranking"] = gr.State(None)
    return found


def _numbers(fields: dict[str, Any]) -> list[Any]:
    return [fields[f"{name}_{end}"] for name in ("first", "second") for end in ("start", "end")]


def _fill_in(
    examples: Sequence[ExamplePost], buttons: Sequence[Any], fields: dict[str, Any], shown: dict[str, Any]
) -> None:
    """Each button fills the form with its example and takes the last answer away."""
    inputs = [fields[name] for name in ("text", "image", "kind")] + [*_numbers(fields), fields["labels"]]
    results = [shown[name] for name in ("verdict", "weighed", "experts", "ranking")]
    for example, button in zip(examples, buttons, strict=True):
        own = example.fields
        values = [own.text, own.image, own.kind, *own.numbers, own.labels, markup.EMPTY, "", "", None]
        filled = button.click(
            lambda values=values: values, None, [*inputs, *results], queue=False, api_visibility="private",
            js=f"() => window.mgvmoe.fill({json.dumps(own.numbers)})",
        )  # fmt: skip
        # Where text and kind stay as they are nothing has changed, and still there may be other marks to show.
        marks = [fields["kind"], fields["text"], *_numbers(fields)]
        filled.then(None, marks, [*_numbers(fields), fields["marked"]], js=_calls(f"follow({SLOTS_OF_KIND}, text)"))


def _connect(served: ServedModel, fields: dict[str, Any], shown: dict[str, Any], ask: Any) -> None:
    """What happens when something is pressed or written."""
    numbers = _numbers(fields)
    marks = [fields["kind"], fields["text"], *numbers]
    marked = [*numbers, fields["marked"]]
    private = {"queue": False, "api_visibility": "private"}
    # "multiple": of keys pressed in a row none is left out.
    scripted: dict[str, Any] = {"fn": None, "inputs": marks, "trigger_mode": "multiple"}
    for name, slot in (("mention", 0), ("head", 0), ("tail", 1)):
        mark = fields[f"mark_{name}"]
        mark.click(**scripted, outputs=marked, js=_calls(f"mark({slot}, {SLOTS_OF_KIND}, text)"))
    fields["clear"].click(**scripted, outputs=marked, js=_calls(f"clear({SLOTS_OF_KIND}, text)"))
    # Not `input`, which Gradio leaves out when something is deleted or pasted.
    for changed in (fields["text"], fields["kind"]):
        changed.change(**scripted, outputs=marked, js=_calls(f"follow({SLOTS_OF_KIND}, text)"))
    for number in numbers:
        number.input(**scripted, outputs=fields["marked"], js=_calls(f"take({SLOTS_OF_KIND}, text, {FIELDS})"))

    fields["labels"].change(
        markup.chips, fields["labels"], fields["chips"], show_progress="hidden", trigger_mode="always_last", **private
    )
    slots = [fields[f"mark_{name}"] for name in ("mention", "head", "tail")]
    fields["kind"].change(
        _for_kind,
        fields["kind"],
        [*slots, fields["second_row"], fields["first_start"], fields["first_end"]],
        **private,
    )

    results = [shown[name] for name in ("verdict", "weighed", "experts", "ranking")]

    def respond(text: str, image: Any, kind: str, *rest: Any) -> tuple[Any, ...]:
        *places, labels, label_types, type_sentences, threshold = rest
        own = answer(served, Fields(text, image, kind, tuple(places), labels, label_types, type_sentences), threshold)
        return own.verdict, own.weighed, own.experts, own.ranking

    asked = [fields[name] for name in ("text", "image", "kind")] + [*numbers, fields["labels"]]
    asked += [fields["label_types"], fields["type_sentences"], shown["threshold"]]
    # What is marked is what `page.js` knows: the fields of the numbers may not have been told yet.
    asking = ask.click(
        respond, asked, results, api_name="answer", show_progress="minimal",
        js="(text, image, kind, a, b, c, d, ...rest) => [text, image, kind, ...window.mgvmoe.numbers(), ...rest]",
    )  # fmt: skip
    asking.then(None, js="() => window.mgvmoe.reveal()")
    shown["threshold"].change(
        lambda ranking, threshold: verdict_again(ranking, threshold) or gr.skip(),
        [shown["ranking"], shown["threshold"]], shown["verdict"], show_progress="hidden", **private,
    )  # fmt: skip


def _for_kind(kind: str) -> list[Any]:
    """Which buttons and numbers go with the kind of question."""
    names = SLOTS.get(kind, SLOTS[TYPING])
    buttons = [gr.update(visible=name in names) for name in ("mention", "head", "tail")]
    labels = [gr.update(label=f"{names[0]}, {end}") for end in ("start", "end")]
    return [*buttons, gr.update(visible=len(names) == 2), *labels]
