"""The filters that Jinja does not have: numbers, moments, words, lists, and text that has to fit.

What a value brings is escaped as everywhere; what the author wrote (a mark, an ending, a date's form) and the line
breaks that a filter makes are finished text. Items of lists and cells of tables are one line each.
"""

from __future__ import annotations

import json as jsonlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, cast

from jinja2 import pass_environment
from jinja2.runtime import Undefined
from markupsafe import Markup

from llmfeatures.errors import RenderError
from llmfeatures.prompts import formats, given
from llmfeatures.prompts.escape import escape
from llmfeatures.prompts.limits import check_length, check_parts
from llmfeatures.prompts.runtime import RENDER, Text, bound, concat_pieces, join_text, literal
from llmfeatures.types import json_text, json_value

MAX_PLACES: Final = 30
_SPACES: Final = re.compile(r"\s+")
_PIPE: Final = re.compile(r"(?<!\\)(\\*)\|")
_CURRENCY: Final = re.compile("[A-Z]{3}")
# what the author would write
_AND: Final = literal("and")
_CARET: Final = literal("^")
_DASH: Final = literal("-")
_DOTS: Final = literal("…")
_ISO_DAY: Final = literal("%Y-%m-%d")

NEEDS_BUDGET: Final = (
    "clip_tokens counts with the tokenizer of the prompt's budget, and this prompt has none: add budget: {max_tokens: "
    "4000, tokenizer: o200k_base} to the header, or use clip_chars"
)

# -- numbers ---------------------------------------------------------------------------------------------------------


def num(value: Any, places: int | None = None) -> str:
    """The number in groups of three digits, with so many decimals or those it has."""
    if places is not None:
        given.whole("num", "places", places, 0, MAX_PLACES)
    return formats.number_text(given.number("num", value), places)


def compact(value: Any, places: int = 1) -> str:
    """The number in k, M or B, with at most so many decimals."""
    return formats.compact_text(given.number("compact", value), given.whole("compact", "places", places, 0, MAX_PLACES))


def pct(value: Any, places: int = 0) -> str:
    """A share of one as a percentage."""
    return formats.percent_text(given.number("pct", value), given.whole("pct", "places", places, 0, MAX_PLACES))


def money(value: Any, currency: str, places: int | None = None) -> str:
    """An amount of a currency, named by its code of three letters."""
    if not isinstance(cast("object", currency), str) or not _CURRENCY.fullmatch(currency):
        raise RenderError('money: the currency is a code of three capital letters, like money("USD")')
    if places is not None:
        given.whole("money", "places", places, 0, MAX_PLACES)
    return formats.money_text(given.number("money", value), str(currency), places)


def duration(value: Any) -> str:
    """A length of time: seconds, or the difference of two timestamps."""
    value = given.present("duration", value)
    if not isinstance(value, timedelta):
        value = given.number("duration", value, "seconds (an int, float or decimal) or a difference of timestamps")
    return formats.duration_text(value)


# -- moments ---------------------------------------------------------------------------------------------------------


def date(value: Any, format: str = _ISO_DAY) -> Text:  # noqa: A002
    """The moment, in UTC, in a form that the author wrote."""
    moment = given.moment("date", value)
    if not isinstance(format, Markup):
        raise RenderError("date: a value is no format: write the format out")
    timeless = not isinstance(moment, datetime)
    pieces: list[str] = formats.directives(str(format))
    for at, directive in enumerate(pieces):
        if at % 2 == 0:
            continue
        if directive not in formats.DIRECTIVES:
            raise RenderError(f"date: a format has no {directive!r}; it has {' '.join(formats.DIRECTIVES)}")
        if timeless and directive in formats.TIME_DIRECTIVES:
            raise RenderError(f"date: {directive} asks for a time, and a date has none")
        pieces[at] = Text(formats.DIRECTIVES[directive](moment))
    return concat_pieces(pieces)


def ago(value: Any, as_of: Any) -> str:
    """How long before or after ``as_of`` the moment is."""
    return formats.ago_text(given.moment("ago", value), given.moment("ago", as_of))


# -- words -----------------------------------------------------------------------------------------------------------


