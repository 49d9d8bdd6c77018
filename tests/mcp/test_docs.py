"""What docs/agents.md shows is real."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client, StdioServerParameters

from llmfeatures.mcp import offer, server
from llmfeatures.toolset import ToolRefusal
from tests.examples.conftest import sample, sample_folder  # noqa: F401
from tests.mcp.test_http import session
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")


def block(kind: str, number: int = 0) -> str:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[number]


@pytest.mark.heavy
def test_the_loop_runs(sample: Path, llmock: Any) -> None:  # noqa: F811
    llmock.call_tool("get_features", {"names": ["watch_count_30d"]})
    llmock.reply("47 titles.")
    out = io.StringIO()
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(out):
        exec(compile(block("python tools"), "agents.md", "exec"), names)
    assert out.getvalue() == "47 titles.\n"
    assert json.loads(names["messages"][-1]["content"])["features"]["watch_count_30d"]["value"] == 47
    names["client"].close()
    names["builder"].close()


@pytest.mark.heavy
async def test_the_configuration_of_a_desktop_application_starts_a_server(sample: Path) -> None:  # noqa: F811
    (started,) = json.loads(block("json desktop"))["mcpServers"].values()
    assert started["command"] == "llmfeatures"
    arguments = [str(sample) if one == "/srv/streaming" else one for one in started["args"]]
    program = StdioServerParameters(command=sys.executable, args=["-m", "llmfeatures", *arguments])
    async with Client(program) as client:
        assert [one.name for one in (await client.list_tools()).tools] == ["get_user_features"]
        assert "power_user" in (await client.get_prompt("recommender")).messages[0].content.text  # pyright: ignore


@pytest.mark.heavy
def test_a_key_and_a_server_over_http(sample: Path) -> None:  # noqa: F811
    _, new, serve = block("sh", 1).splitlines()
    run = [sys.executable, "-m", "llmfeatures"]
    made = subprocess.run([*run, *shlex.split(new)[1:]], cwd=sample, capture_output=True, text=True, check=True)
    port = free_port()

    async def watched() -> int:
        async with session(f"http://127.0.0.1:{port}", made.stdout.strip()) as client:
            found = await client.call_tool("get_user_features", {"names": ["watch_count_30d"]})
            return found.structured_content["features"]["watch_count_30d"]["value"]

    command = [*run, *shlex.split(serve.replace("8080", str(port)))[1:]]
    with (sample / "log").open("w") as log, subprocess.Popen(command, cwd=sample, stderr=log) as process:
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                with contextlib.suppress(httpx.HTTPError):
                    httpx.get(f"http://127.0.0.1:{port}/health/live")
                    break
            assert asyncio.run(watched()) == 47
        finally:
            process.terminate()
    (sample / ".llmfeatures" / "keys.json").unlink()


def test_names_of_the_page_are_those_of_the_code() -> None:
    assert f'"{server.ROLE_META}": "system"' in PAGE
    assert f"`{server.CONTEXT_META}`" in PAGE
    assert f"`{offer.REGISTRY_URI}`" in PAGE
    assert f"`{offer.PROMPTS_URI}NAME`" in PAGE
    told = ToolRefusal("identity", "x").answer()["error"]
    assert f'"code": "{told["code"]}"' in PAGE.replace("\n", " ")


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, heading = target.partition("#")
        text = PAGE if not path else (ROOT / "docs" / path).resolve().read_text(encoding="utf-8")
        if heading:
            titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in titles}, target
