# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Labels: a feature's value some time after each row's moment, which the row's prompt cannot see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
from pyarrow import compute

from llmfeatures import columns
from llmfeatures.clock import duration_text, microseconds, parse_duration
from llmfeatures.errors import ConfigError, RequestError, SpineError
from llmfeatures.plan import FeaturePlan, FeatureRef, feature_ref, plan_features, role_of
from llmfeatures.ports import EVENT_TIMESTAMP, TARGET, ClockName, Joined, OfflineStore
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.file import Policy
from llmfeatures.registry import FoundOnDemand, Registry
from llmfeatures.rows import settled_columns
from llmfeatures.types import DType, text

_pc: Any = compute
_MICROSECOND = timedelta(microseconds=1)
_LONGEST = 10**18
"""An age in microseconds that no two moments are apart; subtracting it from any moment stays inside int64."""
_LABEL_AT = "__label_at"


def parse_label(written: str) -> tuple[str, timedelta]:
    """The feature and the time ahead of ``last_genre@+7d``.

    Raises:
        RequestError: it is not written so, or does not look ahead.
    """
    reference, at, ahead = written.strip().rpartition("@")
    if not at or not reference or not ahead.startswith("+"):
        raise RequestError(
            f"{written!r} is no label; write a feature, @+ and how long after the prompt its value is taken, like "
            "last_genre@+7d"
        )
    try:
        span = parse_duration(ahead[1:])
    except ConfigError as error:
        raise RequestError(f"label {written!r}: {error}") from None
    if span <= timedelta(0):
        raise RequestError(f"label {written!r} looks no time ahead, where the prompt itself can see; write like @+7d")
    return reference, span


