# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Batches of a join as features and prompts, column by column: no Python object per row where none is needed.

A prompt is rendered once for each distinct combination of what its template reads, by `PromptPlan.finish`, the function
that renders it online.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import pyarrow as pa
from pyarrow import compute

from llmfeatures import columns
from llmfeatures.context import FeatureValue, Status, prompt_id
from llmfeatures.errors import LLMFeaturesError
from llmfeatures.plan import FeaturePlan, FeatureRef, PromptPlan
from llmfeatures.ports import Joined
from llmfeatures.types import DType

pc: Any = compute

MESSAGES: Final[Any] = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
STATUSES: Final[tuple[Status, ...]] = ("missing", "null", "expired", "present")
"""By the code that a column of statuses holds."""
_MISSING, _NULL, _EXPIRED, _PRESENT = (columns.constant(code) for code in range(4))
_NO_TIME = columns.constant(0)
_CACHED = 100_000
"""Distinct prompts that are kept from batch to batch; then the cache starts anew."""
_TIMESTAMP: Final = DType("timestamp")
_WIDEST = 2**62
"""Beyond it the codes of combinations no longer fit; then each row is a combination of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A feature's column, settled: ``values`` canonical, null unless present; ``codes`` int64, places in `STATUSES`;
    ``event`` timestamp[us, UTC], null where missing."""

    values: Any
    codes: Any
    event: Any

    @property
    def statuses(self) -> Any:
        """The statuses as text."""
        return pa.array(STATUSES, pa.string()).take(self.codes)

    def counts(self) -> Counter[str]:
        """How many rows have each status."""
        counted = pc.value_counts(self.codes)
        codes, counts = counted.field(0).to_pylist(), counted.field(1).to_pylist()
        return Counter({STATUSES[code]: count for code, count in zip(codes, counts, strict=True)})


def settle(ref: FeatureRef, at: Any, event: Any, values: Any) -> Column:
    """A feature's column of a join, settled at the moments ``at`` (timestamp[us, UTC]): what `FeaturePlan.settle` does
    for one row. A null moment expires nothing."""
    codes = pc.if_else(event.is_valid(), pc.if_else(values.is_valid(), _PRESENT, _NULL), _MISSING)
    if ref.limit is not None:
        micros = ref.limit.days * 86_400_000_000 + ref.limit.seconds * 1_000_000 + ref.limit.microseconds
        # an age beyond int64 is none that two moments can have
        limit = columns.constant(min(micros, 2**60))
        age = pc.subtract(at.view(pa.int64()), event.view(pa.int64()))
        expired = pc.coalesce(pc.greater(age, limit), columns.FALSE)
        codes = pc.if_else(expired, _EXPIRED, codes)
        values = pc.if_else(expired, columns.nothing(values.type), values)
    return Column(values=values, codes=codes, event=event)


def settled_columns(plan: FeaturePlan, joined: Joined) -> list[Column]:
    """The columns of a plan's features, in the order of its refs."""
    return [
        settle(ref, joined.at, joined.found[lookup].event, joined.found[lookup].columns[column])
        for ref, (lookup, column) in zip(plan.refs, plan.lookup_of, strict=True)
    ]


def invalid_rows(plan: FeaturePlan, joined: Joined) -> dict[int, str]:
    """The rows that a winning value of another dtype spoils, with the reason."""
    return {
        row: f"feature {feature!r} of view {lookup.view.name!r}: {reason}"
        for lookup, found in zip(plan.lookups, joined.found, strict=True)
        for row, (feature, reason) in found.invalid.items()
        if feature in lookup.features
    }


class Rendered(NamedTuple):
    """The prompts of a batch: ``messages`` list<struct<role, content>> and ``prompt_id``, null where there is an
    ``error``."""

    messages: Any
    prompt_id: Any
    error: Any


class _Prompt(NamedTuple):
    messages: list[dict[str, str]] | None
    prompt_id: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class _Part:
    """One of the things that a prompt depends on: the distinct values of a batch, and which each row has."""

    name: str
    values: list[Any]
    keys: list[Any]
    codes: Any


