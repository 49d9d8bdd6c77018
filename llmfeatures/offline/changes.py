"""When the row of one entity key may have become another one, by the timestamps alone."""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa

from llmfeatures import columns
from llmfeatures.clock import microseconds
from llmfeatures.offline import aggregate, sql
from llmfeatures.offline import spine as spines
from llmfeatures.offline.pushed import Reading
from llmfeatures.offline.sources import describe, rows, run, translated
from llmfeatures.ports import ClockName
from llmfeatures.schema import FeatureView


def changes(reading: Reading, view: FeatureView, keys: Sequence[Any], until: datetime, clock: ClockName) -> Any:
    """A batch of ``at`` and ``event``, as `DatedSources.changes` says.

    Raises:
        SourceError: the view's keys or timestamps are not what the registry says, or memory and disk are not enough.
    """
    # only keys and times are read: a feature that is not what it should be is no reason to stop
    bare = view if view.aggregates else view.model_copy(update={"features": ()})
    described = describe(reading, bare)
    if not described or None in keys:
        return _batch(pa.table({"at": pa.array([], pa.int64()), "event": pa.array([], pa.int64())}))
    con, last = reading.con, microseconds(until)
    names = sql.names("k", len(keys))
    _load(con, view, keys)
    kept = f"JOIN asked k ON {sql.equal([f'k.{one}' for one in names], [f'r.{one}' for one in names])}"
    kept += f" WHERE r.e <= {last}"
    with translated(view, reading.root):
        if view.aggregates:
            for statement in aggregate.changes(view, described, kept, clock):
                run(con, statement)
            query = f"SELECT DISTINCT m AS at, m AS event FROM changes WHERE m <= {last}"
        else:
            moment = "greatest(r.e, r.c)" if clock == "known" else "r.e"
            query = f"SELECT DISTINCT {moment} AS at, r.e AS event FROM ({rows(described, [])}) r {kept}"
            query += f" AND {moment} <= {last}"
        return _batch(con.sql(query).to_arrow_table())


def _load(con: duckdb.DuckDBPyConnection, view: FeatureView, keys: Sequence[Any]) -> None:
    """The table ``asked``: the one key, numbered (``u``)."""
    dtypes = view.entity.join_keys.values()
    names = sql.names("k", len(keys))
    typed = [f"{name} {sql.key_type(dtype)}" for name, dtype in zip(names, dtypes, strict=True)]
    run(con, f"CREATE TEMP TABLE asked ({sql.commas(typed, ['u INTEGER'])})")
    arrays = [spines.key(dtype, columns.array_of(dtype, [value])) for dtype, value in zip(dtypes, keys, strict=True)]
    con.register("arriving", pa.table(arrays, names=names))
    run(con, "INSERT INTO asked SELECT *, 1 FROM arriving")
    con.unregister("arriving")


def _batch(table: Any) -> Any:
    arrays = [table.column(name).combine_chunks().view(columns.TIMESTAMP) for name in ("at", "event")]
    return pa.RecordBatch.from_arrays(arrays, names=["at", "event"])
