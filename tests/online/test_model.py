"""Any sequence of writes, full runs and sweeps leaves what a model of twenty lines says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmfeatures.codec import order, split_stamp
from llmfeatures.online.redis import RedisStore
from llmfeatures.online.sqlite import SqliteStore
from llmfeatures.ports import OnlineStore, Read, RowWrite
from llmfeatures.testing.online import ACTIVITY, SEGMENT, USER, activity, in_columns, key_of, segment
from tests.servers import Server

USERS = range(3)
VIEWS = (ACTIVITY, SEGMENT)
TEXTS = st.sampled_from(['"a"', '"B"', '"aa"', '"-"', "null", '"é"', '"\uffee"', '"\U0001f600"', '"a,b"'])
ROWS = st.one_of(
    st.builds(
        activity,
        st.sampled_from(USERS),
        st.integers(0, 3),
        created=st.one_of(st.none(), st.integers(-1, 1)),
        count=st.sampled_from([1, 9, 10]),
        genre=TEXTS,
    ),
    st.builds(segment, st.sampled_from(USERS), st.integers(0, 3), value=TEXTS),
)
WRITES = st.tuples(st.just("write"), st.lists(ROWS, max_size=6), st.none() | st.integers(0, 5))
STEPS = st.lists(
    st.one_of(
        WRITES,
        st.tuples(st.just("columns"), st.lists(ROWS, max_size=6), st.none() | st.integers(0, 5)),
        st.tuples(st.just("begin"), st.none(), st.none()),
        st.tuples(st.just("sweep"), st.sampled_from(VIEWS), st.integers(0, 5)),
    ),
    max_size=12,
)


class Model:
    """What a store should hold: for each key and view a row, and when it was written, counted in steps."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], tuple[RowWrite, int]] = {}

    def write(self, step: int, rows: list[RowWrite], before: int | None) -> None:
        for row in rows:
            place = row.key, row.view.name
            stored = self.rows.get(place)
            replaced = stored is not None and before is not None and stored[1] < before
            if stored is None or replaced or _order(stored[0]) < _order(row):
                self.rows[place] = row, step

    def sweep(self, view: str, before: int) -> int:
        gone = [place for place, (_, step) in self.rows.items() if place[1] == view and step < before]
        for place in gone:
            del self.rows[place]
        return len(gone)


def _order(row: RowWrite) -> tuple[str, str, bytes]:
    return order(row.event, row.created, row.values)


_numbers = itertools.count()


@pytest.fixture(scope="module", params=["sqlite", "redis_server", "valkey_server", "old_redis_server"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path | Server:
    if request.param == "sqlite":
        return tmp_path_factory.mktemp("model") / "online.sqlite"
    server: Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture(scope="module")
def stores(place: Path | Server) -> Iterator[list[OnlineStore]]:
    stores: list[RedisStore | SqliteStore] = []
    for number in range(400):
        namespace = f"model-{next(_numbers)}-{number}"
        is_file = isinstance(place, Path)
        stores.append(
            SqliteStore(place, namespace, timeout=20) if is_file else RedisStore(place.url, namespace, timeout=20)
        )
    fresh: list[OnlineStore] = list(stores)
    yield fresh
    for store in stores:
        store.close()


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_a_store_is_its_model(stores: list[OnlineStore], steps: list[tuple[str, object, object]]) -> None:
    store, model = stores.pop(), Model()
    marks = [(0, "0001-01-01T00:00:00.000000Z")]
    for number, (what, subject, mark) in enumerate(steps, start=1):
        step, stamp = marks[min(mark, len(marks) - 1)] if isinstance(mark, int) else (None, None)
        if what == "begin":
            marks.append((number, store.begin().now))
        elif what == "write":
            assert isinstance(subject, list)
            done = store.write(subject, replace_before=stamp)
            model.write(number, subject, step)
            assert done.written + done.skipped == len(subject)
        elif what == "columns":
            assert isinstance(subject, list)
            for view in VIEWS:
                rows = [row for row in subject if row.view == view]
                done = store.write_columns(in_columns(rows, view), replace_before=stamp)
                assert done.written + done.skipped == len(rows)
            model.write(number, subject, step)
        else:
            assert stamp is not None
            assert step is not None
            assert store.sweep(subject, USER, stamp) == model.sweep(subject.name, step)
    store.close()
    assert _held(store) == {place: _cells(row) for place, (row, _) in model.rows.items()}
    store.close()


def _cells(row: RowWrite) -> tuple[str, ...]:
    return row.event, row.created, *row.values


def _held(store: OnlineStore) -> dict[tuple[str, str], tuple[str, ...]]:
    held: dict[tuple[str, str], tuple[str, ...]] = {}
    for view in VIEWS:
        reads = [Read(key_of(user), (f"@{view.name}", *view.features, "@key")) for user in USERS]
        for read, (stamp, *values, _) in zip(reads, store.read(reads), strict=True):
            if stamp is None:
                assert set(values) == {None}
                continue
            texts = [value for value in values if value is not None]
            held[read.key, view.name] = (*split_stamp(stamp)[:2], *texts)
    return held


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(ROWS, min_size=1, max_size=8), data=st.data())
def test_order_and_batches_do_not_matter(stores: list[OnlineStore], rows: list[RowWrite], data: st.DataObject) -> None:
    store = stores.pop()
    rest = data.draw(st.permutations(rows))
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        store.write(rest[:size])
        rest = rest[size:]
    best: dict[tuple[str, str], RowWrite] = {}
    for row in rows:
        place = row.key, row.view.name
        best[place] = max(best.get(place, row), row, key=_order)
    assert _held(store) == {place: _cells(row) for place, row in best.items()}
    store.close()
