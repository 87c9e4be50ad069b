"""The processes of one launch, for work that needs no `Accelerator`."""

from __future__ import annotations

import os
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
