"""Documents as flat fields, for databases whose numbers are doubles and whose text filters have ideas of their own."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from llmfeatures.errors import RetrieverError
from llmfeatures.ports import Document, DocumentQuery, DocumentRecord
from llmfeatures.retrieval.wire import document, flat, flat_filter, newest, ranked, settled, was_there
from llmfeatures.retriever import Retriever

ENTITY: Final = "entity"
BEGINS: Final = "valid_from"
ENDS: Final = "valid_to"
TEXTS: Final = ("document", "version", "text")
META: Final = "meta"
"""The field of what an index says of itself; the record that has it has no other."""
MARGIN: Final = 16
"""So many more are asked for than are wanted, to see whether the last ones tie."""
_GROWTH: Final = 8
_KEPT: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")


def lowered(name: str) -> str:
    """A name in ASCII lower-case letters, digits and ``_``: another one for each other name."""
    return "".join(one if one in _KEPT else "".join(f"_{byte:02x}" for byte in one.encode()) for one in name)


def metadata_field(name: str) -> str:
    """The field of a metadata name: none of ours, and its own also where case does not count."""
    return f"m_{lowered(name)}"


def entity_value(entity: str) -> str:
    """An entity key in a field: never empty, and never a word that filters leave out."""
    return f"={entity}"


def value(flattened: Any) -> str:
    """A metadata value in a field. As JSON text an int is exact, blanks at the ends count, and null is a value too."""
    return json.dumps(flattened, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def fields(retriever: Retriever, record: DocumentRecord) -> dict[str, Any]:
    """All fields of a record."""
    return {
        ENTITY: entity_value(record.entity),
        **dict(zip(TEXTS, (record.id, record.version, record.text), strict=True)),
        BEGINS: record.valid_from,
        ENDS: record.valid_to,
        **{metadata_field(name): value(one) for name, one in flat(retriever, record.metadata).items()},
    }


def equal(retriever: Retriever, query: DocumentQuery) -> dict[str, str]:
    """The fields that a query wants to be equal, its entity among them."""
    wanted = flat_filter(retriever, query.filter).items()
    return {ENTITY: entity_value(query.entity), **{metadata_field(name): value(one) for name, one in wanted}}


def found_document(retriever: Retriever, found: Mapping[str, Any], score: float | None) -> Document:
    """The document of fields that came back.

    Raises:
        RetrieverError: they are none of ours.
    """
    try:
        name, version, text = (_text(found[one]) for one in TEXTS)
        return document(
            retriever,
            entity=_text(found[ENTITY]).removeprefix("="),
            name=name,
            version=version,
            text=text,
            metadata={one: json.loads(found[metadata_field(one)]) for one in retriever.metadata},
            valid_from=int(found[BEGINS]),
            valid_to=int(found[ENDS]),
            score=score,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RetrieverError(
            f"retriever {retriever.name!r}: the database holds a record that is none of ours; run llmfeatures "
            f"materialize {retriever.name} --full"
        ) from error


def _text(held: Any) -> str:
    if not isinstance(held, str):
        raise TypeError
    return held


def fits(query: DocumentQuery, one: Document) -> bool:
    """Whether a document was there at the query's moment and has its metadata. The database was asked for no other;
    what it answers is not taken on trust."""
    return was_there(one, query.as_of) and all(one.metadata[name] == wanted for name, wanted in query.filter.items())


async def best(
    retriever: Retriever, query: DocumentQuery, fetch: Callable[[int], Awaitable[list[Document]]], most: int
) -> list[Document]:
    """The ``top_k`` documents of a query. ``fetch(n)`` gives ``n`` in the database's order, best first, in which those
    of a tie are in any order, and any of them may be missing: then more are asked for, up to ``most``.

    Raises:
        RetrieverError: so many are alike.
    """
    asked = min(query.top_k + MARGIN, most)
    while True:
        found = await fetch(asked)
        kept = [one for one in found if fits(query, one)]
        if len(found) < asked or (len(kept) >= query.top_k and settled(found, asked, query)):
            order = newest if query.order == "recent" else ranked
            return order(kept, query.top_k)
        if asked == most:
            raise alike(retriever, most)
        asked = min(asked * _GROWTH, most)


def alike(retriever: Retriever, most: int) -> RetrieverError:
    """The error of a search whose best documents are too many to be put in order."""
    return RetrieverError(
        f"retriever {retriever.name!r}: {most:,} documents are equally good for one search, and this database gives no "
        "more at a time; give it a query, or a filter"
    )
