# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Spines made, not given: users and moments drawn from the history itself; and a given spine's rows drawn or labelled.

The same options give the same rows on every machine: what is drawn is drawn by SHA-256, never by a random generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any, Self

import pyarrow as pa
from pyarrow import compute

from llmfeatures import codec, columns
from llmfeatures.clock import duration_text, from_microseconds, iso, microseconds, parse_duration
from llmfeatures.errors import ConfigError, RequestError, SourceError, SpineError, did_you_mean
from llmfeatures.plan import FeaturePlan, FeatureRef, PromptPlan, Role, feature_ref, plan_features, plan_named, role_of
from llmfeatures.ports import ClockName, Joined, OfflineStore
from llmfeatures.prompts.file import Policy
from llmfeatures.registry import Found, FoundOnDemand, Registry
from llmfeatures.rows import computed_columns, settled_columns
from llmfeatures.sample import sampled
from llmfeatures.schema import FeatureView
from llmfeatures.types import DType, text
from llmfeatures.where import Where, parse_where

_pc: Any = compute
TIMESTAMP = pa.timestamp("us", "UTC")
EVENT_TIMESTAMP = "event_timestamp"
TARGET = "target"
MAX_ROWS = 20_000_000
"""The most rows of a sampled spine, which is held in memory."""
_TRIM_ROWS = 200_000
_BLOCK_ROWS = 1_000_000
"""The most rows that a condition looks at together."""
_MICROSECOND = timedelta(microseconds=1)
_LONGEST = 10**18
"""An age in microseconds that no two moments are apart; subtracting it from any moment stays inside int64."""
_LABEL_AT = "__label_at"


def sampled_spine(
    offline: OfflineStore,
    plan: PromptPlan,
    registry: Registry,
    *,
    until: datetime,
    users: int | None = None,
    every: timedelta | str = "1d",
    since: timedelta | str = "30d",
    where: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    seed: int = 0,
    clock: ClockName = "known",
) -> pa.Table:
    """A spine of the history's own users at regular moments, ordered by moment, then by encoded entity key.

    The columns are the prompt's join keys, ``event_timestamp`` (timestamp[us, UTC]) and the inputs that are given.
    A moment is a multiple of ``every``, counted from 1970-01-01T00:00Z. The last one is at or before ``until``, and
    those less than ``since`` before it count too, so that runs within one ``every`` give the same rows. A user has rows
    from its first event on.

    Args:
        offline: where the history is.
        plan: the prompt; it has exactly one entity.
        registry: what is known of that entity; the events of all its views say who there is, and since when.
        until: an aware moment.
        users: how many; those whose ``(seed, entity key)`` has the least SHA-256, so that more users contain the fewer.
            None is all.
        every: the time from one moment to the next.
        since: how far back the moments go.
        where: one SQL expression over join keys, ``event_timestamp`` and the entity's features as of the moment (null
            where not present), on-demand ones too, if each of their inputs is one of the prompt's. Only rows that
            satisfy it are kept, and only users that have one are counted.
        inputs: values for the prompt's inputs, the same in every row. Those with a default may be left out.
        seed: another one draws other users.
        clock: which values ``where`` sees.

    Raises:
        RequestError: an option is wrong, nobody is there, or there would be more than `MAX_ROWS` rows.
        SourceError: a source is not what the registry says.
    """
    role = _one_role(plan)
    if users is not None:
        _count("users", users)
    bound = _inputs(plan, inputs or {})
    given = {name: value for name, value in bound.items() if name in (inputs or {})}
    views = registry.views_of(role.entity)
    moments = _moments(_span("every", every), _span("since", since), until)
    condition = None if where is None else _Condition.of(where, role, registry, plan, bound)
    listed = _listed(offline, views, role, from_microseconds(moments[-1]), seed, users if where is None else None)
    if not listed.num_rows:
        raise RequestError(
            f"nobody of entity {role.entity.name!r} has an event at or before {iso(from_microseconds(moments[-1]))}; "
            "choose a later until, or a shorter every"
        )
    if condition is None:
        rows = _bounded(_crossed(listed.sort_by("_key"), moments))
    else:
        rows = _satisfying(offline, listed, moments, condition, users, clock)
    table = rows.select([*role.parameters, EVENT_TIMESTAMP])
    for name, value in given.items():
        table = table.append_column(name, _constant(plan.inputs[name].dtype, value, table.num_rows))
    return table


