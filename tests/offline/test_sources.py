"""Sources: files, folders, globs, partitions, renames and queries; and what is said when they are wrong."""

from __future__ import annotations

import multiprocessing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeatures.errors import SourceError
from llmfeatures.offline.duckdb import DuckDBStore
from llmfeatures.ports import Lookup
from llmfeatures.schema import Entity, Feature, FeatureView, ParquetSource, PushSource, SqlSource

T0 = datetime(2026, 5, 1, tzinfo=UTC)
USER = Entity("user", join_key="user_id")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    made = DuckDBStore(tmp_path, memory_limit="500MB", threads=2)
    yield made
    made.close()


def write(path: Path, *, names: tuple[str, str, str] = ("user_id", "event_timestamp", "x"), **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {names[0]: ["a", "b"], names[1]: [T0, T0 + timedelta(days=1)], names[2]: [1, 2], **columns}
    pq.write_table(pa.table(rows), path)
    return path


def view(source: Any, features: Any = None, entity: Entity = USER, **options: Any) -> FeatureView:
    return FeatureView("v", entity, source, features or {"x": "int"}, **options)


def found(store: DuckDBStore, one: FeatureView, keys: tuple[str, ...] = ("a", "b", "c")) -> list[Any]:
    """The first feature of each key: joined, and the newest, which agree."""
    assert store.check(one) == []
    name = one.features[0].name
    key = next(iter(one.entity.join_keys))
    late = T0 + timedelta(days=9)
    lookup = Lookup(view=one, keys={key: key}, features=(name,))
    batches = list(store.join({key: list(keys), "event_timestamp": [late] * len(keys)}, [lookup], clock="known"))
    values = [value for batch in batches for value in batch.found[0].columns[0].to_pylist()]
    newest: dict[Any, Any] = {}
    for batch in store.latest(one, until=late):
        newest |= dict(zip(batch.keys[0].to_pylist(), batch.columns[0].to_pylist(), strict=True))
    assert values == [newest.get(one) for one in keys]
    return values


def refused(store: DuckDBStore, one: FeatureView, said: str) -> str:
    """The one problem of a view, which check, join and latest all tell."""
    problems = store.check(one)
    assert any(said in problem for problem in problems), problems
    keys = {name: name for name in one.entity.join_keys}
    spine = pa.table({**{name: pa.nulls(1) for name in keys}, "event_timestamp": [T0]})
    with pytest.raises(SourceError) as raised:
        list(store.join(spine, [Lookup(view=one, keys=keys, features=())], clock="known"))
    assert str(raised.value) == problems[0]
    for work in (lambda: list(store.latest(one, until=T0)), lambda: store.count_latest(one, until=T0)):
        with pytest.raises(SourceError) as raised:
            work()
        assert str(raised.value) == problems[0]
        assert raised.value.__cause__ is None
    assert "view 'v'" in problems[0]
    return problems[0]


def test_a_file_a_folder_and_a_glob(store: DuckDBStore, tmp_path: Path) -> None:
    write(tmp_path / "d" / "one.parquet")
    write(
        tmp_path / "d" / "deep" / "two.parquet",
        user_id=["c", "a"],
        event_timestamp=[T0, T0 + timedelta(days=3)],
        x=[3, 4],
    )
    assert found(store, view("d/one.parquet")) == [1, 2, None]
    assert found(store, view(str(tmp_path / "d" / "one.parquet"))) == [1, 2, None]
    for path in ("d", "d/", "d/**/*.parquet"):
        assert found(store, view(path)) == [4, 2, 3]
    assert found(store, view("d/*.parquet")) == [1, 2, None]


@pytest.mark.parametrize("name", ["it's", 'qu"ote', "sp ace", "ünï", "a[1]", "st*r", "q?", "k=v", "a,b", "{x}", "%41"])
def test_odd_paths_and_columns(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    write(root / name / f"{name}.parquet", names=(f"{name} id", f"{name} at", f"{name} x"))
    store = DuckDBStore(root)
    renames = {f"{name} id": "user_id", f"{name} at": "event_timestamp"}
    feature = [Feature("x", "int", column=f"{name} x")]
    # a path with * or ? is a glob; here it names itself too
    for path in (f"{name}/{name}.parquet", name):
        assert found(store, view(ParquetSource(path, columns=renames), feature)) == [1, 2, None]
    quoted = str(f"{name}/*.parquet").replace("'", "''").replace("[", "[[]")
    query = f"SELECT * FROM read_parquet('{quoted}')"
    assert found(store, view(SqlSource(query, columns=renames), feature)) == [1, 2, None]
    store.close()


def test_renames(store: DuckDBStore, tmp_path: Path) -> None:
    write(tmp_path / "r.parquet", names=("uid", "at", "val"), user_id=["z", "z"], made=[T0, T0])
    source = ParquetSource(
        "r.parquet",
        created_timestamp="created",
        columns={"uid": "user_id", "at": "event_timestamp", "val": "x", "made": "created"},
    )
    assert found(store, view(source)) == [1, 2, None]
    assert found(store, view(source, [Feature("y", "int", column="x")])) == [1, 2, None]
    assert found(store, view(source, [Feature("y", "int", column="val")])) == [1, 2, None]
    source = ParquetSource("r.parquet", event_timestamp="at", columns={"uid": "user_id", "gone": "x"})
    assert "rename of 'gone'" in refused(store, view(source), "rename")
    twice = ParquetSource("r.parquet", event_timestamp="at", columns={"uid": "user_id", "val": "user_id"})
    assert any("one name" in problem for problem in store.check(view(twice)))


def test_hive_partitions_are_columns_of_the_views_types(store: DuckDBStore, tmp_path: Path) -> None:
    for user, day in (("007", 1), ("a", 2)):
        folder = tmp_path / "h" / f"user_id={user}" / f"day=2026-05-0{day}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"x": [day]}), folder / "part.parquet")
    one = view(ParquetSource("h", event_timestamp="day"))
    assert found(store, one, ("007", "7", "a")) == [1, None, 2]
    dated = view(ParquetSource("h/**/*.parquet", event_timestamp="day"), {"day": "date"})
    assert str(found(store, dated, ("007",))[0]) == "2026-05-01"
    file = ParquetSource("h/user_id=007/day=2026-05-01/part.parquet", event_timestamp="day")
    assert found(store, view(file), ("007", "a")) == [1, None]


def test_files_of_differing_columns(store: DuckDBStore, tmp_path: Path) -> None:
    write(tmp_path / "u" / "1.parquet")
    write(tmp_path / "u" / "2.parquet", names=("user_id", "event_timestamp", "y"), user_id=["b", "c"], y=["p", "q"])
    assert found(store, view("u")) == [1, 2, None]
    assert found(store, view("u", {"y": "str"})) == [None, None, "q"]


def test_files_that_disagree_on_a_type(store: DuckDBStore, tmp_path: Path) -> None:
    write(tmp_path / "m" / "1.parquet")
    write(tmp_path / "m" / "2.parquet", user_id=[1, 2])
    assert "'user_id' is of type int in some files and string in others" in refused(store, view("m"), "in some files")
    write(tmp_path / "f" / "1.parquet", x=pa.array([0.1, 0.2], pa.float32()))
    write(tmp_path / "f" / "2.parquet", x=[0.1, 0.2])
    refused(store, view("f", {"x": "float"}), "in some files")
    write(tmp_path / "w" / "1.parquet", x=pa.array([1, 2], pa.int8()))
    write(tmp_path / "w" / "2.parquet", user_id=["c", "d"])
    write(tmp_path / "w" / "3.parquet", user_id=["e", "f"], x=pa.nulls(2))
    assert found(store, view("w"), ("a", "c", "e")) == [1, 1, None]


def test_a_query(store: DuckDBStore, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.csv").write_text("user_id,at,x\na,2026-05-01T00:00:00Z,1\nb,2026-05-01T00:00:00Z,2\n")
    for query in (
        "SELECT * FROM read_csv('data/x.csv')",
        "FROM 'data/x.csv' -- all of it",
        "WITH w AS (FROM 'data/*.csv') SELECT user_id, w.at, x FROM w;",
        "SELECT user_id, \"at\", x::FLOAT::INT AS x FROM 'data/x.csv' ORDER BY x LIMIT 10 ;  ",
    ):
        assert found(store, view(SqlSource(query, event_timestamp="at"))) == [1, 2, None]
    for query, said in (
        ("SELEC 1", "syntax error"),
        ("SELECT 1; SELECT 2", "one SELECT"),
        ("CREATE TABLE t (i INT)", "one SELECT"),
        ("SELECT nope FROM 'data/x.csv'", "nope"),
        ("FROM 'gone.csv'", "gone.csv"),
        ("FROM somewhere", "somewhere"),
        ("SELECT user_id, \"at\" FROM 'data/x.csv'", "no column 'x'"),
    ):
        refused(store, view(SqlSource(query, event_timestamp="at")), said)


def test_a_query_that_fails_on_data_shows_none(store: DuckDBStore) -> None:
    query = "SELECT 'a' AS user_id, now() AS event_timestamp, CAST(t AS INT) AS x FROM (VALUES ('s3cret')) v(t)"
    with pytest.raises(SourceError, match="TRY_CAST") as raised:
        list(store.latest(view(SqlSource(query)), until=T0 + timedelta(days=9999)))
    assert "s3cret" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_missing_and_unreadable_files(store: DuckDBStore, tmp_path: Path) -> None:
    write(tmp_path / "segments.parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.parquet").write_bytes(b"s3cret" * 99)
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "torn.parquet").write_bytes(b"")
    write(tmp_path / "mixed" / "one.parquet")
    assert "did you mean 'segments.parquet'" in refused(store, view("segment.parquet"), "no such file")
    refused(store, view("empty"), "no .parquet file")
    refused(store, view("none-*.parquet"), "no file matches")
    refused(store, view("bad.parquet"), "cannot be read as Parquet")
    assert "torn.parquet" in refused(store, view("mixed"), "cannot be read as Parquet")
    assert str(tmp_path) in refused(store, view("gone/x.parquet"), "no such file")
    assert store.check(view(PushSource("gone.parquet")))
    torn = bytearray(
        write(
            tmp_path / "torn2.parquet",
            x=pa.array(range(100_000)),
            user_id=["a"] * 100_000,
            event_timestamp=[T0] * 100_000,
        ).read_bytes()
    )
    torn[200:4000] = b"\xff" * 3800
    (tmp_path / "torn2.parquet").write_bytes(torn)
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        list(store.latest(view("torn2.parquet"), until=T0))


def test_a_file_without_rows_is_fine(store: DuckDBStore, tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": ["a"], "event_timestamp": [T0], "x": [1]}).slice(0, 0), tmp_path / "z.parquet")
    assert found(store, view("z.parquet")) == [None, None, None]


def test_columns_that_are_missing_or_of_a_wrong_type(store: DuckDBStore, tmp_path: Path) -> None:
    write(tmp_path / "t.parquet", f=[1.5, 2.5], s=["1", "2"], n=pa.nulls(2), b=[b"1", b"2"], i=[1, 2])
    assert "valid choices are: b, event_timestamp" in refused(
        store, view("t.parquet", {"zzzz": "int"}), "no column 'zzzz'"
    )
    assert "did you mean" in refused(
        store, view(ParquetSource("t.parquet", event_timestamp="event_time")), "event_time"
    )
    assert "CAST(column AS BIGINT)" in refused(store, view("t.parquet", {"f": "int"}), "column 'f' of feature 'f'")
    refused(store, view("t.parquet", {"s": "int"}), "CAST(column AS BIGINT)")
    refused(store, view("t.parquet", {"b": "str"}), "binary")
    refused(store, view("t.parquet", {"x": "str"}), "CAST(column AS VARCHAR)")
    refused(store, view("t.parquet", entity=Entity("user", join_keys={"user_id": "int"})), "join key 'user_id'")
    refused(store, view("t.parquet", entity=Entity("user", join_keys={"i": "str"})), "join key 'i'")
    refused(store, view(ParquetSource("t.parquet", event_timestamp="s")), "CAST(column AS TIMESTAMPTZ)")
    refused(store, view(ParquetSource("t.parquet", event_timestamp="i")), "to_timestamp(column)")
    refused(store, view(ParquetSource("t.parquet", created_timestamp="made")), "no column 'made' for created_timestamp")
    both = store.check(view("t.parquet", {"f": "int", "zz": "int"}))
    assert len(both) == 2


def test_a_feature_without_any_value_is_of_any_dtype(store: DuckDBStore, tmp_path: Path) -> None:
    write(tmp_path / "n.parquet", x=pa.nulls(2))
    for dtype in ("str", "int", "list[str]", "json", "decimal(4,2)", "enum[a]"):
        assert found(store, view("n.parquet", {"x": dtype})) == [None, None, None]


def test_values_of_every_dtype(store: DuckDBStore, tmp_path: Path) -> None:
    write(
        tmp_path / "all.parquet",
        d=pa.array([Decimal("1.50"), None], pa.decimal128(9, 2)),
        h=pa.array([2**63 - 1, 2**64 - 1], pa.uint64()),
        f=pa.array([0.1, -0.0], pa.float32()),
        j=pa.array([{"b": 1.5, "a": None}, None], pa.struct({"b": pa.float32(), "a": pa.string()})),
        m=pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
        l=pa.array([["x"], []]),
        t=pa.array([1_500, None], pa.int64()).view(pa.timestamp("ns")),
    )
    assert found(store, view("all.parquet", {"d": "decimal(10,3)"}))[0] == Decimal("1.500")
    assert found(store, view("all.parquet", {"f": "float"}), ("a", "b")) == [0.1, 0.0]
    assert found(store, view("all.parquet", {"j": "json"})) == ['{"a":null,"b":1.5}', None, None]
    assert found(store, view("all.parquet", {"m": "json"})) == ['{"k":1}', "{}", None]
    assert found(store, view("all.parquet", {"l": "list[str]"})) == [["x"], [], None]
    assert found(store, view("all.parquet", {"t": "timestamp"}))[0] == datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert found(store, view(SqlSource("SELECT *, 1::HUGEINT AS big FROM 'all.parquet'"), {"big": "int"})) == [
        1,
        1,
        None,
    ]
    with pytest.raises(SourceError, match="outside int64"):
        list(store.latest(view("all.parquet", {"h": "int"}), until=T0 + timedelta(days=5)))


def test_a_file_written_again_is_read_again(store: DuckDBStore, tmp_path: Path) -> None:
    for number in range(20):
        for unit in ("us", "ms"):
            at = pa.array([number * 1000, 0], pa.int64()).view(pa.timestamp(unit))
            write(tmp_path / "again.parquet", event_timestamp=at, x=[number, number + 1])
            batch = next(store.latest(view("again.parquet"), until=T0))
            assert batch.columns[0].to_pylist() in ([number, number + 1], [number + 1, number])
            first = batch.keys[0].to_pylist().index("a")
            assert batch.event.cast(pa.int64()).to_pylist()[first] == number * (1_000 if unit == "us" else 1_000_000)


def test_advice(store: DuckDBStore, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", made=[T0 + timedelta(hours=1)] * 2, later=[T0 + timedelta(days=40)] * 2)
    assert "no created_timestamp" in store.advice(view("a.parquet"))[0]
    assert store.advice(view(ParquetSource("a.parquet", created_timestamp="made"))) == []
    backfilled = ParquetSource("a.parquet", created_timestamp="later")
    assert "backfill" in store.advice(view(backfilled))[0]
    assert store.advice(view(backfilled, cadence="60d")) == []
    assert store.advice(view("gone.parquet")) == []
    assert store.advice(view(PushSource())) == []


def _in_child(store: DuckDBStore, one: FeatureView, queue: Any) -> None:
    queue.put(found(store, one))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_store_survives_fork(store: DuckDBStore, tmp_path: Path) -> None:
    write(tmp_path / "f.parquet")
    assert found(store, view("f.parquet")) == [1, 2, None]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(store, view("f.parquet"), queue))
    child.start()
    assert queue.get(timeout=60) == [1, 2, None]
    child.join(60)
    assert child.exitcode == 0
    assert found(store, view("f.parquet")) == [1, 2, None]


def test_close_removes_the_folder_and_the_store_works_on(store: DuckDBStore, tmp_path: Path) -> None:
    write(tmp_path / "c.parquet")
    assert found(store, view("c.parquet")) == [1, 2, None]
    folder = store._folder()
    assert folder.exists()
    store.close()
    store.close()
    assert not folder.exists()
    assert found(store, view("c.parquet")) == [1, 2, None]
