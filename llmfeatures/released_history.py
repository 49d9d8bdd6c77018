# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""History with the prompt of the time: each row by the release that was active at its moment."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import compute

from llmfeatures.errors import RequestError, SpineError
from llmfeatures.historical_documents import Retrievers
from llmfeatures.history import History
from llmfeatures.history_rows import HistoryRows, HistorySummary
from llmfeatures.ports import ClockName, Exporter, FoundColumns, Joined, Lookup, OfflineStore
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.types import DType

pc: Any = compute


@dataclass(frozen=True, slots=True, kw_only=True)
class Reign:
    """From ``since`` on (UTC) this plan is the prompt; None: there is none then, and ``reason`` says why."""

    since: datetime
    plan: PromptPlan | None
    reason: str = ""


class ReleasedHistory(History):
    """`History` with the plan that was active at each row's moment. ``reigns`` are in order; ``before`` says why a row
    before the first of them has no prompt.

    The fields of the structs are those of all plans, null where a row's own prompt has no such field.
    """

    def __init__(
        self,
        reigns: Sequence[Reign],
        spine: object,
        *,
        before: str,
        offline: OfflineStore,
        clock: ClockName,
        exporters: Mapping[str, Exporter],
        protected: Mapping[Path, str] | None = None,
        retrievers: Retrievers | None = None,
        live_documents: bool = False,
    ) -> None:
        plans = [one.plan for one in reigns if one.plan is not None]
        newest = plans[-1]
        super().__init__(
            newest,
            spine,
            offline=offline,
            clock=clock,
            exporters=exporters,
            protected=protected,
            retrievers=retrievers,
            live_documents=live_documents,
        )
        self._reigns, self._before = reigns, before
        self._plans: list[PromptPlan] = []
        for plan in plans:
            if not any(_same(one, plan) for one in self._plans):
                self._plans.append(plan)

    def _spine_dtypes(self) -> dict[str, DType]:
        dtypes: dict[str, DType] = {}
        for plan in self._plans:
            dtypes |= plan.parameters
        return {**dtypes, **super()._spine_dtypes()}

    def _made_of(self, options: Mapping[str, Any]) -> dict[str, str] | None:  # noqa: ARG002
        return None  # an interrupted run begins anew

    def _begin(self, first: int, summary: HistorySummary) -> None:  # noqa: ARG002  it is 0 then
        if self._spent:
            raise SpineError("this spine can be read once only, and was; give a table or a path to read it again")
        self._spent = isinstance(self._spine, pa.RecordBatchReader)
        for plan in self._plans:
            for ref in plan.features.outputs:
                summary.statuses.setdefault(ref.name, Counter())
        self.summary = summary
        lookups: list[Lookup] = []
        for plan in self._plans:
            lookups += [one for one in plan.features.lookups if one not in lookups]
        joins = self._offline.join(self._spine, lookups, clock=self.clock, dtypes=self._spine_dtypes())
        batches = self._batches(joins, lookups)
        self._started = next(batches), batches
        self._schema = self._started[0].schema

    def _batches(self, joins: Iterator[Joined], lookups: Sequence[Lookup]) -> Iterator[pa.RecordBatch]:
        rows = [HistoryRows(one, self.clock, self.summary, self._documents(one)) for one in self._plans]
        places = [[lookups.index(lookup) for lookup in one.features.lookups] for one in self._plans]
        schema: pa.Schema | None = None
        number = 0
        for joined in joins:
            if schema is None:
                nothing = pa.array([], pa.int64())
                empty = [
                    one.batch(_taken(joined, nothing, own), range(0), None).schema
                    for one, own in zip(rows, places, strict=True)
                ]
                schema = _united(self.plan.name, empty)
            known, made = self.summary.first_error, list[pa.RecordBatch]()
            order: list[int] = []
            for reign, own in self._by_reign(joined.at).items():
                plan, reason = self._of(reign)
                part = _taken(joined, pa.array(own, pa.int64()), places[plan])
                batch = rows[plan].batch(part, [number + one for one in own], reason)
                made.append(_widened(batch, schema, refused=reason is not None))
                order += own
            if not made:
                yield pa.RecordBatch.from_pylist([], schema)
                continue
            back = pc.sort_indices(pa.array(order, pa.int64()))
            batch = pa.Table.from_batches(made).take(back).combine_chunks().to_batches()[0]
            self.summary.first_error = known or _first_error(batch.column("error"), number)
            number += joined.spine.num_rows
            yield batch

    def _by_reign(self, at: pa.Array[Any]) -> dict[int, list[int]]:
        """The rows of each reign by its number, -1 before the first. One without a moment is of the last: its reason is
        that it has none."""
        since = [one.since for one in self._reigns]
        found: dict[int, list[int]] = {}
        for row, moment in enumerate(at.to_pylist()):
            number = len(since) - 1 if moment is None else bisect_right(since, moment) - 1
            found.setdefault(number, []).append(row)
        return found

    def _of(self, number: int) -> tuple[int, str | None]:
        """The place of a reign's plan, and why it has none; then another one stands in for the columns."""
        reign = self._reigns[number] if number >= 0 else None
        if reign is not None and reign.plan is not None:
            return self._place(reign.plan), None
        return self._place(self.plan), self._before if reign is None else reign.reason

    def _place(self, plan: PromptPlan) -> int:
        return next(place for place, one in enumerate(self._plans) if _same(one, plan))


