"""Documents in Pinecone: its official client against a server that speaks its wire."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pinecone._internal.http_client import get_budget_registry

from llmfeatures.errors import (
    ConfigError,
    EntityMismatchError,
    FormatError,
    RetrieverError,
    RetrieverUnavailableError,
)
from llmfeatures.finders import StoreFinder
from llmfeatures.ports import AsyncDocumentStore, DocumentStore, index_meta
from llmfeatures.retrieval import pinecone as adapter
from llmfeatures.retrieval.pinecone import open_async_pinecone, open_pinecone
from llmfeatures.retriever import Retriever
from llmfeatures.testing.document_store import DIMENSIONS, NOTES, OTHER, ask, best, key_of, note, unit
from llmfeatures.testing.document_store.notes import NOW, ids, seen
from tests.retrieval.pinecone_server import KEY, Fault, PineconeServer
from tests.retrieval.remote_rules import KEPT, META, RemoteTests


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[int, PineconeServer]]:
    """Indexes by their dimensions; each is made when it is first wanted."""
    made: dict[int, PineconeServer] = {}
    yield made
    for one in made.values():
        one.close()


class PineconeTests:
    """What all tests of Pinecone need: empty indexes, and the key."""

    @pytest.fixture(autouse=True)
    def _with_servers(self, servers: dict[int, PineconeServer], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PINECONE_API_KEY", KEY)
        get_budget_registry()._reset()  # pyright: ignore[reportPrivateUsage]
        self.servers = servers
        for one in servers.values():
            one.clear()

    def server(self, dimensions: int | None = None) -> PineconeServer:
        """The index of a dimension."""
        wanted = dimensions or DIMENSIONS
        if wanted not in self.servers:
            self.servers[wanted] = PineconeServer(wanted)
        return self.servers[wanted]

    def url(self, retriever: Retriever) -> str:
        """The index that fits a retriever."""
        return self.server(None if retriever.embedder is None else retriever.embedder.dimensions).url


class TestPinecone(PineconeTests, RemoteTests):
    """The contract of document stores."""

    has_zero = False

    def open(self, retriever: Retriever) -> DocumentStore:
        return open_pinecone(self.url(retriever), "tests", retriever, timeout=5)

    def open_async(self, retriever: Retriever) -> AsyncDocumentStore:
        return open_async_pinecone(self.url(retriever), "tests", retriever, timeout=5)

    def open_at(self, port: int) -> DocumentStore:
        return open_pinecone(f"pinecone+http://127.0.0.1:{port}", "tests", NOTES, timeout=5)

    def open_async_at(self, port: int) -> AsyncDocumentStore:
        return open_async_pinecone(f"pinecone+http://127.0.0.1:{port}", "tests", NOTES, timeout=5)

    def set_format(self, retriever: Retriever, number: int) -> None:
        kept = self.server().namespaces[f"tests__{retriever.name}"].metadata["@meta"]
        kept["meta"] = kept["meta"].replace('"format":1', f'"format":{number}')


class TestWire(PineconeTests):
    """What is said to the server, and what becomes of its answers."""

    @pytest.fixture(autouse=True)
    def _with_store(self, _with_servers: None) -> Iterator[None]:
        self.index = self.server()
        self.store = open_pinecone(self.index.url, "tests", NOTES, timeout=10)
        yield
        self.store.close()

    def fill(self, *records: Any) -> None:
        self.store.begin(index_meta(NOTES), replace=True)
        self.store.write(records)
        self.store.complete(index_meta(NOTES, NOW))

    def test_the_server_filters(self) -> None:
        self.fill(note("a"))
        self.store.search([ask(top_k=3, genre="x", pinned=None)])
        (asked,) = self.index.asked("/query")
        moment = int(NOW.timestamp() * 1_000_000)
        assert asked == {
            "topK": asked["topK"],
            "includeValues": False,
            "includeMetadata": True,
            "namespace": "tests__notes",
            "vector": [1.0, 0.0, 0.0, 0.0],
            "filter": {
                "$and": [
                    {"entity": {"$eq": f"={key_of('ana')}"}},
                    {"m_genre": {"$eq": '"x"'}},
                    {"m_pinned": {"$eq": "null"}},
                    {"valid_from": {"$lte": moment}},
                    {"valid_to": {"$gt": moment}},
                ]
            },
        }
        assert asked["topK"] >= 3
        assert self.index.headers[-1]["api-key"] == KEY

    def test_a_vector_is_a_document(self) -> None:
        """Format 1."""
        document = note("a", (0.3, 0.1, 0.0, 0.0), text="Tea", genre="x", seen=NOW, words=["b", "a"])
        self.fill(document)
        written = self.index.asked("/vectors/upsert")[1]
        (vector,) = written["vectors"]
        assert vector["id"] == document.key
        assert np.asarray(vector["values"], dtype=np.float32).tolist() == unit((0.3, 0.1, 0.0, 0.0)).tolist()
        assert vector["metadata"] == KEPT
        (first, _, last) = self.index.asked("/vectors/upsert")
        for mark, written in ((None, first), ("2026-05-07T22:00:00.000000Z", last)):
            (meta,) = written["vectors"]
            assert (meta["id"], meta["values"], written["namespace"]) == ("@meta", [1.0, 0.0, 0.0, 0.0], "tests__notes")
            assert json.loads(meta["metadata"]["meta"]) == {**META, "watermark": mark}

    def test_floats_are_as_short_as_float32_has_them(self) -> None:
        self.fill(note("a", (0.1, 0.2, 0.3, 0.4)))
        values = self.index.asked("/vectors/upsert")[1]["vectors"][0]["values"]
        assert all(len(repr(one)) <= 12 for one in values)

    def test_large_writes_are_several_requests(self) -> None:
        records = [note(f"{number}", text="x" * 30_000) for number in range(90)]
        self.fill(*records)
        written = self.index.asked("/vectors/upsert")
        assert len(written) > 3
        assert sum(len(one["vectors"]) for one in written) == 92
        assert len(list(self.store.keys())) == 90

    def test_the_newest_of_many(self) -> None:
        """Pinecone sorts by similarity only; what comes back says where the newest ones are."""
        begins = [number * 7919 % 700 for number in range(700)]
        self.fill(*[note(f"{number:03}", begins=number) for number in begins])
        (found,) = self.store.search([ask(order="recent", top_k=5)])
        assert ids(found) == ["699", "698", "697", "696", "695"]
        assert len(self.index.asked("/query")) <= 6

    def test_the_newest_of_many_that_tie(self) -> None:
        records = [note(f"{number:03}", begins=number * 7919 % 40) for number in range(300)]
        self.fill(*records)
        queries = [ask(order="recent", top_k=top_k) for top_k in (1, 5, 8, 20, 200)]
        for query, found in zip(queries, self.store.search(queries), strict=True):
            assert seen(found) == best(records, query)

    def test_too_many_of_one_moment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(adapter, "MOST", 100)
        self.fill(*[note(f"{number:03}") for number in range(101)])
        for query in (ask(order="recent"), ask()):
            with pytest.raises(RetrieverError, match=r"notes.*100 documents are equally good"):
                self.store.search([query])

    def test_a_document_that_is_too_large_is_named(self, caplog: pytest.LogCaptureFixture) -> None:
        self.store.begin(index_meta(NOTES))
        with caplog.at_level(logging.DEBUG), pytest.raises(RetrieverError) as refused:
            self.store.write([note("small"), note("large", text="secret " * 6_000)])
        assert "document 'large' of retriever 'notes' has 42,2" in str(refused.value)
        assert "40,960" in str(refused.value)
        assert "secret" not in f"{refused.value}{caplog.text}"

    def test_a_document_of_the_greatest_size_is_taken(self) -> None:
        size = len(json.dumps(self.kept("é"), ensure_ascii=False, separators=(",", ":")).encode())
        text = "é" * ((40_960 - size) // 2 + 1)
        self.fill(note("a", text=text))
        assert self.store.search([ask()])[0][0].text == text
        with pytest.raises(RetrieverError, match=r"document 'a' .* has 40,96[1-9] bytes"):
            self.store.write([note("a", text=text + "é")])

    def kept(self, text: str) -> Any:
        """The metadata of a document with this text."""
        self.fill(note("a", text=text))
        return self.index.asked("/vectors/upsert")[1]["vectors"][0]["metadata"]

    def test_vectors_of_zeros_are_named(self) -> None:
        self.store.begin(index_meta(NOTES))
        with pytest.raises(RetrieverError, match="document 'none' of retriever 'notes' has a vector of zeros"):
            self.store.write([note("none", (0.0,) * 4)])
        self.fill(note("a"))
        with pytest.raises(RetrieverError, match="'notes': a query has a vector of zeros"):
            self.store.search([ask((0.0,) * 4)])

    def test_an_index_of_other_dimensions(self) -> None:
        store = open_pinecone(self.server(6).url, "tests", NOTES, timeout=10)
        with pytest.raises(
            RetrieverError, match="vectors of 6 dimensions, and the embedder of retriever 'notes' makes 4"
        ):
            store.begin(index_meta(NOTES))
        store.close()

    def test_an_index_of_another_metric(self) -> None:
        server = PineconeServer(DIMENSIONS, metric="euclidean")
        store = open_pinecone(server.url, "tests", NOTES, timeout=10)
        with pytest.raises(RetrieverError, match=r"metric euclidean.*cosine"):
            store.begin(index_meta(NOTES))
        store.close()
        server.close()

    def test_documents_of_another_entity_are_not_used(self) -> None:
        """A server that does not filter is found out."""
        self.fill(note("a"), note("b", user="bob"))
        self.index.deaf = True
        with pytest.raises(EntityMismatchError):
            StoreFinder("notes", self.store, None).find([ask()], 10)
        with pytest.raises(EntityMismatchError):
            StoreFinder("notes", self.store, None).find([ask(order="recent")], 10)

    def test_versions_of_another_moment_are_not_used(self) -> None:
        self.fill(note("now"), note("later", begins=int((NOW + timedelta(days=1)).timestamp() * 1_000_000)))
        self.index.deaf = True
        for query in (ask(), ask(order="recent")):
            assert ids(self.store.search([query])[0]) == ["now"]

    @pytest.mark.parametrize(
        ("status", "kind", "said"),
        [
            (400, RetrieverError, r"refused the request \(400\)"),
            (402, RetrieverError, r"refused the request \(402\)"),
            (403, RetrieverError, "does not allow this with the API key in PINECONE_API_KEY"),
            (404, RetrieverUnavailableError, "has no such index"),
            (429, RetrieverUnavailableError, "asked too much"),
            (500, RetrieverUnavailableError, r"failed \(500\)"),
        ],
    )
    def test_what_the_server_says(self, status: int, kind: type[RetrieverError], said: str) -> None:
        self.fill(note("a"))
        assert ids(self.store.search([ask()])[0]) == ["a"]
        self.index.faults = [Fault(status, 4, {"Retry-After": "0"})]
        with pytest.raises(RetrieverError, match=said) as refused:
            self.store.search([ask()])
        assert type(refused.value) is kind
        assert "'notes'" in str(refused.value)
        self.index.faults = []
        assert ids(self.store.search([ask()])[0]) == ["a"]

    def test_the_client_tries_again(self) -> None:
        self.fill(note("a"))
        assert ids(self.store.search([ask()])[0]) == ["a"]
        self.index.faults = [Fault(429, 1, {"Retry-After": "0"}), Fault(503, 1, {"Retry-After": "0"})]
        assert ids(self.store.search([ask()])[0]) == ["a"]
        assert len(self.index.asked("/query")) == 1 + 3

    def test_the_clients_retries_end_with_the_time(self) -> None:
        self.fill(note("a"))
        self.index.faults = [Fault(429, 99, {"Retry-After": "30"})]
        began = time.monotonic()
        with pytest.raises(RetrieverUnavailableError, match="notes"):
            self.store.search([ask()], timeout=0.2)
        assert time.monotonic() - began < 5

    def test_a_late_answer(self) -> None:
        self.fill(note("a"))
        self.index.delay = 0.4
        with pytest.raises(RetrieverUnavailableError, match="in time"):
            self.store.search([ask()], timeout=0.1)
        self.index.delay = 0.0
        assert ids(self.store.search([ask()])[0]) == ["a"]

    def test_the_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PINECONE_API_KEY", "wrong-key")
        store = open_pinecone(self.index.url, "tests", NOTES, timeout=10)
        with pytest.raises(RetrieverError, match="PINECONE_API_KEY") as refused:
            store.search([ask()])
        assert "wrong-key" not in f"{refused.value!r}{store!r}"
        store.close()
        monkeypatch.setenv("PINECONE_API_KEY", "wrong\u2028key")
        store = open_pinecone(self.index.url, "tests", NOTES, timeout=10)
        with pytest.raises(RetrieverError, match=r"notes.*key") as refused:
            store.search([ask()])
        assert "wrong" not in str(refused.value)
        store.close()
        monkeypatch.delenv("PINECONE_API_KEY")
        with pytest.raises(ConfigError, match="PINECONE_API_KEY is not set"):
            open_pinecone(self.index.url, "tests", NOTES, timeout=10)

    def test_an_index_that_was_emptied_was_never_filled(self) -> None:
        self.fill(note("a"))
        assert ids(self.store.search([ask()])[0]) == ["a"]
        self.index.namespaces.clear()
        with pytest.raises(RetrieverUnavailableError, match="never filled"):
            self.store.search([ask()])

    @pytest.mark.parametrize("kept", ["", "songs", "[]", "{}", None])
    def test_an_index_that_is_none_of_ours(self, kept: str | None) -> None:
        self.fill(note("a"))
        self.index.namespaces["tests__notes"].metadata["@meta"] = {} if kept is None else {"meta": kept}
        self.store.close()
        with pytest.raises(FormatError, match=r"notes.*--full"):
            self.store.search([ask()])

    def test_a_record_that_is_none_of_ours(self) -> None:
        self.fill(note("a"))
        for wrong in ({"m_genre": "no JSON"}, {"valid_from": "soon"}, {"document": 7.0}):
            held = self.index.namespaces["tests__notes"].metadata[note("a").key]
            before = dict(held)
            self.index.deaf = True
            held.update(wrong)
            with pytest.raises(RetrieverError, match=r"notes.*--full"):
                self.store.search([ask()])
            held.update(before)

    def test_projects_of_one_index_are_apart(self) -> None:
        """``a`` with ``b__notes`` is not ``a__b`` with ``notes``."""
        names = {
            adapter.place(namespace, name, 500)
            for namespace, name in (("a", "b__notes"), ("a__b", "notes"), ("a_", "_b__notes"), ("A", "b__notes"))
        }
        assert len(names) == 4
        self.fill(note("mine"))
        other = open_pinecone(self.index.url, "others", NOTES, timeout=10)
        other.begin(index_meta(NOTES), replace=True)
        other.complete(index_meta(NOTES, NOW))
        assert other.search([ask()]) == [[]]
        assert ids(self.store.search([ask()])[0]) == ["mine"]
        other.close()


@pytest.mark.parametrize(
    "url",
    [
        *("pinecone://", "pinecone://user:secret@h", "pinecone://h/path", "pinecone://h?x=1", "pinecone:h"),
        "pinecone+http://",
    ],
)
def test_urls_that_are_none(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINECONE_API_KEY", KEY)
    with pytest.raises(ConfigError, match="pinecone://INDEX-HOST") as refused:
        open_pinecone(url, "tests", OTHER, timeout=1)
    assert "secret" not in str(refused.value)


def test_a_host_is_reached_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINECONE_API_KEY", KEY)
    store = open_pinecone("pinecone://songs-abc.svc.pinecone.io", "tests", OTHER, timeout=1)
    assert repr(store) == "RemoteStore('https://songs-abc.svc.pinecone.io', 'other-Notes')"


UNCLOSED = """
from llmfeatures.retrieval.pinecone import open_pinecone
from llmfeatures.testing.document_store import NOTES, ask
store = open_pinecone({url!r}, "tests", NOTES, timeout=10)
assert [one.id for one in store.search([ask()])[0]] == ["a"]
"""


@pytest.mark.heavy
class TestProgram(PineconeTests):
    """A program that uses it."""

    def test_a_program_that_closes_nothing_ends_in_silence(self) -> None:
        store = open_pinecone(self.server().url, "tests", NOTES, timeout=10)
        store.begin(index_meta(NOTES), replace=True)
        store.write([note("a")])
        store.complete(index_meta(NOTES, NOW))
        store.close()
        ended = subprocess.run(
            [sys.executable, "-c", UNCLOSED.format(url=self.server().url)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=Path(__file__).parents[2],
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
