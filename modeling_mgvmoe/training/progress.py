"""The live line of a training in the terminal, or its lines in a log file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..data.progress_bar import progress_bar, writes_lines
from .statistics import TERM_NAMES, TermNames

# Seconds between two readings of the loss, for which the device must be waited for.
READING = 0.5


def short_number(value: float, digits: int = 3) -> str:
    """So many digits, as narrow as can be read: 1234, 12.3, 1.23, 4e-4; what is below 1e-5 is 0."""
    if abs(value) < 1e-5:
        return "0"
    if abs(value) < 0.5 * 10 ** (1 - digits):
        return f"{value:.0e}".replace("e-0", "e-")
    places = max(0, digits - len(str(int(abs(value)))))
    return f"{value:.{places}f}"


def layouts(means: Mapping[str, float], throughput: float, f1: float | None) -> list[str]:
    """Formats for tqdm, the richest first: the first that fits the terminal is shown.

    Args:
        means: of `loss` and its terms by name.
        throughput: posts a second.
        f1: best validation macro-F1 so far.
    """
    terms = [
        (TERM_NAMES.get(name, TermNames(*[name.removesuffix("_loss")] * 3)), value)
        for name, value in means.items()
        if name != "loss"
    ]
    long = ", ".join(f"{names.bar} {short_number(value)}" for names, value in terms)
    short = " ".join(f"{names.short} {short_number(value)}" for names, value in terms)
    shortest = " ".join(f"{names.short} {short_number(value, 2)}" for names, value in terms)
    speed = f"{throughput:.0f}" if throughput >= 10 else f"{throughput:.2g}"
    loss = f"loss {short_number(means['loss'])}" if means else "loss ?"
    best = "" if f1 is None else f", best F1 {f1:.3f}"
    bar, steps = "{desc}: {percentage:3.0f}%|{bar}|", "{n_fmt}/{total_fmt}"
    return [
        f"{bar} {steps} [{{elapsed}}<{{remaining}}, {speed} posts/s, {loss}: {long}{best}]",
        f"{bar} {steps} <{{remaining}} {speed} posts/s, {loss}: {short}",
        f"{{percentage:3.0f}}% {steps} <{{remaining}} {speed} posts/s, {loss}: {short}",
        f"{{percentage:.0f}}% <{{remaining}} {speed} posts/s, {loss}: {short}",
        f"{{percentage:.0f}}% <{{remaining}} {speed} posts/s, {loss}: {shortest}",
        f"{{percentage:.0f}}% <{{remaining}} {speed}/s, {loss}: {shortest}",
        f"{{percentage:.0f}}% <{{remaining}} {speed}/s, {loss}",
        "{percentage:.0f}%",
    ]


class ProgressLine:
    """A bar with loss terms, throughput and time left, in as many columns as there are.

    Args:
        total: steps of the run.
        initial: steps that were done before.
        show: false hides it.
    """

    def __init__(self, total: int, initial: int, show: bool):
        self.bar: Any = progress_bar(desc="training", total=total, unit="step", show=show, initial=initial)
        self.read = 0.0

    def due(self) -> bool:
        """Whether the loss should be read for [`update`]: not at every step of a fast run."""
        if self.bar.disable:
            return False
        if self.bar.n + 1 == self.bar.total:
            return True
        if writes_lines(self.bar):
            # The next step writes a line.
            return time.time() - self.bar.last_print_t >= self.bar.mininterval
        return time.monotonic() - self.read >= READING

    def advance(self) -> None:
        """One more step is done."""
        self.bar.update()

    def update(self, means: Mapping[str, float], throughput: float, f1: float | None) -> None:
        """Show these values from now on."""
        if self.bar.disable:
            return
        self.read = time.monotonic()
        values = self.bar.format_dict
        formats, columns = layouts(means, throughput, f1), values.pop("ncols")
        if writes_lines(self.bar):
            self.bar.bar_format = formats[0].replace("|{bar}|", "")
            return
        fitting = (
            text
            for text in formats
            # A line of the whole width would wrap in some terminals. Without a width there is no terminal.
            if columns is None or len(self.bar.format_meter(**{**values, "bar_format": text})) < columns
        )
        self.bar.bar_format = next(fitting, formats[-1])

    def close(self) -> None:
        """Leave the line as it is."""
        self.bar.close()
