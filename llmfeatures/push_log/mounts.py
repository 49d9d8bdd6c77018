"""Whether a folder lies on a disk: what is only in memory does not survive the machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
_ESCAPED = re.compile(r"\\([0-7]{3})")


def volatile(folder: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """Why what is written to a folder may be lost, one sentence with what to do; None when it is not.

    Args:
        folder: it need not be there yet.
        mounts: what is mounted, as Linux says it; elsewhere only access is looked at.
    """
    there = _there(folder)
    if not there.is_dir():
        return f"the pushes folder {folder} cannot be made: {there} is no folder; correct [project] pushes"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"the pushes folder {folder} cannot be written; give this process access, or correct [project] pushes"
    kind = _kind_of(there.resolve(), mounts)
    if kind in _IN_MEMORY:
        return (
            f"the pushes folder {folder} lies in memory ({kind}), so pushed rows would be lost with the machine; "
            "point [project] pushes to a disk"
        )
    return None


def transient(folder: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """Why what is written to a folder may go with a container, one sentence with what to do; None when it does not look
    so. Arguments as of `volatile`."""
    if _kind_of(_there(folder).resolve(), mounts) != "overlay":
        return None
    return (
        f"the pushes folder {folder} lies in what looks like a container's own file system (overlay), which does not "
        "survive the container; mount a volume there, or point [project] pushes to one"
    )


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _kind_of(folder: Path, mounts: Path) -> str | None:
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    best, kind = -1, None
    for line in lines:
        _, place, found, *_ = [*line.split(" "), "", "", ""]
        where = Path(_ESCAPED.sub(lambda match: chr(int(match[1], 8)), place))
        # a later line is mounted over an earlier one
        if place and folder.is_relative_to(where) and len(where.parts) >= best:
            best, kind = len(where.parts), found
    return kind
