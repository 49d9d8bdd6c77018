"""What compiled templates call while they render: finished text, printing, loops, messages and fences.

A template is compiled against one of two sets of these functions. `TEXT` makes strings and is fast. `PIECES` makes
the same strings and remembers of which segments each consists. Everything that one render shares is in a `Render`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import timedelta
from functools import wraps
from types import BuiltinFunctionType, FunctionType, GeneratorType, MethodType
from typing import Any, ClassVar, NamedTuple, Self, SupportsIndex, cast

from jinja2.runtime import BlockReference, LoopContext, Macro, TemplateReference, Undefined
from markupsafe import Markup

from llmfeatures.errors import InvalidValueError, RenderError
from llmfeatures.prompts.escape import escape, has_control_token, without_stray_joiners
from llmfeatures.prompts.limits import check_length, check_parts
from llmfeatures.prompts.segments import (
    CACHE_BREAK,
    SECTION_END,
    Parts,
    Segment,
    cut,
    defused,
    fence,
    without_blank_lines,
)
from llmfeatures.types import text

ROLES = ("system", "developer", "user", "assistant")
MAX_LOOPS = 100_000
MAX_CALLS = 100_000
MAX_OUTPUT = 10_000_000
MAX_SECTIONS = 1_000

_KEEP_LINES = frozenset({"user", "assistant"})
_WIDE = 2**63
_SHORT = 1000  # a piece up to this length is not counted when it is printed, only when it is joined


class Declared(NamedTuple):
    """A section of one render, as its tag says."""

    name: str
    priority: int
    max_tokens: int | None


class Message(NamedTuple):
    """A message of a prompt."""

    role: str
    content: str


class NeedsPieces(Exception):  # noqa: N818
    """A rule depends on who wrote which part of a text: the render starts again with `PIECES`."""


class Render:
    """What one render shares with all templates that take part in it."""

    # on the class until a render changes them: most never do
    role: str | None = None
    conversation: int | None = None
    fences = 0
    plain = 0
    """How many functions are at work to which texts of documents are plain ones: what they make is fenced."""
    loops = MAX_LOOPS
    calls = MAX_CALLS
    printed = 0

    def __init__(self) -> None:
        self.messages: list[tuple[str, str]] = []
        self.sections: list[Declared] = []
        self.modules: dict[str | None, Any] = {}

    @property
    def keep_lines(self) -> bool:
        """Whether a value that is printed now keeps its line breaks."""
        return self.fences > 0 or self.plain > 0 or self.role in _KEEP_LINES


RENDER: ContextVar[Render] = ContextVar("llmfeatures_render")


class Fenced:
    """What is fenced wherever it is printed: a document, its text, and what is made of it (see `fenced`)."""

    __slots__ = ()

    def plain(self) -> str:
        """The text without what fences it."""
        raise NotImplementedError

    def bare(self) -> Text:
        """The finished text, without a fence."""
        raise NotImplementedError

    def printed(self, what: str = "") -> Text:
        """What a template prints for it; ``what`` is the expression that it is from."""
        raise NotImplementedError

    def __html__(self) -> Text:
        return _bare(self)


class FencedHereError(RenderError):
    """Text of a document came where it would be printed without its fence."""


# -- finished text ---------------------------------------------------------------------------------------------------


class Text(Markup):
    """Finished text: nothing escapes it again. Whatever joins it is escaped by our rules, and the result is finished.

    ``parts`` are the segments of it; an operation that does not know them gives a text without, which counts as one
    value.
    """

    __slots__ = ("parts",)
    parts: Parts

    @classmethod
    def of(cls, parts: Parts) -> Self:
        """The text that the segments make together."""
        made = cls("".join([part.text for part in parts]))
        made.parts = parts
        return made

    @classmethod
    def escape(cls, s: Any, /) -> Self:
        """The finished text of any value."""
        return cast("Self", finished(print_value(s)))

    def join(self, iterable: Iterable[Any], /) -> Self:
        """The items, each escaped, with this text between them."""
        return cast("Self", join_text(self, iterable))

    def __add__(self, value: Any, /) -> Self:
        if isinstance(value, str):
            return cast("Self", join_text("", (self, value)))
        return NotImplemented

    def __radd__(self, value: Any, /) -> Self:
        if isinstance(value, str):
            return cast("Self", join_text("", (value, self)))
        return NotImplemented

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> Self:
        """As of str; what comes in is escaped."""
        new = self.escape(new)
        bound(len(self) + (len(new) - len(old)) * str.count(self, old))
        return self.__class__(without_stray_joiners(str.replace(self, old, new, count)))


def _cutting(name: str) -> Callable[..., Any]:
    """A method of str that gives pieces of the text: a joiner at the end of a piece joins nothing, and goes."""
    method = getattr(str, name)

    @wraps(method)
    def cut_text(self: Text, *args: Any, **kwargs: Any) -> Any:
        made = method(self, *args, **kwargs)
        if isinstance(made, str):
            return Text(without_stray_joiners(made))
        return type(made)([Text(without_stray_joiners(one)) for one in made])

    return cut_text


for _name in (
    *("__getitem__", "strip", "lstrip", "rstrip", "removeprefix", "removesuffix"),
    *("split", "rsplit", "splitlines", "partition", "rpartition"),
):
    setattr(Text, _name, _cutting(_name))


def literal(written: str) -> Text:
    """Finished text that the author wrote."""
    return Text.of((Segment("literal", written),))


def finished(value: str) -> Text:
    """The value as `Text`, which its caller knows to be escaped."""
    return value if isinstance(value, Text) else Text(value)


def parts_of(piece: str) -> Parts:
    """The segments of a piece that a template yields; its plain strings are the author's."""
    if type(piece) is str:
        return (Segment("literal", piece),)
    return getattr(piece, "parts", None) or (Segment("value", str(piece)),)