def _one_role(plan: PromptPlan) -> Role:
    roles = plan.features.roles
    if len(roles) == 1:
        return roles[0]
    if not roles:
        raise RequestError(f"prompt {plan.name!r} reads no feature, so there is nobody to draw; give a spine")
    names = " and ".join(one.name for one in roles)
    raise RequestError(
        f"prompt {plan.name!r} is about {names}, and history does not say who belongs together; give a spine with the "
        f"columns {', '.join(plan.features.parameters)} and {EVENT_TIMESTAMP}"
    )


def _count(name: str, value: object) -> int:
    if type(value) is not int or value < 1:
        raise RequestError(f"{name} is a whole number from 1 on")
    return value


def _span(name: str, value: timedelta | str) -> int:
    try:
        span = parse_duration(value) // _MICROSECOND
    except ConfigError as error:
        raise RequestError(f"{name}: {error}") from None
    if span <= 0:
        raise RequestError(f"{name} is longer than zero, like 1d")
    return span


def _inputs(plan: PromptPlan, given: Mapping[str, Any]) -> dict[str, Any]:
    """The canonical values of the inputs, with the defaults of those that are not given."""
    for name in given:
        if name not in plan.inputs:
            raise RequestError(f"prompt {plan.name!r} has no input {name!r}{did_you_mean(name, plan.inputs)}")
    return plan.bind_inputs(given)


def _constant(dtype: DType, value: Any, rows: int) -> pa.Array[Any]:
    return columns.array_of(dtype, [value]).take(pa.repeat(pa.scalar(0, pa.int64()), rows))


