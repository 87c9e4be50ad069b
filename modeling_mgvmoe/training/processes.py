"""The processes of one launch, for work that needs no `Accelerator`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import PartialState


def patient_state() -> PartialState:
    """Which process this is of how many, and their device; they may wait for each other for days.

    On the CPU where `ACCELERATE_USE_CPU` says so or there is nothing else. Left to itself, `PartialState` does not
    take processes on a CPU for a group, and each would believe that it is the only one.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    cpu = bool(parse_flag_from_env("ACCELERATE_USE_CPU")) or not torch.accelerator.is_available()
    return PartialState(cpu=cpu, timeout=timedelta(days=30))
