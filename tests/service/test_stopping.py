"""Stopping a real service under load, SIGHUP, and workers that die."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from llmfeatures import Project
from llmfeatures.errors import PromptError
from llmfeatures.service import listening, run
from llmfeatures.service.app import Service
from llmfeatures.service.log import RequestLog
from llmfeatures.service.protocol import LAST_CALL
from llmfeatures.service.server import Server
from llmfeatures.service.workers import Job
from tests.service.test_service import samples
from tests.service.world import PROMPTS, Running, make_world, served

BODY = b'{"user_id": "8a2f"}'
HEAD = (
    b"POST /v1/prompts/home/context HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)
REQUEST = HEAD % len(BODY) + BODY


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that comes."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Load:
    """Clients that never stop: each sends on its connection until the service closes it after an answer, and then
    connects again. Some keep connections and some do not, some pause before they send."""

    def __init__(self, running: Running) -> None:
        self.port = int(running.url.rpartition(":")[2])
        self.answered: list[str] = []
        self.dropped: list[str] = []
        self.connected = 0
        self.going = True

    async def client(self, number: int) -> None:
        draw = random.Random(number)
        while self.going:
            try:
                reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", self.port), 3)
            except (OSError, TimeoutError):
                await asyncio.sleep(0.02)
                continue
            self.connected += 1
            try:
                closed = False
                while self.going and not closed:
                    if number % 3 == 0:
                        await asyncio.sleep(draw.random() * 0.2)
                    closed = await self.ask(reader, writer)
                    if number % 2 == 0:
                        break
            except (OSError, EOFError) as error:
                self.dropped.append(repr(error))
            finally:
                writer.close()

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request on a connection. Returns whether the service closes it afterwards."""
        writer.write(REQUEST)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        self.answered.append(json.loads(await reader.readexactly(length))["request_id"])
        return b"connection: close" in head.lower()

    async def run(self, clients: int, during: Callable[[], None]) -> None:
        tasks = [asyncio.create_task(self.client(number)) for number in range(clients)]
        await asyncio.to_thread(during)
        self.going = False
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.heavy)])
def test_stopping_answers_every_request_of_clients_that_never_stop(
    tmp_path: Path, redis_url: str, workers: int
) -> None:
    root = make_world(tmp_path / "world", redis_url, name=f"stop{workers}", serve='drain = "500ms"')
    with served(root, "--workers", str(workers)) as running:
        until(lambda: len(running.lines("started")) == workers)
        load, not_ready = Load(running), list[bool]()

        def stop() -> None:
            time.sleep(1)
            running.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            while running.process.poll() is None and time.monotonic() - began < 30:
                try:
                    # on a connection of its own, as a load balancer asks
                    found = httpx.get(f"{running.url}/health/ready", timeout=3)
                    not_ready.append(found.status_code == 503)
                except httpx.HTTPError:
                    time.sleep(0.01)
            time.sleep(0.2)

        asyncio.run(load.run(12, stop))
        assert running.process.returncode == 0
    assert not load.dropped  # whoever was connected was answered
    accepted = [line["request_id"] for line in running.lines() if line["prompt"] == "home"]
    assert len(accepted) > 50
    assert sorted(accepted) == sorted(load.answered)
    assert not [line for line in running.lines() if line["status"] >= 500 and line["route"] != "/health/ready"]
    assert any(not_ready)
    assert [line["drain_ms"] for line in running.lines("stopping")] == [500] * workers
    assert len(running.lines("stopped")) == workers
    assert not [line for line in running.log.read_text().splitlines() if not line.startswith("{")]


@asynccontextmanager
async def stoppable(world: Path) -> AsyncIterator[tuple[Server, socket.socket]]:
    """A server in this process, whose loop does nothing while a test does not wait; and its listener."""
    project = Project.load(world)
    (listener,) = listening.open_sockets("127.0.0.1", 0)
    before = signal.getsignal(signal.SIGHUP)
    service, started = Service(project, keys_needed=False, log=RequestLog("off"), tallies=None), asyncio.Event()
    server = Server(service, started=started.set)
    serving = asyncio.create_task(server.serve([listener]))
    await started.wait()
    try:
        yield server, listener
    finally:
        server.force_exit = server.should_exit = True
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        signal.signal(signal.SIGHUP, before)


def answer_to(one: socket.socket) -> bytes:
    """All that comes until the service hangs up."""
    data = b""
    while more := one.recv(65536):
        data += more
    return data


