# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Counts that stream: fed with Arrow columns, bounded in memory, and the same however the rows are cut into batches."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final

import pyarrow as pa
from pyarrow import compute

pc: Any = compute

STATUSES: Final = ("present", "null", "expired", "missing")
"""In the order in which they are stacked."""
HOUR: Final = 3_600_000_000
DAY: Final = 24 * HOUR
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_HOURS = 2_000
_MOST_VALUES = 5_000
_LONGEST = 200
_PER_OCTAVE = 8
"""Bins per doubling of a logarithmic count: a quantile read from it is within 5 % of the true one."""
AGE_EDGES: Final = tuple(
    (label, timedelta(**{unit: count}) // timedelta(microseconds=1))
    for label, unit, count in (
        ("1 min", "minutes", 1),
        ("5 min", "minutes", 5),
        ("15 min", "minutes", 15),
        ("1 h", "hours", 1),
        ("3 h", "hours", 3),
        ("6 h", "hours", 6),
        ("12 h", "hours", 12),
        ("1 d", "days", 1),
        ("3 d", "days", 3),
        ("7 d", "days", 7),
        ("14 d", "days", 14),
        ("30 d", "days", 30),
        ("90 d", "days", 90),
        ("1 y", "days", 365),
    )
)
"""The upper ends of the bins of ages, with their microseconds."""


def counted(array: Any) -> Iterator[tuple[Any, int]]:
    """The distinct values of a column, nulls among them, with how often each occurs."""
    pairs = pc.value_counts(array)
    return zip(pairs.field(0).to_pylist(), pairs.field(1).to_pylist(), strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A stretch of time, and how many rows have each status in it, in the order of `STATUSES`."""

    label: str
    counts: tuple[int, ...]


class Coverage:
    """Rows by status and by the hour of their moment (UTC); by the day once there are more hours than it keeps."""

    def __init__(self) -> None:
        self.totals: list[int] = [0] * len(STATUSES)
        self._unit = HOUR
        self._counts: dict[int, list[int]] = {}

    def add(self, hours: Any, statuses: Any) -> None:
        """Count rows: ``hours`` int64, hours since 1970 or null; ``statuses`` text."""
        codes = pc.cast(pc.index_in(statuses, value_set=pa.array(STATUSES, pa.string())), pa.int64())
        for code, count in counted(codes):
            if code is not None:
                self.totals[code] += count
        # a division rounds to zero: from far back, that is down
        far = 10**9
        places = hours if self._unit == HOUR else pc.subtract(pc.divide(pc.add(hours, 24 * far), 24), far)
        for combined, count in counted(pc.add(pc.multiply(places, len(STATUSES)), codes)):
            if combined is not None:
                place, code = divmod(combined, len(STATUSES))
                self._bucket(place)[code] += count
        if self._unit == HOUR and len(self._counts) > _MOST_HOURS:
            before, self._counts, self._unit = self._counts, {}, DAY
            for hour, counts in before.items():
                into = self._bucket(hour * HOUR // DAY)
                for code, count in enumerate(counts):
                    into[code] += count

    def _bucket(self, at: int) -> list[int]:
        return self._counts.setdefault(at, [0] * len(STATUSES))

    def buckets(self) -> tuple[str, list[Bucket]]:
        """The unit (hour, day, week, month or year, by the range) and its buckets in order, empty ones too."""
        if not self._counts:
            return "day", []
        first, last = min(self._counts) * self._unit, max(self._counts) * self._unit
        unit = _unit_for(last - first)
        made: dict[str, list[int]] = {}
        at = first
        while at <= last:  # so that a stretch without rows shows as one
            made.setdefault(_label(at, unit), [0] * len(STATUSES))
            at += HOUR if unit == "hour" else DAY
        for place, counts in self._counts.items():
            into = made.setdefault(_label(place * self._unit, unit), [0] * len(STATUSES))
            for code, count in enumerate(counts):
                into[code] += count
        return unit, [Bucket(label=label, counts=tuple(counts)) for label, counts in sorted(made.items())]


def _unit_for(span: int) -> str:
    for unit, days in (("hour", 2), ("day", 92), ("week", 730), ("month", 3_650)):
        if span <= days * DAY:
            return unit
    return "year"


def _label(at: int, unit: str) -> str:
    moment = _EPOCH + timedelta(microseconds=at)
    match unit:
        case "hour":
            return moment.strftime("%Y-%m-%d %H:00")
        case "day":
            return f"{moment:%Y-%m-%d}"
        case "week":
            return f"{moment - timedelta(days=moment.weekday()):%Y-%m-%d}"
        case "month":
            return f"{moment:%Y-%m}"
        case _:
            return f"{moment:%Y}"


class Top:
    """The most frequent values. Exact up to a number of distinct ones; beyond it counts are lower bounds
    (Misra and Gries), and ``exact`` is False."""

    def __init__(self, most: int = _MOST_VALUES) -> None:
        self.total = 0
        self.exact = True
        self._most = most
        self._counts: dict[str, int] = {}

    def add(self, pairs: Iterable[tuple[Any, int]]) -> None:
        """Count values; None is not one."""
        for value, count in pairs:
            if value is None:
                continue
            self.total += count
            name = value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
            self._counts[name] = self._counts.get(name, 0) + count
        if len(self._counts) > self._most:
            self.exact = False
            cut = sorted(self._counts.values(), reverse=True)[self._most]
            self._counts = {name: count - cut for name, count in self._counts.items() if count > cut}

    @property
    def distinct(self) -> int:
        """How many values are kept; with ``exact``, how many there are."""
        return len(self._counts)

    def most_common(self, number: int) -> list[tuple[str, int]]:
        """The first ones by count, then by text."""
        return heapq.nsmallest(number, self._counts.items(), key=lambda pair: (-pair[1], pair[0]))

    def of(self, name: str) -> int:
        """The count of a value, 0 where it is not kept."""
        return self._counts.get(name, 0)


class Numbers:
    """The distribution of numbers: exact up to a number of distinct ones, then in logarithmic bins."""

    def __init__(self) -> None:
        self.count = 0
        self.low: float | None = None
        self.high: float | None = None
        self._total = 0.0
        self._exact: dict[float, int] | None = {}
        self._bins: dict[int, int] = {}

    @property
    def mean(self) -> float:
        """The mean; 0 of none."""
        return self._total / self.count if self.count else 0.0

    def add(self, values: Any, weights: Any = None) -> None:
        """Count a column of numbers, nulls left out; ``weights`` int64 says how often each counts."""
        if weights is not None:
            grouped = pa.table({"value": values, "weight": weights}).group_by("value", use_threads=False)
            summed = grouped.aggregate([("weight", "sum")])
            values, weights = summed.column("value").combine_chunks(), summed.column("weight_sum").combine_chunks()
        else:
            pairs = pc.value_counts(values)
            values, weights = pairs.field(0), pairs.field(1)
        numbers = pc.cast(values, pa.float64(), safe=False)
        kept = pc.fill_null(pc.is_finite(numbers), fill_value=False)
        numbers, weights = numbers.filter(kept), pc.cast(weights.filter(kept), pa.int64())
        if not len(numbers):
            return
        bounds = pc.min_max(numbers)
        low, high = bounds["min"].as_py(), bounds["max"].as_py()
        self.low = low if self.low is None else min(low, self.low)
        self.high = high if self.high is None else max(high, self.high)
        self.count += pc.sum(weights).as_py()
        self._total += pc.sum(pc.multiply(numbers, pc.cast(weights, pa.float64()))).as_py()
        if self._exact is not None and len(numbers) <= _MOST_VALUES:
            for number, weight in zip(numbers.to_pylist(), weights.to_pylist(), strict=True):
                self._exact[number] = self._exact.get(number, 0) + weight
            if len(self._exact) <= _MOST_VALUES:
                return
            numbers, weights = pa.array(self._exact.keys(), pa.float64()), pa.array(self._exact.values(), pa.int64())
            self._exact = None
        elif self._exact is not None:
            before, self._exact = self._exact, None
            numbers = pa.concat_arrays([numbers, pa.array(before.keys(), pa.float64())])
            weights = pa.concat_arrays([weights, pa.array(before.values(), pa.int64())])
        self._add_bins(numbers, weights)

    def _add_bins(self, numbers: Any, weights: Any) -> None:
        size = pc.abs(numbers)
        log = pc.cast(pc.floor(pc.multiply(pc.log2(pc.max_element_wise(size, 1e-9)), _PER_OCTAVE)), pa.int64())
        shifted = pc.add(log, _SHIFT)
        bins = pc.if_else(pc.less(size, 1e-9), 0, pc.if_else(pc.less(numbers, 0.0), pc.negate(shifted), shifted))
        grouped = pa.table({"bin": bins, "weight": weights}).group_by("bin", use_threads=False)
        summed = grouped.aggregate([("weight", "sum")])
        for place, weight in zip(
            summed.column("bin").to_pylist(), summed.column("weight_sum").to_pylist(), strict=True
        ):
            self._bins[place] = self._bins.get(place, 0) + weight

    @property
    def exact(self) -> bool:
        """Whether each number is counted as itself."""
        return self._exact is not None

    def points(self) -> list[tuple[float, int]]:
        """The numbers (of a bin: its middle) in order, with their counts."""
        if self._exact is not None:
            return sorted(self._exact.items())
        return [(_middle(place), count) for place, count in sorted(self._bins.items())]

    def quantiles(self, parts: Sequence[float]) -> list[float]:
        """The smallest numbers that at least these parts of all do not exceed; empty of none."""
        points, found, seen, wanted = self.points(), list[float](), 0, list(parts)
        for number, count in points:
            seen += count
            while wanted and seen >= wanted[0] * self.count:
                found.append(min(max(number, self.low or 0.0), self.high or 0.0) if not self.exact else number)
                wanted.pop(0)
        return found

    def histogram(self, most: int = 16) -> list[tuple[float, float, int]]:
        """``(from, to, count)`` in order: each number where there are few, else equal steps; of logarithmic bins,
        doublings."""
        points = self.points()
        if not points:
            return []
        if self.exact and len(points) <= most:
            return [(number, number, count) for number, count in points]
        if self.exact:
            return _in_steps(points, most)
        return _in_doublings(self._bins)


_SHIFT = 40 * _PER_OCTAVE
"""Keeps the bins of sizes from 1e-9 above zero, so that the sign of a bin is that of its numbers."""


def _middle(place: int) -> float:
    if not place:
        return 0.0
    size = 2.0 ** ((abs(place) - _SHIFT + 0.5) / _PER_OCTAVE)
    return size if place > 0 else -size


def _in_steps(points: Sequence[tuple[float, int]], most: int) -> list[tuple[float, float, int]]:
    low, high = points[0][0], points[-1][0]
    rough = (high - low) / most
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * part for part in (1, 2, 5, 10) if scale * part >= rough * (1 - 1e-9))
    whole = all(number == int(number) for number, _ in points)
    step = max(step, 1.0) if whole else step
    first = math.floor(low / step)
    counts: dict[int, int] = {}
    for number, count in points:
        place = math.floor(number / step)
        counts[place] = counts.get(place, 0) + count
    last = max(counts)
    # of whole numbers the last one of a step is its end: 0 to 4, 5 to 9
    short = 1.0 if whole else 0.0
    return [(place * step, (place + 1) * step - short, counts.get(place, 0)) for place in range(first, last + 1)]


def _in_doublings(bins: dict[int, int]) -> list[tuple[float, float, int]]:
    counts: dict[tuple[float, float], int] = {}
    for place, count in bins.items():
        octave = (abs(place) - _SHIFT) // _PER_OCTAVE
        low, high = 2.0**octave, 2.0 ** (octave + 1)
        ends = (0.0, 0.0) if not place else (low, high) if place > 0 else (-high, -low)
        counts[ends] = counts.get(ends, 0) + count
    return [(low, high, count) for (low, high), count in sorted(counts.items())]


class Ages:
    """How old values were at the moment of their prompt, microseconds."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self._below = [0] * len(AGE_EDGES)
        self._known = 0

    def add(self, ages: Any) -> None:
        """Count ages: int64 microseconds, null where there is no value."""
        ages = ages.drop_null()
        if not len(ages):
            return
        self._known += len(ages)
        for index, (_, edge) in enumerate(AGE_EDGES):
            self._below[index] += pc.less(ages, edge).true_count
        # whole seconds repeat where microseconds do not
        self.numbers.add(pc.divide(ages, 1_000_000))

    def histogram(self) -> list[tuple[str, int]]:
        """The bins from the first to the last that hold any, with their counts."""
        labels = ["under " + AGE_EDGES[0][0]]
        labels += [f"{low} to {high}" for (low, _), (high, _) in pairwise(AGE_EDGES)]
        labels.append(AGE_EDGES[-1][0] + " or more")
        ends = [0, *self._below, self._known]
        bins = [(label, high - low) for label, low, high in zip(labels, ends, ends[1:], strict=False)]
        held = [index for index, (_, count) in enumerate(bins) if count]
        return bins[held[0] : held[-1] + 1] if held else []


def shortened(value: str) -> str:
    """A value as it is kept: long ones cut, with their length said."""
    return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}… ({len(value):,} characters)"
