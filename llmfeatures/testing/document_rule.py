"""The rule of documents as plain Python, row by row: which version is there at a moment, and which come into a prompt.

Nothing here is shared with what it judges but the text of JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmfeatures.types import json_text


@dataclass(frozen=True, kw_only=True)
class SourceRow:
    """A row of a source of documents: a version. ``entity`` are the values of its join keys, () for all; ``begins`` and
    ``ends`` are microseconds, None where nothing begins or ends it; ``metadata`` are JSON values."""

    id: str
    text: str
    entity: tuple[Any, ...] = ()
    begins: int | None = None
    ends: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


def visible(rows: Iterable[SourceRow], entity: tuple[Any, ...], at: int) -> list[SourceRow]:
    """What can be read of an entity's documents at a moment, by id.

    Of each id the version that began last by then, of two that began together the one whose text, metadata and end are
    the greater canonical JSON; and that one only before its end.
    """
    newest: dict[str, SourceRow] = {}
    for row in rows:
        if row.entity == entity and (row.begins is None or row.begins <= at):
            known = newest.get(row.id)
            if known is None or _rank(row) > _rank(known):
                newest[row.id] = row
    return [newest[one] for one in sorted(newest) if (end := newest[one].ends) is None or at < end]


def _rank(row: SourceRow) -> tuple[float, bytes]:
    began = -math.inf if row.begins is None else row.begins
    ends = 2**53 - 1 if row.ends is None else row.ends
    return began, json_text([row.text, dict(row.metadata), ends]).encode()


def found(
    rows: Iterable[SourceRow],
    entity: tuple[Any, ...],
    at: int,
    *,
    query: Sequence[float] | None,
    vector_of: Callable[[str], Sequence[float]],
    where: Mapping[str, Any] | None = None,
) -> list[tuple[SourceRow, float | None]]:
    """All documents that a search may give, best first, each with its score: by ``query``, a vector, the nearest first
    and then by id; without one the newest first and then by id. ``where`` is metadata that must be equal."""
    kept = [
        row
        for row in visible(rows, entity, at)
        if all(row.metadata.get(name) == value for name, value in (where or {}).items())
    ]
    if query is None:
        kept.sort(key=lambda row: (math.inf if row.begins is None else -row.begins, row.id))
        return [(row, None) for row in kept]
    scored: list[tuple[SourceRow, float | None]] = [(row, cosine(query, vector_of(row.text))) for row in kept]
    return sorted(scored, key=lambda one: (-(one[1] or 0.0), one[0].id))


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of two vectors, rounded to six decimals; with a vector of no length it is 0."""
    lengths = math.sqrt(math.fsum(x * x for x in one)) * math.sqrt(math.fsum(x * x for x in other))
    return round(math.fsum(x * y for x, y in zip(one, other, strict=True)) / lengths, 6) + 0.0 if lengths else 0.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One name of documents of a prompt: what a search finds, at most ``fetched``, best first; of that at most
    ``top_k`` come into the prompt, none whose score is below ``min_score``."""

    found: Sequence[tuple[SourceRow, float | None]]
    top_k: int
    fetched: int
    min_score: float | None = None


def merged(asked: Sequence[Asked]) -> list[list[tuple[SourceRow, float | None]]]:
    """What comes into a prompt, name by name: a text that is there already does not come again."""
    texts: set[str] = set()
    made: list[list[tuple[SourceRow, float | None]]] = []
    for one in asked:
        kept: list[tuple[SourceRow, float | None]] = []
        for row, score in one.found[: one.fetched]:
            low = one.min_score is not None and (score is None or score < one.min_score)
            if not low and row.text not in texts and len(kept) < one.top_k:
                texts.add(row.text)
                kept.append((row, score))
        made.append(kept)
    return made
