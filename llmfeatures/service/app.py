"""`create_app`: the FastAPI application of a project."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson
from fastapi import FastAPI
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route

from llmfeatures import config as configuration
from llmfeatures.errors import LLMFeaturesError
from llmfeatures.problems import Problem
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.releases.following import LOOK_EVERY, Following
from llmfeatures.service import traces
from llmfeatures.service.edition import Edition, Shared
from llmfeatures.service.endpoint import Answer, Desk, Endpoint
from llmfeatures.service.keys import KeyFile, KeyRing
from llmfeatures.service.log import RequestLog
from llmfeatures.service.metrics import StatusSample, metrics_text
from llmfeatures.service.push import PUSHES_AT_ONCE, refusal_of
from llmfeatures.service.requests import Request
from llmfeatures.service.status import StatusSamples
from llmfeatures.service.tally import SharedTallies
from llmfeatures.version import __version__

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig
    from starlette.requests import Request as StarletteRequest

    from llmfeatures.project import Project

ASGIScope = MutableMapping[str, Any]

_BROKEN = "Prompt files that do not compile: their endpoints answer with the reason."
_RELEASE = "The release that this worker serves; none: the files."
_REFUSED = "1 when the active release is not served, as it cannot be compiled here."
_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
"""FastAPI's own is off: it records the path and the query, the messages of exceptions, and each request once more."""
_SHARE_EVERY = 1.0
"""Seconds after which a worker leaves its numbers for the others."""


def create_app(
    project: Project,
    *,
    keys_needed: bool = False,
    log: RequestLog | None = None,
    tallies: Path | None = None,
    release: Literal["active"] | None = None,
) -> FastAPI:
    """The HTTP service of a project, to run or to mount. Prompts are those that are there now, or the active release's.

    Args:
        project: its ``[serve]`` configuration holds the limits; host, port and workers are the server's business.
        keys_needed: ask for an API key even while there is none, as ``[serve] keys_needed`` does too. Once there is one
            it is asked for anyway.
        log: where a line per request goes; None: to stderr, as ``[serve] log`` says.
        tallies: a folder that several workers share their numbers in; None: this process is alone.
        release: ``active``: serve the active release as soon as there is one, and go over to each that follows while
            the application's lifespan runs, which that of an application that it is mounted in must see to.

    Raises:
        ConfigError: the key file cannot be read.
        DefinitionError: the registry is wrong.
        ReleaseError: the active release cannot be served here.
    """
    following = Following(project.state, project.registry) if release == "active" else None
    return ServiceApp(Service(project, keys_needed=keys_needed, log=log, tallies=tallies, following=following))


