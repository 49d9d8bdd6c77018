"""How DuckDB runs the statements of a join: some answers are right however long they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llmfeatures.offline import join as joins
from llmfeatures.offline.duckdb import DuckDBStore
from llmfeatures.ports import Lookup
from llmfeatures.schema import Feature, FeatureView, ParquetSource
from llmfeatures.testing.rule import CREATED, EVENT, KEY, START, USER, History, Row

HOUR = 3_600_000_000
USERS, HOURS, ASKS = 50, 141, 100_000
ALL_WITH_ALL = ("CROSS", "IE_JOIN", "IE JOIN", "NESTED", "PIECEWISE", "BLOCKWISE")
"""Parts of the names of joins that compare every row of one side with every one of the other."""


@pytest.mark.parametrize("strategy", ["asof", "partitioned", None])
def test_many_asks_of_few_keys_are_joined_by_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str | None
) -> None:
    view = FeatureView("seen", USER, ParquetSource("seen.parquet", created_timestamp=CREATED), [Feature("n", "int")])
    # users' rows happen at some of the same hours, every fourth hour's five hours late
    arrived = {hour: hour + (5 if hour % 4 == 0 else 0) for hour in range(HOURS)}
    of_user = [sorted({(user * 31 + n * 47) % HOURS for n in range(12)}) for user in range(USERS)]
    rows = [
        Row((f"u{user}",), HOUR * hour, HOUR * arrived[hour], (hour,))
        for user, hours in enumerate(of_user)
        for hour in hours
    ]
    History(view, rows).write(tmp_path)
    seconds = [n * 7919 % (HOURS * 3600) for n in range(ASKS)]
    moments = pa.array([START + 1_000_000 * one for one in seconds], pa.int64())
    spine = pa.table({KEY: [f"u{n % USERS}" for n in range(ASKS)], EVENT: moments.view(pa.timestamp("us", "UTC"))})
    plans: list[str] = []
    inner = joins.run

    def run(con: Any, statement: str) -> Any:
        if "JOIN" in statement:
            plans.append("\n".join(str(row).upper() for row in con.execute(f"EXPLAIN {statement}").fetchall()))
        return inner(con, statement)

    monkeypatch.setattr(joins, "run", run)
    store = DuckDBStore(tmp_path, strategy=strategy)
    lookup = Lookup(view=view, keys={KEY: KEY}, features=("n",))
    found = pa.concat_arrays([one.found[0].columns[0] for one in store.join(spine, [lookup], clock="known")])
    newest = [
        [max((hour for hour in hours if arrived[hour] <= now), default=None) for now in range(HOURS)]
        for hours in of_user
    ]
    assert found.to_pylist() == [newest[n % USERS][one // 3600] for n, one in enumerate(seconds)]
    assert len(plans) > 5
    assert not [plan for plan in plans for bad in ALL_WITH_ALL if bad in plan]
