"""What is said to Qdrant, and what its answers mean: no connection here, so both kinds of store share it.

A collection per retriever, named by `wire.place`, with a point per record, whose id is the record's key. Its payload:

    entity, id, version, text, metadata.NAME, valid_from, valid_to (microseconds since 1970 UTC)

and its vector is ``text``, if there is an embedder. One more point, without a vector, says what the index is.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from qdrant_client import models

from llmfeatures.ports import Document, DocumentQuery, DocumentRecord, IndexMeta
from llmfeatures.retrieval import wire
from llmfeatures.retriever import FILTERED, Retriever

VECTOR: Final = "text"
ABOUT: Final = 0
"""The point that says what the index is, a number where records have a UUID. No query finds it: it has no entity."""
QUERIES: Final = 100
"""So many are in one request: a server takes 32 MB at most."""
_MARGIN: Final = 8
_MOST: Final = 1_000
_LIMIT: Final = 200

Found = Sequence[Sequence[Any]]
"""For each request, the points that were found."""


@dataclass(slots=True)
class _Asked:
    query: DocumentQuery
    limit: int
    found: list[Document] = field(default_factory=list[Document])


class Points:
    """The requests about one retriever's collection."""

    def __init__(self, namespace: str, retriever: Retriever) -> None:
        self.retriever = retriever
        self.dimensions = None if retriever.embedder is None else retriever.embedder.dimensions
        self.collection = wire.place(namespace, retriever.name, _LIMIT)

    # Searching

    def rounds(
        self, queries: Sequence[DocumentQuery]
    ) -> Generator[list[models.QueryRequest], Found, list[list[Document]]]:
        """The search for some queries: gives requests, which run together, and takes what they found.

        Raises:
            RetrieverError: a query cannot be compared, or the index cannot be searched.
            FormatError: the index has another format number.
        """
        for one in queries:
            wire.check_query(self.retriever, one)
        asked = [_Asked(one, one.top_k + _MARGIN) for one in queries]
        pending = list(asked)
        while pending:
            about, *found = yield [self.about(), *[self._request(one) for one in pending]]
            wire.check_filled(self.retriever, self.meta(about))
            pending = [one for one, points in zip(pending, found, strict=True) if not self._settle(one, points)]
        return [one.found for one in asked]

    def about(self) -> models.QueryRequest:
        """For the point that says what the index is."""
        only = models.Filter(must=[models.HasIdCondition(has_id=[ABOUT])])
        return models.QueryRequest(filter=only, limit=1, with_payload=True)

    def meta(self, found: Sequence[Any]) -> IndexMeta | None:
        """What that point says. Raises FormatError."""
        return wire.meta_of(self.retriever.name, found[0].payload["about"]) if found else None

    def _request(self, one: _Asked) -> models.QueryRequest:
        query = one.query
        at = wire.moment(query.as_of)
        must: list[models.Condition] = [
            models.FieldCondition(key="entity", match=models.MatchValue(value=query.entity)),
            models.FieldCondition(key="valid_from", range=models.Range(lte=at)),
            models.FieldCondition(key="valid_to", range=models.Range(gt=at)),
        ]
        for name, value in wire.flat_filter(self.retriever, query.filter).items():
            key = f"metadata.{name}"
            if value is None:
                must.append(models.IsEmptyCondition(is_empty=models.PayloadField(key=key)))
            else:
                must.append(models.FieldCondition(key=key, match=models.MatchValue(value=value)))
        if query.order == "recent":
            newest = models.OrderBy(key="valid_from", direction=models.Direction.DESC)
            return models.QueryRequest(
                query=models.OrderByQuery(order_by=newest),
                filter=models.Filter(must=must),
                limit=one.limit,
                with_payload=True,
            )
        assert query.vector is not None
        return models.QueryRequest(
            query=models.NearestQuery(nearest=query.vector.tolist()),
            using=VECTOR,
            filter=models.Filter(must=must),
            limit=one.limit,
            with_payload=True,
        )

    def _settle(self, one: _Asked, points: Sequence[Any]) -> bool:
        """Take what a query found; whether that is all, or more of it is needed for the ties."""
        found = [self._document(one.query, point) for point in points]
        if not wire.settled(found, one.limit, one.query) and one.limit < _MOST:
            one.limit = min(one.limit * 4, _MOST)
            return False
        order = wire.newest if one.query.order == "recent" else wire.ranked
        one.found = order(found, one.query.top_k)
        return True

    def _document(self, query: DocumentQuery, point: Any) -> Document:
        payload = point.payload
        return wire.document(
            self.retriever,
            entity=payload["entity"],
            name=payload["id"],
            version=payload["version"],
            text=payload["text"],
            metadata=payload["metadata"],
            valid_from=payload["valid_from"],
            valid_to=payload["valid_to"],
            score=None if query.order == "recent" else point.score,
        )

    # Filling

    def vectors(self) -> dict[str, models.VectorParams]:
        """The vectors of the collection: it needs some, also where no point has one."""
        return {VECTOR: models.VectorParams(size=self.dimensions or 1, distance=models.Distance.COSINE)}

    def indexes(self) -> dict[str, models.PayloadSchemaType | models.KeywordIndexParams | models.IntegerIndexParams]:
        """The fields of the payload that are indexed."""
        moments = models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=False, range=True)
        owner = models.KeywordIndexParams(
            type=models.KeywordIndexType.KEYWORD, is_tenant=self.retriever.entity is not None
        )
        kinds = {"int": models.PayloadSchemaType.INTEGER, "bool": models.PayloadSchemaType.BOOL}
        return {
            "entity": owner,
            "valid_from": moments,
            "valid_to": moments,
            **{
                f"metadata.{name}": kinds.get(dtype.kind, models.PayloadSchemaType.KEYWORD)
                for name, dtype in self.retriever.metadata.items()
                if dtype.kind in FILTERED
            },
        }

    def point(self, record: DocumentRecord) -> models.PointStruct:
        """A record as a point.

        Raises:
            RetrieverError: it has no vector of the right dimensions.
        """
        vector = {} if self.dimensions is None else {VECTOR: wire.vector_of(self.retriever, record).tolist()}
        return models.PointStruct(
            id=str(UUID(hex=record.key)),
            vector=vector,
            payload={
                "entity": record.entity,
                "id": record.id,
                "version": record.version,
                "text": record.text,
                "metadata": wire.flat(self.retriever, record.metadata),
                "valid_from": record.valid_from,
                "valid_to": record.valid_to,
            },
        )

    def said(self, meta: IndexMeta) -> models.PointStruct:
        """The point that says what the index is."""
        return models.PointStruct(id=ABOUT, vector={}, payload={"about": wire.meta_fields(meta)})


def keys_of(points: Iterable[Any]) -> list[str]:
    """The keys of records."""
    return [UUID(str(point.id)).hex for point in points if point.id != ABOUT]


def ids_of(keys: Sequence[str]) -> models.PointIdsList:
    """The points of records."""
    return models.PointIdsList(points=[str(UUID(hex=key)) for key in keys])
