"""A prompt body, compiled: the functions that render it, with roles out of band."""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import CodeType, TracebackType
from typing import Any, NamedTuple, cast

from jinja2 import (
    BaseLoader,
    Template,
    nodes,
)
from jinja2.nodes import Template as Tree

from llmfeatures.errors import FeatureNotPresentError, LLMFeaturesError, RenderError
from llmfeatures.prompts.codegen import (
    Use,
    expression,
    outside_text,
)
from llmfeatures.prompts.environment import Names, PromptEnvironment, PromptRuntimeContext, template_of
from llmfeatures.prompts.escape import has_control_token
from llmfeatures.prompts.fenced import DOCUMENTS
from llmfeatures.prompts.lexing import PromptParser
from llmfeatures.prompts.runtime import (
    RENDER,
    Declared,
    Message,
    NeedsPieces,
    Render,
    bound,
    parts_of,
)
from llmfeatures.prompts.sections import Section
from llmfeatures.prompts.segments import Parts, Segment, settled, with_fences
from llmfeatures.prompts.spans import SpannedMessage, split
from llmfeatures.tokens import Tokenizer


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
        return template_of(self._environment.for_pieces(), self.body, self.name, self.path)

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
