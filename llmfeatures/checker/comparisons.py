"""Comparisons: what they say of the values in them, and types that cannot be equal or ordered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from jinja2 import nodes

from llmfeatures.checker import kinds
from llmfeatures.checker.edits import closest, replacement
from llmfeatures.checker.filters import item_of
from llmfeatures.checker.findings import Severity
from llmfeatures.checker.kinds import BOOL, NOTHING, NUMBERS, TEXTS, Facts, Kind, Kinds, Value, derived
from llmfeatures.checker.truth import Both, both_of, filled
from llmfeatures.errors import did_you_mean

if TYPE_CHECKING:
    from llmfeatures.checker.run import Run

_SIGNS: Final[Mapping[str, str]] = {
    "eq": "==", "ne": "!=", "lt": "<", "lteq": "<=", "gt": ">", "gteq": ">=", "in": "in", "notin": "not in",
}  # fmt: skip
_FLIPPED: Final[Mapping[str, str]] = {"lt": "gt", "lteq": "gteq", "gt": "lt", "gteq": "lteq", "eq": "eq", "ne": "ne"}
_OPPOSITE: Final[Mapping[str, str]] = {"lt": "gteq", "lteq": "gt", "gt": "lteq", "gteq": "lt", "eq": "ne", "ne": "eq"}
_HOLDERS: Final = frozenset({"list", "tuple", "dict"})
_GROUPS: Final[Mapping[str, str]] = {
    **dict.fromkeys(NUMBERS, "number"),
    **dict.fromkeys(TEXTS, "text"),
}


def group_of(kind: Kind) -> str:
    """Kinds of one group can be equal."""
    return _GROUPS.get(kind.name, kind.name)


def compare(run: Run, node: nodes.Compare) -> Value:
    """What a comparison, or a chain of them, gives."""
    from llmfeatures.checker.expressions import value_of

    left_node, left = node.expr, value_of(run, node.expr)
    facts: list[Both] = []
    values = [left]
    for operand in node.ops:
        right = value_of(run, operand.expr)
        values.append(right)
        facts.append(compared(run, node, operand.op, (left_node, left), (operand.expr, right)))
        left_node, left = operand.expr, right
    made = derived((BOOL,), *values)
    made = made._replace(features=frozenset(), lenient=any(one.lenient for one in values))
    true = both_of(*[one for one, _ in facts])
    false: Facts | None = facts[0][1] if len(facts) == 1 else {}
    return answered(made, true, false)


def answered(made: Value, true: Facts | None, false: Facts | None) -> Value:
    if true is None or false is None:
        made = made._replace(kinds=(kinds.literal(true is not None),))
    return made._replace(when=(true, false))


Side = tuple[nodes.Expr, Value]


def compared(run: Run, node: nodes.Expr, op: str, one: Side, other: Side) -> Both:
    left, right = one[1], other[1]
    for at, value in (one, other):
        if kinds.has(value, "undefined"):
            run.tell("LF026", at, f"{run.text_of(at)} may be undefined, and comparing it fails",
                     help="guard it with is defined")  # fmt: skip
            return {}, {}
    if op in ("in", "notin"):
        both = _with_holder(_contained(run, node, one, other), left, right)
        return both if op == "in" else (both[1], both[0])
    if op in ("eq", "ne"):
        both = _equal(run, node, one, other)
        return both if op == "eq" else (both[1], both[0])
    sign = _SIGNS[op]
    for at, value in (one, other):
        if kinds.has(value, "none") and not value.lenient:
            said = run.text_of(at)
            help_text = run.advice(at, f"guard it: {said} is not none and …" if len(value.kinds) > 1 else "")
            may = "may be None" if len(value.kinds) > 1 else "is None"
            run.tell("LF021", at, f"{said} {may}, and {sign} fails for None", help=help_text)
            run.none_dropped(value)
    if kinds.is_any(left) or kinds.is_any(right) or kinds.has(left, "json") or kinds.has(right, "json"):
        return _ordered_facts(op, left, right)
    ordered = [
        (a, b)
        for a in kinds.without(left.kinds, "none")
        for b in kinds.without(right.kinds, "none")
        if _can_be_ordered(a, b)
    ]
    if not ordered and kinds.without(left.kinds, "none") and kinds.without(right.kinds, "none"):
        _report_types(run, node, one, other, f"{sign} always fails")
        return {}, {}
    if not ordered:
        return {}, {}
    alone = [a for a in kinds.without(left.kinds, "none") if all(a is not found for found, _ in ordered)]
    alone += [b for b in kinds.without(right.kinds, "none") if all(b is not found for _, found in ordered)]
    if alone:
        which = kinds.called(tuple(alone))
        written = any(isinstance(at, nodes.CondExpr) for at, _ in (one, other))
        _report_types(run, node, one, other, f"{sign} fails where it is {which}", None if written else "warning")
        return _ordered_facts(op, left, right)
    return _constant_order(run, node, op, one, other) or _ordered_facts(op, left, right)


def _can_be_ordered(one: Kind, other: Kind) -> bool:
    group = group_of(one)
    if group != group_of(other) or group in ("dict", "range", "macro", "method", "function", "module", "loop"):
        return False
    if group in ("list", "tuple") and one.item is not None and other.item is not None:
        inner = [(a, b) for a in one.item.kinds for b in other.item.kinds]
        return any("any" in (a.name, b.name) or _can_be_ordered(a, b) for a, b in inner) or not inner
    return True


def _constant_order(run: Run, node: nodes.Expr, op: str, one: Side, other: Side) -> Both | None:
    (_, left), (_, right) = one, other
    a, b = const_of(left), const_of(right)
    if a is NOTHING or b is NOTHING:
        return None
    try:
        answer = {"lt": a < b, "lteq": a <= b, "gt": a > b, "gteq": a >= b}[op]
    except TypeError:
        return None
    _tell_constant(run, node, one, other, answer)
    return ({}, None) if answer else (None, {})


def const_of(value: Value) -> Any:
    return value.kinds[0].const if len(value.kinds) == 1 else NOTHING


def _tell_constant(run: Run, node: nodes.Expr, one: Side, other: Side, answer: bool) -> None:
    value = derived((BOOL,), one[1], other[1])._replace(lenient=one[1].lenient or other[1].lenient)
    run.constant(node, value, f"{run.text_of(node)} is always {'true' if answer else 'false'}")


def _ordered_facts(op: str, left: Value, right: Value) -> Both:
    true: dict[Any, Kinds] = {}
    false: dict[Any, Kinds] = {}
    for value, against, relation in ((left, right, op), (right, left, _FLIPPED[op])):
        zero = const_of(against)
        if value.path is None and value.when and value.when[0] and type(zero) in (int, float):
            for facts, holds in ((true, relation), (false, _OPPOSITE[relation])):
                facts.update({} if _may_be(0, holds, zero) else value.when[0])
        if value.path is None or kinds.is_any(value):
            continue
        left_over = kinds.without(value.kinds, "none") or value.kinds
        if type(zero) in (int, float):
            for facts, holds in ((true, relation), (false, _OPPOSITE[relation])):
                data = value.kinds[0].data
                if value.path[-1] == "index" and data is not None and not _may_be(1, holds, zero):
                    facts.update(data.facts)
            true[value.path] = _beside_zero(left_over, relation, zero)
            false[value.path] = _beside_zero(left_over, _OPPOSITE[relation], zero)
        else:
            # whatever is more than a length, or a count, is not 0
            true[value.path] = left_over
            false[value.path] = left_over
    return _implied(true, left, right), _implied(false, left, right)


def _implied(facts: dict[Any, Kinds], *values: Value) -> Facts:
    """The facts, with what follows for a list whose length is not 0."""
    for value in values:
        known = None if value.path is None or value.when is None else facts.get(value.path)
        if known and value.when and value.when[0] and all(kind.truth for kind in known):
            facts.update(value.when[0])
    return facts


def _may_be(number: int, relation: str, bound: float) -> bool:
    return {"lt": number < bound, "lteq": number <= bound, "gt": number > bound, "gteq": number >= bound}[relation]


def _beside_zero(left: Kinds, relation: str, bound: float) -> Kinds:
    """The kinds, knowing that they are not 0 when 0 is not in such a relation to the bound."""
    if _may_be(0, relation, bound):
        return left
    return tuple([kind._replace(truth=True) if kind.name in NUMBERS else kind for kind in left])


def _equal(run: Run, node: nodes.Expr, one: Side, other: Side) -> Both:
    (_, left), (_, right) = one, other
    if kinds.is_any(left) or kinds.is_any(right) or kinds.has(left, "json") or kinds.has(right, "json"):
        return _known_equal(left, right), _known_unequal(left, right)
    if _check_words(run, one, other) or _check_words(run, other, one):
        return None, {}
    lefts, rights = kinds.without(left.kinds, "none"), kinds.without(right.kinds, "none")
    for mine, theirs, side in ((left, rights, one), (right, lefts, other)):
        if not theirs:  # the other is None itself
            against = other if side is one else one
            if not isinstance(against[0], nodes.Const) and not kinds.has(mine, "none"):
                said = f"{run.text_of(against[0])} is None here, so {run.text_of(node)} is always false"
                run.constant(node, against[1], said)
                return None, {}
            return _is_none(run, node, side, mine)
    fits = any(group_of(a) == group_of(b) for a in lefts for b in rights)
    if not fits and kinds.has(left, "none") and kinds.has(right, "none"):
        return {value.path: (kinds.NONE,) for value in (left, right) if value.path is not None}, {}
    if not fits:
        _report_types(run, node, one, other, "they are never equal")
        return None, {}
    a, b = const_of(left), const_of(right)
    if a is not NOTHING and b is not NOTHING:
        _tell_constant(run, node, one, other, a == b)
        return ({}, None) if a == b else (None, {})
    true, false = _known_equal(left, right), _known_unequal(left, right)
    if true is None or false is None:
        _tell_constant(run, node, one, other, true is not None)
    return true, false


def _is_none(run: Run, node: nodes.Expr, side: Side, value: Value) -> Both:
    """What ``== none`` says."""
    if not kinds.has(value, "none"):
        never_none(run, node, side[0], value)
        return (None, {}) if not value.lenient else ({}, {})
    left = kinds.without(value.kinds, "none")
    if value.path is None:
        return {}, {} if left else None
    return {value.path: (kinds.NONE,)}, ({value.path: left} if left else None)


def never_none(run: Run, node: nodes.Expr, at: nodes.Expr, value: Value) -> None:
    said = run.text_of(at)
    if value.path is not None and value.path in run.told_none:
        return
    run.constant(node, value, f"{said} is never None here: {_reason(value)}", because="remove the test")


def _reason(value: Value) -> str:
    if value.path is not None and value.dynamic and isinstance(value.path[0], str):
        return "its policy leaves no None, or a guard around has excluded it"
    return "a guard around has excluded it, or it is a value of its own"


def _known_equal(left: Value, right: Value) -> Facts | None:
    facts: dict[Any, Kinds] = {}
    for value, against in ((left, right), (right, left)):
        if value.path is None or kinds.is_any(value):
            if not kinds.is_any(value) and not kinds.is_any(against) and _excluded(value, against):
                return None
            continue
        if kinds.is_any(against) or kinds.has(against, "json"):
            continue
        left_over = _equal_to(value.kinds, against)
        if not left_over:
            return None
        facts[value.path] = left_over
    return _implied(facts, left, right)


def _is_empty(value: Value) -> bool:
    """Whether it is an empty list, tuple or dict."""
    return len(value.kinds) == 1 and value.kinds[0].name in _HOLDERS and value.kinds[0].truth is False


def _excluded(value: Value, against: Value) -> bool:
    return not _equal_to(value.kinds, against)


def _equal_to(union: Kinds, against: Value) -> Kinds:
    """The kinds that can equal a value."""
    groups = {group_of(kind) for kind in against.kinds}
    const = const_of(against)
    empty = _is_empty(against)
    made: list[Kind] = []
    for kind in union:
        if empty and kind.name == against.kinds[0].name:
            made += [] if kind.truth else [kind._replace(truth=False)]
            continue
        if group_of(kind) not in groups and kind.name not in ("any", "json"):
            continue
        if kind.words is not None and isinstance(const, str):
            if const not in kind.words:
                continue
            made.append(kind._replace(words=(const,)))
        elif const is not NOTHING and group_of(kind) in ("number", "text"):
            if kind.truth is not None and kind.truth is not bool(const):
                continue
            if kind.const is not NOTHING and kind.const != const:
                continue
            same = kind.name == against.kinds[0].name
            made.append(kind._replace(truth=bool(const), const=const if same else kind.const))
        else:
            made.append(kind)
    return tuple(made)


def _known_unequal(left: Value, right: Value) -> Facts | None:
    facts: dict[Any, Kinds] = {}
    for value, against in ((left, right), (right, left)):
        const = const_of(against)
        if value.path is None or kinds.is_any(value) or (const is NOTHING and not _is_empty(against)):
            continue
        made: list[Kind] = []
        for kind in value.kinds:
            if const is NOTHING:
                made.append(kind._replace(truth=True) if kind.name == against.kinds[0].name else kind)
            elif kind.words is not None and isinstance(const, str):
                words = tuple([word for word in kind.words if word != const])
                if words:
                    made.append(kind._replace(words=words, truth=None if "" in words else True))
            elif kind.name == "bool" and isinstance(const, bool):
                if kind.const is NOTHING or kind.const is not const:
                    made.append(kind._replace(const=not const, truth=not const))
            elif const in (0, "") and group_of(kind) == group_of(against.kinds[0]):
                if kind.truth is not False:
                    made.append(kind._replace(truth=True))
            else:
                made.append(kind)
        if not made:
            return None
        facts[value.path] = tuple(made)
    return _implied(facts, left, right)


def _check_words(run: Run, one: Side, other: Side) -> bool:
    """An enum against a word that it never is, which is reported."""
    (node, value), (at, against) = one, other
    vocabulary = [word for kind in value.kinds for word in kind.vocabulary]
    const = const_of(against)
    if not vocabulary or not isinstance(const, str) or const in vocabulary or against.dynamic:
        return False
    if not kinds.names(value.kinds) <= {"enum", "none"}:
        return False
    said = run.text_of(node)
    edits = ()
    near = closest(const, vocabulary)
    if near is not None and isinstance(at, nodes.Const):
        edits = replacement(run.source.of(at), f'"{near}"')
    run.tell("LF030", at, f"{said} is never {const!r}{did_you_mean(const, vocabulary)}", edits=edits)
    return True


def _report_types(
    run: Run, node: nodes.Expr, one: Side, other: Side, outcome: str, severity: Severity | None = None
) -> None:
    (left_node, left), (right_node, right) = one, other
    help_text, edits = "", ()
    for (at, value), (_, against) in ((other, one), (one, other)):
        const = const_of(value)
        numeric = (
            isinstance(const, str) and isinstance(at, nodes.Const) and const.lstrip("-").replace(".", "", 1).isdigit()
        )
        if numeric and kinds.names(kinds.without(against.kinds, "none")) <= NUMBERS:
            help_text = f"write {const} without quotes"
            edits = replacement(run.source.of(at), const)
        elif (
            type(const) in (int, float)
            and isinstance(at, nodes.Const)
            and kinds.names(against.kinds) <= {*TEXTS, "none"}
        ):
            help_text = f'write "{const}" with quotes, if the text is meant'
    if not help_text and {"date", "timestamp"} <= kinds.names(left.kinds) | kinds.names(right.kinds):
        help_text = "a timestamp's day is .date()"
    said, what = run.text_of(left_node), kinds.called(kinds.without(left.kinds, "none"))
    against = kinds.called(kinds.without(right.kinds, "none"))
    named = f"{run.text_of(right_node)}, {against}" if not isinstance(right_node, nodes.Const) else against
    run.tell(
        "LF012", node, f"comparing {said}, {what}, with {named}: {outcome}", help=help_text, edits=edits,
        sure="fails" in outcome, severity=severity,
    )  # fmt: skip


def _with_holder(both: Both, left: Value, right: Value) -> Both:
    """Where something is in a list, the list has items, and what is none of its items' kinds was not looked for."""
    if both[0] is None or not kinds.names(right.kinds) <= {"list", "tuple"}:
        return both
    facts = dict(both[0])
    for path, known in filled(right).items():
        facts.setdefault(path, known)
    item = item_of(right)
    if left.path is not None and not kinds.is_any(left) and not kinds.has(item, "none", "any", "json"):
        known = kinds.without(facts.get(left.path, left.kinds), "none")
        if known:
            facts[left.path] = known
    return facts, both[1]


