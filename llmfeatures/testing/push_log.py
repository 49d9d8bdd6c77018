"""The conformance suite of `llmfeatures.ports.PushLog`.

class TestMine(PushLogTests):
    def open_log(self, root):
        return MyLog(root)

A log that is opened again at the same root holds what it held.
"""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeatures.columns import TIMESTAMP, array_of, python_values
from llmfeatures.ports import PUSHED_CREATED, PUSHED_EVENT, PUSHED_ID, PUSHED_RECEIVED, Push, PushedRows, PushLog
from llmfeatures.types import DType, parse_dtype

START = datetime(2026, 5, 7, 22, tzinfo=UTC)
COUNTED = {"user_id": DType("str"), "watched": DType("int")}
"""The columns of the suite's view."""
EVERY = {
    "user_id": "str", "a": "enum[x,y]", "b": "int", "c": "float", "d": "bool", "e": "timestamp", "f": "date",
    "g": "decimal(10,3)", "h": "list[str]", "i": "json", "j": "list[float]",
}  # fmt: skip
VALUES = (
    ("ä|\x00", "x", -(2**63), 0.1, True, START, date(2026, 5, 7), Decimal("1.500"), ["", "b"], '{"a":[1]}', [0.5]),
    ("", None, None, None, None, None, None, None, None, None, None),
    ("b", "y", 2**63 - 1, -1e300, False, datetime(1, 1, 1, tzinfo=UTC), date.max, Decimal("-7.125"), [], "null", []),
)
"""Canonical rows with all dtypes."""


def push_of(
    push_id: str, rows: Sequence[Sequence[Any]], columns: Mapping[str, DType] = COUNTED, *, fresh: bool = False
) -> Push:
    """A push of these values, one row a second from `START` on."""
    arrays = [array_of(dtype, [row[at] for row in rows]) for at, dtype in enumerate(columns.values())]
    times = pa.array([START + timedelta(seconds=number) for number in range(len(rows))], TIMESTAMP)
    batch = pa.RecordBatch.from_arrays([*arrays, times, times], names=[*columns, PUSHED_EVENT, PUSHED_CREATED])
    return Push(push_id=push_id, received=START, columns=columns, rows=batch, fresh=fresh)


def tables_of(found: Sequence[PushedRows]) -> list[Any]:
    """The rows that a log gave, as tables."""
    tables: list[Any] = []
    for one in found:
        if one.table is not None:
            tables.append(one.table)
        tables += [pq.ParquetFile(path).read() for path in one.files]
    return tables


def kept(log: PushLog, view: str = "v") -> list[tuple[Any, ...]]:
    """All rows of a view, in an order of their own: push id and values, without times."""
    with log.rows(view) as found:
        rows = [row for table in tables_of(found) for row in table.to_pylist()]
    times = (PUSHED_EVENT, PUSHED_CREATED, PUSHED_RECEIVED)
    return sorted((row.pop(PUSHED_ID), *(value for name, value in row.items() if name not in times)) for row in rows)


def _sorted(columns: Mapping[str, DType], table: Any) -> list[tuple[Any, ...]]:
    """The canonical values of rows, by their first column."""
    values = [python_values(dtype, table.column(name)) for name, dtype in columns.items()]
    rows: list[tuple[Any, ...]] = list(zip(*values, strict=True))
    return sorted(rows, key=_first)


def _first(row: tuple[Any, ...]) -> Any:
    return row[0]


