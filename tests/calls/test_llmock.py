"""OpenAI's and Anthropic's own clients against a server that is not ours: its log holds what the context says."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import openai
import pytest
from pydantic import BaseModel

from llmfeatures import AsyncContextBuilder, Project, PromptContext
from tests.calls.projects import chat_project

SYNC = pytest.param("sync", marks=pytest.mark.heavy)
ASKED = {"role": "user", "content": "What should I watch?"}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "titles",
        "parameters": {"type": "object", "properties": {"genre": {"type": "string"}}, "required": ["genre"]},
    },
}


class Titles(BaseModel):
    titles: list[str]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return chat_project(tmp_path_factory.mktemp("llmock"))


@pytest.fixture(scope="module")
def contexts(project: Project) -> Iterator[dict[str, PromptContext]]:
    builder = project.builder()
    yield {
        "chat": builder.build_context("chat", user_id="8a2f"),
        "ask": builder.build_context("ask", user_id="8a2f", question="Why?"),
    }
    builder.close()


@pytest.fixture
def ctx(contexts: dict[str, PromptContext]) -> PromptContext:
    return contexts["chat"]


@pytest.fixture(params=[SYNC, "async"])
async def client(request: pytest.FixtureRequest, llmock: Any) -> AsyncIterator[Any]:
    """OpenAI's clients, as an application makes them."""
    made: Any = openai.OpenAI() if request.param == "sync" else openai.AsyncOpenAI()
    yield made
    await done(made.close())


async def done(value: Any) -> Any:
    """What a client's method gives, once it is there."""
    return await value if inspect.isawaitable(value) else value


async def items(stream: Any) -> list[Any]:
    """All of a stream, of either client."""
    return [one async for one in stream] if hasattr(stream, "__aiter__") else list(stream)


async def events(manager: Any) -> tuple[list[Any], Any]:
    """The events of ``.stream()``, and its final answer."""
    final = "get_final_completion"
    if hasattr(manager, "__aenter__"):
        async with manager as stream:
            found = await items(stream)
            return found, await getattr(stream, final if hasattr(stream, final) else "get_final_response")()
    with manager as stream:
        found = list(stream)
        return found, getattr(stream, final if hasattr(stream, final) else "get_final_response")()


# -- chat completions ------------------------------------------------------------------------------------------------


async def test_create(client: Any, llmock: Any, contexts: dict[str, PromptContext]) -> None:
    llmock.reply("Dune.")
    ctx, ask = contexts["chat"], contexts["ask"]
    answer = await done(client.chat.completions.create(model="gpt-5-mini", **ctx.chat("What should I watch?")))
    assert answer.choices[0].message.content == "Dune."
    assert llmock.last_request.body == {"model": "gpt-5-mini", "messages": [*ctx.messages, ASKED]}
    await done(client.chat.completions.create(model="gpt-5-mini", **ask.chat()))
    assert llmock.last_request.body["messages"] == ask.messages
    await done(client.chat.completions.create(model="gpt-5-mini", **ask.chat([ASKED, answer.choices[0].message])))
    turns = [ASKED, {"role": "assistant", "content": "Dune."}]
    sent = llmock.last_request.body["messages"]
    assert [{"role": one["role"], "content": one["content"]} for one in sent] == [
        *ask.messages[:3], *turns, *ask.messages[3:],
    ]  # fmt: skip
    raw = await done(client.chat.completions.with_raw_response.create(model="gpt-5-mini", **ctx.chat("Hi?")))
    assert raw.http_response.status_code == 200
    assert (await done(raw.parse())).choices
    assert llmock.last_request.body["messages"] == [*ctx.messages, {"role": "user", "content": "Hi?"}]


async def test_blocks_go_through(client: Any, llmock: Any, contexts: dict[str, PromptContext]) -> None:
    ask = contexts["ask"]
    await done(client.chat.completions.create(model="gpt-5.6", **ask.chat(blocks=True)))
    sent = llmock.last_request.body["messages"]
    assert sent == ask.chat(blocks=True)["messages"]
    joined = [
        one["content"] if isinstance(one["content"], str) else "".join(part["text"] for part in one["content"])
        for one in sent
    ]
    assert joined == [one["content"] for one in ask.messages]


