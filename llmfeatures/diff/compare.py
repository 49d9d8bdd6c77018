# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""A prompt against another version of it, over a spine that is given or drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import pyarrow as pa

from llmfeatures.clock import parse_duration
from llmfeatures.diff.measure import Measure
from llmfeatures.diff.result import Counts, DiffSide, PromptDiff, Span, cost_of, rows_per_day
from llmfeatures.diff.sides import both
from llmfeatures.diff.sources import Version
from llmfeatures.diff.tally import Tally
from llmfeatures.errors import InvalidValueError, RequestError, did_you_mean
from llmfeatures.historical_documents import DocumentsOf
from llmfeatures.ports import EVENT_TIMESTAMP, ClockName, OfflineStore
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.file import ABSENT
from llmfeatures.registry import Registry
from llmfeatures.report.origin import drawn, spine_name
from llmfeatures.spine import sampled_spine
from llmfeatures.tokens import INSTALL
from llmfeatures.types import DType

USERS: Final = 100
EVERY: Final = "1d"
SINCE: Final = "30d"


class Typed(str):
    """The value of an input as a person types it: each version reads it by its own dtype."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How a spine is drawn, as `Project.spine` has it; ``until`` is aware."""

    until: datetime
    users: int | None = USERS
    every: timedelta | str = EVERY
    since: timedelta | str = SINCE
    where: str | None = None
    seed: int = 0


def asked_rows(spine: object, drawing: Mapping[str, Any], *, now: datetime, seed: int) -> object | Drawing:
    """The given spine, or how one is drawn; ``drawing`` has the options of it, None where one is not given.

    Raises:
        RequestError: a spine and one of them.
    """
    given = {name: value for name, value in drawing.items() if value is not None}
    if spine is None:
        options: dict[str, Any] = {"until": now, **given, "seed": seed}
        return Drawing(**options)
    if given:
        raise RequestError(f"{next(iter(given))} draws a spine, and one is given; leave one of them out")
    return spine


def asked_price(price: object) -> Decimal | None:
    """A price per million input tokens; None for none.

    Raises:
        RequestError: it is no amount.
    """
    if price is None:
        return None
    try:
        amount = Decimal(str(price))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0:
        raise RequestError(f"price is what a million input tokens cost, like 2.50, not {price!r}")
    return amount


def compare(
    offline: OfflineStore,
    registry: Registry,
    old: Version,
    new: Version,
    *,
    spine: object | Drawing,
    inputs: Mapping[str, Any],
    clock: ClockName,
    documents: DocumentsOf,
    price: Decimal | None,
) -> PromptDiff:
    """Render both versions over the same rows and count what differs.

    Args:
        offline: where the history is.
        registry: the present one.
        old: the version before.
        new: the version after, of the same prompt.
        spine: a given one, as for `Project.history`, or how one is drawn.
        inputs: values for inputs that are no columns of a spine.
        clock: which rows of the history count.
        documents: finds those of a version.
        price: per million input tokens; None counts no money.

    Raises:
        RequestError: an option is wrong, or nobody is there to draw.
        SpineError: the spine cannot be read, or lacks a column.
        SourceError: a source is not what the registry says.
        RetrieverError: a retriever did not do what was asked.
    """
    sides = DiffSide(label=old.label, version=old.plan.version), DiffSide(label=new.label, version=new.plan.version)
    notes: list[str] = []
    _check_inputs(old.plan, new.plan, inputs)
    is_drawn = isinstance(spine, Drawing)
    given = (
        constants(old.plan, inputs, stand_in=is_drawn, notes=notes),
        constants(new.plan, inputs, stand_in=is_drawn, notes=notes),
    )
    counted = Measure(_tokenizer(new.plan) or _tokenizer(old.plan))
    tally = Tally(old.plan, new.plan, counted)
    rows: object = spine
    if isinstance(spine, Drawing):
        rows = _drawn(offline, registry, (old.plan, new.plan), spine, given, clock)
    for one in both(offline, old.plan, new.plan, rows, clock=clock, documents=documents, inputs=given):
        tally.add(one)
    tokens = tally.tokens.total()
    span = _span(tally.moments, spine)
    counts = tally.counts
    per_day = rows_per_day(counts.rows, span)
    notes += _said(counts, tally, counted, is_drawn=is_drawn, with_cost=price is not None and per_day is not None)
    both_built = counts.rows - counts.errors_now - counts.fixed_now - counts.errors_both
    return PromptDiff(
        prompt=new.plan.name,
        old=sides[0],
        new=sides[1],
        spine=spine_name(rows),
        clock=clock,
        counts=counts,
        span=span,
        tokens=tokens,
        cost=None if price is None else cost_of(tokens, price, per_day, both_built),
        groups=tally.groups(),
        notes=tuple(dict.fromkeys(notes)),
    )


