"""Views of one history are read and searched together, and each still settles its own ties."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures.offline import join as joins
from llmfeatures.offline.duckdb import DuckDBStore
from llmfeatures.offline.strategy import FORCED
from llmfeatures.ports import Lookup
from llmfeatures.schema import Entity, Feature, FeatureView, ParquetSource, SqlSource
from llmfeatures.testing.rule import CREATED, EVENT, KEY, USER, Ask, Asks, History, Row, compare

COLUMNS = {"a": "int", "b": "enum[x,y]", "c": "list[int]"}
VALUES = ([0, 1, 2, None], ["x", "y", "odd", None], [[], [1], [1, 2], None])
VIEWS = {"one": ("a", "b"), "two": ("c",), "three": ("b", "c")}
STORES = {name: DuckDBStore(Path("/"), memory_limit="1GB", threads=1, strategy=name) for name in (*FORCED, None)}


def views(*, created: bool) -> list[FeatureView]:
    """Three views of one file whose features are partly the same columns; one of them renames a column."""
    timed = CREATED if created else None
    return [
        FeatureView(
            name,
            USER,
            ParquetSource("events.parquet", created_timestamp=timed, columns={"c": "last"} if name == "two" else {}),
            [Feature(f"{name}_{one}", COLUMNS[one], column="last" if name == "two" else one) for one in held],
        )
        for name, held in VIEWS.items()
    ]


def parted(view: FeatureView, rows: Sequence[Row]) -> History:
    """What one view sees of rows that have all columns."""
    places = [list(COLUMNS).index(one) for one in VIEWS[view.name]]
    return History(view, [Row(row.keys, row.event, row.created, tuple(row.values[i] for i in places)) for row in rows])


def write(folder: Path, rows: Sequence[Row]) -> None:
    """All rows with all columns in one file."""
    source = ParquetSource("events.parquet", created_timestamp=CREATED)
    History(FeatureView("all", USER, source, [Feature(*one) for one in COLUMNS.items()]), rows).write(folder)


def drawn(*, created: bool) -> st.SearchStrategy[list[Row]]:
    """Few keys, times and values, so that many rows are tied."""
    times = st.integers(0, 3)
    arrived = st.none() | st.integers(0, 5) if created else st.none()
    values = st.tuples(*map(st.sampled_from, VALUES))
    return st.lists(st.builds(Row, st.tuples(st.sampled_from(["a", "b", None])), times, arrived, values), max_size=30)


ASKED = st.lists(st.builds(Ask, st.tuples(st.sampled_from(["a", "b", "nobody"])), st.integers(-1, 6)), max_size=15)
AT_ONCE = st.lists(st.builds(Ask, st.tuples(st.sampled_from(["a", "b", "nobody"])), st.just(2)), max_size=5)


@pytest.mark.parametrize("strategy", STORES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_views_of_one_file_follow_the_rule(strategy: str | None, data: st.DataObject) -> None:
    created, first = data.draw(st.booleans()), data.draw(st.booleans())
    rows, asks = data.draw(drawn(created=created)), data.draw(ASKED | AT_ONCE)
    histories = [parted(view, rows) for view in views(created=created)]
    lookups = [one.lookup(features=[one.view.features[0].name] if first else None) for one in histories]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), rows)
        STORES[strategy].root = Path(folder)
        compare(STORES[strategy], histories, Asks({KEY: pa.string()}, asks), lookups)


Statements = Callable[[], list[str]]


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> Statements:
    """The statements of joins that read a source's rows, so far."""
    seen: list[str] = []
    run = joins.run

    def noted(con: Any, statement: str) -> list[tuple[Any, ...]]:
        seen.append(statement)
        return run(con, statement)

    monkeypatch.setattr(joins, "run", noted)
    return lambda: [one for one in seen if "read_parquet(" in one or "query_of_a_source" in one]


