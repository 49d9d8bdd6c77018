"""Expressions: what each may give, with every mistake in it told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from jinja2 import nodes

from llmfeatures.checker import calls, kinds
from llmfeatures.checker.attributes import attribute_of, item_at
from llmfeatures.checker.comparisons import compare
from llmfeatures.checker.conditions import apply_test
from llmfeatures.checker.filters import full
from llmfeatures.checker.kinds import (
    ANY,
    BOOL,
    DECIMAL,
    DURATION,
    FLOAT,
    INT,
    NOTHING,
    NUMBERS,
    STR,
    TEXTS,
    UNDEFINED,
    Kind,
    Value,
    derived,
    of,
)
from llmfeatures.checker.run import Run
from llmfeatures.checker.signatures import AS_MANY, check_conversions, conversions
from llmfeatures.checker.truth import Both, both_of, either_of, filled, marked, truth

_FROM_ITEMS: Final = frozenset(
    {"select", "reject", "selectattr", "rejectattr", "map", "list", "sort", "unique", "reverse", "batch", "length"}
    | {"count"}
)
"""What they give has items, or is not 0, only where what they take has items."""
_WORDS: Final = kinds.listed(of(STR), truth=True)
_ASKED: Final = (nodes.Getattr, nodes.Getitem, nodes.Filter)
"""What ``is defined`` and ``default`` ask about, beside names."""


def value_of(run: Run, node: nodes.Node) -> Value:
    """What an expression may give here."""
    read = _READ.get(type(node))
    return ANY if read is None else read(run, node)


def _const(run: Run, node: nodes.Const) -> Value:  # noqa: ARG001
    return of(kinds.literal(node.value))


def _name(run: Run, node: nodes.Name) -> Value:
    return run.read(node)


def _data(run: Run, node: nodes.TemplateData) -> Value:  # noqa: ARG001
    return of(kinds.literal(node.data))


def _tuple(run: Run, node: nodes.Tuple) -> Value:
    parts = tuple([value_of(run, one) for one in node.items])
    return derived((Kind("tuple", parts=parts, truth=bool(parts)),), *parts)


def _list(run: Run, node: nodes.List) -> Value:
    parts = [value_of(run, one) for one in node.items]
    if not parts:
        return Value((Kind("list", truth=False),))
    item = kinds.plain(kinds.joined(*parts))
    made = derived((Kind("list", item=item, parts=tuple(parts), truth=True),), *parts)
    return made._replace(text_of=item.text_of)


def _dict(run: Run, node: nodes.Dict) -> Value:
    parts: dict[Any, Value] = {}
    known = True
    values: list[Value] = []
    for pair in node.items:
        key, value = value_of(run, pair.key), value_of(run, pair.value)
        values.append(value)
        const = key.kinds[0].const if len(key.kinds) == 1 else NOTHING
        if const is NOTHING:
            known = False
        else:
            parts[const] = value
    item = kinds.plain(kinds.joined(*values)) if values else ANY
    made = Kind("dict", item=None if known else item, parts=parts if known else None, truth=bool(values))
    return derived((made,), *values)


# -- attributes, items, filters, tests -------------------------------------------------------------------------------


def _getattr(run: Run, node: nodes.Getattr) -> Value:
    asking, run.asking = run.asking, False
    if isinstance(node.node, nodes.Name):
        value = run.read(node.node, node.attr, node)
        if value.path == (node.node.name, node.attr):
            return value  # a feature of an entity
        if _is_unknown_entity(run, node.node.name):
            return ANY
    else:
        value = value_of(run, node.node)
    return _attribute(run, node, value, node.attr, asking=asking)


def _is_unknown_entity(run: Run, name: str) -> bool:
    return name in run.names.roles and run.peek(name) is None


def _getitem(run: Run, node: nodes.Getitem) -> Value:
    asking, run.asking = run.asking, False
    name = node.arg.value if isinstance(node.arg, nodes.Const) else None
    if isinstance(node.node, nodes.Name):
        value = run.read(node.node, name if isinstance(name, str) else None, node)
        if value.path == (node.node.name, name):
            return value
        if isinstance(name, str) and _is_unknown_entity(run, node.node.name):
            return ANY
    else:
        value = value_of(run, node.node)
    if isinstance(name, str):
        return _attribute(run, node, value, name, asking=asking)
    value = _present(run, node, value)
    made = item_at(run, node, value, asking=asking)
    return made._replace(when=(filled(value), {})) if isinstance(node.arg, nodes.Slice) else made


def _present(run: Run, node: nodes.Getattr | nodes.Getitem, value: Value) -> Value:
    """What an attribute is read of: None and undefined are told, and dropped."""
    if not kinds.has(value, "undefined", "none"):
        return value
    said = run.text_of(node.node)
    if kinds.has(value, "undefined"):
        run.tell("LF026", node.node, f"{said} may be undefined here", help="guard it with is defined")
        value = kinds.dropped(value, "undefined")
    if kinds.has(value, "none") and not value.lenient:
        run.tell(
            "LF022",
            node.node,
            f"{said} may be None, and None has no attributes or items",
            help=f"guard it with {{% if {said} is not none %}}",
        )
        value = run.none_dropped(value)
    return value


def _attribute(
    run: Run, node: nodes.Getattr | nodes.Getitem, value: Value, name: str, *, asking: bool = False
) -> Value:
    return attribute_of(run, node, _present(run, node, value), name, asking=asking)


def _filter(run: Run, node: nodes.Filter) -> Value:
    asked = run.asking
    run.asking = node.name in ("default", "d") and isinstance(node.node, _ASKED)
    value = ANY if node.node is None else value_of(run, node.node)
    run.asking, run.asked = False, asked
    made = calls.apply_filter(run, node, value)
    run.asked = False
    if node.name in _FROM_ITEMS and made is not value and not kinds.is_any(made):
        made = made._replace(when=(filled(value), {}))
    if node.name in AS_MANY and full(value) is True:
        made = made._replace(kinds=tuple([
            kind._replace(truth=True) if kind.name in ("series", "list") else kind for kind in made.kinds
        ]))  # fmt: skip
    if value.path is None or node.args or node.kwargs or kinds.is_any(value) or made is value:
        return made
    # what a guard says of `xs|length` holds where it is written again
    path = (*value.path, f"|{node.name}")
    when: Both | None = made.when
    if node.name in ("length", "count"):
        holds: kinds.Facts | None = filled(value) if kinds.with_truth(value.kinds, truth=True) else None
        nothing: kinds.Facts = {}
        when = holds, nothing
    elif node.name == "wordcount" and kinds.names(value.kinds) <= TEXTS:
        when = {(*value.path, "split", "()"): (_WORDS,)}, {}
    made = made._replace(path=path, when=when)
    return run.refined(made)


def _test(run: Run, node: nodes.Test) -> Value:
    run.asking = node.name in ("defined", "undefined") and isinstance(node.node, _ASKED)
    value = value_of(run, node.node)
    run.asking = False
    return apply_test(run, node, value)


def _call(run: Run, node: nodes.Call) -> Value:
    return calls.call(run, node)


def _compare(run: Run, node: nodes.Compare) -> Value:
    return compare(run, node)


# -- and, or, not, if ------------------------------------------------------------------------------------------------


def _and(run: Run, node: nodes.And) -> Value:
    left = value_of(run, node.left)
    yes, no = marked(run, node.left, *truth(run, node.left, left, told=not _compares(node.right, left, run)))
    with run.assuming(yes):
        right = value_of(run, node.right)
        right_yes, right_no = truth(run, node.right, right, told=_is_condition(node.right))
        right_yes, right_no = marked(run, node.right, right_yes, right_no)
    made = kinds.joined(left._replace(kinds=kinds.with_truth(left.kinds, truth=False) or right.kinds), right)
    when = both_of(yes, right_yes), either_of(no, both_of(yes, right_no))
    return made._replace(path=None, when=when)


def _or(run: Run, node: nodes.Or) -> Value:
    left = value_of(run, node.left)
    yes, no = marked(run, node.left, *truth(run, node.left, left, told=not _harmless(node.right)))
    with run.assuming(no):
        right = value_of(run, node.right)
        right_yes, right_no = truth(run, node.right, right, told=_is_condition(node.right))
        right_yes, right_no = marked(run, node.right, right_yes, right_no)
    kept = kinds.with_truth(left.kinds, truth=True)
    made = kinds.joined(left._replace(kinds=kept), right) if kept else right
    if kept and no is None:
        made = left._replace(kinds=kept)
    when = either_of(yes, both_of(no, right_yes)), both_of(no, right_no)
    return made._replace(path=None, when=when)


def _is_condition(node: nodes.Node) -> bool:
    return isinstance(node, (nodes.Not, nodes.And, nodes.Or))


def _harmless(node: nodes.Node) -> bool:
    """``count or 0``: 0 stands in for 0."""
    return isinstance(node, nodes.Const) and node.value in (0, False)


def _compares(node: nodes.Node, value: Value, run: Run) -> bool:
    """``count and count > 5``: the comparison decides what the truth of 0 leaves open."""
    if value.path is None:
        return False
    compared = [node] if isinstance(node, nodes.Compare) else list(node.find_all(nodes.Compare))
    with run.silent():
        return any(
            value_of(run, one.expr).path == value.path
            or any(value_of(run, op.expr).path == value.path for op in one.ops)
            for one in compared
        )


def _not(run: Run, node: nodes.Not) -> Value:
    value = value_of(run, node.node)
    yes, no = truth(run, node.node, value)
    made = derived((BOOL,), value)._replace(lenient=value.lenient)
    if yes is None or no is None:
        made = made._replace(kinds=(kinds.literal(yes is None),))
    return made._replace(when=(no, yes), features=frozenset())


def _cond(run: Run, node: nodes.CondExpr) -> Value:
    test = value_of(run, node.test)
    yes, no = marked(run, node.test, *truth(run, node.test, test))
    with run.assuming(yes) as first:
        one = value_of(run, node.expr1)
    if node.expr2 is None:
        other, second = Value((UNDEFINED,)), no is not None
    else:
        with run.assuming(no) as second:
            other = value_of(run, node.expr2)
    if first and not second:
        return one
    if second and not first:
        return other
    made = kinds.joined(one, other)
    path = None
    if yes and no and kinds.names(one.kinds) != kinds.names(other.kinds) and not kinds.is_any(made):
        path = run.choose({**yes}, one.kinds, {**no}, other.kinds)
    return made._replace(
        path=path,
        dynamic=one.dynamic or other.dynamic or test.dynamic,
        moment=one.moment or other.moment or test.moment,
    )


# -- operators -------------------------------------------------------------------------------------------------------


def _concat(run: Run, node: nodes.Concat) -> Value:
    from llmfeatures.checker.printing import check_printed

    values = [check_printed(run, one, value_of(run, one)) for one in node.nodes]
    return derived((STR,), *values)


def _unary(run: Run, node: nodes.UnaryExpr) -> Value:
    value = _operand(run, node.node, value_of(run, node.node), node.operator)
    if kinds.is_any(value) or kinds.has(value, "json"):
        return derived((kinds.ANY_KIND,), value)
    made: list[Kind] = []
    for kind in value.kinds:
        if kind.name in NUMBERS | {"duration"}:
            const = kind.const
            if type(const) in (int, float):
                const = -const if node.operator == "-" else const
            made.append(kind._replace(name="int" if kind.name == "bool" else kind.name, const=const))
    if not made:
        said = run.text_of(node.node)
        run.tell("LF013", node, f"{node.operator} takes a number, and {said} is {kinds.called(value)}")
        return ANY
    return derived(tuple(made), value)


def _operand(run: Run, node: nodes.Expr, value: Value, operator: str) -> Value:
    if not kinds.has(value, "undefined", "none"):
        return value
    said = run.text_of(node)
    if kinds.has(value, "undefined"):
        run.tell("LF026", node, f"{said} may be undefined here", help="guard it with is defined")
        value = kinds.dropped(value, "undefined")
    if kinds.has(value, "none"):
        if not value.lenient:
            may = "may be None" if len(value.kinds) > 1 else "is None"
            stand_in = '""' if kinds.has(value, *TEXTS) else "0"
            run.tell(
                "LF022",
                node,
                f"{said} {may}, and {operator} fails for None",
                help=f"guard it with {{% if {said} is not none %}}, or write ({said}|or_else({stand_in}))",
            )
        value = run.none_dropped(value)
    return value


def _binary(run: Run, node: nodes.BinExpr) -> Value:
    operator = node.operator
    left = _operand(run, node.left, value_of(run, node.left), operator)
    right = _operand(run, node.right, value_of(run, node.right), operator)
    if operator == "%" and kinds.names(left.kinds) <= TEXTS:
        return _percent(run, node, left, right)
    if operator in ("/", "//", "%"):
        _check_zero(run, node, left, right)
    if kinds.is_any(left) or kinds.is_any(right) or kinds.has(left, "json") or kinds.has(right, "json"):
        made = derived((kinds.ANY_KIND,), left, right)
        return _combined(run, node, made, left, right) if kinds.names(left.kinds) & NUMBERS else made
    results: list[Kind] = []
    for a in left.kinds:
        for b in right.kinds:
            result = _result(operator, a, b)
            if result is not None:
                results.append(result)
    if not results:
        _report_operands(run, node, left, right)
        plain = kinds.names(left.kinds) <= NUMBERS | TEXTS | {"list"}
        return derived(left.kinds, left, right) if plain else ANY
    made = derived(kinds.unite(*[(one,) for one in results]), left, right)
    made = made._replace(kinds=tuple([_with_sign(one, operator, left, right) for one in made.kinds]))
    return _combined(run, node, made, left, right)


def _combined(run: Run, node: nodes.BinExpr, made: Value, left: Value, right: Value) -> Value:
    """Tell of arithmetic that brings features together, once for the whole of it."""
    if kinds.names(made.kinds) & {"str", "list", "tuple"}:
        return made
    mine, theirs = left.features, right.features
    if left.computed or right.computed or not (mine and theirs and (mine | theirs) - mine | (mine | theirs) - theirs):
        return made._replace(computed=left.computed or right.computed)
    if len({one.partition(".")[0] for one in mine | theirs}) > 1:
        return made  # no on-demand feature reads two entities
    together = " and ".join(sorted(mine | theirs))
    run.tell(
        "LF051",
        node,
        f"{together} are combined here, in the template alone",
        help="make it an on-demand feature: then history and other prompts have it too",
    )
    return made._replace(computed=True)


def _with_sign(kind: Kind, operator: str, left: Value, right: Value) -> Kind:
    """Keep whether a number is known not to be 0."""
    if kind.name not in NUMBERS:
        return kind
    consts = [one.kinds[0].const for one in (left, right) if len(one.kinds) == 1]
    positive = any(type(one) in (int, float) and one > 0 for one in consts)
    if operator == "+" and (positive or (full(left) and full(right))):
        return kind._replace(truth=True)
    if operator == "*" and full(left) and full(right):
        return kind._replace(truth=True)
    if operator == "/" and full(left):
        return kind._replace(truth=True)
    return kind


def _percent(run: Run, node: nodes.BinExpr, left: Value, right: Value) -> Value:
    if left.dynamic:
        run.tell("LF013", node, "a value is no format: only text that you wrote may stand left of %")
    else:
        const = left.kinds[0].const if len(left.kinds) == 1 else NOTHING
        given = 1 if not kinds.has(right, "tuple", "any", "json", "dict") else None
        if len(right.kinds) == 1 and right.kinds[0].name == "tuple" and right.kinds[0].parts is not None:
            given = len(right.kinds[0].parts)
        if isinstance(const, str) and given is not None and (wanted := conversions(const)) not in (None, given):
            run.tell("LF013", node, f"the format takes {wanted} values, and is given {given}")
        one = right.kinds[0] if len(right.kinds) == 1 else None
        parts = one.parts if one is not None and one.name == "tuple" else None
        values = list(cast("tuple[Value, ...]", parts)) if isinstance(parts, tuple) else [right]
        at = node.right.items if isinstance(node.right, nodes.Tuple) else [node.right]
        check_conversions(run, "LF013", const, values, at)
    return derived((STR,), left, right)


def _check_zero(run: Run, node: nodes.BinExpr, left: Value, right: Value) -> None:
    if kinds.is_any(left) or not kinds.names(right.kinds) <= NUMBERS or full(right) is True:
        return
    if any(kind.truth is True or (kind.const is not NOTHING and kind.const) for kind in right.kinds):
        return
    said = run.text_of(node.right)
    zero = all(kind.const is not NOTHING and not kind.const for kind in right.kinds)
    run.tell(
        "LF052",
        node.right,
        f"{said} is 0: dividing by it fails" if zero else f"{said} may be 0, and dividing by 0 fails",
        help="" if zero else f"guard it with {{% if {said} %}}",
    )


def _result(operator: str, left: Kind, right: Kind) -> Kind | None:
    """The kind of a result; None where Python refuses the operands."""
    a, b = left.name, right.name
    if a in NUMBERS and b in NUMBERS:
        if "decimal" in (a, b):
            return None if "float" in (a, b) else DECIMAL
        whole = a != "float" and b != "float" and operator != "/"
        return INT if whole else FLOAT
    if operator == "+":
        if a in TEXTS and b in TEXTS:
            return STR
        if a == b == "list":
            items = [one.item or ANY for one in (left, right) if one.item is not None or one.truth is not False]
            return Kind("list", item=kinds.joined(*items) if items else None, truth=left.truth or right.truth or None)
        if a == b == "tuple":
            parts = (*left.parts, *right.parts) if left.parts is not None and right.parts is not None else None
            return Kind("tuple", parts=parts)
    if operator == "*":
        for one, times in ((left, b), (right, a)):
            if times in ("int", "bool") and one.name in TEXTS | {"list", "tuple"}:
                return STR if one.name in TEXTS else Kind(one.name, item=one.item)
    return _moments(operator, a, b)


_MOMENTS: Final[Mapping[tuple[str, str, str], Kind]] = {
    ("timestamp", "-", "timestamp"): DURATION,
    ("date", "-", "date"): DURATION,
    ("timestamp", "+", "duration"): kinds.TIMESTAMP,
    ("timestamp", "-", "duration"): kinds.TIMESTAMP,
    ("duration", "+", "timestamp"): kinds.TIMESTAMP,
    ("date", "+", "duration"): kinds.DATE,
    ("date", "-", "duration"): kinds.DATE,
    ("duration", "+", "date"): kinds.DATE,
    ("duration", "+", "duration"): DURATION,
    ("duration", "-", "duration"): DURATION,
    ("duration", "/", "duration"): FLOAT,
    ("duration", "//", "duration"): INT,
    ("duration", "%", "duration"): DURATION,
}


def _moments(operator: str, a: str, b: str) -> Kind | None:
    found = _MOMENTS.get((a, operator, b))
    if found is not None:
        return found
    number = {"int", "bool", "float"}
    if operator == "*" and {a, b} & number and "duration" in (a, b):
        return DURATION
    if a == "duration" and b in number and operator in ("/", "//"):
        return DURATION
    return None


def _report_operands(run: Run, node: nodes.BinExpr, left: Value, right: Value) -> None:
    operator = node.operator
    names = kinds.names(left.kinds), kinds.names(right.kinds)
    help_text = ""
    if operator == "+" and (names[0] <= TEXTS or names[1] <= TEXTS):
        help_text = "~ joins what is printed: write ~ in place of +"
    elif any("decimal" in one for one in names) and any("float" in one for one in names):
        help_text = "a decimal goes with an int or a decimal; compute it as an on-demand feature"
    elif names[0] | names[1] == {"timestamp", "date"}:
        help_text = "a timestamp's day is .date()"
    said = (
        f"{run.text_of(node.left)}, {kinds.called(left)}, {operator} {run.text_of(node.right)}, {kinds.called(right)}"
    )
    run.tell("LF013", node, f"{said}: that always fails", help=help_text)


_READ: Final[dict[type[nodes.Node], Callable[[Run, Any], Value]]] = {
    nodes.Const: _const,
    nodes.Name: _name,
    nodes.TemplateData: _data,
    nodes.Tuple: _tuple,
    nodes.List: _list,
    nodes.Dict: _dict,
    nodes.Getattr: _getattr,
    nodes.Getitem: _getitem,
    nodes.Filter: _filter,
    nodes.Test: _test,
    nodes.Call: _call,
    nodes.Compare: _compare,
    nodes.And: _and,
    nodes.Or: _or,
    nodes.Not: _not,
    nodes.CondExpr: _cond,
    nodes.Concat: _concat,
    nodes.Neg: _unary,
    nodes.Pos: _unary,
    **{
        cast("type[nodes.Node]", one): cast("Callable[[Run, Any], Value]", _binary)
        for one in (nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow)
    },
}
