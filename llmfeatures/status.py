"""What a project's online side holds, how old it is, and what went wrong: what one looks at first when something is
off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from llmfeatures.clock import duration_text, iso
from llmfeatures.errors import LLMFeaturesError, StoreError
from llmfeatures.ports import (
    UNFINISHED,
    DocumentIndex,
    FailureRecord,
    Meta,
    OnlineStore,
    PushLog,
    PushSize,
    RunRecord,
    StateStore,
    Usage,
    ViewFields,
    ViewUsage,
)
from llmfeatures.registry import schema_hash
from llmfeatures.retriever import Retriever
from llmfeatures.retriever_status import (
    FAILURES,
    SAMPLES,
    RetrieverStatus,
    read_retrievers,
    retriever_json,
    warnings_of,
)
from llmfeatures.schedule import late
from llmfeatures.schema import FeatureView, PushSource

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatus:
    """The online store.

    ``where`` never has a password. ``reachable`` is False when it did not answer, or holds what this version does not
    read; ``problem`` says why. ``format`` and ``lifetime`` (which a flush changes) are None when it is empty.
    ``usage`` is None when nothing could be counted.
    """

    kind: str
    where: str
    namespace: str
    access: str
    reachable: bool
    problem: str | None
    format: int | None
    lifetime: str | None
    usage: Usage | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewStatus:
    """One view online.

    ``watermark`` (UTC) is the online store's own; None when the view was never filled, or nobody knows, because the
    store was not reached: then ``late``, ``current`` and ``unfinished`` are None too. ``lag`` is how far the watermark
    lies back. ``current`` says that the store holds what the registry describes now; ``unfinished`` that a full run was
    begun and has not completed. ``pushes`` is what the push log takes, None for a view that is not pushed to.
    ``failures`` are those since the last complete run, the newest first.
    """

    view: str
    cadence: timedelta | None
    watermark: datetime | None
    lag: timedelta | None
    late: bool | None
    current: bool | None
    unfinished: bool | None
    last_run: RunRecord | None
    keys: int | None
    bytes: int | None
    pushes: PushSize | None
    failures: tuple[FailureRecord, ...]

    @property
    def available(self) -> bool | None:
        """Whether the view's features can be read: it was filled, and under the registry's definition. None when
        nobody knows."""
        return None if self.current is None else self.current and self.watermark is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """All of a project's status at ``now``, its own clock's; ``fixed_clock`` when that stands still. ``warnings`` are
    sentences about what is not wrong yet."""

    project: str
    now: datetime
    fixed_clock: bool
    store: StoreStatus
    views: tuple[ViewStatus, ...]
    warnings: tuple[str, ...]
    retrievers: tuple[RetrieverStatus, ...] = ()

    @property
    def late(self) -> tuple[str, ...]:
        """The names of the views and retrievers that are late."""
        late = [view.view for view in self.views if view.late]
        return (*late, *(one.retriever for one in self.retrievers if one.late))

    @property
    def well(self) -> bool:
        """Whether the store was reached, every view's features can be read, every retriever's documents can be found,
        and nothing is late."""
        views = self.store.reachable and all(view.available for view in self.views)
        return views and not self.late and all(one.well for one in self.retrievers)


class Place(NamedTuple):
    """Which online store it is: its kind, where it is (without a password), this project's namespace and access."""

    kind: str
    where: str
    namespace: str
    access: str


class Sample(NamedTuple):
    """One number for a monitoring system: its name and meaning, the labels and the number."""

    name: str
    help: str
    labels: Mapping[str, str]
    value: float


