"""Atomic files: written beside their place under a temporary name, then moved over it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from llmfeatures.errors import RequestError

_UMASK = os.umask(0)  # there is no way to read it but to set it
os.umask(_UMASK)


@contextmanager
def replacing(path: Path) -> Generator[Path, None, None]:
    """A path to write to; it replaces ``path`` when the block ends well, and is removed when it does not.

    Raises:
        RequestError: the folder is not there, or may not be written.
    """
    if path.is_dir():
        raise RequestError(f"cannot write {path}: it is a folder; give a file")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise RequestError(
            f"cannot write {path}: {error.strerror}; give a folder that exists and may be written"
        ) from None
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~_UMASK)
        _sync(part)
        part.replace(path)
        _sync(path.parent)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some filesystems cannot sync a folder
            os.fsync(handle)
    finally:
        os.close(handle)
