"""The store of PostgreSQL keeps the contract, on a real one; and what is PostgreSQL's own."""

from __future__ import annotations

from itertools import count

import psycopg
import pytest

from llmfeatures.ports import AsyncDocumentStore, DocumentStore
from llmfeatures.retrieval import wire
from llmfeatures.retrieval.pgvector import PgvectorStore
from llmfeatures.retrieval.pgvector_async import AsyncPgvectorStore
from llmfeatures.retriever import Retriever
from llmfeatures.testing.document_store import NOTES, AsyncIndexTests, DocumentIndexTests, UnansweredTests

_numbers = count()


class TestPgvector(DocumentIndexTests, AsyncIndexTests, UnansweredTests):
    tier = "filtered"
    ranked = 12_000

    @pytest.fixture(autouse=True)
    def _database(self, postgres_url: str) -> None:
        self.url, self.namespace = postgres_url, f"a b:{next(_numbers)}"

    def open(self, retriever: Retriever) -> DocumentStore:
        return PgvectorStore(self.url, self.namespace, retriever, timeout=20)

    def open_async(self, retriever: Retriever) -> AsyncDocumentStore:
        return AsyncPgvectorStore(self.url, self.namespace, retriever, timeout=20)

    def open_at(self, port: int) -> DocumentStore:
        return PgvectorStore(f"postgresql://somebody@127.0.0.1:{port}/db", "x", NOTES)

    def open_async_at(self, port: int) -> AsyncDocumentStore:
        return AsyncPgvectorStore(f"postgresql://somebody@127.0.0.1:{port}/db", "x", NOTES)

    def set_format(self, retriever: Retriever, number: int) -> None:
        name = wire.place(self.namespace, retriever.name, 56)
        with psycopg.connect(self.url) as connection:
            connection.execute(
                "UPDATE llmfeatures_documents SET about = jsonb_set(about, '{format}', to_jsonb(%s)) WHERE name = %s",
                [number, name],
            )
