# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""The edits of one pair, with each value shown as the expression of the template that printed it."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import pyarrow as pa

from llmfeatures import columns
from llmfeatures.context import FeatureValue
from llmfeatures.diff.edits import VALUE, Edit, Edits, Message, RoleEdit, aligned, trimmed
from llmfeatures.diff.sequences import Hunk, hunks
from llmfeatures.diff.sides import Sides
from llmfeatures.diff.vocabulary import tokens_of
from llmfeatures.errors import LLMFeaturesError
from llmfeatures.prompt_plan import PromptPlan

_MOST: Final = 400


class _Piece(NamedTuple):
    """A word of a message, or a value as a whole; ``shown`` is how it is shown in an edit."""

    text: str
    shown: str


def named_edits(plans: tuple[PromptPlan, PromptPlan], sides: Sides, old: Any, new: Any) -> Edits | None:
    """The edits between the prompts of one row, given as its messages in both versions; None where their segments do
    not tell."""
    before, after = (_pieces(plan, row, told) for plan, row, told in zip(plans, sides, (old, new), strict=True))
    if before is None or after is None:
        return None
    made: list[Edit | RoleEdit] = []
    for one, other in aligned([Message(role, "") for role, _ in before], [Message(role, "") for role, _ in after]):
        left = [] if one is None else before.pop(0)[1]
        right = [] if other is None else after.pop(0)[1]
        if one is None or other is None or one.role != other.role:
            made.append(RoleEdit(one and one.role, other and other.role))
        role = other.role if other is not None else one.role if one is not None else ""
        made += [
            Edit(role, *trimmed(_shown(left[hunk.low : hunk.high]), _shown(right[hunk.start : hunk.end])))
            for hunk in _hunks(left, right)
        ]
    return tuple(made)


def _hunks(left: list[_Piece], right: list[_Piece]) -> list[Hunk]:
    """The hunks between pieces; those that only white space divides are one."""
    joined: list[Hunk] = []
    for one in hunks([piece.text for piece in left], [piece.text for piece in right], _MOST):
        if joined and all(piece.text.isspace() for piece in left[joined[-1].high : one.low]):
            last = joined.pop()
            joined.append(Hunk(last.low, one.high, last.start, one.end))
        else:
            joined.append(one)
    return joined


def _shown(pieces: list[_Piece]) -> str:
    return "".join(one.shown for one in pieces)


def _pieces(plan: PromptPlan, row: pa.RecordBatch, told: tuple[Message, ...]) -> list[tuple[str, list[_Piece]]] | None:
    """Each message as its role and its pieces; None where they are not what was told."""
    try:
        found = plan.segments(*_arguments(plan, row))
    except LLMFeaturesError:
        return None
    made: list[tuple[str, list[_Piece]]] = []
    for role, segments in found:
        pieces: list[_Piece] = []
        for one in segments:
            if one.kind == "literal":
                pieces += [_Piece(token, token) for token in tokens_of(one.text)]
            elif one.text:
                pieces.append(_Piece(one.text, f"{{{{ {one.source} }}}}" if one.source else VALUE))
        made.append((role, pieces))
    texts = [Message(role, "".join(piece.text for piece in pieces)) for role, pieces in made]
    return made if texts == list(told) else None


def _arguments(plan: PromptPlan, row: pa.RecordBatch) -> Any:
    """What `PromptPlan.segments` takes for a row of history."""
    structs: dict[str, Any] = {
        name: row.column(name) for name in ("features", "statuses", "timestamps", "entity", "inputs")
    }
    slots = [
        FeatureValue(
            columns.python_values(ref.dtype, structs["features"].field(ref.column))[0],
            structs["statuses"].field(ref.column)[0].as_py(),
            structs["timestamps"].field(ref.column)[0].as_py(),
        )
        for ref in plan.features.outputs
    ]
    keys = {
        name: columns.python_values(dtype, structs["entity"].field(name))[0]
        for name, dtype in plan.features.parameters.items()
    }
    inputs = {
        name: columns.python_values(one.dtype, structs["inputs"].field(name))[0] for name, one in plan.inputs.items()
    }
    return slots, keys, inputs, row.column("as_of")[0].as_py()
