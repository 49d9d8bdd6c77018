"""Every way of joining gives the answers of the rule, also when memory is short; `explain` says which way and why."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures.errors import ConfigError
from llmfeatures.offline.duckdb import DuckDBStore
from llmfeatures.offline.strategy import FORCED, Asking, decide, parts, range_rows, size
from llmfeatures.ports import ClockName, Lookup
from llmfeatures.schema import Feature, FeatureView, ParquetSource, PushSource
from llmfeatures.testing.rule import CLOCKS, EVENT, KEY, MICROSECONDS, START, USER, Ask, Asks, History, Row, compare
from tests.offline.test_oracle import cases

STORES = {name: DuckDBStore(Path("/"), memory_limit="1GB", threads=1, strategy=name) for name in FORCED}
MANY = Asking(keys=100, asks=5_000, most=90, one=False)


@pytest.mark.parametrize("strategy", FORCED)
@settings(max_examples=25, deadline=None)
@given(case=cases())
def test_every_strategy_follows_the_rule(strategy: str, case: tuple[list[History], Asks]) -> None:
    drawn, asks = case
    with tempfile.TemporaryDirectory() as folder:
        for history in drawn:
            history.write(Path(folder))
        STORES[strategy].root = Path(folder)
        compare(STORES[strategy], drawn, asks, [history.lookup() for history in drawn])


def write_world(folder: Path, rows: int, asks: int, keys: int) -> None:
    """A history with late rows and ties, without and with created timestamps, and a spine."""
    con = duckdb.connect()
    con.execute("SET threads=2")
    moment = "TIMESTAMPTZ '2026-01-01 00:00:00+00' + to_seconds((hash({}) % 100000)::BIGINT)"
    own = f"'user-with-a-long-name-' || (hash(i) % {keys}) AS {KEY}, {moment.format('i + 1')} AS {EVENT}"
    value = "'value-that-takes-its-room-' || (hash(i + 2) % 1000) AS watched"
    late = f"{EVENT} + to_seconds((hash({EVENT}) % 3 * 5000)::BIGINT) AS created_timestamp"
    made = f"SELECT {own}, {value} FROM range({rows}) r(i)"
    con.execute(f"COPY (SELECT * FROM ({made})) TO '{folder}/plain.parquet'")
    con.execute(f"COPY (SELECT *, {late} FROM ({made})) TO '{folder}/late.parquet'")
    asked = f"'user-with-a-long-name-' || (hash(i + 3) % {keys}) AS {KEY}, {moment.format('i + 4')} AS {EVENT}"
    con.execute(f"COPY (SELECT {asked} FROM range({asks}) r(i)) TO '{folder}/spine.parquet'")
    con.close()


def lookups() -> list[Lookup]:
    sources = [ParquetSource("plain.parquet"), ParquetSource("late.parquet", created_timestamp="created_timestamp")]
    views = [
        FeatureView(name, USER, source, [Feature("watched", "str")])
        for name, source in zip(("plain", "late"), sources, strict=True)
    ]
    return [Lookup(view=view, keys={KEY: KEY}, features=("watched",)) for view in views]


def answers(store: DuckDBStore, folder: Path, clock: ClockName) -> str:
    """A digest of all that a join gives."""
    digest = hashlib.sha256()
    for batch in store.join(folder / "spine.parquet", lookups(), clock=clock):
        arrays = [one for found in batch.found for one in (found.event, *found.columns, found.hidden)]
        assert all(one is not None for one in arrays)
        table = pa.table(dict(zip("abcdef", arrays, strict=True)))
        digest.update(repr(table.to_pydict()).encode())
    return digest.hexdigest()


class Spilled:
    """The most bytes that a store's folders held while it worked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.peak, self._done = folder, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, sum(_sizes(self.folder)))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def _sizes(folder: Path) -> Iterator[int]:
    for one in folder.glob("*/spilled/*"):
        try:
            yield one.stat().st_size
        except OSError:
            continue


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, rows=1_500_000, asks=60_000, keys=20_000)
    store = DuckDBStore(folder, memory_limit="4GB", threads=2)
    return folder, {clock: answers(store, folder, clock) for clock in CLOCKS}


