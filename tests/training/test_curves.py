"""The image at the end of a training."""

import sys

from PIL import Image

from modeling_mgvmoe.training.trackers import draw_curves, panels, series
from tests.support.small_runs import TERMS

ENTRIES = [
    {
        "step": step,
        **{f"train/{name}": 10.0 / step for name in ("loss", *TERMS, "new_loss", "posts_per_second")},
        **{f"learning_rate/{part}": rate / step for part, rate in (("text", 1e-5), ("heads", 1e-3), ("vision", 1e-5))},
        **{f"expert_usage/{modality}_{k}": 0.5 for modality in ("text", "picture") for k in range(2)},
        **{f"router_entropy/{modality}": 0.7 for modality in ("text", "picture")},
    }
    for step in (3, 6, 9)
]
ENTRIES[-1] |= {f"validation/{name}": 0.4 for name in ("macro_f1", "typing/macro_f1", "typing/accuracy")}


def test_series_by_hand():
    entries = [{"step": 1, "a/x": 2.0}, {"step": 2, "b/x": 3.0}, {"step": 4, "a/x": 5.0, "a/y": 6.0}]
    assert series(entries, r"a/(.)") == {"x": ([1, 4], [2.0, 5.0]), "y": ([4], [6.0])}


def test_every_term_has_a_panel_of_its_own():
    found = {title: lines for title, lines, _ in panels(ENTRIES)}
    drawn = [name for lines in found.values() for name in lines]
    for name in ("loss", *TERMS, "train/new_loss", "posts_per_second", "text", "heads", "macro_f1", "typing/macro_f1"):
        assert name in drawn, name
    assert found["new loss"] == {"train/new_loss": ([3, 6, 9], [10 / 3, 10 / 6, 10 / 9])}
    assert list(found["expert usage, picture"]) == ["0", "1"]
    # Nothing of a modality that was not there.
    text_only = [{name: value for name, value in entry.items() if "picture" not in name} for entry in ENTRIES]
    assert "expert usage, picture" not in {title for title, _, _ in panels(text_only)}


def test_a_picture_is_written(tmp_path):
    path = tmp_path / "curves.png"
    assert draw_curves(ENTRIES, str(path)) is None
    with Image.open(path) as picture:
        assert picture.size[0] > 1000 and len(picture.convert("RGB").getcolors(10**6)) > 10
    assert draw_curves([{"step": 3, "train/loss": 2.0}], str(path)) is None


def test_why_there_is_none(tmp_path, monkeypatch):
    assert draw_curves([], str(tmp_path / "curves.png")) == "the log is empty."
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    found = draw_curves(ENTRIES, str(tmp_path / "curves.png"))
    assert found == "matplotlib is not installed (it is in the extra `demo`)."
    assert not (tmp_path / "curves.png").exists()
