"""``GET /health/live`` and ``GET /health/ready``: whether the process is up, and whether it can do its work now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple, cast

import orjson

from llmfeatures.errors import LLMFeaturesError, StoreError
from llmfeatures.ports import AsyncOnlineStore, DocumentIndex, ViewMeta
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.registry import Registry, schema_hash
from llmfeatures.retriever import Retriever
from llmfeatures.retrievers import Retrieving
from llmfeatures.schema import FeatureView
from llmfeatures.service.access import shown
from llmfeatures.service.endpoint import Answer, Desk
from llmfeatures.service.requests import Request
from llmfeatures.threads import SEARCHES

_KEPT = 1.0
"""Seconds that an answer is kept, so that probes cost the store nothing."""
LIVE: Final = Answer(b'{"status":"live"}')


class Reason(NamedTuple):
    """Why the service is not ready: a code, and a sentence."""

    code: str
    message: str


class Readiness:
    """Asks the store, at most once a second, whether the prompts of this service can be built."""

    def __init__(
        self,
        desk: Desk,
        store: AsyncOnlineStore,
        registry: Registry,
        plans: Mapping[str, PromptPlan],
        broken: Mapping[str, LLMFeaturesError],
        *,
        retrieving: Retrieving,
        release: str | None,
        release_problem: Callable[[], str | None],
    ) -> None:
        self._retrieving, self._retrievers = retrieving, needed_retrievers(plans)
        self._warnings: tuple[Reason, ...] = ()
        self._release, self._release_problem = release, release_problem
        self._desk, self._store = desk, store
        self._views = needed_views(registry, plans)
        self._broken = tuple(Reason("prompt", f"prompt {name!r}: {error}") for name, error in broken.items())
        self._none_works = bool(broken) and not plans
        self._lock = asyncio.Lock()
        self._found: tuple[Reason, ...] = ()
        self._until = 0.0

    async def live(self, _request: Request) -> Answer:
        """The process is up."""
        return LIVE

    async def ready(self, request: Request) -> Answer:
        """200, or 503 with the reasons; their sentences only for who may see them. A prompt that does not compile is a
        warning as long as another does: without this process nobody would have the others. So is a release that cannot
        be served: the one before is."""
        reasons = await self.reasons()
        ring = self._desk.ring
        told = not ring.needed or shown(ring, request.scope["headers"]) is not None
        warnings = [*self._warnings] if self._none_works else [*self._broken, *self._warnings]
        if (problem := self._release_problem()) is not None:
            warnings.append(Reason("release", problem))
        body = {
            "status": "not_ready" if reasons else "ready",
            "release": self._release,
            "reasons": [{"code": one.code, "message": one.message if told else None} for one in reasons],
            "warnings": [{"code": one.code, "message": one.message if told else None} for one in warnings],
        }
        return Answer(orjson.dumps(body), 503 if reasons else 200)

    async def reasons(self) -> tuple[Reason, ...]:
        """Why the service is not ready; none when it is."""
        if self._desk.draining:
            return (Reason("stopping", "the service was told to stop"),)
        async with self._lock:  # one question at a time: the others take its answer
            if time.monotonic() >= self._until:
                broken = self._broken if self._none_works else ()
                store, (retrievers, self._warnings) = await asyncio.gather(
                    self._store_reasons(), self._retriever_reasons()
                )
                self._found = (*broken, *store, *retrievers)
                self._until = time.monotonic() + _KEPT
        return self._found

    async def _retriever_reasons(self) -> tuple[tuple[Reason, ...], tuple[Reason, ...]]:
        """What is wrong with the retrievers that prompts need, and with those that they can go without."""
        problems = await asyncio.gather(*(self._problem(one) for one, _ in self._retrievers))
        found = [
            (needed, Reason("retriever", problem))
            for (_, needed), problem in zip(self._retrievers, problems, strict=True)
            if problem is not None
        ]
        return tuple(one for needed, one in found if needed), tuple(one for needed, one in found if not needed)

    async def _problem(self, retriever: Retriever) -> str | None:
        asking = SEARCHES.submit((id(self), retriever.name), partial(_asked, self._retrieving, retriever))
        try:
            async with asyncio.timeout(_KEPT):
                return await asyncio.wrap_future(asking)
        except TimeoutError:
            return f"retriever {retriever.name!r} did not answer in time"

    async def _store_reasons(self) -> Sequence[Reason]:
        try:
            meta = await self._store.meta()
        except StoreError as error:
            return [Reason("store", str(error))]
        if not self._views:
            return []
        filled: Mapping[str, ViewMeta] = {} if meta is None else meta.views
        absent = [view.name for view in self._views if view.name not in filled]
        changed = [
            view.name for view in self._views
            if view.name in filled and not filled[view.name].holds(schema_hash(view))
        ]  # fmt: skip
        reasons: list[Reason] = []
        if absent:
            names = ", ".join(absent)
            reasons.append(Reason("not_filled", f"never materialized: {names}; run llmfeatures materialize"))
        if changed:
            names = ", ".join(changed)
            reasons.append(
                Reason("not_filled", f"materialized under another definition: {names}; run llmfeatures materialize")
            )
        return reasons


def needed_retrievers(plans: Mapping[str, PromptPlan]) -> list[tuple[Retriever, bool]]:
    """The retrievers of prompts that can be asked how they are, and whether a prompt cannot be built without."""
    needed: dict[str, tuple[Retriever, bool]] = {}
    for one in (document for plan in plans.values() for document in plan.documents):
        name = one.retriever.name
        if one.retriever.source is not None:
            needed[name] = one.retriever, one.on_unavailable == "error" or (name in needed and needed[name][1])
    return list(needed.values())


def _asked(retrieving: Retrieving, retriever: Retriever) -> str | None:
    try:
        store = cast("DocumentIndex", retrieving.store(retriever))
        meta = store.meta()
    except LLMFeaturesError as error:
        return str(error)
    if meta is None or meta.watermark is None:
        return f"retriever {retriever.name!r} was never filled; run llmfeatures materialize {retriever.name}"
    return None


def needed_views(registry: Registry, plans: Mapping[str, PromptPlan]) -> tuple[FeatureView, ...]:
    """The views that prompts read; all of them where there is no prompt."""
    if not plans:
        return registry.views
    names = {ref.view.name for plan in plans.values() for ref in plan.features.refs}
    return tuple(view for view in registry.views if view.name in names)
