"""Which way a join takes for one lookup, from sizes alone: pure, so that `explain` says what `join` does.

- ``newest``: each key is asked for at one moment only, so each has one winner: the newest row by then.
- ``aggregate``: every ask meets all rows of its key, and the greatest event wins. Little memory, no sort; work grows
  with asks per key times rows per key, so it is for few asks per key.
- ``asof``: asks and rows are sorted by key and time and walked together. Work grows with their sum.
- ``partitioned``: as ``asof``, for one range of keys after another, so that a sort fits in memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from llmfeatures.errors import ConfigError, did_you_mean

FORCED = ("aggregate", "asof", "partitioned")
"""The strategies that can be asked for; ``newest`` needs a spine that it fits."""
_MEAN_ASKS = 4.0
"""Up to so many asks per key on average, meeting all rows of a key costs less than sorting them."""
_MOST_ASKS = 64
"""No key may be asked for more often: one busy key times its rows would be work without end."""
_SORTED_BYTES = 64
"""What a row or an ask takes in a sort, keys and moments as integers, with what DuckDB adds to it."""
_SHARE = 0.4
"""The part of the memory limit that a sort may take: the rest is for what streams past it."""
_SORT_BYTES = 128 << 20
"""No sort takes more, whatever the limit: smaller ones in turn are no slower, and the peak of memory is lower."""
_FORCED_PASSES = 3
_ANSWER_BYTES = 128
"""What one answer takes in the hash table and the sort of the last step; a row of the spine takes as much."""
_LEAST_RANGE, _MOST_RANGE = 20_000, 1_000_000
_SMALL_RANGE, _RANGES = 250_000, 4
"""Each range passes over all answers, so there are few; small ones take less memory."""
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"([\d.]+)\s*([kmgt]?)(i?)b(?:ytes)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What is asked of a set of keys: distinct ``keys``, ``asks`` in all, the ``most`` for one key, and whether each
    key is asked for at ``one`` moment only."""

    keys: int
    asks: int
    most: int
    one: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A strategy of this module's list, in how many passes, and why, as a sentence."""

    strategy: str
    passes: int = 1
    reason: str


def checked(strategy: str | None) -> str | None:
    """The strategy, if it is one that can be asked for.

    Raises:
        ConfigError: it is not.
    """
    if strategy is not None and strategy not in FORCED:
        raise ConfigError(f"there is no join strategy {strategy!r}{did_you_mean(strategy, FORCED)}")
    return strategy


def decide(asking: Asking, rows: int, memory: int, forced: str | None = None) -> Decision:
    """How to find the winners of these asks among so many ``rows`` of history, those of the spine's keys that are not
    later than the last ask. ``memory`` is the limit in bytes."""
    if forced is not None:
        passes = max(1, min(_FORCED_PASSES, asking.keys)) if forced == "partitioned" else 1
        return Decision(strategy=forced, passes=passes, reason="it was asked for by name")
    if asking.one:
        return Decision(
            strategy="newest",
            reason=f"each of the {asking.keys:,} keys is asked for at one moment, so it has one winner",
        )
    mean = asking.asks / max(1, asking.keys)
    said = f"{asking.asks:,} asks of {asking.keys:,} keys are {mean:.1f} each, at most {asking.most:,}"
    if mean <= _MEAN_ASKS and asking.most <= _MOST_ASKS:
        return Decision(strategy="aggregate", reason=f"{said}: few enough to meet every row of their key, with no sort")
    needed, share = (asking.asks + rows) * _SORTED_BYTES, min(int(memory * _SHARE), _SORT_BYTES)
    sort = f"sorting them with {rows:,} rows takes about {_mib(needed)}"
    if needed <= share:
        return Decision(strategy="asof", reason=f"{said}; {sort}, within the {_mib(share)} a sort may take")
    passes = max(2, min(ceil(needed / max(1, share)), asking.keys))
    return Decision(
        strategy="partitioned",
        passes=passes,
        reason=f"{said}; {sort}, more than the {_mib(share)} a sort may take, so keys are joined in {passes} parts",
    )


def parts(asking: Asking, passes: int) -> list[tuple[int, int] | None]:
    """The ranges of key numbers (1 to ``keys``, both ends included) of the passes; None for all keys in one."""
    if passes <= 1:
        return [None]
    edges = [asking.keys * number // passes for number in range(passes + 1)]
    return [(low + 1, high) for low, high in pairwise(edges) if high > low]


def range_rows(lookups: int, memory: int, count: int) -> int:
    """How many of the ``count`` rows of a spine to put in order at once, with their answers to so many lookups."""
    wanted = max(_SMALL_RANGE, min(_MOST_RANGE, count // _RANGES))
    return max(_LEAST_RANGE, min(wanted, memory // 4 // (_ANSWER_BYTES * (1 + lookups))))


def size(written: str) -> int:
    """Bytes of a size as DuckDB writes it, like ``953.6 MiB``; a terabyte for what is no size (no limit)."""
    found = _SIZE.fullmatch(written.strip())
    if found is None:
        return 10**12
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** _UNITS[unit.lower()])


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB" if count >= 2**20 else "1 MiB"
