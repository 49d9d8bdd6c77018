"""What databases hold of documents, and say again: metadata, moments, and what an index says of itself. None of them
has all of our types, so what one might change is text there."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from llmfeatures.clock import as_utc, from_microseconds, microseconds, stamp
from llmfeatures.errors import (
    FormatError,
    InvalidValueError,
    RetrieverError,
    RetrieverUnavailableError,
    did_you_mean,
)
from llmfeatures.ports import (
    ALWAYS,
    FOREVER,
    INDEX_FORMAT,
    Document,
    DocumentQuery,
    DocumentRecord,
    IndexMeta,
    index_meta,
)
from llmfeatures.retriever import FILTERED, Retriever
from llmfeatures.types import DType

_PLAIN: Final = re.compile(r"(?!.*__)[A-Za-z0-9_\-]*[A-Za-z0-9\-]", re.ASCII)


def place(namespace: str, retriever: str, limit: int) -> str:
    """The name of a retriever's table or collection: ``NAMESPACE__RETRIEVER``; with a hash where that could be that of
    another one, or is longer than ``limit`` characters. Letters, digits, ``_``, ``-`` and ``~`` only."""
    name = f"{namespace}__{retriever}"
    if len(name) <= limit and _PLAIN.fullmatch(namespace) and "__" not in retriever:
        return name
    mark = sha256(f"{len(namespace)}:{name}".encode()).hexdigest()[:16]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', name)[: limit - 17]}~{mark}"


def moment(as_of: datetime) -> int:
    """The moment of a query, in microseconds since 1970: within what a record's bounds can be."""
    return min(max(microseconds(as_of), ALWAYS), FOREVER - 1)


