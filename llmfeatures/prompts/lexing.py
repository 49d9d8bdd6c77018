"""Jinja's tokens and trees of prompt files, made in less time: the lexer's rules in two patterns, and expressions read
without a call for each level of precedence.

What is rare or wrong is left to Jinja, so that tokens, trees and errors are the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

from jinja2 import nodes
from jinja2.lexer import Token, TokenStream, operators
from jinja2.parser import Parser

from llmfeatures.prompts.tags import Pos

_START: Final = re.compile(r"\{(?:%([-+]?)(\s*raw\s*-?%\})?|\{([-+]?)|#([-+]?))")
_COMMENT_END: Final = re.compile(r"\+#\}|-#\}\s*|#\}\n?")
# a name or number that Jinja might read on from here matches nothing, and is left to it
_PARTS: Final = (
    r"([a-zA-Z_][a-zA-Z0-9_]*+(?![^\x00-\x7f]))"
    r"""|('[^'\\]*+'|"[^"\\]*+")"""
    r"|(==|!=|>=|<=|//|\*\*|[-+/*%~\[\](){}><=.:|,;])"
    r"|((?:0|[1-9][0-9]{0,15}+)(?![\w.]))"
    r"|((?<!\.)[0-9]{1,15}+\.[0-9]{1,15}+(?![\w.]))"
    r"""|('[^'\\]*+(?:\\.[^'\\]*+)*+'|"[^"\\]*+(?:\\.[^"\\]*+)*+")"""
)
_END, _NAME, _PLAIN, _OPERATOR, _INTEGER, _FLOAT = range(1, 7)
_BLOCK: Final = re.compile(rf"\s*+(?:(\+%\}}|-%\}}\s*|%\}}\n?)|{_PARTS})", re.DOTALL)
_VARIABLE: Final = re.compile(rf"\s*+(?:(-\}}\}}\s*|\}}\}})|{_PARTS})", re.DOTALL)
_OPEN: Final = re.compile(rf"\s*+(?:((?!))|{_PARTS})", re.DOTALL)
"""Inside of brackets, where no tag ends."""
_CLOSING: Final = {"(": ")", "[": "]", "{": "}"}
_Node = TypeVar("_Node", bound=nodes.Node)
_token: Final[Callable[[tuple[int, str, Any]], Token]] = partial(tuple.__new__, Token)


def tokens(source: str, offset: int) -> list[Token] | None:  # noqa: C901, PLR0912, PLR0915
    """The tokens of a template of prompts, whose line breaks are line feeds, with positions behind so many lines.

    None where only Jinja's lexer can tell what it is.
    """
    source = source.removesuffix("\n")
    made: list[Token] = []
    add = made.append
    at, line, start, size = 0, 1 + offset, -1, len(source)
    newline = source.find("\n")
    if newline < 0:
        newline = size
    opening, find = _START.search, source.find
    while at < size:
        found = opening(source, at)
        tag = size if found is None else found.start()
        # text
        if at < tag:
            text = source[at:tag]
            sign = ""
            if found is not None:
                sign = found[1] or found[3] or found[4]
                if sign == "-":
                    text = text.rstrip()
                elif not sign and found[3] is None:
                    last = text.rfind("\n") + 1
                    if (last or at == 0 or source[at - 1] == "\n") and text[last:].isspace():
                        text = text[:last]
            if at > newline:
                line += source.count("\n", newline, at)
                start = source.rfind("\n", newline, at)
                newline = find("\n", at)
                if newline < 0:
                    newline = size
            if text:
                position = Pos(line)
                position.col = at - start
                add(_token((position, "data", text)))
        if found is None:
            return made
        if found[2] is not None:
            return None
        at = found.end()
        if found[4] is not None:
            end = _COMMENT_END.search(source, at)
            if end is None:
                return None
            at = end.end()
            continue
        # a tag
        if tag > newline:
            line += source.count("\n", newline, tag)
            start = source.rfind("\n", newline, tag)
            newline = find("\n", tag)
            if newline < 0:
                newline = size
        position = Pos(line)
        position.col = tag - start
        if found[1] is not None:
            add(_token((position, "block_begin", found[0])))
            outer, ending = _BLOCK.match, "block_end"
        else:
            add(_token((position, "variable_begin", found[0])))
            outer, ending = _VARIABLE.match, "variable_end"
        match = outer
        brackets: list[str] = []
        while True:
            part = match(source, at)
            if part is None:
                return None if source[at:].strip() else made
            kind = part.lastindex or 0
            value = part[kind]
            at = part.end()
            begin = at - len(value)
            if begin > newline:
                line += source.count("\n", newline, begin)
                start = source.rfind("\n", newline, begin)
                newline = find("\n", begin)
                if newline < 0:
                    newline = size
            position = Pos(line)
            position.col = begin - start
            if kind == _NAME:
                add(_token((position, "name", value)))
            elif kind == _OPERATOR:
                if value in "([{":
                    brackets.append(_CLOSING[value])
                    match = _OPEN.match
                elif value in ")]}":
                    if not brackets or brackets.pop() != value:
                        return None
                    if not brackets:
                        match = outer
                add(_token((position, operators[value], value)))
            elif kind == _PLAIN:
                add(_token((position, "string", value[1:-1])))
            elif kind == _END:
                add(_token((position, ending, value)))
                break
            elif kind == _INTEGER:
                add(_token((position, "integer", int(value))))
            elif kind == _FLOAT:
                add(_token((position, "float", float(value))))
            else:
                try:
                    unescaped = value[1:-1].encode("ascii", "backslashreplace").decode("unicode-escape")
                except (UnicodeError, Warning):
                    return None
                add(_token((position, "string", unescaped)))
    return made


