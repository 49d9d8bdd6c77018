"""What the checker knows of a value: the kinds that it may have, what narrows them, and what it was made of.

A value is a union of kinds, at most one of each name. ``any`` swallows all others: nothing is said about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, cast

from llmfeatures.types import DType


class _Nothing:
    """No literal value is known."""

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Final[Any] = _Nothing()
Path = tuple[Any, ...]
Kinds = tuple["Kind", ...]
Facts = Mapping[Path, Kinds]


class Kind(NamedTuple):
    """One kind that a value may have.

    ``words`` are those that an enum still can be, ``vocabulary`` all of it. ``item`` is what a list, series or dict
    holds, ``parts`` the values of a tuple or dict that is written out. ``truth`` is its truth where that is known;
    ``const`` its literal. ``data`` is a macro, a namespace, a module, a method.
    """

    name: str
    words: tuple[str, ...] | None = None
    vocabulary: tuple[str, ...] = ()
    item: Value | None = None
    parts: Any = None
    truth: bool | None = None
    const: Any = NOTHING
    data: Any = None


class Value(NamedTuple):
    """What an expression may give.

    Attributes:
        path: where it is kept, so that a guard on it holds where it is read again.
        text_of: the feature whose free text it may hold, with its line breaks.
        features: those that it was computed from.
        dynamic: it differs from call to call.
        moment: it is `as_of`, or made of it.
        param: it came in as a macro's argument, so that other calls may give other kinds.
        when: what its being true, and its being false, says of other values; None where that cannot be.
        lenient: it may be None where the caller says so, which is not held against a template (a join key).
        computed: features were combined to make it, and that was told already.
        ignored: the finding that tells of a None which ``default`` was to replace.
    """

    kinds: Kinds
    path: Path | None = None
    text_of: str = ""
    features: frozenset[str] = frozenset()
    dynamic: bool = False
    moment: bool = False
    param: bool = False
    when: tuple[Facts | None, Facts | None] | None = None
    lenient: bool = False
    computed: bool = False
    ignored: tuple[Any, ...] | None = None


def _replaced(value: Value, **changed: Any) -> Value:
    parts: list[Any] = [*value]
    for name, part in changed.items():
        parts[_AT[name]] = part
    return tuple.__new__(Value, parts)


_AT: Final = {name: at for at, name in enumerate(Value._fields)}
cast("Any", Value)._replace = _replaced  # in half the time: this runs for every expression


NONE, UNDEFINED, UNSET, ANY_KIND = Kind("none", truth=False), Kind("undefined"), Kind("unset"), Kind("any")
BOOL, INT, FLOAT, STR, DECIMAL = Kind("bool"), Kind("int"), Kind("float"), Kind("str"), Kind("decimal")
TIMESTAMP, DATE, DURATION = Kind("timestamp", truth=True), Kind("date", truth=True), Kind("duration")
ANY: Final = Value((ANY_KIND,))
NUMBERS: Final = frozenset({"int", "float", "bool", "decimal"})
TEXTS: Final = frozenset({"str", "enum"})
PRINTED: Final = NUMBERS | TEXTS | {"timestamp", "date", "list", "tuple", "dict", "json", "any", "document"}
_NO_FEATURES: Final = frozenset[str]()
_HOLDS_TEXT: Final = TEXTS | {"list", "tuple", "dict", "json", "any", "series", "method", "document"}


def of(*kinds: Kind) -> Value:
    """A value of these kinds, about which nothing else is known."""
    return Value(kinds)


def listed(item: Value, truth: bool | None = None) -> Kind:
    """A list of such items."""
    return Kind("list", item=item, truth=truth)


def series(item: Value) -> Kind:
    """What ``map`` and its like give: it can be gone through once."""
    return Kind("series", item=item)


_LITERALS: Final[Mapping[type[object], str]] = {bool: "bool", int: "int", float: "float", str: "str"}


def literal(value: Any) -> Kind:
    """The kind of a literal."""
    name = _LITERALS.get(cast("type[object]", type(value)))
    return NONE if value is None else Kind(name, truth=bool(value), const=value) if name else ANY_KIND


def kind_of(dtype: DType) -> Kind:
    """The kind of a dtype's values, without None."""
    match dtype.kind:
        case "enum":
            return enum(dtype.words)
        case "list":
            assert dtype.item is not None
            return listed(of(kind_of(dtype.item)))
        case "timestamp":
            return TIMESTAMP
        case "date":
            return DATE
        case name:
            return Kind(name)