def _tokenizer(plan: PromptPlan) -> str | None:
    return None if plan.budget is None else plan.budget.tokenizer


def _said(counts: Counts, tally: Tally, measure: Measure, *, is_drawn: bool, with_cost: bool) -> Iterator[str]:
    if not counts.rows:
        yield "no rows were found; check the spine, or --since and --until"
    if measure.estimated:
        yield f"no tokenizer is installed, so tokens are an estimate: a quarter of the bytes; {INSTALL}"
    if tally.overflown:
        yield "there are more kinds of change than are kept apart; the rest is one group"
    if is_drawn and with_cost:
        yield "the rows are drawn, so their traffic is not your application's; --spine FILE takes what it really asked"


def _check_inputs(old: PromptPlan, new: PromptPlan, inputs: Mapping[str, Any]) -> None:
    known = {**old.inputs, **new.inputs}
    for name in inputs:
        if name not in known:
            raise RequestError(f"no version of prompt {new.name!r} has an input {name!r}{did_you_mean(name, known)}")


def constants(plan: PromptPlan, inputs: Mapping[str, Any], *, stand_in: bool, notes: list[str]) -> dict[str, Any]:
    """The canonical values of the inputs that are given, and of a drawn spine stand-ins for those that are required."""
    wanted = {name: _read(name, one.dtype, inputs[name]) for name, one in plan.inputs.items() if name in inputs}
    if stand_in:
        for name, one in plan.inputs.items():
            if name not in wanted and one.default is ABSENT:
                wanted[name] = _stand_in(name, one.dtype)
                said = wanted[name] if isinstance(wanted[name], str) else repr(wanted[name])
                notes.append(f"the input {name} stands in as {said}; --input {name}=VALUE gives another")
    rest = {name: _stand_in(name, one.dtype) for name, one in plan.inputs.items() if one.default is ABSENT}
    bound = plan.bind_inputs({**rest, **wanted})
    return {name: bound[name] for name in wanted}


def _read(name: str, dtype: DType, value: Any) -> Any:
    if not isinstance(value, Typed):
        return value
    try:
        return dtype.parse(str(value))
    except InvalidValueError as error:
        raise RequestError(f"{name} is of type {dtype}: {error}") from None


def _stand_in(name: str, dtype: DType) -> Any:
    """A value of a dtype that shows what it stands for."""
    match dtype.kind:
        case "str":
            return name
        case "enum":
            return dtype.words[0]
        case "int" | "float" | "decimal":
            return 1
        case "bool":
            return True
        case "timestamp":
            return datetime(2026, 1, 1, tzinfo=UTC)
        case "date":
            return date(2026, 1, 1)
        case "list":
            return []
        case _:
            return {}


def _drawn(
    offline: OfflineStore,
    registry: Registry,
    plans: tuple[PromptPlan, PromptPlan],
    drawing: Drawing,
    inputs: tuple[Mapping[str, Any], Mapping[str, Any]],
    clock: ClockName,
) -> pa.Table:
    """The join keys and moments of a drawn spine for both versions."""
    keys = [tuple(one.features.parameters) for one in plans]
    place = 1 if set(keys[0]) <= set(keys[1]) else 0
    plan = plans[place]
    if set(keys[0]) | set(keys[1]) != set(keys[place]):
        raise RequestError(
            f"the old version is about {', '.join(keys[0])} and the new one about {', '.join(keys[1])}; give a spine "
            f"with these columns and {EVENT_TIMESTAMP}"
        )
    names = ("users", "every", "since", "where", "seed")
    options: dict[str, Any] = {name: getattr(drawing, name) for name in names}
    table = sampled_spine(
        offline,
        plan,
        registry,
        until=drawing.until,
        inputs=inputs[place],
        clock=clock,
        **options,
    )
    bare = table.select([*plan.features.parameters, EVENT_TIMESTAMP])
    return drawn(bare, tuple(plan.features.parameters), options)


def drawn_for(offline: OfflineStore, registry: Registry, plan: PromptPlan, drawing: Drawing) -> pa.Table:
    """The join keys and moments of a drawn spine for one version. Raises as `sampled_spine`."""
    inputs = constants(plan, {}, stand_in=True, notes=[])
    return _drawn(offline, registry, (plan, plan), drawing, (inputs, inputs), "known")


def _span(moments: tuple[datetime, datetime] | None, spine: object | Drawing) -> Span | None:
    """How much time the rows stand for: what was drawn over, or from the first row to the last."""
    if moments is None:
        return None
    first, last = moments
    if not isinstance(spine, Drawing):
        return Span(first=first, last=last, time=last - first)
    # a moment stands for the time up to the next one
    return Span(first=first, last=last, time=last - first + parse_duration(spine.every))
