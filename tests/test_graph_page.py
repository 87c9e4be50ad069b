"""Every command of docs/graph.md runs, and prints what the page says. Slow: it trains the demo's model."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "graph.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def run(command, cwd):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_every_linked_file_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target


@pytest.mark.slow
def test_the_page_by_hand(tmp_path):
    recipe = ROOT / "configuration" / "recipes" / "sketchbook.yaml"
    run(
        [sys.executable, str(ROOT / "examples/train.py"), "--config", str(recipe), "--output_dir", "runs/demo"],
        tmp_path,
    )
    launcher = {"python": [sys.executable], "accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"]}
    printed = []
    for kind, body in BLOCKS:
        if kind == "bash":
            for words in map(shlex.split, body.splitlines()):
                words = [str(ROOT / word) if word.startswith("examples/") else word for word in words]
                printed.append(run(launcher[words[0]] + words[1:], tmp_path))
    assert "3,000 posts about 150 people" in printed[0] and "3,000 posts, 3,000 of them with a picture" in printed[1]
    # The table of the page is the one of the report, up to what another kind of processor makes of the training.
    tables = [
        re.findall(r"^\| (?:graph network|type pairs|degrees) .*$", text, re.MULTILINE) for text in (PAGE, printed[-1])
    ]
    numbers = [[float(number) for row in rows for number in NUMBER.findall(row)] for rows in tables]
    assert len(numbers[0]) == 12 and numbers[0] == pytest.approx(numbers[1], abs=0.1)
    assert (tmp_path / "runs" / "graph_report" / "graph.png").is_file()
    for (kind, body), (following, expected) in zip(BLOCKS, BLOCKS[1:], strict=False):
        if kind == "python" and following == "text":
            found = run([sys.executable, "-c", body], tmp_path)
            assert NUMBER.sub("0", found) == NUMBER.sub("0", expected)