TIED = [Row((key,), 1, created, values) for key in "ab" for created in (None, 2) for values in (
    (1, "x", [1]), (1, "x", [2]), (2, "y", []), (None, "odd", None))]  # fmt: skip
TWICE = [Ask((key,), at) for key in "ab" for at in (1, 3)]


@pytest.mark.parametrize("asks", [TWICE, [Ask((key,), 3) for key in "ab"]])
@pytest.mark.parametrize("created", [True, False])
@pytest.mark.parametrize("strategy", STORES)
def test_one_file_is_read_once_ties_included(
    strategy: str | None, created: bool, asks: list[Ask], tmp_path: Path, scans: Statements
) -> None:
    write(tmp_path, TIED)
    histories = [parted(view, TIED) for view in views(created=created)]
    lookups = [one.lookup() for one in histories]
    store = DuckDBStore(tmp_path, strategy=strategy)
    list(store.join(Asks({KEY: pa.string()}, asks).table(), lookups, clock="known"))
    assert len(scans()) == 1
    if not created:
        histories = [
            History(one.view, [Row(row.keys, row.event, None, row.values) for row in one.rows]) for one in histories
        ]
    compare(store, histories, Asks({KEY: pa.string()}, asks), lookups)


def test_features_that_were_not_asked_for_are_read_for_ties_alone(tmp_path: Path, scans: Statements) -> None:
    lookups = [parted(view, TIED).lookup(features=[view.features[0].name]) for view in views(created=True)]
    store, asks = DuckDBStore(tmp_path), Asks({KEY: pa.string()}, TWICE).table()
    write(tmp_path, TIED[:1])
    list(store.join(asks, lookups, clock="known"))
    assert len(scans()) == 1
    write(tmp_path, TIED)
    list(store.join(asks, lookups, clock="known"))
    assert len(scans()) == 3


def test_what_is_not_the_same_history_is_read_by_itself(tmp_path: Path, scans: Statements) -> None:
    write(tmp_path, [row for row in TIED if row.values[0] is not None])
    one, two, _ = views(created=True)
    late = one.model_copy(update={"name": "late", "source": ParquetSource("events.parquet")})
    query = "SELECT * FROM 'events.parquet' -- query_of_a_source"
    asked = [
        FeatureView("query_a", USER, SqlSource(query), {"a": "int"}),
        FeatureView("query_c", USER, SqlSource(query), {"c": "list[int]"}),
    ]
    other = Entity("friend", join_key="friend_id")
    friend = FeatureView(
        "friend",
        other,
        ParquetSource("events.parquet", created_timestamp=CREATED, columns={KEY: "friend_id"}),
        {"a": "int"},
    )
    lookups = [
        Lookup(view=view, keys=keys, features=tuple(feature.name for feature in view.features))
        for view, keys in [
            (one, {KEY: KEY}), (late, {KEY: KEY}), (two, {KEY: KEY}), (asked[0], {KEY: KEY}),
            (two, {KEY: "seller"}), (asked[1], {KEY: KEY}), (friend, {"friend_id": KEY}),
        ]
    ]  # fmt: skip
    spine = [{KEY: "a", "seller": "b", EVENT: at} for at in ("2026-05-01T00:00:01Z", "2026-05-01T00:00:02Z")]
    store = DuckDBStore(tmp_path)
    steps = store.explain(spine, lookups, clock="known")
    assert [step.views for step in steps] == [
        ("one", "two", "friend"), ("late",), ("query_a", "query_c"), ("two",)
    ]  # fmt: skip
    before = len(scans())
    (batch,) = store.join(spine, lookups, clock="known")
    assert len(scans()) - before == len(steps)
    assert [len(found.columns) for found in batch.found] == [2, 2, 1, 1, 1, 1, 1]
    assert batch.found[2].columns[0].to_pylist() == batch.found[4].columns[0].to_pylist() == [[], []]
    assert batch.found[6].columns[0].to_pylist() == batch.found[3].columns[0].to_pylist() == [2, 2]
