"""``llmfeatures mcp`` as a program that a desktop client starts: a real process, the official client."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client

from llmfeatures import ContextBuilder, Project
from tests.mcp.test_session import text_of
from tests.mcp.world import make_world

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}},
}


@asynccontextmanager
async def started(root: Path, *options: str, log: Path, mode: str = "auto") -> AsyncGenerator[Client]:
    """A session with a process of its own."""
    arguments = ["-m", "llmfeatures", "mcp", "--project", str(root), *options]
    with log.open("w") as errors:
        server = StdioServerParameters(command=sys.executable, args=arguments)
        async with Client(stdio_client(server, errlog=errors), mode=mode) as client:
            yield client


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def said(written: list[dict[str, Any]]) -> str:
    """All of a log but what is random, and may look like a value."""
    random = ("time", "ms", "pid", "request_id", "key", "url")
    return json.dumps([{name: one for name, one in line.items() if name not in random} for line in written])


def slow_search(root: Path, seconds: float) -> None:
    """Let the query ``slow`` take its time."""
    registry = root / "features.py"
    slow = f'if query.text == "slow":\n        __import__("time").sleep({seconds})\n    if False:'
    registry.write_text(registry.read_text().replace('if query.text == "break it":', slow))


async def test_a_session_from_its_start_to_its_end(world: Path, builder: ContextBuilder, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with started(world, "--bind", "user_id=8a2f", log=log) as client:
        assert client.server_info.name == "llmfeatures"
        assert (await client.list_prompts()).prompts[0].name == "chat"
        found = await client.get_prompt("home")
        features, searched = await asyncio.gather(
            client.call_tool("get_user_features", {"names": ["watched"]}),
            client.call_tool("search_viewing", {"query": "something of mine", "top_k": 1}),
        )
        refused = await client.call_tool("get_user_features", {"names": ["watched"], "user_id": "b13c"})
        with pytest.raises(MCPError, match="did you mean 'home'"):
            await client.get_prompt("hom")
    assert text_of(found.messages[0].content) == builder.build_context("home", user_id="8a2f").text
    assert features.structured_content["features"]["watched"]["value"] == 47
    assert searched.structured_content["documents"][0]["id"] == "8a2f-0"
    assert refused.is_error
    written = lines(log)
    assert [line["event"] for line in written] == ["started", "identity", "stopped"]
    assert not any(word in said(written) for word in ("8a2f", "b13c", "47", "something", "power"))


@pytest.mark.heavy
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_both_versions_of_the_protocol(world: Path, tmp_path: Path, mode: str) -> None:
    async with started(world, "--any", "user_id", log=tmp_path / "log", mode=mode) as client:
        assert client.protocol_version == {"auto": "2026-07-28", "legacy": "2025-11-25"}[mode]
        many = [
            client.call_tool("get_user_features", {"names": ["watched"], "user_id": ("8a2f", "b13c")[number % 2]})
            for number in range(40)
        ]
        values = [one.structured_content["features"]["watched"]["value"] for one in await asyncio.gather(*many)]
    assert values == [47, 5] * 20


@pytest.mark.heavy
async def test_a_cancelled_call_is_left_and_the_others_go_on(tmp_path: Path) -> None:
    root = make_world(tmp_path / "world")
    slow_search(root, 3)
    async with started(root, "--bind", "user_id=8a2f", log=tmp_path / "log") as client:
        slow = asyncio.ensure_future(client.call_tool("search_viewing", {"query": "slow"}))
        await asyncio.sleep(0.3)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        began = time.monotonic()
        found = await client.call_tool("search_viewing", {"query": "quick"})
        assert not found.is_error
        assert time.monotonic() - began < 2.5, "it did not wait for the slow one"


@pytest.mark.heavy
async def test_what_a_function_prints_is_not_in_the_protocol(tmp_path: Path) -> None:
    root = make_world(tmp_path / "world")
    registry = root / "features.py"
    registry.write_text(registry.read_text().replace("    SEARCHES.append(query)", "    print('noise', flush=True)"))
    log = tmp_path / "log"
    async with started(root, "--bind", "user_id=8a2f", log=log) as client:
        for _ in range(3):
            assert not (await client.call_tool("search_viewing", {"query": "x"})).is_error
    assert log.read_text().count("noise") == 3


@pytest.mark.heavy
async def test_files_are_served_as_they_are_saved(tmp_path: Path) -> None:
    root = make_world(tmp_path / "world")
    async with started(root, "--bind", "user_id=8a2f", log=tmp_path / "log") as client:
        (root / "prompts" / "home.prompt.j2").write_text("New for {{ user_id }}.")
        (root / "prompts" / "another.prompt.j2").write_text("Another.")
        (root / "prompts" / "broken.prompt.j2").write_text("{{ watchd }}")
        assert text_of((await client.get_prompt("home")).messages[0].content) == "New for 8a2f."
        names = [one.name for one in (await client.list_prompts()).prompts]
        assert "another" in names
        assert "broken" not in names
        with pytest.raises(MCPError, match="watchd"):
            await client.get_prompt("broken")


@pytest.mark.heavy
async def test_the_active_release_is_served_and_followed(tmp_path: Path) -> None:
    root = make_world(tmp_path / "world")
    home = root / "prompts" / "home.prompt.j2"
    with_releases = Project.load(root)
    first = with_releases.apply()
    home.write_text("Second.")
    log = tmp_path / "log"
    async with started(root, "--bind", "user_id=8a2f", log=log) as client:
        assert text_of((await client.get_prompt("home")).messages[0].content) != "Second."
        registry = await client.read_resource("llmfeatures://registry")
        assert json.loads(registry.contents[0].text)["release"] == first.release.id  # pyright: ignore
        source = (await client.read_resource("llmfeatures://prompts/home")).contents[0]
        assert source.text != "Second."  # pyright: ignore
        Project.load(root).apply()
        deadline = time.monotonic() + 20
        while text_of((await client.get_prompt("home")).messages[0].content) != "Second.":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
        source = (await client.read_resource("llmfeatures://prompts/home")).contents[0]
        assert source.text == "Second."  # pyright: ignore
    async with started(root, "--working", log=log) as client:
        assert text_of((await client.get_prompt("home")).messages[0].content) == "Second."
    with_releases.close()


@pytest.mark.heavy
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_stops_it(world: Path, tmp_path: Path, number: int, code: int) -> None:
    log = tmp_path / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "llmfeatures", "mcp", "--project", str(world)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        deadline = time.monotonic() + 60
        while "started" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(20) == code
        process.communicate()
    assert [line["event"] for line in lines(log)] == ["started", "stopped"]


@pytest.mark.heavy
def test_what_was_asked_is_answered_before_it_stops(tmp_path: Path) -> None:
    root = make_world(tmp_path / "world")
    slow_search(root, 1.5)
    call = {"name": "search_viewing", "arguments": {"query": "slow", "top_k": 1}}
    sent = [
        INITIALIZE,
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call},
    ]
    command = [sys.executable, "-m", "llmfeatures", "mcp", "--project", str(root), "--bind", "user_id=8a2f"]
    with subprocess.Popen(
        [*command, "--log-format", "off"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("".join(json.dumps(one) + "\n" for one in sent))
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 1
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        answer = json.loads(process.stdout.readline())
        assert process.wait(20) == 0
    assert answer["id"] == 2
    assert answer["result"]["structuredContent"]["documents"][0]["id"] == "8a2f-0"


@pytest.mark.heavy
def test_connections_are_given_back_at_the_end(tmp_path: Path, redis_url: str) -> None:
    root = make_world(tmp_path)
    config = root / "llmfeatures.toml"
    config.write_text(config.read_text().replace("[online]", f'[online]\nurl = "{redis_url}"'))
    filled = Project.load(root)
    filled.materialize(full=True)
    filled.close()
    call = {"name": "get_user_features", "arguments": {"names": ["watched"]}}
    sent = [
        INITIALIZE,
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call},
    ]
    command = [sys.executable, "-X", "dev", "-m", "llmfeatures", "mcp", "--project", str(root), "--bind"]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, "user_id=8a2f"], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("".join(json.dumps(one) + "\n" for one in sent))
        process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for _ in range(2)]
        _, said_at_the_end = process.communicate(timeout=60)
    assert answers[1]["result"]["structuredContent"]["features"]["watched"]["value"] == 47
    assert "ResourceWarning" not in said_at_the_end


@pytest.mark.heavy
def test_garbage_is_an_error_and_the_session_goes_on(world: Path) -> None:
    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": 7}}
    sent = ["{", '{"jsonrpc": "2.0"}', json.dumps(INITIALIZE), '"text"', json.dumps(call), "[" * 50_000]
    done = subprocess.run(
        [sys.executable, "-m", "llmfeatures", "mcp", "--project", str(world), "--log-format", "off"],
        input="\n".join(sent) + "\n",
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert {one["id"] for one in answers if one.get("id")} == {1, 2}
    assert next(one for one in answers if one.get("id") == 2)["error"]["code"] == -32602
    assert "Traceback" not in done.stderr


def test_wrong_usage_is_one_sentence(world: Path) -> None:
    from llmfeatures.cli.app import run

    for options in (["--bind", "user=1"], ["--bind", "user_id"], ["--port", "1"], ["--log-format", "xml"]):
        assert run(["mcp", "--project", str(world), *options]) == 2


def test_the_verb_is_light_until_it_runs() -> None:
    code = "import llmfeatures.cli.app, sys; print([one for one in ('mcp', 'starlette') if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env={**os.environ})
    assert done.stdout.strip() == "[]"
