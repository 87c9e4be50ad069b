"""Every command of the README runs, and prints what the README says. Slow: it trains the demo."""

import re
import shlex
import sys

import pytest

from modeling_mgvmoe.training.arguments import parse_arguments
from tests.support.documents import ROOT, SHORT, assert_prints, check_installing, linked_files, read_blocks, run

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = read_blocks(ROOT / "README.md")
EXPLANATION = "examples/explain.py"


def shell_lines():
    return [line for block in BLOCKS if block.kind == "bash" for line in block.lines()]


PYTHON_BLOCKS = [block for block in BLOCKS if block.kind == "python" and block.runs]


def test_the_first_screen_has_one_sentence_a_picture_two_commands_and_python_with_its_output():
    title, sentence, picture = (line for line in README.splitlines()[:6] if line)
    assert title.startswith("# ") and sentence.endswith(".") and picture.startswith("![")
    assert (ROOT / re.search(r"\((.*?)\)", picture)[1]).is_file()
    assert [block.kind for block in BLOCKS[:3]] == ["bash", "python", "text"]
    assert len([line for line in BLOCKS[1].body.splitlines() if line.strip()]) <= 10


def test_every_linked_file_is_there():
    assert [path for path in linked_files(ROOT / "README.md") if not path.exists()] == []


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith(("make", "pip"))])
def test_make_targets_exist_and_pip_extras_are_declared(line):
    check_installing(line)


def lines_of_page(name):
    """The commands of a page of docs/, where test_docs.py runs them, one after the other."""
    return [line for block in read_blocks(ROOT / "docs" / name) if block.kind == "bash" for line in block.lines()]


@pytest.mark.parametrize(
    ("page", "scripts", "count", "shorter"),
    [
        ("graph.md", ("extract.py", "graph_report.py"), 2, ""),
        ("training.md", ("train.py", "prepare_data.py"), 4, ""),
        ("evaluation.md", ("evaluate.py",), 3, " --max_posts 60"),
    ],
)
def test_commands_are_those_of_their_page(page, scripts, count, shorter):
    own = [line for line in shell_lines() if any(f"/{script}" in line for script in scripts) and "--help" not in line]
    assert len(own) == count and {line + shorter for line in own} <= set(lines_of_page(page))


def test_the_help_of_a_training_is_shown(capsys):
    (line,) = (line for line in shell_lines() if "--help" in line)
    assert line.startswith("python examples/train.py ")
    with pytest.raises(SystemExit) as end:
        parse_arguments(shlex.split(line)[2:])
    assert end.value.code in (0, None) and "--learning_rate" in capsys.readouterr().out


@pytest.mark.slow
def test_the_benchmark_command_runs_and_goes_on_where_it_stopped(tmp_path):
    (line,) = re.findall(r"`(python benchmarks/sketchbook.py[^`]*)`", README)
    words = shlex.split(line)
    rows = tmp_path / "rows.json"
    words[words.index("--json") + 1] = str(rows)
    command = [sys.executable, *words[1:], "--seeds", "0", *SHORT]
    first = run(command, ROOT)
    assert "text + picture" in first
    assert first.splitlines()[-4:] == run(command, ROOT).splitlines()[-4:]


@pytest.mark.slow
def test_the_demo_reaches_its_numbers_and_leaves_what_it_promises(demo):
    folder, printed = demo
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in printed.splitlines() if line.startswith("|")}
    both, text, picture = (rows[name] for name in ("text + picture", "text only", "picture only"))
    assert float(both[0]) >= 0.90 and float(both[2]) >= 0.85
    assert all(float(row[column]) <= 0.45 for row in (text, picture) for column in (0, 2))
    assert "bitwise equal" in printed
    # Six posts by the weights that ship: most types are right, and the graph is drawn.
    right, types, right_relations, relations = map(
        int, re.search(r"(\d+) of (\d+) types are right, and (\d+) of (\d+) relations", printed).groups()
    )
    assert types == 17 and right >= 12 and right_relations >= 0.7 * relations >= 4
    for name in ("posts.png", "graph.png"):
        assert (folder / "runs/demo/real_posts" / name).read_bytes().startswith(b"\x89PNG")
    assert (folder / "runs/demo/predictions.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in shell_lines() if EXPLANATION in line])
def test_explanation_commands_run(demo, line):
    printed = run([sys.executable, str(ROOT / EXPLANATION), *shlex.split(line)[2:]], demo[0])
    for path in re.search(r"picture: (.*)   numbers: (.*)\n", printed).groups():
        assert (demo[0] / path).stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=lambda block: block.place)
def test_python_blocks_print_what_the_readme_says(demo, block, tmp_path):
    # As on the machine of somebody who has the model's folder but not this package.
    hidden = "import sys\nsys.modules['modeling_mgvmoe'] = None\n"
    (tmp_path / "block.py").write_text(hidden + block.body, encoding="utf-8")
    printed = run([sys.executable, str(tmp_path / "block.py")], demo[0], HF_MODULES_CACHE=str(tmp_path / "modules"))
    if block.printed is not None:
        assert_prints(printed, block.printed)
