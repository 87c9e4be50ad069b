"""The page itself: its fields, how they are laid out, and what its buttons do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import gradio as gr

from . import markup
from .example_posts import ExamplePost
from .form import MAX_CHARACTERS, RELATION, SLOTS, TYPING, Fields, UnreadableImage
from .served_model import ServedModel, answer, verdict_again, whole_post


def image_input(**kwargs: Any) -> gr.Image:
    """A `gr.Image` that never raises on what was uploaded: Gradio would show no more than "Error".

    It gives the image as it was uploaded, a PIL image of any mode; `None` if there is none; or
    [`UnreadableImage`].

    Args:
        kwargs: of `gr.Image`.
    """
    component = gr.Image(type="pil", image_mode=None, format="png", **kwargs)
    read = component.preprocess

    def preprocess(payload: Any) -> Any:
        try:
            return read(payload)
        except Exception as error:  # PIL raises a dozen kinds
            return UnreadableImage(type(error).__name__)

    # Not a subclass: of each, Gradio would write a stub file beside this one.
    component.preprocess = preprocess
    return component


# Nothing is fetched from elsewhere: the fonts are those of the machine that shows the page.
FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
FONT_MONO = ("ui-monospace", "Menlo", "Consolas", "monospace")
MAX_IMAGE = "20mb"
LABELS_INFO = (
    "With commas or line ends between them; in quotes where a label has a comma itself. On a line “label | sentence” "
    "the sentence is read instead of the label."
)
WHOLE_INFO = (
    "The post and its image are those above. Relations follow the types of head and tail, where these are filled in."
)
IMAGE_TEXT_INFO = "Words for the image, with or without it: a caption, alternative text, what is written in it."
MOST_LEAST = 50.0
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


def build_page(served: ServedModel, examples: Sequence[ExamplePost] = (), least: float = markup.LEAST) -> gr.Blocks:
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
        with gr.Accordion("Whole post: its types, relations and graph", open=False, elem_id="mg-whole"):
            draw = _whole_post(fields, shown)
        _fill_in(examples, buttons, fields, shown)
        _connect(served, fields, shown, ask)
        _connect_whole_post(served, fields, shown, draw)
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
        "max_file_size": MAX_IMAGE,
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
    found["image"] = image_input(
        label="Image (if there is one)", sources=["upload", "clipboard"], height=240, buttons=[], elem_id="mg-image"
    )
    found["image_text"] = gr.Textbox(
        label="Image text (if there is one)", info=IMAGE_TEXT_INFO, lines=1, max_lines=6, max_length=MAX_CHARACTERS,
        elem_id="mg-image-text",
    )  # fmt: skip
    found["labels"] = gr.Textbox(label="Labels", info=LABELS_INFO, lines=4, max_lines=16, elem_id="mg-labels")
    found["chips"] = gr.HTML(elem_id="mg-chips")
    with gr.Accordion("Types of head and tail", open=False, visible=served.has_types):
        found["label_types"] = gr.Textbox(
            label="Types that a relation allows", lines=3, info="label | types of the head | types of the tail",
            placeholder="member of | person | team, organization", elem_id="mg-label-types",
        )  # fmt: skip
        found["type_sentences"] = gr.Textbox(
            label="Sentences instead of types", lines=3, info="type | sentence", elem_id="mg-type-sentences"
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


def _whole_post(fields: dict[str, Any], shown: dict[str, Any]) -> Any:
    """Adds the components of the whole post to both, and returns the button."""
    gr.Markdown(WHOLE_INFO, elem_classes="mg-hint")
    with gr.Row():
        with gr.Column():
            for name, label, info in (
                ("mentions", "Mentions", "Words that occur once in the post, with commas or line ends between them."),
                ("typing_labels", "Types", "As labels above."),
                ("relation_labels", "Relations", "As labels above; none: types only."),
            ):
                elem_id = f"mg-{name.replace('_', '-')}"
                fields[name] = gr.Textbox(label=label, info=info, lines=2, max_lines=12, elem_id=elem_id)
            draw = gr.Button("Draw the graph", variant="primary", elem_id="mg-draw")
        with gr.Column():
            shown["graph"] = gr.HTML(elem_id="mg-graph")
    return draw


def _connect_whole_post(served: ServedModel, fields: dict[str, Any], shown: dict[str, Any], draw: Any) -> None:
    """Handler of the button "whole post"."""
    names = ("text", "image", "image_text", "label_types", "mentions", "typing_labels", "relation_labels")

    def respond(*values: Any) -> str:
        given = dict(zip(names, values, strict=True))
        return whole_post(served, Fields(kind=TYPING, numbers=(None,) * 4, labels="", **given))

    inputs = [fields[name] for name in names]
    draw.click(respond, inputs, shown["graph"], api_name="extract", show_progress="minimal")


def _numbers(fields: dict[str, Any]) -> list[Any]:
    return [fields[f"{name}_{end}"] for name in ("first", "second") for end in ("start", "end")]


def _fill_in(
    examples: Sequence[ExamplePost], buttons: Sequence[Any], fields: dict[str, Any], shown: dict[str, Any]
) -> None:
    """Each button fills the form with its example and takes the last answer away."""
    inputs = [fields[name] for name in ("text", "image", "kind")]
    others = ("labels", "image_text", "label_types", "mentions", "typing_labels", "relation_labels")
    inputs += [*_numbers(fields), *(fields[name] for name in others)]
    results = [shown[name] for name in ("verdict", "weighed", "experts", "ranking", "graph")]
    for example, button in zip(examples, buttons, strict=True):
        own = example.fields
        values = [own.text, own.image, own.kind, *own.numbers, *(getattr(own, name) for name in others)]
        values += [markup.EMPTY, "", "", None, ""]
        filled = button.click(
            lambda values=values: values, None, [*inputs, *results], queue=False, api_visibility="private",
            js=f"() => window.mgvmoe.fill({json.dumps(own.numbers)})",
        )  # fmt: skip
        # Where text and kind stay as they are nothing has changed, and still there may be other marks to show.
        marks = [fields["kind"], fields["text"], *_numbers(fields)]
        filled.then(None, marks, [*_numbers(fields), fields["marked"]], js=_calls(f"follow({SLOTS_OF_KIND}, text)"))


def _connect(served: ServedModel, fields: dict[str, Any], shown: dict[str, Any], ask: Any) -> None:
    """Connect buttons and fields to their handlers."""
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
        *places, labels, label_types, type_sentences, threshold, image_text = rest
        filled = Fields(text, image, kind, tuple(places), labels, label_types, type_sentences, image_text)
        own = answer(served, filled, threshold)
        return own.verdict, own.weighed, own.experts, own.ranking

    asked = [fields[name] for name in ("text", "image", "kind")] + [*numbers, fields["labels"]]
    asked += [fields["label_types"], fields["type_sentences"], shown["threshold"], fields["image_text"]]
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
