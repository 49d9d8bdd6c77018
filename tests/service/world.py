"""A project with every dtype, two entities, a prompt that has each in a role, inputs, policies and an on-demand
feature; and the service of it, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from tests.servers import free_port

REGISTRY = """
from llmfeatures import Entity, FeatureView, PushSource, Registry, on_demand

user = Entity("user", join_key="user_id")
seat = Entity("seat", join_keys={"tenant_id": "int", "number": "int"})


@on_demand(user, "float", inputs={"factor": "float"})
def scaled(watched, factor):
    return None if watched is None else watched * factor


registry = Registry([
    FeatureView("profile", user, "data/profile.parquet", {
        "segment": "enum[casual,power]", "watched": "int", "score": "float", "member": "bool",
        "since": "timestamp", "born": "date", "balance": "decimal(10,2)", "tags": "list[str]", "extra": "json",
        "moments": "list[timestamp]",
    }, cadence="1d"),
    FeatureView("taste", user, PushSource(batch="data/taste.parquet"), {"genre": "str"}),
    FeatureView("seats", seat, "data/seats.parquet", {"status": "str"}),
    scaled,
])
"""
PROMPTS = {
    "home": "---\nfeatures:\n  segment: {default: unknown}\n  watched: {default: 0}\n"
    "  genre: {default: none yet}\n---\n"
    "{{ segment }} watched {{ watched }}, likes {{ genre }}, is {{ user_id | or_else('nobody') }}\n",
    "support/answer": "---\nentities: {asker: user, owner: user, place: seat}\nfeatures:\n"
    "  asker.genre: {default: nothing}\n  owner.genre: {default: nothing}\n  place.status: {default: free}\n"
    "inputs:\n  question: {type: str, max_chars: 200}\n  tone: {type: 'enum[warm,dry]', default: warm}\n"
    "  price: {type: 'decimal(8,2)', default: '0.00'}\n  at: {type: timestamp, default: '2026-05-07T00:00:00Z'}\n"
    "  days: {type: 'list[date]', default: []}\n  more: {type: json, default: {}}\n"
    "---\n{{ asker.genre }} {{ owner.genre }} {{ place.status }} {{ question }} {{ tone }} {{ price }} {{ at }} "
    "{{ days }} {{ more }}\n",
    "strict": "---\nfeatures:\n  genre: {on_missing: error}\n---\n{{ genre }}\n",
    "all": "---\nfeatures:\n"
    + "".join(
        f"  {name}: {{on_missing: none}}\n"
        for name in ("segment", "watched", "score", "member", "since", "born", "balance", "tags", "extra", "moments")
    )
    + "---\n{% for one in [segment, watched, score, member, since, born, balance, tags, extra, moments] %}"
    "{{ one | or_else('-') }} {% endfor %}\n",
}
AT = datetime(2026, 5, 7, 12, 0, 0, 250_000, tzinfo=UTC)
USERS = ("8a2f", "b13c")


def make_world(
    root: Path, url: str = "sqlite", *, name: str = "world", serve: str = "", materialize: bool = True
) -> Path:
    """The project in ``root``, filled."""
    from llmfeatures import Project

    data = root / "data"
    data.mkdir(parents=True)
    profile = {
        "user_id": list(USERS),
        "segment": ["power", None],
        "watched": [47, 2**53 + 1],
        "score": [0.1, -2.5],
        "member": [True, False],
        "since": [AT, datetime(1999, 1, 1, tzinfo=UTC)],
        "born": [date(1990, 2, 3), None],
        "balance": [Decimal("12.50"), Decimal("-0.01")],
        "tags": [["a", "ü"], []],
        "extra": ['{"a": [1, 12345678901234567890123], "b": null}', '"text"'],
        "moments": [[AT], None],
        "event_timestamp": [AT, AT],
    }
    moment = pa.timestamp("us", "UTC")
    types = {"born": pa.date32(), "balance": pa.decimal128(10, 2), "since": moment, "event_timestamp": moment}
    types["moments"] = pa.list_(moment)
    table = pa.table({name: pa.array(values, types.get(name)) for name, values in profile.items()})
    pq.write_table(table, data / "profile.parquet")
    stamps = pa.array([AT], moment)
    pq.write_table(
        pa.table({"user_id": ["8a2f"], "genre": ["drama"], "event_timestamp": stamps}), data / "taste.parquet"
    )
    seats = {"tenant_id": [1], "number": [2], "status": ["taken"], "event_timestamp": stamps}
    pq.write_table(pa.table(seats), data / "seats.parquet")
    (root / "features.py").write_text(REGISTRY)
    for prompt, text in PROMPTS.items():
        path = root / "prompts" / f"{prompt}.prompt.j2"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "llmfeatures.toml").write_text(
        f'[project]\nname = "{name}"\nregistry = "features.py"\nnow = "2026-05-07T23:00:00Z"\n'
        f'[online]\nurl = "{url}"\ntimeout = "2s"\n[serve]\n{serve}\n'
    )
    if materialize:
        project = Project.load(root)
        project.materialize()
        project.close()
    return root


@dataclass
class Running:
    """A service that runs, and what it has logged so far."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.url, timeout=20)

    def lines(self, event: str = "request") -> list[dict[str, Any]]:
        """The lines of its log of one kind."""
        time.sleep(0.1)  # lines are written a few at a time
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if line["event"] == event]

    def context(self, prompt: str, **given: Any) -> httpx.Response:
        """The answer to a request for a context."""
        return self.client.post(f"/v1/prompts/{prompt}/context", json=given)


@contextmanager
def served(root: Path, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[Running]:
    """``llmfeatures serve`` of a project, for the length of a block."""
    port, log = free_port(), root / f"serve-{time.monotonic_ns()}.log"
    command = [sys.executable, "-m", "llmfeatures", "serve", "--project", str(root), "--port", str(port), *options]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **(environment or {})}, start_new_session=True
        )
        try:
            _wait(port, process, log)
            running = Running(f"http://127.0.0.1:{port}", process, log)
            with running.client:
                yield running
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        with suppress(OSError, httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=5).status_code == 200:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(log.read_text())
        time.sleep(0.05)


def closed_port() -> int:
    """A port that refuses connections."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