class Service:
    """The parts of a running service: its edition, and what stays when that becomes another one.

    With ``following``, it serves the active release as soon as there is one, and goes over to each that follows;
    ``project`` has the functions of its on-demand features then, and is served until there is a release.
    """

    def __init__(
        self,
        project: Project,
        *,
        keys_needed: bool,
        log: RequestLog | None,
        tallies: Path | None,
        following: Following | None = None,
    ) -> None:
        limits = project.config.serve
        ring = KeyRing(KeyFile(project.config.keys), needed=keys_needed or limits.keys_needed)
        self.desk = Desk(limits=limits, ring=ring, log=log or RequestLog(limits.log))
        self._loaded, self._following = project, following
        self._store = configuration.open_async_online(project.config)
        self._shared = None if tallies is None else SharedTallies(tallies)
        self._pushing = ThreadPoolExecutor(PUSHES_AT_ONCE, "llmfeatures-push")
        self.pushes_refused = refusal_of(project)
        self._retrieving = project.retrieving.for_asyncio()
        self._parts = Shared(
            desk=self.desk,
            store=self._store,
            timeout=project.config.online.timeout.total_seconds(),
            retrieving=self._retrieving,
            pushing=self._pushing,
            pushes_refused=self.pushes_refused,
            metrics=self._metrics,
            release_problem=lambda: self.release_problem,
        )
        self.release_problem = None if following is None else following.problem
        """Why the active release is not the one that is served; None when it is."""
        self.edition = self._edition()
        self.endpoints: Mapping[str, Endpoint] = self.edition.endpoints
        self._status = StatusSamples(lambda: self.project, self.desk.log)

    @property
    def project(self) -> Project:
        """The project as it is served now."""
        return self.edition.project

    @property
    def plans(self) -> Mapping[str, PromptPlan]:
        """The prompts that are served now."""
        return self.edition.plans

    @property
    def broken(self) -> Mapping[str, LLMFeaturesError]:
        """Those that do not compile, and why."""
        return self.edition.broken

    @property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document of what is served now."""
        return self.edition.document

    def _edition(self) -> Edition:
        prompts = None if self._following is None else self._following.current
        return Edition(self._loaded if prompts is None else self._loaded.with_prompts(prompts), self._parts)

    async def look(self) -> None:
        """Go over to the release that is active now, if it is another and can be served. Requests go on meanwhile."""
        following = self._following
        if following is None:
            return
        if not await asyncio.to_thread(following.moved) and following.release == self.edition.release:
            return
        edition = await asyncio.to_thread(self._next, following)
        if following.problem != self.release_problem and following.problem is not None:
            self.desk.log.event("error", "release", problem=following.problem, serving=self.edition.release)
        self.release_problem = following.problem
        if edition is not None:
            await edition.builder.prepare()
            self.edition, self.endpoints = edition, edition.endpoints
            self.desk.log.event("info", "release", release=edition.release, prompts=len(edition.plans))
        self.desk.log.flush()

    def _next(self, following: Following) -> Edition | None:
        return self._edition() if following.take() or following.release != self.edition.release else None

    def unknown(self, kind: str) -> Endpoint:
        """The endpoint of paths that name a prompt or a view that is not there."""

        async def prompt(request: Request) -> Answer:
            return await self.edition.unknown_prompt(request)

        async def view(request: Request) -> Answer:
            return await self.edition.unknown_view(request)

        route, action = ("/v1/prompts/{name}/{kind}", prompt) if kind == "prompt" else ("/v1/push/{view}", view)
        return Endpoint(self.desk, action, method="POST", route=route)

    async def http_problem(self, request: StarletteRequest, error: Any) -> Response:
        """Starlette's own errors, like those of a path that is not there, as the service's are; counted and logged."""
        status, endpoint = error.status_code, request.scope.get("endpoint")
        code, message = {
            404: ("not_found", "there is no such path; /openapi.json lists them"),
            405: ("method_not_allowed", "this path is not for this method; see /openapi.json"),
        }.get(status, ("service", str(error.detail)))
        if endpoint is None or isinstance(endpoint, Endpoint):  # else it is a route that was added
            route, trace_id = "-" if endpoint is None else endpoint.route, None
            if self.desk.tracer is not None:
                template = traces.UNMATCHED if endpoint is None else route
                span = traces.start_request(self.desk.tracer, request.method, template, request.scope["headers"])
                traces.end_request(span, status, code)
                trace_id = traces.trace_id(span)
            self.desk.tally.request(route, "-", status, 0.0)
            self.desk.log.request(
                route=route,
                prompt="-",
                status=status,
                code=code,
                seconds=0.0,
                request_id=os.urandom(16).hex(),
                key=None,
                trace_id=trace_id,
            )
        problem = Problem(status=status, code=code, message=message)
        return Response(orjson.dumps(problem.body()), status, headers=error.headers, media_type="application/json")

    async def _metrics(self, request: Request) -> Answer:
        tally = self.desk.tally if self._shared is None else self._shared.total(self.desk.tally)
        own: list[StatusSample] = [("llmfeatures_broken_prompts", _BROKEN, {}, len(self.broken))]
        if self._following is not None:
            own.append(("llmfeatures_release", _RELEASE, {"release": (self.edition.release or "none")[:12]}, 1))
            own.append(("llmfeatures_release_refused", _REFUSED, {}, int(self.release_problem is not None)))
        body, kind = metrics_text(tally, [*own, *await self._status.latest()], request.header(b"accept"))
        return Answer(body, 200, ((b"content-type", kind.encode()),))

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """What runs beside the requests."""
        self.desk.tracer = traces.current_tracer()
        beside = [] if self._shared is None else [asyncio.create_task(self._share())]
        beside.append(asyncio.create_task(self.edition.builder.prepare()))
        if self._following is not None:
            beside.append(asyncio.create_task(self._follow()))
        try:
            yield
        finally:
            for task in beside:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await self._status.aclose()
            self._pushing.shutdown(wait=False)
            await self._store.aclose()
            await self._retrieving.aclose()
            self._loaded.close()
            self.desk.log.flush()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001  what is served goes on, and the next look may do better
                self.desk.log.event("error", "release", problem=type(error).__name__, serving=self.edition.release)

    async def _share(self) -> None:
        assert self._shared is not None
        try:
            while True:
                await asyncio.sleep(_SHARE_EVERY)
                self._shared.write(self.desk.tally)
        finally:
            self._shared.write(self.desk.tally)


class EndpointRoute(BaseRoute):
    """All endpoints of the edition that is served, as one route: there may be others with the next edition."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def matches(self, scope: ASGIScope) -> tuple[Match, ASGIScope]:
        """Whether an endpoint has the path, and takes the method."""
        endpoint = self._service.endpoints.get(_route_path(scope)) if scope["type"] == "http" else None
        if endpoint is None:
            return Match.NONE, {}
        found = Match.FULL if scope["method"] in _methods(endpoint) else Match.PARTIAL
        return found, {"endpoint": endpoint, "path_params": {}}

    async def handle(self, scope: ASGIScope, receive: Any, send: Any) -> None:
        """Answer by the endpoint."""
        endpoint: Endpoint = scope["endpoint"]
        if scope["method"] not in _methods(endpoint):
            raise HTTPException(405, headers={"allow": ", ".join(_methods(endpoint))})
        await endpoint(scope, receive, send)


