"""`Edition`: what a service serves at one time, a registry and its prompts, with an endpoint for each of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from llmfeatures.builder import AsyncContextBuilder
from llmfeatures.errors import LLMFeaturesError, RequestError, UnknownNameError
from llmfeatures.ports import AsyncOnlineStore
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.readers import AsyncReader
from llmfeatures.retrievers import AsyncRetrieving
from llmfeatures.service.document import document
from llmfeatures.service.endpoint import Answer, Desk, Endpoint
from llmfeatures.service.features import FeatureActions
from llmfeatures.service.health import Readiness
from llmfeatures.service.listing import registry_listing
from llmfeatures.service.prompts import PromptActions
from llmfeatures.service.push import PushAction, takes_pushes
from llmfeatures.service.requests import Request
from llmfeatures.version import __version__

if TYPE_CHECKING:
    from llmfeatures.project import Project

KINDS = ("context", "contexts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all editions of a service share. ``metrics`` answers for its route, ``pushes_refused`` says why there are no
    pushes, ``release_problem`` why the active release is not the one that is served."""

    desk: Desk
    store: AsyncOnlineStore
    timeout: float
    retrieving: AsyncRetrieving
    pushing: ThreadPoolExecutor
    pushes_refused: str | None
    metrics: Callable[[Request], Awaitable[Answer]]
    release_problem: Callable[[], str | None]


class Edition:
    """The endpoints by their path, and the OpenAPI ``document``. ``broken`` are prompts that do not compile, and why.
    Whoever came to an edition is answered by it, also when the service has another one meanwhile."""

    def __init__(self, project: Project, shared: Shared) -> None:
        self.project, self._shared = project, shared
        self.plans, self.broken = _compiled(project)
        self.release = None if project.release is None else project.release.id
        self.document = document(
            project.registry,
            self.plans,
            title=f"llmfeatures: {project.config.project.name}",
            version=__version__,
            max_rows=shared.desk.limits.max_rows,
        )
        self.endpoints: dict[str, Endpoint] = {**self._fixed_routes(), **self._prompts(), **self._pushes()}

    def _fixed_routes(self) -> dict[str, Endpoint]:
        shared, desk, project = self._shared, self._shared.desk, self.project
        readiness = Readiness(
            desk,
            shared.store,
            project.registry,
            self.plans,
            self.broken,
            retrieving=project.retrieving,
            release=self.release,
            release_problem=shared.release_problem,
        )
        features = FeatureActions(desk, project.registry, AsyncReader(shared.store, shared.timeout), project.clock)
        listing = registry_listing(project.config.project.name, project.registry, self.plans, self.release)

        def get(route: str, action: Callable[[Request], Awaitable[Answer]], **options: Any) -> Endpoint:
            return Endpoint(desk, action, method="GET", route=route, **options)

        return {
            "/v1/features": Endpoint(desk, features.features, method="POST", route="/v1/features", scope="read"),
            "/v1/registry": get("/v1/registry", _fixed(orjson.dumps(listing)), scope="read"),
            "/openapi.json": get("/openapi.json", _fixed(orjson.dumps(self.document))),
            "/health/live": get("/health/live", readiness.live, is_open=True, busy=False),
            "/health/ready": get("/health/ready", readiness.ready, is_open=True, busy=False),
            "/metrics": get("/metrics", shared.metrics, scope="metrics", busy=False),
        }

    def _prompts(self) -> dict[str, Endpoint]:
        shared, project = self._shared, self.project
        self.builder = builder = AsyncContextBuilder(
            project.prompts,
            shared.store,
            lambda: project.offline,
            project.clock,
            shared.timeout,
            retrieving=shared.retrieving,
        )
        made: dict[str, Endpoint] = {}
        for name in (*self.plans, *self.broken):
            if name in self.plans:
                actions = PromptActions(shared.desk, builder, self.plans[name])
                chosen = {"context": actions.context, "contexts": actions.contexts}
            else:
                chosen = dict.fromkeys(KINDS, _failing(self.broken[name]))
            for kind, action in chosen.items():
                made[f"/v1/prompts/{name}/{kind}"] = Endpoint(
                    shared.desk,
                    action,
                    method="POST",
                    route=f"/v1/prompts/{{name}}/{kind}",
                    scope=f"prompts:{name}",
                    prompt=name,
                )
        return made

    def _pushes(self) -> dict[str, Endpoint]:
        shared, project = self._shared, self.project
        made: dict[str, Endpoint] = {}
        for view in filter(takes_pushes, project.registry.views):
            push = PushAction(shared.desk, project, view, shared.pushes_refused, shared.pushing)
            made[f"/v1/push/{view.name}"] = Endpoint(
                shared.desk, push.push, method="POST", route="/v1/push/{view}", scope=f"push:{view.name}"
            )
        return made

    async def unknown_prompt(self, request: Request) -> Answer:
        """The answer where a path names a prompt that is not there."""
        raise UnknownNameError("prompt", request.scope["path_params"]["name"], [*self.plans, *self.broken])

    async def unknown_view(self, request: Request) -> Answer:
        """The answer where a path names a view that is not there, or takes no pushes."""
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
