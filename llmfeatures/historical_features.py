# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Features as they were at each moment of a spine, with no prompt around them, and those of one moment for all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
from pyarrow import compute

from llmfeatures.errors import RenderError, SourceError, SpineError, did_you_mean
from llmfeatures.history_rows import canonical_column
from llmfeatures.plan import FeaturePlan
from llmfeatures.ports import ClockName, Joined, OfflineStore
from llmfeatures.rows import Column, computed_columns, invalid_rows, settled_columns
from llmfeatures.slots import FoundRows, slots_at

pc: Any = compute


def historical_features(
    offline: OfflineStore, plan: FeaturePlan, spine: object, *, clock: ClockName, statuses: bool
) -> pa.RecordBatchReader:
    """The spine's columns and one per feature, row for row in the spine's order; null where it is not present.

    Raises:
        SpineError: the spine lacks a column, or has one named like a feature.
        SourceError: a source is not what the registry says, or a row holds an invalid value.
    """
    dtypes = {**plan.parameters, **plan.inputs} if plan.computed else None
    batches = _feature_batches(plan, offline.join(spine, plan.lookups, clock=clock, dtypes=dtypes), statuses)
    first = next(batches)
    return pa.RecordBatchReader.from_batches(first.schema, _chain(first, batches))


def _chain(first: pa.RecordBatch, rest: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def _feature_batches(plan: FeaturePlan, joins: Iterable[Joined], statuses: bool) -> Iterator[pa.RecordBatch]:
    number = 0
    for joined in joins:
        yield _feature_batch(plan, joined, statuses, number)
        number += joined.spine.num_rows


def _feature_batch(plan: FeaturePlan, joined: Joined, statuses: bool, number: int) -> pa.RecordBatch:
    errors = invalid_rows(plan, joined)
    if errors:
        row, reason = min(errors.items())
        raise SourceError(f"row {number + row} of the spine: {reason}; correct the source, or leave the feature out")
    spine = joined.spine
    arrays, names = list(spine.columns), list(spine.schema.names)
    settled = settled_columns(plan, joined)
    settled += _computed(plan, settled, joined, number)
    for place in plan.asked:
        ref, column = plan.outputs[place], settled[place]
        added = {ref.column: column.values}
        if statuses:
            added[f"{ref.column}__status"] = column.statuses
            added[f"{ref.column}__event_timestamp"] = column.event
        for name, array in added.items():
            if name in names:
                raise SpineError(
                    f"the spine has a column {name!r}, as a requested feature has; rename the spine's column"
                )
            names.append(name)
            arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, names=names)


def _computed(plan: FeaturePlan, settled: Sequence[Column], joined: Joined, number: int) -> list[Column]:
    """The columns of on-demand features with no prompt around them; their inputs are columns of the spine."""
    if not plan.computed:
        return []
    errors: dict[int, str] = {}
    given: dict[str, pa.Array[Any]] = {}
    for name, dtype in {**plan.parameters, **plan.inputs}.items():
        if name not in joined.spine.schema.names:
            raise SpineError(
                f"the spine has no column {name!r}, which an on-demand feature needs"
                f"{did_you_mean(name, joined.spine.schema.names)}"
            )
        given[name] = canonical_column(name, dtype, joined.spine.column(name), errors)
        if name in plan.inputs:
            for row in pc.indices_nonzero(given[name].is_null()).to_pylist():
                errors.setdefault(row, f"input {name!r} of an on-demand feature is null")
    made = computed_columns(plan, settled, given, joined.at, errors)
    if errors:
        row, reason = min(errors.items())
        raise RenderError(f"row {number + row} of the spine: {reason}")
    return made


def as_of_slots(
    offline: OfflineStore, plan: FeaturePlan, rows: Sequence[Mapping[str, Any]], as_of: datetime, clock: ClockName
) -> FoundRows:
    """The slots of a few rows of join keys at one moment."""
    return slots_at(offline, plan, rows, [as_of] * len(rows), clock)
