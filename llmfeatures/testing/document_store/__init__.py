"""What a document store must do: the contract of `llmfeatures.ports.DocumentStore`, `AsyncDocumentStore` and
`DocumentIndex` as tests.

Subclass `DocumentIndexTests`, or `DocumentStoreTests` for a store that is filled elsewhere, give the hooks of
`StoreTests`, and run it with pytest against the real component:

    class TestMyStore(DocumentIndexTests):
        tier = "filtered"

        def open(self, retriever):
            return MyStore(URL, retriever)
"""

from __future__ import annotations

from llmfeatures.testing.document_store.filtering import FilterTests
from llmfeatures.testing.document_store.indexing import IndexTests
from llmfeatures.testing.document_store.moments import MomentTests
from llmfeatures.testing.document_store.notes import (
    ALL,
    AXES,
    DIMENSIONS,
    HOSTILE,
    NOTES,
    OTHER,
    SHARED,
    ask,
    best,
    key_of,
    note,
    shared,
    unit,
)
from llmfeatures.testing.document_store.owners import OwnerTests
from llmfeatures.testing.document_store.ranking import RankingTests
from llmfeatures.testing.document_store.searching import SearchTests
from llmfeatures.testing.document_store.sharing import AsyncIndexTests, AsyncTests, SharingTests
from llmfeatures.testing.document_store.store import StoreTests
from llmfeatures.testing.document_store.waiting import UnansweredTests

__all__ = [
    "ALL",
    "AXES",
    "DIMENSIONS",
    "HOSTILE",
    "NOTES",
    "OTHER",
    "SHARED",
    "AsyncIndexTests",
    "AsyncTests",
    "DocumentIndexTests",
    "DocumentStoreTests",
    "MomentTests",
    "OwnerTests",
    "RankingTests",
    "StoreTests",
    "UnansweredTests",
    "ask",
    "best",
    "key_of",
    "note",
    "shared",
    "unit",
]


class DocumentStoreTests(SearchTests, FilterTests, MomentTests, OwnerTests, SharingTests, RankingTests):
    """The contract of searching. Every test starts with an empty database."""


class DocumentIndexTests(DocumentStoreTests, IndexTests):
    """The contract of a store that is filled from here. A store for asyncio has `AsyncIndexTests` too, one on a network
    `UnansweredTests`."""
