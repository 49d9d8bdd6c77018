"""Prompt bodies compiled with Jinja: its sandbox, with interpolated text escaped by our rules and roles out of band.

`compile_prompt` gives a `Compiled`: which names the body reads from the context, and the functions that render it.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any, NamedTuple, cast

from jinja2 import (
    BaseLoader,
    FileSystemLoader,
    StrictUndefined,
    Template,
    TemplateNotFound,
    TemplateSyntaxError,
    nodes,
)
from jinja2.ext import do, loopcontrols
from jinja2.lexer import TokenStream
from jinja2.nodes import EvalContext
from jinja2.nodes import Template as Tree
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing
from markupsafe import Markup

from llmfeatures.errors import FeatureNotPresentError, LLMFeaturesError, PromptError, RenderError, did_you_mean
from llmfeatures.prompts.codegen import (
    PARTIALS,
    Analysis,
    PromptCodeGenerator,
    Reference,
    Use,
    expression,
    outside_text,
)
from llmfeatures.prompts.escape import has_control_token
from llmfeatures.prompts.fenced import DOCUMENTS, fencing_binop, fencing_filters, fencing_method, plain_text
from llmfeatures.prompts.filters import FILTERS, percent_format
from llmfeatures.prompts.lexing import PromptParser, Stream, tokens
from llmfeatures.prompts.runtime import (
    PIECES,
    RENDER,
    TEXT,
    Declared,
    Fenced,
    Message,
    NeedsPieces,
    Render,
    Text,
    bound,
    count_call,
    finished_block,
    parts_of,
)
from llmfeatures.prompts.sandbox import OPERATORS, ValueFormatter, allowed_attributes, bounded_method, check_operands
from llmfeatures.prompts.sections import Section, misplaced
from llmfeatures.prompts.segments import Parts, Segment, settled, with_fences
from llmfeatures.prompts.spans import SpannedMessage, split
from llmfeatures.prompts.tags import TAGS, Pos, PromptTags, column, syntax_problem
from llmfeatures.tokens import Tokenizer

__all__ = ["Compiled", "Message", "Names", "PromptEnvironment", "Segment", "compile_prompt", "make_environment"]


# -- the environment -------------------------------------------------------------------------------------------------


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


# -- compiled prompts ------------------------------------------------------------------------------------------------


class _Frozen(BaseLoader):
    """The partials of one prompt, each read once, so that what was compiled and hashed is what renders."""

    def __init__(self, base: BaseLoader) -> None:
        self.base = base
        self.sources: dict[str, tuple[str, str | None]] = {}

    def get_source(self, environment: Any, template: str) -> tuple[str, str | None, None]:
        if template not in self.sources:
            if not template.startswith(f"{PARTIALS}/"):
                raise TemplateNotFound(template)
            try:
                source, path, _ = self.base.get_source(environment, template)
            except UnicodeDecodeError:
                raise PromptError("a partial is UTF-8 text; save it as UTF-8", path=template) from None
            self.sources[template] = (source, path)
        return *self.sources[template], None

    def partials(self) -> list[str]:
        """The names of the partials that there are."""
        try:
            return [name for name in self.base.list_templates() if name.startswith(f"{PARTIALS}/")]
        except TypeError:
            return []


@dataclass(frozen=True, eq=False, kw_only=True)
class Compiled:
    """One prompt body, compiled.

    ``names`` are what it, with its partials, reads from the context; ``attributes`` the constant attributes that it
    reads from each (None among them when it uses the name in any other way); ``positions`` the first use of each
    ``name`` and ``name.attribute`` as (file, line, column). ``sources`` are the texts of the partials by name.
    """

    names: frozenset[str]
    attributes: Mapping[str, tuple[str | None, ...]]
    positions: Mapping[str, tuple[str, int, int | None]]
    uses_messages: bool
    sources: Mapping[str, str]
    sections: tuple[tuple[str, Section], ...]
    """The section tags, each with its file; partials included."""
    breaks: int
    """How many cache breaks there are."""
    has_conversation: bool
    """Whether ``{% conversation %}`` says where earlier turns go."""
    name: str
    path: str
    body: str = field(repr=False)
    _environment: PromptEnvironment = field(repr=False)
    _template: Template = field(repr=False)
    _globals: Mapping[str, Any] = field(repr=False)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """That of the prompt's budget."""
        return self._environment.tokenizer

    def parsed(self, source: str) -> Tree:
        """The tree of the body, or of one of the ``sources``."""
        return PromptParser(self._environment, source, None, None).parse()

    def render(self, values: Mapping[str, Any]) -> tuple[Message, ...]:
        """The messages for these values: features, inputs, ``as_of``, entities as plain dicts.

        Raises:
            RenderError: the prompt cannot be rendered with these values.
        """
        return self.placed(values)[0]

    def placed(self, values: Mapping[str, Any]) -> tuple[tuple[Message, ...], int | None]:
        """`render`, and before how many of the messages ``{% conversation %}`` stands; None without one.

        Raises:
            RenderError: the prompt cannot be rendered with these values.
        """
        if self._has_documents:
            return self._from_segments(values)
        if self._plain_root is not None:
            return self._of_one_message(self._plain_root, values), None
        try:
            state = self._run(self._template, values)
        except NeedsPieces:
            return self._from_segments(values)
        made: list[Message] = []
        for role, content in state.messages:
            if has_control_token(content):
                return self._from_segments(values)
            made.append(_message((role, str(content).strip())))
        return tuple(made), state.conversation

    def segments(self, values: Mapping[str, Any]) -> tuple[tuple[str, tuple[Segment, ...]], ...]:
        """Each message as its role and its segments; their joined text is what `render` gives.

        Raises:
            RenderError: the prompt cannot be rendered with these values.
        """
        return settled_messages(self.pieces(values).messages)

    def pieces(self, values: Mapping[str, Any]) -> Pieces:
        """The prompt as segments, before white space is stripped and tokens of several values are defused.

        Raises:
            RenderError: the prompt cannot be rendered with these values.
        """
        state = self._run(self._template if self._has_documents else self._pieces, values)
        messages = [(role, parts_of(content)) for role, content in state.messages]
        if self._has_documents:
            messages = [(role, with_fences(parts)) for role, parts in messages]
        return Pieces(messages, state.sections, state.conversation)

    @property
    def _has_documents(self) -> bool:
        return self._environment.runtime is DOCUMENTS

    def _of_one_message(self, root: Callable[[Names], Iterator[str]], values: Mapping[str, Any]) -> tuple[Message, ...]:
        try:
            content = "".join(root(values if type(values) is Names else Names(values)))
            bound(len(content))
        except NeedsPieces:
            return self._from_segments(values)[0]
        except Exception as error:
            raise _translated(error, self.path) from error
        # most prompts are ASCII without an opener: `has_control_token`, without a call
        opener = "<" in content or "[" in content or "]~" in content or not content.isascii()
        if opener and has_control_token(content):
            return self._from_segments(values)[0]
        return (_message(("system", content.strip())),)

    def _from_segments(self, values: Mapping[str, Any]) -> tuple[tuple[Message, ...], int | None]:
        made = self.pieces(values)
        return joined(settled_messages(made.messages)), made.conversation

    @cached_property
    def spans(self) -> tuple[SpannedMessage, ...] | None:
        """The messages cut into parts that can be rendered apart; None where that cannot be done."""
        if self._has_documents:
            return None
        own = self._environment.with_loader(cast("BaseLoader", self._environment.loader))

        def compiled(stretch: Tree) -> tuple[Any, list[Use]]:
            stretch.set_environment(own)
            code = own.compile(stretch, self.name, self.path)
            template = own.template_class.from_code(own, code, own.make_globals(None))

            def root(values: Mapping[str, Any]) -> str:
                context = PromptRuntimeContext(own, {**self._globals, **values}, template.name, template.blocks)
                return str(own.concat(template.root_render_func(context)))

            uses = [use for use in own.analyses[self.name].uses if use.name not in self._globals]
            return root, uses

        return split(own.parse(self.body, self.name, self.path), compiled, uses_messages=self.uses_messages)

    @cached_property
    def _reads_names_only(self) -> bool:
        """Whether the compiled body uses its context once, to look up names of values; most bodies do."""
        code = self._template.root_render_func.__code__
        loads = sum(one.argval == "context" for one in dis.get_instructions(code))
        return loads == 1 and "context" not in code.co_cellvars and not self._template.blocks and not self._globals

    @cached_property
    def _plain_root(self) -> Callable[[Names], Iterator[str]] | None:
        """The function of a body that only prints and compares names: no part of its render needs a `Render`."""
        root: Any = self._template.root_render_func
        code = root.__code__
        plain = self._reads_names_only and not self.uses_messages and _PLAIN_NAMES.issuperset(code.co_names)
        return root if plain and not any(isinstance(one, CodeType) for one in code.co_consts) else None

    @cached_property
    def _pieces(self) -> Template:
        return _template(self._environment.for_pieces(), self.body, self.name, self.path)

    def _run(self, template: Template, values: Mapping[str, Any]) -> Render:
        """What a render made: its messages, sections, and the place of the conversation."""
        environment = template.environment
        state = Render()
        token = RENDER.set(state)
        try:
            if self._reads_names_only:
                context: Any = values if type(values) is Names else Names(values)
            else:
                context = PromptRuntimeContext(
                    cast("PromptEnvironment", environment), {**self._globals, **values}, template.name, template.blocks
                )
            outside = environment.concat(template.root_render_func(context))
        except NeedsPieces:
            raise
        except FeatureNotPresentError as error:  # of an entity that a document brings
            error.args = (f"{_place(error.__traceback__) or self.path}: {error}",)
            raise
        except Exception as error:
            raise _translated(error, self.path) from error
        finally:
            RENDER.reset(token)
        if not self.uses_messages:
            state.messages = [("system", outside)]
        elif outside.strip():
            raise RenderError(self._outside(values))
        return state

    def _outside(self, values: Mapping[str, Any]) -> str:
        """Where text outside of messages comes from. What a value made is not shown, only the expression."""
        template = self._template if self._has_documents else self._pieces
        environment = cast("PromptEnvironment", template.environment)
        token = RENDER.set(Render())
        try:
            pieces: Any = template.root_render_func(
                PromptRuntimeContext(environment, {**self._globals, **values}, template.name, template.blocks)
            )
            for piece in pieces:
                part = next((one for one in parts_of(piece) if one.text.strip()), None)
                if part is not None:
                    line = template.get_corresponding_lineno(pieces.gi_frame.f_lineno)
                    return self._outside_of(part, line)
        finally:
            RENDER.reset(token)
        return f"{self.path}: text outside of messages"

    def _outside_of(self, part: Segment, line: int) -> str:
        tree = self._environment.parse(self.body, self.name, self.path)
        places = [
            child.lineno
            for output in tree.find_all(nodes.Output)
            if output.lineno >= line
            for child in output.nodes
            if part.source and expression(child) == part.source
        ]
        where = f"{self.path}:{int(min(places, default=line))}"
        if part.kind == "literal":
            return f"{where}: {outside_text(part.text.strip())}"
        return f"{where}: text outside of messages, from {part.source or 'an expression'}; move it into a message"


