"""The newest rows: batches, bounds, what is refused and what stops a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeatures import columns
from llmfeatures.errors import SourceError
from llmfeatures.offline.duckdb import DuckDBStore
from llmfeatures.ports import Since
from llmfeatures.schema import Entity, FeatureView, ParquetSource

T0 = datetime(2026, 5, 1, tzinfo=UTC)
DAY = timedelta(days=1)
USER = Entity("user", join_key="user_id")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    made = DuckDBStore(tmp_path, memory_limit="500MB", threads=2)
    yield made
    made.close()


def view(path: str = "x.parquet", created: str | None = None, **features: str) -> FeatureView:
    return FeatureView("activity", USER, ParquetSource(path, created_timestamp=created), features or {"x": "int"})


def test_batches_are_of_the_size_asked_for(store: DuckDBStore, tmp_path: Path) -> None:
    count = 25_001
    users = [f"u{number}" for number in range(count)]
    pq.write_table(
        pa.table({"user_id": users * 2, "event_timestamp": [T0] * count + [T0 + DAY] * count, "x": range(2 * count)}),
        tmp_path / "x.parquet",
    )
    for size in (10_000, 1000, 1 << 30):
        batches = list(store.latest(view(), until=T0 + DAY, batch_rows=size))
        assert all(len(batch.event) == min(size, count) for batch in batches[:-1])
        got = dict(
            pair
            for batch in batches
            for pair in zip(batch.keys[0].to_pylist(), batch.columns[0].to_pylist(), strict=True)
        )
        assert got == {user: count + number for number, user in enumerate(users)}
    assert sum(len(batch.event) for batch in store.latest(view(), until=T0)) == count
    assert list(store.latest(view(), until=T0 - DAY)) == []
    stream = store.latest(view(), until=T0, batch_rows=10)
    next(stream)
    stream.close()


def test_since_takes_later_events_and_later_creations(store: DuckDBStore, tmp_path: Path) -> None:
    rows = [
        {"user_id": "old", "event_timestamp": T0, "made": T0, "x": 1},
        {"user_id": "corrected", "event_timestamp": T0, "made": T0 + 2 * DAY, "x": 2},
        {"user_id": "new", "event_timestamp": T0 + 2 * DAY, "made": None, "x": 3},
        {"user_id": "edge", "event_timestamp": T0 + DAY, "made": T0 + DAY, "x": 4},
        {"user_id": "not yet", "event_timestamp": T0 + 2 * DAY, "made": T0 + 9 * DAY, "x": 5},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    one = view(created="made")
    bounds: dict[str, Any] = {"until": T0 + 3 * DAY, "since": Since(after=T0 + DAY)}
    batch = next(store.latest(one, **bounds))
    assert sorted(batch.keys[0].to_pylist()) == ["corrected", "new"]
    assert sorted(columns.stamps(batch.created)) == ["-", "2026-05-03T00:00:00.000000Z"]
    count = store.count_latest(one, **bounds)
    assert (count.eligible, count.refused, count.keys) == (2, 0, 2)
    count = store.count_latest(one, until=T0 + 3 * DAY)
    assert (count.eligible, count.keys) == (4, 4)


def test_refused_rows_are_counted_and_not_given(store: DuckDBStore, tmp_path: Path) -> None:
    far = pa.array([0, 2**61, None, 0], pa.int64()).view(pa.timestamp("us"))
    table = pa.table({"user_id": ["a", "b", "c", None], "event_timestamp": far, "x": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "x.parquet")
    assert [batch.keys[0].to_pylist() for batch in store.latest(view(), until=T0)] == [["a"]]
    count = store.count_latest(view(), until=T0)
    assert (count.eligible, count.refused, count.keys) == (1, 3, 1)


def test_a_creation_beyond_all_time_never_arrives(store: DuckDBStore, tmp_path: Path) -> None:
    made = pa.array([2**61, -(2**61), None], pa.int64()).view(pa.timestamp("us"))
    table = pa.table({"user_id": ["a", "b", "c"], "event_timestamp": [T0] * 3, "made": made, "x": [1, 2, 3]})
    pq.write_table(table, tmp_path / "x.parquet")
    batch = next(store.latest(view(created="made"), until=T0))
    assert sorted(batch.keys[0].to_pylist()) == ["b", "c"]
    assert batch.created.null_count == 2


def test_floats_that_are_not_finite_are_null_and_counted(store: DuckDBStore, tmp_path: Path) -> None:
    table = pa.table({"user_id": ["a", "b", "c"], "event_timestamp": [T0] * 3, "x": [float("nan"), float("inf"), 1.5]})
    pq.write_table(table, tmp_path / "x.parquet")
    batch = next(store.latest(view(x="float"), until=T0))
    assert batch.non_finite == 2
    assert sorted(batch.columns[0].to_pylist(), key=str) == [1.5, None, None]


def test_an_invalid_value_stops_before_its_batch(store: DuckDBStore, tmp_path: Path) -> None:
    words = ["casual"] * 50 + ["s3cret"] * 2
    users = [f"k3y{number}" for number in range(52)]
    pq.write_table(pa.table({"user_id": users, "event_timestamp": [T0] * 52, "x": words}), tmp_path / "x.parquet")
    with pytest.raises(SourceError) as raised:
        list(store.latest(view(x="enum[casual]"), until=T0))
    said = str(raised.value)
    for part in ("view 'activity'", "x.parquet", "column 'x'", "feature 'x'", "does not have", "2 of 52"):
        assert part in said
    assert "s3cret" not in said
    assert "k3y" not in said
    given: list[Any] = []
    with pytest.raises(SourceError):
        given.extend(
            batch.columns[0].to_pylist() for batch in store.latest(view(x="enum[casual]"), until=T0, batch_rows=5)
        )
    assert all(set(batch) == {"casual"} for batch in given)
    assert len(given) < 11


def test_an_older_invalid_value_does_not_matter(store: DuckDBStore, tmp_path: Path) -> None:
    table = pa.table({"user_id": ["a", "a"], "event_timestamp": [T0, T0 + DAY], "x": ["odd", "casual"]})
    pq.write_table(table, tmp_path / "x.parquet")
    assert next(store.latest(view(x="enum[casual]"), until=T0 + DAY)).columns[0].to_pylist() == ["casual"]
    with pytest.raises(SourceError):
        list(store.latest(view(x="enum[casual]"), until=T0))


def test_many_ties(store: DuckDBStore, tmp_path: Path) -> None:
    count = 3000
    users = [f"u{number % 1000}" for number in range(count)]
    pq.write_table(
        pa.table({"user_id": users, "event_timestamp": [T0] * count, "x": [number // 1000 for number in range(count)]}),
        tmp_path / "x.parquet",
    )
    got = [one for batch in store.latest(view(), until=T0, batch_rows=300) for one in batch.columns[0].to_pylist()]
    assert got == [2] * 1000
