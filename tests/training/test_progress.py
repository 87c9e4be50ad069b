"""The live line of a training."""

import io
import sys
import time

import pytest

from modeling_mgvmoe.data import progress_bar as progress
from modeling_mgvmoe.training.trackers import ProgressLine, layouts, short_number

MEANS = {
    "loss": 1234.5,
    "ranking_loss": 6.78,
    "kl_loss": 987.6,
    "router_entropy_loss": 1.234,
    "alignment_loss": 0.0449,
    "consistency_loss": 0.00041,
    "new_loss": 3.0,
}


@pytest.mark.parametrize(
    ("value", "three", "two"),
    [
        (1234.5, "1234", "1234"), (98.76, "98.8", "99"), (9.876, "9.88", "9.9"), (0.0449, "0.04", "4e-2"),
        (0.5, "0.50", "0.5"), (0.00041, "4e-4", "4e-4"), (-3e-10, "0", "0"), (-0.5, "-0.50", "-0.5"), (0.0, "0", "0"),
        (99.96, "100.0", "100"),
    ],
)  # fmt: skip
def test_numbers(value, three, two):
    assert (short_number(value), short_number(value, 2)) == (three, two)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("columns", [None, 5, 60, 80, 100, 120, 200, 300])
def test_the_line_fits_and_names_every_term(columns):
    line = ProgressLine(600, 20, show=True)
    line.bar.fp, line.bar.dynamic_ncols, line.bar.ncols = Terminal(), None, columns
    line.bar.update(250)
    means = {name: value for name, value in MEANS.items() if name != "new_loss"}
    line.update(means, 812.4, 0.512)
    shown = line.bar.format_meter(**line.bar.format_dict)
    line.close()
    # tqdm knows no width where there is no terminal.
    assert len(shown) <= (columns or 1000) and "45%" in shown
    if columns == 60:
        assert shown == "45% <00:00 812/s, loss 1234"
    three = "rank 6.78 KL 988 ent 1.23 align 0.04 cons 4e-4"
    two = "rank 6.8 KL 988 ent 1.2 align 4e-2 cons 4e-4"
    if columns in (80, 100, 120):
        assert shown.endswith(f"<00:00 812 posts/s, loss 1234: {two if columns == 80 else three}")
    if columns in (None, 200, 300):
        assert "270/600" in shown
        assert shown.endswith(
            "<00:00, 812 posts/s, loss 1234: ranking 6.78, KL 988, entropy 1.23, alignment 0.04, consistency 4e-4, "
            "best F1 0.512]"
        )


def test_terms_that_it_does_not_know_and_none_at_all():
    assert "new 3.00" in layouts(MEANS, 1.0, None)[0]
    for text in layouts({}, 0.0, None)[:-1]:
        assert "loss ?" in text and "F1" not in text


def test_the_loss_is_not_read_at_every_step(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    line = ProgressLine(10, 0, show=True)
    assert line.due()
    line.update(MEANS, 1.0, None)
    assert not line.due()
    line.close()
    hidden = ProgressLine(10, 0, show=False)
    assert not hidden.due()
    hidden.update(MEANS, 1.0, None)
    hidden.close()


def test_a_loss_is_called_after_the_objective():
    means = {"loss": 1.0, "cross_entropy_loss": 0.75}
    texts = layouts(means, 1.0, None)
    assert "cross-entropy 0.75" in texts[0] and "CE 0.75" in texts[1] and not any("rank" in text for text in texts)


def test_a_training_in_a_log_file(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.1)
    line, read = ProgressLine(20, 0, show=True), 0
    for _ in range(20):
        time.sleep(0.02)
        if line.due():
            read += 1
            line.update(MEANS, 812.4, 0.5)
        line.advance()
    line.close()
    lines = log.getvalue().splitlines()
    # The loss is read for what is written, not more often.
    assert "\r" not in log.getvalue() and 2 <= len(lines) <= 6 and read <= len(lines)
    assert all("812 posts/s, loss 1234: ranking 6.78" in text and "|" not in text for text in lines)
    assert lines[-1].startswith("training: 100% 20/20 [00:")
