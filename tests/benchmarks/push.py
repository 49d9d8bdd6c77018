"""Acknowledged rows per second: 4 processes push batches of 100 rows, into the log and Redis. Beside it, in turns, the
same processes only append the same number of bytes to files of their own and fdatasync them: what this disk allows.

    python -m tests.benchmarks.push [FOLDER]

FOLDER lies on the disk that is measured; the default is the system's temporary folder.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from llmfeatures import Project
from tests.servers import redis_server

PROCESSES, BATCH, SECONDS, RUNS = 4, 100, 5.0, 5
BYTES = 5_600
"""About what a push of 100 rows takes in a segment."""
REGISTRY = """
entities: [{name: user, join_key: user_id}]
views:
  - {name: taste, entity: user, source: {batch: null}, features: {genre: str, score: float, watched: int}}
"""


def make(root: Path, url: str) -> None:
    (root / "features.yaml").write_text(REGISTRY)
    (root / "llmfeatures.toml").write_text(
        f'[project]\nname = "bench"\nregistry = "features.yaml"\n[online]\nurl = "{url}"\ntimeout = "5s"\n'
    )


def rows_of(number: int, process: int) -> list[dict[str, object]]:
    return [
        {"user_id": f"u{(number * BATCH + one) % 50_000:08}", "genre": "drama", "score": 0.5 + one, "watched": process}
        for one in range(BATCH)
    ]


def pushing(root: Path, process: int) -> int:
    project = Project.load(root)
    project.push("taste", rows_of(0, process))
    _start()
    number, end = 0, time.monotonic() + SECONDS
    while time.monotonic() < end:
        number += 1
        report = project.push("taste", rows_of(number, process))
        assert report.online
    project.close()
    return number * BATCH


def syncing(root: Path, process: int) -> int:
    handle = os.open(root / f"floor-{process}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    data = os.urandom(BYTES)
    _start()
    number, end = 0, time.monotonic() + SECONDS
    while time.monotonic() < end:
        number += 1
        os.write(handle, data)
        getattr(os, "fdatasync", os.fsync)(handle)
    os.close(handle)
    return number * BATCH


def _start() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def rate(what: str, root: Path) -> float:
    """Rows per second of all processes together."""
    command = [sys.executable, "-m", "tests.benchmarks.push", "--one", what, str(root)]
    processes = [
        subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(int(process.communicate()[0]) for process in processes) / SECONDS


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["--one"]:
        what, root, process = arguments[1:]
        print((pushing if what == "push" else syncing)(Path(root), int(process)))
        return
    pushes: list[float] = []
    floors: list[float] = []
    with redis_server() as url, tempfile.TemporaryDirectory(dir=arguments[0] if arguments else None) as folder:
        for run in range(RUNS):
            root = Path(folder) / str(run)
            root.mkdir()
            make(root, url)
            pushes.append(rate("push", root))
            floors.append(rate("floor", root))
            print(f"run {run + 1}: {pushes[-1]:,.0f} rows/s pushed; bare fdatasync {floors[-1]:,.0f}", file=sys.stderr)
    print(
        json.dumps(
            {
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "rows_per_second": round(statistics.median(pushes)),
                "bare_fdatasync_rows_per_second": round(statistics.median(floors)),
                "rounds": [[round(a), round(b)] for a, b in zip(pushes, floors, strict=True)],
                "ratio": round(statistics.median(a / b for a, b in zip(pushes, floors, strict=True)), 3),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
