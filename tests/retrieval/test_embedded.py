"""The embedded document store against the contract of all."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llmfeatures.ports import DocumentQuery, DocumentRecord, index_meta
from llmfeatures.ports.documents import ALWAYS, FOREVER
from llmfeatures.retrieval.embedded import EmbeddedStore
from llmfeatures.retriever import Retriever
from llmfeatures.testing.document_store import DocumentIndexTests


class TestEmbedded(DocumentIndexTests):
    """The contract of a store that is filled from here."""

    tolerance = 0.0

    @pytest.fixture(autouse=True)
    def _in_folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def open(self, retriever: Retriever) -> EmbeddedStore:
        return EmbeddedStore(self.folder / retriever.name, retriever)

    def set_format(self, retriever: Retriever, number: int) -> None:
        path = self.folder / retriever.name / "manifest.json"
        held = json.loads(path.read_text())
        path.write_text(json.dumps({**held, "format": number}))


NOW = datetime(2026, 5, 7, tzinfo=UTC)


def record(digit: str, **metadata: object) -> DocumentRecord:
    """A record without a vector."""
    return DocumentRecord(
        key=digit * 32, entity="", id=digit, version="1", text=f"text {digit}", metadata=metadata,
        valid_from=ALWAYS, valid_to=FOREVER, vector=None,
    )  # fmt: skip


def test_only_files_of_ours_are_removed(tmp_path: Path) -> None:
    notes = Retriever("notes", None, "notes/source.parquet")
    for name in ("source.parquet", "notes.txt", ".hidden"):
        (tmp_path / name).write_text("the user's")
    left = ["0" * 32 + ".parquet", "." + "0" * 32 + ".parquet.x.part", ".manifest.json.x.part"]
    for name in left:
        (tmp_path / name).write_text("of an indexing that died")
    store = EmbeddedStore(tmp_path, notes)
    store.begin(index_meta(notes))
    store.complete(index_meta(notes, NOW))
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        ".hidden", "lock", "manifest.json", "notes.txt", "source.parquet",
    ]  # fmt: skip


def test_metadata_may_change_their_order(tmp_path: Path) -> None:
    before = Retriever("notes", None, "x.jsonl", metadata={"a": "str", "b": "int"})
    after = Retriever("notes", None, "x.jsonl", metadata={"b": "int", "a": "str"})
    for one, digit in ((before, "1"), (after, "2")):
        store = EmbeddedStore(tmp_path, one)
        store.begin(index_meta(one))
        store.write([record(digit, a=f"a{digit}", b=int(digit))])
        store.complete(index_meta(one, NOW))
    store.remove(["1" * 32])
    store.complete(index_meta(after, NOW))
    (found,) = store.search([DocumentQuery(top_k=5, as_of=NOW, order="recent")])
    assert [one.metadata for one in found] == [{"a": "a2", "b": 2}]
