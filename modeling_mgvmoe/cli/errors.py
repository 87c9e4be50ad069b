"""Exit codes, and the error of a wrong command line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

GOOD, FAILED, MISUSED = 0, 1, 2
# Ctrl-C: 128 + SIGINT, as a shell has it.
STOPPED = 130
# All is done, but some posts have an error instead of an answer.
PARTIAL = 3


class UsageError(ValueError):
    """The command line, or a file that it names, is wrong."""


class Ended(SystemExit):
    """The end of a command with another exit code than 0 that has a result all the same."""

    def __init__(self, code: int, result: Any) -> None:
        super().__init__(code)
        self.result = result


@contextlib.contextmanager
def usage() -> Iterator[None]:
    """Turn ValueError and OSError of checks that run before any work into `UsageError`."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


# Set to anything, where in the code is shown all the same.
TRACEBACK = "MGVMOE_TRACEBACK"


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Around or above a script's `main`: refusals and Ctrl-C go to standard error in one line.

    The exit code is 1, 2 for a [`UsageError`], or 130 for Ctrl-C. Refusals are ValueError, OSError and ImportError,
    which this package raises with the argument, the rule and the value, and what a configuration says of its fields.
    Anything else is a fault of ours and comes with its traceback.
    """
    try:
        from huggingface_hub.errors import StrictDataclassError

        yield
    except KeyboardInterrupt:
        print(f"{os.path.basename(sys.argv[0])}: stopped", file=sys.stderr)
        sys.exit(STOPPED)
    except (ImportError, OSError, ValueError, StrictDataclassError) as error:
        if os.environ.get(TRACEBACK) or isinstance(error, BrokenPipeError):
            raise
        print(f"{os.path.basename(sys.argv[0])}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(MISUSED if isinstance(error, UsageError) else FAILED)
