# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Prompts that hardly repeat, column by column: each span of a template once per distinct combination of what it reads.

Rows of which this cannot be sure (a policy that is an error, an input that is refused, a control token) are left to
`PromptPlan.finish`; so the texts, and the errors, are the same as there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import pyarrow as pa
from pyarrow import compute

from llmfeatures import columns
from llmfeatures.context import prompt_id
from llmfeatures.plan import ComputedRef, FeatureRef
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.escape import OPENER, has_control_token
from llmfeatures.prompts.file import ABSENT
from llmfeatures.prompts.spans import Span, SpannedMessage
from llmfeatures.types import DType

pc: Any = compute

MESSAGES: Final[Any] = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
WIDEST: Final = 2**62
"""Beyond it the codes of combinations no longer fit; then each row is a combination of its own."""
_NOT_PLAIN: Final = r"[^ -;=-Z\\-~]|\]~"
"""Finds what `escape.is_plain` refuses."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the things that a prompt depends on: the distinct values of a batch, and which each row has (int64)."""

    name: str
    dtype: DType
    dictionary: Any
    codes: Any

    @property
    def size(self) -> int:
        """How many distinct values there are."""
        return len(self.dictionary)

    @cached_property
    def values(self) -> list[Any]:
        """The distinct values, canonical Python values."""
        return columns.python_values(self.dtype, self.dictionary)

    @cached_property
    def keys(self) -> list[Any]:
        """What stands for each value in a dict: a list or a json value has no hash, but its text has."""
        if self.dtype.kind not in ("list", "json"):
            return self.values
        return [self.dtype.encode(value) for value in self.values]


def part_of(name: str, dtype: DType, array: Any) -> Part:
    """A canonical column as a part."""
    encoded = array.dictionary_encode(null_encoding="encode") if dtype.kind != "list" else _of_lists(dtype, array)
    return Part(name=name, dtype=dtype, dictionary=encoded.dictionary, codes=pc.cast(encoded.indices, pa.int64()))


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


def combined(parts: Sequence[tuple[int, Any]], rows: int) -> tuple[Any, list[int]]:
    """Which distinct combination each row is (int64), and the first row of each; from sizes and codes."""
    codes = pa.repeat(columns.constant(0), rows)
    room = 1
    for size, own in parts:
        room *= max(1, size)
        if room >= WIDEST:
            return pa.array(range(rows), pa.int64()), list(range(rows))
        codes = pc.add(pc.multiply(codes, columns.constant(max(1, size))), own)
    encoded = codes.dictionary_encode()
    which = pc.cast(encoded.indices, pa.int64())
    table = pa.table({"which": which, "row": pa.array(range(rows), pa.int64())})
    first = table.group_by("which", use_threads=False).aggregate([("row", "min")]).sort_by("which")
    return which, first.column("row_min").to_pylist()


@dataclass(frozen=True, kw_only=True)
class Variable:
    """What a template reads by one name: the part's values, then ``instead``, which the rows that are not present have;
    ``codes`` say which, null where only the whole prompt can tell."""

    part: Part
    instead: Any
    codes: Any

    @property
    def size(self) -> int:
        """How many different values there may be."""
        return self.part.size + 1

    def at(self, code: int) -> Any:
        """The value of a code."""
        return self.instead if code == self.part.size else self.part.values[code]

    def texts(self, span: Span) -> Any:
        """What the span prints for each code."""
        instead = pa.array([span.printed(self.instead)], pa.string())
        return pa.concat_arrays([self._texts(span), instead])

    def _texts(self, span: Span) -> Any:
        part, kind = self.part, self.part.dtype.kind
        if kind == "timestamp":
            return pc.replace_substring(columns.stamp_texts(part.dictionary), ".000000Z", "Z")
        if kind == "int":
            return pc.cast(part.dictionary, pa.string())
        if kind in ("str", "enum") and not pc.any(pc.match_substring_regex(part.dictionary, _NOT_PLAIN)).as_py():
            longest = pc.max(pc.binary_length(part.dictionary)).as_py() or 0
            if longest <= 1000:
                return part.dictionary
        return pa.array([span.printed(value) for value in part.values], pa.string())