def _moments(every: int, since: int, until: datetime) -> range:
    """The moments in microseconds."""
    last = microseconds(until) // every * every
    if -(-since // every) > MAX_ROWS:
        raise RequestError(f"since holds more than {MAX_ROWS:,} times every; choose a longer every or a shorter since")
    first = last - (-(-since // every) - 1) * every
    if first < columns.FIRST_MICROSECOND:
        raise RequestError("since reaches back before the year 1; choose a shorter one")
    return range(first, last + 1, every)


def _listed(
    offline: OfflineStore, views: Sequence[FeatureView], role: Role, last: datetime, seed: int, keep: int | None
) -> pa.Table:
    """The users in the order in which they are drawn: the join keys by parameter name, ``_first``, ``_key``, ``_hash``.

    No more than ``keep`` of them.
    """
    join_keys = role.entity.join_keys
    pieces: list[pa.Table] = []
    pending = 0
    for batch in offline.entity_keys(views, until=last):
        values = [columns.python_values(dtype, batch.column(at)) for at, dtype in enumerate(join_keys.values())]
        encoded = [codec.entity_key(tuple(join_keys), one) for one in zip(*values, strict=True)]
        hashes = [hashlib.sha256(f"{seed}:{one}".encode()).digest()[:16] for one in encoded]
        pieces.append(
            pa.table(
                [*batch.columns, pa.array(encoded, pa.string()), pa.array(hashes, pa.binary())],
                names=[*role.parameters, "_first", "_key", "_hash"],
            )
        )
        pending += batch.num_rows
        if keep is not None and pending > max(4 * keep, _TRIM_ROWS):
            pieces = [pa.concat_tables(pieces).sort_by("_hash").slice(0, keep)]
            pending = pieces[0].num_rows
    if not pieces:
        return pa.table({"_first": pa.array([], TIMESTAMP)})
    drawn = pa.concat_tables(pieces).sort_by("_hash")
    return drawn if keep is None else drawn.slice(0, keep)


def _crossed(users: pa.Table, moments: range) -> Iterator[pa.Table]:
    """Each moment with the users that were there by then, in the users' order."""
    first = users.column("_first")
    bare = users.drop_columns(["_first"])
    earliest = _pc.max(first).cast(pa.int64()).as_py()
    for count in moments:
        there = bare if earliest <= count else bare.filter(_pc.less_equal(first, pa.scalar(count, TIMESTAMP)))
        at = pa.repeat(pa.scalar(count, TIMESTAMP), there.num_rows)
        yield there.append_column(EVENT_TIMESTAMP, at)


def _bounded(pieces: Iterable[pa.Table]) -> pa.Table:
    """The pieces as one table of at most `MAX_ROWS` rows.

    Raises:
        RequestError: there are more.
    """
    kept: list[pa.Table] = []
    rows = 0
    for piece in pieces:
        rows += piece.num_rows
        if rows > MAX_ROWS:
            raise RequestError(
                f"that makes more than {MAX_ROWS:,} rows; ask for fewer users, a longer every or a shorter since"
            )
        kept.append(piece)
    return pa.concat_tables(kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Condition:
    """A condition, the features that it reads, and the prompt's inputs that those of them on demand take."""

    where: Where
    role: Role
    plan: FeaturePlan
    inputs: Mapping[str, Any]

    @classmethod
    def of(cls, written: str, role: Role, registry: Registry, prompt: PromptPlan, inputs: Mapping[str, Any]) -> Self:
        """Read a condition and find its names."""
        where = parse_where(written)
        features: dict[str, Found | FoundOnDemand] = {
            one.name: Found(view, one) for view in registry.views_of(role.entity) for one in view.features
        }
        features |= {one.name: FoundOnDemand(one) for one in registry.on_demand_of(role.entity)}
        own = (*role.parameters, EVENT_TIMESTAMP)
        named: dict[str, Found | FoundOnDemand] = {}
        for parts in where.names:
            name = parts[1] if parts[:-1] == (role.name,) else parts[0]
            if name in own:
                continue
            if name not in features:
                raise RequestError(f"where: unknown name {name!r}{did_you_mean(name, [*own, *features])}")
            named[name] = features[name]
        plan = plan_named(registry, [(name, role, found) for name, found in named.items()])
        _check_inputs(plan, prompt)
        condition = cls(where=where, role=role, plan=plan, inputs={name: inputs[name] for name in plan.inputs})
        keys = zip(role.parameters, role.entity.join_keys.values(), strict=True)
        empty = {name: dtype.arrow() for name, dtype in keys}
        empty |= {EVENT_TIMESTAMP: TIMESTAMP, **{one.name: one.dtype.arrow() for one in plan.answers}}
        where.mask(pa.table({name: pa.array([], kind) for name, kind in empty.items()}), role.name)
        return condition

    def kept(self, offline: OfflineStore, rows: pa.Table, clock: ClockName) -> Iterator[pa.Table]:
        """The rows that satisfy the condition."""
        if not self.plan.outputs:
            yield rows.filter(self.where.mask(rows, self.role.name))
            return
        for joined in offline.join(rows, self.plan.lookups, clock=clock):
            table = pa.Table.from_batches([joined.spine])
            values = self._values(joined)
            for place in self.plan.asked:
                table = table.append_column(self.plan.outputs[place].name, values[place])
            mask = self.where.mask(table, self.role.name)
            yield pa.Table.from_batches([joined.spine]).filter(mask)

    def _values(self, joined: Joined) -> list[pa.Array[Any]]:
        """The values of all features at the moments of a batch.

        Raises:
            RequestError: an on-demand feature cannot be computed for a row.
        """
        plan, rows = self.plan, joined.spine.num_rows
        values = [_value(plan, index, joined) for index in range(len(plan.refs))]
        if not plan.computed:
            return values
        given = {name: joined.spine.column(name) for name in plan.parameters}
        given |= {name: _constant(dtype, self.inputs[name], rows) for name, dtype in plan.inputs.items()}
        none = [name for name, value in self.inputs.items() if value is None]
        errors: dict[int, str] = {}
        computed = computed_columns(plan, settled_columns(plan, joined), given, joined.at, errors, none)
        for reason in errors.values():
            raise RequestError(f"where: {reason}")
        return [*values, *(one.values for one in computed)]


def _check_inputs(plan: FeaturePlan, prompt: PromptPlan) -> None:
    """Refuse an on-demand feature that takes what the prompt is not given.

    Raises:
        RequestError: there is one.
    """
    for one in plan.computed:
        for name, dtype in one.on_demand.inputs.items():
            known = prompt.inputs.get(name)
            if known is None or known.dtype != dtype:
                raise RequestError(
                    f"where: on-demand feature {one.name!r} takes the input {name!r} ({dtype}), which prompt "
                    f"{prompt.name!r} does not take; name features that it is computed from, or declare the input in "
                    "the prompt's header"
                )


def _value(plan: FeaturePlan, index: int, joined: Joined) -> pa.Array[Any]:
    """A feature's values at the moments of a batch; null where it is not present.

    Raises:
        SourceError: a winning row holds a value that is none of its dtype.
    """
    ref = plan.refs[index]
    lookup, column = plan.lookup_of[index]
    found = joined.found[lookup]
    for feature, reason in found.invalid.values():
        if feature == ref.feature:
            raise SourceError(f"feature {feature!r} of view {ref.view.name!r}: {reason}; correct the source")
    values = found.columns[column]
    if ref.limit is None:
        return values
    limit = min(ref.limit // _MICROSECOND, _LONGEST)
    oldest = _pc.subtract(joined.at.view(pa.int64()), pa.scalar(limit, pa.int64()))
    expired = _pc.less(found.event.view(pa.int64()), oldest)
    return _pc.if_else(expired, pa.scalar(None, values.type), values)


def _satisfying(
    offline: OfflineStore,
    listed: pa.Table,
    moments: range,
    condition: _Condition,
    users: int | None,
    clock: ClockName,
) -> pa.Table:
    """The rows that satisfy a condition, of the first ``users`` that have one, block by block in the drawn order."""
    ranked = listed.append_column("_rank", pa.array(range(listed.num_rows), pa.int64())).drop_columns(["_hash"])
    most = max(1, _BLOCK_ROWS // len(moments))
    size = most if users is None else min(most, max(1_000, 2 * users))
    kept: list[pa.Table] = []
    start = found = total = 0
    while start < ranked.num_rows and (users is None or found < users):
        block = pa.concat_tables(_crossed(ranked.slice(start, size), moments)).combine_chunks()
        start, size = start + size, min(most, 4 * size)
        rows = pa.concat_tables(condition.kept(offline, block, clock))
        ranks = _pc.sort_indices(_pc.unique(rows.column("_rank")))
        distinct = _pc.unique(rows.column("_rank")).take(ranks)
        if users is not None and found + len(distinct) > users:
            rows = rows.filter(_pc.less_equal(rows.column("_rank"), distinct[users - found - 1]))
            distinct = distinct.slice(0, users - found)
        found += len(distinct)
        total += rows.num_rows
        if total > MAX_ROWS:
            raise RequestError(f"that makes more than {MAX_ROWS:,} rows; ask for fewer users or narrow where")
        kept.append(rows)
    return pa.concat_tables(kept).sort_by([(EVENT_TIMESTAMP, "ascending"), ("_key", "ascending")])


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
            moments = _pc.if_else(known, at, pa.scalar(None, pa.int64())).cast(TIMESTAMP)
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
    values = columns.python_values(ref.dtype, _value(plan, 0, bare))
    return pa.array([None if value is None else text(value) for value in values], pa.string())


def _reader(batches: Iterator[pa.RecordBatch]) -> pa.RecordBatchReader:
    """A reader that has begun, so that what is wrong is said at once and in its own words."""
    first = next(batches)

    def chained() -> Iterator[pa.RecordBatch]:
        yield first
        yield from batches

    return pa.RecordBatchReader.from_batches(first.schema, chained())


def renamed(
    offline: OfflineStore, spine: object, column: str, *, dtypes: Mapping[str, DType] | None = None
) -> pa.RecordBatchReader:
    """The spine with the column of this name called ``target``.

    Raises:
        SpineError: there is no such column, or one named ``target`` already.
    """
    reader = offline.read_spine(spine, dtypes)
    names = list(reader.schema.names)
    if column == TARGET and TARGET in names:
        return reader
    if column not in names:
        raise SpineError(f"the spine has no column {column!r} for the target{did_you_mean(column, names)}")
    if TARGET in names:
        raise SpineError(f"the spine has a column 'target' already, so {column!r} cannot be it; rename one")
    called = [TARGET if name == column else name for name in names]
    fields = [field.with_name(name) for field, name in zip(reader.schema, called, strict=True)]
    schema = pa.schema(fields)
    return pa.RecordBatchReader.from_batches(
        schema, (pa.RecordBatch.from_arrays(list(batch.columns), schema=schema) for batch in reader)
    )


class PreparedSpine:
    """A given spine with its rows drawn, its target named or its labels taken, anew at each reading.

    It is an Arrow stream for whoever reads it, and holds nothing. ``source`` is the given spine; `counts` are the
    labels' of the last reading. ``recipe`` says what is done to the source, as JSON, and ``views`` what is read for it;
    labels past ``now`` are null.
    """

    def __init__(
        self,
        spine: object,
        read: Callable[[LabelCounts, datetime], pa.RecordBatchReader],
        label: Label | None = None,
        *,
        now: datetime,
        recipe: Mapping[str, Any],
        last: list[LabelCounts] | None = None,
    ) -> None:
        self.source = spine
        self._last = [LabelCounts()] if last is None else last
        self.now, self.recipe = now, recipe
        self.views = () if label is None else (label.ref.view,)
        self._label = label
        self._once = isinstance(spine, pa.RecordBatchReader)
        self._read = read
        self._spent = False

    def reader(self) -> pa.RecordBatchReader:
        """The rows.

        Raises:
            SpineError: the spine cannot be read, or not again, or lacks a column.
        """
        if self._spent and self._once:
            raise SpineError("this spine can be read once only, and was; give a table or a path to read it again")
        self._spent = True
        self._last[0] = LabelCounts()
        return self._read(self._last[0], self.now)

    def at(self, now: datetime) -> PreparedSpine:
        """The same as of another present moment. The two share the counts of the last reading of either."""
        return PreparedSpine(self.source, self._read, self._label, now=now, recipe=self.recipe, last=self._last)

    @property
    def counts(self) -> LabelCounts:
        """What became of the labels at the last reading, complete once it came to its end. With a sample that is drawn
        by the label, they are of the rows that it is drawn from."""
        return self._last[0]

    @property
    def labels(self) -> Mapping[str, Any] | None:
        """`counts` and `note` as JSON; None where there is no label. May be set to those of an earlier reading."""
        return None if self._label is None else {**asdict(self.counts), "note": self.note()}

    @labels.setter
    def labels(self, earlier: Mapping[str, Any] | None) -> None:
        known = earlier or {}
        self._last[0] = LabelCounts(**{one.name: known.get(one.name, 0) for one in fields(LabelCounts)})

    def note(self) -> str | None:
        """What there is to say of the labels once all was read: how many are null, and why. None when none is."""
        said = None if self._label is None else self.counts.note(self._label)
        drawn_after = self.recipe.get("sample") is not None and self.recipe.get("stratify") == TARGET
        return f"{said} (before the sample was drawn)" if said and drawn_after else said

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.reader().__arrow_c_stream__(requested_schema)


def prepared(
    offline: OfflineStore,
    spine: object,
    *,
    dtypes: Mapping[str, DType],
    now: datetime,
    clock: ClockName,
    target: str | None = None,
    label: Label | None = None,
    sample: int | None = None,
    stratify: str | None = None,
    seed: int = 0,
) -> PreparedSpine:
    """A spine with the target that is asked for and, of its rows, a sample. Nothing is read yet.

    ``stratify="target"`` means the column that ``target`` names, or the label.

    Raises:
        RequestError: options that do not go together.
    """
    if target is not None and label is not None:
        raise RequestError("target names a column and label takes a feature's value as the target; give one of them")
    if sample is not None:
        _count("sample", sample)
    elif stratify is not None:
        raise RequestError("stratify says how a sample is drawn; give sample too")
    types = {**dtypes, **({} if target is None else {target: DType("str")})}
    last = label is not None and stratify == TARGET
    stratum = target if target is not None and stratify == TARGET else stratify

    def read(counts: LabelCounts, now: datetime) -> pa.RecordBatchReader:
        rows: Any = spine
        if sample is not None and not last:
            rows = sampled(offline, rows, rows=sample, stratify=stratum, seed=seed, dtypes=types)
        if target is not None:
            rows = renamed(offline, rows, target, dtypes=types)
        if label is not None:
            rows = labelled(offline, rows, label, now=now, clock=clock, counts=counts, dtypes=types)
        if sample is not None and last:
            rows = sampled(offline, rows, rows=sample, stratify=stratum, seed=seed, dtypes=types)
        return offline.read_spine(rows, types)

    recipe: dict[str, Any] = {"target": target, "sample": sample, "stratify": stratify, "seed": seed, "clock": clock}
    if label is not None:
        recipe["label"] = [label.ref.name, label.ref.feature, str(label.ref.limit), str(label.ahead)]
    return PreparedSpine(spine, read, label, now=now, recipe=recipe)
