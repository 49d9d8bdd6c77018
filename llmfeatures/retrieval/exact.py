# numpy's kernels take and give what has no narrow type here
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
"""Exact search in an embedded index, of one query or of many at once; both give the same bits.

A float32 product of matrices depends on their shapes in its last digits. So it only says which rows may be among the
best, with a margin that is greater than its error; their scores are then computed in float64, row by row, in an order
of summation that depends on the dimensions alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np

from llmfeatures.errors import RetrieverError
from llmfeatures.ports import Document, DocumentQuery
from llmfeatures.retrieval.loaded import Loaded
from llmfeatures.retrieval.wire import moment, rounded
from llmfeatures.types import DType

_FEW: Final = 1_024
"""An entity with no more rows than this is looked at row by row."""
_SMALL: Final = 1 << 18
"""So many rows of small entities are looked at together."""
_DIRECT: Final = 256
"""So few rows need no float32 scores first."""
_NUMBERS: Final = 1 << 20
"""So many products are computed in float64 at once."""
_PRODUCTS: Final = 1 << 23
"""So many numbers a product of matrices has at most."""
_WIDTH: Final = 2_048
"""So many columns' greatest values are looked at for a bound of the best."""
_COPIED: Final = 4
"""To copy a row for a product takes as long as so many rows of one."""
_UNIT: Final = 2.0**-24
_STEP: Final = 1.0000001e-6

Found = tuple[Any, Any]
"""Numbers of queries, and the rows that may be found for them."""


@dataclass(slots=True)
class Asked:
    """The queries of one call, as arrays: when, of which rows, how many, and what their metadata must be."""

    at: Any
    start: Any
    stop: Any
    top: Any
    filters: list[dict[str, int]]
    vectors: dict[int, Any] = field(default_factory=dict[int, Any])

    @classmethod
    def of(cls, loaded: Loaded, queries: Sequence[DocumentQuery], dtypes: Mapping[str, DType]) -> Asked:
        """Raises RetrieverError where a query has no vector that can be compared, or filters what there is not."""
        blocks = [loaded.blocks.get(one.entity, (0, 0)) for one in queries]
        asked = cls(
            np.array([moment(one.as_of) for one in queries], np.int64),
            np.array([start for start, _ in blocks], np.int64),
            np.array([stop for _, stop in blocks], np.int64),
            np.array([max(one.top_k, 0) for one in queries], np.int64),
            [_filters(loaded, one, dtypes) for one in queries],
        )
        for number, one in enumerate(queries):
            if one.order == "score":
                asked.vectors[number] = _vector(loaded, one)
        return asked


