"""The command that prepares data, in this process."""

import runpy

from tests.support.documents import ROOT


def prepare(*flags):
    """The command, in this process."""
    return runpy.run_path(str(ROOT / "examples" / "prepare_data.py"))["main"]([str(flag) for flag in flags])
