"""The point-in-time join, step by step: spine in, one table of winners per lookup, batches out."""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# ruff: noqa: S608
from __future__ import annotations

from array import array
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from llmfeatures import columns
from llmfeatures.errors import SourceError
from llmfeatures.offline import spine as spines
from llmfeatures.offline import sql, strategy
from llmfeatures.offline.aggregate import aggregated_winners
from llmfeatures.offline.sources import Described, describe, rows, run, translated
from llmfeatures.offline.strategy import Asking, Decision
from llmfeatures.offline.ties import picked_table
from llmfeatures.ports import ClockName, FoundColumns, Joined, JoinStep, Lookup
from llmfeatures.types import DType

_TIMESTAMP = DType("timestamp").arrow()
_LOAD_ROWS = 5 * spines.BATCH_ROWS


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
    """``first, first + 1, …``, from their bytes: from Python numbers, pyarrow would import pandas."""
    return pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(array("q", range(first, first + count)))])


def load(con: duckdb.DuckDBPyConnection, opened: spines.Spine, asked: Asked, spool: spines.Spool | None) -> int:
    """Read the spine once: what the join needs into tables of DuckDB, the whole into the spool if there is one.

    Returns the number of its rows.
    """
    short = [f"{name} {sql.key_type(dtype)}" for (_, dtype), name in asked.columns.items()]
    run(con, f"CREATE TEMP TABLE spine ({sql.commas(['_row BIGINT', 't BIGINT'], short)})")
    number = 0
    pending: list[Any] = []
    for batch in spines.rebatched(opened.batches, spines.BATCH_ROWS):
        if spool is not None:
            spool.add(batch)
        pending.append(asked.table(batch, number))
        number += batch.num_rows
        if len(pending) * spines.BATCH_ROWS >= _LOAD_ROWS:
            _insert(con, pending)
    _insert(con, pending)
    for keyset in dict.fromkeys(asked.keysets):
        run(con, sql.keys_table(_named("keys", keyset), keyset))
        run(con, sql.asks_table(_named("asks", keyset), _named("keys", keyset), keyset))
    return number


def _insert(con: duckdb.DuckDBPyConnection, pending: list[Any]) -> None:
    if pending:
        con.register("arriving", pa.concat_tables(pending))
        run(con, "INSERT INTO spine SELECT * FROM arriving")
        con.unregister("arriving")
        pending.clear()


