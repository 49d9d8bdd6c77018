"""``llmfeatures mcp --http``: sessions over streamable HTTP, each request by its own API key."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, Final
from urllib.parse import urlsplit

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.routing import Route

from llmfeatures.context import PromptContext
from llmfeatures.mcp.binding import Binding, binding_of
from llmfeatures.mcp.logs import take_over
from llmfeatures.mcp.offer import Offer
from llmfeatures.mcp.server import Asked, Context, Session, make_server
from llmfeatures.problems import RETRY_AFTER, Problem, ProblemError
from llmfeatures.releases.following import Following
from llmfeatures.service import traces
from llmfeatures.service.access import admit
from llmfeatures.service.app import Service
from llmfeatures.service.endpoint import INTERNAL, Endpoint, refused
from llmfeatures.service.keys import ApiKey
from llmfeatures.service.listening import close, open_sockets
from llmfeatures.service.prompts import count_context
from llmfeatures.service.run import check_address, configured, is_loopback
from llmfeatures.service.server import Server

PATH: Final = "/mcp"
_BESIDE: Final = ("/health/live", "/health/ready", "/metrics")
"""Of the service's other routes, those that are here too: the others take any entity from a caller without a key."""
_SLOW: Final = Problem(
    status=408, code="request_timeout", message="the body did not arrive in time ([serve] body_timeout); send it faster"
)
_BUSY: Final = Problem(
    status=503,
    code="overloaded",
    message="the server has as much to do as it may ([serve] max_concurrency); try again",
    retry_after=RETRY_AFTER,
)
_KEY: Final = "llmfeatures.key"
_BINDING: Final = "llmfeatures.binding"


def run(root: Path, options: Mapping[str, Any], *, bind: Sequence[str], opened: Sequence[str], working: bool) -> None:
    """Serve until SIGTERM or Ctrl-C. ``options`` override those of ``[serve]``; the others are as for `stdio.run`.

    Raises:
        ConfigError: a key is needed and there is none, or the port is taken.
        RequestError: a binding is wrong.
        ReleaseError: the active release cannot be served here.
    """
    project = configured(root, options)
    binding = binding_of(project.registry, bind, opened)
    needed = check_address(project)
    limits = project.config.serve
    listeners = open_sockets(limits.host, limits.port)
    try:
        traces.export_traces()
        service = Service(
            project,
            keys_needed=needed,
            log=None,
            tallies=None,
            following=None if working else Following(project.state, project.registry),
        )
        take_over(service.desk.log)
        Server(service, app=make_app(service, binding, loopback=is_loopback(limits.host))).run(listeners)
    finally:
        close(listeners)


def make_app(service: Service, binding: Binding, *, loopback: bool) -> Starlette:
    """The ASGI application: the protocol, health and metrics. ``loopback``: only this machine reaches it."""
    name = service.project.config.project.name

    def session(ctx: Context) -> Session:
        request: Any = ctx.request
        scope = request.scope
        key: ApiKey | None = scope[_KEY]
        offer = Offer(name, service.edition.builder, scope[_BINDING], key)
        return Session(offer, None if key is None else key.id, built)

    def built(ctx: PromptContext) -> None:
        count_context(service.desk.tally, ctx)

    exchange = StreamableHTTPSessionManager(
        make_server(name, session, service.desk.log),
        json_response=True,
        stateless=True,  # a session that outlives its request could be asked with another key
        max_request_body_size=service.desk.limits.max_body,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with service.running(), exchange.run():
            yield

    gate = _Gate(service, binding, exchange, loopback=loopback)
    beside = [Route(path, _Beside(service, path), methods=["GET"]) for path in _BESIDE]
    # a GET would wait for messages that this server never begins
    return Starlette(routes=[Route(PATH, gate, methods=["POST"]), *beside], lifespan=lifespan)


class _Beside:
    """An endpoint of the service, of the edition that is served now."""

    def __init__(self, service: Service, path: str) -> None:
        self._service, self._path = service, path

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        endpoint: Endpoint = self._service.endpoints[self._path]
        await endpoint(scope, receive, send)


class _Gate:
    """Lets a request in by its key, notes whose it is, and counts and logs it."""

    def __init__(
        self, service: Service, binding: Binding, exchange: StreamableHTTPSessionManager, *, loopback: bool
    ) -> None:
        self._service, self._binding, self._exchange, self._loopback = service, binding, exchange, loopback

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        desk, began = self._service.desk, perf_counter()
        status = 499  # what is counted for a client that left
        asked = scope[Asked.SCOPE] = Asked()
        scope[_KEY] = None

        async def watched(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        desk.tally.in_flight += 1
        try:
            problem = self._admit(scope)
            if problem is None:
                await self._exchange.handle_request(scope, self._timed(receive), watched)
            else:
                asked.code = problem.code
                await _answer(problem, watched)
        except Exception as error:  # noqa: BLE001  whatever it is, the next request is served
            problem = _SLOW if isinstance(error, TimeoutError) else INTERNAL
            asked.code = problem.code
            if problem is INTERNAL:
                desk.log.event("error", "failure", route=PATH, error=type(error).__name__)
            if status == 499:
                await _answer(problem, watched)
        finally:
            desk.tally.in_flight -= 1
            seconds = perf_counter() - began
            route = f"{PATH} {asked.method}".rstrip()
            desk.tally.request(route, asked.prompt, status, seconds)
            key: ApiKey | None = scope[_KEY]
            desk.log.request(
                route=route,
                prompt=asked.prompt,
                status=status,
                code=asked.code,
                seconds=seconds,
                request_id=os.urandom(16).hex(),
                key=None if key is None else key.id,
            )

    def _timed(self, receive: Any) -> Any:
        """Receives a body, within the limit of time."""
        clock = asyncio.get_running_loop().time
        deadline: float | None = clock() + self._service.desk.limits.body_timeout.total_seconds()

        async def timed() -> Any:
            nonlocal deadline
            async with asyncio.timeout_at(deadline):
                message = await receive()
            if not message.get("more_body", False):
                deadline = None
            return message

        return timed

    def _admit(self, scope: Any) -> Problem | None:
        if (problem := self._foreign(scope["headers"])) is not None:
            return problem
        service = self._service
        if service.desk.tally.in_flight > service.desk.limits.max_concurrency:
            return _BUSY
        try:
            scope[_KEY] = key = admit(service.desk.ring, scope["headers"], None)
            scope[_BINDING] = self._binding.of_key(key, service.edition.project.registry)
        except ProblemError as error:
            return error.problem
        return None

    def _foreign(self, headers: Sequence[tuple[bytes, bytes]]) -> Problem | None:
        """The refusal of a page in a browser: it comes from another address, or found this one by a name that is not
        this machine's."""
        given = {name: value.decode("latin-1") for name, value in headers if name in (b"host", b"origin")}
        host, origin = given.get(b"host", ""), given.get(b"origin")
        try:
            named = urlsplit(f"//{host}").hostname or ""
            same = origin is None or urlsplit(origin).netloc == host
        except ValueError:  # no address at all
            named, same = "", False
        if same and (not self._loopback or is_loopback(named)):
            return None
        said = "this comes from a page or was sent to a host of another address; use this one's, also as a proxy's Host"
        return Problem(status=403, code="forbidden", message=said)


async def _answer(problem: Problem, send: Any) -> None:
    made = refused(problem)
    headers = [*made.headers, (b"content-length", str(len(made.body)).encode())]
    await send({"type": "http.response.start", "status": made.status, "headers": headers})
    await send({"type": "http.response.body", "body": made.body})
