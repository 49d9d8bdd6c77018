"""What a vector database does: it is the online store of documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, runtime_checkable

from llmfeatures.retriever import Retriever, Tier

if TYPE_CHECKING:
    import numpy as np

    Vector = np.ndarray[Any, np.dtype[np.float32]]
    """One float32 vector of unit length, or several: texts by dimensions."""

ALWAYS: Final = -(2**53) + 1
"""The ``valid_from`` of a version that nothing begins, and the earliest there is, in microseconds since 1970 UTC
(1684)."""
NO_ENTITY: Final = ""
"""The entity key of documents that are for all."""
FOREVER: Final = 2**53 - 1
"""The ``valid_to`` of a version that nothing ends, in microseconds since 1970 UTC: JSON holds no greater one (2255)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentQuery:
    """One search.

    ``entity`` is the encoded entity key of whose documents count, `NO_ENTITY` for those for all; ``keys`` are its join
    keys as values. ``as_of`` (UTC): a version counts when ``valid_from <= as_of < valid_to``. ``filter``: metadata
    that must be equal, canonical Python values. By ``order``, ``score`` is nearest first, and ``text`` and ``vector``
    say to what (only a function may do without the vector); ``recent`` is the greatest ``valid_from`` first.
    """

    top_k: int
    as_of: datetime
    entity: str = NO_ENTITY
    keys: Mapping[str, Any] = field(default_factory=dict[str, Any])
    text: str | None = None
    vector: Vector | None = None
    filter: Mapping[str, Any] = field(default_factory=dict[str, Any])
    order: Literal["score", "recent"] = "score"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A version of a document that was found. ``score`` is the cosine similarity rounded to six decimals, higher is
    nearer; None by ``order: recent``. ``metadata`` are canonical Python values, None where there is none.
    ``valid_from`` is None where it is not known, ``valid_to`` where nothing ends it."""

    id: str
    version: str
    text: str
    entity: str = NO_ENTITY
    score: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    valid_from: datetime | None = None
    valid_to: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRecord:
    """A version of a document as it is kept. ``key`` is 32 hex digits of a hash of all the rest and of the embedder's
    model: another content is another record. ``valid_from`` and ``valid_to`` are microseconds since 1970 UTC.
    ``metadata`` are JSON values; ``vector`` is None without an embedder."""

    key: str
    entity: str
    id: str
    version: str
    text: str
    metadata: Mapping[str, Any]
    valid_from: int
    valid_to: int
    vector: Vector | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexMeta:
    """What an index says of itself. ``metadata`` are names and dtypes; ``watermark`` (UTC) is when the last complete
    indexing began, None before the first."""

    format: int
    model: str | None
    dimensions: int | None
    metadata: Mapping[str, str]
    watermark: datetime | None = None


INDEX_FORMAT: Final = 1
"""The number of the layout of records, in whatever database."""


def index_meta(retriever: Retriever, watermark: datetime | None = None) -> IndexMeta:
    """What an index of this retriever says of itself."""
    embedder = retriever.embedder
    return IndexMeta(
        format=INDEX_FORMAT,
        model=None if embedder is None else embedder.model,
        dimensions=None if embedder is None else embedder.dimensions,
        metadata={name: str(dtype) for name, dtype in retriever.metadata.items()},
        watermark=watermark,
    )


class DocumentStore(Protocol):
    """The documents of one retriever. Thread-safe; usable after ``fork``.

    Every method raises `RetrieverUnavailableError` when the database cannot be reached, does not answer in time or was
    never filled, `FormatError` when what it holds has another format number.
    """

    @property
    def tier(self) -> Tier:
        """How true a search is to its ``as_of``."""
        ...

    def search(self, queries: Sequence[DocumentQuery], *, timeout: float | None = None) -> list[list[Document]]:
        """The documents of each query, in order: at most ``top_k``, best first, ties by id (then newest version).

        Only documents of the query's entity are given, and only of its metadata; the database filters them, before it
        counts ``top_k``. A ``live`` store ignores ``as_of``. ``timeout`` (seconds, for the whole call) overrides the
        store's own.
        """
        ...

    def close(self) -> None:
        """Give back what this store opened. It can be used again."""
        ...


class AsyncDocumentStore(Protocol):
    """`DocumentStore` for asyncio; the same contract. A cancelled search drops its connection."""

    @property
    def tier(self) -> Tier:
        """As `DocumentStore.tier`."""
        ...

    async def search(self, queries: Sequence[DocumentQuery], *, timeout: float | None = None) -> list[list[Document]]:
        """As `DocumentStore.search`."""
        ...

    async def aclose(self) -> None:
        """As `DocumentStore.close`."""
        ...


class DocumentIndex(DocumentStore, Protocol):
    """A document store that is filled from here. Records are content-addressed, so writing one again changes nothing,
    and of an indexing that died the next one needs to do only what is missing."""

    def meta(self) -> IndexMeta | None:
        """What the index says of itself; None when there is none."""
        ...

    def begin(self, meta: IndexMeta, *, replace: bool = False) -> None:
        """Make the index if there is none. With ``replace``, what it held is removed first.

        Raises:
            RetrieverError: there is one for another model, other dimensions or other metadata, and not ``replace``.
        """
        ...

    def keys(self) -> Iterator[str]:
        """The keys of all records, in any order."""
        ...

    def write(self, records: Sequence[DocumentRecord]) -> None:
        """Keep records, durably: they are found from now on."""
        ...

    def remove(self, keys: Sequence[str]) -> None:
        """Remove records; a key that is not there is no error."""
        ...

    def complete(self, meta: IndexMeta) -> None:
        """Record that an indexing is complete, with its watermark."""
        ...


@runtime_checkable
class DatedDocuments(Protocol):
    """A document store that can say when an entity's documents change. Not every one can."""

    def boundaries(self, entity: str, after: int, until: int) -> list[int]:
        """The moments in ``(after, until]``, sorted, at which a version of a document of this entity key begins or
        ends; all in microseconds since 1970 UTC. Raises as `DocumentStore.search`."""
        ...


