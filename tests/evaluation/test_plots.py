"""Drawings, and their text: a font that has the characters where one is installed, never a box."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image

from modeling_mgvmoe.evaluation import plots as fonts
from modeling_mgvmoe.evaluation.explanation import explain_post
from modeling_mgvmoe.evaluation.plots import (
    draw_classes,
    draw_confusion,
    draw_explanation,
    find_glyphs,
    short_names,
    shortened,
    widened,
)
from modeling_mgvmoe.evaluation.report import draw_predictions
from tests.support.drawn_files import colours
from tests.support.from_scratch import LABELS, picture, posts, scratch_model

# matplotlib warns of every character that it draws as a box.
pytestmark = pytest.mark.filterwarnings("error:Glyph")
PLUM, SMILE, WOMAN = "\u6885", "\U0001f642", "\U0001f469\u200d\U0001f4bb"
POST = {"text": f"{PLUM} paints {SMILE} {WOMAN} for $5^", "mention": (0, 1), "image": picture(1)}
PAINTERS = [f"painter {PLUM}", "bird"]


@pytest.fixture(params=["no font", "a font"])
def installed(request, tmp_path, monkeypatch):
    """No font but matplotlib's own, or one with two characters, made here; whether there is one."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    found = ()
    if request.param == "a font":
        builder, pen = FontBuilder(1000, isTTF=True), TTGlyphPen(None)
        pen.moveTo((0, 0))
        for place in ((0, 800), (800, 800), (800, 0)):
            pen.lineTo(place)
        pen.closePath()
        builder.setupGlyphOrder([".notdef", "full"])
        builder.setupCharacterMap({ord(PLUM): "full", ord(SMILE): "full"})
        builder.setupGlyf({name: pen.glyph() for name in (".notdef", "full")})
        builder.setupHorizontalMetrics(dict.fromkeys((".notdef", "full"), (1000, 0)))
        builder.setupHorizontalHeader(ascent=800, descent=-200)
        builder.setupNameTable({"familyName": "Two Signs", "styleName": "Regular"})
        builder.setupOS2()
        builder.setupPost()
        builder.save(tmp_path / "two.ttf")
        known = list(font_manager.fontManager.ttflist)
        font_manager.fontManager.addfont(tmp_path / "two.ttf")
        monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist])
        found = (("Two Signs", str(tmp_path / "two.ttf")),)
        request.addfinalizer(lambda: setattr(font_manager.fontManager, "ttflist", known))
    monkeypatch.setattr(fonts, "_installed", lambda: found)
    font_manager.fontManager._findfont_cached.cache_clear()
    return bool(found)


def test_the_fonts_that_have_the_characters(installed):
    found = find_glyphs(frozenset(f"Mura\n é {PLUM}{SMILE}{WOMAN}"))
    assert found.families == (("DejaVu Sans", "Two Signs") if installed else ("DejaVu Sans",))
    absent = {"\U0001f469", "\U0001f4bb"} | (set() if installed else {PLUM, SMILE})
    assert found.missing == absent
    assert found.show(f"a {PLUM}\u0007") == (f"a {PLUM}\u0007" if installed else "a ‹6885›\u0007")
    assert all(f"U+{ord(char):04X}" in found.note for char in absent)
    assert ("fonts-noto-cjk" in found.note) is not installed and "fonts-symbola" in found.note


def test_nothing_is_said_where_nothing_is_missing():
    found = find_glyphs(frozenset("Kelo\n at €5 – “ça”"))
    assert (found.families, found.note, found.show("é")) == (("DejaVu Sans",), "", "é")


def test_invisible_characters_are_left_out_without_a_word(monkeypatch):
    monkeypatch.setattr(fonts, "_installed", tuple)
    found = find_glyphs(frozenset("a\u0007\ufe0f"))
    assert not found.missing and found.note == "" and found.show("a\u0007") == "a"


