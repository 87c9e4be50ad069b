"""Memory that a training step frees is kept for the next one."""

import ctypes
import sys

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


__all__ = ["keep_freed_memory"]
