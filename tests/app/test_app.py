"""What the demo page does with its fields, without Gradio and without a browser (test_app_browser.py)."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from modeling_mgvmoe.app import markup
from modeling_mgvmoe.app.example_posts import (
    ExamplePost,
    examples_for,
    examples_from_file,
    sketchbook_examples,
    write_examples,
)
from modeling_mgvmoe.app.form import (
    MAX_CHARACTERS,
    MAX_LABELS,
    RELATION,
    TYPING,
    Fields,
    FormError,
    UnreadableImage,
    read_fields,
    read_label_lines,
    read_spans,
    read_type_lines,
    read_whole_post,
    write_label_lines,
)
from modeling_mgvmoe.app.markup import STRONGEST, TINT, attention_overlay, resized
from modeling_mgvmoe.app.served_model import ServedModel, answer, load_served_model, verdict_again, whole_post
from modeling_mgvmoe.evaluation.explanation import explain_post
from modeling_mgvmoe.training.build import model_from_scratch
from tests.support.from_scratch import LABELS, TEXTS, drawing, scratch_config, scratch_model
from tests.support.published_run import make_run

TEXT = "Kelo sails at dawn & <b>greets</b> Mura"
GOOD = Fields(TEXT, drawing(1), TYPING, (0, 4, None, None), "\n".join(LABELS))


def changed(**values):
    return Fields(**vars(GOOD) | values)


@pytest.fixture(scope="module")
def served():
    return ServedModel("tiny", *scratch_model())


class Text(HTMLParser):
    """What a reader sees, and the tags."""

    def __init__(self, html):
        super().__init__()
        self.text, self.tags, self.open = "", [], []
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_data(self, data):
        self.text += data

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


# Fields


def test_fields_become_arguments():
    found = read_fields(changed(labels="boat | it sails | it floats\n\n bird \ncake | sweet"))
    assert found == {
        "post": {"text": TEXT, "image": GOOD.image, "mentions": [[0, 4]]},
        "candidate_labels": ["boat", "bird", "cake"],
        "label_descriptions": {"boat": ["it sails", "it floats"], "cake": "sweet"},
    }
    pair = changed(kind=RELATION, numbers=(0, 4, 35, 39), label_types="boat | person, team | place\n")
    found = read_fields(pair)
    assert found["post"]["mentions"] == [[0, 4], [35, 39]]
    assert found["label_types"] == {"boat": (["person", "team"], ["place"])}
    assert "type_descriptions" not in found
    found = read_fields(Fields(**vars(pair) | {"type_sentences": "person | a human being"}))
    assert found["type_descriptions"] == {"person": "a human being"}


def test_words_for_the_image_come_one_a_line(served):
    assert read_fields(changed(image_text="a boat\n\n a bird "))["post"]["image_text"] == ["a boat", "a bird"]
    told = changed(image_text="a <b>boat</b>\nin the harbour", image=None)
    shown = answer(served, told, 1.0)
    text = Text(shown.weighed)
    assert "Image text: a <b>boat</b>. in the harbour" in text.text and "Without the image: " in text.text
    assert "image" in Text(shown.experts).text and not any(tag == "img" for tag, _ in text.tags)
    assert shown.ranking != answer(served, changed(image=None), 1.0).ranking
    assert (
        len([tag for tag, _ in Text(answer(served, changed(image_text="a boat"), 1.0).weighed).tags if tag == "img"])
        == 2
    )


def test_numbers_of_the_tail_are_not_asked_for_with_one_mention():
    assert read_spans(TEXT, TYPING, (0, 4, 99, None)) == [(0, 4)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": " \n"}, "There is no post yet. Type or paste one."),
        ({"text": None}, "There is no post yet."),
        ({"text": "a" * (MAX_CHARACTERS + 1)}, "The post has 5,001 characters. At most 5,000 are taken."),
        ({"image_text": "a" * (MAX_CHARACTERS + 1)}, "The image text has 5,001 characters. At most 5,000 are taken."),
        ({"image": UnreadableImage("OSError")}, "The image cannot be read. Take another one, such as a PNG"),
        ({"kind": "both"}, "Choose whether one mention or a pair is asked about."),
        ({"numbers": (None,) * 4}, "No mention is marked. Select its words in the post, then press “Mark as mention”"),
        ({"kind": RELATION}, "No tail is marked."),
        ({"numbers": (3, None, None, None)}, "The mention has no end. Fill it in, or mark it anew."),
        ({"numbers": (None, 3, None, None)}, "The mention has no start."),
        ({"numbers": (0.5, 3, None, None)}, "whole numbers of characters, not 0.5 and 3"),
        ({"numbers": (30, 99, None, None)}, "from character 30 to 99, but the post has 39 characters. Mark it anew."),
        ({"numbers": (4, 4, None, None)}, "from character 4 to 4"),
        ({"numbers": (4, 5, None, None)}, "The mention cannot be used: span (4, 5) covers only white space"),
        ({"labels": " \n "}, "There is no label yet. Write some, with commas or line ends between them."),
        ({"labels": "boat\nbird\nboat | b"}, "The label “boat” stands twice."),
        ({"labels": "boat, boat"}, "The label “boat” stands twice."),
        ({"labels": "boat\n| it sails"}, "Line 2 of the labels has nothing before “|”."),
        ({"labels": "boat | it sails | it sails"}, "The label “boat” has the same sentence twice."),
        ({"labels": "boat" * 130}, "Line 1 of the labels has 520 characters. At most 500 are taken."),
        ({"labels": "\n".join(map(str, range(MAX_LABELS + 1)))}, "There are 101 labels. At most 100 are taken."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_words(values, message):
    with pytest.raises(FormError, match=re.escape(message)):
        read_fields(changed(**values))


@pytest.mark.parametrize("line", ["member of", "member of | person", "member of | person | ,", "| a | b", "a|b|c|d"])
def test_types_are_written_in_three_parts(line):
    with pytest.raises(FormError, match="Types are written “label | types of the head"):
        read_type_lines(line)


@pytest.mark.parametrize(
    ("lines", "labels"),
    [
        ("city, person,film", ["city", "person", "film"]),
        ("city, person\nfilm,\n", ["city", "person", "film"]),
        ('"Washington, D.C.", city', ["Washington, D.C.", "city"]),
        ('"the ""Kelo"", a boat"', ['the "Kelo", a boat']),
        ("城市，人、电影", ["城市", "人", "电影"]),
        ("made of, in part | it is made of this, and more", ["made of, in part"]),
    ],
)
def test_labels_between_commas_and_lines(lines, labels):
    found, sentences = read_label_lines(lines)
    assert found == labels
    assert read_label_lines(write_label_lines(found, sentences)) == (found, sentences)
    shown = Text(markup.chips(lines))
    assert sum(tag == "li" for tag, _ in shown.tags) == len(labels)
    assert all(label in shown.text for label in labels) and f"{len(labels)} label" in shown.text


def test_chips_say_what_is_wrong_with_the_labels():
    assert markup.chips(" \n") == markup.chips(None) == ""
    assert "stands twice" in Text(markup.chips("boat, boat")).text and "<li" not in markup.chips("boat, boat")


def test_label_lines_there_and_back():
    labels, sentences = ["boat", "bird, or two", "cake"], {"boat": "it sails", "cake": ["sweet", "with cream"]}
    assert read_label_lines(write_label_lines(labels, sentences)) == (labels, sentences)


# What is shown


def test_the_scores_are_those_of_the_explanation(served):
    shown = answer(served, GOOD, 0.0)
    expected = explain_post(served.model, served.processor, **read_fields(GOOD))
    assert shown.ranking == expected.ranking
    page = Text(shown.verdict)
    assert page.text.startswith(expected.answer)
    for entry in expected.ranking:
        assert f"{entry['label']}{entry['score']:.3f}" in page.text
    widths = re.findall(r"width:([\d.]+)%", shown.verdict)
    assert [float(width) for width in widths] == pytest.approx(
        [100 * entry["score"] for entry in expected.ranking] + [100 * expected.uncertainty], abs=0.06
    )
    assert sum("mg-best" in (attrs.get("class") or "") for _, attrs in page.tags) == 1


def test_none_of_these_and_another_threshold(served):
    shown = answer(served, GOOD, 1.0)
    best = shown.ranking[0]
    none = verdict_again(shown.ranking, 1000.0)
    assert Text(none).text.startswith(f"None of theseThe best, “{best['label']}”, is only ")
    assert "mg-best" not in none
    assert verdict_again(shown.ranking, 1.0) == shown.verdict
    assert verdict_again(None, 5.0) is None


@pytest.mark.parametrize("count", [2, 12, 100])
def test_none_of_these_does_not_depend_on_how_many_labels_there_are(count):
    """The best label is exp(2) or exp(1.2) times as likely as each of the others, two of them or ninety-nine."""
    for margin, answered in ((2.0, True), (1.2, False)):
        logits = np.array([margin] + [0.0] * (count - 1))
        scores = np.exp(logits) / np.exp(logits).sum()
        ranking = [{"label": f"label {number}", "score": score} for number, score in enumerate(scores)]
        assert markup.lead(ranking) == pytest.approx(np.exp(margin))
        assert ("None of these" not in markup.verdict(ranking, 5.0)) is answered


def test_a_right_answer_among_twelve_labels_is_kept():
    """Far ahead of the others, and below one half."""
    ranking = [{"label": str(number), "score": score} for number, score in enumerate([0.45, 0.125] + [0.0425] * 10)]
    assert sum(entry["score"] for entry in ranking) == pytest.approx(1)
    assert markup.verdict(ranking, 5.0).startswith('<p class="mg-answer">0</p>')


@pytest.mark.parametrize("least", [0.5, float("nan"), float("inf"), "5"])
def test_a_threshold_that_is_none(least):
    with pytest.raises(ValueError, match="threshold"):
        markup.check_least(least)


def test_one_label_is_explained(served):
    assert "With one label its score is always 1" in answer(served, changed(labels="boat"), 0.5).verdict


def test_many_labels_are_cut(served):
    shown = answer(served, changed(labels="\n".join(f"label {number}" for number in range(30))), 0.0)
    assert Text(shown.verdict).text.count("label ") == markup.MOST_BARS + 1  # the answer, and the bars
    assert "and 18 more, each at most" in shown.verdict


def test_the_post_is_shown_as_it_was_written(served):
    """Escaped, in full, with its mention underlined and its strongest word in the strongest tint."""
    shown = answer(served, GOOD, 0.0)
    (post,) = re.findall(r'<p class="mg-post".*?</p>', shown.weighed, flags=re.DOTALL)
    page = Text(post)
    assert page.text == TEXT and {tag for tag, _ in page.tags} == {"p", "span"}
    assert (post.count("&lt;"), post.count("&gt;"), post.count("&amp;")) == (2, 2, 1)
    marked = [attrs for tag, attrs in page.tags if "mg-mention" in attrs["class"]]
    assert len(marked) == 1 and marked[0]["title"].endswith("%")
    tints = [float(attrs["style"].removeprefix("--tint:")) for tag, attrs in page.tags if tag == "span"]
    assert max(tints) == pytest.approx(STRONGEST) and min(tints) >= 0


def test_nothing_that_people_write_becomes_html(served):
    evil = "<img src=x onerror=alert(1)>"
    shown = answer(served, changed(text=f"Kelo {evil}", labels=f"{evil}\n\"'&"), 0.0)
    refused = answer(served, changed(labels=f"{evil}\n{evil}"), 0.0)
    for html in (shown.verdict, shown.weighed, refused.verdict):
        assert "<img src=x" not in html
        assert evil in Text(html).text
    assert not any("onerror" in attrs for _, attrs in Text(shown.weighed).tags)


def test_images_are_shown_beside_each_other(served):
    shown = answer(served, GOOD, 1.0)
    images = [attrs for tag, attrs in Text(shown.weighed).tags if tag == "img"]
    assert len(images) == 2
    sizes = []
    for attrs in images:
        content = base64.b64decode(attrs["src"].removeprefix("data:image/png;base64,"))
        with Image.open(BytesIO(content)) as image:
            sizes.append(image.size)
    # 24 x 20 pixels, and the 16 x 16 that the encoder is shown, each enlarged to at most 520.
    assert sizes == [(24 * 21, 20 * 21), (16 * 32, 16 * 32)]
    without = answer(served, changed(image=None), 0.0)
    assert "<img" not in without.weighed and "image" not in Text(without.weighed).text
    assert "image" not in Text(without.experts).text


def test_experts_are_drawn_by_modality(served):
    shown = answer(served, GOOD, 0.0)
    expected = explain_post(served.model, served.processor, **read_fields(GOOD)).expert_shares
    page = Text(shown.experts)
    titles = [attrs["title"] for tag, attrs in page.tags if tag == "li"]
    assert titles == [
        f"{text:.1%} text, {image:.1%} image" for text, image in zip(expected["text"], expected["image"], strict=True)
    ]


def test_a_model_that_begins_as_similarity_shows_its_gate_and_takes_types():
    model, processor = model_from_scratch(
        scratch_config(score="similarity"), TEXTS, max_length=48, mention_style="prefix"
    )
    similar = ServedModel("similar", model.eval(), processor)
    assert similar.has_types
    pair = changed(kind=RELATION, numbers=(0, 4, 35, 39))
    plain, typed = (
        answer(similar, Fields(**vars(pair) | {"label_types": own}), 0.0)
        for own in ("", "boat | Kelo | Mura\nbird | dawn | harbour")
    )
    assert "through a gate of 0.00" in plain.weighed
    assert plain.ranking != typed.ranking
    assert 'class="mg-word mg-head"' in plain.weighed and 'class="mg-word mg-tail"' in plain.weighed
    wrong = answer(similar, Fields(**vars(pair) | {"label_types": "boat"}), 0.0)
    assert "Types are written" in wrong.verdict and wrong.weighed == wrong.experts == "" and wrong.ranking is None


def test_types_are_not_asked_for_by_other_models(served):
    pair = changed(kind=RELATION, numbers=(0, 4, 35, 39), label_types="boat")
    assert answer(served, pair, 0.0).ranking is not None


def test_errors_are_words(served, caplog):
    shown = answer(served, changed(text=""), 0.0)
    assert shown.verdict == '<div class="mg-message" role="alert">There is no post yet. Type or paste one.</div>'
    # What the processor refuses names the argument and the rule.
    assert "This cannot be answered. text: it holds half" in answer(served, changed(text="Kelo \ud800"), 0.0).verdict
    broken = ServedModel("broken", None, served.processor)
    shown = answer(broken, GOOD, 0.0)
    assert "Something went wrong on the server" in shown.verdict and "Traceback" not in shown.verdict
    assert "Traceback" in caplog.text  # for whoever runs the page


def test_scores_with_and_without_the_image_stand_side_by_side(served):
    """The labels in one order, each column with its own best."""
    found = explain_post(served.model, served.processor, **read_fields(GOOD))
    shown = Text(answer(served, GOOD, 0.0).weighed)
    columns = [attrs["aria-label"] for tag, attrs in shown.tags if tag == "ul"]
    assert columns == ["with the image", "without the image"]
    before = {entry["label"]: entry["score"] for entry in found.ranking_without_image}
    said = "".join(f"{entry['label']}{entry['score']:.3f}" for entry in found.ranking)
    said_before = "".join(f"{entry['label']}{before[entry['label']]:.3f}" for entry in found.ranking)
    assert f"with it{said}without it{said_before}" in shown.text
    told = Text(answer(served, changed(image=None, image_text="a boat"), 0.0).weighed)
    assert "With and without the image text" in told.text
    assert "With and without" not in answer(served, changed(image=None), 0.0).weighed


# The whole post

WHOLE = Fields(
    TEXT, None, TYPING, (None,) * 4, "", mentions="Kelo, Mura, dawn", typing_labels="boat | it sails\nbird",
    relation_labels="greets | Somebody says hello.\nchases", label_types="greets | boat, bird | bird, boat",
)  # fmt: skip


def test_a_whole_post_becomes_arguments_of_extract():
    found = read_whole_post(Fields(**vars(WHOLE) | {"image_text": "a harbour"}))
    allowed = {"greets": (["boat", "bird"], ["bird", "boat"])}
    assert found == {
        "posts": [
            {"text": TEXT, "image": None, "image_text": ["a harbour"], "mentions": [[0, 4], [35, 39], [14, 18]]}
        ],
        "typing_labels": ["boat", "bird"],
        "relation_labels": ["greets", "chases"],
        "label_descriptions": {"boat": "it sails", "greets": "Somebody says hello."},
        "label_types": allowed,
        "relation_constraints": allowed,
    }
    assert "relation_labels" not in read_whole_post(Fields(**vars(WHOLE) | {"relation_labels": " "}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": ""}, "There is no post yet."),
        ({"mentions": ""}, "There is no mention yet."),
        ({"mentions": "Kelo, Kelo"}, "The mention “Kelo” stands twice."),
        ({"mentions": "Tavi"}, "The mentions cannot be used"),
        ({"mentions": ", ".join(map(str, range(13)))}, "There are 13 mentions. At most 12 are taken."),
        ({"typing_labels": ""}, "There is no type yet."),
        ({"relation_labels": "a, a"}, "The relation “a” stands twice."),
    ],
)
def test_what_is_wrong_with_a_whole_post_is_said_in_words(served, values, message):
    wrong = Fields(**vars(WHOLE) | values)
    with pytest.raises(FormError, match=re.escape(message)):
        read_whole_post(wrong)
    assert 'role="alert"' in whole_post(served, wrong)


def test_a_whole_post_is_drawn_as_its_graph(served):
    html = whole_post(served, Fields(**vars(WHOLE) | {"label_types": ""}))
    (graph,) = served.model.extract(
        [{"text": TEXT, "mentions": [[0, 4], [35, 39], [14, 18]]}],
        ["boat", "bird"],
        ["greets", "chases"],
        processor=served.processor,
        label_descriptions={"boat": "it sails", "greets": "Somebody says hello."},
    )
    page = Text(html)
    count = {name: sum(tag == name for tag, _ in page.tags) for name in ("rect", "path", "polygon", "li")}
    relations = len(graph["relations"])
    assert relations and count == {"rect": 3, "path": relations, "polygon": relations, "li": 3 + relations}
    for mention in graph["mentions"]:
        assert f"{mention['score']:.2f} {mention['text']}: {mention['label']}" in page.text
    # Every name stays inside the drawing, and nothing that is written becomes HTML.
    for tag, attrs in page.tags:
        if tag == "rect":
            left, wide = float(attrs["x"]), float(attrs["width"])
            assert left >= 0 and left + wide <= markup.GRAPH_SIZE[0]
    evil = {"label": "<b>", "score": 1.0, "text": "<script>" * 9}
    drawn = markup.post_graph({"mentions": [evil], "relations": []})
    assert "<script>" not in drawn and "No two mentions are related" in drawn


# The image


def test_patches_are_tinted(served):
    from dataclasses import replace

    found = explain_post(served.model, served.processor, **read_fields(GOOD))
    grey = Image.new("RGB", (20, 20), (100, 100, 100))
    weights = np.array([[0.4, 0.0], [0.1, 0.2]])
    before = [{"label": entry["label"], "score": 0.0} for entry in found.ranking]
    sure = [{**found.ranking[0], "score": 1.0}, *found.ranking[1:]]
    drawn = replace(found, seen_image=grey, patches=weights, ranking=sure, ranking_without_image=before)
    pixels = np.asarray(attention_overlay(drawn, 20)).astype(int)
    assert pixels.shape == (20, 20, 3)

    def mixed(share, over):
        return [round(100 * (1 - share) + share * part) for part in over]

    assert pixels[5, 5].tolist() == mixed(STRONGEST, TINT)
    assert pixels[5, 15].tolist() == [100] * 3
    assert pixels[15, 5].tolist() == mixed(STRONGEST / 4, TINT)
    assert pixels[15, 15].tolist() == mixed(STRONGEST / 2, TINT)
    # Half as much, and nothing, where the image moves the score half as much, and not.
    for score, strength in ((0.75, 0.5), (1.0, 0.0)):
        before[0]["score"] = score
        pixels = np.asarray(attention_overlay(drawn, 20)).astype(int)
        assert pixels[5, 5].tolist() == mixed(strength * STRONGEST, TINT)
    with pytest.raises(ValueError, match="one with an image and a grid of patches is needed"):
        attention_overlay(replace(drawn, patches=None), 40)


@pytest.mark.parametrize(
    ("size", "expected"), [((10, 4), (50, 20)), ((52, 30), (52, 30)), ((104, 52), (52, 26)), ((3000, 1), (52, 1))]
)
def test_sizes_of_shown_images(size, expected):
    assert resized(Image.new("RGB", size), 52).size == expected


# Examples


def test_the_sketchbooks_examples_can_be_asked():
    examples = sketchbook_examples()
    assert [example.name for example in examples] == [
        "type 1", "type 2", "pair 1", "pair 2", "no label fits", "without an image",
    ]  # fmt: skip
    for example in examples:
        arguments = read_fields(example.fields)
        spans = arguments["post"]["mentions"]
        assert len(spans) == (2 if example.name.startswith("pair") else 1)
        assert all(arguments["post"]["text"][start].isupper() for start, _ in spans)
    assert sketchbook_examples()[0].fields.text == examples[0].fields.text


def test_examples_are_like_what_the_model_was_trained_on():
    def record(name, **labels):
        arguments = {"model": {}, "data": {"dataset_seed": 3}, "training": {}}
        return {"arguments": arguments, "dataset": {"name": name, "split": None}, "labels": {"train": labels}}

    drawn = examples_for(record("sketchbook", typing=["boat"], relation=[]))
    assert [one.fields.text for one in drawn] == [one.fields.text for one in sketchbook_examples(3)]
    both = examples_for(None)
    assert examples_for(record("a,b", **{"a/typing": ["boat"], "b/relation": ["greets"]})) == both
    assert {one.fields.kind for one in both} == {TYPING, RELATION}
    assert {one.fields.image is None for one in both} == {True, False}
    for name, expected in (("mnre", RELATION), ("twitter10000", TYPING)):
        task = "relation" if expected == RELATION else "typing"
        labels = {"typing": [], "relation": []} | {task: ["a class"]}
        assert {one.fields.kind for one in examples_for(record(name, **labels))} == {expected}
    assert any(one.fields.image_text for one in both)
    for example in [*both, *drawn]:
        assert len(read_fields(example.fields)["candidate_labels"]) >= 4
        assert len(read_whole_post(example.fields)["typing_labels"]) >= 4


def test_the_page_names_the_model_and_what_it_was_trained_on(folder, tmp_path):
    unknown = load_served_model(str(folder / "model"), device="cpu")
    assert unknown.title == f"{folder.name}/model" and "not written" in unknown.training
    make_run(tmp_path)
    (tmp_path / "carded").mkdir()
    (tmp_path / "carded" / "README.md").write_text("a card", encoding="utf-8")
    assert "README.md" in ServedModel(str(tmp_path / "carded"), None, None).training
    known = load_served_model(str(tmp_path / "model"), device="cpu")
    assert known.training == "trained on sketchbook (seed 0): 3 types, 3 relations"
    assert ServedModel("user/name", None, None, "main").title == "user/name at main"
    assert "<b>&lt;i&gt;" in markup.served("<i>", known.training)


def test_examples_there_and_back(tmp_path):
    examples = sketchbook_examples()
    told = ExamplePost("told", Fields(**vars(examples[0].fields) | {"image_text": "a boat\nin the harbour"}))
    examples = [*examples, told, *examples_for(None)]
    write_examples(examples, tmp_path)
    for found, expected in zip(examples_from_file(tmp_path / "posts.json"), examples, strict=True):
        assert found.name == expected.name
        mine, theirs = (vars(example.fields) | {"image": None} for example in (found, expected))
        assert mine == theirs
        if expected.fields.image is None:
            assert found.fields.image is None
        else:
            assert np.array_equal(np.asarray(found.fields.image), np.asarray(expected.fields.image))


@pytest.mark.parametrize(
    "marked",
    [{"mention": "Kelo"}, {"mention": {"start": 0, "end": 4}}, {"mentions": ["Kelo"]}, {"mentions": [[0, 4]]}],
)
def test_mentions_of_examples_as_the_pipeline_takes_them(marked, tmp_path):
    post = {"text": "Kelo sails", "candidate_labels": ["boat"], **marked}
    (tmp_path / "posts.json").write_text(json.dumps([post]), encoding="utf-8")
    (example,) = examples_from_file(tmp_path / "posts.json")
    assert (example.fields.kind, example.fields.numbers) == (TYPING, (0, 4, None, None))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "a JSON file is needed"),
        ("{}", "must hold a list of posts, got {}"),
        ('[{"text": "Kelo"}]', "post 1: inputs: a post needs either 'mention', or 'head' and 'tail'"),
        ('[{"text": "Kelo", "mention": [0, 4]}]', "post 1: candidate_labels: a non-empty list of labels is needed"),
        (
            '[{"text": "Kelo", "mention": [0, 4], "image": "no.png", "candidate_labels": ["a"]}]',
            "post 1: image: cannot read image",
        ),
        ('[{"text": "Kelo", "mention": [0, 4], "candidate_labels": ["a"], "form": {"kind": "x"}}]', "post 1: form: "),
        ('[{"text": "Kelo", "mention": [0, 4], "candidate_labels": ["a"], "form": [1]}]', "post 1: form: "),
    ],
)
def test_files_of_examples_are_read_strictly(content, message, tmp_path):
    (tmp_path / "posts.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        examples_from_file(tmp_path / "posts.json")
    with pytest.raises(FileNotFoundError, match="examples: the file .* does not exist"):
        examples_from_file(tmp_path / "other.json")


# The model behind the page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("app")
    for part in scratch_model():
        part.save_pretrained(home / "model")
    return home


def test_the_packages_own_code_runs_unless_asked(folder, served):
    loaded = load_served_model(str(folder / "model"), device="cpu")
    assert type(loaded.model).__module__ == "modeling_mgvmoe.modeling_mgvmoe"
    assert answer(loaded, GOOD, 0.0) == answer(served, GOOD, 0.0)


def test_the_code_beside_the_weights(folder, served, own_module_cache):
    with pytest.warns(UserWarning, match="The code beside the weights of .* runs, with your rights"):
        loaded = load_served_model(str(folder / "model"), trust_remote_code=True, device="cpu")
    for part in (loaded.model, loaded.processor, loaded.model.config):
        assert type(part).__module__.startswith("transformers_modules")
    assert answer(loaded, GOOD, 0.0) == answer(served, GOOD, 0.0)


@pytest.mark.parametrize("revision", [None, "main", "v1", "abc123"])
def test_code_from_the_hub_wants_a_commit(revision):
    with pytest.raises(ValueError, match="give the commit that you have read with revision=, 40 hexadecimal digits"):
        load_served_model("user/name", revision, trust_remote_code=True)


def test_code_that_is_missing_or_too_old(folder, tmp_path, own_module_cache):
    shutil.copytree(folder / "model", tmp_path / "old")
    code = tmp_path / "old" / "processing_mgvmoe.py"
    old = code.read_text(encoding="utf-8").replace("return_offsets_mapping", "offsets_of_another_kind")
    code.write_text(old, encoding="utf-8")
    with pytest.warns(UserWarning, match="runs"), pytest.raises(ValueError, match="too old to be explained"):
        load_served_model(str(tmp_path / "old"), trust_remote_code=True, device="cpu")
    config = json.loads((tmp_path / "old" / "config.json").read_text(encoding="utf-8"))
    del config["auto_map"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with (
        pytest.warns(UserWarning, match="runs"),
        pytest.raises(ValueError, match="has no own code for AutoModel"),
    ):
        load_served_model(str(tmp_path / "old"), trust_remote_code=True, device="cpu")


def test_bad_models(folder):
    with pytest.raises(ValueError, match="revision: a folder has none"):
        load_served_model(str(folder / "model"), "main")
    with pytest.raises(FileNotFoundError, match=r"holds no config.json; did you mean .*model\?"):
        load_served_model(str(folder))
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
    (folder / "other" / "processor_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="must be a model of this package"):
        load_served_model(str(folder / "other"), device="cpu")