def enum(words: Iterable[str]) -> Kind:
    """An enum of these words."""
    words = tuple(dict.fromkeys(words))
    return Kind("enum", words=words, vocabulary=words, truth=None if "" in words else True)


# -- unions ----------------------------------------------------------------------------------------------------------


def names(kinds: Iterable[Kind]) -> set[str]:
    """The names of the kinds."""
    return {kind.name for kind in kinds}


def has(value: Value, *wanted: str) -> bool:
    """Whether it may have one of these kinds."""
    for kind in value.kinds:  # noqa: SIM110  # this runs for every expression
        if kind.name in wanted:
            return True
    return False


def is_any(value: Value) -> bool:
    """Whether nothing is known of it."""
    for kind in value.kinds:  # noqa: SIM110
        if kind.name == "any":
            return True
    return False


def without(kinds: Kinds, *dropped: str) -> Kinds:
    """The other kinds."""
    return tuple([kind for kind in kinds if kind.name not in dropped])


def dropped(value: Value, *names: str) -> Value:
    """The value without these kinds; ``any`` when none is left."""
    return with_kinds(value, without(value.kinds, *names) or (ANY_KIND,))


def with_kinds(value: Value, kinds: Kinds) -> Value:
    """The value with other kinds; `_replace`, in less time."""
    return Value(kinds, *value[1:])


def unite(*unions: Kinds) -> Kinds:
    """The kinds of all."""
    first = unions[0]
    for one in unions:
        if one is not first and one != first:
            break
    else:
        return first
    made: dict[str, Kind] = {}
    for kind in [kind for one in unions for kind in one]:
        known = made.get(kind.name)
        made[kind.name] = kind if known is None or known == kind else _both(known, kind)
    return (ANY_KIND,) if "any" in made else tuple(made.values())


def _both(one: Kind, other: Kind) -> Kind:
    data = one.data
    if data is not other.data and data != other.data:
        if one.name != "document" or data is None or other.data is None:
            return ANY_KIND
        data = data.joined_with(other.data)
    words = None
    if one.words is not None and other.words is not None:
        words = tuple(dict.fromkeys((*one.words, *other.words)))
    same = type(one.const) is type(other.const) and one.const == other.const
    item = other.item if one.item is None else one.item if other.item is None else joined(one.item, other.item)
    return Kind(
        one.name,
        words=words,
        vocabulary=tuple(dict.fromkeys((*one.vocabulary, *other.vocabulary))),
        item=item,
        parts=_parts(one.parts, other.parts),
        truth=one.truth if one.truth is other.truth else None,
        const=one.const if same else NOTHING,
        data=data,
    )


def _parts(one: Any, other: Any) -> Any:
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):  # pyright: ignore[reportUnknownArgumentType]
        return tuple([joined(a, b) for a, b in zip(one, other, strict=True)])  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
    return None


def joined(*values: Value) -> Value:
    """What is one of these values, it is not known which."""
    first = values[0]
    for one in values:
        if one is not first:
            break
    else:
        return first
    path = first.path if all(one.path == first.path for one in values) else None
    return derived(unite(*[one.kinds for one in values]), *values)._replace(
        path=path, lenient=any(one.lenient for one in values), computed=any(one.computed for one in values)
    )


