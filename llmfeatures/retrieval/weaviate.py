"""Documents in Weaviate 1.27 or later: one collection per retriever, one object per version of a document.

The entity, the bounds of a version and its metadata are properties that each search filters by on the server. Texts
among them are tokenized as a whole field: by words, as Weaviate does unasked, a filter for one entity would let
another's through whose key has the same words. The collection's description holds what the index says of itself.
"""

# the client's collections are generic in what nobody states
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import httpx
import orjson
import weaviate
from grpc import StatusCode
from grpc.aio import AioRpcError
from weaviate.classes.config import Configure, DataType, Property, Tokenization, VectorDistances
from weaviate.classes.data import DataObject
from weaviate.classes.init import AdditionalConfig, Auth, Timeout
from weaviate.classes.query import Filter, MetadataQuery, Sort
from weaviate.exceptions import (
    AuthenticationFailedError,
    UnexpectedStatusCodeError,
    WeaviateConnectionError,
    WeaviateGRPCUnavailableError,
    WeaviateInsertManyAllFailedError,
    WeaviateQueryError,
    WeaviateRetryError,
    WeaviateStartUpError,
    WeaviateTimeoutError,
)

from llmfeatures.errors import ConfigError, LLMFeaturesError, RetrieverError, RetrieverUnavailableError
from llmfeatures.ports import Document, DocumentQuery, DocumentRecord, IndexMeta
from llmfeatures.retrieval.fields import (
    BEGINS,
    ENDS,
    ENTITY,
    TEXTS,
    best,
    equal,
    fields,
    found_document,
    lowered,
    metadata_field,
)
from llmfeatures.retrieval.remote import AsyncRemoteStore, RemoteStore
from llmfeatures.retrieval.wire import late, meta_fields, meta_of, moment, never_filled, place
from llmfeatures.retriever import FILTERED, Retriever

KEY: Final = "WEAVIATE_API_KEY"
MOST: Final = 10_000
"""Objects that a search may ask for (the server's ``QUERY_MAXIMUM_RESULTS``, unless it was changed)."""
_SECONDS: Final = 60
_PAGE: Final = 1_000
_CLOUD: Final = (".weaviate.cloud", ".weaviate.io", ".semi.technology")
_served: set[int] = set()
"""The processes that used gRPC."""


