"""``POST /v1/features``: the newest features of entities, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, cast

from llmfeatures.clock import Clock
from llmfeatures.context import FeatureValue
from llmfeatures.errors import OnDemandError, RequestError, did_you_mean
from llmfeatures.json_schema import converters, hold_json
from llmfeatures.plan import FeaturePlan, plan_references
from llmfeatures.readers import AsyncReader
from llmfeatures.registry import Registry
from llmfeatures.service.access import check_roles
from llmfeatures.service.encode import features_json
from llmfeatures.service.endpoint import Answer, Desk
from llmfeatures.service.prompts import converted, rows_of
from llmfeatures.service.requests import Request

_PLANS = 256
"""Plans that are kept: one per list of features that was asked for."""


class _Ask(NamedTuple):
    plan: FeaturePlan
    known: Mapping[str, Any]
    conversions: Mapping[str, Callable[[Any], Any]]
    dtypes: Mapping[str, str]


class FeatureActions:
    """What the route does."""

    def __init__(self, desk: Desk, registry: Registry, reader: AsyncReader, clock: Clock) -> None:
        self._desk, self._registry, self._reader, self._clock = desk, registry, reader, clock
        inputs = (dtype for one in registry.on_demand for dtype in one.inputs.values())
        self._exact = hold_json(inputs)
        self._asks: dict[tuple[str, ...], _Ask] = {}

    async def features(self, request: Request) -> Answer:
        """One mapping per row, in order: ``{"features": [...], "rows": [{...}]}``."""
        body = await request.json_object(exact=self._exact)
        rows = rows_of(body, ("features", "rows"), self._desk.limits.max_rows)
        ask = self._ask(body.get("features"))
        timeout = request.options(("timeout",)).get("timeout")
        given: list[dict[str, Any]] = []
        for number, row in enumerate(rows):
            check_roles(request.key, ask.plan.roles, row)
            given.append(_given(ask, row, f"row {number}: "))
        found = await self._read(ask.plan, given, timeout)
        for row in found:
            self._desk.tally.features("-", row)
        return Answer(features_json(found, ask.dtypes))

    async def _read(
        self, plan: FeaturePlan, given: list[dict[str, Any]], timeout: float | None
    ) -> list[dict[str, FeatureValue]]:
        result = await self._reader.run(plan.read([plan.entity_keys(one) for one in given]), timeout)
        if result.problem is not None:
            self._desk.tally.count("store_errors", "store_unavailable")
        now = self._clock()
        as_of = now if result.newest is None else max(now, result.newest)
        return [
            _settled(plan, slots, one, as_of, number)
            for number, (slots, one) in enumerate(zip(result.slots, given, strict=True))
        ]

    def _ask(self, names: Any) -> _Ask:
        if type(names) is not list or not names or not all(type(name) is str for name in cast("list[Any]", names)):
            raise RequestError("features is a list of one or more names, like ['user_segment']")
        asked = tuple(cast("list[str]", names))
        ask = self._asks.get(asked)
        if ask is None:
            plan = plan_references(self._registry, asked)
            known = {**plan.parameters, **plan.inputs}
            dtypes = {one.name: str(one.dtype) for one in plan.answers}
            ask = _Ask(plan, known, converters(known), dtypes)
            if len(self._asks) >= _PLANS:
                self._asks.pop(next(iter(self._asks)))
            self._asks[asked] = ask
        return ask


def _given(ask: _Ask, row: dict[str, Any], where: str) -> dict[str, Any]:
    for name in row:
        if name not in ask.known:
            raise RequestError(f"{where}unknown join key {name!r}{did_you_mean(name, ask.known)}")
    try:
        return ask.plan.given(converted(row, ask.conversions))
    except RequestError as error:
        raise RequestError(f"{where}{error}") from None


def _settled(
    plan: FeaturePlan, slots: Any, given: Mapping[str, Any], as_of: datetime, number: int
) -> dict[str, FeatureValue]:
    try:
        settled = plan.found(slots, given, as_of)
    except OnDemandError as error:
        raise OnDemandError(f"row {number}: {error}", feature=error.feature) from None
    return {plan.outputs[place].name: settled[place] for place in plan.asked}
