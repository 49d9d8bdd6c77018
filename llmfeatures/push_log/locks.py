"""File locks and syncs. A lock belongs to an open file, so it goes with the process however that ends."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from llmfeatures.errors import PushLogError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_PATIENCE = 30.0
_UNSYNCABLE = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS)


def locked(handle: int, *, shared: bool = False) -> bool:
    """Lock an open file, if nobody keeps it locked against that. Never waits.

    Raises:
        PushLogError: this system has no such locks.
    """
    if fcntl is None:
        raise PushLogError("pushed rows need file locks (flock), which this system does not have; use Linux or macOS")
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise PushLogError(f"a file of the push log cannot be locked: {error.strerror}") from None
    return True


def unlock(handle: int) -> None:
    """Give back the lock of an open file. To close it is not enough: a child process that was forked meanwhile has the
    file open too."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)


@contextmanager
def lock_file(path: Path, *, wait: bool) -> Generator[bool]:
    """Hold the lock that a file stands for; the file is made when it is not there, and stays.

    Gives False when somebody else has it and it should not ``wait``.

    Raises:
        PushLogError: somebody has held it for half a minute.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield _waited(handle, path) if wait else locked(handle)
    finally:
        unlock(handle)
        os.close(handle)


def _waited(handle: int, path: Path) -> bool:
    deadline = time.monotonic() + _PATIENCE
    pause = 0.0005
    while not locked(handle):
        if time.monotonic() > deadline:
            raise PushLogError(f"another process holds {path.name} of the push log for too long; is it stopped?")
        time.sleep(pause)
        pause = min(2 * pause, 0.01)
    return True


def write_all(handle: int, data: bytes) -> None:
    """Write all of it, however little the system takes at a time."""
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


def sync_data(handle: int) -> None:
    """Have the bytes of an open file on disk, and its length."""
    getattr(os, "fdatasync", os.fsync)(handle)


def sync_file(path: Path) -> None:
    """Have a file on disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Have the names in a folder on disk; a filesystem that cannot do this does it without being told."""
    try:
        sync_file(path)
    except OSError as error:
        if error.errno not in _UNSYNCABLE:
            raise


def sync_folders(path: Path) -> None:
    """Have a folder's names on disk, and its own name and those of the folders above it, up to the root of its
    filesystem or one that is not ours to read: whoever made them may not have synced them yet."""
    sync_folder(path)
    while not path.is_mount() and path != path.parent:
        path = path.parent
        try:
            sync_folder(path)
        except PermissionError:
            return


def make_folder(path: Path) -> None:
    """Make a folder and those above it, durably."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with suppress(FileExistsError):
        path.mkdir()
    sync_folder(path.parent)
