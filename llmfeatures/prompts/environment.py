"""The Jinja environment of all prompt files: its sandbox, with interpolated text escaped by our rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from jinja2 import (
    BaseLoader,
    FileSystemLoader,
    StrictUndefined,
    Template,
    TemplateSyntaxError,
)
from jinja2.ext import do, loopcontrols
from jinja2.lexer import TokenStream
from jinja2.nodes import EvalContext
from jinja2.nodes import Template as Tree
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing
from markupsafe import Markup

from llmfeatures.errors import PromptError, RenderError, did_you_mean
from llmfeatures.prompts.codegen import (
    Analysis,
    PromptCodeGenerator,
)
from llmfeatures.prompts.fenced import DOCUMENTS, fencing_binop, fencing_filters, fencing_method, plain_text
from llmfeatures.prompts.filters import FILTERS, percent_format
from llmfeatures.prompts.lexing import PromptParser, Stream, tokens
from llmfeatures.prompts.runtime import (
    PIECES,
    RENDER,
    TEXT,
    Fenced,
    Text,
    count_call,
    finished_block,
    parts_of,
)
from llmfeatures.prompts.sandbox import OPERATORS, ValueFormatter, allowed_attributes, bounded_method, check_operands
from llmfeatures.prompts.tags import TAGS, Pos, PromptTags
from llmfeatures.tokens import Tokenizer


class PromptRuntimeContext(Context):
    """Jinja's context, made cheaply: nothing can change its evaluation context, so all share one."""

    def __init__(
        self,
        environment: PromptEnvironment,
        parent: dict[str, Any],
        name: str | None,
        blocks: dict[str, Any],
        globals: Mapping[str, Any] | None = None,  # noqa: A002, ARG002
    ) -> None:
        self.parent = parent
        self.vars = {}
        self.environment = environment
        self.eval_ctx = environment.eval_context
        self.exported_vars = set()
        self.name = name
        self.globals_keys = set()
        self.blocks = {key: [block] for key, block in blocks.items()} if blocks else {}

    def super(self, name: str, current: Callable[[Context], Iterator[str]]) -> Any:
        """The block of the parent."""
        return finished_block(super().super(name, current))


class Names(dict[str, Any]):
    """As much of Jinja's context as a body needs that only looks up names."""

    __slots__ = ()

    def __missing__(self, name: str) -> Any:
        return missing

    resolve_or_missing: Callable[[str], Any] = cast("Any", dict).__getitem__


class PromptTemplate(Template):
    """A template whose modules live as long as one render: no state of one reaches the next."""

    def _get_default_module(self, ctx: Context | None = None) -> Any:  # noqa: ARG002
        modules = RENDER.get().modules
        if self.name not in modules:
            modules[self.name] = self.make_module()
        return modules[self.name]


