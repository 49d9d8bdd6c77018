"""The tests after ``is``: for which kinds they can be true, and what they say of what is tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from jinja2 import nodes

from llmfeatures.checker import kinds
from llmfeatures.checker.comparisons import answered, compared, const_of, never_none
from llmfeatures.checker.filters import COMPARING, TESTS
from llmfeatures.checker.kinds import BOOL, NOTHING, NUMBERS, TEXTS, Kind, Kinds, Value, derived

if TYPE_CHECKING:
    from llmfeatures.checker.run import Place, Run

_KEPT: Final[Mapping[str, Callable[[Kind], bool]]] = {
    "none": lambda kind: kind.name == "none",
    "defined": lambda kind: kind.name != "undefined",
    "undefined": lambda kind: kind.name == "undefined",
    "string": lambda kind: kind.name in TEXTS,
    "number": lambda kind: kind.name in NUMBERS,
    "integer": lambda kind: kind.name == "int",
    "float": lambda kind: kind.name == "float",
    "boolean": lambda kind: kind.name == "bool",
    "mapping": lambda kind: kind.name == "dict",
    "sequence": lambda kind: kind.name in ("list", "tuple", "str", "enum", "dict", "range", "undefined"),
    "iterable": lambda kind: kind.name in ("list", "tuple", "str", "enum", "dict", "range", "series", "undefined"),
    "callable": lambda kind: kind.name in ("macro", "method", "function", "joiner", "loop", "undefined"),
}
_SHAPES: Final[Mapping[str, Kind]] = {
    "none": kinds.NONE, "string": kinds.STR, "integer": kinds.INT, "float": kinds.FLOAT, "boolean": kinds.BOOL,
}  # fmt: skip


def narrowed_by_test(name: str, union: Kinds) -> tuple[Kinds, Kinds]:
    """The kinds for which a test can be true, and false."""
    keep = _KEPT.get(name)
    if name in ("true", "false"):
        wanted = name == "true"
        yes = tuple([
            kind._replace(const=wanted, truth=wanted)
            for kind in union
            if kind.name in ("any", "json") or (kind.name == "bool" and kind.const in (NOTHING, wanted))
        ])  # fmt: skip
        no = tuple([
            kind._replace(const=not wanted, truth=not wanted) if kind.name == "bool" else kind
            for kind in union
            if kind.name != "bool" or kind.const in (NOTHING, not wanted)
        ])  # fmt: skip
        return yes, no
    if keep is None:
        return union, union
    if kinds.names(union) <= {"any", "json"}:
        shape = _SHAPES.get(name)
        return (shape,) if shape is not None else union, union
    yes = tuple([kind for kind in union if kind.name in ("any", "json", "document") or keep(kind)])
    no = tuple([kind for kind in union if kind.name in ("any", "json", "document") or not keep(kind)])
    return yes, no


def apply_test(run: Run, node: nodes.Test, value: Value, *, span: Place | None = None) -> Value:
    """What ``value is test`` gives."""
    from llmfeatures.checker.calls import bind, check_known, check_repeated
    from llmfeatures.checker.expressions import value_of

    check_repeated(run, node)
    name = node.name
    if name == "sameas" and len(node.args) == 1 and isinstance(node.args[0], nodes.Const):
        name = {None: "none", True: "true", False: "false"}.get(node.args[0].value, name)
        if name != "sameas":
            return _tested(run, node, name, value)
    at = span or partial(run.source.name_of, node)
    if not check_known(run, node, name, "test", at):
        return derived((BOOL,), value)
    if name in COMPARING or name == "in":
        if len(node.args) != 1:
            run.tell("LF014", node, f"the test {name} takes one argument", span=at)
            return derived((BOOL,), value)
        other = value_of(run, node.args[0])
        op = "in" if name == "in" else COMPARING[name]
        made = derived((BOOL,), value, other)._replace(lenient=value.lenient or other.lenient)
        return answered(made, *compared(run, node, op, (node.node, value), (node.args[0], other)))
    signature = TESTS[name]
    if signature.takes is not None:
        from llmfeatures.checker.calls import checked_subject

        value = checked_subject(run, node, value, signature.takes, f"the test {name}", at)
    args, given = bind(run, node, signature.args, what=f"the test {name}", code="LF014", span=at)
    if name == "divisibleby" and "num" in args and const_of(args["num"]) == 0:
        run.tell("LF052", given["num"], "divisibleby(0) divides by 0")
    return _tested(run, node, name, value)


def _tested(run: Run, node: nodes.Test, name: str, value: Value) -> Value:
    made = derived((BOOL,), value)._replace(lenient=value.lenient, features=frozenset())
    yes, no = narrowed_by_test(name, value.kinds)
    if name not in _KEPT and name not in ("true", "false"):
        return made._replace(when=({}, {}))
    if name == "none" and not yes and not kinds.is_any(value):
        never_none(run, node, node.node, value)
    elif (not yes or not no) and value.kinds and name in _KEPT:
        answer = "true" if yes else "false"
        said = f"{run.text_of(node.node)} is {kinds.called(value)}, so {run.text_of(node)} is always {answer}"
        if name in ("defined", "undefined"):
            always = "never" if kinds.has(value, "undefined") else "always"
            said = f"{run.text_of(node.node)} is {always} defined"
        run.constant(node, value, said, because="remove the test")
    if value.lenient and name == "none" and not kinds.has(value, "none"):
        return made._replace(when=({}, {}))
    if value.path is None:
        return answered(made, {} if yes else None, {} if no else None)
    return answered(made, {value.path: yes} if yes else None, {value.path: no} if no else None)