def read_status(
    project: str,
    views: Sequence[FeatureView],
    *,
    place: Place,
    online: Callable[[], OnlineStore],
    pushes: Callable[[], PushLog],
    state: StateStore,
    now: datetime,
    fixed_clock: bool = False,
    seconds: float = 2.0,
    retrievers: Sequence[Retriever] = (),
    indexes: Callable[[Retriever], DocumentIndex] | None = None,
) -> Status:
    """Look at everything, and say what could not be looked at. ``seconds`` bound the counting of online keys.

    ``online``, ``pushes`` and ``indexes`` open the store, the push log and the indexes of retrievers: that they cannot
    be opened is a status too.
    """
    warnings: list[str] = []
    meta, usage, problem = _look(online, views, seconds, warnings)
    runs = _tried(state.last_runs, {}, "run records cannot be read", warnings)
    failures = _tried(lambda: list(state.failures()), [], "records of failures cannot be read", warnings)
    store = StoreStatus(
        **place._asdict(),
        reachable=problem is None,
        problem=problem,
        format=None if meta is None else meta.format,
        lifetime=None if meta is None else meta.lifetime,
        usage=usage,
    )
    sizes = {view.name: _pushed(pushes, view, warnings) for view in views}
    found = tuple(
        _view(
            view,
            meta=meta,
            known=store.reachable,
            usage=usage,
            last_run=runs.get(view.name),
            failures=failures,
            pushes=sizes[view.name],
            now=now,
        )
        for view in views
    )
    if fixed_clock:
        warnings.append(f"the project's clock is fixed at {iso(now)}: lags are measured against it")
    indexed = (
        read_retrievers(retrievers, indexes=indexes, runs=runs, failures=failures, now=now)
        if indexes is not None
        else ()
    )
    warnings += [*_about_memory(usage), *_about_absent(found), *_about_views(found), *warnings_of(indexed)]
    return Status(
        project=project,
        now=now,
        fixed_clock=fixed_clock,
        store=store,
        views=found,
        warnings=tuple(warnings),
        retrievers=indexed,
    )


def _look(
    online: Callable[[], OnlineStore], views: Sequence[FeatureView], seconds: float, warnings: list[str]
) -> tuple[Meta | None, Usage | None, str | None]:
    """The store's meta record, what it holds, and why it was not reached."""
    try:
        store = online()
        meta = store.meta()
    except LLMFeaturesError as error:
        return None, None, str(error)
    fields = {
        ViewFields(name=view.name, features=tuple(one.name for one in view.features)): tuple(view.entity.join_keys)
        for view in views
    }
    try:
        usage = store.usage(fields, seconds=seconds)
    except StoreError as error:
        warnings.append(f"what the online store holds was not counted: {error}")
        return meta, None, None
    warnings += usage.problems
    return meta, usage, None


def _tried(read: Callable[[], T], otherwise: T, what: str, warnings: list[str]) -> T:
    try:
        return read()
    except LLMFeaturesError as error:
        warnings.append(f"{what}: {error}")
        return otherwise


def _pushed(pushes: Callable[[], PushLog], view: FeatureView, warnings: list[str]) -> PushSize | None:
    if not isinstance(view.source, PushSource):
        return None
    return _tried(
        lambda: pushes().size(view.name), None, f"the push log of view {view.name!r} cannot be read", warnings
    )


def _view(
    view: FeatureView,
    *,
    meta: Meta | None,
    known: bool,
    usage: Usage | None,
    last_run: RunRecord | None,
    failures: Sequence[FailureRecord],
    pushes: PushSize | None,
    now: datetime,
) -> ViewStatus:
    held = None if meta is None else meta.views.get(view.name)
    watermark = None if held is None else _moment(held.watermark)
    counted = ViewUsage(keys=None, bytes=None) if usage is None else usage.views[view.name]
    since = "" if last_run is None else last_run.readable_from
    newest = sorted((one for one in failures if one.view == view.name and one.at > since), key=lambda one: one.at)
    return ViewStatus(
        view=view.name,
        cadence=view.cadence,
        watermark=watermark,
        lag=None if watermark is None else now - watermark,
        late=late(view, watermark, now) if known else None,
        current=(held is None or held.holds(schema_hash(view))) if known else None,
        unfinished=(held is not None and held.schema_hash.endswith(UNFINISHED)) if known else None,
        last_run=last_run,
        keys=counted.keys,
        bytes=counted.bytes,
        pushes=pushes,
        failures=tuple(newest[::-1][:FAILURES]),
    )


def _moment(watermark: str) -> datetime | None:
    try:
        return datetime.fromisoformat(watermark)
    except ValueError:
        return None


