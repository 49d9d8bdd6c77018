"""Aggregations agree with the rule in plain Python: every function, both clocks, joins and newest rows."""

from __future__ import annotations

import tempfile
import time
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures.errors import SourceError
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

T0 = moment(0)
COLUMNS = ("n", "x", "s", "d", "y", "t", "l", "m")
HELD = (
    pa.int64(),
    pa.float32(),
    pa.string(),
    pa.decimal128(6, 2),
    pa.float64(),
    pa.timestamp("us", "UTC"),
    pa.list_(pa.string()),
    pa.list_(pa.float64()),
)
CHOICES: tuple[list[Any], ...] = (
    [0, 7, -1, 2**53 + 1, None],
    [0.1, 0.3, 2.5, -0.7, float("nan"), None],
    ["a", "b", "ab", "a!", "é", None],
    [Decimal("1.50"), Decimal("-0.01"), None],
    [1e16, 1e-5, 1e-05 * 3, 123456789012345680.0, 10.0, 1.0, -2e300, float("inf"), None],
    [T0, T0 + timedelta(seconds=1), T0 + timedelta(microseconds=500_000), T0 + timedelta(microseconds=7), None],
    [[], ["a"], ["a", "b"], ["a!"], ["é"], ['"'], None],
    [[], [1e16], [1e-5, 2.0], [1.0], [10.0], None],
)
PLAIN: list[tuple[str, str | None, str | None]] = [
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
    ("last", "n", "int"),
    ("last", "d", "decimal(6,2)"),
    ("last", "y", "float"),
    ("last", "t", "timestamp"),
    ("last", "l", "list[str]"),
    ("last", "m", "list[float]"),
    ("last_n", "d", "list[decimal(6,2)]"),
    ("last_n", "y", "list[float]"),
    ("last_n", "t", "list[timestamp]"),
]


@st.composite
def views(draw: st.DrawFn, plain: list[tuple[str, str | None, str | None]] = PLAIN) -> FeatureView:
    chosen = draw(st.lists(st.sampled_from(plain), min_size=1, max_size=4))
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


