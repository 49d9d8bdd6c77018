"""`Client` and `AsyncClient` against a real service: the builders' answers, the same exceptions, safe retries."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llmfeatures import AsyncClient, AsyncContextBuilder, Client, ContextBuilder, Project, PromptContext, errors
from llmfeatures.problems import CODES, error_of, problem_of
from tests.service.world import Running, closed_port

ANSWER = {"asker_user_id": "8a2f", "owner_user_id": None, "place_tenant_id": 1, "place_number": 2, "question": "Why?"}


class Synchronous:
    """An `AsyncClient` that is called as a `Client`."""

    def __init__(self, url: str, **options: Any) -> None:
        self.runner = asyncio.Runner()
        self.client = AsyncClient(url, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)
        return lambda *args, **kwargs: self.runner.run(method(*args, **kwargs))

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.close()


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, running: Running) -> Iterator[Any]:
    """Each client in turn."""
    made: Any = Client(running.url) if request.param == "sync" else Synchronous(running.url)
    yield made
    made.close()


def same(one: PromptContext, other: PromptContext) -> bool:
    return one.model_copy(update={"request_id": other.request_id}) == other


def test_contexts_and_features_are_those_of_the_builders(
    client: Any, builder: ContextBuilder, project: Project
) -> None:
    at = datetime(2026, 5, 7, tzinfo=UTC)
    for prompt, given in (("all", {"user_id": "8a2f"}), ("all", {"user_id": "b13c"}), ("home", {"user_id": None}),
                          ("support/answer", {**ANSWER, "more": {"n": 2**70}, "at": at})):  # fmt: skip
        assert same(client.build_context(prompt, **given), builder.build_context(prompt, **given))
    options = {"as_of": datetime(2026, 5, 7, 11), "clock": "event"}
    found = client.build_context("home", user_id="8a2f", **options)
    assert same(found, builder.build_context("home", user_id="8a2f", **options))
    rows = [{"user_id": "b13c"}, {"user_id": "8a2f"}]
    many = client.build_contexts("home", rows, timeout=timedelta(seconds=1))
    assert [ctx.text for ctx in many] == [ctx.text for ctx in builder.build_contexts("home", rows)]
    features = ["since", "born", "balance", "extra", "moments", "tags", "user.genre"]
    assert client.get_online_features(features, rows) == project.get_online_features(features, rows)
    assert [one["name"] for one in client.registry()["entities"]] == ["seat", "user"]
    assert client.prompt_names() == builder.prompt_names()


def test_errors_come_back_as_the_same_exceptions(client: Any, builder: ContextBuilder, project: Project) -> None:
    for ask, there, here in (
        (("strict",), {"user_id": "b13c"}, builder.build_context),
        (("homer",), {}, builder.build_context),
        (("home",), {}, builder.build_context),
        (("home",), {"user_id": 8}, builder.build_context),
        (("home",), {"user_id": "x", "clock": "known", "as_of": "x"}, builder.build_context),
    ):
        with pytest.raises(errors.LLMFeaturesError) as expected:
            here(*ask, **there)
        with pytest.raises(type(expected.value)) as found:
            client.build_context(*ask, **there)
        assert type(found.value) is type(expected.value)
        if ask != ("homer",):  # which lists what this service has
            assert str(found.value) == str(expected.value)
        assert {**vars(found.value), "known": None} == {**vars(expected.value), "known": None}
    with pytest.raises(errors.UnknownNameError) as unknown:
        client.get_online_features(["genr"], [])
    with pytest.raises(errors.UnknownNameError) as expected_unknown:
        project.get_online_features(["genr"], [])
    assert vars(unknown.value) == vars(expected_unknown.value)


def test_injection(running: Running) -> None:
    with Client(running.url) as client:

        @client.inject("support/answer")
        def answer(question: str, asker_user_id: str, *, place_tenant_id: int = 1, place_number: int = 2,
                   owner_user_id: str | None = None, ctx: PromptContext) -> str:  # fmt: skip
            return f"{question}: {ctx.values['asker.genre']}"

        assert answer("Why", "8a2f") == "Why: drama"

        @client.inject("home")
        def lacks(ctx: PromptContext) -> None: ...

        with pytest.raises(errors.RequestError, match="no parameter 'user_id'"):
            lacks()
        with pytest.raises(errors.RequestError, match="needs a parameter ctx"):
            client.inject("home")(lambda user_id: user_id)


async def test_injection_in_async_functions(running: Running) -> None:
    async with AsyncClient(running.url) as client:

        @client.inject("home")
        async def one(user_id: str, ctx: PromptContext) -> str:
            return ctx.text

        @client.inject("home")
        async def many(user_id: str, ctx: PromptContext) -> Any:
            yield ctx.text

        assert "drama" in await one("8a2f")
        assert [text async for text in many(user_id="8a2f")] == [await one(user_id="8a2f")]


def test_every_error_class_crosses_http_and_back() -> None:
    made: dict[type, errors.LLMFeaturesError] = {
        errors.UnknownNameError: errors.UnknownNameError("view", "tast", ["taste"]),
        errors.FeatureNotPresentError: errors.FeatureNotPresentError("no", feature="genre", status="missing"),
        errors.OnDemandError: errors.OnDemandError("no", feature="scaled"),
        errors.PushedRowsError: errors.PushedRowsError("no", problems=[(0, "genre", "a bool is no str")], total=1),
        errors.PromptError: errors.PromptError("no", path="a", line=1),
    }
    for kind in vars(errors).values():
        if inspect.isclass(kind) and issubclass(kind, errors.LLMFeaturesError):
            error = made.get(kind)
            if error is None:
                try:
                    error = kind("no")
                except TypeError:
                    continue
            problem = problem_of(error)
            assert problem.code in CODES
            back = error_of(problem.status, json.loads(json.dumps(problem.body(), default=list)))
            assert isinstance(error, type(back))
            assert str(back) == str(error)
    assert isinstance(error_of(401, {"error": {"code": "unauthorized", "message": "x"}}), errors.AccessError)
    for body in (None, [], {}, {"error": "x"}, {"error": {}}, {"error": {"code": 1}}, {"detail": "x"}):
        assert isinstance(error_of(502, body), errors.ServiceError)


def test_a_push_to_a_view_that_takes_none_is_the_projects_error(client: Any, project: Project) -> None:
    with pytest.raises(errors.RequestError, match="'seats' takes no pushes; the views that do are: taste") as expected:
        project.push("seats", [])
    with pytest.raises(errors.RequestError) as found:
        client.push("seats", [])
    assert (type(found.value), str(found.value)) == (type(expected.value), str(expected.value))


def test_an_address_that_nobody_answers(client: Any) -> None:
    nobody: Any = type(client)(f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(errors.ServiceError, match="could not be reached"):
        nobody.build_context("home", user_id="x")
    nobody.close()
    with pytest.raises(errors.RequestError, match="http://127"):
        Client("127.0.0.1:8000")


@contextmanager
def scripted(*answers: tuple[int, dict[str, str], bytes] | None) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives these answers in turn, None: it hangs up; and the bodies that it was sent."""
    bodies: list[bytes] = []
    waiting = list(answers)

    class Scripted(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            if answer is None:
                self.close_connection = True
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


AWAY = (503, {"retry-after": "0"}, b'{"error": {"code": "overloaded", "message": "busy"}}')
GONE = (503, {"retry-after": "0"}, b'{"error": {"code": "store_unavailable", "message": "away"}}')
DONE = (200, {}, b'{"rows": [], "dtypes": {}}')


@pytest.mark.parametrize("kind", [Client, Synchronous])
def test_what_may_be_repeated_is_repeated_a_few_times(kind: Any) -> None:
    for first in (AWAY, GONE, None):
        with scripted(first, DONE) as (url, bodies):
            client = kind(url)
            assert client.get_online_features([], []) == []
            assert len(bodies) == 2
            client.close()
    for first, error in (
        (GONE, errors.StoreUnavailableError),
        (AWAY, errors.ServiceError),
        (None, errors.ServiceError),
    ):
        with scripted(first) as (url, bodies):
            client = kind(url)
            with pytest.raises(error):
                client.get_online_features([], [])
            assert len(bodies) == 3
            client.close()


@pytest.mark.parametrize("status", [500, 503, 403])
def test_what_would_not_help_is_not_repeated(status: int) -> None:
    with scripted((status, {}, b"{}")) as (url, bodies), Client(url) as client:
        with pytest.raises(errors.ServiceError):
            client.get_online_features([], [])
        assert len(bodies) == 1


def test_a_push_that_is_repeated_has_one_id() -> None:
    with scripted(None, AWAY, (422, {}, b'{"error": {"code": "request", "message": "no"}}')) as (url, bodies):
        with Client(url) as client, pytest.raises(errors.RequestError):
            client.push("taste", [{"user_id": "8a2f"}])
        ids = {json.loads(body)["push_id"] for body in bodies}
        assert len(bodies) == 3
        assert len(ids) == 1
        assert len(ids.pop()) >= 16


@contextmanager
def dribbling(head: bytes, body: bytes, pause: float) -> Iterator[str]:
    """A server that answers with a byte now and then."""
    ended = threading.Event()

    def answer(one: socket.socket) -> None:
        with one, suppress(OSError):
            one.recv(65536)
            one.sendall(head)
            for place in range(len(body)):
                if ended.wait(pause):
                    return
                one.sendall(body[place : place + 1])

    def serve() -> None:
        with suppress(OSError):
            while True:
                threads.append(threading.Thread(target=answer, args=(listener.accept()[0],)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=serve)]
        threads[0].start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            for one in threads:
                one.join()


@pytest.mark.parametrize("kind", [Client, Synchronous])
def test_the_timeout_is_of_the_whole_try(kind: Any) -> None:
    body = b'{"rows": [], "dtypes": {}}'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    with dribbling(head, body, 0.05) as url:
        client = kind(url, timeout=0.3)
        with pytest.raises(errors.ServiceError, match=r"did not answer in time \(0.3s\)") as caught:
            client.get_online_features([], [])
        assert caught.value.push_id is None
        client.close()
        patient = kind(url, timeout=20)
        assert patient.get_online_features([], []) == []
        patient.close()


@pytest.mark.parametrize("kind", [Client, Synchronous])
def test_a_push_of_which_nobody_knows_what_became_names_its_id(kind: Any) -> None:
    with dribbling(b"", b"x" * 100, 0.5) as url:
        client = kind(url, timeout=0.2)
        with pytest.raises(errors.ServiceError, match="did not answer in time") as caught:
            client.push("taste", [{"user_id": "8a2f"}])
        assert len(caught.value.push_id or "") >= 16
        assert f"push_id={caught.value.push_id!r}" in str(caught.value)
        with pytest.raises(errors.ServiceError) as caught:
            client.push("taste", [{"user_id": "8a2f"}], push_id="mine")
        assert caught.value.push_id == "mine"
        client.close()
    for answer in (None, (502, {}, b"<html>"), (200, {}, b"[]")):
        with scripted(answer) as (url, bodies):
            client = kind(url)
            with pytest.raises(errors.ServiceError, match=r"[.?] The push may have been kept") as caught:
                client.push("taste", [{"user_id": "8a2f"}])
            assert {json.loads(body)["push_id"] for body in bodies} == {caught.value.push_id}
            client.close()


def test_a_push_that_was_refused_was_not_kept() -> None:
    refused = (404, {}, b'{"error": {"code": "not_found", "message": "view \'seats\' takes no pushed rows"}}')
    with scripted(refused) as (url, _), Client(url) as client, pytest.raises(errors.ServiceError) as caught:
        client.push("seats", [])
    assert caught.value.push_id is None
    assert "may have been kept" not in str(caught.value)


WRONG: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("build_context", ("home",), {"user_id": "x", "timeout": float("inf")}),
    ("build_context", ("home",), {"user_id": "x", "timeout": float("nan")}),
    ("build_context", ("home",), {"user_id": "x", "timeout": timedelta(0)}),
    ("build_context", ("home",), {"user_id": "x", "timeout": [1]}),
    ("build_context", ("home",), {"user_id": "x", "timeout": True}),
    ("build_context", ("home",), {"user_id": "x", "as_of": 5}),
    ("build_context", ("home",), {"user_id": float("nan")}),
    ("build_context", ("home",), {"user_id": object()}),
    ("build_context", (5,), {"user_id": "x"}),
    ("build_context", ("",), {"user_id": "x"}),
    ("build_contexts", ("home", 5), {}),
    ("build_contexts", ("home", [5]), {}),
    ("build_contexts", ("home", {"user_id": "x"}), {}),
    ("build_contexts", ("home", [{"user_id": float("inf")}]), {}),
    ("build_contexts", (None, []), {}),
    ("get_online_features", ("genre", [{"user_id": "x"}]), {}),
    ("get_online_features", (5, []), {}),
    ("get_online_features", (["genre"], None), {}),
    ("push", ("taste", 5), {}),
    ("push", ("taste", [5]), {}),
    ("push", ("taste", "rows"), {}),
    ("push", (5, []), {}),
    ("push", ("taste", []), {"push_id": 5}),
    ("push", ("taste", [{"user_id": object()}]), {}),
]


