"""The retrievers and documents that the tests of document stores use, and what they say is found."""

# numpy's functions are partly typed
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final, Literal

from llmfeatures.clock import from_microseconds, microseconds
from llmfeatures.codec import entity_key
from llmfeatures.ports import ALWAYS, FOREVER, NO_ENTITY, Document, DocumentQuery, DocumentRecord
from llmfeatures.retriever import FunctionEmbedder, Retriever
from llmfeatures.schema import Entity
from llmfeatures.types import json_text

DIMENSIONS: Final = 4


def axes(texts: Sequence[str]) -> list[list[float]]:
    """A vector for each text: the tests give vectors of their own."""
    return [[1.0] + [0.0] * (DIMENSIONS - 1) for _ in texts]


AXES: Final = FunctionEmbedder(axes, model="axes", dimensions=DIMENSIONS)
USER: Final = Entity("user", join_key="user_id")
NOTES: Final = Retriever(
    "notes",
    USER,
    "notes.jsonl",
    embedder=AXES,
    metadata={
        "genre": "str",
        "stars": "int",
        "pinned": "bool",
        "kind": "enum[memo,letter]",
        "day": "date",
        "seen": "timestamp",
        "price": "decimal(8,2)",
        "weight": "float",
        "words": "list[str]",
        "more": "json",
    },
)
"""Documents of users, with metadata of every kind."""
SHARED: Final = Retriever("shared", None, "shared.jsonl", embedder=AXES, metadata={"genre": "str"})
"""Documents for all."""
OTHER: Final = Retriever("other-Notes", USER, "other.jsonl", embedder=AXES, metadata={"genre": "str"})
"""Documents of users in the same database, which must not get among `NOTES`."""
ALL: Final = (NOTES, SHARED, OTHER)

NOW: Final = datetime(2026, 5, 7, 22, tzinfo=UTC)
LONG_AGO: Final = microseconds(NOW - timedelta(days=400))
HOSTILE: Final = (
    *("ana", "an", "ana2", "Ana", "ANA", "ana ", " ana", "", " ", "a", "A"),
    *("%", "a%", "_", "an_", "*", "a*", "?", "an?", "[a]", "an[a]", "^ana$", ".*", "%61na", "a%6ea"),
    *("'", "''", '"', '""', "`", "'; DROP TABLE notes; --", "' OR '1'='1", "\\", "a\\", "\\'", "$1", "%s", "{}"),
    *("a:b", "user_id:ana", ":", "a,b", "a|b", "a/b", "..", "../ana", "#", "a b", "a\tb", "a\nb", "\x00", "ana\x00"),
    *(
        "é",
        "e\u0301",
        "ß",
        "ss",
        "\u0131",
        "I",
        "\u0130",
        "😀",
        "\u200b",
        "ana\u200b",
        "\ufeffana",
        "\uff41\uff4e\uff41",
    ),
    *("null", "None", "true", "1", "01", "1.0", "$ne", '{"$ne": 1}', '["ana"]', "x" * 900),
)
"""Join keys that a store could mix up."""


def key_of(user: str) -> str:
    """The entity key of a user."""
    return entity_key(("user_id",), [user])


def unit(values: Sequence[float]) -> Any:
    """A float32 vector of unit length with this direction."""
    import numpy as np

    made = np.asarray(values, dtype=np.float64)
    return (made / (np.linalg.norm(made) or 1.0)).astype(np.float32)


def note(
    name: str,
    vector: Sequence[float] | None = (1.0, 0.0, 0.0, 0.0),
    *,
    user: str | None = "ana",
    text: str | None = None,
    begins: int = LONG_AGO,
    ends: int = FOREVER,
    version: str = "1",
    retriever: Retriever = NOTES,
    **metadata: Any,
) -> DocumentRecord:
    """A record of a user's document; of one for all where ``user`` is None."""
    entity = NO_ENTITY if user is None else key_of(user)
    kept = {one: in_json(retriever, one, metadata.get(one)) for one in retriever.metadata}
    text = f"text of {name}" if text is None else text
    made = None if vector is None else unit(vector)
    hashed = [entity, name, version, text, kept, begins, ends, None if made is None else made.tolist()]
    return DocumentRecord(
        key=sha256(json_text(hashed).encode()).hexdigest()[:32],
        entity=entity,
        id=name,
        version=version,
        text=text,
        metadata=kept,
        valid_from=begins,
        valid_to=ends,
        vector=made,
    )


def shared(name: str, vector: Sequence[float] = (1.0, 0.0, 0.0, 0.0), **options: Any) -> DocumentRecord:
    """A record of a document for all, of `SHARED`."""
    return note(name, vector, user=None, retriever=SHARED, **options)


def in_json(retriever: Retriever, name: str, value: Any) -> Any:
    """A metadata value as a record has it."""
    dtype = retriever.metadata[name]
    return json.loads(dtype.encode(dtype.canonical(value)))


def ask(
    vector: Sequence[float] | None = (1.0, 0.0, 0.0, 0.0),
    *,
    user: str | None = "ana",
    top_k: int = 10,
    as_of: datetime | int = NOW,
    order: Literal["score", "recent"] = "score",
    **filters: Any,
) -> DocumentQuery:
    """A query for a user's documents; for those for all where ``user`` is None."""
    searched = None if vector is None or order == "recent" else unit(vector)
    return DocumentQuery(
        top_k=top_k,
        as_of=from_microseconds(as_of) if isinstance(as_of, int) else as_of,
        entity=NO_ENTITY if user is None else key_of(user),
        keys={} if user is None else {"user_id": user},
        text=None if searched is None else "a question",
        vector=searched,
        filter=filters,
        order=order,
    )


def visible(records: Iterable[DocumentRecord], query: DocumentQuery, retriever: Retriever) -> list[DocumentRecord]:
    """The records that a query may give, by the rules alone."""
    moment = min(max(microseconds(query.as_of), ALWAYS), FOREVER - 1)
    filters: Mapping[str, Any] = {name: in_json(retriever, name, value) for name, value in query.filter.items()}
    return [
        one
        for one in records
        if one.entity == query.entity
        and one.valid_from <= moment < one.valid_to
        and all(one.metadata[name] == value for name, value in filters.items())
    ]


def best(
    records: Iterable[DocumentRecord], query: DocumentQuery, retriever: Retriever = NOTES
) -> list[tuple[str, str, float | None]]:
    """The ids, versions and scores that a query gives, by brute force in float64."""
    found: list[tuple[tuple[Any, ...], tuple[str, str, float | None]]] = []
    for one in visible(records, query, retriever):
        if query.order == "recent":
            found.append(((-one.valid_from, one.id), (one.id, one.version, None)))
        elif one.vector is not None and query.vector is not None:
            score = round(float(one.vector.astype("float64") @ query.vector.astype("float64")), 6)
            found.append(((-score, one.id, -one.valid_from), (one.id, one.version, score)))
    return [answer for _, answer in sorted(found, key=lambda each: each[0])][: query.top_k]


def seen(documents: Iterable[Document]) -> list[tuple[str, str, float | None]]:
    """The ids, versions and scores of what was found."""
    return [(one.id, one.version, one.score) for one in documents]


def ids(documents: Iterable[Document]) -> list[str]:
    """The ids of what was found."""
    return [one.id for one in documents]