def _named(prefix: str, keyset: tuple[str, ...]) -> str:
    return "_".join([prefix, *keyset])


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answers to one lookup.

    The table ``winners_N`` has ``e, v0…`` of the winners by ``_row``; or by the number ``u`` of the key, and ``hidden``
    with it, when each key is asked for at ``one`` moment only. Else the table ``hidden_N``, if any, has those rows, or
    the winners are ``marked`` with ``hidden`` themselves.
    """

    lookup: Lookup
    number: int
    keyset: tuple[str, ...]
    found: bool = True
    one: bool = False
    hidden: bool = False
    marked: bool = False

    @property
    def columns(self) -> list[str]:
        """The columns of the final query for this lookup."""
        if not self.found:
            return []
        one = f"coalesce(w{self.number}.hidden, false)"
        hidden = one if self.one or self.marked else f"h{self.number}._row IS NOT NULL" if self.hidden else "false"
        values = [f"w{self.number}.v{i} AS v{self.number}_{i}" for i in range(len(self.lookup.features))]
        return [f"w{self.number}.e AS e{self.number}", f"{hidden} AS h{self.number}", *values]

    def joins(self, within: str) -> str:
        """The tables of the final query for this lookup; ``within`` is the condition on ``_row``."""
        number = self.number
        if not self.found:
            return ""

        def joined(table: str, short: str) -> str:
            alias = f"{short}{number}"
            return f" LEFT JOIN (SELECT * FROM {table} WHERE {within}) {alias} ON {alias}._row = s._row"

        if self.one:
            asks = joined(_named("asks", self.keyset), "a")
            return f"{asks} LEFT JOIN winners_{number} w{number} ON w{number}.u = a{number}.u"
        return joined(f"winners_{number}", "w") + (joined(f"hidden_{number}", "h") if self.hidden else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asks:
    """What a spine asks of one set of key columns, and under which limit and forced strategy it is answered."""

    keyset: tuple[str, ...]
    asking: Asking
    memory: int
    forced: str | None

    @classmethod
    def of(cls, con: duckdb.DuckDBPyConnection, keyset: tuple[str, ...], forced: str | None) -> Asks:
        """Look at the loaded keys."""
        keys, asks, most, one = run(con, sql.asking(_named("keys", keyset)))[0]
        asking = Asking(keys=keys, asks=asks, most=most, one=one)
        return cls(keyset=keyset, asking=asking, memory=_memory(con), forced=forced)

    def decide(self, rows: int) -> Decision:
        """The strategy for a history that has so many rows for these asks."""
        return strategy.decide(self.asking, rows, self.memory, self.forced)


def answer(
    con: duckdb.DuckDBPyConnection, root: Path, number: int, asks: Asks, lookup: Lookup, clock: ClockName
) -> Answer:
    """Find the winner of each spine row for one lookup.

    Raises:
        SourceError: the view's source is not what the registry says.
    """
    described = describe(con, root, lookup.view)
    keyset = asks.keyset
    if not described:
        return Answer(lookup=lookup, number=number, keyset=keyset, found=False)
    if lookup.view.aggregates:
        with translated(lookup.view, root):
            aggregated_winners(con, root, number, keyset, lookup, clock)
        return Answer(lookup=lookup, number=number, keyset=keyset, marked=True)
    has_created = any(one.relation.created is not None for one in described)
    created = clock == "known" and has_created
    search = _Search(con, lookup, described, f"winners_{number}", asks)
    with translated(lookup.view, root):
        if asks.asking.one and asks.forced is None:
            search.newest(created=created)
            return Answer(lookup=lookup, number=number, keyset=keyset, one=True)
        if not has_created:
            search.plain()
            return Answer(lookup=lookup, number=number, keyset=keyset)
        hidden = search.steps(f"hidden_{number}", created=created)
    return Answer(lookup=lookup, number=number, keyset=keyset, hidden=hidden)


def explained(con: duckdb.DuckDBPyConnection, root: Path, asks: Asks, lookup: Lookup) -> JoinStep:
    """What `answer` will do for one lookup. Reads keys and event timestamps of the history, to count its rows.

    Raises:
        SourceError: the view's source is not what the registry says.
    """
    described = describe(con, root, lookup.view)
    asking, names = asks.asking, (lookup.view.name,)
    if not described:
        reason = "rows that are only pushed have no history to join"
        return JoinStep(
            views=names, strategy="none", passes=0, reason=reason, rows=0, asks=asking.asks, keys=asking.keys
        )
    with translated(lookup.view, root):
        kept = run(con, sql.history_rows(_named("keys", asks.keyset), asks.keyset, rows(described, [])))[0][0]
    decided = asks.decide(kept)
    if lookup.view.aggregates:
        decided = Decision(strategy="windows", reason=f"the events of each window are aggregated, of {kept:,} in all")
    return JoinStep(
        views=names,
        strategy=decided.strategy,
        passes=decided.passes,
        reason=decided.reason,
        rows=kept,
        asks=asking.asks,
        keys=asking.keys,
    )


@dataclass(frozen=True, slots=True)
class _Search:
    """The search for one lookup's winners."""

    con: duckdb.DuckDBPyConnection
    lookup: Lookup
    described: Sequence[Described]
    winners: str
    asked: Asks

    def newest(self, *, created: bool) -> None:
        """Each key is asked for at one moment only: its newest row by then."""
        count = len(self.lookup.features)
        statement = sql.newest_table(self.winners, self._keys, self._keyset, self._rows, count, created=created)
        found = run(self.con, statement)[0][0]
        if found <= 1 or not run(self.con, sql.newest_ties(self.winners))[0][0]:
            return
        run(self.con, sql.newest_groups(self.winners))
        for settle in sql.newest_settled(self.winners, self._pick()):
            run(self.con, settle)
        self._drop()

    def plain(self) -> None:
        """Rows without a created timestamp: the last event by the moment wins, under both clocks."""
        count = len(self.lookup.features)
        kept = run(self.con, sql.history_table(self._keys, self._keyset, self._rows, count, created=False))[0][0]
        run(self.con, sql.FOUND)
        found = self._find(kept, self._asks, sql.EVENTS, late="false")
        answered = run(self.con, sql.plain_winners(self.winners, sql.names("v", count)))[0][0]
        if answered > found:
            run(self.con, sql.PLAIN_GROUPS)
            for statement in sql.plain_settled(self.winners, self._pick()):
                run(self.con, statement)
        self._drop()

    def steps(self, hidden: str, *, created: bool) -> bool:
        """Each key has steps, the moments at which its winner changes: the last one by then.

        The last event wins if it had arrived, and mostly it had; only where it had not are arrivals looked at.

        Returns whether there is a table of rows that the clock hides.
        """
        count = len(self.lookup.features)
        kept = run(self.con, sql.history_table(self._keys, self._keyset, self._rows, count, created=True))[0][0]
        run(self.con, sql.FOUND)
        self._find(kept, self._asks, sql.EVENTS, late="false")
        run(self.con, sql.BEST)
        late = created and run(self.con, sql.LATE)[0][0] > 0
        if late and run(self.con, sql.hidden_table(hidden, self._asks))[0][0]:
            for statement in sql.late_steps(hidden):
                run(self.con, statement)
            self._find(kept, hidden, sql.STEPS, late="true")
            run(self.con, sql.LATE_BEST)
        tied: list[str] | None = None
        if run(self.con, sql.TIES)[0][0]:
            run(self.con, sql.GROUPS)
            tied = self._pick()
        run(self.con, sql.winners_table(self.winners, sql.names("v", count), tied))
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
    def _keyset(self) -> tuple[str, ...]:
        return self.asked.keyset

    @property
    def _keys(self) -> str:
        return _named("keys", self._keyset)

    @property
    def _asks(self) -> str:
        return _named("asks", self._keyset)

    @property
    def _rows(self) -> str:
        return rows(self.described, self.lookup.features)

    def _pick(self) -> list[str]:
        """Settle the table ``groups`` of ties; gives the names of the lookup's features in the table ``tied``."""
        names = [one.name for one in self.lookup.view.features]
        all_rows = rows(self.described, names)
        run(self.con, sql.tied_rows_table(self._keys, self._keyset, all_rows, len(names)))
        picked_table(self.con, self.lookup.view.features)
        return [f"v{names.index(one)}" for one in self.lookup.features]

    def _drop(self) -> None:
        for table in sql.STEP_TABLES:
            run(self.con, f"DROP TABLE IF EXISTS {table}")


