"""The service beside a typed FastAPI route written by hand that only does the same HMGET, in turns.

    python -m tests.benchmarks.serve [ROUNDS] [--seconds 5] [--connections 16]

Both run on uvicorn with uvloop and httptools, one worker, without uvicorn's access log; the route by hand uses
redis.asyncio and pydantic models for its body and its answer and writes no log of its own, the service is as it comes,
with a line of log per request (to a file). It starts a Redis of its own on loopback with 10,000 users. The server has
one core to itself where there are two; the load, from ``wrk`` when that is installed and else from a process of raw
sockets, shares the other with Redis. A round is a run of each; it prints requests per second, p50 and p99 of each
round, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tests.benchmarks.build_context import USERS, make_project
from tests.servers import free_port, redis_server, stop

BY_HAND = """
import os
from fastapi import FastAPI
from pydantic import BaseModel
import redis.asyncio

app = FastAPI()
client = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
FIELDS = ["user_segment", "watch_count_30d", "last_genre"]


class Ask(BaseModel):
    user_id: str


class Features(BaseModel):
    user_segment: str | None
    watch_count_30d: str | None
    last_genre: str | None


@app.post("/features")
async def features(ask: Ask) -> Features:
    found = await client.hmget(f"bench:user_id:{ask.user_id}", FIELDS)
    return Features(**dict(zip(FIELDS, found)))
"""
SCRIPT = """
math.randomseed(7)
request = function()
  return wrk.format("POST", "{path}", {{["Content-Type"] = "application/json"}},
    string.format('{{"user_id":"u%08d"}}', math.random(0, {users} - 1)))
end
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format("RESULT %f %f %f %d\\n", summary.requests / (summary.duration / 1e6),
    latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True)
class Figures:
    """Requests per second, latency in milliseconds, and answers that were not 200."""

    rate: float
    p50: float
    p99: float
    errors: int
    cpu: float = 0.0
    """Microseconds of the server's CPU per request, which other work on the machine does not change much."""


@contextmanager
def server(command: list[str], environment: dict[str, str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server on a core of its own."""
    with log.open("w") as out:
        process = subprocess.Popen([*pinned(0), *command], env={**os.environ, **environment}, stderr=out, stdout=out)
        try:
            deadline = time.monotonic() + 30
            while True:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(log.read_text())
                time.sleep(0.05)
            yield process
        finally:
            stop(process)


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """What a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pinned(core: int) -> list[str]:
    """What stands before a command that is bound to a core."""
    cores = os.cpu_count() or 1
    return ["taskset", "-c", str(core)] if cores > 1 and shutil.which("taskset") else []


def load(port: int, path: str, seconds: float, connections: int, folder: Path) -> Figures:
    """So many seconds of requests for users at random, on connections that are kept."""
    if shutil.which("wrk"):
        script = folder / "load.lua"
        script.write_text(SCRIPT.format(path=path, users=len(USERS)))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script), f"http://127.0.0.1:{port}"]
        out = subprocess.run([*pinned(1), *command], check=True, capture_output=True, text=True).stdout
        match = re.search(r"RESULT (\S+) (\S+) (\S+) (\S+)", out)
        assert match, out
        return Figures(float(match[1]), float(match[2]) / 1000, float(match[3]) / 1000, int(float(match[4])))
    command = [sys.executable, "-m", "tests.benchmarks.load", str(port), path, str(seconds), str(connections)]
    out = subprocess.run([*pinned(1), *command], check=True, capture_output=True, text=True).stdout
    return Figures(**json.loads(out))


def main() -> None:
    """Print the rounds."""
    parser = argparse.ArgumentParser(description="The service beside a route written by hand.")
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    rates: dict[str, list[Figures]] = {"by hand": [], "ours": []}
    with redis_server() as url, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_project(folder, url).close()
        (folder / "by_hand.py").write_text(BY_HAND)
        for number in range(options.rounds):
            for side in rates if number % 2 == 0 else reversed(rates):
                port = free_port()
                if side == "ours":
                    command = [sys.executable, "-m", "llmfeatures", "serve", "--port", str(port)]
                    command += ["--project", str(folder)]
                    path = "/v1/prompts/recommender/context"
                else:
                    command = [sys.executable, "-m", "uvicorn", "by_hand:app", "--port", str(port)]
                    command += ["--app-dir", str(folder), "--no-access-log", "--loop", "uvloop", "--http", "httptools"]
                    path = "/features"
                with server(command, {"REDIS_URL": url}, port, folder / "log.txt") as process:
                    load(port, path, 1, options.connections, folder)
                    before = cpu_seconds(process)
                    found = load(port, path, options.seconds, options.connections, folder)
                    used = cpu_seconds(process) - before
                    found = replace(found, cpu=used / (found.rate * options.seconds) * 1e6)
                rates[side].append(found)
                print(
                    f"{side:8} {found.rate:8,.0f} requests/s  p50 {found.p50:6.2f} ms  p99 {found.p99:6.2f} ms  "
                    f"cpu {found.cpu:4.0f} us/request  errors {found.errors}",
                    flush=True,
                )
    hand, ours = (
        {name: statistics.median(getattr(one, name) for one in found) for name in ("rate", "p50", "p99", "cpu")}
        for found in rates.values()
    )
    for name, figure in ours.items():
        print(f"{name:5} ours / by hand: {figure / hand[name]:.2f}")


if __name__ == "__main__":
    main()
