"""Every kind of spine gives its rows back as they came, in order, with the same answers."""

from __future__ import annotations

import csv
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from llmfeatures.errors import SpineError
from llmfeatures.offline import spine as spines
from llmfeatures.offline.duckdb import DuckDBStore
from llmfeatures.ports import Lookup
from llmfeatures.schema import Entity, FeatureView

T0 = datetime(2026, 5, 1, tzinfo=UTC)
ROWS = [
    {"user_id": "0042", "event_timestamp": T0 + timedelta(days=1), "question": 'q,\n"1"', "n": 1},
    {"user_id": "b", "event_timestamp": T0 + timedelta(days=2, microseconds=1), "question": None, "n": None},
    {"user_id": "0042", "event_timestamp": T0 - timedelta(days=1), "question": "é", "n": 3},
    {"user_id": "0042", "event_timestamp": T0 + timedelta(days=1), "question": 'q,\n"1"', "n": 1},
]
FOUND = [7, 8, None, 7]
USER = Entity("user", join_key="user_id")
VIEW = FeatureView("activity", USER, "activity.parquet", {"watched": "int"})
LOOKUP = Lookup(view=VIEW, keys={"user_id": "user_id"}, features=("watched",))


@pytest.fixture
def store(tmp_path: Path) -> Any:
    pq.write_table(
        pa.table(
            {
                "user_id": ["0042", "b"],
                "event_timestamp": [T0, T0 + timedelta(days=2, microseconds=1)],
                "watched": [7, 8],
            }
        ),
        tmp_path / "activity.parquet",
    )
    made = DuckDBStore(tmp_path, memory_limit="500MB", threads=2)
    yield made
    made.close()


def table() -> pa.Table:
    return pa.Table.from_pylist(ROWS)


