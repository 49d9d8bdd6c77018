"""Time: UTC datetimes of microsecond precision, durations, and the one text form of each."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from llmfeatures.errors import ConfigError, InvalidValueError

Clock = Callable[[], datetime]
"""A function that returns the current moment as an aware datetime."""

EARLIEST = datetime.min.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d)\s*", re.ASCII)


def system_clock() -> datetime:
    """The machine's time, UTC."""
    return datetime.now(UTC)


def as_utc(value: datetime | str) -> datetime:
    """An aware UTC datetime from a datetime or ISO 8601 text; a naive one is UTC.

    Raises:
        InvalidValueError: the text is no ISO 8601 date or time, or lies outside the years 1 to 9999 in UTC.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise InvalidValueError("not an ISO 8601 date or time; write it like 2026-05-07T22:00:00Z") from None
    try:
        at = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise InvalidValueError("a timestamp outside the years 1 to 9999 in UTC") from None
    if type(at) is datetime:
        return at
    # a subclass, like a pandas Timestamp
    return datetime(at.year, at.month, at.day, at.hour, at.minute, at.second, at.microsecond, tzinfo=UTC)


def microseconds(moment: datetime) -> int:
    """Microseconds from 1970-01-01T00:00Z to an aware datetime, exact."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(count: int) -> datetime:
    """The aware UTC datetime that lies ``count`` microseconds after 1970-01-01T00:00Z.

    Raises:
        InvalidValueError: outside the years 1 to 9999.
    """
    try:
        return _EPOCH + timedelta(microseconds=count)
    except OverflowError:
        raise InvalidValueError("a timestamp outside the years 1 to 9999") from None


def iso(moment: datetime) -> str:
    """``2026-05-07T22:00:00Z``; six decimals only when they are not zero (ISO 8601, UTC)."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def stamp(moment: datetime) -> str:
    """``2026-05-07T22:00:00.000000Z``: 27 characters always, so that text order is time order."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def back(moment: datetime, age: timedelta) -> datetime:
    """``moment - age``, and the earliest datetime where that would be before the year 1."""
    try:
        return moment - age
    except OverflowError:
        return EARLIEST


def parse_duration(value: timedelta | str) -> timedelta:
    """A timedelta from a timedelta or text with one unit: ``250ms``, ``5m``, ``30d``.

    Raises:
        ConfigError: the text is no such duration.
    """
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value)
    if match is None:
        raise ConfigError(f"{value!r} is no duration; write a number and one unit of us, ms, s, m, h, d, like 30d")
    try:
        return timedelta(microseconds=round(float(match[1]) * _UNITS[match[2]]))
    except OverflowError:
        raise ConfigError(f"{value!r} is too long a duration") from None


def duration_text(value: timedelta) -> str:
    """The shortest text that ``parse_duration`` reads back to the same value: ``30d``, ``90s``."""
    count = value // _MICROSECOND
    for unit in ("d", "h", "m", "s", "ms"):
        if count and count % _UNITS[unit] == 0:
            return f"{count // _UNITS[unit]}{unit}"
    return f"{count}us"


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
