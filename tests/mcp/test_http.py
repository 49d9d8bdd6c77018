"""``llmfeatures mcp --http``: a real process on loopback, the official client, a key per request."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from llmfeatures.cli.app import run
from llmfeatures.service.keys import KeyFile
from tests.mcp.test_session import QUESTION, text_of
from tests.mcp.test_stdio import said
from tests.mcp.world import make_world
from tests.servers import free_port

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
ACCEPT = {"accept": "application/json, text/event-stream"}


@contextmanager
def serving(root: Path, *options: str) -> Iterator[tuple[str, Path]]:
    """The address of a server, and its log."""
    port, log = free_port(), root / f"mcp-{time.monotonic_ns()}.log"
    command = [sys.executable, "-m", "llmfeatures", "mcp", "--http", "--port", str(port), "--project", str(root)]
    with log.open("w") as out:
        process = subprocess.Popen([*command, *options], stdout=out, stderr=out, start_new_session=True)
        try:
            deadline = time.monotonic() + 90
            while True:
                with suppress(httpx.HTTPError):
                    if httpx.get(f"http://127.0.0.1:{port}/health/live").status_code == 200:
                        break
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}", log
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0


@asynccontextmanager
async def session(url: str, token: str, mode: str = "auto") -> AsyncGenerator[Client]:
    """A session with a key."""
    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=60) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


def new_key(root: Path, *scopes: str, **entity: str | None) -> str:
    """A key of the project."""
    file = KeyFile(root / ".llmfeatures" / "keys.json")
    return file.add("x", scopes, now=datetime.now(UTC), entity=entity or None)[1]


def lines(log: Path, event: str) -> list[dict[str, Any]]:
    time.sleep(0.1)  # lines are written a few at a time
    found = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == event]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with API keys."""
    root = make_world(tmp_path_factory.mktemp("keyed"))
    config = root / "llmfeatures.toml"
    config.write_text(f'{config.read_text()}[serve]\nbody_timeout = "1s"\n')
    (root / "tokens.json").write_text(
        json.dumps(
            {
                "a": new_key(root, "read", "prompts:*", user_id="8a2f"),
                "b": new_key(root, "read", "prompts:*", user_id="b13c"),
                "home": new_key(root, "prompts:home"),
                "metrics": new_key(root, "metrics"),
            }
        )
    )
    return root


@pytest.fixture(scope="module")
def served(keyed: Path) -> Iterator[tuple[str, Path]]:
    """Its server."""
    with serving(keyed) as found:
        yield found


@pytest.fixture(scope="module")
def tokens(keyed: Path) -> dict[str, str]:
    """The keys."""
    return json.loads((keyed / "tokens.json").read_text())


@pytest.mark.heavy
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_two_sessions_with_two_keys_never_see_each_others_user(
    served: tuple[str, Path], tokens: dict[str, str], mode: str
) -> None:
    url, log = served

    async def whole(token: str, mine: str, other: str, watched: int) -> None:
        async with session(url, token, mode) as client:
            for number in range(8):
                features, searched, prompt, refused = await asyncio.gather(
                    client.call_tool("get_user_features", {"names": ["watched", "motto"]}),
                    client.call_tool("search_viewing", {"query": f"q{number}"}),
                    client.get_prompt("chat", QUESTION),
                    client.call_tool("get_user_features", {"names": ["watched"], "user_id": other}),
                )
                assert features.structured_content["features"]["watched"]["value"] == watched
                assert all(one["id"].startswith(f"{mine}-") for one in searched.structured_content["documents"])
                assert refused.is_error
                texts = [text_of(one) for one in (*features.content, *searched.content, *refused.content)]
                texts += [text_of(one.content) for one in prompt.messages]
                assert other not in "".join(texts)

    await asyncio.gather(
        *(whole(tokens["a"], "8a2f", "b13c", 47) for _ in range(3)),
        *(whole(tokens["b"], "b13c", "8a2f", 5) for _ in range(3)),
    )
    written = said([json.loads(line) for line in log.read_text().splitlines()])
    assert not any(word in written for word in ("8a2f", "b13c", "What now", "motto"))
    assert {line["key"] for line in lines(log, "identity")} >= {tokens[one].split("_")[1] for one in ("a", "b")}
    asked = lines(log, "request")
    assert {"/mcp tools/call", "/mcp prompts/get"} <= {line["route"] for line in asked}
    assert {line["prompt"] for line in asked if line["route"] == "/mcp prompts/get"} == {"chat"}


@pytest.mark.heavy
async def test_a_session_id_of_another_key_is_worth_nothing(served: tuple[str, Path], tokens: dict[str, str]) -> None:
    url, _ = served
    body = {
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "get_user_features", "arguments": {"names": ["watched"]}},
    }  # fmt: skip
    async with httpx.AsyncClient() as http:
        headers = {**ACCEPT, "authorization": f"Bearer {tokens['b']}", "mcp-session-id": "of-a"}
        headers["mcp-protocol-version"] = "2025-11-25"
        answer = await http.post(f"{url}/mcp", json=body, headers=headers)
    assert answer.json()["result"]["structuredContent"]["features"]["watched"]["value"] == 5


