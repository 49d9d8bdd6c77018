# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""A sample of a spine's rows: in their order, in proportion to the values of a column, the same for a seed."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Hashable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from llmfeatures.errors import RequestError, SpineError, did_you_mean
from llmfeatures.ports import OfflineStore
from llmfeatures.types import DType

_SPARE_ROWS = 50_000
"""How many rows beyond twice those that may be drawn are kept before they are sorted out."""


def sampled(
    offline: OfflineStore,
    spine: object,
    *,
    rows: int,
    stratify: str | None = None,
    seed: int = 0,
    dtypes: Mapping[str, DType] | None = None,
) -> pa.Table:
    """``rows`` of a spine's rows in their order; all when there are no more.

    A row is drawn by the SHA-256 of the seed and its number, so a larger sample without strata contains a smaller one.
    With ``stratify`` each value of that column (null is one) has rows in proportion, by largest remainder, and at least
    one where ``rows`` allows. The spine is read once; what is held is at most ``rows`` rows per stratum, and some.

    Raises:
        RequestError: ``rows`` is no count.
        SpineError: the spine cannot be read, or has no such column to stratify by.
    """
    if type(rows) is not int or rows < 1:
        raise RequestError("sample is a whole number of rows, from 1 on")
    reader = offline.read_spine(spine, dtypes)
    if stratify is not None:
        _check(reader.schema, stratify)
    drawn = _Drawn(rows, seed)
    pieces: list[tuple[list[int], pa.RecordBatch]] = []
    held = number = 0
    for batch in reader:
        strata: Sequence[Any] = [None] * batch.num_rows if stratify is None else batch.column(stratify).to_pylist()
        taken = [place for place, stratum in enumerate(strata) if drawn.offer(number + place, stratum)]
        if taken:
            pieces.append(([number + place for place in taken], batch.take(pa.array(taken, pa.int64()))))
            held += len(taken)
        number += batch.num_rows
        if held > 2 * drawn.live + _SPARE_ROWS:
            pieces = _sorted_out(pieces, drawn.rows())
            held = drawn.live
    pieces = _sorted_out(pieces, drawn.chosen())
    return pa.Table.from_batches([batch for _, batch in pieces], reader.schema)


def _check(schema: pa.Schema, name: str) -> None:
    if schema.names.count(name) != 1:
        raise SpineError(
            f"the spine has no one column {name!r} to stratify by; a feature is one once get_historical_features has "
            f"added it{did_you_mean(name, schema.names)}"
        )
    if pa.types.is_nested(schema.field(name).type):
        raise SpineError(f"the spine's column {name!r} holds lists or structs; stratify by a column of plain values")


def _sorted_out(pieces: Sequence[tuple[list[int], pa.RecordBatch]], kept: set[int]) -> list[tuple[list[int], Any]]:
    """The pieces with only the kept rows."""
    found: list[tuple[list[int], Any]] = []
    for numbers, batch in pieces:
        places = [place for place, number in enumerate(numbers) if number in kept]
        if places:
            found.append(([numbers[place] for place in places], batch.take(pa.array(places, pa.int64()))))
    return found


class _Drawn:
    """The rows of each stratum that come first in the drawn order, as many as a sample can need."""

    def __init__(self, rows: int, seed: int) -> None:
        self.live = 0
        self._rows, self._seed = rows, seed
        self._heaps: dict[Hashable, list[tuple[int, int]]] = {}
        self._sizes: dict[Hashable, int] = {}

    def offer(self, number: int, stratum: Hashable) -> bool:
        """Whether a row may be in the sample, for all that is known so far."""
        if stratum != stratum:  # noqa: PLR0124  NaN equals nothing, not even itself
            stratum = ("NaN",)
        digest = hashlib.sha256(f"{self._seed}:{number}".encode()).digest()
        order = -int.from_bytes(digest[:16], "big")
        heap = self._heaps.setdefault(stratum, [])
        self._sizes[stratum] = self._sizes.get(stratum, 0) + 1
        if len(heap) < self._rows:
            heapq.heappush(heap, (order, number))
            self.live += 1
            return True
        if order < heap[0][0]:
            return False
        heapq.heapreplace(heap, (order, number))
        return True

    def rows(self) -> set[int]:
        """The rows that may be in the sample."""
        return {number for heap in self._heaps.values() for _, number in heap}

    def chosen(self) -> set[int]:
        """The sample."""
        shares = allotted(list(self._sizes.values()), self._rows)
        return {
            number
            for heap, share in zip(self._heaps.values(), shares, strict=True)
            for _, number in heapq.nlargest(share, heap)
        }


def allotted(sizes: Sequence[int], rows: int) -> list[int]:
    """How many of ``rows`` each stratum of these sizes has: in proportion, the largest remainders rounded up.

    No stratum has more than its size, and each has at least one where there are as many rows as strata; else the
    largest strata have one. Of equals the first come first.
    """
    total = sum(sizes)
    if rows >= total:
        return list(sizes)
    count = len(sizes)
    if rows <= count:
        largest = set(sorted(range(count), key=lambda one: (-sizes[one], one))[:rows])
        return [int(one in largest) for one in range(count)]
    shares = [max(1, rows * size // total) for size in sizes]
    # what a stratum has beyond its due, times the total: integers, so no machine rounds otherwise
    beyond = [share * total - rows * size for share, size in zip(shares, sizes, strict=True)]
    left = rows - sum(shares)
    if left > 0:
        able = [one for one in range(count) if shares[one] < sizes[one]]
        for one in sorted(able, key=lambda one: (beyond[one], one))[:left]:
            shares[one] += 1
    over = [(-beyond[one], -one) for one in range(count) if shares[one] > 1]
    heapq.heapify(over)
    while left < 0:
        most, place = heapq.heappop(over)
        shares[-place] -= 1
        left += 1
        if shares[-place] > 1:
            heapq.heappush(over, (most + total, place))
    return shares


def known_rows(spine: object) -> int | None:
    """How many rows a spine has, where that is known without reading it: a Parquet file, a table, a frame, a list."""
    if isinstance(spine, (str, Path)):
        if Path(spine).suffix != ".parquet" or not Path(spine).is_file():
            return None
        import pyarrow.parquet as pq

        try:
            return pq.read_metadata(spine).num_rows
        except (pa.ArrowException, OSError):
            return None
    if isinstance(spine, Mapping):
        columns = list(cast("Mapping[str, Any]", spine).values())
        return len(columns[0]) if columns and isinstance(columns[0], Sized) else None
    return len(spine) if isinstance(spine, Sized) else None


def check_count(name: str, value: object) -> int:
    """A number of things to draw, by the name of its option.

    Raises:
        RequestError: it is none.
    """
    if type(value) is not int or value < 1:
        raise RequestError(f"{name} is a whole number from 1 on")
    return value
