"""The YAML of a header, with the place of each key and value, and a word about what YAML makes of unquoted text.

PyYAML reads YAML 1.1, in which ``no`` is a truth value, ``12:30`` a number and ``1e3`` text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, cast

import yaml

from llmfeatures.errors import PromptError

Keys = tuple[str, ...]
_MOST_NODES: Final = 20_000
_FAST: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FIRST_LINE: Final = 2  # the header's first line in its file; PyYAML counts from 0


class Place(NamedTuple):
    """From one place of a file to another, lines and columns from 1, the end excluded."""

    line: int
    column: int
    end_line: int
    end_column: int


_START: Final = Place(_FIRST_LINE, 1, _FIRST_LINE, 2)


class HeaderError(PromptError):
    """A header that cannot be right, with the end of the place."""

    def __init__(self, message: str, *, path: str, place: Place | None) -> None:
        self.end_line, self.end_column = (None, None) if place is None else (place.end_line, place.end_column)
        line, column = (None, None) if place is None else (place.line, place.column)
        super().__init__(message, path=path, line=line, column=column)


@dataclass(slots=True)
class Loaded:
    """A header's data, and by keys the places of keys and of values, and how YAML read plain words."""

    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    keys: dict[Keys, Place] = field(default_factory=dict[Keys, Place])
    values: dict[Keys, Place] = field(default_factory=dict[Keys, Place])
    readings: dict[Keys, str] = field(default_factory=dict[Keys, str])


