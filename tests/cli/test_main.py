"""`mgvmoe`: its commands, exit codes, and one line for whatever fails."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from modeling_mgvmoe import __version__
from modeling_mgvmoe.cli.errors import Ended
from modeling_mgvmoe.cli.main import PROGRAMS, main
from modeling_mgvmoe.inference import model_folder
from tests.support.commands import run

ROOT = Path(__file__).resolve().parents[2]


def test_the_version(capsys):
    assert run(capsys, "--version")[:2] == (0, f"mgvmoe {__version__}\n")


def test_as_a_module(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mgvmoe", "--version"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("modeling_mgvmoe", run_name="__main__")
    assert stopped.value.code == 0 and capsys.readouterr().out == f"mgvmoe {__version__}\n"


def test_the_console_script_is_declared():
    lines = (ROOT / "setup.cfg").read_text(encoding="utf-8").splitlines()
    assert "    mgvmoe = modeling_mgvmoe.cli.main:main" in lines


@pytest.mark.parametrize("command", PROGRAMS)
def test_a_command_that_reads_its_flags_itself_calls_itself_by_its_name(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    told = capsys.readouterr().out
    assert f"mgvmoe {command}" in told and "--json " in told and "--traceback " in told


def test_the_result_of_a_command_as_json(tmp_path, capsys):
    flags = ["--posts_per_class", "1", "--eval_posts_per_class", "1"]
    assert main(["prepare", "sketchbook", "--output_dir", str(tmp_path / "data"), *flags, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"train": 80, "validation": 24, "test": 24}
    assert "data" in printed.err


def test_a_missing_extra_of_extract_is_named(capsys, monkeypatch):
    monkeypatch.setattr(model_folder, "find_spec", lambda name: None if name == "pyarrow" else name)
    code, out, err = run(capsys, "extract", "--output", "graph")
    assert (code, out) == (1, "") and "pyarrow must be installed for this: pip install 'mg-vmoe[graph]'" in err


def test_a_result_that_ends_with_another_code_is_printed_first(capsys, monkeypatch):
    def main(words):
        raise Ended(3, {"words": words})

    monkeypatch.setattr("modeling_mgvmoe.cli.export.main", main)
    assert run(capsys, "export", "--json", "x") == (3, '{"words": ["x"]}\n', "")


def test_what_fails_inside_is_one_line_unless_it_is_asked_for(capsys, monkeypatch):
    def broken(*args):
        raise KeyError("inner")

    monkeypatch.setattr("modeling_mgvmoe.cli.predict._read", broken)
    base = ["predict", "--model", "x"]
    assert run(capsys, *base) == (1, "", "mgvmoe predict: error: KeyError: 'inner'\n")
    with pytest.raises(KeyError):
        main([*base, "--traceback"])


@pytest.mark.parametrize("words", [[], ["guess"], ["evaluate"]])
def test_commands(capsys, words):
    code, out, err = run(capsys, *words)
    assert code == 2 and out == "" and err.count("\n") == 1
