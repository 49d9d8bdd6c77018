"""Documents in a Pinecone index: one namespace per retriever, one vector per version of a document.

The entity, the bounds of a version and its metadata are metadata of the vector, and each query filters by them on the
server. Pinecone sorts by nothing but similarity, has no vectors of zeros, and shows what was written a little later.
"""

# the client's metadata and responses are partly typed
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from pinecone import AsyncIndex
from pinecone.errors import (
    ApiError,
    ForbiddenError,
    NotFoundError,
    PineconeConnectionError,
    PineconeError,
    PineconeTimeoutError,
    RateLimitError,
    ServiceError,
    UnauthorizedError,
)

from llmfeatures.clock import microseconds
from llmfeatures.errors import ConfigError, LLMFeaturesError, RetrieverError, RetrieverUnavailableError
from llmfeatures.ports import ALWAYS, Document, DocumentQuery, DocumentRecord, IndexMeta
from llmfeatures.retrieval.fields import (
    BEGINS,
    ENDS,
    META,
    alike,
    best,
    equal,
    fields,
    fits,
    found_document,
)
from llmfeatures.retrieval.remote import AT_ONCE, AsyncRemoteStore, RemoteStore
from llmfeatures.retrieval.wire import meta_fields, meta_of, moment, newest, place
from llmfeatures.retriever import Retriever

KEY: Final = "PINECONE_API_KEY"
MOST: Final = 10_000
"""Vectors that a query may ask for."""
METADATA_BYTES: Final = 40_960
"""What a vector may have of metadata, the document's text among it."""
_REQUEST_BYTES: Final = 1_500_000
"""Of an upsert; the server takes two megabytes."""
_SCANNED: Final = 64
"""So many documents at least are looked at together for the newest ones."""
_PAGE: Final = 100
_META_ID: Final = "@meta"


