"""What the footers of Parquet files say of a join before any row is read: how many rows can matter, and their order.

They inform `explain`, and change no answer: that a join leaves out row groups is DuckDB's doing, which compares the
same statistics with the last moment asked for and with the spine's keys. There is no such bound from below: a value
older than its ttl is `expired` and not `missing`, and has its event timestamp, so it must be found.
"""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import duckdb
from pyarrow import types as pt

from llmfeatures.offline import sql
from llmfeatures.offline.sources import Described, run

_COUNTED = "CASE WHEN isfinite(TRY_CAST({one} AS TIMESTAMPTZ)) THEN epoch_us(TRY_CAST({one} AS TIMESTAMPTZ)) END"
_ORDERED = {"str": pt.is_string, "int": pt.is_int64}
"""Join keys whose statistics are compared: of these dtypes, in columns that hold them as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """A part of a file: its number of rows, the range of its events in microseconds and that of its first join key,
    both ends included; None where the file does not say."""

    rows: int
    events: tuple[int, int] | None
    keys: tuple[Any, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The most ``rows`` that can matter, and what is known of the files, as a part of a sentence."""

    rows: int
    said: str


def known(groups: Sequence[RowGroup], last: int | None, keys: tuple[Any, Any] | None) -> Known:
    """What row groups, in the order of their files, say to a spine with this ``last`` moment and this range of
    ``keys``."""
    # a microsecond more: the footer of a file in nanoseconds is read rounded
    late = [one.events is not None and (last is None or one.events[0] > last + 1) for one in groups]
    other = [
        one.keys is not None and keys is not None and (one.keys[1] < keys[0] or one.keys[0] > keys[1]) for one in groups
    ]
    rows = sum(one.rows for one, *skipped in zip(groups, late, other, strict=True) if not any(skipped))
    orders = [
        name
        for name, ranges in (("event timestamp", [one.events for one in groups]), ("key", [one.keys for one in groups]))
        if _sorted(ranges)
    ]
    count = len(groups)
    said = f"its files have {sum(one.rows for one in groups):,} rows in {count:,} row group{'' if count == 1 else 's'}"
    if count > 1:
        said += f", sorted by {' and '.join(orders)}" if orders else ", in no order"
    skipped = sum(map(any, zip(late, other, strict=True)))
    if skipped:
        said += f", {skipped:,} of which lie after the last ask or have other keys and are skipped"
    return Known(rows=rows, said=said)


def _sorted(ranges: Sequence[tuple[Any, Any] | None]) -> bool:
    """Whether there are several ranges, each beginning where the one before it ended, or later."""
    return len(ranges) > 1 and all(
        one is not None and after is not None and one[1] <= after[0] for one, after in pairwise(ranges)
    )


def of(
    con: duckdb.DuckDBPyConnection, described: Sequence[Described], keys: tuple[str, str], last: int | None
) -> Known | None:
    """What is known of a history's files; None where it has other sources too. ``keys`` are the table of the spine's
    keys and its column for the first join key."""
    groups: list[RowGroup] = []
    between: tuple[Any, Any] | None = None
    for one in described:
        if one.files is None:
            return None
        column, dtype = next(iter(one.relation.keys.values())), next(iter(one.view.entity.join_keys.values()))
        ordered = _ORDERED.get(dtype.kind, pt.is_null)(one.types[column])
        if ordered:
            table, key = keys
            between = run(con, f"SELECT min({key}), max({key}) FROM {table}")[0]
        held = f"TRY_CAST({{one}} AS {'VARCHAR' if dtype.kind == 'str' else 'BIGINT'})"
        events, columns = _range(one.relation.event, _COUNTED), _range(column, held) if ordered else "NULL, NULL"
        groups += [
            RowGroup(rows=rows, events=_pair(first, after), keys=_pair(low, high))
            for rows, first, after, low, high in run(
                con,
                f"SELECT any_value(row_group_num_rows), {events}, {columns} "
                f"FROM parquet_metadata({sql.literal(one.files)}) "
                "GROUP BY file_name, row_group_id ORDER BY file_name, row_group_id",
            )
        ]
    return known(groups, last, None if between is None or None in between else between)


def _range(column: str, held: str) -> str:
    ends = (held.format(one=f"stats_{one}_value") for one in ("min", "max"))
    return ", ".join(f"any_value({one}) FILTER (path_in_schema = {sql.literal(column)})" for one in ends)


def _pair(low: Any, high: Any) -> tuple[Any, Any] | None:
    return None if low is None or high is None else (low, high)
