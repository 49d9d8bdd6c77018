"""Prompts to chat JSONL, join included, beside pandas, Jinja and JSON by hand, in turns.

    python -m tests.benchmarks.history [--prompts 1000000] [--rounds 5] [--check] [--data DIR]

Two prompts: ``recommender``, whose texts repeat, and ``unique``, which also prints ``user_id`` and ``as_of``.
``--check`` compares the two sides' texts, whatever their order.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

from tests.benchmarks.turns import Taken, arguments, prepare, run, table
from tests.benchmarks.workload import SIZES


def texts(path: Path) -> Counter[str]:
    """How often each system message is in a file of chat JSONL; the author's last line break is not counted."""
    with path.open(encoding="utf-8") as lines:
        return Counter(json.loads(line)["messages"][0]["content"].rstrip("\n") for line in lines)


def main() -> None:
    """Print each run and the ratios of the medians, for both prompts."""
    parser = arguments("Finished prompts beside pandas, Jinja and JSON by hand.", prompts=1_000_000)
    parser.add_argument("--check", action="store_true", help="compare the texts of the two sides")
    options = parser.parse_args()
    size = SIZES[options.size]
    folder, spine = prepare(options.data, size, options.prompts)
    for prompt in ("recommender", "unique"):
        results: dict[str, list[Taken]] = {"by hand": [], "llmfeatures": []}
        with tempfile.TemporaryDirectory(dir=options.data) as out:
            hand, ours = Path(out, "hand.jsonl"), Path(out, "ours.jsonl")
            for _ in range(options.rounds):
                results["by hand"].append(run("history_by_hand", folder, spine, hand, "--prompt", prompt))
                ours.unlink(missing_ok=True)
                results["llmfeatures"].append(run("history_ours", folder, spine, ours, "--prompt", prompt))
            if options.check:
                assert texts(hand) == texts(ours), f"the two sides' texts of {prompt} differ"
        rows = {one.rows for runs in results.values() for one in runs}
        assert rows == {options.prompts}, f"{rows} rows of {options.prompts}"
        print(f"{options.prompts:,} prompts {prompt!r} over {sum(size.rows):,} rows\n\n{table(results)}\n", flush=True)


if __name__ == "__main__":
    main()
