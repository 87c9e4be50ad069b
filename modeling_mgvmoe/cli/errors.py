"""Exit codes, and the error of a wrong command line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

GOOD, FAILED, MISUSED = 0, 1, 2
# Ctrl-C: 128 + SIGINT, as a shell has it.
STOPPED = 130
# All is done, but some posts have an error in place of an answer.
PARTIAL = 3


class UsageError(ValueError):
    """The command line, or a file that it names, is wrong."""


@contextlib.contextmanager
def usage() -> Iterator[None]:
    """What is checked in here before any work is the user's to mend: ValueError and OSError become `UsageError`."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