class PineconeIndex:
    """`llmfeatures.retrieval.remote.Remote` in a Pinecone index."""

    def __init__(self, host: str, namespace: str, retriever: Retriever, key: str) -> None:
        # half of the pool is kept alive: enough for the searches of a call
        self._index = AsyncIndex(host=host, api_key=key, connection_pool_maxsize=2 * AT_ONCE)
        self._namespace, self._retriever = place(namespace, retriever.name, 500), retriever
        self._dimensions: int | None = None

    async def find(self, query: DocumentQuery) -> list[Document]:
        """As `Remote.find`."""
        if query.order == "recent":
            return await self._newest(query)
        assert query.vector is not None
        if not query.vector.any():
            raise RetrieverError(f"retriever {self._retriever.name!r}: a query has a vector of zeros, and no direction")
        values, _ = _values(query.vector)

        async def fetch(count: int) -> list[Document]:
            return await self._query(values, count, _filter(self._retriever, query), scored=True)

        return await best(self._retriever, query, fetch, MOST)

    async def _newest(self, query: DocumentQuery) -> list[Document]:
        """Whatever vectors come back say from when on the newest ones must be, which leaves fewer, until they are
        all."""
        asked, since = min(max(query.top_k * 4, _SCANNED), MOST), ALWAYS
        values = _axis(await self._size())
        while True:
            found = await self._query(values, asked, _filter(self._retriever, query, since), scored=False)
            kept = [one for one in found if fits(query, one)]
            if len(found) < asked:
                return newest(kept, query.top_k)
            later = _began(newest(kept, query.top_k)[-1]) if len(kept) >= query.top_k else since
            if later > since:
                since = later
            elif asked == MOST:
                raise alike(self._retriever, MOST)
            else:
                asked = min(asked * 8, MOST)

    async def _query(
        self, values: list[float], count: int, where: Mapping[str, Any], *, scored: bool
    ) -> list[Document]:
        found = await self._index.query(
            vector=values, top_k=count, namespace=self._namespace, filter=where, include_metadata=True
        )
        return [
            found_document(self._retriever, one.metadata or {}, one.score if scored else None) for one in found.matches
        ]

    async def meta(self) -> IndexMeta | None:
        """As `Remote.meta`."""
        try:
            answer = await self._index.fetch(ids=[_META_ID], namespace=self._namespace)
        except NotFoundError:
            return None
        found = answer.vectors.get(_META_ID)
        return None if found is None else meta_of(self._retriever.name, _written(found.metadata))

    async def make(self, meta: IndexMeta, *, replace: bool) -> None:
        """As `Remote.make`. The index is made elsewhere; here it is seen that it fits."""
        stats = await self._index.describe_index_stats()
        if meta.dimensions is not None and stats.dimension != meta.dimensions:
            raise RetrieverError(
                f"the Pinecone index has vectors of {stats.dimension} dimensions, and the embedder of retriever "
                f"{self._retriever.name!r} makes {meta.dimensions}; make an index of {meta.dimensions}"
            )
        if stats.metric not in (None, "cosine", "dotproduct"):
            raise RetrieverError(
                f"the Pinecone index has the metric {stats.metric}, and scores are cosines; make one with metric cosine"
            )
        if replace:
            with suppress(NotFoundError):  # there is no such namespace yet
                await self._index.delete(delete_all=True, namespace=self._namespace)
        await self.mark(meta)

    async def mark(self, meta: IndexMeta) -> None:
        """As `Remote.mark`."""
        kept = {META: orjson.dumps(meta_fields(meta)).decode()}
        vector = {"id": _META_ID, "values": _axis(await self._size()), "metadata": kept}
        await self._index.upsert(vectors=[vector], namespace=self._namespace)

    async def page(self, after: str | None) -> tuple[list[str], str | None]:
        """As `Remote.page`."""
        found = await self._index.list_paginated(limit=_PAGE, pagination_token=after, namespace=self._namespace)
        more = None if found.pagination is None else found.pagination.next
        return [one.id for one in found.vectors if one.id not in (None, _META_ID)], more or None

    async def write(self, records: Sequence[DocumentRecord]) -> None:
        """As `Remote.write`."""
        axis = None if all(one.vector is not None for one in records) else _axis(await self._size())
        for portion in _portions(self._vectors(records, axis)):
            await self._index.upsert(vectors=portion, namespace=self._namespace)

    def _vectors(
        self, records: Iterable[DocumentRecord], axis: list[float] | None
    ) -> Iterator[tuple[dict[str, Any], int]]:
        for one in records:
            metadata = fields(self._retriever, one)
            size = len(orjson.dumps(metadata))
            if size > METADATA_BYTES:
                raise RetrieverError(
                    f"document {one.id!r} of retriever {self._retriever.name!r} has {size:,} bytes of text and "
                    f"metadata, and Pinecone keeps at most {METADATA_BYTES:,}; split it, or keep it in another database"
                )
            if one.vector is None:
                assert axis is not None
                values, length = axis, 8 * len(axis)
            elif one.vector.any():
                values, length = _values(one.vector)
            else:
                raise RetrieverError(
                    f"document {one.id!r} of retriever {self._retriever.name!r} has a vector of zeros, which Pinecone "
                    "does not keep; leave it out, or keep it in another database"
                )
            yield {"id": one.key, "values": values, "metadata": metadata}, size + length

    async def remove(self, keys: Sequence[str]) -> None:
        """As `Remote.remove`."""
        with suppress(NotFoundError):  # no namespace, no keys
            await self._index.delete(ids=list(keys), namespace=self._namespace)

    async def aclose(self) -> None:
        """As `Remote.aclose`."""
        await self._index.close()

    async def _size(self) -> int:
        """The dimensions of the index."""
        if self._dimensions is None:
            found = (await self._index.describe_index_stats()).dimension
            if found is None:
                raise RetrieverError("the Pinecone index has no dense vectors; make one that has, with metric cosine")
            self._dimensions = found
        return self._dimensions

    def translated(self, error: Exception) -> LLMFeaturesError:
        """As `Remote.translated`."""
        label = f"retriever {self._retriever.name!r}: Pinecone"
        match error:
            case PineconeTimeoutError():
                return RetrieverUnavailableError(f"{label} did not answer in time")
            case PineconeConnectionError():
                return RetrieverUnavailableError(
                    f"{label} cannot be reached; is the index host in [retrieval] url right?"
                )
            case UnauthorizedError():
                return RetrieverError(f"{label} does not know the API key; set {KEY} to one of the index's project")
            case ForbiddenError():
                return RetrieverError(f"{label} does not allow this with the API key in {KEY}")
            case RateLimitError():
                return RetrieverUnavailableError(f"{label} is asked too much (429), also after the client's retries")
            case NotFoundError():
                return RetrieverUnavailableError(f"{label} has no such index; is its host in [retrieval] url right?")
            case ServiceError():
                return RetrieverUnavailableError(f"{label} failed ({error.status_code})")
            case ApiError():
                return RetrieverError(f"{label} refused the request ({error.status_code})")
            case PineconeError():
                return RetrieverError(f"{label} could not be asked ({type(error).__name__})")
            case _:
                return RetrieverError(f"{label} gave an answer that cannot be read ({type(error).__name__})")


