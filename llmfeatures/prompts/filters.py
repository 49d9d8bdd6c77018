"""The filters of prompt files: Jinja's, made to keep finished text finished, and ours.

A filter that only maps characters gives raw text for raw text, which is escaped where it is printed. One that adds
what the author wrote (a separator, an indent, a line break) escapes what it gets first, and its result is finished.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, Final, cast

from jinja2 import filters as jinja
from jinja2 import pass_environment
from jinja2.runtime import Undefined
from markupsafe import Markup

from llmfeatures.errors import RenderError
from llmfeatures.prompts.runtime import Text, bound, join_text
from llmfeatures.types import json_text, text

REMOVED: Final[Mapping[str, str]] = {
    "safe": "values are always escaped, and nothing turns it off; what you write yourself is never escaped",
    "escape": "values are escaped already, where they are printed; remove the filter",
    "e": "values are escaped already, where they are printed; remove the filter",
    "forceescape": "values are escaped already, where they are printed; remove the filter",
    "urlize": "it makes HTML, and a prompt is no web page; print the value itself",
    "xmlattr": "it makes HTML, and a prompt is no web page; write the attributes out",
    "striptags": "it is made for HTML; clean the value in its source",
    "pprint": "it prints Python; use tojson",
    "random": "a prompt is the same whenever it is rendered again; compute the choice as a feature or input",
}
"""Jinja's filters that prompts do not have, and what to do instead."""

_MAX_ITEMS: Final = 100_000
_WIDTH: Final = re.compile(r"\d{5,}|\*")
_CONVERSIONS: Final = re.compile(r"%(?:\([^)]*\))?[-#0 +]*[\d*]*(?:\.[\d*]*)?(.?)", re.DOTALL)


def raw_text(value: Any) -> str:
    """The text of a value before escaping; finished text stays finished."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, Undefined) or hasattr(cast("object", type(value)), "__html__"):
        return Text.escape(value)
    return text(value)


def check_width(width: Any) -> int:
    """The width, when it is one that a prompt can have."""
    bound(int(width))
    return int(width)


def percent_format(template: str, values: Any) -> Text:
    """The operator ``%`` on text that the author wrote.

    Raises:
        RenderError: the text on the left is a value, which is data and never a format; or it asks for what has no
            stable text (``%r``) or is too wide.
    """
    if not isinstance(template, Markup):
        raise RenderError("a value is no format: only text that you wrote may stand left of %, or before format")
    for match in _CONVERSIONS.finditer(template):
        if not match[1] or match[1] not in "sdifFeEgGxXo%" or _WIDTH.search(match[0]):
            raise RenderError(
                f"the format {match[0]!r} is not allowed; use %s, or %d and %.2f with a fixed, small width"
            )
    return cast("Text", Text(template) % values)


def or_else(value: Any, other: Any) -> Any:
    """``other`` instead of ``None``, and of nothing else."""
    return other if value is None else value


def _character_wise(function: Callable[..., str]) -> Callable[..., str]:
    """A filter over characters: finished text stays finished, raw text stays raw."""

    @wraps(function)
    def apply(value: Any, *args: Any, **kwargs: Any) -> str:
        value = raw_text(value)
        result = function(str(value), *args, **kwargs)
        return Text(result) if isinstance(value, Markup) else str(result)

    return apply


@pass_environment
def join(env: Any, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> Text:
    """The items with the separator between them."""
    if attribute is not None:
        value = map(jinja.make_attrgetter(env, attribute), value)
    return join_text(Text.escape(d), value)


def replace(value: Any, old: str, new: str, count: int | None = None) -> Text:
    """The finished text with one part replaced by another."""
    return Text.escape(value).replace(str(old), new, -1 if count is None else count)


def format_(value: Any, *args: Any, **kwargs: Any) -> Text:
    """The author's text with its ``%s`` filled."""
    return percent_format(raw_text(value), kwargs or args)


def indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> Text:
    """The finished text with each line but the first indented."""
    value = Text.escape(value)
    width = Text.escape(width) if isinstance(width, str) else check_width(width)
    size = len(width) if isinstance(width, str) else width
    bound(len(value) + size * (str.count(value, "\n") + 1))
    return Text(jinja.do_indent(value, width, first, blank))


def center(value: Any, width: int = 80) -> Text:
    """The finished text in the middle of so many characters."""
    return Text.escape(value).center(check_width(width))


def truncate(
    value: Any,
    length: int = 255,
    killwords: bool = False,
    end: str = "...",
    leeway: int = 5,
) -> str:
    """At most so many characters of the text, with ``end`` where it was cut."""
    value, ending = raw_text(value), Text.escape(end)
    if length < len(ending):
        raise RenderError(f"truncate: the length {length} has no room for the ending {str(end)!r}")
    if len(value) <= length + leeway:
        return value
    kept = value[: length - len(ending)]
    return (kept if killwords else kept.rsplit(" ", 1)[0]) + ending


@pass_environment
def wordwrap(
    env: Any,
    value: Any,
    width: int = 79,
    break_long_words: bool = True,
    wrapstring: str | None = None,
    break_on_hyphens: bool = True,
) -> Text:
    """The finished text in lines of at most so many characters."""
    value, separator = Text.escape(value), "\n" if wrapstring is None else str(Text.escape(wrapstring))
    wrapped = jinja.do_wordwrap(env, str(value), width, break_long_words, separator, break_on_hyphens)
    bound(len(wrapped))
    return Text(wrapped)


def trim(value: Any, chars: str | None = None) -> str:
    """The text without white space, or these characters, at both ends."""
    return raw_text(value).strip(chars)


def tojson(value: Any) -> str:
    """Compact JSON with sorted keys, without HTML escapes."""
    return json_text(value)


def reverse(value: Any) -> Any:
    """The text, or the items, from the end."""
    return value[::-1] if isinstance(value, str) else list(jinja.do_reverse(value))


@pass_environment
def attr(env: Any, value: Any, name: str) -> Any:
    """``value.name``, with the name as text."""
    return env.getattr(value, str(name))


def batch(value: Iterable[Any], linecount: int, fill_with: Any = None) -> Any:
    """The items in lists of so many."""
    return jinja.do_batch(value, _few(linecount), fill_with)


def slice_(value: Iterable[Any], slices: int, fill_with: Any = None) -> Any:
    """The items in so many lists."""
    return jinja.sync_do_slice(cast("Any", value), _few(slices), fill_with)


def _few(number: int) -> int:
    if number > _MAX_ITEMS:
        raise RenderError(f"{number} is more than the {_MAX_ITEMS:_} items that a prompt may make")
    return number


def _wordcount(value: Any) -> int:
    return jinja.do_wordcount(raw_text(value))


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    **{name: function for name, function in jinja.FILTERS.items() if name not in REMOVED},
    "attr": attr,
    "batch": batch,
    "capitalize": _character_wise(str.capitalize),
    "center": center,
    "format": format_,
    "indent": indent,
    "join": join,
    "lower": _character_wise(str.lower),
    "or_else": or_else,
    "replace": replace,
    "reverse": reverse,
    "slice": slice_,
    "string": raw_text,
    "title": _character_wise(jinja.do_title),
    "tojson": tojson,
    "trim": trim,
    "truncate": truncate,
    "upper": _character_wise(str.upper),
    "wordcount": _wordcount,
    "wordwrap": wordwrap,
}
"""The filters of a prompt file by name."""
