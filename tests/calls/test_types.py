"""Calls and `inject` under pyright and mypy, both strict, with the current clients."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

OPENAI = """
from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import MessageParam
from openai import AsyncOpenAI, AsyncStream, OpenAI, Stream
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChatCompletionMessageParam,
    ChatCompletionUserMessageParam,
    ParsedChatCompletion,
)
from openai.types.responses import (
    ParsedResponse,
    Response,
    ResponseInputItemParam,
    ResponseOutputItem,
    ResponseStreamEvent,
)
from pydantic import BaseModel

from llmfeatures import ContextBuilder

MODEL = "gpt-5-mini"
builder = ContextBuilder.from_project(".")
ctx = builder.build_context("recommender", user_id="8a2f")


class Titles(BaseModel):
    titles: list[str]


def chat(client: OpenAI, turns: list[ChatCompletionMessageParam]) -> None:
    completions = client.chat.completions
    made: ChatCompletion = completions.create(model=MODEL, **ctx.chat("Hi?"))
    turns.append({"role": "assistant", "content": made.choices[0].message.content})
    turns.append({"role": "user", "content": "And then?"})
    again: ChatCompletion = completions.create(model=MODEL, **ctx.chat(turns, blocks=True))
    stream: Stream[ChatCompletionChunk] = completions.create(model=MODEL, stream=True, **ctx.chat(turns))
    for chunk in stream:
        print(chunk.choices[0].delta.content)
    with completions.stream(model=MODEL, **ctx.chat(turns)) as events:
        for event in events:
            if event.type == "content.delta":
                print(event.delta.upper())
        print(events.get_final_completion().choices[0].message.content)
    parsed: ParsedChatCompletion[Titles] = completions.parse(model=MODEL, response_format=Titles, **ctx.chat("Hi?"))
    titles = parsed.choices[0].message.parsed
    print(titles.titles if titles else None, again)
    raw = completions.with_raw_response.create(model=MODEL, **ctx.chat("Hi?"))
    print(raw.headers.get("x-request-id"), raw.parse().choices[0].message.content)
    with completions.with_streaming_response.create(model=MODEL, **ctx.chat("Hi?")) as answer:
        for line in answer.iter_lines():
            print(line.upper())
    mixed: list[ChatCompletionMessageParam | ChatCompletionMessage] = [*turns, made.choices[0].message]
    only: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Hi?"}]
    print(ctx.chat(mixed), ctx.chat(only), ctx.chat(tuple(only)), ctx.chat(only)["messages"][0]["role"])


async def chat_async(client: AsyncOpenAI, turns: list[ChatCompletionMessageParam]) -> AsyncIterator[str]:
    completions = client.chat.completions
    made: ChatCompletion = await completions.create(model=MODEL, **ctx.chat(turns))
    stream: AsyncStream[ChatCompletionChunk] = await completions.create(model=MODEL, stream=True, **ctx.chat(turns))
    async for chunk in stream:
        yield chunk.choices[0].delta.content or ""
    async with completions.stream(model=MODEL, **ctx.chat(turns)) as events:
        async for event in events:
            if event.type == "content.delta":
                yield event.delta
    parsed = await completions.parse(model=MODEL, response_format=Titles, **ctx.chat("Hi?"))
    titles = parsed.choices[0].message.parsed
    yield titles.titles[0] if titles else ""
    raw = await completions.with_raw_response.create(model=MODEL, **ctx.chat("Hi?"))
    yield raw.parse().choices[0].message.content or ""
    async with completions.with_streaming_response.create(model=MODEL, **ctx.chat("Hi?")) as answer:
        yield await answer.text()
    print(made)


def responses(client: OpenAI) -> Iterator[str]:
    made: Response = client.responses.create(model=MODEL, **ctx.responses("Hi?"))
    items: list[ResponseInputItemParam | ResponseOutputItem] = [{"role": "user", "content": "Hi?"}]
    items += made.output
    items.append({"type": "function_call_output", "call_id": "1", "output": "[]"})
    again: Response = client.responses.create(model=MODEL, **ctx.responses(items, blocks=True))
    stream: Stream[ResponseStreamEvent] = client.responses.create(model=MODEL, stream=True, **ctx.responses(items))
    for event in stream:
        if event.type == "response.output_text.delta":
            yield event.delta
    with client.responses.stream(model=MODEL, **ctx.responses("Hi?")) as events:
        for one in events:
            yield one.type
    parsed: ParsedResponse[Titles] = client.responses.parse(model=MODEL, text_format=Titles, **ctx.responses("Hi?"))
    yield parsed.output_parsed.titles[0] if parsed.output_parsed else again.output_text
    yield client.responses.with_raw_response.create(model=MODEL, **ctx.responses("Hi?")).parse().output_text
    with client.responses.with_streaming_response.create(model=MODEL, **ctx.responses("Hi?")) as answer:
        yield from answer.iter_lines()


async def responses_async(client: AsyncOpenAI) -> AsyncIterator[str]:
    made: Response = await client.responses.create(model=MODEL, **ctx.responses("Hi?"))
    stream: AsyncStream[ResponseStreamEvent] = await client.responses.create(
        model=MODEL, stream=True, **ctx.responses("Hi?")
    )
    async for event in stream:
        if event.type == "response.output_text.delta":
            yield event.delta
    async with client.responses.stream(model=MODEL, **ctx.responses("Hi?")) as events:
        async for one in events:
            yield one.type
    parsed = await client.responses.parse(model=MODEL, text_format=Titles, **ctx.responses("Hi?"))
    yield parsed.output_parsed.titles[0] if parsed.output_parsed else made.output_text
    raw = await client.responses.with_raw_response.create(model=MODEL, **ctx.responses("Hi?"))
    yield raw.parse().output_text
    async with client.responses.with_streaming_response.create(model=MODEL, **ctx.responses("Hi?")) as answer:
        yield await answer.text()


