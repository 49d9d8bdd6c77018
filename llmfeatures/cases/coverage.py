"""Which branches of the templates the cases take: the templates are compiled once more, with a note in each branch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from jinja2 import FileSystemLoader, nodes

from llmfeatures.cases.build import build_case
from llmfeatures.cases.file import prompts_with_cases, read_cases
from llmfeatures.compile import compile_plan
from llmfeatures.errors import LLMFeaturesError
from llmfeatures.prompts.environment import PromptEnvironment
from llmfeatures.prompts.file import read_prompt
from llmfeatures.prompts.tags import column
from llmfeatures.registry import Registry

_NOTE: Final = "%branch"
_END: Final = re.compile(r"[-+]?[%}]}")
_LONGEST: Final = 60


class Branch(NamedTuple):
    """A branch of a template; ``what`` says what a case that takes it does. Line and column from 1."""

    path: str
    line: int
    column: int
    what: str

    @property
    def where(self) -> str:
        """``file:line:column``."""
        return ":".join(str(part) for part in (self.path, self.line, self.column) if part)


class Coverage(NamedTuple):
    """How many branches there are in the prompts that have cases, and their partials, and those that no case takes."""

    total: int
    missed: tuple[Branch, ...]

    @property
    def taken(self) -> int:
        """How many some case takes."""
        return self.total - len(self.missed)


def cover(registry: Registry, folder: Path, names: Sequence[str] | None = None, *, matching: str = "") -> Coverage:
    """Build the prompt of each case, as `run_cases` chooses them, and see which branches are taken. A prompt or case
    that is wrong takes none."""
    environment = _NotedEnvironment(folder)
    for name in prompts_with_cases(folder):
        if names is not None and name not in names:
            continue
        try:
            plan = compile_plan(registry, read_prompt(folder, name), environment)
            cases = read_cases(folder, name)
        except LLMFeaturesError:
            continue  # the run of the cases says so
        for case in cases:
            if matching in f"{name}::{case.id}":
                try:
                    build_case(plan, case)
                except LLMFeaturesError:
                    continue  # a case may expect that
    missed = sorted(branch for branch, taken in environment.branches.items() if not taken)
    return Coverage(len(environment.branches), tuple(missed))


class _NotedEnvironment(PromptEnvironment):
    """The environment of all prompts, noting branches."""

    def __init__(self, folder: Path) -> None:
        super().__init__(FileSystemLoader(folder, encoding="utf-8-sig"))
        self.folder = folder
        self.branches: dict[Branch, bool] = {}
        self._numbered: list[Branch] = []
        self.filters[_NOTE] = self._take

    def _take(self, value: Any, number: int) -> Any:
        self.branches[self._numbered[number]] = True
        return value

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        path = filename or name or ""
        if Path(path).is_absolute() and Path(path).is_relative_to(self.folder):
            path = Path(path).relative_to(self.folder.parent).as_posix()
        noted = _Noted(self, path, source.split("\n"), self.line_offsets.get(name or "", 0))
        elifs = {id(one) for node in tree.find_all(nodes.If) for one in node.elif_}
        for node in list(tree.find_all((nodes.If, nodes.For, nodes.CondExpr))):
            if id(node) not in elifs:
                noted.note(node)
        return tree

    def number_of(self, branch: Branch) -> int:
        """The number that a note of the branch has in the template."""
        self.branches.setdefault(branch, False)
        self._numbered.append(branch)
        return len(self._numbered) - 1


class _Noted:
    """One template that gets its notes."""

    def __init__(self, environment: _NotedEnvironment, path: str, lines: Sequence[str], offset: int) -> None:
        self.environment, self.path, self.lines, self.offset = environment, path, lines, offset

    def note(self, node: nodes.Node) -> None:
        """Put a note into each branch of a node."""
        match node:
            case nodes.If():
                self._note_if(node)
            case nodes.For():
                what = "takes the else of" if node.else_ else "has nothing to go through in"
                node.body.insert(0, self._statement(node, "goes through"))
                node.else_.insert(0, self._statement(node, what))
            case nodes.CondExpr() if node.expr2 is not None:
                node.expr1 = self._expression(node.expr1, node, "takes the first choice of")
                node.expr2 = self._expression(node.expr2, node, "takes the second choice of")
            case _:
                pass

    def _note_if(self, node: nodes.If) -> None:
        for one in (node, *node.elif_):
            one.body.insert(0, self._statement(one, "makes this true:"))
        what = "takes the else of" if node.else_ else "makes this false:"
        node.else_.insert(0, self._statement(node, what))

    def _statement(self, at: nodes.Node, what: str) -> nodes.ExprStmt:
        return nodes.ExprStmt(self._expression(nodes.Const(None, lineno=at.lineno), at, what), lineno=at.lineno)

    def _expression(self, expression: nodes.Expr, at: nodes.Node, what: str) -> nodes.Filter:
        place = column(at.lineno) or 0
        written = self._written(int(at.lineno), place)
        said = f"{what} {written.removeprefix('if ') if what.startswith('makes') else written}".rstrip()
        number = nodes.Const(self.environment.number_of(Branch(self.path, int(at.lineno), place, said)))
        number.lineno = at.lineno
        return nodes.Filter(expression, _NOTE, [number], [], None, None, lineno=at.lineno)

    def _written(self, line: int, place: int) -> str:
        """What the author wrote there, up to the end of the tag or of the line."""
        at = line - self.offset - 1
        rest = self.lines[at][max(place - 1, 0) :] if 0 <= at < len(self.lines) else ""
        return _END.split(rest, maxsplit=1)[0].strip()[:_LONGEST]
