"""Prompt files: ``NAME.prompt.j2``, an optional YAML header between ``---`` lines, then Jinja.

The header sets policy; which features a prompt uses is read from its template. Unknown keys are errors with a position.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, cast

import yaml

from llmfeatures.clock import parse_duration
from llmfeatures.errors import (
    ConfigError,
    DefinitionError,
    InvalidValueError,
    PromptError,
    UnknownNameError,
    did_you_mean,
)
from llmfeatures.schema import check_identifier
from llmfeatures.types import DType, json_value, parse_dtype

SUFFIX = ".prompt.j2"
HEADER_KEYS = ("description", "owner", "entities", "features", "inputs", "documents", "budget", "config")
TOKENIZERS = ("o200k_base", "cl100k_base")


class _Absent:
    """Marks a default that the header does not give, since every value, also a false one, can be given."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Any = _Absent()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a prompt does about a feature: which value stands in for one that is not present, and how old one may be."""

    default: Any = ABSENT
    on_missing: str = "error"
    on_unavailable: str = "same"
    max_age: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A value that the caller gives for this prompt alone. ``max_chars`` bounds a str."""

    name: str
    dtype: DType
    max_chars: int | None = None
    default: Any = ABSENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """Texts that a retriever finds. ``query`` is a template over features, join keys and inputs; without one,
    ``order`` is ``recent``. ``max_tokens`` bounds each text; ``on_unavailable`` is ``error`` or ``none``."""

    name: str
    retriever: str
    query: str | None = None
    top_k: int = 5
    order: str = "score"
    min_score: float | None = None
    max_tokens: int | None = None
    on_unavailable: str = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The most tokens that the contents of all messages may have together, counted by ``tokenizer``."""

    max_tokens: int
    tokenizer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The header of a prompt file. Defaults are as written: they are checked against dtypes when the prompt
    is compiled."""

    description: str = ""
    owner: str = ""
    entities: Mapping[str, str] = field(default_factory=dict[str, str])
    features: Mapping[str, Policy] = field(default_factory=dict[str, Policy])
    inputs: Mapping[str, Input] = field(default_factory=dict[str, Input])
    documents: Mapping[str, Documents] = field(default_factory=dict[str, Documents])
    budget: Budget | None = None
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFile:
    """A prompt file, read and split. ``path`` is as shown in messages; ``body_line`` counts the lines before
    the body."""

    name: str
    path: str
    header: Header
    body: str
    body_line: int
    positions: Mapping[tuple[str, ...], tuple[int, int]]

    def error(self, message: str, *keys: str) -> PromptError:
        """An error at a place in the header, named by its keys."""
        line, column = self.positions.get(keys, (None, None))
        return PromptError(message, path=self.path, line=line, column=column)


def prompt_names(folder: Path) -> list[str]:
    """The names of all prompts in a folder, subfolders included, sorted; partials in ``_shared`` are no prompts."""
    found = (
        path.relative_to(folder).as_posix().removesuffix(SUFFIX)
        for path in folder.rglob(f"*{SUFFIX}")
        if path.is_file()
    )
    return sorted(name for name in found if not name.startswith("_") and "/_" not in name)


def prompt_path(folder: Path, name: str) -> Path:
    """The file of a prompt.

    Raises:
        UnknownNameError: there is none of this name.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UnknownNameError("prompt", repr(name), prompt_names(folder))
    path = folder / f"{name}{SUFFIX}"
    plain = all(part and not part.startswith((".", "_")) for part in name.split("/"))
    try:
        found = plain and path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        found = False
    if not found:
        raise UnknownNameError("prompt", name[:80], prompt_names(folder))
    return path


