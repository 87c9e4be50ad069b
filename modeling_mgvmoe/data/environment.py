"""With what something was computed: versions and machine, for reports and cards."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

PACKAGES = ("torch", "transformers", "datasets", "numpy")


def versions() -> str:
    """Of this package, Python and what the numbers depend on."""
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
