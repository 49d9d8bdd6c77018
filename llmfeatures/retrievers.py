"""The retrievers of a project at work, each opened when it is first used."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack
from typing import Generic, TypeVar

from llmfeatures import config as configuration
from llmfeatures.config import Config
from llmfeatures.finders import AsyncFinder, AsyncStoreFinder, Finder, StoreFinder, ThreadFinder
from llmfeatures.ports import DocumentStore, Embedder
from llmfeatures.retriever import EmbedderDefinition, Retriever
from llmfeatures.threads import SEARCHES, ForkLock

_Definition = TypeVar("_Definition", Retriever, EmbedderDefinition)
_Made = TypeVar("_Made")


class _Opened(Generic[_Definition, _Made]):
    """What was opened, by its definition: releases may have several of one name."""

    def __init__(self) -> None:
        self._made: list[tuple[_Definition, _Made]] = []

    def get(self, definition: _Definition) -> _Made | None:
        """What was opened for a definition."""
        for known, made in self._made:  # there are few, and mostly it is the very object
            if known is definition:
                return made
        return next((made for known, made in self._made if known == definition), None)

    def put(self, definition: _Definition, made: _Made) -> _Made:
        """Remember what was opened; what another thread has opened meanwhile stays."""
        known = self.get(definition)
        if known is None:
            self._made.append((definition, made))
        return made if known is None else known

    def take(self) -> list[_Made]:
        """All of them, forgotten."""
        made, self._made = self._made, []
        return [one for _, one in made]


class Retrieving:
    """Opens stores and embedders, each once. Thread-safe; usable after ``fork``."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = ForkLock()
        self._stores: _Opened[Retriever, DocumentStore] = _Opened()
        self._embedders: _Opened[EmbedderDefinition, Embedder] = _Opened()
        self._finders: _Opened[Retriever, Finder] = _Opened()

    @property
    def timeout(self) -> float:
        """Seconds that the searches of a call have together, unless the call says otherwise."""
        return self._config.retrieval.timeout.total_seconds()

    def store(self, retriever: Retriever) -> DocumentStore:
        """The store of a retriever.

        Raises:
            ConfigError: the URL is of no known kind, or what it needs is not installed.
        """
        with self._lock:
            found = self._stores.get(retriever)
            if found is None:
                found = self._stores.put(retriever, configuration.open_documents(self._config, retriever))
            return found

    def embedder(self, retriever: Retriever) -> Embedder | None:
        """The embedder of a retriever; None where it has none.

        Raises:
            ConfigError: what it needs is not installed.
        """
        wanted = retriever.embedder
        if wanted is None:
            return None
        with self._lock:
            found = self._embedders.get(wanted)
            if found is None:
                found = self._embedders.put(wanted, configuration.open_embedder(self._config, wanted))
            return found

    def finder(self, retriever: Retriever) -> Finder:
        """The finder of a retriever. Raises as `store` and `embedder`."""
        found = self._finders.get(retriever)
        if found is not None:
            return found
        made = StoreFinder(retriever.name, self.store(retriever), self.embedder(retriever))
        with self._lock:
            return self._finders.put(retriever, made)

    def for_asyncio(self) -> AsyncRetrieving:
        """The same retrievers for asyncio, with stores of their own where a store has a client for it."""
        return AsyncRetrieving(self)

    def close(self) -> None:
        """Give back what was opened; it is opened again when it is needed."""
        with self._lock:
            stores = self._stores.take()
            self._finders.take()
        with ExitStack() as closing:
            for store in stores:
                closing.callback(store.close)

    @property
    def config(self) -> Config:
        """The configuration that says where documents are."""
        return self._config


class AsyncRetrieving:
    """`Retrieving` for one asyncio builder."""

    def __init__(self, retrieving: Retrieving) -> None:
        self._retrieving = retrieving
        self._finders: _Opened[Retriever, AsyncFinder] = _Opened()

    @property
    def timeout(self) -> float:
        """As `Retrieving.timeout`."""
        return self._retrieving.timeout

    @property
    def threaded(self) -> Retrieving:
        """The same retrievers for threads."""
        return self._retrieving

    async def finder(self, retriever: Retriever) -> AsyncFinder:
        """As `Retrieving.finder`; what takes long to open is opened in a thread."""
        found = self._finders.get(retriever)
        if found is not None:
            return found
        opening = SEARCHES.submit(self, lambda: self._open(retriever))
        return self._finders.put(retriever, await asyncio.wrap_future(opening))

    def _open(self, retriever: Retriever) -> AsyncFinder:
        store = configuration.open_async_documents(self._retrieving.config, retriever)
        if store is None:
            return ThreadFinder(self._retrieving.finder(retriever))
        return AsyncStoreFinder(retriever.name, store, self._retrieving.embedder(retriever))

    async def aclose(self) -> None:
        """Give back what was opened; it is opened again when it is needed."""
        async with AsyncExitStack() as closing:
            for finder in self._finders.take():
                if isinstance(finder, AsyncStoreFinder):
                    closing.push_async_callback(finder.aclose)