def joined(store: DuckDBStore, spine: object, **options: Any) -> tuple[list[Any], pa.Table]:
    batches = list(store.join(spine, [LOOKUP], clock="known", **options))
    return (
        [one for batch in batches for one in batch.found[0].columns[0].to_pylist()],
        pa.Table.from_batches([batch.spine for batch in batches]),
    )


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({name: one.isoformat() if isinstance(one, datetime) else one for name, one in row.items()})
    return path


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(
        "".join(json.dumps(row, default=lambda one: one.isoformat()) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def test_arrow_objects_come_back_as_they_are(store: DuckDBStore) -> None:
    whole = table().append_column("tags", pa.array([["a"], None, [], ["b"]]))
    whole = whole.append_column("kind", pa.array(["x", "y", None, "x"]).dictionary_encode())
    whole = whole.append_column("view", pa.array(["x", "y", None, "x"], pa.string_view()))
    whole = whole.append_column("when", pa.array([1, 2, None, 3], pa.int64()).view(pa.timestamp("ns", "Asia/Tokyo")))
    whole = whole.replace_schema_metadata({"a": "b"})
    for spine in (
        whole,
        pa.RecordBatchReader.from_batches(whole.schema, whole.to_batches(max_chunksize=1)),
        ds.dataset(whole),
        whole.combine_chunks().to_batches()[0],
    ):
        found, back = joined(store, spine)
        assert found == FOUND
        assert back.equals(whole)
        assert back.schema.types == whole.schema.types


def test_frames(store: DuckDBStore) -> None:
    frame = table().to_pandas()
    frame.index = pd.Index([9, 9, 9, 9], name="user_id_index")
    found, back = joined(store, frame)
    assert found == FOUND
    assert back.column_names == list(frame.columns)
    found, back = joined(store, pl.from_arrow(table()))
    assert found == FOUND
    assert back.column_names == list(frame.columns)
    assert back.to_pylist() == table().to_pylist()
    polars = pl.from_arrow(table()).with_columns(pl.col("user_id").cast(pl.Categorical))
    assert joined(store, polars)[0] == FOUND


def test_a_relation(store: DuckDBStore) -> None:
    con = duckdb.connect()
    con.register("given", table())
    found, back = joined(store, con.sql("SELECT * FROM given ORDER BY ALL"))
    assert sorted(found, key=str) == sorted(FOUND, key=str)
    assert back.num_rows == 4


def test_lists_and_dicts(store: DuckDBStore) -> None:
    for spine in (ROWS, tuple(ROWS), table().to_pydict()):
        found, back = joined(store, spine)
        assert found == FOUND
        assert back.to_pylist() == table().to_pylist()
    sparse = [
        {"user_id": "b", "event_timestamp": "2026-06-01"},
        {"event_timestamp": "2026-06-01T00:00Z", "x": "\ud800"},
    ]
    found, back = joined(store, sparse)
    assert found == [8, None]
    assert back.column("x").to_pylist() == [None, "\ufffd"]


def test_parquet_and_arrow_files(store: DuckDBStore, tmp_path: Path) -> None:
    folder = tmp_path / "it's [a] folder"
    folder.mkdir()
    pq.write_table(table(), folder / "s*.parquet")
    feather.write_feather(table(), str(folder / "s.feather"))
    with pa.OSFile(str(folder / "s.arrow"), "wb") as file, pa.ipc.new_stream(file, table().schema) as writer:
        writer.write_table(table())
    for name in ("s*.parquet", "s.feather", "s.arrow"):
        for path in (folder / name, str(folder / name)):
            found, back = joined(store, path)
            assert found == FOUND
            assert back.equals(table())


def test_csv(store: DuckDBStore, tmp_path: Path) -> None:
    found, back = joined(store, write_csv(tmp_path / "it's.csv", ROWS))
    assert found == FOUND
    assert back.column("user_id").to_pylist() == ["0042", "b", "0042", "0042"]
    assert back.column("question").to_pylist() == [row["question"] for row in ROWS]
    assert back.column("n").to_pylist() == [1, None, 3, 1]


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson", "json"])
def test_json(store: DuckDBStore, tmp_path: Path, suffix: str) -> None:
    rows = [
        {**row, "id": "6f8fad5b-d9cb-469f-a165-70867728950e", "day": "2026-05-07", "in": {"at": "2026-05-07T00:00"}}
        for row in ROWS
    ]
    path = write_lines(tmp_path / f"s.{suffix}", rows)
    if suffix == "json":
        path.write_text(json.dumps(rows, default=lambda one: one.isoformat()))
    found, back = joined(store, path)
    assert found == FOUND
    assert back.column("day").to_pylist() == ["2026-05-07"] * 4
    assert back.column("id").to_pylist()[0] == "6f8fad5b-d9cb-469f-a165-70867728950e"
    assert back.column("in").to_pylist()[0] == {"at": "2026-05-07T00:00"}


def test_a_key_that_looks_like_a_day_stays_text(store: DuckDBStore, tmp_path: Path) -> None:
    rows = [{"user_id": "2026-05-07", "event_timestamp": "2026-05-07T00:00:00Z"}]
    for path in (write_lines(tmp_path / "k.jsonl", rows), write_csv(tmp_path / "k.csv", rows)):
        assert joined(store, path)[1].column("user_id").to_pylist() == ["2026-05-07"]


def test_globs(store: DuckDBStore, tmp_path: Path) -> None:
    for number, row in enumerate(ROWS):
        pq.write_table(pa.Table.from_pylist([row], schema=table().schema), tmp_path / f"part-{number}.parquet")
        write_csv(tmp_path / f"part-{number}.csv", [row])
        write_lines(tmp_path / f"part-{number}.jsonl", [row])
        feather.write_feather(
            pa.Table.from_pylist([row], schema=table().schema), str(tmp_path / f"part-{number}.feather")
        )
    for suffix in ("parquet", "csv", "jsonl", "feather"):
        found, back = joined(store, tmp_path / f"part-*.{suffix}")
        assert found == FOUND
        assert back.column("user_id").to_pylist() == ["0042", "b", "0042", "0042"]
    with pytest.raises(SpineError, match="several kinds"):
        joined(store, tmp_path / "part-*")


@pytest.mark.parametrize(
    "times",
    [
        [date(2026, 5, 2)],
        ["2026-05-02"],
        ["2026-05-02T00:00:00.1234567Z"],
        ["2026-05-02T02:00:00+02:00"],
        [datetime(2026, 5, 2)],
        pa.array([1_777_680_000], pa.int64()).view(pa.timestamp("s")),
        pa.array([datetime(2026, 5, 2)], pa.date64()),
        pa.array(["2026-05-02"]).dictionary_encode(),
    ],
)
def test_moments_of_every_kind(store: DuckDBStore, times: Any) -> None:
    batches = list(store.join({"user_id": ["0042"], "at": times}, [LOOKUP], clock="known", timestamp="at"))
    assert batches[0].found[0].columns[0].to_pylist() == [7]
    assert batches[0].at.type == pa.timestamp("us", "UTC")
    assert batches[0].at.to_pylist()[0].replace(microsecond=0) == datetime(2026, 5, 2, tzinfo=UTC)


def test_moments_that_are_none(store: DuckDBStore) -> None:
    far = pa.array([2**62, 0, None], pa.int64()).view(pa.timestamp("us"))
    batch = next(store.join({"user_id": ["b"] * 3, "event_timestamp": far}, [LOOKUP], clock="known"))
    assert batch.at.null_count == 2
    with pytest.raises(SpineError, match="row 1") as raised:
        joined(store, {"user_id": ["b"] * 2, "event_timestamp": ["2026-01-01", "s3cret"]})
    assert "s3cret" not in str(raised.value)
    for wrong in ([1], [1.5], [True]):
        with pytest.raises(SpineError, match="event_timestamp"):
            joined(store, {"user_id": ["b"], "event_timestamp": wrong})


def test_empty_spines(store: DuckDBStore, tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text("")
    (tmp_path / "e.csv").write_text("user_id,event_timestamp,q\n")
    for spine in ([], {}, tmp_path / "e.jsonl"):
        batches = list(store.join(spine, [LOOKUP], clock="known"))
        assert [batch.spine.num_rows for batch in batches] == [0]
        assert batches[0].found[0].columns[0].type == pa.int64()
    for spine in (
        table().slice(0, 0),
        table().slice(0, 0).to_pandas(),
        tmp_path / "e.csv",
        pl.from_arrow(table()).clear(),
    ):
        batches = list(store.join(spine, [LOOKUP], clock="known"))
        assert [batch.spine.num_rows for batch in batches] == [0]
        assert batches[0].spine.schema.names[:2] == ["user_id", "event_timestamp"]
        assert len(batches[0].at) == 0


def test_a_join_without_lookups_gives_the_moments(store: DuckDBStore) -> None:
    batch = next(store.join(table(), [], clock="known"))
    assert batch.found == ()
    assert batch.at.to_pylist() == [row["event_timestamp"] for row in ROWS]


def test_what_is_no_spine(store: DuckDBStore, tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_text("s3cret")
    (tmp_path / "bad.jsonl").write_text('{"a": s3cret')
    (tmp_path / "bad.arrow").write_text("s3cret")
    (tmp_path / "s.xlsx").write_text("")
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["user_id", "user_id"])
    for spine, said in (
        (42, "list of dicts"),
        ([1], "dict for each row"),
        ({"a": [1, "x"]}, "'a'"),
        ({"a": [1], "b": [1, 2]}, "length"),
        ([{"a": 2**70}], "'a'"),
        (pd.DataFrame({"a": [1, "x"]}), "'a'"),
        ("nowhere.parquet", "not there"),
        (tmp_path, "folder"),
        (tmp_path / "bad.parquet", "cannot be read"),
        (tmp_path / "bad.jsonl", "cannot be read"),
        (tmp_path / "bad.arrow", "cannot be read"),
        (tmp_path / "s.xlsx", "kind"),
        (table().drop_columns(["user_id"]), "no column 'user_id'"),
        (table().drop_columns(["event_timestamp"]), "no column 'event_timestamp'"),
        (table().rename_columns(["userid", "event_timestamp", "q", "n"]), "did you mean 'userid'"),
        (twice.append_column("event_timestamp", pa.array([T0])), "2 columns named"),
    ):
        with pytest.raises(SpineError, match=said) as raised:
            joined(store, spine)
        assert "s3cret" not in str(raised.value)
        assert raised.value.__cause__ is None


def test_an_int_key_that_pandas_made_a_float(store: DuckDBStore, tmp_path: Path) -> None:
    view = FeatureView("ints", Entity("thing", join_keys={"thing_id": "int"}), "ints.parquet", {"x": "int"})
    pq.write_table(pa.table({"thing_id": [1], "event_timestamp": [T0], "x": [1]}), tmp_path / "ints.parquet")
    lookup = Lookup(view=view, keys={"thing_id": "thing_id"}, features=("x",))
    frame = pd.DataFrame({"thing_id": [1, None], "event_timestamp": [T0, T0]})
    with pytest.raises(SpineError, match="Int64"):
        list(store.join(frame, [lookup], clock="known"))
    frame["thing_id"] = frame["thing_id"].astype("Int64")
    assert next(store.join(frame, [lookup], clock="known")).found[0].columns[0].to_pylist() == [1, None]


def test_exact_keys_may_be_text(store: DuckDBStore, tmp_path: Path) -> None:
    entity = Entity("thing", join_keys={"day": "date", "price": "decimal(5,2)", "at": "timestamp"})
    view = FeatureView("exact", entity, "exact.parquet", {"x": "int"})
    row = {"day": date(2026, 5, 1), "price": Decimal("1.50"), "at": T0}
    pq.write_table(pa.Table.from_pylist([{**row, "event_timestamp": T0, "x": 1}]), tmp_path / "exact.parquet")
    lookup = Lookup(view=view, keys={name: name for name in row}, features=("x",))
    written = [{"day": "2026-05-01", "price": "1.5", "at": "2026-05-01T00:00:00Z", "event_timestamp": "2026-05-02"}]
    for spine in (written, write_csv(tmp_path / "x.csv", written), write_lines(tmp_path / "x.jsonl", written)):
        assert next(store.join(spine, [lookup], clock="known")).found[0].columns[0].to_pylist() == [1]


def test_a_streamed_spine_waits_on_disk(store: DuckDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spines, "_RESIDENT_BYTES", 1000)
    count = 50_000
    kinds = pa.array([f"k{number % 5}" for number in range(count)])
    whole = pa.table({"user_id": ["b"] * count, "event_timestamp": [T0] * count, "n": range(count), "kind": kinds})
    pieces = [
        batch.set_column(3, "kind", batch.column(3).dictionary_encode())
        for batch in whole.to_batches(max_chunksize=777)
    ]
    stream = store.join(pa.RecordBatchReader.from_batches(pieces[0].schema, pieces), [LOOKUP], clock="known")
    first = next(stream)
    folder = store._folder()
    assert list(folder.glob("spine-*"))
    maps = Path("/proc/self/maps")
    if maps.exists():  # what is mapped of a large file would count as memory
        assert f"{folder}/spine-" not in maps.read_text()
    batches = [first, *stream]
    assert [one for batch in batches for one in batch.spine.column("n").to_pylist()] == list(range(count))
    assert [one for batch in batches for one in batch.spine.column("kind").to_pylist()] == kinds.to_pylist()
    assert not list(folder.glob("spine-*"))
    store.close()
    assert not folder.exists()


def test_an_early_end_gives_everything_back(store: DuckDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spines, "_RESIDENT_BYTES", 1000)
    whole = pa.table({"user_id": ["b"] * 50_000, "event_timestamp": [T0] * 50_000})
    for _ in range(5):
        stream = store.join(
            pa.RecordBatchReader.from_batches(whole.schema, whole.to_batches()), [LOOKUP], clock="known"
        )
        next(stream)
        stream.close()
        assert not list(store._folder().glob("spine-*"))
    assert joined(store, table())[0] == FOUND
