"""When a view or retriever is due, and when it is late: pure functions of its cadence, its watermark and the time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATE = 1.5


class Scheduled(Protocol):
    """What is refreshed now and then."""

    @property
    def cadence(self) -> timedelta | None:
        """How often."""
        ...


def due(view: Scheduled, watermark: datetime | None, now: datetime) -> bool:
    """Whether a view or retriever is to be materialized: its watermark lies before the last multiple of its cadence
    (counted from 1970-01-01T00:00Z) at or before ``now``, or there is none. One without a cadence never is."""
    if view.cadence is None:
        return False
    return watermark is None or watermark < _last_multiple(view.cadence, now)


def late(view: Scheduled, watermark: datetime | None, now: datetime) -> bool:
    """Whether a view or retriever is older than it should be: its watermark lies more than one and a half cadences
    back, or it was never filled. One without a cadence never is."""
    if view.cadence is None:
        return False
    return watermark is None or now - watermark > _LATE * view.cadence


def _last_multiple(cadence: timedelta, now: datetime) -> datetime:
    return now - (now - _EPOCH) % cadence
