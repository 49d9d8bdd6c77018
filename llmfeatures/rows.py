# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Batches of a join as features and prompts, column by column: no Python object per row where none is needed.

A prompt is rendered once for each distinct combination of what its template reads, by `PromptPlan.finish`, the function
that renders it online.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import pyarrow as pa
from pyarrow import compute

from llmfeatures import columns
from llmfeatures.context import FeatureValue, Status, prompt_id
from llmfeatures.errors import LLMFeaturesError, OnDemandError
from llmfeatures.plan import FeaturePlan, FeatureRef
from llmfeatures.ports import Joined
from llmfeatures.prompt_cache import PromptCache
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.spanned import MESSAGES, Part, SpanRenderer, combined, part_of, variables_of
from llmfeatures.types import DType

pc: Any = compute

STATUSES: Final[tuple[Status, ...]] = ("missing", "null", "expired", "present")
"""By the code that a column of statuses holds."""
_MISSING, _NULL, _EXPIRED, _PRESENT = (columns.constant(code) for code in range(4))
_DIVERSE = 5
"""After so many batches whose prompts are mostly new ones, earlier prompts are no longer looked for."""
_NONE = FeatureValue(None, "missing", None)
_TIMESTAMP: Final = DType("timestamp")
_TEXT: Final = DType("str")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A feature's column, settled: ``values`` canonical, null unless present; ``codes`` int64, places in `STATUSES`;
    ``event`` timestamp[us, UTC], null where missing."""

    values: Any
    codes: Any
    event: Any

    @property
    def statuses(self) -> Any:
        """The statuses as text."""
        return pa.array(STATUSES, pa.string()).take(self.codes)

    def counts(self, every: int = 1) -> Counter[str]:
        """How many rows have each status; with ``every``, of each so many rows only the first."""
        codes = self.codes
        if every > 1:
            codes = codes.take(pa.array(range(0, len(codes), every), pa.int64()))
        counted = pc.value_counts(codes)
        codes, counts = counted.field(0).to_pylist(), counted.field(1).to_pylist()
        return Counter({STATUSES[code]: count for code, count in zip(codes, counts, strict=True)})


def settle(ref: FeatureRef, at: Any, event: Any, values: Any) -> Column:
    """A feature's column of a join, settled at the moments ``at`` (timestamp[us, UTC]): what `FeaturePlan.settle` does
    for one row. A null moment expires nothing."""
    codes = pc.if_else(event.is_valid(), pc.if_else(values.is_valid(), _PRESENT, _NULL), _MISSING)
    if ref.limit is not None:
        micros = ref.limit.days * 86_400_000_000 + ref.limit.seconds * 1_000_000 + ref.limit.microseconds
        # an age beyond int64 is none that two moments can have
        limit = columns.constant(min(micros, 2**60))
        age = pc.subtract(at.view(pa.int64()), event.view(pa.int64()))
        expired = pc.coalesce(pc.greater(age, limit), columns.FALSE)
        codes = pc.if_else(expired, _EXPIRED, codes)
        values = pc.if_else(expired, columns.nothing(values.type), values)
    return Column(values=values, codes=codes, event=event)


def settled_columns(plan: FeaturePlan, joined: Joined) -> list[Column]:
    """The columns of a plan's features, in the order of its refs."""
    return [
        settle(ref, joined.at, joined.found[lookup].event, joined.found[lookup].columns[column])
        for ref, (lookup, column) in zip(plan.refs, plan.lookup_of, strict=True)
    ]


def computed_columns(
    plan: FeaturePlan,
    settled: Sequence[Column],
    given: Mapping[str, Any],
    at: Any,
    errors: dict[int, str],
    optional: Collection[str] = (),
    withheld: Mapping[str, Collection[int]] | None = None,
) -> list[Column]:
    """The columns of a plan's on-demand features, by `ComputedRef.values`, which computes them online.

    Args:
        plan: the plan.
        settled: the columns of its refs.
        given: canonical columns of join keys and inputs.
        at: the moments, timestamp[us, UTC].
        errors: rows that are not computed; a row that fails is added.
        optional: inputs that may be null; a row without another is not computed.
        withheld: by feature, the rows in which it is missing and its function is not run.
    """
    if not plan.computed:
        return []
    arguments = [one for ref in plan.computed for one in ref.arguments]
    found = {one.source: _found(one.dtype, settled[one.source]) for one in arguments if isinstance(one.source, int)}
    values = {
        one.source: columns.python_values(one.dtype, given[one.source])
        for one in arguments
        if isinstance(one.source, str) and one.source != "as_of"
    }
    moments = columns.moments(at)
    made: list[Column] = []
    for ref in plan.computed:
        needed = [values[name] for name in ref.on_demand.inputs if name not in optional]
        passed = () if withheld is None else withheld.get(ref.name, ())
        rows = [
            (row, moment)
            for row, moment in enumerate(moments)
            if moment is not None
            and row not in errors
            and row not in passed
            and not any(one[row] is None for one in needed)
        ]
        results = ref.values(
            (
                {source: one[row] for source, one in found.items()},
                {name: one[row] for name, one in values.items()},
                moment,
            )
            for row, moment in rows
        )
        full = [_NONE] * len(moments)
        for (row, _), result in zip(rows, results, strict=True):
            if isinstance(result, OnDemandError):
                errors[row] = str(result)
            else:
                full[row] = result
        made.append(
            Column(
                values=columns.array_of(ref.dtype, [one.value for one in full]),
                codes=pa.array([STATUSES.index(one.status) for one in full], pa.int64()),
                event=pa.array([one.event_timestamp for one in full], columns.TIMESTAMP),
            )
        )
    return made


