"""A database that is not there, or does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Generator

import pytest

from llmfeatures.errors import RetrieverUnavailableError
from llmfeatures.ports import AsyncDocumentStore, DocumentStore
from llmfeatures.testing.document_store.notes import ask
from llmfeatures.testing.document_store.store import StoreTests

SOON = 8.0
"""Seconds within which a search that may last 0.3 has ended, on a busy machine."""


class UnansweredTests(StoreTests):
    """A store that is reached over a network."""

    def open_at(self, port: int) -> DocumentStore:
        """A store of `NOTES` whose database is said to be on this port of 127.0.0.1. The tests close it."""
        raise NotImplementedError

    def open_async_at(self, port: int) -> AsyncDocumentStore | None:
        """The same for asyncio; None where there is none."""
        raise NotImplementedError

    def test_a_database_that_is_not_there(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._is_unavailable(free.getsockname()[1], "notes")

    def test_a_database_that_does_not_answer(self) -> None:
        with silent() as port:
            self._is_unavailable(port, "notes")

    def _is_unavailable(self, port: int, named: str) -> None:
        store = self.open_at(port)
        began = time.monotonic()
        with pytest.raises(RetrieverUnavailableError, match=named):
            store.search([ask()], timeout=0.3)
        assert time.monotonic() - began < SOON
        store.close()
        asynchronous = self.open_async_at(port)
        if asynchronous is None:
            return

        async def search() -> None:
            try:
                await asynchronous.search([ask()], timeout=0.3)
            finally:
                await asynchronous.aclose()

        began = time.monotonic()
        with pytest.raises(RetrieverUnavailableError, match=named):
            asyncio.run(search())
        assert time.monotonic() - began < SOON


@contextlib.contextmanager
def silent() -> Generator[int]:
    """A port on which connections are taken, and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as taken:

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.enter_context(server.accept()[0])

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)
