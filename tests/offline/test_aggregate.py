"""Aggregations agree with the rule in plain Python: every function, both clocks, joins and newest rows."""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures.offline import aggregate
from llmfeatures.offline.duckdb import DuckDBStore
from llmfeatures.ports import Lookup, Since
from llmfeatures.schema import Aggregation, FeatureView, ParquetSource
from llmfeatures.testing.rule import (
    CREATED,
    EVENT,
    KEY,
    MICROSECONDS,
    START,
    USER,
    Ask,
    Asks,
    Events,
    Row,
    compare_aggregated,
    compare_aggregated_latest,
    moment,
)

COLUMNS = ("n", "x", "s", "d")
HELD = (pa.int64(), pa.float32(), pa.string(), pa.decimal128(6, 2))
CHOICES: tuple[list[Any], ...] = (
    [0, 7, -1, 2**53 + 1, None],
    [0.1, 0.3, 2.5, -0.7, float("nan"), None],
    ["a", "b", "ab", "a!", "é", None],
    [Decimal("1.50"), Decimal("-0.01"), None],
)
PLAIN = [
    ("count", None, None),
    ("count", "x", None),
    ("count_distinct", "s", None),
    ("count_distinct", "x", None),
    ("sum", "n", "int"),
    ("sum", "x", "float"),
    ("sum", "d", "decimal(8,2)"),
    ("mean", "n", None),
    ("mean", "x", None),
    ("min", "s", "str"),
    ("max", "x", "float"),
    ("max", "d", "decimal(6,2)"),
    ("last", "s", "str"),
    ("last", "x", "float"),
    ("last_n", "s", "list[str]"),
    ("last_n", "n", "list[int]"),
]


@st.composite
def views(draw: st.DrawFn) -> FeatureView:
    chosen = draw(st.lists(st.sampled_from(PLAIN), min_size=1, max_size=4))
    features = [
        Aggregation(
            f"f{number}",
            function,
            column=column,
            dtype=dtype,
            window=draw(st.sampled_from([None, "1us", "4us", "9us", "20us"])),
            n=draw(st.integers(1, 3)) if function == "last_n" else None,
        )
        for number, (function, column, dtype) in enumerate(chosen)
    ]
    source = ParquetSource("events.parquet", created_timestamp=CREATED if draw(st.booleans()) else None)
    return FeatureView("events", USER, source, features, cadence=draw(st.sampled_from(["1us", "4us", "7us"])))


ROWS = st.lists(
    st.builds(
        Row,
        st.tuples(st.sampled_from(["a", "b", None])),
        st.none() | st.integers(0, 25),
        st.none() | st.integers(0, 40),
        st.tuples(*(st.sampled_from(one) for one in CHOICES)),
    ),
    max_size=14,
)


def events(view: FeatureView, rows: list[Row]) -> Events:
    return Events(view, dict(zip(COLUMNS, HELD, strict=True)), rows)


ASKED = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(-3, 60)), max_size=16)
AT_ONCE = st.sampled_from([1, 20, 10**6])
"""How many events and points meet in one query, and with it memory: for all, or so little that it takes many passes."""


def check_join(view: FeatureView, rows: list[Row], asked: list[tuple[str | None, int]], at_once: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregate, "_at_once", lambda con: at_once)
        patch.setattr(aggregate, "_memory", lambda con: 1000 * at_once)
        events(view, rows).write(Path(folder))
        store = DuckDBStore(Path(folder), threads=2)
        asks = Asks({KEY: pa.string()}, [Ask((key,), at) for key, at in asked])
        compare_aggregated(store, events(view, rows), asks)
        store.close()


def check_latest(view: FeatureView, rows: list[Row], until: int, since: int | None) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregate, "_memory", lambda con: 2_000)
        events(view, rows).write(Path(folder))
        store = DuckDBStore(Path(folder), threads=2)
        compare_aggregated_latest(store, events(view, rows), until, since)
        bounds = {"until": moment(until)} | ({} if since is None else {"since": Since(after=moment(since))})
        keys = sum(len(batch.event) for batch in store.latest(view, **bounds))
        assert store.count_latest(view, **bounds).keys == keys
        assert store.check(view) == []
        store.close()


@settings(max_examples=60, deadline=None)
@given(views(), ROWS, ASKED, AT_ONCE)
def test_a_join_is_the_rule(
    view: FeatureView, rows: list[Row], asked: list[tuple[str | None, int]], at_once: int
) -> None:
    check_join(view, rows, asked, at_once)


