"""Pushed rows as DuckDB reads them, beside the batch history that they continue."""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb

from llmfeatures.columns import TIMESTAMP, problem, sql_type
from llmfeatures.errors import SourceError
from llmfeatures.offline import sql
from llmfeatures.ports import PUSHED_CREATED, PUSHED_EVENT, PUSHED_RECEIVED, PushedRows, PushLog, Relation
from llmfeatures.schema import FeatureView, PushSource
from llmfeatures.types import DType

_HELD = {
    "str": "VARCHAR", "enum": "VARCHAR", "json": "VARCHAR", "int": "BIGINT", "float": "DOUBLE", "bool": "BOOLEAN",
    "timestamp": "TIMESTAMP WITH TIME ZONE", "date": "DATE",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedTable:
    """Pushed rows with the same columns, as a table expression."""

    table: str
    rows: PushedRows


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one call reads: files below ``root``, and the pushed rows of each view as they were when it first looked.

    ``skew`` is by how much the clocks of those who push may differ from those of who materializes.
    """

    con: duckdb.DuckDBPyConnection
    root: Path
    pushes: PushLog | None
    skew: timedelta
    stack: ExitStack
    _seen: dict[str, tuple[PushedTable, ...]] = field(default_factory=dict[str, tuple[PushedTable, ...]])

    def pushed(self, view: FeatureView) -> tuple[PushedTable, ...]:
        """The pushed rows of a view; none of a view that takes no pushes.

        Raises:
            PushLogError: the log cannot be read.
            FormatError: it is of another format.
        """
        if self.pushes is None or not isinstance(view.source, PushSource) or view.aggregates:
            return ()  # raw events are not pushed
        if view.name not in self._seen:
            found = self.stack.enter_context(self.pushes.rows(view.name))
            self._seen[view.name] = tuple(self._table(number, view, one) for number, one in enumerate(found))
        return self._seen[view.name]

    def _table(self, number: int, view: FeatureView, rows: PushedRows) -> PushedTable:
        if rows.table is None:
            files = ", ".join(sql.literal(sql.glob_safe(str(one))) for one in rows.files)
            return PushedTable(table=f"read_parquet([{files}], hive_partitioning=false)", rows=rows)
        name = sql.ident(f"pushed {number} {view.name}")
        self.con.register(name.strip('"'), rows.table)
        return PushedTable(table=name, rows=rows)


def pushed_relation(view: FeatureView) -> Relation:
    """Which columns of pushed rows hold what."""
    return Relation(
        source=view.source,
        keys={name: name for name in view.entity.join_keys},
        event=PUSHED_EVENT,
        created=PUSHED_CREATED,
        values={one.name: one.name for one in view.features},
    )


def arrow_types(rows: PushedRows) -> dict[str, Any]:
    """The Arrow type of each column."""
    times = dict.fromkeys((PUSHED_EVENT, PUSHED_CREATED, PUSHED_RECEIVED), TIMESTAMP)
    return {name: dtype.arrow() for name, dtype in rows.columns.items()} | times


def duckdb_types(rows: PushedRows) -> dict[str, str]:
    """The type of each column as DuckDB writes it."""
    return {name: duckdb_type(dtype) for name, dtype in rows.columns.items()}


def duckdb_type(dtype: DType) -> str:
    """The type of a canonical column as DuckDB writes it."""
    if dtype.item is not None:
        return f"{duckdb_type(dtype.item)}[]"
    return _HELD.get(dtype.kind) or sql_type(dtype)


def absent(view: FeatureView, columns: Mapping[str, DType]) -> frozenset[str]:
    """The features that pushed rows do not have: they came into the view later, and are null there."""
    return frozenset(one.name for one in view.features if one.name not in columns)


def wrong(view: FeatureView, columns: Mapping[str, DType]) -> list[str]:
    """Why pushed rows with these columns are not those of the view as it is now."""
    remedy = "give the view another name, so that its pushes begin anew, or take these rows out of the pushes folder"
    found: list[str] = []
    for name, dtype in view.entity.join_keys.items():
        if columns.get(name) != dtype:
            held = f"hold it as {columns[name]}" if name in columns else "do not have it"
            found.append(f"join key {name!r} is {dtype}, and pushed rows {held}; {remedy}")
    found += [
        f"feature {one.name!r} is {one.dtype}, and pushed rows hold it as {columns[one.name]}; "
        f"give the feature another name, or {remedy}"
        for one in view.features
        if one.name in columns and problem(one.dtype, columns[one.name].arrow())
    ]
    return found


def check(view: FeatureView, label: str, columns: Mapping[str, DType]) -> None:
    """Refuse pushed rows that are not those of the view.

    Raises:
        SourceError: they are not.
    """
    problems = wrong(view, columns)
    if problems:
        raise SourceError(f"{label}: {problems[0]}")
