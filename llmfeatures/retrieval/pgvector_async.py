"""Documents in PostgreSQL with pgvector, for asyncio."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psycopg

from llmfeatures.errors import RetrieverError
from llmfeatures.ports import Document, DocumentQuery
from llmfeatures.retrieval import wire
from llmfeatures.retrieval.pgvector import is_clean
from llmfeatures.retrieval.pgvector_connections import (
    AsyncConnection,
    async_connected,
    is_lost,
    settings_of,
    translated,
)
from llmfeatures.retrieval.pgvector_sql import QUERIES, Answer, Statement, Statements
from llmfeatures.retriever import Retriever, Tier

_CONNECTIONS = 32


class _Open:
    """The connections of one event loop in one process."""

    def __init__(self) -> None:
        self.process, self.loop = os.getpid(), asyncio.get_running_loop()
        self.idle: list[AsyncConnection] = []
        self.places = asyncio.Semaphore(_CONNECTIONS)


class AsyncPgvectorStore:
    """As `llmfeatures.retrieval.pgvector.PgvectorStore`, which fills it."""

    def __init__(self, url: str, namespace: str, retriever: Retriever, *, timeout: float = 1.0) -> None:
        self._settings = settings_of(url)
        self._name, self._timeout = retriever.name, timeout
        self._said = Statements(namespace, retriever)
        self._open: list[_Open] = []
        """One per event loop; those of another process must not be closed here."""

    @property
    def tier(self) -> Tier:
        """``filtered``."""
        return "filtered"

    async def search(self, queries: Sequence[DocumentQuery], *, timeout: float | None = None) -> list[list[Document]]:
        """As `AsyncDocumentStore.search`."""
        if not queries:
            return []
        seconds = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        try:
            async with asyncio.timeout(seconds):
                found: list[list[Document]] = []
                for part in wire.parts(queries, QUERIES):
                    found += await self._search(part, deadline)
                return found
        except TimeoutError:
            raise wire.late(self._name) from None

    async def aclose(self) -> None:
        """As `AsyncDocumentStore.aclose`."""
        for opened in [one for one in self._open if one.process == os.getpid()]:
            self._end(opened)

    async def _search(self, queries: Sequence[DocumentQuery], deadline: float) -> list[list[Document]]:
        opened = self._current()
        async with opened.places:
            connection = opened.idle.pop() if opened.idle else None
            if connection is not None:
                try:
                    return await self._searched(opened, connection, queries, deadline)
                except RetrieverError as error:
                    if not isinstance(error.__cause__, psycopg.Error) or not is_lost(error.__cause__):
                        raise
            try:
                connection = await async_connected(self._settings)
            except psycopg.Error as error:
                raise translated(self._name, error) from None
            return await self._searched(opened, connection, queries, deadline)

    async def _searched(
        self, opened: _Open, connection: AsyncConnection, queries: Sequence[DocumentQuery], deadline: float
    ) -> list[list[Document]]:
        try:
            return await self._rounds(connection, queries, deadline)
        except psycopg.Error as error:
            raise translated(self._name, error) from error
        finally:
            if is_clean(connection) and opened in self._open:
                opened.idle.append(connection)
            else:
                connection.pgconn.finish()

    async def _rounds(
        self, connection: AsyncConnection, queries: Sequence[DocumentQuery], deadline: float
    ) -> list[list[Document]]:
        rounds = self._said.rounds(queries)
        try:
            statements = next(rounds)
            while True:
                statements = rounds.send(await self._answers(connection, statements, deadline))
        except StopIteration as done:
            return done.value

    async def _answers(self, connection: AsyncConnection, statements: Sequence[Statement], deadline: float) -> Answer:
        said = [self._said.settings(wire.left(deadline, self._name), statements), self._said.about()]
        cursors: list[psycopg.AsyncCursor[tuple[Any, ...]]] = []
        try:
            async with connection.pipeline():
                for sql, parameters in (*said, *statements):
                    cursors.append(connection.cursor())
                    await cursors[-1].execute(sql.encode(), parameters)
            rows = [await cursor.fetchall() for cursor in cursors]
        except psycopg.DatabaseError:
            if len(cursors) > 1 and cursors[1].pgresult is not None and cursors[1].pgresult.ntuples == 1:
                wire.check_filled(self._said.retriever, self._said.meta(await cursors[1].fetchone()))
            raise
        about = rows[1][0] if rows[1] else None
        return Answer(about, rows[2:])

    def _current(self) -> _Open:
        loop, process = asyncio.get_running_loop(), os.getpid()
        for opened in [one for one in self._open if one.process == process]:
            if opened.loop is loop:
                return opened
            if opened.loop.is_closed():
                self._end(opened)
        made = _Open()
        self._open.append(made)
        return made

    def _end(self, opened: _Open) -> None:
        with suppress(ValueError):  # another thread was first
            self._open.remove(opened)
        idle, opened.idle = opened.idle, []
        for connection in idle:
            connection.pgconn.finish()
