"""Files that are whole or not there: written beside their place, to the disk, and then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
from collections.abc import Iterator

from .whole_folder import fsync, is_disk_full

PARTIAL = re.compile(r"^\..+\.(?P<host>[^.]+)\.(?P<pid>\d+)\.partial$")


@contextlib.contextmanager
def whole_file(target: str | os.PathLike[str], then: str = "") -> Iterator[str]:
    """A path to write to; the file gets its name only when all of it is on the disk, in the place of one before it.

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
    """What a file or folder is called while this process writes it."""
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
