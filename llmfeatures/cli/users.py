# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Whom to show when a prompt is asked for without a key: a typical entity, an unknown one, one with gaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmfeatures.plan import FeaturePlan
    from llmfeatures.ports import ClockName
    from llmfeatures.project import Project
    from llmfeatures.schema import Entity
    from llmfeatures.types import DType

CANDIDATES = 2_000
"""How many entities of each view are looked at, so that a large history does not make one wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One of the three: what it is an example of, and its join keys; None where there is no such entity."""

    label: str
    keys: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entity:
    """The join keys of one entity's roles, for each example."""

    typical: Mapping[str, Any] | None
    complete: bool
    gaps: Mapping[str, Any] | None


def three_examples(project: Project, plan: FeaturePlan, at: datetime, clock: ClockName) -> list[Example]:
    """A typical entity (every feature present), an unknown one and one with nulls or missing values, at a moment.

    They are picked from the newest rows of the offline store. Where no entity is complete, the one with the most
    features stands for the typical one.
    """
    entities = list({role.entity.name: role.entity for role in plan.roles}.values())
    found = [_examine(project, plan, entity, at, clock) for entity in entities]
    name = " and ".join(entity.name for entity in entities)
    complete = all(one.complete for one in found)
    return [
        Example(
            label=f"typical {name}" if complete else f"most complete {name} (none has every feature)",
            keys=_merged([one.typical for one in found]),
        ),
        Example(label=f"unknown {name}", keys=_unknown(project, plan, at, clock)),
        Example(
            label=f"{name} with nulls or missing values",
            keys=_merged([one.gaps or one.typical for one in found]) if any(one.gaps for one in found) else None,
        ),
    ]


def _examine(project: Project, plan: FeaturePlan, entity: Entity, at: datetime, clock: ClockName) -> _Entity:
    rows = [_for_roles(plan, entity, key) for key in _candidates(project, plan, entity, at)]
    own = [index for index, ref in enumerate(plan.refs) if ref.role.entity == entity]
    statuses = [
        None if one is None else [one[index] for index in own] for one in _statuses(project, plan, rows, at, clock)
    ]
    read = [(row, one) for row, one in zip(rows, statuses, strict=True) if one is not None]
    best = max(read, key=lambda pair: pair[1].count("present"), default=None)
    gaps = [pair for pair in read if not {"present"}.issuperset(pair[1])]
    with_null = [pair for pair in gaps if "null" in pair[1]]
    gap = next(iter(with_null or gaps), None)
    return _Entity(
        typical=best and best[0],
        complete=best is not None and {"present"}.issuperset(best[1]),
        gaps=gap and gap[0],
    )


def _candidates(project: Project, plan: FeaturePlan, entity: Entity, at: datetime) -> list[tuple[Any, ...]]:
    """Entity keys of the views that the plan reads, a bounded number, in the order of their encoded form.

    Where it reads none, on-demand features alone, any view of the entity tells who there is.
    """
    from llmfeatures import codec, columns

    views = {ref.view.name: ref.view for ref in plan.refs if ref.role.entity == entity}
    views = views or {view.name: view for view in project.registry.views_of(entity)}
    keys: dict[str, tuple[Any, ...]] = {}
    names = tuple(entity.join_keys)
    for view in views.values():
        batch = next(iter(project.offline.latest(view, until=at, batch_rows=CANDIDATES)), None)
        if batch is not None:
            values = [
                columns.python_values(dtype, one)
                for dtype, one in zip(entity.join_keys.values(), batch.keys, strict=True)
            ]
            keys.update((codec.entity_key(names, key), key) for key in zip(*values, strict=True))
    return [keys[encoded] for encoded in sorted(keys)]


def _for_roles(plan: FeaturePlan, entity: Entity, key: Sequence[Any]) -> dict[str, Any]:
    """Join keys of a call in which every role of the entity has this key, and the others are nobody."""
    row: dict[str, Any] = dict.fromkeys(plan.parameters)
    for role in plan.roles:
        if role.entity == entity:
            row.update(zip(role.parameters, key, strict=True))
    return row


def _statuses(
    project: Project, plan: FeaturePlan, rows: Sequence[Mapping[str, Any]], at: datetime, clock: ClockName
) -> list[list[str] | None]:
    """The status of each feature for each row of join keys; None where the row cannot be used."""
    from llmfeatures.historical_features import as_of_slots

    if not rows:
        return []
    found = as_of_slots(project.offline, plan, rows, at, clock)
    return [
        None if row in found.errors else [one.status for one in plan.settle(slots, at)]
        for row, slots in enumerate(found.slots)
    ]


def _merged(parts: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """The join keys of all entities together."""
    given = [part for part in parts if part is not None]
    if not given:
        return None
    merged: dict[str, Any] = {}
    for part in given:
        merged.update({name: value for name, value in part.items() if value is not None or name not in merged})
    return merged


def _unknown(project: Project, plan: FeaturePlan, at: datetime, clock: ClockName) -> dict[str, Any]:
    """Join keys of which history has no row; nobody, when every value of the dtype may well be somebody."""
    tried = list(zip(*(_strangers(dtype) for dtype in plan.parameters.values()), strict=True))
    rows = [dict(zip(plan.parameters, values, strict=True)) for values in tried]
    for row, statuses in zip(rows, _statuses(project, plan, rows, at, clock), strict=True):
        if statuses is not None and set(statuses) == {"missing"}:
            return row
    return dict.fromkeys(plan.parameters)


def _strangers(dtype: DType) -> Iterator[Any]:
    for number in range(10):
        match dtype.kind:
            case "str":
                yield "unknown" if number == 0 else f"unknown-{number}"
            case "int":
                yield -1 - number
            case _:
                yield None
