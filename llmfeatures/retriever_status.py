"""What the indexes of retrievers hold, how old they are, and what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from llmfeatures.clock import iso
from llmfeatures.errors import LLMFeaturesError
from llmfeatures.ports import DocumentIndex, FailureRecord, IndexMeta, RunRecord, index_meta
from llmfeatures.retriever import Retriever
from llmfeatures.schedule import late

FAILURES = 5
"""Failures of a view or retriever that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieverStatus:
    """The index of one retriever; those that are functions have none.

    ``watermark`` (UTC) is the index's own: when the last complete indexing began; None when it was never filled, or
    nobody knows, because it could not be read (``problem``): then ``late`` and ``current`` are None too. ``current``
    says that it is of the registry's model and metadata. ``last_run`` is the last complete indexing from this host, and
    ``failures`` those since, the newest first.
    """

    retriever: str
    model: str | None
    dimensions: int | None
    cadence: timedelta | None
    watermark: datetime | None
    lag: timedelta | None
    late: bool | None
    current: bool | None
    problem: str | None
    last_run: RunRecord | None
    failures: tuple[FailureRecord, ...]

    @property
    def available(self) -> bool | None:
        """Whether its documents can be found: it was filled, and under the registry's definition. None when nobody
        knows."""
        return None if self.current is None else self.current and self.watermark is not None

    @property
    def well(self) -> bool:
        """Whether its documents can be found, and it is not late."""
        return self.available is True and not self.late

    @property
    def documents(self) -> int | None:
        """How many documents the last complete indexing from this host left; None when there was none from here."""
        return None if self.last_run is None else self.last_run.keys

    @property
    def state(self) -> str:
        """Its state in a few words."""
        if self.current is None:
            return "unknown"
        if self.watermark is None:
            words = ["late: never filled" if self.late else "never filled"]
        else:
            words = ["late" if self.late else "ok"]
        return ", ".join([*words, *([] if self.current else ["other definition"])])


def read_retrievers(
    retrievers: Sequence[Retriever],
    *,
    indexes: Callable[[Retriever], DocumentIndex],
    runs: Mapping[str, RunRecord],
    failures: Sequence[FailureRecord],
    now: datetime,
) -> tuple[RetrieverStatus, ...]:
    """Look at the index of each retriever that has one. That it cannot be opened or read is a status too."""
    return tuple(
        _status(one, indexes, runs.get(one.name), failures, now) for one in retrievers if one.source is not None
    )


def _status(
    retriever: Retriever,
    indexes: Callable[[Retriever], DocumentIndex],
    last_run: RunRecord | None,
    failures: Sequence[FailureRecord],
    now: datetime,
) -> RetrieverStatus:
    found: IndexMeta | None = None
    problem: str | None = None
    try:
        found = indexes(retriever).meta()
    except LLMFeaturesError as error:
        problem = str(error)
    watermark = None if found is None else found.watermark
    known = problem is None
    since = "" if last_run is None else last_run.readable_from
    newest = sorted((one for one in failures if one.view == retriever.name and one.at > since), key=lambda one: one.at)
    wanted = index_meta(retriever)
    return RetrieverStatus(
        retriever=retriever.name,
        model=wanted.model,
        dimensions=wanted.dimensions,
        cadence=retriever.cadence,
        watermark=watermark,
        lag=None if watermark is None else now - watermark,
        late=late(retriever, watermark, now) if known else None,
        current=(found is None or found == index_meta(retriever, watermark)) if known else None,
        problem=problem,
        last_run=last_run,
        failures=tuple(newest[::-1][:FAILURES]),
    )


def warnings_of(retrievers: Sequence[RetrieverStatus]) -> Iterator[str]:
    """Sentences about what keeps documents from being found."""
    for one in retrievers:
        if one.problem is not None:
            yield f"the index of retriever {one.retriever!r} cannot be read: {one.problem}"
        elif one.current is False:
            yield (
                f"retriever {one.retriever!r} was filled under another definition than the registry's, and its "
                f"documents are not found: run llmfeatures materialize {one.retriever} --full"
            )
        elif one.watermark is None:
            yield (
                f"retriever {one.retriever!r} was never filled, and its documents are not found: run llmfeatures "
                f"materialize {one.retriever}"
            )


def retriever_json(one: RetrieverStatus) -> dict[str, Any]:
    """A retriever's status, for a program: moments are ISO 8601 in UTC, durations seconds."""
    run = one.last_run
    return {
        "retriever": one.retriever,
        "model": one.model,
        "dimensions": one.dimensions,
        "cadence": _seconds(one.cadence),
        "watermark": None if one.watermark is None else iso(one.watermark),
        "lag": _seconds(one.lag),
        "late": one.late,
        "available": one.available,
        "current": one.current,
        "problem": one.problem,
        "documents": one.documents,
        "last_run": None
        if run is None
        else {
            "full": run.full,
            "started": run.started,
            "documents": run.keys,
            "versions": run.rows_read,
            "written": run.keys_written,
        },
        "failures": [{"at": each.at, "verb": each.verb, "message": each.message} for each in one.failures],
    }


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()


SAMPLES: tuple[tuple[str, str, Callable[[RetrieverStatus], float | None]], ...] = (
    (
        "watermark_timestamp_seconds",
        "When the last complete indexing began, in seconds since 1970-01-01T00:00Z.",
        lambda one: None if one.watermark is None else one.watermark.timestamp(),
    ),
    ("lag_seconds", "How far the retriever's watermark lies back.", lambda one: _seconds(one.lag)),
    ("cadence_seconds", "How often the retriever should be indexed.", lambda one: _seconds(one.cadence)),
    ("late", "1 when the retriever is late against its cadence, else 0.", lambda one: one.late),
    ("available", "1 when the retriever's documents can be found, else 0.", lambda one: one.available),
    ("documents", "Documents that the last complete indexing from this host left.", lambda one: one.documents),
    ("failures", "Failures since the last complete indexing, at most 5.", lambda one: len(one.failures)),
)
"""A retriever's status as numbers: name, meaning, and the number where it is known."""