def _contained(run: Run, node: nodes.Expr, one: Side, other: Side) -> Both:
    (left_node, left), (right_node, right) = one, other
    if kinds.has(right, "none") and not kinds.is_any(right):
        said = run.text_of(right_node)
        run.tell("LF022", right_node, f"{said} may be None, and nothing can be searched in None",
                 help=f"guard it with {{% if {said} is not none %}}")  # fmt: skip
        right = run.none_dropped(right)
    if kinds.is_any(right) or kinds.is_any(left) or kinds.has(left, "json") or kinds.has(right, "json"):
        return {}, {}
    fits = False
    for kind in right.kinds:
        match kind.name:
            case "str" | "enum":
                fits = fits or bool(kinds.names(left.kinds) & TEXTS)
            case "list" | "tuple" | "range" | "series":
                item = item_of(kinds.of(kind))
                groups = {group_of(one) for one in item.kinds} if kind.parts != () else set[str]()
                fits = fits or kinds.is_any(item) or any(group_of(one) in groups for one in left.kinds)
                fits = fits or kinds.has(item, "json")
            case "dict" | "json" | "namespace" | "document":
                fits = True
            case _:
                pass
    if not fits:
        inside = kinds.names(right.kinds) & {"list", "tuple", "range", "series"}
        outcome = "it is never found" if inside else "that always fails"
        _report_types(run, node, one, other, outcome)
        return {}, {}
    if kinds.names(right.kinds) <= TEXTS and kinds.has(left, "none") and not left.lenient:
        said = run.text_of(left_node)
        run.tell("LF021", left_node, f"{said} may be None, and cannot be searched in text",
                 help=f"guard it: {said} is not none and …")  # fmt: skip
    return _contained_words(run, node, one, right_node, right)


