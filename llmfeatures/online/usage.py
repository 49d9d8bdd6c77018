"""How much an online store holds, view by view: counted in bounded work, so that a busy server does not feel it."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

from llmfeatures.codec import view_field
from llmfeatures.online.rows import belongs
from llmfeatures.online.wire import ReplyError
from llmfeatures.ports import Usage, ViewFields, ViewUsage

Views = Mapping[ViewFields, tuple[str, ...]]
"""The views to count, each with the join keys of its entity."""
Ask = Callable[[Sequence[tuple[str, ...]]], list[Any]]
"""Sends commands to a Redis server in one round trip; a refused one is answered with a `ReplyError`."""

EXACT_KEYS = 100_000
"""Entity keys that are counted one by one; of more, only so many, and the rest is estimated."""
_PAGE = 500
"""Keys of one SCAN: others wait while a server answers it."""
_ROWS = 50_000
"""Rows of a SQLite file that are counted before a look at the time."""
_SAMPLED = 200
"""Entity keys of each view whose size in memory is looked at."""
_SAMPLED_PER_PAGE = 20


class _Part(NamedTuple):
    """A view of an entity: its stamp's field, and the fields that are its own."""

    name: str
    stamp: str
    fields: tuple[str, ...]


@dataclass(slots=True)
class _Entity:
    """What was found of the keys of one entity so far."""

    views: tuple[_Part, ...]
    keys: dict[str, int] = field(default_factory=dict[str, int])
    sampled_keys: dict[str, int] = field(default_factory=dict[str, int])
    sampled_bytes: dict[str, float] = field(default_factory=dict[str, float])

    def count(self, name: str) -> None:
        self.keys[name] = self.keys.get(name, 0) + 1

    def sample(self, name: str, size: float) -> None:
        self.sampled_keys[name] = self.sampled_keys.get(name, 0) + 1
        self.sampled_bytes[name] = self.sampled_bytes.get(name, 0.0) + size


def redis_usage(ask: Ask, prefix: str, views: Views, seconds: float, *, exact_keys: int = EXACT_KEYS) -> Usage:
    """What a Redis server holds of these views.

    Keys are counted with SCAN, which serves others between two pages. A view's bytes are its part of MEMORY USAGE, by
    length of text, of a sample of its keys. Beyond ``exact_keys`` keys of this namespace or ``seconds``, the counts are
    scaled by the share of the database's keys that was seen.
    """
    deadline = time.monotonic() + seconds
    problems: list[str] = []
    server = _server(ask, problems)
    entities = _entities(views)
    done, seen = _count(ask, prefix, entities, deadline, exact_keys, problems)
    factor: float | None = 1.0
    if not done:
        total = _database_keys(ask)
        factor = None if total is None or not seen else max(1.0, total / seen)
    return Usage(
        views={part.name: _scaled(entity, part.name, factor) for entity in entities.values() for part in entity.views},
        exact=done,
        memory_used=_number(server, "used_memory"),
        memory_limit=_number(server, "maxmemory") or None,
        eviction_policy=server.get("maxmemory_policy"),
        evicted_keys=_number(server, "evicted_keys"),
        problems=tuple(problems),
    )


def sqlite_usage(connection: sqlite3.Connection | None, path: Path, prefix: str, views: Views, seconds: float) -> Usage:
    """What a SQLite file holds of these views; None is a file that is not there.

    A view's bytes are those of its fields, values and keys as text. When ``seconds`` are over, what was counted by then
    is a lower bound.
    """
    deadline = time.monotonic() + seconds
    exact = True
    counted: dict[str, ViewUsage] = {}
    for join_keys, entity in _entities(views).items():
        keys: dict[str, int] = {}
        sizes: dict[str, int] = {}
        if connection is not None:
            for name, count, size in _cells(connection, prefix, join_keys):
                keys[name] = keys.get(name, 0) + count
                sizes[name] = sizes.get(name, 0) + size
                if time.monotonic() > deadline:
                    exact = False
                    break
        for part in entity.views:
            size = sum(sizes.get(name, 0) for name in (part.stamp, *part.fields))
            counted[part.name] = ViewUsage(keys=keys.get(part.stamp, 0), bytes=size)
    used = sum(_file_size(f"{path}{suffix}") for suffix in ("", "-wal"))
    return Usage(views=counted, exact=exact, memory_used=used)


def _entities(views: Views) -> dict[tuple[str, ...], _Entity]:
    parts: dict[tuple[str, ...], list[_Part]] = {}
    for view, join_keys in views.items():
        parts.setdefault(tuple(join_keys), []).append(_Part(view.name, view_field(view.name), view.features))
    return {join_keys: _Entity(tuple(found)) for join_keys, found in parts.items()}


def _scaled(entity: _Entity, name: str, factor: float | None) -> ViewUsage:
    """A view's count from what was seen; unknown without a factor, bytes also without a sample."""
    keys = None if factor is None else round(entity.keys.get(name, 0) * factor)
    sampled = entity.sampled_keys.get(name, 0)
    if keys is None or (keys and not sampled):
        return ViewUsage(keys=keys, bytes=None)
    return ViewUsage(keys=keys, bytes=round(keys * entity.sampled_bytes[name] / sampled) if keys else 0)


