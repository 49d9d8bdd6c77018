# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""`Project`: everything that one can do with a project, in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmfeatures import config as configuration
from llmfeatures.builder import (
    AsyncContextBuilder,
    ContextBuilder,
    Prompts,
    SyncReader,
    Timeout,
    clock_name,
    moment,
    seconds,
)
from llmfeatures.clock import Clock, system_clock
from llmfeatures.config import Config
from llmfeatures.context import FeatureValue
from llmfeatures.errors import (
    FormatError,
    LLMFeaturesError,
    OnDemandError,
    PushLogError,
    RequestError,
    StoreReadOnlyError,
    did_you_mean,
)
from llmfeatures.options import check_options
from llmfeatures.plan import FeaturePlan, plan_references
from llmfeatures.ports import Meta, OfflineStore, OnlineStore, PushLog, RunRecord, StateStore
from llmfeatures.protected import source_files
from llmfeatures.registry import Registry, load_registry, schema_hash
from llmfeatures.schedule import due as is_due
from llmfeatures.schema import FeatureView, PushSource
from llmfeatures.types import DType

if TYPE_CHECKING:
    import pyarrow as pa

    from llmfeatures.history import History
    from llmfeatures.materialize import MaterializeReport, Progress
    from llmfeatures.prepared import PreparedSpine
    from llmfeatures.push_report import PushReport
    from llmfeatures.status import Status

_PLANS = 256
"""So many lists of features that were asked for are remembered, with how to read them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that `Project.check` found. ``where`` is a view, or a prompt file with line and column."""

    severity: Literal["error", "warning"]
    where: str
    message: str


