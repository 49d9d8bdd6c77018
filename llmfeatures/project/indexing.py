"""Bringing documents into their vector databases: which is opened for which retriever, and what becomes of errors."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, cast

from llmfeatures import config as configuration
from llmfeatures.clock import stamp
from llmfeatures.config import Config
from llmfeatures.errors import LLMFeaturesError, RequestError, RetrieverError
from llmfeatures.indexing import Indexer, RetrieverReport
from llmfeatures.materialize import MaterializeReport, ViewFailure
from llmfeatures.pace import Pace
from llmfeatures.ports import (
    DocumentIndex,
    DocumentSources,
    FailureRecord,
    OfflineStore,
    RunRecord,
    StateStore,
    index_meta,
)
from llmfeatures.retriever import Retriever
from llmfeatures.retrievers import Retrieving
from llmfeatures.types import json_text

if TYPE_CHECKING:
    from llmfeatures.materialize import Progress


def _silent(view: str, done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexing:
    """Indexes retrievers one after the other."""

    config: Config
    sources: OfflineStore
    retrieving: Retrieving
    state: StateStore
    progress: Progress | None = None

    def run(
        self, retrievers: Sequence[Retriever], *, now: datetime, full: bool, accept: bool, pace: Pace
    ) -> MaterializeReport:
        """Index each retriever. One that fails does not stop the others. ``accept`` as `Indexer.run`."""
        reports: list[RetrieverReport] = []
        failures: list[ViewFailure] = []
        for one in retrievers:
            try:
                reports.append(self._index(one, now, full, accept, pace))
            except LLMFeaturesError as error:
                failures.append(ViewFailure(view=one.name, message=str(error), error=error))
                record = FailureRecord(view=one.name, at=stamp(now), verb="materialize", message=str(error))
                with suppress(LLMFeaturesError, OSError):  # the error itself says more
                    self.state.add_failure(record)
        return MaterializeReport(views=(), failures=tuple(failures), retrievers=tuple(reports))

    def _index(self, retriever: Retriever, now: datetime, full: bool, accept: bool, pace: Pace) -> RetrieverReport:
        if not isinstance(self.sources, DocumentSources):
            raise RequestError("this offline store reads no documents")
        embedder = self.retrieving.embedder(retriever)
        kept = None if embedder is None else configuration.open_embedding_cache(self.config, embedder)
        indexer = Indexer(
            sources=self.sources,
            index=cast("DocumentIndex", self.retrieving.store(retriever)),
            embedder=kept,
            progress=self.progress or _silent,
        )
        with ExitStack() as held:
            if kept is not None:
                held.enter_context(kept.held())
            if not held.enter_context(self.state.alone(f"index-{retriever.name}")):
                raise RetrieverError(
                    f"another process is indexing retriever {retriever.name!r}; run this again when it is done"
                )
            report = indexer.run(retriever, now=now, full=full, accept=accept, pace=pace)
        self.state.add_run(_record(retriever, report, now))
        return report


def _record(retriever: Retriever, report: RetrieverReport, now: datetime) -> RunRecord:
    meta = index_meta(retriever)
    described = json_text([meta.format, meta.model, meta.dimensions, dict(meta.metadata)])
    return RunRecord(
        view=retriever.name,
        full=report.full,
        until=stamp(now),
        known_up_to=stamp(now),
        started=stamp(now),
        readable_from=stamp(now + timedelta(seconds=report.seconds)),
        schema_hash=sha256(described.encode()).hexdigest()[:16],
        rows_read=report.versions,
        keys_written=report.written,
        keys=report.documents,
    )
