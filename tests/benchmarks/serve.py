"""The service beside a typed FastAPI route written by hand that only does the same HMGET, and bare Starlette, in turns.

    python -m tests.benchmarks.serve [ROUNDS] [--seconds 5] [--connections 16]

All run on uvicorn with uvloop and httptools, one worker, without uvicorn's access log. The route by hand uses
redis.asyncio and pydantic models for its body and its answer and writes no log of its own; Starlette parses the body
and answers with its user id, and asks no Redis. The service is as it comes, with a line of log per request (to a file),
and answers with a finished prompt. It starts a Redis of its own on loopback with 10,000 users. Where there are two
cores the server has one to itself; the load, from ``wrk`` when that is installed and else from a process of raw
sockets, shares the other with Redis. A round is a run of each, every second one in the reverse order; it prints
requests per second, p50 and p99 of each run, and the ratios of the medians.
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
from tests.servers import free_port, start_redis, stop

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
BARE = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route


async def features(request):
    ask = await request.json()
    return JSONResponse({"user_id": ask["user_id"]})


app = Starlette(routes=[Route("/features", features, methods=["POST"])])
"""
SIDES = ("by hand", "starlette", "ours")
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


def command_of(side: str, folder: Path, port: int) -> tuple[list[str], str]:
    """How a side is started, and the path that it is asked on."""
    if side == "ours":
        command = [sys.executable, "-m", "llmfeatures", "serve", "--port", str(port), "--project", str(folder)]
        return command, "/v1/prompts/recommender/context"
    app = "by_hand:app" if side == "by hand" else "bare:app"
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--app-dir", str(folder)]
    return [*command, "--no-access-log", "--loop", "uvloop", "--http", "httptools"], "/features"


def measured(side: str, folder: Path, url: str, seconds: float, connections: int) -> Figures:
    """One run of a side."""
    port = free_port()
    command, path = command_of(side, folder, port)
    with server(command, {"REDIS_URL": url}, port, folder / "log.txt") as process:
        load(port, path, 1, connections, folder)
        before = cpu_seconds(process)
        found = load(port, path, seconds, connections, folder)
        return replace(found, cpu=(cpu_seconds(process) - before) / (found.rate * seconds) * 1e6)


def main() -> None:
    """Print the rounds."""
    parser = argparse.ArgumentParser(description="The service beside a route written by hand, and bare Starlette.")
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    rates: dict[str, list[Figures]] = {side: [] for side in SIDES}
    with start_redis() as redis, tempfile.TemporaryDirectory() as name:
        if pinned(1):
            os.sched_setaffinity(redis.process.pid, {1})
        folder = Path(name)
        make_project(folder, redis.url).close()
        (folder / "by_hand.py").write_text(BY_HAND)
        (folder / "bare.py").write_text(BARE)
        for number in range(options.rounds):
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                found = measured(side, folder, redis.url, options.seconds, options.connections)
                rates[side].append(found)
                print(
                    f"{side:9} {found.rate:8,.0f} requests/s  p50 {found.p50:6.2f} ms  p99 {found.p99:6.2f} ms  "
                    f"cpu {found.cpu:4.0f} us/request  errors {found.errors}",
                    flush=True,
                )
    medians = {
        side: {name: statistics.median(getattr(one, name) for one in found) for name in ("rate", "p50", "p99", "cpu")}
        for side, found in rates.items()
    }
    for side in SIDES[:2]:
        ratios = (f"{name} {figure / medians[side][name]:.2f}" for name, figure in medians["ours"].items())
        print(f"ours / {side}:  {'  '.join(ratios)}")


if __name__ == "__main__":
    main()