def _about_memory(usage: Usage | None) -> Iterator[str]:
    if usage is None:
        return
    if usage.evicted_keys:
        yield (
            f"the server has evicted {usage.evicted_keys:,} keys since it started, and an evicted entity reads as "
            "missing: give it more memory, and run llmfeatures materialize --full"
        )
    if usage.memory_limit and usage.eviction_policy not in (None, "noeviction"):
        yield (
            f"the server may evict keys when it is full (maxmemory-policy {usage.eviction_policy}), and an evicted "
            "entity reads as missing: set maxmemory-policy noeviction"
        )
    if usage.memory_limit and usage.memory_used is not None and usage.memory_used > 0.9 * usage.memory_limit:
        yield (
            f"the server uses {usage.memory_used / usage.memory_limit:.0%} of its maxmemory; when it is full, "
            "materialize and push fail: raise maxmemory"
        )


def _about_absent(views: Iterable[ViewStatus]) -> Iterator[str]:
    """Of views that are not online: those that this host knows to have been, and the others."""
    absent = [view for view in views if view.current and view.watermark is None]
    for ran, why in ((True, "the online store was emptied after the last run of"), (False, "never filled:")):
        names = ", ".join(repr(view.view) for view in absent if (view.last_run is not None) is ran)
        if names:
            yield f"{why} {names}; the features are unavailable: run llmfeatures materialize"


def _about_views(views: Iterable[ViewStatus]) -> Iterator[str]:
    for view in views:
        if view.current is False:
            yield (
                f"view {view.view!r} was filled under another definition than the registry's, and its features are "
                f"unavailable: run llmfeatures materialize {view.view}"
            )
        if view.unfinished:
            yield (
                f"a full run of view {view.view!r} is going on, or has died; when none is going on, run llmfeatures "
                f"materialize {view.view}"
            )


def run_seconds(run: RunRecord) -> float:
    """How long a run took, from its record."""
    return (datetime.fromisoformat(run.readable_from) - datetime.fromisoformat(run.started)).total_seconds()


def status_json(status: Status) -> dict[str, Any]:
    """A status as ``llmfeatures status --json`` prints it: moments are ISO 8601 in UTC, durations seconds."""
    store, usage = status.store, status.store.usage
    return {
        "project": status.project,
        "well": status.well,
        "now": iso(status.now),
        "fixed_clock": status.fixed_clock,
        "store": {
            "kind": store.kind,
            "where": store.where,
            "namespace": store.namespace,
            "access": store.access,
            "reachable": store.reachable,
            "problem": store.problem,
            "format": store.format,
            "lifetime": store.lifetime,
            "memory_used": None if usage is None else usage.memory_used,
            "memory_limit": None if usage is None else usage.memory_limit,
            "eviction_policy": None if usage is None else usage.eviction_policy,
            "evicted_keys": None if usage is None else usage.evicted_keys,
            "exact": None if usage is None else usage.exact,
        },
        "views": [_view_json(view) for view in status.views],
        "retrievers": [retriever_json(one) for one in status.retrievers],
        "warnings": list(status.warnings),
    }


def _view_json(view: ViewStatus) -> dict[str, Any]:
    run = view.last_run
    return {
        "view": view.view,
        "cadence": _seconds(view.cadence),
        "watermark": None if view.watermark is None else iso(view.watermark),
        "lag": _seconds(view.lag),
        "late": view.late,
        "available": view.available,
        "current": view.current,
        "unfinished": view.unfinished,
        "keys": view.keys,
        "bytes": view.bytes,
        "last_run": None
        if run is None
        else {
            "full": run.full,
            "until": run.until,
            "started": run.started,
            "seconds": run_seconds(run),
            "rows_read": run.rows_read,
            "keys_written": run.keys_written,
        },
        "pushes": None if view.pushes is None else asdict(view.pushes),
        "failures": [{"at": one.at, "verb": one.verb, "message": one.message} for one in view.failures],
    }


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()


def state_of(view: ViewStatus) -> str:
    """A view's state in a few words."""
    if view.late is None:
        return "unknown"
    if view.watermark is None:
        words = ["late: never filled" if view.late else "never filled"]
    else:
        words = ["late" if view.late else "ok"]
    if view.current is False:
        words.append("other definition")
    if view.unfinished:
        words.append("full run unfinished")
    return ", ".join(words)