@pytest.mark.parametrize(("method", "arguments", "options"), WRONG)
def test_wrong_arguments_are_told_before_anything_is_sent(
    method: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    with Client(f"http://127.0.0.1:{closed_port()}") as client, pytest.raises(errors.RequestError):
        getattr(client, method)(*arguments, **options)


def test_wrong_settings_of_a_client_are_told() -> None:
    keys = ("llf_é", "", " \n", "llf_1 2", "llf_1\n2", "llf_1\t2", "llf_\x00", "\ufeffllf_1", b"llf_1", 5)
    for options in ({"timeout": 0}, {"timeout": None}, {"timeout": "1s"}, {"timeout": float("inf")}, {"timeout": True},
                    *({"api_key": key} for key in keys)):  # fmt: skip
        wrong: dict[str, Any] = options
        for kind in (Client, AsyncClient):
            with pytest.raises(errors.RequestError, match=next(iter(wrong))) as caught:
                kind("http://127.0.0.1:8000", **wrong)
            assert "llf_1" not in str(caught.value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_that_was_closed_says_so(kind: Any) -> None:
    async def use() -> None:
        client = kind(f"http://127.0.0.1:{closed_port()}")

        async def result(found: Any) -> Any:
            return await found if inspect.isawaitable(found) else found

        async def decorated(user_id: str, ctx: PromptContext) -> str:
            return ctx.text

        def plain(user_id: str, ctx: PromptContext) -> str:
            return ctx.text

        injected = client.inject("home")(decorated if kind is AsyncClient else plain)
        for _ in range(2):
            await result(client.aclose() if kind is AsyncClient else client.close())
        for call in (
            lambda: client.build_context("home", user_id="x"),
            lambda: client.build_contexts("home", []),
            lambda: client.get_online_features([], []),
            lambda: client.push("taste", []),
            client.prompt_names,
            client.registry,
            lambda: injected("x"),
        ):
            with pytest.raises(errors.RequestError, match="client is closed"):
                await result(call())

    asyncio.run(use())


def test_a_client_that_is_closed_between_tries_of_a_push_names_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(AWAY) as (url, bodies):
        client = Client(url)
        monkeypatch.setattr(time, "sleep", lambda _: client.close())  # the pause, in which another thread closes it
        with pytest.raises(errors.ServiceError, match="was closed before an answer came") as caught:
            client.push("taste", [], push_id="mine")
        assert len(bodies) == 1
    assert caught.value.push_id == "mine"


def test_an_answer_that_is_none_of_ours() -> None:
    for body in (b"<html>", b"[]", b'{"rows": 1}', b'{"rows": [{"x": 1}], "dtypes": {}}', b"null"):
        with scripted((200, {}, body)) as (url, _), Client(url) as client, pytest.raises(errors.ServiceError):
            client.get_online_features([], [])


def test_the_clients_have_the_builders_signatures() -> None:
    for ours, theirs, names in (
        (Client, ContextBuilder, ("build_context", "build_contexts", "inject", "prompt_names")),
        (AsyncClient, AsyncContextBuilder, ("build_context", "build_contexts", "inject", "prompt_names")),
        (Client, Project, ("get_online_features", "push")),
        (AsyncClient, Project, ("get_online_features", "push")),
    ):
        for name in names:
            if hasattr(theirs, name):
                mine, other = inspect.signature(getattr(ours, name)), inspect.signature(getattr(theirs, name))
                assert [(one.name, one.kind, one.default) for one in mine.parameters.values()] == [
                    (one.name, one.kind, one.default) for one in other.parameters.values()
                ], name


def test_a_clients_host_needs_no_heavy_library() -> None:
    heavy = ("pyarrow", "duckdb", "fastapi", "uvicorn", "redis", "jinja2", "pandas")
    script = (
        "import sys\nfrom llmfeatures import AsyncClient, Client\n"
        f"with Client('http://127.0.0.1:{closed_port()}') as client:\n"
        "    try: client.push('taste', [{'user_id': 'x'}])\n"
        "    except Exception as error: print(type(error).__name__)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["ServiceError", "[]"]
