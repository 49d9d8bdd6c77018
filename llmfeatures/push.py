# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Push: rows that an application has now, first into the log, durably, and then online."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa

from llmfeatures import codec, columns
from llmfeatures.clock import stamp
from llmfeatures.errors import LLMFeaturesError, RequestError, StoreError
from llmfeatures.ports import (
    PUSHED_CREATED,
    PUSHED_EVENT,
    FailureRecord,
    OnlineStore,
    Push,
    PushLog,
    RowWrite,
    StateStore,
    ViewFields,
)
from llmfeatures.push_report import PushReport
from llmfeatures.pushable import canonical_rows, pushed_columns
from llmfeatures.schema import FeatureView, PushSource

LONGEST_ID = 200
_AT_ONCE = 1_000
"""Rows of one online write."""
_LEAST_LIMIT = timedelta(seconds=1)
"""A write has more to do than the read that ``[online] timeout`` is set for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pusher:
    """Pushes rows to the views of a registry.

    ``online`` gives the online store; a write waits for it as long as ``timeout``, or a second where that is longer.
    ``expires`` is false when the project's clock is not the machine's: a store that lets keys expire by its own time
    must not do it then.
    """

    pushes: PushLog
    online: Callable[[], OnlineStore]
    state: StateStore
    views: Sequence[FeatureView]
    max_skew: timedelta
    timeout: timedelta
    expires: bool = True

    def push(self, view: FeatureView, rows: object, *, push_id: str | None, now: datetime) -> PushReport:
        """Push rows to a view; see `Project.push`.

        Raises:
            RequestError: the view takes no pushes, or the rows or the push id are wrong.
            ConfigError: the online store's URL is wrong.
            PushLogError: the rows could not be kept. After any of these nothing was acknowledged.
        """
        self._check_view(view)
        _check_id(push_id)
        batch = canonical_rows(view, rows, received=now, max_skew=self.max_skew)
        push = Push(
            push_id=push_id or uuid.uuid4().hex,
            received=now,
            columns=pushed_columns(view),
            rows=batch,
            fresh=push_id is None,
        )
        if not batch.num_rows:
            return PushReport(view=view.name, push_id=push.push_id, rows=0, repeated=False, online=True)
        self.online()  # what is wrong with the configuration is said before anything is kept
        kept: Push | None = push
        repeated = not self.pushes.append(view.name, push)
        if repeated:
            # the rows that count are those of the first push, and it may have died before it wrote them online
            kept = self.pushes.find(view.name, push.push_id)
        cause = problem = None
        if kept is None or kept.columns != push.columns:
            problem = _changed(view)
        elif (cause := self._write(view, kept.rows)) is not None:
            problem = str(cause)
        if problem is not None:
            record = FailureRecord(view=view.name, at=stamp(now), verb="push", message=problem)
            with suppress(LLMFeaturesError, OSError):  # the push is durable, whatever can be said about it
                self.state.add_failure(record)
        return PushReport(
            view=view.name,
            push_id=push.push_id,
            rows=batch.num_rows if kept is None else kept.rows.num_rows,
            repeated=repeated,
            online=problem is None,
            problem=problem,
            cause=cause,
        )

    def _check_view(self, view: FeatureView) -> None:
        if not isinstance(view.source, PushSource):
            taking = [one.name for one in self.views if isinstance(one.source, PushSource) and not one.aggregates]
            choices = f"the views that do are: {', '.join(taking)}" if taking else "no view of the registry does"
            raise RequestError(f"view {view.name!r} takes no pushes; {choices}; give it a PushSource")
        if view.aggregates:
            raise RequestError(
                f"view {view.name!r} aggregates, so it takes no pushes: its values change at multiples of its cadence "
                "only; write the events where its batch source is, and materialize, or, for the newest value at once, "
                "push to a view with a plain feature"
            )

    def _write(self, view: FeatureView, batch: pa.RecordBatch) -> StoreError | None:
        """Write rows online; the reason why that failed, if it did."""
        limit = max(self.timeout, _LEAST_LIMIT).total_seconds()
        try:
            store = self.online()
            writes = row_writes(view, batch)
            for first in range(0, len(writes), _AT_ONCE):
                store.write(writes[first : first + _AT_ONCE], ttls=self._ttls(view), timeout=limit)
        except StoreError as error:
            return error.with_traceback(None)
        return None

    def _ttls(self, view: FeatureView) -> Mapping[str, timedelta] | None:
        """The ttl of every view of the entity, if all have one: only then do keys expire."""
        ttls = {one.name: one.ttl for one in self.views if one.entity == view.entity}
        given = {name: ttl for name, ttl in ttls.items() if ttl is not None}
        return given if self.expires and len(given) == len(ttls) else None


def _changed(view: FeatureView) -> str:
    """What is wrong when the rows of a repeated push are not such as the view has now."""
    return (
        f"view {view.name!r} has changed since this push id was first used, so its rows were not written online again: "
        f"unless it was materialized after that, run llmfeatures materialize {view.name}"
    )


def _check_id(push_id: object) -> None:
    if push_id is None:
        return
    if not isinstance(push_id, str) or not push_id or len(push_id) > LONGEST_ID or not push_id.isprintable():
        raise RequestError(f"push_id is a text of 1 to {LONGEST_ID} printable characters, or None for a new one")


def row_writes(view: FeatureView, batch: pa.RecordBatch) -> list[RowWrite]:
    """Canonical rows of a push as the online store takes them."""
    names = tuple(view.entity.join_keys)
    fields = ViewFields(name=view.name, features=tuple(one.name for one in view.features))
    keys = zip(
        *(columns.python_values(dtype, batch.column(name)) for name, dtype in view.entity.join_keys.items()),
        strict=True,
    )
    encoded = [
        [one.dtype.encode(value) for value in columns.python_values(one.dtype, batch.column(one.name))]
        for one in view.features
    ]
    times = (columns.stamps(batch.column(name)) for name in (PUSHED_EVENT, PUSHED_CREATED))
    return [
        RowWrite(codec.entity_key(names, key), fields, event, created, values)
        for key, event, created, values in zip(keys, *times, zip(*encoded, strict=True), strict=True)
    ]
