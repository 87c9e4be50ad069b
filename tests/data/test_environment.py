"""With what something was computed."""

import platform

import torch

from modeling_mgvmoe import __version__
from modeling_mgvmoe.data.environment import PACKAGES, machine, versions


def test_versions_are_those_that_run():
    found = versions()
    assert found.startswith(f"mg-vmoe {__version__}, Python {platform.python_version()}")
    assert f"torch {torch.__version__.partition('+')[0]}" in found and all(f"{name} " in found for name in PACKAGES)


def test_the_kind_of_machine_and_not_its_name():
    found = machine()
    assert platform.machine() in found and f"{torch.get_num_threads()} threads" in found
    assert not platform.node() or platform.node() not in found
