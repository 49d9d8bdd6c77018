"""What footers of files tell: rows that cannot matter are not read, and `explain` needs to read none."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures.errors import SourceError
from llmfeatures.offline.duckdb import DuckDBStore
from llmfeatures.offline.statistics import RowGroup, known
from llmfeatures.ports import Lookup
from llmfeatures.schema import FeatureView, ParquetSource
from llmfeatures.testing.rule import EVENT, KEY, MICROSECONDS, START, USER, Ask, Asks, History, Row, compare, history_of

STORE = DuckDBStore(Path("/"), memory_limit="1GB", threads=1)


def damaged(path: Path) -> None:
    """Leave the footer of a Parquet file and spoil its rows: who reads one fails."""
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    path.write_bytes(b"PAR1" + b"\xff" * (len(whole) - footer - 4) + whole[-footer:])


@pytest.mark.parametrize(
    "unit", [pa.timestamp("us", "UTC"), pa.timestamp("ms"), pa.timestamp("ns", "Asia/Tokyo"), pa.date32()]
)
def test_files_after_the_last_ask_are_not_read(unit: Any, tmp_path: Path) -> None:
    folder = tmp_path / "days"
    folder.mkdir()
    days = [20_574 + day for day in range(4)]  # 2026-05-01 and on
    per = {"us": 86_400_000_000, "ms": 86_400_000, "ns": 86_400_000_000_000}
    for day in days:
        held = pa.array([day], pa.int32()) if pa.types.is_date(unit) else pa.array([day * per[unit.unit]], pa.int64())
        pq.write_table(pa.table({KEY: ["a"], EVENT: held.view(unit), "watched": [day]}), folder / f"{day}.parquet")
    damaged(folder / f"{days[3]}.parquet")
    view = FeatureView("days", USER, ParquetSource("days"), {"watched": "int"})
    lookups = [Lookup(view=view, keys={KEY: KEY}, features=("watched",))]
    store = DuckDBStore(tmp_path)
    spine = [{KEY: "a", EVENT: f"2026-05-0{day}T00:00:00Z"} for day in (1, 2, 3)]
    (batch,) = store.join(spine, lookups, clock="known")
    assert batch.found[0].columns[0].to_pylist() == days[:3]
    (step,) = store.explain(spine, lookups, clock="known")
    assert step.rows == 3
    assert "at most 3 rows" in step.reason
    assert "4 rows in 4 row groups, sorted by event timestamp and key, 1 of which" in step.reason
    with pytest.raises(SourceError, match="'days'"):
        list(store.join([*spine, {KEY: "a", EVENT: "2026-05-04T00:00:00Z"}], lookups, clock="known"))


ROWS = st.lists(
    st.builds(
        Row, st.tuples(st.sampled_from(["a", "b", "ä", "z", None])), st.none() | st.integers(-3, 9), st.none(),
        st.tuples(st.integers(0, 3)),
    ),
    max_size=30,
)  # fmt: skip
MOMENTS = st.none() | st.sampled_from([-(10**15), -2, 0, 3, 20, 2 * 10**16])
"""Among them such before and after all that nanoseconds can count to."""


@settings(max_examples=60, deadline=None)
@given(
    rows=ROWS,
    asks=st.lists(st.builds(Ask, st.tuples(st.sampled_from(["a", "b", "c", "ä"])), MOMENTS), max_size=6),
    ordered=st.sampled_from(["time", "key", "no"]),
    unit=st.sampled_from([MICROSECONDS, pa.timestamp("ns"), pa.timestamp("ns", "UTC")]),
)
def test_no_row_that_matters_is_left_out(rows: list[Row], asks: list[Ask], ordered: str, unit: Any) -> None:
    order = {"time": lambda row: row.event or 0, "key": lambda row: row.keys[0] or "", "no": lambda row: 0}[ordered]
    history = History(history_of([]).view, sorted(rows, key=order), event=unit)
    asked = Asks({KEY: pa.string()}, asks)
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(history.table(), f"{folder}/activity.parquet", row_group_size=3)
        STORE.root = Path(folder)
        compare(STORE, [history], asked, [history.lookup()])
        (step,) = STORE.explain(asked.table(), [history.lookup()], clock="known")
    last = {ask.keys: max(one.at for one in asks if one.keys == ask.keys and one.at is not None)
            for ask in asks if ask.at is not None}  # fmt: skip
    matching = [row for row in rows if row.event is not None and row.keys in last and row.event <= last[row.keys]]
    assert len(matching) <= step.rows <= len(rows)


def test_explain_reads_no_row_where_none_decides(tmp_path: Path) -> None:
    history = history_of([Row((key,), at, None, (at,)) for key in "abc" for at in range(4)])
    history.write(tmp_path)
    damaged(tmp_path / "activity.parquet")
    store, forced = DuckDBStore(tmp_path), DuckDBStore(tmp_path, strategy="asof")
    asks = Asks({KEY: pa.string()}, [Ask(("a",), 1), Ask(("a",), 2)])
    for one, strategy in ((store, "aggregate"), (forced, "asof")):
        (step,) = one.explain(asks.table(), [history.lookup()], clock="known")
        assert (step.strategy, step.rows) == (strategy, 12)
        assert "12 rows in 1 row group; at most 12 rows can matter, none was read" in step.reason
    with pytest.raises(SourceError, match="'activity'"):
        list(store.join(asks.table(), [history.lookup()], clock="known"))


def test_explain_counts_where_the_number_of_rows_decides(tmp_path: Path) -> None:
    """Half a million rows at most would need several passes; the few that there are need one."""
    keys = [f"user{number % 50_000}" for number in range(500_000)]
    at = pa.array([START], pa.int64()).view(MICROSECONDS)
    moments = pa.concat_arrays([at]).take(pa.array([0] * len(keys)))
    pq.write_table(pa.table({KEY: keys, EVENT: moments, "watched": [1] * len(keys)}), tmp_path / "v.parquet")
    view = FeatureView("v", USER, ParquetSource("v.parquet"), {"watched": "int"})
    asks = Asks({KEY: pa.string()}, [Ask((key,), at) for key in ("user0", "user49999") for at in range(40)])
    lookup = Lookup(view=view, keys={KEY: KEY}, features=("watched",))
    (step,) = DuckDBStore(tmp_path, memory_limit="30MB").explain(asks.table(), [lookup], clock="known")
    assert (step.strategy, step.passes, step.rows) == ("asof", 1, 20)
    assert "at most" not in step.reason.split("; ", 1)[1]


def test_statistics_are_said_in_words() -> None:
    groups = [RowGroup(rows=10, events=(0, 5), keys=("a", "m")), RowGroup(rows=7, events=(5, 9), keys=("m", "z"))]
    assert known(groups, 4, ("b", "c")).rows == 10
    assert "sorted by event timestamp and key, 1 of which" in known(groups, 3, ("b", "c")).said
    assert known(groups, 9, ("b", "n")).rows == 17
    assert "in no order" in known(groups[::-1], 9, None).said
    nothing = [RowGroup(rows=3, events=None, keys=None)] * 2
    assert known(nothing, 0, ("a", "b")).rows == 6
    assert "in no order" in known(nothing, 0, None).said
