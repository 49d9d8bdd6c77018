"""Aggregations over raw events: the values of each key at points of a view's grid, the multiples of its cadence.

An event enters at the first grid point at or after its event timestamp (and its created timestamp under ``known``),
and leaves a window at the first one at or after event + window. The event timestamp of a row is the last grid point
at which an event entered or left one of the view's windows. Sums of floats are taken over the sorted values, one after
another, so that they have the same bits in every plan. Times are microseconds since 1970 in UTC.

Of a key's events, those that enter and leave between the same two points that are asked for are one class: each
class is aggregated once, and each point aggregates classes. So work grows with events and with the square of points per
key, not with their product.
"""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
from pyarrow import types as pt

from llmfeatures.clock import microseconds
from llmfeatures.codec import row_text
from llmfeatures.columns import canonical, python_values, sql_type
from llmfeatures.offline import sql
from llmfeatures.offline.pushed import Reading
from llmfeatures.offline.sources import Described, read_of, run, translated, untyped
from llmfeatures.offline.strategy import size
from llmfeatures.ports import ClockName, LatestCount, Lookup, Since
from llmfeatures.schema import Aggregation, FeatureView

_MICROSECOND = timedelta(microseconds=1)
_NEVER = 2**62
"""The number of a point after all."""
_NEWEST = ("last", "last_n")
_AT_A_TIME = 100_000
"""Values that are written as text at once."""
_HELD = 640
"""Memory that an event takes while its class is aggregated, times two and a half: not all memory is for that."""
_SUMMED = 28
"""Digits of a decimal of which ten thousand million values still have an exact sum."""
_BYTES = 64
"""Memory that an event takes at a point where it counts: its value in a list, and in a sorted copy of that."""


def aggregated_winners(
    reading: Reading,
    number: int,
    keyset: Sequence[str],
    lookup: Lookup,
    clock: ClockName,
    described: Sequence[Described],
) -> None:
    """Make the table ``winners_N``: ``_row, e, hidden, v0…`` of the asks of a set of key columns.

    ``e`` is null where no event has entered; ``hidden`` says that under ``event`` more events would count.

    Raises:
        SourceError: the view's source is not what the registry says.
    """
    con, view, names = reading.con, lookup.view, lookup.features
    table = f"winners_{number}"
    if not described:
        none = [f"v{place} {sql_type(view.feature(name).dtype)}" for place, name in enumerate(names)]
        run(con, f"CREATE TEMP TABLE {table} ({sql.commas(['_row BIGINT', 'e BIGINT', 'hidden BOOLEAN'], none)})")
        return
    wanted = [next(one for one in view.aggregations if one.name == name) for name in names]
    keys, asks = "_".join(["keys", *keyset]), "_".join(["asks", *keyset])
    on = sql.equal([f"k.{one}" for one in keyset], sql.names("k", len(keyset), "r"))
    events = _Events(view, described, wanted, ("u",))
    with translated(view, reading.root):
        run(con, events.table(f"JOIN {keys} k ON {on} WHERE r.e <= k.t", ["k.u"], clock))
        _order_ties(con, events)
        run(con, _points(f"SELECT DISTINCT u, {_floor('t', view)} AS g FROM {asks}", _at_once(con)))
        run(con, events.changes())
        once = run(con, "SELECT coalesce(max(n), 1) = 1 FROM points")[0][0]
        _make_classes(con, events, once=once)
        run(con, f"CREATE TEMP TABLE answers AS {events.answers('points')} LIMIT 0")
        for (part,) in run(con, "SELECT DISTINCT part FROM points ORDER BY part"):
            run(con, f"INSERT INTO answers {events.answers(f'(SELECT * FROM points WHERE part = {part})')}")
        run(
            con,
            f"CREATE TEMP TABLE {table} AS SELECT q._row, a.changed AS e, a.hidden, {_present(len(wanted))} "
            f"FROM {asks} q JOIN answers a ON a.u = q.u AND a.g = {_floor('q.t', view)}",
        )
    for one in ("events", "points", "changes", "classes", "answers"):
        run(con, f"DROP TABLE {one}")


