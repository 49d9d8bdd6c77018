"""The examples that call a model, run as a user would, against a server that keeps what it was sent."""

from __future__ import annotations

import asyncio
import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmfeatures import PromptContext
from tests.examples.conftest import ROOT, Run

FIRST = {"role": "user", "content": "What should I watch?"}
SECOND = {"role": "user", "content": "And then?"}
LINES = "What should I watch?\nAnd then?\n\n"


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name",
    [
        "anthropic_chat",
        "chat",
        "evaluate_versions",
        "langchain_chat",
        "mcp_client",
        "stream_responses",
        "tools_agent",
    ],
)
def test_in_another_project_a_line_says_which_prompts_it_has(name: str, tmp_path: Path, llmock: Any) -> None:
    """In the one of `llmfeatures init`, and with the name of its prompt at the top it goes on."""
    from llmfeatures.cli.app import run as cli

    assert cli(["init", str(tmp_path)]) == 0
    assert cli(["materialize", "--project", str(tmp_path)]) == 0
    path = tmp_path / f"{name}.py"
    text = (ROOT / "examples" / path.name).read_text(encoding="utf-8")

    def start() -> subprocess.CompletedProcess[str]:
        path.write_text(text, encoding="utf-8")
        return subprocess.run(
            [sys.executable, path.name],
            cwd=tmp_path, input="", capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip

    done = start()
    assert done.returncode == 1
    assert done.stderr == "error: unknown prompt 'recommender'; the valid choices are: welcome\n"
    assert llmock.requests == []
    if name == "evaluate_versions":
        return
    for old, new in (("recommender", "welcome"), ("watch_count_30d", "sessions_7d"), ("last_genre", "plan")):
        text = text.replace(f'"{old}"', f'"{new}"')
    done = start()
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.heavy
def test_chat(run: Run, llmock: Any, context: PromptContext) -> None:
    llmock.reply("Dune.").reply("Solaris.")
    done = run("chat.py", "8a2f", input=LINES)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "> Dune.\n> Solaris.\n> "
    assert [one.body["messages"] for one in llmock.requests] == [
        [*context.messages, FIRST],
        [*context.messages, FIRST, said("Dune."), SECOND],
    ]
    ended = run("chat.py", input="")
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "> \n")


@pytest.mark.heavy
def test_stream_responses(run: Run, llmock: Any, context: PromptContext) -> None:
    llmock.reply("Dune, or Solaris.")
    done = run("stream_responses.py", "8a2f", "What should I watch?")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "Dune, or Solaris.\n")
    assert llmock.last_request.body["input"] == [*context.messages, FIRST]
    llmock.reply("One two three four five six seven").truncate(after_chunks=6)
    done = run("stream_responses.py")
    assert done.returncode == 1
    assert "the answer is not whole" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.heavy
def test_anthropic_chat(run: Run, llmock: Any, context: PromptContext) -> None:
    llmock.reply("Dune.").reply("Solaris.")
    done = run("anthropic_chat.py", input=LINES)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "> Dune.\n> Solaris.\n> "
    one, two = [request.body for request in llmock.requests]
    assert one["system"] == two["system"] == [{"type": "text", "text": context.text}]
    assert one["messages"] == [FIRST]
    assert [each["role"] for each in two["messages"]] == ["user", "assistant", "user"]
    assert two["messages"][1]["content"][0]["text"] == "Dune."
    assert {request.path for request in llmock.requests} == {"/anthropic/v1/messages"}


@pytest.mark.heavy
def test_langchain_chat(run: Run, llmock: Any, context: PromptContext) -> None:
    llmock.reply("Dune.").reply("Solaris.")
    done = run("langchain_chat.py", "8a2f", "What should I watch?", "And then?")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "Dune.\nSolaris.\n")
    sent = [
        [{"role": one["role"], "content": one["content"]} for one in each.body["messages"]] for each in llmock.requests
    ]
    assert sent == [[*context.messages, FIRST], [*context.messages, FIRST, said("Dune."), SECOND]]


async def test_fastapi_chat(sample: Path, llmock: Any, context: PromptContext, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    shutil.copy(ROOT / "examples" / "fastapi_chat.py", sample)
    monkeypatch.syspath_prepend(str(sample))
    sys.modules.pop("fastapi_chat", None)
    module: Any = importlib.import_module("fastapi_chat")
    llmock.reply("Dune, or Solaris.").reply("Stalker.")
    transport = httpx.ASGITransport(module.app)
    me, other = {"x-user-id": "8a2f"}, {"x-user-id": "b13c"}
    async with module.lifespan(module.app), httpx.AsyncClient(transport=transport, base_url="http://chat") as client:
        chat = (await client.post("/chats", headers=me)).json()["id"]
        where = f"/chats/{chat}/messages"
        assert (await client.post(where, json={"text": "Hi?"}, headers=other)).status_code == 404
        assert (await client.post(where, json={"text": "Hi?"})).status_code == 422
        assert llmock.requests == []
        answer = await client.post(where, json={"text": FIRST["content"]}, headers=me)
        assert answer.text == "Dune, or Solaris."
        assert (await client.post(where, json={"text": SECOND["content"]}, headers=me)).text == "Stalker."
        turns = [FIRST, said("Dune, or Solaris."), SECOND]
        assert [one.body["messages"] for one in llmock.requests] == [
            [*context.messages, FIRST],
            [*context.messages, *turns],
        ]
        # one that is cut off is no turn
        llmock.reply("One two three four five six seven").truncate(after_chunks=2)
        await client.post(where, json={"text": "More?"}, headers=me)
        assert module.chats[chat].turns == [*turns, said("Stalker.")]

        async def whose(user: str) -> str:
            made = (await client.post("/chats", headers={"x-user-id": user})).json()["id"]
            await client.post(f"/chats/{made}/messages", json={"text": user}, headers={"x-user-id": user})
            return module.chats[made].context

        users = ["8a2f", "b13c", "nobody"] * 5
        contexts = await asyncio.gather(*[whose(user) for user in users])
        assert [PromptContext.model_validate_json(one).manifest.keys["user_id"] for one in contexts] == users
        texts = {one.body["messages"][-1]["content"]: one.body["messages"][0]["content"] for one in llmock.requests[4:]}
        assert texts["8a2f"] == context.text
        assert len(set(texts.values())) == 3
