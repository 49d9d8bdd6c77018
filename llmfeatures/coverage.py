# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportAttributeAccessIssue=false
"""Coverage: how many of an entity's known entities have a value of each feature now, and a sample of it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmfeatures import codec, columns
from llmfeatures.clock import back
from llmfeatures.errors import SourceError
from llmfeatures.ports import LatestBatch, OfflineStore
from llmfeatures.registry import Registry
from llmfeatures.schema import Entity, Feature, FeatureView
from llmfeatures.types import text

Array = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureCoverage:
    """A feature's coverage: ``present`` of ``known`` entities have a value that counts now.

    ``sample`` is the newest value, None when there is none. ``problem`` says why a source could not be read; then
    nothing is present.
    """

    view: FeatureView
    feature: Feature
    present: int
    known: int
    sample: Any
    problem: str | None = None

    @property
    def share(self) -> float | None:
        """The share of known entities with a value; None when no entity is known."""
        return self.present / self.known if self.known else None


def coverage(offline: OfflineStore, registry: Registry, now: datetime) -> list[FeatureCoverage]:
    """The coverage of every feature at ``now``, view by view in declared order.

    An entity is known when any view of its kind has a row for it. Rows are streamed; what is kept is eight bytes per
    entity and view.
    """
    known: dict[str, int] = {}
    counted: dict[str, _ViewCount] = {}
    for entity in registry.entities:
        views = registry.views_of(entity)
        counts = [_count(offline, view, now) for view in views]
        known[entity.name] = _distinct([count.seen for count in counts])
        counted.update(zip((view.name for view in views), counts, strict=True))
    return [
        FeatureCoverage(
            view=view,
            feature=feature,
            present=tally.present,
            known=known[view.entity.name],
            sample=tally.sample,
            problem=counted[view.name].problem,
        )
        for view in registry.views
        for feature, tally in zip(view.features, counted[view.name].tallies, strict=True)
    ]


class _ViewCount:
    """What one view holds: a hash of each entity key in it, and a tally per feature."""

    def __init__(self, features: Sequence[Feature]) -> None:
        self.seen = array("q")
        self.tallies = [_Tally(feature) for feature in features]
        self.problem: str | None = None

    def add(self, entity: Entity, batch: LatestBatch, limit: datetime | None) -> None:
        self.seen.extend(_hashes(entity, batch))
        for tally, column in zip(self.tallies, batch.columns, strict=True):
            tally.add(column, batch.event, limit)


class _Tally:
    """Values of one feature that are present, and the newest of them; of equally new ones the greatest by its text."""

    def __init__(self, feature: Feature) -> None:
        self._dtype = feature.dtype
        self.present, self.sample = 0, None
        self._best: tuple[int, str] | None = None

    def add(self, column: Array, event: Array, limit: datetime | None) -> None:
        counts = pc.is_valid(column)
        if limit is not None:
            counts = pc.and_(counts, pc.greater_equal(event, pa.scalar(limit, event.type)))
        moments = event.filter(counts)
        self.present += len(moments)
        if not len(moments):
            return
        newest: Any = pc.max(moments)
        tied = column.filter(counts).filter(pc.equal(moments, newest))
        for value in columns.python_values(self._dtype, tied):
            candidate = (newest.value, text(value))
            if self._best is None or candidate > self._best:
                self._best, self.sample = candidate, value


def _count(offline: OfflineStore, view: FeatureView, now: datetime) -> _ViewCount:
    count = _ViewCount(view.features)
    limit = None if view.ttl is None else back(now, view.ttl)
    try:
        for batch in offline.latest(view, until=now):
            count.add(view.entity, batch, limit)
    except SourceError as error:
        count = _ViewCount(view.features)
        count.problem = str(error)
    return count


def _hashes(entity: Entity, batch: LatestBatch) -> list[int]:
    names = tuple(entity.join_keys)
    values = [
        columns.python_values(dtype, one) for dtype, one in zip(entity.join_keys.values(), batch.keys, strict=True)
    ]
    return [hash(codec.entity_key(names, key)) for key in zip(*values, strict=True)]


def _distinct(seen: Sequence[array[int]]) -> int:
    """How many different entities the views hold; each view holds an entity once."""
    if len(seen) == 1:
        return len(seen[0])
    chunks: list[Array] = [pa.array(one, pa.int64()) for one in seen]
    return pc.count_distinct(pa.chunked_array(chunks, pa.int64())).as_py()
