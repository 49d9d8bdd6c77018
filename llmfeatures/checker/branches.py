"""Branches and loops: what holds in each, and after all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from jinja2 import nodes

from llmfeatures.checker import kinds
from llmfeatures.checker.expressions import value_of
from llmfeatures.checker.filters import item_of
from llmfeatures.checker.kinds import ANY, TEXTS, Facts, Kind, Kinds, Path, Value, derived
from llmfeatures.checker.positions import Source
from llmfeatures.checker.reading import READ, read_all
from llmfeatures.checker.run import Run
from llmfeatures.checker.statements import store
from llmfeatures.checker.truth import CHOSEN, CONDITION, EITHER, Both, filled, marked, truth

End = tuple[dict[str, Value], dict[Path, Kinds]]


def _if(run: Run, node: nodes.If) -> bool:
    frame = run.frames[-1]
    ends: list[End] = []
    written: list[set[str]] = []
    goes_on = False
    run.conditions += 1
    reached = True
    covered: Value | None = None
    start, forgotten = dict(run.facts), run.forgotten
    branches = [(cast("nodes.Expr", one.test), one.body) for one in (node, *node.elif_)]
    for test, body in branches:
        if covered is not None:
            said = f"{run.text_of(test)} is never reached: the branches before cover every value"
            run.constant(test, covered, said)
            covered = None
        told = run.told_constants
        noted = run.noted()
        with run.unreachable(not reached):
            value = value_of(run, test)
            yes, no = _condition(run, test, value)
        if no is None and test is not node.test and not _always(run, test, start):
            # the last branch of a chain, spelt out
            run.unsay("LF031", noted)
            told = run.told_constants
        before_names, before_facts = dict(frame.names), dict(run.facts)
        possible = reached and run.assume(yes)
        with run.unreachable(not possible):
            open_end = read_all(run, body)
        _note_set(written, body, frame.names)
        if possible and open_end:
            ends.append((frame.names, run.facts))
            goes_on = True
        frame.names, run.facts = before_names, before_facts
        if reached and not run.assume(no):
            reached = False
            covered = value if run.told_constants == told else None
    with run.unreachable(not reached):
        before_names = dict(frame.names)
        open_end = read_all(run, node.else_)
    _note_set(written, node.else_, frame.names)
    if reached and open_end:
        ends.append((frame.names, run.facts))
        goes_on = True
    if not ends:
        frame.names = before_names
    run.merge(ends)
    _settle(run, start, forgotten, written)
    run.conditions -= 1
    return goes_on


def _note_set(written: list[set[str]], body: list[nodes.Node], names: Iterable[str]) -> None:
    """Note the names that are there after a branch, unless it leaves the loop."""
    if not any(isinstance(one, (nodes.Break, nodes.Continue)) for one in body):
        written.append(set(names))


def _condition(run: Run, test: nodes.Expr, value: Value) -> Both:
    """What a condition says, and that it was asked; one that stands inside of itself is told."""
    told = run.told_constants
    yes, no = marked(run, test, *truth(run, test, value))
    for path, answer in (yes or {}).items() if run.told_constants == told else ():
        before = run.facts.get(path)
        if path[0] == CONDITION and before is not None and len(before) == 1 and (CHOSEN, path) not in run.facts:
            said = "true" if before == answer else "false"
            run.constant(test, value, f"{run.text_of(test)} is always {said}: the same condition is around it")
    return yes, no


def _settle(run: Run, start: Facts, forgotten: int, written: list[set[str]]) -> None:
    """After all branches: alternatives that were known before are still, and what not every branch sets is unset."""
    if run.forgotten == forgotten:
        for path, alternatives in start.items():
            if path[0] == EITHER:
                run.facts.setdefault(path, alternatives)
    names = run.frames[-1].names
    # compiling knows no values: to it a name is there only where every branch sets it
    for name in names.keys() - set.intersection(*written) if written else ():
        one = names[name]
        if not kinds.has(one, "unset") and all(name not in other.names for other in run.frames[:-1]):
            names[name] = one._replace(kinds=(*one.kinds, kinds.UNSET))


def _always(run: Run, test: nodes.Node, facts: dict[Path, Kinds]) -> bool:
    """Whether a condition is always true also without the branches before it."""
    now, run.facts = run.facts, dict(facts)
    with run.silent():
        value = value_of(run, test)
        _, no = truth(run, cast("nodes.Expr", test), value)
    run.facts = now
    return no is None


@dataclass(slots=True, eq=False)
class Loop:
    """``loop`` of one for."""

    item: Value
    root: Any
    source: Source
    body: list[nodes.Node]

    def is_seen(self, source: Source) -> bool:
        """Whether a file sees it: a partial does only where the loop's own body reads ``loop`` too."""
        return source is self.source or any(
            one.name == "loop" for part in self.body for one in part.find_all(nodes.Name)
        )


