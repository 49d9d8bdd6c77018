"""A retriever at work: the query's vector, the search, and the check of whose documents came back."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from llmfeatures.errors import EntityMismatchError, LLMFeaturesError, RetrieverError, RetrieverUnavailableError
from llmfeatures.ports import AsyncDocumentStore, Document, DocumentQuery, DocumentStore, Embedder, Prepared
from llmfeatures.retriever import Tier
from llmfeatures.threads import SEARCHES, ForkLock

_VECTORS = 2_000
"""So many queries' vectors are remembered."""


class Vectors:
    """The vectors of queries; the last ones are remembered."""

    def __init__(self, embedder: Embedder, size: int = _VECTORS) -> None:
        self.embedder, self._size = embedder, size
        self._known: OrderedDict[str, Any] = OrderedDict()
        self._lock = ForkLock()

    def of(self, texts: Sequence[str], timeout: float | None) -> list[Any]:
        """The vector of each text."""
        with self._lock:
            found = {text: self._known[text] for text in dict.fromkeys(texts) if text in self._known}
            for text in found:
                self._known.move_to_end(text)
        absent = [text for text in dict.fromkeys(texts) if text not in found]
        if absent:
            made = self.embedder.embed(absent, timeout=timeout)
            found.update(zip(absent, made, strict=True))
            with self._lock:
                self._known.update((text, found[text]) for text in absent)
                while len(self._known) > self._size:
                    self._known.popitem(last=False)
        return [found[text] for text in texts]

    def known(self, queries: Sequence[DocumentQuery]) -> list[DocumentQuery] | None:
        """The queries with their vectors where all are remembered; else None."""
        made: list[DocumentQuery] = []
        with self._lock:
            for one in queries:
                if one.text is None:
                    made.append(one)
                elif (vector := self._known.get(one.text)) is not None:
                    self._known.move_to_end(one.text)
                    made.append(replace(one, vector=vector))
                else:
                    return None
        return made


class Finder(Protocol):
    """Finds documents for a prompt."""

    @property
    def tier(self) -> Tier:
        """Of its searches."""
        ...

    def find(self, queries: Sequence[DocumentQuery], timeout: float | None) -> list[list[Document]]:
        """The documents of each query.

        Raises:
            RetrieverError: the embedder or the store did not do what was asked.
            EntityMismatchError: a document of another entity came back.
        """
        ...

    def prepare(self) -> None:
        """Load what it needs in this process, before the time of a search begins. What cannot be loaded, a search
        says."""
        ...


class AsyncFinder(Protocol):
    """`Finder` for asyncio."""

    @property
    def tier(self) -> Tier:
        """As `Finder.tier`."""
        ...

    async def find(self, queries: Sequence[DocumentQuery], timeout: float | None) -> list[list[Document]]:
        """As `Finder.find`."""
        ...

    def prepare(self) -> None:
        """As `Finder.prepare`; it blocks."""
        ...


class StoreFinder:
    """Finds documents in a store, with the embedder of its retriever."""

    def __init__(self, name: str, store: DocumentStore, embedder: Embedder | None) -> None:
        self.name, self.store = name, store
        self._vectors = None if embedder is None else Vectors(embedder)

    @property
    def tier(self) -> Tier:
        """As `Finder.tier`."""
        return self.store.tier

    def find(self, queries: Sequence[DocumentQuery], timeout: float | None) -> list[list[Document]]:
        """As `Finder.find`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        given = list(queries) if self._vectors is None else embedded(self._vectors, queries, timeout)
        return checked(self.name, queries, self.store.search(given, timeout=_left(deadline)))

    def prepare(self) -> None:
        """Load what the store and the embedder need in this process."""
        prepare(self.store, self._vectors)

    def close(self) -> None:
        """Give back what it opened. It can be used again."""
        self.store.close()


class AsyncStoreFinder:
    """`StoreFinder` over a store for asyncio; vectors are made in a thread."""

    def __init__(self, name: str, store: AsyncDocumentStore, embedder: Embedder | None) -> None:
        self.name, self.store = name, store
        self._vectors = None if embedder is None else Vectors(embedder)

    @property
    def tier(self) -> Tier:
        """As `Finder.tier`."""
        return self.store.tier

    async def find(self, queries: Sequence[DocumentQuery], timeout: float | None) -> list[list[Document]]:
        """As `Finder.find`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        given = list(queries)
        if self._vectors is not None and any(one.text is not None for one in queries):
            given = await self._embedded(self._vectors, queries, timeout)
        return checked(self.name, queries, await self.store.search(given, timeout=_left(deadline)))

    def prepare(self) -> None:
        """As `StoreFinder.prepare`."""
        prepare(self.store, self._vectors)

    async def _embedded(
        self, vectors: Vectors, queries: Sequence[DocumentQuery], timeout: float | None
    ) -> list[DocumentQuery]:
        known = vectors.known(queries)
        if known is not None:
            return known
        return await asyncio.wrap_future(SEARCHES.submit(self, lambda: embedded(vectors, queries, timeout)))

    async def aclose(self) -> None:
        """As `StoreFinder.close`."""
        await self.store.aclose()


class ThreadFinder:
    """A `Finder` for asyncio: each search in a thread."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder

    @property
    def tier(self) -> Tier:
        """As `Finder.tier`."""
        return self._finder.tier

    async def find(self, queries: Sequence[DocumentQuery], timeout: float | None) -> list[list[Document]]:
        """As `Finder.find`."""
        return await asyncio.wrap_future(SEARCHES.submit(self, lambda: self._finder.find(queries, timeout)))

    def prepare(self) -> None:
        """As `Finder.prepare`."""
        self._finder.prepare()


def prepare(store: object, vectors: Vectors | None) -> None:
    """Load what a store and an embedder need; of one that cannot be loaded, its searches say why."""
    for one in (store, None if vectors is None else vectors.embedder):
        if isinstance(one, Prepared):
            with suppress(LLMFeaturesError):
                one.prepare()


def embedded(vectors: Vectors, queries: Sequence[DocumentQuery], timeout: float | None) -> list[DocumentQuery]:
    """The queries with their vectors."""
    texts = [one.text for one in queries if one.text is not None]
    made = iter(vectors.of(texts, timeout) if texts else ())
    return [one if one.text is None else replace(one, vector=next(made)) for one in queries]


def checked(name: str, queries: Sequence[DocumentQuery], found: list[list[Document]]) -> list[list[Document]]:
    """What was found, once it is seen that each document belongs to the entity that was asked for, and has the metadata
    of the filter.

    Raises:
        EntityMismatchError: one belongs to another entity.
        RetrieverError: one has other metadata, or there is no answer to some query.
    """
    if len(found) != len(queries):
        raise RetrieverError(f"retriever {name!r} gave {len(found)} answers to {len(queries)} queries")
    for query, documents in zip(queries, found, strict=True):
        for one in documents:
            if one.entity != query.entity:
                raise EntityMismatchError(
                    f"retriever {name!r} answered with a document of another entity; nothing of the answer was used"
                )
            for key, value in query.filter.items():
                if one.metadata.get(key) != value:
                    raise RetrieverError(
                        f"retriever {name!r} answered with a document whose metadata {key!r} the filter excludes; "
                        "nothing of the answer was used"
                    )
    return found


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise RetrieverUnavailableError("there was no time left for the search once the query had its vector")
    return left
