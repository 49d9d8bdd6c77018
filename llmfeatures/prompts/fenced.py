"""Texts of documents while a template is rendered: fenced wherever they are printed, whatever was made of them before.

What an operation, a method or a filter makes of such a text is such a text again, with what the author added to it;
``~`` and ``+`` keep the author's text apart. A fence is a pair of marks until its message is whole, since only then all
that is inside of it is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from itertools import islice
from typing import Any, ClassVar, Final, Self, cast

from jinja2.environment import TemplateModule
from jinja2.runtime import Undefined
from markupsafe import Markup

from llmfeatures.errors import RenderError
from llmfeatures.prompts.escape import escape
from llmfeatures.prompts.limits import MAX_VALUE, check_items, check_length
from llmfeatures.prompts.runtime import (
    PIECES,
    RENDER,
    Fenced,
    FencedHereError,
    Text,
    bound,
    count_printed,
    end_section_pieces,
    finished,
    leave_data,
    parts_of,
    print_piece,
    print_value,
)
from llmfeatures.prompts.segments import CLOSE, OPEN, OPEN_DATA, Parts, Segment, cut, without_blank_lines

_NOT_A_FORMAT: Final = "a value is no format: only text that you wrote may stand left of %, or before format"


class DocumentText(Fenced, str):
    """The text of a document, or what was made of one, not escaped yet. It compares and counts as the plain text."""

    __slots__ = ()

    def plain(self) -> str:
        """The same as an ordinary str."""
        return str.__str__(self)

    def bare(self) -> Text:
        """The finished text, without a fence."""
        plain = self.plain()
        check_length(len(plain))
        return Text(escape(plain, keep_lines=True))

    def printed(self, what: str = "") -> FencedText:
        """What a template prints for it; ``what`` is the expression that it is from."""
        check_length(len(self), what)
        text = str.__str__(self.bare())
        count_printed(text)
        return FencedText.around((Segment("value", text, what),))

    def __radd__(self, value: Any, /) -> Any:
        return added(value, self) if isinstance(value, str) else NotImplemented


class FencedText(Fenced, Text):
    """Finished text in which something is fenced: the marks are among its ``parts``, and no part of the str."""

    __slots__ = ()

    @classmethod
    def around(cls, parts: Parts, opening: Segment = OPEN) -> Self:
        """The text of the segments, all of it in one fence."""
        return cls.of((opening, *parts, CLOSE))

    def plain(self) -> Text:
        """The same without marks."""
        return Text(str.__str__(self))

    def bare(self) -> Text:
        """As `plain`."""
        return self.plain()

    def printed(self, what: str = "") -> FencedText:  # noqa: ARG002
        """Itself."""
        return self

    def __radd__(self, value: Any, /) -> Any:
        return added(value, self) if isinstance(value, str) else NotImplemented


def added(left: str, right: str) -> str:
    """The operator ``+``. Finished text stays outside of the other's fence."""
    bound(len(left) + len(right))
    if isinstance(left, Markup) or isinstance(right, Markup):
        return concat_documents([print_document(left), print_document(right)])
    return DocumentText(str.__str__(left) + str.__str__(right))


def _operation(name: str) -> Callable[..., Any]:
    def operate(self: Any, *args: Any, **kwargs: Any) -> Any:
        return apply(getattr(self.plain(), name), args, kwargs)

    operate.__name__ = name
    return operate


def _add(self: Any, value: Any, /) -> Any:
    return added(self, value) if isinstance(value, str) else NotImplemented


def _iterate(self: Any) -> Iterator[Any]:
    return iter([fenced(one) for one in self.plain()])


def _modulo(self: Any, value: Any, /) -> Any:  # noqa: ARG001
    raise RenderError(_NOT_A_FORMAT)


