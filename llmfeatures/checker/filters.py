"""What each filter and test of a prompt takes, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from llmfeatures.checker.kinds import (
    ANY,
    BOOL,
    FLOAT,
    INT,
    NUMBERS,
    STR,
    TEXTS,
    UNDEFINED,
    Kind,
    Value,
    listed,
    of,
    series,
)
from llmfeatures.checker.signatures import (
    ITERABLE,
    NUMBER,
    TAKES_BOOL,
    TAKES_COUNT,
    TAKES_LIST,
    TAKES_MAPPING,
    TAKES_MOMENT,
    TAKES_PRINTED,
    TAKES_SEQUENCE,
    TAKES_TEXT,
    TAKES_WHOLE,
    Arg,
    Given,
    Signature,
    Takes,
    conversions,
    full,
    given_as_list,
    given_attribute,
    given_chosen,
    given_clean,
    given_clipped,
    given_dated,
    given_default,
    given_extreme,
    given_formatted,
    given_groups,
    given_length,
    given_lists,
    given_number_of,
    given_of_currency,
    given_one,
    given_or_else,
    given_pairs,
    given_replaced,
    given_reversed,
    given_rounded,
    given_same,
    given_summed,
    given_table,
    given_text,
    given_through,
    given_told,
    giving,
    item_of,
)


def _s(
    takes: Takes,
    *args: Arg,
    gives: Callable[[Given], Value] = given_text,
    none: bool = False,
    rest: bool = False,
) -> Signature:
    return Signature(takes, args, gives, none, rest)


_ATTRIBUTE: Final = Arg("attribute", frozenset({"str", "enum", "int"}), none=True)
_CASE: Final = Arg("case_sensitive", TAKES_WHOLE)
FILTERS: Final[dict[str, Signature]] = {
    # Jinja's
    "abs": _s(NUMBERS | {"duration"}, gives=given_same),
    "attr": _s(None, Arg("name", TAKES_TEXT, required=True), gives=given_attribute),
    "batch": _s(ITERABLE, Arg("linecount", TAKES_WHOLE, required=True), Arg("fill_with", none=True), gives=given_lists),
    "capitalize": _s(TAKES_PRINTED),
    "center": _s(TAKES_PRINTED, Arg("width", TAKES_WHOLE)),
    "count": _s(TAKES_SEQUENCE, gives=given_length),
    "d": _s(None, Arg("default_value", none=True), Arg("boolean", none=True), gives=given_default, none=True),
    "default": _s(None, Arg("default_value", none=True), Arg("boolean", none=True), gives=given_default, none=True),
    "dictsort": _s(
        TAKES_MAPPING,
        _CASE,
        Arg("by", TAKES_TEXT),
        Arg("reverse", TAKES_WHOLE),
        gives=lambda given: given.made(listed(of(Kind("tuple", parts=(of(STR), ANY))))),
    ),
    "filesizeformat": _s(NUMBERS | TEXTS | {"json"}, Arg("binary", TAKES_WHOLE)),
    "first": _s(ITERABLE, gives=given_one),
    "float": _s(None, Arg("default", none=True), gives=given_number_of(FLOAT)),
    "format": _s(TAKES_PRINTED, gives=given_formatted, rest=True),
    "groupby": _s(
        ITERABLE,
        Arg("attribute", _ATTRIBUTE.takes, required=True),
        Arg("default", none=True),
        _CASE,
        gives=given_groups,
    ),
    "indent": _s(
        TAKES_PRINTED,
        Arg("width", frozenset({"int", "bool", "str"})),
        Arg("first", TAKES_WHOLE),
        Arg("blank", TAKES_WHOLE),
    ),
    "int": _s(None, Arg("default", none=True), Arg("base", TAKES_WHOLE), gives=given_number_of(INT)),
    "items": _s(TAKES_MAPPING, gives=given_pairs),
    "join": _s(ITERABLE, Arg("d"), _ATTRIBUTE),
    "last": _s(TAKES_SEQUENCE, gives=given_one),
    "length": _s(TAKES_SEQUENCE, gives=given_length),
    "list": _s(ITERABLE, gives=given_as_list),
    "lower": _s(TAKES_PRINTED),
    "map": _s(ITERABLE, gives=given_through, rest=True),
    "max": _s(ITERABLE, _CASE, _ATTRIBUTE, gives=given_extreme),
    "min": _s(ITERABLE, _CASE, _ATTRIBUTE, gives=given_extreme),
    "reject": _s(ITERABLE, gives=given_chosen, rest=True),
    "rejectattr": _s(ITERABLE, gives=given_chosen, rest=True),
    "replace": _s(
        TAKES_PRINTED,
        Arg("old", TAKES_PRINTED, required=True),
        Arg("new", TAKES_PRINTED, required=True),
        Arg("count", TAKES_WHOLE, none=True),
        gives=given_replaced,
    ),
    "reverse": _s(ITERABLE, gives=given_reversed),
    "round": _s(NUMBERS, Arg("precision", TAKES_WHOLE), Arg("method", TAKES_TEXT), gives=given_rounded),
    "select": _s(ITERABLE, gives=given_chosen, rest=True),
    "selectattr": _s(ITERABLE, gives=given_chosen, rest=True),
    "slice": _s(
        TAKES_SEQUENCE, Arg("slices", TAKES_WHOLE, required=True), Arg("fill_with", none=True), gives=given_lists
    ),
    "sort": _s(ITERABLE, Arg("reverse", TAKES_WHOLE), _CASE, _ATTRIBUTE, gives=given_as_list),
    "string": _s(TAKES_PRINTED),
    "sum": _s(ITERABLE, _ATTRIBUTE, Arg("start"), gives=given_summed),
    "title": _s(TAKES_PRINTED),
    "tojson": _s(TAKES_PRINTED, gives=given_clean, none=True),
    "trim": _s(TAKES_PRINTED, Arg("chars", TAKES_TEXT, none=True)),
    "truncate": _s(
        TAKES_PRINTED,
        Arg("length", TAKES_WHOLE),
        Arg("killwords", TAKES_WHOLE),
        Arg("end", TAKES_PRINTED),
        Arg("leeway", TAKES_WHOLE, none=True),
    ),
    "unique": _s(ITERABLE, _CASE, _ATTRIBUTE, gives=lambda given: given.made(series(given.item))),
    "upper": _s(TAKES_PRINTED),
    "urlencode": _s(TAKES_PRINTED, gives=given_clean),
    "wordcount": _s(TAKES_PRINTED, gives=giving(INT)),
    "wordwrap": _s(
        TAKES_PRINTED,
        Arg("width", TAKES_WHOLE),
        Arg("break_long_words", TAKES_WHOLE),
        Arg("wrapstring", TAKES_PRINTED, none=True),
        Arg("break_on_hyphens", TAKES_WHOLE),
    ),
    # ours
    "ago": _s(TAKES_MOMENT, Arg("as_of", TAKES_MOMENT, required=True)),
    "and_join": _s(TAKES_LIST, Arg("max", TAKES_COUNT, none=True), Arg("last", TAKES_PRINTED), gives=given_clean),
    "bullets": _s(TAKES_LIST, Arg("mark", TAKES_PRINTED), gives=given_clean),
    "clip_chars": _s(TAKES_PRINTED, Arg("n", TAKES_COUNT, required=True), Arg("end", TAKES_PRINTED)),
    "clip_tokens": _s(
        TAKES_PRINTED, Arg("n", TAKES_COUNT, required=True), Arg("end", TAKES_PRINTED), gives=given_clipped
    ),
    "compact": _s(NUMBER, Arg("places", TAKES_COUNT)),
    "data": _s(TAKES_PRINTED, gives=given_clean),
    "datamark": _s(TAKES_PRINTED, Arg("mark", TAKES_PRINTED), gives=given_clean),
    "date": _s(TAKES_MOMENT, Arg("format", TAKES_TEXT), gives=given_dated),
    "duration": _s(frozenset({"int", "float", "decimal", "duration"})),
    "json": _s(TAKES_PRINTED, Arg("indent", TAKES_COUNT, none=True), gives=given_clean, none=True),
    "money": _s(
        NUMBER,
        Arg("currency", TAKES_TEXT, required=True),
        Arg("places", TAKES_COUNT, none=True),
        gives=given_of_currency,
    ),
    "num": _s(NUMBER, Arg("places", TAKES_COUNT, none=True)),
    "numbered": _s(TAKES_LIST, Arg("start", TAKES_COUNT), gives=given_clean),
    "oneline": _s(TAKES_PRINTED, gives=given_clean),
    "or_else": _s(None, Arg("other", required=True, none=True), gives=given_or_else, none=True),
    "pct": _s(NUMBER, Arg("places", TAKES_COUNT)),
    "plural": _s(TAKES_TEXT, Arg("n", NUMBER, required=True), Arg("plural", TAKES_PRINTED, none=True)),
    "table": _s(TAKES_LIST, Arg("columns", frozenset({"list", "tuple", "dict", "json"}), none=True), gives=given_table),
    "yesno": _s(TAKES_BOOL, Arg("yes", none=True), Arg("no", none=True), gives=given_told),
}
"""The signature of each filter of a prompt, in the order of its arguments."""

_NUMERIC: Final[Takes] = NUMBERS
TESTS: Final[dict[str, Signature]] = {
    **{
        name: _s(None, gives=giving(BOOL), none=True)
        for name in ("boolean", "callable", "defined", "undefined", "escaped", "false", "true", "filter", "test")
    },
    **{
        name: _s(None, gives=giving(BOOL), none=True)
        for name in ("float", "integer", "iterable", "mapping", "none", "number", "sequence", "string")
    },
    **{name: _s(None, gives=giving(BOOL), none=True) for name in ("lower", "upper")},
    **{name: _s(_NUMERIC, gives=giving(BOOL)) for name in ("even", "odd")},
    "divisibleby": _s(_NUMERIC, Arg("num", NUMBERS, required=True), gives=giving(BOOL)),
    "sameas": _s(None, Arg("other", required=True, none=True), gives=giving(BOOL), none=True),
    "in": _s(None, Arg("seq", required=True, none=True), gives=giving(BOOL), none=True),
}
"""The signature of each test; those that compare are in `COMPARING`."""

COMPARING: Final[Mapping[str, str]] = {
    "==": "eq", "eq": "eq", "equalto": "eq", "!=": "ne", "ne": "ne", "<": "lt", "lt": "lt", "lessthan": "lt",
    "<=": "lteq", "le": "lteq", ">": "gt", "gt": "gt", "greaterthan": "gt", ">=": "gteq", "ge": "gteq",
}  # fmt: skip
"""The tests that compare, with the operator of each."""

GROUP: Final[Mapping[str, Any]] = {"grouper": 0, "list": 1}
UNDEFINED_VALUE: Final = Value((UNDEFINED,))

__all__ = [
    "COMPARING",
    "FILTERS",
    "GROUP",
    "ITERABLE",
    "TESTS",
    "Arg",
    "Given",
    "Signature",
    "conversions",
    "full",
    "item_of",
]
