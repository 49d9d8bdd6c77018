# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Materialize: the newest row of each entity key, from the offline store to the online store, in bounded batches."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from llmfeatures import codec, columns
from llmfeatures.clock import back, stamp
from llmfeatures.errors import FormatError, SourceError, StoreError
from llmfeatures.ports import (
    UNFINISHED,
    Begun,
    LatestBatch,
    OfflineStore,
    OnlineStore,
    RowWrite,
    RunRecord,
    Since,
    StateStore,
    ViewFields,
    ViewMeta,
)
from llmfeatures.registry import schema_hash
from llmfeatures.schema import FeatureView

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewReport:
    """What a run did for one view.

    ``rows_read`` are the source's rows that the run covered, ``keys_written`` the entity keys that are new online,
    ``skipped`` those whose stored row was newer or the same, ``refused`` the rows without a join key or an event
    timestamp, ``removed`` the
    online rows that a full run no longer found, ``non_finite`` the floats that became null.
    """

    view: str
    full: bool
    until: datetime
    rows_read: int
    keys_written: int
    skipped: int
    refused: int
    removed: int
    non_finite: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MaterializeReport:
    """What a run did, view by view."""

    views: tuple[ViewReport, ...]

    @property
    def keys_written(self) -> int:
        """Rows that are new online, all views together."""
        return sum(view.keys_written for view in self.views)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What a run takes (rows at or before ``until``), and up to when it can have seen every row (its watermark)."""

    until: datetime
    known_up_to: datetime


class Progress(Protocol):
    """Told how far a run is: keys done of at most ``total`` keys of a view."""

    def __call__(self, view: str, done: int, total: int) -> None:
        """Take note."""
        ...


def _silent(view: str, done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Materializer:
    """Runs materializations between two stores.

    ``expires`` is false when the project's clock is not the machine's: a store that lets keys expire by its own time
    must not do it then.
    """

    offline: OfflineStore
    online: OnlineStore
    state: StateStore
    expires: bool = True
    batch_rows: int = 10_000

    def run(
        self,
        views: Sequence[FeatureView],
        siblings: Iterable[FeatureView],
        *,
        until: datetime,
        now: datetime,
        full: bool = False,
        progress: Progress = _silent,
    ) -> MaterializeReport:
        """Materialize each view with rows whose timestamps are both at or before ``until``.

        The watermark never passes ``now``: rows that arrive later are the next run's, whatever ``until`` was.

        ``siblings`` are all views of the registry: a key expires only when every view of its entity has a ttl.

        Raises:
            SourceError: a source is not what the registry says; what was written before stays, a rerun heals it.
            StoreError: the online store cannot be written.
        """
        known = tuple(siblings)
        span = Span(until=until, known_up_to=min(until, now))
        reports: list[ViewReport] = []
        for view in views:
            try:
                reports.append(self._view(view, ttls=self._ttls(view, known), span=span, full=full, progress=progress))
            except SourceError as error:
                raise _with_others(error, view, views, reports) from error
        return MaterializeReport(views=tuple(reports))

    def _ttls(self, view: FeatureView, siblings: Sequence[FeatureView]) -> Mapping[str, timedelta] | None:
        ttls = {one.name: one.ttl for one in siblings if one.entity == view.entity}
        given = {name: ttl for name, ttl in ttls.items() if ttl is not None}
        return given if self.expires and len(given) == len(ttls) else None

    def _view(
        self,
        view: FeatureView,
        *,
        ttls: Mapping[str, timedelta] | None,
        span: Span,
        full: bool,
        progress: Progress,
    ) -> ViewReport:
        for _ in range(_ATTEMPTS):
            report = self._attempt(view, ttls, span, full, progress)
            if report is not None:
                return report
        raise StoreError(
            f"the online store was flushed during each of {_ATTEMPTS} runs of view {view.name!r}; "
            "find out what flushes it, then materialize again"
        )

    def _attempt(
        self,
        view: FeatureView,
        ttls: Mapping[str, timedelta] | None,
        span: Span,
        full: bool,
        progress: Progress,
    ) -> ViewReport | None:
        """One run of a view; None when the store lost its contents under it."""
        started, began = time.monotonic(), self.online.begin()
        known = began.meta.views.get(view.name)
        hashed = schema_hash(view)
        base = None if full or known is None or known.schema_hash != hashed else known.watermark
        if base is None and known is not None and known.schema_hash == hashed:
            unfinished = ViewMeta(schema_hash=hashed + UNFINISHED, watermark=known.watermark)
            if not self.online.complete(view.name, unfinished, lifetime=began.meta.lifetime, base=None):
                return None
        since = None if base is None else Since(after=_after(base, view.lateness))
        fields = ViewFields(name=view.name, features=tuple(one.name for one in view.features))
        count = self.offline.count_latest(view, until=span.until, since=since)
        progress(view.name, 0, count.keys)
        written = skipped = non_finite = done = 0
        for batch in self.offline.latest(view, until=span.until, since=since, batch_rows=self.batch_rows):
            # a late event can change an aggregate and leave its timestamp as it was
            replaced = began.now if base is None or view.aggregates else None
            result = self.online.write(_rows(view, fields, batch), replace_before=replaced, ttls=ttls)
            written += result.written
            skipped += result.skipped
            non_finite += batch.non_finite
            done += len(batch.event)
            progress(view.name, done, count.keys)
        removed = 0
        if base is None:
            removed = self.online.sweep(fields, tuple(view.entity.join_keys), began.now)
        meta = ViewMeta(schema_hash=hashed, watermark=stamp(span.known_up_to))
        if not self.online.complete(view.name, meta, lifetime=began.meta.lifetime, base=base):
            return None
        self._record(view, began, base is None, span, hashed, count.eligible, written)
        progress(view.name, count.keys, count.keys)
        return ViewReport(
            view=view.name,
            full=base is None,
            until=span.until,
            rows_read=count.eligible,
            keys_written=written,
            skipped=skipped,
            refused=count.refused,
            removed=removed,
            non_finite=non_finite,
            seconds=time.monotonic() - started,
        )

    def _record(
        self, view: FeatureView, began: Begun, full: bool, span: Span, hashed: str, read: int, written: int
    ) -> None:
        self.state.add_run(
            RunRecord(
                view=view.name,
                full=full,
                until=stamp(span.until),
                known_up_to=stamp(span.known_up_to),
                started=began.now,
                readable_from=self.online.begin().now,
                schema_hash=hashed,
                rows_read=read,
                keys_written=written,
            )
        )


def _with_others(
    error: SourceError, view: FeatureView, views: Sequence[FeatureView], done: Sequence[ViewReport]
) -> SourceError:
    """The error with what became of the run's other views."""
    written = [one.view for one in done]
    skipped = [one.name for one in views if one.name not in written and one != view]
    parts = [f"{what}: {', '.join(names)}" for what, names in (("written", written), ("not run", skipped)) if names]
    return SourceError(f"{error} ({'; '.join(parts)})" if parts else str(error))


def _after(watermark: str, lateness: timedelta | None) -> datetime:
    try:
        moment = datetime.fromisoformat(watermark)
    except ValueError:
        raise FormatError(
            "the online store's meta record holds a watermark that is no time; materialize in full"
        ) from None
    return moment if lateness is None else back(moment, lateness)


def _rows(view: FeatureView, fields: ViewFields, batch: LatestBatch) -> list[RowWrite]:
    """The rows of a batch as the online store takes them."""
    names = tuple(view.entity.join_keys)
    keys = zip(
        *(
            columns.python_values(dtype, array)
            for dtype, array in zip(view.entity.join_keys.values(), batch.keys, strict=True)
        ),
        strict=True,
    )
    encoded = [
        [feature.dtype.encode(value) for value in columns.python_values(feature.dtype, array)]
        for feature, array in zip(view.features, batch.columns, strict=True)
    ]
    return [
        RowWrite(codec.entity_key(names, key), fields, event, created, values)
        for key, event, created, values in zip(
            keys,
            columns.stamps(batch.event),
            columns.stamps(batch.created),
            zip(*encoded, strict=True),
            strict=True,
        )
    ]
