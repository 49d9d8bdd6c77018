"""The filters of prompt files: Jinja's, made to keep finished text finished and to take no ``None``, and ours.

A filter that only maps characters gives raw text for raw text, which is escaped where it is printed. One that adds
what the author wrote (a separator, an indent, a line break) escapes what it gets first, and its result is finished.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, Final, cast

from jinja2 import filters as jinja
from jinja2 import pass_environment
from jinja2.runtime import Undefined
from jinja2.utils import url_quote
from markupsafe import Markup

from llmfeatures.errors import RenderError
from llmfeatures.prompts.escape import without_stray_joiners
from llmfeatures.prompts.given import MAX_ITEMS, present, raw_text
from llmfeatures.prompts.limits import check_items
from llmfeatures.prompts.own_filters import OWN_FILTERS, json
from llmfeatures.prompts.runtime import Fenced, Text, bound, join_text
from llmfeatures.types import clean_text

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

_MAX_PRECISION: Final = 100
_WIDTH: Final = re.compile(r"\d{5,}|\*")
_CONVERSIONS: Final = re.compile(r"%(?:\([^)]*\))?[-#0 +]*[\d*]*(?:\.[\d*]*)?(.?)", re.DOTALL)


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
    if not isinstance(template, Markup) or isinstance(template, Fenced):
        raise RenderError("a value is no format: only text that you wrote may stand left of %, or before format")
    given: list[Any] = list(cast("tuple[Any, ...]", values)) if isinstance(values, tuple) else [values]
    pieces: list[str] = []
    used = at = total = 0
    for match in _CONVERSIONS.finditer(template):
        one = match[0]
        if not match[1] or match[1] not in "sdifFeEgGxXo%" or _WIDTH.search(one):
            raise RenderError(f"the format {one!r} is not allowed; use %s, or %d and %.2f with a fixed, small width")
        if match[1] == "%":
            made = Text("%")
        elif one[1] == "(":
            made = Text(one) % values
        elif used < len(given):
            made = Text(one) % (given[used],)
            used += 1
        else:
            raise RenderError(f"the format takes more values than the {len(given)} it is given")
        if "." in one:  # it may cut a text
            made = Text(without_stray_joiners(made))
        pieces += [template[at : match.start()], made]
        at = match.end()
        total += len(pieces[-1]) + len(pieces[-2])
        bound(total)
    if used < len(given) and not isinstance(values, Mapping):
        raise RenderError(f"the format takes {used} values, and is given {len(given)}")
    return Text("".join([*pieces, template[at:]]))


def _character_wise(function: Callable[..., str]) -> Callable[..., str]:
    """A filter over characters: finished text stays finished, raw text stays raw."""

    @wraps(function)
    def apply(value: Any, *args: Any, **kwargs: Any) -> str:
        value = raw_text(value)
        result = function(str(value), *args, **kwargs)
        return Text(without_stray_joiners(result)) if isinstance(value, Markup) else str(result)

    return apply


@pass_environment
def join(env: Any, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> Text:
    """The items with the separator between them."""
    if attribute is not None:
        value = map(jinja.make_attrgetter(env, attribute), value)
    return join_text(Text.escape(d), value)


def replace(value: Any, old: str, new: str, count: int | None = None) -> Text:
    """The finished text with one part replaced by another."""
    present("replace", old)
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
        raise RenderError(f"truncate: the length {length} has no room for an ending of {len(ending)}")
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
    bound(len(value) + len(separator) * (len(value) + 1))
    wrapped = jinja.do_wordwrap(env, str(value), width, break_long_words, separator, break_on_hyphens)
    return Text(without_stray_joiners(wrapped))


def trim(value: Any, chars: str | None = None) -> str:
    """The text without white space, or these characters, at both ends."""
    return raw_text(value).strip(chars)


def tojson(value: Any) -> str:
    """Compact JSON with sorted keys, without HTML escapes."""
    return json(value)


def urlencode(value: Any) -> str:
    """The text, or the pairs of a json object or list, for a URL."""
    if isinstance(value, Mapping):
        value = cast("Mapping[Any, Any]", value).items()
    elif isinstance(value, str) or not isinstance(value, Iterable):
        return url_quote(clean_text(raw_text(value)))
    pairs = cast("Iterable[tuple[Any, Any]]", value)
    return "&".join([f"{_query(key)}={_query(one)}" for key, one in pairs])


def _query(value: Any) -> str:
    return url_quote(clean_text(raw_text(value)), for_qs=True)


def float_(value: Any, default: Any = 0.0) -> Any:
    """The number; ``default`` for what is none, or is not finite."""
    made: Any = jinja.do_float(value, default)
    return default if isinstance(made, float) and not math.isfinite(made) else made


def reverse(value: Any) -> Any:
    """The text, or the items, from the end."""
    return value[::-1] if isinstance(value, str) else list(jinja.do_reverse(value))


@pass_environment
def attr(env: Any, value: Any, name: str) -> Any:
    """``value.name``, with the name as text."""
    found = env.getattr(value, str(name))
    if isinstance(found, Undefined) and (isinstance(name, Fenced) or not isinstance(name, Markup)):
        return env.undefined("there is no attribute of that name")  # which is a value, and is not shown
    return found


def round_(value: Any, precision: int = 0, method: Any = "common") -> Any:
    """The number rounded; Jinja's."""
    if not -_MAX_PRECISION <= precision <= _MAX_PRECISION:
        raise RenderError(f"round: the precision is from -{_MAX_PRECISION} to {_MAX_PRECISION}")
    return jinja.do_round(value, precision, method)


