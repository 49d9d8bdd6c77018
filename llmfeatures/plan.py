"""A prompt compiled against a registry: which keys, which fields, which template. Immutable; nothing is looked up per
call.

A plan is pure. Its reads are a generator that a sync and an async shell drive; `PromptPlan.finish` turns what was read
into messages, and is the same function online and in history.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast

import orjson

from llmfeatures import codec
from llmfeatures.clock import back
from llmfeatures.codec import STAMP_LENGTH
from llmfeatures.context import FeatureValue
from llmfeatures.errors import (
    InvalidValueError,
    RequestError,
    StoreUnavailableError,
)
from llmfeatures.ondemand import OnDemandFeature
from llmfeatures.ports import Lookup, Meta, Read
from llmfeatures.prompts.file import Policy
from llmfeatures.refs import (
    UNAVAILABLE,
    Argument,
    ComputedRef,
    FeatureRef,
    Role,
    feature_ref,
    role_of,
)
from llmfeatures.registry import Found, FoundOnDemand, Registry, schema_hash
from llmfeatures.types import DType


class ReadMeta(NamedTuple):
    """The request of a plan for the store's meta record."""


Request = list[Read] | ReadMeta
"""What a plan's generator of reads yields: the answer is a list of field lists, or a `Meta` or None."""

_MISSING = FeatureValue(None, "missing", None)
_loads = orjson.loads


class _Slot(NamedTuple):
    """Where a feature's text and its view's stamp are in the answer for one row.

    JSON of the type ``plain`` is the value as it is; ``decode`` takes any other, or says that it is none.
    """

    role: int
    value: int
    stamp: int
    view: str
    schema_hash: str
    plain: type | None
    decode: Callable[[str], Any]


class ReadResult(NamedTuple):
    """What was read, before limits: one list of feature values per row, positional; the newest event timestamp among
    them; and what the store said when it was unavailable."""

    slots: list[list[FeatureValue]]
    newest: datetime | None
    problem: str | None = None