def search(
    loaded: Loaded, queries: Sequence[DocumentQuery], dtypes: Mapping[str, DType], tick: Callable[[], None]
) -> list[list[Document]]:
    """The documents of each query, by the contract of `DocumentStore.search`. ``tick`` is called now and then, and may
    raise.

    Raises:
        RetrieverError: a query has no vector of the index's dimensions, or filters what there is not.
    """
    asked = Asked.of(loaded, queries, dtypes)
    few: dict[tuple[str, ...], list[int]] = {}
    many: dict[tuple[Any, ...], list[int]] = {}
    for number, one in enumerate(queries):
        rows = int(asked.stop[number] - asked.start[number])
        if not rows or not asked.top[number]:
            continue
        filters = asked.filters[number]
        if rows <= _FEW:
            few.setdefault((one.order, *sorted(filters)), []).append(number)
        else:
            many.setdefault((one.order, one.entity, tuple(sorted(filters.items()))), []).append(number)
    best = _Best(loaded, asked)
    for (order, *names), numbers in few.items():
        for part in _parts(asked, numbers):
            tick()
            best.add(order, *_few(loaded, asked, part, names, order))
    for (order, _, filters), numbers in many.items():
        block = _Block.of(loaded, int(asked.start[numbers[0]]), int(asked.stop[numbers[0]]), filters)
        numbers.sort(key=lambda number: int(asked.at[number]))
        size = max(1, _PRODUCTS // len(block.begins)) if order == "score" else 1
        for first in range(0, len(numbers), size):
            tick()
            part = np.array(numbers[first : first + size])
            best.add(
                order, *(_nearest(loaded, asked, part, block) if order == "score" else _newest(asked, part[0], block))
            )
    tick()
    return best.documents(len(queries), dtypes)


def _vector(loaded: Loaded, query: DocumentQuery) -> Any:
    if loaded.matrix is None:
        raise RetrieverError("this index has no vectors, and finds documents by order: recent only")
    vector = np.asarray([] if query.vector is None else query.vector, np.float32)
    if vector.shape != (loaded.matrix.shape[1],) or not np.isfinite(vector).all():
        raise RetrieverError(f"a query needs a vector of {loaded.matrix.shape[1]} finite numbers")
    return vector


def _filters(loaded: Loaded, query: DocumentQuery, dtypes: Mapping[str, DType]) -> dict[str, int]:
    """The number that each filtered metadata column must have; none has -1."""
    made: dict[str, int] = {}
    for name, value in query.filter.items():
        if name not in dtypes:
            raise RetrieverError(f"this index has no metadata {name!r} to filter by")
        made[name] = loaded.coded(name)[1].get(dtypes[name].encode(value), -1)
    return made


def _parts(asked: Asked, numbers: Sequence[int]) -> list[Any]:
    """The numbers in parts whose entities have a bounded number of rows together, an entity's next to each other."""
    whole = np.array(numbers)
    whole = whole[np.argsort(asked.start[whole], kind="stable")]
    sizes = np.cumsum(asked.stop[whole] - asked.start[whole]) // _SMALL
    return np.split(whole, np.flatnonzero(np.diff(sizes)) + 1)


def _few(loaded: Loaded, asked: Asked, part: Any, names: Sequence[str], order: str) -> Found:
    """The rows of small entities that are visible to their queries, and may be among the best."""
    start, size = asked.start[part], asked.stop[part] - asked.start[part]
    of = np.repeat(np.arange(len(part)), size)
    rows = np.arange(len(of)) - np.repeat(np.cumsum(size) - size, size) + np.repeat(start, size)
    at = asked.at[part][of]
    seen = (loaded.valid_from[rows] <= at) & (at < loaded.valid_to[rows])
    for name in names:
        wanted = np.array([asked.filters[number][name] for number in part])
        seen &= loaded.coded(name)[0][rows] == wanted[of]
    if order == "score" and len(of) > _DIRECT:
        scores = _products(loaded, asked, part)[seen]
        of, rows = of[seen], rows[seen]
        kept = scores >= (_last(of, scores, asked.top[part]) - _margins(loaded, asked, part))[of]
        return part[of[kept]], rows[kept]
    return part[of[seen]], rows[seen]


def _products(loaded: Loaded, asked: Asked, part: Any) -> Any:
    """The float32 scores of all rows of small entities, query by query."""
    start, stop = asked.start[part], asked.stop[part]
    scores = np.empty(int((stop - start).sum()), np.float32)
    bounds = [*np.flatnonzero(np.diff(start, prepend=-1)).tolist(), len(part)]
    done = 0
    for first, end in pairwise(bounds):
        vectors = np.stack([asked.vectors[number] for number in part[first:end].tolist()])
        made = vectors @ loaded.matrix[start[first] : stop[first]].T
        scores[done : done + made.size] = made.ravel()
        done += made.size
    return scores


def _last(of: Any, scores: Any, top: Any) -> Any:
    """For each query the score of the last that it takes; -inf where it takes all."""
    ordered = np.lexsort((-scores, of))
    counts = np.bincount(of, minlength=len(top))
    begins = np.cumsum(counts) - counts
    bounds = np.full(len(top), -np.inf)
    more = counts > top
    bounds[more] = scores[ordered[begins[more] + top[more] - 1]]
    return bounds


def _margins(loaded: Loaded, asked: Asked, part: Any) -> Any:
    """For each query more than twice the error of a float32 score, and a step of rounding."""
    vectors = np.stack([asked.vectors[number] for number in part.tolist()])
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    return 2.1 * vectors.shape[1] * _UNIT * loaded.norm * lengths + _STEP


@dataclass(frozen=True, slots=True)
class _Block:
    """The rows of a great entity, from ``start`` on: when they are valid, and which have the metadata (None: all)."""

    start: int
    begins: Any
    ends: Any
    kept: Any

    @classmethod
    def of(cls, loaded: Loaded, start: int, stop: int, filters: Sequence[tuple[str, int]]) -> _Block:
        kept = None
        for name, code in filters:
            alike = loaded.coded(name)[0][start:stop] == code
            kept = alike if kept is None else kept & alike
        return cls(start, loaded.valid_from[start:stop], loaded.valid_to[start:stop], kept)


def _newest(asked: Asked, number: Any, block: _Block) -> Found:
    """The rows of a great entity that are visible and among the newest."""
    at, top = asked.at[number], int(asked.top[number])
    visible = (block.begins <= at) & (at < block.ends)
    seen = np.flatnonzero(visible if block.kept is None else visible & block.kept)
    if len(seen) > top:
        moments = block.begins[seen]
        seen = seen[moments >= np.partition(moments, len(moments) - top)[len(moments) - top]]
    return np.full(len(seen), number), seen + block.start


def _nearest(loaded: Loaded, asked: Asked, part: Any, block: _Block) -> Found:
    """The rows of a great entity that are visible to each query and may be among its best. The queries of a part are
    in the order of their moments."""
    begins, ends, size = block.begins, block.ends, len(block.begins)
    first, last = asked.at[part[0]], asked.at[part[-1]]
    never = (begins > last) | (ends <= first)
    if block.kept is not None:
        never |= ~block.kept
    left = size - int(np.count_nonzero(never))
    if not left:
        return part[:0], part[:0]
    rows: Any = None
    if left * (_COPIED if len(part) < _COPIED else 1.25) < size:
        rows = np.flatnonzero(~never)
        begins, ends = begins[rows], ends[rows]
        rows += block.start
    matrix = loaded.matrix[block.start : block.start + size] if rows is None else loaded.matrix[rows]
    vectors = np.stack([asked.vectors[number] for number in part])
    scores = (matrix @ vectors[0])[None, :] if len(part) == 1 else vectors @ matrix.T
    if rows is None and left < size:
        scores += np.where(never, np.float32("-inf"), np.float32(0))
    if first < last:
        changing = np.flatnonzero((begins > first) | (ends <= last))
        at = asked.at[part][:, None]
        hidden = (begins[changing] > at) | (ends[changing] <= at)
        scores[:, changing] = np.where(hidden, np.float32("-inf"), scores[:, changing])
    margins = _margins(loaded, asked, part)
    of: list[Any] = []
    chosen: list[Any] = []
    for place, number in enumerate(part):
        best = _best(scores[place], int(asked.top[number]), float(margins[place]))
        of.append(np.full(len(best), number))
        chosen.append(best + block.start if rows is None else rows[best])
    return np.concatenate(of), np.concatenate(chosen)


def _best(scores: Any, top: int, margin: float) -> Any:
    """The places of all scores that are at most ``margin`` below the ``top`` best one; of none that is -inf."""
    bound = np.float32("-inf")
    width = min(max(_WIDTH, 4 * top), len(scores))
    whole = len(scores) // width * width
    if top <= width:
        greatest = scores[:whole].reshape(-1, width).max(axis=0)  # of so many disjoint sets of scores
        bound = np.partition(greatest, width - top)[width - top]
    seen = np.flatnonzero(scores >= bound - margin) if np.isfinite(bound) else np.flatnonzero(np.isfinite(scores))
    if len(seen) > 2 * top:
        held = scores[seen]
        bound = np.partition(held, len(held) - top)[len(held) - top]
        seen = seen[held >= bound - margin]
    return seen


class _Best:
    """Takes what may be found, orders it, and keeps the best of each query."""

    def __init__(self, loaded: Loaded, asked: Asked) -> None:
        self._loaded, self._asked = loaded, asked
        self._kept: list[tuple[Any, Any, list[float] | None]] = []

    def add(self, order: str, of: Any, rows: Any) -> None:
        """All rows that may be found for some queries."""
        if not len(of):
            return
        scores: Any = None
        if order == "score":
            scores = self._scores(of, rows)
            ordered = np.lexsort((rows, -scores, of))
        else:
            ordered = np.lexsort((rows, -self._loaded.valid_from[rows], of))
        of = of[ordered]
        begins = np.flatnonzero(np.diff(of, prepend=-1))
        rank = np.arange(len(of)) - np.repeat(begins, np.diff(begins, append=len(of)))
        first = np.flatnonzero(rank < self._asked.top[of])
        chosen = ordered[first]
        self._kept.append((of[first], rows[chosen], None if scores is None else scores[chosen].tolist()))

    def documents(self, queries: int, dtypes: Mapping[str, DType]) -> list[list[Document]]:
        """The documents of each query."""
        found: list[list[Document]] = [[] for _ in range(queries)]
        if not self._kept:
            return found
        make = self._loaded.documents(np.unique(np.concatenate([rows for _, rows, _ in self._kept])), dtypes)
        for of, rows, scores in self._kept:
            for number, row, score in zip(of.tolist(), rows.tolist(), scores or [None] * len(of), strict=True):
                found[number].append(make(row, score))
        return found

    def _scores(self, of: Any, rows: Any) -> Any:
        """The score of each pair, rounded. The sum of a row depends on nothing but the row."""
        used, place = np.unique(of, return_inverse=True)
        vectors = np.stack([self._asked.vectors[number] for number in used.tolist()]).astype(np.float64)
        made = np.empty(len(of))
        size = max(1, _NUMBERS // vectors.shape[1])
        for start in range(0, len(of), size):
            held = self._loaded.matrix[rows[start : start + size]].astype(np.float64)
            held *= vectors[place[start : start + size]]
            made[start : start + size] = held.sum(axis=1)
        return rounded_all(made)


def rounded_all(scores: Any) -> Any:
    """`rounded` of each score."""
    millionths = np.clip(scores, -1.0, 1.0) * 1e6
    made = np.rint(millionths) / 1e6 + 0.0
    # where it is close, the product with a million may have been rounded over the half
    close = np.flatnonzero(np.abs(np.abs(millionths - np.floor(millionths)) - 0.5) < 1e-6)
    made[close] = [rounded(one) for one in scores[close].tolist()]
    return made
