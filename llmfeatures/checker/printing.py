"""What is printed: into messages, or into the text of a macro, a set or a block."""

from __future__ import annotations

from typing import Any, Final

from jinja2 import nodes

from llmfeatures.checker import kinds
from llmfeatures.checker.expressions import value_of
from llmfeatures.checker.kinds import Kind, Value
from llmfeatures.checker.reading import READ
from llmfeatures.checker.run import Run
from llmfeatures.prompts.codegen import outside_text

_SOFT: Final = frozenset({"user", "assistant"})
"""The roles whose messages keep the line breaks of values."""


def output(run: Run, node: nodes.Output) -> None:
    for child in node.nodes:
        if isinstance(child, nodes.TemplateData):
            _literal(run, child)
        elif isinstance(child, nodes.Filter) and child.name.startswith("%"):
            _tag(run, child)
        else:
            value = check_printed(run, child, value_of(run, child))
            printed(run, child, value)


def _tag(run: Run, node: nodes.Filter) -> None:
    if node.name == "%cache_break":
        run.breaks.append((run.source, node, len(run.before_break), run.literal_size))


def _literal(run: Run, node: nodes.TemplateData) -> None:
    data = node.data
    if run.captures:
        if data.strip():
            run.captures[-1].blank = False
            run.captures[-1].sure |= run.conditions == run.captures[-1].conditions
        return
    written = data.strip()
    if not written:
        return
    run.prints_text = True
    if run.role is None:
        blank = data[: len(data) - len(data.lstrip())]
        run.outside.append((run.source, _text_span(run, node, data, blank), outside_text(written)))
    if not run.muted:
        run.literal_size += len(data.encode())
        if not run.conditions:
            run.literals.append(data)


def _text_span(run: Run, node: nodes.TemplateData, data: str, blank: str) -> Any:
    place = run.source.place(node.lineno)
    if place is None:
        return node
    start = place + len(blank)
    return run.source.span(start, start + len(data.strip().splitlines()[0]))


def printed(run: Run, node: nodes.Expr, value: Value) -> None:
    """A value goes into a message, or into the text of a macro, set or block."""
    empty = all(kind.truth is False and kind.name == "str" for kind in value.kinds)
    if run.captures:
        if not empty:
            run.captures[-1].values.append(value)
        return
    if not empty:
        run.prints_text = True
    if run.muted or run.unreached:
        return
    if run.role is None and not empty and not _may_be_empty(run, node, value):
        run.outside.append((run.source, node, "a value is printed outside of messages"))
    if value.moment:
        run.before_break.append((run.source, node, "LF042"))
    elif value.dynamic:
        run.before_break.append((run.source, node, "LF040"))
    if value.text_of and run.role in _SOFT and not run.fences and run.whole_message is not node:
        run.tell(
            "LF050",
            node,
            f"{value.text_of} is free text, and keeps its line breaks in this {run.role} message",
            help="put it between {% data %} and {% enddata %}, or through the filter oneline",
        )


def _may_be_empty(run: Run, node: nodes.Expr, value: Value) -> bool:
    """Whether it may well have no text in any call: what a macro prints may be messages."""
    if any(kind.name == "any" for kind in value.kinds):
        return True
    if not any(kind.name == "str" and kind.truth is not True for kind in value.kinds):
        return False
    return not value.dynamic or _calls_macro(run, node)


def _calls_macro(run: Run, node: nodes.Expr) -> bool:
    called = [*([node] if isinstance(node, nodes.Call) else ()), *node.find_all(nodes.Call)]
    with run.silent():
        return any(kinds.names(value_of(run, one.node).kinds) - {"method"} for one in called)


def check_printed(run: Run, node: nodes.Expr, value: Value) -> Value:
    """A value as it is printed, once what has no text was told."""
    if all(kind.name in kinds.PRINTED for kind in value.kinds):
        return value
    said = run.text_of(node)
    if kinds.has(value, "undefined"):
        what = (
            f"{said} is undefined where its condition is false: printing that fails"
            if isinstance(node, nodes.CondExpr) and node.expr2 is None
            else f"{said} may be undefined, and printing that fails"
        )
        run.tell("LF026", node, what, help="add an else" if isinstance(node, nodes.CondExpr) else "")
        value = kinds.dropped(value, "undefined")
    if kinds.has(value, "none"):
        if not value.lenient:
            may = "may be None" if len(value.kinds) > 1 else "is None"
            run.tell(
                "LF020",
                node,
                f"{said} {may}, and None is never printed",
                help=f"guard it with {{% if {said} is not none %}}, or give it a text with or_else(...)",
            )
        value = run.none_dropped(value)
    wrong = [kind for kind in value.kinds if kind.name not in kinds.PRINTED]
    if wrong:
        sure = len(wrong) == len(value.kinds)
        what, subject = kinds.called(tuple(wrong)), said if sure else "it"
        run.tell(
            "LF034",
            node,
            f"{said} is {what}, and has no text" if sure else f"{said} may be {what}, which has no text",
            help=_instead(wrong[0], subject),
            severity=None if sure or isinstance(node, nodes.CondExpr) else "warning",
        )
        return value._replace(kinds=(kinds.ANY_KIND,))
    return value


def _instead(kind: Kind, said: str) -> str:
    match kind.name:
        case "method" | "macro" | "function":
            return f"call it: {said}()"
        case "series" | "range":
            return f"end it with the filter list or join: {said}|join(', ')"
        case "brought":
            return f"write {said}.FEATURE, with the feature's own name"
        case "duration":
            return f"write {said}|duration, or .days of it"
        case _:
            return "print one of its attributes"


READ[nodes.Output] = output
