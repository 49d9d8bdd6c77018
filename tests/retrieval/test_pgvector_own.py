"""What is PostgreSQL's own: users who may only read, servers that went away, indexes, and what fits a table."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from itertools import count
from pathlib import Path

import numpy as np
import psycopg
import pytest

from llmfeatures import AsyncContextBuilder, ContextBuilder, Project
from llmfeatures.errors import ConfigError, RenderError, RetrieverError, RetrieverUnavailableError
from llmfeatures.ports import index_meta
from llmfeatures.retrieval import pgvector, pgvector_async, pgvector_sql
from llmfeatures.retrieval.pgvector import PgvectorStore
from llmfeatures.retrieval.pgvector_async import AsyncPgvectorStore
from llmfeatures.retriever import FunctionEmbedder, Retriever
from llmfeatures.testing.document_store import NOTES, SHARED, ask, note, shared
from llmfeatures.testing.document_store.notes import NOW, USER, axes, best, ids, seen

_numbers = count()


@pytest.fixture
def namespace() -> str:
    return f"own-{next(_numbers)}"


def filled(url: str, namespace: str, retriever: Retriever, records: list[pgvector_sql.DocumentRecord]) -> PgvectorStore:
    store = PgvectorStore(url, namespace, retriever, timeout=20)
    store.begin(index_meta(retriever), replace=True)
    store.write(records)
    store.complete(index_meta(retriever, NOW))
    return store


def test_who_may_read_can_search_and_not_write(postgres_url: str, namespace: str) -> None:
    store = filled(postgres_url, namespace, NOTES, [note("a")])
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS reader")
        admin.execute("CREATE ROLE reader LOGIN")
        admin.execute(f'GRANT SELECT ON llmfeatures_documents, "{namespace}__notes" TO reader'.encode())
        reader = PgvectorStore(postgres_url.replace("postgres:", "reader:", 1), namespace, NOTES, timeout=20)
        assert ids(reader.search([ask()])[0]) == ["a"]
        assert ids(reader.search([ask(order="recent")])[0]) == ["a"]
        assert reader.meta() == index_meta(NOTES, NOW)
        for refused in (lambda: reader.write([note("b")]), lambda: reader.begin(index_meta(NOTES), replace=True)):
            with pytest.raises(RetrieverError, match="may not do that"):
                refused()
        reader.close()
        admin.execute("DROP OWNED BY reader")
        admin.execute("DROP ROLE reader")
    assert ids(store.search([ask()])[0]) == ["a"]
    store.close()


def test_connections_that_ended_meanwhile_are_made_anew(
    postgres_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled(postgres_url, namespace, NOTES, [note("a")])
    waiting = AsyncPgvectorStore(postgres_url, namespace, NOTES, timeout=20)

    def end_all() -> None:
        with psycopg.connect(postgres_url, autocommit=True, application_name="test") as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'llmfeatures'"
            )
            time.sleep(0.05)

    async def search() -> list[str]:
        await waiting.search([ask()])
        end_all()
        try:
            return ids((await waiting.search([ask()]))[0])
        finally:
            await waiting.aclose()

    assert ids(store.search([ask()])[0]) == ["a"]
    end_all()
    assert ids(store.search([ask()])[0]) == ["a"]
    assert asyncio.run(search()) == ["a"]
    store.close()
    assert "error ignored" not in caplog.text, "what was made good is not told"
    logging.getLogger("psycopg").warning("error ignored terminating %r: %s", "a pipeline of somebody else", "x")
    assert "somebody else" in caplog.text


def test_two_event_loops_keep_a_connection_each(postgres_url: str, namespace: str) -> None:
    store = filled(postgres_url, namespace, NOTES, [note("a")])
    waiting = AsyncPgvectorStore(postgres_url, namespace, NOTES, timeout=20)

    def backends() -> set[int]:
        with psycopg.connect(postgres_url, application_name="test") as admin:
            rows = admin.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'llmfeatures'").fetchall()
            return {one for (one,) in rows}

    others = backends()
    loops = [asyncio.new_event_loop() for _ in range(2)]
    search = lambda loop: ids(loop.run_until_complete(waiting.search([ask()]))[0])  # noqa: E731
    assert [search(loop) for loop in loops] == [["a"], ["a"]]
    held = backends() - others
    assert len(held) == 2
    assert [search(loop) for loop in loops] == [["a"], ["a"]]
    assert backends() - others == held
    loops[0].close()
    assert search(loops[1]) == ["a"]
    loops[1].run_until_complete(waiting.aclose())
    loops[1].close()
    store.close()
    assert not waiting._open


def test_a_search_that_waits_for_a_lock_ends_in_time(postgres_url: str, namespace: str) -> None:
    store = filled(postgres_url, namespace, NOTES, [note("a")])
    waiting = AsyncPgvectorStore(postgres_url, namespace, NOTES, timeout=20)

    async def search() -> None:
        try:
            await waiting.search([ask()], timeout=0.2)
        finally:
            await waiting.aclose()

    with psycopg.connect(postgres_url) as other:
        other.execute(f'LOCK TABLE "{namespace}__notes"'.encode())
        for call in (lambda: store.search([ask()], timeout=0.2), lambda: asyncio.run(search())):
            with pytest.raises(RetrieverUnavailableError, match="in time"):
                call()
    assert ids(store.search([ask()])[0]) == ["a"]
    store.close()


def test_a_database_without_the_extension(postgres_url: str, namespace: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute("CREATE DATABASE bare")
        admin.execute("CREATE ROLE owner LOGIN")
        admin.execute("ALTER DATABASE bare OWNER TO owner")
    url = postgres_url.replace("postgres:", "owner:", 1).replace("/postgres?", "/bare?")
    store = PgvectorStore(url, namespace, NOTES, timeout=20)
    with pytest.raises(RetrieverError, match=r"CREATE EXTENSION vector"):
        store.begin(index_meta(NOTES))
    assert store.meta() is None
    without = Retriever("newest", USER, "newest.jsonl", metadata={"genre": "str"})
    plain = PgvectorStore(url, namespace, without, timeout=20)
    plain.begin(index_meta(without))
    plain.write([note("a", None, retriever=without)])
    plain.complete(index_meta(without, NOW))
    assert ids(plain.search([ask(order="recent")])[0]) == ["a"], "the newest need no extension"
    store.close()
    plain.close()


def test_an_index_of_vectors_is_made_when_it_pays(
    postgres_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgvector, "INDEXED", 50)
    store = filled(postgres_url, namespace, SHARED, [shared(f"{number:03}") for number in range(49)])

    def indexed() -> bool:
        sql = "SELECT count(*) FROM pg_indexes WHERE tablename = %s AND indexdef LIKE '%%hnsw%%'"
        with psycopg.connect(postgres_url) as admin:
            return admin.execute(sql, [f"{namespace}__shared"]).fetchone() == (1,)

    assert not indexed()
    store.write([shared("new")])
    store.complete(index_meta(SHARED, NOW))
    assert indexed()
    assert ids(store.search([ask(user=None, top_k=3)])[0]) == ["000", "001", "002"], "ties, by the index"
    assert ids(store.search([ask(user=None, top_k=99)])[0]) == sorted(
        [f"{number:03}" for number in range(49)] + ["new"]
    )
    store.close()


def test_an_entity_with_very_many_documents(postgres_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to a number they are compared one by one; beyond it the index of vectors is asked."""
    monkeypatch.setattr(pgvector, "INDEXED", 50)
    monkeypatch.setattr(pgvector_sql, "OWN", 100)
    drawn = np.random.default_rng(3).normal(size=(400, 4))
    records = [
        note(f"{number:03}", tuple(drawn[number]), user="ana" if number < 300 else "bob") for number in range(400)
    ]
    store = filled(postgres_url, namespace, NOTES, records)
    for user in ("ana", "bob", "eve"):
        for turn in range(5):
            query = ask(tuple(drawn[turn]), user=user, top_k=5)
            found = [name for name, _, _ in seen(store.search([query])[0])]
            assert len(set(found) & {name for name, _, _ in best(records, query)}) >= len(found) * 0.8
            assert len(found) == (0 if user == "eve" else 5)
    store.close()


