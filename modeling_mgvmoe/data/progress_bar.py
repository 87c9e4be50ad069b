"""Progress for a person: a bar in a terminal or notebook, and a line now and then in a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

# Seconds between two lines of a log, and before its first.
LOG_INTERVAL = 30.0
LOG_FORMAT = "{desc}: {percentage:.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class LogLines:
    """A file for tqdm that ends with a line feed what tqdm begins with a carriage return.

    Args:
        file: where the lines go.
    """

    def __init__(self, file: TextIO):
        self.file = file

    def write(self, text: str) -> None:
        """Write a line; the movements of a cursor are left out."""
        text = text.replace("\x1b[A", "").strip()
        if text:
            self.file.write(f"{text}\n")

    def flush(self) -> None:
        """Flush the file."""
        self.file.flush()


def progress_bar(
    iterable: Iterable[Any] | None = None,
    desc: str | None = None,
    total: int | None = None,
    unit: str = "post",
    show: bool = True,
    initial: int = 0,
    leave: bool = True,
) -> Any:
    """tqdm's bar on standard error.

    Where standard error is neither a terminal nor a notebook, a line is written every `LOG_INTERVAL` seconds and at
    the end; a bar that is done before that writes nothing.

    Args:
        iterable: to wrap; default: `update` is called by hand.
        desc: title; `None` shows no bar.
        total, unit, initial, leave: as tqdm has them.
        show: false shows no bar.
    """
    from tqdm import auto, std

    lines: dict[str, Any] = {}
    if auto.notebook_tqdm is std.tqdm and not sys.stderr.isatty():
        lines = {"file": LogLines(sys.stderr), "mininterval": LOG_INTERVAL, "maxinterval": LOG_INTERVAL, "miniters": 1,
                 "delay": LOG_INTERVAL, "bar_format": LOG_FORMAT}  # fmt: skip
    return auto.tqdm(
        iterable,
        desc=desc,
        total=total,
        unit=unit,
        initial=initial,
        leave=leave,
        disable=desc is None or not show,
        dynamic_ncols=not lines,
        **lines,
    )


def writes_lines(bar: Any) -> bool:
    """Whether a bar of [`progress_bar`] writes lines of a log."""
    return isinstance(getattr(bar.fp, "_wrapped", bar.fp), LogLines)


def hide_bars_of_libraries() -> None:
    """For scripts: the bars of transformers and datasets, which know no log files; the package has its own."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        from datasets import disable_progress_bars
    except ImportError:
        return
    disable_progress_bars()
