"""Stopping a real service under load, and workers that die."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.service.test_service import samples
from tests.service.world import Running, make_world, served


class Load:
    """Clients that ask as fast as they can, on connections that are kept."""

    def __init__(self, running: Running, count: int) -> None:
        self.url = running.url
        self.answered: list[str] = []
        self.failed: list[str] = []
        self.refused = 0
        self.go_on = True
        self.threads = [threading.Thread(target=self.ask) for _ in range(count)]
        for one in self.threads:
            one.start()

    def ask(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while self.go_on:
                try:
                    answer = client.post("/v1/prompts/home/context", json={"user_id": "8a2f"})
                except httpx.ConnectError:
                    self.refused += 1  # nobody listens any more: it was not accepted
                    return
                except httpx.RemoteProtocolError:
                    # an idle connection was closed as the request was on its way; no byte of an answer came. What the
                    # service accepted is in its log, and is compared below
                    self.failed.append("closed")
                    return
                except httpx.HTTPError as error:
                    self.failed.append(type(error).__name__)
                    return
                if answer.status_code == 200:
                    self.answered.append(answer.json()["request_id"])
                else:
                    self.failed.append(str(answer.status_code))

    def join(self) -> None:
        for one in self.threads:
            one.join(60)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.heavy)])
def test_stopping_under_load_drops_no_request_that_was_accepted(tmp_path: Path, redis_url: str, workers: int) -> None:
    root = make_world(tmp_path / "world", redis_url, name=f"stop{workers}", serve='drain = "500ms"')
    with served(root, "--workers", str(workers)) as running:
        load = Load(running, 6)
        time.sleep(1)
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        not_ready = False
        while running.process.poll() is None and time.monotonic() - began < 30:
            try:
                not_ready = not_ready or running.client.get("/health/ready").status_code == 503
            except httpx.HTTPError:
                time.sleep(0.01)
        load.join()
        running.process.wait(30)
    accepted = [line["request_id"] for line in running.lines() if line["prompt"] == "home" and line["status"] == 200]
    assert len(accepted) > 20
    assert sorted(accepted) == sorted(load.answered)  # every request that the service took was answered, whole
    assert not [line for line in running.lines() if line["status"] >= 500 and line["route"] != "/health/ready"]
    assert set(load.failed) <= {"closed", "ReadError"}  # a connection that the kernel had, and no process yet
    assert not_ready
    assert [line["drain_ms"] for line in running.lines("stopping")] == [500] * workers
    assert len(running.lines("stopped")) == workers


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


def test_a_worker_that_dies_is_replaced_and_its_numbers_stay(tmp_path: Path, redis_url: str) -> None:
    root = make_world(tmp_path / "world", redis_url, name="workers")
    with served(root, "--workers", "2") as running:
        deadline = time.monotonic() + 60
        while len(running.lines("started")) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for _ in range(20):
            with httpx.Client(base_url=running.url) as client:
                client.post("/v1/prompts/home/context", json={"user_id": "8a2f"})
        key = ("llmfeatures_requests_total", "200", "home", "/v1/prompts/{name}/context")
        while samples(running.client.get("/metrics").text).get(key) != 20:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        victim = running.lines("started")[0]["pid"]
        os.kill(victim, signal.SIGKILL)
        while len(running.lines("started")) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with httpx.Client(base_url=running.url) as client:
            assert client.post("/v1/prompts/home/context", json={"user_id": "8a2f"}).status_code == 200
            time.sleep(1.5)
            assert samples(client.get("/metrics").text)[key] >= 20
