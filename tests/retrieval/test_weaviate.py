"""Documents in Weaviate: its official client against a server that speaks its wire."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import time
import warnings
from base64 import b64decode
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfeatures.errors import (
    ConfigError,
    EntityMismatchError,
    FormatError,
    RetrieverError,
    RetrieverUnavailableError,
)
from llmfeatures.finders import StoreFinder
from llmfeatures.ports import AsyncDocumentStore, DocumentStore, index_meta
from llmfeatures.retrieval.fields import lowered, metadata_field
from llmfeatures.retrieval.remote import RemoteStore
from llmfeatures.retrieval.weaviate import open_async_weaviate, open_weaviate
from llmfeatures.retriever import Retriever
from llmfeatures.testing.document_store import NOTES, ask, key_of, note, unit
from llmfeatures.testing.document_store.notes import NOW, ids
from tests.retrieval.remote_rules import KEPT, META, RemoteTests
from tests.retrieval.weaviate_server import WeaviateServer


@pytest.fixture(scope="module")
def started() -> Iterator[WeaviateServer]:
    """A server."""
    server = WeaviateServer()
    yield server
    server.close()


@pytest.fixture
def server(started: WeaviateServer, monkeypatch: pytest.MonkeyPatch) -> WeaviateServer:
    """A server that holds nothing."""
    monkeypatch.delenv("WEAVIATE_API_KEY", raising=False)
    started.tell("clear")
    return started


def collection(retriever: Retriever) -> str:
    """The collection of a retriever."""
    return f"Documents_{lowered('tests__' + retriever.name)}"


@pytest.mark.heavy
class TestWeaviate(RemoteTests):
    """The contract of document stores. `TestWire` is quicker."""

    @pytest.fixture(autouse=True)
    def _with_server(self, server: WeaviateServer) -> None:
        self.server = server

    def open(self, retriever: Retriever) -> DocumentStore:
        return open_weaviate(self.server.url, "tests", retriever, timeout=5)

    def open_async(self, retriever: Retriever) -> AsyncDocumentStore:
        return open_async_weaviate(self.server.url, "tests", retriever, timeout=5)

    def open_at(self, port: int) -> DocumentStore:
        return open_weaviate(f"weaviate://127.0.0.1:{port}?grpc=localhost:{port}", "tests", NOTES, timeout=5)

    def open_async_at(self, port: int) -> AsyncDocumentStore:
        return open_async_weaviate(f"weaviate://127.0.0.1:{port}?grpc=localhost:{port}", "tests", NOTES, timeout=5)

    def set_format(self, retriever: Retriever, number: int) -> None:
        name = collection(retriever)
        kept = json.loads(self.server.tell("show")["schema"][name]["description"])
        self.server.tell("describe", **{"class": name, "description": json.dumps({**kept, "format": number})})

    def test_a_forked_child_searches(self) -> None:
        """gRPC does not survive a fork: the child is told so, at once, and the parent goes on."""
        self.fill(NOTES, [note("a")])
        assert ids(self.found(ask())) == ["a"]
        said = in_child(lambda: self.found(ask()))
        assert said.startswith("RetrieverUnavailableError: retriever 'notes': this process was forked from one")
        assert "fork before the first search" in said
        assert ids(self.found(ask())) == ["a"]


def in_child(call: Callable[[], object]) -> str:
    """What a call raises, or returns, in a forked child."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            said = repr(call())
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