@runtime_checkable
class RevisedIndex(Protocol):
    """A document index that can say which records it holds, so that an interrupted export can be gone on with. Not
    every one can."""

    def revision(self) -> str:
        """A text that is another one once the index holds anything else. Raises as `DocumentStore.search`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDocument:
    """A version of a document as a source has it: a `DocumentRecord` that no embedder has seen. At any moment at most
    one version of an id is valid for an entity."""

    entity: str
    id: str
    version: str
    text: str
    metadata: Mapping[str, Any]
    valid_from: int
    valid_to: int


class SourceDocuments(Protocol):
    """All versions of a source that was read to its end and found right."""

    @property
    def versions(self) -> int:
        """How many there are."""
        ...

    @property
    def documents(self) -> int:
        """How many entities' ids there are."""
        ...

    def batches(self) -> Iterator[list[SourceDocument]]:
        """The versions, by entity, id and ``valid_from``."""
        ...


@runtime_checkable
class DocumentSources(Protocol):
    """An offline store that reads documents, too."""

    def check_documents(self, retriever: Retriever) -> list[str]:
        """What is wrong with the files and columns of a retriever's source, a sentence each. Rows are not read."""
        ...

    def documents(self, retriever: Retriever) -> AbstractContextManager[SourceDocuments]:
        """The versions of a retriever's source, for the length of a block.

        Raises:
            SourceError: a file, column or row is not what the registry says; the message names it and shows no value.
        """
        ...


@runtime_checkable
class Prepared(Protocol):
    """A document store or an embedder that loads something before its first answer."""

    def prepare(self) -> None:
        """Load it now, once in each process, so that no search waits for it.

        Raises:
            RetrieverError: it cannot be loaded.
        """
        ...


class Embedder(Protocol):
    """Makes vectors of texts. Thread-safe; usable after ``fork``. The same text always has the same vector, whatever
    it is embedded with."""

    @property
    def model(self) -> str:
        """What decides the vectors, by name."""
        ...

    @property
    def dimensions(self) -> int:
        """Of each vector."""
        ...

    def embed(self, texts: Sequence[str], *, timeout: float | None = None) -> Vector:
        """The vectors of the texts, in order: float32 of unit length, texts by dimensions.

        Raises:
            RetrieverUnavailableError: the model cannot be reached or loaded, or did not answer in time.
            RetrieverError: it gave vectors of other dimensions, or not finite ones.
        """
        ...
