"""A project whose documents are in Pinecone or in Weaviate: filled by materialize, read in prompts, online and in
history."""

# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from llmfeatures import (
    DocumentSource,
    Entity,
    FunctionEmbedder,
    Project,
    Registry,
    Retriever,
)
from llmfeatures.config import find_config, open_async_documents, open_documents
from llmfeatures.errors import ConfigError
from llmfeatures.retrieval.remote import AsyncRemoteStore, RemoteStore
from tests.retrieval.pinecone_server import KEY, PineconeServer
from tests.retrieval.weaviate_server import WeaviateServer

WORDS = ("rain", "sun", "sea", "snow")
NOW = datetime(2026, 5, 7, 23, tzinfo=UTC)
ROWS = [
    {"user_id": "ana", "id": "a", "text": "rain and sea", "valid_from": "2026-05-01T00:00Z", "kind": "walk"},
    {"user_id": "ana", "id": "a", "text": "rain, rain", "valid_from": "2026-05-05T00:00Z", "kind": "walk"},
    {"user_id": "ana", "id": "b", "text": "sun", "valid_from": "2026-05-02T00:00Z", "kind": "swim"},
    {"user_id": "bob", "id": "c", "text": "rain of bob", "valid_from": "2026-05-02T00:00Z", "kind": "walk"},
]
PROMPT = """---
inputs: {{question: str}}
documents:
  notes: {documents}
---
{{% for one in notes %}}{{{{ one.id }}}} {{% endfor %}}
"""


def counted(texts: Sequence[str]) -> list[list[float]]:
    """A direction for each word, and a little of another."""
    return [[*(float(text.count(word)) for word in WORDS), 0.5] for text in texts]


USER = Entity("user", join_key="user_id")
NOTES = Retriever(
    "notes",
    USER,
    DocumentSource("notes.jsonl"),
    embedder=FunctionEmbedder(counted, model="counted", dimensions=len(WORDS) + 1),
    metadata={"kind": "str"},
)
DIARY = Retriever("diary", USER, DocumentSource("notes.jsonl"), metadata={"kind": "str"})


@pytest.fixture(scope="module", params=["pinecone", pytest.param("weaviate", marks=pytest.mark.heavy)])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database."""
    server = PineconeServer(len(WORDS) + 1) if request.param == "pinecone" else WeaviateServer()
    yield server.url
    server.close()


@pytest.fixture
def project(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project with documents in the database."""
    monkeypatch.setenv("PINECONE_API_KEY", KEY)
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "llmfeatures.toml").write_text(
        f'[project]\nname = "weather"\nregistry = "features.py"\n[retrieval]\nurl = "{url}"\ntimeout = "20s"\n'
    )
    (tmp_path / "prompts").mkdir()
    for name, documents in {
        "asked": '{retriever: notes, query: "{{ question }}", top_k: 2}',
        "walks": '{retriever: notes, query: "{{ question }}", top_k: 2, filter: {kind: walk}}',
        "newest": "{retriever: diary, order: recent, top_k: 2}",
    }.items():
        (tmp_path / "prompts" / f"{name}.prompt.j2").write_text(PROMPT.format(documents=documents))
    made = Project(find_config(tmp_path), Registry([NOTES, DIARY]), now=lambda: NOW)
    yield made
    made.close()


def test_documents_come_into_prompts(project: Project) -> None:
    project.materialize()
    builder = project.builder()

    def asked(prompt: str, user: str | None = "ana") -> str:
        context = builder.build_context(prompt, user_id=user, question="rain")
        assert {one.tier for one in context.manifest.retrievals.values()} <= {"filtered", None}
        return context.text

    assert [asked(one) for one in ("asked", "walks", "newest")] == ["a b", "a", "a b"]
    assert (asked("asked", "bob"), asked("asked", "eve"), asked("asked", None)) == ("c", "", "")
    (document,) = builder.build_context("walks", user_id="ana", question="rain").documents["notes"]
    assert (document.text, document.metadata) == ("rain, rain", {"kind": "walk"})

    async def asynchronously() -> list[str]:
        other = project.async_builder()
        try:
            return [
                (await other.build_context(one, user_id="ana", question="rain")).text
                for one in ("asked", "walks", "newest")
            ]
        finally:
            await other.aclose()

    assert asyncio.run(asynchronously()) == ["a b", "a", "a b"]


