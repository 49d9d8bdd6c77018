"""The stores of Qdrant keep the contract: on its engine behind HTTP, and in a folder by the client's local mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from llmfeatures.ports import AsyncDocumentStore, DocumentRecord, DocumentStore
from llmfeatures.retrieval.qdrant import QdrantStore
from llmfeatures.retrieval.qdrant_async import AsyncQdrantStore
from llmfeatures.retrieval.qdrant_points import ABOUT, Points
from llmfeatures.retriever import Retriever
from llmfeatures.testing.document_store import (
    NOTES,
    AsyncIndexTests,
    DocumentIndexTests,
    MomentTests,
    OwnerTests,
    RankingTests,
    StoreTests,
    UnansweredTests,
)
from tests.retrieval.qdrant_server import Engine, qdrant_server

_numbers = count()


@pytest.fixture(scope="module")
def qdrant() -> Iterator[tuple[Engine, str]]:
    with qdrant_server() as running:
        yield running


class QdrantTests(StoreTests):
    tier = "filtered"
    namespace = "a b:c"

    def set_format(self, retriever: Retriever, number: int) -> None:
        store = self.open(retriever)
        assert isinstance(store, QdrantStore)
        name = Points(self.namespace, retriever).collection
        with store.client() as client:
            (point,) = client.retrieve(name, [ABOUT], with_payload=True)
            assert point.payload is not None
            client.set_payload(name, {"about": {**point.payload["about"], "format": number}}, [ABOUT])
        store.close()


class OnServer(QdrantTests):
    @pytest.fixture(autouse=True)
    def _server(self, qdrant: tuple[Engine, str]) -> None:
        self.engine, self.url = qdrant
        self.namespace = f"a b:{next(_numbers)}"

    def open(self, retriever: Retriever) -> DocumentStore:
        return QdrantStore(self.url, self.namespace, retriever, timeout=20)

    def fill(self, retriever: Retriever, records: Sequence[DocumentRecord]) -> None:
        super().fill(retriever, records)
        if len(records) >= RankingTests.ranked:
            self.engine.optimize(Points(self.namespace, retriever).collection)

    def open_async(self, retriever: Retriever) -> AsyncDocumentStore:
        return AsyncQdrantStore(self.url, self.namespace, retriever, timeout=20)


class TestQdrantInShort(OnServer, OwnerTests, MomentTests):
    """What must never be wrong; the client takes its time for each request."""


@pytest.mark.heavy
class TestQdrant(OnServer, DocumentIndexTests, AsyncIndexTests, UnansweredTests):
    def open_at(self, port: int) -> DocumentStore:
        return QdrantStore(f"qdrant://127.0.0.1:{port}", "x", NOTES)

    def open_async_at(self, port: int) -> AsyncDocumentStore:
        return AsyncQdrantStore(f"qdrant://127.0.0.1:{port}", "x", NOTES)


@pytest.mark.heavy
class TestQdrantFolder(QdrantTests, DocumentIndexTests):
    """Each record is committed to SQLite, which takes its time."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def open(self, retriever: Retriever) -> DocumentStore:
        return QdrantStore(self.folder, self.namespace, retriever)
