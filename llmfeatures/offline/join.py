"""The point-in-time join, step by step: spine in, one table of winners per lookup, batches out."""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# ruff: noqa: S608
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from llmfeatures import columns
from llmfeatures.errors import SourceError
from llmfeatures.offline import spine as spines
from llmfeatures.offline import sql
from llmfeatures.offline.sources import Described, describe, rows, run, translated
from llmfeatures.offline.ties import picked_table
from llmfeatures.ports import ClockName, FoundColumns, Joined, Lookup
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
            "_row": pa.array(range(first, first + batch.num_rows), pa.int64()),
            "t": spines.moments(self.timestamp, batch.column(batch.schema.names.index(self.timestamp)), first),
        }
        for (name, dtype), short in self.columns.items():
            arrays[short] = spines.key(dtype, batch.column(batch.schema.names.index(name)))
        return pa.table(arrays)


def load(con: duckdb.DuckDBPyConnection, opened: spines.Spine, asked: Asked, spool: spines.Spool) -> int:
    """Read the spine once: what the join needs into tables of DuckDB, the rest into the spool; gives its rows."""
    short = [f"{name} {sql.key_type(dtype)}" for (_, dtype), name in asked.columns.items()]
    run(con, f"CREATE TEMP TABLE spine ({sql.commas(['_row BIGINT', 't BIGINT'], short)})")
    number = 0
    pending: list[Any] = []
    for batch in spines.rebatched(opened.batches, spines.BATCH_ROWS):
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
    with it, when each key is asked for at ``one`` moment only. Else the table ``hidden_N``, if any, has those rows.
    """

    lookup: Lookup
    number: int
    keyset: tuple[str, ...]
    found: bool = True
    one: bool = False
    hidden: bool = False

    @property
    def columns(self) -> list[str]:
        """The columns of the final query for this lookup."""
        if not self.found:
            return []
        one = f"coalesce(w{self.number}.hidden, false)"
        hidden = one if self.one else f"h{self.number}._row IS NOT NULL" if self.hidden else "false"
        values = [f"w{self.number}.v{i} AS v{self.number}_{i}" for i in range(len(self.lookup.features))]
        return [f"w{self.number}.e AS e{self.number}", f"{hidden} AS h{self.number}", *values]

    @property
    def joins(self) -> str:
        """The tables of the final query for this lookup."""
        winners, hidden = f"winners_{self.number} w{self.number}", f"hidden_{self.number} h{self.number}"
        if not self.found:
            return ""
        if self.one:
            asks = f"{_named('asks', self.keyset)} a{self.number}"
            return (
                f" LEFT JOIN {asks} ON a{self.number}._row = s._row"
                f" LEFT JOIN {winners} ON w{self.number}.u = a{self.number}.u"
            )
        joined = f" LEFT JOIN {winners} ON w{self.number}._row = s._row"
        return joined + (f" LEFT JOIN {hidden} ON h{self.number}._row = s._row" if self.hidden else "")


def answer(
    con: duckdb.DuckDBPyConnection,
    root: Path,
    number: int,
    keyset: tuple[str, ...],
    lookup: Lookup,
    clock: ClockName,
    spine_rows: int,
) -> Answer:
    """Find the winner of each spine row for one lookup.

    Raises:
        SourceError: the view's source is not what the registry says.
    """
    described = describe(con, root, lookup.view)
    if not described:
        return Answer(lookup=lookup, number=number, keyset=keyset, found=False)
    created = clock == "known" and any(one.relation.created is not None for one in described)
    search = _Search(con, lookup, described, f"winners_{number}", _named("keys", keyset), keyset)
    with translated(lookup.view, root):
        if spine_rows == 1 or run(con, sql.one_moment(search.keys))[0][0]:
            search.newest(created=created, single=spine_rows == 1)
            return Answer(lookup=lookup, number=number, keyset=keyset, one=True)
        hidden = search.steps(_named("asks", keyset), f"hidden_{number}", created=created)
    return Answer(lookup=lookup, number=number, keyset=keyset, hidden=hidden)


@dataclass(frozen=True, slots=True)
class _Search:
    """The search for one lookup's winners, in one of two ways."""

    con: duckdb.DuckDBPyConnection
    lookup: Lookup
    described: Sequence[Described]
    winners: str
    keys: str
    keyset: tuple[str, ...]

    def newest(self, *, created: bool, single: bool) -> None:
        """Each key is asked for at one moment only: its newest row by then."""
        count = len(self.lookup.features)
        statement = sql.newest_table(self.winners, self.keys, self.keyset, self._rows, count, created=created)
        found = run(self.con, statement)[0][0]
        if found <= 1 if single else not run(self.con, sql.newest_ties(self.winners))[0][0]:
            return
        run(self.con, sql.newest_groups(self.winners))
        for settle in sql.newest_settled(self.winners, self._pick()):
            run(self.con, settle)
        self._drop()

    def steps(self, asks: str, hidden: str, *, created: bool) -> bool:
        """Each key has steps, the moments at which its winner changes: the last one by then.

        The last event wins if it had arrived, and mostly it had; only where it had not are arrivals looked at.

        Returns whether there is a table of rows that the clock hides.
        """
        count = len(self.lookup.features)
        run(self.con, sql.history_table(self.keys, self.keyset, self._rows, count))
        run(self.con, sql.found_table(asks))
        run(self.con, sql.BEST)
        late = created and run(self.con, sql.LATE)[0][0] > 0
        if late and run(self.con, sql.hidden_table(hidden, asks))[0][0]:
            for statement in sql.late_steps(hidden):
                run(self.con, statement)
        tied: list[str] | None = None
        if run(self.con, sql.TIES)[0][0]:
            run(self.con, sql.GROUPS)
            tied = self._pick()
        run(self.con, sql.winners_table(self.winners, sql.names("v", count), tied))
        self._drop()
        return late

    @property
    def _rows(self) -> str:
        return rows(self.described, self.lookup.features)

    def _pick(self) -> list[str]:
        """Settle the table ``groups`` of ties; gives the names of the lookup's features in the table ``tied``."""
        names = [one.name for one in self.lookup.view.features]
        all_rows = rows(self.described, names)
        run(self.con, sql.tied_rows_table(self.keys, self.keyset, all_rows, len(names)))
        picked_table(self.con, self.lookup.view.features)
        return [f"v{names.index(one)}" for one in self.lookup.features]

    def _drop(self) -> None:
        for table in sql.STEP_TABLES:
            run(self.con, f"DROP TABLE IF EXISTS {table}")


def joined(
    con: duckdb.DuckDBPyConnection, spool: spines.Spool, schema: Any, answers: Sequence[Answer]
) -> Iterator[Joined]:
    """The spine's batches with their answers; one batch without rows when there are none."""
    wanted = sql.commas(["s.t"], (one for answer in answers for one in answer.columns))
    query = f"SELECT {wanted} FROM spine s{''.join(answer.joins for answer in answers)} ORDER BY s._row"
    with ExitStack() as stack:
        reader = con.sql(query).to_arrow_reader(spines.BATCH_ROWS)
        stack.callback(reader.close)
        raw = spines.rebatched(_checked(reader), spines.BATCH_ROWS)
        count = 0
        for batch in spool.batches():
            count += 1
            yield _one(batch, next(raw), answers)
        if not count:
            yield _one(spines.no_rows(schema), spines.no_rows(reader.schema), answers)


def _checked(reader: Any) -> Iterator[Any]:
    """The final query reads temporary tables only: what fails there is memory or disk."""
    try:
        yield from reader
    except (duckdb.Error, pa.ArrowException, OSError):
        raise SourceError(
            "the join ran out of memory or temporary disk; raise memory_limit under [offline], or free some disk"
        ) from None


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
