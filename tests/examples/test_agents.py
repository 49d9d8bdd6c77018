"""The examples with tools, run as a user would: OpenAI's against a server that keeps what it was sent, the other with
the official client."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmfeatures import PromptContext
from tests.examples.conftest import Run


@pytest.mark.heavy
def test_tools_agent(run: Run, llmock: Any, context: PromptContext) -> None:
    llmock.call_tool("get_features", {"names": ["watch_count_30d"]})
    llmock.call_tool("get_features", {"names": ["last_genre"], "user_id": "b13c"})
    llmock.reply("47 titles.")
    done = run("tools_agent.py", "8a2f", "How much?")
    assert (done.returncode, done.stdout) == (0, "47 titles.\n")
    assert done.stderr == "refused: a call of the tool get_features named user_id\n"
    first, second, third = [one.body for one in llmock.requests]
    assert [one["function"]["name"] for one in first["tools"]] == ["get_features"]
    assert first["tools"][0]["function"]["strict"] is True
    assert "user_id" not in json.dumps(first["tools"])
    answered = json.loads(second["messages"][-1]["content"])
    assert answered["features"]["watch_count_30d"]["value"] == context.values["watch_count_30d"] == 47
    refused = json.loads(third["messages"][-1]["content"])
    assert refused["error"]["code"] == "identity"
    assert "b13c" not in third["messages"][-1]["content"]


@pytest.mark.heavy
@pytest.mark.parametrize(("broken", "code"), [("malformed_arguments", "arguments"), ("unknown_tool", "unknown_tool")])
def test_tools_agent_with_broken_calls(run: Run, llmock: Any, broken: str, code: str) -> None:
    llmock.break_tool_call(broken)
    done = run("tools_agent.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(llmock.requests[1].body["messages"][-1]["content"])["error"]["code"] == code


@pytest.mark.heavy
def test_what_the_server_makes_of_a_schema_is_what_the_tool_takes(run: Run, llmock: Any) -> None:
    """Without a script, the server fills in the schema by itself."""
    done = run("tools_agent.py", "8a2f", "What are my features?")
    assert done.returncode == 0
    answer = json.loads(llmock.requests[1].body["messages"][-1]["content"])
    assert next(iter(answer["features"].values()))["status"] == "present"


@pytest.mark.heavy
def test_mcp_client(run: Run, context: PromptContext) -> None:
    done = run("mcp_client.py", "8a2f")
    assert done.returncode == 0
    (line,) = [json.loads(one) for one in done.stderr.splitlines()]
    assert (line["event"], line["named"]) == ("identity", ["user_id"])
    lines = done.stdout.splitlines()
    assert lines[1] == "tools: get_user_features"
    assert lines[2].startswith("resources: llmfeatures://registry, llmfeatures://prompts/recommender")
    assert f"[system] {context.text}" in done.stdout
    assert lines[-2:] == ["47", "refused: True"]
