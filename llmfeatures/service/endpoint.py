"""`Endpoint`: an ASGI application for one route. It admits, counts, logs and traces; its action makes the body.

The routes of the service are these, and no FastAPI route functions: FastAPI's own work per request (dependencies,
validation, serialisation) costs more than a finished prompt. The schema is made from the registry all the same.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from llmfeatures.config import ServeSection
from llmfeatures.errors import LLMFeaturesError, StoreError
from llmfeatures.problems import RETRY_AFTER, Problem, ProblemError, problem_of, refusal
from llmfeatures.service import traces
from llmfeatures.service.access import admit
from llmfeatures.service.keys import KeyRing
from llmfeatures.service.log import RequestLog
from llmfeatures.service.requests import DisconnectedError, Receive, Request, Scope
from llmfeatures.service.tally import Tally

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON: Final = (b"content-type", b"application/json")
_CLOSE: Final = (b"connection", b"close")
_LEFT: Final = 499
"""What is counted for a client that left before it was answered."""
INTERNAL: Final = Problem(
    status=500, code="internal", message="the service has failed here; its log says where, by the request's id"
)


class Answer(NamedTuple):
    """What an action makes of a request."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = (JSON,)


Action = Callable[[Request], Awaitable[Answer]]


class Desk:
    """What all endpoints of an application share."""

    def __init__(self, *, limits: ServeSection, ring: KeyRing, log: RequestLog) -> None:
        self.limits, self.ring, self.log = limits, ring, log
        self.tally = Tally()
        self.tracer: Tracer | None = None
        self.draining = False
        """The process was told to stop: connections are closed after their answer, and readiness is false."""


class Endpoint:
    """One route. ``scope`` is what a key needs for it, None for any key; ``open`` asks for none.

    ``busy`` counts the request against ``max_concurrency``.
    """

    def __init__(
        self,
        desk: Desk,
        action: Action,
        *,
        method: str,
        route: str,
        scope: str | None = None,
        prompt: str = "-",
        is_open: bool = False,
        busy: bool = True,
    ) -> None:
        self.desk, self.action, self.method, self.route = desk, action, method, route
        self.scope, self.prompt, self.is_open, self.busy = scope, prompt, is_open, busy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began = perf_counter()
        desk, code = self.desk, None
        request = Request(scope, receive, desk.limits)
        request.prompt = self.prompt
        if desk.tracer is not None:
            request.span = traces.start_request(desk.tracer, scope["method"], self.route, scope["headers"])
        desk.tally.in_flight += 1
        try:
            answer = await self._answer(request)
        except ProblemError as error:
            answer, code = refused(error.problem), error.problem.code
        except LLMFeaturesError as error:
            problem = problem_of(error)
            answer, code = refused(problem), problem.code
            if isinstance(error, StoreError):
                desk.tally.count("store_errors", code)
        except DisconnectedError:
            answer, code = None, "disconnected"
        except Exception as error:  # noqa: BLE001  whatever it is, the next request is served
            answer, code = refused(INTERNAL), INTERNAL.code
            self._log_failure(request, error)
        finally:
            desk.tally.in_flight -= 1
        try:
            if answer is not None:
                await self._send(send, answer)
        finally:
            self._record(request, _LEFT if answer is None else answer.status, code, perf_counter() - began)

    async def _answer(self, request: Request) -> Answer:
        desk = self.desk
        if not self.is_open:
            request.key = admit(desk.ring, request.scope["headers"], self.scope)
        if self.busy and desk.tally.in_flight > desk.limits.max_concurrency:
            raise refusal(
                "overloaded", "the service has as much to do as it may ([serve] max_concurrency); try again",
                retry_after=RETRY_AFTER,
            )  # fmt: skip
        return await self.action(request)

    async def _send(self, send: Send, answer: Answer) -> None:
        body = answer.body
        headers: Headers = [*answer.headers, (b"content-length", str(len(body)).encode())]
        if self.desk.draining or answer.status in (408, 413):  # what is left of a body is not waited for
            headers.append(_CLOSE)
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _record(self, request: Request, status: int, code: str | None, seconds: float) -> None:
        desk, span = self.desk, request.span
        desk.tally.request(self.route, request.prompt, status, seconds)
        found = None
        if span is not None:
            traces.end_request(span, status, code)
            found = traces.trace_id(span)
        if desk.log.kind != "off":
            desk.log.request(
                route=self.route,
                prompt=request.prompt,
                status=status,
                code=code,
                seconds=seconds,
                request_id=request.request_id or os.urandom(16).hex(),
                key=None if request.key is None else request.key.id,
                trace_id=found,
            )

    def _log_failure(self, request: Request, error: Exception) -> None:
        """Where it failed, and what kind of error it was; never its text, which may hold a value."""
        request.request_id = request.request_id or os.urandom(16).hex()
        where = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        self.desk.log.event(
            "error", "failure", route=self.route, error=type(error).__name__, where=where[-8:],
            request_id=request.request_id,
        )  # fmt: skip


def refused(problem: Problem) -> Answer:
    """The answer that a problem is."""
    headers: Headers = [JSON]
    if problem.retry_after is not None:
        headers.append((b"retry-after", str(problem.retry_after).encode()))
    if problem.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return Answer(orjson.dumps(problem.body(), default=list), problem.status, tuple(headers))