class PromptEnvironment(ImmutableSandboxedEnvironment):
    """The environment of all prompt files; an author cannot change it."""

    code_generator_class = PromptCodeGenerator
    context_class = PromptRuntimeContext
    template_class = PromptTemplate
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    runtime: type[TEXT | PIECES | DOCUMENTS] = TEXT
    concat = staticmethod(TEXT.concat)

    def __init__(self, loader: BaseLoader) -> None:
        super().__init__(
            loader=loader,
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=False,
            optimized=False,
            extensions=[do, loopcontrols, PromptTags],
        )
        del self.globals["lipsum"]
        self.filters = dict(FILTERS)
        self.filters |= _tag_filters(TEXT.names)
        self.eval_context = EvalContext(self)
        self.analyses: dict[str, Analysis] = {}
        self.line_offsets: dict[str, int] = {}
        self.tokenizer: Tokenizer | None = None  # of the prompt's budget

    def with_loader(self, loader: BaseLoader) -> PromptEnvironment:
        """This environment for the templates of one prompt, which are compiled once."""
        made = cast("PromptEnvironment", self.overlay(loader=loader))
        made.eval_context = EvalContext(made)
        made.analyses, made.line_offsets = {}, {}
        return made

    def for_pieces(self) -> PromptEnvironment:
        """The same environment with code that remembers segments."""
        made = self.with_loader(cast("BaseLoader", self.loader))
        made.line_offsets = self.line_offsets
        made._use(PIECES)
        return made

    def use_documents(self) -> None:
        """Compile templates whose texts of documents are fenced, whatever is done to them."""
        self.filters = fencing_filters(self.filters)
        self._use(DOCUMENTS)

    def _use(self, runtime: type[TEXT | PIECES | DOCUMENTS]) -> None:
        self.runtime, self.concat = runtime, runtime.concat
        self.filters = self.filters | _tag_filters(runtime.names)

    # positions

    def _parse(self, source: str, name: str | None, filename: str | None) -> Tree:
        return PromptParser(self, source, name, filename).parse()

    def _tokenize(
        self, source: str, name: str | None, filename: str | None = None, state: str | None = None
    ) -> TokenStream:
        source = self.preprocess(source, name, filename).replace("\r\n", "\n").replace("\r", "\n")
        known = tokens(source, self.line_offsets.get(name or "", 0)) if state is None else None
        if known is None:
            found = self._positioned(source, name, filename, state)
            stream = TokenStream(self.lexer.wrap(found, name, filename), name, filename)
        else:
            stream = Stream(known, name, filename)
        for extension in self.iter_extensions():
            filtered = extension.filter_stream(stream)
            stream = filtered if isinstance(filtered, TokenStream) else TokenStream(filtered, name, filename)
        return stream

    def _positioned(
        self, source: str, name: str | None, filename: str | None, state: str | None
    ) -> Iterator[tuple[int, str, str]]:
        """The lexer's tokens, each with the line in the file, header included, and its column."""
        offset = self.line_offsets.get(name or "", 0)
        at = before = 0
        start = -1
        try:
            for line, kind, value in self.lexer.tokeniter(source, name, filename, state):
                found = source.find(value, at) if value else at
                found = at if found < 0 else found
                newline = source.rfind("\n", before, found)
                if newline >= 0:
                    start = newline
                before, at = found, found + len(value)
                if kind == "whitespace":  # the parser never sees it
                    continue
                position = Pos(line + offset)
                position.col = found - start
                yield position, kind, value
        except TemplateSyntaxError as error:
            error.lineno += offset
            raise

    # attributes, calls and operators

    def getattr(self, obj: Any, attribute: str) -> Any:
        """``obj.name``: of a mapping its item and never a method; of a value what its type allows."""
        if type(obj) is dict or isinstance(obj, Mapping):
            return self._item(cast("Mapping[str, Any]", obj), attribute, written=True)
        allowed = allowed_attributes(obj)
        if allowed is None:
            return super().getattr(obj, attribute)
        if isinstance(obj, str) and self.runtime is DOCUMENTS:
            return fencing_method(obj, attribute, self._of_text(plain_text(obj), attribute, allowed))
        if isinstance(obj, str):
            return self._of_text(obj, attribute, allowed)
        if attribute in allowed:
            return getattr(obj, attribute)
        return self._no_attribute(obj, attribute, allowed)

    def _of_text(self, obj: str, attribute: str, allowed: Iterable[str]) -> Any:
        if attribute == "format":
            return self._format_of(obj)
        if (method := bounded_method(obj, attribute)) is not None:
            return method
        return getattr(obj, attribute) if attribute in allowed else self._no_attribute(obj, attribute, allowed)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """``obj[key]``: an item, else for a text key what ``obj.key`` gives."""
        if type(obj) is dict or isinstance(obj, Mapping):
            return self._item(cast("Mapping[Any, Any]", obj), argument)
        if allowed_attributes(obj) is None:
            return super().getitem(obj, argument)
        try:
            return obj[argument]
        except (TypeError, LookupError):
            if isinstance(argument, Markup) and not isinstance(argument, Fenced):
                return self.getattr(obj, argument)
            kind = "text" if isinstance(obj, str) else type(obj).__name__
            return self.undefined(f"a {kind} has no such item", obj=obj, name="an item")

    def _item(self, obj: Mapping[Any, Any], key: Any, *, written: bool = False) -> Any:
        try:
            return obj[key]
        except (LookupError, TypeError):
            hint = "; to loop over the items use the filter items" if key == "items" else ""
            # a key that the author did not write is a value, and is not shown
            shown = written or (isinstance(key, Markup) and not isinstance(key, Fenced))
            said = f"item {str(key)!r}" if shown else "such item"
            return self.undefined(f"there is no {said}{hint}", obj=obj, name="an item")

    def _no_attribute(self, obj: Any, name: str, allowed: Iterable[str]) -> Any:
        kind = "text" if isinstance(obj, str) else type(obj).__name__
        return self.undefined(f"a {kind} has no .{name} in a prompt{did_you_mean(name, allowed)}", obj=obj, name=name)

    def _format_of(self, written: str) -> Callable[..., str]:
        if not isinstance(written, Markup):
            raise RenderError("a value is no format: only text that you wrote may stand before .format")
        return lambda *args, **kwargs: Text(
            ValueFormatter(self, escape=Text.escape).vformat(str(written), args, kwargs)
        )

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ARG002
        """The operators that can make much out of little."""
        if self.runtime is DOCUMENTS:
            return fencing_binop(operator, left, right, partial(self._computed, operator))
        return self._computed(operator, left, right)

    def _computed(self, operator: str, left: Any, right: Any) -> Any:
        if operator == "%":
            return percent_format(left, right) if isinstance(left, str) else left % right
        check_operands(operator, left, right)
        return OPERATORS[operator](left, right)

    def get_template(self, name: Any, parent: str | None = None, globals: Any = None) -> Template:  # noqa: A002
        """A partial; while a prompt is rendered, each use of one is counted."""
        if RENDER.get(None) is not None:
            count_call()
        return super().get_template(name, parent, globals)

    def call_filter(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A filter by a name that the template computes; never one of the tags'."""
        if isinstance(name, Fenced):
            raise RenderError("the text of a document names no filter")
        if name in TAGS or name not in self.filters:
            raise RenderError(_unknown("filter", name))
        return super().call_filter(name, *args, **kwargs)

    def call_test(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A test by a name that the template computes."""
        if isinstance(name, Fenced):
            raise RenderError("the text of a document names no test")
        if name not in self.tests:
            raise RenderError(_unknown("test", name))
        return super().call_test(name, *args, **kwargs)


def _unknown(kind: str, name: Any) -> str:
    """That there is no filter, or test, of a name that was computed; it is shown when the author wrote it."""
    written = isinstance(name, Text) and all(part.kind == "literal" for part in parts_of(name))
    return f"unknown {kind} {str(name)!r}" if written else f"unknown {kind}: an expression gives its name here"


def _tag_filters(names: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    return {tag: names[tag[1:]] for tag in TAGS}


def make_environment(prompts_folder: Path) -> PromptEnvironment:
    """The environment for the prompts in a folder, whose partials are in its ``_shared/``."""
    return PromptEnvironment(FileSystemLoader(prompts_folder, encoding="utf-8-sig"))


def template_of(environment: PromptEnvironment, body: str, name: str, path: str) -> Template:
    try:
        code = environment.compile(body, name, path)
    except SyntaxError as error:  # what Jinja lets through and Python does not
        raise PromptError(f"the template cannot be compiled: {error.msg}", path=path) from None
    return environment.template_class.from_code(environment, code, environment.make_globals(None))
