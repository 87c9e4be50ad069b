"""Processes of a run: their group and device, freed memory, stop signals, and the command that resumes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState


def patient_state() -> PartialState:
    """Which process this is of how many, and their device; they may wait for each other for days.

    On the CPU where `ACCELERATE_USE_CPU` says so or there is nothing else. Left to itself, `PartialState` does not
    take processes on a CPU for a group, and each would believe that it is the only one.
    """
    from accelerate import PartialState

    return PartialState(cpu=launch_device().type == "cpu", timeout=timedelta(days=30))


def launch_device() -> torch.device:
    """The kind of device that Accelerate will choose; asking sets up nothing."""
    import torch
    from accelerate.utils import parse_flag_from_env

    found = None if parse_flag_from_env("ACCELERATE_USE_CPU") else torch.accelerator.current_accelerator()
    return torch.device("cpu") if found is None or not torch.accelerator.is_available() else found


def under_launcher() -> bool:
    """Whether `accelerate launch` or torchrun has started this process."""
    return any(name in os.environ for name in ("LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"))


# Names of glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed, for this process and from now on; only glibc can.

    By default it returns every large tensor to the system at once, and the next step gets it back page by page, each
    filled with zeros: at full size on a CPU that is a quarter to a half of a bf16 step with cached features
    (benchmarks/LOG.md). Peak memory is unchanged; memory no longer drops between steps.

    Returns:
        Whether it could.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))  # -1: never trimmed


PATIENCE = 5.0  # seconds


class TrainingInterrupted(KeyboardInterrupt):  # noqa: N818 - not an error, and `except Exception` must not swallow it
    """A signal has ended the run after a checkpoint was written.

    Attributes:
        signum: the signal.
        checkpoint: its folder, `None` where the run cannot have one.
    """

    def __init__(self, signum: int, step: int, checkpoint: str | None):
        where = f"go on from {checkpoint}" if checkpoint else "no checkpoint could be written"
        super().__init__(f"{signal.Signals(signum).name} after step {step}; {where}.")
        self.signum, self.step, self.checkpoint = signum, step, checkpoint


class StopSignals:
    """Remembers SIGTERM and Ctrl-C for the end of the step; one that comes some seconds later acts at once.

    Args:
        doing: what is done before the process ends, for the message.

    Attributes:
        received: the signal, or 0.
    """

    def __init__(self, doing: str = "finishing the step and writing a checkpoint") -> None:
        self.doing = doing
        self.received, self.when = 0, 0.0
        self.before: dict[int, Any] = {}
        self.sent: tuple[Any, torch.Tensor] | None = None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for signum in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(signum) is not signal.SIG_IGN:  # as under nohup
                    self.before[signum] = signal.signal(signum, self._handle)
        return self

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received:
            # Launchers pass on what their processes were sent already; that is not a second wish.
            if time.monotonic() - self.when > PATIENCE:
                self._restore()
                signal.raise_signal(signum)
            return
        self.received, self.when = signum, time.monotonic()
        name = signal.Signals(signum).name
        os.write(2, f"\n{name}: {self.doing}; again to stop at once\n".encode())

    def _restore(self) -> None:
        while self.before:
            signum, handler = self.before.popitem()
            signal.signal(signum, handler)

    def __exit__(self, *error: Any) -> None:
        self._restore()

    def send(self, accelerator: Accelerator) -> None:
        """Tell the other processes at the beginning of a step what [`agreed`] needs at its end: none waits for it.

        A signal that comes later counts in the next step; after the last one the run is over anyway.
        """
        if accelerator.num_processes > 1 and self.sent is None:
            flag = torch.tensor([self.received], device=accelerator.device)
            work = torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, async_op=True)
            self.sent = work, flag

    def agreed(self, accelerator: Accelerator) -> int:
        """The signal that any process had received when it sent: all must stop after the same step."""
        if accelerator.num_processes == 1:
            return self.received
        assert self.sent is not None, "send() comes first"
        work, flag = self.sent
        work.wait()
        self.sent = None
        return int(flag)


def typed_command(flags: Sequence[str] | None = None) -> list[str]:
    """The words of the command that started this process, launcher included.

    Args:
        flags: that the script was given, if not those of the command line.
    """
    # The command line calls its programs "mgvmoe train" and the like.
    own = sys.argv[0].split() if sys.argv[0].startswith("mgvmoe ") else [sys.executable, sys.argv[0]]
    words = sys.orig_argv if flags is None else [*own, *flags]
    if flags is None and under_launcher():
        # Under torchrun and accelerate the parent's command is the one that was typed.
        with contextlib.suppress(OSError), open(f"/proc/{os.getppid()}/cmdline", encoding="utf-8") as file:
            parent = file.read().rstrip("\0").split("\0")
            if parent[-len(sys.argv) :] == sys.argv:
                words = parent
    return list(words)


def resume_command(flags: Sequence[str] | None = None) -> str:
    """The command that resumes the run of this process, ready for a shell.

    Args:
        flags: that the script was given, if not those of the command line.
    """
    words = typed_command(flags)
    kept = []
    position = 0
    while position < len(words):
        if words[position] == "--resume_from_checkpoint":
            position += 2
            continue
        if not words[position].startswith("--resume_from_checkpoint="):
            kept.append(words[position])
        position += 1
    return shlex.join([*kept, "--resume_from_checkpoint", "latest"])


@contextlib.contextmanager
def exit_when_interrupted(flags: Sequence[str] | None = None) -> Iterator[None]:
    """For scripts: print how to resume and exit with 128 + signal if the training inside is interrupted."""
    try:
        yield
    except TrainingInterrupted as stop:
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"{stop}\nTo go on:\n{resume_command(flags)}", flush=True)
        sys.exit(128 + stop.signum)
