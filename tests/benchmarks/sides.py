"""One measured run, in a process of its own: what the benchmarks of history compare.

    python -m tests.benchmarks.sides SIDE FOLDER SPINE [OUT] [--prompt NAME] [--memory-limit 4GB]

It prints one line of JSON: the seconds from the first call to the last, without imports; the rows; the peak memory.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.workload import BODY, FEATURES, UNIQUE


def join_by_hand(options: argparse.Namespace) -> int:
    """An ``ASOF LEFT JOIN`` per feature, in whatever order the rows come."""
    import duckdb

    chosen = ", ".join(f"{name}.{name}" for name in FEATURES)
    joins = " ".join(
        f"ASOF LEFT JOIN '{options.folder}/{name}.parquet' AS {name} "
        f"ON p.user_id = {name}.user_id AND p.event_timestamp >= {name}.event_timestamp"
        for name in FEATURES
    )
    sql = f"SELECT p.*, {chosen} FROM '{options.spine}' AS p {joins}"
    return duckdb.connect().sql(sql).to_arrow_table().num_rows


def join_ours(options: argparse.Namespace) -> int:
    """`Project.get_historical_features`, its batches read and dropped."""
    from llmfeatures import Project

    batches = Project.load(options.folder).get_historical_features(options.spine, list(FEATURES))
    return sum(batch.num_rows for batch in batches)


def history_by_hand(options: argparse.Namespace) -> int:
    """The join, then a data frame, and Jinja and JSON row by row."""
    import duckdb
    import jinja2

    sql = f"SELECT * FROM '{options.spine}'"
    for name in FEATURES:
        sql = (
            f"SELECT t.*, s.{name} FROM ({sql}) AS t ASOF LEFT JOIN '{options.folder}/{name}.parquet' AS s "
            "ON t.user_id = s.user_id AND t.event_timestamp >= s.event_timestamp"
        )
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    with warnings.catch_warnings():  # duckdb's of pandas
        warnings.simplefilter("ignore")
        frame = connection.execute(sql).df()
    frame = frame.astype(object).where(frame.notna(), None)
    # what a missing value prints is written into the template, where our prompt file has a default
    body = BODY.replace("watch_count_30d", "(watch_count_30d or 0)")
    for name in ("user_segment", "last_genre"):
        body = body.replace(f"{{{{ {name} }}}}", f'{{{{ {name} or "unknown" }}}}')
    text = (UNIQUE if options.prompt == "unique" else "") + body
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True).from_string(text)
    rows = 0
    with Path(options.out).open("w", encoding="utf-8") as file:
        for row in frame.to_dict("records"):
            moment = row["event_timestamp"].isoformat()
            content = template.render(row, as_of=moment.replace("+00:00", "Z"))
            line = {
                "messages": [{"role": "system", "content": content}],
                "user_id": row["user_id"],
                "event_timestamp": moment,
            }
            file.write(json.dumps(line) + "\n")
            rows += 1
    return rows


def history_ours(options: argparse.Namespace) -> int:
    """`Project.history`, written as chat JSONL."""
    from llmfeatures import Project

    summary = Project.load(options.folder).history(options.prompt, options.spine).write(options.out)
    assert not summary.errors, summary.first_error
    return summary.rows


SIDES: dict[str, Callable[[argparse.Namespace], int]] = {
    "join_by_hand": join_by_hand,
    "join_ours": join_ours,
    "history_by_hand": history_by_hand,
    "history_ours": history_ours,
}


def main() -> None:
    """Run one side and print what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("folder")
    parser.add_argument("spine")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--prompt", default="recommender")
    parser.add_argument("--memory-limit", default="4GB")
    options = parser.parse_args()
    os.environ["LLMFEATURES_OFFLINE_MEMORY_LIMIT"] = options.memory_limit
    needed = ["jinja2", "pandas"] if options.side == "history_by_hand" else []
    ours = ["llmfeatures.project", "llmfeatures.history", "llmfeatures.offline.duckdb", "pyarrow.parquet"]
    if options.side == "history_ours":
        ours.append("pandas")  # pyarrow loads it, where it is installed, to look at Python objects
    for module in ["duckdb", "pyarrow", *(ours if options.side.endswith("ours") else needed)]:
        importlib.import_module(module)  # before the clock starts
    start = time.perf_counter()
    rows = SIDES[options.side](options)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "rows": rows, "peak_mib": peak}))


if __name__ == "__main__":
    main()
