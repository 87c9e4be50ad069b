"""Every command of the README runs, and prints what the README says. Slow: it trains the demo."""

import re
import shlex
import sys

import pytest

from tests.documents import ROOT, SHORT, assert_prints, check_installing, linked_files, read_blocks, run, run_line

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = read_blocks(ROOT / "README.md")
CACHED = "sketchbook_cached"  # the recipe of the commands that belong together
EVALUATION = "examples/evaluate.py"
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        line
        for line in shell_lines()
        if line.startswith(("python", "accelerate")) and "examples/train.py" in line and CACHED not in line
    ],
)
def test_training_commands_run(line, tmp_path):
    help_only = "--help" in line
    run_line(line if help_only else f"{line} --output_dir {shlex.quote(str(tmp_path))}", ROOT)
    assert help_only or (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_feature_cache_is_made_and_trained_from(tmp_path):
    prepare, training = (shlex.split(line)[1:] for line in shell_lines() if CACHED in line)
    shared = ["--image_feature_cache", str(tmp_path / "features"), "--output_dir", str(tmp_path / "run"), *SHORT]
    assert "distinct" in run([sys.executable, *prepare, *shared], ROOT)
    run([sys.executable, *training, *shared], ROOT)
    assert (tmp_path / "features" / "header.json").is_file()
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_commands_on_graphs_are_those_of_their_page():
    """Where test_docs.py runs them, one after the other."""
    page = [
        line for block in read_blocks(ROOT / "docs" / "graph.md") if block.kind == "bash" for line in block.lines()
    ]
    own = [line for line in shell_lines() if "extract.py" in line or "graph_report.py" in line]
    assert len(own) == 2 and set(own) <= set(page)


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
    assert (folder / "runs/demo/predictions.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in shell_lines() if EVALUATION in line])
def test_evaluation_commands_run(demo, line, tmp_path):
    words = shlex.split(line)
    command = [sys.executable, str(ROOT / EVALUATION), *words[2:], "--max_posts", "60", "--output_dir", str(tmp_path)]
    assert "| MG-VMoE " in run(command, demo[0])
    (report,) = tmp_path.glob("*.md")
    assert "## Relation" in report.read_text(encoding="utf-8")


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
