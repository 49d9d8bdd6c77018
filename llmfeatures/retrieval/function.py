"""A Python function as a document store."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import AsyncIterable, Awaitable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from llmfeatures import codec
from llmfeatures.clock import as_utc, microseconds
from llmfeatures.errors import InvalidValueError, RetrieverError
from llmfeatures.ports import NO_ENTITY, Document, DocumentQuery
from llmfeatures.retrieval.wire import was_there
from llmfeatures.retriever import Retriever, Tier
from llmfeatures.threads import SEARCHES
from llmfeatures.types import clean_text

_FIELDS = ("id", "version", "text", "score", "metadata", "valid_from", "valid_to")


class FunctionStore:
    """Searches with a function of the registry: it takes a `DocumentQuery` and returns the documents.

    Each is a mapping with ``id`` and ``text``; ``score`` (for ``order: score``); the join keys, where the retriever has
    an entity; and it may have ``version`` (else a hash of text and metadata), ``metadata``, ``valid_from`` and
    ``valid_to``. It may be a `Document` too. The best ``top_k`` are taken, by score and then id; the newest by
    ``recent``. An ``async def`` runs in an event loop of its own here, and in the caller's with an
    `AsyncContextBuilder`.
    """

    def __init__(self, retriever: Retriever) -> None:
        assert retriever.function is not None
        self._retriever, self._function = retriever, retriever.function

    @property
    def tier(self) -> Tier:
        """What the registry says of the function."""
        return self._retriever.declared_tier

    def search(self, queries: Sequence[DocumentQuery], *, timeout: float | None = None) -> list[list[Document]]:  # noqa: ARG002
        """As `DocumentStore.search`; a function cannot be interrupted.

        Raises:
            RetrieverError: the function failed, or returned what are no documents. The message has no value of it.
        """
        return [self._search(query) for query in queries]

    def close(self) -> None:
        """Nothing is open."""

    def _search(self, query: DocumentQuery) -> list[Document]:
        try:
            given = self._function(query)
            if inspect.isawaitable(given):
                given = _run(given)
            given = self._listed(given)
        except RetrieverError:
            raise
        except Exception as error:
            raise self._wrong(f"raised {type(error).__name__}") from error
        return self._documents(query, given)

    def _listed(self, given: Any) -> list[Any]:
        if isinstance(given, AsyncIterable):
            raise self._wrong("is an async generator; return a list")
        if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
            raise self._wrong(f"returned a {type(cast('object', given)).__name__}, not a list of documents")
        return list(cast("Iterable[Any]", given))

    def _documents(self, query: DocumentQuery, given: list[Any]) -> list[Document]:
        found = [self._document(query, one) for one in given]
        if self.tier != "live":
            found = [one for one in found if was_there(one, query.as_of)]
        if query.order == "recent":
            found.sort(key=lambda one: (-_micros(one.valid_from), one.id))
        else:
            found.sort(key=lambda one: (-(one.score or 0.0), one.id, -_micros(one.valid_from)))
        return found[: query.top_k]

    def _document(self, query: DocumentQuery, given: Any) -> Document:
        owner: str | None = None
        if isinstance(given, Document):
            owner = given.entity
            given = {name: getattr(given, name) for name in _FIELDS}
        if not isinstance(given, Mapping):
            raise self._wrong(f"returned a {type(given).__name__} among the documents, not a mapping")
        fields = cast("Mapping[str, Any]", given)
        name, text = self._text(fields, "id"), self._text(fields, "text")
        score = self._score(fields.get("score")) if query.order == "score" else None
        metadata = self._metadata(fields)
        begins, ends = self._moment(fields, "valid_from"), self._moment(fields, "valid_to")
        version = fields.get("version")
        return Document(
            id=name,
            version=clean_text(str(version)) if version is not None else codec.document_version(text, metadata),
            text=text,
            entity=self._entity(fields) if owner is None else owner,
            score=score,
            metadata=metadata,
            valid_from=begins,
            valid_to=ends,
        )

    def _text(self, fields: Mapping[str, Any], name: str) -> str:
        value = fields.get(name)
        if not isinstance(value, str):
            raise self._wrong(f"returned a document whose {name} is no text")
        return clean_text(value)

    def _score(self, value: Any) -> float:
        try:
            score = math.nan if isinstance(value, (bool, str, bytes)) else round(float(value), 6)
        except (TypeError, ValueError, OverflowError):
            score = math.nan
        if not math.isfinite(score):
            raise self._wrong("returned a document without a score, a finite number; higher is nearer")
        return score

    def _moment(self, fields: Mapping[str, Any], name: str) -> datetime | None:
        value = fields.get(name)
        try:
            return None if value is None else as_utc(value)
        except (InvalidValueError, TypeError, AttributeError):
            raise self._wrong(f"returned a document whose {name} is no datetime and no ISO 8601 text") from None

    def _metadata(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        given = fields.get("metadata")
        if given is not None and not isinstance(given, Mapping):
            raise self._wrong("returned a document whose metadata is no mapping")
        values = cast("Mapping[str, Any]", given or {})
        made: dict[str, Any] = {}
        for name, dtype in self._retriever.metadata.items():
            try:
                made[name] = dtype.canonical(values.get(name))
            except InvalidValueError as error:
                raise self._wrong(f"returned a document whose metadata {name!r} does not fit: {error}") from None
        return made

    def _entity(self, fields: Mapping[str, Any]) -> str:
        entity = self._retriever.entity
        if entity is None:
            return NO_ENTITY
        values: list[Any] = []
        for name, dtype in entity.join_keys.items():
            if fields.get(name) is None:
                raise self._wrong(f"returned a document without {name!r}, the join key of whose it is")
            try:
                values.append(dtype.canonical(fields[name]))
            except InvalidValueError as error:
                raise self._wrong(f"returned a document whose {name!r} does not fit: {error}") from None
        return codec.entity_key(tuple(entity.join_keys), values)

    def _wrong(self, said: str) -> RetrieverError:
        return RetrieverError(f"the function of retriever {self._retriever.name!r} {said}")


class AsyncFunctionStore(FunctionStore):
    """`FunctionStore` for an ``async def``, which runs in the event loop that asks."""

    async def search(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, queries: Sequence[DocumentQuery], *, timeout: float | None = None
    ) -> list[list[Document]]:
        """As `FunctionStore.search`, all queries at the same time; cancelled, so is the function."""
        _ = timeout  # whoever awaits this cancels it
        if len(queries) == 1:
            return [await self._asked(queries[0])]
        tasks = [asyncio.ensure_future(self._asked(query)) for query in queries]
        try:
            return [await task for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _asked(self, query: DocumentQuery) -> list[Document]:
        try:
            given = self._listed(await self._function(query))
        except RetrieverError:
            raise
        except Exception as error:
            raise self._wrong(f"raised {type(error).__name__}") from error
        return self._documents(query, given)


def _run(given: Awaitable[Any]) -> Any:
    async def awaited() -> Any:
        return await given

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(awaited())
    return SEARCHES.submit(_run, lambda: asyncio.run(awaited())).result()  # a notebook's thread has a loop already


def _micros(moment: datetime | None) -> float:
    return -math.inf if moment is None else microseconds(moment)