def _found(dtype: DType, column: Column) -> list[FeatureValue]:
    values = columns.python_values(dtype, column.values)
    events = columns.moments(column.event)
    codes = column.codes.to_pylist()
    return [
        FeatureValue(value, STATUSES[code], event) for value, code, event in zip(values, codes, events, strict=True)
    ]


def invalid_rows(plan: FeaturePlan, joined: Joined, without: str | None = None) -> dict[int, str]:
    """The rows that a winning value of another dtype spoils, with the reason; ``without`` is read as missing, and
    spoils none."""
    read = {
        (lookup, ref.feature) for ref, (lookup, _) in zip(plan.refs, plan.lookup_of, strict=True) if ref.name != without
    }
    return {
        row: f"feature {feature!r} of view {lookup.view.name!r}: {reason}"
        for number, (lookup, found) in enumerate(zip(plan.lookups, joined.found, strict=True))
        for row, (feature, reason) in found.invalid.items()
        if (number, feature) in read
    }


class Pairs:
    """Each row of a batch, and after it the same row once per feature of ``without``, with that feature missing."""

    def __init__(self, plan: FeaturePlan, joined: Joined, without: Sequence[str]) -> None:
        self.plan, self.joined, self.without = plan, joined, (None, *without)
        rows, each = joined.spine.num_rows, len(self.without)
        self._rows = pa.array([row for row in range(rows) for _ in range(each)], pa.int64())
        self.names: Any = pa.array(list(self.without) * rows, pa.string())
        """The feature that each row is without, null for the first."""

    def repeated(self, column: Any) -> Any:
        """A column of the batch, for all rows."""
        return column.take(self._rows)

    def ids(self, ids: Any) -> Any:
        """The ids of all rows."""
        own = pc.binary_join_element_wise(self.repeated(ids), "-without-", pc.fill_null(self.names, ""), "")
        return pc.if_else(self.names.is_valid(), own, self.repeated(ids))

    def columns(self, settled: Sequence[Column]) -> list[Column]:
        """The features' columns for all rows."""
        made: list[Column] = []
        for ref, column in zip(self.plan.refs, settled, strict=True):
            values, codes, event = (self.repeated(one) for one in (column.values, column.codes, column.event))
            made.append(self.withheld(ref.name, Column(values=values, codes=codes, event=event)))
        return made

    @property
    def withheld_rows(self) -> dict[str, range]:
        """Which of all rows are without each feature."""
        each = len(self.without)
        rows = self.joined.spine.num_rows * each
        return {name: range(place, rows, each) for place, name in enumerate(self.without) if name is not None}

    def withheld(self, name: str, column: Column) -> Column:
        """A stored feature's column for all rows, missing in those that are without it."""
        if name not in self.without:
            return column
        gone = pc.coalesce(pc.equal(self.names, pa.scalar(name, pa.string())), columns.FALSE)
        return Column(
            values=pc.if_else(gone, columns.nothing(column.values.type), column.values),
            codes=pc.if_else(gone, _MISSING, column.codes),
            event=pc.if_else(gone, columns.nothing(column.event.type), column.event),
        )

    def errors(self, bad: Mapping[int, str]) -> dict[int, str]:
        """Why each of all rows has no prompt: ``bad``, or an invalid value of a feature that it reads."""
        each = len(self.without)
        return {
            row * each + place: reason
            for place, name in enumerate(self.without)
            for row, reason in {**bad, **invalid_rows(self.plan, self.joined, name)}.items()
        }


class Rendered(NamedTuple):
    """The prompts of a batch: ``messages`` list<struct<role, content>> and ``prompt_id``, null where there is an
    ``error``."""

    messages: Any
    prompt_id: Any
    error: Any


class _Prompt(NamedTuple):
    messages: list[dict[str, str]] | None
    prompt_id: str | None
    error: str | None


