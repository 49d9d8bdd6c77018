"""Where an expression is in its file: from a node's first token to the end of its text, found again in the source."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from jinja2 import nodes

from llmfeatures.prompts.tags import column

_NAME: Final = re.compile(r"\w+(?:\.\w+)*")
_WORD: Final = re.compile(r"\w+")
_STRING: Final = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_NUMBER: Final = re.compile(r"[\d_]+(?:\.[\d_]+)?(?:[eE][+-]?\d+)?|0[xXoObB][\da-fA-F_]+")
_SPACE: Final = re.compile(r"\s*")
_TEST: Final = re.compile(r"is\s+(?:not\s+)?[\w.]+")
_CLOSING: Final = {"(": ")", "[": "]", "{": "}"}


class Span(NamedTuple):
    """From a line and column, counted from 1, to another, which is excluded."""

    line: int | None
    column: int | None = None
    end_line: int | None = None
    end_column: int | None = None


class Source:
    """The text of a template, and how many lines of its file are before it."""

    def __init__(self, path: str, text: str, offset: int = 0) -> None:
        self.path, self.text, self.offset = path, text, offset
        self._starts: list[int] | None = None

    @property
    def starts(self) -> list[int]:
        """Where each line begins."""
        if self._starts is None:
            self._starts = [0, *[found.end() for found in re.finditer("\n", self.text)]]
        return self._starts

    def place(self, line: Any) -> int | None:
        """The place in the text of a position that a node carries."""
        col = column(line)
        if col is None or not 0 <= int(line) - 1 - self.offset < len(self.starts):
            return None
        return self.starts[int(line) - 1 - self.offset] + col - 1

    def span(self, start: int, end: int) -> Span:
        """Two places in the text as a span."""
        return Span(*self._line(start), *self._line(max(end, start)))

    def _line(self, place: int) -> tuple[int, int]:
        low, high = 0, len(self.starts)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.starts[middle] <= place else (low, middle)
        return low + 1 + self.offset, place - self.starts[low] + 1

    def of(self, node: nodes.Node) -> Span:
        """Where a node is."""
        start = self.start(node)
        if start is None:
            return Span(int(node.lineno) if node.lineno else None, column(node.lineno))
        return self.span(start, self.end(node) or start)

    def name_of(self, node: nodes.Node) -> Span:
        """Where the name of a filter or an attribute is."""
        place = self.place(node.lineno)
        if place is None:
            return self.of(node)
        if isinstance(node, nodes.Test):
            found = re.compile(r"is\s+(?:not\s+)?").match(self.text, place)
            place = found.end() if found else place
        elif isinstance(node, nodes.Getattr):
            place = self._skipped(place + 1)
        found = (_WORD if isinstance(node, nodes.Getattr) else _NAME).match(self.text, place)
        return self.span(place, found.end() if found else place)

    def word(self, node: nodes.Node, name: str) -> Span:
        """Where a name first stands at or after a node."""
        place = self.place(node.lineno)
        found = None if place is None else re.compile(rf"\b{re.escape(name)}\b").search(self.text, place)
        return self.of(node) if found is None else self.span(found.start(), found.end())

    def written(self, node: nodes.Node) -> str:
        """The text of an expression, on one line; empty where it is not found."""
        start, end = self.start(node), self.end(node)
        return "" if start is None or end is None else " ".join(self.text[start:end].split())

    def start(self, node: nodes.Node) -> int | None:
        """Where a node's text begins."""
        match node:
            case nodes.Getattr() | nodes.Getitem() | nodes.Call() | nodes.Test():
                inner = self.start(node.node)
                return self.place(node.lineno) if inner is None else inner
            case nodes.Filter() if node.node is not None:
                inner = self.start(node.node)
                return self.place(node.lineno) if inner is None else inner
            case nodes.BinExpr():
                return self.start(node.left)
            case nodes.Keyword():
                return self._keyword(node)
            case nodes.Compare():
                return self.start(node.expr)
            case nodes.CondExpr():
                return self.start(node.expr1)
            case nodes.Concat():
                return self.start(node.nodes[0])
            case nodes.Tuple() if node.items and not self._at(node, "("):
                return self.start(node.items[0])
            case _:
                return self.place(node.lineno)

    def _keyword(self, node: nodes.Keyword) -> int | None:
        place = self.start(node.value)
        found = (
            None if place is None else re.compile(rf"{re.escape(node.key)}\s*=[\s(]*$").search(self.text[:place][-200:])
        )
        return place if found is None or place is None else place - min(place, 200) + found.start()

    def _at(self, node: nodes.Node, character: str) -> bool:
        place = self.place(node.lineno)
        return place is not None and self.text.startswith(character, place)

    def end(self, node: nodes.Node) -> int | None:  # noqa: C901, PLR0912
        """Where a node's text ends."""
        place = self.place(node.lineno)
        match node:
            case nodes.BinExpr():
                return self.end(node.right)
            case nodes.UnaryExpr():
                return self.end(node.node)
            case nodes.Compare():
                return self.end(node.ops[-1].expr)
            case nodes.CondExpr():
                return self.end(node.expr2 if node.expr2 is not None else node.test)
            case nodes.Concat():
                return self.end(node.nodes[-1])
            case nodes.Keyword():
                return self.end(node.value)
            case nodes.Operand():
                return self.end(node.expr)
            case _:
                pass
        if place is None:
            return None
        match node:
            case nodes.Const(value=value) if isinstance(value, str):
                return self._strings(place)
            case nodes.Const() | nodes.Name() | nodes.NSRef():
                return self._matched(_NUMBER if self.text[place : place + 1].isdigit() else _NAME, place, node)
            case nodes.Getattr():
                return self._matched(_WORD, self._skipped(place + 1), node)
            case nodes.Getitem() if self.text.startswith(".", place):
                return self._matched(_WORD, self._skipped(place + 1), node)
            case nodes.Getitem() | nodes.Call() | nodes.List() | nodes.Dict():
                return self._bracket(place)
            case nodes.Filter():
                return self._arguments(self._matched(_NAME, place, node))
            case nodes.Test():
                end = self._matched(_TEST, place, node)
                last = node.args[-1] if node.args else None
                return self._arguments(end) if last is None else max(self._arguments(end), self.end(last) or 0)
            case nodes.Tuple():
                if self.text.startswith("(", place):
                    return self._bracket(place)
                return self.end(node.items[-1]) if node.items else place
            case _:
                return self._matched(_WORD, place, node)

    def _matched(self, pattern: re.Pattern[str], place: int, node: nodes.Node) -> int:
        if isinstance(node, nodes.Name):
            return place + len(node.name)
        found = pattern.match(self.text, place)
        return found.end() if found else place

    def _skipped(self, place: int) -> int:
        found = _SPACE.match(self.text, place)
        return found.end() if found else place

    def _strings(self, place: int) -> int:
        # Jinja joins strings that follow each other
        while found := _STRING.match(self.text, place):
            place = found.end()
            following = self._skipped(place)
            if not _STRING.match(self.text, following):
                break
            place = following
        return place

    def _arguments(self, place: int) -> int:
        at = self._skipped(place)
        return self._bracket(at) if self.text.startswith("(", at) else place

    def _bracket(self, place: int) -> int:
        open_ones: list[str] = []
        at = place
        while at < len(self.text):
            character = self.text[at]
            if character in "'\"":
                found = _STRING.match(self.text, at)
                at = found.end() if found else at + 1
                continue
            if character in _CLOSING:
                open_ones.append(_CLOSING[character])
            elif open_ones and character == open_ones[-1]:
                open_ones.pop()
                if not open_ones:
                    return at + 1
            at += 1
        return place
