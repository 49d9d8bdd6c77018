"""The conformance suite of `llmfeatures.ports.OfflineStore`; `llmfeatures.testing.rule` is what it compares with.

class TestMine(OfflineStoreTests):
    def open_store(self, root):
        return MyStore(root)

A store that can be told how to join names its ways, and each is held to the same rule:

class TestMine(OfflineStoreTests):
    strategies = ("hash", "sort")

    def open_store(self, root, strategy=None):
        return MyStore(root, strategy=strategy)
"""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from llmfeatures import columns
from llmfeatures.clock import from_microseconds
from llmfeatures.errors import SourceError, SpineError
from llmfeatures.ports import ClockName, DatedSources, Joined, Lookup, OfflineStore
from llmfeatures.schema import Aggregation, Entity, FeatureView, ParquetSource, PushSource
from llmfeatures.testing.drawn import Drawn, random_events, seeded
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
    Events,
    History,
    Row,
    compare,
    compare_aggregated,
    compare_aggregated_latest,
    compare_latest,
    history_of,
    moment,
    times,
    winner,
)
from llmfeatures.types import DType

_PER_UNIT = {"s": 1_000_000, "ms": 1_000}


def _plain(batch: Joined, number: int) -> list[Any]:
    """The rows of one lookup."""
    found = batch.found[number]
    return list(zip(columns.moments(found.event), *(one.to_pylist() for one in found.columns), strict=True))


def _won(history: History, keys: tuple[Any, ...], at: int, *, clock: ClockName) -> tuple[datetime | None, Row | None]:
    """The event timestamp of the row that wins, and the row."""
    row = winner(history.view, history.rows, keys, at, clock)
    return (None, None) if row is None else (moment(row.event), row)


def _won_aggregated(
    events: Events, keys: tuple[Any, ...], at: int, *, clock: ClockName
) -> tuple[datetime | None, tuple[Any, ...]]:
    row = events.expected(keys, at, clock)
    return moment(row.event), row.values


@contextmanager
def _demanded(what: str) -> Generator[None]:
    """Say what the suite demands, whatever it was that a store did instead."""
    try:
        yield
    except Exception as error:
        raise AssertionError(
            f"every OfflineStore computes views of aggregations itself; in {what} it did not. For a view whose "
            "`aggregates` is true, `join` and `latest` give each feature as the rule has it at the last multiple of "
            "the view's cadence: `llmfeatures.testing.rule.aggregated` is that rule in plain Python. The cause above "
            "says what came instead"
        ) from error


