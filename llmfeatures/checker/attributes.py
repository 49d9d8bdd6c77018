"""The attributes, methods and items that values of each kind have in a template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from jinja2 import nodes

from llmfeatures.checker import kinds
from llmfeatures.checker.documents import attribute_of_document, known_attributes
from llmfeatures.checker.filters import GROUP, Arg, full, item_of
from llmfeatures.checker.kinds import (
    ANY,
    BOOL,
    DATE,
    FLOAT,
    INT,
    STR,
    TEXTS,
    UNDEFINED,
    Kind,
    Value,
    derived,
    listed,
    of,
)
from llmfeatures.errors import did_you_mean

if TYPE_CHECKING:
    from llmfeatures.checker.run import Run


class Method(NamedTuple):
    """A method: what it takes, and the kind that it gives; None for an item of what it belongs to."""

    args: tuple[Arg, ...]
    gives: Kind
    rest: bool = False


_T, _I = frozenset({"str", "enum"}), frozenset({"int", "bool"})
_S, _N = Arg("text", _T, required=True), Arg("number", _I)
_CHARS = Arg("chars", _T, none=True)
_WORDS = listed(of(STR))
_THREE = Kind("tuple", parts=(of(STR), of(STR), of(STR)))


def _methods(names: str, *args: Arg, gives: Kind, rest: bool = False) -> dict[str, Method]:
    return {name: Method(args, gives, rest) for name in names.split()}


_TEXT: Final[Mapping[str, Any]] = {
    **_methods("capitalize casefold lower swapcase title upper", gives=STR),
    **_methods("isalnum isalpha isascii isdecimal isdigit islower isnumeric isspace istitle isupper", gives=BOOL),
    **_methods("count find index rfind rindex", _S, _N, _N, gives=INT),
    **_methods("endswith startswith", Arg("text", _T | {"tuple"}, required=True), _N, _N, gives=BOOL),
    **_methods("strip lstrip rstrip", _CHARS, gives=STR),
    **_methods("partition rpartition", _S, gives=_THREE),
    **_methods("removeprefix removesuffix", _S, gives=STR),
    **_methods("split rsplit", Arg("sep", _T, none=True), Arg("maxsplit", _I), gives=_WORDS),
    **_methods("splitlines", Arg("keepends", _I), gives=_WORDS),
    **_methods("center ljust rjust", Arg("width", _I, required=True), Arg("fill", _T), gives=STR),
    **_methods("zfill", Arg("width", _I, required=True), gives=STR),
    **_methods("expandtabs", Arg("tabsize", _I), gives=STR),
    **_methods("join", Arg("items", frozenset({"list", "tuple", "series", "json", "str", "dict"}), required=True),
               gives=STR),
    **_methods("replace", _S, Arg("new", _T, required=True), Arg("count", _I), gives=STR),
    **_methods("format", gives=STR, rest=True),
}  # fmt: skip
_DAY: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("day", "month", "year"), INT._replace(truth=True)),
    **_methods("isoformat", gives=STR),
    **_methods("isoweekday weekday", gives=INT),
}
_LISTED: Final = _methods("count index", Arg("item", none=True, required=True), gives=INT)
ATTRIBUTES: Final[Mapping[str, Mapping[str, Any]]] = {
    "str": _TEXT,
    "enum": _TEXT,
    "bool": {},
    "int": _methods("bit_length", gives=INT),
    "float": _methods("is_integer", gives=BOOL),
    "decimal": {},
    "timestamp": {
        **_DAY,
        **dict.fromkeys(("hour", "minute", "second", "microsecond"), INT),
        **_methods("date", gives=DATE),
        **_methods("timestamp", gives=FLOAT),
    },
    "date": _DAY,
    "duration": {
        **dict.fromkeys(("days", "microseconds", "seconds"), INT),
        **_methods("total_seconds", gives=FLOAT),
    },
    "list": _LISTED,
    "tuple": _LISTED,
    "range": {**dict.fromkeys(("start", "stop", "step"), INT), **_LISTED},
}
"""What `sandbox` lets a template read of each kind: kinds of plain attributes, and methods."""

_CLOCK: Final = frozenset({"now", "utcnow", "today", "fromtimestamp", "astimezone"})
LOOP: Final[Mapping[str, Kind]] = {
    "index": INT._replace(truth=True),
    "index0": INT,
    "revindex": INT._replace(truth=True),
    "revindex0": INT,
    "first": BOOL,
    "last": BOOL,
    "length": INT._replace(truth=True),
    "depth": INT._replace(truth=True),
    "depth0": INT,
    "cycle": Kind("function", truth=True, data="cycle"),
    "changed": Kind("function", truth=True, data="changed"),
}


class _AfterFirst(NamedTuple):
    """What holds in all rounds of a loop but the first."""

    facts: Any


def attribute_of(
    run: Run, node: nodes.Getattr | nodes.Getitem, value: Value, name: str, *, asking: bool = False
) -> Value:
    """``value.name``, or ``value["name"]``; ``asking`` whether the template asks if it is there."""
    found: list[Value] = []
    missing: list[Kind] = []
    for kind in value.kinds:
        if kind.name in ("document", "brought"):
            one = attribute_of_document(run.names, run.source, node, kind, name)
            one = one if one is None else derived(one.kinds, one, value)._replace(dynamic=True)
        else:
            one = _of_kind(kind, value, name)
        if one is None:
            missing.append(kind)
        else:
            found.append(one)
    if missing and not found and asking:
        return derived((UNDEFINED,), value)
    if missing and not found:
        _no_attribute(run, node, value, name)
        return ANY
    made = kinds.joined(*found) if len(found) > 1 else found[0] if found else ANY
    path = None if value.path is None else (*value.path, name)
    made = made._replace(path=path if made.path is None or len(found) > 1 else made.path)
    return run.refined(made)


def _of_kind(kind: Kind, value: Value, name: str) -> Value | None:
    match kind.name:
        case "any" | "json":
            return derived((kinds.ANY_KIND,), value)
        case "dict":
            return _of_dict(kind, value, name)
        case "namespace":
            attributes: dict[str, Value] = kind.data.attributes
            return attributes.get(name)
        case "module":
            return kind.data.names.get(name)
        case "loop":
            return _of_loop(kind, name)
        case "macro" | "function" | "method" | "joiner" | "cycler":
            if kind.name == "macro" and name in ("name", "arguments", "catch_kwargs", "catch_varargs", "caller"):
                return ANY
            known = {"cycler": {"next", "reset", "current"}}.get(kind.name, frozenset[str]())
            return ANY if name in known else None
        case "tuple" if kind.data == "group" and name in GROUP:
            return kind.parts[GROUP[name]]
        case "series":
            return None
        case other:
            table = ATTRIBUTES.get(other)
            found = None if table is None else table.get(name)
            if found is None:
                return None
            if isinstance(found, Method):
                method = Kind("method", truth=True, data=(found, name))
                # what the method belongs to comes along: its result is made of it
                return derived((method,), value)._replace(param=value.param)
            return derived((found,), value)


def _of_dict(kind: Kind, value: Value, name: Any) -> Value | None:
    if isinstance(kind.parts, dict):
        return cast("dict[Any, Value]", kind.parts).get(name)
    return kind.item if kind.item is not None else derived((kinds.ANY_KIND,), value)


def _of_words(parts: dict[Any, Value], value: Value, argument: Value) -> Value:
    """The item of a dict that is written out, for an enum: undefined where a word has none."""
    words = [word for kind in argument.kinds for word in kind.words or ()]
    known = kinds.names(argument.kinds) == {"enum"}
    found = [parts[word] for word in words if word in parts] if known else list(parts.values())
    if not found:
        return derived((kinds.ANY_KIND,), value)
    made = kinds.plain(kinds.joined(*found))
    if known and len(found) < len(words):
        made = made._replace(kinds=kinds.unite(made.kinds, (UNDEFINED,)))
    return derived(made.kinds, made, value, argument)


def _of_loop(kind: Kind, name: str) -> Value | None:
    loop = kind.data
    if name in ("previtem", "nextitem"):
        item: Value = loop.item
        return Value(kinds.unite(item.kinds, (UNDEFINED,)), (loop.root, name), dynamic=item.dynamic, param=item.param)
    found = LOOP.get(name)
    if found is None:
        return None
    made = Value((found,), (loop.root, name), dynamic=True)
    if name in ("index", "index0"):
        known = {(loop.root, "previtem"): loop.item.kinds}
        return (
            made._replace(when=(known, {}))
            if name == "index0"
            else made._replace(kinds=(found._replace(data=_AfterFirst(known)),))
        )
    if name in ("first", "last"):
        other = "previtem" if name == "first" else "nextitem"
        known = {(loop.root, other): loop.item.kinds}
        return made._replace(when=({}, known))
    return made


def _no_attribute(run: Run, node: nodes.Getattr | nodes.Getitem, value: Value, name: str) -> None:
    kind = value.kinds[0]
    span = run.source.name_of(node) if isinstance(node, nodes.Getattr) else run.source.of(node.arg)
    what = run.text_of(node.node)
    match kind.name:
        case "loop" | "module" | "document" | "brought" | "namespace":
            known = known_attributes(run.names, kind) if kind.name in ("document", "brought") else _known(kind)
            run.tell(
                "LF026" if kind.name == "namespace" else "LF015",
                node,
                f"{_subject(kind, what)} has no {name!r}{did_you_mean(name, known)}",
                span=span,
                close=(name, known),
            )
            return
        case "timestamp" | "date" if name in _CLOCK:
            run.tell(
                "LF053", node, f".{name} would ask the clock or the machine, and a prompt has none", span=span,
                help="the moment of the prompt is as_of",
            )  # fmt: skip
            return
        case _:
            pass
    known = sorted(ATTRIBUTES.get(kind.name, {}))
    hint = did_you_mean(name, known) if known else ""
    help_text = ""
    if name in ("strftime", "isoformat") or (kind.name in ("timestamp", "date") and name.startswith("str")):
        help_text = 'write the moment with the filter date, like |date("%d %B %Y")'
    elif name in run.environment.filters:
        help_text = f"{name} is a filter: write {what}|{name}"
    elif kind.name == "list" and kind.item is not None and kinds.has(kind.item, "document"):
        help_text = f"these are several documents: write {{% for d in {what} %}}{{{{ d.{name} }}}}{{% endfor %}}"
    elif kind.name == "dict" and isinstance(kind.parts, dict):
        keys = cast("dict[Any, Value]", kind.parts)
        hint = did_you_mean(name, [one for one in keys if isinstance(one, str)])
    run.tell(
        "LF016", node, f"{what}, {kinds.called(value)}, has no .{name} in a prompt{hint}", span=span, help=help_text
    )  # fmt: skip


def _known(kind: Kind) -> list[str]:
    match kind.name:
        case "loop":
            return [*LOOP, "previtem", "nextitem"]
        case "module":
            return list(kind.data.names)
        case _:
            return list(kind.data.attributes)


def _subject(kind: Kind, what: str) -> str:
    match kind.name:
        case "module":
            return f"{what}, an imported partial,"
        case "brought":
            return f"{what}, an entity,"
        case _:
            return what


def item_at(run: Run, node: nodes.Getitem, value: Value, *, asking: bool = False) -> Value:
    """``value[argument]`` where the argument is no text that is written out."""
    from llmfeatures.checker.expressions import value_of

    if isinstance(node.arg, nodes.Slice):
        for part in (node.arg.start, node.arg.stop, node.arg.step):
            if part is not None:
                value_of(run, part)
        return _sliced(run, node, value)
    argument = value_of(run, node.arg)
    if kinds.has(argument, "none") and not argument.lenient and not kinds.is_any(argument):
        said = run.text_of(node.arg)
        run.tell("LF022", node.arg, f"{said} may be None, and there is no item of that name or number",
                 help=f"guard it with {{% if {said} is not none %}}")  # fmt: skip
        argument = run.none_dropped(argument)
    consts = [kind.const for kind in argument.kinds]
    const = consts[0] if len(consts) == 1 else kinds.NOTHING
    found: list[Value] = []
    for kind in value.kinds:
        one = _item(run, node, kind, value, argument, const, asking=asking)
        if one is not None:
            found.append(one)
    if not found:
        run.tell(
            "LF016",
            node,
            f"{run.text_of(node.node)}, {kinds.called(value)}, has no items like that",
            span=run.source.of(node),
        )
        return ANY
    made = kinds.joined(*found)
    part = argument.path if const is kinds.NOTHING else const
    return made if value.path is None or part is None else run.refined(made._replace(path=(*value.path, part)))


def _item(
    run: Run, node: nodes.Getitem, kind: Kind, value: Value, argument: Value, const: Any, *, asking: bool
) -> Value | None:
    whole = kinds.is_any(argument) or kinds.has(argument, "int", "bool", "json")
    match kind.name:
        case "any" | "json":
            return derived((kinds.ANY_KIND,), value)
        case "dict":
            if const is not kinds.NOTHING:
                return _of_dict(kind, value, const)
            if isinstance(kind.parts, dict):
                return _of_words(cast("dict[Any, Value]", kind.parts), value, argument)
            return kind.item or derived((kinds.ANY_KIND,), value)
        case "tuple" | "list" if kind.parts and isinstance(const, int):
            return kind.parts[const] if -len(kind.parts) <= const < len(kind.parts) else None
        case "list" | "tuple" | "range" | "str" | "enum" if whole:
            item = item_of(of(kind)._replace(text_of=value.text_of, dynamic=value.dynamic, features=value.features))
            if kind.truth is True or kind.name != "list" or not isinstance(const, int) or kinds.is_any(item):
                return item
            if run.is_there(value.path, const):
                return item
            if asking:
                return item._replace(kinds=kinds.unite(item.kinds, (UNDEFINED,)))
            said = run.text_of(node.node)
            run.tell("LF027", node, f"{run.text_of(node)} of what may have no such item: that is an error then",
                     help=f"guard it with {{% if {said} %}}")  # fmt: skip
            return item
        case "loop" | "module" | "namespace" | "document" | "brought":
            return ANY
        case _:
            return None


def _sliced(run: Run, node: nodes.Getitem, value: Value) -> Value:
    made: list[Kind] = []
    for kind in value.kinds:
        match kind.name:
            case "any" | "json":
                made.append(kinds.ANY_KIND)
            case "str" | "enum":
                made.append(STR)
            case "list" | "range":
                made.append(Kind("list", item=kind.item))
            case "tuple":
                made.append(Kind("tuple", item=item_of(of(kind))))
            case _:
                pass
    if not made:
        run.tell("LF016", node, f"{run.text_of(node.node)}, {kinds.called(value)}, cannot be sliced")
        return ANY
    return derived(kinds.unite(tuple(made)), value)


def result_of(value: Value, method: Method, name: str, arguments: list[Value]) -> Value:
    """What a method gives."""
    made = derived((method.gives,), value, *arguments)
    if name in ("split", "rsplit") and arguments:
        made = made._replace(kinds=(method.gives._replace(truth=True),))
    if (name in ("split", "rsplit") and not arguments) or name == "splitlines":
        return made._replace(text_of="")
    return made


__all__ = ["ATTRIBUTES", "TEXTS", "Method", "attribute_of", "full", "item_at", "result_of"]