def joined(
    con: duckdb.DuckDBPyConnection, spool: spines.Spool, schema: Any, answers: Sequence[Answer], count: int
) -> Iterator[Joined]:
    """The spine's batches with their answers, ``count`` rows in all; one batch without rows when there are none."""
    with closing(_ordered(con, answers, count)) as ordered:
        if not count:
            yield _one(spines.no_rows(schema), next(ordered), answers)
            return
        raw = spines.rebatched(ordered, spines.BATCH_ROWS)
        for batch in spool.batches():
            yield _one(batch, next(raw), answers)


def _ordered(con: duckdb.DuckDBPyConnection, answers: Sequence[Answer], count: int) -> Generator[Any]:
    """The answers by ``_row``, one range of rows after another: all at once would be hash tables of all winners."""
    wanted = sql.commas(["s.t"], (one for answer in answers for one in answer.columns))
    step = strategy.range_rows(len(answers), _memory(con))
    for first in range(0, max(1, count), step):
        within = f"_row BETWEEN {first} AND {first + step - 1}"
        tables = "".join(answer.joins(within) for answer in answers)
        query = f"SELECT {wanted} FROM (SELECT * FROM spine WHERE {within}) s{tables} ORDER BY s._row"
        with _short_of_memory():
            reader = con.sql(query).to_arrow_reader(spines.BATCH_ROWS)
            with closing(reader):
                if not count:
                    yield spines.no_rows(reader.schema)
                yield from reader


@contextmanager
def _short_of_memory() -> Generator[None]:
    """The final query reads temporary tables only: what fails there is memory or disk."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError):
        raise SourceError(
            "the join ran out of memory or temporary disk; raise memory_limit under [offline], or free some disk"
        ) from None


def _memory(con: duckdb.DuckDBPyConnection) -> int:
    return strategy.size(run(con, "SELECT value FROM duckdb_settings() WHERE name = 'memory_limit'")[0][0])


def _one(batch: Any, raw: Any, answers: Sequence[Answer]) -> Joined:
    at = raw.column("t").view(_TIMESTAMP)
    return Joined(spine=batch, at=at, found=tuple(_found(one, raw) for one in answers))


def _found(answer: Answer, raw: Any) -> FoundColumns:
    features = [answer.lookup.view.feature(name) for name in answer.lookup.features]
    count = raw.num_rows
    if not answer.found:
        nothing = tuple(pa.nulls(count, one.dtype.arrow()) for one in features)
        return FoundColumns(event=pa.nulls(count, _TIMESTAMP), columns=nothing, hidden=_falses(count))
    arrays: list[Any] = []
    invalid: dict[int, tuple[str, str]] = {}
    for number, feature in enumerate(features):
        made = columns.canonical(feature.dtype, raw.column(f"v{answer.number}_{number}"))
        arrays.append(made.array)
        for row, reason in made.invalid.items():
            invalid.setdefault(row, (feature.name, reason))
    event = raw.column(f"e{answer.number}").view(_TIMESTAMP)
    return FoundColumns(event=event, columns=tuple(arrays), invalid=invalid, hidden=raw.column(f"h{answer.number}"))


def _falses(count: int) -> Any:
    return pa.repeat(pa.scalar(value=False), count)