_AS_STR: Final = frozenset(
    {"__class__", "__contains__", "__delattr__", "__dir__", "__doc__", "__eq__", "__ge__", "__getattribute__"}
    | {"__getnewargs__", "__getstate__", "__gt__", "__hash__", "__init__", "__init_subclass__", "__le__", "__len__"}
    | {"__lt__", "__ne__", "__new__", "__reduce__", "__reduce_ex__", "__repr__", "__rmod__", "__setattr__"}
    | {"__sizeof__", "__str__", "__subclasshook__", "encode", "maketrans"}
)
"""Attributes of str that give no part of the text as text."""
for _kind in (DocumentText, FencedText):
    for _name in set(dir(str)) - _AS_STR:
        setattr(_kind, _name, _operation(_name))
    for _name, _function in {"__add__": _add, "__iter__": _iterate, "__mod__": _modulo}.items():
        setattr(_kind, _name, _function)


# -- what is made of them --------------------------------------------------------------------------------------------


def holds(value: Any) -> bool:
    """Whether the value is of a document's text, or has such a part."""
    todo: list[Any] = [value]
    while todo:
        one: Any = todo.pop()
        if isinstance(one, Fenced):
            return True
        if isinstance(one, (list, tuple)):
            todo.extend(cast("list[Any]", one))
        elif isinstance(one, Mapping):
            todo.extend(cast("Mapping[Any, Any]", one).keys())
            todo.extend(cast("Mapping[Any, Any]", one).values())
    return False


def fenced(made: Any) -> Any:
    """What was made of a document's text, with each text in it fenced; numbers and truths stay as they are."""
    if made is None or isinstance(made, (Fenced, bool, int, float, Undefined)):
        return made
    if isinstance(made, Markup):
        parts = tuple([one for one in parts_of(made) if one.kind not in ("open", "close")])
        return FencedText.around(parts)
    if isinstance(made, str):
        return DocumentText(made)
    if isinstance(made, Mapping):
        return {fenced(key): fenced(one) for key, one in cast("Mapping[Any, Any]", made).items()}
    if isinstance(made, tuple):
        return tuple([fenced(one) for one in cast("tuple[Any, ...]", made)])
    if isinstance(made, (list, Iterator)):
        return [fenced(one) for one in cast("list[Any]", made)]
    return made


