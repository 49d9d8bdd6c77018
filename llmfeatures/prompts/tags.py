"""The tags of prompt files, as Jinja nodes: ``message``, ``conversation``, ``data``, ``cache_break``, ``section``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final, cast

from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from llmfeatures.prompts.runtime import ROLES


class Pos(int):
    """A line number that knows its column; Jinja carries it through as ``lineno``."""

    col: int | None = None


def column(line: int | None) -> int | None:
    """The column of a line number from a token, from 1."""
    return getattr(line, "col", None)


BEGIN_MESSAGE, END_MESSAGE = "%begin_message", "%end_message"
BEGIN_DATA, END_DATA = "%begin_data", "%end_data"
BEGIN_SECTION, END_SECTION = "%begin_section", "%end_section"
CACHE_BREAK, CONVERSATION = "%cache_break", "%conversation"
TAGS: Final = frozenset(
    {BEGIN_MESSAGE, END_MESSAGE, BEGIN_DATA, END_DATA, BEGIN_SECTION, END_SECTION, CACHE_BREAK, CONVERSATION}
)
"""Filters that only the tags' generated code can name."""


_UNKNOWN: Final = re.compile(r"Encountered unknown tag '(?!end)(\w+)'\.")


def syntax_problem(error: TemplateSyntaxError) -> str:
    """What a syntax error says; of an unknown tag, which are near to it."""
    said = error.message or "a syntax error"
    unknown = _UNKNOWN.match(said)
    close = get_close_matches(unknown[1], [*PromptTags.tags, *_JINJAS], n=2) if unknown else []
    if unknown is None or not close:
        return said
    return f"there is no tag {unknown[1]!r}; did you mean {' or '.join(map(repr, close))}?"


_JINJAS: Final = (
    *("for", "if", "block", "extends", "macro", "include", "from", "import", "set", "with", "call", "filter"),
    *("do", "break", "continue"),
)


class PromptTags(Extension):
    """``message``, ``conversation``, ``data``, ``cache_break`` and ``section``."""

    tags = {"message", "conversation", "data", "cache_break", "section"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        tag = next(parser.stream)
        match tag.value:
            case "message":
                return self._message(parser, tag.lineno)
            case "data":
                return self._data(parser, tag.lineno)
            case "cache_break" | "conversation":
                call = _filter(nodes.Const("", lineno=tag.lineno), f"%{tag.value}", tag.lineno)
                return nodes.Output([call], lineno=tag.lineno)
            case _:
                return self._section(parser, tag.lineno)

    def _message(self, parser: Parser, line: int) -> nodes.Node:
        token = parser.stream.current
        if token.type != "string" or token.value not in ROLES:
            written = repr(token.value) if token.type == "string" else "no literal"
            parser.fail(f"a message's role is one of {', '.join(map(repr, ROLES))}; this is {written}", token.lineno)
        next(parser.stream)
        body = parser.parse_statements(("name:endmessage",), drop_needle=True)
        _refuse_jumps(parser, "message", body)
        _refuse_message(parser, body, "messages do not nest: close the one before it with {% endmessage %}")
        return _captured(body, BEGIN_MESSAGE, END_MESSAGE, line, token.value)

    def _data(self, parser: Parser, line: int) -> nodes.Node | list[nodes.Node]:
        body = parser.parse_statements(("name:enddata",), drop_needle=True)
        _refuse_jumps(parser, "data", body)
        _refuse_message(parser, body, "a message cannot be inside a data block")
        captured = _captured(body, BEGIN_DATA, END_DATA, line)
        if parser.stream.current.value != "%}\n":
            return captured
        # trim_blocks took the line break after the tag, which would glue what follows to the fence
        return [captured, nodes.Output([nodes.TemplateData("\n", lineno=line)], lineno=line)]

    def _section(self, parser: Parser, line: int) -> nodes.Node:
        named = parser.stream.current
        if named.type != "string" or not named.value.strip():
            parser.fail('a section has a name in quotes, like {% section "sessions", priority=1 %}', named.lineno)
        next(parser.stream)
        options: dict[str, int | None] = {"priority": 0, "max_tokens": None}
        given: set[str] = set()
        while parser.stream.skip_if("comma"):
            name = parser.stream.expect("name")
            if name.value not in options:
                parser.fail(f"a section takes priority= and max_tokens=, not {name.value!r}", name.lineno)
            if name.value in given:
                parser.fail(f"{name.value} is given twice", name.lineno)
            given.add(name.value)
            parser.stream.expect("assign")
            sign = -1 if parser.stream.skip_if("sub") else 1
            token = parser.stream.current
            number = cast("object", token.value)
            if not isinstance(number, int) or (name.value == "max_tokens" and sign * number < 1):
                least = " from 1" if name.value == "max_tokens" else ""
                parser.fail(f"{name.value} is a whole number{least}, written out", token.lineno)
            next(parser.stream)
            options[name.value] = sign * number
        body = parser.parse_statements(("name:endsection",), drop_needle=True)
        _refuse_jumps(parser, "section", body)
        _refuse_message(parser, body, "a message cannot be inside a section; put the section into the message")
        return _captured(body, BEGIN_SECTION, END_SECTION, line, named.value, *options.values())


def _filter(node: nodes.Expr | None, name: str, line: int, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=line)


def _captured(body: list[nodes.Node], begin: str, end: str, line: int, *arguments: object) -> nodes.Scope:
    """``begin(arguments)``, then what ``end`` makes of the rendered body."""
    constants: list[nodes.Expr] = [nodes.Const(one, lineno=line) for one in arguments]
    first = constants[0] if constants else nodes.Const(None, lineno=line)
    opening = nodes.ExprStmt(_filter(first, begin, line, *constants[1:]), lineno=line)
    return nodes.Scope(
        [opening, nodes.FilterBlock(body, _filter(None, end, line, *constants), lineno=line)], lineno=line
    )


def _refuse_message(parser: Parser, body: Iterable[nodes.Node], message: str) -> None:
    for node in body:
        if isinstance(node, nodes.ExprStmt):
            if isinstance(node.node, nodes.Filter) and node.node.name == BEGIN_MESSAGE:
                parser.fail(message, node.lineno)
        elif not isinstance(node, _WITHOUT_STATEMENTS):
            _refuse_message(parser, node.iter_child_nodes(), message)


def _refuse_jumps(parser: Parser, tag: str, body: Iterable[nodes.Node]) -> None:
    """A break or continue must not leave the block half done."""
    for node in body:
        if isinstance(node, (nodes.Break, nodes.Continue)):
            parser.fail(f"a {type(node).__name__.lower()} cannot leave a {tag} block", node.lineno)
        if not isinstance(node, (nodes.For, *_WITHOUT_STATEMENTS)):
            _refuse_jumps(parser, tag, node.iter_child_nodes())


_WITHOUT_STATEMENTS: Final = (nodes.Output, nodes.Expr, nodes.Helper)
