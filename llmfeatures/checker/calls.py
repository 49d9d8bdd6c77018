"""Calls and filters: their arguments against what is taken, and what they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from jinja2 import nodes

from llmfeatures.checker import kinds
from llmfeatures.checker.attributes import Method, result_of
from llmfeatures.checker.filters import COMPARING, FILTERS, ITERABLE, TESTS, Arg, Given, item_of
from llmfeatures.checker.kinds import ANY, INT, STR, UNDEFINED, Kind, Value, derived, listed, of
from llmfeatures.checker.run import Capture, Frame, Place, Run
from llmfeatures.errors import did_you_mean
from llmfeatures.prompts.filters import REMOVED
from llmfeatures.prompts.tags import TAGS

if TYPE_CHECKING:
    from llmfeatures.checker.positions import Source


_TELLING = frozenset(
    {"default", "d", "or_else", "map", "select", "reject", "selectattr", "rejectattr", "clip_tokens", "date", "money"}
)
"""Filters that have something to say of their arguments, also where nothing is known of the value."""
_EACH = frozenset({"join", "bullets", "numbered", "and_join", "sum", "sort", "min", "max", "unique", "groupby"})
QUOTES = "\"'"
_PLAIN = kinds.NUMBERS | {"timestamp", "date", "duration", "list", "tuple", "dict", "series", "range", "json"}


@dataclass(slots=True, eq=False)
class Macro:
    """A macro, or the body of a call block, with the scopes that it sees."""

    node: nodes.Macro | nodes.CallBlock
    source: Source
    frames: list[Frame]
    including: list[str]
    special: frozenset[str]
    """Which of ``caller``, ``varargs`` and ``kwargs`` it reads."""

    @property
    def name(self) -> str:
        """Its name, for messages."""
        return self.node.name if isinstance(self.node, nodes.Macro) else "caller"


@dataclass(slots=True, eq=False)
class Namespace:
    """A ``namespace()``: each attribute with all that is ever assigned to it."""

    attributes: dict[str, Value] = field(default_factory=dict[str, Value])
    conditions: int = 0
    """How many conditions are around where it was made."""


# -- arguments -------------------------------------------------------------------------------------------------------


def check_repeated(run: Run, node: nodes.Call | nodes.Filter | nodes.Test) -> None:
    """Python refuses a keyword that is given twice, and Jinja does not."""
    seen: set[str] = set()
    for one in node.kwargs or ():
        if not isinstance(one, nodes.Keyword):
            continue
        if one.key in seen:
            run.tell("LF001", one, f"the template cannot be compiled: keyword argument repeated: {one.key}")
        seen.add(one.key)


def bind(  # noqa: PLR0912
    run: Run,
    node: nodes.Call | nodes.Filter | nodes.Test,
    args: Sequence[Arg],
    *,
    what: str,
    code: str,
    rest: bool = False,
    span: Place | None = None,
) -> tuple[dict[str, Value], dict[str, nodes.Expr]]:
    """The arguments by name, each checked; what does not fit is reported."""
    from llmfeatures.checker.expressions import value_of

    values: dict[str, Value] = {}
    given: dict[str, nodes.Expr] = {}
    dynamic = bool(node.dyn_args or node.dyn_kwargs) and any(
        one is not None and value_of(run, one) for one in (node.dyn_args, node.dyn_kwargs)
    )
    for place, one in enumerate(node.args):
        value = value_of(run, one)
        if place < len(args):
            values[args[place].name], given[args[place].name] = value, one
        elif not rest:
            most = f"at most {len(args)} argument{'' if len(args) == 1 else 's'}" if args else "no arguments"
            run.tell(code, one, f"{what} takes {most}")
        else:
            values[f"*{place}"] = value
    known = [one.name for one in args]
    for pair in node.kwargs or ():
        if not isinstance(pair, nodes.Keyword):
            continue
        value = value_of(run, pair.value)
        if pair.key in known[: len(node.args)]:
            run.tell(code, pair, f"{what} is given {pair.key} twice")
        elif pair.key in known or rest:
            values[pair.key], given[pair.key] = value, pair.value
        else:
            run.tell(code, pair, f"{what} has no argument {pair.key!r}{did_you_mean(pair.key, known)}",
                     close=None)  # fmt: skip
    if dynamic:
        return values, given
    for arg in args:
        if arg.name in values:
            _check_argument(run, arg, values[arg.name], given[arg.name], what, code)
        elif arg.required:
            run.tell(code, node, f"{what} needs the argument {arg.name}", span=span)
    return values, given


def _check_argument(run: Run, arg: Arg, value: Value, node: nodes.Expr, what: str, code: str) -> None:
    if kinds.has(value, "none", "undefined") and not arg.none:
        if kinds.has(value, "undefined"):
            run.tell("LF026", node, f"{run.text_of(node)} may be undefined, and is given to {what}")
        elif not value.lenient:
            may = "may be None" if len(value.kinds) > 1 else "is None"
            run.tell(
                "LF022",
                node,
                f"{run.text_of(node)} {may}, and {what} takes no None as {arg.name}",
                help=f"guard it with {{% if {run.text_of(node)} is not none %}}, or give it a value with or_else(...)",
            )
        return
    if arg.takes is None or kinds.is_any(value) or kinds.has(value, "json"):
        return
    wrong = kinds.without(value.kinds, "none", "undefined")
    if wrong and kinds.names(wrong).isdisjoint(arg.takes):
        run.tell(code, node, f"{what} takes {_wanted(arg.takes)} as {arg.name}, not {kinds.called(wrong)}")


def _wanted(takes: frozenset[str]) -> str:
    if takes >= kinds.PRINTED:
        return "what can be printed"
    names = sorted(takes - {"enum", "json", "series", "any"} - ({"bool"} if "int" in takes else set[str]()))
    said = [kinds.called(of(Kind(name))) for name in names]
    return " or ".join(said)


# -- filters ---------------------------------------------------------------------------------------------------------


def check_named(run: Run, node: nodes.Expr, kind: str) -> str | None:
    """The name of a filter or test that is given as text; None when it is not written out, or unknown."""
    if not isinstance(node, nodes.Const) or not isinstance(node.value, str):
        return None
    return node.value if check_known(run, node, node.value, kind, run.source.of(node)) else None


def check_known(run: Run, node: nodes.Node, name: str, kind: str, span: Place) -> bool:
    """Whether there is a filter, or test, of this name; reported when not."""
    known: Mapping[str, Any] = run.environment.filters if kind == "filter" else run.environment.tests
    if name in known and name not in TAGS:
        return True
    if kind == "filter" and name in REMOVED:
        code = "LF053" if name == "random" else "LF011"
        run.tell(code, node, f"there is no filter {name!r} in a prompt: {REMOVED[name]}", span=span)
        return False
    public = [one for one in known if one not in TAGS]
    close = None if isinstance(node, nodes.Const) else (name, public)
    run.tell("LF011", node, f"unknown {kind} {name!r}{did_you_mean(name, public)}", span=span, close=close)
    return False


def apply_filter(run: Run, node: nodes.Filter, value: Value, *, span: Place | None = None) -> Value:
    """What a filter gives for a value."""
    from llmfeatures.checker.expressions import value_of

    check_repeated(run, node)
    name = node.name
    at = span or partial(run.source.name_of, node)
    signature = FILTERS.get(name)
    if not check_known(run, node, name, "filter", at) or signature is None:
        for one in [*node.args, *[pair.value for pair in node.kwargs]]:
            value_of(run, one)
        return ANY
    known = not kinds.is_any(value)
    value = checked_subject(run, node, value, signature.takes, f"the filter {name}", at, none=signature.none)
    refused = known and kinds.is_any(value)
    args, given = bind(
        run, node, signature.args, what=f"the filter {name}", code="LF014", rest=signature.rest, span=at
    )  # fmt: skip
    if refused:
        return ANY
    if name in _EACH:
        _check_items(run, node, value, given, at)
    with run.silent(kinds.is_any(value) and name not in _TELLING):
        return signature.gives(Given(run, node, value, args, given))


def _check_items(run: Run, node: nodes.Filter, value: Value, given: Mapping[str, nodes.Expr], at: Place) -> None:
    """What a filter does with each item: None fails, and so does an attribute that the items have not."""
    from llmfeatures.checker.series import attribute_of_items

    item = item_of(value)
    if "attribute" in given:
        item = attribute_of_items(run, given["attribute"], item)
    if kinds.has(item, "none") and not kinds.is_any(item) and not item.lenient:
        said = run.text_of(node.node, 200) if isinstance(node.node, nodes.Expr) else "the list"
        written = run.text_of(given["attribute"]) if "attribute" in given else ""
        what, leave, again = f"{said} may hold None", 'reject("none")', node.name
        if written:
            what = f"{written.strip(QUOTES)} may be None"
            leave, again = f'rejectattr({written}, "none")', f"{node.name}(attribute={written})"
        run.tell("LF022", node, f"{what}, and the filter {node.name} fails for it", span=at,
                 help=f"leave it out: {said}|{leave}|{again}")  # fmt: skip


def checked_subject(
    run: Run,
    node: nodes.Filter | nodes.Test,
    value: Value,
    takes: frozenset[str] | None,
    what: str,
    at: Place,
    *,
    none: bool = False,
) -> Value:
    """What a filter is given, once it was checked: None and what it does not take are told, and dropped."""
    names = kinds.names(value.kinds)
    if "any" in names or ((takes is None or not names.isdisjoint(takes)) and names <= _PLAIN):
        return value
    subject = run.text_of(node.node) if isinstance(node.node, nodes.Expr) else "the value"
    takes_undefined = isinstance(node, nodes.Filter) and node.name in ("default", "d")
    if kinds.has(value, "undefined") and not takes_undefined:
        run.tell("LF026", node, f"{subject} may be undefined, and {what} fails for it", span=at,
                 help="guard it with is defined, or give it a value with default(...)")  # fmt: skip
        value = kinds.dropped(value, "undefined")
    if kinds.has(value, "none") and not none:
        if not value.lenient:
            run.tell(
                "LF022",
                node,
                f"{subject} may be None, and {what} takes no None",
                span=at,
                help=run.advice(
                    node.node,
                    f"guard it with {{% if {subject} is not none %}}, or give it a value with or_else(...) before",
                ),
            )
        value = run.none_dropped(value)
    names = kinds.names(kinds.without(value.kinds, "none", "undefined"))
    if takes is None or not names or "any" in names:
        return value
    if names.isdisjoint(takes):
        if names <= {"method", "macro", "function"}:
            run.tell("LF034", node, f"{subject} is not called: {what} takes its result; write {subject}()", span=at)
        else:
            run.tell("LF014", node, f"{what} takes {_wanted(takes)}, and {subject} is {kinds.called(value)}", span=at)
        return ANY
    texts = isinstance(node, nodes.Filter) and names <= kinds.TEXTS and node.name in (
        "join", "map", "select", "reject", "sort", "unique", "batch", "slice"
    )  # fmt: skip
    if texts:
        run.tell("LF033", node, f"{subject} is text: {what} goes through its characters", span=at)
    return value


def signature_of_test(name: str) -> Any:
    """The signature of a test that does not compare."""
    return TESTS.get(name)


# -- calls -----------------------------------------------------------------------------------------------------------


def call(run: Run, node: nodes.Call) -> Value:  # noqa: C901, PLR0912
    """What a call gives."""
    from llmfeatures.checker.expressions import value_of

    check_repeated(run, node)
    function = value_of(run, node.node)
    arguments: list[Value] = []
    if not kinds.names(function.kinds) <= {"method", "macro"}:  # these read their arguments themselves
        arguments = [value_of(run, one) for one in [*node.args, *[pair.value for pair in node.kwargs]]]
    results: list[Value] = []
    wrong: list[Kind] = []
    for kind in function.kinds:
        match kind.name:
            case "any" | "json":
                results.append(derived((kinds.ANY_KIND,), function))
            case "method":
                made = _method(run, node, function, *kind.data)
                if function.path is not None and not node.args and not node.kwargs:
                    # methods are pure: a guard on a call holds for the same call
                    made = run.refined(made._replace(path=(*function.path, "()")))
                results.append(made)
            case "macro":
                results.append(call_macro(run, node, kind.data))
            case "function":
                results.append(_function(run, node, kind.data, arguments))
            case "loop" | "cycler" | "joiner":
                results.append(derived((STR,), *arguments) if kind.name != "cycler" else ANY)
            case "undefined":
                pass
            case _:
                wrong.append(kind)
    if results:
        return kinds.joined(*results)
    said = run.text_of(node.node)
    if wrong:
        run.tell("LF017", node, f"{said} is {kinds.called(tuple(wrong))}, and cannot be called",
                 help="remove the parentheses")  # fmt: skip
    elif not function.param:
        run.tell("LF026", node.node, f"{said} is undefined, and is called")
    elif said == "caller":
        run.tell("LF026", node.node, "caller is undefined where the macro is called without a call block",
                 help="guard it with {% if caller is defined %}, or call the macro with {% call %}")  # fmt: skip
    return ANY


def _method(run: Run, node: nodes.Call, owner: Value, method: Method, name: str) -> Value:
    what = f".{name}()"
    if name == "format" and owner.dynamic:
        run.tell("LF017", node, "a value is no format: only text that you wrote may stand before .format")
        return of(STR)
    values, _ = bind(run, node, method.args, what=what, code="LF017", rest=method.rest)
    return result_of(owner, method, name, list(values.values()))


def _function(run: Run, node: nodes.Call, name: str, arguments: list[Value]) -> Value:
    match name:
        case "range":
            whole = frozenset({"int", "bool"})
            args = [Arg("start", whole, required=True), Arg("stop", whole), Arg("step", whole)]
            for pair in node.kwargs:
                run.tell("LF017", pair, "range takes no names of arguments")
            bind(run, nodes.Call(node.node, node.args, [], node.dyn_args, None, lineno=node.lineno), args,
                 what="range", code="LF017", span=run.source.of(node))  # fmt: skip
            first = arguments[0].kinds[0].const if len(arguments) > 1 and len(arguments[0].kinds) == 1 else 0
            positive = type(first) is int and first > 0 and len(arguments) == 2
            return derived((Kind("range", item=of(INT._replace(truth=positive or None))),), *arguments)
        case "namespace":
            made, run.namespaces = Namespace(conditions=run.conditions), True
            for pair in node.kwargs:
                made.attributes[pair.key] = kinds.plain(arguments[len(node.args) + node.kwargs.index(pair)])
            if node.args or node.dyn_kwargs or node.dyn_args:
                return ANY
            return Value((Kind("namespace", truth=True, data=made),), run.root())
        case "dict":
            parts = {pair.key: arguments[len(node.args) + at] for at, pair in enumerate(node.kwargs)}
            return ANY if node.args or node.dyn_kwargs else derived((Kind("dict", parts=parts),), *arguments)
        case "cycler" | "joiner":
            return of(Kind(name, truth=True, data=name))
        case "cycle":
            return kinds.plain(kinds.joined(*arguments)) if arguments else ANY
        case "changed":
            return derived((kinds.BOOL,), *arguments)
        case "super" | "block":
            return of(STR)
        case _:
            return ANY


# -- macros ----------------------------------------------------------------------------------------------------------


def define(run: Run, node: nodes.Macro | nodes.CallBlock) -> Value:
    """A macro as a value."""
    macro = Macro(node, run.source, list(run.frames), list(run.including), _special_names(node))
    run.defined.append(macro)
    return Value((Kind("macro", truth=True, data=macro),), run.root())


def call_macro(run: Run, node: nodes.Call, macro: Macro, caller: Value | None = None) -> Value:  # noqa: C901, PLR0912
    """What a macro prints for a call: its body is read with the kinds of these arguments."""
    from llmfeatures.checker.expressions import value_of

    run.called_macros.add(id(macro))
    names = [one.name for one in macro.node.args]
    values: dict[str, Value] = {}
    special = macro.special
    open_ended = node.dyn_args is not None or node.dyn_kwargs is not None
    for place, one in enumerate(node.args):
        if place < len(names):
            values[names[place]] = value_of(run, one)
        elif "varargs" not in special:
            most = f"at most {len(names)} argument{'' if len(names) == 1 else 's'}" if names else "no arguments"
            run.tell("LF017", one, f"the macro {macro.name} takes {most}")
        else:
            value_of(run, one)
    for pair in node.kwargs:
        value = value_of(run, pair.value)
        if pair.key in names[: len(node.args)]:
            run.tell("LF017", pair, f"the macro {macro.name} is given {pair.key} twice")
        elif pair.key in names:
            values[pair.key] = value
        elif pair.key == "caller" and "caller" in special:
            caller = value
        elif "kwargs" not in special:
            hint = did_you_mean(pair.key, names)
            run.tell("LF017", pair, f"the macro {macro.name} has no argument {pair.key!r}{hint}")
    needed = names[: len(names) - len(macro.node.defaults)]
    absent = [one for one in needed if one not in values and _needs(macro.node, one)]
    if absent and not open_ended:
        run.tell("LF017", node, f"the macro {macro.name} needs the argument {absent[0]}")
    given = {name: one._replace(param=True, when=None) for name, one in values.items()}
    for name in names:
        if name not in given and name in needed:
            tested = not open_ended and name not in absent
            given[name] = Value((UNDEFINED,), param=True) if tested else ANY
    if caller is None and "caller" in special and macro.name != "caller":
        caller = Value((UNDEFINED,), param=True)
    return body_of(run, macro, given, caller)


def body_of(run: Run, macro: Macro, given: Mapping[str, Value], caller: Value | None) -> Value:
    """What a macro's body prints."""
    from llmfeatures.checker.expressions import value_of
    from llmfeatures.checker.reading import read_all

    frames, source, including = run.frames, run.source, run.including
    with run.call(macro.node) as fine:
        if not fine:
            return derived((STR,), *given.values())
        run.frames, run.source, run.including = list(macro.frames), macro.source, list(macro.including)
        conditions, run.conditions = run.conditions, run.conditions + 1
        capture = Capture(conditions=run.conditions)
        run.captures.append(capture)
        try:
            with run.scope() as frame:
                for name, value in given.items():
                    run.bind(name, value)
                for arg, default in zip(reversed(macro.node.args), reversed(macro.node.defaults), strict=False):
                    with run.unreachable(arg.name in given):
                        stands_in = kinds.plain(value_of(run, default))._replace(param=True)
                    if arg.name not in given:
                        run.bind(arg.name, stands_in)
                frame.names.setdefault("varargs", ANY)
                frame.names.setdefault("kwargs", ANY)
                if caller is not None and "caller" not in given:
                    run.bind("caller", caller)
                read_all(run, macro.node.body)
        finally:
            run.captures.pop()
            run.conditions = conditions
            run.frames, run.source, run.including = frames, source, including
    return captured(capture)


