"""``POST /v1/prompts/{name}/context`` and ``/contexts``: finished prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from llmfeatures.builder import AsyncContextBuilder
from llmfeatures.context import PromptContext
from llmfeatures.errors import DocumentsUnavailableError, InvalidValueError, RequestError, did_you_mean
from llmfeatures.json_schema import converters, hold_json
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.retrieving import LEGS, TracedLeg
from llmfeatures.service import traces
from llmfeatures.service.access import check_roles
from llmfeatures.service.encode import ContextWriter
from llmfeatures.service.endpoint import Answer, Desk
from llmfeatures.service.requests import Request
from llmfeatures.service.tally import Tally


class PromptActions:
    """What the two routes of one prompt do."""

    def __init__(self, desk: Desk, builder: AsyncContextBuilder, plan: PromptPlan) -> None:
        self._desk, self._builder, self._name = desk, builder, plan.name
        self._roles = plan.features.roles
        self._parameters = plan.parameters
        self._converters = converters(plan.parameters)
        self._exact = hold_json(plan.parameters.values())
        self._writer = ContextWriter(plan)

    async def context(self, request: Request) -> Answer:
        """One prompt, of the join keys and inputs that the body has by name."""
        given = await request.json_object(exact=self._exact)
        if request.key is not None:
            check_roles(request.key, self._roles, given)
        values = self._values(given)
        options = request.options() if request.scope["query_string"] else {}
        try:
            if request.span is None:
                ctx = await self._builder.build_context(self._name, **options, **values)
            else:
                (ctx,) = await self._traced(
                    request, lambda: self._builder.build_contexts(self._name, [values], **options)
                )
        except DocumentsUnavailableError as error:
            self._count_failure(error)
            raise
        request.request_id = ctx.request_id
        self._count(ctx)
        return Answer(self._writer.json(ctx))

    async def contexts(self, request: Request) -> Answer:
        """A prompt per row: ``{"rows": [{...}]}``."""
        body = await request.json_object(exact=self._exact)
        rows = rows_of(body, ("rows",), self._desk.limits.max_rows)
        if request.key is not None:
            for row in rows:
                check_roles(request.key, self._roles, row)
        options = request.options()
        values = [self._values(row, f"row {number}: ") for number, row in enumerate(rows)]
        try:
            contexts = await self._traced(request, lambda: self._builder.build_contexts(self._name, values, **options))
        except DocumentsUnavailableError as error:
            self._count_failure(error)
            raise
        for number, ctx in enumerate(contexts):
            self._count(ctx, timed=number == 0)  # one search for all rows
        return Answer(self._writer.json_list("contexts", contexts))

    def _values(self, given: dict[str, Any], where: str = "") -> dict[str, Any]:
        for name in given:
            if name not in self._parameters:  # an option by its name in the body is unknown too
                raise RequestError(
                    f"{where}prompt {self._name!r} takes no {name!r}{did_you_mean(name, self._parameters)}"
                )
        return converted(given, self._converters, where) if self._converters else given

    def _count(self, ctx: PromptContext, *, timed: bool = True) -> None:
        count_context(self._desk.tally, ctx, timed=timed)

    def _count_failure(self, error: DocumentsUnavailableError) -> None:
        self._desk.tally.retrieval(self._name, error.retriever, "unavailable", None)

    async def _traced(self, request: Request, build: Callable[[], Any]) -> list[PromptContext]:
        tracer = self._desk.tracer
        if tracer is None or request.span is None:
            return await build()
        span = traces.start_build(tracer, request.span, self._name)
        legs: list[TracedLeg] = []
        token = LEGS.set(legs)
        contexts: list[PromptContext] = []
        try:
            contexts = await build()
        finally:
            LEGS.reset(token)
            traces.record_legs(tracer, span, legs)
            traces.end_build(span, contexts)
        return contexts


def count_context(tally: Tally, ctx: PromptContext, *, timed: bool = True) -> None:
    """Count a prompt that was built; ``timed``: with how long its searches took."""
    for name, one in ctx.manifest.retrievals.items():
        took = ctx.manifest.timings.get(name) if timed else None
        tally.retrieval(ctx.prompt, one.retriever, one.status, None if took is None else took / 1000)
    tally.features(ctx.prompt, ctx.features)
    if ctx.manifest.degraded:
        tally.count("degraded", ctx.prompt)
        if ctx.manifest.problem is not None:
            tally.count("store_errors", "store_unavailable")


def converted(
    given: dict[str, Any], conversions: Mapping[str, Callable[[Any], Any]], where: str = ""
) -> dict[str, Any]:
    """The values of a JSON object, those that JSON writes in another way as the dtype takes them.

    Raises:
        RequestError: one has the wrong JSON type.
    """
    values = dict(given)
    for name, convert in conversions.items():
        if name in values:
            try:
                values[name] = convert(values[name])
            except InvalidValueError as error:
                raise RequestError(f"{where}{name}: {error}") from None
    return values


def rows_of(body: Mapping[str, Any], names: Sequence[str], limit: int) -> list[dict[str, Any]]:
    """The rows of a body that may have these names.

    Raises:
        RequestError: a name is unknown, or the rows are no list of objects, or too many.
    """
    for name in body:
        if name not in names:
            raise RequestError(f"the body takes no {name!r}{did_you_mean(name, names)}")
    rows = body.get("rows")
    if type(rows) is not list:
        raise RequestError("rows is a list of JSON objects")
    listed = cast("list[dict[str, Any]]", rows)
    if len(listed) > limit:
        raise RequestError(f"rows has {len(listed)} rows; at most {limit} go at once ([serve] max_rows)")
    for number, row in enumerate(listed):
        if type(row) is not dict:
            raise RequestError(f"row {number} is no JSON object")
    return listed