@pytest.mark.heavy
async def test_scopes_and_keys(served: tuple[str, Path], tokens: dict[str, str], keyed: Path) -> None:
    url, _ = served
    async with session(url, tokens["home"]) as client:
        assert [one.name for one in (await client.list_prompts()).prompts] == ["home"]
        assert (await client.list_tools()).tools == []
        assert "casual" in text_of((await client.get_prompt("home", {"user_id": "b13c"})).messages[0].content)
        with pytest.raises(MCPError, match="lacks the scope prompts:chat"):
            await client.get_prompt("chat", QUESTION)
    async with httpx.AsyncClient(base_url=url) as http:
        for headers in ({}, {"authorization": "Bearer llf_x_y"}, {"authorization": "Basic eA=="}):
            answer = await http.post("/mcp", json=PING, headers={**ACCEPT, **headers})
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"]["code"] == "unauthorized"
        assert (await http.get("/metrics")).status_code == 401
        allowed = {"authorization": f"Bearer {tokens['metrics']}"}
        assert 'route="/mcp prompts/list"' in (await http.get("/metrics", headers=allowed)).text
        for path in ("/v1/registry", "/v1/features", "/v1/prompts/home/context", "/openapi.json"):
            answer = await http.post(path, json={"user_id": "b13c"}, headers={"authorization": f"Bearer {tokens['a']}"})
            assert answer.status_code == 404, "no other way around the binding"
    gone = new_key(keyed, "prompts:*")
    await asyncio.sleep(1.2)
    async with httpx.AsyncClient(base_url=url, headers={**ACCEPT, "authorization": f"Bearer {gone}"}) as http:
        assert (await http.post("/mcp", json=PING)).status_code == 200
        KeyFile(keyed / ".llmfeatures" / "keys.json").remove(gone.split("_")[1])
        await asyncio.sleep(1.2)
        assert (await http.post("/mcp", json=PING)).status_code == 401, "a key that was taken back"


@pytest.mark.heavy
async def test_pages_of_other_addresses_and_bad_bodies_are_refused(
    served: tuple[str, Path], tokens: dict[str, str]
) -> None:
    url, _ = served
    authority = url.removeprefix("http://")
    async with httpx.AsyncClient(base_url=url, headers={**ACCEPT, "authorization": f"Bearer {tokens['a']}"}) as http:
        for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"host": "evil.example"}, {"host": "["}):
            assert (await http.post("/mcp", json=PING, headers=headers)).status_code == 403
        assert (await http.post("/mcp", json=PING, headers={"origin": f"http://{authority}"})).status_code == 200
        assert (await http.post("/mcp", content=b"{", headers={"content-type": "application/json"})).status_code == 400
        assert (await http.post("/mcp", content=b"x" * 2_000_000)).status_code == 413
        assert (await http.get("/mcp")).status_code == 405

        async def slow() -> AsyncGenerator[bytes]:
            yield b"{"
            await asyncio.sleep(3)
            yield b"}"

        headers = {"content-type": "application/json", "mcp-protocol-version": "2026-07-28"}
        assert (await http.post("/mcp", content=slow(), headers=headers)).status_code == 408
        assert (await http.delete("/mcp")).status_code == 405


@pytest.mark.heavy
async def test_without_keys_the_options_bind(tmp_path: Path) -> None:
    root = make_world(tmp_path)
    with serving(root, "--bind", "user_id=8a2f", "--log-format", "text") as (url, log):
        async with Client(f"{url}/mcp") as client:
            found = await client.call_tool("get_user_features", {"names": ["watched"]})
            assert found.structured_content["features"]["watched"]["value"] == 47
            refused = await client.call_tool("get_user_features", {"names": ["watched"], "user_id": "b13c"})
            assert refused.is_error
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.get("/health/ready")).json()["status"] == "ready"
        assert " identity " in log.read_text()


@pytest.mark.heavy
async def test_a_new_release_is_served_without_a_restart(tmp_path: Path) -> None:
    from llmfeatures import Project

    root = make_world(tmp_path)
    for one in ("chat", "docs"):
        (root / "prompts" / f"{one}.prompt.j2").unlink(missing_ok=True)
    Project.load(root).apply()
    home = root / "prompts" / "home.prompt.j2"
    home.write_text("Second for {{ user_id }}.")
    with serving(root, "--bind", "user_id=8a2f") as (url, _):
        async with Client(f"{url}/mcp") as client:
            assert "Second" not in text_of((await client.get_prompt("home")).messages[0].content)
            Project.load(root).apply()
            deadline = time.monotonic() + 20
            while text_of((await client.get_prompt("home")).messages[0].content) != "Second for 8a2f.":
                assert time.monotonic() < deadline
                await asyncio.sleep(0.2)


def test_an_address_that_others_reach_needs_a_key(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["mcp", "--http", "--host", "0.0.0.0", "--project", str(world)]) == 2
    said = capsys.readouterr().err
    assert "there is no API key" in said
    assert len(said.strip().splitlines()) == 1