class Renderer:
    """Renders batches of a plan; prompts that came before are taken again."""

    def __init__(self, plan: PromptPlan) -> None:
        self.plan = plan
        self._known: dict[tuple[Any, ...], _Prompt] = {}
        names = plan.template.names
        self._keys = {name: dtype for name, dtype in plan.features.parameters.items() if name in names}
        self._inputs = {name: one.dtype for name, one in plan.inputs.items()}
        self._reads_as_of = "as_of" in names

    def render(
        self, features: Sequence[Column], given: Mapping[str, Any], at: Any, errors: Mapping[int, str]
    ) -> Rendered:
        """The prompts of a batch.

        Args:
            features: the settled columns, in the order of the plan's refs.
            given: canonical columns of the join keys and inputs, by parameter name.
            at: the moments, timestamp[us, UTC].
            errors: rows that have no prompt for another reason.
        """
        rows = len(at)
        parts = self._parts(features, given, at)
        which, firsts = _combined(parts, rows)
        taken = pa.array(firsts, pa.int64())
        chosen = list(zip(*[part.codes.take(taken).to_pylist() for part in parts], strict=True)) if parts else [()]
        # where nothing repeats, nothing is worth keeping
        make = self._prompt if 2 * len(firsts) <= rows else self._anew
        prompts = [make(parts, codes) for codes in chosen]
        messages = pa.array([one.messages for one in prompts], MESSAGES).take(which)
        identities = pa.array([one.prompt_id for one in prompts], pa.string()).take(which)
        reasons = pa.array([one.error for one in prompts], pa.string()).take(which)
        if errors:
            spoiled = pa.array([errors.get(row) for row in range(rows)], pa.string())
            none = spoiled.is_valid()
            messages = pc.if_else(none, pa.scalar(None, MESSAGES), messages)
            identities = pc.if_else(none, pa.scalar(None, pa.string()), identities)
            reasons = pc.coalesce(spoiled, reasons)
        return Rendered(messages, identities, reasons)

    def _parts(self, features: Sequence[Column], given: Mapping[str, Any], at: Any) -> list[_Part]:
        parts: list[_Part] = []
        for ref, column in zip(self.plan.features.refs, features, strict=True):
            parts.append(_part(ref.name, ref.dtype, column.values))
            codes = column.codes
            parts.append(_Part(f"{ref.name} status", list(STATUSES), list(STATUSES), codes))
        for name, dtype in (*self._keys.items(), *self._inputs.items()):
            parts.append(_part(name, dtype, given[name]))
        if self._reads_as_of:
            parts.append(_part("as_of", _TIMESTAMP, at))
        return parts

    def _prompt(self, parts: Sequence[_Part], codes: Sequence[int]) -> _Prompt:
        key = tuple([part.keys[code] for part, code in zip(parts, codes, strict=True)])
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _CACHED:
                self._known.clear()
            known = self._known[key] = self._anew(parts, codes)
        return known

    def _anew(self, parts: Sequence[_Part], codes: Sequence[int]) -> _Prompt:
        return self._finish([part.values[code] for part, code in zip(parts, codes, strict=True)])

    def _finish(self, values: Sequence[Any]) -> _Prompt:
        count = len(self.plan.features.refs)
        slots = [FeatureValue(values[2 * at], values[2 * at + 1], None) for at in range(count)]
        rest = iter(values[2 * count :])
        keys = {name: next(rest) for name in self._keys}
        inputs = {name: next(rest) for name in self._inputs}
        at = next(rest) if self._reads_as_of else _ANY_MOMENT
        if at is None:
            return _Prompt(None, None, None)
        try:
            finished = self.plan.finish(slots, keys, self.plan.bind_inputs(inputs), at).messages
        except LLMFeaturesError as error:
            return _Prompt(None, None, str(error))
        messages = [{"role": role, "content": content} for role, content in finished]
        return _Prompt(messages, prompt_id(finished), None)


_ANY_MOMENT = columns.moments(pa.array([0], pa.timestamp("us", "UTC")))[0]
"""Stands for the moment in a prompt that does not read it; its features are settled already."""


def _part(name: str, dtype: DType, array: Any) -> _Part:
    encoded = array.dictionary_encode(null_encoding="encode") if dtype.kind != "list" else _of_lists(dtype, array)
    values = columns.python_values(dtype, encoded.dictionary)
    # a list or a json value has no hash; its text has
    keys = values if dtype.kind not in ("list", "json") else [dtype.encode(value) for value in values]
    return _Part(name, values, keys, pc.cast(encoded.indices, pa.int64()))


def _of_lists(dtype: DType, array: Any) -> Any:
    """Lists by their distinct texts: Arrow has no dictionaries of lists."""
    places: dict[str, int] = {}
    firsts: list[int] = []
    codes: list[int] = []
    for row, value in enumerate(columns.python_values(dtype, array)):
        place = places.setdefault(dtype.encode(value), len(places))
        if place == len(firsts):
            firsts.append(row)
        codes.append(place)
    return _Lists(array.take(pa.array(firsts, pa.int64())), pa.array(codes, pa.int64()))


class _Lists(NamedTuple):
    dictionary: Any
    indices: Any


def _combined(parts: Sequence[_Part], rows: int) -> tuple[Any, list[int]]:
    """Which distinct combination each row is (int64), and the first row of each."""
    codes = pa.repeat(columns.constant(0), rows)
    room = 1
    for part in parts:
        room *= max(1, len(part.values))
        if room >= _WIDEST:
            return pa.array(range(rows), pa.int64()), list(range(rows))
        codes = pc.add(pc.multiply(codes, columns.constant(max(1, len(part.values)))), part.codes)
    encoded = codes.dictionary_encode()
    which = pc.cast(encoded.indices, pa.int64())
    table = pa.table({"which": which, "row": pa.array(range(rows), pa.int64())})
    first = table.group_by("which", use_threads=False).aggregate([("row", "min")]).sort_by("which")
    return which, first.column("row_min").to_pylist()
