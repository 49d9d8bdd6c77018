"""The shortest edit between two sequences, by Myers' greedy algorithm, bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple


class Hunk(NamedTuple):
    """``old[low:high]`` became ``new[start:end]``."""

    low: int
    high: int
    start: int
    end: int


def hunks(old: Sequence[Hashable], new: Sequence[Hashable], most: int) -> list[Hunk]:
    """The differing stretches, in order; one from the first to the last difference where more than ``most`` elements
    would have to be removed or added."""
    low, high, end = 0, len(old), len(new)
    shorter = min(high, end)
    while low < shorter and old[low] == new[low]:
        low += 1
    while high > low and end > low and old[high - 1] == new[end - 1]:
        high, end = high - 1, end - 1
    if low in (high, end):
        return [Hunk(low, high, low, end)] if high > low or end > low else []
    before, after = old[low:high], new[low:end]
    shared = (Counter(before) & Counter(after)).total()
    if not shared or len(before) + len(after) - 2 * shared > most:  # so many differ at least
        return [Hunk(low, high, low, end)]
    steps = _steps(before, after, most)
    if steps is None:
        return [Hunk(low, high, low, end)]
    return _stretches(steps, high - low, end - low, low)


def _steps(old: Sequence[Hashable], new: Sequence[Hashable], most: int) -> list[tuple[int, int]] | None:
    """The points at which an element is removed or added, from the end to the start: (x, y) before each such step,
    with the diagonal after it left out; None where there are more than ``most``."""
    rows, columns = len(old), len(new)
    reach = {1: 0}
    trace: list[dict[int, int]] = []
    for depth in range(min(rows + columns, most) + 1):
        trace.append(dict(reach))
        for line in range(-depth, depth + 1, 2):
            down = line == -depth or (line != depth and reach[line - 1] < reach[line + 1])
            x = reach[line + 1] if down else reach[line - 1] + 1
            y = x - line
            while x < rows and y < columns and old[x] == new[y]:
                x, y = x + 1, y + 1
            reach[line] = x
            if x >= rows and y >= columns:
                return _back(trace, rows, columns)
    return None


def _back(trace: Sequence[dict[int, int]], x: int, y: int) -> list[tuple[int, int]]:
    steps: list[tuple[int, int]] = []
    for depth in range(len(trace) - 1, 0, -1):
        reach, line = trace[depth], x - y
        down = line == -depth or (line != depth and reach[line - 1] < reach[line + 1])
        before = line + 1 if down else line - 1
        x = reach[before]
        y = x - before
        steps.append((x, y) if down else (x, -1))
    return steps


def _stretches(steps: Sequence[tuple[int, int]], rows: int, columns: int, offset: int) -> list[Hunk]:
    removed = {x for x, y in steps if y < 0}
    added = {y for _, y in steps if y >= 0}
    made: list[Hunk] = []
    x = y = 0
    while x < rows or y < columns:
        low, start = x, y
        while x in removed or y in added:
            if x in removed:
                x += 1
            if y in added:
                y += 1
        if x > low or y > start:
            made.append(Hunk(low + offset, x + offset, start + offset, y + offset))
        x, y = x + 1, y + 1
    return made
