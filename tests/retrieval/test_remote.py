"""What all databases that are spoken to in asyncio share, with one that is none."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

from llmfeatures.errors import RetrieverUnavailableError
from llmfeatures.ports import Prepared, index_meta
from llmfeatures.retrieval import remote
from llmfeatures.retrieval.remote import AsyncRemoteStore, RemoteStore
from llmfeatures.testing.document_store import NOTES, ask
from llmfeatures.testing.document_store.notes import NOW

UNUSED = """
import threading
from llmfeatures.retrieval.remote import RemoteStore
from llmfeatures.testing.document_store import NOTES
RemoteStore(NOTES, lambda: None, "x", timeout=1).close()
print(threading.active_count())
"""


class Closing:
    """A database that fails, as clients do, where it is closed during a search."""

    def __init__(self) -> None:
        self.searched, self.closed = threading.Event(), asyncio.Event()

    async def meta(self) -> Any:
        """It is filled."""
        return index_meta(NOTES, NOW)

    async def find(self, _: Any) -> Any:
        """Nothing."""
        self.searched.set()
        await self.closed.wait()
        raise RuntimeError

    async def aclose(self) -> None:
        """Fail."""
        self.closed.set()


def test_a_search_that_is_under_way_while_its_store_is_closed() -> None:
    database: Any = Closing()
    store = RemoteStore(NOTES, lambda: database, "x", timeout=20)
    said: list[Exception] = []

    def search() -> None:
        with pytest.raises(RetrieverUnavailableError) as raised:
            store.search([ask()])
        said.append(raised.value)

    thread = threading.Thread(target=search)
    thread.start()
    assert database.searched.wait(20)
    store.close()
    thread.join(20)
    assert [str(one) for one in said] == ["retriever 'notes' was closed meanwhile"]


def test_a_store_that_was_not_used_starts_no_thread_to_close_it() -> None:
    done = subprocess.run([sys.executable, "-c", UNUSED], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_a_store_is_connected_before_its_first_search_and_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Counting(Closing):
        async def meta(self) -> Any:
            asked.append("meta")
            return index_meta(NOTES, NOW)

        async def find(self, _: Any) -> Any:
            asked.append("find")
            return [None]

    for store in (RemoteStore, AsyncRemoteStore):
        opened: Any = store(NOTES, Counting, "x", timeout=20)  # type: ignore[arg-type]
        assert isinstance(opened, Prepared)
        asked.clear()
        opened.prepare()
        assert asked == ["meta"]
        found = opened.search([ask()])
        assert (asyncio.run(found) if store is AsyncRemoteStore else found) == [[None]]
        assert asked == ["meta", "find"], "the search has nothing left to open"
        asyncio.run(opened.aclose()) if store is AsyncRemoteStore else opened.close()

    class Silent(Closing):
        async def meta(self) -> Any:
            await self.closed.wait()

    monkeypatch.setattr(remote, "_CONNECTING", 0.01)
    away: Any = RemoteStore(NOTES, Silent, "x", timeout=20)  # type: ignore[arg-type]
    with pytest.raises(RetrieverUnavailableError, match="in time"):
        away.prepare()
    away.close()
