"""Every command of the README runs, and prints what the README says. Slow: it trains the demo."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(README)
# Documents whose Python blocks go on from each other.
DOCUMENTS = ["docs/extraction.md"]
NUMBER = re.compile(r"\d+\.\d+(?:e-?\d+)?")
CACHED = "sketchbook_cached"  # the recipe of the commands that belong together
EVALUATION = "examples/evaluate.py"
# A few steps on a few posts show that a command runs.
SHORT = ["--max_train_steps", "2", "--eval_steps", "2", "--posts_per_class", "2", "--eval_posts_per_class", "1"]


def run(command, cwd, **environment):
    """Run a command with this Python and the checkout, and return what it prints to standard output."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def shell_lines():
    lines = [line for kind, _, body in BLOCKS if kind == "bash" for line in body.splitlines()]
    return [line.partition("  #")[0].strip() for line in lines]


def python_blocks(found=BLOCKS):
    """Each Python block with the printed output that follows it, if any."""
    blocks = []
    for (kind, note, body), following in zip(found, [*found[1:], ("", "", "")], strict=True):
        if kind == "python" and "notest" not in note:
            blocks.append((body, following[2] if following[0] == "text" else None))
    return blocks


def test_the_first_screen_has_one_sentence_a_picture_two_commands_and_python_with_its_output():
    title, sentence, picture = (line for line in README.splitlines()[:6] if line)
    assert title.startswith("# ") and sentence.endswith(".") and picture.startswith("![")
    assert (ROOT / re.search(r"\((.*?)\)", picture)[1]).is_file()
    assert [kind for kind, _, _ in BLOCKS[:3]] == ["bash", "python", "text"]
    assert len([line for line in BLOCKS[1][2].splitlines() if line.strip()]) <= 10


def test_every_linked_file_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith(("make", "pip"))])
def test_make_targets_exist_and_pip_extras_are_declared(line):
    words = shlex.split(line)
    if words[0] == "make":
        subprocess.run(["make", "-n", words[1]], cwd=ROOT, check=True, capture_output=True)
    else:
        extra = re.search(r"\[(\w+)\]", line)
        assert extra is None or re.search(
            rf"^{extra[1]} =$", (ROOT / "setup.cfg").read_text("utf-8"), flags=re.MULTILINE
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        line
        for line in shell_lines()
        if line.startswith(("python", "accelerate")) and CACHED not in line and EVALUATION not in line
    ],
)
def test_training_commands_run(line, tmp_path):
    words = shlex.split(line)
    launcher = {"python": [sys.executable], "accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"]}
    command = launcher[words[0]] + words[1:]
    if "--help" not in command:
        command += ["--output_dir", str(tmp_path), *SHORT]
    run(command, ROOT)
    assert "--help" in command or (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_feature_cache_is_made_and_trained_from(tmp_path):
    prepare, training = (shlex.split(line)[1:] for line in shell_lines() if CACHED in line)
    shared = ["--image_feature_cache", str(tmp_path / "features"), "--output_dir", str(tmp_path / "run"), *SHORT]
    assert "distinct" in run([sys.executable, *prepare, *shared], ROOT)
    run([sys.executable, *training, *shared], ROOT)
    assert (tmp_path / "features" / "header.json").is_file()
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


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


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder in which `make demo` has run, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^\t\$\(BIN\)/python (examples/demo.py .*)$", makefile, re.MULTILINE)
    script, *flags = shlex.split(recipe)
    return folder, run([sys.executable, str(ROOT / script), *flags], folder)


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
@pytest.mark.parametrize("number", range(len(python_blocks())))
def test_python_blocks_print_what_the_readme_says(demo, number, tmp_path):
    code, expected = python_blocks()[number]
    # As on the machine of somebody who has the model's folder but not this package.
    (tmp_path / "block.py").write_text("import sys\nsys.modules['modeling_mgvmoe'] = None\n" + code, encoding="utf-8")
    printed = run([sys.executable, str(tmp_path / "block.py")], demo[0], HF_MODULES_CACHE=str(tmp_path / "modules"))
    if expected is not None:
        assert NUMBER.sub("0", printed) == NUMBER.sub("0", expected)
        # Another kind of processor rounds otherwise in training, and ends a little elsewhere.
        numbers = [[float(number) for number in NUMBER.findall(text)] for text in (printed, expected)]
        assert numbers[0] == pytest.approx(numbers[1], abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCUMENTS)
def test_blocks_of_a_document_print_what_it_says(demo, name, tmp_path):
    blocks = python_blocks(BLOCK.findall((ROOT / name).read_text(encoding="utf-8")))
    assert len(blocks) > 3
    code = "".join(f"{body}\nprint('=== end of block')\n" for body, _ in blocks)
    (tmp_path / "blocks.py").write_text("import sys\nsys.modules['modeling_mgvmoe'] = None\n" + code, encoding="utf-8")
    printed = run([sys.executable, str(tmp_path / "blocks.py")], demo[0], HF_MODULES_CACHE=str(tmp_path / "modules"))
    for (_, expected), found in zip(blocks, printed.split("=== end of block\n"), strict=False):
        assert NUMBER.sub("0", found) == NUMBER.sub("0", expected or "")
        numbers = [[float(number) for number in NUMBER.findall(text)] for text in (found, expected or "")]
        assert numbers[0] == pytest.approx(numbers[1], abs=0.1)