class Pieces(NamedTuple):
    """A render as segments: each message as its role and segments; the sections in their order, whose beginnings and
    ends are among the segments; and before how many of the messages ``{% conversation %}`` stands."""

    messages: list[tuple[str, Parts]]
    sections: list[Declared]
    conversation: int | None


def settled_messages(messages: Iterable[tuple[str, Parts]]) -> tuple[tuple[str, Parts], ...]:
    """The messages of `Compiled.pieces` as they are in the prompt, when no section is left out."""
    return tuple([(role, settled(parts)) for role, parts in messages])


def joined(messages: Iterable[tuple[str, Parts]]) -> tuple[Message, ...]:
    """The messages of segments."""
    return tuple([Message(role, "".join([part.text for part in parts])) for role, parts in messages])


_PLAIN_NAMES = frozenset({"Undefined", "concat", "joined", "print_value", "resolve_or_missing", "undefined"})
_message: Callable[[tuple[str, str]], Message] = partial(tuple.__new__, Message)


def make_environment(prompts_folder: Path) -> PromptEnvironment:
    """The environment for the prompts in a folder, whose partials are in its ``_shared/``."""
    return PromptEnvironment(FileSystemLoader(prompts_folder, encoding="utf-8-sig"))


def compile_prompt(
    env: PromptEnvironment,
    body: str,
    *,
    name: str,
    path: str,
    line_offset: int,
    tokenizer: Tokenizer | None = None,
    documents: bool = False,
) -> Compiled:
    """Compile the body of a prompt file with all partials it uses; ``line_offset`` is the number of lines before it.
    ``tokenizer`` is that of its budget. ``documents``: whether it is given some, as `template_document` makes them.

    Raises:
        PromptError: the body, or a partial, cannot be right; with file, line and column.
    """
    loader = _Frozen(cast("BaseLoader", env.loader))
    own = env.with_loader(loader)
    own.line_offsets[name] = line_offset
    own.tokenizer = tokenizer
    if documents:
        own.use_documents()
    try:
        template = _template(own, body, name, path)
        _load_partials(own, loader, name)
    except TemplateSyntaxError as error:
        raise PromptError(
            syntax_problem(error),
            path=error.filename or path,
            line=int(error.lineno),
            column=column(error.lineno),
        ) from None
    except RecursionError:
        raise PromptError("the template nests too deeply", path=path) from None
    _check_layout(own, name)
    uses = _Uses(own, name).collect()
    attributes: dict[str, dict[str | None, None]] = {}
    positions: dict[str, tuple[str, int, int | None]] = {}
    for file, use in uses:
        attributes.setdefault(use.name, {})[use.attribute] = None
        keys = (use.name,) if use.attribute is None else (use.name, f"{use.name}.{use.attribute}")
        for key in keys:
            positions.setdefault(key, (file, int(use.line), column(use.line)))
    names = frozenset(attributes) - own.globals.keys()
    return Compiled(
        names=names,
        attributes={key: tuple(read) for key, read in attributes.items() if key in names},
        positions={key: where for key, where in positions.items() if key.split(".", 1)[0] in names},
        uses_messages=any(analysis.uses_messages for analysis in own.analyses.values()),
        sources={key: source for key, (source, _) in sorted(loader.sources.items())},
        sections=tuple((one.path, section) for one in own.analyses.values() for section in one.layout.sections),
        breaks=sum(len(one.layout.breaks) for one in own.analyses.values()),
        has_conversation=any(one.layout.conversations for one in own.analyses.values()),
        name=name,
        path=path,
        body=body,
        _environment=own,
        _template=template,
        _globals=dict(own.globals)
        if loader.sources
        else {key: own.globals[key] for key in own.globals.keys() & attributes.keys()},
    )