def read_prompt(folder: Path, name: str, *, shown: str | None = None) -> PromptFile:
    """Read a prompt file from a prompts folder.

    Raises:
        UnknownNameError: there is no such prompt.
        PromptError: the header is wrong, or the file is no UTF-8.
    """
    path = prompt_path(folder, name)
    where = shown or f"{folder.name}/{name}{SUFFIX}"
    try:
        source = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PromptError("a prompt file is UTF-8 text; save it as UTF-8", path=where) from None
    except OSError as error:
        raise PromptError(f"cannot be read: {error.strerror}", path=where) from None
    return parse_prompt(source, name=name, path=where)


def parse_prompt(source: str, *, name: str, path: str) -> PromptFile:
    """A prompt file from its text.

    Raises:
        PromptError: the header is wrong.
    """
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    written, body, body_line = _split(source, path)
    data, positions = _load_yaml(written, path)
    return PromptFile(
        name=name,
        path=path,
        header=_Reader(path=path, positions=positions).header(data),
        body=body,
        body_line=body_line,
        positions=positions,
    )


def _split(source: str, path: str) -> tuple[str, str, int]:
    """Header text, body, and how many lines come before the body."""
    lines = source.split("\n")
    if lines[0].rstrip() != "---":
        _refuse_late_header(lines, path)
        return "", source, 0
    for number, line in enumerate(lines[1:], start=1):
        if line.rstrip() == "---":
            return "\n".join(lines[1:number]), "\n".join(lines[number + 1 :]), number + 1
    raise PromptError("the header has no end; close it with a line of ---", path=path, line=1)


def _refuse_late_header(lines: list[str], path: str) -> None:
    """A header below the first line would be printed into the prompt, with its policies unread."""
    for number, line in enumerate(lines[:10], start=1):
        following = lines[number].partition(":")[0] if number < len(lines) else ""
        if line.strip().startswith("---") and following in HEADER_KEYS:
            raise PromptError("a header begins on line 1; remove what stands before it", path=path, line=number)


_Positions = dict[tuple[str, ...], tuple[int, int]]