class Renderer:
    """Renders batches of a plan; prompts that came before are taken again."""

    def __init__(self, plan: PromptPlan) -> None:
        self.plan = plan
        self._cache = PromptCache()
        self._diverse = 0
        names = plan.template.names
        self._keys = {name: dtype for name, dtype in plan.features.parameters.items() if name in names}
        self._inputs = {name: one.dtype for name, one in plan.inputs.items()}
        self._reads_as_of = "as_of" in names
        self._spans = SpanRenderer(plan)

    def render(
        self, features: Sequence[Column], given: Mapping[str, Any], at: Any, errors: Mapping[int, str]
    ) -> Rendered:
        """The prompts of a batch.

        Args:
            features: the settled columns, in the order of the plan's outputs.
            given: canonical columns of the join keys and inputs, by parameter name.
            at: the moments, timestamp[us, UTC].
            errors: rows that have no prompt for another reason.
        """
        rows = len(at)
        messages, identities, reasons = self._rendered(self._parts(features, given, at), rows)
        if errors:
            spoiled = pa.array([errors.get(row) for row in range(rows)], pa.string())
            none = spoiled.is_valid()
            messages = pc.if_else(none, pa.scalar(None, MESSAGES), messages)
            identities = pc.if_else(none, pa.scalar(None, pa.string()), identities)
            reasons = pc.coalesce(spoiled, reasons)
        return Rendered(messages, identities, reasons)

    def _rendered(self, parts: Sequence[Part], rows: int) -> tuple[Any, Any, Any]:
        """Each distinct prompt is rendered once, and kept unless most values do not come twice."""
        asked = self._diverse < _DIVERSE and all(2 * part.size <= rows for part in parts)
        codes = self._cache.codes(parts) if asked else None
        if codes is not None:
            places, firsts = self._cache.find(codes, rows)
            if self._spans.messages and 2 * len(firsts) > rows:
                self._diverse += 1
            else:
                made = self._cache.add(codes, firsts, self._whole(parts, firsts))
                return made[0].take(places), made[1].take(places), made[2].take(places)
        which, first_rows = combined([(part.size, part.codes) for part in parts], rows)
        taken = pa.array(first_rows, pa.int64())
        made = self._by_spans(parts, taken) if self._spans.messages else self._whole(parts, taken)
        return made[0].take(which), made[1].take(which), made[2].take(which)

    def _by_spans(self, parts: Sequence[Part], taken: Any) -> tuple[Any, Any, Any]:
        own = [dataclasses.replace(part, codes=part.codes.take(taken)) for part in parts]
        count = 2 * len(self._spans.printed)
        features = [(own[at], pc.equal(own[at + 1].codes, _PRESENT)) for at in range(0, count, 2)]
        variables = variables_of(self.plan, self._spans.printed, features, own[count:])
        messages, identities = self._spans.render(variables, len(taken))
        reasons = pa.nulls(len(taken), pa.string())
        rest = pc.indices_nonzero(messages.is_null())
        if not len(rest):
            return messages, identities, reasons
        whole = self._whole(own, rest)
        places = list(range(len(taken)))
        for number, row in enumerate(rest.to_pylist(), len(taken)):
            places[row] = number
        order = pa.array(places, pa.int64())
        spanned = (messages, identities, reasons)
        merged = [pa.concat_arrays([one, two]).take(order) for one, two in zip(spanned, whole, strict=True)]
        return merged[0], merged[1], merged[2]

    def _parts(self, features: Sequence[Column], given: Mapping[str, Any], at: Any) -> list[Part]:
        parts: list[Part] = []
        for ref, column in zip(self.plan.features.outputs, features, strict=True):
            if not ref.printed:
                continue
            parts.append(part_of(ref.name, ref.dtype, column.values))
            statuses = pa.array(STATUSES, pa.string())
            parts.append(Part(name=f"{ref.name} status", dtype=_TEXT, dictionary=statuses, codes=column.codes))
        for name, dtype in (*self._keys.items(), *self._inputs.items()):
            parts.append(part_of(name, dtype, given[name]))
        if self._reads_as_of:
            parts.append(part_of("as_of", _TIMESTAMP, at))
        return parts

    def _whole(self, parts: Sequence[Part], taken: Any) -> tuple[Any, Any, Any]:
        return _arrays(
            [
                self._finish([part.values[code] for part, code in zip(parts, codes, strict=True)])
                for codes in _codes(parts, taken)
            ]
        )

    def _finish(self, values: Sequence[Any]) -> _Prompt:
        rest = iter(values)
        slots = [
            FeatureValue(next(rest), next(rest), None) if ref.printed else _NONE for ref in self.plan.features.outputs
        ]
        keys = {name: next(rest) for name in self._keys}
        inputs = {name: next(rest) for name in self._inputs}
        at = next(rest) if self._reads_as_of else _ANY_MOMENT
        if at is None:
            return _Prompt(None, None, None)
        try:
            finished = self.plan.finish(slots, keys, self.plan.bind_inputs(inputs), at).messages
        except LLMFeaturesError as error:
            return _Prompt(None, None, str(error))
        messages = [{"role": role, "content": content} for role, content in finished]
        return _Prompt(messages, prompt_id(finished), None)


_ANY_MOMENT: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Stands for the moment in a prompt that does not read it; its features are settled already."""


def _codes(parts: Sequence[Part], taken: Any) -> list[tuple[Any, ...]]:
    return (
        list(zip(*[part.codes.take(taken).to_pylist() for part in parts], strict=True)) if parts else [()] * len(taken)
    )


def _arrays(prompts: Sequence[_Prompt]) -> tuple[Any, Any, Any]:
    messages = pa.array([one.messages for one in prompts], MESSAGES)
    identities = pa.array([one.prompt_id for one in prompts], pa.string())
    return messages, identities, pa.array([one.error for one in prompts], pa.string())