@pytest.mark.parametrize("can_turn_away", [True, False])
async def test_a_connection_that_the_kernel_has_when_the_service_stops_is_answered(
    world: Path, monkeypatch: pytest.MonkeyPatch, can_turn_away: bool
) -> None:
    if can_turn_away and sys.platform != "linux":
        pytest.skip("only Linux can")
    if not can_turn_away:
        monkeypatch.setattr(listening, "turn_away", lambda _: False)
    async with stoppable(world) as (server, listener):
        address = listener.getsockname()
        with ExitStack() as opened:
            waiting = [opened.enter_context(socket.create_connection(address, 20)) for _ in range(20)]
            for one in waiting[:10]:
                one.sendall(REQUEST)
            stopping = asyncio.create_task(server.shutdown([listener]))
            await asyncio.sleep(0)
            if can_turn_away:
                late = opened.enter_context(socket.socket())
                late.settimeout(0.01)
                with pytest.raises(TimeoutError):  # it does not get to a point where it would be dropped
                    late.connect(address)
            await asyncio.sleep(0.4)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address, 5)
            for one in waiting[10:]:
                one.sendall(REQUEST)
            for one in waiting:
                answer = await asyncio.to_thread(answer_to, one)
                assert answer.startswith(b"HTTP/1.1 200")
                assert b"connection: close" in answer.lower()
            await stopping


async def test_an_idle_connection_is_not_closed_over_a_request_that_has_come(world: Path) -> None:
    async with stoppable(world) as (server, listener):
        with (
            socket.create_connection(listener.getsockname(), 20) as asking,
            socket.create_connection(listener.getsockname(), 20) as idle,
        ):
            asking.sendall(REQUEST)
            await asyncio.sleep(0.2)
            first = asking.recv(65536)
            stopping = asyncio.create_task(server.shutdown([listener]))
            await asyncio.sleep(LAST_CALL / 2)
            asking.sendall(REQUEST)  # the loop has not read it, as when it is busy, when it is time to close
            for connection in list(server.server_state.connections):
                connection._close_idle()
            both = first + await asyncio.to_thread(answer_to, asking)
            assert both.count(b"HTTP/1.1 200") == 2
            assert await asyncio.to_thread(answer_to, idle) == b""
            await stopping


async def test_a_client_that_asks_for_what_is_not_there_does_not_hold_up_the_end(world: Path) -> None:
    async with stoppable(world) as (server, listener):
        with socket.create_connection(listener.getsockname(), 20) as one:
            request = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
            one.sendall(request)
            await asyncio.sleep(0.2)
            stopping = asyncio.create_task(server.shutdown([listener]))
            await asyncio.sleep(0.3)
            one.sendall(request)
            answers = await asyncio.to_thread(answer_to, one)
            assert answers.count(b"HTTP/1.1 404") == 2
            assert answers.count(b"connection: close") == 1
            await stopping


def test_ctrl_c_stops_at_once_and_leaves_nothing(tmp_path: Path, redis_url: str) -> None:
    root = make_world(tmp_path / "world", redis_url, name="interrupted", serve='drain = "60s"')
    (tmp_path / "temporary").mkdir()
    for workers in ("1", "2"):
        with served(root, "--workers", workers, environment={"TMPDIR": str(tmp_path / "temporary")}) as running:
            running.process.send_signal(signal.SIGINT)
            assert running.process.wait(20) == 0
            assert len(running.lines("stopped")) == int(workers)
    assert not list((tmp_path / "temporary").glob("llmfeatures*"))


def test_a_slow_request_is_finished_and_then_its_connection_is_closed(tmp_path: Path, redis_url: str) -> None:
    root = make_world(tmp_path / "world", redis_url, name="slow", serve='drain = "100ms"')
    body = b'{"user_id": "8a2f"}'
    with served(root) as running:
        import socket

        with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), 20) as one:
            one.sendall(b"POST /v1/prompts/home/context HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            one.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body[:5])
            time.sleep(0.3)
            running.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)  # long after the listener is gone
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{running.url}/health/live")
            one.sendall(body[5:])
            one.settimeout(20)
            data = b""
            while more := one.recv(65536):
                data += more
        assert data.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in data.lower()
        assert b"drama" in data
        running.process.wait(20)


