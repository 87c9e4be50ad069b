"""Reading and running the code blocks of Markdown documents, shared by the tests of the README and of `docs/`.

    bash           every line is run, from the repository root, after `make demo`
    python         is run; a page's blocks share their names, like one program
    text           right behind one of these: what it must print
    sh             needs what does not come with the project: scripts and flags are looked up, nothing runs
    python notest  likewise: it must compile

The word `fast` behind the kind puts a block into the default tests: it takes a second and needs no model and no block
before it that is not fast.
"""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+\.\d+(?:e-?\d+)?")
# A few steps on a few posts show that a command of training runs.
SHORT = ["--max_train_steps", "2", "--eval_steps", "2", "--posts_per_class", "2", "--eval_posts_per_class", "1"]
SHORTENED = ("examples/train.py", "--cache-image-features")
# Runs blocks that come line by line as JSON, each in its folder and those of a page in one namespace, and answers with
# what each has printed and with its error.
INTERPRETER = """
import contextlib, io, json, os, sys, traceback
pages = {}
for line in sys.stdin:
    body, place, folder = json.loads(line)
    names = pages.setdefault((place.partition(":")[0], folder), {"__name__": "__main__"})
    os.chdir(folder)
    printed, error = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(body, place, "exec"), names)
        except BaseException:
            error = traceback.format_exc()
    print(json.dumps([printed.getvalue(), error]), flush=True)
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: its kind ("bash", "python", ...), the words behind it, where it is, and what it must print."""

    kind: str
    words: tuple[str, ...]
    body: str
    place: str
    printed: str | None = None

    @property
    def runs(self) -> bool:
        return self.kind in ("bash", "python") and "notest" not in self.words

    @property
    def fast(self) -> bool:
        return self.runs and "fast" in self.words

    def lines(self) -> list[str]:
        """The commands of a block for the shell: without comments, and one that goes on in the next line in one."""
        joined = re.sub(r" *\\\n *", " ", self.body)
        lines = [re.split(r"(?:^| +)#(?: |$)", line)[0].strip() for line in joined.splitlines()]
        return [line for line in lines if line]


def read_blocks(path: Path) -> list[Block]:
    """All blocks of a document in their order."""
    text = path.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    blocks = []
    for match, following in zip(found, (found + [None])[1:], strict=True):
        behind = following is not None and not text[match.end() : following.start()].strip()
        printed = following[3] if following is not None and behind and following[1] == "text" else None
        place = f"{path.name}:{text.count(chr(10), 0, match.start()) + 1}"
        blocks.append(Block(match[1], tuple(match[2].split()), match[3], place, printed))
    return blocks


def linked_files(path: Path) -> list[Path]:
    """The files that a document links to."""
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    return [path.parent / target for target in targets if not re.match(r"\w+:", target)]


def broken_anchors(path: Path) -> list[str]:
    """Links to a heading, of the document itself or of another, that is not there."""
    links = re.findall(r"\]\(([^)#\s]*)#([^)]*)\)", path.read_text(encoding="utf-8"))
    targets = [(path.parent / file if file else path, anchor) for file, anchor in links if not re.match(r"\w+:", file)]
    return [f"{file.name}#{anchor}" for file, anchor in targets if anchor not in _anchors(file)]


