"""A vector database that is spoken to in asyncio, as a document store for threads and one for event loops."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar

from llmfeatures.errors import LLMFeaturesError, RetrieverError, RetrieverUnavailableError
from llmfeatures.ports import Document, DocumentQuery, DocumentRecord, IndexMeta
from llmfeatures.retrieval.background import arun, closed, opened, run
from llmfeatures.retrieval.wire import check_filled, check_fit, check_query, late, never_filled
from llmfeatures.retriever import Retriever, Tier

T = TypeVar("T")

AT_ONCE: Final = 16
"""Searches of one call that are under way together."""
_CONNECTING: Final = 3.0
"""Seconds for what comes before a first search: one that is away should not hold up the first call for long."""
_NEVER: Final = float("-inf")
_CHANGE: Final = 60.0
"""Seconds for one change, or one page of keys."""
_PORTION: Final = 100
"""Records in one change."""
_TRUSTED: Final = 10.0
"""Seconds for which an index is taken to be what it was, while documents are found in it."""


class Remote(Protocol):
    """One retriever's documents in a database, in one event loop. Methods raise the errors of its client, and
    `RetrieverError` and `FormatError` for what they find themselves."""

    async def find(self, query: DocumentQuery) -> list[Document]:
        """The documents of a query, as `DocumentStore.search`."""
        ...

    async def meta(self) -> IndexMeta | None:
        """As `DocumentIndex.meta`."""
        ...

    async def make(self, meta: IndexMeta, *, replace: bool) -> None:
        """Make the index, which is not there, or with ``replace`` may be."""
        ...

    async def page(self, after: str | None) -> tuple[list[str], str | None]:
        """Some keys, and what to ask for next; None: these are the last."""
        ...

    async def write(self, records: Sequence[DocumentRecord]) -> None:
        """As `DocumentIndex.write`."""
        ...

    async def remove(self, keys: Sequence[str]) -> None:
        """As `DocumentIndex.remove`."""
        ...

    async def mark(self, meta: IndexMeta) -> None:
        """Record what the index says of itself."""
        ...

    async def aclose(self) -> None:
        """Give back the connections."""
        ...

    def translated(self, error: Exception) -> LLMFeaturesError:
        """An error of the client as one of ours."""
        ...


class _Line:
    """Opens a `Remote` where it is first used, in the loop that all of them share, and bounds what it does."""

    def __init__(self, retriever: Retriever, connect: Callable[[], Remote], where: str) -> None:
        self.retriever, self.where, self._connect = retriever, where, connect
        self._opened: tuple[int, Remote] | None = None
        self._seen = _NEVER

    @property
    def used(self) -> bool:
        """Whether it is open."""
        return self._opened is not None

    def remote(self) -> Remote:
        """In the shared loop only, and so one at a time."""
        held = self._opened
        if held is None or held[0] != os.getpid():
            held = self._opened = os.getpid(), self._connect()
            opened(held[1])
        return held[1]

    async def bounded(self, work: Callable[[Remote], Coroutine[Any, Any, T]], seconds: float) -> T:
        """What ``work`` gives, in time, or one of our errors."""
        remote: Remote | None = None
        try:
            async with asyncio.timeout(seconds):
                remote = self.remote()
                return await work(remote)
        except LLMFeaturesError:
            raise
        except TimeoutError as error:
            raise late(self.retriever.name) from error
        except Exception as error:
            if remote is None:  # not even opened: a key that is no header, say
                name, kind = self.retriever.name, type(error).__name__
                raise RetrieverError(
                    f"retriever {name!r}: {self.where} cannot be opened with this key ({kind})"
                ) from None
            if not self.used:
                raise RetrieverUnavailableError(f"retriever {self.retriever.name!r} was closed meanwhile") from error
            raise remote.translated(error) from error

    async def search(self, queries: Sequence[DocumentQuery], seconds: float) -> list[list[Document]]:
        """As `DocumentStore.search`."""
        return await self.bounded(lambda remote: self._search(remote, queries), seconds) if queries else []

    async def _search(self, remote: Remote, queries: Sequence[DocumentQuery]) -> list[list[Document]]:
        for query in queries:
            check_query(self.retriever, query)
        if time.monotonic() - self._seen > _TRUSTED:
            await self._check(remote)
        slots = asyncio.Semaphore(AT_ONCE)

        async def find(query: DocumentQuery) -> list[Document]:
            async with slots:
                return await remote.find(query)

        tasks = [asyncio.ensure_future(find(query)) for query in queries]
        try:
            found = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        if [] in found:
            await self._check(remote)
        return found

    async def prepare(self) -> None:
        """As `Prepared.prepare`: connect, and look at the index."""
        await self.bounded(self._check, _CONNECTING)

    async def _check(self, remote: Remote) -> None:
        """That the index is there, is filled, and is of this retriever."""
        self._seen = _NEVER
        check_filled(self.retriever, await remote.meta())
        self._seen = time.monotonic()

    async def begin(self, remote: Remote, meta: IndexMeta, *, replace: bool) -> None:
        """As `DocumentIndex.begin`."""
        self._seen = _NEVER
        found = None if replace else await remote.meta()
        if found is None:
            await remote.make(meta, replace=replace)
        else:
            check_fit(self.retriever.name, found, meta)

    async def page(self, remote: Remote, after: str | None) -> tuple[list[str], str | None]:
        """As `Remote.page`."""
        if after is None and await remote.meta() is None:
            raise never_filled(self.retriever.name)
        return await remote.page(after)

    async def close(self) -> None:
        """As `DocumentStore.close`."""
        held, self._opened, self._seen = self._opened, None, _NEVER
        if held is not None and held[0] == os.getpid():
            closed(held[1])
            await held[1].aclose()


class RemoteStore:
    """`llmfeatures.ports.DocumentIndex` in a vector database. Its tier is ``filtered``.

    Args:
        retriever: whose documents.
        connect: opens the database; called in the loop that all remote stores share.
        where: the database in a message, without a key.
        timeout: seconds that a search may take.
    """

    def __init__(self, retriever: Retriever, connect: Callable[[], Remote], where: str, *, timeout: float) -> None:
        self._line, self._timeout = _Line(retriever, connect, where), timeout

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._line.where!r}, {self._line.retriever.name!r})"

    @property
    def tier(self) -> Tier:
        """``filtered``: the database's own index searches, under a filter of time."""
        return "filtered"

    def search(self, queries: Sequence[DocumentQuery], *, timeout: float | None = None) -> list[list[Document]]:
        """As `DocumentStore.search`."""
        return run(self._line.search(queries, self._timeout if timeout is None else timeout))

    def prepare(self) -> None:
        """As `Prepared.prepare`: connect, within a few seconds."""
        run(self._line.prepare())

    def meta(self) -> IndexMeta | None:
        """As `DocumentIndex.meta`."""
        return run(self._line.bounded(lambda remote: remote.meta(), _CHANGE))

    def begin(self, meta: IndexMeta, *, replace: bool = False) -> None:
        """As `DocumentIndex.begin`."""
        run(self._line.bounded(lambda remote: self._line.begin(remote, meta, replace=replace), _CHANGE))

    def keys(self) -> Iterator[str]:
        """As `DocumentIndex.keys`."""
        after: str | None = None
        while True:
            found, after = run(self._line.bounded(lambda remote, after=after: self._line.page(remote, after), _CHANGE))
            yield from found
            if after is None:
                return

    def write(self, records: Sequence[DocumentRecord]) -> None:
        """As `DocumentIndex.write`."""
        for start in range(0, len(records), _PORTION):
            portion = records[start : start + _PORTION]
            run(self._line.bounded(lambda remote, portion=portion: remote.write(portion), _CHANGE))

    def remove(self, keys: Sequence[str]) -> None:
        """As `DocumentIndex.remove`."""
        for start in range(0, len(keys), _PORTION):
            portion = keys[start : start + _PORTION]
            run(self._line.bounded(lambda remote, portion=portion: remote.remove(portion), _CHANGE))

    def complete(self, meta: IndexMeta) -> None:
        """As `DocumentIndex.complete`."""
        run(self._line.bounded(lambda remote: remote.mark(meta), _CHANGE))

    def close(self) -> None:
        """As `DocumentStore.close`."""
        if self._line.used:
            run(self._line.close())


class AsyncRemoteStore:
    """`llmfeatures.ports.AsyncDocumentStore`, as `RemoteStore`; usable from any event loop."""

    def __init__(self, retriever: Retriever, connect: Callable[[], Remote], where: str, *, timeout: float) -> None:
        self._line, self._timeout = _Line(retriever, connect, where), timeout

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._line.where!r}, {self._line.retriever.name!r})"

    @property
    def tier(self) -> Tier:
        """As `RemoteStore.tier`."""
        return "filtered"

    async def search(self, queries: Sequence[DocumentQuery], *, timeout: float | None = None) -> list[list[Document]]:
        """As `AsyncDocumentStore.search`."""
        return await arun(self._line.search(queries, self._timeout if timeout is None else timeout))

    def prepare(self) -> None:
        """As `RemoteStore.prepare`; it blocks, and is not for a thread with an event loop."""
        run(self._line.prepare())

    async def aclose(self) -> None:
        """As `AsyncDocumentStore.aclose`."""
        if self._line.used:
            await arun(self._line.close())
