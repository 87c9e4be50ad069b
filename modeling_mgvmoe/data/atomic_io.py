"""Atomic writing: a file or folder appears only when it is complete, so a killed run leaves nothing half-written."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator

from filelock import FileLock, Timeout


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
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not isinstance(error, Exception) or not is_disk_full(error):
            raise
        free = shutil.disk_usage(parent if os.path.isdir(parent) else os.path.dirname(parent)).free
        raise OSError(
            errno.ENOSPC,
            f"disk full: {target} needs {needed} bytes, {free} are free; what was there before is whole "
            f"(make room{then and ', then '}{then})",
        ) from error
    _take_place(partial, os.path.join(parent, name))


PARTIAL = re.compile(r"^\..+\.(?P<host>[^.]+)\.(?P<pid>\d+)\.partial$")


@contextlib.contextmanager
def whole_file(target: str | os.PathLike[str], then: str = "") -> Iterator[str]:
    """A path to write to; the file gets its name, and replaces one before it, only when all of it is on the disk.

    Args:
        target: path of the whole file.
        then: what to do once there is room on a full disk, for the message.

    Raises:
        OSError: the disk is full. What was written is removed, and `target` is as before.
    """
    target = os.path.abspath(target)
    folder, name = os.path.split(target)
    partial = os.path.join(folder, partial_name(name))
    try:
        yield partial
        fsync(partial)
        os.replace(partial, target)
        fsync(folder)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)
        if not isinstance(error, Exception) or not is_disk_full(error):
            raise
        raise OSError(
            errno.ENOSPC,
            f"disk full: {target} could not be written, {shutil.disk_usage(folder).free} bytes are free; what was "
            f"there before is whole (make room{then and ', then '}{then})",
        ) from error


def write_whole(target: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole or not at all."""
    with whole_file(target) as partial, open(partial, "wb") as file:
        file.write(content)


def partial_name(name: str) -> str:
    """Temporary name of a file or folder while this process writes it."""
    return f".{name}.{_host()}.{os.getpid()}.partial"


def remove_partial_files(folder: str, everywhere: bool = False) -> None:
    """Remove what killed processes have left half written in a folder, files and folders.

    Args:
        folder: to look through, not below it.
        everywhere: also what processes of other machines, of which nothing is known, have left.
    """
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        found = PARTIAL.match(name)
        if found and (everywhere or (found["host"] == _host() and not _is_alive(int(found["pid"])))):
            path = os.path.join(folder, name)
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(path)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname()) or "host"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


LOCK = ".lock"


@contextlib.contextmanager
def locked(
    folder: str, is_main_process: bool = True, name: str = LOCK, argument: str = "output_dir"
) -> Iterator[None]:
    """Keep a second run out of a folder.

    The kernel holds the lock, so it ends with the process, however that ends; the file only says who has it.

    Args:
        folder: made if it is not there.
        is_main_process: false does nothing.
        name: of the file.
        argument: what the message calls the folder.

    Raises:
        FileExistsError: another run that is still alive has the folder.
    """
    if not is_main_process:
        yield
        return
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name)
    lock = FileLock(path)
    try:
        # Not at once: a run that ends at this moment removes its file, and the lock of a removed file is none.
        lock.acquire(timeout=1)
    except Timeout as error:
        with open(path, encoding="utf-8", errors="replace") as file:
            owner = file.read(1000) or "unknown"
        raise FileExistsError(
            f"{argument}: a run that is still alive, {owner}, is writing to {folder}; choose another folder "
            "or wait for its end."
        ) from error
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
        yield
    finally:
        os.unlink(path)
        lock.release()
