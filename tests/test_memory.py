"""Freed memory is kept for the next step, where the C library can."""

import subprocess
import sys

import pytest

CODE = """
import platform, torch
from modeling_mgvmoe.training.launch import keep_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

could = keep_freed_memory()
tensor = torch.ones(64 * 2**20 // 4)
before = resident()
del tensor
kept = resident() > before - 2**25
print(platform.libc_ver()[0], could, kept)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have other allocators")
def test_a_large_tensor_that_is_freed_stays_with_the_process():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    library, could, kept = done.stdout.split()
    assert could == kept == str(library == "glibc")


def test_elsewhere_it_says_that_it_could_not(monkeypatch):
    from modeling_mgvmoe.training import launch as memory

    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False