def apply(function: Callable[..., Any], args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a function makes of texts of documents, fenced. While it runs, they are printed without a fence, and all
    values keep their lines."""
    state = RENDER.get(None)
    given = [plain_text(one) if isinstance(one, str) else one for one in args]
    if state is None:
        return fenced(function(*given, **kwargs))
    state.plain += 1
    try:
        return fenced(function(*given, **kwargs))
    finally:
        state.plain -= 1


def _given(value: Any, *, keep: bool) -> Any:
    """An argument: a series as a list, a document (unless to ``keep``) as its text."""
    if isinstance(value, Iterator):
        value = list(islice(cast("Iterator[Any]", value), MAX_VALUE + 1))
        check_items(len(cast("list[Any]", value)))
    elif isinstance(value, Fenced) and isinstance(value, Mapping) and not keep:
        return cast("Any", value)["text"]
    elif isinstance(value, TemplateModule):
        return print_document(value)
    return cast("Any", value)


def fencing(function: Callable[..., Any], *, start: int = 0, keep: bool = False, sure: bool = False) -> Any:
    """The function, whose result is fenced where an argument (from ``start``) is or holds a document's text; ``sure``:
    always. With ``keep`` a document is given as it is, and not as its text."""

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        args = (*args[:start], *[_given(one, keep=keep) for one in args[start:]])
        kwargs = {name: _given(one, keep=keep) for name, one in kwargs.items()}
        if sure or holds(args[start:]) or holds(kwargs):
            return apply(function, args, kwargs)
        try:
            return function(*args, **kwargs)
        except FencedHereError:  # it came to one through an attribute
            return apply(function, args, kwargs)

    return called


_SELECTING: Final = frozenset(
    {"attr", "batch", "d", "data", "default", "dictsort", "first", "groupby", "items", "last", "list", "map", "max"}
    | {"min", "or_else", "reject", "rejectattr", "reverse", "select", "selectattr", "slice", "sort", "sum", "unique"}
    | {"yesno"}
)
"""Filters that give what they are given, or items of it; every other one makes new text."""
_TAKES_MAPPINGS: Final = frozenset({"json", "tojson", "urlencode"})


def fencing_filters(filters: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """The filters of a prompt with documents."""
    return {
        name: one
        if name in _SELECTING or name.startswith("%")
        else fencing(one, start=1 if hasattr(one, "jinja_pass_arg") else 0, keep=name in _TAKES_MAPPINGS)
        for name, one in filters.items()
    }


_PLACING: Final = frozenset({"center", "format", "join", "ljust", "replace", "rjust"})
"""Methods of text that put an argument into their result."""


def plain_text(text: str) -> str:
    """The text without what fences it."""
    return text.plain() if isinstance(text, Fenced) else text


def fencing_method(text: str, name: str, method: Any) -> Any:
    """A method of a text (of its `plain` form, where it is fenced)."""
    if isinstance(method, Undefined) or not callable(method):
        return method
    if isinstance(text, Fenced):
        if name == "format":
            raise RenderError(_NOT_A_FORMAT)
        return fencing(method, sure=True)
    return fencing(method, keep=name == "format") if name in _PLACING else method


def fencing_binop(operator: str, left: Any, right: Any, compute: Callable[[Any, Any], Any]) -> Any:
    """An operator, where a side is or holds a document's text."""
    if operator == "%" and isinstance(left, str):
        if isinstance(left, Fenced):
            raise RenderError(_NOT_A_FORMAT)
        return fencing(compute, keep=True)(left, right)
    if operator == "+" and isinstance(left, str) and isinstance(right, str):
        return added(left, right)
    return compute(left, right)


# -- printing --------------------------------------------------------------------------------------------------------


def text_of(parts: Parts) -> Text:
    """The finished text of segments."""
    return (FencedText if any(part.kind == "open" for part in parts) else Text).of(parts)


def print_document(value: Any, what: str = "") -> Text:
    """`print_piece`, with texts of documents in fences."""
    if isinstance(value, Fenced):
        return value.printed(what)
    if isinstance(value, TemplateModule):
        return concat_documents(value._body_stream)  # pyright: ignore[reportPrivateUsage]
    if isinstance(value, (list, tuple, Mapping)) and holds(value):
        return apply(print_value, cast("tuple[Any, str]", (value, what)), {})
    return print_piece(value, what)


def concat_documents(pieces: Iterable[str]) -> Text:
    """`runtime.concat_pieces`, with marks."""
    whole: list[str] = [one.printed() if isinstance(one, Fenced) else one for one in pieces]
    bound(sum(map(len, whole)))
    return text_of(tuple([part for piece in whole for part in parts_of(piece)]))


def _join_values(values: Iterable[Any]) -> Text:
    return concat_documents([print_document(value) for value in values])


def _finished(value: Any) -> Text:
    return value.printed() if isinstance(value, Fenced) else finished(value)


def _end_data(content: Text) -> Text:
    parts = parts_of(content)
    if any(part.kind == "section" for part in parts):
        raise RenderError("a section cannot be inside a data block; put the data block into the section")
    leave_data()
    inner = cut(parts, *without_blank_lines("".join([part.text for part in parts])))
    return FencedText.around(inner, OPEN_DATA)


def _end_section(content: Text, name: str, priority: int, max_tokens: int | None) -> Text:
    return text_of(parts_of(end_section_pieces(content, name, priority, max_tokens)))


class DOCUMENTS:
    """The names that the compiled template of a prompt with documents uses."""

    names: ClassVar[dict[str, Callable[..., Any]]] = PIECES.names | {
        "joined": concat_documents,
        "Markup": _finished,
        "markup_join": _join_values,
        "print_value": print_document,
        "end_data": _end_data,
        "end_section": _end_section,
    }
    concat = staticmethod(concat_documents)
