"""`build_context` beside what one writes by hand for the same fields, in turns.

    python -m tests.benchmarks.build_context [one | many | sqlite] [ROUNDS]

``one`` (the default): a user on Redis, beside redis-py's own HMGET and a bare socket's. ``many``: 100 users in one
call, beside a redis-py pipeline of 100 HMGETs. ``sqlite``: a user in the embedded store, beside the bare query, and
the bare query with a bare Jinja render.

It starts a Redis of its own on loopback with 10,000 users. A busy loop of the lowest priority keeps the cores awake,
since on an idle machine every round trip pays for waking one, which hides what the software costs. Each round
times the calls in turns, user by user; it prints the median of each round and the ratios to the first, round by
round. The timed call reads ``messages``, ``prompt_id`` and every status, keeps nothing between calls and has the
default timeout.
"""

from __future__ import annotations

import random
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import redis

from llmfeatures import Project, PromptContext
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


def measure(
    calls: dict[str, Callable[[Any], object]], arguments: Sequence[Any], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """The p50 and p99 in microseconds of each call, per round; the calls take turns, argument by argument."""
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for argument in arguments[: len(arguments) // 12]:
        for call in calls.values():
            call(argument)
    for _ in range(rounds):
        taken: dict[str, list[int]] = {name: [] for name in calls}
        for argument in arguments:
            for name, call in calls.items():
                start = time.perf_counter_ns()
                call(argument)
                taken[name].append(time.perf_counter_ns() - start)
        for name, times in taken.items():
            times.sort()
            results[name].append((times[len(times) // 2] / 1e3, times[int(len(times) * 0.99)] / 1e3))
    return results


def read(ctx: PromptContext) -> object:
    """What the timed calls look at."""
    return ctx.messages, ctx.prompt_id, [one.status for one in ctx.features.values()]


def one(project: Project, url: str) -> dict[str, Callable[[Any], object]]:
    """One user, on Redis."""
    builder, client = project.builder(), redis.Redis.from_url(url)
    return {
        "redis-py HMGET": lambda user: client.hmget(f"bench:user_id:{user}", FEATURES),
        "build_context": lambda user: read(builder.build_context("recommender", user_id=user)),
        "bare socket HMGET": bare_hmget(client.connection_pool.connection_kwargs["port"]),
    }


def many(project: Project, url: str) -> dict[str, Callable[[Any], object]]:
    """Many users, on Redis."""
    builder, client = project.builder(), redis.Redis.from_url(url)

    def pipelined(users: list[str]) -> object:
        pipeline = client.pipeline(transaction=False)
        for user in users:
            pipeline.hmget(f"bench:user_id:{user}", FEATURES)
        return pipeline.execute()

    return {
        "redis-py pipeline": pipelined,
        "get_online_features": lambda users: project.get_online_features(
            FEATURES, [{"user_id": user} for user in users]
        ),
        "build_contexts": lambda users: [
            read(ctx) for ctx in builder.build_contexts("recommender", [{"user_id": user} for user in users])
        ],
    }


def sqlite(project: Project, url: str) -> dict[str, Callable[[Any], object]]:
    """One user, in the embedded store; ``url`` is its file."""
    builder, connection = project.builder(), sqlite3.connect(url)
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(TEMPLATE.rpartition("---\n")[2])
    query = f"SELECT field, value FROM cells WHERE key = ? AND field IN ({', '.join('?' * len(FEATURES))})"

    def bare(user: str) -> dict[str, str]:
        return dict(connection.execute(query, (f"bench:user_id:{user}", *FEATURES)).fetchall())

    return {
        "bare query": bare,
        "query and render": lambda user: template.render(
            {name: orjson.loads(text) for name, text in bare(user).items()} | {"user_id": user}
        ),
        "build_context": lambda user: read(builder.build_context("recommender", user_id=user)),
    }


def main() -> None:
    """Print each round's medians and the ratios to the first call's."""
    kinds = {"one": one, "many": many, "sqlite": sqlite}
    given = sys.argv[1:]
    kind = given.pop(0) if given and given[0] in kinds else "one"
    rounds = int(given[0]) if given else 5
    users: list[Any] = random.Random(7).sample(USERS, 6_000)
    if kind == "many":
        users = [users[first : first + 100] for first in range(0, 6_000, 100)] * 5
    awake = subprocess.Popen(["nice", "-n", "19", sys.executable, "-c", "while True: pass"])
    try:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
            url = str(Path(folder) / "online.sqlite") if kind == "sqlite" else held.enter_context(redis_server())
            project = make_project(Path(folder), f"sqlite:{url}" if kind == "sqlite" else url)
            results = measure(kinds[kind](project, url), users, rounds)
            project.close()
    finally:
        awake.kill()
        awake.wait()
    first = next(iter(results.values()))
    for name, times in results.items():
        for place, percentile in enumerate(("p50", "p99")):
            mine = [one[place] for one in times]
            ratio = statistics.median(one[place] / base[place] for one, base in zip(times, first, strict=True))
            rounds_text = " ".join(f"{one:.1f}" for one in mine)
            print(f"{name:19} {percentile} {statistics.median(mine):7.1f} us  {ratio:.2f} x   ({rounds_text})")


if __name__ == "__main__":
    main()
