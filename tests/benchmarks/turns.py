"""Runs sides in processes of their own, in turns, and prints what each took."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.workload import DATA, SIZES, Size

ROOT = Path(__file__).parent.parent.parent
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What one run took. ``peak`` is the process with its workers, ``spill`` of its temporary folder; both in MiB."""

    seconds: float
    rows: int
    peak: float
    spill: float


def prepare(data: Path, size: Size, prompts: int) -> tuple[Path, Path]:
    """The workload's folder and spine, written by a process of its own if they are not there yet."""
    folder = data / size.name
    command = [sys.executable, "-m", "tests.benchmarks.workload", str(folder)]
    subprocess.run(
        [*command, "--size", size.name, "--prompts", str(prompts)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    return folder, folder / f"prompts_{prompts}.parquet"


def run(side: str, *arguments: str | Path) -> Taken:
    """One run of a side, watched from outside for its workers' memory and what it spills."""
    with tempfile.TemporaryDirectory(prefix="llmfeatures-spill-") as spill_folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.sides", side, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": spill_folder},
            stdout=subprocess.PIPE,
            text=True,
        )
        tree = spill = 0.0
        while True:
            try:
                process.wait(0.05)
                break
            except subprocess.TimeoutExpired:
                tree = max(tree, _resident(process.pid))
                spill = max(spill, _size(Path(spill_folder)))
        assert process.stdout is not None
        printed = process.stdout.read()
        process.stdout.close()
    if process.returncode:
        sys.exit(f"{side} ended with {process.returncode}")
    taken = json.loads(printed)
    return Taken(
        seconds=taken["seconds"], rows=taken["rows"], peak=max(taken["peak_mib"], tree / 2**20), spill=spill / 2**20
    )


def _resident(pid: int) -> float:
    """Bytes that a process and its descendants hold; shared pages count in each."""
    try:
        total = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
        children = [
            one for task in Path(f"/proc/{pid}/task").iterdir() for one in (task / "children").read_text().split()
        ]
    except (OSError, IndexError):
        return 0
    return total + sum(_resident(int(child)) for child in children)


def _size(folder: Path) -> float:
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                total += Path(root, name).stat().st_blocks * 512
            except OSError:  # removed since it was listed
                continue
    return total


def table(results: Mapping[str, Sequence[Taken]]) -> str:
    """The runs of each side and the ratios of its medians to the first side's, as Markdown."""
    lines = ["| | seconds, each run | median | peak MiB, each run | median |", "|---|---|---|---|---|"]
    floor = next(iter(results.values()))
    seconds_of_floor = statistics.median(one.seconds for one in floor)
    peak_of_floor = statistics.median(one.peak for one in floor)
    for name, runs in results.items():
        seconds, peak = (
            statistics.median(values) for values in zip(*((one.seconds, one.peak) for one in runs), strict=True)
        )
        by_run = " ".join(f"{one.seconds:.2f}" for one in runs)
        peaks = " ".join(f"{one.peak:.0f}" for one in runs)
        lines.append(
            f"| {name} | {by_run} | {seconds:.2f} ({seconds / seconds_of_floor:.2f} x) "
            f"| {peaks} | {peak:.0f} ({peak / peak_of_floor:.2f} x) |"
        )
    return "\n".join(lines)


def arguments(description: str, *, prompts: int) -> argparse.ArgumentParser:
    """The options that the benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, default=DATA, help=f"where workloads are kept (default: {DATA})")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--prompts", type=int, default=prompts)
    parser.add_argument("--rounds", type=int, default=5)
    return parser
