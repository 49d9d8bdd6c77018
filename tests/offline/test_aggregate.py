"""Aggregations agree with the rule in plain Python: every function, both clocks, joins and newest rows."""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures import columns
from llmfeatures.clock import from_microseconds
from llmfeatures.offline.duckdb import DuckDBStore
from llmfeatures.ports import Lookup, Since
from llmfeatures.schema import Aggregation, FeatureView, ParquetSource
from llmfeatures.testing.rule import (
    CLOCKS,
    CREATED,
    EVENT,
    KEY,
    MICROSECONDS,
    START,
    USER,
    Ask,
    Asks,
    Row,
    aggregated,
    moment,
    times,
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


def write(root: Path, rows: list[Row]) -> None:
    arrays = {
        KEY: pa.array([row.keys[0] for row in rows], pa.string()),
        EVENT: times([row.event for row in rows], MICROSECONDS),
        CREATED: times([row.created for row in rows], MICROSECONDS),
    }
    for number, (name, held) in enumerate(zip(COLUMNS, HELD, strict=True)):
        arrays[name] = pa.array([row.values[number] for row in rows], held)
    pq.write_table(pa.table(arrays), root / "events.parquet")


def of_key(view: FeatureView, rows: list[Row], key: str | None) -> list[Row]:
    """The key's rows as the rule has them: canonical, and without created timestamp where the source has none."""
    timed = isinstance(view.source, ParquetSource) and view.source.created_timestamp is not None
    return [
        Row(row.keys, row.event, row.created if timed else None, tuple(None if v != v else v for v in row.values))
        for row in rows
        if key is not None and row.keys == (key,)
    ]


@settings(max_examples=60, deadline=None)
@given(views(), ROWS, st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(-3, 60)), max_size=8))
def test_a_join_is_the_rule(view: FeatureView, rows: list[Row], asked: list[tuple[str | None, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), rows)
        store = DuckDBStore(Path(folder), threads=2)
        names = tuple(one.name for one in view.features)
        spine = Asks({KEY: pa.string()}, [Ask((key,), at) for key, at in asked]).table()
        for clock in CLOCKS:
            lookup = Lookup(view=view, keys={KEY: KEY}, features=names)
            found: list[Any] = []
            for batch in store.join(spine, [lookup], clock=clock):
                one = batch.found[0]
                assert not one.invalid
                values = [
                    columns.python_values(feature.dtype, array)
                    for feature, array in zip(view.features, one.columns, strict=True)
                ]
                hidden = [False] * len(one.event) if one.hidden is None else one.hidden.to_pylist()
                found += zip(columns.moments(one.event), zip(*values, strict=True), hidden, strict=True)
            expected = [aggregated(view, COLUMNS, of_key(view, rows, key), at, clock) for key, at in asked]
            assert found == [(moment(one.event), one.values, one.hidden) for one in expected]
        store.close()


@settings(max_examples=60, deadline=None)
@given(views(), ROWS, st.integers(0, 60), st.none() | st.integers(0, 50))
def test_newest_rows_are_the_rule(view: FeatureView, rows: list[Row], until: int, since: int | None) -> None:
    expected: dict[str, Any] = {}
    for key in ("a", "b"):
        one = aggregated(view, COLUMNS, of_key(view, rows, key), until, "known")
        if one.event is not None and (since is None or one.event > since):
            expected[key] = (moment(one.event), one.values)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), rows)
        store = DuckDBStore(Path(folder), threads=2)
        until_, since_ = from_microseconds(START + until), None
        if since is not None:
            since_ = Since(after=from_microseconds(START + since))
        found: dict[Any, Any] = {}
        for batch in store.latest(view, until=until_, since=since_, batch_rows=1):
            assert batch.created.null_count == len(batch.created)
            values = [
                columns.python_values(feature.dtype, array)
                for feature, array in zip(view.features, batch.columns, strict=True)
            ]
            found[batch.keys[0][0].as_py()] = (columns.moments(batch.event)[0], next(zip(*values, strict=True)))
        assert found == expected
        assert store.count_latest(view, until=until_, since=since_).keys == len(expected)
        assert store.check(view) == []
        store.close()


def test_a_sum_beyond_int64_is_invalid(tmp_path: Path) -> None:
    view = FeatureView(
        "events", USER, "events.parquet", [Aggregation("total", "sum", column="n", dtype="int")], cadence="1us"
    )
    write(tmp_path, [Row(("a",), 1, None, (2**62, None, None, None)) for _ in range(2)])
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
    write(tmp_path, [Row(("a",), 1, None, (1, None, "x", None))])
    view = FeatureView("events", USER, "events.parquet", features, cadence="1d")
    problems = DuckDBStore(tmp_path).check(view)
    assert len(problems) == 2
    assert any("'nn'" in one and "'one'" in one for one in problems)
    assert any("'s'" in one and "'two'" in one for one in problems)