def _template(environment: PromptEnvironment, body: str, name: str, path: str) -> Template:
    try:
        code = environment.compile(body, name, path)
    except SyntaxError as error:  # what Jinja lets through and Python does not
        raise PromptError(f"the template cannot be compiled: {error.msg}", path=path) from None
    return environment.template_class.from_code(environment, code, environment.make_globals(None))


def _load_partials(environment: PromptEnvironment, loader: _Frozen, name: str) -> None:
    """Compile each partial that the template uses, directly or through others."""
    todo, seen = [name], {name}
    while todo:
        analysis = environment.analyses[todo.pop()]
        for reference in analysis.references:
            if reference.name in seen:
                continue
            seen.add(reference.name)
            try:
                environment.get_template(reference.name)
            except TemplateNotFound:
                if reference.optional:
                    continue
                known = loader.partials()
                raise PromptError(
                    f"there is no partial {reference.name!r}{did_you_mean(reference.name, known)}",
                    path=analysis.path, line=int(reference.line), column=column(reference.line),
                ) from None  # fmt: skip
            todo.append(reference.name)


def _check_layout(environment: PromptEnvironment, name: str) -> None:
    for wrong in misplaced({key: one.layout for key, one in environment.analyses.items()}, name):
        raise PromptError(
            wrong.message,
            path=environment.analyses[wrong.template].path,
            line=int(wrong.line),
            column=column(wrong.line),
        )


