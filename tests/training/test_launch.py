"""Freed memory is kept for the next step, where the C library can."""

import platform
import sys

import pytest
import torch

from modeling_mgvmoe.training import launch as memory


def resident():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have other allocators")
def test_a_large_tensor_that_is_freed_stays_with_the_process():
    # In this process, as any training here: by itself glibc gives back at once what is as large as this.
    could = memory.keep_freed_memory()
    tensor = torch.ones(64 * 2**20 // 4)
    before = resident()
    del tensor
    kept = resident() > before - 2**25
    assert could == kept == (platform.libc_ver()[0] == "glibc")


def test_elsewhere_it_says_that_it_could_not(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False
