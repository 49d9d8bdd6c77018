"""Documents in Qdrant, for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qdrant_client import AsyncQdrantClient

from llmfeatures.errors import LLMFeaturesError
from llmfeatures.ports import Document, DocumentQuery
from llmfeatures.retrieval import wire
from llmfeatures.retrieval.background import arun, closed, opened
from llmfeatures.retrieval.qdrant_connections import KEY, address, async_client, translated
from llmfeatures.retrieval.qdrant_points import QUERIES, Points
from llmfeatures.retriever import Retriever, Tier

if TYPE_CHECKING:
    from llmfeatures.retrieval.qdrant_points import Found


class _Client:
    """A client in the loop that all remote stores share, in one process."""

    def __init__(self, url: str, key: str | None) -> None:
        self.process, self.asking = os.getpid(), async_client(url, key)
        opened(self)

    async def aclose(self) -> None:
        """As `background.Closable.aclose`."""
        await self.asking.close()


class AsyncQdrantStore:
    """As `llmfeatures.retrieval.qdrant.QdrantStore` of a server, which fills it."""

    def __init__(
        self, url: str, namespace: str, retriever: Retriever, *, timeout: float = 1.0, key: str | None = None
    ) -> None:
        self._url, self._key = address(url), key
        self._name, self._timeout = retriever.name, timeout
        self._points = Points(namespace, retriever)
        self._opened: _Client | None = None
        self._kept: list[object] = []
        """What another process opened: it must not be closed here."""

    @property
    def tier(self) -> Tier:
        """``filtered``."""
        return "filtered"

    async def search(self, queries: Sequence[DocumentQuery], *, timeout: float | None = None) -> list[list[Document]]:
        """As `AsyncDocumentStore.search`."""
        if not queries:
            return []
        try:
            async with asyncio.timeout(self._timeout if timeout is None else timeout):
                return await arun(self._found(queries))
        except TimeoutError:
            raise wire.late(self._name) from None
        except LLMFeaturesError:
            raise
        except Exception as error:  # noqa: BLE001  the client has no error of its own for all
            raise translated(self._name, error) from None

    async def aclose(self) -> None:
        """As `AsyncDocumentStore.aclose`."""
        held, self._opened = self._opened, None
        if held is not None and held.process == os.getpid():
            closed(held)
            await arun(held.aclose())

    async def _found(self, queries: Sequence[DocumentQuery]) -> list[list[Document]]:
        found: list[list[Document]] = []
        for part in wire.parts(queries, QUERIES):
            found += await self._search(part)
        return found

    async def _search(self, queries: Sequence[DocumentQuery]) -> list[list[Document]]:
        rounds = self._points.rounds(queries)
        try:
            requests = next(rounds)
            while True:
                answers = await self._client().query_batch_points(self._points.collection, requests)
                found: Found = [answer.points for answer in answers]
                requests = rounds.send(found)
        except StopIteration as done:
            return done.value

    def _client(self) -> AsyncQdrantClient:
        held = self._opened
        if held is None or held.process != os.getpid():
            if held is not None:
                self._kept.append(held)
            held = self._opened = _Client(self._url, self._key)
        return held.asking


def open_async_qdrant(url: str, namespace: str, retriever: Retriever, *, timeout: float) -> AsyncQdrantStore:
    """The store of ``qdrant://…`` or ``qdrants://…``. The key is in ``QDRANT_API_KEY``.

    Raises:
        ConfigError: it is no such URL.
    """
    return AsyncQdrantStore(url, namespace, retriever, timeout=timeout, key=os.environ.get(KEY) or None)