class WeaviateCollection:
    """`llmfeatures.retrieval.remote.Remote` in a Weaviate collection."""

    def __init__(self, address: tuple[str, int, str, int, bool], namespace: str, retriever: Retriever) -> None:
        if _served - {os.getpid()}:
            raise RetrieverUnavailableError(
                f"retriever {retriever.name!r}: this process was forked from one that had searched in Weaviate, and "
                "gRPC does not survive that; fork before the first search, or start processes with spawn"
            )
        self._address, self._retriever = address, retriever
        self._name = f"Documents_{lowered(place(namespace, retriever.name, 80))}"
        self._properties = [ENTITY, *TEXTS, BEGINS, ENDS, *map(metadata_field, retriever.metadata)]
        self._client: Any = None
        self._opening = asyncio.Lock()

    async def _collections(self) -> Any:
        """The collections of a client that is connected."""
        async with self._opening:
            if self._client is None:
                host, port, grpc_host, grpc_port, secure = self._address
                key = os.environ.get(KEY, "").strip()
                _served.add(os.getpid())
                client = weaviate.use_async_with_custom(
                    http_host=host,
                    http_port=port,
                    http_secure=secure,
                    grpc_host=grpc_host,
                    grpc_port=grpc_port,
                    grpc_secure=secure,
                    auth_credentials=Auth.api_key(key) if key else None,
                    additional_config=AdditionalConfig(timeout=Timeout(init=_SECONDS, query=_SECONDS, insert=_SECONDS)),
                    skip_init_checks=True,  # one of them asks a package registry
                )
                try:
                    await client.connect()
                except BaseException:
                    await client.close()
                    raise
                self._client = client
            return self._client.collections

    async def _collection(self) -> Any:
        return (await self._collections()).use(self._name)

    async def find(self, query: DocumentQuery) -> list[Document]:
        """As `Remote.find`."""
        collection = await self._collection()
        at = moment(query.as_of)
        where = Filter.all_of(
            [
                *[Filter.by_property(name).equal(one) for name, one in equal(self._retriever, query).items()],
                Filter.by_property(BEGINS).less_or_equal(at),
                Filter.by_property(ENDS).greater_than(at),
            ]
        )

        async def fetch(count: int) -> list[Document]:
            if query.order == "recent":
                found = await collection.query.fetch_objects(
                    filters=where,
                    sort=Sort.by_property(BEGINS, ascending=False),
                    limit=count,
                    return_properties=self._properties,
                )
                return [found_document(self._retriever, one.properties, None) for one in found.objects]
            assert query.vector is not None
            found = await collection.query.near_vector(
                near_vector=query.vector.tolist(),
                filters=where,
                limit=count,
                return_metadata=MetadataQuery(distance=True),
                return_properties=self._properties,
            )
            return [
                found_document(self._retriever, one.properties, 1.0 - one.metadata.distance) for one in found.objects
            ]

        try:
            return await best(self._retriever, query, fetch, MOST)
        except WeaviateQueryError:
            if not await (await self._collections()).exists(self._name):
                raise never_filled(self._retriever.name) from None
            raise

    async def meta(self) -> IndexMeta | None:
        """As `Remote.meta`."""
        try:
            found = await (await self._collection()).config.get(simple=True)
        except UnexpectedStatusCodeError as error:
            if error.status_code == 404:
                return None
            raise
        try:
            held = orjson.loads(found.description or "")
        except ValueError:
            held = {}
        return meta_of(self._retriever.name, held if isinstance(held, dict) else {})

    async def make(self, meta: IndexMeta, *, replace: bool) -> None:
        """As `Remote.make`."""
        collections = await self._collections()
        if replace and await collections.exists(self._name):
            await collections.delete(self._name)
        await collections.create(
            self._name,
            description=_written(meta),
            vector_config=Configure.Vectors.self_provided(
                vector_index_config=Configure.VectorIndex.hnsw(distance_metric=VectorDistances.COSINE)
            ),
            properties=[
                _text(ENTITY, filtered=True),
                *[_text(name) for name in TEXTS],
                *[
                    Property(name=name, data_type=DataType.INT, index_filterable=True, index_range_filters=True)
                    for name in (BEGINS, ENDS)
                ],
                *[
                    _text(metadata_field(name), filtered=dtype.kind in FILTERED)
                    for name, dtype in self._retriever.metadata.items()
                ],
            ],
        )

    async def mark(self, meta: IndexMeta) -> None:
        """As `Remote.mark`."""
        await (await self._collection()).config.update(description=_written(meta))

    async def page(self, after: str | None) -> tuple[list[str], str | None]:
        """As `Remote.page`."""
        collection = await self._collection()
        found = await collection.query.fetch_objects(
            limit=_PAGE, after=None if after is None else UUID(after), return_properties=[BEGINS]
        )
        keys = [one.uuid.hex for one in found.objects]
        return keys, keys[-1] if len(keys) == _PAGE else None

    async def write(self, records: Sequence[DocumentRecord]) -> None:
        """As `Remote.write`."""
        objects: list[Any] = [
            DataObject(
                properties=fields(self._retriever, one),
                uuid=UUID(one.key),
                vector=None if one.vector is None else one.vector.tolist(),
            )
            for one in records
        ]
        try:
            failed = dict((await (await self._collection()).data.insert_many(objects)).errors)
        except WeaviateInsertManyAllFailedError:
            failed = dict.fromkeys(range(len(records)))
        if failed:
            raise RetrieverError(
                f"retriever {self._retriever.name!r}: Weaviate did not take {len(failed)} of {len(records)} documents, "
                f"the first of them {records[min(failed)].id!r}"
            )

    async def remove(self, keys: Sequence[str]) -> None:
        """As `Remote.remove`."""
        where = Filter.by_id().contains_any([UUID(key) for key in keys])
        done = await (await self._collection()).data.delete_many(where=where)
        if done.failed:
            raise RetrieverError(f"retriever {self._retriever.name!r}: Weaviate did not remove {done.failed} documents")

    async def aclose(self) -> None:
        """As `Remote.aclose`."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def translated(self, error: Exception) -> LLMFeaturesError:
        """As `Remote.translated`."""
        label = f"retriever {self._retriever.name!r}: Weaviate"
        code = _code(error)
        if isinstance(error, WeaviateTimeoutError) or code is StatusCode.DEADLINE_EXCEEDED:
            return late(self._retriever.name)
        if isinstance(error, AuthenticationFailedError) or code in (401, StatusCode.UNAUTHENTICATED):
            return RetrieverError(f"{label} does not know the API key; set {KEY} to one of its own")
        if code in (403, StatusCode.PERMISSION_DENIED):
            return RetrieverError(f"{label} does not allow this with the API key in {KEY}")
        if isinstance(error, UnexpectedStatusCodeError):
            kind = RetrieverUnavailableError if error.status_code >= 500 else RetrieverError
            return kind(f"{label} refused the request ({error.status_code})")
        if code in (StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED) or isinstance(
            error, (WeaviateConnectionError, WeaviateGRPCUnavailableError, httpx.TransportError)
        ):
            return RetrieverUnavailableError(f"{label} cannot be reached; are host and ports in [retrieval] url right?")
        if isinstance(error, WeaviateStartUpError):
            return RetrieverUnavailableError(f"{label} cannot be reached, or is older than 1.27")
        if isinstance(error, WeaviateQueryError):
            return RetrieverError(f"{label} refused the request ({'' if code is None else code.name})")
        return RetrieverError(f"{label} gave an answer that cannot be read ({type(error).__name__})")


def open_weaviate(url: str, namespace: str, retriever: Retriever, *, timeout: float) -> RemoteStore:
    """The documents of a retriever in Weaviate.

    Args:
        url: ``weaviate://HOST:PORT?grpc=PORT`` (8080 and 50051 unless told), ``weaviates://`` for TLS; ``grpc`` may
            be ``HOST:PORT`` too. Of Weaviate's cloud the host is enough.
        namespace: what the names of this project's collections begin with.
        timeout: seconds that a search may take.

    Raises:
        ConfigError: the URL is not like that.
    """
    address = _address(url)
    return RemoteStore(
        retriever, lambda: WeaviateCollection(address, namespace, retriever), address[0], timeout=timeout
    )


def open_async_weaviate(url: str, namespace: str, retriever: Retriever, *, timeout: float) -> AsyncRemoteStore:
    """As `open_weaviate`, for asyncio."""
    address = _address(url)
    return AsyncRemoteStore(
        retriever, lambda: WeaviateCollection(address, namespace, retriever), address[0], timeout=timeout
    )


def _address(url: str) -> tuple[str, int, str, int, bool]:
    """Host and port of HTTP, host and port of gRPC, and whether both are encrypted."""
    made = _parts(url)
    if made is None or made[:2] == made[2:4]:
        raise ConfigError(
            "[retrieval] url for Weaviate is weaviate://HOST:PORT?grpc=PORT, with two ports, weaviates:// for TLS; the "
            f"API key is in {KEY}"
        )
    return made


def _parts(url: str) -> tuple[str, int, str, int, bool] | None:
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        written = options.pop("grpc", "")
        grpc = urlsplit(f"//{written}" if ":" in written else f"//:{written}")
        host, port, grpc_host, grpc_port = parts.hostname, parts.port, grpc.hostname, grpc.port
    except ValueError:
        return None
    if not host or options or parts.path not in ("", "/") or "@" in parts.netloc:
        return None
    secure = parts.scheme == "weaviates"
    if secure and port is None and host.endswith(_CLOUD):
        return host, 443, grpc_host or f"grpc-{host}", grpc_port or 443, True
    return host, port or (443 if secure else 8080), grpc_host or host, grpc_port or 50_051, secure


def _text(name: str, *, filtered: bool = False) -> Property:
    return Property(
        name=name,
        data_type=DataType.TEXT,
        tokenization=Tokenization.FIELD,
        index_filterable=filtered,
        index_searchable=False,
    )


def _written(meta: IndexMeta) -> str:
    return orjson.dumps(meta_fields(meta)).decode()


def _code(error: BaseException) -> Any:
    """The status of an error, or of the gRPC error that it was made of."""
    seen: BaseException | None = error
    for _ in range(5):
        if isinstance(seen, UnexpectedStatusCodeError) and not isinstance(seen.__context__, AioRpcError):
            return seen.status_code
        if isinstance(seen, AioRpcError):
            return seen.code()
        if isinstance(seen, WeaviateRetryError):
            return StatusCode.UNAVAILABLE
        seen = None if seen is None else seen.__cause__ or seen.__context__
    return None


class _NoObjects(logging.Filter):
    """The client logs objects that were refused, text and vector and all."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not isinstance(record.msg, dict)


logging.getLogger("weaviate-client").addFilter(_NoObjects())
