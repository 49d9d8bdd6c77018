"""`create_app`: the FastAPI application of a project."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from llmfeatures import config as configuration
from llmfeatures.builder import AsyncContextBuilder, AsyncReader
from llmfeatures.errors import LLMFeaturesError, RequestError, UnknownNameError
from llmfeatures.plan import PromptPlan
from llmfeatures.problems import Problem
from llmfeatures.service import traces
from llmfeatures.service.document import document
from llmfeatures.service.endpoint import Answer, Desk, Endpoint
from llmfeatures.service.features import FeatureActions
from llmfeatures.service.health import Readiness
from llmfeatures.service.keys import KeyFile, KeyRing
from llmfeatures.service.listing import registry_listing
from llmfeatures.service.log import RequestLog
from llmfeatures.service.metrics import StatusSample, metrics_text
from llmfeatures.service.prompts import PromptActions
from llmfeatures.service.push import PUSHES_AT_ONCE, PushAction, refusal_of, takes_pushes
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
) -> FastAPI:
    """The HTTP service of a project, to run or to mount. Prompts are those that are there now.

    Args:
        project: its ``[serve]`` configuration holds the limits; host, port and workers are the server's business.
        keys_needed: ask for an API key even while there is none, as ``[serve] keys_needed`` does too. Once there is one
            it is asked for anyway.
        log: where a line per request goes; None: to stderr, as ``[serve] log`` says.
        tallies: a folder that several workers share their numbers in; None: this process is alone.

    Raises:
        ConfigError: the key file cannot be read.
        DefinitionError: the registry is wrong.
    """
    return ServiceApp(Service(project, keys_needed=keys_needed, log=log, tallies=tallies))


class Service:
    """The parts of a running service: its endpoints, and what they share."""

    def __init__(self, project: Project, *, keys_needed: bool, log: RequestLog | None, tallies: Path | None) -> None:
        limits = project.config.serve
        ring = KeyRing(KeyFile(project.config.keys), needed=keys_needed or limits.keys_needed)
        self.project = project
        self.desk = Desk(limits=limits, ring=ring, log=log or RequestLog(limits.log))
        self.plans, self.broken = _compiled(project)
        self._store = configuration.open_async_online(project.config)
        self._timeout = project.config.online.timeout.total_seconds()
        self._builder = AsyncContextBuilder(
            project.prompts, self._store, lambda: project.offline, project.clock, self._timeout
        )
        self._shared = None if tallies is None else SharedTallies(tallies)
        self._status = StatusSamples(project, self.desk.log)
        self._pushing = ThreadPoolExecutor(PUSHES_AT_ONCE, "llmfeatures-push")
        self.pushes_refused = refusal_of(project)
        self.document = document(
            project.registry,
            self.plans,
            title=f"llmfeatures: {project.config.project.name}",
            version=__version__,
            max_rows=limits.max_rows,
        )
        self.endpoints = self._endpoints()

    def _endpoints(self) -> dict[str, Endpoint]:
        """All routes by their path."""
        desk, registry, clock = self.desk, self.project.registry, self.project.clock
        readiness = Readiness(desk, self._store, registry, self.plans, self.broken)
        features = FeatureActions(desk, registry, AsyncReader(self._store, self._timeout), clock)
        listing = orjson.dumps(registry_listing(self.project.config.project.name, registry, self.plans))
        openapi = orjson.dumps(self.document)

        def get(route: str, action: Callable[[Request], Awaitable[Answer]], **options: Any) -> Endpoint:
            return Endpoint(desk, action, method="GET", route=route, **options)

        made = {
            "/v1/features": Endpoint(desk, features.features, method="POST", route="/v1/features", scope="read"),
            "/v1/registry": get("/v1/registry", _fixed(listing), scope="read"),
            "/openapi.json": get("/openapi.json", _fixed(openapi)),
            "/health/live": get("/health/live", readiness.live, is_open=True, busy=False),
            "/health/ready": get("/health/ready", readiness.ready, is_open=True, busy=False),
            "/metrics": get("/metrics", self._metrics, scope="metrics", busy=False),
        }
        for name, plan in self.plans.items():
            actions = PromptActions(desk, self._builder, plan)
            for kind, action in (("context", actions.context), ("contexts", actions.contexts)):
                made[f"/v1/prompts/{name}/{kind}"] = Endpoint(
                    desk,
                    action,
                    method="POST",
                    route=f"/v1/prompts/{{name}}/{kind}",
                    scope=f"prompts:{name}",
                    prompt=name,
                )
        for name, error in self.broken.items():
            for kind in ("context", "contexts"):
                made[f"/v1/prompts/{name}/{kind}"] = Endpoint(
                    desk,
                    _failing(error),
                    method="POST",
                    route=f"/v1/prompts/{{name}}/{kind}",
                    scope=f"prompts:{name}",
                    prompt=name,
                )
        for view in registry.views:
            if takes_pushes(view):
                push = PushAction(desk, self.project, view, self.pushes_refused, self._pushing)
                made[f"/v1/push/{view.name}"] = Endpoint(
                    desk, push.push, method="POST", route="/v1/push/{view}", scope=f"push:{view.name}"
                )
        return made

    def unknown(self, kind: str) -> Endpoint:
        """The endpoint of paths that name a prompt or a view that is not there."""
        prompts, views = self._unknown_prompt, self._unknown_view
        route, action = ("/v1/prompts/{name}/{kind}", prompts) if kind == "prompt" else ("/v1/push/{view}", views)
        return Endpoint(self.desk, action, method="POST", route=route)

    async def _unknown_prompt(self, request: Request) -> Answer:
        raise UnknownNameError("prompt", request.scope["path_params"]["name"], [*self.plans, *self.broken])

    async def _unknown_view(self, request: Request) -> Answer:
        name = request.scope["path_params"]["view"]
        views = self.project.registry.views
        taking = [one.name for one in views if takes_pushes(one)]
        view = next((one for one in views if one.name == name), None)
        if view is None:
            raise UnknownNameError("view", name, taking)
        choices = f"the views that do are: {', '.join(taking)}" if taking else "no view of the registry does"
        if view.aggregates:
            raise RequestError(f"view {name!r} aggregates, so it takes no pushes; {choices}")
        raise RequestError(f"view {name!r} takes no pushes; {choices}; give it a PushSource")

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
        broken: StatusSample = ("llmfeatures_broken_prompts", _BROKEN, {}, len(self.broken))
        body, kind = metrics_text(tally, [broken, *await self._status.latest()], request.header(b"accept"))
        return Answer(body, 200, ((b"content-type", kind.encode()),))

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """What runs beside the requests."""
        self.desk.tracer = traces.current_tracer()
        sharing = None if self._shared is None else asyncio.create_task(self._share())
        try:
            yield
        finally:
            if sharing is not None:
                sharing.cancel()
                with suppress(asyncio.CancelledError):
                    await sharing
            await self._status.aclose()
            self._pushing.shutdown(wait=False)
            await self._store.aclose()
            self.project.close()
            self.desk.log.flush()

    async def _share(self) -> None:
        assert self._shared is not None
        try:
            while True:
                await asyncio.sleep(_SHARE_EVERY)
                self._shared.write(self.desk.tally)
        finally:
            self._shared.write(self.desk.tally)


class ServiceApp(FastAPI):
    """A FastAPI application whose own routes are `Endpoint`s; others may be added as to any application."""

    def __init__(self, service: Service) -> None:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
            async with service.running():
                yield

        self.service, self._endpoints = service, service.endpoints
        super().__init__(
            title=service.document["info"]["title"],
            version=__version__,
            openapi_url=None,
            redirect_slashes=False,
            telemetry=_NO_TELEMETRY,
            lifespan=lifespan,
            exception_handlers={HTTPException: service.http_problem},
        )
        for path, endpoint in service.endpoints.items():
            self.router.routes.append(Route(path, endpoint, methods=[endpoint.method], include_in_schema=False))
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
            endpoint = self._endpoints.get(scope["path"])
            if endpoint is not None and endpoint.method == scope["method"]:
                await endpoint(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


def _compiled(project: Project) -> tuple[dict[str, PromptPlan], dict[str, LLMFeaturesError]]:
    plans: dict[str, PromptPlan] = {}
    broken: dict[str, LLMFeaturesError] = {}
    for name in project.prompts.names():
        try:
            plans[name] = project.prompts.plan(name)
        except LLMFeaturesError as error:
            broken[name] = error
    return plans, broken


def _fixed(body: bytes) -> Callable[[Request], Awaitable[Answer]]:
    answer = Answer(body)

    async def action(_: Request) -> Answer:
        return answer

    return action


def _failing(error: LLMFeaturesError) -> Callable[[Request], Awaitable[Answer]]:
    async def action(_: Request) -> Answer:
        raise error.with_traceback(None)  # it is raised again and again, and would grow

    return action