class PushLogTests:
    """What every `PushLog` does. Subclass it, and give `open_log`."""

    def open_log(self, root: Path) -> PushLog:
        """A log that keeps its rows at ``root``."""
        raise NotImplementedError

    @pytest.fixture
    def log(self, tmp_path: Path) -> Any:
        """A log without rows."""
        log = self.open_log(tmp_path)
        yield log
        log.close()

    def test_nothing_was_pushed(self, log: PushLog) -> None:
        assert kept(log) == []
        assert log.find("v", "x") is None
        size = log.size("v")
        assert (size.rows, size.pushes, size.waiting) == (0, 0, 0)
        log.compact("v")
        assert kept(log) == []

    def test_rows_of_every_dtype_come_back(self, log: PushLog) -> None:
        columns = {name: parse_dtype(written) for name, written in EVERY.items()}
        push = push_of("all", VALUES, columns)
        assert log.append("v", push)
        for _ in range(2):
            with log.rows("v") as (found,):
                assert dict(found.columns) == columns
                (table,) = tables_of([found])
                assert set(table.column_names) == {
                    *columns, PUSHED_EVENT, PUSHED_CREATED, PUSHED_RECEIVED, PUSHED_ID
                }  # fmt: skip
                assert _sorted(columns, table) == _sorted(columns, push.rows)
                assert table.column(PUSHED_RECEIVED).to_pylist() == [START] * 3
                assert sorted(table.column(PUSHED_EVENT).to_pylist()) == push.rows.column(PUSHED_EVENT).to_pylist()
            log.compact("v")

    def test_a_repeat_adds_nothing(self, log: PushLog) -> None:
        assert log.append("v", push_of("one", [("a", 1), ("b", 2)]))
        for number in range(3):
            assert not log.append("v", push_of("one", [("a", number)]))
            assert kept(log) == [("one", "a", 1), ("one", "b", 2)]
            log.compact("v")
        assert log.append("w", push_of("one", [("a", 9)]))  # ids are a view's own
        assert kept(log, "w") == [("one", "a", 9)]

    def test_a_log_that_is_opened_again(self, log: PushLog, tmp_path: Path) -> None:
        log.append("v", push_of("one", [("a", 1)]))
        log.close()
        log.append("v", push_of("two", [("a", 2)]))
        other = self.open_log(tmp_path)
        assert kept(other) == [("one", "a", 1), ("two", "a", 2)]
        assert not other.append("v", push_of("two", [("a", 3)]))
        assert other.append("v", push_of("three", [("a", 3)]))
        assert not log.append("v", push_of("three", [("a", 4)]))
        assert kept(log) == kept(other) == [("one", "a", 1), ("three", "a", 3), ("two", "a", 2)]
        other.close()

    def test_a_push_is_found_by_its_id(self, log: PushLog) -> None:
        push = push_of("one", [("b", 1), ("a", None)])
        log.append("v", push_of("zero", [("b", 5)]))
        log.append("v", push)
        for _ in range(2):
            found = log.find("v", "one")
            assert found is not None
            assert (found.push_id, found.received, dict(found.columns)) == ("one", START, COUNTED)
            assert _sorted(COUNTED, found.rows) == _sorted(COUNTED, push.rows)
            assert found.rows.schema == push.rows.schema
            assert log.find("v", "two") is None
            log.compact("v")

    def test_the_version_changes_with_a_push_and_with_nothing_else(self, log: PushLog) -> None:
        seen = {log.version("v")}
        for number in range(4):
            log.append("v", push_of(str(number), [("a", number)]))
            version = log.version("v")
            assert version not in seen
            seen.add(version)
            log.compact("v")
            log.append("v", push_of(str(number), [("a", 7)]))
            assert log.version("v") == version

    def test_sizes(self, log: PushLog) -> None:
        for number in range(3):
            log.append("v", push_of(str(number), [("a", number), ("b", number)]))
        size = log.size("v")
        assert (size.rows, size.pushes) == (6, 3)
        assert size.waiting <= size.rows
        log.compact("v")
        size = log.size("v")
        assert (size.rows, size.pushes, size.waiting) == (6, 3, 0)

    def test_columns_change(self, log: PushLog) -> None:
        wider = {**COUNTED, "genre": DType("str")}
        log.append("v", push_of("one", [("a", 1)]))
        log.append("v", push_of("two", [("a", 2, "drama")], wider))
        log.append("v", push_of("three", [("a", 3)]))
        for _ in range(3):
            with log.rows("v") as found:
                rows: Counter[tuple[str, ...]] = Counter()
                for one in found:
                    rows[tuple(one.columns)] += sum(table.num_rows for table in tables_of([one]))
                shown = {tuple(one.columns): dict(one.columns) for one in found}
            assert rows == {tuple(COUNTED): 2, tuple(wider): 1}
            assert shown == {tuple(COUNTED): COUNTED, tuple(wider): wider}
            log.compact("v")

    def test_threads_push_at_once(self, log: PushLog) -> None:
        """Every push once, also those that two threads push under one id."""

        def work(thread: int) -> int:
            new = 0
            for number in range(12):
                new += log.append("v", push_of(f"shared {number}", [("a", number)]))
                log.append("v", push_of(f"{thread} {number}", [("b", thread)], fresh=True))
                if number % 5 == 4:
                    log.compact("v")
            return new

        with ThreadPoolExecutor(6) as pool:
            new = list(pool.map(work, range(6)))
        assert sum(new) == 12
        shared = [(f"shared {number}", "a", number) for number in range(12)]
        own = [(f"{thread} {number}", "b", thread) for thread in range(6) for number in range(12)]
        assert kept(log) == sorted(shared + own)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
    def test_a_forked_process_pushes_too(self, log: PushLog) -> None:
        log.append("v", push_of("before", [("a", 1)]))
        child = os.fork()
        if not child:
            code = 1
            try:
                added = log.append("v", push_of("child", [("a", 2)])) and not log.append("v", push_of("before", []))
                code = 0 if added and len(kept(log)) >= 2 else 2
            finally:
                os._exit(code)
        log.append("v", push_of("parent", [("a", 3)]))
        assert os.waitpid(child, 0)[1] == 0
        log.append("v", push_of("after", [("a", 4)]))
        expected = [("after", "a", 4), ("before", "a", 1), ("child", "a", 2), ("parent", "a", 3)]
        assert kept(log) == expected
        log.compact("v")
        assert kept(log) == expected
