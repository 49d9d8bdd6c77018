"""Limits of a real service: sizes, rows, slow clients, too much at once."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from llmfeatures import Client, errors
from tests.online.proxy import proxy_to
from tests.service.world import Running, make_world, served

LIMITS = 'max_body = 2000\nmax_rows = 3\nmax_concurrency = 2\nhead_timeout = "500ms"\nbody_timeout = "500ms"\n'
HEAD = b"POST /v1/prompts/home/context HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Running]:
    """A service with small limits."""
    root = make_world(tmp_path_factory.mktemp("limited"), redis_url, name="limited", serve=LIMITS)
    with served(root) as found:
        yield found


def connected(running: Running) -> socket.socket:
    """A bare connection."""
    return socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), 20)


def answered(connection: socket.socket) -> tuple[int, dict[str, object], bool]:
    """The status and body of what comes, and whether the server then hangs up."""
    data = b""
    connection.settimeout(20)
    while True:
        head, found, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0) if found else 0
        if found and len(body) >= length:
            break
        more = connection.recv(65536)
        assert more, data
        data += more
    return int(head.split()[1]), json.loads(body), b"connection: close" in head.lower()


def test_a_body_that_is_too_large_is_refused_while_it_is_read(limited: Running) -> None:
    with connected(limited) as one:
        one.sendall(HEAD + b"Content-Length: 2001\r\n\r\n")  # the body is not even waited for
        status, body, closed = answered(one)
        assert (status, body["error"]["code"], closed) == (413, "too_large", True)
    with connected(limited) as one:
        one.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        one.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
        one.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")  # and its end never comes
        status, body, closed = answered(one)
        assert (status, body["error"]["code"], closed) == (413, "too_large", True)
    whole = b'{"user_id": "8a2f"}'
    with connected(limited) as one:
        one.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for at in range(len(whole)):
            one.sendall(b"1\r\n" + whole[at : at + 1] + b"\r\n")
        one.sendall(b"0\r\n\r\n")
        assert answered(one)[0] == 200


def test_a_body_that_is_much_too_large_is_answered_and_not_cut_off(limited: Running) -> None:
    rows = [{"user_id": "x" * 1000}] * 5000
    for ask in (limited.client.post, httpx.post):
        answer = ask(f"{limited.url}/v1/prompts/home/contexts", json={"rows": rows})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    with Client(limited.url) as client, pytest.raises(errors.RequestError, match="fewer rows"):
        client.build_contexts("home", rows)


def hung_up_after(connection: socket.socket) -> float:
    """Seconds until the server hangs up; whatever it says first is not looked at."""
    began = time.monotonic()
    with suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return time.monotonic() - began


def test_a_head_that_does_not_come(limited: Running) -> None:
    with connected(limited) as silent, connected(limited) as slow, connected(limited) as second:
        second.sendall(HEAD + b"Content-Length: 19\r\n\r\n" + b'{"user_id": "8a2f"}')
        assert answered(second)[0] == 200
        second.sendall(HEAD[:20])
        began = time.monotonic()
        with suppress(OSError):
            for at in range(len(HEAD)):  # a byte now and then gives no more time
                slow.sendall(HEAD[at : at + 1])
                time.sleep(0.1)
                assert time.monotonic() - began < 20
        assert hung_up_after(slow) < 5
        assert hung_up_after(silent) < 5
        assert hung_up_after(second) < 5
    with connected(limited) as kept:
        for _ in range(2):
            kept.sendall(HEAD + b"Content-Length: 19\r\n\r\n" + b'{"user_id": "8a2f"}')
            assert answered(kept)[0] == 200
            time.sleep(0.8)  # an idle connection has `keep_alive`


def test_a_head_that_is_too_large(limited: Running) -> None:
    with connected(limited) as one:
        with suppress(OSError):
            for number in range(2000):
                one.sendall(b"POST / HTTP/1.1\r\n" if not number else b"X-%d: %s\r\n" % (number, b"x" * 1000))
        assert hung_up_after(one) < 5
    with connected(limited) as one:
        one.sendall(b"nonsense\r\n\r\n")
        assert hung_up_after(one) < 5
    problems = [line["problem"] for line in limited.lines("server")]
    assert any("Invalid HTTP request" in one for one in problems)  # as JSON, like all lines
    assert limited.context("home", user_id="8a2f").status_code == 200


def test_too_many_rows(limited: Running) -> None:
    rows = [{"user_id": "8a2f"}] * 4
    for path, body in (
        ("/v1/prompts/home/contexts", {}),
        ("/v1/features", {"features": ["genre"]}),
        ("/v1/push/taste", {}),
    ):
        answer = limited.client.post(path, json={**body, "rows": rows})
        assert answer.status_code == 422
        assert "at most 3" in answer.json()["error"]["message"]


def test_a_body_that_does_not_come(limited: Running) -> None:
    with connected(limited) as one:
        one.sendall(HEAD + b"Content-Length: 20\r\n\r\n{")
        status, body, closed = answered(one)
        assert (status, body["error"]["code"], closed) == (408, "request_timeout", True)
    with connected(limited) as one:
        one.sendall(HEAD + b"Content-Length: 20\r\n\r\n{")
    deadline = time.monotonic() + 20
    while not [line for line in limited.lines() if line["status"] == 499]:
        assert time.monotonic() < deadline
    assert limited.context("home", user_id="8a2f").status_code == 200


def test_more_at_once_than_allowed_is_told_to_come_back(limited: Running) -> None:
    waiting = [connected(limited) for _ in range(2)]
    for one in waiting:
        one.sendall(HEAD + b"Content-Length: 20\r\n\r\n{")
    deadline = time.monotonic() + 20
    while True:
        answer = limited.context("home", user_id="8a2f")
        if answer.status_code == 503:
            break
        assert time.monotonic() < deadline
        for one in waiting:
            one.close()
        waiting = [connected(limited) for _ in range(2)]
        for one in waiting:
            one.sendall(HEAD + b"Content-Length: 20\r\n\r\n{")
    assert answer.json()["error"]["code"] == "overloaded"
    assert answer.headers["retry-after"] == "1"
    assert limited.client.get("/health/live").status_code == 200
    for one in waiting:
        one.close()


def test_an_outage_of_the_store_is_no_error_but_where_the_policy_says_so(tmp_path: Path, redis_url: str) -> None:
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    with proxy_to(port) as proxy:
        root = make_world(tmp_path / "world", f"redis://127.0.0.1:{proxy.port}/0", name="outage")
        with served(root) as running:
            assert running.context("home", user_id="8a2f").json()["values"]["genre"] == "drama"
            proxy.refusing = True
            proxy.cut_all()
            away = running.context("home", user_id="8a2f")
            assert (away.status_code, away.json()["values"]["genre"]) == (200, "none yet")
            assert away.json()["manifest"]["degraded"]
            strict = running.context("strict", user_id="8a2f").json()["error"]
            assert (strict["code"], strict["status"]) == ("feature_not_present", "unavailable")
            time.sleep(1.1)  # an answer of readiness is kept that long
            ready = running.client.get("/health/ready")
            assert (ready.status_code, ready.json()["reasons"][0]["code"]) == (503, "store")
            metrics = running.client.get("/metrics").text
            assert 'llmfeatures_degraded_prompts_total{prompt="home"} 1.0' in metrics
            assert 'llmfeatures_store_errors_total{code="store_unavailable"}' in metrics
            proxy.refusing = False
            deadline = time.monotonic() + 20
            while running.context("home", user_id="8a2f").json()["values"]["genre"] != "drama":
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_many_threads_at_once_get_their_own_answers(running: Running) -> None:
    wrong: list[str] = []

    def ask(user: str) -> None:
        for _ in range(30):
            found = running.context("home", user_id=user).json()
            if found["values"]["user_id"] != user or user not in found["messages"][0]["content"]:
                wrong.append(user)

    threads = [threading.Thread(target=ask, args=(user,)) for user in ("8a2f", "b13c", "x", "y")]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong
