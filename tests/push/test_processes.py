"""Many processes at once, and processes that are killed: every acknowledged row is there, and none is there twice."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from llmfeatures.push_log.folder import FolderPushLog
from llmfeatures.testing.push_log import kept, push_of
from tests.push.pushers import ROWS, rows_of

Process = subprocess.Popen[str]


def start(*arguments: object) -> Process:
    command = [sys.executable, "-m", "tests.push.pushers", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process


def wait_ready(processes: Sequence[Process]) -> None:
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"


def rest_of(process: Process) -> str:
    """All that a process that ends still says."""
    assert process.stdout is not None
    return process.stdout.read()


def end(processes: Sequence[Process]) -> None:
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def acknowledged(output: str) -> tuple[list[str], dict[str, int]]:
    """The ids of acknowledged pushes, and how much of each segment was on disk then. A last line that was torn when the
    process was killed says nothing."""
    ids: list[str] = []
    synced: dict[str, int] = {}
    for line in output.split("\n")[:-1]:
        if line != "ready":
            _, rest = line.split(" ", 1)
            push_id, segment, size = rest.rsplit(" ", 2)
            ids.append(push_id)
            synced[segment] = max(int(size), synced.get(segment, 0))
    return ids, synced


def check(folder: Path, ids: set[str]) -> None:
    """Every acknowledged push is there whole, and no row twice; others may be there, whole."""
    rows = kept(FolderPushLog(folder))
    counted = Counter(row[0] for row in rows)
    assert ids <= set(counted)
    assert set(counted.values()) <= {ROWS}
    for push_id in counted:
        assert [row[1:] for row in rows if row[0] == push_id] == rows_of(push_id)


def test_many_processes_push_while_others_compact_and_one_reads(tmp_path: Path) -> None:
    pushers = [start("push", tmp_path, f"p{number}", number, 40) for number in range(3)]
    compactors = [start("compact", tmp_path, 0)]
    try:
        wait_ready([*pushers, *compactors])
        log = FolderPushLog(tmp_path)
        seen: set[object] = set()
        looks = 0
        deadline = time.monotonic() + 100
        while any(process.poll() is None for process in pushers):
            rows = kept(log)
            assert len(rows) == len(set(rows)), "a row was there twice"
            assert seen <= set(rows), "a row was missing for a moment"
            assert len(rows) % ROWS == 0
            seen, looks = set(rows), looks + 1
            assert time.monotonic() < deadline
        ids = [one for process in pushers for one in acknowledged(rest_of(process))[0]]
    finally:
        end([*pushers, *compactors])
    assert looks  # how often it looks while they push is up to the machine
    assert [process.returncode for process in pushers] == [0] * 3
    assert len(set(ids)) == 14 + 3 * 26
    check(tmp_path, set(ids))
    assert log.size("v").pushes == len(set(ids))


def one_killing(folder: Path, seed: int) -> int:
    """Kill processes at random moments, and cut each file somewhere after what was on disk for sure; gives how many
    pushes were acknowledged."""
    chance = random.Random(seed)
    pushers = [start("push", folder, f"p{number}", seed * 10 + number, 10_000) for number in range(2)]
    compactor = start("compact", folder, seed)
    try:
        wait_ready([*pushers, compactor])
        for process in chance.sample([*pushers, compactor], 3):
            time.sleep(chance.random() * 0.1)
            process.kill()
        outputs = [rest_of(process) for process in pushers]
    finally:
        end([*pushers, compactor])
    found, synced = acknowledged("".join(output[: output.rfind("\n") + 1] for output in outputs))
    ids = set(found)
    for name, size in synced.items():
        path = folder / "v" / name
        if path.exists():
            whole = path.stat().st_size
            assert whole >= size
            with path.open("r+b") as file:
                file.truncate(chance.choice([size, chance.randint(size, whole)]))
    check(folder, ids)
    # whoever got no answer pushes again, under the same id; and those who did add nothing
    log = FolderPushLog(folder)
    again = [*ids, *(f"shared {number}" for number in range(0, 9, 3))]
    for push_id in again:
        assert log.append("v", push_of(push_id, rows_of(push_id))) <= (push_id not in ids)
    log.compact("v")
    log.close()
    check(folder, set(again))
    return len(ids)


def test_killed_at_random(tmp_path: Path) -> None:
    assert sum(one_killing(tmp_path / str(seed), seed) for seed in range(2)) > 4


@pytest.mark.heavy
@pytest.mark.timeout(3_000)
def test_killed_at_random_a_hundred_times(tmp_path: Path) -> None:
    assert sum(one_killing(tmp_path / str(seed), 1_000 + seed) for seed in range(100)) > 200