def duration_words(duration: timedelta | None) -> str:
    """A duration for a person, by its two greatest units: ``2d 3h``, ``45s``; ``-`` for none."""
    if duration is None:
        return "-"
    if duration < timedelta(0):
        return f"-{duration_words(-duration)}"
    rest = round(duration.total_seconds())
    words: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or (unit == "s" and not words):
            words.append(f"{count}{unit}")
    return " ".join(words[:2])


_SERVER = (
    ("online_store_memory_bytes", "Bytes that the online store's server (or file) uses.", "memory_used"),
    ("online_store_memory_limit_bytes", "Bytes that the online store's server may use at most.", "memory_limit"),
    ("online_store_evicted_keys", "Keys that the server has evicted since it started.", "evicted_keys"),
)


def status_samples(status: Status) -> Iterator[Sample]:
    """A status as numbers, for a monitoring system: those that are known, each name's samples together."""
    store = status.store
    yield Sample(
        "llmfeatures_online_store_reachable",
        "1 when the online store answers and can be read, else 0.",
        {},
        float(store.reachable),
    )
    for name, meaning, attribute in _SERVER:
        value = None if store.usage is None else getattr(store.usage, attribute)
        if value is not None:
            yield Sample(f"llmfeatures_{name}", meaning, {}, float(value))
    for name, meaning, number in _VIEW_SAMPLES:
        for view in status.views:
            value = number(view)
            if value is not None:
                yield Sample(f"llmfeatures_view_{name}", meaning, {"view": view.view}, float(value))
    for name, meaning, count in SAMPLES:
        for one in status.retrievers:
            value = count(one)
            if value is not None:
                yield Sample(f"llmfeatures_retriever_{name}", meaning, {"retriever": one.retriever}, float(value))


def _of_run(number: Callable[[RunRecord], float]) -> Callable[[ViewStatus], float | None]:
    return lambda view: None if view.last_run is None else number(view.last_run)


def _of_pushes(number: Callable[[PushSize], float]) -> Callable[[ViewStatus], float | None]:
    return lambda view: None if view.pushes is None else number(view.pushes)


_VIEW_SAMPLES: tuple[tuple[str, str, Callable[[ViewStatus], float | None]], ...] = (
    (
        "watermark_timestamp_seconds",
        "Up to when the view's rows are online, in seconds since 1970-01-01T00:00Z.",
        lambda view: None if view.watermark is None else view.watermark.timestamp(),
    ),
    ("lag_seconds", "How far the view's watermark lies back.", lambda view: _seconds(view.lag)),
    ("cadence_seconds", "How often the view should be refreshed.", lambda view: _seconds(view.cadence)),
    ("late", "1 when the view is late against its cadence, else 0.", lambda view: view.late),
    ("available", "1 when the view's features can be read online, else 0.", lambda view: view.available),
    ("current", "1 when the store holds the view as the registry defines it, else 0.", lambda view: view.current),
    ("unfinished", "1 when a full run of the view has begun and not completed, else 0.", lambda view: view.unfinished),
    ("online_keys", "Entity keys that have the view online; of very many, an estimate.", lambda view: view.keys),
    ("online_bytes", "Bytes that the view takes online, estimated from a sample.", lambda view: view.bytes),
    ("last_run_seconds", "How long the last complete materialization took.", _of_run(run_seconds)),
    ("last_run_rows", "Rows that the last complete materialization read.", _of_run(lambda run: run.rows_read)),
    (
        "last_run_keys",
        "Entity keys that the last complete materialization wrote.",
        _of_run(lambda run: run.keys_written),
    ),
    ("push_log_bytes", "Bytes of the view's push log on disk.", _of_pushes(lambda size: size.bytes)),
    ("push_log_rows", "Rows in the view's push log.", _of_pushes(lambda size: size.rows)),
    ("push_log_waiting_rows", "Rows of the push log not compacted yet.", _of_pushes(lambda size: size.waiting)),
    ("push_log_segments", "Segments of the push log not compacted yet.", _of_pushes(lambda size: size.segments)),
    ("failures", "Failures since the last complete materialization, at most 5.", lambda view: len(view.failures)),
)


def cadence_text(view: ViewStatus | RetrieverStatus) -> str:
    """A cadence as it is written in a registry; ``-`` for none."""
    return "-" if view.cadence is None else duration_text(view.cadence)
