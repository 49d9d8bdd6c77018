"""The point-in-time join, step by step: spine in, one table of winners per lookup, batches out."""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from array import array
from collections.abc import Generator, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

import duckdb
import pyarrow as pa
from pyarrow import compute

from llmfeatures import columns
from llmfeatures.errors import SourceError
from llmfeatures.offline import carried, sql, statistics, strategy
from llmfeatures.offline import spine as spines
from llmfeatures.offline.aggregate import aggregated_winners
from llmfeatures.offline.pushed import Reading
from llmfeatures.offline.sources import (
    SHORT,
    Described,
    describe,
    full,
    interruptible,
    run,
    shared_rows,
    shortage,
    translated,
)
from llmfeatures.offline.strategy import Asking, Decision
from llmfeatures.offline.ties import picked_table
from llmfeatures.ports import ClockName, FoundColumns, Joined, JoinStep, Lookup
from llmfeatures.types import DType

_LOAD_ROWS = 16 * spines.BATCH_ROWS
"""So many rows are inserted while the next ones are read."""
_COUNT = array("q", range(spines.BATCH_ROWS))
_pc: Any = compute


@dataclass(slots=True)
class Asked:
    """What a join reads of a spine: the moment and the distinct key columns (``k0…``), each once."""

    timestamp: str
    columns: dict[tuple[str, DType], str] = field(default_factory=dict[tuple[str, DType], str])
    keysets: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    """Per lookup its key columns in the order of the entity's join keys."""

    @classmethod
    def of(cls, lookups: Sequence[Lookup], timestamp: str) -> Asked:
        """What these lookups need."""
        asked = cls(timestamp)
        for lookup in lookups:
            needed = [(lookup.keys[name], dtype) for name, dtype in lookup.view.entity.join_keys.items()]
            asked.keysets.append(tuple(asked.columns.setdefault(one, f"k{len(asked.columns)}") for one in needed))
        return asked

    def dtypes(self, known: Mapping[str, DType]) -> dict[str, DType]:
        """What a file without types must be read as; ``known`` is what the caller says of further columns."""
        keys = {name: dtype for name, dtype in self.columns}  # noqa: C416  the checker cannot read dict() of these keys
        return {**known, **keys, self.timestamp: DType("str")}

    def check(self, schema: Any) -> None:
        """Refuse a spine that lacks a column, or has it of another class.

        Raises:
            SpineError: it does.
        """
        if not schema.names:
            return
        spines.moments(self.timestamp, pa.nulls(0, schema.types[spines.column(schema, self.timestamp, "moments")]), 0)
        for name, dtype in self.columns:
            spines.check_key(name, dtype, schema.types[spines.column(schema, name, "join key")])

    def table(self, batch: Any, first: int) -> Any:
        """The rows of a batch as the join reads them; ``first`` is the number of its first row."""
        arrays = {
            "_row": _numbers(first, batch.num_rows),
            "t": spines.moments(self.timestamp, batch.column(batch.schema.names.index(self.timestamp)), first),
        }
        for (name, dtype), short in self.columns.items():
            arrays[short] = spines.key(dtype, batch.column(batch.schema.names.index(name)))
        return pa.table(arrays)


def _numbers(first: int, count: int) -> Any:
    """``first, first + 1, …``: from Python numbers, pyarrow would import pandas."""
    counted = pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(_COUNT)])
    return _pc.add(counted, columns.constant(first))


def load(con: duckdb.DuckDBPyConnection, opened: spines.Spine, asked: Asked, spool: spines.Spool | None) -> int:
    """Read the spine once: what the join needs into tables of DuckDB, the whole into the spool if there is one.

    Returns the number of its rows.

    Raises:
        SpineError: the spine cannot be read, or holds no moments.
        SourceError: memory or temporary disk ran out.
    """
    typed = [f"{name} {sql.key_type(dtype)}" for (_, dtype), name in asked.columns.items()]
    with _short_of_memory():
        run(con, f"CREATE TEMP TABLE spine ({sql.commas(['_row BIGINT', 't BIGINT'], typed)})")
    number = 0
    pending: list[Any] = []
    with ThreadPoolExecutor(max_workers=1) as beside:
        inserting: Future[None] | None = None
        for batch in spines.rebatched(opened.batches, spines.BATCH_ROWS):
            if spool is not None:
                with _short_of_memory(spool):
                    spool.add(batch)
            pending.append(asked.table(batch, number))
            number += batch.num_rows
            if len(pending) * spines.BATCH_ROWS >= _LOAD_ROWS:
                if inserting is not None:
                    inserting.result()
                inserting, pending = beside.submit(_insert, con, pending), []
        if inserting is not None:
            inserting.result()
    _insert(con, pending)
    with _short_of_memory():
        for keyset in dict.fromkeys(asked.keysets):
            run(con, sql.keys_table(_named("keys", keyset), keyset))
            run(con, sql.asks_table(_named("asks", keyset), _named("keys", keyset), keyset))
        for one in asked.columns.values():  # the asks have them as numbers
            run(con, f"ALTER TABLE spine DROP COLUMN {one}")
    return number


