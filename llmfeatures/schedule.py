"""When a view is due, and when it is late: pure functions of its cadence, its watermark and the time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from llmfeatures.schema import FeatureView

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATE = 1.5


def due(view: FeatureView, watermark: datetime | None, now: datetime) -> bool:
    """Whether a view is to be materialized: its watermark lies before the last multiple of its cadence (counted from
    1970-01-01T00:00Z) at or before ``now``, or there is none. A view without a cadence never is."""
    if view.cadence is None:
        return False
    return watermark is None or watermark < _last_multiple(view.cadence, now)


def late(view: FeatureView, watermark: datetime | None, now: datetime) -> bool:
    """Whether a view is older than it should be: its watermark lies more than one and a half cadences back, or it was
    never filled. A view without a cadence never is."""
    if view.cadence is None:
        return False
    return watermark is None or now - watermark > _LATE * view.cadence


def _last_multiple(cadence: timedelta, now: datetime) -> datetime:
    return now - (now - _EPOCH) % cadence