@pass_environment
def sum_(env: Any, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    """The sum; of lists with ``start=[]``, all their items."""
    if attribute is not None:
        iterable = map(jinja.make_attrgetter(env, attribute), iterable)
    if not isinstance(start, list):
        return sum(iterable, start)
    made = list(cast("list[Any]", start))
    for one in iterable:
        check_items(len(made) + len(one))
        made += one
    return made


def batch(value: Iterable[Any], linecount: int, fill_with: Any = None) -> Any:
    """The items in lists of so many."""
    return jinja.do_batch(value, _few(linecount), fill_with)


def slice_(value: Iterable[Any], slices: int, fill_with: Any = None) -> Any:
    """The items in so many lists."""
    return jinja.sync_do_slice(cast("Any", value), _few(slices), fill_with)


def _few(number: int) -> int:
    if number > MAX_ITEMS:
        raise RenderError(f"{number} is more than the {MAX_ITEMS:_} items that a prompt may make")
    return number


def _wordcount(value: Any) -> int:
    return jinja.do_wordcount(raw_text(value))


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, refusing ``None``: some of Jinja's print it, or take it for an empty list or 0."""
    at = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def apply(*args: Any, **kwargs: Any) -> Any:
        if len(args) > at and args[at] is None:
            present(name, None)
        return function(*args, **kwargs)

    return apply


_TAKES_NONE: Final = frozenset({"d", "default", "tojson"})
_ADAPTED: Final[Mapping[str, Callable[..., Any]]] = {
    "attr": attr,
    "batch": batch,
    "capitalize": _character_wise(str.capitalize),
    "center": center,
    "float": float_,
    "format": format_,
    "indent": indent,
    "join": join,
    "lower": _character_wise(str.lower),
    "replace": replace,
    "reverse": reverse,
    "round": round_,
    "slice": slice_,
    "string": raw_text,
    "sum": sum_,
    "title": _character_wise(jinja.do_title),
    "tojson": tojson,
    "trim": trim,
    "truncate": truncate,
    "upper": _character_wise(str.upper),
    "urlencode": urlencode,
    "wordcount": _wordcount,
    "wordwrap": wordwrap,
}

FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    **{
        name: function if name in _TAKES_NONE else _guarded(name, function)
        for name, function in {**jinja.FILTERS, **_ADAPTED}.items()
        if name not in REMOVED
    },
    **OWN_FILTERS,
}
"""The filters of a prompt file by name."""
