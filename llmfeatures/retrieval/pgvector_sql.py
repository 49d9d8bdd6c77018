"""What is said to PostgreSQL, and what its answers mean: no connection here, so both kinds of store share it.

A table per retriever, named by `wire.place`, and a row in ``llmfeatures_documents`` that says what it is:

    key uuid primary key, entity text, id text, version text, text text, metadata jsonb,
    valid_from bigint, valid_to bigint (microseconds since 1970 UTC), embedding vector(n), if there is an embedder

PostgreSQL has no NUL in a text: there it is ``\\x01\\x01``, and ``\\x01`` is ``\\x01\\x02``, which sort the same.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from llmfeatures.errors import RetrieverError
from llmfeatures.ports import Document, DocumentQuery, DocumentRecord, IndexMeta
from llmfeatures.retrieval import wire
from llmfeatures.retriever import Retriever

META: Final = "llmfeatures_documents"
OWN: Final = 5_000
"""An entity with no more documents than this is searched row by row; so is one with more, where no index is."""
QUERIES: Final = 500
"""So many are in one transaction."""
INDEXED: Final = 10_000
"""So many documents in a table, and an HNSW index of the vectors pays."""
INDEXABLE: Final = 2_000
"""An HNSW index takes no vectors of more dimensions."""
_WIDTH: Final = 120
_FILTERED_WIDTH: Final = 400
"""So many candidates an index keeps while it searches, without and with a filter of metadata."""
_MARGIN: Final = 8
_MOST: Final = 1_000
LONGEST_ENTITY: Final = 2_600
_LIMIT: Final = 56
"""Characters of a table's name: PostgreSQL cuts names after 63 bytes, and indexes have longer ones than their table."""
_COLUMNS: Final = "entity, id, version, text, metadata, valid_from, valid_to"
_ITERATES: Final = (0, 8)
"""The version of pgvector from which an index goes on until a filter has let through enough."""

Mode = Literal["recent", "own", "all", "index"]


class Statement(NamedTuple):
    """SQL, and its parameters by name."""

    sql: str
    parameters: Mapping[str, Any]


class Answer(NamedTuple):
    """What a round of statements brought: what the index says of itself, and the rows of each statement."""

    about: tuple[Any, ...] | None
    rows: Sequence[Sequence[tuple[Any, ...]]]


@dataclass(slots=True)
class _Asked:
    query: DocumentQuery
    mode: Mode
    limit: int = 0
    found: list[Document] = field(default_factory=list[Document])


