# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""The prompts of a report: their lengths, how many are distinct, a sample of them, and the most different ones."""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import compute

from llmfeatures.report.tally import Numbers, Top

pc: Any = compute

_SKETCH = 16_384
"""Smallest prompt ids that are kept: the count of distinct prompts is exact below it, and then within about 2 %."""
_SAMPLE = 300
_LONGEST = 20_000
_LEADERS = 8
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt as a report shows it; ``rows`` how many have it, 0 where that is not known."""

    identity: str
    text: str
    rows: int


class Prompts:
    """Prompts, worked on once per distinct one of a batch. A prompt's id is a hash, so the smallest ids are a random
    sample of the distinct prompts, and the same one however the rows are cut."""

    def __init__(self) -> None:
        self.lengths = Numbers()
        self.counts = Top()
        self._smallest: set[str] = set()
        self._bound: str | None = None
        self._texts: dict[str, str] = {}
        self._leaders: dict[str, str] = {}

    def add(self, identities: Any, messages: Any) -> None:
        """Count the rows of a batch: ``prompt_id`` text and ``messages``, null where there is no prompt."""
        numbered = pa.table({"id": identities, "row": pa.array(range(len(identities)), pa.int64())})
        grouped = numbered.group_by("id", use_threads=False).aggregate([("row", "min"), ("row", "count")])
        grouped = grouped.filter(grouped.column("id").is_valid()).combine_chunks()
        if not grouped.num_rows:
            return
        ids, counts = grouped.column("id").combine_chunks(), grouped.column("row_count").combine_chunks()
        rows = grouped.column("row_min").combine_chunks()
        taken = messages.take(rows)
        self.lengths.add(_lengths(taken), counts)
        self.counts.add(zip(ids.to_pylist(), counts.to_pylist(), strict=True))
        fresh = ids if self._bound is None else ids.filter(pc.less(ids, self._bound))
        self._smallest.update(fresh.to_pylist())
        if len(self._smallest) > 2 * _SKETCH:
            self._cut()
        self._keep_texts(ids, taken)

    def _cut(self) -> None:
        kept = sorted(self._smallest)[:_SKETCH]
        self._smallest, self._bound = set(kept), kept[-1]

    def _keep_texts(self, ids: Any, messages: Any) -> None:
        places = pc.sort_indices(ids).slice(0, _SAMPLE)
        for place in places.to_pylist():
            identity = ids[place].as_py()
            if identity not in self._texts:
                self._texts[identity] = _text(messages[place].as_py())
        if len(self._texts) > _SAMPLE:
            self._texts = {one: self._texts[one] for one in heapq.nsmallest(_SAMPLE, self._texts)}
        # the one that leads in the end also led after its own last batch, so its text is at hand then
        leaders = [identity for identity, _ in self.counts.most_common(_LEADERS)]
        kept = {one: self._leaders[one] for one in leaders if one in self._leaders}
        for one in leaders:
            if one not in kept and (place := pc.index(ids, one).as_py()) >= 0:
                kept[one] = _text(messages[place].as_py())
        self._leaders = kept

    def distinct(self) -> tuple[int, bool]:
        """How many distinct prompts, and whether that is exact; else an estimate from the smallest ids."""
        if len(self._smallest) > _SKETCH:
            self._cut()
        if self._bound is None:
            return len(self._smallest), True
        return round((_SKETCH - 1) / (int(self._bound[:16], 16) / 2**64)), False

    def commonest(self) -> Prompt | None:
        """The most frequent prompt; of equals, that with the smallest id."""
        for identity, rows in self.counts.most_common(_LEADERS):
            if identity in self._leaders:
                return Prompt(identity=identity, text=self._leaders[identity], rows=rows)
        return next(iter(self.sample()), None)

    def sample(self) -> list[Prompt]:
        """A random sample of the distinct prompts, by id."""
        return [Prompt(identity=one, text=self._texts[one], rows=self.counts.of(one)) for one in sorted(self._texts)]


def _lengths(messages: Any) -> Any:
    """The characters of all messages of each row, int64."""
    sizes = pc.cast(pc.utf8_length(messages.flatten().field("content")), pa.int64())
    ends = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(sizes)])
    counts = pc.cast(pc.list_value_length(messages), pa.int64())
    stops = pc.cumulative_sum(counts)
    return pc.subtract(ends.take(stops), ends.take(pc.subtract(stops, counts)))


def _text(messages: Sequence[dict[str, str]]) -> str:
    whole = "\n\n".join(f"[{one['role']}]\n{one['content']}" for one in messages)
    return whole if len(whole) <= _LONGEST else f"{whole[:_LONGEST]}\n… (cut; {len(whole):,} characters in all)"


def most_different(start: Prompt, prompts: Sequence[Prompt], number: int) -> list[tuple[Prompt, float]]:
    """The prompts that differ most, each with its distance from the nearest one already chosen.

    ``start`` is the first; each next is the farthest from all before it, by the Jaccard distance of their runs of three
    words (0 the same, 1 nothing in common). Stops early when all that is left is the same.
    """
    left = {one.identity: (one, _shingles(one.text)) for one in prompts if one.identity != start.identity}
    nearest = dict.fromkeys(left, 1.0)
    chosen, latest = [(start, 0.0)], _shingles(start.text)
    while left and len(chosen) < number:
        for identity, (_, shingles) in left.items():
            nearest[identity] = min(nearest[identity], _distance(latest, shingles))
        farthest = min(left, key=lambda one: (-nearest[one], one))
        if not nearest[farthest]:
            break
        prompt, latest = left.pop(farthest)
        chosen.append((prompt, nearest[farthest]))
    return chosen


def _shingles(text: str) -> frozenset[tuple[str, ...]]:
    words = _WORD.findall(text)
    return frozenset(zip(words, words[1:], words[2:], strict=False)) or frozenset([tuple(words)])


def _distance(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> float:
    shared = len(one & other)
    return 1.0 - shared / (len(one) + len(other) - shared)