def test_more_dimensions_than_an_index_takes(
    postgres_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgvector, "INDEXED", 2)
    wide = Retriever("wide", USER, "w.jsonl", embedder=FunctionEmbedder(axes, model="wide", dimensions=2_001))
    records = [note(f"{turn}", (1.0, turn, *[0.0] * 1_999), retriever=wide) for turn in range(3)]
    store = filled(postgres_url, namespace, wide, records)
    assert ids(store.search([ask((1.0, *[0.0] * 2_000))])[0]) == ["0", "1", "2"]
    store.close()


def test_a_key_too_long_for_an_index_is_refused(postgres_url: str, namespace: str) -> None:
    store = filled(postgres_url, namespace, NOTES, [note("a", user="x" * 2_500)])
    assert ids(store.search([ask(user="x" * 2_500)])[0]) == ["a"]
    with pytest.raises(RetrieverError, match="too long"):
        store.write([note("a", user="x" * 3_000)])
    store.close()


def test_what_is_no_url_of_postgresql() -> None:
    for url in ("postgresql://h/db?nonsense=secret", "postgresql:secret"):
        with pytest.raises(ConfigError, match="postgresql://") as refused:
            PgvectorStore(url, "x", NOTES)
        assert "secret" not in str(refused.value)


def test_a_refused_login_says_who_and_not_the_password(postgres_url: str) -> None:
    store = PgvectorStore(postgres_url.replace("postgres:", "nobody:secret", 1), "x", NOTES)
    with pytest.raises(RetrieverUnavailableError, match=r"notes.*nobody") as refused:
        store.search([ask()])
    assert "secret" not in str(refused.value)
    store.close()


