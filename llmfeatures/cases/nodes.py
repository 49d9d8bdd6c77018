"""YAML with places: what a file of cases is read with, and what YAML makes of text that people take for something
else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, cast

import yaml

from llmfeatures.errors import InvalidValueError, PromptError, did_you_mean
from llmfeatures.types import DType

_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_BASE = re.compile(r"[+-]?(0[0-7_]+|0[xXbB]\w+|0o\w+)", re.ASCII)
_KINDS: Final = {"int": "a number", "float": "a number", "bool": "true or false", "null": "nothing",
                 "timestamp": "a date or time"}  # fmt: skip
_MOST_NODES: Final = 100_000


class Written(NamedTuple):
    """A text of the file, and where it stands; line and column from 1."""

    text: str
    line: int
    column: int


class Given(NamedTuple):
    """A value as YAML reads it, where it stands, and its text where it is a scalar. ``tag`` is YAML's type of it, and
    ``plain`` says that it has no quotes."""

    value: Any
    line: int
    column: int
    text: str = ""
    tag: str = ""
    plain: bool = False


Pairs = Mapping[str, tuple[yaml.Node, yaml.Node]]
"""A mapping's key and value nodes by name."""


class Reader:
    """Reads nodes of one file, with each error at its place."""

    def __init__(self, source: str, path: str) -> None:
        self.path = path
        self.root: yaml.Node | None = None
        try:
            self._loader = yaml.SafeLoader(source)
            self.root = self._loader.get_single_node()
            if self.root is not None:
                self._check(self.root)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            raise PromptError(
                f"this is no YAML: {error.problem}; put text with : # ? [ ] {{ }} or a leading @ % ` in quotes",
                path=path,
                line=mark.line + 1 if mark else None,
                column=mark.column + 1 if mark else None,
            ) from None
        except (yaml.YAMLError, ValueError) as error:
            raise PromptError(f"this is no YAML: {' '.join(str(error).split())}", path=path) from None
        except RecursionError:
            raise PromptError("the file nests too deeply", path=path) from None

    def _check(self, root: yaml.Node) -> None:
        """Refuse keys given twice, which YAML lets pass, and aliases that make a circle or very much out of little."""
        count = 0
        open_: set[int] = set()

        def walk(node: yaml.Node) -> None:
            nonlocal count
            count += 1
            if count > _MOST_NODES or id(node) in open_:
                raise self.error("an alias stands for itself, or for too much", node)
            open_.add(id(node))
            if isinstance(node, yaml.MappingNode):
                self._check_keys(node)
                for key, value in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
                    walk(key)
                    walk(value)
            elif isinstance(node, yaml.SequenceNode):
                for one in cast("list[yaml.Node]", node.value):
                    walk(one)
            open_.remove(id(node))

        walk(root)

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        for key, _ in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if str(key.value) in seen:
                    raise self.error(f"{key.value!r} is given twice", key)
                seen.add(str(key.value))

    def place(self, node: yaml.Node) -> tuple[int, int]:
        """Line and column of a node."""
        return node.start_mark.line + 1, node.start_mark.column + 1

    def at(self, node: yaml.Node) -> Written:
        """The text of a scalar, or none, and where the node stands."""
        return Written(str(node.value) if isinstance(node, yaml.ScalarNode) else "", *self.place(node))

    def error(self, message: str, where: yaml.Node | Written | Given) -> PromptError:
        """An error at what stands there."""
        line, column = self.place(where) if isinstance(where, yaml.Node) else (where.line, where.column)
        return PromptError(message, path=self.path, line=line, column=column)

    def mapping(self, node: yaml.Node) -> Pairs:
        """The keys and values of a mapping, with what it merges by ``<<``; none of a null."""
        if node.tag == "tag:yaml.org,2002:null":
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise self.error("this is a mapping of names, like {name: value}", node)
        try:
            self._loader.flatten_mapping(node)
        except yaml.MarkedYAMLError as error:
            raise self.error(f"<< merges a mapping: {error.problem}", node) from None
        pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            if not isinstance(key, yaml.ScalarNode):
                raise self.error("a name is text; put {{ }} in quotes", key)
            kind = key.tag.rpartition(":")[2]
            if kind != "str":
                raise self.error(f"YAML reads the name {key.value} as {_KINDS.get(kind, kind)}; put it in quotes", key)
            pairs[str(key.value)] = key, value
        return pairs

    def known(self, given: Pairs, choices: Iterable[str]) -> None:
        """Refuse a key that is not among the choices."""
        choices = tuple(choices)
        for name, (key, _) in given.items():
            if name not in choices:
                raise self.error(f"unknown key {name!r}{did_you_mean(name, choices)}", key)

    def given(self, node: yaml.Node) -> Given:
        """The value of a node."""
        line, column = self.place(node)
        try:
            value = self._loader.construct_object(node, deep=True)
        except (yaml.MarkedYAMLError, ValueError) as error:
            said = getattr(error, "problem", None) or error
            raise self.error(f"YAML cannot read this: {said}", node) from None
        if not isinstance(node, yaml.ScalarNode):
            return Given(value, line, column)
        return Given(value, line, column, str(node.value), node.tag.rpartition(":")[2], node.style is None)

    def scalar(self, node: yaml.Node, what: str) -> Written:
        """The text of a scalar, whatever YAML reads it as."""
        if not isinstance(node, yaml.ScalarNode):
            raise self.error(f"{what} is one value", node)
        return self.at(node)

    def text(self, node: yaml.Node, what: str) -> Written:
        """A text."""
        found = self.given(node)
        if not isinstance(found.value, str):
            read = f"; YAML reads {found.text} as {_KINDS.get(found.tag, found.tag)}" if found.plain else ""
            raise self.error(f"{what} is text{read}; put it in quotes", node)
        return Written(found.value, found.line, found.column)

    def texts(self, node: yaml.Node, what: str) -> tuple[Written, ...]:
        """A list of texts to look for, or one."""
        items = cast("list[yaml.Node]", node.value) if isinstance(node, yaml.SequenceNode) else [node]
        made = tuple(self.text(one, what if one is node else f"each of {what}") for one in items)
        for one in made:
            if not one.text:
                raise self.error(f"{what} is empty, which every text contains; write what to look for", one)
        return made


