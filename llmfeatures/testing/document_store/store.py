"""What each part of the contract of a document store needs: a store, and ways to look past it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar, cast

import pytest

from llmfeatures.ports import (
    AsyncDocumentStore,
    Document,
    DocumentIndex,
    DocumentQuery,
    DocumentRecord,
    DocumentStore,
    index_meta,
)
from llmfeatures.retriever import Retriever, Tier
from llmfeatures.testing.document_store.notes import NOTES, NOW, seen

T = TypeVar("T")


class StoreTests:
    """Every test starts with an empty database."""

    tier: Tier = "exact"
    """What the store says of itself."""
    has_recent = True
    """Whether it can give the newest documents."""
    tolerance = 2e-6
    """So far a score may be from that of float64: 0 for a store that computes it so."""
    forks = hasattr(os, "fork")
    """Whether a forked child can search."""
    has_zero = True
    """Whether it takes a vector of zeros."""

    def open(self, retriever: Retriever) -> DocumentStore:
        """A new store for one of the retrievers `ALL`, or one like them, always on the same database. The tests close
        it."""
        raise NotImplementedError

    def open_async(self, retriever: Retriever) -> AsyncDocumentStore:
        """The same for asyncio, on the same database; for `AsyncTests`. The tests close it."""
        raise NotImplementedError

    def fill(self, retriever: Retriever, records: Sequence[DocumentRecord]) -> None:
        """Make these records all that a retriever has."""
        index = self.index(retriever)
        index.begin(index_meta(retriever), replace=True)
        for start in range(0, len(records), 1_000):
            index.write(records[start : start + 1_000])
        index.complete(index_meta(retriever, NOW))

    def set_format(self, retriever: Retriever, number: int) -> None:
        """Set the format number that a filled index holds, past the store."""
        raise NotImplementedError

    # What the tests use

    @pytest.fixture(autouse=True)
    def _opened(self) -> Iterator[None]:
        self._stores: dict[str, DocumentStore] = {}
        self._more: list[DocumentStore] = []
        yield
        for store in (*self._stores.values(), *self._more):
            store.close()

    def store(self, retriever: Retriever = NOTES) -> DocumentStore:
        """The store of a retriever; the same one again within a test."""
        if retriever.name not in self._stores:
            self._stores[retriever.name] = self.open(retriever)
        return self._stores[retriever.name]

    def another(self, retriever: Retriever = NOTES) -> DocumentStore:
        """A further store of a retriever, as another process would open it."""
        self._more.append(self.open(retriever))
        return self._more[-1]

    def index(self, retriever: Retriever = NOTES) -> DocumentIndex:
        """The store of a retriever that is filled from here."""
        return cast("DocumentIndex", self.store(retriever))

    def another_index(self, retriever: Retriever = NOTES) -> DocumentIndex:
        """As `another`, of a store that is filled from here."""
        return cast("DocumentIndex", self.another(retriever))

    def find(self, *queries: DocumentQuery, retriever: Retriever = NOTES) -> list[list[Document]]:
        """What a store finds."""
        return self.store(retriever).search(queries, timeout=30)

    def found(self, query: DocumentQuery, retriever: Retriever = NOTES) -> list[Document]:
        """What a store finds for one query."""
        return self.find(query, retriever=retriever)[0]

    def agrees(self, documents: Sequence[Document], expected: Sequence[tuple[str, str, float | None]]) -> bool:
        """Whether what was found is what the rules say, scores within `tolerance`."""
        answers = seen(documents)
        return [one[:2] for one in answers] == [one[:2] for one in expected] and all(
            score == wanted or (score is not None and wanted is not None and abs(score - wanted) <= self.tolerance)
            for (_, _, score), (_, _, wanted) in zip(answers, expected, strict=True)
        )

    def with_async(self, retriever: Retriever, work: Callable[[AsyncDocumentStore], Awaitable[T]]) -> T:
        """Run ``work`` on an asynchronous store, and close it."""

        async def run() -> T:
            store = self.open_async(retriever)
            try:
                return await work(store)
            finally:
                await store.aclose()

        return asyncio.run(run())
