# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""A database that the project has no adapter for, by a function of the registry: LanceDB keeps the searching half of
the contract. Without an index of its own it compares all vectors, so its tier is ``exact``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llmfeatures.ports import ALWAYS, FOREVER, DocumentQuery, DocumentRecord, DocumentStore
from llmfeatures.retrieval.function import FunctionStore
from llmfeatures.retriever import Retriever
from llmfeatures.testing.document_store import DIMENSIONS, DocumentStoreTests
from llmfeatures.types import json_text

lancedb: Any = pytest.importorskip("lancedb", reason="needs the extra peers")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Notes:
    """A table of LanceDB, and the function that searches it."""

    def __init__(self, database: Any, retriever: Retriever) -> None:
        self.database, self.retriever = database, retriever

    def fill(self, records: Sequence[DocumentRecord]) -> None:
        embedder = self.retriever.embedder
        width = DIMENSIONS if embedder is None else embedder.dimensions
        schema = pa.schema(
            [
                *[pa.field(name, pa.string()) for name in ("entity", "id", "version", "text")],
                *[pa.field(f"m_{name}", pa.string()) for name in self.retriever.metadata],
                *[pa.field(name, pa.int64()) for name in ("valid_from", "valid_to")],
                pa.field("vector", pa.list_(pa.float32(), width)),
            ]
        )
        rows = [
            {
                **{name: getattr(one, name) for name in ("entity", "id", "version", "text", "valid_from", "valid_to")},
                **{f"m_{name}": json_text(value) for name, value in one.metadata.items()},
                "vector": one.vector,
            }
            for one in records
        ]
        self.database.create_table(self.retriever.name, pa.Table.from_pylist(rows, schema), mode="overwrite")

    def search(self, query: DocumentQuery) -> list[dict[str, Any]]:
        at = min(max((query.as_of - EPOCH) // timedelta(microseconds=1), ALWAYS), FOREVER - 1)
        where = f"entity = {quoted(query.entity)} AND valid_from <= {at} AND valid_to > {at}"
        for name, value in query.filter.items():
            where += f" AND m_{name} = {quoted(self.retriever.metadata[name].encode(value))}"
        table = self.database.open_table(self.retriever.name)
        if query.order == "recent":
            rows = table.search().where(where).limit(100_000).to_list()
        else:
            assert query.vector is not None
            rows = table.search(query.vector).distance_type("dot").where(where, prefilter=True).limit(1_000).to_list()
        return [self.document(query, row) for row in rows]

    def document(self, query: DocumentQuery, row: dict[str, Any]) -> dict[str, Any]:
        begins, ends = row["valid_from"], row["valid_to"]
        return {
            **{name: row[name] for name in ("id", "version", "text")},
            **query.keys,
            "score": 1 - row.get("_distance", 0.0),
            "metadata": {
                name: held if dtype.kind == "json" else dtype.decode(held)  # text that is for json is JSON
                for name, dtype in self.retriever.metadata.items()
                if (held := row[f"m_{name}"])
            },
            "valid_from": None if begins == ALWAYS else EPOCH + timedelta(microseconds=begins),
            "valid_to": None if ends == FOREVER else EPOCH + timedelta(microseconds=ends),
        }


def quoted(text: str) -> str:
    """A literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


@pytest.mark.heavy
class TestLanceDB(DocumentStoreTests):
    tier = "exact"
    forks = False

    @pytest.fixture(autouse=True)
    def _database(self, tmp_path: Path) -> None:
        self.database: Any = lancedb.connect(tmp_path)

    def open(self, retriever: Retriever) -> DocumentStore:
        notes = Notes(self.database, retriever)
        return FunctionStore(
            Retriever(
                retriever.name,
                retriever.entity,
                function=notes.search,
                tier=self.tier,
                embedder=retriever.embedder,
                metadata={name: str(dtype) for name, dtype in retriever.metadata.items()},
            )
        )

    def fill(self, retriever: Retriever, records: Sequence[DocumentRecord]) -> None:
        Notes(self.database, retriever).fill(records)
