# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""The timeline of one prompt: every moment at which it became another one for somebody, and which words changed.

Between the moments that sources and limits of age name, nothing that a prompt reads can change. So one run of history
over these moments, each once, shows all versions that there were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, overload

import pyarrow as pa

from llmfeatures import columns
from llmfeatures.change_moments import change_moments, check_timeless
from llmfeatures.clock import from_microseconds, iso
from llmfeatures.context import FeatureValue, Message
from llmfeatures.errors import RequestError
from llmfeatures.historical_documents import HistoricalDocuments, Retrievers, documents_of
from llmfeatures.history_rows import HistoryRows, HistorySummary
from llmfeatures.ports import EVENT_TIMESTAMP, ClockName, OfflineStore
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.types import json_value
from llmfeatures.worddiff import DiffLine, diff_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureChange:
    """A feature that is another one than in the entry before."""

    name: str
    before: FeatureValue
    after: FeatureValue


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentChange:
    """A document that is there, and was not in the entry before, that is gone, or of which there is another version."""

    id: str
    what: Literal["came", "went", "changed"]

    @property
    def said(self) -> str:
        """What became of it, in words after its id."""
        return {"came": "is there", "went": "is gone", "changed": "has another version"}[self.what]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry:
    """A prompt as it was from ``at`` on, UTC, until just before ``end`` (None: still at the timeline's end).

    ``messages`` and ``prompt_id`` are None where there was no prompt, and ``error`` says why. ``features`` are as read
    at ``at``; ``changed`` are those that are not as in the entry before. ``documents`` are the id, version, score and
    tier of each in the prompt, in its order, and ``documents_changed`` what became of them. The first entry of a
    timeline, which stands for all before it, has no ``before`` and nothing that changed.
    """

    at: datetime
    end: datetime | None
    prompt_id: str | None
    messages: tuple[Message, ...] | None
    error: str | None
    features: Mapping[str, FeatureValue]
    changed: tuple[FeatureChange, ...] = ()
    documents: tuple[Mapping[str, Any], ...] = ()
    documents_changed: tuple[DocumentChange, ...] = ()
    before: str | None = None
    """The text of the entry before."""

    @property
    def text(self) -> str:
        """The text of a prompt of one system message, else each message after a line with its role; or the error."""
        if self.messages is None:
            return f"no prompt: {self.error}"
        if [one["role"] for one in self.messages] == ["system"]:
            return self.messages[0]["content"]
        return "\n\n".join(f"[{one['role']}]\n{one['content']}" for one in self.messages)

    def diff(self) -> list[DiffLine]:
        """The lines that are not as in the entry before, with the changed words marked; none in the first entry."""
        return [] if self.before is None else [one for one in diff_lines(self.before, self.text) if one.sign != " "]

    def as_json(self) -> dict[str, Any]:
        """The entry as JSON takes it: moments as text; ``diff`` has the sign and the words of each changed line."""
        return {
            "at": iso(self.at),
            "end": None if self.end is None else iso(self.end),
            "prompt_id": self.prompt_id,
            "messages": None if self.messages is None else [dict(one) for one in self.messages],
            "error": self.error,
            "changed": [
                {"feature": one.name, "before": _feature_json(one.before), "after": _feature_json(one.after)}
                for one in self.changed
            ],
            "documents": [dict(one) for one in self.documents],
            "documents_changed": [{"id": one.id, "what": one.what} for one in self.documents_changed],
            "diff": [
                {"sign": line.sign, "parts": [{"text": part.text, "changed": part.changed} for part in line.parts]}
                for line in self.diff()
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline(Sequence[TimelineEntry]):
    """All that one prompt was for somebody from ``since`` to ``until`` (both included, UTC), the newest entry first.

    The last entry is the prompt as it was at ``since``. ``moments`` is how many moments were looked at.
    """

    prompt: str
    version: str
    given: Mapping[str, Any]
    """The canonical join keys and inputs."""
    clock: ClockName
    since: datetime
    until: datetime
    moments: int
    entries: tuple[TimelineEntry, ...]

    @overload
    def __getitem__(self, index: int) -> TimelineEntry: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TimelineEntry, ...]: ...
    def __getitem__(self, index: int | slice) -> TimelineEntry | tuple[TimelineEntry, ...]:
        return self.entries[index]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[TimelineEntry]:
        return iter(self.entries)

    def as_json(self) -> dict[str, Any]:
        """The timeline as JSON takes it."""
        return {
            "prompt": self.prompt,
            "version": self.version,
            "given": json_value(self.given),
            "clock": self.clock,
            "since": iso(self.since),
            "until": iso(self.until),
            "moments": self.moments,
            "entries": [one.as_json() for one in self.entries],
        }

    def _repr_html_(self) -> str:
        from llmfeatures.notebook import timeline_html

        return timeline_html(self)


def timeline(
    offline: OfflineStore,
    plan: PromptPlan,
    given: Mapping[str, Any],
    *,
    since: datetime,
    until: datetime,
    clock: ClockName = "known",
    retrievers: Retrievers | None = None,
) -> Timeline:
    """The timeline of a prompt.

    Args:
        offline: where the history is.
        plan: the prompt.
        given: each join key and input by name.
        since: its begin, an aware moment.
        until: its end, an aware moment that is not before it.
        clock: which rows count: ``known`` (true and arrived) or ``event`` (true).
        retrievers: opens those of a prompt with documents.

    Raises:
        RequestError: a name or moment is wrong, a store cannot tell when rows or documents changed, or there are more
            than `MAX_MOMENTS` moments.
        PromptError: the prompt reads ``as_of``, so that it is another one at every moment.
        SourceError: a source is not what the registry says.
        RetrieverError: a retriever did not do what was asked.
    """
    keys, inputs = plan.bind(given)
    check_timeless(plan)
    documents = documents_of(plan, offline, retrievers, clock)
    if since > until:
        raise RequestError(f"since ({iso(since)}) is after until ({iso(until)}); give an earlier one")
    moments = change_moments(
        offline, plan, keys, inputs, since=since, until=until, clock=clock, documents=documents, retrievers=retrievers
    )
    entries = list(_entries(offline, plan, keys, inputs, moments, clock, documents))
    return Timeline(
        prompt=plan.name,
        version=plan.version,
        given={**keys, **inputs},
        clock=clock,
        since=since,
        until=until,
        moments=len(moments),
        entries=tuple(reversed(entries)),
    )


def _entries(
    offline: OfflineStore,
    plan: PromptPlan,
    keys: Mapping[str, Any],
    inputs: Mapping[str, Any],
    moments: pa.Array[Any],
    clock: ClockName,
    documents: HistoricalDocuments | None,
) -> Iterator[TimelineEntry]:
    """The entries in the order of time."""
    first = pa.array([0] * len(moments), pa.int64())
    constants = {
        name: columns.array_of(dtype, [{**keys, **inputs}[name]]).take(first) for name, dtype in plan.parameters.items()
    }
    spine = pa.table({**constants, EVENT_TIMESTAMP: moments})
    joins = offline.join(spine, plan.features.lookups, clock=clock)
    found: list[TimelineEntry] = []
    counted = HistorySummary(statuses={ref.name: Counter() for ref in plan.features.outputs})
    for batch in HistoryRows(plan, clock, counted, documents).batches(joins):
        found.extend(_changes(plan, batch, found[-1] if found else None))
    for entry, after in zip(found, [*found[1:], None], strict=True):
        yield entry if after is None else _ended(entry, after.at)


def _ended(entry: TimelineEntry, end: datetime) -> TimelineEntry:
    from dataclasses import replace

    return replace(entry, end=end)


def _changes(plan: PromptPlan, batch: pa.RecordBatch, latest: TimelineEntry | None) -> Iterator[TimelineEntry]:
    """The rows whose prompt is not the one before; ``latest`` is the last entry of the batches before."""
    identities = list(zip(batch.column("prompt_id").to_pylist(), batch.column("error").to_pylist(), strict=True))
    before = None if latest is None else (latest.prompt_id, latest.error)
    rows: list[int] = []
    for row, identity in enumerate(identities):
        if identity != before:
            rows.append(row)
            before = identity
    if not rows:
        return
    taken = batch.take(pa.array(rows, pa.int64()))
    features, documents = _features(plan, taken), taken.column("documents").to_pylist()
    moments = taken.column("as_of").view(pa.int64()).to_pylist()
    for place, (at, messages) in enumerate(zip(moments, taken.column("messages").to_pylist(), strict=True)):
        identity, error = identities[rows[place]]
        entry = TimelineEntry(
            at=from_microseconds(at),
            end=None,
            prompt_id=identity,
            messages=None if messages is None else tuple(messages),
            error=error,
            features=features[place],
            changed=() if latest is None else tuple(_changed(latest.features, features[place])),
            documents=tuple(documents[place]),
            documents_changed=() if latest is None else tuple(_replaced(latest.documents, documents[place])),
            before=None if latest is None else latest.text,
        )
        yield entry
        latest = entry


def _features(plan: PromptPlan, batch: pa.RecordBatch) -> list[dict[str, FeatureValue]]:
    """The features of each row, as read."""
    values, statuses, events = (batch.column(name) for name in ("features", "statuses", "timestamps"))
    made: list[dict[str, FeatureValue]] = [{} for _ in range(batch.num_rows)]
    for ref in plan.features.outputs:
        held = zip(
            columns.python_values(ref.dtype, values.field(ref.column)),
            statuses.field(ref.column).to_pylist(),
            columns.moments(events.field(ref.column)),
            strict=True,
        )
        for row, one in zip(made, held, strict=True):
            row[ref.name] = FeatureValue(*one)
    return made


def _changed(before: Mapping[str, FeatureValue], after: Mapping[str, FeatureValue]) -> Iterator[FeatureChange]:
    for name, now in after.items():
        then = before[name]
        if (then.status, then.value) != (now.status, now.value):
            yield FeatureChange(name=name, before=then, after=now)


def _replaced(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Iterator[DocumentChange]:
    then, now = ({(one["id"], one["version"]): one["id"] for one in documents} for documents in (before, after))
    came = [one for one in now.values() if one not in then.values()]
    went = [one for one in then.values() if one not in now.values()]
    kept = {one for version, one in now.items() if version not in then} - {*came}
    for one in dict.fromkeys(came):
        yield DocumentChange(id=one, what="came")
    for one in dict.fromkeys(went):
        yield DocumentChange(id=one, what="went")
    for one in sorted(kept):
        yield DocumentChange(id=one, what="changed")


def _feature_json(found: FeatureValue) -> dict[str, Any]:
    event = found.event_timestamp
    return {
        "value": json_value(found.value),
        "status": found.status,
        "event_timestamp": None if event is None else iso(event),
    }