def test_a_second_run_writes_what_changed(project: Project) -> None:
    project.materialize(full=True)
    path = project.config.root / "notes.jsonl"
    path.write_text(path.read_text().replace("rain of bob", "snow of bob").replace('"sun"', '"sun and sea"'))
    project.materialize()
    builder = project.builder()
    found = [builder.build_context("asked", user_id=user, question="sun").documents["notes"] for user in ("ana", "bob")]
    assert [[one.text for one in each] for each in found] == [["sun and sea", "rain, rain"], ["snow of bob"]]


def test_the_configuration_opens_them(project: Project, url: str) -> None:
    assert isinstance(open_documents(project.config, NOTES), RemoteStore)
    assert isinstance(open_async_documents(project.config, NOTES), AsyncRemoteStore)
    wrong = project.config.model_copy(
        update={"retrieval": project.config.retrieval.model_copy(update={"url": url.partition("//")[0]})}
    )
    for opened in (open_documents, open_async_documents):
        with pytest.raises(ConfigError, match=r"\[retrieval\] url for"):
            opened(wrong, NOTES)


def test_history_sees_the_versions_of_its_moments(project: Project) -> None:
    project.materialize()
    builder = project.builder()
    seen = {
        day: [
            one.text
            for one in builder.build_context(
                "asked", user_id="ana", question="rain", as_of=datetime(2026, 5, day, tzinfo=UTC)
            ).documents["notes"]
        ]
        for day in (1, 3, 5)
    }
    assert seen == {1: ["rain and sea"], 3: ["rain and sea", "sun"], 5: ["rain, rain", "sun"]}
    rows = [
        {"user_id": "ana", "question": "rain", "event_timestamp": datetime(2026, 5, day, tzinfo=UTC)}
        for day in (5, 1, 3)
    ]
    told = project.history("asked", pa.Table.from_pylist(rows)).read_all().to_pylist()
    assert [row["error"] for row in told] == [None] * 3
    assert [[(one["id"], one["tier"]) for one in row["documents"]] for row in told] == [
        [("a", "filtered"), ("b", "filtered")],
        [("a", "filtered")],
        [("a", "filtered"), ("b", "filtered")],
    ]


@pytest.mark.parametrize("extra", ["pinecone", "weaviate"])
def test_what_is_not_installed_is_named(extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llmfeatures.toml").write_text(
        f'[project]\nname = "weather"\nregistry = "features.py"\n[retrieval]\nurl = "{extra}://host"\n'
    )
    config = find_config(tmp_path)
    monkeypatch.delitem(sys.modules, f"llmfeatures.retrieval.{extra}", raising=False)
    monkeypatch.setitem(sys.modules, extra, None)
    for opened in (open_documents, open_async_documents):
        with pytest.raises(ConfigError, match=rf"needs {extra}, .*pip install 'llmfeatures\[{extra}\]'"):
            opened(config, NOTES)


def test_the_urls_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINECONE_API_KEY", KEY)
    page = (Path(__file__).parents[2] / "docs" / "vector-databases.md").read_text(encoding="utf-8")
    shown = [one for one in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if re.search("pinecone|weaviate", one)]
    assert len(shown) == 3
    for one in shown:
        (tmp_path / "llmfeatures.toml").write_text(f'[project]\nname = "songs"\nregistry = "features.py"\n{one}')
        config = find_config(tmp_path)
        assert isinstance(open_documents(config, NOTES), RemoteStore)
        assert isinstance(open_async_documents(config, NOTES), AsyncRemoteStore)