def plural(value: Any, n: Any, plural: str | None = None) -> str:
    """The word for so many: the singular for 1, else the plural."""
    word = given.present("plural", value)
    if not isinstance(word, str):
        raise given.refused("plural", 'a word, like "title"|plural(3)', word)
    if given.number("plural", n) == 1:
        return word
    if plural is not None:
        return plural
    made = formats.plural_of(str(word))
    return Text(made) if isinstance(word, Markup) else made


def yesno(value: Any, yes: Any = "yes", no: Any = "no") -> Any:
    """One of two texts for a bool."""
    value = given.present("yesno", value)
    if not isinstance(value, bool):
        raise given.refused("yesno", "a bool", value)
    return yes if value else no


def or_else(value: Any, other: Any) -> Any:
    """``other`` instead of ``None``, and of nothing else."""
    return other if value is None else value


# -- lists -----------------------------------------------------------------------------------------------------------


def bullets(value: Any, mark: str = _DASH) -> Text:
    """A line per item, with a mark before it."""
    marked = given.one_line(mark)
    return _lines([(marked, " ", given.one_line(item)) for item in given.items("bullets", value)])


def numbered(value: Any, start: int = 1) -> Text:
    """A line per item, with its number before it."""
    first = given.whole("numbered", "start", start, 0)
    return _lines([(f"{at}. ", given.one_line(item)) for at, item in enumerate(given.items("numbered", value), first)])


def and_join(value: Any, max: int | None = None, last: str = _AND) -> Text:  # noqa: A002
    """The items as a phrase; of more than ``max`` the first, and how many more there are."""
    pieces: list[str] = [given.one_line(item) for item in given.items("and_join", value)]
    if max is not None and len(pieces) > given.whole("and_join", "max", max, 1):
        pieces = [*pieces[:max], f"{len(pieces) - max:,} more"]
    if len(pieces) < 2:
        return concat_pieces(pieces)
    spaced: list[str] = [piece for one in pieces[:-1] for piece in (one, ", ")][:-1]
    return concat_pieces([*spaced, " ", given.one_line(last), " ", pieces[-1]])


def table(value: Any, columns: Sequence[str] | Mapping[str, str] | None = None) -> Text:
    """The items, json objects, as a Markdown table; ``columns`` are their keys, or keys with headings."""
    rows = given.items("table", value)
    for place, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise RenderError(f"table takes a list of json objects; item {place} is {given.kind(row)}")
    if columns is None:
        columns = sorted({str(key) for row in rows for key in row})
    elif isinstance(columns, str):
        raise RenderError('table: columns is a list of keys, like ["title", "year"]')
    names = list(columns)
    if not names:
        return Text()
    if len(names) * len(rows) > given.MAX_ITEMS:
        raise RenderError(f"table makes at most {given.MAX_ITEMS:,} cells")
    headings = list(columns.values()) if isinstance(columns, Mapping) else names
    lines: list[Sequence[str]] = [_row(headings), ["|" + "---|" * len(names)]]
    return _lines([*lines, *[_row([row.get(name) for name in names]) for row in rows]])


def _row(cells: Iterable[Any]) -> list[str]:
    return ["| ", *[piece for cell in cells for piece in (_cell(cell), " | ")][:-1], " |"]


def _cell(value: Any) -> Text:
    if value is None:
        return Text()
    printed = given.one_line(value)
    return Text(_PIPE.sub(r"\1\1\|", printed)) if "|" in printed else printed


def _lines(lines: Iterable[Sequence[str]]) -> Text:
    pieces: list[str] = []
    for line in lines:
        pieces.extend(["\n", *line] if pieces else line)
    return concat_pieces(pieces)


# -- text ------------------------------------------------------------------------------------------------------------


def json(value: Any, indent: int | None = None) -> str:
    """JSON with sorted keys and without HTML escapes, in one line or indented; ``None`` is null."""
    if isinstance(value, Undefined):
        given.present("json", value)
    check_parts(value)
    if indent is None:
        return json_text(value)
    given.whole("json", "indent", indent, 0, 16)
    plain = json_value(value)
    bound(_indented(plain, indent))
    written = jsonlib.dumps(plain, ensure_ascii=False, sort_keys=True, allow_nan=False, indent=indent)
    check_length(len(written))
    return Text("\n".join([escape(line, keep_lines=False) for line in written.split("\n")]))