def _for(run: Run, node: nodes.For) -> None:
    value = value_of(run, node.iter)
    value = _iterated(run, node, value)
    item = kinds.plain(item_of(value))
    if value.kinds and all(kind.truth is False for kind in value.kinds) and not value.dynamic and not value.param:
        run.constant(node.iter, value, f"{run.text_of(node.iter)} is always empty: the loop never runs")
    if node.recursive:
        item = derived((kinds.ANY_KIND,), item)
    run.conditions += 1
    facts = dict(run.facts)
    changed = [one.name for one in node.find_all(nodes.NSRef)] if run.namespaces else []
    if changed:
        _forget_namespaces(run, changed)
        with run.silent():
            _round(run, node, item, value)
        run.facts = dict(facts)
        _forget_namespaces(run, changed)
    start = dict(run.facts)
    _round(run, node, item, value)
    run.facts = start
    if node.else_:
        with run.scope():
            read_all(run, node.else_)
        run.facts = start
    run.conditions -= 1


def _forget_namespaces(run: Run, names: Iterable[str]) -> None:
    for name in names:
        known = run.peek(name)
        if known is not None and known.path is not None:
            run.forget(known.path[0])


def _round(run: Run, node: nodes.For, item: Value, value: Value) -> None:
    """One round of a loop, for any item."""
    facts = dict(run.facts)
    root = run.root()[0]
    run.assume(filled(value))
    with run.scope() as frame:
        store(run, node.target, item, node, loop=True)
        if node.test is not None:
            test = value_of(run, node.test)
            yes, _ = truth(run, cast("nodes.Expr", node.test), test)
            run.assume(yes)
        here = frame.names.get(node.target.name) if isinstance(node.target, nodes.Name) else item
        loop = Loop(kinds.plain(run.refined(here) if here is not None else item), root, run.source, node.body)
        run.bind("loop", Value((Kind("loop", truth=True, data=loop),), (root,), param=value.param))
        run.loops += 1
        read_all(run, node.body)
        run.loops -= 1
    run.facts = facts


def _iterated(run: Run, node: nodes.For, value: Value) -> Value:
    if all(kind.name in ("list", "any", "json", "series", "tuple", "range") for kind in value.kinds):
        return value
    said = run.text_of(node.iter)
    if kinds.has(value, "undefined"):
        run.tell("LF026", node.iter, f"{said} may be undefined here", help="guard it with is defined")
        value = kinds.dropped(value, "undefined")
    if kinds.has(value, "none"):
        if not value.lenient:
            may = "may be None" if len(value.kinds) > 1 else "is None"
            run.tell("LF022", node.iter, f"{said} {may}, and a loop over None fails",
                     help=f"guard it with {{% if {said} is not none %}}, or loop over {said} or []")  # fmt: skip
        value = run.none_dropped(value)
    names = kinds.names(value.kinds)
    loops = {"list", "tuple", "series", "range", "dict", "json", "any", "str", "enum", "document", "namespace"}
    if names - loops - {"undefined", "none"} and "any" not in names:
        run.tell(
            "LF018", node.iter, f"{said} is {kinds.called(value)}, and no list to loop over", help=_looped(names, said)
        )
        return ANY
    if names and names <= TEXTS:
        run.tell("LF033", node.iter, f"{said} is text: the loop goes through its characters",
                 help=f"loop over a list, or over {said}.split()")  # fmt: skip
    return value


def _looped(names: set[str], said: str) -> str:
    return f"to count, loop over range({said})" if names == {"int"} else ""


def jump(run: Run, node: nodes.Node) -> bool:  # noqa: ARG001
    return False


READ.update({nodes.If: _if, nodes.For: _for, nodes.Break: jump, nodes.Continue: jump})
