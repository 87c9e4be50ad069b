"""What a process of a launch knows and sets before it works: its number among several, and how memory is kept."""

from __future__ import annotations

import ctypes
import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState


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
    (benchmarks/LOG.md). The peak of resident memory stays; what falls away is the falling back from it.

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


__all__ = [
    "keep_freed_memory",
]