class Stream(TokenStream):
    """Jinja's stream, over tokens that are there."""

    def __next__(self) -> Token:
        old = self.current
        if self._pushed:
            self.current = self._pushed.popleft()
        else:
            token = next(self._iter, None)
            if token is None:
                self.close()
            else:
                self.current = token
        return old


_ARITHMETIC: Final = frozenset({"add", "sub", "tilde", "mul", "div", "floordiv", "mod", "pow"})
_COMPARISONS: Final = frozenset({"eq", "ne", "lt", "lteq", "gt", "gteq"})
_GOES_ON: Final = _ARITHMETIC | _COMPARISONS | {"name"}
_POSTFIX: Final = frozenset({"dot", "lbracket", "lparen"})
_TUPLE_ENDS: Final = frozenset({"variable_end", "block_end", "rparen"})
_LITERALS: Final = frozenset({"string", "integer", "float"})
_CONSTANTS: Final = frozenset({"true", "false", "True", "False", "none", "None"})


def _node(kind: type[_Node], **fields: Any) -> _Node:
    """A node, without a look at what its kind takes."""
    node: Any = object.__new__(kind)
    node.__dict__ = fields
    return node


class PromptParser(Parser):
    """Jinja's parser, with fewer calls for an expression."""

    def subparse(self, end_tokens: tuple[str, ...] | None = None) -> list[nodes.Node]:  # noqa: PLR0912
        stream = self.stream
        body: list[nodes.Node] = []
        printed: list[nodes.Expr] = []
        if end_tokens is not None:
            self._end_token_stack.append(end_tokens)
        try:
            while (token := stream.current).type != "eof" or stream:
                if token.type == "data":
                    printed.append(_node(nodes.TemplateData, data=token.value, lineno=token.lineno, environment=None))
                    next(stream)
                elif token.type == "variable_begin":
                    next(stream)
                    printed.append(self.parse_tuple(with_condexpr=True))
                    if stream.current.type != "variable_end":
                        stream.expect("variable_end")
                    next(stream)
                elif token.type == "block_begin":
                    if printed:
                        body.append(_node(nodes.Output, nodes=printed, lineno=printed[0].lineno, environment=None))
                        printed = []
                    next(stream)
                    if end_tokens is not None and stream.current.test_any(*end_tokens):
                        return body
                    read = self.parse_statement()
                    if isinstance(read, list):
                        body += read
                    else:
                        body.append(read)
                    stream.expect("block_end")
                else:
                    raise AssertionError("internal parsing error")
            if printed:
                body.append(_node(nodes.Output, nodes=printed, lineno=printed[0].lineno, environment=None))
        finally:
            if end_tokens is not None:
                self._end_token_stack.pop()
        return body

    def parse_tuple(
        self,
        simplified: bool = False,
        with_condexpr: bool = True,
        extra_end_rules: tuple[str, ...] | None = None,
        explicit_parentheses: bool = False,
        with_namespace: bool = False,
    ) -> nodes.Tuple | nodes.Expr:
        stream = self.stream
        if simplified or extra_end_rules or stream.current.type in _TUPLE_ENDS:
            return super().parse_tuple(simplified, with_condexpr, extra_end_rules, explicit_parentheses, with_namespace)
        read = self.parse_condexpr if with_condexpr else self.parse_or
        first = read()
        if stream.current.type != "comma":
            return first
        items, line = [first], 0
        while (token := stream.current).type == "comma":
            line = token.lineno
            next(stream)
            if stream.current.type in _TUPLE_ENDS:
                break
            items.append(read())
        return nodes.Tuple(items, "load", lineno=line)

    def parse_primary(self, with_namespace: bool = False) -> nodes.Expr:
        stream = self.stream
        token = stream.current
        if token.type in _LITERALS:
            next(stream)
            if token.type != "string" or stream.current.type != "string":
                return _node(nodes.Const, value=token.value, lineno=token.lineno, environment=None)
            stream.push(stream.current)
            stream.current = token
        return super().parse_primary(with_namespace)

    def parse_condexpr(self) -> nodes.Expr:
        stream = self.stream
        first = stream.current
        line = first.lineno
        if first.type == "name" and first.value == "not":
            left = self.parse_not()
        else:
            left = self.parse_unary()
            if stream.current.type not in _GOES_ON:
                return left
            left = self._compared(self._computed(left, line), line)
        left = self._either(self._both(left, line), line)
        while (token := stream.current).type == "name" and token.value == "if":
            next(stream)
            test = self.parse_or()
            other = self.parse_condexpr() if stream.skip_if("name:else") else None
            left = nodes.CondExpr(test, left, other, lineno=line)
            line = stream.current.lineno
        return left

    def parse_or(self) -> nodes.Expr:
        line = self.stream.current.lineno
        return self._either(self.parse_and(), line)

    def parse_and(self) -> nodes.Expr:
        line = self.stream.current.lineno
        return self._both(self.parse_not(), line)

    def parse_compare(self) -> nodes.Expr:
        line = self.stream.current.lineno
        return self._compared(self.parse_math1(), line)

    def parse_math1(self) -> nodes.Expr:
        line = self.stream.current.lineno
        return self._computed(self.parse_unary(), line)

    def parse_unary(self, with_filter: bool = True) -> nodes.Expr:
        stream = self.stream
        token = stream.current
        kind = token.type
        if kind == "name" and token.value not in _CONSTANTS:
            next(stream)
            node: nodes.Expr = _node(nodes.Name, name=token.value, ctx="load", lineno=token.lineno, environment=None)
        elif kind in ("sub", "add"):
            return super().parse_unary(with_filter)
        else:
            node = self.parse_primary()
        if stream.current.type in _POSTFIX:
            node = self.parse_postfix(node)
        if with_filter:
            token = stream.current
            kind = token.type
            if kind in ("pipe", "lparen") or (kind == "name" and token.value == "is"):
                node = self.parse_filter_expr(node)
        return node

    # what follows a first operand; the lines are those that Jinja gives

    def _either(self, left: nodes.Expr, line: int) -> nodes.Expr:
        stream = self.stream
        while (token := stream.current).type == "name" and token.value == "or":
            next(stream)
            left = nodes.Or(left, self.parse_and(), lineno=line)
            line = stream.current.lineno
        return left

    def _both(self, left: nodes.Expr, line: int) -> nodes.Expr:
        stream = self.stream
        while (token := stream.current).type == "name" and token.value == "and":
            next(stream)
            left = nodes.And(left, self.parse_not(), lineno=line)
            line = stream.current.lineno
        return left

    def _compared(self, left: nodes.Expr, line: int) -> nodes.Expr:
        stream = self.stream
        operands: list[nodes.Operand] = []
        while True:
            token = stream.current
            kind = token.type
            if kind in _COMPARISONS:
                next(stream)
            elif kind == "name" and token.value == "in":
                next(stream)
                kind = "in"
            elif kind == "name" and token.value == "not" and stream.look().test("name:in"):
                stream.skip(2)
                kind = "notin"
            else:
                break
            operands.append(nodes.Operand(kind, self.parse_math1()))
            line = stream.current.lineno
        return nodes.Compare(left, operands, lineno=line) if operands else left

    def _computed(self, left: nodes.Expr, line: int) -> nodes.Expr:
        stream = self.stream
        if stream.current.type not in _ARITHMETIC:
            return left
        left = self._product(self._power(left, line), line)
        if stream.current.type == "tilde":
            parts = [left]
            while stream.current.type == "tilde":
                next(stream)
                parts.append(self.parse_math2())
            left = nodes.Concat(parts, lineno=line)
        while (kind := stream.current.type) in ("add", "sub"):
            next(stream)
            left = (nodes.Add if kind == "add" else nodes.Sub)(left, self.parse_concat(), lineno=line)
            line = stream.current.lineno
        return left

    def _product(self, left: nodes.Expr, line: int) -> nodes.Expr:
        stream = self.stream
        while (kind := stream.current.type) in _PRODUCTS:
            next(stream)
            left = _PRODUCTS[kind](left, self.parse_pow(), lineno=line)
            line = stream.current.lineno
        return left

    def _power(self, left: nodes.Expr, line: int) -> nodes.Expr:
        stream = self.stream
        while stream.current.type == "pow":
            next(stream)
            left = nodes.Pow(left, self.parse_unary(), lineno=line)
            line = stream.current.lineno
        return left


_PRODUCTS: Final[dict[str, type[nodes.BinExpr]]] = {
    "mul": nodes.Mul,
    "div": nodes.Div,
    "floordiv": nodes.FloorDiv,
    "mod": nodes.Mod,
}