class Statements:
    """The statements about one retriever's table."""

    def __init__(self, namespace: str, retriever: Retriever) -> None:
        self.retriever = retriever
        self.dimensions = None if retriever.embedder is None else retriever.embedder.dimensions
        self.name = wire.place(namespace, retriever.name, _LIMIT)
        self.table = f'"{self.name}"'
        self.index = f'"{self.name}~hnsw"'
        self.indexed: bool | None = None
        """Whether there is an index of the vectors, as far as was seen."""
        self.iterates = False
        """Whether the server's pgvector goes on until a filter has let through enough, as far as was seen."""

    # Searching

    def rounds(self, queries: Sequence[DocumentQuery]) -> Generator[list[Statement], Answer, list[list[Document]]]:
        """The search for some queries: gives statements, which run together before `about`, and takes their answers.

        Raises:
            RetrieverError: a query cannot be compared, or the index cannot be searched.
            FormatError: the index has another format number.
        """
        if self.indexed is None:
            self._check((yield []).about)
        asked = [_Asked(one, self._first(one), one.top_k + _MARGIN) for one in queries]
        pending = list(asked)
        while pending:
            answer = yield [self._statement(one) for one in pending]
            self._check(answer.about)
            pending = [one for one, rows in zip(pending, answer.rows, strict=True) if not self._settle(one, rows)]
        return [one.found for one in asked]

    def about(self) -> Statement:
        """What the index says of itself; whether it has an index of vectors; the version of pgvector."""
        return Statement(
            f"SELECT about, to_regclass(%(index)s) IS NOT NULL, "  # noqa: S608
            f"(SELECT extversion FROM pg_extension WHERE extname = 'vector') FROM {META} WHERE name = %(name)s",
            {"index": self.index, "name": self.name},
        )

    def settings(self, seconds: float | None, statements: Sequence[Statement]) -> Statement:
        """How long a statement of this transaction may take, and how an index is searched."""
        limit = 0 if seconds is None else max(int(seconds * 1000), 1)
        # a filter that the nearest do not pass leads far away in the graph: a wider search finds the way
        filtered = self.retriever.entity is not None or any("filter" in one.parameters for one in statements)
        width = _FILTERED_WIDTH if filtered else _WIDTH
        search = "" if self.dimensions is None else f", set_config('hnsw.ef_search', '{width}', true)"
        if search and self.iterates:
            search += ", set_config('hnsw.iterative_scan', 'relaxed_order', true)"
        return Statement(f"SELECT set_config('statement_timeout', %(limit)s, true){search}", {"limit": str(limit)})

    def meta(self, about: tuple[Any, ...] | None) -> IndexMeta | None:
        """What an answer to `about` says. Raises FormatError."""
        if about is None:
            return None
        found = wire.meta_of(self.retriever.name, about[0])
        self.indexed, self.iterates = bool(about[1]), _iterates(about[2])
        return found

    def _check(self, about: tuple[Any, ...] | None) -> None:
        wire.check_filled(self.retriever, self.meta(about))

    def _first(self, query: DocumentQuery) -> Mode:
        wire.check_query(self.retriever, query)
        if query.order == "recent":
            return "recent"
        if self.retriever.entity is not None and self.indexed:
            return "own"
        return "index" if self.indexed else "all"

    def _statement(self, one: _Asked) -> Statement:
        query = one.query
        parameters: dict[str, Any] = {"entity": query.entity, "at": wire.moment(query.as_of), "limit": query.top_k}
        where = "entity = %(entity)s AND valid_from <= %(at)s AND valid_to > %(at)s"
        if query.filter:
            parameters["filter"] = written(wire.flat_filter(self.retriever, query.filter))
            where += " AND metadata @> %(filter)s::jsonb"
        if one.mode == "recent":
            ordered = 'ORDER BY valid_from DESC, id COLLATE "C" LIMIT %(limit)s'
            return Statement(f"SELECT {_COLUMNS}, NULL, 0 FROM {self.table} WHERE {where} {ordered}", parameters)  # noqa: S608
        assert query.vector is not None
        parameters["vector"] = query.vector.tolist()
        distance = "embedding <#> %(vector)b::float8[]::vector"
        if one.mode == "index":
            parameters["limit"] = one.limit
            return Statement(
                f"SELECT {_COLUMNS}, -({distance}), 0 FROM {self.table} WHERE {where} "  # noqa: S608
                f"ORDER BY {distance} LIMIT %(limit)s",
                parameters,
            )
        parameters["own"] = OWN + 1 if one.mode == "own" else None
        return Statement(
            f"WITH own AS MATERIALIZED (SELECT key, id, valid_from, -({distance}) AS score FROM {self.table} "  # noqa: S608
            f"WHERE {where} LIMIT %(own)s), best AS (SELECT key, score FROM own "
            'ORDER BY round(score::numeric, 6) DESC, id COLLATE "C", valid_from DESC LIMIT %(limit)s) '
            f"SELECT {_COLUMNS}, score, (SELECT count(*) FROM own) FROM best JOIN {self.table} USING (key)",
            parameters,
        )

    def _settle(self, one: _Asked, rows: Sequence[tuple[Any, ...]]) -> bool:
        """Take what a query found; whether that is all, or another statement is needed."""
        if one.mode == "own" and rows and rows[0][8] > OWN:
            one.mode = "index" if self.indexed else "all"
            return False
        found = [self._document(row) for row in rows]
        order = wire.newest if one.mode == "recent" else wire.ranked
        if one.mode == "index":
            if len(found) < one.limit:
                one.mode = "all"  # few match, or the index gave up: then they are few among many
                return False
            if not wire.settled(found, one.limit, one.query) and one.limit < _MOST:
                one.limit = min(one.limit * 4, _MOST)
                return False
        one.found = order(found, one.query.top_k)
        return True

    def _document(self, row: tuple[Any, ...]) -> Document:
        entity, name, version, text, metadata, begins, ends, score, _ = row
        return wire.document(
            self.retriever,
            entity=entity,
            name=with_nul(name),
            version=with_nul(version),
            text=with_nul(text),
            metadata={key: with_nul(value) if isinstance(value, str) else value for key, value in metadata.items()},
            valid_from=begins,
            valid_to=ends,
            score=score,
        )

    # Filling

    def make(self) -> list[str]:
        """The table and its index of entities."""
        vector = "" if self.dimensions is None else f", embedding vector({self.dimensions}) NOT NULL"
        columns = (
            'key uuid PRIMARY KEY, entity text COLLATE "C" NOT NULL, id text NOT NULL, version text NOT NULL, '
            "text text NOT NULL, "
            f"metadata jsonb NOT NULL, valid_from bigint NOT NULL, valid_to bigint NOT NULL{vector}"
        )
        return [
            f"CREATE TABLE {self.table} ({columns})",
            f'CREATE INDEX "{self.name}~own" ON {self.table} (entity, valid_from)',
        ]

    def insert(self) -> str:
        """Keeps a record."""
        more, value = ("", "") if self.dimensions is None else (", embedding", ", %(vector)b::float8[]::vector")
        return (
            f"INSERT INTO {self.table} (key, {_COLUMNS}{more}) VALUES (%(key)s::uuid, %(entity)s, %(id)s, %(version)s, "  # noqa: S608
            f"%(text)s, %(metadata)s::jsonb, %(valid_from)s, %(valid_to)s{value}) ON CONFLICT (key) DO NOTHING"
        )

    def record(self, record: DocumentRecord) -> dict[str, Any]:
        """The parameters of `insert`.

        Raises:
            RetrieverError: the entity's key is too long, or there is no vector.
        """
        if len(record.entity) > LONGEST_ENTITY:
            raise RetrieverError(
                f"retriever {self.retriever.name!r}: an entity key of {len(record.entity)} characters is too long for "
                f"PostgreSQL's index; it takes {LONGEST_ENTITY}"
            )
        made = {
            "key": record.key,
            "entity": record.entity,
            "id": without_nul(record.id),
            "version": without_nul(record.version),
            "text": without_nul(record.text),
            "metadata": written(wire.flat(self.retriever, record.metadata)),
            "valid_from": record.valid_from,
            "valid_to": record.valid_to,
        }
        if self.dimensions is not None:
            made["vector"] = wire.vector_of(self.retriever, record).tolist()
        return made


def _iterates(version: str | None) -> bool:
    return tuple(int(part) for part in (version or "").split(".")[:2] if part.isdigit()) >= _ITERATES


def written(values: Mapping[str, Any]) -> str:
    """Flat metadata as JSON that jsonb takes."""
    return json.dumps(
        {name: without_nul(value) if isinstance(value, str) else value for name, value in values.items()},
        ensure_ascii=False,
    )


def without_nul(text: str) -> str:
    """A text as PostgreSQL can hold it."""
    if "\x00" in text or "\x01" in text:
        return text.replace("\x01", "\x01\x02").replace("\x00", "\x01\x01")
    return text


def with_nul(text: str) -> str:
    """The text that `without_nul` was given."""
    if "\x01" not in text:
        return text
    return text.replace("\x01\x01", "\x00").replace("\x01\x02", "\x01")