@dataclass(slots=True, kw_only=True)
class LabelCounts:
    """What became of the labels: ``present`` have a value; ``absent`` have none at their moment; ``later`` lie past the
    present moment, so nobody knows them yet; ``invalid`` hold no value of the feature's dtype; ``undated`` are of rows
    without an ``event_timestamp``. All but the first are null. Together they are the rows that were asked."""

    present: int = 0
    absent: int = 0
    later: int = 0
    invalid: int = 0
    undated: int = 0

    def note(self, label: Label) -> str | None:
        """A sentence for whoever asked; None when every row has its label."""
        null = self.absent + self.later + self.invalid + self.undated
        parts = [
            f"{count:,} {said}"
            for count, said in (
                (self.later, f"lie within {duration_text(label.ahead)} of now, and their label is not known yet"),
                (self.absent, f"have no {label.ref.name} at that time"),
                (self.invalid, f"have a {label.ref.name} that is not of its type"),
                (self.undated, f"have no {EVENT_TIMESTAMP}"),
            )
            if count
        ]
        return f"target is null in {null:,} of {null + self.present:,} rows: {'; '.join(parts)}" if parts else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A feature's value some time ``ahead`` of each row's moment."""

    ref: FeatureRef
    ahead: timedelta

    @classmethod
    def of(cls, written: str, plan: PromptPlan, registry: Registry) -> Label:
        """Read ``last_genre@+7d``, or ``buyer.last_genre@+7d`` in a prompt of several roles.

        Raises:
            RequestError: it is not written so, several roles have the feature, or it is on demand.
            UnknownNameError: there is no such feature.
        """
        reference, ahead = parse_label(written)
        prefix, _, name = reference.rpartition(".")
        by_role = [one for one in plan.features.roles if one.name == prefix]
        found = registry.find_any(f"{by_role[0].entity.name}.{name}" if by_role else reference)
        if isinstance(found, FoundOnDemand):
            raise RequestError(_no_label(written, found))
        roles = by_role or [one for one in plan.features.roles if one.entity == found.view.entity]
        if len(roles) > 1:
            choices = " or ".join(f"{one.name}.{name}" for one in roles)
            raise RequestError(f"label {written!r}: several roles have {name!r}; write {choices}")
        role = roles[0] if roles else role_of(found.view.entity.name, found.view.entity)
        return cls(ref=feature_ref(reference, role, found, Policy()), ahead=ahead)


def _no_label(written: str, found: FoundOnDemand) -> str:
    feature = found.feature
    stored = [one for one in feature.parameters if one not in (*feature.inputs, *feature.entity.join_keys, "as_of")]
    others = f"; label a feature that it is computed from ({', '.join(stored)})" if stored else ""
    return (
        f"label {written!r}: {feature.name!r} is computed on demand, for the call that asks for it, so it has no value "
        f"at another time{others}, or give the label as a column with target"
    )


def labelled(
    offline: OfflineStore,
    spine: object,
    label: Label,
    *,
    now: datetime,
    clock: ClockName,
    counts: LabelCounts,
    dtypes: Mapping[str, DType] | None = None,
) -> pa.RecordBatchReader:
    """The spine with the column ``target``: the label's value as text, as a prompt prints it, null where not present.

    It is what a join at ``event_timestamp + ahead`` finds, with the feature's ttl. Past ``now`` it is null. ``counts``
    is complete when all was read.

    Raises:
        SpineError: the spine cannot be read, or has a column ``target`` already.
        SourceError: a source is not what the registry says.
    """
    plan = plan_features([label.ref])
    ahead = pa.scalar(min(label.ahead // _MICROSECOND, _LONGEST), pa.int64())
    latest = pa.scalar(microseconds(now), pa.int64())

    def shifted() -> Iterator[pa.RecordBatch]:
        for joined in offline.join(spine, (), clock=clock, dtypes=dtypes):
            names = joined.spine.schema.names
            if TARGET in names:
                raise SpineError("the spine has a column 'target' already; rename it, or leave the label out")
            at = _pc.add(joined.at.view(pa.int64()), ahead)
            known = _pc.less_equal(at, latest)
            counts.later += _pc.invert(known).true_count
            counts.undated += joined.at.null_count
            moments = _pc.if_else(known, at, pa.scalar(None, pa.int64())).cast(columns.TIMESTAMP)
            yield pa.RecordBatch.from_arrays([*joined.spine.columns, moments], names=[*names, _LABEL_AT])

    def batches() -> Iterator[pa.RecordBatch]:
        for joined in offline.join(_reader(shifted()), plan.lookups, clock=clock, timestamp=_LABEL_AT, dtypes=dtypes):
            rows = joined.spine
            targets = _texts(plan, joined, counts)
            asked = rows.column(_LABEL_AT)
            present = rows.num_rows - targets.null_count
            counts.present += present
            counts.absent += rows.num_rows - asked.null_count - present
            own = rows.schema.names[:-1]
            yield pa.RecordBatch.from_arrays([*rows.columns[:-1], targets], names=[*own, TARGET])

    return _reader(batches())


def _texts(plan: FeaturePlan, joined: Joined, counts: LabelCounts) -> pa.Array[Any]:
    """The only feature's values as text. An invalid one is null, and counted."""
    ref = plan.refs[0]
    invalid = [row for row, (feature, _) in joined.found[0].invalid.items() if feature == ref.feature]
    counts.invalid += len(invalid)
    counts.absent -= len(invalid)
    bare = Joined(spine=joined.spine, at=joined.at, found=(replace(joined.found[0], invalid={}),))
    values = columns.python_values(ref.dtype, settled_columns(plan, bare)[0].values)
    return pa.array([None if value is None else text(value) for value in values], pa.string())


def _reader(batches: Iterator[pa.RecordBatch]) -> pa.RecordBatchReader:
    """A reader that has begun, so that what is wrong is said at once and in its own words."""
    first = next(batches)

    def chained() -> Iterator[pa.RecordBatch]:
        yield first
        yield from batches

    return pa.RecordBatchReader.from_batches(first.schema, chained())
