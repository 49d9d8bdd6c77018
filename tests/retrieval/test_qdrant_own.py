"""What is Qdrant's own: the key, what a server refuses, what is sent, and folders."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmfeatures.errors import ConfigError, LLMFeaturesError, RetrieverError, RetrieverUnavailableError
from llmfeatures.ports import index_meta
from llmfeatures.retrieval.qdrant import QdrantStore, open_qdrant
from llmfeatures.retrieval.qdrant_async import AsyncQdrantStore
from llmfeatures.retrieval.qdrant_connections import address
from llmfeatures.testing.document_store import NOTES, ask, note
from llmfeatures.testing.document_store.notes import NOW, ids
from tests.retrieval.qdrant_server import Engine, qdrant_server


@pytest.fixture
def qdrant() -> Iterator[tuple[Engine, str]]:
    with qdrant_server() as running:
        yield running


def fill(store: QdrantStore) -> None:
    store.begin(index_meta(NOTES))
    store.write([note("a")])
    store.complete(index_meta(NOTES, NOW))


async def search(url: str, key: str | None) -> list[str]:
    store = AsyncQdrantStore(url, "x", NOTES, timeout=20, key=key)
    try:
        return ids((await store.search([ask()]))[0])
    finally:
        await store.aclose()


def test_the_key_is_sent_and_never_said(qdrant: tuple[Engine, str], monkeypatch: pytest.MonkeyPatch) -> None:
    engine, url = qdrant
    engine.key = "s3cret"
    monkeypatch.setenv("QDRANT_API_KEY", "s3cret")
    store = open_qdrant(url, Path(), "x", NOTES, timeout=20)
    fill(store)
    assert ids(store.search([ask()])[0]) == asyncio.run(search(url, "s3cret")) == ["a"]
    engine.key = "another"
    for call in (lambda: store.search([ask()]), lambda: asyncio.run(search(url, "s3cret"))):
        with pytest.raises(RetrieverUnavailableError, match="QDRANT_API_KEY") as refused:
            call()
        assert "s3cret" not in str(refused.value)
    store.close()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_event_loops_that_ended_leave_no_connection(qdrant: tuple[Engine, str]) -> None:
    _, url = qdrant
    filling = QdrantStore(url, "x", NOTES, timeout=20)
    fill(filling)
    filling.close()
    store = AsyncQdrantStore(url, "x", NOTES, timeout=20)

    def opened() -> int:
        assert ids(asyncio.run(store.search([ask()]))[0]) == ["a"]
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  only their number

    first = opened()
    assert max(opened() for _ in range(8)) <= first + 2
    asyncio.run(store.aclose())


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (400, RetrieverError, "refused the request"),
        (403, RetrieverUnavailableError, "key"),
        (404, RetrieverUnavailableError, "never filled"),
        (408, RetrieverUnavailableError, "in time"),
        (429, RetrieverUnavailableError, "cannot answer now"),
        (500, RetrieverUnavailableError, "cannot answer now"),
        (503, RetrieverUnavailableError, "cannot answer now"),
    ],
)
def test_what_a_server_refuses(
    qdrant: tuple[Engine, str], status: int, kind: type[LLMFeaturesError], said: str
) -> None:
    engine, url = qdrant
    store = QdrantStore(url, "x", NOTES, timeout=20)
    fill(store)
    engine.answer = status
    for call in (lambda: store.search([ask()]), lambda: asyncio.run(search(url, None))):
        with pytest.raises(RetrieverError, match=rf"notes.*{said}") as refused:
            call()
        assert type(refused.value) is kind
    engine.answer = None
    assert ids(store.search([ask()])[0]) == ["a"]
    store.close()


def test_a_search_is_one_request(qdrant: tuple[Engine, str]) -> None:
    engine, url = qdrant
    store = QdrantStore(url, "x", NOTES, timeout=20)
    fill(store)
    del engine.log[:]
    store.search([ask(), ask(user="bob", genre="x"), ask(order="recent")])
    assert engine.log == ["POST points/query/batch"]
    assert engine.refused == [], "all requests fit the schema of the official client"
    store.close()


def test_addresses() -> None:
    assert address("qdrant://db") == "http://db:6333"
    assert address("qdrants://db:443/prefix/") == "https://db:443/prefix"
    assert address("qdrant://[::1]:7000") == "http://[::1]:7000"
    for url in ("qdrant://", "qdrant:x", "qdrant://db:port", "http://db"):
        with pytest.raises(ConfigError, match=r"qdrant://HOST:PORT"):
            address(url)
    with pytest.raises(ConfigError, match="QDRANT_API_KEY") as refused:
        address("qdrant://user:s3cret@db")
    assert "s3cret" not in str(refused.value)


@pytest.mark.heavy
def test_a_folder_is_open_in_one_process_at_a_time(tmp_path: Path) -> None:
    store = open_qdrant("qdrant:vectors", tmp_path, "x", NOTES, timeout=20)
    again = open_qdrant(f"qdrant:{tmp_path}/vectors", Path(), "x", NOTES, timeout=20)
    fill(store)
    assert ids(again.search([ask()])[0]) == ["a"], "within a process it is shared"
    code = (
        "from pathlib import Path\n"
        "from llmfeatures.retrieval.qdrant import QdrantStore\n"
        "from llmfeatures.testing.document_store import NOTES, ask\n"
        f"store = QdrantStore(Path({str(tmp_path / 'vectors')!r}), 'x', NOTES)\n"
        "try:\n"
        "    print([one.id for one in store.search([ask()])[0]])\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
        "store.close()\n"
    )

    def elsewhere() -> str:
        return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert elsewhere().startswith("RetrieverUnavailableError retriever 'notes': its folder is open in another process")
    store.close()
    again.close()
    assert elsewhere() == "['a']\n", "and it is kept"