def _count(
    ask: Ask,
    prefix: str,
    entities: Mapping[tuple[str, ...], _Entity],
    deadline: float,
    exact_keys: int,
    problems: list[str],
) -> tuple[bool, int]:
    """Count into ``entities``: whether every key was seen, and how many of the database were."""
    cursor, seen, own = "0", 0, 0
    measured = True
    while True:
        page = ask([("SCAN", cursor, "COUNT", str(_PAGE))])[0]
        if isinstance(page, ReplyError):
            problems.append(f"keys are not counted: the server refuses SCAN ({page.code})")
            return False, 0
        cursor, names = cast("tuple[str, list[str]]", page)
        seen += len(names)
        for join_keys, entity in entities.items():
            # a key that moved while the server's table grew comes twice within a page, or nearly never
            keys = [name for name in dict.fromkeys(names) if _is_of(name, prefix, join_keys)]
            own += len(keys)
            typical = _look(ask, keys, entity)
            if measured:
                measured = _measure(ask, typical, entity, problems)
        if cursor == "0":
            return True, seen
        if own >= exact_keys or time.monotonic() > deadline:
            return False, seen


def _is_of(name: str, prefix: str, join_keys: tuple[str, ...]) -> bool:
    return name.startswith(prefix) and belongs(name[len(prefix) :], join_keys)


def _look(ask: Ask, keys: Sequence[str], entity: _Entity) -> list[str]:
    """Count the views that these keys have; a few of the keys of each view whose sample is not full."""
    stamps = [part.stamp for part in entity.views]
    typical: dict[str, None] = {}
    room = {
        part.name: min(_SAMPLED_PER_PAGE, _SAMPLED - entity.sampled_keys.get(part.name, 0)) for part in entity.views
    }
    answers = ask([("HMGET", key, *stamps) for key in keys]) if keys else []
    for key, found in zip(keys, answers, strict=True):
        if type(found) is not list:  # something else lies under the key
            continue
        for part, stamp in zip(entity.views, cast("list[Any]", found), strict=True):
            if stamp is not None:
                entity.count(part.name)
                if room[part.name] > 0:
                    room[part.name] -= 1
                    typical[key] = None
    return list(typical)


def _measure(ask: Ask, keys: Sequence[str], entity: _Entity, problems: list[str]) -> bool:
    """Take the sizes of these keys into the sample; False when the server does not tell them."""
    fields = [name for part in entity.views for name in (part.stamp, *part.fields)]
    commands = [command for key in keys for command in (("MEMORY", "USAGE", key), ("HMGET", key, *fields))]
    answers = ask(commands) if commands else []
    for size, texts in zip(answers[::2], answers[1::2], strict=True):
        if isinstance(size, ReplyError):
            problems.append(f"bytes are not known: the server refuses MEMORY USAGE ({size.code})")
            return False
        if size is None or type(texts) is not list:  # it expired meanwhile
            continue
        rest = iter(cast("list[str | None]", texts))
        weights = {part.name: _weight(part, list(islice(rest, len(part.fields) + 1))) for part in entity.views}
        whole = sum(weights.values())
        for name, weight in weights.items():
            if weight:
                entity.sample(name, size * weight / whole)
    return True


def _weight(part: _Part, texts: Sequence[str | None]) -> int:
    """How long a view's fields and values are in a hash; 0 when it is not there."""
    if texts[0] is None:
        return 0
    named = zip((part.stamp, *part.fields), texts, strict=True)
    return sum(len(name.encode()) + len(text.encode()) for name, text in named if text is not None)


def _server(ask: Ask, problems: list[str]) -> dict[str, str]:
    """What the server says of its memory and evictions."""
    found: dict[str, str] = {}
    for answer in ask([("INFO", "memory"), ("INFO", "stats")]):
        if isinstance(answer, ReplyError):
            problems.append(f"memory and evictions are not known: the server refuses INFO ({answer.code})")
            break
        lines = (line.partition(":") for line in str(answer).splitlines())
        found |= {name: text for name, _, text in lines}
    return found


def _number(server: Mapping[str, str], name: str) -> int | None:
    text = server.get(name, "")
    return int(text) if text.isdecimal() else None


def _database_keys(ask: Ask) -> int | None:
    size = ask([("DBSIZE",)])[0]
    return size if isinstance(size, int) else None


_CELLS = """
SELECT field, count(*), sum(length(CAST(key AS BLOB)) + length(field) + length(CAST(value AS BLOB)))
FROM (SELECT key, field, value FROM cells WHERE (key, field) > (?, ?) AND key < ? ORDER BY key, field LIMIT ?)
WHERE key GLOB ? AND length(key) - length(replace(key, ':', '')) = ? GROUP BY field
"""
_LAST = """
SELECT key, field FROM cells WHERE (key, field) > (?, ?) AND key < ? ORDER BY key, field LIMIT 1 OFFSET ?
"""


def _cells(connection: sqlite3.Connection, prefix: str, join_keys: tuple[str, ...]) -> Iterator[tuple[str, int, int]]:
    """Each field of an entity's keys, how often it is there and its bytes; in portions, so a field comes again."""
    place = (f"{prefix}{join_keys[0]}:", "")
    until = f"{prefix}{join_keys[0]};"  # the character after ':'
    # As many colons as are written in the pattern: so no * stands for one.
    pattern = prefix + ":".join(f"{name}:*" for name in join_keys)
    while True:
        portion = (*place, until, _ROWS, pattern, pattern.count(":"))
        yield from connection.execute(_CELLS, portion).fetchall()
        last = connection.execute(_LAST, (*place, until, _ROWS - 1)).fetchone()
        if last is None:
            return
        place = last


def _file_size(name: str) -> int:
    try:
        return os.stat(name).st_size  # noqa: PTH116 - a name with a suffix
    except OSError:
        return 0