class Project:
    """A project: its configuration, registry, stores and prompts. Stores are opened when they are first used."""

    def __init__(self, config: Config, registry: Registry, *, now: Clock | None = None) -> None:
        self.config, self.registry = config, registry
        self.clock: Clock = now or config.clock()
        self._plan = lru_cache(_PLANS)(partial(plan_references, registry))

    @classmethod
    def load(cls, path: str | Path = ".", *, now: Clock | None = None) -> Project:
        """The project that ``path`` lies in; its configuration is searched upwards.

        Args:
            path: a folder or file in the project.
            now: a function that returns the current moment, aware; None is the project's clock.

        Raises:
            ConfigError: there is no project, or its configuration is wrong.
            DefinitionError: the registry is wrong.
        """
        config = configuration.find_config(path)
        return cls(config, load_registry(config.project.registry, config.root), now=now)

    @cached_property
    def online(self) -> OnlineStore:
        """The online store."""
        return configuration.open_online(self.config)

    @cached_property
    def offline(self) -> OfflineStore:
        """The offline store."""
        return configuration.open_offline(self.config, self.pushes)

    @cached_property
    def pushes(self) -> PushLog:
        """The log of pushed rows."""
        return configuration.open_pushes(self.config)

    @cached_property
    def state(self) -> StateStore:
        """The project's state."""
        return configuration.open_state(self.config)

    @cached_property
    def prompts(self) -> Prompts:
        """The project's prompts, compiled when they are first used."""
        return Prompts(self.registry, self.config.prompts)

    @property
    def _timeout(self) -> float:
        return self.config.online.timeout.total_seconds()

    @cached_property
    def _reader(self) -> SyncReader:
        return SyncReader(self.online, self._timeout)

    def builder(self, *, reload: bool = False) -> ContextBuilder:
        """A builder of finished prompts on this project's stores."""
        return ContextBuilder(self._prompts(reload), self.online, lambda: self.offline, self.clock, self._timeout)

    def async_builder(self, *, reload: bool = False) -> AsyncContextBuilder:
        """A builder for asyncio, with an online store of its own."""
        store = configuration.open_async_online(self.config)
        return AsyncContextBuilder(self._prompts(reload), store, lambda: self.offline, self.clock, self._timeout)

    def _prompts(self, reload: bool) -> Prompts:
        return Prompts(self.registry, self.config.prompts, reload=True) if reload else self.prompts

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
        """Bring the newest rows of the offline store online. A view that fails does not stop the others.

        Args:
            views: names of views; None is all.
            full: replace everything, also what was corrected in place or deleted; else only what is new since the
            last run.
            until: take rows with both timestamps at or before this moment; None is now.
            due: only those of the views that are `due`; and nothing when another process is at such a run of this
                project, as the report says then.
            rate: write at most so many rows per second; None is no limit.
            accept: write also what a view's ``expect`` would refuse.
            check: raise an error at the end when a view failed; else ``failures`` of the report says so.
            progress: told how far the run is.

        Raises:
            UnknownNameError: there is no such view.
            RequestError: the rate is no number of rows.
            SourceError: a source is not what the registry says.
            ExpectationError: rows are not what the view expects; nothing of the view was written.
            StoreError: the online store may not or cannot be written.
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
        chosen = self.registry.views if names is None else tuple(self.registry.view(name) for name in names)
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
            self._compact(chosen)
            report = materializer.run(chosen, self.registry.views, until=last, now=now, options=options, **told)
        if check:
            report.check()
        return report

    def due(self, now: datetime | str | None = None) -> list[str]:
        """The names of the views that are due: those whose watermark in the online store lies before the last multiple
        of their cadence, and those that were never filled, or under another definition. None of them lacks a cadence.

        Args:
            now: at which moment; None is now.

        Raises:
            RequestError: ``now`` is no time.
            StoreError: the online store cannot be read.
        """
        at = self.clock() if now is None else moment("now", now)
        views = [view for view in self.registry.views if view.cadence is not None]
        meta = self.online.meta() if views else None
        return [view.name for view in views if is_due(view, _complete_up_to(view, meta), at)]

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
        plan = self._plan(tuple(_names(features)))
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

    def get_historical_features(
        self, spine: object, features: Sequence[str], *, clock: str = "known", statuses: bool = False
    ) -> pa.RecordBatchReader:
        """Features as they were at each row's ``event_timestamp``: the spine's columns, then one per feature, null
        where it is not present. Rows in = rows out, in order, streamed.

        Args:
            spine: a path (Parquet, CSV, JSONL, Arrow), an Arrow table or reader, a pandas or polars frame, or a
                DuckDB relation, with the join keys and ``event_timestamp`` (naive is UTC).
            features: names, ``status`` or ``user.status`` (which comes back as ``user__status``).
            clock: ``known`` (what was true and had arrived) or ``event`` (what was true).
            statuses: add ``NAME__status`` and ``NAME__event_timestamp``.

        Raises:
            SpineError: the spine cannot be read, lacks a column, or has one named like a feature.
            SourceError: a source is not what the registry says.
            RenderError: an on-demand feature cannot be computed for a row.
        """
        from llmfeatures.historical_features import historical_features

        plan = self._plan(tuple(_names(features)))
        return historical_features(self.offline, plan, spine, clock=clock_name(clock), statuses=statuses)

    def spine(
        self,
        prompt: str,
        *,
        users: int | None = None,
        every: timedelta | str = "1d",
        since: timedelta | str = "30d",
        until: datetime | str | None = None,
        where: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        seed: int = 0,
        clock: str = "known",
    ) -> pa.Table:
        """A spine for a prompt, drawn from the history: the same options give the same rows. See `sampled_spine`.

        Args:
            prompt: its name; it is about one entity.
            users: how many; None is all.
            every: the time from one moment to the next, which are its multiples since 1970-01-01T00:00Z.
            since: how far back from ``until`` the moments go.
            until: the end; None is now.
            where: one SQL expression over join keys, ``event_timestamp`` and features as of the moment; on-demand ones
                take the prompt's inputs.
            inputs: values for the prompt's inputs, the same in every row.
            seed: another one draws other users.
            clock: which values ``where`` sees: ``known`` or ``event``.

        Raises:
            UnknownNameError: there is no such prompt.
            RequestError: an option is wrong, or nobody is there.
            SourceError: a source is not what the registry says.
        """
        from llmfeatures.report.origin import drawn
        from llmfeatures.spine import sampled_spine

        options = {"users": users, "every": every, "since": since, "where": where, "seed": seed}
        check_options({"prompt": prompt, "inputs": inputs, **options}, needed=("prompt", "every", "since", "seed"))
        plan = self.prompts.plan(prompt)
        table = sampled_spine(
            self.offline,
            plan,
            self.registry,
            until=self.clock() if until is None else moment("until", until),
            users=users,
            every=every,
            since=since,
            where=where,
            inputs=inputs,
            seed=seed,
            clock=clock_name(clock),
        )
        return drawn(table, tuple(plan.features.parameters), options)

    def prepared_spine(
        self,
        prompt: str,
        spine: object,
        *,
        sample: int | None = None,
        stratify: str | None = None,
        target: str | None = None,
        label: str | None = None,
        seed: int = 0,
        clock: str = "known",
    ) -> PreparedSpine:
        """A given spine with rows drawn from it and its target named, as `history` reads it. Nothing is read yet.

        Args:
            prompt: its name.
            spine: as for `history`.
            sample: keep so many rows, in their order.
            stratify: in proportion to the values of this column.
            target: the column that is the target.
            label: the feature that is the target, and how long after the prompt: ``last_genre@+7d``. Its text, or null.
            seed: another one draws other rows.
            clock: as for `history`.

        Raises:
            UnknownNameError: there is no such prompt or feature.
            RequestError: an option is wrong.
        """
        from llmfeatures.labels import Label
        from llmfeatures.prepared import prepared

        options = {"sample": sample, "stratify": stratify, "target": target, "label": label}
        check_options({"prompt": prompt, "seed": seed, **options})
        plan = self.prompts.plan(prompt)
        return prepared(
            self.offline,
            spine,
            dtypes={**plan.parameters, "id": DType("str"), "target": DType("str")},
            now=self.clock(),
            clock=clock_name(clock),
            target=target,
            label=None if label is None else Label.of(label, plan, self.registry),
            sample=sample,
            stratify=stratify,
            seed=seed,
        )

    def history(
        self,
        prompt: str,
        spine: object = None,
        *,
        clock: str = "known",
        users: int | None = None,
        every: timedelta | str | None = None,
        since: timedelta | str | None = None,
        until: datetime | str | None = None,
        where: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        sample: int | None = None,
        stratify: str | None = None,
        target: str | None = None,
        label: str | None = None,
        seed: int = 0,
        without: str | Sequence[str] | None = None,
    ) -> History:
        """Historical prompts: one per row of the spine, which also has the prompt's inputs. See `History`.

        Args:
            prompt: its name.
            spine: as for `get_historical_features`; None draws one with ``users``, ``every``, ``since``, ``until``,
                ``where`` and ``inputs``, as `spine` does.
            clock: ``known`` (what was true and had arrived) or ``event`` (what was true).
            users: see `spine`.
            every: see `spine`.
            since: see `spine`.
            until: see `spine`.
            where: see `spine`.
            inputs: see `spine`.
            sample: see `prepared_spine`.
            stratify: see `prepared_spine`.
            target: see `prepared_spine`.
            label: see `prepared_spine`.
            seed: what is drawn; the same seed draws the same.
            without: features; each adds a row after every row, in which it is read as missing.

        Raises:
            UnknownNameError: there is no such prompt or feature.
            PromptError: the prompt cannot be compiled.
            RequestError: an option is wrong, or does not go with another.
        """
        from llmfeatures.history import History

        drawn = {"users": users, "every": every, "since": since, "where": where, "inputs": inputs}
        others = {"sample": sample, "stratify": stratify, "target": target, "label": label, "without": without}
        check_options({"prompt": prompt, "seed": seed, **drawn, **others})
        options: dict[str, Any] = {
            name: value for name, value in {**drawn, "until": until}.items() if value is not None
        }
        if spine is None:
            spine = self.spine(prompt, **options, seed=seed, clock=clock)
        elif options:
            raise RequestError(
                f"{next(iter(options))} draws a spine, and one is given; leave one of them out"
                + ("; inputs are columns of the spine" if "inputs" in options else "")
            )
        if sample is not None or stratify is not None or target is not None or label is not None:
            spine = self.prepared_spine(
                prompt, spine, sample=sample, stratify=stratify, target=target, label=label, seed=seed, clock=clock
            )
        return History(
            self.prompts.plan(prompt),
            spine,
            offline=self.offline,
            clock=clock_name(clock),
            exporters=configuration.exporters(),
            without=without or (),
            protected=source_files(self.config.root, self.registry.views),
        )

    def runs(self, view: str | None = None) -> list[RunRecord]:
        """The records of completed materializations, oldest first."""
        return list(self.state.runs(view))

    def status(self, *, seconds: float = 2.0) -> Status:
        """How old the online store is view by view, what it holds, and what went wrong.

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
        )

    def check(self) -> list[Problem]:
        """Everything that is wrong with the registry's sources and the prompt files, without rendering one."""
        problems: list[Problem] = []
        if self.config.project.now is not None:
            fixed = self.config.project.now.isoformat()
            problems.append(
                Problem(severity="warning", where="now", message=f"the project's clock is fixed at {fixed}")
            )
        try:
            _ = self.online
        except LLMFeaturesError as error:
            problems.append(Problem(severity="error", where="[online]", message=str(error)))
        if not self.config.prompts.is_dir():
            folder = self.config.project.prompts
            message = f"the folder {folder} is not there; make it, or correct [project] prompts"
            problems.append(Problem(severity="error", where="prompts", message=message))
        for view in self.registry.views:
            found = self.offline.check(view)
            problems += [Problem(severity="error", where=f"view {view.name}", message=one) for one in found]
            if not found:
                advice = self.offline.advice(view)
                problems += [Problem(severity="warning", where=f"view {view.name}", message=one) for one in advice]
        prompts = Prompts(self.registry, self.config.prompts)
        for name in prompts.names():
            try:
                plan = prompts.plan(name)
            except LLMFeaturesError as error:
                problems.append(_prompt_problem(name, error))
            else:
                problems += [
                    Problem(
                        severity="warning",
                        where=plan.path,
                        message=f"feature {feature!r} has a policy, and the template never reads it; remove the policy",
                    )
                    for feature in plan.unused
                ]
        return problems

    def close(self) -> None:
        """Give back what was opened."""
        for name in ("online", "offline", "pushes"):
            if name in self.__dict__:
                self.__dict__[name].close()


def _complete_up_to(view: FeatureView, meta: Meta | None) -> datetime | None:
    """The watermark of a view's last complete run under its present definition."""
    held = None if meta is None else meta.views.get(view.name)
    if held is None or held.schema_hash != schema_hash(view):
        return None
    try:
        return datetime.fromisoformat(held.watermark)
    except ValueError:
        return None


def _prompt_problem(name: str, error: LLMFeaturesError) -> Problem:
    from llmfeatures.errors import PromptError

    if isinstance(error, PromptError):
        where = ":".join(str(part) for part in (error.path, error.line, error.column) if part)
        return Problem(severity="error", where=where, message=error.message)
    return Problem(severity="error", where=name, message=str(error))


def _names(features: Sequence[str]) -> list[str]:
    if not isinstance(features, (list, tuple)) or not all(isinstance(name, str) for name in features):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RequestError("features is a list of names, like ['user_segment']")
    return list(features)


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
