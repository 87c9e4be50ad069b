"""With what something was computed: versions and machine, for reports and cards."""

from __future__ import annotations

import os
import platform
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


PACKAGES = ("torch", "transformers", "datasets", "numpy")


def versions() -> str:
    """Versions of this package, Python and the libraries that numbers depend on."""
    from .. import __version__

    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"mg-vmoe {__version__}, Python {platform.python_version()}, {packages}"


def machine(device: str = "cpu") -> str:
    """The kind of machine, without its name."""
    import torch

    found = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads"
    if torch.device(device).type == "cuda":
        found += f", {torch.cuda.get_device_name(device)}"
    return found


MIXED_PRECISIONS = ("auto", "no", "fp16", "bf16")
# benchmarks/LOG.md has the command.
COST = "matrix products take about 40 times as long as in float32 there (measured on an AMD EPYC with AVX2)"


def has_bf16(device: torch.device | str = "cpu") -> bool:
    """Whether a device multiplies matrices in bf16 in hardware.

    Args:
        device: a GPU, or a processor: AVX-512-BF16 and AMX on x86-64, BF16 on Arm.
    """
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        supported = getattr(getattr(torch, kind, None), "is_bf16_supported", None)
        return supported is not None and bool(supported())
    # oneDNN multiplies the matrices; ONEDNN_MAX_CPU_ISA may keep it from what the processor has.
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() in ("aarch64", "arm64"):
        return True
    # On x86-64 oneDNN says yes for AVX-512 without BF16, too, which emulates it. Every processor with AMX tiles
    # multiplies bf16 in them.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def choose_precision(asked: str, device: torch.device | str, argument: str = "mixed_precision") -> str:
    """Resolve "auto": bf16 where the hardware has it, else float32. Anything else comes back as it is.

    Args:
        asked: "auto", "no", "fp16" or "bf16".
        device: where the model runs.
        argument: what the warning calls the argument.

    Warns:
        UserWarning: bf16 was asked for on a processor that has none.
    """
    if asked == "auto":
        return "bf16" if has_bf16(device) else "no"
    if asked == "bf16" and str(device).startswith("cpu") and not has_bf16(device):
        warnings.warn(f'{argument}: this processor has no bf16, {COST}; "auto" takes float32', stacklevel=2)
    return asked
