"""Answers of a long run: written one by one beside their place, so that a stopped run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import UsageError

ENDINGS = (".json", ".jsonl")
BLOCK = 1 << 20


def check_output(path: str, overwrite: bool) -> None:
    """Refuse a path that cannot be written to, before anything is scored."""
    if os.path.splitext(path)[1].lower() not in ENDINGS:
        raise UsageError(f"--output: a file that ends in {', '.join(ENDINGS)} is needed, got {path!r}")
    if os.path.isdir(path):
        raise UsageError(f"--output: {path!r} is a folder")
    if os.path.exists(path) and not overwrite:
        raise UsageError(f"--output: {path!r} exists; --overwrite replaces it")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise UsageError(f"--output: the folder {folder!r} does not exist")


def fingerprint(settings: Mapping[str, Any], *files: str) -> str:
    """Digest of everything that an answer depends on.

    Args:
        settings: of the run, as JSON can hold them.
        files: whose content counts.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode("utf-8"))
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


class AnswerFile:
    """JSON lines in `PATH.part`, the run's fingerprint first; [`finish`] makes the whole file of them.

    Args:
        path: of the whole file, `.jsonl` or `.json` (a list).
        run: fingerprint. A part of another run is refused.
        overwrite: begin anew, whatever is there.
    """

    def __init__(self, path: str, run: str, overwrite: bool = False):
        self.path, self.part = path, f"{path}.part"
        # Answers that are there, and how many of them are errors.
        self.done = self.errors = 0
        if overwrite or not os.path.exists(self.part):
            self._begin(run)
        else:
            self._go_on(run)
        # Whole lines at a time: what stands in the part is an answer, or the last line, which is cut off.
        self.file = open(self.part, "a", encoding="utf-8", buffering=1)  # noqa: SIM115

    def _begin(self, run: str) -> None:
        with open(self.part, "w", encoding="utf-8") as file:
            file.write(json.dumps({"run": run}) + "\n")

    def _go_on(self, run: str) -> None:
        with open(self.part, "rb") as file:
            lines = file.read().split(b"\n")
        # The last of them is empty, or a line that was being written.
        self.done = max(len(lines) - 2, 0)
        try:
            same = json.loads(lines[0]) == {"run": run}
        except ValueError:
            same = False
        if not self.done:
            self._begin(run)
            return
        if not same:
            raise UsageError(
                f"--output: {self.part!r} is of a run with other posts, another model or other flags; remove it, or "
                "--overwrite does"
            )
        self.errors = sum("error" in json.loads(line) for line in lines[1:-1])
        os.truncate(self.part, sum(len(line) + 1 for line in lines[:-1]))

    def add(self, answer: Mapping[str, Any]) -> None:
        """The next one."""
        self.file.write(json.dumps(answer, ensure_ascii=False) + "\n")
        self.errors += "error" in answer

    def close(self) -> None:
        """Leave the part for a later run."""
        self.file.close()

    def finish(self) -> None:
        """All answers are there."""
        self.close()
        new = f"{self.path}.new"
        as_list = os.path.splitext(self.path)[1].lower() == ".json"
        with open(self.part, encoding="utf-8") as lines, open(new, "w", encoding="utf-8") as file:
            next(lines)
            if as_list:
                file.write("[\n" + ",\n".join(line.rstrip("\n") for line in lines) + "\n]\n")
            else:
                file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.path)
        os.remove(self.part)


def as_text(answers: Sequence[Mapping[str, Any]], indent: str = "") -> str:
    """Ranked labels for a person, the score first."""
    if not answers:
        return f"{indent}(no label reaches the threshold)"
    return "\n".join(f"{indent}{answer['score']:.2f}  {answer['label']}" for answer in answers)
