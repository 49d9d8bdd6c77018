# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Rows as somebody pushes them, to canonical rows: all of them, or the list of what is wrong with each. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from llmfeatures import columns
from llmfeatures.clock import duration_text
from llmfeatures.errors import InvalidValueError, PushedRowsError, RequestError, did_you_mean
from llmfeatures.ports import PUSHED_CREATED, PUSHED_EVENT
from llmfeatures.schema import FeatureView
from llmfeatures.types import DType

EVENT, CREATED = "event_timestamp", "created_timestamp"
TIMES = {EVENT: PUSHED_EVENT, CREATED: PUSHED_CREATED}
LISTED = 20
"""So many problems are listed."""
_TIMESTAMP = DType("timestamp")


def pushed_columns(view: FeatureView) -> dict[str, DType]:
    """The columns of a row of the view, without its times.

    Raises:
        RequestError: the view has a column that is named like one of the times.
    """
    found = {**view.entity.join_keys, **{one.name: one.dtype for one in view.features}}
    for name in TIMES:
        if name in found:
            raise RequestError(f"view {view.name!r} has a column {name!r}, so its rows cannot be pushed; rename it")
    return found


@dataclass(slots=True)
class _Problems:
    """What was found wrong so far."""

    listed: list[tuple[int, str, str]] = field(default_factory=list[tuple[int, str, str]])

    def add(self, row: int, column: str, reason: str) -> None:
        self.listed.append((row, column, reason))

    def check(self, view: FeatureView) -> None:
        """Refuse the rows if there is a problem.

        Raises:
            PushedRowsError: there is; it lists the first ones by row.
        """
        total = len(self.listed)
        if not total:
            return
        listed = sorted(self.listed, key=lambda one: one[0])[:LISTED]
        said = "; ".join(f"row {row}, column {column!r}: {reason}" for row, column, reason in listed)
        more = f"; and {total - len(listed):,} more" if total > len(listed) else ""
        raise PushedRowsError(f"nothing was pushed to view {view.name!r}: {said}{more}", problems=listed, total=total)


def canonical_rows(view: FeatureView, rows: object, *, received: datetime, max_skew: timedelta) -> pa.RecordBatch:
    """The rows of a push, canonical: the columns of the view, then `PUSHED_EVENT` and `PUSHED_CREATED`.

    Args:
        view: where they go.
        rows: a list of mappings, or an Arrow table or batch. Each row has every join key and feature, and nothing else
            but the times, which are ``received`` where they are absent or null.
        received: now.
        max_skew: how far after that a time may lie.

    Raises:
        PushedRowsError: rows are wrong; all are looked at.
        RequestError: this is no list of rows.
    """
    wanted = pushed_columns(view)
    problems = _Problems()
    if isinstance(rows, (pa.Table, pa.RecordBatch)):
        table: Any = rows
        arrays = _of_table(view, table, wanted, problems)
        count = table.num_rows
    elif isinstance(rows, (list, tuple)):
        arrays = _of_mappings(rows, wanted, problems)
        count = len(rows)
    else:
        raise RequestError(f"rows are a list of mappings, or an Arrow table, not {type(rows).__name__}")
    told = {(row, column) for row, column, _ in problems.listed}
    for name in view.entity.join_keys:
        for row in _rows_where(arrays[name].is_null()):
            if (row, name) not in told:
                problems.add(row, name, "a join key is not null")
    times = [_moments(arrays.pop(name, None), count, received) for name in TIMES]
    latest = columns.array_of(_TIMESTAMP, [_limit(received, max_skew)])[0]
    for name, array in zip(TIMES, times, strict=True):
        for row in _rows_where(columns.pc.greater(array, latest)):
            problems.add(row, name, f"more than {duration_text(max_skew)} ahead of the clock; see [online] max_skew")
    problems.check(view)
    return pa.RecordBatch.from_arrays([*(arrays[name] for name in wanted), *times], names=[*wanted, *TIMES.values()])


def _limit(received: datetime, max_skew: timedelta) -> datetime:
    try:
        return received + max_skew
    except OverflowError:
        return datetime.max.replace(tzinfo=received.tzinfo)


def _rows_where(mask: Any) -> list[int]:
    return columns.pc.indices_nonzero(mask).to_pylist()


def _moments(array: Any, count: int, received: datetime) -> Any:
    """The times of rows; those that have none are of the receipt."""
    receipt = columns.array_of(_TIMESTAMP, [received])[0]
    return pa.repeat(receipt, count) if array is None else columns.pc.coalesce(array, receipt)


def _of_mappings(rows: Sequence[Any], wanted: Mapping[str, DType], problems: _Problems) -> dict[str, Any]:
    known = {*wanted, *TIMES}
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise RequestError(f"row {number} is a mapping of columns, not {type(row).__name__}")
        if not known.issuperset(row):
            for name in row:
                if name not in known:
                    problems.add(number, str(name), f"no such column{did_you_mean(str(name), known)}")
    arrays: dict[str, Any] = {}
    for name, dtype in wanted.items():
        arrays[name] = _column(rows, name, dtype, problems, _present)
    for name in TIMES:
        if any(name in row for row in rows):
            arrays[name] = _column(rows, name, _TIMESTAMP, problems, _perhaps)
    return arrays


def _present(row: Mapping[str, Any], name: str) -> Any:
    try:
        return row[name]
    except KeyError:
        raise InvalidValueError("absent; give every join key and feature, None for a feature without a value") from None


def _perhaps(row: Mapping[str, Any], name: str) -> Any:
    return row.get(name)


def _column(
    rows: Sequence[Mapping[str, Any]],
    name: str,
    dtype: DType,
    problems: _Problems,
    get: Callable[[Mapping[str, Any], str], Any],
) -> Any:
    values: list[Any] = []
    canonical = dtype.canonical
    for number, row in enumerate(rows):
        try:
            values.append(canonical(get(row, name)))
        except InvalidValueError as error:
            values.append(None)
            problems.add(number, name, str(error))
    return columns.array_of(dtype, values)


def _of_table(view: FeatureView, table: Any, wanted: Mapping[str, DType], problems: _Problems) -> dict[str, Any]:
    known = {**wanted, **dict.fromkeys(TIMES, _TIMESTAMP)}
    names: list[str] = table.schema.names
    for name in names:
        if name not in known:
            raise PushedRowsError(f"view {view.name!r} has no column {name!r}{did_you_mean(name, known)}")
    if len(set(names)) < len(names):
        raise PushedRowsError("two columns of the table have one name; rename one")
    arrays: dict[str, Any] = {}
    for name, dtype in known.items():
        if name not in names:
            if name in wanted:
                raise PushedRowsError(
                    f"the table has no column {name!r}, and a row of view {view.name!r} has every join key and feature"
                )
            continue
        array = columns.whole(table.column(name))
        reason = columns.problem(dtype, array.type)
        if reason is None:
            made = columns.canonical(dtype, array)
            arrays[name] = made.array
            for row, why in made.invalid.items():
                problems.add(row, name, why)
        elif dtype.kind in ("timestamp", "date", "decimal") and pa.types.is_string(array.type):
            # as in a mapping: these have a text form
            arrays[name] = _column([{name: one} for one in array.to_pylist()], name, dtype, problems, _present)
        else:
            raise PushedRowsError(f"column {name!r} of type {array.type} is no {dtype}; write it as {dtype.arrow()}")
    return arrays
