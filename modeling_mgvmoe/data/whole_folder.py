"""Folders that are whole or not there: written beside their place, to the disk, and then renamed."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
from collections.abc import Iterator


def fsync(path: str) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(one: str, other: str) -> bool:
    """Let two paths change places in one step; False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2 is not None and renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def remove_folder(folder: str) -> None:
    """Remove a folder under a name that nobody takes for a whole one, so that it is never seen half removed."""
    parent, name = os.path.split(folder)
    doomed = folder if name.startswith(".") else os.path.join(parent, f".{name}.partial")
    if os.path.lexists(folder) and doomed != folder:
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _take_place(new: str, target: str) -> None:
    """Rename a folder, also over another one, which is removed."""
    parent = os.path.dirname(target)
    if not os.path.lexists(target):
        os.rename(new, target)
    elif _exchange(new, target):
        shutil.rmtree(new, ignore_errors=True)
    else:  # such as NFS: for a moment there is neither
        remove_folder(target)
        os.rename(new, target)
    fsync(parent)


def is_disk_full(error: Exception) -> bool:
    """Whether a write failed for want of room, on the disk or in the user's quota."""
    # The libraries in Rust, safetensors and tokenizers, give the number only in their text.
    codes = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in codes or any(f"(os error {code})" in str(error) for code in codes)


@contextlib.contextmanager
def whole_folder(target: str, needed: int, then: str = "") -> Iterator[str]:
    """A folder to write into, which gets its name only when everything in it is on the disk.

    Args:
        target: path of the whole folder; one that is there is replaced at once.
        needed: bytes that will be written, about.
        then: what to do once there is room on a full disk, for the message.

    Raises:
        FileExistsError: `target` is a file.
        OSError: the disk is full. What was written is removed, and `target` is as before.
    """
    if os.path.lexists(target) and not os.path.isdir(target):
        raise FileExistsError(f"{target} is no folder, and is not replaced by one")
    parent, name = os.path.split(os.path.abspath(target))
    partial = os.path.join(parent, f".{name}.new.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        os.makedirs(partial)
        if shutil.disk_usage(partial).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield partial
        for file in os.listdir(partial):
            fsync(os.path.join(partial, file))
        fsync(partial)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not is_disk_full(error):
            raise
        free = shutil.disk_usage(parent if os.path.isdir(parent) else os.path.dirname(parent)).free
        raise OSError(
            errno.ENOSPC,
            f"disk full: {target} needs {needed} bytes, {free} are free; what was there before is whole "
            f"(make room{then and ', then '}{then})",
        ) from error
    _take_place(partial, os.path.join(parent, name))
