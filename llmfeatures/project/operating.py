"""Bringing values online and reading them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from llmfeatures import config as configuration
from llmfeatures.builder import (
    Timeout,
    moment,
    seconds,
)
from llmfeatures.clock import system_clock
from llmfeatures.context import FeatureValue
from llmfeatures.errors import (
    FormatError,
    LLMFeaturesError,
    OnDemandError,
    PushLogError,
    RequestError,
    StoreReadOnlyError,
    UnknownNameError,
    did_you_mean,
)
from llmfeatures.plan import FeaturePlan
from llmfeatures.ports import DocumentIndex, Meta, RunRecord, index_meta
from llmfeatures.project.stores import Stores
from llmfeatures.registry import schema_hash
from llmfeatures.retriever import Retriever
from llmfeatures.schedule import due as is_due
from llmfeatures.schema import FeatureView, PushSource

if TYPE_CHECKING:
    from llmfeatures.materialize import MaterializeReport, Progress
    from llmfeatures.project.indexing import Indexing
    from llmfeatures.push_report import PushReport
    from llmfeatures.status import Status


class Operating(Stores):
    """Bringing values online and reading them."""

    def materialize(
        self,
        views: str | Sequence[str] | None = None,
        *,
        full: bool = False,
        until: datetime | str | None = None,
        due: bool = False,
        rate: float | None = None,
        accept: bool = False,
        check: bool = True,
        progress: Progress | None = None,
    ) -> MaterializeReport:
        """Bring the newest rows of the offline store online, and documents into their vector database. A view or
        retriever that fails does not stop the others.

        Args:
            views: names of views and retrievers; None is all.
            full: replace everything, also what was corrected in place or deleted; else only what is new since the
            last run. Documents are compared by content in any case; in full, their index is made anew, from vectors
            that are kept where the model is the same.
            until: take rows with both timestamps at or before this moment; None is now. Documents are all taken, those
            of a later ``valid_from`` too: they are not found before it.
            due: only what is `due`; and nothing when another process is at such a run of this
                project, as the report says then.
            rate: write at most so many rows, or documents, per second; None is no limit.
            accept: write also what a view's ``expect`` would refuse, and index a source that has no documents, or less
                than half of what its index holds.
            check: raise an error at the end when a view failed; else ``failures`` of the report says so.
            progress: told how far the run is.

        Raises:
            UnknownNameError: there is no such view or retriever.
            RequestError: the rate is no number of rows, or a retriever is a function.
            SourceError: a source is not what the registry says.
            ExpectationError: rows are not what the view expects; nothing of the view was written.
            StoreError: the online store may not or cannot be written.
            RetrieverError: an index fits another definition and not ``full``, or its database or its model fails.
        """
        from llmfeatures.materialize import Materializer, MaterializeReport, Options
        from llmfeatures.pace import Pace

        if self.config.online.access == "read":
            raise StoreReadOnlyError(
                'this project may only read the online store ([online] access = "read"); '
                "materialize from one that may write"
            )
        names = [views] if isinstance(views, str) else views
        if names is not None and not isinstance(names, (list, tuple)):
            raise RequestError(f"views is a list of names, or None for all, not {type(names).__name__}")
        chosen, retrievers = self._named(names)
        options = Options(full=full, accept=accept, pace=Pace(rate=rate))
        now = self.clock()
        last = now if until is None else moment("until", until)
        told: dict[str, Any] = {} if progress is None else {"progress": progress}
        materializer = Materializer(
            offline=self.offline, online=self.online, state=self.state, expires=self.clock is system_clock
        )
        with ExitStack() as held:
            if due:
                if not held.enter_context(self.state.alone("materialize-due")):
                    return MaterializeReport(views=(), running_elsewhere=True)
                wanted = self.due(now)
                chosen = tuple(view for view in chosen if view.name in wanted)
                retrievers = tuple(one for one in retrievers if one.name in wanted)
            self._compact(chosen)
            report = materializer.run(chosen, self.registry.views, until=last, now=now, options=options, **told)
            if retrievers:
                indexed = self._indexing(progress).run(retrievers, now=now, full=full, accept=accept, pace=options.pace)
                report = report.joined(indexed)
        if check:
            report.check()
        return report

    def due(self, now: datetime | str | None = None) -> list[str]:
        """The names of the views and retrievers that are due: those whose watermark in the online store, or in the
        index, lies before the last multiple of their cadence, and those that were never filled, or under another
        definition. None of them lacks a cadence.

        Args:
            now: at which moment; None is now.

        Raises:
            RequestError: ``now`` is no time.
            StoreError: the online store cannot be read. An index that cannot be read is due: its run says why.
        """
        at = self.clock() if now is None else moment("now", now)
        views = [view for view in self.registry.views if view.cadence is not None]
        meta = self.online.meta() if views else None
        due = [view.name for view in views if is_due(view, _complete_up_to(view, meta), at)]
        indexed = [one for one in self.registry.retrievers if one.source is not None and one.cadence is not None]
        return due + [one.name for one in indexed if is_due(one, self._indexed_up_to(one), at)]

    def _named(self, names: Sequence[str] | None) -> tuple[tuple[FeatureView, ...], tuple[Retriever, ...]]:
        """The views and retrievers of these names; None is all that can be filled."""
        if names is None:
            return self.registry.views, tuple(one for one in self.registry.retrievers if one.source is not None)
        views = {view.name: view for view in self.registry.views}
        retrievers = {one.name: one for one in self.registry.retrievers}
        for name in names:
            if name not in views and name not in retrievers:
                raise UnknownNameError("view or retriever" if retrievers else "view", name, [*views, *retrievers])
            if name in retrievers and retrievers[name].source is None:
                raise RequestError(
                    f"retriever {name!r} is a function, which searches by itself: there is nothing to fill"
                )
        return (
            tuple(views[name] for name in names if name in views),
            tuple(retrievers[name] for name in names if name in retrievers),
        )

    def _indexing(self, progress: Progress | None) -> Indexing:
        from llmfeatures.project.indexing import Indexing

        return Indexing(
            config=self.config, sources=self.offline, retrieving=self.retrieving, state=self.state, progress=progress
        )

    def _indexed_up_to(self, retriever: Retriever) -> datetime | None:
        """The watermark of a retriever's last complete indexing under its present definition."""
        try:
            found = cast("DocumentIndex", self.retrieving.store(retriever)).meta()
        except LLMFeaturesError:
            return None
        wanted = index_meta(retriever, None if found is None else found.watermark)
        return found.watermark if found is not None and found == wanted else None

    def _compact(self, views: Sequence[FeatureView]) -> None:
        """Make Parquet of what was pushed, while there is time. Nothing depends on it."""
        for view in views:
            if isinstance(view.source, PushSource):
                with suppress(PushLogError, FormatError):  # whoever reads the log says what is wrong with it
                    self.pushes.compact(view.name)

    def push(self, view: str, rows: object, *, push_id: str | None = None) -> PushReport:
        """Keep rows that are true now, or were: durably in the push log, and then online by newest-wins. All or none.

        Once it returns, the rows are in history, and in the next answer of every reader of the log.

        Args:
            view: the name of a view with a `PushSource`.
            rows: a list of mappings, or an Arrow table or batch. Each has every join key and every feature (None for no
                value), and may have ``event_timestamp`` and ``created_timestamp``, which are now unless given.
            push_id: names this push. Pushing again under the same id adds nothing, so a push whose answer was lost can
                be sent again. None makes a new one.

        Raises:
            UnknownNameError: there is no such view.
            RequestError: the view takes no pushes, or a row is wrong (`PushedRowsError`, which lists each).
            StoreReadOnlyError: this project may not push.
            PushLogError: the rows could not be kept. An online store that cannot be written is no error: the report
                says so.
        """
        from llmfeatures.push import Pusher

        if self.config.online.access == "read":
            raise StoreReadOnlyError(
                'this project may only read ([online] access = "read"); push from one that may write'
            )
        pusher = Pusher(
            pushes=self.pushes,
            online=lambda: self.online,
            state=self.state,
            views=self.registry.views,
            max_skew=self.config.online.max_skew,
            timeout=self.config.online.timeout,
            expires=self.clock is system_clock,
        )
        return pusher.push(self.registry.view(view), rows, push_id=push_id, now=self.clock())

    def get_online_features(
        self, features: Sequence[str], rows: Sequence[Mapping[str, Any]], *, timeout: Timeout = None
    ) -> list[dict[str, FeatureValue]]:
        """The newest features of entities: one mapping per row, in order, from feature name to `FeatureValue`.

        Args:
            features: names, ``status`` or ``user.status``.
            rows: one mapping per row with every join key; a value of None is nobody: its features are missing.
                On-demand features may take inputs beside them.
            timeout: for the read; seconds, a timedelta or text such as ``250ms``.

        Raises:
            UnknownNameError: there is no such feature.
            RequestError: a join key or input is absent, unknown, or of another type.
            OnDemandError: an on-demand feature's function failed, or returned a wrong value.
        """
        plan = self._asked(features)
        keys = [_row_keys(plan, number, row) for number, row in enumerate(rows)]
        result = self._reader.run(plan.read([plan.entity_keys(one) for one in keys]), seconds(timeout))
        now = self.clock()
        as_of = now if result.newest is None else max(now, result.newest)
        asked = [(plan.names[place], place) for place in plan.asked]
        found: list[dict[str, FeatureValue]] = []
        for number, (slots, given) in enumerate(zip(result.slots, keys, strict=True)):
            try:
                settled = plan.found(slots, given, as_of)
            except OnDemandError as error:
                raise OnDemandError(f"row {number}: {error}", feature=error.feature) from None
            found.append({name: settled[place] for name, place in asked})
        return found

    def runs(self, view: str | None = None) -> list[RunRecord]:
        """The records of completed materializations, oldest first."""
        return list(self.state.runs(view))

    def status(self, *, seconds: float = 2.0) -> Status:
        """How old the online store is view by view, and each retriever's index, what they hold, and what went wrong.

        Args:
            seconds: how long online keys may be counted; of more keys than that allows, there are estimates.

        Raises:
            ConfigError: the online store's URL is of no known kind.
        """
        from llmfeatures.status import Place, read_status

        kind, where = configuration.online_place(self.config)
        return read_status(
            self.config.project.name,
            self.registry.views,
            place=Place(kind, where, configuration.namespace(self.config), self.config.online.access),
            online=lambda: self.online,
            pushes=lambda: self.pushes,
            state=self.state,
            now=self.clock(),
            fixed_clock=self.config.project.now is not None,
            seconds=seconds,
            retrievers=self.registry.retrievers,
            indexes=lambda one: cast("DocumentIndex", self.retrieving.store(one)),
        )


def _complete_up_to(view: FeatureView, meta: Meta | None) -> datetime | None:
    """The watermark of a view's last complete run under its present definition."""
    held = None if meta is None else meta.views.get(view.name)
    if held is None or held.schema_hash != schema_hash(view):
        return None
    try:
        return datetime.fromisoformat(held.watermark)
    except ValueError:
        return None


def _row_keys(plan: FeaturePlan, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(row, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RequestError(f"row {number} is a mapping of join keys, not {type(row).__name__}")
    if not plan.taken.issuperset(row):
        known = {**plan.parameters, **plan.inputs}
        for name in row:
            if name in known:
                continue
            raise RequestError(f"row {number}: unknown join key {name!r}{did_you_mean(name, known)}")
    try:
        return plan.given(row)
    except RequestError as error:
        raise RequestError(f"row {number}: {error}") from None
