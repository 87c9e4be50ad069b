"""The README is short, its commands run, and its code prints what it says. Slow: it trains the demo."""

import re
import shlex
import sys

import pytest

from tests.support.documents import (
    ROOT,
    SHORT,
    assert_prints,
    check_installing,
    like_the_root,
    linked_files,
    read_blocks,
    run,
)
from tests.support.shipped import needs_encoder

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = read_blocks(ROOT / "README.md")
PYTHON_BLOCKS = [block for block in BLOCKS if block.kind == "python" and block.runs]
# On GitHub, beside the repository's files.
ISSUES = "../../issues"


def shell_lines():
    return [line for block in BLOCKS if block.kind == "bash" for line in block.lines()]


def test_the_first_screen_has_one_sentence_the_installation_and_python_with_its_output():
    title, sentence = [line for line in README.splitlines() if line][:2]
    assert title.startswith("# ") and sentence.endswith(".")
    assert [block.kind for block in BLOCKS[:3]] == ["bash", "python", "text"]
    assert BLOCKS[0].body.startswith("pip install ")
    assert len([line for line in BLOCKS[1].body.splitlines() if line.strip()]) <= 10
    behind = README.partition(BLOCKS[2].body)[2].removeprefix("```\n\n")
    assert behind.startswith("`trust_remote_code=True` runs")
    assert len(README.splitlines()) <= 185


def test_every_linked_file_is_there():
    missing = [path for path in linked_files(ROOT / "README.md") if not path.exists()]
    assert missing == [ROOT / ISSUES]


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith(("make", "pip"))])
def test_make_targets_exist_and_pip_extras_are_declared(line):
    check_installing(line)


def test_other_commands_are_those_of_a_page_that_runs_them():
    pages = [block for page in (ROOT / "docs").glob("*.md") for block in read_blocks(page) if block.kind == "bash"]
    known = {line for block in pages for line in block.lines()}
    assert {line for line in shell_lines() if not line.startswith(("make", "pip"))} <= known


@pytest.mark.slow
def test_the_benchmark_command_runs_and_goes_on_where_it_stopped(tmp_path):
    card = (ROOT / "model_card.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"`(python benchmarks/sketchbook.py[^`]*)`", card)
    words = shlex.split(line)
    rows = tmp_path / "rows.json"
    words[words.index("--json") + 1] = str(rows)
    command = [sys.executable, *words[1:], "--seeds", "0", *SHORT]
    first = run(command, ROOT)
    assert "text + image" in first
    # The table: its heads, the line below them and one variant.
    assert first.splitlines()[-3:] == run(command, ROOT).splitlines()[-3:]


@pytest.mark.slow
def test_the_demo_reaches_its_numbers_and_leaves_what_it_promises(demo):
    folder, printed = demo
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in printed.splitlines() if line.startswith("|")}
    both, text, drawing = (rows[name] for name in ("text + image", "text only", "image only"))
    assert float(both[0]) >= 0.90 and float(both[2]) >= 0.85
    assert all(float(row[column]) <= 0.45 for row in (text, drawing) for column in (0, 2))
    assert "bitwise equal" in printed
    assert (folder / "runs/demo/predictions.png").read_bytes().startswith(b"\x89PNG")
    # Six posts by the weights that ship: most types are right, and the graph is drawn.
    right, types, right_relations, relations = map(
        int, re.search(r"(\d+) of (\d+) types are right, and (\d+) of (\d+) relations", printed).groups()
    )
    assert types == 17 and right >= 12 and right_relations >= 0.7 * relations >= 4
    for name in ("posts.png", "graph.png"):
        assert (folder / "runs/demo/real_posts" / name).read_bytes().startswith(b"\x89PNG")


@needs_encoder
@pytest.mark.slow
@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=lambda block: block.place)
def test_python_blocks_print_what_the_readme_says(block, tmp_path):
    # As on the machine of somebody who has the model's folder but not this package.
    hidden = "import sys\nsys.modules['modeling_mgvmoe'] = None\n"
    (tmp_path / "block.py").write_text(hidden + block.body, encoding="utf-8")
    root = like_the_root(tmp_path / "root")
    printed = run([sys.executable, str(tmp_path / "block.py")], root, HF_MODULES_CACHE=str(tmp_path / "modules"))
    if block.printed is not None:
        assert_prints(printed, block.printed)
