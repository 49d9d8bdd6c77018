"""What filters are given, checked in one wording: each error names the filter and what it takes, and shows no value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, cast

from jinja2.runtime import Undefined

from llmfeatures.clock import as_utc
from llmfeatures.errors import RenderError
from llmfeatures.prompts import formats
from llmfeatures.prompts.limits import check_parts
from llmfeatures.prompts.runtime import Text
from llmfeatures.types import text

MAX_ITEMS: Final = 100_000
_MAX_DIGITS: Final = 5000
_LINES: Final = re.compile("[\n\u2028\u2029]+")
_KINDS: Final[Mapping[type, str]] = {
    Decimal: "a decimal", datetime: "a timestamp", date: "a date", timedelta: "a difference of timestamps",
    list: "a list", tuple: "a list", dict: "a json object", int: "an int",
}  # fmt: skip


def raw_text(value: Any) -> str:
    """The text of a value before escaping; finished text stays finished."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, Undefined) or hasattr(cast("object", type(value)), "__html__"):
        return Text.escape(value)
    check_parts(value)
    return text(value)


def kind(value: object) -> str:
    """What the value is, for an error."""
    if isinstance(value, str):
        return "a str"
    return _KINDS.get(type(value), f"a {type(value).__name__}")


def present(name: str, value: Any) -> Any:
    """The value, which must be there.

    Raises:
        RenderError: it is ``None``; ``name`` is the filter.
    """
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()  # pyright: ignore[reportPrivateUsage]
    if value is None:
        raise RenderError(
            f"{name}: the value is None; guard it with {{% if x is not none %}}, or give it a value with "
            f"or_else(...) before {name}"
        )
    return value


def refused(name: str, takes: str, value: object) -> RenderError:
    """The error of a filter that takes something else."""
    return RenderError(f"{name} takes {takes}, not {kind(value)}")


def number(name: str, value: Any, takes: str = "an int, float or decimal") -> formats.Number:
    """The value, which must be a number; a bool is none."""
    value = present(name, value)
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise refused(name, takes, value)
    try:
        digits = abs(formats.decimal_of(value).adjusted())
    except ValueError:
        raise RenderError(f"{name}: the number is not finite") from None
    if digits > _MAX_DIGITS:
        raise RenderError(f"{name}: a number with more digits than a prompt may make")
    return value


def whole(name: str, argument: str, value: Any, least: int, most: int = MAX_ITEMS) -> int:
    """The argument, which must be a whole number in these bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise RenderError(f"{name}: {argument} is a whole number from {least} to {most:,}, not {kind(value)}")
    if not least <= value <= most:
        raise RenderError(f"{name}: {argument} is a whole number from {least} to {most:,}")
    return value


def moment(name: str, value: Any) -> formats.Moment:
    """The value, which must be a timestamp, in UTC, or a date."""
    value = present(name, value)
    if isinstance(value, datetime):
        return as_utc(value)
    if not isinstance(value, date):
        raise refused(name, "a timestamp or date", value)
    return value


def items(name: str, value: Any) -> list[Any]:
    """The items of the value, which must be a list, or a series of values; none of them ``None``."""
    value = present(name, value)
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        raise refused(name, "a list", cast("object", value))
    found: list[Any] = []
    for item in cast("Iterable[Any]", value):
        if item is None:
            raise RenderError(f'{name}: an item is None; leave it out with reject("none") before {name}')
        found.append(item)
        if len(found) > MAX_ITEMS:
            raise RenderError(f"{name} takes at most {MAX_ITEMS:,} items")
    return found


def one_line(value: Any) -> Text:
    """What is printed for the value, in one line."""
    printed = Text.escape(value)
    return Text(_LINES.sub(" ", printed)) if _LINES.search(printed) else printed