def canonical(name: str, dtype: DType, given: Given) -> Any:
    """The canonical value of a dtype for what a file gives.

    Raises:
        InvalidValueError: it is no value of the dtype; the message says what YAML made of it, and what to write.
    """
    value = given.value
    if given.plain and dtype.kind == "decimal" and given.tag in ("int", "float"):
        value = given.text.replace("_", "")
    number = given.plain and given.tag in ("int", "float") and dtype.kind in ("int", "float", "decimal")
    if number and (":" in given.text or _BASE.fullmatch(given.text)):
        raise InvalidValueError(f"{name}: YAML reads {given.text} as the number {given.value}; write it in decimal")
    try:
        made = dtype.canonical(value)
    except InvalidValueError as error:
        choices = did_you_mean(value, dtype.words) if dtype.kind == "enum" and isinstance(value, str) else ""
        raise InvalidValueError(f"{name}: {error}{choices}{_hint(dtype, given)}") from None
    if made is None and value is not None and dtype.kind == "float":
        raise InvalidValueError(f"{name}: this is no finite number")
    return made


def _hint(dtype: DType, given: Given) -> str:
    """What to write instead, where YAML reads text as something else."""
    if given.plain and given.tag in _KINDS and dtype.kind in ("str", "enum", "date", "timestamp", "json"):
        return f'; YAML reads {given.text} as {_KINDS[given.tag]}: write "{given.text}"'
    if given.tag != "str" or dtype.kind not in ("int", "float", "bool"):
        return ""
    if given.plain and _NUMBER.fullmatch(given.text):
        return f"; YAML reads {given.text} as text: write it without an exponent"
    if not given.plain and (_NUMBER.fullmatch(given.text) or given.text in ("true", "false")):
        return f"; write {given.text} without quotes"
    return ""
