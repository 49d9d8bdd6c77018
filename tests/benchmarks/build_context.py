"""`build_context` on Redis beside redis-py's own HMGET of the same fields and a bare socket's, in turns.

    python -m tests.benchmarks.build_context [ROUNDS]

It starts a Redis of its own on loopback with 10,000 users. A busy loop of the lowest priority keeps the cores awake,
since on an idle machine every round trip pays for waking one, which hides what the software costs. Each round
times the three in turns, user by user; it prints the median of each round and the ratio of the medians. The timed call
reads ``messages``, ``prompt_id`` and every status, keeps nothing between calls and has the default timeout.
"""

from __future__ import annotations

import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import redis

from llmfeatures import Project
from tests.servers import redis_server

FEATURES = ["user_segment", "watch_count_30d", "last_genre"]
USERS = [f"u{number:08d}" for number in range(10_000)]
TEMPLATE = """---
features:
  user_segment: {default: unknown}
  watch_count_30d: {default: 0}
  last_genre: {default: nothing yet}
---
You recommend shows for a streaming service.
Viewer: {{ user_segment }}, watched {{ watch_count_30d }} titles in the last 30 days, last genre: {{ last_genre }}.
Suggest 3 titles in a short, friendly message to {{ user_id }}.
"""


def make_project(root: Path, url: str) -> Project:
    """A project of three views with a row for each user, materialized."""
    at = pa.array([datetime(2026, 5, 7, tzinfo=UTC)] * len(USERS), pa.timestamp("us", "UTC"))
    values = {"user_segment": ["power_user"], "watch_count_30d": [47], "last_genre": ["documentary"]}
    views = ""
    for name, value in values.items():
        pq.write_table(
            pa.table({"user_id": USERS, name: value * len(USERS), "event_timestamp": at}), root / f"{name}.parquet"
        )
        dtype = "int" if name == "watch_count_30d" else "str"
        views += f"  - {{name: v_{name}, entity: user, source: {name}.parquet, features: {{{name}: {dtype}}}}}\n"
    (root / "features.yaml").write_text(f"entities:\n  - {{name: user, join_key: user_id}}\nviews:\n{views}")
    (root / "prompts").mkdir()
    (root / "prompts" / "recommender.prompt.j2").write_text(TEMPLATE)
    (root / "llmfeatures.toml").write_text(
        f'[project]\nname = "bench"\nregistry = "features.yaml"\n[online]\nurl = "{url}"\n'
    )
    project = Project.load(root)
    project.materialize()
    return project


def bare_hmget(port: int) -> Callable[[str], bytes]:
    """HMGET on a plain socket, with nothing done to the answer."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tail = b"".join(b"$%d\r\n%s\r\n" % (len(one), one.encode()) for one in FEATURES)

    def call(user: str) -> bytes:
        key = f"bench:user_id:{user}".encode()
        connection.sendall(b"*5\r\n$5\r\nHMGET\r\n$%d\r\n%s\r\n" % (len(key), key) + tail)
        return connection.recv(4096)

    return call


def measure(calls: dict[str, Callable[[str], object]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """The p50 and p99 in microseconds of each call, per round; the calls take turns user by user."""
    users = random.Random(7).sample(USERS, 6_000)
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        taken: dict[str, list[int]] = {name: [] for name in calls}
        for user in users:
            for name, call in calls.items():
                start = time.perf_counter_ns()
                call(user)
                taken[name].append(time.perf_counter_ns() - start)
        for name, times in taken.items():
            times.sort()
            results[name].append((times[len(times) // 2] / 1e3, times[int(len(times) * 0.99)] / 1e3))
    return results


def main() -> None:
    """Print each round's medians and the ratios to redis-py's HMGET."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    awake = [subprocess.Popen(["nice", "-n", "19", sys.executable, "-c", "while True: pass"])]
    try:
        with tempfile.TemporaryDirectory() as folder, redis_server() as url:
            builder = make_project(Path(folder), url).builder()
            client = redis.Redis.from_url(url)

            def build(user: str) -> object:
                ctx = builder.build_context("recommender", user_id=user)
                return ctx.messages, ctx.prompt_id, [one.status for one in ctx.features.values()]

            calls: dict[str, Callable[[str], object]] = {
                "redis-py HMGET": lambda user: client.hmget(f"bench:user_id:{user}", FEATURES),
                "build_context": build,
                "bare socket HMGET": bare_hmget(client.connection_pool.connection_kwargs["port"]),
            }
            for user in USERS[:500]:
                for call in calls.values():
                    call(user)
            results = measure(calls, rounds)
    finally:
        for process in awake:
            process.kill()
            process.wait()
    floor = results["redis-py HMGET"]
    for name, times in results.items():
        for place, percentile in enumerate(("p50", "p99")):
            mine = [one[place] for one in times]
            ratio = statistics.median(one[place] / base[place] for one, base in zip(times, floor, strict=True))
            rounds_text = " ".join(f"{one:.1f}" for one in mine)
            print(f"{name:18} {percentile} {statistics.median(mine):6.1f} us  {ratio:.2f} x HMGET   ({rounds_text})")


if __name__ == "__main__":
    main()
