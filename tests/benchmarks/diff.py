"""A prompt against another version of it over historical rows: whole processes, from the start to the last byte.

    python -m tests.benchmarks.diff [--rounds 5] [--size small] [--data DIR]

``recommender`` repeats its texts; of ``unique`` nearly every prompt is a text of its own. The other version has other
words at both ends, another condition, and prints a number in another form.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.turns import ROOT, arguments, prepare
from tests.benchmarks.workload import BODY, HEADER, SIZES, UNIQUE

OLD = (
    BODY.replace("shows", "films")
    .replace("> 30", "> 60")
    .replace("watched {{ watch_count_30d }}", "watched {{ watch_count_30d * 1.5 }}")
    .replace("friendly, short", "short")
)
ROWS = (200, 100_000)


def main() -> None:
    """Print the seconds of each run, and what was found."""
    parser = arguments("Two versions of a prompt over the same rows.", prompts=max(ROWS))
    options = parser.parse_args()
    size = SIZES[options.size]
    for rows in ROWS:
        folder, spine = prepare(options.data, size, rows)
        for prompt, first in (("recommender", ""), ("unique", UNIQUE)):
            other = Path(folder, f"{prompt}-other.j2")
            other.write_text(HEADER + first + OLD)
            command = [sys.executable, "-m", "llmfeatures", "diff", prompt, "--against", str(other), "--json"]
            command += ["--spine", str(spine), "--project", str(folder)]
            # bytecode is kept, as of an installed package
            kept = {**os.environ, "PYTHONPYCACHEPREFIX": str(Path(folder, "bytecode")), "PYTHONDONTWRITEBYTECODE": ""}
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=kept)
            seconds: list[float] = []
            before = _processor()
            for _ in range(options.rounds):
                began = time.perf_counter()
                done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, env=kept)
                seconds.append(time.perf_counter() - began)
            found = json.loads(done.stdout)
            assert found["rows"] == found["changed"] == rows
            each = " ".join(f"{one:.2f}" for one in seconds)
            said = (
                f"median {statistics.median(seconds):.2f} s, processor {(_processor() - before) / len(seconds):.2f} s"
            )
            said += f"; {len(found['groups'])} groups, {found['tokens']['tokenizer']}"
            print(f"{rows:>7,} rows of {prompt:12} {each}  {said}", flush=True)


def _processor() -> float:
    """Seconds of processor time of the processes that ended: what a busy machine hardly stretches."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