def join_text(separator: str, items: Iterable[Any]) -> Text:
    """The items, each printed, with the separator between them; the segments are kept when some are known."""
    pieces: list[str] = []
    total = 0
    for item in items:
        if separator and pieces:
            pieces.append(separator)
        piece = print_value(item)
        pieces.append(piece if type(piece) is Text else Text(piece))
        total += len(piece) + len(separator)
        if total > MAX_OUTPUT:
            bound(total)
    if any(hasattr(piece, "parts") for piece in pieces):
        return Text.of(tuple([part for piece in pieces for part in parts_of(piece)]))
    return Text("".join(pieces))


def bound(length: int) -> None:
    """Refuse to make a text, or list, of this length."""
    if length > MAX_OUTPUT:
        raise RenderError(f"the output would be longer than {MAX_OUTPUT:_} characters")


# -- printing --------------------------------------------------------------------------------------------------------


def print_value(value: Any, what: str = "") -> str:
    """What a template prints for a value: escaped, unless it is finished. ``what`` is the expression it is from."""
    if type(value) is str:
        # `is_plain`, without a call
        if (
            len(value) <= _SHORT and value.isascii() and value.isprintable()
            and "<" not in value and "[" not in value and "]~" not in value
        ):  # fmt: skip
            return value
    elif type(value) is int and -_WIDE < value < _WIDE:
        return int.__repr__(value)
    if value is None:
        raise RenderError(
            f"{what or 'an expression'} is None, and None is never printed: guard it with "
            f"{{% if {what or 'x'} is not none %}} or give it a text with the filter or_else(...)"
        )
    if isinstance(value, str):
        return _print_text(value, what)
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()  # pyright: ignore[reportPrivateUsage]
    if hasattr(cast("object", type(value)), "__html__"):
        return _print_text(Text(cast("Any", value).__html__()))
    if isinstance(value, (list, tuple, Mapping)):
        check_parts(value, what)
    try:
        return _print_text(text(value), what)
    except InvalidValueError as error:
        for one in cast("list[Any]", value) if isinstance(value, list) else ():
            if isinstance(one, Undefined):
                one._fail_with_undefined_error()  # pyright: ignore[reportPrivateUsage]
        said = _described(value)
        raise RenderError(f"{what or 'an expression'} is {said}" if said else f"{what}: {error}".lstrip(": ")) from None


def print_piece(value: Any, what: str = "") -> Text:
    """`print_value`, with the segments of what is printed."""
    printed = print_value(value, what)
    if type(printed) is Text and hasattr(printed, "parts"):
        if not what:
            return printed
        # what a filter made of a value and its own text
        return Text.of(
            tuple(
                [one._replace(source=what) if one.kind == "value" and not one.source else one for one in printed.parts]
            )
        )
    return Text.of((Segment("value", str(printed), what),))


