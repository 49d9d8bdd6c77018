"""Rows tied on both timestamps: `codec` decides, here and nowhere else."""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from llmfeatures import codec, columns
from llmfeatures.offline import carried, sql
from llmfeatures.offline.sources import run
from llmfeatures.schema import Feature


def picked_table(
    con: duckdb.DuckDBPyConnection,
    features: Sequence[Feature],
    held: Sequence[str] | None = None,
    table: str = "picked",
) -> None:
    """Make the table of the rows of ``tied`` that win their group: ``g, id``, where ``id`` is a row's rowid.

    ``features`` are all of one view, ``held`` the columns that they have in ``tied`` (``v0…`` unless told). The
    greatest row text wins. A row with an invalid value beats those without one, so that it surfaces.
    """
    values = ", ".join(f"{one} AS v{number}" for number, one in enumerate(held or sql.names("v", len(features))))
    tied = con.sql(f"SELECT rowid AS id, g, {values} FROM tied ORDER BY g").to_arrow_reader(10_000)
    con.register("chosen", pa.table({"id": pa.array(_winners(features, tied), pa.int64())}))
    run(con, f"CREATE TEMP TABLE {table} AS SELECT t.g, c.id FROM chosen c JOIN tied t ON t.rowid = c.id")
    con.unregister("chosen")


def _winners(features: Sequence[Feature], batches: Iterable[Any]) -> array[int]:
    """The row that wins each group; one group's rows come after another's."""
    chosen = array("q")
    group: int | None = None
    best: _Rank | None = None
    for batch in batches:
        ids, groups = batch.column("id").to_pylist(), batch.column("g").to_pylist()
        for row, rank in enumerate(_ranks(features, batch)):
            if groups[row] != group:
                group, best = groups[row], rank
                chosen.append(ids[row])
            elif best is None or rank > best:
                best, chosen[-1] = rank, ids[row]
    return chosen


_Rank = tuple[bool, bytes, tuple[str, ...]]


def _ranks(features: Sequence[Feature], batch: Any) -> list[_Rank]:
    encoded: list[list[str]] = []
    reasons: dict[int, list[str]] = {}
    for number, feature in enumerate(features):
        made = carried.canonical(feature.dtype, batch.column(f"v{number}"))
        encoded.append([feature.dtype.encode(one) for one in columns.python_values(feature.dtype, made.array)])
        for row, reason in made.invalid.items():
            reasons.setdefault(row, []).append(f"{feature.name}: {reason}")
    return [
        (row in reasons, codec.row_text(values).encode(), tuple(reasons.get(row, ())))
        for row, values in enumerate(zip(*encoded, strict=True))
    ]
