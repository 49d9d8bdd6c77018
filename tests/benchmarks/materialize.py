"""Materialize 100,000 users x 3 views into Redis, beside DuckDB and redis-py by hand, in turns.

    python -m tests.benchmarks.materialize [--rounds 5] [--size small] [--data DIR]

By hand, one query takes the newest value of each user from the three files, ties left to chance, and a redis-py
pipeline of ``HSET``s writes them: no timestamps, no order between writers, nothing to find out that a run died. Each
run is a process of its own, on a Redis of its own that is empty. Seconds are from the first call to the last, without
imports; CPU seconds are the run's and the server's; memory is the run's peak, and what the server holds at the end.
The first three users' values are compared at the end of every round.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis

from tests.benchmarks.turns import ROOT, arguments
from tests.benchmarks.workload import FEATURES, SIZES, write_history
from tests.servers import redis_server

PIPELINE = 5_000


def by_hand(folder: Path, url: str) -> None:
    """One query, one pipeline."""
    import duckdb
    import orjson

    newest = ", ".join(
        f"{name}_ AS (SELECT user_id, arg_max({name}, event_timestamp) AS {name} "
        f"FROM '{folder}/{name}.parquet' GROUP BY user_id)"
        for name in FEATURES
    )
    first, *others = (f"{name}_" for name in FEATURES)
    joins = " ".join(f"FULL JOIN {other} USING (user_id)" for other in others)
    sql = f"WITH {newest} SELECT user_id, {', '.join(FEATURES)} FROM {first} {joins}"
    table: Any = duckdb.connect().sql(sql).to_arrow_table()
    client = redis.Redis.from_url(url)
    pipeline = client.pipeline(transaction=False)
    columns = [column.to_pylist() for column in table.columns]
    for number, (user, *values) in enumerate(zip(*columns, strict=True), 1):
        cells = {name: orjson.dumps(value) for name, value in zip(FEATURES, values, strict=True) if value is not None}
        pipeline.hset(f"bench:user_id:{user}", mapping=cells)
        if number % PIPELINE == 0:
            pipeline.execute()
    pipeline.execute()


def ours(folder: Path, url: str) -> None:
    """`Project.materialize`, in full."""
    from llmfeatures import Project

    with tempfile.TemporaryDirectory() as state:
        os.environ |= {"LLMFEATURES_ONLINE_URL": url, "LLMFEATURES_STATE": state}
        project = Project.load(folder)
        report = project.materialize()
        project.close()
    assert all(one.full for one in report.views)


SIDES: dict[str, tuple[Callable[[Path, str], None], Sequence[str]]] = {
    "by hand": (by_hand, ["orjson"]),
    "llmfeatures": (ours, ["llmfeatures.project", "llmfeatures.materialize", "llmfeatures.offline.duckdb"]),
}


def one(side: str, folder: Path, url: str) -> None:
    """Run one side and print what it took."""
    run, modules = SIDES[side]
    for module in ["duckdb", "pyarrow.parquet", "pyarrow.compute", "redis", *modules]:
        importlib.import_module(module)  # before the clock starts
    start, cpu = time.perf_counter(), time.process_time()
    run(folder, url)
    taken = {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(taken))


def measured(side: str, folder: Path) -> tuple[dict[str, float], list[Any]]:
    """What a side took, and the values of a few users."""
    with redis_server() as url:
        client: Any = redis.Redis.from_url(url, decode_responses=True)
        before = client.info("cpu")["used_cpu_user"] + client.info("cpu")["used_cpu_sys"]
        command = [sys.executable, "-m", "tests.benchmarks.materialize", "--one", side, str(folder), url]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        after = client.info("cpu")["used_cpu_user"] + client.info("cpu")["used_cpu_sys"]
        server = {"server_cpu": after - before, "server_mib": client.info("memory")["used_memory"] / 2**20}
        values = [client.hmget(f"bench:user_id:u{user:08}", *FEATURES) for user in range(3)]
        client.close()
    return {**json.loads(done.stdout), **server}, values


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """The runs of each side and the ratios of its medians to the first side's, as Markdown."""
    lines = [
        "| | seconds, each run | median | CPU s, run + server | peak MiB | server's MiB |",
        "|---|---|---|---|---|---|",
    ]
    floor = statistics.median(run["seconds"] for run in next(iter(results.values())))
    for name, runs in results.items():
        middle = {what: statistics.median(run[what] for run in runs) for what in runs[0]}
        by_run = " ".join(f"{run['seconds']:.2f}" for run in runs)
        memory = f"{middle['peak_mib']:.0f} | {middle['server_mib']:.0f}"
        lines.append(
            f"| {name} | {by_run} | {middle['seconds']:.2f} ({middle['seconds'] / floor:.2f} x) | "
            f"{middle['cpu']:.2f} + {middle['server_cpu']:.2f} | {memory} |"
        )
    by_round = [mine["seconds"] / hand["seconds"] for hand, mine in zip(*results.values(), strict=True)]
    return "\n".join([*lines, "", "ratio of each round: " + " ".join(f"{ratio:.2f}" for ratio in by_round)])


def main() -> None:
    """Print each run and the ratios of the medians."""
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
        return
    options: argparse.Namespace = arguments("Materialize into Redis, beside a script by hand.", prompts=0).parse_args()
    size = SIZES[options.size]
    folder = options.data / size.name
    write_history(folder, size)
    results: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        held = []
        for side, runs in results.items():
            taken, values = measured(side, folder)
            runs.append(taken)
            held.append(values)
        assert held[0] == held[1], "the two sides' values differ"
    print(f"{size.users:,} users x {len(FEATURES)} views, {sum(size.rows):,} rows\n\n{table(results)}")


if __name__ == "__main__":
    main()
