"""Statements: messages, blocks and sections, what is set, and macros."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from jinja2 import nodes

from llmfeatures.checker import calls, kinds, templates
from llmfeatures.checker.expressions import value_of
from llmfeatures.checker.filters import item_of
from llmfeatures.checker.kinds import ANY, TEXTS, Value, derived
from llmfeatures.checker.printing import printed
from llmfeatures.checker.reading import READ, read_all
from llmfeatures.checker.run import Capture, Run
from llmfeatures.prompts.runtime import ROLES

# -- tags ------------------------------------------------------------------------------------------------------------


def _scope(run: Run, node: nodes.Scope) -> None:
    opening, body = _opened(node)
    if opening is None:
        with run.scope():
            read_all(run, node.body)
        return
    name, arguments = opening
    with run.scope():
        match name:
            case "%begin_message":
                _message(run, node, str(arguments[0]), body)
            case "%begin_data":
                run.fences += 1
                _captured_block(run, body, clean=True)
                run.fences -= 1
            case "%begin_section":
                _section(run, node, arguments, body)
            case _:
                read_all(run, body)


def _opened(node: nodes.Scope) -> tuple[tuple[str, list[Any]] | None, list[nodes.Node]]:
    match node.body:
        case [nodes.ExprStmt(node=nodes.Filter() as opening), nodes.FilterBlock(body=body)] if opening.name[:1] == "%":
            first = opening.node.value if isinstance(opening.node, nodes.Const) else None
            rest = [one.value for one in opening.args if isinstance(one, nodes.Const)]
            return (opening.name, [first, *rest]), body
        case _:
            return None, []


def _message(run: Run, node: nodes.Scope, role: str, body: list[nodes.Node]) -> None:
    run.uses_messages = True
    if run.role is not None:
        run.tell("LF001", node, f"a {role} message inside a {run.role} message: messages do not nest")
    outer, run.role = run.role, role if role in ROLES else "system"
    captures, run.captures = run.captures, []
    whole, run.whole_message = run.whole_message, _only_value(body)
    run.prints_text = False
    with run.scope():
        read_all(run, body)
    if not run.prints_text and not run.in_partial:
        run.tell("LF066", node, f"this {role} message can never have any text", help="write it, or remove it")
    run.prints_text = True
    run.role, run.captures, run.whole_message = outer, captures, whole


def _only_value(body: Iterable[nodes.Node]) -> nodes.Node | None:
    """The one expression of which a message consists, where there is no more to it than conditions."""
    found = _parts(body)
    return found[0] if found is not None and len(found) == 1 and not isinstance(found[0], nodes.TemplateData) else None


def _parts(body: Iterable[nodes.Node]) -> list[nodes.Node] | None:
    found: list[nodes.Node] = []
    for node in body:
        match node:
            case nodes.Output():
                found += [
                    one for one in node.nodes if not (isinstance(one, nodes.TemplateData) and not one.data.strip())
                ]
            case nodes.If():
                for one in (node.body, *[other.body for other in node.elif_], node.else_):
                    inner = _parts(one)
                    if inner is None:
                        return None
                    found += inner
            case _:
                return None
    return found


def _section(run: Run, node: nodes.Scope, arguments: list[Any], body: list[nodes.Node]) -> None:
    name, priority, limit = [*arguments, None, None, None][:3]
    budget = run.file.header.budget
    if budget is None and limit is not None:
        run.tell(
            "LF072", node, f"section {name!r} has max_tokens, and the header has no budget: tokens are counted by its "
            "tokenizer", severity="error", help="add budget: {max_tokens: ..., tokenizer: ...} to the header",
        )  # fmt: skip
    elif budget is None and priority:
        run.tell(
            "LF072", node, f"section {name!r} has a priority, and the header has no budget: nothing is ever dropped",
            help="add budget: {max_tokens: ..., tokenizer: ...} to the header, or remove the tag",
        )  # fmt: skip
    if budget is not None or limit is not None:
        run.before_break.append((run.source, node, "LF043"))
    run.conditions += 1
    with run.scope():
        read_all(run, body)
    run.conditions -= 1


def _captured_block(run: Run, body: Sequence[nodes.Node], *, clean: bool = False) -> None:
    """A block inside a message: what it prints goes where the block stands."""
    with run.scope():
        if not clean or not run.captures:
            read_all(run, body)
            return
        capture = Capture()
        run.captures.append(capture)
        read_all(run, body)
        run.captures.pop()
        made = calls.captured(capture)._replace(text_of="")
        run.captures[-1].values.append(made)
        run.captures[-1].blank = run.captures[-1].blank and capture.blank


def _filter_block(run: Run, node: nodes.FilterBlock) -> None:
    with run.scope():
        capture = Capture()
        run.captures.append(capture)
        read_all(run, node.body)
        run.captures.pop()
    value = calls.captured(capture)
    chain: list[nodes.Filter] = []
    one: nodes.Expr | None = node.filter
    while isinstance(one, nodes.Filter):
        chain.append(one)
        one = one.node
    for each in reversed(chain):
        value = calls.apply_filter(run, each, value)
    if not capture.blank and not run.captures:
        run.prints_text = True
    printed(run, node.filter, value)


# -- setting ---------------------------------------------------------------------------------------------------------


def _assign(run: Run, node: nodes.Assign) -> None:
    store(run, node.target, value_of(run, node.node), node)


def store(run: Run, target: nodes.Node, value: Value, node: nodes.Node, *, loop: bool = False) -> None:
    match target:
        case nodes.Name():
            if target.name == "loop" and (loop or run.loops):
                run.tell("LF001", target, "loop cannot be set inside of a for")
            watched = None if loop or _is_exported(run) else target
            run.bind(target.name, value, watched)
        case nodes.NSRef():
            _store_attribute(run, target, value)
        case nodes.Tuple() | nodes.List():
            _unpack(run, target, value, node, loop=loop)
        case _:
            pass


def _is_exported(run: Run) -> bool:
    """Whether a name that is set now may be read by whoever imports this partial."""
    return run.in_partial and bool(run.frames) and run.frames[-1] is templates.top_frame(run)


def _store_attribute(run: Run, target: nodes.NSRef, value: Value) -> None:
    holder = run.read(nodes.Name(target.name, "load", lineno=target.lineno))
    for kind in holder.kinds:
        if kind.name == "namespace":
            known = kind.data.attributes.get(target.attr)
            new = kinds.plain(value)
            if known is None and run.conditions > kind.data.conditions:
                known = Value((kinds.UNDEFINED,))
            elif known is not None and run.conditions <= kind.data.conditions:
                known = kinds.dropped(known, "undefined") if len(known.kinds) > 1 else known
            kind.data.attributes[target.attr] = new if known is None else kinds.joined(known, new)
        elif kind.name not in ("any", "unset"):
            run.tell("LF016", target, f"{target.name} is {kinds.called(holder)}: only a namespace takes attributes",
                     help=f"make it one: {{% set {target.name} = namespace() %}}")  # fmt: skip
    if holder.path is not None:
        run.forget(holder.path[0])
        run.facts[*holder.path, target.attr] = kinds.plain(value).kinds


def _unpack(run: Run, target: nodes.Tuple | nodes.List, value: Value, node: nodes.Node, *, loop: bool) -> None:
    targets = target.items
    parts: list[Value] | None = None
    for kind in value.kinds:
        match kind.name:
            case "any" | "json" | "document":
                parts = [derived((kinds.ANY_KIND,), value)] * len(targets)
            case "tuple" | "list" if isinstance(kind.parts, tuple):
                known = cast("tuple[Value, ...]", kind.parts)
                if len(known) != len(targets):
                    run.tell("LF018", target, f"{len(known)} items are unpacked into {len(targets)} names")
                    parts = [ANY] * len(targets)
                else:
                    parts = list(known)
            case "tuple" | "list" | "series" | "range":
                parts = [item_of(value)] * len(targets)
            case _:
                pass
    if parts is None:
        said = "None" if not value.kinds else kinds.called(value)
        hint = "the pairs of a json value are value|items" if kinds.names(value.kinds) <= TEXTS else ""
        run.tell("LF018", target, f"{said} cannot be unpacked into {len(targets)} names", help=hint)
        parts = [ANY] * len(targets)
    for one, part in zip(targets, parts, strict=True):
        store(run, one, part, node, loop=loop)


def _assign_block(run: Run, node: nodes.AssignBlock) -> None:
    with run.scope():
        capture = Capture()
        run.captures.append(capture)
        read_all(run, node.body)
        run.captures.pop()
    value = calls.captured(capture)
    chain: list[nodes.Filter] = []
    one: nodes.Expr | None = node.filter
    while isinstance(one, nodes.Filter):
        chain.append(one)
        one = one.node
    for each in reversed(chain):
        value = calls.apply_filter(run, each, value)
    store(run, node.target, value, node)


def _with(run: Run, node: nodes.With) -> None:
    values = [value_of(run, one) for one in node.values]
    with run.scope():
        for target, value in zip(node.targets, values, strict=True):
            store(run, target, value, node)
        read_all(run, node.body)


def _macro(run: Run, node: nodes.Macro) -> None:
    templates.check_parameters(run, node)
    run.bind(node.name, calls.define(run, node), None if run.in_partial else node, "macro")


def _call_block(run: Run, node: nodes.CallBlock) -> None:
    templates.check_parameters(run, node)
    caller = calls.define(run, node)
    function = value_of(run, node.call.node)
    value: Value | None = None
    for kind in function.kinds:
        if kind.name == "macro":
            if "caller" not in kind.data.special:
                run.tell("LF017", node.call, f"the macro {kind.data.name} has no caller(): it takes no call block")
            value = calls.call_macro(run, node.call, kind.data, caller)
    if value is None:
        value = value_of(run, node.call)
    printed(run, node.call, value)


def _expression(run: Run, node: nodes.ExprStmt) -> None:
    value_of(run, node.node)


def _block(run: Run, node: nodes.Block) -> None:
    templates.read_block(run, node)


READ.update(
    {
        nodes.Scope: _scope,
        nodes.FilterBlock: _filter_block,
        nodes.Assign: _assign,
        nodes.AssignBlock: _assign_block,
        nodes.With: _with,
        nodes.Macro: _macro,
        nodes.CallBlock: _call_block,
        nodes.ExprStmt: _expression,
        nodes.Block: _block,
        nodes.Include: templates.include,
        nodes.Import: templates.import_module,
        nodes.FromImport: templates.import_names,
        nodes.Extends: templates.extends,
    }
)
