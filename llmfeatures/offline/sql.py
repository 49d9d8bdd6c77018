"""SQL text for DuckDB, without a connection: quoting, sources, keys and times as integers, and the steps of a join.

Times are microseconds since 1970 in UTC, as BIGINT; `NONE_CREATED`, below every time, stands for no created timestamp.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pyarrow import types as pt

from llmfeatures.columns import FIRST_MICROSECOND, LAST_MICROSECOND, sql_type
from llmfeatures.types import DType

NONE_CREATED = FIRST_MICROSECOND - 1
"""The created timestamp of a row that has none."""
NEVER = LAST_MICROSECOND + 1
"""A created timestamp after every moment that can be asked for."""
_NANOS = 2**63 // 1000 - 1
"""The last microsecond that nanoseconds in 64 bits can count to; the first one is its negative."""
_SPAN = 2**60
"""More than the number of microseconds from `NONE_CREATED` to `NEVER`."""


def ident(name: str) -> str:
    """A quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A quoted string."""
    return "'" + text.replace("'", "''") + "'"


def glob_safe(path: str) -> str:
    """A path whose ``* ? [`` match themselves in DuckDB's file functions."""
    return "".join(f"[{one}]" if one in "*?[" else one for one in path)


def parquet(pattern: str, *, many: bool, hive: Mapping[str, str] | None) -> str:
    """The rows of Parquet files. ``hive`` has the type of each partition column, when paths have such."""
    options = ["union_by_name=true"] if many else []
    if hive is None:
        options.append("hive_partitioning=false")
    else:
        options.append("hive_partitioning=true")
        if hive:
            types = ", ".join(f"{literal(name)}: {kind}" for name, kind in hive.items())
            options.append(f"hive_types={{{types}}}")
    return f"read_parquet({', '.join([literal(pattern), *options])})"


def query(written: str) -> str:
    """A query as a table expression; the line break keeps its trailing comment from swallowing the bracket."""
    return f"({written.rstrip().rstrip(';')}\n)"


def micros(column: str, held: Any) -> str:
    """A moment as microseconds, cut towards the past; null outside the years 1 to 9999."""
    counted = _counted(column, held)
    return f"CASE WHEN {counted} BETWEEN {FIRST_MICROSECOND} AND {LAST_MICROSECOND} THEN {counted} END"


def created_micros(column: str, held: Any) -> str:
    """As `micros`, for a created timestamp: null is `NONE_CREATED`, what lies beyond the year 9999 is `NEVER`."""
    counted = _counted(column, held)
    return (
        f"CASE WHEN {column} IS NULL THEN {NONE_CREATED} "
        f"ELSE greatest(least(coalesce({counted}, {NEVER}), {NEVER}), {NONE_CREATED}) END"
    )


def _counted(column: str, held: Any) -> str:
    if pt.is_timestamp(held) and held.unit == "ns":
        nanos = f"epoch_ns({column})"
        return f"(({nanos} - (({nanos} % 1000) + 1000) % 1000) // 1000)"
    return f"epoch_us({column})"


def until(column: str, held: Any, last: int) -> str | None:
    """A condition that rows of no later moment than ``last`` meet, and that statistics of files can answer: on the
    column as it is. None where there is no such. The session's time zone is UTC."""
    if pt.is_date(held):
        return f"{column} <= make_timestamp({last})::DATE"
    if not pt.is_timestamp(held):
        return None
    if held.unit == "ns":  # finer than ``last``, and of fewer years
        last += 1
        if not -_NANOS <= last <= _NANOS:
            return None
    return f"{column} <= make_timestamp({last})"


def key(column: str, dtype: DType, held: Any) -> str:
    """A source's join key as `DType.canonical` has it; null where the value is none of the dtype."""
    match dtype.kind:
        case "str":
            return column if pt.is_string(held) else f"CAST({column} AS VARCHAR)"
        case "enum":
            words = ", ".join(literal(word) for word in dtype.words)
            return f"CASE WHEN CAST({column} AS VARCHAR) IN ({words}) THEN CAST({column} AS VARCHAR) END"
        case "int":
            return column if pt.is_int64(held) else f"TRY_CAST({column} AS BIGINT)"
        case "timestamp":
            return micros(column, held)
        case "date":
            return f"CASE WHEN {column} BETWEEN DATE '0001-01-01' AND DATE '9999-12-31' THEN {column} END"
        case "decimal":
            # a cast rounds; what does not come back the same was no value of the dtype
            cast = f"TRY_CAST({column} AS {sql_type(dtype)})"
            return f"CASE WHEN TRY_CAST({cast} AS {_decimal_type(held)}) = {column} THEN {cast} END"
        case _:
            return column


def _decimal_type(held: Any) -> str:
    return f"DECIMAL({held.precision},{held.scale})" if pt.is_decimal(held) else "HUGEINT"


def key_type(dtype: DType) -> str:
    """The DuckDB type of a canonical join key."""
    return "BIGINT" if dtype.kind == "timestamp" else sql_type(dtype)


def newest(event: str, created: str) -> str:
    """One integer that orders rows by event, then created timestamp."""
    return f"({event}::HUGEINT * {_SPAN} + ({created} - ({NONE_CREATED})))"


def names(prefix: str, count: int, table: str = "") -> list[str]:
    """``k0, k1, …``, each with its table's name before it when one is given."""
    dot = f"{table}." if table else ""
    return [f"{dot}{prefix}{number}" for number in range(count)]


def commas(*parts: Iterable[str]) -> str:
    """A list of columns."""
    return ", ".join(one for part in parts for one in part)


def equal(left: Sequence[str], right: Sequence[str]) -> str:
    """The condition that columns are equal pair by pair."""
    return " AND ".join(f"{one} = {other}" for one, other in zip(left, right, strict=True))


def all_present(columns: Iterable[str]) -> str:
    """The condition that no column is null."""
    return " AND ".join(f"{one} IS NOT NULL" for one in columns)


def keys_table(table: str, columns: Sequence[str]) -> str:
    """The distinct whole keys of the spine, numbered (``u``) from 1, with its first and last moment and its asks."""
    return (
        f"CREATE TEMP TABLE {table} AS SELECT {commas(columns)}, (row_number() OVER ())::INTEGER AS u, "
        "min(t) AS first, max(t) AS t, count(*) AS n "
        f"FROM spine WHERE t IS NOT NULL AND {all_present(columns)} GROUP BY {commas(columns)}"
    )


def asks_table(table: str, keys: str, columns: Sequence[str]) -> str:
    """What the spine asks of its keys: its rows with whole keys and a moment."""
    return (
        f"CREATE TEMP TABLE {table} AS SELECT s._row, k.u, s.t FROM spine s "
        f"JOIN {keys} k ON {equal([f's.{one}' for one in columns], [f'k.{one}' for one in columns])} "
        "WHERE s.t IS NOT NULL"
    )


def asking(keys: str) -> str:
    """How many keys and asks there are, the most asks of one key, and whether each key has one moment only."""
    return (
        "SELECT count(*), coalesce(sum(n), 0)::BIGINT, coalesce(max(n), 0), coalesce(bool_and(first = t), true), "
        f"max(t) FROM {keys}"
    )


def newest_table(table: str, keys: str, columns: Sequence[str], rows: str, values: int, *, created: bool) -> str:
    """The newest rows of each key at its one moment: ``u, e, c, hidden, v0…``, several when they are tied.

    ``created``: only rows that were created by then count, and a key is ``hidden`` when one that was not would win.
    """
    on = equal([f"k.{one}" for one in columns], names("k", len(columns), "r"))
    order = newest("e", "c") if created else "e"
    known = f"{order}) FILTER (c <= t" if created else order
    history = commas(["k.u", "k.t", "r.e", "r.c"], names("v", values, "r"))
    return (
        f"CREATE TEMP TABLE {table} AS WITH history AS MATERIALIZED ("
        f"SELECT {history} FROM ({rows}) r JOIN {keys} k ON {on} WHERE r.e <= k.t), "
        f"top AS (SELECT u, max({known}) AS n, max({order}) AS n_all FROM history GROUP BY u) "
        f"SELECT top.u, h.e, h.c, top.n IS DISTINCT FROM top.n_all AS hidden, {commas(names('v', values, 'h'))} "
        f"FROM top LEFT JOIN (SELECT *, {order} AS n FROM history) h ON h.u = top.u AND h.n = top.n"
    )


def newest_ties(table: str) -> str:
    """How many rows of `newest_table` are one too many."""
    return f"SELECT count(*) - count(DISTINCT u) FROM {table}"


def newest_groups(table: str) -> str:
    """The tied rows of `newest_table`, numbered by key."""
    return (
        "CREATE TEMP TABLE groups AS SELECT (row_number() OVER ()) AS g, u, max(e) AS e, max(c) AS c, "
        f"bool_or(hidden) AS hidden FROM {table} GROUP BY u HAVING count(*) > 1"
    )


def newest_settled(table: str, values: int) -> tuple[str, ...]:
    """Put the rows of `settled_table` in the place of the tied ones."""
    settled = commas(["x.u", "x.e", "x.c", "x.hidden"], names("v", values, "s"))
    return (
        f"DELETE FROM {table} WHERE u IN (SELECT u FROM groups)",
        f"INSERT INTO {table} SELECT {settled} FROM groups x JOIN settled s ON s.g = x.g",
    )


def _kept(keys: str, columns: Sequence[str], rows: str) -> str:
    on = equal([f"k.{one}" for one in columns], names("k", len(columns), "r"))
    return f"FROM ({rows}) r JOIN {keys} k ON {on} WHERE r.e <= k.t"


def history_table(keys: str, columns: Sequence[str], rows: str, values: int, *, created: bool) -> str:
    """The rows of a view for the spine's keys, none later than the last moment asked for: ``u, e, c, v0…``.

    Without ``created`` there is no ``c``.
    """
    times = ["k.u", "r.e", "r.c"] if created else ["k.u", "r.e"]
    return f"CREATE TEMP TABLE history AS SELECT {commas(times, names('v', values, 'r'))} {_kept(keys, columns, rows)}"


def history_rows(keys: str, columns: Sequence[str], rows: str) -> str:
    """How many rows `history_table` will have."""
    return f"SELECT count(*) {_kept(keys, columns, rows)}"


def last_steps(strategy: str, asks: str, steps: str, part: tuple[int, int] | None) -> str:
    """For each ask the last of the ``steps`` (a query of ``u, a``) by its moment: ``_row, u, a``; one row each.

    ``part`` keeps to a range of keys.
    """
    asked = f"{asks} q"
    if part is not None:
        within = f"u BETWEEN {part[0]} AND {part[1]}"
        asked, steps = f"(SELECT * FROM {asks} WHERE {within}) q", f"SELECT * FROM ({steps}) WHERE {within}"
    if strategy == "aggregate":
        return (
            f"SELECT q._row, any_value(q.u) AS u, max(h.a) AS a FROM {asked} "
            f"JOIN ({steps}) h ON q.u = h.u AND h.a <= q.t GROUP BY q._row"
        )
    return f"SELECT q._row, h.u, h.a FROM {asked} ASOF JOIN ({steps}) h ON q.u = h.u AND q.t >= h.a"


FOUND = "CREATE TEMP TABLE found (_row BIGINT, late BOOLEAN, u INTEGER, a BIGINT)"
"""For each ask the step that answers it."""

EVENTS = "SELECT u, e AS a FROM history"
"""Steps when all that had happened counts, whatever had arrived: all rows of an event tie there as one."""


def found_rows(late: str, steps: str) -> str:
    """Add the answers of `last_steps`."""
    return f"INSERT INTO found SELECT _row, {late}, u, a FROM ({steps})"


def plain_winners(table: str, values: int) -> str:
    """The rows of each found step, when rows have no created timestamp: ``_row, e, v0…``; several when they tie."""
    return (
        f"CREATE TEMP TABLE {table} AS SELECT {commas(['f._row', 'f.a AS e'], names('v', values, 'h'))} "
        "FROM found f JOIN history h ON h.u = f.u AND h.e = f.a"
    )


PLAIN_GROUPS = (
    f"CREATE TEMP TABLE groups AS SELECT (row_number() OVER ()) AS g, u, e, ({NONE_CREATED})::BIGINT AS c "
    "FROM history h SEMI JOIN (SELECT DISTINCT u, a FROM found) f ON h.u = f.u AND h.e = f.a "
    "GROUP BY u, e HAVING count(*) > 1"
)
"""The found steps of `plain_winners` with several rows, numbered."""


def plain_settled(table: str, values: int) -> tuple[str, ...]:
    """Put the rows of `settled_table` in the place of the tied ones."""
    of_group = "FROM groups x JOIN found f ON f.u = x.u AND f.a = x.e"
    chosen = commas(["f._row", "x.e"], names("v", values, "s"))
    return (
        f"DELETE FROM {table} WHERE _row IN (SELECT f._row {of_group})",
        f"INSERT INTO {table} SELECT {chosen} {of_group} JOIN settled s ON s.g = x.g",
    )


LATE = "SELECT count(*) FROM (SELECT 1 FROM history WHERE c > e LIMIT 1)"
"""Whether any row was created after it happened; if none was, both clocks agree."""


def _best(steps: str, late: str) -> str:
    return (
        f"SELECT {late} AS late, u, a, max(e) AS e, max(c) AS c, arg_max(id, c) AS id, arg_max(n, c) AS n FROM ("
        f"SELECT u, a, c, max(e) AS e, min(id) AS id, count(*) AS n FROM ({steps}) s "
        f"SEMI JOIN (SELECT DISTINCT u, a FROM found WHERE late = {late}) f USING (u, a) GROUP BY u, a, c) "
        "GROUP BY u, a"
    )


BEST = f"CREATE TEMP TABLE best AS {_best('SELECT u, e AS a, e, c, rowid AS id FROM history', 'false')}"
"""Of the rows of each found step the last created (``id``), and how many are tied with it (``n``)."""


def hidden_table(table: str, asks: str) -> str:
    """The asks whose last event had not arrived: another row of it may have, or an older one. ``_row, u, t``."""
    return (
        # few rows are late; materialized, for else DuckDB may compare every ask with every row by the inequality alone
        f"CREATE TEMP TABLE {table} AS WITH late AS MATERIALIZED (SELECT f._row, b.c FROM found f "
        "JOIN (SELECT * FROM best WHERE c > a) b ON f.u = b.u AND f.a = b.a) "
        f"SELECT q._row, q.u, q.t FROM {asks} q JOIN late USING (_row) WHERE late.c > q.t"
    )


def late_steps(hidden: str) -> tuple[str, ...]:
    """Search again for the hidden asks, with each row counting from its creation on.

    A row counts from ``a`` on, and only while no row that counts has a greater event: what is left is, at each moment,
    the winner's event. Among rows of one event ``a`` rises with ``c``, so the last ``a`` holds the winner.
    """
    rows = (
        "SELECT u, greatest(e, c) AS a, e, c, rowid AS id FROM history "
        f"SEMI JOIN (SELECT DISTINCT u FROM {hidden}) k USING (u)"
    )
    steps = (
        "CREATE TEMP TABLE steps AS SELECT u, a, e, c, id FROM (SELECT u, a, e, c, id, max(e) OVER ("
        f"PARTITION BY u ORDER BY a RANGE UNBOUNDED PRECEDING) AS top FROM ({rows})) WHERE e = top"
    )
    forgotten = f"DELETE FROM found WHERE _row IN (SELECT _row FROM {hidden})"
    return steps, forgotten


STEPS = "SELECT u, a FROM steps"
"""Steps of `late_steps`."""

LATE_BEST = f"INSERT INTO best {_best('SELECT * FROM steps', 'true')}"
"""Adds to `BEST` those of the late steps."""


TIES = "SELECT count(*) FROM best WHERE n > 1"
"""How many found steps have rows tied on both timestamps."""

GROUPS = "CREATE TEMP TABLE groups AS SELECT (row_number() OVER ()) AS g, late, u, a, e, c FROM best WHERE n > 1"
"""Those steps, numbered."""

STEP_TABLES = ("history", "found", "best", "steps", "groups", "tied", "settled")
"""The tables of one search that the next one makes anew."""


def tied_rows_table(keys: str, columns: Sequence[str], rows: str, values: int) -> str:
    """The distinct rows of the tied groups, with all features of their views: ``g, v0…``."""
    on = equal([f"k.{one}" for one in columns], names("k", len(columns), "r"))
    return (
        f"CREATE TEMP TABLE tied AS SELECT DISTINCT {commas(['x.g'], names('v', values, 'r'))} FROM ({rows}) r "
        f"JOIN {keys} k ON {on} JOIN groups x ON x.u = k.u AND x.e = r.e AND x.c = r.c"
    )


def tied_kept_table(table: str, times: Sequence[str], values: int) -> str:
    """As `tied_rows_table`, from a table that has all these features, its rows told apart by ``times``."""
    on = equal([f"h.{one}" for one in times], [f"x.{one}" for one in times])
    return (
        f"CREATE TEMP TABLE tied AS SELECT DISTINCT {commas(['x.g'], names('v', values, 'h'))} "
        f"FROM {table} h JOIN groups x ON {on}"
    )


def settled_table(chosen: Sequence[Sequence[str]]) -> str:
    """The values that win each tied group, view by view: ``g, v0…``. ``chosen`` names them in the table ``tied``; the
    rows picked for the view ``i`` are in the table ``picked_i``."""
    values: list[str] = []
    joins = ""
    for number, held in enumerate(chosen):
        picked, tied = f"p{number}", f"t{number}"
        joins += f" JOIN picked_{number} {picked} ON {picked}.g = x.g JOIN tied {tied} ON {tied}.rowid = {picked}.id"
        values += [f"{tied}.{one}" for one in held]
    listed = commas(["x.g"], (f"{one} AS v{number}" for number, one in enumerate(values)))
    return f"CREATE TEMP TABLE settled AS SELECT {listed} FROM groups x{joins}"


def winners_table(table: str, values: int, *, tied: bool) -> str:
    """The winner of each answered spine row: ``_row, e, v0…``. ``tied``: some are in `settled_table`."""
    untied = (
        f"SELECT {commas(['f._row', 'h.e'], names('v', values, 'h'))} FROM found f "
        "JOIN best b ON f.late = b.late AND f.u = b.u AND f.a = b.a JOIN history h ON h.rowid = b.id"
    )
    if not tied:
        return f"CREATE TEMP TABLE {table} AS {untied}"
    return (
        f"CREATE TEMP TABLE {table} AS {untied} WHERE b.n = 1 "
        f"UNION ALL SELECT {commas(['f._row', 'x.e'], names('v', values, 's'))} FROM found f "
        "JOIN groups x ON f.late = x.late AND f.u = x.u AND f.a = x.a JOIN settled s ON s.g = x.g"
    )