def load(written: str, *, path: str, choices: tuple[str, ...]) -> Loaded:
    """The data of a header's text. ``choices`` are the keys that there are.

    Raises:
        HeaderError: it is no YAML, no mapping, or has what a header may not have.
    """
    try:
        node, construct = _composed(written)
        if node is None:
            return Loaded()
        loaded = Loaded()
        _Walk(loaded, path, written.split("\n")).walk(node, ())
        data = construct(node)
    except yaml.MarkedYAMLError as error:
        raise HeaderError(
            f"the header is no YAML: {error.problem}{_advice(error, written)}", path=path, place=_at(error.problem_mark)
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise HeaderError(f"the header is no YAML: {error}", path=path, place=_START) from None
    except RecursionError:
        raise HeaderError("the header nests too deeply, or in a circle", path=path, place=_START) from None
    if not isinstance(data, dict):
        raise HeaderError("a header has keys: " + ", ".join(choices), path=path, place=_START)
    loaded.data = cast("dict[str, Any]", data)
    return loaded


def _composed(written: str) -> tuple[yaml.Node | None, Callable[[yaml.Node], Any]]:
    """The node of YAML text, and what makes data of it.

    libyaml, where PyYAML has it, is ten times as fast; PyYAML's own parser says what is wrong.
    """
    for kind in (_FAST, yaml.SafeLoader):
        loader: Any = kind(written)
        try:
            return loader.get_single_node(), loader.construct_document
        except yaml.YAMLError:
            if kind is yaml.SafeLoader:
                raise
    raise AssertionError


def _at(mark: Any) -> Place | None:
    if mark is None:
        return None
    line, column = mark.line + _FIRST_LINE, mark.column + 1
    return Place(line, column, line, column + 1)


# -- what went wrong -------------------------------------------------------------------------------------------------

_BRACKETED = re.compile(r"(?<![\"'\w])((?:list|enum)\[[^\]]*\]|decimal\(\d+,\s*\d+\))(?![\"'])")
_TEMPLATE = re.compile(r"(?<![\"'\w])(\{\{.*?\}\})")


def _advice(error: yaml.MarkedYAMLError, written: str) -> str:
    """What to write instead, for the mistakes that people make."""
    problem, mark = error.problem or "", error.problem_mark
    lines = written.split("\n")
    line = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    if match := _BRACKETED.search(line):
        return f'; put it in quotes: "{match[1]}"'
    if match := _TEMPLATE.search(line):
        return f'; put it in quotes: "{match[1]}"'
    if "\\t" in problem or "\t" in line[: len(line) - len(line.lstrip())]:
        return "; a tab cannot indent in YAML, use spaces"
    if "mapping values are not allowed" in problem:
        return "; text with a colon and a space in it needs quotes"
    if "cannot start any token" in problem or "alias" in problem or "constructor for the tag" in problem:
        return "; put text that begins with such a character in quotes"
    return ""


# -- places and readings ---------------------------------------------------------------------------------------------

_SEXAGESIMAL = re.compile(r"[-+]?\d+(?::[0-5]?\d)+(?:\.\d*)?")
_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_NUMBER_LIKE = re.compile(r"[-+]?(?:\d[\d_]*)(?:\.\d*)?[eE][-+]?\d+|0o[0-7]+")
_TAG: Final = "tag:yaml.org,2002:"


@dataclass(slots=True)
class _Walk:
    loaded: Loaded
    path: str
    lines: list[str]
    nodes: int = 0

    def walk(self, node: yaml.Node, keys: Keys) -> None:
        """Note where each key and value stands, and refuse what safe_load would not tell."""
        self.nodes += 1
        if self.nodes > _MOST_NODES:
            raise HeaderError("the header has too many parts", path=self.path, place=_START)
        if isinstance(node, yaml.SequenceNode):
            for index, one in enumerate(node.value):
                self.walk(one, (*keys, str(index)))
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            self.pair(key, value, keys)

    def pair(self, key: yaml.Node, value: yaml.Node, keys: Keys) -> None:
        place = self.place(key)
        if not isinstance(key, yaml.ScalarNode):
            raise self.error(f"YAML reads this as a mapping; put {{{{ }}}} in quotes{self.quoted(key)}", place)
        here = (*keys, str(key.value))
        if here in self.loaded.keys:
            raise self.error(f"{key.value!r} is given twice", place)
        self.loaded.keys[here], self.loaded.values[here] = place, self.place(value)
        if key.tag != f"{_TAG}str":
            raise self.error(f"YAML reads the name {key.value} as {_kind(key)}; put it in quotes", place)
        if isinstance(value, yaml.ScalarNode) and not value.style:  # a plain word
            self.plain(value, here)
        nothing = value.tag == f"{_TAG}null" or (
            isinstance(value, yaml.ScalarNode) and not value.style and value.value.lower() == "none"
        )
        if here[0] == "features" and len(here) > 2 and here[-1] == "default" and nothing:
            raise self.error(
                "default: takes a value; for a prompt that handles None itself write on_missing: none", place
            )
        self.walk(value, here)

    def plain(self, node: yaml.ScalarNode, here: Keys) -> None:
        """Note how YAML reads an unquoted word, and refuse a number that nobody meant."""
        written = str(node.value)
        if node.tag == f"{_TAG}str":
            if _NUMBER_LIKE.fullmatch(written):
                self.loaded.readings[here] = f"YAML reads {written} as text; write {_number(written)} for the number"
            return
        if node.tag in (f"{_TAG}int", f"{_TAG}float") and here[0] != "config":
            odd = "minutes and seconds" if _SEXAGESIMAL.fullmatch(written) else "octal digits"
            if _SEXAGESIMAL.fullmatch(written) or _OCTAL.fullmatch(written):
                value = yaml.SafeLoader("").construct_object(node)
                raise self.error(
                    f'YAML reads {written} as {odd}, the number {value}; write "{written}" for text, or {value}',
                    self.place(node),
                )
        shown = written or "nothing at all"
        self.loaded.readings[here] = f'YAML reads {shown} as {_kind(node)}; for text write "{written}"'

    def quoted(self, key: yaml.Node) -> str:
        line = self.lines[key.start_mark.line]
        match = _TEMPLATE.search(line)
        return f': "{match[1]}"' if match else ""

    def place(self, node: yaml.Node) -> Place:
        start, end = node.start_mark, node.end_mark
        line, column = start.line + _FIRST_LINE, start.column + 1
        scalar = isinstance(node, yaml.ScalarNode) and node.style not in ("|", ">")
        if scalar or getattr(node, "flow_style", False):
            return Place(line, column, end.line + _FIRST_LINE, end.column + 1)
        return Place(line, column, line, len(self.lines[start.line].rstrip()) + 1)

    def error(self, message: str, place: Place) -> HeaderError:
        return HeaderError(message, path=self.path, place=place)


def _kind(node: yaml.ScalarNode) -> str:
    """What YAML makes of a plain word, in words."""
    construct = cast("Callable[[yaml.Node], object]", yaml.SafeLoader("").construct_object)
    match node.tag.removeprefix(_TAG):
        case "bool":
            return f"the truth value {'true' if construct(node) else 'false'}"
        case "null":
            return "null, which is nothing"
        case "int" | "float":
            return f"the number {construct(node)}"
        case "timestamp":
            return "a moment" if len(node.value) > len("2026-05-07") else "a date"
        case other:
            return other


def _number(written: str) -> str:
    value = int(written, 8) if written.startswith("0o") else float(written.replace("_", ""))
    return repr(value)
