# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Materialize: the newest row of each entity key, from the offline store to the online store, in bounded batches."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import Protocol

from llmfeatures.cells import row_columns
from llmfeatures.clock import back, stamp
from llmfeatures.errors import (
    ExpectationError,
    FormatError,
    LLMFeaturesError,
    StoreError,
    StoreReadOnlyError,
    StoreUnavailableError,
)
from llmfeatures.expect import counts_keys, counts_nulls, wrong_keys, wrong_nulls
from llmfeatures.indexing import RetrieverReport
from llmfeatures.pace import Pace
from llmfeatures.ports import (
    UNFINISHED,
    Begun,
    FailureRecord,
    Interruptible,
    LatestBatch,
    LatestCount,
    OfflineStore,
    OnlineStore,
    RunRecord,
    Since,
    StateStore,
    ViewFields,
    ViewMeta,
    Written,
)
from llmfeatures.registry import schema_hash
from llmfeatures.schema import FeatureView
from llmfeatures.spool import spooled

_ATTEMPTS = 3
_WRITERS = 2
"""Batches on their way at once: while one waits for the store, another is packed."""
_AGAIN = 0.05
"""Seconds after which what is read ahead and not wanted any more is interrupted, again and again."""
_OF_ALL = (StoreUnavailableError, StoreReadOnlyError)
"""Errors that every further view would meet too."""


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
class ViewFailure:
    """A view or retriever that could not be materialized, and why. Without ``error`` it was not tried: another view's
    error concerns it as well."""

    view: str
    message: str
    error: LLMFeaturesError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MaterializeReport:
    """What a run did, view by view and retriever by retriever. ``running_elsewhere``: nothing, since another process
    is at it."""

    views: tuple[ViewReport, ...]
    failures: tuple[ViewFailure, ...] = ()
    running_elsewhere: bool = False
    retrievers: tuple[RetrieverReport, ...] = ()

    @property
    def keys_written(self) -> int:
        """Rows that are new online, all views together."""
        return sum(view.keys_written for view in self.views)

    def joined(self, other: MaterializeReport) -> MaterializeReport:
        """This and another one, as one."""
        return MaterializeReport(
            views=self.views + other.views,
            failures=self.failures + other.failures,
            running_elsewhere=self.running_elsewhere or other.running_elsewhere,
            retrievers=self.retrievers + other.retrievers,
        )

    def check(self) -> None:
        """Raise the error of the views and retrievers that failed, if any did. It says what became of the others, too.

        Raises:
            LLMFeaturesError: of the first failure's class, with the sentences of all.
        """
        errors = [one.error for one in self.failures if one.error is not None]
        if not errors:
            return
        written = [one.view for one in self.views] + [one.retriever for one in self.retrievers]
        untried = [one.view for one in self.failures if one.error is None]
        parts = [f"{what}: {', '.join(names)}" for what, names in (("written", written), ("not run", untried)) if names]
        text = "; ".join(str(error) for error in errors)
        raise type(errors[0])(f"{text} ({'; '.join(parts)})" if parts else text) from errors[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What a run takes (rows at or before ``until``), and up to when it can have seen every row (its watermark)."""

    until: datetime
    known_up_to: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a run goes. ``full`` replaces every row; ``accept`` writes what a view does not expect."""

    full: bool = False
    accept: bool = False
    pace: Pace = field(default_factory=Pace)


class Progress(Protocol):
    """Told how far a run is: keys done of at most ``total`` keys of a view."""

    def __call__(self, view: str, done: int, total: int) -> None:
        """Take note."""
        ...


def _silent(view: str, done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What one run's views have in common. ``empty`` has the lifetimes of stores that held nothing when it came."""

    span: Span
    options: Options
    progress: Progress
    empty: set[str] = field(default_factory=set[str])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """One run of a view, once it is known what it builds on: ``base`` is a watermark, None for a full run."""

    view: FeatureView
    begun: Begun
    hashed: str
    base: str | None
    span: Span

    @property
    def since(self) -> Since | None:
        return None if self.base is None else Since(after=_after(self.base, self.view.lateness))

    @property
    def replaced_before(self) -> str | None:
        # a late event can change an aggregate and leave its timestamp as it was
        return self.begun.now if self.base is None or self.view.aggregates else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """A view's rows, found and seen to be as expected, but not written: close ``held`` afterwards.

    ``filled`` is the watermark of an earlier complete run under the same definition.
    """

    attempt: _Attempt
    filled: str | None
    count: LatestCount
    keys: int | None
    batches: Iterator[LatestBatch]
    started: float
    held: ExitStack


@dataclass(slots=True)
class _Counts:
    written: int = 0
    skipped: int = 0
    non_finite: int = 0


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
        options: Options | None = None,
        progress: Progress = _silent,
    ) -> MaterializeReport:
        """Materialize each view with rows whose timestamps are both at or before ``until``.

        The watermark never passes ``now``: rows that arrive later are the next run's, whatever ``until`` was. A view
        that fails does not stop the others; what was written of it before stays, and a rerun heals it. But an online
        store that cannot be reached or written ends the run.

        ``siblings`` are all views of the registry: a key expires only when every view of its entity has a ttl.
        """
        known = tuple(siblings)
        span = Span(until=until, known_up_to=min(until, now))
        run = _Run(span=span, options=options or Options(), progress=progress)
        reports: list[ViewReport] = []
        failures: list[ViewFailure] = []
        with self._read_ahead(views, run) as read:
            for view in views:
                if any(isinstance(one.error, _OF_ALL) for one in failures):
                    failures.append(ViewFailure(view=view.name, message="not run", error=None))
                    continue
                try:
                    reports.append(self._view(view, self._ttls(view, known), run, next(read)))
                except LLMFeaturesError as error:
                    failures.append(ViewFailure(view=view.name, message=str(error), error=error))
                    record = FailureRecord(view=view.name, at=stamp(now), verb="materialize", message=str(error))
                    with suppress(LLMFeaturesError, OSError):  # the error itself says more
                        self.state.add_failure(record)
        return MaterializeReport(views=tuple(reports), failures=tuple(failures))

    def _ttls(self, view: FeatureView, siblings: Sequence[FeatureView]) -> Mapping[str, timedelta] | None:
        ttls = {one.name: one.ttl for one in siblings if one.entity == view.entity}
        given = {name: ttl for name, ttl in ttls.items() if ttl is not None}
        return given if self.expires and len(given) == len(ttls) else None

    @contextmanager
    def _read_ahead(self, views: Sequence[FeatureView], run: _Run) -> Generator[Iterator[Future[_Read]]]:
        """What was read of each view in turn: while one is written, the next is read."""
        futures: list[Future[_Read]] = []

        def in_turn(beside: ThreadPoolExecutor) -> Iterator[Future[_Read]]:
            for number in range(len(views)):
                futures.extend(beside.submit(self._read, view, run) for view in views[len(futures) : number + 2])
                yield futures[number]

        with ThreadPoolExecutor(1, "materialize-read") as beside:
            try:
                yield in_turn(beside)
            finally:
                for future in futures:
                    future.cancel()
                while wait(futures, _AGAIN).not_done:
                    if isinstance(self.offline, Interruptible):
                        self.offline.interrupt()
                for future in futures:
                    if not future.cancelled() and future.exception() is None:
                        future.result().held.close()

    def _view(
        self, view: FeatureView, ttls: Mapping[str, timedelta] | None, run: _Run, first: Future[_Read]
    ) -> ViewReport:
        read = first.result()
        for turn in range(_ATTEMPTS):
            with read.held:
                report = self._written(read, ttls, run)
            if report is not None:
                return report
            if turn + 1 < _ATTEMPTS:
                read = self._read(view, run)
        raise StoreError(
            f"the online store was flushed during each of {_ATTEMPTS} runs of view {view.name!r}; "
            "find out what flushes it, then materialize again"
        )

    def _read(self, view: FeatureView, run: _Run) -> _Read:
        """The beginning of a view's run: all but its writes."""
        span, options = run.span, run.options
        started, begun = time.monotonic(), self.online.begin()
        if begun.was_empty:
            run.empty.add(begun.meta.lifetime)
        known, hashed = begun.meta.views.get(view.name), schema_hash(view)
        filled = known if known is not None and known.schema_hash == hashed else None
        base = None if filled is None or options.full else filled.watermark
        attempt = _Attempt(view=view, begun=begun, hashed=hashed, base=base, span=span)
        with ExitStack() as held:
            count, batches = self._latest(attempt, held, options)
            keys = self._all_keys(attempt, count, options)
            batches = self._expected(attempt, batches, held, options)
            return _Read(
                attempt=attempt,
                filled=None if filled is None else filled.watermark,
                count=count,
                keys=keys,
                batches=batches,
                started=started,
                held=held.pop_all(),
            )

    def _written(self, read: _Read, ttls: Mapping[str, timedelta] | None, run: _Run) -> ViewReport | None:
        """The rest of a view's run; None when the store lost its contents under it."""
        attempt, count, span = read.attempt, read.count, run.span
        view, begun, base = attempt.view, attempt.begun, attempt.base
        run.progress(view.name, 0, count.keys)
        if base is None and read.filled is not None:
            unfinished = ViewMeta(schema_hash=attempt.hashed + UNFINISHED, watermark=read.filled)
            if not self.online.complete(view.name, unfinished, lifetime=begun.meta.lifetime, base=None):
                return None
        counts = self._write(
            attempt, read.batches, ttls, run.options.pace, lambda done: run.progress(view.name, done, count.keys)
        )
        removed = 0
        if base is None and begun.meta.lifetime not in run.empty:
            fields = ViewFields(name=view.name, features=tuple(one.name for one in view.features))
            removed = self.online.sweep(fields, tuple(view.entity.join_keys), begun.now)
        meta = ViewMeta(schema_hash=attempt.hashed, watermark=stamp(span.known_up_to))
        if not self.online.complete(view.name, meta, lifetime=begun.meta.lifetime, base=base):
            return None
        self._record(attempt, count.eligible, counts.written, read.keys)
        run.progress(view.name, count.keys, count.keys)
        return ViewReport(
            view=view.name,
            full=base is None,
            until=span.until,
            rows_read=count.eligible,
            keys_written=counts.written,
            skipped=counts.skipped,
            refused=count.refused,
            removed=removed,
            non_finite=counts.non_finite,
            seconds=time.monotonic() - read.started,
        )

    def _all_keys(self, attempt: _Attempt, count: LatestCount, options: Options) -> int | None:
        """How many entity keys the source has in all, when that is known or must be.

        Raises:
            ExpectationError: it is not what the view expects.
        """
        view, expect = attempt.view, attempt.view.expect
        if attempt.base is None:
            keys = count.keys
        elif counts_keys(expect):
            keys = self.offline.count_latest(view, until=attempt.span.until).keys
        else:
            return None
        if expect is not None and counts_keys(expect) and not options.accept:
            runs = self.state.runs(view.name, newest_first=True)
            wrong = wrong_keys(view.name, expect, keys, next((run.keys for run in runs if run.keys is not None), None))
            if wrong is not None:
                raise ExpectationError(wrong)
        return keys

    def _latest(
        self, attempt: _Attempt, held: ExitStack, options: Options
    ) -> tuple[LatestCount, Iterator[LatestBatch]]:
        """The winning rows, counted in the pass that finds them."""
        counts: list[LatestCount] = []
        batches = self.offline.latest(
            attempt.view,
            until=attempt.span.until,
            since=attempt.since,
            batch_rows=options.pace.portion(self.batch_rows),
            counted=counts.append,
        )
        held.callback(batches.close)  # an error that is kept would keep what the store holds
        first = list(islice(batches, 1))
        return counts[0], chain(first, batches)

    def _expected(
        self, attempt: _Attempt, batches: Iterator[LatestBatch], held: ExitStack, options: Options
    ) -> Iterator[LatestBatch]:
        """The batches to write; when the view expects something of them, they were all looked at before.

        Raises:
            ExpectationError: they are not what the view expects.
        """
        view, expect = attempt.view, attempt.view.expect
        if expect is None or not counts_nulls(expect) or options.accept:
            return batches
        aside = held.enter_context(spooled(batches))
        nulls = dict(zip((one.name for one in view.features), aside.nulls, strict=False))  # no batch, no counts
        wrong = wrong_nulls(view.name, expect, aside.rows, nulls)
        if wrong is not None:
            raise ExpectationError(wrong)
        return aside.batches()

    def _write(
        self,
        attempt: _Attempt,
        batches: Iterable[LatestBatch],
        ttls: Mapping[str, timedelta] | None,
        pace: Pace,
        tell: Callable[[int], None],
    ) -> _Counts:
        """Write batches: while the store takes some, the next is made."""
        counts = _Counts()
        writing: deque[Future[Written]] = deque()

        def settle(most: int) -> None:
            while len(writing) > most:
                result = writing.popleft().result()
                counts.written += result.written
                counts.skipped += result.skipped
                tell(counts.written + counts.skipped)

        with ThreadPoolExecutor(_WRITERS, "materialize") as beside:
            for batch in batches:
                rows = row_columns(attempt.view, batch)
                counts.non_finite += batch.non_finite
                settle(_WRITERS - 1)
                pace.wait(len(batch.event))
                writing.append(
                    beside.submit(self.online.write_columns, rows, replace_before=attempt.replaced_before, ttls=ttls)
                )
            settle(0)
        return counts

    def _record(self, attempt: _Attempt, read: int, written: int, keys: int | None) -> None:
        self.state.add_run(
            RunRecord(
                view=attempt.view.name,
                full=attempt.base is None,
                until=stamp(attempt.span.until),
                known_up_to=stamp(attempt.span.known_up_to),
                started=attempt.begun.now,
                readable_from=self.online.begin().now,
                schema_hash=attempt.hashed,
                rows_read=read,
                keys_written=written,
                keys=keys,
            )
        )


def _after(watermark: str, lateness: timedelta | None) -> datetime:
    try:
        moment = datetime.fromisoformat(watermark)
    except ValueError:
        raise FormatError(
            "the online store's meta record holds a watermark that is no time; materialize in full"
        ) from None
    return moment if lateness is None else back(moment, lateness)
