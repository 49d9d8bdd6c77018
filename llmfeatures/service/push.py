"""``POST /v1/push/{view}``: rows of a view, durable before they are acknowledged."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import orjson

from llmfeatures.errors import RequestError
from llmfeatures.json_schema import converters, hold_json
from llmfeatures.problems import problem_of, refusal
from llmfeatures.push_report import PushReport
from llmfeatures.schema import FeatureView, PushSource
from llmfeatures.service.access import check_entity
from llmfeatures.service.endpoint import Answer, Desk
from llmfeatures.service.prompts import converted, rows_of
from llmfeatures.service.requests import Request
from llmfeatures.types import DType

if TYPE_CHECKING:
    from llmfeatures.project import Project

PUSHES_AT_ONCE: Final = 8
"""Threads that push; further pushes wait for one."""
_MOMENTS = {"event_timestamp": DType("timestamp"), "created_timestamp": DType("timestamp")}


class PushAction:
    """What the route does for one view, in threads of ``pool``: those of the event loop itself, which prompts from
    history take, are not held up by a store that hangs. ``refused`` says why this service takes no pushes, if it takes
    none."""

    def __init__(
        self, desk: Desk, project: Project, view: FeatureView, refused: str | None, pool: ThreadPoolExecutor
    ) -> None:
        self._desk, self._project, self._view, self._refused, self._pool = desk, project, view, refused, pool
        dtypes = {one.name: one.dtype for one in view.features}
        self._exact = hold_json(dtypes.values())
        self._converters = converters({**_MOMENTS, **view.entity.join_keys, **dtypes})

    async def push(self, request: Request) -> Answer:
        """Take rows: ``{"rows": [{...}], "push_id": null}``."""
        if self._refused is not None:
            raise refusal("forbidden", self._refused)
        body = await request.json_object(exact=self._exact)
        rows = rows_of(body, ("rows", "push_id"), self._desk.limits.max_rows)
        push_id = body.get("push_id")
        if push_id is not None and type(push_id) is not str:
            raise RequestError("push_id is a string, or null")
        request.options(())
        for row in rows:
            check_entity(request.key, self._view.entity.join_keys, row)
        values = [converted(row, self._converters, f"row {number}: ") for number, row in enumerate(rows)]
        kept_under = push_id
        if push_id is not None and request.key is not None and request.key.entity is not None:
            kept_under = f"{request.key.id}:{push_id}"  # else it could take an id that somebody else is about to use
        report = await asyncio.get_running_loop().run_in_executor(self._pool, self._push, values, kept_under)
        tally = self._desk.tally
        tally.count("pushes", self._view.name, "true" if report.repeated else "false")
        if not report.repeated:
            tally.count("pushed_rows", self._view.name, by=report.rows)
        if report.cause is not None:
            tally.count("store_errors", problem_of(report.cause).code)
        body = {
            "view": report.view,
            "push_id": report.push_id if push_id is None else push_id,
            "rows": report.rows,
            "repeated": report.repeated,
            "online": report.online,
            "problem": report.problem,
        }
        return Answer(orjson.dumps(body))

    def _push(self, rows: list[dict[str, Any]], push_id: str | None) -> PushReport:
        return self._project.push(self._view.name, rows, push_id=push_id)


def takes_pushes(view: FeatureView) -> bool:
    """Whether rows of a view can be pushed: it has a PushSource, and aggregates nothing."""
    return isinstance(view.source, PushSource) and not view.aggregates


def refusal_of(project: Project) -> str | None:
    """Why a service of this project takes no pushes, one sentence; None when it does."""
    if project.config.online.access == "read":
        return 'this project may only read the online store ([online] access = "read"); push from one that may write'
    reason = project.pushes.durable
    return None if reason is None else f"this service takes no pushes: {reason}"


def caution_of(project: Project) -> str | None:
    """What whoever starts a service that takes pushes should know about where they are kept; None for nothing."""
    if refusal_of(project) is not None or not any(takes_pushes(view) for view in project.registry.views):
        return None
    return project.pushes.caution
