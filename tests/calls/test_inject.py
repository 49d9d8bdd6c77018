"""`inject`: every kind of function, as itself without ``ctx``."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from llmfeatures import AsyncClient, AsyncContextBuilder, Client, ContextBuilder, Project, PromptContext
from llmfeatures.errors import RequestError
from tests.calls.projects import chat_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return chat_project(tmp_path_factory.mktemp("inject"))


@pytest.fixture(scope="module")
def builder(project: Project) -> Iterator[ContextBuilder]:
    made = project.builder()
    yield made
    made.close()


@pytest.fixture
async def asynchronous(project: Project) -> AsyncIterator[AsyncContextBuilder]:
    made = project.async_builder()
    yield made
    await made.aclose()


VIEWER = "You recommend shows. Viewer: power_user, watched 47."


# -- what is decorated -----------------------------------------------------------------------------------------------


def test_ctx_may_stand_anywhere(builder: ContextBuilder) -> None:
    inject = builder.inject("plain")

    @inject
    def first(ctx: PromptContext, question: str, *, user_id: str) -> tuple[str, str]:
        return ctx.text, question

    @inject
    def middle(
        question: str, ctx: PromptContext, user_id: str = "8a2f", *more: int
    ) -> tuple[str, str, tuple[int, ...]]:
        return ctx.text, question, more

    @inject
    def only(ctx: PromptContext, /, user_id: str) -> str:
        return ctx.text

    @inject
    def last(user_id: str, *, ctx: PromptContext, **further: int) -> tuple[str, dict[str, int]]:
        return ctx.text, further

    @inject
    def optional(user_id: str, ctx: PromptContext | None = None) -> str:
        return ctx.text if ctx else ""

    assert first("Q", user_id="8a2f") == (VIEWER, "Q")
    assert first(question="Q", user_id="8a2f") == (VIEWER, "Q")
    assert middle("Q") == (VIEWER, "Q", ())
    assert middle("Q", "8a2f", 1, 2) == (VIEWER, "Q", (1, 2))
    assert only("8a2f") == only(user_id="8a2f") == VIEWER
    assert last("8a2f", x=1) == (VIEWER, {"x": 1})
    assert optional("8a2f") == VIEWER


def test_methods(builder: ContextBuilder) -> None:
    inject = builder.inject("plain")

    class Bot:
        name = "Bo"

        @inject
        def answer(self, ctx: PromptContext, *, user_id: str) -> str:
            return f"{self.name}: {ctx.values['segment']}"

        @classmethod
        @inject
        def named(cls, user_id: str, *, ctx: PromptContext) -> str:
            return f"{cls.name}: {ctx.values['segment']}"

        @staticmethod
        @inject
        def alone(user_id: str, *, ctx: PromptContext) -> str:
            return ctx.values["segment"]

    assert Bot().answer(user_id="b13c") == Bot.answer(Bot(), user_id="b13c") == "Bo: casual"
    assert Bot.named("8a2f") == Bot().named("8a2f") == "Bo: power_user"
    assert Bot().alone("8a2f") == "power_user"
    with pytest.raises(RequestError, match="put @staticmethod above"):
        inject(staticmethod(lambda user_id, ctx: None))


def test_names_are_checked_when_decorated(builder: ContextBuilder, asynchronous: AsyncContextBuilder) -> None:
    with pytest.raises(RequestError, match=r"<lambda> has no parameter 'question', which prompt 'ask' needs"):
        builder.inject("ask")(lambda user_id, ctx: None)
    with pytest.raises(RequestError, match="has no parameter 'user_id'"):
        builder.inject("plain")(lambda ctx, **keys: None)
    with pytest.raises(RequestError, match="needs a parameter ctx"):
        builder.inject("plain")(lambda user_id, **ctx: None)
    with pytest.raises(Exception, match="did you mean 'plain'"):
        builder.inject("plane")(lambda user_id, ctx: None)
    for inject in (builder.inject, asynchronous.inject, Client("http://x").inject, AsyncClient("http://x").inject):
        with pytest.raises(RequestError, match=r'takes the name of a prompt, .*like @builder\.inject\("recommender"\)'):

            @_any(inject)
            async def nameless(ctx: PromptContext, user_id: str) -> None: ...

        with pytest.raises(RequestError, match="not NoneType"):
            _any(inject)(None)
        with pytest.raises(RequestError, match="not an empty text"):
            inject("")
    wrong: Any = "answer"
    with pytest.raises(RequestError, match="decorates a function, not str"):
        builder.inject("plain")(wrong)

    def generator(user_id: str, ctx: PromptContext) -> Iterator[str]:
        yield ""

    for plain in (generator, lambda user_id, ctx: None):
        with pytest.raises(RequestError, match=r"is not async; write async def, or decorate it with ContextBuilder"):
            asynchronous.inject("plain")(plain)


def test_a_wrong_call_is_told_as_python_does(builder: ContextBuilder) -> None:
    @builder.inject("plain")
    def answer(question: str, *, user_id: str, ctx: PromptContext, **more: Any) -> None: ...

    for arguments, given, said in (
        ((), {"user_id": "a"}, r"answer\(\) missing a required argument: 'question'"),
        (("Q", "R"), {"user_id": "a"}, r"answer\(\) too many positional arguments"),
        (("Q",), {"user_id": "a", "ctx": None}, r"answer\(\) takes no argument 'ctx'"),
    ):
        with pytest.raises(TypeError, match=said):
            answer(*arguments, **given)
    with pytest.raises(RequestError, match="user_id"):
        answer("Q", user_id=5)


def test_the_result_looks_like_the_function_without_ctx(builder: ContextBuilder) -> None:
    @builder.inject("plain")
    async def answer(ctx: PromptContext, question: str = "?", *, user_id: str) -> int:
        """Answers."""
        return 1

    assert str(inspect.signature(answer)) == "(question: str = '?', *, user_id: str) -> int"
    assert list(typing.get_type_hints(answer)) == ["question", "user_id", "return"]
    assert (answer.__name__, answer.__doc__) == ("answer", "Answers.")
    assert inspect.iscoroutinefunction(answer)

    def steps(user_id: str, ctx: PromptContext) -> Iterator[str]:
        yield ""

    async def asteps(user_id: str, ctx: PromptContext) -> AsyncIterator[str]:
        yield ""

    assert inspect.isgeneratorfunction(builder.inject("plain")(steps))
    assert inspect.isasyncgenfunction(builder.inject("plain")(asteps))


# -- generators ------------------------------------------------------------------------------------------------------


def test_a_generator_is_itself(builder: ContextBuilder) -> None:
    seen: list[Any] = []

    @builder.inject("plain")
    def talk(user_id: str, ctx: PromptContext) -> Generator[str, str, int]:
        try:
            sent = yield ctx.text
            while True:
                try:
                    sent = yield sent.upper()
                except KeyError as error:
                    seen.append(error)
                    return 7
        finally:
            seen.append("closed")

    made = talk("8a2f")
    assert (next(made), made.send("a"), made.send("b")) == (VIEWER, "A", "B")
    with pytest.raises(StopIteration) as stopped:
        made.throw(KeyError("k"))
    assert stopped.value.value == 7
    assert [type(one) for one in seen] == [KeyError, str]
    other = talk("8a2f")
    next(other)
    other.close()
    assert seen[-1] == "closed"
    unread = talk("nobody", 1)  # pyright: ignore
    with pytest.raises(TypeError, match="too many positional"):  # when iteration begins, as the context is built then
        next(unread)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_an_async_generator_is_itself(
    builder: ContextBuilder, asynchronous: AsyncContextBuilder, kind: str
) -> None:
    seen: list[Any] = []

    async def talk(user_id: str, ctx: PromptContext) -> AsyncGenerator[str, str]:
        try:
            sent = yield ctx.text
            while True:
                try:
                    sent = yield sent.upper()
                except KeyError as error:
                    seen.append(error)
                    return
                except OSError:
                    sent = yield "again"
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    injected: Any = (builder if kind == "sync" else asynchronous).inject("plain")(talk)
    made = injected("8a2f")
    assert [await anext(made), await made.asend("a"), await made.asend("b")] == [VIEWER, "A", "B"]
    assert await made.athrow(OSError()) == "again"
    assert await made.asend("c") == "C"
    with pytest.raises(StopAsyncIteration):
        await made.athrow(KeyError("k"))
    assert [type(one) for one in seen] == [KeyError, str]
    with pytest.raises(StopAsyncIteration):
        await anext(made)

    other = injected("8a2f")
    await anext(other)
    await other.aclose()
    assert seen[-2:] == [seen[1], "closed"]

    third = injected("8a2f")
    await anext(third)
    with pytest.raises(ValueError, match="from outside"):
        await third.athrow(ValueError("from outside"))
    assert [text async for text in _two(injected)] == [VIEWER, ""]


async def _two(injected: Any) -> AsyncIterator[str]:
    made = injected("8a2f")
    yield await anext(made)
    yield await made.asend("")
    await made.aclose()


async def test_what_fails_comes_out(builder: ContextBuilder, asynchronous: AsyncContextBuilder) -> None:
    class WrongError(Exception):
        pass

    async def fails(user_id: str, ctx: PromptContext) -> None:
        raise WrongError

    async def later(user_id: str, ctx: PromptContext) -> AsyncIterator[int]:
        yield 1
        raise WrongError

    for each in (builder, asynchronous):
        with pytest.raises(WrongError):
            await each.inject("plain")(fails)("8a2f")
        with pytest.raises(WrongError):
            assert [one async for one in each.inject("plain")(later)("8a2f")] == [1]
        with pytest.raises(RequestError):
            await each.inject("plain")(fails)(user_id=5)


# -- async functions -------------------------------------------------------------------------------------------------


async def test_a_blocking_builder_does_not_block_the_loop(
    builder: ContextBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    release = threading.Event()
    build = builder.build_context

    def slow(*args: Any, **kwargs: Any) -> PromptContext:
        threads.append(threading.get_ident())
        assert release.wait(20)
        return build(*args, **kwargs)

    @builder.inject("plain")
    async def answer(user_id: str, ctx: PromptContext) -> str:
        threads.append(threading.get_ident())
        return ctx.text

    monkeypatch.setattr(builder, "build_context", slow)
    task = asyncio.create_task(answer("8a2f"))
    for _ in range(3):
        await asyncio.sleep(0)  # were the build in this thread, this would never go on
    assert not task.done()
    release.set()
    assert await task == VIEWER
    assert threads[0] != threads[1] == threading.get_ident()


async def test_an_object_that_is_called_is_what_its_call_is(
    builder: ContextBuilder, asynchronous: AsyncContextBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answer:
        async def __call__(self, user_id: str, ctx: PromptContext) -> str:
            return ctx.text

    threads: list[int] = []
    build = builder.build_context

    def noted(*args: Any, **kwargs: Any) -> PromptContext:
        threads.append(threading.get_ident())
        return build(*args, **kwargs)

    monkeypatch.setattr(builder, "build_context", noted)
    assert await builder.inject("plain")(Answer())("8a2f") == VIEWER
    assert threads != [threading.get_ident()], "the loop went on"
    assert await asynchronous.inject("plain")(Answer())("8a2f") == VIEWER


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_cancelling(builder: ContextBuilder, asynchronous: AsyncContextBuilder, kind: str) -> None:
    entered, ended = asyncio.Event(), []

    async def answer(user_id: str, ctx: PromptContext) -> AsyncIterator[int]:
        try:
            entered.set()
            await asyncio.sleep(60)
            yield 1
        finally:
            ended.append(ctx.text)

    injected: Any = (builder if kind == "sync" else asynchronous).inject("plain")(answer)
    task = asyncio.create_task(anext(injected("8a2f")))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [VIEWER]
    # while the context is built
    other = asyncio.create_task(injected("8a2f").__anext__())
    await asyncio.sleep(0)
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other
    assert ended == [VIEWER]


async def test_calls_at_the_same_time_get_their_own_context(
    builder: ContextBuilder, asynchronous: AsyncContextBuilder
) -> None:
    async def answer(user_id: str, ctx: PromptContext) -> tuple[str, str]:
        await asyncio.sleep(0)
        return user_id, ctx.values["segment"]

    for each in (builder, asynchronous):
        injected = each.inject("plain")(answer)
        users = ["8a2f", "b13c", "nobody"] * 20
        assert await asyncio.gather(*[injected(user) for user in users]) == [
            (user, {"8a2f": "power_user", "b13c": "casual"}.get(user, "unknown")) for user in users
        ]


# -- frameworks ------------------------------------------------------------------------------------------------------


def test_fastapi_does_not_see_ctx(builder: ContextBuilder, project: Project) -> None:
    asynchronous = project.async_builder()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asynchronous.aclose()

    app = FastAPI(lifespan=lifespan)

    @app.get("/plain/{user_id}")
    @builder.inject("plain")
    def plain(user_id: str, ctx: PromptContext, loud: bool = False) -> str:
        return ctx.text.upper() if loud else ctx.text

    @app.get("/ask/{user_id}")
    @asynchronous.inject("ask")
    async def ask(user_id: str, question: str, *, ctx: PromptContext) -> list[dict[str, str]]:
        return [dict(one) for one in ctx.messages]

    @builder.inject("plain")
    async def words(user_id: str, *, ctx: PromptContext) -> AsyncIterator[str]:
        for word in ctx.text.split():
            yield word

    @app.get("/words/{user_id}")
    def streamed(user_id: str) -> StreamingResponse:
        return StreamingResponse(words(user_id))

    @builder.inject("plain")
    def segment(user_id: str, *, ctx: PromptContext) -> Iterator[str]:
        yield ctx.values["segment"]

    @app.get("/segment/{user_id}")
    def of(found: str = Depends(segment)) -> str:
        return found

    with TestClient(app) as client:
        assert client.get("/plain/8a2f").json() == VIEWER
        assert client.get("/plain/8a2f?loud=true").json() == VIEWER.upper()
        assert client.get("/ask/8a2f?question=Why").json()[-1]["content"] == "Why (47 watched)"
        assert client.get("/ask/8a2f").status_code == 422
        assert client.get("/words/8a2f").text == "".join(VIEWER.split())
        assert client.get("/segment/b13c").json() == "casual"
        paths = client.get("/openapi.json").json()["paths"]
    names = {path: [one["name"] for one in each["get"]["parameters"]] for path, each in paths.items()}
    assert names == {
        "/plain/{user_id}": ["user_id", "loud"],
        "/ask/{user_id}": ["user_id", "question"],
        "/words/{user_id}": ["user_id"],
        "/segment/{user_id}": ["user_id"],
    }


@pytest.mark.heavy
def test_many_threads(builder: ContextBuilder) -> None:
    @builder.inject("plain")
    def answer(user_id: str, *, ctx: PromptContext) -> str:
        return ctx.values["segment"]

    wrong: list[str] = []

    def loop(user: str, expected: str) -> None:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            if answer(user) != expected:
                wrong.append(user)

    threads = [threading.Thread(target=loop, args=pair) for pair in [("8a2f", "power_user"), ("b13c", "casual")] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def _any(value: Any) -> Any:
    return value