def test_no_image_of_an_evaluation_has_boxes(installed, tmp_path):
    explanation = explain_post(*scratch_model(), POST, PAINTERS)
    draw_explanation(explanation, tmp_path / "explanation.png", f"of {SMILE}")
    post = {**POST, "mentions": [[0, 1]], "label": PAINTERS[1]}
    draw_predictions([post], [explanation.ranking], tmp_path / "predictions.png", PLUM)
    draw_confusion([[1, 0], [0, 2]], PAINTERS, tmp_path / "confusion.png", PLUM)
    scores = dict.fromkeys(PAINTERS, {"f1": 0.5, "precision": 0.5, "recall": 0.5, "support": 2})
    draw_classes(scores, tmp_path / "classes.png", PLUM, {f"seen {SMILE}": PAINTERS})
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_chinese_characters_take_twice_the_room():
    assert (widened(40, "Kelo"), widened(40, PLUM * 3), widened(40, ""), widened(40, f"ab{PLUM}")) == (40, 20, 40, 30)


@pytest.mark.parametrize("number", range(len(posts())))
def test_every_kind_of_post_is_drawn(number, tmp_path):
    post = posts()[number]
    found = explain_post(*scratch_model(), post, post.get("candidate_labels", LABELS), threshold=0.3)
    draw_explanation(found, tmp_path / "one.png", "a title")
    assert len(colours(tmp_path / "one.png")) > 20


def test_odd_posts_are_drawn(tmp_path):
    """Dollars are no formulas, one word is longer than a line, an image has no grid, there are no experts."""
    text = "costs $5 and $6_x^2$ " + "a" * 200 + " " + "word " * 60
    found = explain_post(
        *scratch_model(), {"text": text, "mention": (0, 5), "image": posts()[0]["image"]}, ["$a$", "b"]
    )
    none = {name: np.zeros(0) for name in found.expert_usage}
    odd = replace(found, patches=None, patch_area=None, expert_usage=none, expert_shares=none, gate=0.1)
    draw_explanation(odd, tmp_path / "odd.png")
    draw_explanation(found, tmp_path / "long.png")
    with Image.open(tmp_path / "long.png") as image, Image.open(tmp_path / "odd.png") as other:
        assert image.width == other.width and image.height > other.height > 400


def test_names_in_images():
    assert shortened("red star boat") == "red star boat"
    assert shortened("members of an organisation", 24, 2) == "members of an\norganisation"
    long = "/people/person/place_of_birth_or_of_residence_before"
    other = "/people/person/place_of_birth_or_of_residence_later"
    for width, lines in ((24, 2), (36, 1), (20, 1)):
        rows = shortened(long, width, lines).split("\n")
        assert len(rows) <= lines and max(map(len, rows)) <= width
        assert shortened(long, width, lines) != shortened(other, width, lines)
    # Alike at both ends: more room, until they differ.
    alike = [f"organization is {what} of organization" for what in ("a subsidiary", "another name", "a part")]
    assert len({shortened(name, 34, 1) for name in alike}) == 1
    assert len(set(short_names(alike, 34, 1))) == 3 and short_names(["a", "a"], 34, 1) == ["a", "a"]


@pytest.mark.parametrize("count", [1, *(pytest.param(count, marks=pytest.mark.slow) for count in (26, 160))])
def test_images_of_any_number_of_classes(count, tmp_path):
    labels = [f"class {number} with a rather long name" for number in range(count)]
    scores = {name: {"precision": 0.5, "recall": 0.2, "f1": 2 / 7, "support": place % 3} for place, name in
              enumerate(labels)}  # fmt: skip
    draw_confusion(np.eye(count, dtype=int) * 12, labels, tmp_path / "a.png", "title", divider=count // 2)
    draw_classes(scores, tmp_path / "b.png", "title", {"seen": labels[: count // 2], "unseen": labels[count // 2 :]})
    for name in ("a.png", "b.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 100 and max(picture.size) < 8000


def test_images_of_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"matrix must be \(2, 2\)"):
        draw_confusion(np.zeros((2, 3)), ["a", "b"], tmp_path / "a.png")
    with pytest.raises(ValueError, match="there must be at least one class, got none"):
        draw_classes({}, tmp_path / "b.png")