def changes(view: FeatureView, described: Sequence[Described], kept: str, clock: ClockName) -> tuple[str, str]:
    """Statements that make the table ``changes``, the grid points ``m`` at which an event of one key enters or leaves.
    ``kept`` joins the rows ``r`` to that key, and bounds them."""
    events = _Events(view, described, (), ("u",))
    return events.table(kept, ["k.u"], clock), events.changes()


def _order_ties(con: duckdb.DuckDBPyConnection, events: _Events) -> None:
    """Where events are tied on both timestamps, give the columns ``o0…`` of the table ``events`` the order of the row
    texts that `codec` writes of their values, an invalid value being the greatest, so that it surfaces."""
    newest = [number for number, one in enumerate(events.wanted) if one.function in _NEWEST]
    times = sql.commas(events.keys, ["e", "c"])
    grouped = f"SELECT {times} FROM events GROUP BY {times} HAVING count(*) > 1"
    if not newest or not run(con, f"CREATE TEMP TABLE tied AS {grouped}")[0][0]:
        run(con, "DROP TABLE IF EXISTS tied")
        return
    for number in newest:
        _places_table(con, events, number, times)
    placed = sql.commas(f"coalesce(p{number}.o, 0) AS o{number}" for number in newest)
    joins = (
        f"LEFT JOIN places_{number} p{number} ON p{number}.v IS NOT DISTINCT FROM x.a{number}" for number in newest
    )
    run(con, f"CREATE TEMP TABLE placed AS SELECT x.* REPLACE ({placed}) FROM events x {' '.join(joins)}")
    for one in ("events", "tied", *(f"places_{number}" for number in newest)):
        run(con, f"DROP TABLE {one}")
    run(con, "ALTER TABLE placed RENAME TO events")


def _places_table(con: duckdb.DuckDBPyConnection, events: _Events, number: int, times: str) -> None:
    """Of an aggregation make the table ``places_N``: each value ``v`` of tied events and its place ``o``."""
    feature = read_of(events.view).feature(events.wanted[number].name)
    distinct = f"SELECT DISTINCT x.a{number} AS v FROM events x SEMI JOIN tied USING ({times})"
    count = run(con, f"CREATE TEMP TABLE held AS SELECT v, row_number() OVER () AS id FROM ({distinct})")[0][0]
    run(con, "CREATE TEMP TABLE texts (id BIGINT, invalid BOOLEAN, written VARCHAR, reason VARCHAR)")
    for first in range(1, count + 1, _AT_A_TIME):
        within = f"id BETWEEN {first} AND {first + _AT_A_TIME - 1}"
        held = con.sql(f"SELECT id, v FROM held WHERE {within}").to_arrow_table().combine_chunks()
        made = canonical(feature.dtype, held.column("v"))
        written = [row_text([feature.dtype.encode(one)]) for one in python_values(feature.dtype, made.array)]
        rows = range(held.num_rows)
        invalid, reasons = [row in made.invalid for row in rows], [made.invalid.get(row, "") for row in rows]
        arrays: list[Any] = [held.column("id"), pa.array(invalid), pa.array(written), pa.array(reasons)]
        con.register("arriving", pa.table(arrays, names=["id", "invalid", "written", "reason"]))
        run(con, "INSERT INTO texts SELECT * FROM arriving")
        con.unregister("arriving")
    place = "row_number() OVER (ORDER BY invalid, written, reason)"
    run(con, f"CREATE TEMP TABLE places_{number} AS SELECT v, {place} AS o FROM held JOIN texts USING (id)")
    for one in ("held", "texts"):
        run(con, f"DROP TABLE {one}")


def _points(distinct: str, at_once: int) -> str:
    """The table of the points: each key's are numbered (``n``) from 1; each ``part`` of them fits into memory."""
    weighed = "SELECT u, count(*) AS weight FROM events GROUP BY u"
    return (
        "CREATE TEMP TABLE points AS "
        "SELECT u, g, row_number() OVER (PARTITION BY u ORDER BY g) AS n, "
        f"(sum(weight) OVER (ORDER BY u, g) // {at_once})::BIGINT AS part "
        f"FROM ({distinct}) JOIN ({weighed}) USING (u)"
    )


