"""``POST /v1/push/{view}`` and the clients' ``push``: rows that are there at once, and are not pushed twice."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import redis

from llmfeatures import Client, Project
from llmfeatures.errors import PushedRowsError
from llmfeatures.service import create_app
from llmfeatures.service.log import RequestLog
from tests.online.proxy import proxy_to
from tests.service.world import Running, make_world, served

ROW = {"user_id": "8a2f", "genre": "noir", "event_timestamp": "2026-05-07T22:30:00Z"}


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Running]:
    """A service of a project of its own."""
    root = make_world(tmp_path_factory.mktemp("pushed"), redis_url, name="pushed")
    with served(root) as found:
        yield found


def genre(running: Running, user: str) -> str:
    return running.context("home", user_id=user).json()["values"]["genre"]


def test_a_row_that_was_pushed_is_in_the_next_prompt_and_in_history(pushed: Running) -> None:
    assert genre(pushed, "8a2f") == "drama"
    answer = pushed.client.post("/v1/push/taste", json={"rows": [ROW], "push_id": "one"})
    expected = {"view": "taste", "push_id": "one", "rows": 1, "repeated": False, "online": True, "problem": None}
    assert (answer.status_code, answer.json()) == (200, expected)
    assert genre(pushed, "8a2f") == "noir"
    again = pushed.client.post("/v1/push/taste", json={"rows": [ROW], "push_id": "one"}).json()
    assert again == {**expected, "repeated": True}
    past = pushed.client.post(
        "/v1/prompts/home/context", params={"as_of": "2026-05-07T22:29:59Z", "clock": "event"}, json={"user_id": "8a2f"}
    )
    assert past.json()["values"]["genre"] == "drama"
    then = pushed.client.post(
        "/v1/prompts/home/context", params={"as_of": "2026-05-07T22:30:00Z", "clock": "event"}, json={"user_id": "8a2f"}
    )
    assert then.json()["values"]["genre"] == "noir"
    metrics = pushed.client.get("/metrics").text
    assert 'llmfeatures_pushes_total{repeated="true",view="taste"} 1.0' in metrics
    assert 'llmfeatures_pushed_rows_total{view="taste"} 1.0' in metrics


def test_bad_rows_are_named_and_none_is_pushed(pushed: Running) -> None:
    rows = [{"user_id": "b13c", "genre": "noir"}, {"user_id": "b13c", "genre": 4711}]
    answer = pushed.client.post("/v1/push/taste", json={"rows": rows})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["total"]) == (422, "pushed_rows", 1)
    assert error["problems"][0][:2] == [1, "genre"]
    assert "4711" not in answer.text
    assert genre(pushed, "b13c") == "none yet"
    with Client(pushed.url) as client, pytest.raises(PushedRowsError) as caught:
        client.push("taste", rows)
    assert caught.value.problems[0][:2] == (1, "genre")
    for body in ({"rows": [], "push_id": 5}, {"rows": {}}, {"rows": [1]}, {"push": []}):
        assert pushed.client.post("/v1/push/taste", json=body).status_code == 422


def test_the_client_pushes(pushed: Running) -> None:
    with Client(pushed.url) as client:
        report = client.push("taste", [{"user_id": "c000", "genre": "western"}])
        assert (report.rows, report.repeated, report.online) == (1, False, True)
        assert client.push("taste", [{"user_id": "c000", "genre": "western"}], push_id=report.push_id).repeated
    assert genre(pushed, "c000") == "western"


@asynccontextmanager
async def asked(root: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a project's service in this process."""
    app = create_app(Project.load(root), log=RequestLog("off"))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x", timeout=60) as client,
    ):
        yield client


async def test_a_store_that_hangs_holds_up_pushes_and_no_prompt_from_history(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMFEATURES_ONLINE_TIMEOUT", "60s")
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    with proxy_to(port) as proxy:
        root = make_world(tmp_path / "world", f"redis://127.0.0.1:{proxy.port}/0", name="hanging", materialize=False)
        async with asked(root) as client:
            proxy.fault = lambda: "swallow"
            rows = {"rows": [{"user_id": "x", "genre": "noir"}]}
            many = 2 * (min(32, (os.cpu_count() or 1) + 4))  # more than the event loop has threads
            pushes = [asyncio.create_task(client.post("/v1/push/taste", json=rows)) for _ in range(many)]
            while not proxy.accepted:  # noqa: ASYNC110  the proxy lives in a thread
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)  # the others come
            past = await client.post(
                "/v1/prompts/home/context", params={"as_of": "2026-05-07T23:00Z"}, json={"user_id": "8a2f"}
            )
            assert past.json()["values"]["genre"] == "drama"
            assert not [one for one in pushes if one.done()]
            proxy.fault = lambda: None
            while not all(one.done() for one in pushes):
                proxy.cut_all()
                await asyncio.sleep(0.02)
            assert {one.result().status_code for one in pushes} == {200}


async def test_a_push_that_is_not_online_is_counted_by_what_the_store_said(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_world(tmp_path / "world", redis_url, name="reading", materialize=False)
    with redis.Redis.from_url(redis_url) as server:
        commands = ["+@all", "-@write", "-@scripting"]
        server.acl_setuser("reading", enabled=True, passwords=["+x"], keys=["reading:*"], commands=commands)
        try:
            monkeypatch.setenv("LLMFEATURES_ONLINE_URL", redis_url.replace("redis://", "redis://reading:x@"))
            async with asked(root) as client:
                answer = (await client.post("/v1/push/taste", json={"rows": [ROW]})).json()
                assert (answer["online"], answer["rows"]) == (False, 1)
                metrics = (await client.get("/metrics")).text
                assert 'llmfeatures_store_errors_total{code="store_read_only"} 1.0' in metrics
                assert 'code="store_unavailable"' not in metrics
        finally:
            server.acl_deluser("reading")


def test_a_project_that_may_only_read_takes_no_pushes(tmp_path: Path, redis_url: str) -> None:
    root = make_world(tmp_path / "world", redis_url, materialize=False)
    config = root / "llmfeatures.toml"
    config.write_text(config.read_text().replace("[online]\n", '[online]\naccess = "read"\n'))
    with served(root) as running:
        answer = running.client.post("/v1/push/taste", json={"rows": [ROW]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
        assert "may only read" in answer.json()["error"]["message"]
        assert "may only read" in running.lines("started")[0]["pushes"]
    assert not list(Project.load(root).config.root.glob("data/pushes/*"))


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system has no folder in memory")
def test_pushes_that_would_not_survive_are_refused_and_the_reason_told(tmp_path: Path, redis_url: str) -> None:
    root = make_world(tmp_path / "world", redis_url, materialize=False)
    (tmp_path / "file").touch()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        for folder, says in ((f"{memory}/pushes", "lies in memory (tmpfs)"), (f"{tmp_path}/file/pushes", "no folder")):
            with served(root, environment={"LLMFEATURES_PROJECT_PUSHES": folder}) as running:
                answer = running.client.post("/v1/push/taste", json={"rows": [ROW]})
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (403, "forbidden")
                assert says in error["message"]
                assert "[project] pushes" in error["message"]  # what to change
                assert says in running.lines("started")[0]["pushes"]
        assert not list(Path(memory).iterdir())
