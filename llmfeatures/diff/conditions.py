"""What makes a diff fail: ``changed > 10%``, ``errors > 0``, ``tokens > +5%``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from llmfeatures.diff.result import PromptDiff
from llmfeatures.errors import RequestError, did_you_mean

_WRITTEN: Final = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*([+-]?\d+(?:\.\d+)?)\s*(%?)\s*", re.ASCII)
_OPERATORS: Final[dict[str, Callable[[Decimal, Decimal], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_FORM: Final = 'write a condition like "changed > 10%", "errors > 0" or "tokens > +5%"'


def _share(part: int, whole: int) -> Decimal:
    return Decimal(100 * part) / whole if whole else Decimal(0)


_NUMBERS: Final[dict[str, Callable[[PromptDiff], tuple[int, int]]]] = {
    "changed": lambda diff: (diff.counts.changed, diff.counts.rows),
    "errors": lambda diff: (diff.counts.errors_now, diff.counts.rows),
    "fixed": lambda diff: (diff.counts.fixed_now, diff.counts.rows),
    "tokens": lambda diff: (diff.tokens.change, diff.tokens.old),
}
"""Each name, as a number and what it is a share of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A condition on a diff: ``changed`` rows, ``errors`` that are new, ``fixed`` ones, or the change of ``tokens``;
    against a number, or a share of all rows (of the old tokens)."""

    name: str
    sign: str
    limit: Decimal
    percent: bool

    @classmethod
    def of(cls, written: str) -> Condition:
        """Read a condition.

        Raises:
            RequestError: it is none.
        """
        found = _WRITTEN.fullmatch(written)
        if found is None:
            raise RequestError(f"--fail-if {written!r} is no condition; {_FORM}")
        name, sign, limit, percent = found.groups()
        if name not in _NUMBERS:
            raise RequestError(f"--fail-if {written!r}: unknown name {name!r}{did_you_mean(name, _NUMBERS)}")
        return cls(name=name, sign=sign, limit=Decimal(limit), percent=bool(percent))

    def holds(self, diff: PromptDiff) -> bool:
        """Whether it is true of a diff."""
        return _OPERATORS[self.sign](self._number(diff), self.limit)

    def said(self, diff: PromptDiff) -> str:
        """The condition, and what is compared: ``changed > 10% (it is 31.2%)``."""
        unit = "%" if self.percent else ""
        number = self._number(diff)
        shown = f"{number:.2f}".rstrip("0").rstrip(".") if self.percent else f"{number:,}"
        return f"{self.name} {self.sign} {self.limit}{unit} (it is {shown}{unit})"

    def _number(self, diff: PromptDiff) -> Decimal:
        part, whole = _NUMBERS[self.name](diff)
        return _share(part, whole) if self.percent else Decimal(part)
