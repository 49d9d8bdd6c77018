"""Signatures of filters and tests, and what filters give for what they are given."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from jinja2 import nodes

from llmfeatures.checker import kinds
from llmfeatures.checker.edits import replacement
from llmfeatures.checker.kinds import (
    ANY,
    FLOAT,
    INT,
    NOTHING,
    NUMBERS,
    PRINTED,
    STR,
    TEXTS,
    Kind,
    Kinds,
    Value,
    derived,
    listed,
    of,
    series,
)

if TYPE_CHECKING:
    from llmfeatures.checker.run import Run

Takes = frozenset[str] | None
"""The names of kinds; None for any."""

NUMBER: Final[Takes] = frozenset({"int", "float", "decimal"})
TAKES_COUNT: Final[Takes] = frozenset({"int"})
TAKES_WHOLE: Final[Takes] = frozenset({"int", "bool"})
TAKES_TEXT: Final[Takes] = TEXTS
TAKES_PRINTED: Final[Takes] = PRINTED
TAKES_BOOL: Final[Takes] = frozenset({"bool"})
TAKES_MOMENT: Final[Takes] = frozenset({"timestamp", "date"})
TAKES_LIST: Final[Takes] = frozenset({"list", "tuple", "series", "range", "json"})
ITERABLE: Final[frozenset[str]] = frozenset({"list", "tuple", "series", "range", "json", "dict", "str", "enum"})
TAKES_SEQUENCE: Final[Takes] = ITERABLE - {"series"}
TAKES_MAPPING: Final[Takes] = frozenset({"dict", "json"})


class Arg(NamedTuple):
    """An argument of a filter, a test or a method."""

    name: str
    takes: Takes = None
    required: bool = False
    none: bool = False


class Given(NamedTuple):
    """A filter as it stands in a template: what it is given."""

    run: Run
    node: nodes.Filter | nodes.Test
    value: Value
    args: Mapping[str, Value]
    nodes: Mapping[str, nodes.Expr]

    def made(self, *made: Kind) -> Value:
        """A value of these kinds, made of all that is given."""
        return derived(made, self.value, *self.args.values())

    @property
    def item(self) -> Value:
        """What the value holds."""
        return item_of(self.value)


class Signature(NamedTuple):
    """What a filter takes and gives. ``none`` says whether it takes None; ``rest`` whether any further arguments."""

    takes: Takes
    args: tuple[Arg, ...]
    gives: Callable[[Given], Value]
    none: bool = False
    rest: bool = False


def item_of(value: Value) -> Value:
    """What going through a value gives."""
    items: list[Value] = []
    for kind in value.kinds:
        match kind.name:
            case "list" | "series" | "range":
                items.append(kind.item or ANY)
            case "tuple":
                items.append(kinds.joined(*kind.parts) if kind.parts else kind.item or ANY)
            case "str" | "enum" | "dict":
                items.append(of(STR))
            case "json" | "any" | "document":
                items.append(ANY)
            case _:
                pass
    if not items:
        return ANY
    made = kinds.joined(*items)
    whole = derived(made.kinds, made, value)
    return whole._replace(text_of=whole.text_of or made.text_of)


def full(value: Value) -> bool | None:
    """Whether it is known to hold something."""
    truths = {kind.truth for kind in value.kinds}
    return truths.pop() if len(truths) == 1 else None


# -- what they give --------------------------------------------------------------------------------------------------


def giving(*made: Kind) -> Callable[[Given], Value]:
    return lambda given: given.made(*made)


def given_same(given: Given) -> Value:
    return derived(_unsure(given.value.kinds), given.value)


def _unsure(union: Kinds) -> Kinds:
    return tuple([kind._replace(const=NOTHING, words=None, name=_plain_name(kind.name)) for kind in union])


def _plain_name(name: str) -> str:
    return "str" if name == "enum" else "int" if name == "bool" else name


given_text = giving(STR)


def given_clean(given: Given) -> Value:
    """Text that keeps no line breaks of a value, or stands in a fence."""
    return given.made(STR)._replace(text_of="")


def given_replaced(given: Given) -> Value:
    old = given.args.get("old")
    breaks = old is not None and any(isinstance(kind.const, str) and "\n" in kind.const for kind in old.kinds)
    return given_clean(given) if breaks else given.made(STR)


def given_as_list(given: Given) -> Value:
    return given.made(listed(given.item, full(given.value)))


def given_one(given: Given) -> Value:
    """One item, where there may be none."""
    return _picked(given, given.item)


AS_MANY: Final = frozenset({"map", "list", "sort", "unique", "reverse", "batch"})
"""What they give has items exactly where what they take has."""


def _guard(given: Given) -> str:
    """How to make sure that there is an item. A series is true also when it is empty."""
    run, node, series = given.run, given.node.node, kinds.has(given.value, "series")
    while isinstance(node, nodes.Filter) and node.name in AS_MANY and node.node is not None:
        node = node.node
    if node is None:
        return ""
    if series and isinstance(node, nodes.Filter):
        return f"write {{% set found = {run.text_of(node, 200)}|list %}}, and guard it with {{% if found %}}"
    return f"guard it with {{% if {run.text_of(node, 200)} %}}"


def _picked(given: Given, item: Value) -> Value:
    run, value = given.run, given.value
    held = kinds.names(value.kinds) & {"list", "tuple", "range", "series"}
    if full(value) is True or kinds.is_any(item) or not held:
        return item
    if run.is_there(value.path, f"|{given.node.name}"):
        return item
    if run.asked:
        return item._replace(kinds=kinds.unite(item.kinds, (kinds.UNDEFINED,)))
    said = run.text_of(given.node.node) if given.node.node is not None else "the list"
    run.tell(
        "LF027",
        given.node,
        f"{given.node.name} of {said}, which may have no items: that is an error then",
        help=_guard(given),
        span=run.source.name_of(given.node),
    )
    return item


def given_extreme(given: Given) -> Value:
    """The largest or least item."""
    item = given.item
    consts = [kind.const for one in given.value.kinds for part in one.parts or () for kind in part.kinds]
    positive = given.node.name == "max" and any(type(one) in (int, float) and one > 0 for one in consts)
    made = tuple([kind._replace(const=NOTHING, truth=True if positive else None) for kind in item.kinds])
    return _picked(given, item._replace(kinds=made))


def given_length(given: Given) -> Value:
    return given.made(INT._replace(truth=full(given.value)))


def given_default(given: Given) -> Value:
    run, value = given.run, given.value
    other = given.args.get("default_value", of(STR))
    boolean = given.args.get("boolean")
    loose = boolean is not None and any(kind.truth is not False for kind in boolean.kinds)
    ignored: tuple[Any, ...] | None = None
    if kinds.has(value, "none") and not loose and not kinds.has(value, "undefined"):
        written = [run.text_of(node) for name, node in given.nodes.items() if name == "default_value"]
        at = run.source.name_of(given.node)
        run.tell(
            "LF024",
            given.node,
            f"the filter {given.node.name} does not replace None, and {run.text_of(given.node.node or given.node)} "
            "may be None",
            span=at,
            help=f"write or_else({', '.join(written)})",
            edits=replacement(at, "or_else") if list(given.args) == ["default_value"] else (),
        )
        ignored = run.last
    left = kinds.with_truth(value.kinds, truth=True) if loose else value.kinds
    left = kinds.without(left, "undefined", *(("none",) if loose else ()))
    if not left:
        return other
    if ignored is not None:
        # what None does further on is the same mistake
        return value._replace(kinds=left, when=None, path=None, lenient=True, ignored=ignored)
    return kinds.joined(value._replace(kinds=left, when=None), other)


def given_or_else(given: Given) -> Value:
    other = given.args.get("other", ANY)
    if not kinds.has(given.value, "none"):
        return given.value
    value = given.value
    left = kinds.without(value.kinds, "none")
    if not left:
        return other
    made = kinds.joined(value._replace(kinds=left, path=None), other)
    if value.path is None or any(kind.truth is not False for kind in other.kinds):
        return made
    # what stands in is empty: where the whole is not, the value is there
    return made._replace(path=(*value.path, "|or_else"), when=({value.path: kinds.with_truth(left, truth=True)}, {}))


def given_number_of(kind: Kind) -> Callable[[Given], Value]:
    def gives(given: Given) -> Value:
        run, value = given.run, given.value
        if kinds.names(value.kinds) & {"str", "enum", "timestamp", "date", "list", "none"} and not given.args:
            run.tell(
                "LF032",
                given.node,
                f"the filter {given.node.name} turns what is no number into 0: "
                f"{run.text_of(given.node.node or given.node)} is {kinds.called(value)}",
                span=run.source.name_of(given.node),
                help=f"declare it as a number, or say what stands in: {given.node.name}(default=-1)",
            )
        return given.made(kind._replace(truth=full(value) if kind.name == "float" else None))

    return gives


def given_rounded(given: Given) -> Value:
    made = [FLOAT if kind.name == "float" else DECIMAL if kind.name == "decimal" else INT for kind in given.value.kinds]
    if "method" in given.args:
        made = [*made, FLOAT]
    return given.made(*dict.fromkeys(made))


DECIMAL: Final = kinds.DECIMAL


def given_summed(given: Given) -> Value:
    item = given.item
    if len(given.value.features) > 1:
        together = " and ".join(sorted(given.value.features))
        given.run.tell(
            "LF051", given.node, f"{together} are added here, in the template alone",
            help="make it an on-demand feature: then history and other prompts have it too",
        )  # fmt: skip
    if "attribute" in given.args:
        return given.made(INT, FLOAT)
    wrong = not kinds.is_any(item) and kinds.names(item.kinds).isdisjoint(NUMBERS | {"json", "duration"})
    if wrong and "start" not in given.args:
        given.run.tell(
            "LF014",
            given.node,
            f"sum adds numbers, not {kinds.called(item)}",
            span=given.run.source.name_of(given.node),
        )
        return ANY
    return given.made(*_unsure(item.kinds))


def given_pairs(given: Given) -> Value:
    for kind in given.value.kinds:
        if kind.name == "dict" and kind.item is not None:
            return given.made(series(of(Kind("tuple", parts=(of(STR), kind.item)))))
    return given.made(series(of(Kind("tuple", parts=(of(STR), ANY)))))


def given_groups(given: Given) -> Value:
    item = given.item
    return given.made(listed(of(Kind("tuple", parts=(ANY, of(listed(item))), data="group"))))


def given_lists(given: Given) -> Value:
    size = given.args.get("linecount")
    const = size.kinds[0].const if size is not None and len(size.kinds) == 1 else NOTHING
    parts = (given.item,) * const if type(const) is int and 0 < const < 20 and "fill_with" in given.args else None
    return given.made(series(of(listed(given.item)._replace(parts=parts))))


def given_reversed(given: Given) -> Value:
    if kinds.names(given.value.kinds) <= TEXTS:
        return given.made(STR)
    return given_as_list(given)


def given_attribute(given: Given) -> Value:  # noqa: ARG001
    return ANY


def given_through(given: Given) -> Value:
    from llmfeatures.checker.series import map_items

    return map_items(given)


def given_chosen(given: Given) -> Value:
    from llmfeatures.checker.series import choose_items

    return choose_items(given)


_CONVERSION: Final = re.compile(r"%(?:\((?P<name>[^)]*)\))?[-#0 +]*[\d*]*(?:\.[\d*]*)?(?P<kind>.?)", re.DOTALL)


def conversions(written: str) -> int | None:
    """How many values a format with ``%`` takes; None where they are named."""
    found = [match for match in _CONVERSION.finditer(written) if match["kind"] != "%"]
    return None if any(match["name"] for match in found) else len(found)


def check_conversions(run: Run, code: str, written: Any, values: Sequence[Value], at: Sequence[nodes.Expr]) -> None:
    """Report what a format with ``%`` cannot print: None, and what is no number where it wants one."""
    if not isinstance(written, str) or conversions(written) != len(values) or len(at) != len(values):
        return
    wanted = [match["kind"] for match in _CONVERSION.finditer(written) if match["kind"] != "%"]
    for kind, value, node in zip(wanted, values, at, strict=True):
        if kinds.is_any(value) or value.lenient:
            continue
        if kinds.has(value, "none"):
            run.tell("LF022", node, f"{run.text_of(node)} may be None, and a format prints no None",
                     help="give it a value with or_else(...)")  # fmt: skip
        elif kind != "s" and kinds.names(value.kinds).isdisjoint(NUMBERS | {"json"}):
            run.tell(code, node, f"%{kind} takes a number, and {run.text_of(node)} is {kinds.called(value)}")


def given_formatted(given: Given) -> Value:
    value = given.value
    const = value.kinds[0].const if len(value.kinds) == 1 else NOTHING
    count = len(given.args)
    dynamic = given.node.dyn_args or given.node.dyn_kwargs or given.node.kwargs
    if isinstance(const, str) and not dynamic and (wanted := conversions(const)) not in (None, count):
        said = f"the format takes {wanted} values, and is given {count}"
        given.run.tell("LF014", given.node, said, span=given.run.source.name_of(given.node))
    check_conversions(given.run, "LF014", const, list(given.args.values()), given.node.args)
    if kinds.names(value.kinds) - TEXTS and not kinds.is_any(value):
        said = f"format takes a format that you wrote before it, not {kinds.called(value)}"
        given.run.tell("LF014", given.node, said, span=given.run.source.name_of(given.node))
    elif value.dynamic and kinds.names(value.kinds) <= TEXTS:
        given.run.tell(
            "LF014", given.node, "a value is no format: only text that you wrote may stand before format",
            span=given.run.source.name_of(given.node),
        )  # fmt: skip
    return given.made(STR)


def given_table(given: Given) -> Value:
    """A Markdown table."""
    item = given.item
    if not kinds.is_any(item) and not kinds.has(item, "json", "dict", "document"):
        run = given.run
        run.tell(
            "LF014", given.node, f"the filter table takes a list of json objects, and these items are: "
            f"{kinds.called(item)}", span=run.source.name_of(given.node),
        )  # fmt: skip
    return given_clean(given)


def given_dated(given: Given) -> Value:
    from llmfeatures.prompts import formats

    run, form = given.run, given.args.get("format")
    if form is not None and form.dynamic and not kinds.is_any(form):
        run.tell("LF014", given.nodes["format"], "a value is no format of a date: write the format out")
    consts = [] if form is None else [kind.const for kind in form.kinds if isinstance(kind.const, str)]
    timeless = kinds.names(given.value.kinds) == {"date"}
    for directive in [one for const in consts for one in formats.directives(const)[1::2]]:
        if directive not in formats.DIRECTIVES:
            known = " ".join(formats.DIRECTIVES)
            run.tell("LF014", given.nodes["format"], f"a format of a date has no {directive!r}; it has {known}")
        elif timeless and directive in formats.TIME_DIRECTIVES:
            run.tell("LF014", given.nodes["format"], f"{directive} asks for a time, and a date has none")
    return given.made(STR)


def given_of_currency(given: Given) -> Value:
    currency = given.args.get("currency")
    const = currency.kinds[0].const if currency is not None and len(currency.kinds) == 1 else NOTHING
    if isinstance(const, str) and not (len(const) == 3 and const.isascii() and const.isalpha() and const.isupper()):
        said = 'the currency is a code of three capital letters, like money("USD")'
        given.run.tell("LF014", given.nodes["currency"], said)
    return given.made(STR)


def given_clipped(given: Given) -> Value:
    run = given.run
    if run.file.header.budget is None:
        run.tell(
            "LF014",
            given.node,
            "clip_tokens counts with the tokenizer of the prompt's budget, and the header has none",
            span=run.source.name_of(given.node),
            help="add budget: {max_tokens: ..., tokenizer: ...} to the header, or use clip_chars",
        )
    return given.made(STR)


def given_told(given: Given) -> Value:
    both = [given.args.get("yes", of(STR)), given.args.get("no", of(STR))]
    return kinds.joined(*both)
