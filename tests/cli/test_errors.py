"""Errors of a script in one line."""

import pytest

from modeling_mgvmoe.cli.errors import one_line


def test_faults_of_ours_and_wanted_tracebacks_are_shown(monkeypatch, capsys):
    with pytest.raises(KeyError), one_line():
        raise KeyError("x")
    with pytest.raises(SystemExit), one_line():
        raise ValueError("two\nlines")
    assert capsys.readouterr().err.endswith(": error: two lines\n")
    monkeypatch.setenv("MGVMOE_TRACEBACK", "1")
    with pytest.raises(ValueError, match="shown"), one_line():
        raise ValueError("shown")
