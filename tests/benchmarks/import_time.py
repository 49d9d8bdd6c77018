"""What importing costs, as whole processes beside bare Python, in turns.

python -m tests.benchmarks.import_time [ROUNDS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

PROGRAMS = {
    "python": "pass",
    "import llmfeatures": "import llmfeatures",
    "ContextBuilder": "from llmfeatures import ContextBuilder",
}


def main() -> None:
    """Print each program's median over the rounds, and its ratio to bare Python."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    taken: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for number in range(rounds + 1):
        for name, program in PROGRAMS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True)
            if number:  # the first round warms the disk
                taken[name].append((time.perf_counter() - start) * 1e3)
    floor = statistics.median(taken["python"])
    for name, times in taken.items():
        shown = " ".join(f"{one:.0f}" for one in times)
        print(
            f"{name:20} {statistics.median(times):4.0f} ms  {statistics.median(times) / floor:.1f} x bare   ({shown})"
        )


if __name__ == "__main__":
    main()
