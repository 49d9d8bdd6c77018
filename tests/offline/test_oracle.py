"""The DuckDB store agrees with the point-in-time rule in plain Python, on drawn histories of every shape."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures.offline.duckdb import DuckDBStore
from llmfeatures.offline.strategy import FORCED
from llmfeatures.ports import Joined, Lookup
from llmfeatures.schema import Entity, Feature, FeatureView, ParquetSource
from llmfeatures.testing.offline import OfflineStoreTests
from llmfeatures.testing.rule import CREATED, KEY, USER, Ask, Asks, History, Row, compare, compare_latest


class TestDuckDBStore(OfflineStoreTests):
    strategies = FORCED

    def open_store(self, root: Path, strategy: str | None = None) -> DuckDBStore:
        return DuckDBStore(root, memory_limit="1GB", threads=2, strategy=strategy)


class Plain(DuckDBStore):
    """A store that knows nothing of aggregations."""

    def join(self, spine: object, lookups: Sequence[Lookup], **options: Any) -> Iterator[Joined]:
        if any(one.view.aggregates for one in lookups):
            raise NotImplementedError("aggregations")
        return super().join(spine, lookups, **options)


def test_a_store_without_aggregations_is_told_what_is_demanded(tmp_path: Path) -> None:
    class TestPlain(TestDuckDBStore):
        def open_store(self, root: Path, strategy: str | None = None) -> DuckDBStore:
            return Plain(root, strategy=strategy)

    with pytest.raises(AssertionError, match=r"computes views of aggregations itself.*rule\.aggregated") as raised:
        TestPlain().test_aggregations_at_every_moment(tmp_path)
    assert isinstance(raised.value.__cause__, NotImplementedError)


PAIR = Entity("pair", join_keys={"left": "str", "right": "int"})
KEYS = ["a", "b", "", "ab", "ä|\U0001f600", "%41", None]
UNITS = [pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Asia/Tokyo")]
VALUES: dict[str, tuple[Any, list[Any]]] = {
    "int": (pa.int64(), [0, 2**53 + 1, -1, None]),
    "str": (pa.string(), ["x", "", "é", None, '"', "\U0001f600", "\uffff"]),
    "float": (pa.float32(), [0.1, -0.0, 0.0, 1e20, float("nan"), float("inf"), None]),
    "enum[x,y]": (pa.dictionary(pa.int32(), pa.string()), ["x", "y", "odd", None]),
    "list[str]": (pa.list_(pa.string()), [[], ["a"], ["a", None], None, ["a", "b"]]),
    "json": (pa.string(), ['{"b":1,"a":[1.0]}', "null", "{", None, '{"a": [1.0], "b": 1}']),
    "decimal(6,2)": (pa.decimal128(10, 4), [Decimal("1.5000"), Decimal("1.5001"), Decimal("99999.0000"), None]),
    "bool": (pa.bool_(), [True, False, None]),
}


@st.composite
def histories(draw: st.DrawFn, name: str) -> History:
    """A view of one or two features whose rows meet each other often: few keys, few times, few values."""
    entity = draw(st.sampled_from([USER, PAIR]))
    dtypes = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=2))
    timed = draw(st.booleans())
    source = ParquetSource(f"{name}.parquet", created_timestamp=CREATED if timed else None)
    view = FeatureView(name, entity, source, [Feature(f"{name}{n}", dtype) for n, dtype in enumerate(dtypes)])
    event = draw(st.sampled_from(UNITS))
    step = {"s": 1_000_000, "ms": 1_000}.get(event.unit, 1)
    times = st.integers(0, 6).map(lambda count: count * step)
    created = st.none() | st.integers(0, 9).map(lambda count: count * step) if timed else st.none()
    left = st.sampled_from(KEYS)
    keys = st.tuples(left) if entity is USER else st.tuples(left, st.sampled_from([1, 2, None]))
    values = st.tuples(*(st.sampled_from(VALUES[dtype][1]) for dtype in dtypes))
    rows = draw(st.lists(st.builds(Row, keys, st.none() | times, created, values), max_size=40))
    return History(
        view,
        rows,
        event=event,
        created=event,
        keys=[pa.string()] if entity is USER else [pa.string(), draw(st.sampled_from([pa.int32(), pa.int64()]))],
        values=[VALUES[dtype][0] for dtype in dtypes],
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[History], Asks]:
    drawn = [draw(histories(name)) for name in draw(st.sampled_from([["v"], ["v", "w"], ["v", "w", "x"]]))]
    step = max({"s": 1_000_000, "ms": 1_000}.get(one.event.unit, 1) for one in drawn)
    times = st.integers(-1, 10).map(lambda count: count * step) | st.integers(-1, 10)
    ask = st.builds(
        Ask,
        st.tuples(st.sampled_from([*KEYS, "nobody"]), st.sampled_from(KEYS), st.sampled_from([1, 2, 3, None])),
        st.none() | times if draw(st.booleans()) else st.just(draw(times)),
        st.sampled_from(["", "p", "q"]),
    )
    rows = draw(st.lists(ask, max_size=30))
    names = {KEY: pa.string(), "left": pa.string(), "right": draw(st.sampled_from([pa.int16(), pa.int64()]))}
    return drawn, Asks(names, rows, draw(st.sampled_from(UNITS)))


def check(case: tuple[list[History], Asks], choice: int) -> None:
    drawn, asks = case
    with tempfile.TemporaryDirectory() as folder:
        for history in drawn:
            history.write(Path(folder))
        STORE.root = Path(folder)
        lookups = [
            history.lookup(features=[history.view.features[choice % len(history.view.features)].name])
            if choice
            else history.lookup()
            for history in drawn
        ]
        compare(STORE, drawn, asks, lookups)
        for history in drawn:
            compare_latest(STORE, history, 5)
            compare_latest(STORE, history, 5_000_000, since=3_000_000)


STORE = DuckDBStore(Path("/"), memory_limit="1GB", threads=1)
"""One database for all examples: paths are made whole from the store's root at each call."""


@settings(max_examples=25, deadline=None)
@given(cases(), st.integers(0, 2))
def test_joins_and_newest_rows_follow_the_rule(case: tuple[list[History], Asks], choice: int) -> None:
    check(case, choice)


@pytest.mark.heavy
@pytest.mark.timeout(3000)
@settings(max_examples=2000, deadline=None)
@given(cases(), st.integers(0, 2))
def test_joins_and_newest_rows_follow_the_rule_at_length(case: tuple[list[History], Asks], choice: int) -> None:
    check(case, choice)