def _contained_words(run: Run, node: nodes.Expr, one: Side, right_node: nodes.Expr, right: Value) -> Both:
    left = one[1]
    parts = right.kinds[0].parts if len(right.kinds) == 1 and kinds.has(right, "list", "tuple", "dict") else None
    keys = isinstance(parts, dict)
    if keys:
        parts = tuple([kinds.of(kinds.literal(key)) for key in cast("dict[Any, Value]", parts)])
    if not isinstance(parts, tuple):
        return {}, {}
    values = cast("tuple[Value, ...]", parts)
    consts = [part.kinds[0].const if len(part.kinds) == 1 else NOTHING for part in values]
    consts = [None if kinds.has(part, "none") else const for part, const in zip(values, consts, strict=True)]
    if NOTHING in consts:
        return {}, {}
    written = right_node.items if isinstance(right_node, (nodes.List, nodes.Tuple)) else [right_node] * len(values)
    for at, part in zip(written, values, strict=True):
        # a dict may have items for other words too
        if not keys:
            _check_words(run, one, (at, part))
    if left.path is None:
        return {}, {}
    yes: list[Kind] = []
    no: list[Kind] = []
    for kind in left.kinds:
        if kind.words is not None:
            inside = tuple([word for word in kind.words if word in consts])
            outside = tuple([word for word in kind.words if word not in consts])
            yes += [kind._replace(words=inside)] if inside else []
            no += [kind._replace(words=outside)] if outside else []
        elif kind.name == "none":
            (yes if None in consts else no).append(kind)
        else:
            yes.append(kind._replace(truth=True) if all(consts) and kind.name in NUMBERS | TEXTS else kind)
            no.append(kind._replace(truth=True) if kind.name in NUMBERS and 0 in consts else kind)
    true, false = {left.path: tuple(yes)} if yes else None, {left.path: tuple(no)} if no else None
    if true is None and all(const in _vocabulary(left) for const in consts if const is not None):
        _tell_constant(run, node, one, (right_node, right), answer=False)
    return true, false


def _vocabulary(value: Value) -> list[str]:
    return [word for kind in value.kinds for word in kind.vocabulary]