class OfflineStoreTests:
    """What every `OfflineStore` does. Subclass it, and give `open_store`."""

    strategies: ClassVar[tuple[str, ...]] = ()
    """The ways to join that `open_store` takes as ``strategy``; none unless the store has such."""

    def open_store(self, root: Path, strategy: str | None = None) -> OfflineStore:
        """A store whose paths are relative to ``root``; with a strategy, one that joins in this way and no other."""
        raise NotImplementedError

    @contextmanager
    def opened(self, root: Path, *histories: History | Events, strategy: str | None = None) -> Generator[OfflineStore]:
        """A store that has these histories, closed afterwards."""
        for history in histories:
            history.write(root)
        store = self.open_store(root) if strategy is None else self.open_store(root, strategy)
        try:
            yield store
        finally:
            store.close()

    def joined(self, root: Path, history: History, asks: Sequence[Ask], **types: Any) -> None:
        """Compare one history's join with the rule."""
        with self.opened(root, history) as store:
            compare(store, [history], Asks({KEY: pa.string()}, asks, **types), [history.lookup()])

    def test_the_newest_event_wins_then_the_newest_creation(self, tmp_path: Path) -> None:
        rows = [Row(("a",), 5, created, (created,)) for created in (7, None, 9, 8)] + [Row(("a",), 4, 20, (99,))]
        asks = [Ask(("a",), at) for at in (3, 4, 5, 6, 7, 8, 9, 19, 20, 21, 5)]
        self.joined(tmp_path, history_of(rows), asks)

    def test_times_are_inclusive_to_the_microsecond(self, tmp_path: Path) -> None:
        history = history_of([Row(("a",), 1000, None, (1,)), Row(("a",), 2000, 3000, (2,))])
        self.joined(tmp_path, history, [Ask(("a",), at) for at in (999, 1000, 1001, 1999, 2000, 2999, 3000, 3001)])

    def test_full_ties_are_settled_by_the_row_text(self, tmp_path: Path) -> None:
        rows = [Row(("a",), 1, None, (value,)) for value in (9, 10, None, -1, 9)]
        rows += [Row(("b",), 1, 2, (value,)) for value in range(20)]
        self.joined(tmp_path, history_of(rows), [Ask(("a",), 3), Ask(("b",), 2), Ask(("a",), 1), Ask(("b",), 9)])

    def test_a_tie_is_settled_by_features_that_were_not_asked_for(self, tmp_path: Path) -> None:
        view = FeatureView(
            "two", USER, ParquetSource("two.parquet", created_timestamp=CREATED), {"x": "int", "y": "str"}
        )
        history = History(view, [Row(("a",), 1, None, (1, "p")), Row(("a",), 1, None, (2, "o"))])
        with self.opened(tmp_path, history) as store:
            for at in ([2], [1, 2, 3]):
                asks = Asks({KEY: pa.string()}, [Ask(("a",), one) for one in at])
                compare(store, [history], asks, [history.lookup(features=["y"])])

    def test_an_invalid_value_surfaces_and_lets_no_older_row_win(self, tmp_path: Path) -> None:
        rows = [Row(("a",), 1, None, ("x",)), Row(("a",), 2, None, ("odd",)), Row(("b",), 1, None, ("odd",))]
        rows += [Row(("b",), 1, None, ("y",)), Row(("c",), 1, None, ("x",))]
        history = history_of(rows, dtype="enum[x,y]")
        self.joined(tmp_path, history, [Ask((key,), at) for key in "abc" for at in (1, 2)])
        with self.opened(tmp_path, history) as store:
            for until in (1, 2):
                compare_latest(store, history, until)
            with pytest.raises(SourceError) as raised:
                list(store.latest(history.view, until=from_microseconds(START + 5)))
            assert "'watched'" in str(raised.value)
            assert "odd" not in str(raised.value)

    def test_an_invalid_value_wins_its_tie(self, tmp_path: Path) -> None:
        rows = [Row(("a",), 1, None, (written,)) for written in ('{"a":1}', "{", '"x"', "null")]
        history = history_of(rows, dtype="json", values=[pa.string()])
        self.joined(tmp_path, history, [Ask(("a",), 1), Ask(("a",), 2)])
        self.joined(tmp_path, history, [Ask(("a",), 1)])
        with self.opened(tmp_path, history) as store:
            compare_latest(store, history, 1)

    def test_a_null_value_wins_as_any_other(self, tmp_path: Path) -> None:
        history = history_of([Row(("a",), 1, None, (2**62 + 1,)), Row(("a",), 2, None, (None,))])
        self.joined(tmp_path, history, [Ask(("a",), 1), Ask(("a",), 2)])

    def test_nulls_match_nothing(self, tmp_path: Path) -> None:
        rows = [Row((None,), 1, None, (1,)), Row(("a",), None, None, (2,)), Row(("",), 1, None, (3,))]
        self.joined(tmp_path, history_of(rows), [Ask((None,), 5), Ask(("a",), 5), Ask(("",), 5), Ask(("",), None)])

    def test_a_spine_keeps_its_rows_their_order_and_its_columns(self, tmp_path: Path) -> None:
        history = history_of([Row((str(number),), number, None, (number,)) for number in range(50)])
        random = seeded(1)
        asks = [Ask((str(random.randrange(60)),), random.randrange(80), str(number % 7)) for number in range(200)]
        self.joined(tmp_path, history, asks + asks[:50])

    def test_a_long_spine_is_streamed_in_order(self, tmp_path: Path) -> None:
        history = history_of([Row((str(number),), 0, None, (number,)) for number in range(1000)])
        count = 70_001
        spine = pa.table(
            {
                KEY: [str(number % 1000) for number in range(count)],
                "n": range(count),
                EVENT: times([1] * count, MICROSECONDS),
            }
        )
        with self.opened(tmp_path, history) as store:
            batches = list(store.join(spine, [history.lookup()], clock="known"))
            assert len(batches) > 1
            assert [one for batch in batches for one in batch.spine.column("n").to_pylist()] == list(range(count))
            got = [one for batch in batches for one in batch.found[0].columns[0].to_pylist()]
            assert got == [number % 1000 for number in range(count)]
            stream = store.join(spine, [history.lookup()], clock="known")
            next(iter(stream))
            del stream

    def test_composite_keys_do_not_run_together(self, tmp_path: Path) -> None:
        entity = Entity("pair", join_keys={"x": "str", "y": "str"})
        source = ParquetSource("pairs.parquet", created_timestamp=CREATED)
        keys = [
            ("a", "bc"),
            ("ab", "c"),
            ("", "abc"),
            ("abc", ""),
            ("a|b", "c"),
            ("a", "b|c"),
            (None, "c"),
            ("a", None),
        ]
        history = History(
            FeatureView("pairs", entity, source, {"n": "int"}), [Row(key, 1, None, (n,)) for n, key in enumerate(keys)]
        )
        asks = Asks({"y": pa.string(), "x": pa.string()}, [Ask((y, x), 2) for x, y in keys])
        with self.opened(tmp_path, history) as store:
            compare(store, [history], asks, [history.lookup()])
            compare_latest(store, history, 5)

    def test_every_key_dtype(self, tmp_path: Path) -> None:
        now, later = datetime(2026, 1, 1, tzinfo=UTC), datetime(1969, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
        cases: list[tuple[str, Any, Any, list[Any]]] = [
            ("str", pa.string(), pa.dictionary(pa.int8(), pa.string()), ["a", "ü\0", "", None]),
            ("enum[a,b]", pa.string(), pa.large_string(), ["a", "b", None]),
            ("int", pa.int64(), pa.int32(), [1, -7, None]),
            ("int", pa.int8(), pa.int64(), [1, -7, None]),
            ("int", pa.decimal128(20, 0), pa.int64(), [1, 3, None]),
            ("bool", pa.bool_(), pa.bool_(), [True, False, None]),
            ("date", pa.date32(), pa.date32(), [date(2026, 1, 1), date(1960, 1, 1), None]),
            ("timestamp", pa.timestamp("us"), pa.timestamp("ns", "UTC"), [now, later, None]),
            ("timestamp", pa.timestamp("ns"), pa.timestamp("us", "Europe/Paris"), [now, later, None]),
            ("decimal(10,2)", pa.decimal128(12, 4), pa.decimal128(10, 2), [Decimal("1.50"), Decimal("-2.00"), None]),
        ]
        for number, (dtype, in_source, in_spine, keys) in enumerate(cases):
            entity = Entity("thing", join_keys={"thing_id": dtype})
            source = ParquetSource(f"things{number}.parquet", created_timestamp=CREATED)
            rows = [Row((key,), 1, None, (value,)) for value, key in enumerate(keys)]
            history = History(FeatureView("things", entity, source, {"n": "int"}), rows, keys=[in_source])
            asks = Asks({"thing_id": in_spine}, [Ask((key,), 2) for key in (*keys, *keys)])
            with self.opened(tmp_path, history) as store:
                compare(store, [history], asks, [history.lookup()])
                compare_latest(store, history, 5)

    def test_a_key_of_another_class_is_refused(self, tmp_path: Path) -> None:
        history = history_of([Row(("42",), 1, None, (1,))])
        with self.opened(tmp_path, history) as store:
            spine = pa.table({KEY: [42], EVENT: times([2], MICROSECONDS)})
            with pytest.raises(SpineError, match=KEY):
                list(store.join(spine, [history.lookup()], clock="known"))
            with pytest.raises(SpineError, match="user"):
                list(store.join(spine.rename_columns(["usr_id", EVENT]), [history.lookup()], clock="known"))
            with pytest.raises(SpineError, match=EVENT):
                list(store.join(pa.table({KEY: ["42"]}), [history.lookup()], clock="known"))

    @pytest.mark.parametrize("zone", [None, "UTC", "Europe/Paris"])
    @pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
    def test_every_unit_and_zone(self, tmp_path: Path, unit: Any, zone: str | None) -> None:
        held = pa.timestamp(unit, zone)
        step = _PER_UNIT.get(unit, 1)
        rows = [Row(("a",), at * step, None if at % 2 else (at + 2) * step, (at,)) for at in range(6)]
        history = history_of(rows, event=held, created=held)
        asks = [Ask(("a",), at * step + rest) for at in range(-1, 9) for rest in (0, step - 1)]
        self.joined(tmp_path, history, asks)
        self.joined(tmp_path, history, asks, timestamp=pa.timestamp("ns"))
        self.joined(tmp_path, history, asks, timestamp=held)

    def test_empty_spines_and_sources(self, tmp_path: Path) -> None:
        self.joined(tmp_path, history_of([Row(("a",), 1, None, (1,))]), [])
        self.joined(tmp_path, history_of([]), [Ask(("a",), 1), Ask(("b",), 1), Ask(("a",), 2)])
        self.joined(tmp_path, history_of([]), [])
        with self.opened(tmp_path, history_of([])) as store:
            compare_latest(store, history_of([]), 5)

    def test_pushed_rows_without_a_batch_history_are_not_found(self, tmp_path: Path) -> None:
        history = history_of([Row(("a",), 1, None, (1,))])
        pushed = FeatureView("pushed", USER, PushSource(), {"genre": "str"})
        lookups = [Lookup(view=pushed, keys={KEY: KEY}, features=("genre",)), history.lookup()]
        with self.opened(tmp_path, history) as store:
            for at in ([2], [1, 2, 0]):
                spine = Asks({KEY: pa.string()}, [Ask(("a",), one) for one in at]).table()
                batch = next(iter(store.join(spine, lookups, clock="known")))
                assert batch.found[0].event.null_count == batch.found[0].columns[0].null_count == len(at)
                assert batch.found[1].columns[0].to_pylist() == [1 if one >= 1 else None for one in at]
            assert store.check(pushed) == []
            assert list(store.latest(pushed, until=from_microseconds(START))) == []
            assert store.count_latest(pushed, until=from_microseconds(START)).eligible == 0

    def test_aggregations_at_every_moment(self, tmp_path: Path) -> None:
        """Events on, before and after points of the grid; some arrive late; windows that empty."""
        view = FeatureView(
            "events",
            USER,
            ParquetSource("events.parquet", created_timestamp=CREATED),
            [
                Aggregation("events", "count", window="10us"),
                Aggregation("ever", "count"),
                Aggregation("total", "sum", column="n", dtype="int", window="10us"),
                Aggregation("newest", "last_n", column="n", dtype="list[int]", n=2, window="20us"),
            ],
            cadence="5us",
        )
        rows = [
            Row(("a",), 5, None, (1,)),
            Row(("b",), 1, 9, (4,)),
            Row((None,), 1, None, (5,)),
            Row(("a",), None, 1, (6,)),
        ]
        # of one time, the later creation is the newer, whatever the values; one arrives when its window is over
        rows += [Row(("a",), 6, created, (value,)) for created, value in ((6, 9), (18, 3), (None, 8))]
        rows += [Row(("c",), 1, 13, (7,)), Row(("c",), 9, 9, (7,))]
        events = Events(view, {"n": pa.int64()}, rows)
        short = view.model_copy(update={"features": view.features[:1]})
        keys = ("a", "b", "c", "nobody", None)
        asks = [Ask((key,), at) for at in range(-1, 45) for key in keys] + [Ask(("a",), None)]
        with _demanded("join"), self.opened(tmp_path, events) as store:
            for some in (asks, asks[:1], asks[45:50], asks[::-1]):
                compare_aggregated(store, events, Asks({KEY: pa.string()}, some))
                compare_aggregated(store, Events(short, events.columns, rows), Asks({KEY: pa.string()}, some))
            compare_aggregated(store, events, Asks({KEY: pa.string()}, asks), events.lookup(features=["total", "ever"]))

    @pytest.mark.parametrize("cadence", ["1us", "4us", "7us"])
    @pytest.mark.parametrize("created", [True, False])
    def test_every_aggregation(self, tmp_path: Path, cadence: str, created: bool) -> None:
        random = seeded(ord(cadence[0]) + created)
        for windows in ([None], ["4us"], ["9us", None, "20us", "1us"]):
            events = random_events(random, cadence=cadence, windows=windows, created=created)
            keys = ["a", "b", "ä|", "nobody", None]
            asks = [Ask((random.choice(keys),), random.choice([*range(-2, 60), None])) for _ in range(60)]
            with self.opened(tmp_path, events) as store:
                with _demanded("check"):
                    assert store.check(events.view) == []
                with _demanded("join"):
                    compare_aggregated(store, events, Asks({KEY: pa.string()}, asks))
                    compare_aggregated(store, events, Asks({KEY: pa.string()}, [Ask((key,), 21) for key in keys]))
                with _demanded("latest"):
                    for until, since in ((0, None), (12, None), (23, 12), (60, 23), (60, 0), (3, 9)):
                        compare_aggregated_latest(store, events, until, since)

    def test_aggregations_beside_other_views_and_in_roles(self, tmp_path: Path) -> None:
        events = random_events(seeded(3), cadence="4us", windows=["9us", None], created=True)
        history = history_of([Row((key,), at, None, (at,)) for key in "ab" for at in range(0, 20, 3)])
        names = {"buyer": pa.string(), "seller": pa.string()}
        rows = [Ask((one, other), at) for one in "ab" for other in ("b", "c", None) for at in range(0, 40, 3)]
        asks = Asks(names, rows)
        lookups = [events.lookup({KEY: "buyer"}), history.lookup({KEY: "seller"}), events.lookup({KEY: "seller"})]
        with _demanded("join"), self.opened(tmp_path, events, history) as store:
            together = [
                [one for batch in store.join(asks.table(), lookups, clock="known") for one in _plain(batch, number)]
                for number in range(3)
            ]
            for lookup, found in zip(lookups, together, strict=True):
                alone = store.join(asks.table(), [lookup], clock="known")
                assert [one for batch in alone for one in _plain(batch, 0)] == found
            compare_aggregated(store, events, asks, lookups[0])
            compare_aggregated(store, events, asks, lookups[2])

    def test_the_batch_history_of_a_push_source(self, tmp_path: Path) -> None:
        written = ParquetSource("batch.parquet", created_timestamp=CREATED)
        pushed = FeatureView("pushed", USER, PushSource(batch=written), {"watched": "int"})
        rows = [Row((key,), at, created, (at,)) for key in "ab" for at, created in ((1, None), (3, 8), (5, 5))]
        history = History(pushed, rows)
        asks = Asks({KEY: pa.string()}, [Ask((key,), at) for key in ("a", "b", "c") for at in range(10)])
        with self.opened(tmp_path, history) as store:
            assert store.check(pushed) == []
            compare(store, [history], asks, [history.lookup()])
            compare_latest(store, history, 6)
            compare_latest(store, history, 9, since=6)
        counted = random_events(seeded(4), cadence="4us", windows=["9us"], created=True)
        batch = PushSource(batch=counted.view.batch)
        events = Events(counted.view.model_copy(update={"source": batch}), counted.columns, counted.rows)
        with _demanded("join"), self.opened(tmp_path, events) as store:
            compare_aggregated(store, events, asks)
            compare_aggregated_latest(store, events, 30, 10)

    def test_explain_says_how_each_view_is_joined(self, tmp_path: Path) -> None:
        histories: list[History | Events] = [
            *Drawn(seeded(7)).histories(),
            random_events(seeded(7), cadence="4us", windows=["9us"], created=True),
        ]
        rows = [("a", 1), ("a", 1), ("b", 2), ("nobody", 3), (None, 4), ("b", None), ("b", 9)]
        asks = Asks({KEY: pa.string()}, [Ask((key,), at) for key, at in rows])
        pushed = FeatureView("pushed", USER, PushSource(), {"genre": "str"})
        lookups = [one.lookup() for one in histories]
        lookups.append(Lookup(view=pushed, keys={KEY: KEY}, features=("genre",)))
        with self.opened(tmp_path, *histories) as store:
            for clock in CLOCKS:
                steps = store.explain(asks.table(), lookups, clock=clock)
                assert sorted(name for step in steps for name in step.views) == sorted(one.view.name for one in lookups)
                for step in steps:
                    assert step.strategy
                    assert step.reason
                    assert (step.asks, step.keys) == (5, 3)
                    assert step.rows >= 0
                    assert step.passes >= (0 if step.views == ("pushed",) else 1)
            assert store.explain(asks.table(), [], clock="known") == ()
            with pytest.raises(SpineError, match=KEY):
                store.explain(asks.table().drop_columns([KEY]), lookups, clock="known")

    def test_every_strategy_gives_the_same(self, tmp_path: Path) -> None:
        """Nothing to show for a store that names no strategies."""
        for strategy in self.strategies:
            random = seeded(11)
            drawn = Drawn(random)
            histories = drawn.histories()
            events = random_events(random, cadence="4us", windows=["9us", None], created=True)
            with self.opened(tmp_path, *histories, events, strategy=strategy) as store:
                for asks in (drawn.asks(), drawn.asks(), drawn.asks()):
                    compare(store, histories, asks, [history.lookup() for history in histories])
                    with _demanded(f"join, strategy {strategy!r}"):
                        compare_aggregated(store, events, asks)

    def test_views_with_other_keys_and_roles(self, tmp_path: Path) -> None:
        title = Entity("title", join_keys={"title_id": "int"})
        users = history_of([Row((key,), at, None, (at,)) for key in "ab" for at in range(4)])
        titles = History(
            FeatureView("titles", title, ParquetSource("titles.parquet", created_timestamp=CREATED), {"name": "str"}),
            [Row((number,), number, number + 3, (f"t{number}",)) for number in range(4)],
        )
        names = {"buyer": pa.string(), "seller": pa.string(), "title_id": pa.int16()}
        rows = [Ask((one, other, number), at) for one in "ab" for other in "bc" for number in (1, 9) for at in range(8)]
        lookups = [users.lookup({KEY: "buyer"}), users.lookup({KEY: "seller"}), titles.lookup()]
        with self.opened(tmp_path, users, titles) as store:
            compare(store, [users, users, titles], Asks(names, rows), lookups)

    @pytest.mark.parametrize("seed", range(6))
    def test_random_histories(self, tmp_path: Path, seed: int) -> None:
        drawn = Drawn(seeded(seed))
        histories = drawn.histories()
        with self.opened(tmp_path, *histories) as store:
            for _ in range(3):
                compare(store, histories, drawn.asks(), [history.lookup() for history in histories])
            for history in histories:
                for until in (0, 4, 12):
                    compare_latest(store, history, until)
                    compare_latest(store, history, until, since=until - 3)

    def test_one_moment_for_all(self, tmp_path: Path) -> None:
        drawn = Drawn(seeded(99))
        histories = drawn.histories()
        with self.opened(tmp_path, *histories) as store:
            for at in range(-1, 13):
                rows = [Ask((key,), at) for key in ("a", "b", "", "ä|", None, "a", "nobody")]
                for some in (rows, rows[:1], rows[1:2]):
                    compare(store, histories, Asks({KEY: pa.string()}, some), [one.lookup() for one in histories])

    def test_counts_refused_rows(self, tmp_path: Path) -> None:
        rows = [Row((None,), 1, None, (1,)), Row(("a",), None, None, (1,)), Row(("a",), 1, None, (1,))]
        with self.opened(tmp_path, history_of(rows)) as store:
            count = store.count_latest(history_of(rows).view, until=from_microseconds(START + 5))
            assert (count.eligible, count.refused) == (1, 2)

    @pytest.mark.parametrize("seed", range(4))
    def test_entity_keys_are_all_that_had_an_event_by_then(self, tmp_path: Path, seed: int) -> None:
        histories = Drawn(seeded(seed)).histories()
        with self.opened(tmp_path, *histories) as store:
            for until in (-1, 0, 3, 12):
                expected: dict[str, int] = {}
                for row in (row for history in histories for row in history.rows):
                    key, event = row.keys[0], row.event
                    if key is not None and event is not None and event <= until:
                        expected[key] = min(event, expected.get(key, event))
                batches = store.entity_keys([one.view for one in histories], until=from_microseconds(START + until))
                found = [one for batch in batches for one in batch.to_pylist()]
                assert len(found) == len(expected)
                assert {one[KEY]: one["first"] for one in found} == {
                    key: from_microseconds(START + event) for key, event in expected.items()
                }

    @pytest.mark.parametrize("seed", range(3))
    def test_changes_are_all_moments_at_which_another_row_wins(self, tmp_path: Path, seed: int) -> None:
        """Of a store that is `DatedSources`; the others are not asked."""
        histories = Drawn(seeded(seed)).histories()
        events = random_events(seeded(seed), cadence="4us", windows=["9us", None], created=True)
        with self.opened(tmp_path, *histories, events) as store:
            if not isinstance(store, DatedSources):
                pytest.skip("this store does not say when rows change")
            for key in ("a", "ä|", "nobody"):
                for clock in CLOCKS:
                    wins: list[tuple[FeatureView, Any]] = [
                        (one.view, partial(_won, one, (key,), clock=clock)) for one in histories
                    ]
                    wins.append((events.view, partial(_won_aggregated, events, (key,), clock=clock)))
                    for view, won_at in wins:
                        told = store.changes(view, [key], until=from_microseconds(START + 40), clock=clock).to_pylist()
                        for before, after in pairwise(range(-1, 41)):
                            event, row = won_at(after)
                            if row != won_at(before)[1] and event is not None:
                                assert {"at": moment(after), "event": event} in told, (view.name, key, clock, after)
                        assert all(one["at"] <= moment(40) for one in told)

    def test_entity_keys_of_nothing(self, tmp_path: Path) -> None:
        with self.opened(tmp_path, history_of([])) as store:
            pushed = FeatureView("pushed", USER, PushSource(), {"genre": "str"})
            for views in ([], [pushed], [pushed, history_of([]).view]):
                keys = [one for batch in store.entity_keys(views, until=from_microseconds(START)) for one in batch]
                assert sum(map(len, keys)) == 0

    def test_a_spine_is_read_as_it_is(self, tmp_path: Path) -> None:
        table = pa.table({KEY: ["b", None, "a"], "n": [3, 1, 2]})
        with self.opened(tmp_path) as store:
            for spine in (table, table.to_reader(), table.to_pylist()):
                assert store.read_spine(spine).read_all().to_pylist() == table.to_pylist()
            (tmp_path / "spine.csv").write_text("id,n\n007,1\n")
            read = store.read_spine(tmp_path / "spine.csv", {"id": DType("str")}).read_all()
            assert read.to_pylist() == [{"id": "007", "n": 1}]
            with pytest.raises(SpineError):
                store.read_spine(42)

    def test_check_finds_what_is_missing(self, tmp_path: Path) -> None:
        history = history_of([Row(("a",), 1, None, (1,))])
        with self.opened(tmp_path, history) as store:
            assert store.check(history.view) == []
            source = history.view.source
            for view in (
                FeatureView("v", USER, "gone.parquet", {"watched": "int"}),
                FeatureView("v", USER, source, {"watchd": "int"}),
                FeatureView("v", USER, source, {"watched": "str"}),
                FeatureView("v", Entity("user", join_keys={KEY: "int"}), source, {"watched": "int"}),
                FeatureView("v", Entity("title", join_key="title_id"), source, {"watched": "int"}),
                FeatureView("v", USER, ParquetSource("activity.parquet", event_timestamp="at"), {"watched": "int"}),
            ):
                problems = store.check(view)
                assert problems
                assert all("'v'" in one for one in problems)
                asks = Asks({name: dtype.arrow() for name, dtype in view.entity.join_keys.items()}, []).table()
                lookup = Lookup(view=view, keys={name: name for name in view.entity.join_keys}, features=())
                with pytest.raises(SourceError, match="'v'"):
                    list(store.join(asks, [lookup], clock="event"))
                with pytest.raises(SourceError, match="'v'"):
                    list(store.latest(view, until=from_microseconds(START)))

    def test_threads_share_a_store(self, tmp_path: Path) -> None:
        drawn = Drawn(seeded(5))
        histories = drawn.histories()
        failures: list[BaseException] = []

        def work(asks: Asks) -> None:
            try:
                compare(store, histories, asks, [history.lookup() for history in histories])
            except BaseException as error:  # noqa: BLE001
                failures.append(error)

        with self.opened(tmp_path, *histories) as store:
            threads = [Thread(target=work, args=(drawn.asks(),)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert failures == []
