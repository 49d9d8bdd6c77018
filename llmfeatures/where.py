"""A condition on rows, written as one SQL expression: which columns it names, and which rows satisfy it.

The expression is parsed before anything runs. It sees one table only, in a database that cannot open files.
"""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from llmfeatures.errors import RequestError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_CHANGING = {
    "current_date", "current_localtime", "current_localtimestamp", "current_setting", "current_time",
    "current_timestamp", "getvariable",
}  # fmt: skip
"""Functions whose answer may be another one at the next run, though not every DuckDB says so of them."""
_LAMBDAS = {
    "apply", "array_apply", "array_filter", "array_reduce", "array_transform", "filter", "list_apply", "list_filter",
    "list_reduce", "list_transform", "reduce",
}  # fmt: skip
"""Functions whose ``x -> …`` is a function; elsewhere the arrow reads from JSON."""
_SCHEMAS = ("", "main", "system", "pg_catalog")


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A parsed condition. ``names`` are the columns that it reads, each as its parts: ``("last_genre",)``."""

    expression: str
    names: tuple[tuple[str, ...], ...]

    def mask(self, table: pa.Table, label: str) -> pa.Array[Any]:
        """For each row whether it satisfies the condition; null counts as no. ``label`` may precede a column's name.

        Raises:
            RequestError: the expression does not fit the columns, or fails on the data. No value is shown.
        """
        import duckdb
        import pyarrow as pa

        numbered = table.append_column("__row", pa.array(range(table.num_rows), pa.int64()))
        name = '"' + label.replace('"', '""') + '"'
        with _database() as con:
            con.register("__rows", numbered)
            try:
                found = con.sql(
                    f"SELECT __row FROM __rows AS {name} WHERE (\n{self.expression}\n)::BOOLEAN"
                ).to_arrow_table()
            except duckdb.Error as error:
                raise RequestError(f"where: {_said(error)}") from None
        flags = bytearray(table.num_rows)
        for row in found.column(0).to_pylist():
            flags[row] = 1
        return pa.array(map(bool, flags), pa.bool_())


def parse_where(expression: str) -> Where:
    """Read a condition.

    Raises:
        RequestError: it is no single expression, holds a query or a lambda of its own, or would change from run to
            run.
    """
    import duckdb

    if not expression.strip():
        raise RequestError("where is empty; write one SQL expression, like watch_count_30d > 5, or leave it out")
    with _database() as con:
        try:
            text = con.execute("SELECT json_serialize_sql(?)", [f"SELECT (\n{expression}\n)"]).fetchall()[0][0]
        except duckdb.Error as error:
            raise RequestError(f"where: {_said(error)}") from None
    parsed: dict[str, Any] = json.loads(text)
    if parsed.get("error"):
        raise RequestError(f"where: {str(parsed.get('error_message')).splitlines()[0]}; write one SQL expression")
    nodes = [statement["node"] for statement in parsed["statements"]]
    if len(nodes) != 1 or not _plain(nodes[0]):
        raise RequestError("where is one SQL expression, like watch_count_30d > 5; it is not a whole query")
    names: dict[tuple[str, ...], None] = {}
    for one in _walk(nodes[0]["select_list"]):
        kind = one.get("class")
        if kind == "SUBQUERY":
            raise RequestError("where reads the spine's own rows only; take the query inside it out")
        if kind == "STAR":
            raise RequestError("where names the columns that it reads; a * is none")
        if kind == "WINDOW":
            raise RequestError("where looks at one row at a time; take the window function out")
        if kind == "FUNCTION":
            _check_function(one)
        if kind == "COLUMN_REF":
            names[tuple(one["column_names"])] = None
    return Where(expression=expression, names=tuple(names))


def _check_function(node: dict[str, Any]) -> None:
    """Refuse a function that no condition may call.

    Raises:
        RequestError: it may answer otherwise at the next run, or takes a lambda.
    """
    name = str(node["function_name"]).lower()
    arguments: list[dict[str, Any]] = node.get("children") or [one["expression"] for one in node.get("arguments", ())]
    if name in _changing():
        raise RequestError(
            f"where: {node['function_name']}() may give another answer at each run; write a constant, so that the same "
            "options give the same rows"
        )
    # moment.age() is age(moment)
    if name == "age" and len(arguments) + (str(node.get("schema")).lower() not in _SCHEMAS) < 2:
        raise RequestError(
            "where: age() of one moment counts from today, so it gives another answer at each run; give it two, like "
            "age(TIMESTAMP '2026-05-07', event_timestamp)"
        )
    if name in _LAMBDAS and any(one.get("class") == "LAMBDA" for one in arguments):
        raise RequestError(
            "where does not take lambdas and list comprehensions; list_contains(last_genres, 'drama') says whether a "
            "list has a value"
        )


@cache
def _changing() -> frozenset[str]:
    """The functions whose answer may be another one at the next run: what DuckDB calls so, and macros that call one."""
    with _database() as con:
        rows: list[tuple[str, str | None, str | None]] = con.execute(
            "SELECT lower(function_name), stability, lower(macro_definition) FROM duckdb_functions()"
        ).fetchall()
    # error() ends the run, and does so each time
    named = _CHANGING | {name for name, stability, _ in rows if stability not in (None, "CONSISTENT")} - {"error"}
    return frozenset(named | {name for name, _, body in rows if body and named & set(re.findall(r"\w+", body))})


def _plain(node: dict[str, Any]) -> bool:
    """Whether a SELECT has one expression and nothing else."""
    return (
        node.get("type") == "SELECT_NODE"
        and len(node["select_list"]) == 1
        and node["from_table"]["type"] == "EMPTY"
        and not any(node.get(part) for part in ("where_clause", "group_expressions", "having", "qualify", "sample"))
        and not node.get("modifiers")
    )


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    pending = [node]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            yield one
            pending.extend(one.values())
        elif isinstance(one, list):
            pending.extend(one)


def _database() -> duckdb.DuckDBPyConnection:
    import duckdb

    con = duckdb.connect(":memory:", config={"enable_external_access": "false"})
    for setting in ("TimeZone='UTC'", "python_enable_replacements=false", "lock_configuration=true"):
        con.execute(f"SET {setting}").fetchall()
    return con


def _said(error: Exception) -> str:
    """What DuckDB says of an expression; an error of the data would show a value, so only its kind is named."""
    import duckdb

    if isinstance(error, (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException)):
        return str(error).splitlines()[0]
    return f"the expression fails on the data ({type(error).__name__}); TRY_CAST gives null where a CAST fails"
