"""A prompt body cut into spans: stretches that can be rendered apart, whose texts joined are the prompt.

A batch of prompts renders each span once for each distinct combination of the few values that it reads. What a span
cannot be sure of gives no text: then the whole prompt is rendered as always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from jinja2 import nodes

from llmfeatures.prompts.codegen import Use
from llmfeatures.prompts.runtime import MAX_LOOPS, MAX_OUTPUT, MAX_SECTIONS, RENDER, Render, print_value
from llmfeatures.prompts.tags import BEGIN_MESSAGE, CONVERSATION

_SETTING: Final = (nodes.Assign, nodes.AssignBlock, nodes.Macro)
"""What later parts of the same body may read: the rest of the body is one span."""
_REFERRING: Final = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.Block)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One stretch of a message. ``literal`` is its text when it reads nothing; ``name`` the variable that it prints
    and does nothing else with; ``uses`` are what it reads."""

    literal: str | None = None
    name: str | None = None
    uses: tuple[Use, ...] = ()
    root: Callable[[Mapping[str, Any]], str] | None = None
    share: int = 1
    role: str | None = None

    def text(self, values: Mapping[str, Any]) -> str | None:
        """The text for these values; None where the whole prompt has to be rendered to know."""
        return self._measured(lambda: cast("Callable[[Mapping[str, Any]], str]", self.root)(values))

    def printed(self, value: Any) -> str | None:
        """The text of a value that this span prints; None as for `text`."""
        return self._measured(lambda: str(print_value(value)))

    def _measured(self, make: Callable[[], str]) -> str | None:
        state = Render()
        state.role = self.role
        token = RENDER.set(state)
        try:
            made = make()
        except Exception:  # noqa: BLE001  (the whole prompt's render says what it is)
            return None
        finally:
            RENDER.reset(token)
        # what all spans may use together is shared out, so that none lets through what the whole would refuse
        room = MAX_OUTPUT // self.share
        fits = len(made) <= room and state.printed <= room and MAX_LOOPS - state.loops <= MAX_LOOPS // self.share
        return made if fits and len(state.sections) <= MAX_SECTIONS // self.share else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpannedMessage:
    """A message's role, and its spans in order."""

    role: str
    spans: tuple[Span, ...]


Compile = Callable[[nodes.Template], tuple[Callable[[Mapping[str, Any]], str], Sequence[Use]]]
"""Compiles a stretch: its render function, and what it reads from the context."""


def split(tree: nodes.Template, compiled: Compile, *, uses_messages: bool) -> tuple[SpannedMessage, ...] | None:
    """The messages of a template as spans, or None for a template whose parts depend on each other."""
    if tree.find((*_REFERRING, nodes.NSRef)) is not None:  # pyright: ignore[reportArgumentType]
        return None
    bodies: list[tuple[str | None, list[list[nodes.Node]]]] = []
    if uses_messages:
        for node in tree.body:
            message = _message(node)
            if message is not None:
                bodies.append((message[0], list(_stretches(message[1]))))
            elif not _is_blank(node):
                return None
    else:
        bodies.append((None, list(_stretches(tree.body))))
    share = max(1, sum(len(stretches) for _, stretches in bodies))
    return tuple(
        SpannedMessage(
            role=role or "system", spans=tuple(_span(one, compiled, role=role, share=share) for one in stretches)
        )
        for role, stretches in bodies
    )


def _message(node: nodes.Node) -> tuple[str, list[nodes.Node]] | None:
    match node:
        case nodes.Scope(
            body=[
                nodes.ExprStmt(node=nodes.Filter(name=name, node=nodes.Const(value=role))),
                nodes.FilterBlock(body=body),
            ]
        ) if name == BEGIN_MESSAGE:
            return str(role), body
        case _:
            return None


def _is_blank(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Output) and all(
        not one.data.strip() if isinstance(one, nodes.TemplateData) else _is_conversation(one) for one in node.nodes
    )


def _is_conversation(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Filter) and node.name == CONVERSATION


def _stretches(body: Iterable[nodes.Node]) -> Iterable[list[nodes.Node]]:
    """The parts of a body that do not depend on each other."""
    todo = list(body)
    for at, node in enumerate(todo):
        if isinstance(node, _SETTING) or node.find(_SETTING) is not None:  # pyright: ignore[reportArgumentType]
            yield todo[at:]
            return
        if isinstance(node, nodes.Output):
            for one in node.nodes:
                yield [nodes.Output([one], lineno=node.lineno)]
        else:
            yield [node]


def _span(stretch: list[nodes.Node], compiled: Compile, *, role: str | None, share: int) -> Span:
    match stretch:
        case [nodes.Output(nodes=[nodes.TemplateData(data=data)])]:
            return Span(literal=data)
        case _:
            root, uses = compiled(nodes.Template(stretch, lineno=1))
            name = None
            match stretch:
                case [nodes.Output(nodes=[nodes.Name(name=name)])]:
                    pass
                case [nodes.Output(nodes=[nodes.Getattr(node=nodes.Name(name=role_name), attr=attribute)])]:
                    name = f"{role_name}.{attribute}"
                case _:
                    pass
            return Span(name=name, uses=tuple(uses), root=root, role=role, share=share)
