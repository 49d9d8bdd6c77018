"""The point-in-time join beside a chain of ``ASOF LEFT JOIN``s written by hand, in turns.

    python -m tests.benchmarks.join [--large] [--prompts N] [--rounds 5] [--memory-limit 4GB] [--data DIR]

By hand, the rows come in any order and ties are left to chance; ours come in the spine's order with ties broken.
``--large`` is 100 million rows and 20,000 prompts, with a memory_limit of 1GB for ours. Peak memory includes workers.
"""

from __future__ import annotations

from tests.benchmarks.turns import Taken, arguments, prepare, run, table
from tests.benchmarks.workload import SIZES


def main() -> None:
    """Print each run and the ratios of the medians."""
    parser = arguments("The point-in-time join beside one written by hand.", prompts=0)
    parser.add_argument("--large", action="store_true", help="the same as --size large --memory-limit 1GB")
    parser.add_argument("--memory-limit", default=None, help="of our side (default: 4GB; 1GB for the large history)")
    options = parser.parse_args()
    size = SIZES["large" if options.large else options.size]
    prompts = options.prompts or (20_000 if size.name == "large" else 200_000)
    limit = options.memory_limit or ("1GB" if size.name == "large" else "4GB")
    folder, spine = prepare(options.data, size, prompts)
    results: dict[str, list[Taken]] = {"by hand": [], "llmfeatures": []}
    for _ in range(options.rounds):
        results["by hand"].append(run("join_by_hand", folder, spine))
        results["llmfeatures"].append(run("join_ours", folder, spine, "--memory-limit", limit))
    rows = {one.rows for runs in results.values() for one in runs}
    assert rows == {prompts}, f"{rows} rows of {prompts}"
    print(f"{prompts:,} prompts over {sum(size.rows):,} rows, memory_limit {limit}\n\n{table(results)}")


if __name__ == "__main__":
    main()
