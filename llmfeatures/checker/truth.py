"""The truth of values: what a truth test says of what is tested, and whether it can be otherwise."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final, cast

from jinja2 import nodes

from llmfeatures.checker import kinds
from llmfeatures.checker.kinds import NOTHING, Facts, Kind, Kinds, Value

if TYPE_CHECKING:
    from llmfeatures.checker.run import Run

Both = tuple[Facts | None, Facts | None]
"""What holds where a condition is true, and where it is false; None where it never is."""


EITHER: Final = "either"
"""Begins the path under which two alternatives are kept, of which one holds."""
_choices = count(1)
CHOSEN: Final = "chosen"
"""Begins the path of what holds since other alternatives are excluded."""
CONDITION: Final = "condition"
"""Begins the path under which the answer of a condition is kept."""
_YES, _NO = Kind("yes"), Kind("no")
_SHAPED: Final = (nodes.Expr, nodes.Operand)
_CHANGING: Final = frozenset({"namespace", "module", "loop", "cycler", "joiner", "macro", "series", "any", "unset"})


def truth(run: Run, node: nodes.Expr, value: Value, *, told: bool = True) -> Both:
    """What the truth of a value says; a number that may be None, and what is always true or false, are reported."""
    if kinds.has(value, "undefined") and not isinstance(node, (nodes.Test, nodes.Compare)):
        if not value.param:
            run.tell("LF026", node, f"{run.text_of(node)} may be undefined here", help="guard it with is defined")
        value = kinds.dropped(value, "undefined")
    if told:
        _check_truth(run, node, value)
    when: Both = value.when if value.when and not kinds.has(value, "series") else ({}, {})
    true, false = when
    if value.path is None or kinds.is_any(value):
        yes, no = kinds.with_truth(value.kinds, truth=True), kinds.with_truth(value.kinds, truth=False)
        return (true if yes else None), (false if no else None)
    return (
        _also(true, value, kinds.with_truth(value.kinds, truth=True)),
        _also(false, value, kinds.with_truth(value.kinds, truth=False)),
    )


def filled(value: Value) -> Facts:
    """What holds where a value has items: that it has some, and so what it was taken from."""
    facts = dict(value.when[0] or {}) if value.when else {}
    left = kinds.with_truth(value.kinds, truth=True)
    if value.path is not None and left:
        facts[value.path] = left
    return facts


def marked(run: Run, node: nodes.Expr, yes: Facts | None, no: Facts | None) -> Both:
    """The facts, with the answer of the condition itself: the same one has the same answer further on."""
    turned = False
    while isinstance(node, nodes.Not):
        node, turned = node.node, not turned
    shape = None if yes is None or no is None else _shape(run, node)
    if shape is None:
        return yes, no
    answers = (_NO, _YES) if turned else (_YES, _NO)
    path = (CONDITION, run.shapes.setdefault(shape, len(run.shapes)))
    return {**cast("Facts", yes), path: answers[:1]}, {**cast("Facts", no), path: answers[1:]}


def _shape(run: Run, node: Any) -> Any:
    """An expression as a key, its names as what they are here; None where its value may change."""
    if isinstance(node, nodes.Name):
        known = run.peek(node.name)
        if known is None:
            return ("name", node.name)
        fixed = known.path is not None and kinds.names(known.kinds).isdisjoint(_CHANGING)
        return ("name", known.path) if fixed else None
    if isinstance(node, nodes.Call) or (isinstance(node, nodes.Node) and not isinstance(node, _SHAPED)):
        return None
    if isinstance(node, nodes.Const):
        return type(node.value).__name__, repr(node.value)
    if isinstance(node, nodes.Node):
        parts: list[Any] = [getattr(node, name) for name in node.fields if name != "ctx"]
    elif isinstance(node, list):
        parts = cast("list[Any]", node)
    else:
        return "text", str(node)
    made: list[Any] = [type(cast("object", node)).__name__]
    for one in parts:
        if (shape := _shape(run, one)) is None:
            return None
        made.append(shape)
    return tuple(made)


def _also(facts: Facts | None, value: Value, left: Kinds) -> Facts | None:
    """The facts, and that a value is of these kinds."""
    if facts is None or not left:
        return None
    path = value.path
    assert path is not None
    return {**facts, path: left}


def _check_truth(run: Run, node: nodes.Expr, value: Value) -> None:
    if isinstance(node, (nodes.Test, nodes.Compare, nodes.And, nodes.Or, nodes.Not)):
        return
    number = kinds.names(value.kinds) & {"int", "float", "decimal"}
    if number and kinds.has(value, "none") and not value.lenient:
        said = run.text_of(node)
        run.tell(
            "LF025",
            node,
            f"{said} may be None, and this treats 0 like None",
            help=f"write {said} is not none, or compare it with 0",
        )
        return
    truths = {kind.truth for kind in value.kinds}
    if len(truths) == 1 and None not in truths and not kinds.is_any(value):
        answer = "true" if truths == {True} else "false"
        if kinds.names(value.kinds) <= {"macro", "method", "function"}:
            run.constant(node, value, f"{run.text_of(node)} is always true: it is not called",
                         because=f"write {run.text_of(node)}()")  # fmt: skip
            return
        run.constant(node, value, f"{run.text_of(node)} is always {answer}: {_why(value)}")


def _why(value: Value) -> str:
    kind = value.kinds[0]
    if kind.const is not NOTHING and not value.dynamic:
        return f"it is {_shown(kind.const)}"
    return f"it is {kinds.called(value)}" + (", and never None or empty" if kind.truth else "")


def _shown(const: Any) -> str:
    return "true" if const is True else "false" if const is False else repr(const)


def both_of(*facts: Facts | None) -> Facts | None:
    """All of these facts; the later ones are known under the earlier."""
    made: dict[Any, Kinds] = {}
    for one in facts:
        if one is None:
            return None
        for path, known in one.items():
            made[path] = kinds.meet(made[path], known) if path in made and path[0] != EITHER else known
            if not made[path]:
                return None
    return made


def either_of(one: Facts | None, other: Facts | None) -> Facts | None:
    """What holds under either."""
    if one is None or other is None:
        return other if one is None else one
    made: dict[Any, Any] = {
        path: kinds.unite(one[path], other[path]) for path in one if path in other and path[0] != EITHER
    }
    if one and other:
        # what excludes one of the two later leaves the other
        made[EITHER, next(_choices)] = one, other
    return made


def excluded(facts: Facts, alternative: Facts) -> bool:
    """Whether what is known leaves no room for an alternative."""
    for path, known in alternative.items():
        if path in facts and path[0] != EITHER and not kinds.meet(facts[path], known):
            return True
    return False
