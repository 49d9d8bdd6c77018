"""From a parsed template to Python: Jinja's code generator, with a few points changed, and what it learns on the way.

What is printed goes through `runtime.print_value`, the author's string constants are finished text, loops are counted,
and Jinja's helpers are those of `runtime`. Filters, tests and partials are checked in all branches, and each reading
of a name from the context is noted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.idtracking import VAR_LOAD_ALIAS, VAR_LOAD_RESOLVE, Symbols

from llmfeatures.errors import did_you_mean
from llmfeatures.prompts.filters import REMOVED
from llmfeatures.prompts.own_filters import NEEDS_BUDGET
from llmfeatures.prompts.sections import Layout, layout
from llmfeatures.prompts.tags import END_MESSAGE, TAGS

if TYPE_CHECKING:
    from llmfeatures.prompts.environment import PromptEnvironment

PARTIALS: Final = "_shared"
"""The folder of the partials, inside the folder of the prompts."""
_TAKES_NAME: Final = {
    "map": ("filter", 0),
    "select": ("test", 0),
    "reject": ("test", 0),
    "selectattr": ("test", 1),
    "rejectattr": ("test", 1),
}


@dataclass(slots=True)
class Reference:
    """One include, import or extends."""

    name: str
    kind: str
    sees_context: bool
    provided: frozenset[str]
    line: int
    optional: bool


@dataclass(slots=True)
class Use:
    """One reading of a name from the context; ``attribute`` is None unless a constant one is read from it."""

    name: str
    attribute: str | None
    in_block: bool
    line: int


@dataclass(slots=True)
class Analysis:
    """What one template file reads and refers to."""

    path: str
    uses: list[Use] = field(default_factory=list[Use])
    assigned: set[str] = field(default_factory=set[str])
    references: list[Reference] = field(default_factory=list[Reference])
    uses_messages: bool = False
    layout: Layout = field(default_factory=Layout)


class PromptCodeGenerator(CodeGenerator):
    """Jinja's code generator, printing through `print_value` and recording which names the context must have."""

    environment: PromptEnvironment

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.analysis = Analysis(self.filename or "")
        self._literals: dict[str, str] = {}
        self._counted: set[int] = set()
        self._attributes: dict[int, str] = {}

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:
        self._check(node)
        self.analysis.layout = layout(node)
        super().visit_Template(node, frame)
        self.writeline("globals().update(environment.runtime.names)")
        for value, name in self._literals.items():
            self.writeline(f"{name} = literal({value!r})")
        self.environment.analyses[self.name or ""] = self.analysis

    def _check(self, template: nodes.Template) -> None:
        """Refuse at compile time what Jinja finds out at run time only, if ever."""
        for node in template.find_all((nodes.Filter, nodes.Test)):
            self._check_callable(node)
        for node in template.find_all(nodes.ScopedEvalContextModifier):
            self.fail("there is no autoescape tag: values are always escaped", node.lineno)
        for node in template.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
            self._check_reference(node)
        if self.analysis.uses_messages and template.find(nodes.Extends) is None:
            self._check_outside(template.body)

    def _check_callable(self, node: nodes.Filter | nodes.Test) -> None:
        kind, known = (
            ("filter", self.environment.filters) if isinstance(node, nodes.Filter) else ("test", self.environment.tests)
        )
        if node.name == END_MESSAGE:
            self.analysis.uses_messages = True
        self._check_name(kind, node.name, known, node.lineno)
        if node.name == "clip_tokens" and self.environment.tokenizer is None:
            self.fail(NEEDS_BUDGET, node.lineno)
        if isinstance(node, nodes.Filter) and node.name in _TAKES_NAME:
            kind, index = _TAKES_NAME[node.name]
            named = node.args[index] if len(node.args) > index else None
            if isinstance(named, nodes.Const) and isinstance(named.value, str):
                known = self.environment.filters if kind == "filter" else self.environment.tests
                self._check_name(kind, named.value, known, named.lineno)

    def _check_name(self, kind: str, name: str, known: Mapping[str, Any], line: int) -> None:
        if name in known:
            return
        if kind == "filter" and name in REMOVED:
            self.fail(f"there is no filter {name!r} in a prompt: {REMOVED[name]}", line)
        public = [one for one in known if one not in TAGS]
        self.fail(f"unknown {kind} {name!r}{did_you_mean(name, public)}", line)

    def _check_reference(self, node: _Referring) -> None:
        tag = {"Import": "import", "FromImport": "from", "Include": "include"}.get(type(node).__name__, "extends")
        written = node.template
        if not (isinstance(written, nodes.Const) and isinstance(written.value, str)):
            self.fail(f'{tag} takes the literal name of one partial, like {{% {tag} "{PARTIALS}/…" %}}', node.lineno)
        written.value = _Plain(written.value)

    def _check_outside(self, body: Iterable[nodes.Node]) -> None:
        """Refuse non-blank text outside messages, where the template itself shows it."""
        for node in body:
            match node:
                case nodes.Output():
                    for child in node.nodes:
                        if isinstance(child, nodes.TemplateData) and (written := child.data.strip()):
                            blank = len(child.data) - len(child.data.lstrip())
                            line = child.lineno + child.data.count("\n", 0, blank)
                            self.fail(f"{outside_text(written)}; move it into a message", line)
                case nodes.If():
                    self._check_outside([*node.body, *node.else_])
                    for branch in node.elif_:
                        self._check_outside(branch.body)
                case nodes.For():
                    self._check_outside([*node.body, *node.else_])
                case nodes.With():
                    self._check_outside(node.body)
                case _:
                    pass

    # what is printed

    def visit_Output(self, node: nodes.Output, frame: Frame) -> None:
        """Pieces that follow each other are yielded as one: a step of a generator costs as much as a piece."""
        if frame.buffer is not None or frame.require_output_check or len(node.nodes) < 2:
            super().visit_Output(node, frame)
            return
        self.writeline("yield joined((", node)
        self.indent()
        for child in node.nodes:
            self.newline(child)
            try:
                self.write(repr(self._output_child_to_const(child, frame, None)))
            except nodes.Impossible:
                self._output_child_pre(child, frame, None)
                self.visit(child, frame)
                self._output_child_post(child, frame, None)
            self.write(",")
        self.outdent()
        self.writeline("))")

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if isinstance(node, nodes.TemplateData):
            return node.data
        if isinstance(node, nodes.Const) and type(node.value) is str:
            return node.value
        raise nodes.Impossible

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write("print_value(")

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        what = expression(node)
        self.write(f", {what!r})" if what else ")")

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:
        if type(node.value) is str:
            self.write(self._literals.setdefault(node.value, f"literal_{len(self._literals)}"))
        else:
            super().visit_Const(node, frame)

    def visit_TemplateData(self, node: nodes.TemplateData, frame: Frame) -> None:
        self.write(repr(node.data))

    # loops

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        self._counted.add(id(node.iter))
        super().visit_For(node, frame)

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        if id(node) not in self._counted:
            return super().visit(node, *args, **kwargs)
        self.write("counted(")
        super().visit(node, *args, **kwargs)
        self.write(")")
        return None

    # names

    def enter_frame(self, frame: Frame) -> None:
        super().enter_frame(frame)
        if frame.toplevel and frame.symbols.parent is None:
            self.analysis.assigned = self._provided(frame)

    def visit_Name(self, node: nodes.Name, frame: Frame) -> None:
        unset = node.ctx == "load" and not self._is_set(node.name, frame)
        if unset and self._from_context(frame, frame.symbols.ref(node.name)):
            attribute = self._attributes.get(id(node))
            self.analysis.uses.append(Use(node.name, attribute, _in_block(frame), node.lineno))
        super().visit_Name(node, frame)

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:
        if isinstance(node.node, nodes.Name):
            self._attributes[id(node.node)] = node.attr
        super().visit_Getattr(node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if isinstance(node.node, nodes.Name) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            self._attributes[id(node.node)] = node.arg.value
        super().visit_Getitem(node, frame)

    def _from_context(self, frame: Frame, target: str) -> bool:
        load = frame.symbols.find_load(target)
        while load is not None and load[0] == VAR_LOAD_ALIAS:
            load = frame.symbols.find_load(load[1])
        return load is not None and load[0] == VAR_LOAD_RESOLVE

    def _provided(self, frame: Frame) -> set[str]:
        """The names that this place of the template has set for certain, so that they do not come from the context."""
        return {
            name
            for name, target in frame.symbols.dump_stores().items()
            if not self._from_context(frame, target) or self._is_set(name, frame)
        }

    # Jinja takes a name that branches set for one of the context, also where all of them set it, and inside of them

    def _names_set(self, symbols: Symbols) -> set[str]:
        # kept with the symbols, since a branch has a copy of its frame's
        return cast("set[str]", symbols.__dict__.setdefault("certain", set[str]()))

    def _is_set(self, name: str, frame: Frame) -> bool:
        symbols: Symbols | None = frame.symbols
        while symbols is not None:
            if name in self._names_set(symbols):
                return True
            symbols = symbols.parent
        return False

    def visit_If(self, node: nodes.If, frame: Frame) -> None:
        # Jinja's, with what each branch sets for certain
        names, before = self._names_set(frame.symbols), set(self._names_set(frame.symbols))
        ends: list[set[str]] = []
        if_frame = frame.soft()
        word = "if "
        for test, body in ((node.test, node.body), *((one.test, one.body) for one in node.elif_), (None, node.else_)):
            if test is not None:
                self.writeline(word, test)
                self.visit(test, if_frame)
                self.write(":")
                word = "elif "
            elif body:
                self.writeline("else:")
            self.indent()
            self.blockvisit(body, if_frame)
            self.outdent()
            if not any(isinstance(one, (nodes.Break, nodes.Continue)) for one in body):
                ends.append(set(names))
            names.clear()
            names.update(before)
        names.update(set[str].intersection(*ends) if ends else ())

    def visit_Macro(self, node: nodes.Macro, frame: Frame) -> None:
        super().visit_Macro(node, frame)
        self._names_set(frame.symbols).add(node.name)

    def visit_Assign(self, node: nodes.Assign, frame: Frame) -> None:
        super().visit_Assign(node, frame)
        self._stored(node.target, frame)

    def visit_AssignBlock(self, node: nodes.AssignBlock, frame: Frame) -> None:
        super().visit_AssignBlock(node, frame)
        self._stored(node.target, frame)

    def _stored(self, target: nodes.Node, frame: Frame) -> None:
        found = [target, *target.find_all(nodes.Name)]
        self._names_set(frame.symbols).update(one.name for one in found if isinstance(one, nodes.Name))

    # partials

    def visit_Include(self, node: nodes.Include, frame: Frame) -> None:
        self._refer(node, frame, "include", node.with_context, optional=node.ignore_missing)
        super().visit_Include(node, frame)

    def visit_Import(self, node: nodes.Import, frame: Frame) -> None:
        self._refer(node, frame, "import", node.with_context)
        super().visit_Import(node, frame)
        self._names_set(frame.symbols).add(node.target)

    def visit_FromImport(self, node: nodes.FromImport, frame: Frame) -> None:
        self._refer(node, frame, "import", node.with_context)
        super().visit_FromImport(node, frame)
        self._names_set(frame.symbols).update(one if isinstance(one, str) else one[1] for one in node.names)

    def visit_Extends(self, node: nodes.Extends, frame: Frame) -> None:
        self._refer(node, frame, "extends", sees_context=True)
        super().visit_Extends(node, frame)

    def _refer(self, node: _Referring, frame: Frame, kind: str, sees_context: bool, *, optional: bool = False) -> None:
        name = str(cast("nodes.Const", node.template).value)
        provided = frozenset(self._provided(frame))
        self.analysis.references.append(Reference(name, kind, sees_context, provided, node.lineno, optional))


_Referring = nodes.Include | nodes.Import | nodes.FromImport | nodes.Extends


class _Plain(str):
    """A string constant that stays a plain one in the generated code: a template's name."""

    __slots__ = ()


def _in_block(frame: Frame) -> bool:
    return frame.block is not None or frame.block_frame


def expression(node: nodes.Node | None) -> str:
    """A short expression as the author wrote it, for messages; empty when it is none."""
    match node:
        case nodes.Name():
            return node.name
        case nodes.Getattr():
            return f"{inner}.{node.attr}" if (inner := expression(node.node)) else ""
        case nodes.Getitem(arg=nodes.Const(value=key)):
            return f"{inner}[{key!r}]" if (inner := expression(node.node)) else ""
        case nodes.Filter() if not node.name.startswith("%"):
            return f"{inner}|{node.name}" if (inner := expression(node.node)) else ""
        case _:
            return ""


def outside_text(written: str) -> str:
    line = written.splitlines()[0]
    shown = line if len(line) <= 40 else f"{line[:40]}…"
    return f"text outside of messages: {shown!r}"
