"""Files: those that a path names; and atomic ones, written beside their place and then moved over it."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from llmfeatures.errors import RequestError

_UMASK = os.umask(0)  # there is no way to read it but to set it
os.umask(_UMASK)


def named_files(path: str, root: Path = Path()) -> list[Path]:
    """The files of a path: the file itself, the Parquet files of a folder, or what a glob matches; maybe none."""
    whole = root / path
    if whole.is_file():
        return [whole]
    matches = whole.rglob("*.parquet") if whole.is_dir() else glob.iglob(path, root_dir=root, recursive=True)
    return sorted(one for one in (root / match for match in matches) if one.is_file())


@contextmanager
def replacing(path: Path, *, mode: int = 0o666 & ~_UMASK) -> Generator[Path, None, None]:
    """A path to write to; it replaces ``path`` when the block ends well, and is removed when it does not. ``mode`` are
    its permissions then.

    Raises:
        RequestError: the folder is not there, or may not be written.
    """
    check_place(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise unwritable(path, error) from None
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(mode)
        sync(part)
        part.replace(path)
        sync(path.parent)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def partial_folder(path: Path) -> Generator[Path, None, None]:
    """A folder beside ``path`` for files that are moved to their places from it; it is removed when the block ends.

    Raises:
        RequestError: the folder of ``path`` is not there, or may not be written.
    """
    check_place(path)
    try:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_place(path: Path) -> None:
    """Refuse as the place of a file what is there and is none.

    Raises:
        RequestError: it is a folder, a link, a pipe or a device.
    """
    if path.is_dir():
        raise RequestError(f"cannot write {path}: it is a folder; give a file")
    if path.is_symlink():
        raise RequestError(f"cannot write {path}: it is a link, and would be replaced; give {path.resolve()}")
    if path.exists() and not path.is_file():
        raise RequestError(f"cannot write {path}: it is no regular file; give another place")


def unwritable(path: Path, error: OSError) -> RequestError:
    """What to say when nothing can be made beside ``path``."""
    return RequestError(f"cannot write {path}: {error.strerror}; give a folder that exists and may be written")


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on disk, as far as the filesystem can."""
    with suppress(OSError):  # some filesystems cannot sync a folder
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