class TestWire:
    """What is said to the server, and what becomes of its answers."""

    @pytest.fixture(autouse=True)
    def _with_server(self, server: WeaviateServer) -> Iterator[None]:
        self.server = server
        self.store = open_weaviate(server.url, "tests", NOTES, timeout=10)
        yield
        self.store.close()

    def fill(self, *records: Any) -> None:
        self.store.begin(index_meta(NOTES), replace=True)
        self.store.write(records)
        self.store.complete(index_meta(NOTES, NOW))

    def asked(self, what: str) -> list[Any]:
        """What the server was asked of a kind."""
        return [body for kind, body in self.server.tell("show")["log"] if kind == what]

    def test_every_text_is_one_token(self) -> None:
        """By words, as Weaviate does unasked, ``an`` would find ``an:a``."""
        self.fill(note("a"))
        (made,) = self.asked("POST /v1/schema")
        texts = [one for one in made["properties"] if one["dataType"] == ["text"]]
        assert {one["name"] for one in texts} == {
            *("entity", "document", "version", "text"),
            *(metadata_field(name) for name in NOTES.metadata),
        }
        assert all(one["tokenization"] == "field" and one["indexSearchable"] is False for one in texts)
        filtered = {one["name"] for one in texts if one["indexFilterable"]}
        assert filtered == {
            "entity",
            *(metadata_field(name) for name in NOTES.metadata if name not in ("weight", "words", "more")),
        }
        assert [one["name"] for one in made["properties"] if one["dataType"] == ["int"]] == ["valid_from", "valid_to"]
        assert made["vectorConfig"]["default"]["vectorIndexConfig"]["distance"] == "cosine"

    def test_an_object_is_a_document(self) -> None:
        """Format 1."""
        document = note("a", (0.3, 0.1, 0.0, 0.0), text="Tea", genre="x", seen=NOW, words=["b", "a"])
        self.fill(document)
        (asked,) = self.asked("batch")
        (written,) = asked["objects"]
        assert written["collection"] == collection(NOTES) == "Documents_tests_5f_5fnotes"
        assert UUID(written["uuid"]).hex == document.key
        assert written["properties"]["nonRefProperties"] == KEPT
        assert np.frombuffer(b64decode(written["vectorBytes"]), "<f4").tolist() == unit((0.3, 0.1, 0.0, 0.0)).tolist()
        (made,) = self.asked("POST /v1/schema")
        assert json.loads(made["description"]) == META
        (marked,) = self.asked(f"PUT /v1/schema/{collection(NOTES)}")
        assert json.loads(marked["description"]) == {**META, "watermark": "2026-05-07T22:00:00.000000Z"}

    def test_by_words_another_entity_would_be_found(self) -> None:
        """The server of the tests does what Weaviate does when nobody says `field`; and even then nothing of the answer
        is used."""
        self.fill(note("mine", user="an"), note("theirs", user="an:a"))
        assert ids(self.store.search([ask(user="an")])[0]) == ["mine"]
        self.server.tell("retokenize", **{"class": collection(NOTES), "property": "entity", "tokenization": "word"})
        assert sorted(ids(self.store.search([ask(user="an")])[0])) == ["mine", "theirs"]
        with pytest.raises(EntityMismatchError):
            StoreFinder("notes", self.store, None).find([ask(user="an")], 10)

    def test_the_server_filters(self) -> None:
        self.fill(note("a"))
        self.store.search([ask(top_k=3, genre="x", pinned=None)])
        (asked,) = self.asked("search")
        conditions = {
            (one["target"]["property"], one["operator"]): one.get("valueText") or one.get("valueInt")
            for one in asked["filters"]["filters"]
        }
        moment = str(int(NOW.timestamp() * 1_000_000))
        assert asked["filters"]["operator"] == "OPERATOR_AND"
        assert conditions == {
            ("entity", "OPERATOR_EQUAL"): f"={key_of('ana')}",
            ("m_genre", "OPERATOR_EQUAL"): '"x"',
            ("m_pinned", "OPERATOR_EQUAL"): "null",
            ("valid_from", "OPERATOR_LESS_THAN_EQUAL"): moment,
            ("valid_to", "OPERATOR_GREATER_THAN"): moment,
        }
        assert asked["limit"] >= 3
        assert "nearVector" in asked

    def test_the_newest_are_sorted_by_the_server(self) -> None:
        self.fill(*[note(f"{number:03}", begins=number) for number in range(60)])
        (found,) = self.store.search([ask(order="recent", top_k=2)])
        assert ids(found) == ["059", "058"]
        (asked,) = self.asked("search")
        assert asked["sortBy"] == [{"path": ["valid_from"]}]
        assert asked["limit"] < 60
        assert "nearVector" not in asked

    def test_documents_of_another_entity_are_not_used(self) -> None:
        """A server that does not filter is found out."""
        self.fill(note("a"), note("b", user="bob"))
        self.server.tell("corrupt", **{"class": collection(NOTES), "properties": {"entity": f"={key_of('bob')}"}})
        assert self.store.search([ask()]) == [[]]
        self.server.tell("set", deaf=True)
        with pytest.raises(EntityMismatchError):
            StoreFinder("notes", self.store, None).find([ask()], 10)

    def test_versions_of_another_moment_are_not_used(self) -> None:
        self.fill(note("now"), note("later", begins=int((NOW + timedelta(days=1)).timestamp() * 1_000_000)))
        self.server.tell("set", deaf=True)
        assert ids(self.store.search([ask()])[0]) == ["now"]
        assert self.store.search([ask(genre="x")]) == [[]]

    def test_a_document_that_is_refused_is_named(self, caplog: pytest.LogCaptureFixture) -> None:
        self.fill(note("good"))
        with caplog.at_level(logging.DEBUG), pytest.raises(RetrieverError) as refused:
            self.store.write([note("good"), note("wide", (1.0,) * 5, text="a secret text")])
        assert str(refused.value) == (
            "retriever 'notes': Weaviate did not take 1 of 2 documents, the first of them 'wide'"
        )
        with pytest.raises(RetrieverError, match="did not take 1 of 1 documents, the first of them 'wide'"):
            self.store.write([note("wide", (1.0,) * 5, text="a secret text")])
        assert "secret" not in caplog.text

    def test_the_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server.tell("set", key="right-key")
        for key in ("", "wrong-key"):
            monkeypatch.setenv("WEAVIATE_API_KEY", key)
            self.store.close()
            with pytest.raises(RetrieverError, match="WEAVIATE_API_KEY") as refused:
                self.store.meta()
            assert "wrong-key" not in f"{refused.value!r}{self.store!r}"
            assert not isinstance(refused.value, RetrieverUnavailableError)
        monkeypatch.setenv("WEAVIATE_API_KEY", "right-key")
        self.store.close()
        self.fill(note("a"))
        assert ids(self.store.search([ask()])[0]) == ["a"]
        self.server.tell("set", key="another-key")
        with pytest.raises(RetrieverError, match="WEAVIATE_API_KEY"):
            self.store.search([ask()])

    @pytest.mark.parametrize(
        ("status", "kind", "said"),
        [
            ("PERMISSION_DENIED", RetrieverError, "does not allow"),
            ("UNKNOWN", RetrieverError, "refused"),
            ("DEADLINE_EXCEEDED", RetrieverUnavailableError, "in time"),
            ("RESOURCE_EXHAUSTED", RetrieverUnavailableError, "reached"),
        ],
    )
    def test_what_grpc_says(self, status: str, kind: type[RetrieverError], said: str) -> None:
        self.fill(note("a"))
        self.server.tell("set", faults=[status])
        with pytest.raises(RetrieverError, match=said) as refused:
            self.store.search([ask()])
        assert type(refused.value) is kind
        assert ids(self.store.search([ask()])[0]) == ["a"]

    def test_the_clients_retries_end_with_the_time(self) -> None:
        """The client would wait 63 seconds for a server that is unavailable."""
        self.fill(note("a"))
        self.server.tell("set", faults=["UNAVAILABLE"] * 99)
        began = time.monotonic()
        with pytest.raises(RetrieverUnavailableError, match="notes"):
            self.store.search([ask()], timeout=0.2)
        assert time.monotonic() - began < 5

    @pytest.mark.heavy
    def test_the_client_tries_again(self) -> None:
        self.fill(note("a"))
        self.server.tell("set", faults=["UNAVAILABLE"])
        assert ids(self.store.search([ask()], timeout=30)[0]) == ["a"]

    def test_a_late_answer(self) -> None:
        self.fill(note("a"))
        self.server.tell("set", delay=0.4)
        with pytest.raises(RetrieverUnavailableError, match="in time"):
            self.store.search([ask()], timeout=0.1)
        self.server.tell("set", delay=0.0)
        assert ids(self.store.search([ask()])[0]) == ["a"]

    def test_a_collection_that_was_dropped_was_never_filled(self) -> None:
        self.fill(note("a"))
        assert ids(self.store.search([ask()])[0]) == ["a"]
        self.server.tell("drop")
        with pytest.raises(RetrieverUnavailableError, match="never filled"):
            self.store.search([ask()])

    @pytest.mark.parametrize("description", ["", "songs", "[]", "{}"])
    def test_a_collection_that_is_none_of_ours(self, description: str) -> None:
        self.fill(note("a"))
        self.server.tell("describe", **{"class": collection(NOTES), "description": description})
        self.store.close()
        with pytest.raises(FormatError, match=r"notes.*--full"):
            self.store.search([ask()])

    def test_a_record_that_is_none_of_ours(self) -> None:
        self.fill(note("a"))
        self.server.tell("corrupt", **{"class": collection(NOTES), "properties": {"m_genre": "no JSON"}})
        with pytest.raises(RetrieverError, match=r"notes.*none of ours.*--full"):
            self.store.search([ask()])