async def test_stream(client: Any, llmock: Any, ctx: PromptContext) -> None:
    llmock.reply("Dune, or Solaris.").reply("Dune, or Solaris.")
    found = await items(await done(client.chat.completions.create(model="m", stream=True, **ctx.chat([ASKED]))))
    assert "".join(one.choices[0].delta.content or "" for one in found if one.choices) == "Dune, or Solaris."
    assert found[-1].choices[0].finish_reason == "stop"
    assert llmock.last_request.body["messages"] == [*ctx.messages, ASKED]
    seen, final = await events(client.chat.completions.stream(model="m", **ctx.chat([ASKED])))
    assert "".join(one.delta for one in seen if one.type == "content.delta") == "Dune, or Solaris."
    assert final.choices[0].message.content == "Dune, or Solaris."
    assert llmock.last_request.body["messages"] == [*ctx.messages, ASKED]


async def test_a_truncated_stream_is_silent_but_for_its_finish_reason(
    client: Any, llmock: Any, ctx: PromptContext
) -> None:
    llmock.reply("One two three four five six seven").truncate(after_chunks=2)
    found = await items(await done(client.chat.completions.create(model="m", stream=True, **ctx.chat("Hi?"))))
    assert found
    assert all(one.choices[0].finish_reason is None for one in found if one.choices)


async def test_parse(client: Any, llmock: Any, ctx: PromptContext) -> None:
    answer = await done(client.chat.completions.parse(model="m", response_format=Titles, **ctx.chat("Hi?")))
    assert isinstance(answer.choices[0].message.parsed, Titles)
    assert llmock.last_request.body["messages"] == [*ctx.messages, {"role": "user", "content": "Hi?"}]
    # what was parsed can be a turn of the next call
    await done(client.chat.completions.create(model="m", **ctx.chat([ASKED, answer.choices[0].message, ASKED])))
    assert llmock.last_request.body["messages"][-2]["content"] == answer.choices[0].message.content