def test_one_process_goes_on_after_a_hangup(tmp_path: Path, redis_url: str) -> None:
    root = make_world(tmp_path / "world", redis_url, name="hangup")
    with served(root) as running:
        running.process.send_signal(signal.SIGHUP)
        until(lambda: bool(running.lines("hangup")))
        assert "restart" in running.lines("hangup")[0]["problem"]
        assert running.context("home", user_id="8a2f").status_code == 200


@pytest.mark.heavy
def test_workers_are_replaced_when_they_die_and_for_new_prompts_without_a_request_dropped(
    tmp_path: Path, redis_url: str
) -> None:
    root = make_world(tmp_path / "world", redis_url, name="workers", serve='drain = "200ms"')
    with served(root, "--workers", "2") as running:
        until(lambda: len(running.lines("started")) == 2)
        for _ in range(20):
            with httpx.Client(base_url=running.url) as client:
                client.post("/v1/prompts/home/context", json={"user_id": "8a2f"})
        key = ("llmfeatures_requests_total", "200", "home", "/v1/prompts/{name}/context")
        until(lambda: samples(running.client.get("/metrics").text).get(key) == 20)
        os.kill(running.lines("started")[0]["pid"], signal.SIGKILL)
        until(lambda: len(running.lines("started")) == 3)
        assert len(running.lines("worker_died")) == 1

        home = root / "prompts" / "home.prompt.j2"
        home.write_text(home.read_text().replace("likes", "loves"))
        load = Load(running)

        def reload() -> None:
            running.process.send_signal(signal.SIGHUP)
            until(lambda: len(running.lines("stopped")) == 2)

        asyncio.run(load.run(6, reload))
        assert not load.dropped
        assert len(running.lines("started")) == 5
        with httpx.Client(base_url=running.url) as client:
            found = client.post("/v1/prompts/home/context", json={"user_id": "8a2f"}).json()
            assert "loves drama" in found["messages"][0]["content"]
            until(lambda: samples(client.get("/metrics").text)[key] >= 20 + len(load.answered))

        registry = (root / "features.py").read_text()
        (root / "features.py").write_text("registry = 5")
        running.process.send_signal(signal.SIGHUP)
        until(lambda: bool(running.lines("reload")))
        with httpx.Client(base_url=running.url) as client:
            assert client.post("/v1/prompts/home/context", json={"user_id": "8a2f"}).status_code == 200
        assert "registry" in running.lines("start")[0]["problem"]
        (root / "features.py").write_text(registry)

        home.write_text("{{ nothing_like_it }}")  # it would take a prompt away that is served
        running.process.send_signal(signal.SIGHUP)
        until(lambda: len(running.lines("reload")) == 2)
        with httpx.Client(base_url=running.url) as client:
            assert client.post("/v1/prompts/home/context", json={"user_id": "8a2f"}).status_code == 200
            assert client.get("/health/ready").json()["status"] == "ready"
        assert "'home' compiled before" in running.lines("start")[1]["problem"]
        (root / "prompts" / "strict.prompt.j2").unlink()  # which is no mistake
        home.write_text(PROMPTS["home"])
        stopped = len(running.lines("stopped"))
        running.process.send_signal(signal.SIGHUP)
        until(lambda: len(running.lines("stopped")) == stopped + 2)
        with httpx.Client(base_url=running.url) as client:
            assert client.post("/v1/prompts/strict/context", json={"user_id": "8a2f"}).status_code == 404


def test_a_worker_that_would_break_a_prompt_does_not_start(tmp_path: Path) -> None:
    root = make_world(tmp_path / "world", materialize=False)
    (root / "prompts" / "home.prompt.j2").write_text("{{ nothing_like_it }}")
    job = Job(root=root, options={"log": "off"}, keys_needed=False, tallies=tmp_path)
    started = run.server(job)  # as a first one it serves the others
    assert started.prompts == ["all", "strict", "support/answer"]
    run.server(replace(job, prompts=frozenset(["all", "not there any more"])))
    with pytest.raises(PromptError, match=r"'home' compiled before, and does not now: .*nothing_like_it"):
        run.server(replace(job, prompts=frozenset(["all", "home"])))


def test_workers_end_with_their_parent(tmp_path: Path, redis_url: str) -> None:
    root = make_world(tmp_path / "world", redis_url, name="orphans", serve='drain = "1ms"')
    with served(root, "--workers", "2") as running:
        until(lambda: len(running.lines("started")) == 2)
        running.process.kill()
        until(lambda: len(running.lines("stopped")) == 2)