NAMES = st.text(alphabet="aAbB_09é", max_size=6)


@given(NAMES, NAMES)
def test_names_stay_apart_where_case_does_not_count(first: str, second: str) -> None:
    one, other = lowered(first), lowered(second)
    assert (one.lower() == other.lower()) == (first == second)
    assert re.fullmatch(r"[a-z0-9_]*", one)


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("weaviate://h", "h"),
        ("weaviate://h:80?grpc=7", "h"),
        ("weaviate://[::1]:80?grpc=g:7", "::1"),
        ("weaviates://x.c0.weaviate.cloud", "x.c0.weaviate.cloud"),
    ],
)
def test_urls(url: str, where: str) -> None:
    store = open_weaviate(url, "tests", NOTES, timeout=1)
    assert isinstance(store, RemoteStore)
    assert where in repr(store)


@pytest.mark.parametrize(
    "url",
    [
        *("weaviate://", "weaviate://user:secret@h", "weaviate://h/path", "weaviate://h?x=1", "weaviate://h?grpc=x"),
        *("weaviate://h:x", "weaviate://h:8080?grpc=8080", "weaviate://h?grpc"),
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="weaviate://HOST:PORT") as refused:
        open_weaviate(url, "tests", NOTES, timeout=1)
    assert "secret" not in str(refused.value)


USED = """
import os
from llmfeatures.retrieval.weaviate import open_weaviate
from llmfeatures.testing.document_store import NOTES, ask
store = open_weaviate({url!r}, "tests", NOTES, timeout=10)
child = os.fork()
found = store.search([ask()])
assert [one.id for one in found[0]] == ["a"]
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.heavy
def test_a_store_that_was_not_used_yet_is_forked(server: WeaviateServer) -> None:
    """And a program that closes nothing ends in silence."""
    store = open_weaviate(server.url, "tests", NOTES, timeout=10)
    store.begin(index_meta(NOTES), replace=True)
    store.write([note("a")])
    store.complete(index_meta(NOTES, NOW))
    store.close()
    ended = subprocess.run(
        [sys.executable, "-c", USED.format(url=server.url)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