def read_alone(run: Run, macro: Macro) -> None:
    """Read the body of a macro that nothing calls."""
    unknown = ANY._replace(param=True)
    body_of(run, macro, {one.name: unknown for one in macro.node.args}, unknown)


def captured(capture: Capture) -> Value:
    """The text of what was printed into a macro, a block or a set."""
    truth = True if capture.sure else False if capture.blank and not capture.values else None
    return derived((STR._replace(truth=truth),), *capture.values)


def _special_names(node: nodes.Macro | nodes.CallBlock) -> frozenset[str]:
    return frozenset(
        one.name
        for part in node.body
        for one in ([part] if isinstance(part, nodes.Name) else part.find_all(nodes.Name))
        if one.name in ("varargs", "kwargs", "caller") and one.ctx == "load"
    )


def _needs(node: nodes.Macro | nodes.CallBlock, name: str) -> bool:
    """Whether a macro reads an argument, and does not ask if it was given."""
    if not any(one.name == name for part in node.body for one in part.find_all(nodes.Name)):
        return False
    for part in node.body:
        for one in part.find_all((nodes.Test, nodes.Filter)):
            asks = one.name in ("defined", "undefined", "default", "d")
            if asks and isinstance(one.node, nodes.Name) and one.node.name == name:
                return False
    return True


__all__ = ["COMPARING", "ITERABLE", "Macro", "Namespace", "apply_filter", "bind", "call", "item_of", "listed"]
