"""Text in images: a font that has the characters where one is installed, words where none is; never a box."""

import pytest
from matplotlib import font_manager

from modeling_mgvmoe.evaluation import plots as fonts
from modeling_mgvmoe.evaluation.explanation import explain_post
from modeling_mgvmoe.evaluation.plots import draw_classes, draw_confusion, draw_explanation, find_glyphs, widened
from modeling_mgvmoe.evaluation.report import draw_predictions
from tests.support.from_scratch import picture, scratch_model

# matplotlib warns of every character that it draws as a box.
pytestmark = pytest.mark.filterwarnings("error:Glyph")
PLUM, SMILE, WOMAN = "\u6885", "\U0001f642", "\U0001f469\u200d\U0001f4bb"
POST = {"text": f"{PLUM} paints {SMILE} {WOMAN} for $5^", "mention": (0, 1), "image": picture(1)}
LABELS = [f"painter {PLUM}", "bird"]


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


def test_no_picture_of_an_evaluation_has_boxes(installed, tmp_path):
    explanation = explain_post(*scratch_model(), POST, LABELS)
    draw_explanation(explanation, tmp_path / "explanation.png", f"of {SMILE}")
    post = {**POST, "mentions": [[0, 1]], "label": LABELS[1]}
    draw_predictions([post], [explanation.ranking], tmp_path / "predictions.png", PLUM)
    draw_confusion([[1, 0], [0, 2]], LABELS, tmp_path / "confusion.png", PLUM)
    scores = dict.fromkeys(LABELS, {"f1": 0.5, "precision": 0.5, "recall": 0.5, "support": 2})
    draw_classes(scores, tmp_path / "classes.png", PLUM, {f"seen {SMILE}": LABELS})
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_chinese_characters_take_twice_the_room():
    assert (widened(40, "Kelo"), widened(40, PLUM * 3), widened(40, ""), widened(40, f"ab{PLUM}")) == (40, 20, 40, 30)
