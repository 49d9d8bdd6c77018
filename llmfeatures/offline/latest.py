"""The newest row of each entity key, in two passes: first the newest timestamps, then the rows that have them."""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa
from pyarrow import compute

from llmfeatures import columns
from llmfeatures.clock import microseconds
from llmfeatures.errors import SourceError
from llmfeatures.offline import carried, sql
from llmfeatures.offline.sources import Described, label_of, rows, run
from llmfeatures.offline.ties import picked_table
from llmfeatures.ports import LatestBatch, LatestCount, Since
from llmfeatures.schema import FeatureView

_pc: Any = compute


def count(
    con: duckdb.DuckDBPyConnection, described: Sequence[Described], until: datetime, since: Since | None
) -> LatestCount:
    """How many rows `newest` covers. ``keys`` is exact."""
    keys = _keys(described)
    whole, in_time = _bounds(keys, until, since)
    counted = run(
        con,
        "SELECT coalesce(sum(n), 0)::BIGINT, coalesce(sum(r), 0)::BIGINT, count(*) FILTER (n > 0) FROM ("
        f"SELECT count(*) FILTER ({whole}) AS n, count(*) FILTER (NOT ({whole})) AS r "
        f"FROM ({rows(described, [], landed=since is not None)}) WHERE {in_time} GROUP BY {sql.commas(keys)})",
    )
    eligible, refused, distinct = counted[0]
    return LatestCount(eligible=eligible, refused=refused, keys=distinct)


def newest(
    con: duckdb.DuckDBPyConnection, described: Sequence[Described], until: datetime, since: Since | None
) -> tuple[LatestCount, str]:
    """Make the tables of the winning rows; gives what `count` does, and the query of them: ``k0…, e, c, v0…``."""
    features = described[0].view.features
    keys = _keys(described)
    timeless = all(one.relation.created is None for one in described)
    order = "e" if timeless else sql.newest("e", "c")
    whole, in_time = _bounds(keys, until, since)
    run(
        con,
        f"CREATE TEMP TABLE top AS SELECT {sql.commas(keys)}, max({order}) FILTER ({whole}) AS n, "
        f"count(*) FILTER ({whole}) AS a, count(*) FILTER (NOT ({whole})) AS b "
        f"FROM ({rows(described, [], landed=since is not None)}) "
        f"WHERE {in_time} GROUP BY {sql.commas(keys)}",
    )
    eligible, refused, distinct = run(
        con, "SELECT coalesce(sum(a), 0)::BIGINT, coalesce(sum(b), 0)::BIGINT, count(n) FROM top"
    )[0]
    counted = LatestCount(eligible=eligible, refused=refused, keys=distinct)
    wanted = sql.commas(keys, ["e", "c"], sql.names("v", len(features)))
    all_rows = f"SELECT *, {order} AS n FROM ({rows(described, [one.name for one in features])})"
    on = sql.equal([f"r.{one}" for one in keys], [f"m.{one}" for one in keys])
    run(
        con,
        f"CREATE TEMP TABLE newest AS SELECT {sql.commas(f'r.{one}' for one in wanted.split(', '))} "
        f"FROM ({all_rows}) r JOIN top m ON {on} AND r.n = m.n",
    )
    if run(con, "SELECT count(*) FROM newest")[0][0] <= distinct:
        return counted, f"SELECT {wanted} FROM newest"
    run(
        con,
        f"CREATE TEMP TABLE groups AS SELECT (row_number() OVER ()) AS g, {sql.commas(keys)} FROM newest "
        f"GROUP BY {sql.commas(keys)} HAVING count(*) > 1",
    )
    run(
        con, f"CREATE TEMP TABLE tied AS SELECT DISTINCT g, {wanted} FROM newest JOIN groups USING ({sql.commas(keys)})"
    )
    picked_table(con, features)
    return counted, (
        f"SELECT {wanted} FROM newest ANTI JOIN groups USING ({sql.commas(keys)}) "
        f"UNION ALL SELECT {wanted} FROM tied JOIN picked ON tied.rowid = picked.id"
    )


def _bounds(keys: Sequence[str], until: datetime, since: Since | None) -> tuple[str, str]:
    """The conditions that a row is whole, and that it lies in time as far as it says."""
    in_time = f"coalesce(e <= {microseconds(until)}, true) AND c <= {microseconds(until)}"
    if since is not None:
        after = microseconds(since.after)
        in_time += f" AND (coalesce(e > {after}, false) OR c > {after} OR r > {after})"
    return f"{sql.all_present(keys)} AND e IS NOT NULL", in_time


def _keys(described: Sequence[Described]) -> list[str]:
    return sql.names("k", len(described[0].view.entity.join_keys))


def latest_batch(view: FeatureView, raw: Any) -> LatestBatch:
    """A batch of winning rows, canonical.

    Raises:
        SourceError: a value is none of its dtype.
    """
    keys = tuple(
        raw.column(f"k{number}").view(columns.TIMESTAMP)
        if dtype.kind == "timestamp"
        else columns.canonical(dtype, raw.column(f"k{number}")).array
        for number, dtype in enumerate(view.entity.join_keys.values())
    )
    arrays: list[Any] = []
    non_finite = 0
    for number, feature in enumerate(view.features):
        made = carried.canonical(feature.dtype, raw.column(f"v{number}"))
        if made.invalid:
            raise SourceError(
                f"{label_of(view)}: column {feature.column or feature.name!r} of feature {feature.name!r}: "
                f"{next(iter(made.invalid.values()))}, in {len(made.invalid)} of {raw.num_rows} rows looked at; "
                "mend the source's newest rows, or the feature's dtype"
            )
        arrays.append(made.array)
        non_finite += made.non_finite
    created = raw.column("c")
    none = _pc.equal(created, sql.NONE_CREATED)
    return LatestBatch(
        keys=keys,
        event=raw.column("e").view(columns.TIMESTAMP),
        created=_pc.if_else(none, pa.scalar(None, pa.int64()), created).view(columns.TIMESTAMP),
        columns=tuple(arrays),
        non_finite=non_finite,
    )