def _print_text(value: str, what: str = "") -> str:
    if isinstance(value, Fenced):
        value = _bare(value)
    elif not isinstance(value, Markup):
        check_length(len(value), what)
        state = RENDER.get(None)
        value = escape(str(value), keep_lines=state is not None and state.keep_lines)
    count_printed(value)
    return value


def count_printed(value: str) -> None:
    """Count a long text towards what this render may print."""
    if len(value) > _SHORT and (state := RENDER.get(None)) is not None:
        state.printed += len(value)
        bound(state.printed)


def _bare(value: Fenced) -> Text:
    state = RENDER.get(None)
    if state is None or not state.plain:
        raise FencedHereError("the text of a document cannot be printed by this; print it, or give it to a filter")
    return value.bare()


def _described(value: Any) -> str:
    match value:
        case MethodType() | BuiltinFunctionType():
            owner = getattr(value, "__self__", None)
            return f"a method: .{value.__name__} of a {_kind(owner)} is not a value; call it with ()"
        case Macro():
            return f"a macro; call it: {value.name}(...)"
        case FunctionType() | type():
            return f"a function, not a value; call {value.__name__} with ()"
        case GeneratorType():
            return "a series of values; end it with the filter list or join"
        case timedelta():
            return "a difference of two timestamps; print it with the filter duration"
        case _:
            return ""


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else type(value).__name__


# -- loops -----------------------------------------------------------------------------------------------------------


def counted(items: Iterable[Any]) -> Iterator[Any]:
    """The items, each taken from what this render may still loop over."""
    state = RENDER.get()
    for item in items:
        state.loops -= 1
        if state.loops < 0:
            raise RenderError(f"the loops of this prompt run more than {MAX_LOOPS:_} times")
        yield item


class Loop(LoopContext):
    """``loop``; the inner rounds of a recursive one are counted too (the compiler counts the outer)."""

    def __init__(self, iterable: Iterable[Any], undefined: Any, recurse: Any = None, depth0: int = 0) -> None:
        super().__init__(counted(iterable) if depth0 else iterable, undefined, recurse, depth0)


def count_call() -> None:
    """Take a call of a macro, block or partial from what this render may still call: two calls in each make many."""
    state = RENDER.get()
    state.calls -= 1
    if state.calls < 0:
        raise RenderError(f"the macros, blocks and partials of this prompt are called more than {MAX_CALLS:_} times")


class FinishedBlock(BlockReference):
    """A block as a function: what it prints is finished text, and keeps its segments."""

    def __call__(self) -> str:
        return finished(self._context.environment.concat(self._stack[self._depth](self._context)))

    @property
    def super(self) -> BlockReference | Undefined:
        """The block of the parent."""
        return finished_block(super().super)


def finished_block(block: Any) -> Any:
    """The block, when there is one, as a `FinishedBlock`."""
    if type(block) is BlockReference:
        return FinishedBlock(block.name, block._context, block._stack, block._depth)  # pyright: ignore[reportPrivateUsage]
    return block


class CountedBlocks(TemplateReference):
    """``self``, of which each call of a block is counted."""

    def __getitem__(self, name: str) -> BlockReference:
        count_call()
        return finished_block(super().__getitem__(name))


class FinishedMacro(Macro):
    """A macro: what it prints is finished text."""

    def _invoke(self, arguments: list[Any], autoescape: bool) -> str:  # noqa: ARG002
        count_call()
        return finished(self._func(*arguments))


# -- messages, fences, cache breaks ----------------------------------------------------------------------------------


def begin_message(role: str) -> None:
    """Open a message: it sets how values keep their lines."""
    state = RENDER.get()
    if state.role is not None:
        raise RenderError(f"a {role} message inside a {state.role} message: messages do not nest")
    if state.fences:
        raise RenderError(f"a {role} message inside a data block")
    state.role = str(role)


def end_message(content: str, role: str) -> str:  # noqa: ARG001
    """Close the message and collect it; nothing is printed in its place."""
    state = RENDER.get()
    assert state.role is not None
    state.messages.append((state.role, content))
    state.role = None
    return ""


def begin_data(_: None) -> None:
    """Open a fence: inside it values keep their lines."""
    RENDER.get().fences += 1


