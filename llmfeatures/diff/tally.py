# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Counts the rows of two versions, batch by batch: each distinct pair of prompts is looked at once per batch."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Final, NamedTuple

import pyarrow as pa
from pyarrow import compute

from llmfeatures import columns
from llmfeatures.clock import from_microseconds
from llmfeatures.diff.edits import REWRITTEN, Edit, Editor, Edits, Message
from llmfeatures.diff.kinds import Kind, kind_of
from llmfeatures.diff.measure import Measure, TokenTally
from llmfeatures.diff.naming import named_edits
from llmfeatures.diff.result import Counts, Group, Pair
from llmfeatures.diff.sides import Sides
from llmfeatures.diff.vocabulary import vocabulary_of
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.types import DType, json_value, text

pc: Any = compute

_MOST_GROUPS: Final = 2_000
"""Further ones are counted together: a group keeps texts."""
_SAMPLE: Final = 5
_NAMED: Final = 200
"""Of so many groups the edits name what printed their values."""
_MOST_STRINGS: Final = 200
_LONGEST_VALUE: Final = 2_000
"""Of a longer value, the words are not told from the author's."""

Key = tuple[Kind, Edits, str | None]


class _Kept(NamedTuple):
    """A pair that may be shown; ``order`` is its ids, so the least ones are a random sample."""

    order: str
    length: int
    pair: Pair
    rows: Sides


@dataclass(slots=True)
class _Group:
    prompts: int = 0
    tokens: int = 0
    met_pairs: int = 0
    length: int = 0
    sample: list[_Kept] = field(default_factory=list[_Kept])

    def met(self, rows: int, messages: Sequence[Message]) -> int:
        """Count the rows of a pair; gives its length."""
        length = sum(len(one.content) for one in messages)
        self.prompts += rows
        self.met_pairs += 1
        self.length += length
        return length

    def wants(self, order: str) -> bool:
        """Whether a pair of these ids is among the least so far."""
        sample = self.sample
        return (len(sample) < _SAMPLE or order < sample[-1].order) and all(one.order != order for one in sample)

    def keep(self, kept: _Kept) -> None:
        """Keep a pair in the place of the last."""
        insort(self.sample, kept, key=lambda one: one.order)
        del self.sample[_SAMPLE:]

    def telling(self) -> _Kept | None:
        """Of the sample, the pair nearest to the mean length."""
        if not self.sample:
            return None
        mean = self.length / self.met_pairs
        return min(self.sample, key=lambda one: (abs(one.length - mean), one.order))