def flat(retriever: Retriever, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a record as a database holds it: texts, whole numbers, booleans and nulls. Dtypes that no filter
    may name are JSON text, since databases write numbers and objects anew."""
    return {
        name: value
        if (value := metadata.get(name)) is None or dtype.kind in FILTERED
        else json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        for name, dtype in retriever.metadata.items()
    }


def was_there(document: Document, as_of: datetime) -> bool:
    """Whether a version was there at a moment, as far as it says."""
    at = from_microseconds(moment(as_of))
    begins, ends = document.valid_from, document.valid_to
    return (begins is None or begins <= at) and (ends is None or at < ends)


def check_query(retriever: Retriever, query: DocumentQuery) -> None:
    """See that a query can be searched in an index of this retriever.

    Raises:
        RetrieverError: it has no vector that can be compared, or filters by what there is not.
    """
    for name in query.filter:
        if name not in retriever.metadata:
            raise RetrieverError(
                f"retriever {retriever.name!r} has no metadata {name!r} to filter by"
                f"{did_you_mean(name, retriever.metadata)}"
            )
    if query.order == "recent":
        return
    if retriever.embedder is None:
        raise RetrieverError(f"retriever {retriever.name!r} has no vectors, and finds documents by order: recent only")
    dimensions = retriever.embedder.dimensions
    vector: Any = query.vector
    if vector is None or tuple(vector.shape) != (dimensions,) or not math.isfinite(float(abs(vector).max())):
        raise RetrieverError(f"retriever {retriever.name!r}: a query needs a vector of {dimensions} finite numbers")


def vector_of(retriever: Retriever, record: DocumentRecord) -> Any:
    """The vector of a record of a retriever with an embedder.

    Raises:
        RetrieverError: it has none, or one of other dimensions.
    """
    assert retriever.embedder is not None
    vector: Any = record.vector
    if vector is None or tuple(vector.shape) != (retriever.embedder.dimensions,):
        raise RetrieverError(
            f"retriever {retriever.name!r}: a document's vector is not of {retriever.embedder.dimensions} dimensions"
        )
    return vector


def flat_filter(retriever: Retriever, filters: Mapping[str, Any]) -> dict[str, Any]:
    """The filter of a query, as `flat` has the same values."""
    made: dict[str, Any] = {}
    for name, value in filters.items():
        dtype = retriever.metadata[name]
        text = dtype.encode(value)
        made[name] = json.loads(text) if dtype.kind in FILTERED else text
    return made


def unflat(retriever: Retriever, held: Mapping[str, Any]) -> dict[str, Any]:
    """The canonical values of what `flat` made.

    Raises:
        RetrieverError: it is not what the registry says.
    """
    made: dict[str, Any] = {}
    for name, dtype in retriever.metadata.items():
        value = held.get(name)
        try:
            made[name] = _value(dtype, value)
        except (ValueError, TypeError, ArithmeticError, InvalidValueError):
            raise RetrieverError(
                f"retriever {retriever.name!r}: a document's metadata {name!r} is no {dtype} in the database; run "
                f"llmfeatures materialize {retriever.name} --full"
            ) from None
    return made


def _value(dtype: DType, value: Any) -> Any:
    if value is None:
        return None
    return dtype.from_json(value) if dtype.kind in FILTERED else dtype.decode(value)


def document(
    retriever: Retriever,
    *,
    entity: str,
    name: str,
    version: str,
    text: str,
    metadata: Mapping[str, Any],
    valid_from: int,
    valid_to: int,
    score: float | None,
) -> Document:
    """A document that a database found; ``metadata`` as `flat` made it."""
    return Document(
        id=name,
        version=version,
        text=text,
        entity=entity,
        score=None if score is None else rounded(score),
        metadata=unflat(retriever, metadata),
        valid_from=None if valid_from == ALWAYS else from_microseconds(valid_from),
        valid_to=None if valid_to == FOREVER else from_microseconds(valid_to),
    )


def rounded(score: float) -> float:
    """A score as documents have it: six decimals, from -1 to 1, and no negative zero."""
    return round(min(max(score, -1.0), 1.0), 6) + 0.0


def ranked(documents: Iterable[Document], top_k: int) -> list[Document]:
    """The best documents: by score, then id, then the newest version."""
    return sorted(documents, key=lambda one: (-(one.score or 0.0), one.id, -_began(one)))[:top_k]


def newest(documents: Iterable[Document], top_k: int) -> list[Document]:
    """The newest documents: by ``valid_from``, then id."""
    return sorted(documents, key=lambda one: (-_began(one), one.id))[:top_k]


def _began(one: Document) -> int:
    return ALWAYS if one.valid_from is None else microseconds(one.valid_from)


def settled(documents: Sequence[Document], asked: int, query: DocumentQuery) -> bool:
    """Whether the best ``top_k`` are known, of ``asked`` documents that a database was asked for, best first: it gave
    all there are, or the last one is behind all ties with the last that counts."""
    if len(documents) < asked or query.top_k < 1:
        return True
    if query.order == "recent":
        return documents[-1].valid_from != newest(documents, query.top_k)[-1].valid_from
    return documents[-1].score != ranked(documents, query.top_k)[-1].score


def meta_fields(meta: IndexMeta) -> dict[str, Any]:
    """What an index says of itself, as JSON values."""
    return {
        "format": meta.format,
        "model": meta.model,
        "dimensions": meta.dimensions,
        "metadata": dict(meta.metadata),
        "watermark": None if meta.watermark is None else stamp(meta.watermark),
    }


def meta_of(retriever: str, held: Mapping[str, Any]) -> IndexMeta:
    """What `meta_fields` made.

    Raises:
        FormatError: it has another format number.
    """
    check_format(retriever, held.get("format"))
    mark = held["watermark"]
    return IndexMeta(
        format=INDEX_FORMAT,
        model=held["model"],
        dimensions=held["dimensions"],
        metadata=dict(held["metadata"]),
        watermark=None if mark is None else as_utc(mark),
    )


def check_format(retriever: str, found: Any) -> None:
    """See that an index has the format of this version.

    Raises:
        FormatError: it has not.
    """
    if found != INDEX_FORMAT:
        raise FormatError(
            f"the index of retriever {retriever!r} has format {found!r}, this version reads {INDEX_FORMAT}; upgrade "
            f"llmfeatures, or run llmfeatures materialize {retriever} --full with this one"
        )


def check_fit(retriever: str, found: IndexMeta, wanted: IndexMeta, *, searched: bool = False) -> None:
    """See that an index is the one that is wanted.

    Raises:
        RetrieverError: it has another model, other dimensions or other metadata (`RetrieverUnavailableError` where it
            is ``searched``).
    """
    if (found.model, found.dimensions) != (wanted.model, wanted.dimensions):
        differs = f"it has vectors of {_model(found)}, and the registry says {_model(wanted)}"
    elif dict(found.metadata) != dict(wanted.metadata):
        differs = f"it has the metadata {_listed(found)}, and the registry says {_listed(wanted)}"
    else:
        return
    kind = RetrieverUnavailableError if searched else RetrieverError
    raise kind(
        f"retriever {retriever!r} has an index that does not fit: {differs}; run llmfeatures materialize {retriever} "
        "--full to make it anew"
    )


def check_filled(retriever: Retriever, found: IndexMeta | None) -> None:
    """See that an index can be searched.

    Raises:
        RetrieverUnavailableError: it was never filled, or does not fit.
    """
    if found is None or found.watermark is None:
        raise never_filled(retriever.name)
    check_fit(retriever.name, found, index_meta(retriever), searched=True)


def never_filled(retriever: str) -> RetrieverUnavailableError:
    """The error of an index that was never filled."""
    return RetrieverUnavailableError(
        f"retriever {retriever!r} was never filled; run llmfeatures materialize {retriever}"
    )


def parts(queries: Sequence[DocumentQuery], size: int) -> Iterator[Sequence[DocumentQuery]]:
    """Queries in parts of a size that a database takes at once: history asks for very many."""
    for start in range(0, len(queries), size):
        yield queries[start : start + size]


def late(retriever: str) -> RetrieverUnavailableError:
    """The error of a database that did not answer in time."""
    return RetrieverUnavailableError(f"retriever {retriever!r} did not answer in time")


def left(deadline: float, retriever: str) -> float:
    """Seconds until a deadline (`time.monotonic`).

    Raises:
        RetrieverUnavailableError: it has passed.
    """
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise late(retriever)
    return seconds


def _model(meta: IndexMeta) -> str:
    return "no model" if meta.model is None else f"{meta.model!r} ({meta.dimensions} dimensions)"


def _listed(meta: IndexMeta) -> str:
    return ", ".join(f"{name}: {dtype}" for name, dtype in meta.metadata.items()) or "(none)"
