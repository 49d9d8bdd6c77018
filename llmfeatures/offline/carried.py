"""Rows of several relations together, without a cast: what each relation holds stays as it is.

A feature whose columns are of one type in all relations is a plain column. Else each type has a column of its own, and
the row carries them as one struct, which `canonical` takes apart: so a float32 of a batch file and a double that was
pushed each have the canonical value that they have alone.
"""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyarrow import compute
from pyarrow import types as pt

from llmfeatures import columns
from llmfeatures.columns import Canonical, sql_type
from llmfeatures.types import DType

_pc: Any = compute
_FIELD = "llmfeatures type "
"""Begins the name of each field of a struct that carries several types."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What a relation has of a feature: SQL, and the type that it has in DuckDB; None when it has no value at all."""

    value: str
    held: str | None
    dtype: DType

    @property
    def nothing(self) -> str:
        """A null, where no relation has a value."""
        return f"CAST(NULL AS {'VARCHAR' if self.dtype.kind == 'json' else sql_type(self.dtype)})"


def named(slots: Sequence[Sequence[Slot]]) -> tuple[list[dict[str, str]], list[str]]:
    """How to select the features of several relations, so that a UNION ALL BY NAME casts nothing.

    Args:
        slots: per relation, what it has of each feature.

    Returns:
        Per relation the columns to select by name, and the columns ``v0…`` to select of the union.
    """
    selected: list[dict[str, str]] = [{} for _ in slots]
    outer: list[str] = []
    for number, column in enumerate(zip(*slots, strict=True)):
        held = list(dict.fromkeys(one.held for one in column if one.held is not None))
        if not held:
            outer.append(f"{column[0].nothing} AS v{number}")
            continue
        names = {one: f"v{number}" if len(held) == 1 else f"v{number}_{place}" for place, one in enumerate(held)}
        for mine, one in zip(selected, column, strict=True):
            if one.held is not None:
                mine[names[one.held]] = one.value
        if len(held) == 1:
            outer.append(f"v{number}")
        else:
            fields = ", ".join(f"'{_FIELD}{place}': {name}" for place, name in enumerate(names.values()))
            outer.append(f"{{{fields}}} AS v{number}")
    return selected, outer


def canonical(dtype: DType, array: Any) -> Canonical:
    """As `columns.canonical`, also of a column that carries several types.

    Raises:
        InvalidValueError: no column of this type can hold the dtype.
    """
    held = array.type
    if not (pt.is_struct(held) and held.num_fields and held.field(0).name.startswith(_FIELD)):
        return columns.canonical(dtype, array)
    parts = [columns.canonical(dtype, one) for one in columns.whole(array).flatten()]
    made, *others = [one.array for one in parts]
    for one in others:
        made = _pc.coalesce(made, one)  # of each row one part has a value at most
    invalid = {row: reason for one in parts for row, reason in one.invalid.items()}
    return Canonical(made, invalid, sum(one.non_finite for one in parts))
