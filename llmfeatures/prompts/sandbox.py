"""What a template may do to a value: which attributes it reads, and what may not grow without a bound."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sized
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, cast

from jinja2.sandbox import SandboxedEscapeFormatter

from llmfeatures.errors import RenderError
from llmfeatures.prompts.filters import check_width
from llmfeatures.prompts.limits import check_items
from llmfeatures.prompts.runtime import Text, bound, print_value

_MAX_BITS: Final = 4096
OPERATORS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": operator.add,
    "*": operator.mul,
    "**": operator.pow,
}

_STR_METHODS = frozenset(
    {"capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal"}
    | {"isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "lower", "lstrip", "partition"}
    | {"removeprefix", "removesuffix", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines"}
    | {"startswith", "strip", "swapcase", "title", "upper"}
)
_ATTRIBUTES: Final[Mapping[type, frozenset[str]]] = {
    str: _STR_METHODS | {"center", "expandtabs", "join", "ljust", "replace", "rjust", "zfill"},
    bool: frozenset(),
    int: frozenset({"bit_length"}),
    float: frozenset({"is_integer"}),
    Decimal: frozenset(),
    datetime: frozenset({"date", "day", "hour", "isoformat", "isoweekday", "microsecond", "minute", "month"})
    | {"second", "timestamp", "weekday", "year"},
    date: frozenset({"day", "isoformat", "isoweekday", "month", "weekday", "year"}),
    timedelta: frozenset({"days", "microseconds", "seconds", "total_seconds"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
}
"""What may be read from a value, by type: nothing that is unbounded, asks the clock or depends on the machine."""


def _padded(method: Callable[..., str]) -> Callable[..., str]:
    def pad(width: int, *fill: str) -> str:
        return method(check_width(width), *fill)

    return pad


def _replaced(value: str) -> Callable[..., str]:
    def replace(old: str, new: str, count: int = -1) -> str:
        bound(len(value) + (len(new) - len(old)) * value.count(old))
        return value.replace(old, new, count)

    return replace


def _joined(value: str) -> Callable[[Iterable[str]], str]:
    def join(items: Iterable[str]) -> str:
        items = list(items)
        bound(sum(map(len, items)) + len(value) * len(items))
        return value.join(items)

    return join


def _expanded(value: str) -> Callable[..., str]:
    def expandtabs(tabsize: int = 8) -> str:
        bound(len(value) + value.count("\t") * tabsize)
        return value.expandtabs(tabsize)

    return expandtabs


def bounded_method(value: str, name: str) -> Callable[..., Any] | None:
    """The methods of text that can make much out of little, with a bound."""
    match name:
        case "center" | "ljust" | "rjust" | "zfill":
            return _padded(getattr(value, name))
        case "replace":
            return value.replace if isinstance(value, Text) else _replaced(value)
        case "join":
            return value.join if isinstance(value, Text) else _joined(value)
        case "expandtabs":
            return _expanded(value)
        case _:
            return None


class ValueFormatter(SandboxedEscapeFormatter):
    """``str.format`` for text that the author wrote: fields are printed as ``{{ }}`` prints them."""

    _made = 0

    def format_field(self, value: Any, format_spec: str) -> str:
        made = self._field(value, str(format_spec))
        self._made += len(made)
        bound(self._made)
        return made

    def _field(self, value: Any, form: str) -> str:
        if not form:
            return print_value(value)
        if form.endswith("n"):
            raise RenderError(f"the format {form!r} depends on the machine's locale; use a comma, or the filter num")
        if isinstance(value, (int, float, Decimal, str)):
            bound(sum(int(part) for part in "".join(c if c.isdecimal() else " " for c in form).split()))
            return print_value(format(value, form))
        raise RenderError(f"a {type(value).__name__} takes no format {form!r}")

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion is None:
            return value
        raise RenderError(f"the conversion !{conversion} is not allowed: it would print Python")


def allowed_attributes(obj: Any) -> frozenset[str] | None:
    if isinstance(obj, str):
        return _ATTRIBUTES[str]
    return _ATTRIBUTES.get(obj.__class__)


def check_operands(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        bits = {
            "+": max(left.bit_length(), right.bit_length()),
            "*": left.bit_length() + right.bit_length(),
            "**": left.bit_length() * max(right, 0),
        }[operator]
        if bits > _MAX_BITS:
            raise RenderError("a number with more digits than a prompt may make")
    elif operator == "+" and isinstance(left, Sized) and isinstance(right, Sized):
        _bounded(left, len(left) + len(right))
    elif operator == "*":
        for one, times in ((left, right), (right, left)):
            if isinstance(one, (str, list, tuple)) and isinstance(times, int):
                _bounded(cast("object", one), len(cast("str", one)) * times)


def _bounded(value: object, length: int) -> None:
    (bound if isinstance(value, str) else check_items)(length)
