"""Fetch the common tests that the installed transformers was released with.

They are in its source distribution, not in its wheel. `make test-hf` runs this file; the tests run it themselves
where nobody did. Nothing of what is fetched is committed.
"""

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

CACHE_VARIABLE = "MGVMOE_HF_TESTS_CACHE"
DEFAULT_CACHE = Path(__file__).parents[2] / ".cache" / "transformers-tests"
TIMEOUT_SECONDS = 300


class UpstreamUnavailableError(RuntimeError):
    """The source distribution cannot be had; the message says why."""


def fetch() -> Path:
    """Return the folder with the common tests of the installed transformers, downloading it if it is not there yet."""
    version = importlib.metadata.version("transformers")
    folder = Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE).expanduser() / version
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{version}-") as scratch:
        tests = _unpack(_download(version, Path(scratch)), Path(scratch))
        # The common tests import this folder as if it were the source tree of transformers.
        (tests / "__init__.py").touch()
        try:
            tests.rename(folder)  # whole or not at all
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    return folder


def _download(version: str, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", "transformers", "--dest", str(scratch), f"transformers=={version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise UpstreamUnavailableError(f"pip download transformers=={version} took over {TIMEOUT_SECONDS} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        raise UpstreamUnavailableError(f"pip download transformers=={version} failed: {lines[-1]}")
    archives = list(scratch.glob("*.tar.gz"))
    if len(archives) != 1:
        raise UpstreamUnavailableError(f"pip download transformers=={version} brought {len(archives)} archives, not 1")
    return archives[0]


def _unpack(archive: Path, scratch: Path) -> Path:
    with tarfile.open(archive) as packed:
        members = [member for member in packed if Path(member.name).parts[1:2] == ("tests",)]
        packed.extractall(scratch / "unpacked", members=members, filter="data")
    folders = list((scratch / "unpacked").glob("*/tests"))
    if len(folders) != 1 or not (folders[0] / "test_modeling_common.py").is_file():
        raise UpstreamUnavailableError(f"{archive.name} has no tests/test_modeling_common.py")
    return folders[0]


if __name__ == "__main__":
    try:
        print(f"transformers' common tests are in {fetch()}")
    except UpstreamUnavailableError as error:
        sys.exit(f"transformers' common tests cannot be had, the tests of marker hf will skip: {error}")
