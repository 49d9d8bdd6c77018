"""Documents in Qdrant: a server, or a folder by its client's local mode."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qdrant_client import QdrantClient

from llmfeatures.errors import FormatError, LLMFeaturesError
from llmfeatures.ports import Document, DocumentQuery, DocumentRecord, IndexMeta
from llmfeatures.retrieval import wire
from llmfeatures.retrieval.qdrant_connections import KEY, Deadlines, Local, address, client, translated
from llmfeatures.retrieval.qdrant_points import ABOUT, QUERIES, Points, ids_of, keys_of
from llmfeatures.retriever import Retriever, Tier
from llmfeatures.threads import ForkLock

if TYPE_CHECKING:
    from llmfeatures.retrieval.qdrant_points import Found

T = TypeVar("T")
_BATCH = 256
_PAGE = 10_000


class QdrantStore:
    """A collection per retriever. Its tier is ``filtered``: Qdrant filters by entity, metadata and moment while it
    searches its index of the vectors, which may miss some.

    Args:
        place: ``qdrant://HOST:PORT``, ``qdrants://HOST:PORT`` for TLS, or a folder for the client's local mode, which
            one process at a time can open, and which is for small things.
        namespace: stands before the names of collections.
        retriever: whose documents.
        timeout: seconds of a search, unless it says another.
        key: the server's API key.

    Raises:
        ConfigError: it is no URL of Qdrant.
    """

    def __init__(
        self, place: str | Path, namespace: str, retriever: Retriever, *, timeout: float = 1.0, key: str | None = None
    ) -> None:
        self._place = place if isinstance(place, Path) else address(place)
        self._name, self._timeout, self._key = retriever.name, timeout, key
        self._points = Points(namespace, retriever)
        self._deadlines = Deadlines()
        self._opened: tuple[int, QdrantClient | Local] | None = None
        self._kept: list[object] = []
        """What a forked child must not close."""
        self._lock = ForkLock()

    @property
    def tier(self) -> Tier:
        """``filtered``."""
        return "filtered"

    def search(self, queries: Sequence[DocumentQuery], *, timeout: float | None = None) -> list[list[Document]]:
        """As `DocumentStore.search`. In a folder nothing is interrupted."""
        if not queries:
            return []
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        found: list[list[Document]] = []
        for part in wire.parts(queries, QUERIES):
            found += self._run(lambda one, part=part: self._search(one, part), deadline)
        return found

    def close(self) -> None:
        """As `DocumentStore.close`."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None and opened[0] == os.getpid():
            if isinstance(opened[1], Local):
                opened[1].leave()
            else:
                opened[1].close()

    def meta(self) -> IndexMeta | None:
        """As `DocumentIndex.meta`."""
        return self._run(self._meta)

    def begin(self, meta: IndexMeta, *, replace: bool = False) -> None:
        """As `DocumentIndex.begin`."""

        def begin(one: QdrantClient) -> None:
            try:
                found = self._meta(one)
            except FormatError:
                if not replace:
                    raise
                found = None
            if found is not None and not replace:
                wire.check_fit(self._name, found, meta)
                return
            name = self._points.collection
            if one.collection_exists(name):
                one.delete_collection(name)
            one.create_collection(name, vectors_config=self._points.vectors())
            for field, schema in self._points.indexes().items():
                one.create_payload_index(name, field, schema, wait=True)
            one.upsert(name, [self._points.said(meta)], wait=True)

        self._run(begin)

    def keys(self) -> Iterator[str]:
        """As `DocumentIndex.keys`."""
        offset: Any = None
        while True:
            points, offset = self._run(
                lambda one, after=offset: one.scroll(
                    self._points.collection, limit=_PAGE, offset=after, with_payload=False, with_vectors=False
                )
            )
            yield from keys_of(points)
            if offset is None:
                return

    def write(self, records: Sequence[DocumentRecord]) -> None:
        """As `DocumentIndex.write`."""
        for start in range(0, len(records), _BATCH):
            points = [self._points.point(one) for one in records[start : start + _BATCH]]
            self._run(lambda one, points=points: one.upsert(self._points.collection, points, wait=True))

    def remove(self, keys: Sequence[str]) -> None:
        """As `DocumentIndex.remove`."""
        if keys:
            self._run(lambda one: one.delete(self._points.collection, ids_of(keys), wait=True))

    def complete(self, meta: IndexMeta) -> None:
        """As `DocumentIndex.complete`."""
        self._run(lambda one: one.upsert(self._points.collection, [self._points.said(meta)], wait=True))

    def _search(self, one: QdrantClient, queries: Sequence[DocumentQuery]) -> list[list[Document]]:
        rounds = self._points.rounds(queries)
        try:
            requests = next(rounds)
            while True:
                answers = one.query_batch_points(self._points.collection, requests)
                found: Found = [answer.points for answer in answers]
                requests = rounds.send(found)
        except StopIteration as done:
            return done.value

    def _meta(self, one: QdrantClient) -> IndexMeta | None:
        if not one.collection_exists(self._points.collection):
            return None
        return self._points.meta(one.retrieve(self._points.collection, [ABOUT], with_payload=True))

    # Connections

    def _run(self, work: Callable[[QdrantClient], T], deadline: float | None = None) -> T:
        self._deadlines.deadline = deadline
        try:
            with self.client() as one:
                return work(one)
        except LLMFeaturesError:
            raise
        except Exception as error:  # noqa: BLE001  the client has no error of its own for all
            raise translated(self._name, error) from None

    @contextmanager
    def client(self) -> Generator[QdrantClient]:
        """The client, for this thread."""
        with self._lock:
            opened = self._opened
            if opened is not None and opened[0] != os.getpid() and not isinstance(opened[1], Local):
                self._kept.append(opened)
                opened = None
            if opened is None:
                made = (
                    Local.of(self._place)
                    if isinstance(self._place, Path)
                    else client(self._place, self._key, self._deadlines, self._name)
                )
                opened = self._opened = os.getpid(), made
        if isinstance(opened[1], Local):
            with opened[1].alone() as one:
                yield one
        else:
            yield opened[1]


def open_qdrant(url: str, root: Path, namespace: str, retriever: Retriever, *, timeout: float) -> QdrantStore:
    """The store of ``qdrant://…``, ``qdrants://…`` or ``qdrant:PATH``, a folder relative to ``root``. The key is in
    ``QDRANT_API_KEY``.

    Raises:
        ConfigError: it is no such URL.
    """
    scheme, _, rest = url.partition(":")
    if rest.startswith("//") or scheme != "qdrant" or not rest:
        return QdrantStore(url, namespace, retriever, timeout=timeout, key=os.environ.get(KEY) or None)
    return QdrantStore(root / rest, namespace, retriever, timeout=timeout)
