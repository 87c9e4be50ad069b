"""The state of every source of random numbers, as tensors: torch, numpy, Python and CUDA of each process."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from accelerate import Accelerator


def random_state(accelerator: Accelerator) -> dict[str, torch.Tensor]:
    """Of every process, one row each."""
    version, numbers, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([version, *numbers]),
        "python_gauss": torch.tensor([0.0 if gauss is None else 1.0, gauss or 0.0], dtype=torch.float64),
        "numpy": torch.tensor([*np.asarray(keys).tolist(), position, has_gauss]),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
    }
    if accelerator.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(accelerator.device)
    if accelerator.num_processes == 1:
        return {name: value[None] for name, value in state.items()}
    return {name: accelerator.gather(value[None].to(accelerator.device)).cpu() for name, value in state.items()}


def set_random_state(rows: Mapping[str, torch.Tensor], accelerator: Accelerator) -> None:
    """Take up what [`random_state`] gave; each process takes its own row."""
    # Copies: torch reads a state from the start of its memory, also that of a row further on.
    state = {name: value[accelerator.process_index].clone() for name, value in rows.items()}
    torch.set_rng_state(state["torch"])
    version, *numbers = state["python"].tolist()
    has_gauss, gauss = state["python_gauss"].tolist()
    random.setstate((version, tuple(numbers), gauss if has_gauss else None))
    *keys, position, cached = state["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, cached, state["numpy_gauss"].item()))
    if "cuda" in state and accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], accelerator.device)