_new = cast("Callable[..., Any]", tuple.__new__)
"""Makes a named tuple of a tuple, at half the cost of naming its fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturePlan:
    """The features of a call: how to read them online, and the lookups that join them in history."""

    roles: tuple[Role, ...]
    """Of the stored features, then those of on-demand features or of documents alone: these have no ``fields``."""
    refs: tuple[FeatureRef, ...]
    parameters: Mapping[str, DType]
    lookups: tuple[Lookup, ...]
    lookup_of: tuple[tuple[int, int], ...]
    """Per ref: which lookup, and which of its columns."""
    fields: tuple[tuple[str, ...], ...]
    slots: tuple[_Slot, ...]
    computed: tuple[ComputedRef, ...] = ()
    asked: tuple[int, ...] = ()
    """Places in `outputs` of the features that were asked for, in that order."""

    outputs: tuple[FeatureRef | ComputedRef, ...] = field(init=False)
    """All features: the stored ones in the order of ``refs``, then the on-demand ones."""
    limits: tuple[tuple[int, timedelta], ...] = field(init=False)
    """The places in ``refs`` of those that have one, with it."""
    dotted: tuple[FeatureRef | ComputedRef, ...] = field(init=False)
    """The printed features that a template reads as ``role.feature``."""
    keyed: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = field(init=False)
    """Per role its parameters and the entity's join keys."""
    names: tuple[str, ...] = field(init=False)
    """Of the outputs."""
    taken: frozenset[str] = field(init=False)
    """The names of join keys and inputs."""
    types: list[type] | None = field(init=False)
    """The `DType.plain` of each ref, where an answer of the one role is their values in order and then stamps."""
    moment_of: tuple[int, ...] | None = field(init=False)
    """Which stamp of such an answer is each ref's; None where each has its own, in order."""

    def __post_init__(self) -> None:
        derive = object.__setattr__
        outputs = (*self.refs, *self.computed)
        derive(self, "outputs", outputs)
        limits = ((place, ref.limit) for place, ref in enumerate(self.refs))
        derive(self, "limits", tuple((place, limit) for place, limit in limits if limit is not None))
        derive(self, "dotted", tuple(ref for ref in outputs if ref.printed and "." in ref.name))
        derive(self, "names", tuple(ref.name for ref in outputs))
        derive(self, "taken", frozenset({**self.parameters, **self.inputs}))
        plain = [slot.plain for slot in self.slots]
        simple = len(self.roles) == 1 and [slot.value for slot in self.slots] == list(range(len(plain)))
        derive(self, "types", plain if simple and plain and None not in plain else None)
        stamps = tuple(slot.stamp - len(plain) for slot in self.slots)
        derive(self, "moment_of", None if stamps == tuple(range(len(plain))) else stamps)
        derive(self, "keyed", tuple((role.parameters, tuple(role.entity.join_keys)) for role in self.roles))

    @property
    def inputs(self) -> dict[str, DType]:
        """What the on-demand features take from the caller beside join keys."""
        return {name: dtype for one in self.computed for name, dtype in one.on_demand.inputs.items()}

    def found(self, slots: Sequence[FeatureValue], given: Mapping[str, Any], as_of: datetime) -> list[FeatureValue]:
        """The features of one row, in the order of `outputs`: settled, and on-demand ones computed.

        ``given`` has the canonical join keys and inputs. Slots that have on-demand features already keep them.

        Raises:
            OnDemandError: an on-demand feature's function failed, or returned a wrong value.
        """
        settled = self.settle(slots, as_of) if self.limits else list(slots)
        if self.computed and len(settled) == len(self.refs):
            settled += [one.value(settled, given, as_of) for one in self.computed]
        return settled

    def keys(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The canonical join key values of a call, by parameter name; None is nobody.

        Raises:
            RequestError: one is absent, or has another type.
        """
        keys: dict[str, Any] = {}
        for name, dtype in self.parameters.items():
            if name not in given:
                raise RequestError(f"{name} is required ({dtype}); give None when nobody is known")
            value = given[name]
            if value is not None and not (type(value) is str and dtype.kind == "str" and value.isascii()):
                try:
                    value = dtype.canonical(value)
                except InvalidValueError as error:
                    raise RequestError(f"{name} is of type {dtype}: {error}; convert it before the call") from None
            keys[name] = value
        return keys

    def given(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The canonical join keys of a row, and the inputs of its on-demand features.

        Raises:
            RequestError: one is absent, or has another type.
        """
        given = self.keys(row)
        if not self.computed:
            return given
        for name, dtype in self.inputs.items():
            given[name] = _input_of(f"input {name!r} of an on-demand feature", dtype, row.get(name))
        return given

    @property
    def answers(self) -> tuple[FeatureRef | ComputedRef, ...]:
        """The features that were asked for, in that order."""
        return tuple(self.outputs[place] for place in self.asked)

    def entity_keys(self, keys: Mapping[str, Any]) -> list[str | None]:
        """The encoded entity key of each role, None where a join key is None."""
        encoded: list[str | None] = []
        for parameters, join_keys in self.keyed:
            values = [keys[parameters[0]]] if len(parameters) == 1 else [keys[name] for name in parameters]
            encoded.append(None if None in values else codec.entity_key(join_keys, values))
        return encoded

    def read(self, rows: Sequence[Sequence[str | None]]) -> Generator[Request, Any, ReadResult]:
        """The reads of a call, as a generator: it yields requests and is sent their answers.

        ``rows`` has one encoded entity key per role (None: nobody). A `StoreUnavailableError` thrown in makes every
        feature of somebody ``unavailable``; other errors pass.
        """
        if len(rows) == 1 and self.types is not None and (only := rows[0][0]) is not None:
            reads, places = [_new(Read, (only, self.fields[0]))], [[0]]
        else:
            reads, places = self._reads(rows)
        answers: list[list[str | None]] = []
        meta: Meta | None = None
        if reads:
            try:
                answers = yield reads
                for answer in answers:
                    if None in answer:
                        meta = yield ReadMeta()
                        break
            except StoreUnavailableError as error:
                slots = [[_MISSING if place[slot.role] < 0 else UNAVAILABLE for slot in self.slots] for place in places]
                return ReadResult(slots, None, str(error))
        events: dict[str, datetime] = {}
        found: list[list[FeatureValue]] = []
        for place in places:
            whole = self._whole(answers[place[0]], events) if self.types is not None and place[0] >= 0 else None
            found.append(_found(self.slots, place, answers, meta, events) if whole is None else whole)
        return ReadResult(found, max(events.values()) if events else None, self._unfilled(found))

    def _unfilled(self, found: Sequence[Sequence[FeatureValue]]) -> str | None:
        """What to say when the store answered, and a feature is unavailable all the same."""
        views = {
            slot.view: None
            for row in found
            for slot, one in zip(self.slots, row)  # noqa: B905
            if one is UNAVAILABLE
        }
        if not views:
            return None
        named = " and ".join(map(repr, views))
        return f"the online store was never filled with what the registry says of view {named}: llmfeatures materialize"

    def _reads(self, rows: Sequence[Sequence[str | None]]) -> tuple[list[Read], list[list[int]]]:
        """What to read for these entity keys, and per row the place of each role's answer, -1 for nobody."""
        reads: list[Read] = []
        places: list[list[int]] = []
        for row in rows:
            place: list[int] = []
            for key, names in zip(row, self.fields):  # noqa: B905  strict costs, and both are one per role
                if key is None or not names:
                    place.append(-1)
                    continue
                place.append(len(reads))
                reads.append(Read(key, names))
            places.append(place)
        return reads, places

    def _whole(self, answer: Sequence[str | None], events: dict[str, datetime]) -> list[FeatureValue] | None:
        """What `_found` gives, for the usual row that has every feature: all are parsed at once. None for another."""
        if None in answer:
            return None
        texts = cast("Sequence[str]", answer)
        count = len(self.slots)
        stamps = texts[count:]
        try:
            values = _loads(f"[{','.join(texts[:count])}]")
            if [*map(type, values)] != self.types:
                return None
            moments: list[datetime] = []
            for stamp in stamps:
                event = events.get(stamp[:STAMP_LENGTH])
                moments.append(_event(stamp, events) if event is None else event)
        except (InvalidValueError, ValueError):
            return None
        if self.moment_of is not None:
            moments = [moments[place] for place in self.moment_of]
        found: list[FeatureValue] = []
        for value, moment in zip(values, moments):  # noqa: B905  strict costs, and the types were compared
            found.append(_new(FeatureValue, (value, "present", moment)))
        return found

    def settle(self, slots: Sequence[FeatureValue], as_of: datetime) -> list[FeatureValue]:
        """The slots with each value that is older than its limit at ``as_of`` made ``expired``; equal is not older."""
        settled = list(slots)
        for place, limit in self.limits:
            event = settled[place].event_timestamp
            if event is not None and event < back(as_of, limit):
                settled[place] = FeatureValue(None, "expired", event)
        return settled


def _found(
    slots: Sequence[_Slot],
    place: Sequence[int],
    answers: Sequence[Sequence[str | None]],
    meta: Meta | None,
    events: dict[str, datetime],
) -> list[FeatureValue]:
    """The features of one row. ``place`` has each role's answer, -1 for nobody; ``events`` the moments parsed so far.

    It runs for every value that is read, so it calls little.
    """
    found: list[FeatureValue] = []
    for role, value_at, stamp_at, view, hashed, plain, decode in slots:
        at = place[role]
        if at < 0:
            found.append(_MISSING)
            continue
        stamp, data = answers[at][stamp_at], answers[at][value_at]
        if stamp is None or data is None:
            found.append(_absent(view, hashed, meta))
            continue
        try:
            event = events.get(stamp[:STAMP_LENGTH])
            if event is None:
                event = _event(stamp, events)
            value = _loads(data) if plain is not None else decode(data)
            if type(value) is not plain and plain is not None:
                value = decode(data)
        except (InvalidValueError, ValueError):
            found.append(UNAVAILABLE)  # the feature had another dtype when this was written
            continue
        found.append(FeatureValue(value, "null" if value is None else "present", event))
    return found


def _event(stamp: str, events: dict[str, datetime]) -> datetime:
    """The event timestamp of a stamp, which is put among the known ones."""
    written = codec.event_of(stamp)
    event = events[written] = datetime.fromisoformat(written)
    return event


def _absent(view: str, hashed: str, meta: Meta | None) -> FeatureValue:
    """A feature of which there is no row: under another schema hash, the store was never filled with what the registry
    says now."""
    known = None if meta is None else meta.views.get(view)
    return UNAVAILABLE if known is None or not known.holds(hashed) else _MISSING


def plan_features(refs: Sequence[FeatureRef], further: Sequence[Role] = ()) -> FeaturePlan:
    """The plan that reads these features, in this order. ``further`` roles take part whether one is theirs or not."""
    roles: dict[str, Role] = {}
    for role in (*(ref.role for ref in refs), *further):
        roles.setdefault(role.name, role)
    ordered = tuple(roles.values())
    fields: list[dict[str, int]] = [{} for _ in ordered]
    lookups: dict[tuple[str, str], list[str]] = {}
    slots: list[_Slot] = []
    lookup_of: list[tuple[int, int]] = []
    position = {role.name: index for index, role in enumerate(ordered)}
    for ref in refs:
        names = fields[position[ref.role.name]]
        names.setdefault(ref.feature, len(names))
    for ref in refs:
        index = position[ref.role.name]
        names = fields[index]
        value = names[ref.feature]
        stamp = names.setdefault(codec.view_field(ref.view.name), len(names))
        slots.append(
            _Slot(index, value, stamp, ref.view.name, schema_hash(ref.view), ref.dtype.plain, ref.dtype.decode)
        )
        wanted = lookups.setdefault((ref.role.name, ref.view.name), [])
        if ref.feature not in wanted:
            wanted.append(ref.feature)
        lookup_of.append((list(lookups).index((ref.role.name, ref.view.name)), wanted.index(ref.feature)))
    views = {ref.view.name: ref.view for ref in refs}
    return FeaturePlan(
        roles=ordered,
        refs=tuple(refs),
        parameters={
            name: dtype
            for role in ordered
            for name, dtype in zip(role.parameters, role.entity.join_keys.values(), strict=True)
        },
        lookups=tuple(
            Lookup(
                view=views[view],
                keys=dict(zip(roles[role].entity.join_keys, roles[role].parameters, strict=True)),
                features=tuple(wanted),
            )
            for (role, view), wanted in lookups.items()
        ),
        lookup_of=tuple(lookup_of),
        fields=tuple(tuple(names) for names in fields),
        slots=tuple(slots),
    )


def plan_named(
    registry: Registry,
    named: Sequence[tuple[str, Role, Found | FoundOnDemand]],
    policies: Mapping[tuple[str, str], Policy] | None = None,
) -> FeaturePlan:
    """The plan that reads these features by name, and what their on-demand ones are computed from.

    ``policies`` are by role and feature. Roles of on-demand features give their join keys too.
    """
    policies = policies or {}
    refs = [
        feature_ref(name, role, found, policies.get((role.name, found.feature.name), Policy()))
        for name, role, found in named
        if isinstance(found, Found)
    ]
    computed: list[ComputedRef] = []
    for name, role, found in named:
        if isinstance(found, FoundOnDemand):
            for dependency in _unread(registry, found.feature, role, refs):
                key = role.name, dependency.feature.name
                taken = {one for one, _, _ in named} | {ref.name for ref in refs}
                own = key[1] if key[1] not in taken else ".".join(key)
                refs.append(replace(feature_ref(own, role, dependency, policies.get(key, Policy())), printed=False))
            arguments = tuple(_argument(refs, one, found.feature, role) for one in found.feature.parameters)
            policy = policies.get((role.name, found.feature.name), Policy())
            computed.append(
                ComputedRef(name=name, role=role, on_demand=found.feature, arguments=arguments, policy=policy)
            )
    plan = plan_features(refs, [one.role for one in computed])
    place = {one.name: index for index, one in enumerate((*plan.refs, *computed))}
    return replace(
        plan,
        computed=tuple(computed),
        asked=tuple(place[name] for name, _, _ in named),
    )


def _unread(registry: Registry, feature: OnDemandFeature, role: Role, refs: Sequence[FeatureRef]) -> list[Found]:
    """The stored features that an on-demand one is computed from, and ``refs`` do not have."""
    read = {ref.feature for ref in refs if ref.role.name == role.name}
    known = {*feature.inputs, *role.entity.join_keys, "as_of", *read}
    return [registry.find(f"{role.entity.name}.{one}") for one in feature.parameters if one not in known]


def _argument(refs: Sequence[FeatureRef], parameter: str, feature: OnDemandFeature, role: Role) -> Argument:
    """Where a parameter's value is."""
    keys = role.entity.join_keys
    if parameter in feature.inputs:
        return Argument(parameter, parameter, feature.inputs[parameter])
    if parameter == "as_of":
        return Argument(parameter, parameter, DType("timestamp"))
    if parameter in keys:
        return Argument(parameter, role.parameters[list(keys).index(parameter)], keys[parameter])
    place = next(at for at, ref in enumerate(refs) if (ref.role.name, ref.feature) == (role.name, parameter))
    return Argument(parameter, place, refs[place].dtype)


def plan_references(registry: Registry, references: Sequence[str]) -> FeaturePlan:
    """The plan for features by name, ``status`` or ``user.status``, with no prompt around them; only ttl limits them.

    Raises:
        UnknownNameError: there is no such feature.
        DefinitionError: a bare name belongs to several entities.
        RequestError: a feature is asked for twice, or two on-demand features take an input differently.
    """
    named: list[tuple[str, Role, Found | FoundOnDemand]] = []
    for reference in references:
        if any(reference == name for name, _, _ in named):
            raise RequestError(f"feature {reference!r} is asked for twice; name it once")
        found = registry.find_any(reference)
        entity = found.feature.entity if isinstance(found, FoundOnDemand) else found.view.entity
        named.append((reference, role_of(entity.name, entity), found))
    plan = plan_named(registry, named)
    for one in plan.computed:
        for name, dtype in one.on_demand.inputs.items():
            if name in plan.parameters or plan.inputs[name] != dtype:
                raise RequestError(
                    f"input {name!r} of on-demand feature {one.name!r} is also a join key, or has another dtype in "
                    "another feature; ask for them in two calls"
                )
    return plan


def _input_of(name: str, dtype: DType, value: Any) -> Any:
    try:
        value = None if value is None else dtype.canonical(value)
    except InvalidValueError as error:
        raise RequestError(f"{name}: {error}") from None
    if value is None:
        raise RequestError(f"{name} is required ({dtype}); give a value")
    return value
