"""Documents in PostgreSQL with pgvector."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg

from llmfeatures.errors import FormatError, RetrieverError
from llmfeatures.pool import Pool
from llmfeatures.ports import Document, DocumentQuery, DocumentRecord, IndexMeta
from llmfeatures.retrieval import wire
from llmfeatures.retrieval.pgvector_connections import Connection, Link, connected, is_lost, settings_of, translated
from llmfeatures.retrieval.pgvector_sql import (
    INDEXABLE,
    INDEXED,
    META,
    QUERIES,
    Answer,
    Statement,
    Statements,
)
from llmfeatures.retriever import Retriever, Tier

T = TypeVar("T")
_CONNECTIONS = 32
_PAGE = 10_000
_BATCH = 500


class PgvectorStore:
    """A table per retriever. Its tier is ``filtered``: PostgreSQL filters by entity, metadata and moment; where it has
    an index of the vectors, that may miss some.

    Args:
        url: ``postgresql://…``, as libpq takes it.
        namespace: stands before the names of tables.
        retriever: whose documents.
        timeout: seconds of a search, unless it says another.

    Raises:
        ConfigError: it is no URL of PostgreSQL.
    """

    def __init__(self, url: str, namespace: str, retriever: Retriever, *, timeout: float = 1.0) -> None:
        self._settings = settings_of(url)
        self._name, self._timeout = retriever.name, timeout
        self._said = Statements(namespace, retriever)
        self._pool: Pool[Link] = Pool(Link, limit=_CONNECTIONS, keep_at_fork=True)

    @property
    def tier(self) -> Tier:
        """``filtered``."""
        return "filtered"

    def search(self, queries: Sequence[DocumentQuery], *, timeout: float | None = None) -> list[list[Document]]:
        """As `DocumentStore.search`."""
        if not queries:
            return []
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        found: list[list[Document]] = []
        for part in wire.parts(queries, QUERIES):
            found += self._run(lambda connection, part=part: self._search(connection, part, deadline), deadline)
        return found

    def close(self) -> None:
        """As `DocumentStore.close`."""
        for link in self._pool.drain():
            link.drop()
            self._pool.give(link)

    def meta(self) -> IndexMeta | None:
        """As `DocumentIndex.meta`."""
        return self._run(lambda connection: self._said.meta(self._about(connection)))

    def begin(self, meta: IndexMeta, *, replace: bool = False) -> None:
        """As `DocumentIndex.begin`."""

        def begin(connection: Connection) -> None:
            with connection.transaction():
                self._begin(connection, meta, replace=replace)

        self._run(begin)
        self._said.indexed = None

    def keys(self) -> Iterator[str]:
        """As `DocumentIndex.keys`."""
        sql = f"SELECT key FROM {self._said.table} WHERE key > %s ORDER BY key LIMIT {_PAGE}"  # noqa: S608
        last: Any = "00000000-0000-0000-0000-000000000000"
        found = self._rows(sql.replace("key >", "key >=", 1), last)
        while found:
            for (key,) in found:
                yield key.hex
            last = found[-1][0]
            found = self._rows(sql, last) if len(found) == _PAGE else []

    def write(self, records: Sequence[DocumentRecord]) -> None:
        """As `DocumentIndex.write`."""
        made = [self._said.record(one) for one in records]
        if not made:
            return

        def write(connection: Connection) -> None:
            with connection.transaction(), connection.cursor() as cursor:
                for start in range(0, len(made), _BATCH):
                    cursor.executemany(self._said.insert().encode(), made[start : start + _BATCH])

        self._run(write)

    def remove(self, keys: Sequence[str]) -> None:
        """As `DocumentIndex.remove`."""
        if keys:
            sql = f"DELETE FROM {self._said.table} WHERE key = ANY(%s::uuid[])"  # noqa: S608
            self._run(lambda connection: connection.run(sql, [list(keys)]))

    def complete(self, meta: IndexMeta) -> None:
        """As `DocumentIndex.complete`; an index of the vectors is made once there are enough."""
        self._run(lambda connection: self._complete(connection, meta))
        self._said.indexed = None

    # Searching

    def _search(
        self, connection: Connection, queries: Sequence[DocumentQuery], deadline: float
    ) -> list[list[Document]]:
        rounds = self._said.rounds(queries)
        try:
            statements = next(rounds)
            while True:
                statements = rounds.send(self._answers(connection, statements, deadline))
        except StopIteration as done:
            return done.value

    def _answers(self, connection: Connection, statements: Sequence[Statement], deadline: float) -> Answer:
        """Run statements together, in one transaction and one round trip."""
        connection.deadline = deadline
        said = [self._said.settings(wire.left(deadline, self._name), statements), self._said.about()]
        cursors: list[psycopg.Cursor[tuple[Any, ...]]] = []
        try:
            with connection.pipeline():
                for sql, parameters in (*said, *statements):
                    cursors.append(connection.cursor())
                    cursors[-1].execute(sql.encode(), parameters)
            rows = [cursor.fetchall() for cursor in cursors]
        except psycopg.DatabaseError:
            # that the index is another one by now says more than what failed because of it
            if len(cursors) > 1 and cursors[1].pgresult is not None and cursors[1].pgresult.ntuples == 1:
                wire.check_filled(self._said.retriever, self._said.meta(cursors[1].fetchone()))
            raise
        about = rows[1][0] if rows[1] else None
        return Answer(about, rows[2:])

    # Filling

    def _about(self, connection: Connection) -> tuple[Any, ...] | None:
        try:
            sql, parameters = self._said.about()
            return connection.run(sql, parameters).fetchone()
        except psycopg.errors.UndefinedTable:
            return None

    def _begin(self, connection: Connection, meta: IndexMeta, *, replace: bool) -> None:
        connection.run("SELECT pg_advisory_xact_lock(hashtext(%s))", [META])
        if connection.run("SELECT to_regclass(%s) IS NULL", [META]).fetchone() == (True,):
            connection.run(f"CREATE TABLE {META} (name text PRIMARY KEY, about jsonb NOT NULL)")
        about = self._about(connection)
        try:
            found = self._said.meta(about)
        except FormatError:
            if not replace:
                raise
            found = None
        if found is not None and not replace:
            wire.check_fit(self._name, found, meta)
            return
        if self._said.dimensions is not None:
            self._extend(connection)
        connection.run(f"DROP TABLE IF EXISTS {self._said.table}")
        for sql in self._said.make():
            connection.run(sql)
        self._record(connection, meta)

    def _extend(self, connection: Connection) -> None:
        if connection.run("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone() is not None:
            return
        try:
            with connection.transaction():
                connection.run("CREATE EXTENSION vector")
        except psycopg.DatabaseError as error:
            raise RetrieverError(
                f"retriever {self._name!r}: this database has no pgvector, and it could not be made "
                f"({type(error).__name__}); install it on the server, and run CREATE EXTENSION vector as a user who may"
            ) from None

    def _complete(self, connection: Connection, meta: IndexMeta) -> None:
        dimensions = self._said.dimensions
        if dimensions is not None and dimensions <= INDEXABLE:
            row = connection.run(
                f"SELECT count(*) FROM (SELECT FROM {self._said.table} LIMIT {INDEXED}) AS counted"  # noqa: S608
            ).fetchone()
            if row is not None and row[0] >= INDEXED:
                connection.run(
                    f"CREATE INDEX IF NOT EXISTS {self._said.index} ON {self._said.table} "
                    "USING hnsw (embedding vector_ip_ops)"
                )
        connection.run(f"ANALYZE {self._said.table}")
        self._record(connection, meta)

    def _record(self, connection: Connection, meta: IndexMeta) -> None:
        from psycopg.types.json import Jsonb

        connection.run(
            f"INSERT INTO {META} (name, about) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET about = excluded.about",  # noqa: S608
            [self._said.name, Jsonb(wire.meta_fields(meta))],
        )

    def _rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self._run(lambda connection: connection.run(sql, parameters).fetchall())

    # Connections

    def _run(self, work: Callable[[Connection], T], deadline: float | None = None) -> T:
        """Do something with a connection; once more with a new one, where an idle one has ended meanwhile."""
        with self._link(deadline) as link:
            for attempt in (1, 2):
                old = link.connection is not None
                try:
                    if link.connection is None:
                        limit = 10.0 if deadline is None else wire.left(deadline, self._name)
                        link.connection = connected(self._settings, limit)
                    link.connection.deadline = deadline
                    return work(link.connection)
                except (psycopg.Error, TimeoutError) as error:
                    lost = old and attempt == 1 and is_lost(error)
                    if link.connection is None or not is_clean(link.connection):
                        link.drop()
                    if not lost:
                        raise translated(self._name, error) from None
                except BaseException:
                    if link.connection is not None and not is_clean(link.connection):
                        link.drop()
                    raise
        raise AssertionError

    @contextmanager
    def _link(self, deadline: float | None) -> Generator[Link]:
        link = self._pool.take(time.monotonic() + 60 if deadline is None else deadline)
        if link is None:
            raise wire.late(self._name)
        try:
            yield link
        finally:
            self._pool.give(link)


def is_clean(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether a connection can be used again: no statement and no transaction is under way."""
    from psycopg.pq import PipelineStatus, TransactionStatus

    return (
        not connection.closed
        and connection.pgconn.transaction_status == TransactionStatus.IDLE
        and connection.pgconn.pipeline_status == PipelineStatus.OFF
    )