def _load_yaml(written: str, path: str) -> tuple[dict[str, Any], _Positions]:
    positions: _Positions = {}
    try:
        node = yaml.compose(written, Loader=yaml.SafeLoader)
        if node is None:
            return {}, positions
        _walk(node, (), positions, path)
        data = yaml.safe_load(written)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        hint = '; quote text with brackets, like "list[str]"' if "[" in written else ""
        raise PromptError(
            f"the header is no YAML: {error.problem}{hint}",
            path=path,
            line=mark.line + 2 if mark else None,
            column=mark.column + 1 if mark else None,
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise PromptError(f"the header is no YAML: {error}", path=path) from None
    except RecursionError:
        raise PromptError("the header nests too deeply, or in a circle", path=path) from None
    if not isinstance(data, dict):
        raise PromptError("a header has keys: " + ", ".join(HEADER_KEYS), path=path, line=2)
    return cast("dict[str, Any]", data), positions


def _walk(node: yaml.Node, keys: tuple[str, ...], positions: _Positions, path: str) -> None:
    """Note where each key stands, and find what safe_load would not tell: keys given twice, a plain ``none``."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            mark = key.start_mark
            raise PromptError(
                "a name is text; put {{ }} in quotes", path=path, line=mark.line + 2, column=mark.column + 1
            )
        here = (*keys, str(key.value))
        line, column = key.start_mark.line + 2, key.start_mark.column + 1
        if here in positions:
            raise PromptError(f"{key.value!r} is given twice", path=path, line=line, column=column)
        positions[here] = line, column
        if key.tag != "tag:yaml.org,2002:str":
            kind = key.tag.rpartition(":")[2]
            raise PromptError(
                f"YAML reads the name {key.value} as {kind}; put it in quotes", path=path, line=line, column=column
            )
        nothing = value.tag == "tag:yaml.org,2002:null" or (
            isinstance(value, yaml.ScalarNode) and value.style is None and value.value.lower() == "none"
        )
        if here[0] == "features" and here[-1] == "default" and nothing:
            raise PromptError(
                "default: takes a value; for a prompt that handles None itself write on_missing: none",
                path=path,
                line=line,
                column=column,
            )
        _walk(value, here, positions, path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Reads the parsed YAML of a header, with each error at its place."""

    path: str
    positions: _Positions

    def fail(self, message: str, *keys: str) -> NoReturn:
        line, column = self.positions.get(keys, (None, None))
        raise PromptError(message, path=self.path, line=line, column=column)

    def header(self, data: Mapping[str, Any]) -> Header:
        self.known(data, HEADER_KEYS)
        return Header(
            description=self.text(data, "description"),
            owner=self.text(data, "owner"),
            entities=self.entities(data),
            features={name: self.policy(name, given) for name, given in self.items(data, "features")},
            inputs={name: self.input(name, given) for name, given in self.items(data, "inputs")},
            documents={name: self.document(name, given) for name, given in self.items(data, "documents")},
            budget=self.budget(data),
            config=self.config(data),
        )

    def config(self, data: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return json_value(dict(self.items(data, "config")))
        except InvalidValueError as error:
            self.fail(f"config: {error}", "config")

    def known(self, data: Mapping[str, Any], choices: tuple[str, ...], *keys: str) -> None:
        for key in data:
            if key not in choices:
                self.fail(f"unknown key {key!r}{did_you_mean(str(key), choices)}", *keys, str(key))

    def items(self, data: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any]]:
        given = data.get(key)
        if given is None:
            return
        if not isinstance(given, dict):
            self.fail(f"{key}: is a mapping of names", key)
        yield from cast("dict[str, Any]", given).items()

    def text(self, data: Mapping[str, Any], key: str) -> str:
        value = data.get(key)
        if value is not None and not isinstance(value, str):
            self.fail(f"{key}: is text; put it in quotes", key)
        return value or ""

    def entities(self, data: Mapping[str, Any]) -> dict[str, str]:
        roles: dict[str, str] = {}
        for role, entity in self.items(data, "entities"):
            if not isinstance(entity, str):
                self.fail(f"entities: {role}: is the name of an entity", "entities", role)
            self.identifier("role", role, "entities", role)
            roles[role] = entity
        return roles

    def identifier(self, kind: str, name: str, *keys: str) -> None:
        try:
            check_identifier(kind, name)
        except DefinitionError as error:
            self.fail(str(error), *keys)

    def policy(self, name: str, given: Any) -> Policy:
        if not isinstance(given, dict):
            self.fail(f"{name}: is a mapping, like {{default: unknown}} or {{on_missing: none}}", "features", name)
        options = cast("dict[str, Any]", given)
        at = ("features", name)
        self.known(options, ("default", "on_missing", "on_unavailable", "max_age"), *at)
        if "default" in options and "on_missing" in options:
            self.fail(f"{name}: give default or on_missing, not both", *at, "on_missing")
        on_missing = self.choice(options, "on_missing", ("none", "error"), "error", *at)
        on_unavailable = self.choice(options, "on_unavailable", ("error",), "same", *at)
        return Policy(
            default=options.get("default", ABSENT),
            on_missing=on_missing,
            on_unavailable=on_unavailable,
            max_age=self.duration(options, "max_age", *at),
        )

    def choice(self, options: Mapping[str, Any], key: str, choices: tuple[str, ...], absent: str, *at: str) -> str:
        if key not in options:
            return absent
        value = options[key]
        if value not in choices:
            hint = "; YAML reads null as nothing, write the word none" if value is None and "none" in choices else ""
            self.fail(f"{key}: is {' or '.join(choices)}{hint}", *at, key)
        return str(value)

    def duration(self, options: Mapping[str, Any], key: str, *at: str) -> timedelta | None:
        if key not in options:
            return None
        try:
            value = parse_duration(str(options[key]))
        except ConfigError as error:
            self.fail(f"{key}: {error}", *at, key)
        if value <= timedelta(0):
            self.fail(f"{key}: is longer than zero", *at, key)
        return value

    def document(self, name: str, given: Any) -> Documents:
        at = ("documents", name)
        self.identifier("document", name, *at)
        if not isinstance(given, dict) or not isinstance(cast("dict[str, Any]", given).get("retriever"), str):
            self.fail(f'{name}: needs a retriever, like {{retriever: NAME, query: "{{{{ question }}}}"}}', *at)
        options = cast("dict[str, Any]", given)
        self.known(
            options,
            ("retriever", "query", "top_k", "order", "min_score", "max_tokens", "on_unavailable"),
            *at,
        )
        query = options.get("query")
        if query is not None and not isinstance(query, str):
            self.fail(f"{name}: query is text; put it in quotes", *at, "query")
        order = self.choice(options, "order", ("score", "recent"), "score" if query is not None else "recent", *at)
        if (query is None) != (order == "recent"):
            self.fail(f"{name}: give a query, or order: recent without one", *at)
        min_score = options.get("min_score")
        if min_score is not None and (isinstance(min_score, bool) or not isinstance(min_score, (int, float))):
            self.fail(f"{name}: min_score is a number", *at, "min_score")
        return Documents(
            name=name,
            retriever=options["retriever"],
            query=query,
            top_k=self.count(options, "top_k", *at) or 5,
            order=order,
            min_score=None if min_score is None else float(min_score),
            max_tokens=self.count(options, "max_tokens", *at),
            on_unavailable=self.choice(options, "on_unavailable", ("error", "none"), "error", *at),
        )

    def budget(self, data: Mapping[str, Any]) -> Budget | None:
        options = dict(self.items(data, "budget"))
        if not options:
            return None
        self.known(options, ("max_tokens", "tokenizer"), "budget")
        most = self.count(options, "max_tokens", "budget")
        if most is None:
            self.fail("budget: needs max_tokens, a whole number", "budget")
        if "tokenizer" not in options:
            self.fail(
                f"budget: needs a tokenizer, one of {', '.join(TOKENIZERS)}: tokens are counted, not estimated",
                "budget",
            )
        return Budget(max_tokens=most, tokenizer=self.choice(options, "tokenizer", TOKENIZERS, "", "budget"))

    def count(self, options: Mapping[str, Any], key: str, *at: str) -> int | None:
        value = options.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            self.fail(f"{key} is a whole number from 1", *at, key)
        return value

    def input(self, name: str, given: Any) -> Input:
        at = ("inputs", name)
        self.identifier("input", name, *at)
        declared = {"type": given} if isinstance(given, str) else given
        if not isinstance(declared, dict) or "type" not in declared:
            self.fail(f"{name}: needs a type, like {{type: str}}", *at)
        options = cast("dict[str, Any]", declared)
        self.known(options, ("type", "max_chars", "default"), *at)
        try:
            dtype = parse_dtype(str(options["type"]))
        except DefinitionError as error:
            self.fail(f"{name}: {error}", *at, "type")
        max_chars = options.get("max_chars")
        if max_chars is not None and (not isinstance(max_chars, int) or isinstance(max_chars, bool) or max_chars < 1):
            self.fail(f"{name}: max_chars is a whole number from 1", *at, "max_chars")
        if max_chars is not None and dtype.kind != "str":
            self.fail(f"{name}: max_chars goes with type str", *at, "max_chars")
        default = options.get("default", ABSENT)
        if default is not ABSENT and default is not None:
            try:
                default = dtype.canonical(default)
            except InvalidValueError as error:
                self.fail(f"{name}: the default is {error}; quote text that YAML reads otherwise", *at, "default")
            if max_chars is not None and len(default) > max_chars:
                self.fail(f"{name}: the default is longer than max_chars", *at, "default")
        return Input(name=name, dtype=dtype, max_chars=max_chars, default=default)
