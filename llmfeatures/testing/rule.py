"""The point-in-time rule as plain Python, row by row, and the comparison of a store with it."""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeatures import columns
from llmfeatures.clock import from_microseconds, microseconds
from llmfeatures.codec import encode_row, row_text
from llmfeatures.errors import InvalidValueError, SourceError
from llmfeatures.ports import ClockName, Joined, LatestCount, Lookup, OfflineStore, Since
from llmfeatures.schema import Aggregation, Entity, Feature, FeatureView, ParquetSource
from llmfeatures.types import DType

START = microseconds(datetime(2026, 5, 1, tzinfo=UTC))
"""Times in the suite are microseconds after this one."""
KEY, EVENT, CREATED = "user_id", "event_timestamp", "created_timestamp"
CLOCKS: tuple[ClockName, ...] = ("event", "known")
MICROSECONDS = pa.timestamp("us", "UTC")
_PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}


@dataclass(frozen=True)
class Row:
    """A row of a history: times in microseconds after `START`, values as they stand in the source."""

    keys: tuple[Any, ...]
    event: int | None
    created: int | None
    values: tuple[Any, ...]


def rank(view: FeatureView, row: Row) -> tuple[Any, ...]:
    """What decides between rows that count: event, created with null the smallest, invalid values, row text."""
    values: list[Any] = []
    invalid = False
    for feature, value in zip(view.features, row.values, strict=True):
        try:
            values.append(feature.dtype.canonical(value))
        except InvalidValueError:
            values.append(None)
            invalid = True
    text = row_text(encode_row([feature.dtype for feature in view.features], values)).encode()
    return row.event, row.created is not None, row.created or 0, invalid, text


def winner(
    view: FeatureView, rows: Sequence[Row], keys: tuple[Any, ...], at: int | None, clock: ClockName
) -> Row | None:
    """The point-in-time rule, row by row."""
    if at is None or None in keys:
        return None
    counting = [
        row
        for row in rows
        if row.keys == keys
        and row.event is not None
        and row.event <= at
        and (clock == "event" or row.created is None or row.created <= at)
    ]
    return max(counting, key=lambda row: rank(view, row), default=None)


@dataclass(frozen=True)
class History:
    """A view's rows, and how they are written: the Arrow type of each column but the keys'."""

    view: FeatureView
    rows: Sequence[Row]
    event: Any = MICROSECONDS
    created: Any = MICROSECONDS
    keys: Sequence[Any] = ()
    values: Sequence[Any] = ()

    def table(self) -> Any:
        """The rows as a table."""
        arrays: dict[str, Any] = {}
        for number, (name, dtype) in enumerate(self.view.entity.join_keys.items()):
            held = self.keys[number] if self.keys else dtype.arrow()
            arrays[name] = pa.array([row.keys[number] for row in self.rows], held)
        arrays[EVENT] = times([row.event for row in self.rows], self.event)
        arrays[CREATED] = times([row.created for row in self.rows], self.created)
        for number, feature in enumerate(self.view.features):
            held = self.values[number] if self.values else feature.dtype.arrow()
            arrays[feature.name] = pa.array([row.values[number] for row in self.rows], held)
        return pa.table(arrays)

    def write(self, root: Path) -> None:
        """Write the rows where the view's source looks for them."""
        _write(self.view, self.table(), root)

    def lookup(self, keys: Mapping[str, str] | None = None, features: Sequence[str] | None = None) -> Lookup:
        """A lookup of the view; keys have their own names in the spine unless told."""
        own = {name: name for name in self.view.entity.join_keys}
        names = tuple(feature.name for feature in self.view.features) if features is None else tuple(features)
        return Lookup(view=self.view, keys=keys or own, features=names)


def _write(view: FeatureView, table: Any, root: Path) -> None:
    assert isinstance(view.batch, ParquetSource)
    pq.write_table(table, root / view.batch.path)