@pytest.mark.heavy
@pytest.mark.timeout(3000)
@settings(max_examples=1500, deadline=None)
@given(views(), ROWS, ASKED, AT_ONCE)
def test_a_join_is_the_rule_at_length(
    view: FeatureView, rows: list[Row], asked: list[tuple[str | None, int]], at_once: int
) -> None:
    check_join(view, rows, asked, at_once)


@settings(max_examples=60, deadline=None)
@given(views(), ROWS, st.integers(0, 60), st.none() | st.integers(0, 50))
def test_newest_rows_are_the_rule(view: FeatureView, rows: list[Row], until: int, since: int | None) -> None:
    check_latest(view, rows, until, since)


@pytest.mark.heavy
@pytest.mark.timeout(3000)
@settings(max_examples=1500, deadline=None)
@given(views(), ROWS, st.integers(0, 60), st.none() | st.integers(0, 50))
def test_newest_rows_are_the_rule_at_length(view: FeatureView, rows: list[Row], until: int, since: int | None) -> None:
    check_latest(view, rows, until, since)


def test_one_user_with_many_events_asked_for_at_many_moments(tmp_path: Path) -> None:
    """Points meet classes of events, not events: twenty times the events take nowhere near twenty times as long."""
    features = [
        Aggregation("count", "count", window="30d"),
        Aggregation("kinds", "count_distinct", column="s", window="30d"),
        Aggregation("newest", "last_n", column="s", dtype="list[str]", n=3, window="7d"),
        Aggregation("most", "max", column="n", dtype="int", window="30d"),
    ]
    seconds: list[float] = []
    for events in (5_000, 100_000):
        times_ = [START + number * 7_776_000_000_000 // events for number in range(events)]
        arrays = {
            KEY: pa.repeat(pa.scalar("a"), events),
            EVENT: pa.array(times_, MICROSECONDS),
            "n": pa.array([number * 7 % 1000 for number in range(events)]),
            "s": pa.array([f"s{number % 40}" for number in range(events)]),
        }
        pq.write_table(pa.table(arrays), tmp_path / f"{events}.parquet")
        view = FeatureView("events", USER, f"{events}.parquet", features, cadence="1h")
        asked = [START + 2_592_000_000_000 + number * 5_000_000_000 for number in range(1_000)]
        spine = pa.table({KEY: ["a"] * 1_000, EVENT: pa.array(asked, MICROSECONDS)})
        store = DuckDBStore(tmp_path, threads=2)
        began = time.process_time()
        (batch,) = store.join(
            spine, [Lookup(view=view, keys={KEY: KEY}, features=tuple(one.name for one in features))], clock="known"
        )
        seconds.append(time.process_time() - began)
        counts = batch.found[0].columns[0].to_pylist()
        hour = 3_600_000_000
        for place in (0, 400, 999):
            point = asked[place] // hour * hour
            assert counts[place] == sum(point - 2_592_000_000_000 < event <= point for event in times_)
        store.close()
    assert seconds[1] < 10 * seconds[0]


def test_a_sum_beyond_int64_is_invalid(tmp_path: Path) -> None:
    view = FeatureView(
        "events", USER, "events.parquet", [Aggregation("total", "sum", column="n", dtype="int")], cadence="1us"
    )
    events(view, [Row(("a",), 1, None, (2**62, None, None, None)) for _ in range(2)]).write(tmp_path)
    store = DuckDBStore(tmp_path)
    spine = Asks({KEY: pa.string()}, [Ask(("a",), 1)]).table()
    (batch,) = store.join(spine, [Lookup(view=view, keys={KEY: KEY}, features=("total",))], clock="known")
    assert batch.found[0].invalid[0][0] == "total"


def test_check_names_a_column_that_is_not_there_or_has_a_wrong_type(tmp_path: Path) -> None:
    features = [
        Aggregation("one", "count", column="nn"),
        Aggregation("two", "sum", column="s", dtype="int"),
        Aggregation("three", "last_n", column="s", dtype="list[str]", n=2),
    ]
    view = FeatureView("events", USER, "events.parquet", features, cadence="1d")
    events(view, [Row(("a",), 1, None, (1, None, "x", None))]).write(tmp_path)
    problems = DuckDBStore(tmp_path).check(view)
    assert len(problems) == 2
    assert any("'nn'" in one and "'one'" in one for one in problems)
    assert any("'s'" in one and "'two'" in one for one in problems)
