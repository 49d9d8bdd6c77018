# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Prompts of earlier batches, found again by what they depend on, for all rows of a batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import pyarrow as pa
from pyarrow import compute

from llmfeatures import columns
from llmfeatures.spanned import WIDEST, Part

pc: Any = compute
_MOST_PROMPTS: Final = 100_000
_MOST_BYTES: Final = 64 << 20
"""Beyond either the cache starts anew."""
_NONE: Final = pa.nulls(0, pa.int64())


class PromptCache:
    """Columns about distinct prompts, each under the numbers of the values that it depends on.

    A value has the same number in all batches; the numbers of a prompt's values, packed into one integer, are its code.
    """

    def __init__(self) -> None:
        self._numbers: list[dict[Any, int]] = []
        self._widths: list[int] = []
        self._columns: list[Any] = []
        self._codes: Any = _NONE
        self._prompts: tuple[Any, ...] = ()
        self._bytes = 0

    def codes(self, parts: Sequence[Part]) -> list[Any] | None:
        """The numbers of each row's values, one column per part; None where no integer holds them all."""
        if len(self._numbers) != len(parts):
            self._clear(len(parts))
        made: list[Any] = []
        for part, numbers in zip(parts, self._numbers, strict=True):
            before = len(numbers)
            own = [numbers.setdefault(key, len(numbers)) for key in part.keys]
            self._bytes += part.dictionary.nbytes * (len(numbers) - before) // max(1, part.size)
            made.append(pa.array(own, pa.int64()).take(part.codes))
        sizes = [len(one) for one in self._numbers]
        if max(sizes, default=0) > _MOST_PROMPTS or self._bytes > _MOST_BYTES:
            self._clear(len(parts))
            return None
        if any(size > width for size, width in zip(sizes, self._widths, strict=True)):
            # room to grow, so that the codes of all prompts are seldom made anew
            self._widths = [
                width if size <= width else 2 * size for size, width in zip(sizes, self._widths, strict=True)
            ]
            if prod(self._widths) >= WIDEST:
                self._clear(len(parts))
                return None
            self._codes = self._packed(self._columns)
        return made

    def find(self, codes: Sequence[Any], rows: int) -> tuple[Any, Any]:
        """The place of each of the rows' prompts, and the first row of each that is not here yet.

        Prompts that are not here yet have the places after those that are, in the order of their first rows.
        """
        packed = self._packed(codes, rows)
        missing = pc.unique(packed.filter(pc.invert(pc.is_in(packed, self._codes))))
        firsts = pc.cast(pc.index_in(missing, packed), pa.int64())
        places = pc.index_in(packed, pa.concat_arrays([self._codes, missing]))
        return places, firsts

    def add(self, codes: Sequence[Any], firsts: Any, prompts: Sequence[Any]) -> tuple[Any, ...]:
        """Keep the prompts of the rows ``firsts``; gives the columns of all prompts, by place."""
        if not len(firsts) and self._prompts:
            return self._prompts
        added = tuple(prompts)
        self._prompts = (
            tuple(pa.concat_arrays([one, new]) for one, new in zip(self._prompts, added, strict=True))
            if self._prompts
            else added
        )
        self._columns = [
            pa.concat_arrays([one, own.take(firsts)]) for one, own in zip(self._columns, codes, strict=True)
        ]
        self._codes = self._packed(self._columns, len(added[0]))
        all_prompts = self._prompts
        if len(self._codes) > _MOST_PROMPTS or sum(one.nbytes for one in all_prompts) > _MOST_BYTES:
            self._clear(len(self._numbers))
        return all_prompts

    def _packed(self, codes: Sequence[Any], rows: int = 0) -> Any:
        packed = pa.repeat(columns.constant(0), len(codes[0]) if codes else rows)
        for width, own in zip(self._widths, codes, strict=True):
            packed = pc.add(pc.multiply(packed, columns.constant(width)), own)
        return packed

    def _clear(self, parts: int) -> None:
        self._numbers = [{} for _ in range(parts)]
        self._widths = [4] * parts
        self._columns = [_NONE] * parts
        self._codes, self._prompts = _NONE, ()
        self._bytes = 0
