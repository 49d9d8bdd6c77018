"""Features as a call uses them, stored and on demand, each in an entity's role."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, NamedTuple

from llmfeatures.clock import back
from llmfeatures.context import FeatureOrigin, FeatureValue
from llmfeatures.errors import FeatureNotPresentError, OnDemandError
from llmfeatures.ondemand import OnDemandFeature
from llmfeatures.prompts.file import ABSENT, Policy
from llmfeatures.registry import Found
from llmfeatures.schema import Entity, FeatureView
from llmfeatures.types import DType

UNAVAILABLE: Final = FeatureValue(None, "unavailable", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """An entity's part in a call. ``parameters`` are the keyword names of its join keys, in the entity's order."""

    name: str
    entity: Entity
    parameters: tuple[str, ...]


def role_of(name: str, entity: Entity) -> Role:
    """A role: its join keys carry the role's name in front, unless it is called as the entity is."""
    prefix = "" if name == entity.name else f"{name}_"
    return Role(name=name, entity=entity, parameters=tuple(f"{prefix}{key}" for key in entity.join_keys))


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRef:
    """A feature as a call uses it. ``limit`` is the age that still counts: the lesser of ttl and max_age."""

    name: str
    role: Role
    view: FeatureView
    feature: str
    dtype: DType
    limit: timedelta | None = None
    policy: Policy = field(default_factory=Policy)
    printed: bool = True
    """False for what only an on-demand feature reads: it is among the features, and no value of the prompt."""

    @property
    def column(self) -> str:
        """The name in historical tables: ``user.status`` is ``user__status``."""
        return self.name.replace(".", "__")


Settled = Sequence[FeatureValue] | Mapping[int, FeatureValue]
"""Settled features by a ref's place."""


class Argument(NamedTuple):
    """A parameter of an on-demand feature's function, and where its value is: a ref's place, or a key's or input's name
    (or ``as_of``)."""

    name: str
    source: int | str
    dtype: DType


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputedRef:
    """An on-demand feature as a call uses it. ``limit`` is max_age, for its oldest part."""

    name: str
    role: Role
    on_demand: OnDemandFeature
    arguments: tuple[Argument, ...]
    policy: Policy = field(default_factory=Policy)

    printed: ClassVar[bool] = True

    @property
    def feature(self) -> str:
        """The feature's own name."""
        return self.on_demand.name

    @property
    def dtype(self) -> DType:
        """The dtype of its value."""
        return self.on_demand.dtype

    @property
    def limit(self) -> timedelta | None:
        """The age of its oldest part that still counts."""
        return self.policy.max_age

    @property
    def column(self) -> str:
        """The name in historical tables, as `FeatureRef.column`."""
        return self.name.replace(".", "__")

    def value(self, settled: Settled, given: Mapping[str, Any], as_of: datetime) -> FeatureValue:
        """The feature for one row.

        Args:
            settled: the settled features, in the order of the plan's refs.
            given: canonical join keys and inputs by parameter name.
            as_of: the moment.

        Raises:
            OnDemandError: the function failed, or returned a wrong value.
        """
        found = self.values([(settled, given, as_of)])[0]
        if isinstance(found, OnDemandError):
            raise found
        return found

    def values(self, rows: Iterable[tuple[Settled, Mapping[str, Any], datetime]]) -> list[FeatureValue | OnDemandError]:
        """The feature for each row of what `value` takes, or the error that it has. Both paths end here."""
        made: list[Any] = []
        calls: list[dict[str, Any]] = []
        places: list[tuple[int, datetime | None]] = []
        for settled, given, as_of in rows:
            ready = self._ready(settled, given, as_of)
            if isinstance(ready, FeatureValue):
                made.append(ready)
            else:
                calls.append(ready[0])
                places.append((len(made), ready[1]))
                made.append(None)
        dtypes = {one.name: one.dtype for one in self.arguments}
        for (place, event), value in zip(places, self.on_demand.compute_many(calls, dtypes), strict=True):
            if isinstance(value, OnDemandError):
                made[place] = value
            else:
                made[place] = FeatureValue(value, "null" if value is None else "present", event)
        return made

    def _ready(
        self, settled: Settled, given: Mapping[str, Any], as_of: datetime
    ) -> FeatureValue | tuple[dict[str, Any], datetime | None]:
        """The arguments and the oldest event timestamp; or the feature, where the function is not to run."""
        arguments: dict[str, Any] = {}
        oldest: datetime | None = None
        for name, source, _ in self.arguments:
            if isinstance(source, str):
                arguments[name] = as_of if source == "as_of" else given[source]
                continue
            found = settled[source]
            if found.status == "unavailable":
                return UNAVAILABLE
            arguments[name] = found.value
            event = found.event_timestamp
            if event is not None and (oldest is None or event < oldest):
                oldest = event
        if self.limit is not None and oldest is not None and oldest < back(as_of, self.limit):
            return FeatureValue(None, "expired", oldest)
        return arguments, oldest


def feature_ref(name: str, role: Role, found: Found, policy: Policy) -> FeatureRef:
    """A feature as a call uses it, with the lesser of its two limits of age."""
    limits = [limit for limit in (found.view.ttl, policy.max_age) if limit is not None]
    return FeatureRef(
        name=name,
        role=role,
        view=found.view,
        feature=found.feature.name,
        dtype=found.feature.dtype,
        limit=min(limits, default=None),
        policy=policy,
    )


def origin_of(ref: FeatureRef | ComputedRef) -> FeatureOrigin:
    """Where a feature comes from, as a manifest says it."""
    policy = "default" if ref.policy.default is not ABSENT else ref.policy.on_missing
    return FeatureOrigin(
        entity=ref.role.entity.name,
        role=ref.role.name,
        view=ref.view.name if isinstance(ref, FeatureRef) else "on demand",
        dtype=str(ref.dtype),
        policy=policy if ref.printed else "none",
    )


def stand_in(prompt: str, path: str, ref: FeatureRef | ComputedRef, found: FeatureValue, where: str = "") -> Any:
    """What a prompt has in place of a feature that is not present, by its policy. ``where`` begins the error.

    Raises:
        FeatureNotPresentError: the policy is an error.
    """
    policy = ref.policy
    name = ref.name if not where else f"{ref.role.name}.{ref.feature}"
    if found.status == "unavailable" and policy.on_unavailable == "error":
        raise FeatureNotPresentError(
            f"{where}feature {name!r} of prompt {prompt!r} is unavailable, and its policy is "
            "on_unavailable: error; fill or reach the online store (llmfeatures materialize)",
            feature=name,
            status=found.status,
        )
    if policy.default is not ABSENT:
        # a list or json default is the caller's to change
        return policy.default if ref.dtype.kind not in ("list", "json") else deepcopy(policy.default)
    if policy.on_missing == "none":
        return None
    raise FeatureNotPresentError(
        f"{where}feature {name!r} of prompt {prompt!r} is {found.status}; in the header of {path} under "
        f"features, give {name}: {{default: VALUE}} for a value to print instead, or {{on_missing: none}} "
        "for a template that handles None itself",
        feature=name,
        status=found.status,
    )


def value_of(prompt: str, path: str, ref: FeatureRef | ComputedRef, found: FeatureValue, where: str = "") -> Any:
    """The value that a prompt has for a feature: what is present, or what its policy puts in its place.

    Raises:
        FeatureNotPresentError: the policy is an error.
    """
    return found.value if found.status == "present" else stand_in(prompt, path, ref, found, where)