def test_very_many_queries_go_in_parts(postgres_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgvector, "QUERIES", 3)
    monkeypatch.setattr(pgvector_async, "QUERIES", 3)
    store = filled(postgres_url, namespace, NOTES, [note(user, user=user) for user in "abcdefgh"])
    waiting = AsyncPgvectorStore(postgres_url, namespace, NOTES, timeout=20)
    queries = [ask(user=user) for user in "hgfedcba"]

    async def search() -> list[list[str]]:
        try:
            return [ids(one) for one in await waiting.search(queries)]
        finally:
            await waiting.aclose()

    assert [ids(one) for one in store.search(queries)] == asyncio.run(search()) == [[user] for user in "hgfedcba"]
    store.close()


def test_in_a_project(postgres_url: str, tmp_path: Path) -> None:
    """`materialize` fills it, prompts search it, in both kinds of builder; nothing stays open."""
    (tmp_path / "prompts").mkdir()
    (tmp_path / "features.py").write_text(
        "from llmfeatures import Entity, FunctionEmbedder, Registry, Retriever\n"
        "def vectors(texts): return [[1.0, float('space' in text)] for text in texts]\n"
        "user = Entity('user', join_key='user_id')\n"
        "embedder = FunctionEmbedder(vectors, model='space', dimensions=2)\n"
        "registry = Registry([Retriever('sessions', user, 'sessions.jsonl', embedder=embedder)])\n"
    )
    rows = [("s1", "a film of space", "ana"), ("s2", "a film of food", "ana"), ("s3", "space again", "bob")]
    lines = [{"id": name, "text": text, "user_id": user, "valid_from": "2026-05-01"} for name, text, user in rows]
    (tmp_path / "sessions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    header = '---\ninputs: {about: str}\ndocuments:\n  d: {retriever: sessions, query: "{{ about }}"}\n---\n'
    (tmp_path / "prompts" / "p.prompt.j2").write_text(header + "{% for one in d %}{{ one.id }} {% endfor %}")
    (tmp_path / "llmfeatures.toml").write_text(
        f'[project]\nname = "shop"\nregistry = "features.py"\n[retrieval]\nurl = "{postgres_url}"\ntimeout = "20s"\n'
    )

    async def built() -> str:
        builder = AsyncContextBuilder.from_project(tmp_path)
        try:
            return (await builder.build_context("p", user_id="ana", about="space")).messages[0]["content"]
        finally:
            await builder.aclose()

    builder = ContextBuilder.from_project(tmp_path)
    with pytest.raises(RenderError, match="materialize sessions"):
        builder.build_context("p", user_id="ana", about="space")
    with contextlib.closing(Project.load(tmp_path)) as project:
        assert [one.written for one in project.materialize().retrievers] == [3]
        assert [one.written for one in project.materialize().retrievers] == [0]
    context = builder.build_context("p", user_id="ana", about="space")
    builder.close()
    assert context.messages[0]["content"].split() == ["s1", "s2"]
    assert context.manifest.retrievals["d"].tier == "filtered"
    assert asyncio.run(built()) == context.messages[0]["content"]
