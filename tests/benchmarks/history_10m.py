"""One and ten million prompts over the large history under ``memory_limit = "2GB"``: does time stay linear?

    python -m tests.benchmarks.history_10m [--prompts 1000000] [--prompt recommender] [--memory-limit 2GB] [--data DIR]

It prints for N and 10 N prompts: seconds, peak memory of the process with its workers, the largest size that its
temporary folder had (what was spilled), and the size of the chat JSONL; then the time of 10 N over ten times that of N.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from tests.benchmarks.turns import arguments, prepare, run
from tests.benchmarks.workload import SIZES


def main() -> None:
    """Print both runs and their ratio."""
    parser = arguments("Ten times the prompts: memory, spill, size and time.", prompts=1_000_000)
    parser.set_defaults(size="large", rounds=1)
    parser.add_argument("--prompt", default="recommender", choices=["recommender", "unique"])
    parser.add_argument("--memory-limit", default="2GB")
    options = parser.parse_args()
    size = SIZES[options.size]
    seconds: list[float] = []
    print(f"over {sum(size.rows):,} rows, memory_limit {options.memory_limit}, prompt {options.prompt!r}\n")
    print("| prompts | seconds | peak MiB | spilled MiB | output MiB |\n|---|---|---|---|---|")
    for prompts in (options.prompts, 10 * options.prompts):
        folder, spine = prepare(options.data, size, prompts)
        took: list[float] = []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory(dir=options.data) as out:
                path = Path(out, "prompts.jsonl")
                choices = ("--prompt", options.prompt, "--memory-limit", options.memory_limit)
                taken = run("history_ours", folder, spine, path, *choices)
                written = path.stat().st_size / 2**20
            took.append(taken.seconds)
            assert taken.rows == prompts, f"{taken.rows} rows of {prompts}"
            print(
                f"| {prompts:,} | {taken.seconds:.1f} | {taken.peak:.0f} | {taken.spill:.0f} | {written:.0f} |",
                flush=True,
            )
        seconds.append(statistics.median(took))
    ratio = seconds[1] / seconds[0]
    print(f"\nten times the prompts took {ratio:.2f} times as long: {ratio / 10:.2f} x linear")


if __name__ == "__main__":
    main()