TIED = st.lists(
    st.builds(
        Row,
        st.just(("a",)),
        st.integers(0, 1),
        st.none() | st.integers(0, 1),
        st.tuples(*(st.sampled_from(one) for one in CHOICES)),
    ),
    min_size=2,
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


@settings(max_examples=12, deadline=None)
@given(views(), ROWS, ASKED, AT_ONCE)
def test_a_join_is_the_rule(
    view: FeatureView, rows: list[Row], asked: list[tuple[str | None, int]], at_once: int
) -> None:
    check_join(view, rows, asked, at_once)


@settings(max_examples=10, deadline=None)
@given(views([one for one in PLAIN if one[0] in ("last", "last_n")]), TIED, AT_ONCE)
def test_ties_are_the_rule(view: FeatureView, rows: list[Row], at_once: int) -> None:
    check_join(view, rows, [("a", 1), ("a", 3), ("a", 60)], at_once)
    check_latest(view, rows, 7, None)


@pytest.mark.heavy
@pytest.mark.timeout(3000)
@settings(max_examples=1500, deadline=None)
@given(views(), ROWS, ASKED, AT_ONCE)
def test_a_join_is_the_rule_at_length(
    view: FeatureView, rows: list[Row], asked: list[tuple[str | None, int]], at_once: int
) -> None:
    check_join(view, rows, asked, at_once)


@settings(max_examples=12, deadline=None)
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
    events(view, [Row(("a",), 1, None, (2**62, *[None] * 7)) for _ in range(2)]).write(tmp_path)
    store = DuckDBStore(tmp_path)
    spine = Asks({KEY: pa.string()}, [Ask(("a",), 1)]).table()
    (batch,) = store.join(spine, [Lookup(view=view, keys={KEY: KEY}, features=("total",))], clock="known")
    assert batch.found[0].invalid[0][0] == "total"


@pytest.mark.parametrize(
    ("column", "dtype", "tied", "newest"),
    [
        ("y", "float", [1e16, 1e-5, 0.5], [1e-5, 1e16, 0.5]),  # [1e-05] is greater than [1e+16]
        ("n", "int", [1, 10, 100], [1, 10, 100]),  # the bracket that ends the text is greater than a digit
        ("d", "decimal(6,2)", [Decimal("9.50"), Decimal("10.00")], [Decimal("9.50"), Decimal("10.00")]),
    ],
)
def test_ties_are_broken_by_the_text_of_the_codec(
    tmp_path: Path, column: str, dtype: str, tied: list[Any], newest: list[Any]
) -> None:
    features = [
        Aggregation("one", "last", column=column, dtype=dtype),
        Aggregation("all", "last_n", column=column, dtype=f"list[{dtype}]", n=9),
    ]
    view = FeatureView("events", USER, "events.parquet", features, cadence="1us")
    place = COLUMNS.index(column)
    rows = [Row(("a",), 1, None, tuple(value if one == place else None for one in range(8))) for value in tied]
    events(view, rows).write(tmp_path)
    store = DuckDBStore(tmp_path)
    spine = Asks({KEY: pa.string()}, [Ask(("a",), 1)]).table()
    (batch,) = store.join(spine, [Lookup(view=view, keys={KEY: KEY}, features=("one", "all"))], clock="known")
    assert [one.to_pylist() for one in batch.found[0].columns] == [newest[:1], [newest]]
    (latest,) = store.latest(view, until=moment(1))
    assert [one.to_pylist() for one in latest.columns] == [newest[:1], [newest]]


def test_a_tied_value_that_is_invalid_surfaces(tmp_path: Path) -> None:
    features = [Aggregation("kind", "last", column="s", dtype="enum[zz]")]
    view = FeatureView("events", USER, "events.parquet", features, cadence="1us")
    rows = [Row(("a",), 1, None, (None, None, word, *[None] * 5)) for word in ("zz", "a", "zz")]
    events(view, rows).write(tmp_path)
    spine = Asks({KEY: pa.string()}, [Ask(("a",), 1)]).table()
    (batch,) = DuckDBStore(tmp_path).join(
        spine, [Lookup(view=view, keys={KEY: KEY}, features=("kind",))], clock="known"
    )
    assert batch.found[0].invalid[0][0] == "kind"


def test_a_mean_of_wide_decimals_is_one_of_floats(tmp_path: Path) -> None:
    held = pa.array([Decimal(9) * 10**37] * 3, pa.decimal128(38, 0))
    pq.write_table(
        pa.table({KEY: ["a"] * 3, EVENT: pa.array([START] * 3, MICROSECONDS), "w": held}), tmp_path / "w.parquet"
    )
    features = [
        Aggregation("mean", "mean", column="w"),
        Aggregation("total", "sum", column="w", dtype="decimal(38,0)"),
    ]
    view = FeatureView("wide", USER, "w.parquet", features, cadence="1us")
    spine = Asks({KEY: pa.string()}, [Ask(("a",), 1)]).table()
    store = DuckDBStore(tmp_path)
    (batch,) = store.join(spine, [Lookup(view=view, keys={KEY: KEY}, features=("mean",))], clock="known")
    assert batch.found[0].columns[0].to_pylist() == [9e37]
    with pytest.raises(SourceError, match="fails on the data") as raised:
        list(store.join(spine, [Lookup(view=view, keys={KEY: KEY}, features=("total",))], clock="known"))
    assert "remove" not in str(raised.value)


def test_check_names_a_column_that_is_not_there_or_has_a_wrong_type(tmp_path: Path) -> None:
    features = [
        Aggregation("one", "count", column="nn"),
        Aggregation("two", "sum", column="s", dtype="int"),
        Aggregation("three", "last_n", column="s", dtype="list[str]", n=2),
    ]
    view = FeatureView("events", USER, "events.parquet", features, cadence="1d")
    events(view, [Row(("a",), 1, None, (1, None, "x", *[None] * 5))]).write(tmp_path)
    problems = DuckDBStore(tmp_path).check(view)
    assert len(problems) == 2
    assert any("'nn'" in one and "'one'" in one for one in problems)
    assert any("'s'" in one and "'two'" in one for one in problems)
