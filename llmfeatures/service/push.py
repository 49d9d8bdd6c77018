"""``POST /v1/push/{view}``: rows of a view, durable before they are acknowledged."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from llmfeatures.errors import RequestError
from llmfeatures.problems import refusal
from llmfeatures.schema import FeatureView, PushSource
from llmfeatures.service.access import check_entity
from llmfeatures.service.endpoint import Answer, Desk
from llmfeatures.service.json_schema import converters, hold_json
from llmfeatures.service.prompts import converted, rows_of
from llmfeatures.service.requests import Request
from llmfeatures.types import DType

if TYPE_CHECKING:
    from llmfeatures.project import Project

_MOMENTS = {"event_timestamp": DType("timestamp"), "created_timestamp": DType("timestamp")}


class PushAction:
    """What the route does for one view. ``refused`` says why this service takes no pushes, if it takes none."""

    def __init__(self, desk: Desk, project: Project, view: FeatureView, refused: str | None) -> None:
        self._desk, self._project, self._view, self._refused = desk, project, view, refused
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
        report = await asyncio.to_thread(self._push, values, push_id)
        tally = self._desk.tally
        tally.count("pushes", self._view.name, "true" if report["repeated"] else "false")
        if not report["repeated"]:
            tally.count("pushed_rows", self._view.name, by=report["rows"])
        if not report["online"]:
            tally.count("store_errors", "store_unavailable")
        return Answer(orjson.dumps(report))

    def _push(self, rows: list[dict[str, Any]], push_id: str | None) -> dict[str, Any]:
        report = self._project.push(self._view.name, rows, push_id=push_id)
        return {
            "view": report.view,
            "push_id": report.push_id,
            "rows": report.rows,
            "repeated": report.repeated,
            "online": report.online,
            "problem": report.problem,
        }


def takes_pushes(view: FeatureView) -> bool:
    """Whether rows of a view can be pushed: it has a PushSource, and aggregates nothing."""
    return isinstance(view.source, PushSource) and not view.aggregates


def refusal_of(project: Project) -> str | None:
    """Why a service of this project takes no pushes, one sentence; None when it does."""
    if project.config.online.access == "read":
        return 'this project may only read the online store ([online] access = "read"); push from one that may write'
    reason = project.pushes.durable
    return None if reason is None else f"this service takes no pushes: {reason}"