@pytest.mark.parametrize("strategy", FORCED)
def test_joins_that_spill_give_the_same_answers(
    strategy: str, world: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, expected = world
    store = DuckDBStore(folder, memory_limit="100MB", threads=2, strategy=strategy, temp_directory=tmp_path)
    with Spilled(tmp_path) as spilled:
        assert answers(store, folder, "known") == expected["known"]
    assert spilled.peak > 0
    store.close()


def test_explain_says_what_a_join_will_do(tmp_path: Path) -> None:
    write_world(tmp_path, rows=2_000, asks=300, keys=50)
    pushed = FeatureView("pushed", USER, PushSource(), [Feature("watched", "str")])
    asked = [*lookups(), Lookup(view=pushed, keys={KEY: KEY}, features=("watched",))]
    store = DuckDBStore(tmp_path)
    steps = store.explain(tmp_path / "spine.parquet", asked, clock="known")
    assert [step.views for step in steps] == [("plain",), ("late",), ("pushed",)]
    assert [step.strategy for step in steps] == ["asof", "asof", "none"]
    assert (steps[0].asks, steps[0].passes) == (300, 1)
    assert 0 < steps[0].rows <= 2_000
    assert "300 asks" in steps[0].reason
    single = [{KEY: f"user-with-a-long-name-{number}", EVENT: "2026-01-02T00:00:00Z"} for number in range(20)]
    assert store.explain(single, lookups(), clock="event")[0].strategy == "newest"
    forced = DuckDBStore(tmp_path, strategy="partitioned")
    step = forced.explain(tmp_path / "spine.parquet", lookups(), clock="known")[0]
    assert (step.strategy, step.passes) == ("partitioned", 3)


@pytest.mark.parametrize("asks", [[], [Ask(("a",), None)], [Ask((None,), 1), Ask((None,), 2)]])
@pytest.mark.parametrize("strategy", FORCED)
def test_spines_that_ask_nothing(strategy: str, asks: list[Ask], tmp_path: Path) -> None:
    history = History(FeatureView("v", USER, ParquetSource("v.parquet"), [Feature("watched", "int")]), [])
    history.write(tmp_path)
    compare(DuckDBStore(tmp_path, strategy=strategy), [history], Asks({KEY: pa.string()}, asks), [history.lookup()])


def test_an_unknown_strategy_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'as-of'.*'asof'"):
        DuckDBStore(Path("/"), strategy="as-of")


def test_decisions() -> None:
    few = Asking(keys=100, asks=200, most=9, one=False)
    assert decide(few, 10**9, 10**9).strategy == "aggregate"
    busy = Asking(keys=100, asks=200, most=65, one=False)
    assert decide(busy, 10_000, 10**9).strategy == "asof"
    short = decide(MANY, 10_000_000, 100 * 2**20)
    assert short.strategy == "partitioned"
    assert short.passes * 0.4 * 100 * 2**20 >= 10_005_000 * 64
    assert f"in {short.passes} parts" in short.reason


@given(keys=st.integers(0, 50), passes=st.integers(1, 60))
def test_parts_hold_each_key_once(keys: int, passes: int) -> None:
    asking = Asking(keys=keys, asks=keys, most=1, one=True)
    ranges = parts(asking, passes)
    if ranges == [None]:
        return
    held = [number for low, high in (one for one in ranges if one is not None) for number in range(low, high + 1)]
    assert held == list(range(1, keys + 1))


@pytest.mark.parametrize(
    ("written", "count"),
    [("953.6 MiB", 999_922_073), ("100MB", 10**8), ("0 bytes", 0), ("3.7 GiB", 3_972_844_748), ("none", 10**12)],
)
def test_sizes(written: str, count: Any) -> None:
    assert size(written) == count


@pytest.mark.parametrize("strategy", [None, "partitioned"])
def test_a_long_spine_is_loaded_and_answered_in_parts_in_its_order(strategy: str | None, tmp_path: Path) -> None:
    history = History(
        FeatureView("v", USER, ParquetSource("v.parquet"), [Feature("watched", "int")]),
        [Row((f"u{number}",), at, None, (number * 10 + at,)) for number in range(7) for at in (0, 2)],
    )
    history.write(tmp_path)
    rows = 1_010_001
    asked = [(f"u{number % 9}", number % 3) for number in range(63)]
    cycle = pa.array([number % 63 for number in range(rows)])
    moments = pa.array([START + at for _, at in asked], pa.int64()).view(MICROSECONDS)
    spine = pa.table({KEY: pa.array([key for key, _ in asked]).take(cycle), EVENT: moments.take(cycle)})
    batches = list(DuckDBStore(tmp_path, strategy=strategy).join(spine, [history.lookup()], clock="event"))
    found = pa.chunked_array([batch.found[0].columns[0] for batch in batches])
    expected = [int(key[1:]) * 10 + (2 if at == 2 else 0) if int(key[1:]) < 7 else None for key, at in asked]
    assert found.combine_chunks().equals(pa.array(expected, pa.int64()).take(cycle))


@given(st.integers(0, 20), st.integers(0, 2**40), st.integers(0, 10**9))
def test_ranges_of_a_spine_are_few_and_fit(lookups: int, memory: int, count: int) -> None:
    rows = range_rows(lookups, memory, count)
    assert 20_000 <= rows <= 1_000_000
    assert rows == 20_000 or rows * 128 * (1 + lookups) <= memory / 4