def _same(one: PromptPlan, other: PromptPlan) -> bool:
    """Whether two plans give the same rows: a version says nothing of where values and documents come from."""
    return (
        one.version == other.version
        and one.features.lookups == other.features.lookups
        and _origins(one) == _origins(other)
    )


def _origins(plan: PromptPlan) -> list[Any]:
    return [(one.retriever, [brought.features.lookups for brought in one.brought]) for one in plan.documents]


def _first_error(errors: pa.Array[Any], number: int) -> str | None:
    if errors.null_count == len(errors):
        return None
    row = pc.index(errors.is_valid(), pa.scalar(value=True)).as_py()
    return f"row {number + row}: {errors[row].as_py()}"


def _taken(joined: Joined, rows: pa.Array[Any], places: Sequence[int]) -> Joined:
    """Some rows of a batch, with the lookups at these places."""
    kept = {row: number for number, row in enumerate(rows.to_pylist())}
    found = [
        FoundColumns(
            event=one.event.take(rows),
            columns=tuple(column.take(rows) for column in one.columns),
            invalid={kept[row]: why for row, why in one.invalid.items() if row in kept},
            hidden=None if one.hidden is None else one.hidden.take(rows),
        )
        for one in (joined.found[place] for place in places)
    ]
    return Joined(spine=joined.spine.take(rows), at=joined.at.take(rows), found=tuple(found))


def _united(prompt: str, schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The schema with the fields of all structs.

    Raises:
        RequestError: releases have a field of one name with two types.
    """
    made: list[pa.Field[Any]] = []
    for field in schemas[-1]:
        types = [schema.field(field.name).type for schema in schemas]
        if not pa.types.is_struct(field.type):
            made.append(field)
            continue
        fields: dict[str, Any] = {}
        for kind in types:
            for one in (kind.field(place) for place in range(kind.num_fields)):
                known = fields.setdefault(one.name, one)
                if known.type != one.type:
                    raise RequestError(
                        f"{one.name} of prompt {prompt!r} is {known.type} in one release and {one.type} in another, so "
                        "that no column holds both; rebuild with one release at a time, --release ID"
                    )
        if len(fields) > 1:
            fields.pop("_", None)  # what stands for a struct without fields
        made.append(pa.field(field.name, pa.struct(list(fields.values()))))
    return pa.schema(made, metadata=schemas[-1].metadata)


def _widened(batch: pa.RecordBatch, schema: pa.Schema, *, refused: bool) -> pa.RecordBatch:
    """The batch with all fields of all structs. Rows that are ``refused`` have no version."""
    arrays: list[pa.Array[Any]] = []
    for field in schema:
        array = batch.column(field.name)
        if pa.types.is_struct(field.type) and array.type != field.type:
            own = {array.type.field(place).name: array.field(place) for place in range(array.type.num_fields)}
            wanted = [field.type.field(place) for place in range(field.type.num_fields)]
            arrays.append(
                pa.StructArray.from_arrays(
                    [own.get(one.name, pa.nulls(len(array), one.type)) for one in wanted], fields=wanted
                )
            )
        elif refused and field.name == "version":
            arrays.append(pa.nulls(len(array), field.type))
        else:
            arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