class _Uses:
    """The readings from the context of a template with its partials, in order of files and lines."""

    def __init__(self, environment: PromptEnvironment, name: str) -> None:
        self.analyses, self.name, self.globals = environment.analyses, name, environment.globals

    def collect(self) -> list[tuple[str, Use]]:
        """Each use, with its file."""
        return self._of(self.name, frozenset(), ())

    def _of(self, name: str, provided: frozenset[str], path: tuple[str, ...]) -> list[tuple[str, Use]]:
        if name in path or name not in self.analyses:
            return []
        chain = self._chain(name)
        assigned = frozenset[str]().union(*[self.analyses[one].assigned for one in chain])
        found: list[tuple[str, Use]] = []
        for one in chain:
            analysis = self.analyses[one]
            known = provided if one == name else provided | self.analyses[name].assigned
            uses = sorted(analysis.uses, key=lambda use: (int(use.line), column(use.line) or 0))
            found += [
                (analysis.path, use)
                for use in uses
                if use.name not in known and not (use.in_block and use.name in assigned)
            ]
            for reference in analysis.references:
                if reference.kind != "extends":
                    found += self._referred(analysis, reference, known, (*path, name))
        return found

    def _chain(self, name: str) -> list[str]:
        """The template and what it extends, up to the last."""
        chain = [name]
        while parent := next((one.name for one in self.analyses[chain[-1]].references if one.kind == "extends"), None):
            if parent in chain or parent not in self.analyses:
                break
            chain.append(parent)
        return chain

    def _referred(
        self, analysis: Analysis, reference: Reference, provided: frozenset[str], path: tuple[str, ...]
    ) -> list[tuple[str, Use]]:
        if reference.sees_context:
            return self._of(reference.name, provided | reference.provided, path)
        blind = [use for _, use in self._of(reference.name, frozenset(), path) if use.name not in self.globals]
        if blind:
            raise PromptError(
                f"{reference.name} reads {blind[0].name!r}, which it cannot see: write 'with context' after the "
                f"{reference.kind}, or pass it to the macro as an argument",
                path=analysis.path, line=int(reference.line), column=column(reference.line),
            )  # fmt: skip
        return []


# -- errors ----------------------------------------------------------------------------------------------------------


def _translated(error: Exception, path: str) -> RenderError:
    """Any error of a render as ours, with the place in the template where it is known."""
    where = _place(error.__traceback__) or path
    if isinstance(error, RecursionError):
        said = "the template calls itself too deeply"
    elif isinstance(error, TypeError) and "NoneType" in str(error):
        said = f"{error}: a value is None; guard it with {{% if x is not none %}} or give it a default"
    elif isinstance(error, LLMFeaturesError) or type(error).__module__.startswith("jinja2"):
        said = str(error)
    else:
        said = f"a {type(error).__name__} in an expression; what it says may hold a value, and is not shown"
    return RenderError(f"{where}: {said}")


def _place(traceback: TracebackType | None) -> str:
    place = ""
    while traceback is not None:
        template = traceback.tb_frame.f_globals.get("__jinja_template__")
        if isinstance(template, Template):
            place = f"{template.filename}:{template.get_corresponding_lineno(traceback.tb_lineno)}"
        traceback = traceback.tb_next
    return place
