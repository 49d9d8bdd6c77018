"""Indexing: a retriever's documents, from its source to the vector database, incrementally and in bounded batches.

Records are content-addressed, so what is there already is known by its key. First what is missing is written, then what
is gone is removed: nothing vanishes in between. An indexing that died left records that the next one finds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import chain
from typing import TYPE_CHECKING, Final, Protocol

from llmfeatures.errors import ExpectationError, LLMFeaturesError, RetrieverError
from llmfeatures.pace import Pace
from llmfeatures.ports import (
    DocumentIndex,
    DocumentRecord,
    DocumentSources,
    Embedder,
    SourceDocument,
    index_meta,
)
from llmfeatures.retriever import Retriever
from llmfeatures.types import plain_json_text

if TYPE_CHECKING:
    from llmfeatures.ports.documents import Vector

BATCH: Final = 1_000
"""So many records are written at once."""
EMBEDDED: Final = 256
"""So many texts are embedded between two looks at the progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieverReport:
    """What a run did for one retriever.

    ``documents`` and ``versions`` are the source's, ``written`` the records that are new in the database, ``removed``
    those that were there and are gone from the source, ``unchanged`` those that were there and stay. ``embedded``
    counts the texts that the model was given: not those whose vectors were kept from before.
    """

    retriever: str
    full: bool
    documents: int
    versions: int
    embedded: int
    written: int
    removed: int
    unchanged: int
    seconds: float


class CountingEmbedder(Embedder, Protocol):
    """An embedder that keeps vectors, and counts the texts that its model was given."""

    embedded: int


Progress = Callable[[str, int, int], object]
"""Told how far a run is: the name of the retriever, and versions done of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexer:
    """Brings a retriever's documents into its index. ``embedder`` is None where the retriever has none."""

    sources: DocumentSources
    index: DocumentIndex
    embedder: CountingEmbedder | None
    progress: Progress

    def run(
        self,
        retriever: Retriever,
        *,
        now: datetime,
        full: bool = False,
        accept: bool = False,
        pace: Pace | None = None,
    ) -> RetrieverReport:
        """Make the index what the source says. ``now`` becomes its watermark. ``full`` removes all it held first.

        Raises:
            SourceError: the source is not what the registry says; nothing was written.
            ExpectationError: it has no documents, or less than half of what the index holds, and not ``accept``;
                nothing was written.
            RetrieverError: the index fits another model or other metadata and not ``full``, or a vector is wrong.
            RetrieverUnavailableError: the database or the model cannot be reached.
        """
        started, embedded = time.monotonic(), 0 if self.embedder is None else self.embedder.embedded
        with self.sources.documents(retriever) as found:
            complete = not accept and self._is_complete()
            if not accept and (full or not complete):
                _check_enough(retriever, found.versions, self._count() if complete else None)
            batches = iter(found.batches())
            first = list(next(batches, ()))
            if full and self.embedder is not None:
                self._vectors([one.text for one in first[:EMBEDDED]])  # a model that fails does not cost the index
            self.index.begin(index_meta(retriever), replace=full)
            gone = {bytes.fromhex(key) for key in self.index.keys()}  # noqa: SIM118  it is no mapping
            if complete and not full:
                _check_enough(retriever, found.versions, len(gone))
            there, written, done = len(gone), 0, 0
            self.progress(retriever.name, 0, found.versions)
            for batch in chain([first], batches):
                keyed = [(record_key(one, retriever), one) for one in batch]
                missing = [(key, one) for key, one in keyed if key not in gone]
                gone.difference_update(key for key, _ in keyed)
                done += len(batch) - len(missing)
                self.progress(retriever.name, done, found.versions)
                written += self._write(retriever, missing, done, found.versions, pace or Pace())
                done += len(missing)
            self._remove(gone)
            self.index.complete(index_meta(retriever, now))
            self.progress(retriever.name, found.versions, found.versions)
            return RetrieverReport(
                retriever=retriever.name,
                full=full,
                documents=found.documents,
                versions=found.versions,
                embedded=0 if self.embedder is None else self.embedder.embedded - embedded,
                written=written,
                removed=len(gone),
                unchanged=there - len(gone),
                seconds=time.monotonic() - started,
            )

    def _is_complete(self) -> bool:
        with suppress(LLMFeaturesError):  # what cannot be read, begin says, or replaces
            meta = self.index.meta()
            return meta is not None and meta.watermark is not None
        return False

    def _count(self) -> int | None:
        with suppress(LLMFeaturesError):
            return sum(1 for _ in self.index.keys())  # noqa: SIM118  it is no mapping
        return None

    def _write(
        self, retriever: Retriever, missing: Sequence[tuple[bytes, SourceDocument]], done: int, total: int, pace: Pace
    ) -> int:
        records: list[DocumentRecord] = []
        size = pace.portion(EMBEDDED)
        for start in range(0, len(missing), size):
            part = missing[start : start + size]
            records += self._records(part)
            self.progress(retriever.name, done + start + len(part), total)
            if pace.rate is not None:
                pace.wait(len(records))
                self.index.write(records)
                records = []
        if records:
            self.index.write(records)
        return len(missing)

    def _records(self, part: Sequence[tuple[bytes, SourceDocument]]) -> Iterator[DocumentRecord]:
        vectors = self._vectors([one.text for _, one in part])
        for place, (key, one) in enumerate(part):
            yield DocumentRecord(
                key=key.hex(),
                entity=one.entity,
                id=one.id,
                version=one.version,
                text=one.text,
                metadata=one.metadata,
                valid_from=one.valid_from,
                valid_to=one.valid_to,
                vector=None if vectors is None else vectors[place],
            )

    def _vectors(self, texts: Sequence[str]) -> Vector | None:
        if self.embedder is None:
            return None
        vectors = self.embedder.embed(texts)
        if len(vectors) != len(texts):
            raise RetrieverError(f"embedder {self.embedder.model!r} gave {len(vectors)} vectors for {len(texts)} texts")
        return vectors

    def _remove(self, gone: set[bytes]) -> None:
        keys = sorted(key.hex() for key in gone)
        for start in range(0, len(keys), BATCH):
            self.index.remove(keys[start : start + BATCH])


def _check_enough(retriever: Retriever, versions: int, held: int | None) -> None:
    """That a source that was emptied or cut off does not take the index with it, which holds so many records; None:
    no run has completed it."""
    if versions == 0 if held is None else 2 * versions < held:
        there = "" if held is None else f", and the index holds {held:,}"
        raise ExpectationError(
            f"retriever {retriever.name!r}: the source has {versions:,} versions of documents{there}; nothing was "
            "written. Mend the source, or run it once with --accept (materialize(accept=True)) if this is right"
        )


def record_key(document: SourceDocument, retriever: Retriever) -> bytes:
    """The key of a record: a hash of all of it and of the model that makes its vector."""
    hashed = [
        document.entity,
        document.id,
        document.version,
        document.text,
        document.metadata,
        document.valid_from,
        document.valid_to,
        None if retriever.embedder is None else retriever.embedder.model,
    ]
    return sha256(plain_json_text(hashed).encode()).digest()[:16]
