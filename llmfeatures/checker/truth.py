"""The truth of values: what a truth test says of what is tested, and whether it can be otherwise."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final

from jinja2 import nodes

from llmfeatures.checker import kinds
from llmfeatures.checker.kinds import NOTHING, Facts, Kinds, Value

if TYPE_CHECKING:
    from llmfeatures.checker.run import Run

Both = tuple[Facts | None, Facts | None]
"""What holds where a condition is true, and where it is false; None where it never is."""


EITHER: Final = "either"
"""Begins the path under which two alternatives are kept, of which one holds."""
_choices = count(1)


def truth(run: Run, node: nodes.Expr, value: Value, *, told: bool = True) -> Both:
    """What the truth of a value says; a number that may be None, and what is always true or false, are reported."""
    if kinds.has(value, "undefined") and not isinstance(node, (nodes.Test, nodes.Compare)):
        if not value.param:
            run.tell("LF026", node, f"{run.text_of(node)} may be undefined here", help="guard it with is defined")
        value = kinds.dropped(value, "undefined")
    if told:
        _check_truth(run, node, value)
    true, false = value.when or ({}, {})
    if value.path is None or kinds.is_any(value):
        yes, no = kinds.with_truth(value.kinds, truth=True), kinds.with_truth(value.kinds, truth=False)
        return (true if yes else None), (false if no else None)
    return (
        _also(true, value, kinds.with_truth(value.kinds, truth=True)),
        _also(false, value, kinds.with_truth(value.kinds, truth=False)),
    )


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
    return any(path[0] != EITHER and path in facts and not kinds.meet(facts[path], known)
               for path, known in alternative.items())  # fmt: skip