def _indented(value: Any, indent: int) -> int:
    """How many characters of white space the indented JSON has."""
    total = 0
    todo: list[tuple[Any, int]] = [(value, indent)]
    while todo:
        one, depth = todo.pop()
        inner: Any = list(cast("dict[str, Any]", one).values()) if isinstance(one, dict) else one
        if isinstance(inner, list):
            total += (depth + 1) * (len(cast("list[Any]", inner)) + 1)
            todo.extend([(part, depth + indent) for part in cast("list[Any]", inner)])
    return total


def oneline(value: Any) -> Text:
    """The text with each run of white space as one space, and none at the ends."""
    return Text(_SPACES.sub(" ", Text.escape(given.present("oneline", value))).strip())


def clip_chars(value: Any, n: int, end: str = _DOTS) -> Text:
    """At most so many characters of the text, with ``end`` where it was cut."""
    printed, ending = _clipped("clip_chars", value, n, end)
    if len(printed) <= n:
        return printed
    if len(ending) > n:
        raise RenderError(f"clip_chars: {n} characters have no room for an ending of {len(ending)}")
    return _cut(str(printed)[: n - len(ending)], ending)


@pass_environment
def clip_tokens(env: Any, value: Any, n: int, end: str = _DOTS) -> Text:
    """At most so many tokens of the text, with ``end`` where it was cut."""
    tokenizer = getattr(env, "tokenizer", None)
    if tokenizer is None:
        raise RenderError(NEEDS_BUDGET)
    printed, ending = _clipped("clip_tokens", value, n, end)
    if tokenizer.count(str(printed)) <= n:
        return printed
    room = n - tokenizer.count(str(ending))
    if room < 0:
        raise RenderError(f"clip_tokens: {n} tokens have no room for the ending")
    while True:
        # two texts together may have more tokens than each has
        made = _cut(tokenizer.clip(str(printed), room), ending)
        if room <= 0 or tokenizer.count(str(made)) <= n:
            return made
        room -= 1


def _clipped(name: str, value: Any, n: Any, end: str) -> tuple[Text, Text]:
    given.whole(name, "n", n, 1, 10_000_000)
    return Text.escape(given.present(name, value)), Text.escape(end)


def _cut(kept: str, ending: Text) -> Text:
    # a joiner at a cut joins nothing, and would be an invisible character at the end
    return join_text("", (Text(kept.rstrip().rstrip("\u200c\u200d").rstrip()), ending))


@pass_environment
def data(env: Any, value: Any) -> str:
    """The text in a fence, as ``{% data %}`` makes it; inside of a fence just the text."""
    state = RENDER.get()
    state.fences += 1
    value = given.present("data", value)
    names = env.runtime.names
    content = names["print_value"](value)
    return names["end_data"](content if isinstance(content, Markup) else Text(content))


def datamark(value: Any, mark: str = _CARET) -> Text:
    """The text with a mark for each run of white space, so that a model can tell it from what the author wrote."""
    printed, marked = Text.escape(given.present("datamark", value)), Text.escape(mark)
    if not marked or _SPACES.search(marked):
        raise RenderError("datamark: the mark is at least one character, and no white space")
    made = _SPACES.split(str(printed))
    bound(len(printed) + len(made) * len(marked))
    return join_text(marked, map(Text, made))


OWN_FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "ago": ago,
    "and_join": and_join,
    "bullets": bullets,
    "clip_chars": clip_chars,
    "clip_tokens": clip_tokens,
    "compact": compact,
    "data": data,
    "datamark": datamark,
    "date": date,
    "duration": duration,
    "json": json,
    "money": money,
    "num": num,
    "numbered": numbered,
    "oneline": oneline,
    "or_else": or_else,
    "pct": pct,
    "plural": plural,
    "table": table,
    "yesno": yesno,
}
"""The filters that Jinja does not have, by name."""