def derived(kinds: Kinds, *values: Value) -> Value:
    """A value of these kinds that was made of others."""
    text, features, dynamic, moment, param = "", _NO_FEATURES, False, False, False
    for one in values:  # this runs for every expression
        text = text or one.text_of
        features = features | one.features if features and one.features else features or one.features
        dynamic, moment, param = dynamic or one.dynamic, moment or one.moment, param or one.param
    if text and names(kinds).isdisjoint(_HOLDS_TEXT):
        text = ""
    return Value(kinds, None, text, features, dynamic, moment, param)


def plain(value: Value) -> Value:
    """The value without its literal, for a name that takes several in turn."""
    kinds = tuple([
        kind._replace(const=NOTHING, truth=None) if kind.const is not NOTHING else kind for kind in value.kinds
    ])  # fmt: skip
    return value._replace(kinds=kinds, when=None, path=None)


# -- narrowing -------------------------------------------------------------------------------------------------------


def meet(one: Kinds, other: Kinds) -> Kinds:
    """The kinds that both have."""
    if one is other:
        return one
    found = {kind.name: kind for kind in other}
    if "any" in found:
        return one
    for kind in one:
        if kind.name == "any":
            return other
    made: list[Kind] = []
    for kind in one:
        match = found.get(kind.name)
        if match is None:
            continue
        if match is kind:
            made.append(kind)
            continue
        words = kind.words
        if words is not None and match.words is not None:
            words = tuple([word for word in words if word in match.words])
            if not words:
                continue
        made.append(
            kind._replace(
                words=words,
                truth=kind.truth if match.truth is None else match.truth,
                const=kind.const if match.const is NOTHING else match.const,
            )
        )
    return tuple(made)


_FALSE_VALUE: Final[Mapping[str, Any]] = {"bool": False, "int": 0, "str": ""}


def with_truth(kinds: Kinds, truth: bool) -> Kinds:
    """Those that can be true, or false, and are from now on."""
    made: list[Kind] = []
    for kind in kinds:
        if kind.name in ("any", "json") or kind.truth is truth:
            made.append(kind)
        elif kind.truth is None:
            const = kind.const
            if kind.name == "bool":
                const = truth
            elif not truth and kind.name in _FALSE_VALUE:
                const = _FALSE_VALUE[kind.name]
            words = kind.words and tuple([word for word in kind.words if bool(word) is truth])
            made.append(Kind(kind.name, words, kind.vocabulary, kind.item, kind.parts, truth, const, kind.data))
    return tuple(made)


def filtered(kinds: Kinds, keep: Callable[[Kind], bool]) -> Kinds:
    """Those kinds, and ``any``."""
    return tuple([kind for kind in kinds if kind.name == "any" or keep(kind)])


# -- words -----------------------------------------------------------------------------------------------------------

_CALLED: Final[Mapping[str, str]] = {
    "none": "None",
    "undefined": "undefined",
    "int": "an int",
    "enum": "an enum",
    "any": "anything",
    "tuple": "a tuple",
    "dict": "a dict",
    "json": "a json value",
    "method": "a method",
    "loop": "the loop",
    "function": "a function",
    "entity": "an entity",
    "module": "an imported module",
    "document": "a document",
    "brought": "an entity that a document brings",
}


def called(value: Value | Kinds) -> str:
    """The kinds in words: ``an int``, ``a str or None``."""
    kinds = value.kinds if isinstance(value, Value) else value
    said = [_called(kind) for kind in kinds if kind.name != "unset"]
    return " or ".join(sorted(said, key=lambda one: one == "None")) or "nothing"


def _called(kind: Kind) -> str:
    if kind.name in ("list", "series") and kind.item is not None and not is_any(kind.item):
        inner = " or ".join(sorted(names(kind.item.kinds)))
        return f"a {kind.name} of {inner}"
    return _CALLED.get(kind.name, f"a {kind.name}")