def _make_classes(con: duckdb.DuckDBPyConnection, events: _Events, *, once: bool) -> None:
    """The table ``classes``, in passes over the keys: what aggregates hold while they are made does not spill."""
    count = run(con, "SELECT count(*) FROM events")[0][0]
    passes = 1 + count * _HELD // _memory(con)
    for number in range(passes):
        some = f"(SELECT * FROM events WHERE hash({sql.commas(events.keys)}) % {passes} = {number})"
        source = "events" if passes == 1 else some
        made = events.classes(events.numbered_once(source) if once else events.numbered(source))
        run(con, f"{'INSERT INTO classes' if number else 'CREATE TEMP TABLE classes AS'} {made}")


def _at_once(con: duckdb.DuckDBPyConnection) -> int:
    """How many events and points may meet in one query: lists of values are held in memory."""
    return max(1_000_000, _memory(con) // _BYTES)


def _memory(con: duckdb.DuckDBPyConnection) -> int:
    return size(run(con, "SELECT value FROM duckdb_settings() WHERE name = 'memory_limit'")[0][0])


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
    keys = tuple(sql.names("k", len(view.entity.join_keys)))
    point = _floored(microseconds(until), view)
    events = _Events(view, described, wanted, keys)
    where = f"WHERE r.e <= {point} AND {sql.all_present(f'r.{one}' for one in keys)}"
    for one in ("events", "changes", "classes", "points"):
        run(con, f"DROP TABLE IF EXISTS {one}")
    run(con, events.table(where, [f"r.{one}" for one in keys], "known"))
    _order_ties(con, events)
    run(con, events.changes())
    after = "" if since is None else f" HAVING max(m) > {microseconds(since.after)}"
    listed = sql.commas(keys)
    run(
        con,
        f"CREATE TEMP TABLE points AS SELECT {listed}, {point}::BIGINT AS g, 1 AS n, max(m) AS changed "
        f"FROM changes WHERE m <= {point} GROUP BY {listed}{after}",
    )
    _make_classes(con, events, once=True)
    values = sql.names("v", len(wanted))
    return (
        f"SELECT {sql.commas(keys, ['changed AS e', f'{sql.NONE_CREATED}::BIGINT AS c'], values)} "
        f"FROM ({events.aggregated('points')})"
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
    """A column with floats as the canonical value has them: the double of the shortest decimal, null if not finite, and
    no zero below zero."""
    name, held = f"_source.{sql.ident(column)}", described.types[column]
    if column in described.empty:
        dtype = feature.dtype.item or feature.dtype
        return f"CAST(NULL AS {'VARCHAR' if dtype.kind == 'json' else sql_type(dtype)})"
    if not pt.is_floating(held):
        return name
    number = f"{name}::FLOAT::VARCHAR::DOUBLE" if not pt.is_float64(held) else name
    return f"CASE WHEN {name} = 0 THEN 0::DOUBLE WHEN isfinite({name}) THEN {number} END"


@dataclass(frozen=True, slots=True)
class _Events:
    """The statements about the events of a view, each key's apart: the columns ``keys`` name it.

    The table ``events`` has ``e, c, entered``, a column ``l0…`` per window for when the event leaves it, and ``a0…``
    per wanted aggregation that has a column; with it, where the newest value is wanted, ``o0…``, which breaks ties. In
    ``classes`` times are numbers of the key's points: the first one at or after the event (``h``), at or after it
    entered (``i``) and left (``j0…``).
    """

    view: FeatureView
    described: Sequence[Described]
    wanted: Sequence[Aggregation]
    keys: tuple[str, ...]

    def table(self, kept: str, keys: Sequence[str], clock: ClockName) -> str:
        """The table ``events``, of the rows ``r`` that are ``kept``."""
        known = "greatest(r.e, r.c)" if clock == "known" else "r.e"
        columns = [f"{_ceil(f'(r.e + {span})', self.view)} AS l{number}" for number, span in self._bounded]
        for number, one in enumerate(self.wanted):
            if one.function == "count_distinct":
                # equal values have one number
                ranked = f"dense_rank() OVER (PARTITION BY {sql.commas(keys)} ORDER BY r.a{number})"
                columns.append(f"CASE WHEN r.a{number} IS NOT NULL THEN {ranked} END AS a{number}")
            elif one.column is not None:
                columns.append(f"r.a{number}")
            if one.function in _NEWEST:
                columns.append(f"0::BIGINT AS o{number}")
        listed = sql.commas(keys, ["r.e", "r.c", f"{_ceil(known, self.view)} AS entered"], columns)
        return (
            f"CREATE TEMP TABLE events AS SELECT {listed} "
            f"FROM ({_rows(self.view, self.described, self.wanted)}) r {kept}"
        )

    def changes(self) -> str:
        """The table ``changes``: the grid points ``m`` at which an event enters or leaves one of the view's windows."""
        listed = sql.commas(self.keys)
        selects = [
            f"SELECT {listed}, entered AS m FROM events"
            if span is None
            else f"SELECT {listed}, unnest([entered, l{number}]) AS m FROM events WHERE entered < l{number}"
            for number, span in enumerate(_windows(self.view))
        ]
        return f"CREATE TEMP TABLE changes AS {' UNION ALL '.join(selects)}"

    def numbered(self, events: str) -> str:
        """The events with the numbers of the points, for keys of many points."""
        times = {"h": "x.e", "i": "x.entered"} | {f"j{number}": f"x.l{number}" for number, _ in self._bounded}
        joins = [
            f"ASOF LEFT JOIN points {name} ON {self._same(name)} AND {moment} <= {name}.g"
            for name, moment in times.items()
        ]
        numbers = sql.commas(f"coalesce({name}.n, {_NEVER}) AS {name}" for name in times)
        return f"SELECT x.*, {numbers} FROM {events} x {' '.join(joins)} WHERE h.n IS NOT NULL"

    def numbered_once(self, events: str) -> str:
        """The events with the numbers of the points, where no key has more than one."""
        times = {"i": "x.entered"} | {f"j{number}": f"x.l{number}" for number, _ in self._bounded}
        numbers = [f"CASE WHEN {moment} <= p.g THEN 1 ELSE 2 END AS {name}" for name, moment in times.items()]
        return (
            f"SELECT x.*, {sql.commas(['1 AS h'], numbers)} "
            f"FROM {events} x JOIN points p ON {self._same('p')} AND x.e <= p.g"
        )

    def classes(self, numbered: str) -> str:
        """The rows of the table ``classes``, of the numbered events that some point may count."""
        numbers = ["h", "i", *(f"j{number}" for number, _ in self._bounded)]
        parts = [text for number, one in enumerate(self.wanted) for text in self._parts(one, number)]
        by = sql.commas(self.keys, numbers)
        return (
            f"SELECT {sql.commas([by, f'{self._gone} AS gone'], parts)} "
            f"FROM ({numbered}) x WHERE h < {self._gone} GROUP BY {by}"
        )

    def answers(self, points: str) -> str:
        """What is asked of these points: ``keys, g, changed, hidden, v0…``."""
        changed = (
            f"SELECT p.*, c.m AS changed FROM {points} p ASOF LEFT JOIN changes c "
            f"ON {sql.equal([f'p.{one}' for one in self.keys], [f'c.{one}' for one in self.keys])} AND p.g >= c.m"
        )
        return self.aggregated(f"({changed})")

    def aggregated(self, points: str) -> str:
        """The values at these points, which know when they ``changed``."""
        values = (f"{self._value(one, number)} AS v{number}" for number, one in enumerate(self.wanted))
        by = sql.commas((f"p.{one}" for one in self.keys), ["p.g", "p.changed"])
        hidden = "coalesce(bool_or(p.n < x.i), false) AS hidden"
        return (
            f"SELECT {sql.commas([by, hidden], values)} FROM {points} p "
            f"LEFT JOIN classes x ON {self._same('p')} AND x.h <= p.n AND p.n < x.gone GROUP BY {by}"
        )

    @property
    def _bounded(self) -> list[tuple[int, int]]:
        return [(number, span) for number, span in enumerate(_windows(self.view)) if span is not None]

    @property
    def _gone(self) -> str:
        """The first point at which no window has the event."""
        if None in _windows(self.view):
            return str(_NEVER)
        return f"greatest({sql.commas(f'j{number}' for number, _ in self._bounded)})"

    def _same(self, table: str) -> str:
        return sql.equal([f"x.{one}" for one in self.keys], [f"{table}.{one}" for one in self.keys])

    def _parts(self, one: Aggregation, number: int) -> list[str]:
        """What a class holds of an aggregation: ``b0…``, and the count ``n0…`` of values for a mean."""
        column = f"x.a{number}"
        row = f"{{'e': x.e, 'c': x.c, 'o': x.o{number}, 'v': {column}}}"
        match one.function:
            case "count":
                made = "count(*)" if one.column is None else f"count({column})"
            case "count_distinct":
                made = f"list(DISTINCT {column}) FILTER ({column} IS NOT NULL)"
            case "min" | "max":
                made = f"{one.function}({column})"
            case "last":
                made = f"max({row})"
            case "last_n":
                made = f"max({row}, {one.n}) FILTER ({column} IS NOT NULL)"
            case _ if self._floats(one):
                made = f"list({column}::DOUBLE) FILTER ({column} IS NOT NULL)"
            case _:
                made = f"sum({column})"
        counts = [f"count({column}) AS n{number}"] if one.function == "mean" else []
        return [f"{made} AS b{number}", *counts]

    def _value(self, one: Aggregation, number: int) -> str:
        """An aggregation of the classes that count at a point."""
        column = f"x.b{number}"
        counted = "p.n >= x.i"
        if one.window is not None:
            counted += f" AND p.n < x.j{_windows(self.view).index(one.window // _MICROSECOND)}"
        some = f"FILTER ({counted} AND {column} IS NOT NULL)"
        match one.function:
            case "count":
                return f"coalesce(sum({column}) {some}, 0)::BIGINT"
            case "count_distinct":
                return f"coalesce(list_unique(flatten(list({column}) {some})), 0)::BIGINT"
            case "min" | "max":
                return f"{one.function}({column}) {some}"
            case "last":
                return f"max({column}) {some}['v']"
            case "last_n":
                newest = f"list_sort(flatten(list({column}) {some}), 'DESC')[1:{one.n}]"
                return f"coalesce(list_transform({newest}, lambda one: one.v), [])"
            case _:
                # an ordered sum may be planned without its order; a list's order is kept
                floats = f"list_aggregate(list_sort(flatten(list({column}) {some})), 'sum')"
                total = floats if self._floats(one) else f"sum({column}) {some}"
                if one.function == "sum":
                    return total
                return f"({total})::DOUBLE / nullif(sum(x.n{number}) FILTER ({counted}), 0)"

    def _floats(self, one: Aggregation) -> bool:
        """Whether a sum is one of floats. For a mean, decimals become floats before their sum could be too great."""
        held = [each.types[each.relation.values[one.name]] for each in self.described]
        if one.function == "sum":
            return one.dtype.kind == "float" or any(pt.is_floating(each) for each in held)
        return any(pt.is_floating(each) or (pt.is_decimal(each) and each.precision > _SUMMED) for each in held)


def _windows(view: FeatureView) -> list[int | None]:
    return list(dict.fromkeys(None if one.window is None else one.window // _MICROSECOND for one in view.aggregations))


def _present(count: int) -> str:
    return sql.commas(f"CASE WHEN a.changed IS NOT NULL THEN a.v{number} END AS v{number}" for number in range(count))


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
