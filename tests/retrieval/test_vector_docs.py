"""docs/vector-databases.md is real: its function searches, its suite is one, and its table is what the stores say."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from llmfeatures.config import Config, ProjectSection, RetrievalSection, open_documents
from llmfeatures.retrieval import pgvector_sql, qdrant_points
from llmfeatures.retrieval.function import FunctionStore
from llmfeatures.testing.document_store import NOTES, DocumentIndexTests, ask, unit
from llmfeatures.testing.document_store.notes import NOW, ids

PAGE = (Path(__file__).parents[2] / "docs" / "vector-databases.md").read_text(encoding="utf-8")
BLOCKS: dict[str, str] = dict(re.findall(r"^```python (\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def test_the_function_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lancedb = pytest.importorskip("lancedb", reason="needs the extra peers")
    monkeypatch.chdir(tmp_path)
    held: dict[str, Any] = {}
    exec(compile(BLOCKS["lancedb"], "vector-databases.md", "exec"), held)
    rows = [
        {"id": name, "text": name, "user_id": user, "valid_from": NOW + timedelta(days=day), "vector": unit(vector)}
        for name, user, day, vector in (
            ("near", "ana", -3, (1.0, 0.1, 0.0, 0.0)),
            ("far", "ana", -2, (0.0, 1.0, 0.0, 0.0)),
            ("coming", "ana", 1, (1.0, 0.0, 0.0, 0.0)),
            ("theirs", "ana' OR '1'='1", -1, (1.0, 0.0, 0.0, 0.0)),
        )
    ]
    lancedb.connect("notes.lance").create_table("notes", rows)
    (retriever,) = held["registry"].retrievers
    store = FunctionStore(held["registry"].retrievers[retriever] if isinstance(retriever, str) else retriever)
    assert store.tier == "exact"
    assert ids(store.search([ask()])[0]) == ["near", "far"]
    assert ids(store.search([ask(order="recent")])[0]) == ["far", "near"]
    assert ids(store.search([ask(user="ana' OR '1'='1")])[0]) == ["theirs"]


def test_the_suite_of_the_page_is_one() -> None:
    held: dict[str, Any] = {}
    exec(compile(BLOCKS["suite"], "vector-databases.md", "exec"), held)
    assert issubclass(held["TestMyStore"], DocumentIndexTests)
    assert {"open", "set_format"} <= set(vars(held["TestMyStore"]))


@pytest.mark.heavy
def test_the_urls_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINECONE_API_KEY", "x")
    rows = re.findall(r"^\| (`.*?) \| .*? \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert len(rows) == 5
    for urls, tier in rows:
        for written in re.findall(r"`([^`]+)`", urls):
            url = written.replace("HOST:PORT", "h:1").replace("INDEX-HOST", "h").replace("PATH", "p")
            url = url.replace("USER", "u").removesuffix("…")
            if url.endswith("://"):
                url += "h:1"
            config = Config(
                root=tmp_path,
                project=ProjectSection(name="docs", registry="features.py"),
                retrieval=RetrievalSection(url=url),
            )
            store = open_documents(config, NOTES)
            assert store.tier == tier, url
            store.close()


def test_the_numbers_of_the_page() -> None:
    assert f"up to {pgvector_sql.QUERIES} queries" in PAGE
    assert f"up to {qdrant_points.QUERIES} queries" in PAGE
    for number in (pgvector_sql.OWN, pgvector_sql.INDEXED, pgvector_sql.INDEXABLE, pgvector_sql.LONGEST_ENTITY):
        assert f"{number:,}" in PAGE