def end_data(content: Text) -> str:
    """The content in a fence that it cannot forge; inside another fence, just the content."""
    if has_control_token(content):
        raise NeedsPieces
    start, end = without_blank_lines(content)
    inner = content[start:end]
    if not leave_data():
        return inner
    opening, closing = fence(inner)
    return Text(f"{opening}{inner}{closing}")


def end_data_pieces(content: Text) -> Text:
    """`end_data`, with segments."""
    parts = defused(parts_of(content))
    if any(part.kind == "section" for part in parts):
        raise RenderError("a section cannot be inside a data block; put the data block into the section")
    inner = cut(parts, *without_blank_lines("".join([part.text for part in parts])))
    if not leave_data():
        return Text.of(inner)
    opening, closing = fence("".join([part.text for part in inner]))
    return Text.of((Segment("fence", opening), *inner, Segment("fence", closing)))


def begin_section(name: str, priority: int, max_tokens: int | None) -> None:
    """Open a section."""
    sections = RENDER.get().sections
    if len(sections) == MAX_SECTIONS:
        raise RenderError(f"a prompt has at most {MAX_SECTIONS:_} sections; put the loop into one section")
    sections.append(Declared(str(name), priority, max_tokens))


def end_section(content: Text, name: str, priority: int, max_tokens: int | None) -> Text:  # noqa: ARG001
    """The section's text."""
    return content


def end_section_pieces(content: Text, name: str, priority: int, max_tokens: int | None) -> Text:  # noqa: ARG001
    """`end_section`, with segments."""
    parts = parts_of(content)
    if any(part.kind == "section" for part in parts):
        raise RenderError(f"sections do not nest, and another one begins in {str(name)!r}")
    return Text.of((Segment("section", "", str(name)), *parts, SECTION_END))


def leave_data() -> bool:
    """Whether no further data block is around the one that ends."""
    state = RENDER.get()
    state.fences -= 1
    return state.fences == 0


def cache_break(_: str) -> Text:
    """Where a provider's cache may end: no text, but a segment."""
    return Text.of((CACHE_BREAK,))


def conversation(_: str) -> str:
    """Between which messages earlier turns go: no text, but a number of messages before it."""
    state = RENDER.get()
    if state.conversation is not None or state.role is not None:
        raise RenderError("{% conversation %} is one place between the messages, and this is a second, or in a message")
    state.conversation = len(state.messages)
    return ""


# -- the two sets ----------------------------------------------------------------------------------------------------


def concat(pieces: Iterable[str]) -> str:
    """One string of what a template yields."""
    pieces = list(pieces)
    bound(len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces)))
    return "".join(pieces)


def concat_pieces(pieces: Iterable[str]) -> Text:
    """`concat`, with segments."""
    pieces = list(pieces)
    bound(sum(map(len, pieces)))
    return Text.of(tuple([part for piece in pieces for part in parts_of(piece)]))


def join_values(values: Iterable[Any]) -> Text:
    """The operator ``~``."""
    return Text(concat([print_value(value) for value in values]))


def join_value_pieces(values: Iterable[Any]) -> Text:
    """`join_values`, with segments."""
    return concat_pieces([print_piece(value) for value in values])


class TEXT:
    """The names that a compiled template uses, for rendering text."""

    names: ClassVar[dict[str, Callable[..., Any]]] = {
        "LoopContext": Loop,
        "Macro": FinishedMacro,
        "TemplateReference": CountedBlocks,
        "Markup": finished,
        "counted": counted,
        "joined": "".join,
        "literal": literal,
        "markup_join": join_values,
        "print_value": print_value,
        "begin_message": begin_message,
        "end_message": end_message,
        "begin_data": begin_data,
        "end_data": end_data,
        "begin_section": begin_section,
        "end_section": end_section,
        "cache_break": cache_break,
        "conversation": conversation,
    }
    concat = staticmethod(concat)


class PIECES:
    """The names that a compiled template uses, for rendering segments."""

    names: ClassVar[dict[str, Callable[..., Any]]] = TEXT.names | {
        "joined": concat_pieces,
        "markup_join": join_value_pieces,
        "print_value": print_piece,
        "end_data": end_data_pieces,
        "end_section": end_section_pieces,
    }
    concat = staticmethod(concat_pieces)
