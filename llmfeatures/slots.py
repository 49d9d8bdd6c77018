# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Batches of a join as a plan's slots: feature values row by row, for those who have few rows or need each alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from llmfeatures import columns
from llmfeatures.context import FeatureValue
from llmfeatures.plan import FeaturePlan
from llmfeatures.ports import EVENT_TIMESTAMP, ClockName, Joined, OfflineStore
from llmfeatures.rows import invalid_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRows:
    """A batch of a join as a plan's slots: one list of feature values per row, before limits, and why a row cannot be
    used."""

    slots: list[list[FeatureValue]]
    errors: dict[int, str]


def found_rows(plan: FeaturePlan, joined: Joined) -> FoundRows:
    """The slots of each row of a batch."""
    events = [columns.moments(found.event) for found in joined.found]
    per_ref: list[list[FeatureValue]] = []
    for ref, (lookup, column) in zip(plan.refs, plan.lookup_of, strict=True):
        values = columns.python_values(ref.dtype, joined.found[lookup].columns[column])
        per_ref.append([_value(value, event) for value, event in zip(values, events[lookup], strict=True)])
    errors = invalid_rows(plan, joined)
    rows = joined.spine.num_rows
    slots = [list(one) for one in zip(*per_ref, strict=True)] if per_ref else [[] for _ in range(rows)]
    return FoundRows(slots=slots, errors=errors)


def _value(value: Any, event: datetime | None) -> FeatureValue:
    if event is None:
        return FeatureValue(None, "missing", None)
    return FeatureValue(value, "null" if value is None else "present", event)


def slots_at(
    offline: OfflineStore,
    plan: FeaturePlan,
    rows: Sequence[Mapping[str, Any]],
    moments: Sequence[datetime],
    clock: ClockName,
) -> FoundRows:
    """The slots of rows of canonical join keys, each at its moment (UTC), as `found_rows` of a spine of them.

    Raises:
        SourceError: a source is not what the registry says.
    """
    arrays = {name: columns.array_of(dtype, [row[name] for row in rows]) for name, dtype in plan.parameters.items()}
    spine = pa.table({**arrays, EVENT_TIMESTAMP: pa.array(moments, columns.TIMESTAMP)})
    slots: list[list[FeatureValue]] = []
    errors: dict[int, str] = {}
    for joined in offline.join(spine, plan.lookups, clock=clock):
        found = found_rows(plan, joined)
        errors.update({len(slots) + row: reason for row, reason in found.errors.items()})
        slots.extend(found.slots)
    return FoundRows(slots=slots, errors=errors)