def times(counts: Sequence[int | None], held: Any) -> Any:
    """Times as a column of this type. Finer ones get a rest that the precision of microseconds cuts off."""
    unit = held.unit
    whole = [None if one is None else one + START for one in counts]
    if unit == "ns":
        raw = [None if one is None else one * 1_000 + one % 1_000 for one in whole]
    else:
        raw = [None if one is None else one // _PER_UNIT[unit] for one in whole]
    return pa.array(raw, pa.int64()).view(held)


@dataclass(frozen=True)
class Ask:
    """A row of a spine: a key per column, a time in microseconds after `START`, and a payload."""

    keys: tuple[Any, ...]
    at: int | None
    payload: str = ""


@dataclass(frozen=True)
class Asks:
    """A spine. ``names`` are the key columns and their types."""

    names: Mapping[str, Any]
    rows: Sequence[Ask]
    timestamp: Any = MICROSECONDS

    def table(self) -> Any:
        """The spine as a table."""
        arrays: dict[str, Any] = {"payload": pa.array([row.payload for row in self.rows], pa.string())}
        for number, (name, held) in enumerate(self.names.items()):
            arrays[name] = pa.array([row.keys[number] for row in self.rows], held)
        arrays[EVENT] = times([row.at for row in self.rows], self.timestamp)
        return pa.table(arrays)


def moment(count: int | None) -> datetime | None:
    """A time of the suite as a datetime."""
    return None if count is None else from_microseconds(START + count)


def compare(store: OfflineStore, histories: Sequence[History], asks: Asks, lookups: Sequence[Lookup]) -> None:
    """Check a store's join against `winner`, under both clocks. Lookup i is of history i."""
    spine = asks.table()
    for clock in CLOCKS:
        batches = list(store.join(spine, lookups, clock=clock))
        assert pa.Table.from_batches([one.spine for one in batches], schema=spine.schema).equals(spine)
        found = [one for batch in batches for one in _answers(batch, lookups)]
        assert len(found) == len(asks.rows)
        for ask, answers in zip(asks.rows, found, strict=True):
            for history, lookup, answer in zip(histories, lookups, answers, strict=True):
                assert answer == _expected(history, lookup, asks, ask, clock), (clock, history.view.name, ask)


def _answers(batch: Joined, lookups: Sequence[Lookup]) -> list[list[Any]]:
    """Per row and lookup: event, values, whether a value is invalid, whether the clock hides another row."""
    per_lookup: list[list[Any]] = []
    for lookup, found in zip(lookups, batch.found, strict=True):
        features = [lookup.view.feature(name) for name in lookup.features]
        assert [one.type for one in found.columns] == [feature.dtype.arrow() for feature in features]
        assert all(feature in lookup.features for feature, _ in found.invalid.values())
        values = [columns.python_values(one.dtype, array) for one, array in zip(features, found.columns, strict=True)]
        hidden = [False] * batch.spine.num_rows if found.hidden is None else found.hidden.to_pylist()
        events = columns.moments(found.event)
        invalid = [row in found.invalid for row in range(batch.spine.num_rows)]
        per_lookup.append(list(zip(events, zip(*values, strict=True), invalid, hidden, strict=True)))
    return [list(one) for one in zip(*per_lookup, strict=True)]


def _expected(history: History, lookup: Lookup, asks: Asks, ask: Ask, clock: ClockName) -> tuple[Any, ...]:
    given = dict(zip(asks.names, ask.keys, strict=True))
    dtypes = history.view.entity.join_keys
    keys = tuple(given[column] for column in (lookup.keys[name] for name in dtypes))
    at = _cut(ask.at, asks.timestamp)
    rows = [_as_written(history, row) for row in history.rows]
    won = winner(history.view, rows, keys, at, clock)
    hidden = clock == "known" and winner(history.view, rows, keys, at, "event") != won
    if hidden and won is not None:
        other = winner(history.view, rows, keys, at, "event")
        hidden = other is not None and rank(history.view, other) != rank(history.view, won)
    if won is None:
        return None, (None,) * len(lookup.features), False, hidden
    values: list[Any] = []
    invalid = False
    for name in lookup.features:
        feature = history.view.feature(name)
        try:
            values.append(feature.dtype.canonical(won.values[history.view.features.index(feature)]))
        except InvalidValueError:
            values.append(None)
            invalid = True
    return moment(won.event), tuple(values), invalid, hidden


def _as_written(history: History, row: Row) -> Row:
    return Row(row.keys, _cut(row.event, history.event), _cut(row.created, history.created), row.values)


def _cut(count: int | None, held: Any) -> int | None:
    per = _PER_UNIT.get(held.unit, 1)
    return None if count is None else (count + START) // per * per - START


def compare_latest(store: OfflineStore, history: History, until: int, since: int | None = None) -> None:
    """Check `OfflineStore.latest` and `count_latest` against `winner`."""
    rows = [_as_written(history, row) for row in history.rows]
    rows = [row for row in rows if row.event is not None and None not in row.keys]
    covered = [
        row
        for row in rows
        if row.event is not None
        and row.event <= until
        and (row.created is None or row.created <= until)
        and (since is None or row.event > since or (row.created is not None and row.created > since))
    ]
    won = {keys: winner(history.view, covered, keys, until, "known") for keys in {row.keys for row in covered}}
    bounds: dict[str, Any] = {"until": moment(until)}
    if since is not None:
        bounds["since"] = Since(after=from_microseconds(START + since))
    count = store.count_latest(history.view, **bounds)
    assert count.eligible == len(covered)
    assert count.keys >= len(won)
    if any(row is not None and rank(history.view, row)[3] for row in won.values()):
        with pytest.raises(SourceError, match=repr(history.view.name)):
            list(store.latest(history.view, **bounds, batch_rows=3))
        return
    found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    told: list[LatestCount] = []
    for batch in store.latest(history.view, **bounds, batch_rows=3, counted=told.append):
        assert told == [count]
        assert 0 < len(batch.event) <= 3
        features, dtypes = history.view.features, history.view.entity.join_keys.values()
        keys = zip(
            *(columns.python_values(one, array) for one, array in zip(dtypes, batch.keys, strict=True)), strict=True
        )
        values = [columns.python_values(one.dtype, array) for one, array in zip(features, batch.columns, strict=True)]
        events, created = columns.moments(batch.event), columns.moments(batch.created)
        for key, *row in zip(keys, events, created, zip(*values, strict=True), strict=True):
            assert key not in found
            found[key] = tuple(row)
    dtypes = [feature.dtype for feature in history.view.features]
    assert told == [count]
    assert found == {
        keys: (
            moment(row.event),
            moment(row.created),
            tuple(dtype.canonical(value) for dtype, value in zip(dtypes, row.values, strict=True)),
        )
        for keys, row in won.items()
        if row is not None
    }


USER = Entity("user", join_key=KEY)


def history_of(rows: Sequence[Row], name: str = "activity", dtype: str = "int", **options: Any) -> History:
    """A history of one feature ``watched`` for users."""
    source = ParquetSource(f"{name}.parquet", created_timestamp=CREATED)
    return History(FeatureView(name, USER, source, [Feature("watched", dtype)]), rows, **options)


@dataclass(frozen=True)
class Events:
    """The raw events of a view of aggregations. ``columns`` are those of the rows' values, by name with the Arrow type;
    a float of 32 bits is given as its shortest decimal."""

    view: FeatureView
    columns: Mapping[str, Any]
    rows: Sequence[Row]

    def write(self, root: Path) -> None:
        """Write the events where the view's source looks for them."""
        arrays: dict[str, Any] = {
            name: pa.array([row.keys[number] for row in self.rows], dtype.arrow())
            for number, (name, dtype) in enumerate(self.view.entity.join_keys.items())
        }
        arrays[EVENT] = times([row.event for row in self.rows], MICROSECONDS)
        arrays[CREATED] = times([row.created for row in self.rows], MICROSECONDS)
        for number, (name, held) in enumerate(self.columns.items()):
            arrays[name] = pa.array([row.values[number] for row in self.rows], held)
        _write(self.view, pa.table(arrays), root)

    def lookup(self, keys: Mapping[str, str] | None = None, features: Sequence[str] | None = None) -> Lookup:
        """A lookup of the view; keys have their own names in the spine unless told."""
        names = tuple(one.name for one in self.view.features) if features is None else tuple(features)
        return Lookup(view=self.view, keys=keys or {name: name for name in self.view.entity.join_keys}, features=names)

    def expected(self, keys: tuple[Any, ...], at: int | None, clock: ClockName) -> Aggregated:
        """The rule for one entity key."""
        if at is None:
            return Aggregated(None, (None,) * len(self.view.features), hidden=False)
        timed = self.view.batch is not None and self.view.batch.created_timestamp is not None
        own = [
            Row(row.keys, row.event, row.created if timed else None, tuple(map(_finite, row.values)))
            for row in self.rows
            if None not in keys and row.keys == keys
        ]
        return aggregated(self.view, tuple(self.columns), own, at, clock)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def compare_aggregated(store: OfflineStore, events: Events, asks: Asks, lookup: Lookup | None = None) -> None:
    """Check a store's join of a view of aggregations against `aggregated`, under both clocks."""
    spine, lookup = asks.table(), lookup or events.lookup()
    places = [events.view.features.index(events.view.feature(name)) for name in lookup.features]
    for clock in CLOCKS:
        batches = list(store.join(spine, [lookup], clock=clock))
        assert pa.Table.from_batches([one.spine for one in batches], schema=spine.schema).equals(spine)
        found = [one for batch in batches for (one,) in _answers(batch, [lookup])]
        for ask, answer in zip(asks.rows, found, strict=True):
            given = dict(zip(asks.names, ask.keys, strict=True))
            keys = tuple(given[lookup.keys[name]] for name in events.view.entity.join_keys)
            one = events.expected(keys, ask.at, clock)
            values = tuple(one.values[place] for place in places)
            assert answer == (moment(one.event), values, False, one.hidden), (clock, ask)


def compare_aggregated_latest(store: OfflineStore, events: Events, until: int, since: int | None = None) -> None:
    """Check `OfflineStore.latest` and `count_latest` of a view of aggregations against `aggregated`."""
    expected: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for keys in {row.keys for row in events.rows}:
        one = events.expected(keys, until, "known")
        if one.event is not None and (since is None or one.event > since):
            expected[keys] = (moment(one.event), one.values)
    bounds: dict[str, Any] = {"until": moment(until)}
    if since is not None:
        bounds["since"] = Since(after=from_microseconds(START + since))
    found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    told: list[LatestCount] = []
    for batch in store.latest(events.view, **bounds, batch_rows=2, counted=told.append):
        assert 0 < len(batch.event) <= 2
        assert batch.created.null_count == len(batch.created)
        features, dtypes = events.view.features, events.view.entity.join_keys.values()
        keys = zip(
            *(columns.python_values(one, array) for one, array in zip(dtypes, batch.keys, strict=True)), strict=True
        )
        values = [columns.python_values(one.dtype, array) for one, array in zip(features, batch.columns, strict=True)]
        for key, event, row in zip(keys, columns.moments(batch.event), zip(*values, strict=True), strict=True):
            assert key not in found
            found[key] = (event, row)
    assert found == expected
    assert told == [store.count_latest(events.view, **bounds)]
    assert told[0].keys >= len(expected)


@dataclass(frozen=True)
class Aggregated:
    """An aggregated row: ``event`` in microseconds after `START`, None when no event has entered."""

    event: int | None
    values: tuple[Any, ...]
    hidden: bool


def aggregated(view: FeatureView, names: Sequence[str], rows: Sequence[Row], at: int, clock: ClockName) -> Aggregated:
    """The rule of aggregations, grid point by grid point. ``rows`` are one key's events; ``names`` are the columns of
    their values, which are canonical. Grid points at which nothing can change are passed over."""
    assert view.cadence is not None
    step = view.cadence // timedelta(microseconds=1)
    point = (START + at) // step * step - START
    windows = [None if one.window is None else one.window // timedelta(microseconds=1) for one in view.aggregations]
    dated = [row for row in rows if row.event is not None]
    change, before = None, [[] for _ in windows]
    for moment_ in (one for one in _grid(dated, windows, step) if one <= point):
        sets = [_counted(dated, moment_, window, clock) for window in windows]
        if sets != before:
            change, before = moment_, sets
    hidden = any(_counted(dated, point, window, "event") != _counted(dated, point, window, clock) for window in windows)
    if change is None:
        return Aggregated(None, (None,) * len(windows), hidden)
    values = tuple(
        _aggregate(one, names, [dated[number] for number in counted])
        for one, counted in zip(view.aggregations, before, strict=True)
    )
    return Aggregated(change, values, hidden)


def _grid(rows: Sequence[Row], windows: Sequence[int | None], step: int) -> list[int]:
    """The grid points, in order, each the first at or after an event, its creation or the end of a window of it."""
    moments = {moment_ for row in rows for moment_ in (row.event, row.created) if moment_ is not None}
    moments |= {row.event + one for row in rows for one in windows if row.event is not None and one is not None}
    return sorted({-(-(START + one) // step) * step - START for one in moments})


def _counted(rows: Sequence[Row], point: int, window: int | None, clock: ClockName) -> list[int]:
    return [
        number
        for number, row in enumerate(rows)
        if row.event is not None
        and row.event <= point
        and (window is None or row.event > point - window)
        and (clock == "event" or row.created is None or row.created <= point)
    ]


def _aggregate(one: Aggregation, names: Sequence[str], rows: Sequence[Row]) -> Any:
    if one.column is None:
        return len(rows)
    place = names.index(one.column)
    values = [row.values[place] for row in rows]
    some = [value for value in values if value is not None]
    match one.function:
        case "count":
            return len(some)
        case "count_distinct":
            return len(set(some))
        case "last":
            return next(iter(_newest(rows, place, one.dtype)), None)
        case "last_n":
            assert one.dtype.item is not None
            return [value for value in _newest(rows, place, one.dtype.item) if value is not None][: one.n]
        case "min" | "max":
            return (min if one.function == "min" else max)(some, default=None)
        case _:
            total = None
            for value in sorted(some):
                total = value if total is None else total + value
            return total if total is None or one.function == "sum" else float(total) / len(some)


def _newest(rows: Sequence[Row], place: int, dtype: DType) -> list[Any]:
    """The values of a column, the newest first; ties are broken by the row text of the value alone."""

    def order(row: Row) -> tuple[Any, ...]:
        text = row_text(encode_row([dtype], [dtype.canonical(row.values[place])])).encode()
        return row.event, row.created is not None, row.created or 0, text

    return [row.values[place] for row in sorted(rows, key=order, reverse=True)]