class Tally:
    """What two versions make of the rows so far."""

    def __init__(self, old: PromptPlan, new: PromptPlan, measure: Measure) -> None:
        self._plans = old, new
        self._vocabularies = vocabulary_of(old), vocabulary_of(new)
        self._editor = Editor(self._vocabularies[0] | self._vocabularies[1])
        self.tokens = TokenTally(measure)
        self._groups: dict[Key, _Group] = {}
        self._kinds: dict[Edits, Kind] = {}
        self._rows = self._edited = self._now = self._fixed = self._both = 0
        self._first: int | None = None
        self._last: int | None = None
        self.overflown = False

    def add(self, sides: Sides) -> None:
        """Count a batch."""
        old = sides.old
        self._rows += old.num_rows
        self._see(old.column("as_of"))
        had, has = (one.column("prompt_id").is_valid() for one in sides)
        self._both += pc.sum(pc.invert(pc.or_(had, has))).as_py() or 0
        self._now += self._failing("error now", sides, pc.and_(had, pc.invert(has)))
        self._fixed += self._failing("fixed now", sides, pc.and_(has, pc.invert(had)))
        ids = [one.column("prompt_id") for one in sides]
        same = pc.fill_null(pc.equal(*ids), fill_value=False)
        self._same(old, same)
        self._changed(sides, pc.and_(pc.and_(had, has), pc.invert(same)))

    @property
    def counts(self) -> Counts:
        """How many rows there were of each sort."""
        return Counts(
            rows=self._rows,
            edited=self._edited,
            errors_now=self._now,
            fixed_now=self._fixed,
            errors_both=self._both,
        )

    @property
    def moments(self) -> tuple[datetime, datetime] | None:
        """The first and the last moment; None of no rows."""
        if self._first is None or self._last is None:
            return None
        return from_microseconds(self._first), from_microseconds(self._last)

    def groups(self) -> tuple[Group, ...]:
        """The groups of changed rows, the largest first."""
        largest = sorted(self._groups.items(), key=lambda item: (-item[1].prompts, repr(item[0])))
        made: list[Group] = []
        for place, ((kind, edits, reason), group) in enumerate(largest):
            told = group.telling()
            named = None
            rewritten = any(isinstance(one, Edit) and one.removed == REWRITTEN for one in edits)
            if told is not None and reason is None and not rewritten and place < _NAMED:
                named = named_edits(self._plans, told.rows, told.pair.old, told.pair.new)
            made.append(
                Group(
                    kind=kind,
                    edits=edits if named is None or kind == "other" else named,
                    reason=reason,
                    prompts=group.prompts,
                    tokens=group.tokens,
                    pair=None if told is None else told.pair,
                )
            )
        return tuple(made)

    def _see(self, at: Any) -> None:
        ends = pc.min_max(at.view(pa.int64()))
        low, high = ends["min"].as_py(), ends["max"].as_py()
        if low is not None:
            self._first = low if self._first is None else min(self._first, low)
            self._last = high if self._last is None else max(self._last, high)

    def _same(self, old: pa.RecordBatch, same: Any) -> None:
        for _, row, count in _distinct([old.column("prompt_id")], same):
            self.tokens.same(_messages(old, [row])[0], count)

    def _changed(self, sides: Sides, mask: Any) -> None:
        found = list(_distinct([one.column("prompt_id") for one in sides], mask))
        rows = [row for _, row, _ in found]
        befores, afters = (_messages(one, rows) for one in sides)
        values = _Values(self._plans, sides, rows)
        for place, (order, row, count) in enumerate(found):
            before, after = befores[place], afters[place]
            self._edited += count
            spent = self.tokens.changed(before, after, count)
            edits = self._editor.edits(before, after, values.of(place))
            group = self._group((self._kind(edits), edits, None))
            group.tokens += (spent[1] - spent[0]) * count
            length = group.met(count, after)
            if group.wants(order):
                pair = _pair(sides, row, old=before, new=after, tokens=spent)
                group.keep(_Kept(order, length, pair, _row(sides, row)))

    def _failing(self, kind: Kind, sides: Sides, mask: Any) -> int:
        """Count rows that only one of the two has a prompt for, by the error of the other."""
        failed, whole = (sides.new, sides.old) if kind == "error now" else (sides.old, sides.new)
        total = 0
        for reason, row, count in _distinct([failed.column("error")], mask):
            total += count
            messages = _messages(whole, [row])[0]
            group = self._group((kind, (), reason))
            length = group.met(count, messages)
            order = whole.column("prompt_id")[row].as_py()
            if group.wants(order):
                texts = (
                    {"old": messages, "new_error": reason}
                    if kind == "error now"
                    else {"new": messages, "old_error": reason}
                )
                group.keep(_Kept(order, length, _pair(sides, row, **texts), _row(sides, row)))
        return total

    def _kind(self, edits: Edits) -> Kind:
        known = self._kinds.get(edits)
        if known is None:
            if len(self._kinds) > 10 * _MOST_GROUPS:
                self._kinds.clear()
            known = self._kinds[edits] = kind_of(edits, *self._vocabularies)
        return known

    def _group(self, key: Key) -> _Group:
        found = self._groups.get(key)
        if found is None:
            if len(self._groups) >= _MOST_GROUPS:
                self.overflown = True
                return self._groups.setdefault(("other", (), None), _Group())
            found = self._groups[key] = _Group()
        return found


