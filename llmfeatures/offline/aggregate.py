"""Aggregations over raw events: the values of each key at points of a view's grid, the multiples of its cadence.

An event enters at the first grid point at or after its event timestamp (and its created timestamp under ``known``),
and leaves a window at the first one at or after event + window. The event timestamp of a row is the last grid point
at which an event entered or left one of the view's windows. Sums of floats are taken over the sorted values, one after
another, so that they have the same bits in every plan. Times are microseconds since 1970 in UTC.

Each distinct grid point asked of a key meets all events of the key: work grows with their product per key.
"""

# ruff: noqa: S608
from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
from pyarrow import types as pt

from llmfeatures.clock import microseconds
from llmfeatures.columns import sql_type
from llmfeatures.offline import sql
from llmfeatures.offline.sources import Described, describe, run, translated, untyped
from llmfeatures.ports import ClockName, LatestCount, Lookup, Since
from llmfeatures.schema import Aggregation, FeatureView

_MICROSECOND = timedelta(microseconds=1)


def aggregated_winners(
    con: duckdb.DuckDBPyConnection, root: Path, number: int, keyset: Sequence[str], lookup: Lookup, clock: ClockName
) -> None:
    """Make the table ``winners_N``: ``_row, e, hidden, v0…`` of the asks of a set of key columns.

    ``e`` is null where no event has entered; ``hidden`` says that under ``event`` more events would count.

    Raises:
        SourceError: the view's source is not what the registry says.
    """
    view, names = lookup.view, lookup.features
    table = f"winners_{number}"
    described = describe(con, root, view)
    if not described:
        none = [f"v{place} {sql_type(view.feature(name).dtype)}" for place, name in enumerate(names)]
        run(con, f"CREATE TEMP TABLE {table} ({sql.commas(['_row BIGINT', 'e BIGINT', 'hidden BOOLEAN'], none)})")
        return
    wanted = [next(one for one in view.aggregations if one.name == name) for name in names]
    keys, asks = "_".join(["keys", *keyset]), "_".join(["asks", *keyset])
    on = sql.equal([f"k.{one}" for one in keyset], sql.names("k", len(keyset), "r"))
    point = _floor("t", view)
    with translated(view, root):
        run(con, _events("events", view, described, f"JOIN {keys} k ON {on} WHERE r.e <= k.t", ["k.u"], wanted, clock))
        run(con, f"CREATE TEMP TABLE points AS SELECT DISTINCT u, {point} AS g FROM {asks}")
        run(
            con,
            f"CREATE TEMP TABLE answers AS SELECT p.u, p.g, {_change(view)} AS changed, {_hidden(view)} AS hidden, "
            f"{_values(wanted, described)} FROM points p JOIN events x ON x.u = p.u AND x.e <= p.g GROUP BY p.u, p.g",
        )
        run(
            con,
            f"CREATE TEMP TABLE {table} AS SELECT q._row, a.changed AS e, a.hidden, {_present(len(wanted))} "
            f"FROM {asks} q JOIN answers a ON a.u = q.u AND a.g = {_floor('q.t', view)}",
        )
    for one in ("events", "points", "answers"):
        run(con, f"DROP TABLE {one}")


def count(
    con: duckdb.DuckDBPyConnection,
    view: FeatureView,
    described: Sequence[Described],
    until: datetime,
    since: Since | None,
) -> LatestCount:
    """How many events `latest` covers, and how many keys it gives. Both are exact."""
    keys = sql.names("k", len(view.entity.join_keys))
    rows = _rows(view, described, ())
    whole = f"e IS NOT NULL AND {sql.all_present(keys)}"
    moment = microseconds(until)
    counted = run(
        con,
        f"SELECT count(*) FILTER ({whole}), count(*) FILTER (NOT ({whole})) FROM ({rows}) "
        f"WHERE coalesce(e <= {moment}, true) AND c <= {moment}",
    )
    eligible, refused = counted[0]
    found = run(con, f"SELECT count(*) FROM ({latest(con, view, described, until, since, ())})")[0][0]
    return LatestCount(eligible=eligible, refused=refused, keys=found)


def latest(
    con: duckdb.DuckDBPyConnection,
    view: FeatureView,
    described: Sequence[Described],
    until: datetime,
    since: Since | None,
    wanted: Sequence[Aggregation] | None = None,
) -> str:
    """The query of each key's row at the last grid point by ``until``, if it changed later than ``since``:
    ``k0…, e, c, v0…``. Values are of the ``wanted`` features, all unless told."""
    wanted = view.aggregations if wanted is None else wanted
    keys = sql.names("k", len(view.entity.join_keys))
    point = _floored(microseconds(until), view)
    where = f"WHERE r.e <= {point} AND {sql.all_present(f'r.{one}' for one in keys)}"
    run(con, "DROP TABLE IF EXISTS events")
    run(con, _events("events", view, described, where, [f"r.{one}" for one in keys], wanted, "known"))
    after = "true" if since is None else f"changed > {microseconds(since.after)}"
    listed = sql.commas(keys, ["changed AS e", f"{sql.NONE_CREATED}::BIGINT AS c"], sql.names("v", len(wanted)))
    aggregated = _values(wanted, described)
    return (
        f"SELECT {listed} "
        f"FROM (SELECT {sql.commas(f'x.{one}' for one in keys)}, {_change(view)} AS changed"
        f"{', ' + aggregated if aggregated else ''} FROM events x JOIN (SELECT {point}::BIGINT AS g) p "
        f"ON x.entered <= p.g GROUP BY {sql.commas(f'x.{one}' for one in keys)}) WHERE changed IS NOT NULL AND {after}"
    )


