"""Progress where there is no terminal."""

import io
import sys
import time

from modeling_mgvmoe.data import progress_bar as progress
from modeling_mgvmoe.data.progress_bar import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_file_gets_a_line_now_and_then(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.2)
    started = time.monotonic()
    for _ in progress_bar(range(30), "encoding"):
        time.sleep(0.02)  # 0.6 seconds or, on a busy machine, more: a line after every 0.2, and the last
    most = (time.monotonic() - started) / 0.2 + 1
    lines = log.getvalue().splitlines()
    assert log.getvalue().count("\r") == log.getvalue().count("\x1b") == 0
    assert 2 <= len(lines) <= most and all(line.startswith("encoding: ") for line in lines)
    assert lines[-1].startswith("encoding: 100% 30/30 [00:")


def test_what_is_done_at_once_or_hidden_writes_nothing_to_a_log_file(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    for arguments in ({"desc": "quick"}, {"desc": None}, {"desc": "hidden", "show": False}):
        assert list(progress_bar(range(3), **arguments)) == [0, 1, 2]
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress_bar(range(3), "encoding")) == [0, 1, 2]
    assert "\r" in terminal.getvalue() and "encoding: 100%|" in terminal.getvalue()