def _row(sides: Sides, row: int) -> Sides:
    """One row of a batch, which is not kept with it."""
    taken = pa.array([row], pa.int64())
    return Sides(sides.old.take(taken), sides.new.take(taken))


def _pair(sides: Sides, row: int, **texts: Any) -> Pair:
    entity = sides.new.column("entity")[row].as_py() or sides.old.column("entity")[row].as_py() or {}
    keys = {name: json_value(value) for name, value in entity.items() if name != "_"}
    return Pair(keys=keys, as_of=sides.old.column("as_of")[row].as_py(), **texts)


def _distinct(held: Sequence[Any], mask: Any) -> Iterator[tuple[str, int, int]]:
    """The distinct texts of the rows that a mask keeps, joined; with the first row of each, and how many have it."""
    rows = pc.indices_nonzero(mask)
    if not len(rows):
        return
    taken = [column.take(rows) for column in held]
    joined = taken[0] if len(taken) == 1 else pc.binary_join_element_wise(*taken, "")
    encoded = joined.dictionary_encode()
    table = pa.table({"which": encoded.indices, "row": rows.cast(pa.int64())})
    grouped = table.group_by("which", use_threads=False).aggregate([("row", "min"), ("row", "count")])
    grouped = grouped.sort_by("row_min")
    texts = encoded.dictionary.take(grouped.column("which").combine_chunks()).to_pylist()
    yield from zip(texts, grouped.column("row_min").to_pylist(), grouped.column("row_count").to_pylist(), strict=True)


def _messages(batch: pa.RecordBatch, rows: Sequence[int]) -> list[tuple[Message, ...]]:
    """The prompts of some rows."""
    taken: Any = batch.column("messages").take(pa.array(rows, pa.int64()))
    flat = taken.flatten()
    each = [
        Message(role, content)
        for role, content in zip(flat.field("role").to_pylist(), flat.field("content").to_pylist(), strict=True)
    ]
    made: list[tuple[Message, ...]] = []
    at = 0
    for length in pc.list_value_length(taken).to_pylist():
        made.append(tuple(each[at : at + length]))
        at += length
    return made


class _Values:
    """The texts among the values of some rows: features, inputs and join keys of both versions."""

    def __init__(self, plans: tuple[PromptPlan, PromptPlan], sides: Sides, rows: Sequence[int]) -> None:
        taken = pa.array(rows, pa.int64())
        found: dict[str, tuple[DType, Any]] = {}
        for plan, batch in zip(plans, sides, strict=True):
            for struct, named in (
                ("features", {ref.column: ref.dtype for ref in plan.features.outputs}),
                ("inputs", {name: one.dtype for name, one in plan.inputs.items()}),
                ("entity", plan.features.parameters),
            ):
                held: Any = batch.column(struct)
                for name, dtype in named.items():
                    if dtype.kind != "bool":
                        found.setdefault(f"{struct}.{name}", (dtype, held.field(name).take(taken)))
        self._columns = [_texts(dtype, column) for dtype, column in found.values()]

    def of(self, place: int) -> list[str]:
        """Those of one row."""
        return [one for texts in self._columns for one in texts[place]]


def _texts(dtype: DType, column: Any) -> list[tuple[str, ...]]:
    """What each value of a column may have been printed as, in parts that are long enough to tell."""
    encoded = column.dictionary_encode() if dtype.item is None else None
    if encoded is None:
        return [tuple(text(one) for one in value or ()) for value in columns.python_values(dtype, column)]
    known = [tuple(_of_one(value)) for value in columns.python_values(dtype, encoded.dictionary)]
    return [() if place is None else known[place] for place in encoded.indices.to_pylist()]


def _of_one(value: Any) -> Iterator[str]:
    if isinstance(value, (Mapping, list)):
        yield from islice(_strings(value), _MOST_STRINGS)
        return
    written = text(value)
    if len(written) > _LONGEST_VALUE:
        return
    yield written
    if "\n" in written:  # it may have been printed on one line, or on as many
        yield written.replace("\n", " ")
        yield from written.split("\n")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield str(key)
            yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)