class SpanRenderer:
    """Renders the rows of a batch of parts span by span, for a plan whose template can be cut."""

    def __init__(self, plan: PromptPlan) -> None:
        self.plan = plan
        self.messages: tuple[SpannedMessage, ...] = (plan.template.spans or ()) if plan.budget is None else ()
        self._reads: dict[int, tuple[str, ...]] = {}
        self.printed = tuple(ref for ref in plan.features.outputs if ref.printed)
        refs = {ref.name for ref in self.printed}
        known = refs | plan.inputs.keys() | plan.features.parameters.keys() | {"as_of"}
        for message in self.messages:
            for span in message.spans:
                reads: dict[str, None] = {}
                for use in span.uses:
                    names = [f"{use.name}.{use.attribute}"] if f"{use.name}.{use.attribute}" in refs else []
                    names = names or [name for name in known if name == use.name or name.startswith(f"{use.name}.")]
                    if not names:  # no column of ours
                        self.messages = ()
                    reads.update(dict.fromkeys(names))
                self._reads[id(span)] = tuple(sorted(reads))

    def render(self, variables: Mapping[str, Variable], rows: int) -> tuple[Any, Any]:
        """The messages and prompt ids of the rows; null where the whole prompt has to be rendered."""
        unsure = pa.repeat(columns.FALSE, rows)
        for variable in variables.values():
            unsure = pc.or_(unsure, variable.codes.is_null())
        made: list[Any] = []
        for message in self.messages:
            texts = [self._texts(span, variables, rows) for span in message.spans]
            joined = pc.binary_join_element_wise(pa.repeat(pa.scalar("", pa.string()), rows), *texts, "")
            unsure = pc.or_(unsure, pc.or_(joined.is_null(), _forged(joined)))
            made.append(joined)
        if not pc.any(unsure).as_py():
            return self._finished(made)
        sure = pc.indices_nonzero(pc.invert(unsure))
        places: list[int | None] = [None] * rows
        for place, row in enumerate(sure.to_pylist()):
            places[row] = place
        spread = pa.array(places, pa.int64())
        messages, identities = self._finished([one.take(sure) for one in made])
        return messages.take(spread), identities.take(spread)

    def _finished(self, joined: Sequence[Any]) -> tuple[Any, Any]:
        roles = [message.role for message in self.messages]
        contents = [[one.strip() for one in texts.to_pylist()] for texts in joined]
        rows, each = len(contents[0]), len(roles)
        if each == 1:
            role, flat = roles[0], contents[0]
            identities = [prompt_id([(role, content)]) for content in flat]
        else:
            prompts = list(zip(*contents, strict=True))
            flat = [content for prompt in prompts for content in prompt]
            identities = [prompt_id(list(zip(roles, prompt, strict=True))) for prompt in prompts]
        structs = pa.StructArray.from_arrays(
            [pa.array(roles * rows, pa.string()), pa.array(flat, pa.string())], names=["role", "content"]
        )
        offsets = pa.array(range(0, (rows + 1) * each, each), pa.int32())
        return pa.ListArray.from_arrays(offsets, structs), pa.array(identities, pa.string())

    def _texts(self, span: Span, variables: Mapping[str, Variable], rows: int) -> Any:
        if span.literal is not None:
            return pa.scalar(span.literal, pa.string())
        if span.name is not None and span.name in variables:
            variable = variables[span.name]
            return variable.texts(span).take(variable.codes)
        reads = self._reads[id(span)]
        chosen = [variables[name] for name in reads]
        which, firsts = combined([(one.size + 1, pc.fill_null(one.codes, one.size)) for one in chosen], rows)
        taken = pa.array(firsts, pa.int64())
        rows_of = zip(*[one.codes.take(taken).to_pylist() for one in chosen], strict=True) if chosen else [()]
        texts = [None if None in codes else span.text(_context(reads, chosen, codes)) for codes in rows_of]
        return pa.array(texts, pa.string()).take(which)


def _forged(texts: Any) -> Any:
    """Which texts hold a whole control token: who wrote it, only the whole prompt's segments can tell."""
    if not pc.any(pc.match_substring_regex(texts, OPENER)).as_py():
        return pa.repeat(columns.FALSE, len(texts))
    return pa.array([one is not None and has_control_token(one) for one in texts.to_pylist()], pa.bool_())


def _context(names: Sequence[str], chosen: Sequence[Variable], codes: Sequence[int]) -> dict[str, Any]:
    context: dict[str, Any] = {}
    for name, variable, code in zip(names, chosen, codes, strict=True):
        role, dot, feature = name.partition(".")
        if dot:
            context.setdefault(role, {})[feature] = variable.at(code)
        else:
            context[name] = variable.at(code)
    return context


def variables_of(
    plan: PromptPlan,
    refs: Sequence[FeatureRef | ComputedRef],
    features: Sequence[tuple[Part, Any]],
    others: Sequence[Part],
) -> dict[str, Variable]:
    """The variables of a batch: the refs' features, each with which rows are present; then join keys, inputs, as_of."""
    made: dict[str, Variable] = {}
    for ref, (part, present) in zip(refs, features, strict=True):
        known = ref.policy.default is not ABSENT or ref.policy.on_missing == "none"
        instead = ref.policy.default if ref.policy.default is not ABSENT else None
        absent = columns.constant(part.size) if known else columns.nothing(pa.int64())
        made[ref.name] = Variable(part=part, instead=instead, codes=pc.if_else(present, part.codes, absent))
    for part in others:
        given = part.codes
        refused = _refused(plan, part)
        if any(refused):
            given = pc.if_else(pa.array(refused).take(part.codes), columns.nothing(pa.int64()), given)
        made[part.name] = Variable(part=part, instead=None, codes=given)
    return made


def _refused(plan: PromptPlan, part: Part) -> list[bool]:
    """Whether each value is one that the plan refuses, or does not take as it is."""
    declared = plan.inputs.get(part.name)
    nulls = part.dictionary.is_null().to_pylist()
    if declared is None:
        return nulls if part.name == "as_of" else [False]
    refused = nulls if declared.default is not None else [False] * part.size
    if declared.max_chars is None:
        return refused
    limit = declared.max_chars
    return [bad or (value is not None and len(value) > limit) for bad, value in zip(refused, part.values, strict=True)]