def _anchors(path: Path) -> set[str]:
    """What GitHub makes of the headings of a document."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def run(command: list[str], cwd: Path, **environment: str) -> str:
    """Run a command with this Python and the checkout, and return what it prints to standard output."""
    done = subprocess.run(
        command, cwd=cwd, env=_environment(environment), capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def _environment(more: dict[str, str]) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "HF_HUB_OFFLINE": "1", **more}


def run_line(line: str, cwd: Path, **environment: str) -> str:
    """Run a line of a `bash` block as a reader does, but on a few posts; what installs is only looked up."""
    if line.startswith(("make ", "pip ")):
        check_installing(line)
        return ""
    short = f" {shlex.join(SHORT)}" if any(name in line for name in SHORTENED) and "--help" not in line else ""
    return run(["bash", "-c", line + short], cwd, **environment)


class Interpreter:
    """A process that runs blocks of Python; importing what they import takes seconds, which pages can share."""

    def __init__(self, **environment: str):
        self.environment = environment
        self.process = subprocess.Popen(
            [sys.executable, "-c", INTERPRETER],
            cwd=ROOT,
            env=_environment(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Interpreter":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate()

    def run(self, block: Block, folder: Path) -> str:
        """Run a block in a folder, behind those of its page that ran there, and return what it prints."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([block.body, block.place, str(folder)]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"{block.place}: the process has ended"
        printed, error = json.loads(answer)
        assert error is None, f"{block.place}\n{error[-4000:]}"
        return printed


class ThisProcess:
    """Runs blocks of one page in the process of the tests, which has imported what they import."""

    def __init__(self) -> None:
        self.names: dict[str, object] = {"__name__": "__main__"}

    def run(self, block: Block, folder: Path) -> str:
        """As `Interpreter.run`."""
        printed = io.StringIO()
        with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
            exec(compile(block.body, block.place, "exec"), self.names)
        return printed.getvalue()


def run_blocks(blocks: list[Block], cwd: Path, interpreter: Interpreter | ThisProcess) -> None:
    """Run blocks in their order, and compare what they print with what they should."""
    for block in blocks:
        if block.kind == "bash":
            environment = getattr(interpreter, "environment", {})
            printed = "".join(run_line(line, cwd, **environment) for line in block.lines())
        else:
            printed = interpreter.run(block, cwd)
        if block.printed is not None:
            assert_prints(printed, block.printed, block.place)


def assert_prints(printed: str, expected: str, place: str = "") -> None:
    """The same words, and numbers that differ by at most 0.1.

    Another kind of processor rounds otherwise in training, and ends a little elsewhere.
    """
    assert NUMBER.sub("0", printed) == NUMBER.sub("0", expected), place
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (printed, expected)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.1), place


def check_installing(line: str) -> None:
    """The target of a `make` is there, and the extra of a `pip install`."""
    words = shlex.split(line)
    if words[0] == "make":
        subprocess.run(["make", "-n", words[1]], cwd=ROOT, check=True, capture_output=True)
    else:
        extra = re.search(r"\[(\w+)\]", line)
        setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
        assert extra is None or re.search(rf"^{extra[1]} =$", setup, flags=re.MULTILINE), line


def script_and_flags(line: str) -> tuple[str, list[str]] | None:
    """Of a command that runs a script of the repository, or a module of the package, which one and with what."""
    words = shlex.split(line)
    for number, word in enumerate(words):
        if re.fullmatch(r"(examples|benchmarks|docs)/\w+\.py", word):
            assert (ROOT / word).is_file(), line
            return word, words[number + 1 :]
        if word == "-m" and words[number + 1].startswith("modeling_mgvmoe"):
            return words[number + 1], words[number + 2 :]
    return None


def demo_command() -> list[str]:
    """What `make demo` runs, to be run in another folder."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^\t\$\(BIN\)/python (examples/demo.py .*)$", makefile, re.MULTILINE)
    script, *flags = shlex.split(recipe)
    return [sys.executable, str(ROOT / script), *flags]


def like_the_root(folder: Path, demo: Path | None = None) -> Path:
    """Make a folder like the repository's root after `make demo`, in which what is written stays.

    Args:
        folder: that does not exist yet.
        demo: in which `make demo` has run, if what it makes is to be there.
    """
    (folder / "runs").mkdir(parents=True)
    for path in ROOT.iterdir():
        if path.name != "runs" and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    if demo is not None:
        shutil.copytree(demo / "runs" / "demo", folder / "runs" / "demo")
    return folder


def read_table(lines):
    """Rows of a Markdown table as dicts by heading."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(re.fullmatch(r"-+:?", cell) for cell in rows[1]) and {len(row) for row in rows} == {len(rows[0])}
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]