def _insert(con: duckdb.DuckDBPyConnection, pending: Sequence[Any]) -> None:
    if pending:
        with _short_of_memory():
            con.register("arriving", pa.concat_tables(pending))
            run(con, "INSERT INTO spine SELECT * FROM arriving")
            con.unregister("arriving")


def _named(prefix: str, keyset: tuple[str, ...]) -> str:
    return "_".join([prefix, *keyset])


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Lookups that one search answers: their views have one history, and their keys are the same columns of the spine.

    ``places`` are the lookups' own among all, ``described`` has the relations of each one's view.
    """

    keyset: tuple[str, ...]
    places: tuple[int, ...]
    lookups: tuple[Lookup, ...]
    described: tuple[tuple[Described, ...], ...]

    @property
    def width(self) -> int:
        """How many features there are to bring."""
        return sum(len(one.features) for one in self.lookups)

    @property
    def whole(self) -> bool:
        """Whether all features of each view are brought, so that ties can be settled without reading more."""
        return all({each.name for each in one.view.features} <= set(one.features) for one in self.lookups)

    @property
    def aggregated(self) -> bool:
        """Whether it is one view of aggregations."""
        return bool(self.lookups[0].view.aggregates)

    @property
    def has_created(self) -> bool:
        """Whether rows have a created timestamp."""
        return any(one.relation.created is not None for one in self.described[0])

    def rows(self, until: int | None, features: Sequence[Sequence[str]] | None = None) -> str:
        """Rows of the history with these features of each lookup; see `sources.shared_rows`."""
        return shared_rows(self.described, features or [() for _ in self.lookups], until)

    def brought(self) -> list[list[str]]:
        """Per lookup the columns of its features in tables of this search: ``v0…``, one lookup after another."""
        ends = accumulate((len(one.features) for one in self.lookups), initial=0)
        return [[f"v{number}" for number in range(first, after)] for first, after in pairwise(ends)]


def together(reading: Reading, lookups: Sequence[Lookup], keysets: Sequence[tuple[str, ...]]) -> list[Together]:
    """Part the lookups into groups that are answered by one search each. ``keysets`` are those of `Asked`.

    A history that is looked up by several sets of columns is read once for each: rows of the one are not those of the
    other, and to keep both until both are searched would take their memory together.

    Raises:
        SourceError: a view's source is not what the registry says.
    """
    groups: dict[Hashable, list[tuple[int, Lookup, tuple[Described, ...]]]] = {}
    for place, (lookup, keyset) in enumerate(zip(lookups, keysets, strict=True)):
        described = tuple(describe(reading, lookup.view))
        alone = lookup.view.aggregates or not described
        read = place if alone else tuple(one.read for one in described)
        groups.setdefault((keyset, read), []).append((place, lookup, described))
    found: list[Together] = []
    for group in groups.values():
        places, grouped, described = zip(*group, strict=True)
        found.append(Together(keyset=keysets[places[0]], places=places, lookups=grouped, described=described))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answers to lookups that were searched together.

    The table ``winners_N`` has ``e, v0…`` of the winners by ``_row``; or by the number ``u`` of the key, and ``hidden``
    with it, when each key is asked for at ``one`` moment only. Else the table ``hidden_N``, if any, has those rows, or
    the winners are ``marked`` with ``hidden`` themselves.
    """

    of: Together
    number: int
    found: bool = True
    one: bool = False
    hidden: bool = False
    marked: bool = False

    @property
    def columns(self) -> list[str]:
        """The columns of the final query for these lookups."""
        if not self.found:
            return []
        number = self.number
        listed = [f"w{number}.e AS e{number}", *(f"w{number}.v{i} AS v{number}_{i}" for i in range(self.of.width))]
        if self.one or self.marked:
            listed.append(f"coalesce(w{number}.hidden, false) AS h{number}")
        elif self.hidden:
            listed.append(f"h{number}._row IS NOT NULL AS h{number}")
        return listed

    def joins(self, within: str) -> str:
        """The tables of the final query for these lookups; ``within`` is the condition on ``_row``."""
        number = self.number
        if not self.found:
            return ""

        def joined(table: str, short: str) -> str:
            alias = f"{short}{number}"
            return f" LEFT JOIN (SELECT * FROM {table} WHERE {within}) {alias} ON {alias}._row = s._row"

        if self.one:
            asks = joined(_named("asks", self.of.keyset), "a")
            return f"{asks} LEFT JOIN winners_{number} w{number} ON w{number}.u = a{number}.u"
        return joined(f"winners_{number}", "w") + (joined(f"hidden_{number}", "h") if self.hidden else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asks:
    """What a spine asks of one set of key columns, and under which limit and forced strategy it is answered.

    ``last`` is the last moment asked for, None when nothing is asked.
    """

    keyset: tuple[str, ...]
    asking: Asking
    last: int | None
    memory: int
    forced: str | None

    @classmethod
    def of(cls, con: duckdb.DuckDBPyConnection, keyset: tuple[str, ...], forced: str | None) -> Asks:
        """Look at the loaded keys."""
        with _short_of_memory():
            keys, asks, most, one, last = run(con, sql.asking(_named("keys", keyset)))[0]
        asking = Asking(keys=keys, asks=asks, most=most, one=one)
        return cls(keyset=keyset, asking=asking, last=last, memory=_memory(con), forced=forced)

    def decide(self, rows: int) -> Decision:
        """The strategy for a history that has so many rows for these asks."""
        return strategy.decide(self.asking, rows, self.memory, self.forced)

    def settled(self, most: int) -> bool:
        """Whether the decision is the same for every number of rows up to this one."""
        few, many = self.decide(0), self.decide(most)
        return (few.strategy, few.passes) == (many.strategy, many.passes)


def answer(reading: Reading, number: int, asks: Asks, asked: Together, clock: ClockName) -> Answer:
    """Find the winner of each spine row for lookups that are answered together.

    Raises:
        SourceError: the views' source is not what the registry says.
    """
    con, first = reading.con, asked.lookups[0]
    if not asked.described[0]:
        return Answer(of=asked, number=number, found=False)
    if asked.aggregated:
        with translated(first.view, reading.root):
            aggregated_winners(reading, number, asked.keyset, first, clock, asked.described[0])
        return Answer(of=asked, number=number, marked=True)
    created = clock == "known" and asked.has_created
    search = _Search(con, asked, f"winners_{number}", asks)
    with translated(first.view, reading.root):
        if asks.asking.one and asks.forced is None:
            search.newest(created=created)
            return Answer(of=asked, number=number, one=True)
        if not asked.has_created:
            search.plain()
            return Answer(of=asked, number=number)
        hidden = search.steps(f"hidden_{number}", created=created)
    return Answer(of=asked, number=number, hidden=hidden)


def explained(reading: Reading, asks: Asks, asked: Together) -> JoinStep:
    """What `answer` will do. Reads keys and event timestamps of the history, to count its rows, unless all that the
    statistics of its files allow leads to one decision: then rows are the most that there can be, and the reason says
    so.

    Raises:
        SourceError: the views' source is not what the registry says.
    """
    con, names = reading.con, tuple(one.view.name for one in asked.lookups)
    if not asked.described[0]:
        reason = "nothing was pushed yet, and there is no batch history"
        return _step(names, asks, Decision(strategy="none", passes=0, reason=reason), 0)
    with translated(asked.lookups[0].view, reading.root):
        known = statistics.of(con, asked.described[0], (_named("keys", asks.keyset), asks.keyset[0]), asks.last)
        most = None if known is None else known.rows
        if most is not None and asks.settled(most):
            kept = most
        else:
            kept = run(con, sql.history_rows(_named("keys", asks.keyset), asks.keyset, asked.rows(asks.last)))[0][0]
            most = None
    decided = asks.decide(kept)
    if asked.aggregated:
        decided = Decision(strategy="windows", reason=f"the events of each window are aggregated, of {kept:,} in all")
    reason = decided.reason if known is None else f"{decided.reason}; {known.said}"
    if most is not None:
        reason += f"; at most {most:,} rows can matter, none was read to count them"
    return _step(names, asks, replace(decided, reason=reason), kept)


def _step(names: tuple[str, ...], asks: Asks, decided: Decision, rows: int) -> JoinStep:
    return JoinStep(
        views=names,
        strategy=decided.strategy,
        passes=decided.passes,
        reason=decided.reason,
        rows=rows,
        asks=asks.asking.asks,
        keys=asks.asking.keys,
    )


@dataclass(frozen=True, slots=True)
class _Search:
    """The search for the winners of lookups that are answered together."""

    con: duckdb.DuckDBPyConnection
    of: Together
    winners: str
    asked: Asks

    def newest(self, *, created: bool) -> None:
        """Each key is asked for at one moment only: its newest row by then."""
        width = self.of.width
        statement = sql.newest_table(self.winners, self._keys, self.of.keyset, self._rows, width, created=created)
        found = run(self.con, statement)[0][0]
        if found <= 1 or not run(self.con, sql.newest_ties(self.winners))[0][0]:
            return
        run(self.con, sql.newest_groups(self.winners))
        self._settle(self.winners, ("u", "e", "c"))
        for statement in sql.newest_settled(self.winners, width):
            run(self.con, statement)
        self._drop()

    def plain(self) -> None:
        """Rows without a created timestamp: the last event by the moment wins, under both clocks."""
        width = self.of.width
        kept = run(self.con, sql.history_table(self._keys, self.of.keyset, self._rows, width, created=False))[0][0]
        run(self.con, sql.FOUND)
        found = self._find(kept, self._asks, sql.EVENTS, late="false")
        answered = run(self.con, sql.plain_winners(self.winners, width))[0][0]
        if answered > found:
            run(self.con, sql.PLAIN_GROUPS)
            self._settle("history", ("u", "e"))
            for statement in sql.plain_settled(self.winners, width):
                run(self.con, statement)
        self._drop()

    def steps(self, hidden: str, *, created: bool) -> bool:
        """Each key has steps, the moments at which its winner changes: the last one by then.

        The last event wins if it had arrived, and mostly it had; only where it had not are arrivals looked at.

        Returns whether there is a table of rows that the clock hides.
        """
        width = self.of.width
        kept = run(self.con, sql.history_table(self._keys, self.of.keyset, self._rows, width, created=True))[0][0]
        run(self.con, sql.FOUND)
        self._find(kept, self._asks, sql.EVENTS, late="false")
        run(self.con, sql.BEST)
        late = created and run(self.con, sql.LATE)[0][0] > 0
        if late and run(self.con, sql.hidden_table(hidden, self._asks))[0][0]:
            for statement in sql.late_steps(hidden):
                run(self.con, statement)
            self._find(kept, hidden, sql.STEPS, late="true")
            run(self.con, sql.LATE_BEST)
        tied = run(self.con, sql.TIES)[0][0] > 0
        if tied:
            run(self.con, sql.GROUPS)
            self._settle("history", ("u", "e", "c"))
        run(self.con, sql.winners_table(self.winners, width, tied=tied))
        self._drop()
        return late

    def _find(self, kept: int, asks: str, steps: str, *, late: str) -> int:
        """Find the last step by each ask's moment, in as many passes as were decided on; gives how many have one."""
        decided = self.asked.decide(kept)
        found = 0
        for part in strategy.parts(self.asked.asking, decided.passes):
            last = sql.last_steps(decided.strategy, asks, steps, part)
            found += run(self.con, sql.found_rows(late, last))[0][0]
        return found

    @property
    def _keys(self) -> str:
        return _named("keys", self.of.keyset)

    @property
    def _asks(self) -> str:
        return _named("asks", self.of.keyset)

    @property
    def _rows(self) -> str:
        return self.of.rows(self.asked.last, [one.features for one in self.of.lookups])

    def _settle(self, kept: str, times: Sequence[str]) -> None:
        """From the table ``groups`` of ties make the table ``settled``: each view's own features decide, all of them.

        ``kept`` has the rows that were read, and ``times`` are its columns that tell groups apart.
        """
        lookups = self.of.lookups
        every = tuple(replace(one, features=tuple(each.name for each in one.view.features)) for one in lookups)
        if self.of.whole:
            read = self.of
            run(self.con, sql.tied_kept_table(kept, times, read.width))
        else:
            read = replace(self.of, lookups=every)
            tied = read.rows(self.asked.last, [one.features for one in every])
            run(self.con, sql.tied_rows_table(self._keys, read.keyset, tied, read.width))
        chosen: list[list[str]] = []
        for number, (one, known, held) in enumerate(zip(lookups, read.lookups, read.brought(), strict=True)):
            column = dict(zip(known.features, held, strict=True))
            features = one.view.features
            picked_table(self.con, features, [column[each.name] for each in features], f"picked_{number}")
            chosen.append([column[name] for name in one.features])
        run(self.con, sql.settled_table(chosen))
        for number in range(len(lookups)):
            run(self.con, f"DROP TABLE picked_{number}")

    def _drop(self) -> None:
        for table in sql.STEP_TABLES:
            run(self.con, f"DROP TABLE IF EXISTS {table}")


def joined(
    con: duckdb.DuckDBPyConnection, spool: spines.Spool, schema: Any, answers: Sequence[Answer], count: int
) -> Iterator[Joined]:
    """The spine's batches with their answers, ``count`` rows in all; one batch without rows when there are none."""
    for keyset in {one.of.keyset for one in answers}:
        run(con, f"DROP TABLE {_named('keys', keyset)}")
        if not any(one.one for one in answers if one.of.keyset == keyset):
            run(con, f"DROP TABLE {_named('asks', keyset)}")
    with closing(_ordered(con, answers, count)) as ordered:
        if not count:
            yield _one(spines.no_rows(schema), next(ordered), answers)
            return
        raw = spines.rebatched(ordered, spines.BATCH_ROWS)
        for batch in _waiting(spool):
            yield _one(batch, next(raw), answers)


def _waiting(spool: spines.Spool) -> Iterator[Any]:
    with _short_of_memory(spool):
        yield from spool.batches()


def _ordered(con: duckdb.DuckDBPyConnection, answers: Sequence[Answer], count: int) -> Generator[Any]:
    """The answers by ``_row``, one range of rows after another: all at once would be hash tables of all winners."""
    wanted = sql.commas(["s.t"], (one for answer in answers for one in answer.columns))
    step = strategy.range_rows(sum(len(one.of.lookups) for one in answers), _memory(con), count)
    for first in range(0, max(1, count), step):
        within = f"_row BETWEEN {first} AND {first + step - 1}"
        tables = "".join(answer.joins(within) for answer in answers)
        query = f"SELECT {wanted} FROM (SELECT * FROM spine WHERE {within}) s{tables} ORDER BY s._row"
        with _short_of_memory(), interruptible():
            reader = con.sql(query).to_arrow_reader(spines.BATCH_ROWS)
            with closing(reader):
                if not count:
                    yield spines.no_rows(reader.schema)
                yield from reader


@contextmanager
def _short_of_memory(spool: spines.Spool | None = None) -> Generator[None]:
    """For statements about temporary tables only, and for the spool: what fails there is memory or disk."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        reason = full(spool.folder().parent) if spool is not None and isinstance(error, OSError) else shortage(error)
        raise SourceError(f"the join: {reason or SHORT}") from None


def _memory(con: duckdb.DuckDBPyConnection) -> int:
    return strategy.size(run(con, "SELECT value FROM duckdb_settings() WHERE name = 'memory_limit'")[0][0])


def _one(batch: Any, raw: Any, answers: Sequence[Answer]) -> Joined:
    at = raw.column("t").view(columns.TIMESTAMP)
    found = {place: one for each in answers for place, one in _found(each, raw)}
    return Joined(spine=batch, at=at, found=tuple(found[place] for place in sorted(found)))


def _found(answer: Answer, raw: Any) -> Iterator[tuple[int, FoundColumns]]:
    """The place of each lookup and its columns."""
    count = raw.num_rows
    for place, lookup, held in zip(answer.of.places, answer.of.lookups, answer.of.brought(), strict=True):
        features = [lookup.view.feature(name) for name in lookup.features]
        if not answer.found:
            nothing = tuple(pa.nulls(count, one.dtype.arrow()) for one in features)
            yield place, FoundColumns(event=pa.nulls(count, columns.TIMESTAMP), columns=nothing, hidden=_falses(count))
            continue
        arrays: list[Any] = []
        invalid: dict[int, tuple[str, str]] = {}
        for name, feature in zip(held, features, strict=True):
            made = carried.canonical(feature.dtype, raw.column(f"v{answer.number}_{name[1:]}"))
            arrays.append(made.array)
            for row, reason in made.invalid.items():
                invalid.setdefault(row, (feature.name, reason))
        event, marks = raw.column(f"e{answer.number}").view(columns.TIMESTAMP), f"h{answer.number}"
        hidden = raw.column(marks) if marks in raw.schema.names else _falses(count)
        yield place, FoundColumns(event=event, columns=tuple(arrays), invalid=invalid, hidden=hidden)


def _falses(count: int) -> Any:
    return pa.repeat(columns.FALSE, count)