def open_pinecone(url: str, namespace: str, retriever: Retriever, *, timeout: float) -> RemoteStore:
    """The documents of a retriever in a Pinecone index.

    Args:
        url: ``pinecone://INDEX-HOST``; ``pinecone+http://HOST:PORT`` for an emulator on this machine.
        namespace: what the names of this project's namespaces begin with.
        timeout: seconds that a search may take.

    Raises:
        ConfigError: the URL has no host, or there is no API key.
    """
    host, key = _address(url)
    return RemoteStore(retriever, lambda: PineconeIndex(host, namespace, retriever, key), host, timeout=timeout)


def open_async_pinecone(url: str, namespace: str, retriever: Retriever, *, timeout: float) -> AsyncRemoteStore:
    """As `open_pinecone`, for asyncio."""
    host, key = _address(url)
    return AsyncRemoteStore(retriever, lambda: PineconeIndex(host, namespace, retriever, key), host, timeout=timeout)


def _address(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    if not parts.hostname or parts.path not in ("", "/") or parts.query or "@" in parts.netloc:
        raise ConfigError(
            "[retrieval] url for Pinecone is pinecone://INDEX-HOST, the host that its console shows; the API key is in "
            f"{KEY}"
        )
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise ConfigError(f"{KEY} is not set; set it to an API key of the Pinecone index's project")
    return f"{'http' if parts.scheme == 'pinecone+http' else 'https'}://{parts.netloc}", key


def _filter(retriever: Retriever, query: DocumentQuery, since: int = ALWAYS) -> dict[str, Any]:
    at = moment(query.as_of)
    conditions: list[dict[str, Any]] = [{name: {"$eq": one}} for name, one in equal(retriever, query).items()]
    conditions += [{BEGINS: {"$lte": at}}, {ENDS: {"$gt": at}}]
    if since > ALWAYS:
        conditions.append({BEGINS: {"$gte": since}})
    return {"$and": conditions}


def _values(vector: Any) -> tuple[list[float], int]:
    """A vector's floats in as few digits as float32 has, and how long they are as JSON."""
    import numpy as np

    written = orjson.dumps(np.ascontiguousarray(vector, dtype=np.float32), option=orjson.OPT_SERIALIZE_NUMPY)
    return orjson.loads(written), len(written)


def _axis(dimensions: int) -> list[float]:
    """The vector of what has none: Pinecone wants one."""
    return [1.0, *[0.0] * (dimensions - 1)]


def _portions(vectors: Iterable[tuple[dict[str, Any], int]]) -> Iterator[list[dict[str, Any]]]:
    portion: list[dict[str, Any]] = []
    total = 0
    for one, size in vectors:
        if portion and total + size > _REQUEST_BYTES:
            yield portion
            portion, total = [], 0
        portion.append(one)
        total += size
    if portion:
        yield portion


def _written(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        found = orjson.loads((metadata or {})[META])
    except (KeyError, ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _began(one: Document) -> int:
    return ALWAYS if one.valid_from is None else microseconds(one.valid_from)
