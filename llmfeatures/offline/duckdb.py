"""The offline store over DuckDB: point-in-time joins and newest rows, spilling to disk, streamed.

Only rows tied on both timestamps, and the values of winning rows, ever leave DuckDB.
"""

# pyarrow has incomplete stubs
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false
from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from llmfeatures.offline import aggregate, entities
from llmfeatures.offline import changes as changing
from llmfeatures.offline import join as joins
from llmfeatures.offline import latest as newest
from llmfeatures.offline import spine as spines
from llmfeatures.offline.database import Database
from llmfeatures.offline.pushed import Reading
from llmfeatures.offline.sources import Described, describe, examine, label_of, problems_of, relations, run, translated
from llmfeatures.offline.strategy import checked
from llmfeatures.offline.versions import versions as source_versions
from llmfeatures.ports import ClockName, Joined, JoinStep, LatestBatch, LatestCount, Lookup, PushLog, Since
from llmfeatures.retriever import Retriever
from llmfeatures.schema import FeatureView
from llmfeatures.types import DType

if TYPE_CHECKING:
    from llmfeatures.offline.documents import ReadDocuments

_DAY = timedelta(days=1)
_MICROSECOND = timedelta(microseconds=1)


class DuckDBStore:
    """History in Parquet files and queries, read with DuckDB. Thread-safe; usable after ``fork``.

    Args:
        root: the folder that paths of sources are relative to.
        memory_limit: what DuckDB may use before it spills, like ``"4GB"``; all calls together.
        threads: how many threads it may use; None for one per core.
        temp_directory: where a private folder for spilling is made, and removed again; None for the system's.
        strategy: join every view in this way (``aggregate``, ``asof``, ``partitioned``; results are the same); None
            to choose by what is there.
        pushes: the log with the pushed rows of views that have a `PushSource`; None: nothing was pushed.
        skew: by how much the clocks of those who push may differ from one another.

    Raises:
        ConfigError: there is no such strategy.
    """

    def __init__(
        self,
        root: Path,
        *,
        memory_limit: str = "4GB",
        threads: int | None = None,
        temp_directory: str | Path | None = None,
        strategy: str | None = None,
        pushes: PushLog | None = None,
        skew: timedelta = timedelta(minutes=5),
    ) -> None:
        self.root = Path(root).absolute()
        self._memory_limit, self._threads = memory_limit, threads
        self._temp_directory = None if temp_directory is None else Path(temp_directory)
        self._strategy = checked(strategy)
        self._pushes, self._skew = pushes, skew
        self._lock = threading.Lock()
        self._database: Database | None = None
        self._reads: list[duckdb.DuckDBPyConnection] = []
        _STORES.add(self)

    def check(self, view: FeatureView) -> list[str]:
        """As `OfflineStore.check`."""
        with self._reading() as reading:
            return problems_of(reading, view)

    def advice(self, view: FeatureView) -> list[str]:
        """As `OfflineStore.advice`."""
        with self._connection() as con:
            found: list[str] = []
            for relation in relations(view):
                described, problems = examine(con, self.root, view, relation)
                if described is None or problems:
                    continue
                if relation.created is None:
                    found.append(
                        f"{label_of(view)} has no created_timestamp: an incremental materialization sees only rows "
                        "with a later event timestamp; a correction or a late row needs a full one"
                    )
                elif self._backfilled(con, described):
                    found.append(
                        f"{label_of(view)}: most rows were created long after they happened, as in a backfill; history "
                        "under the clock 'known' does not see them before: use the clock 'event' for that time"
                    )
            return found

    def _backfilled(self, con: duckdb.DuckDBPyConnection, described: Described) -> bool:
        usual = max(_DAY, described.view.cadence or _DAY) // _MICROSECOND
        with translated(described.view, self.root):
            counted = run(
                con,
                f"SELECT count(*), count(*) FILTER (c - e > {usual}) FROM ({described.rows([])}) WHERE e IS NOT NULL",
            )
        total, late = counted[0]
        return late * 2 > total

    def join(
        self,
        spine: object,
        lookups: Sequence[Lookup],
        *,
        clock: ClockName,
        timestamp: str = "event_timestamp",
        dtypes: Mapping[str, DType] | None = None,
    ) -> Iterator[Joined]:
        """As `OfflineStore.join`. A spine without rows gives one batch without rows."""
        asked = joins.Asked.of(lookups, timestamp)
        with ExitStack() as stack:
            reading = stack.enter_context(self._reading())
            con = reading.con
            opened = stack.enter_context(spines.opened(spine, asked.dtypes(dtypes or {})))
            asked.check(opened.schema)
            spool = spines.Spool(opened.schema, self._folder, opened.resident)
            stack.callback(spool.close)
            count = joins.load(con, opened, asked, spool)
            asks = self._asks(con, asked)
            answers = [
                joins.answer(reading, number, asks[group.keyset], group, clock)
                for number, group in enumerate(joins.together(reading, lookups, asked.keysets))
            ]
            yield from joins.joined(con, spool, opened.schema, answers, count)

    def explain(
        self,
        spine: object,
        lookups: Sequence[Lookup],
        *,
        clock: ClockName,
        timestamp: str = "event_timestamp",
        dtypes: Mapping[str, DType] | None = None,
    ) -> tuple[JoinStep, ...]:
        """As `OfflineStore.explain`; the spine is read whole, and of the history statistics, or else keys and event
        timestamps."""
        del clock  # what it adds is answered in the same way
        asked = joins.Asked.of(lookups, timestamp)
        with self._reading() as reading, spines.opened(spine, asked.dtypes(dtypes or {})) as opened:
            con = reading.con
            asked.check(opened.schema)
            joins.load(con, opened, asked, None)
            asks = self._asks(con, asked)
            return tuple(
                joins.explained(reading, asks[group.keyset], group)
                for group in joins.together(reading, lookups, asked.keysets)
            )

    def _asks(self, con: duckdb.DuckDBPyConnection, asked: joins.Asked) -> dict[tuple[str, ...], joins.Asks]:
        return {one: joins.Asks.of(con, one, self._strategy) for one in dict.fromkeys(asked.keysets)}

    def entity_keys(self, views: Sequence[FeatureView], *, until: datetime) -> Iterator[pa.RecordBatch]:
        """As `OfflineStore.entity_keys`."""
        with self._reading() as reading:
            yield from entities.entity_keys(reading, views, until)

    def read_spine(self, spine: object, dtypes: Mapping[str, DType] | None = None) -> pa.RecordBatchReader:
        """As `OfflineStore.read_spine`."""
        with ExitStack() as stack:
            opened = stack.enter_context(spines.opened(spine, dtypes or {}))
            return pa.RecordBatchReader.from_batches(opened.schema, _read(opened.batches, stack.pop_all()))

    def versions(self, views: Sequence[FeatureView]) -> list[str] | None:
        """As `VersionedSources.versions`."""
        found: list[str] = []
        for view in views:
            of_view = source_versions(self.root, view, self._pushes)
            if of_view is None:
                return None
            found += of_view
        return found

    def changes(self, view: FeatureView, keys: Sequence[Any], *, until: datetime, clock: ClockName) -> pa.RecordBatch:
        """As `DatedSources.changes`."""
        with self._reading() as reading:
            return changing.changes(reading, view, keys, until, clock)

    def count_latest(self, view: FeatureView, *, until: datetime, since: Since | None = None) -> LatestCount:
        """As `OfflineStore.count_latest`; the number of keys is exact."""
        with self._reading() as reading, translated(view, self.root):
            con, described = reading.con, describe(reading, view)
            if not described:
                return LatestCount(eligible=0, refused=0, keys=0)
            if view.aggregates:
                return aggregate.count(con, view, described, until, since)
            return newest.count(con, described, until, since)

    def latest(
        self,
        view: FeatureView,
        *,
        until: datetime,
        since: Since | None = None,
        batch_rows: int = 10_000,
        counted: Callable[[LatestCount], None] | None = None,
    ) -> Generator[LatestBatch]:
        """As `OfflineStore.latest`."""
        with ExitStack() as stack:
            reading = stack.enter_context(self._reading())
            stack.enter_context(translated(view, self.root))
            con, described = reading.con, describe(reading, view)
            count, query = LatestCount(eligible=0, refused=0, keys=0), ""
            if described and view.aggregates:
                if counted is not None:
                    count = aggregate.count(con, view, described, until, since)
                query = aggregate.latest(con, view, described, until, since)
            elif described:
                count, query = newest.newest(con, described, until, since)
            if counted is not None:
                counted(count)
            if not query:
                return
            reader = con.sql(query).to_arrow_reader(batch_rows)
            stack.callback(reader.close)
            for raw in spines.rebatched(reader, batch_rows):
                yield newest.latest_batch(view, raw)

    def check_documents(self, retriever: Retriever) -> list[str]:
        """As `DocumentSources.check_documents`."""
        from llmfeatures.offline import document_files

        return document_files.problems_of(self.root, retriever)

    @contextmanager
    def documents(self, retriever: Retriever) -> Generator[ReadDocuments]:
        """As `DocumentSources.documents`."""
        from llmfeatures.offline.documents import read_documents

        with self._connection() as con, read_documents(con, self.root, retriever) as found:
            yield found

    def interrupt(self) -> None:
        """As `Interruptible.interrupt`."""
        with self._lock:
            for con in self._reads:
                con.interrupt()

    def close(self) -> None:
        """As `OfflineStore.close`."""
        with self._lock:
            database, self._database = self._database, None
        if database is not None:
            database.close()

    @contextmanager
    def _connection(self) -> Generator[duckdb.DuckDBPyConnection]:
        """A connection of this call's own: its temporary tables go with it."""
        with self._lock:
            con = self._opened().con.cursor()
            self._reads.append(con)
        try:
            yield con
        finally:
            with self._lock:
                if con in self._reads:  # not in a child that was forked meanwhile
                    self._reads.remove(con)
            con.close()

    @contextmanager
    def _reading(self) -> Generator[Reading]:
        """What this call reads; pushed rows stay as they are when it looks."""
        with ExitStack() as held, self._connection() as con:
            yield Reading(con=con, root=self.root, pushes=self._pushes, skew=self._skew, stack=held)

    def _folder(self) -> Path:
        with self._lock:
            return self._opened().folder

    def _opened(self) -> Database:
        if self._database is None:
            self._database = Database(self.root, self._memory_limit, self._threads, self._temp_directory)
        return self._database

    def _forked(self) -> None:
        """In a child process: leave the parent's database alone, even its end, and start anew."""
        _OF_PARENTS.append(self._database)
        self._database = None
        self._reads = []
        self._lock = threading.Lock()


def _read(batches: Iterable[Any], stack: ExitStack) -> Iterator[Any]:
    with stack:
        yield from batches


_STORES: weakref.WeakSet[DuckDBStore] = weakref.WeakSet()
_OF_PARENTS: list[Database | None] = []
"""Databases of the process that this one was forked from: their threads are not here, so they can never be closed."""


def _after_fork() -> None:
    for store in list(_STORES):
        store._forked()  # pyright: ignore[reportPrivateUsage]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
