"""Processes that push, compact and read until they are killed: ``python -m tests.push.pushers JOB FOLDER …``."""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

from llmfeatures.push_log.folder import FolderPushLog
from llmfeatures.push_log.segment import id_digest
from llmfeatures.testing.push_log import push_of

ROWS = 3


def rows_of(name: str) -> list[tuple[str, int]]:
    """The rows of a push: its id decides them."""
    return [(f"{name} {number}", number) for number in range(ROWS)]


def push(folder: Path, name: str, seed: int, count: int) -> None:
    """Push, and say so once it is acknowledged: ``new ID`` or ``old ID``. Every third push is sent twice, under ids
    that other processes use too."""
    chance = random.Random(seed)
    log = FolderPushLog(folder, segment_bytes=4_000)
    log.append(name, push_of("warm", [("a", 1)]))
    print("ready", flush=True)
    for number in range(count):
        shared = number % 3 == 0
        push_id = f"shared {number}" if shared else f"{name} {number}"
        new = log.append("v", push_of(push_id, rows_of(push_id), fresh=not shared))
        print("new" if new else "old", push_id, _on_disk(log, push_id, new), flush=True)
        if shared:
            assert not log.append("v", push_of(push_id, [("another", 0)]))
        time.sleep(chance.random() * 0.002)
    log.close()


def _on_disk(log: FolderPushLog, push_id: str, new: bool) -> str:
    """The segment that holds a push, and how much of it this process has synced; ``- 0`` when it is in a part. One that
    was there already is mostly in a segment of another process, which may be killed before it syncs it itself."""
    view = log._view("v")
    if new:
        writer = view._writer
        return "- 0" if writer is None else f"{writer.name} {writer._synced}"
    digest = id_digest(push_id)
    held = ((name, read.upto) for name, read in view._known._segments.items() if digest in read.digests)
    return " ".join(map(str, next(held, ("-", 0))))


def compact(folder: Path, seed: int) -> None:
    """Compact, over and over, until killed."""
    chance = random.Random(seed)
    log = FolderPushLog(folder)
    print("ready", flush=True)
    while True:
        log.compact("v")
        time.sleep(chance.random() * 0.01)


def main() -> None:
    job, folder, *rest = sys.argv[1:]
    if job == "push":
        push(Path(folder), rest[0], int(rest[1]), int(rest[2]))
    else:
        compact(Path(folder), int(rest[0]))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
