# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Spines made, not given: users and moments drawn from the history itself.

The same options give the same rows on every machine: what is drawn is drawn by SHA-256, never by a random generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

import pyarrow as pa
from pyarrow import compute

from llmfeatures import codec, columns
from llmfeatures.clock import from_microseconds, iso, microseconds, parse_duration
from llmfeatures.errors import ConfigError, RequestError, SourceError, did_you_mean
from llmfeatures.plan import FeaturePlan, Role, plan_named
from llmfeatures.ports import EVENT_TIMESTAMP, ClockName, Joined, OfflineStore
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.registry import Found, FoundOnDemand, Registry
from llmfeatures.rows import computed_columns, invalid_rows, settled_columns
from llmfeatures.sample import check_count
from llmfeatures.schema import FeatureView
from llmfeatures.types import DType
from llmfeatures.where import Where, parse_where

_pc: Any = compute
MAX_ROWS = 20_000_000
"""The most rows of a sampled spine, which is held in memory."""
_TRIM_ROWS = 200_000
_BLOCK_ROWS = 1_000_000
"""The most rows that a condition looks at together."""
_MICROSECOND = timedelta(microseconds=1)


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
        check_count("users", users)
    bound = _inputs(plan, inputs or {})
    given = {name: value for name, value in bound.items() if name in (inputs or {})}
    views = registry.views_of(role.entity)
    if not views:
        raise RequestError(
            f"entity {role.entity.name!r} has no view, so history does not say who there is; give a spine with the "
            f"columns {', '.join(plan.features.parameters)} and {EVENT_TIMESTAMP}"
        )
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
        return pa.table({"_first": pa.array([], columns.TIMESTAMP)})
    drawn = pa.concat_tables(pieces).sort_by("_hash")
    return drawn if keep is None else drawn.slice(0, keep)


def _crossed(users: pa.Table, moments: range) -> Iterator[pa.Table]:
    """Each moment with the users that were there by then, in the users' order."""
    first = users.column("_first")
    bare = users.drop_columns(["_first"])
    earliest = _pc.max(first).cast(pa.int64()).as_py()
    for count in moments:
        there = bare if earliest <= count else bare.filter(_pc.less_equal(first, pa.scalar(count, columns.TIMESTAMP)))
        at = pa.repeat(pa.scalar(count, columns.TIMESTAMP), there.num_rows)
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
        empty |= {EVENT_TIMESTAMP: columns.TIMESTAMP, **{one.name: one.dtype.arrow() for one in plan.answers}}
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
        for reason in invalid_rows(plan, joined).values():
            raise SourceError(f"{reason}; correct the source")
        settled = settled_columns(plan, joined)
        values = [one.values for one in settled]
        if not plan.computed:
            return values
        given = {name: joined.spine.column(name) for name in plan.parameters}
        given |= {name: _constant(dtype, self.inputs[name], rows) for name, dtype in plan.inputs.items()}
        none = [name for name, value in self.inputs.items() if value is None]
        errors: dict[int, str] = {}
        computed = computed_columns(plan, settled, given, joined.at, errors, none)
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