async def test_tools(client: Any, llmock: Any, ctx: PromptContext) -> None:
    llmock.call_tool("titles", {"genre": "noir"}).reply("Chinatown.")
    turns: list[Any] = [ASKED]
    answer = await done(client.chat.completions.create(model="m", tools=[TOOL], **ctx.chat(turns)))
    (call,) = answer.choices[0].message.tool_calls
    turns += [answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": '["Chinatown"]'}]
    answer = await done(client.chat.completions.create(model="m", tools=[TOOL], **ctx.chat(turns)))
    assert answer.choices[0].message.content == "Chinatown."
    sent = llmock.last_request.body["messages"]
    assert sent[:2] == [*ctx.messages, ASKED]
    assert [one["role"] for one in sent[2:]] == ["assistant", "tool"]
    assert sent[2]["tool_calls"][0]["function"]["name"] == "titles"


async def test_rate_limits_are_the_clients_matter(client: Any, llmock: Any, ctx: PromptContext) -> None:
    llmock.rate_limit(times=2, retry_after=0.02)
    answer = await done(client.chat.completions.create(model="m", **ctx.chat("Hi?")))
    assert answer.choices
    assert [one.status for one in llmock.requests] == [429, 429, 200]
    assert all(one.body == llmock.last_request.body for one in llmock.requests)
    llmock.assert_resilient()


async def test_errors_are_the_clients_own(client: Any, llmock: Any, ctx: PromptContext) -> None:
    given = ctx.chat("Hi?")
    for status, error in (
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (404, openai.NotFoundError),
    ):
        llmock.fail(status)
        with pytest.raises(error):
            await done(client.chat.completions.create(model="m", **given))
    llmock.context_overflow()
    with pytest.raises(openai.BadRequestError, match="context length"):
        await done(client.chat.completions.create(model="m", **given))
    assert (await done(client.chat.completions.create(model="m", **given))).choices


# -- responses -------------------------------------------------------------------------------------------------------


async def test_responses(client: Any, llmock: Any, contexts: dict[str, PromptContext]) -> None:
    ctx, ask = contexts["chat"], contexts["ask"]
    llmock.reply("Dune.", times=None)
    answer = await done(client.responses.create(model="m", **ctx.responses("What should I watch?")))
    assert answer.output_text == "Dune."
    assert llmock.last_request.body == {"model": "m", "input": [*ctx.messages, ASKED]}
    await done(client.responses.create(model="m", **ask.responses([ASKED, *answer.output])))
    sent = llmock.last_request.body["input"]
    assert sent[:4] == [*ask.messages[:3], ASKED]
    assert sent[4]["content"][0]["text"] == "Dune."
    assert sent[5:] == ask.messages[3:]
    found = await items(await done(client.responses.create(model="m", stream=True, **ctx.responses([ASKED]))))
    assert "".join(one.delta for one in found if one.type == "response.output_text.delta") == "Dune."
    assert found[-1].type == "response.completed"
    assert llmock.last_request.body["input"] == [*ctx.messages, ASKED]
    seen, final = await events(client.responses.stream(model="m", **ctx.responses([ASKED])))
    assert seen[-1].type == "response.completed"
    assert final.output_text == "Dune."
    assert llmock.last_request.body["input"] == [*ctx.messages, ASKED]


async def test_responses_parse_and_truncation(client: Any, llmock: Any, ctx: PromptContext) -> None:
    answer = await done(client.responses.parse(model="m", text_format=Titles, **ctx.responses("Hi?")))
    assert isinstance(answer.output_parsed, Titles)
    llmock.reply("One two three four five six seven").truncate(after_chunks=6)
    found = await items(await done(client.responses.create(model="m", stream=True, **ctx.responses("Hi?"))))
    assert found
    assert "response.completed" not in [one.type for one in found]


# -- Anthropic -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SYNC, "async"])
async def test_anthropic(llmock: Any, contexts: dict[str, PromptContext], kind: str) -> None:
    made: Any = anthropic.Anthropic() if kind == "sync" else anthropic.AsyncAnthropic()
    llmock.reply("Dune.", times=None)
    ask = contexts["ask"]
    try:
        answer = await done(made.messages.create(model="claude", max_tokens=50, **ask.anthropic()))
        assert answer.content[0].text == "Dune."
        assert llmock.last_request.body == {"model": "claude", "max_tokens": 50, **ask.anthropic()}
        turns: list[Any] = [ASKED, {"role": "assistant", "content": answer.content}]
        await done(made.messages.create(model="claude", max_tokens=50, **ask.anthropic(turns)))
        sent = llmock.last_request.body
        assert sent["system"] == ask.anthropic()["system"]
        assert [one["role"] for one in sent["messages"]] == ["user", "assistant", "user", "assistant", "user"]
        assert sent["messages"][2] == ASKED
        assert sent["messages"][3]["content"][0]["text"] == "Dune."
        texts = [*sent["system"], *[part for one in sent["messages"] for part in parts_of(one)]]
        kept = [one for one in texts if one["text"] not in (ASKED["content"], "Dune.")]
        assert "".join(one["text"] for one in kept) == "".join(
            one["content"] for one in sorted(ask.messages, key=lambda one: one["role"] not in ("system", "developer"))
        )
    finally:
        await done(made.close())


def parts_of(message: Any) -> list[Any]:
    content = message["content"]
    return [{"text": content}] if isinstance(content, str) else content


# -- many users at once ----------------------------------------------------------------------------------------------


async def test_each_user_has_their_own_prompt(project: Project, llmock: Any) -> None:
    builder: AsyncContextBuilder = project.async_builder()
    client = openai.AsyncOpenAI()
    segments = {"8a2f": "power_user", "b13c": "casual", "zzzz": "unknown"}

    @builder.inject("chat")
    async def answer(ctx: PromptContext, user_id: str) -> None:
        await client.chat.completions.create(model=user_id, **ctx.chat(user_id))

    await asyncio.gather(*[answer(user) for user in [*segments] * 10])
    bodies = [one.body for one in llmock.requests]
    assert len(bodies) == 30
    for body in bodies:
        system, user = body["messages"]
        assert f"Viewer: {segments[body['model']]}," in system["content"]
        assert user["content"] == body["model"]
    await client.close()
    await builder.aclose()