def _rows(view: FeatureView, described: Sequence[Described], wanted: Sequence[Aggregation]) -> str:
    """The events: ``k0…, e, c``, and a column ``a0…`` per wanted aggregation that has one, canonical as a number."""
    others = untyped(view)
    selects: list[str] = []
    for one in described:
        plain = one.rows([])
        tail = f" FROM {one.table} AS _source"
        extra: list[str] = []
        for number, feature in enumerate(wanted):
            if feature.column is not None:
                column = others.get(feature.name) or one.relation.values[feature.name]
                extra.append(f"{_cleaned(one, column, feature)} AS a{number}")
        selects.append(plain.removesuffix(tail) + "".join(f", {text}" for text in extra) + tail)
    return " UNION ALL ".join(selects)


def _cleaned(described: Described, column: str, feature: Aggregation) -> str:
    """A column with floats as the canonical value has them: the double of the shortest decimal, null if not finite."""
    name, held = f"_source.{sql.ident(column)}", described.types[column]
    if column in described.empty:
        dtype = feature.dtype.item or feature.dtype
        return f"CAST(NULL AS {'VARCHAR' if dtype.kind == 'json' else sql_type(dtype)})"
    if not pt.is_floating(held):
        return name
    number = f"{name}::FLOAT::VARCHAR::DOUBLE" if not pt.is_float64(held) else name
    return f"CASE WHEN isfinite({name}) THEN {number} END"


def _events(
    table: str,
    view: FeatureView,
    described: Sequence[Described],
    kept: str,
    keys: Sequence[str],
    wanted: Sequence[Aggregation],
    clock: ClockName,
) -> str:
    known = "greatest(r.e, r.c)" if clock == "known" else "r.e"
    columns = [f"r.a{number}" for number, one in enumerate(wanted) if one.column is not None]
    listed = sql.commas(keys, ["r.e", "r.c", f"{_ceil(known, view)} AS entered"], columns)
    return f"CREATE TEMP TABLE {table} AS SELECT {listed} FROM ({_rows(view, described, wanted)}) r {kept}"


def _windows(view: FeatureView) -> list[int | None]:
    return list(dict.fromkeys(None if one.window is None else one.window // _MICROSECOND for one in view.aggregations))


def _change(view: FeatureView) -> str:
    """The last grid point at which the events of one of the view's windows changed."""
    moments: list[str] = []
    for window in _windows(view):
        if window is None:
            moments.append("max(x.entered) FILTER (x.entered <= p.g)")
        else:
            left = _ceil(f"(x.e + {window})", view)
            moments.append(f"max(CASE WHEN {left} <= p.g THEN {left} ELSE x.entered END) "
                           f"FILTER (x.entered <= p.g AND x.entered < {left})")  # fmt: skip
    return moments[0] if len(moments) == 1 else f"greatest({', '.join(moments)})"


def _hidden(view: FeatureView) -> str:
    within = " OR ".join("true" if one is None else f"p.g < x.e + {one}" for one in _windows(view))
    return f"coalesce(bool_or(x.entered > p.g AND ({within})), false)"


def _present(count: int) -> str:
    return sql.commas(f"CASE WHEN a.changed IS NOT NULL THEN a.v{number} END AS v{number}" for number in range(count))


def _values(wanted: Sequence[Aggregation], described: Sequence[Described]) -> str:
    return sql.commas(f"{_value(one, number, described)} AS v{number}" for number, one in enumerate(wanted))


def _value(one: Aggregation, number: int, described: Sequence[Described]) -> str:
    counted = "x.entered <= p.g"
    if one.window is not None:
        counted += f" AND x.e + {one.window // _MICROSECOND} > p.g"
    if one.column is None:
        return f"count(*) FILTER ({counted})"
    column = f"x.a{number}"
    text = f"coalesce(to_json({column})::VARCHAR, 'null')"
    some = f"{counted} AND {column} IS NOT NULL"
    match one.function:
        case "count":
            return f"count(*) FILTER ({some})"
        case "count_distinct":
            return f"count(DISTINCT {column}) FILTER ({some})"
        case "min" | "max":
            return f"{one.function}({column}) FILTER ({some})"
        case "last":
            return f"max({{'e': x.e, 'c': x.c, 'o': {text}, 'v': {column}}}) FILTER ({counted})['v']"
        case "last_n":
            listed = f"list({column} ORDER BY x.e DESC, x.c DESC, {text} DESC) FILTER ({some})"
            return f"coalesce({listed}[1:{one.n}], [])"
        case _:
            total = _sum(one, column, some, described)
            if one.function == "sum":
                return total
            return f"({total})::DOUBLE / nullif(count(*) FILTER ({some}), 0)"


def _sum(one: Aggregation, column: str, some: str, described: Sequence[Described]) -> str:
    floats = one.function == "sum" and one.dtype.kind == "float"
    floats = floats or any(pt.is_floating(each.types[each.relation.values[one.name]]) for each in described)
    if floats:
        # an ordered sum may be planned without its order; a list's order is kept
        return f"list_aggregate(list({column}::DOUBLE ORDER BY {column}) FILTER ({some}), 'sum')"
    return f"sum({column}) FILTER ({some})"


def _step(view: FeatureView) -> int:
    assert view.cadence is not None
    return view.cadence // _MICROSECOND


def _floored(moment: int, view: FeatureView) -> int:
    return moment // _step(view) * _step(view)


def _floor(moment: str, view: FeatureView) -> str:
    step = _step(view)
    return f"({moment} - (({moment} % {step}) + {step}) % {step})"


def _ceil(moment: str, view: FeatureView) -> str:
    step = _step(view)
    return f"({moment} + ({step} - (({moment} % {step}) + {step}) % {step}) % {step})"