def messages(client: Anthropic, turns: list[MessageParam]) -> None:
    made = client.messages.create(model="claude", max_tokens=100, **ctx.anthropic(turns))
    turns.append({"role": "assistant", "content": made.content})
    with client.messages.stream(model="claude", max_tokens=100, **ctx.anthropic(turns)) as stream:
        for text in stream.text_stream:
            print(text.upper())
    for event in client.messages.create(model="claude", max_tokens=100, stream=True, **ctx.anthropic("Hi?")):
        print(event.type)
    print(client.messages.count_tokens(model="claude", **ctx.anthropic("Hi?")).input_tokens)


async def messages_async(client: AsyncAnthropic) -> None:
    print((await client.messages.create(model="claude", max_tokens=100, **ctx.anthropic("Hi?"))).content)
    async with client.messages.stream(model="claude", max_tokens=100, **ctx.anthropic("Hi?")) as stream:
        async for text in stream.text_stream:
            print(text.upper())


ctx.chat(b"Hi?")  # wrong
ctx.chat({"role": "user", "content": "Hi?"})  # wrong
ctx.chat([{"role": "usr", "content": "Hi?"}])  # wrong
ctx.chat([{"content": "Hi?"}])  # wrong
ctx.responses([{"type": "function_call_output", "call_id": 1, "output": "[]"}])  # wrong
ctx.anthropic([{"role": "developer", "content": "Hi?"}])  # wrong
"""

INJECT = """
from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

from llmfeatures import AsyncClient, AsyncContextBuilder, Client, ContextBuilder, PromptContext

builder, asynchronous = ContextBuilder.from_project("."), AsyncContextBuilder.from_project(".")


@builder.inject("recommender")
def answer(question: str, *, user_id: str, ctx: PromptContext) -> int:
    return len(question + user_id + ctx.text)


@builder.inject("recommender")
def first(ctx: PromptContext, question: str, *, user_id: str = "8a2f") -> int:
    return len(question + user_id + ctx.text)


@builder.inject("recommender")
def words(ctx: PromptContext, user_id: str) -> Iterator[str]:
    yield from ctx.text.split()


@builder.inject("recommender")
async def in_thread(ctx: PromptContext, user_id: str) -> int:
    return len(ctx.text)


@asynchronous.inject("recommender")
async def awaited(ctx: PromptContext, user_id: str) -> int:
    return len(ctx.text)


@asynchronous.inject("recommender")
async def steps(ctx: PromptContext, user_id: str) -> AsyncIterator[str]:
    yield ctx.text


@asynchronous.inject("recommender")
async def last(user_id: str, *, ctx: PromptContext) -> AsyncIterator[str]:
    yield ctx.text


@Client("http://127.0.0.1").inject("recommender")
def from_a_service(ctx: PromptContext, user_id: str) -> int:
    return len(ctx.text)


@AsyncClient("http://127.0.0.1").inject("recommender")
async def from_a_service_async(ctx: PromptContext, user_id: str) -> int:
    return len(ctx.text)


class Bot:
    @builder.inject("recommender")
    def answer(self, ctx: PromptContext, user_id: str) -> int:
        return len(ctx.text)

    @builder.inject("recommender")
    async def later(self, user_id: str, ctx: PromptContext) -> int:
        return len(ctx.text)


plain: Callable[[str], int] = from_a_service
coroutine: Callable[[str], Coroutine[Any, Any, int]] = awaited
made: int = answer("?", user_id="8a2f") + first("?") + Bot().answer("8a2f") + from_a_service("8a2f")
texts: list[str] = list(words("8a2f"))


async def use() -> None:
    number: int = await in_thread("8a2f") + await awaited("8a2f") + await Bot().later("8a2f")
    number += await from_a_service_async(user_id="8a2f")
    async for step in steps("8a2f"):
        print(step.upper(), number)
    async for step in last(user_id="8a2f"):
        print(step.upper(), made, texts, plain, coroutine)


first("?", user_id=5)  # wrong
first("?", "8a2f")  # wrong
first(5)  # wrong
words()  # wrong
awaited("8a2f").upper()  # wrong
answer("?", user_id="8a2f").upper()  # wrong
Bot().answer()  # wrong
Bot().answer(5)  # wrong
from_a_service(5)  # wrong
"""
PARTS = {"calls.py": OPENAI, "injected.py": INJECT}


def wrong_lines(code: str) -> list[int]:
    return [number for number, line in enumerate(code.splitlines(), 1) if line.endswith("# wrong")]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("app")
    for name, code in PARTS.items():
        (root / name).write_text(code)
    return root


@pytest.mark.heavy
def test_pyright(app: Path) -> None:
    (app / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict", "pythonVersion": "3.11"}')
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", *PARTS],
        cwd=app, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found: dict[str, set[int]] = {}
    for one in json.loads(done.stdout)["generalDiagnostics"]:
        found.setdefault(Path(one["file"]).name, set()).add(one["range"]["start"]["line"] + 1)
    assert {name: sorted(lines) for name, lines in found.items()} == {
        name: wrong_lines(code) for name, code in PARTS.items()
    }, done.stdout


@pytest.mark.heavy
def test_mypy(app: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(app / ".mypy_cache"), *PARTS],
        cwd=app, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found: dict[str, set[int]] = {}
    for name, line in re.findall(r"^(\S+?):(\d+): error", done.stdout, re.MULTILINE):
        found.setdefault(name, set()).add(int(line))
    assert {name: sorted(lines) for name, lines in found.items()} == {
        name: wrong_lines(code) for name, code in PARTS.items()
    }, done.stdout