def _route_path(scope: ASGIScope) -> str:
    """The path below the place that the application is mounted at."""
    path, root = scope["path"], scope.get("root_path", "")
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


def _methods(endpoint: Endpoint) -> tuple[str, ...]:
    return ("GET", "HEAD") if endpoint.method == "GET" else (endpoint.method,)


class ServiceApp(FastAPI):
    """A FastAPI application whose own routes are `Endpoint`s; others may be added as to any application."""

    def __init__(self, service: Service) -> None:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
            async with service.running():
                yield

        self.service = service
        super().__init__(
            title=service.document["info"]["title"],
            version=__version__,
            openapi_url=None,
            redirect_slashes=False,
            telemetry=_NO_TELEMETRY,
            lifespan=lifespan,
            exception_handlers={HTTPException: service.http_problem},
        )
        self.router.routes.append(EndpointRoute(service))
        for path, kind in (
            ("/v1/prompts/{name:path}/context", "prompt"),
            ("/v1/prompts/{name:path}/contexts", "prompt"),
            ("/v1/push/{view}", "view"),
        ):
            self.router.routes.append(Route(path, service.unknown(kind), methods=["POST"], include_in_schema=False))

    def openapi(self) -> dict[str, Any]:
        """The document of the service, with the paths of routes that were added to it."""
        if any(getattr(route, "include_in_schema", False) for route in self.routes):
            added, own = super().openapi(), self.service.document
            schemas = {**added.get("components", {}).get("schemas", {}), **own["components"]["schemas"]}
            return {
                **own,
                "paths": {**added["paths"], **own["paths"]},
                "components": {**own["components"], "schemas": schemas},
            }
        return self.service.document

    async def __call__(self, scope: ASGIScope, receive: Any, send: Any) -> None:
        """Answer a request: by its endpoint without FastAPI's middleware, as long as nobody added one."""
        if scope["type"] == "http" and not scope["root_path"] and not self.user_middleware:
            endpoint = self.service.endpoints.get(scope["path"])
            if endpoint is not None and endpoint.method == scope["method"]:
                await endpoint(scope, receive, send)
                return
        await super().__call__(scope, receive, send)
