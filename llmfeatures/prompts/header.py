"""The header of a prompt file: what it may say, and the reader that checks it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, NoReturn, TypeVar, cast

from llmfeatures.clock import parse_duration
from llmfeatures.errors import ConfigError, DefinitionError, InvalidValueError, did_you_mean
from llmfeatures.prompts.header_yaml import HeaderError, Loaded
from llmfeatures.schema import check_identifier
from llmfeatures.types import DType, json_value, parse_dtype

HEADER_KEYS: Final = ("description", "owner", "entities", "features", "inputs", "documents", "budget", "config")
POLICY_KEYS: Final = ("default", "on_missing", "on_unavailable", "max_age")
INPUT_KEYS: Final = ("type", "max_chars", "default")
DOCUMENT_KEYS: Final = (
    *("retriever", "entity", "query", "filter", "top_k", "order", "min_score", "max_tokens", "on_unavailable"),
)
BUDGET_KEYS: Final = ("max_tokens", "tokenizer")
TOKENIZERS: Final = ("o200k_base", "cl100k_base")
ON_MISSING: Final = ("none", "error")
ON_UNAVAILABLE: Final = ("error",)
DOCUMENTS_UNAVAILABLE: Final = ("error", "none")
ORDERS: Final = ("score", "recent")
_Read = TypeVar("_Read")


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
    """Texts that a retriever finds, of the ``entity`` (a role) where the retriever's has several here. ``query`` is a
    template over features, join keys and inputs; without one, ``order`` is ``recent``. ``filter`` is metadata that must
    be equal, to a value or to what ``"{{ name }}"`` is. ``max_tokens`` bounds each text; ``on_unavailable`` is
    ``error`` or ``none``."""

    name: str
    retriever: str
    entity: str | None = None
    query: str | None = None
    filter: Mapping[str, Any] = field(default_factory=dict[str, Any])
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


def read_header(loaded: Loaded, path: str) -> tuple[Header, tuple[HeaderError, ...]]:
    """The header that loaded YAML says, and all that is wrong with it; of what is wrong, the header lacks the part."""
    reader = _Reader(path=path, loaded=loaded)
    header = reader.header(loaded.data)
    return header, tuple(reader.errors)


@dataclass(slots=True, kw_only=True)
class _Reader:
    """Reads the parsed YAML of a header, with each error at its place."""

    path: str
    loaded: Loaded
    errors: list[HeaderError] = field(default_factory=list[HeaderError])

    def header(self, data: Mapping[str, Any]) -> Header:
        for key in data:
            if key not in HEADER_KEYS:
                self.attempt(lambda key=key: self.unknown(key, HEADER_KEYS), None)
        return Header(
            description=self.attempt(lambda: self.text(data, "description"), ""),
            owner=self.attempt(lambda: self.text(data, "owner"), ""),
            entities=self.each(data, "entities", self.entity),
            features=self.each(data, "features", self.policy),
            inputs=self.each(data, "inputs", self.input),
            documents=self.each(data, "documents", self.document),
            budget=self.attempt(lambda: self.budget(data), None),
            config=self.attempt(lambda: self.config(data), {}),
        )

    # errors

    def attempt(self, read: Callable[[], _Read], absent: _Read) -> _Read:
        """What is read; where that fails, note the error and go on."""
        try:
            return read()
        except HeaderError as error:
            self.errors.append(error)
            return absent

    def each(self, data: Mapping[str, Any], section: str, read: Callable[[str, Any], _Read]) -> dict[str, _Read]:
        """The parts of a section that can be read, by name."""
        found: dict[str, _Read] = {}
        for name, given in self.attempt(lambda: self.section(data, section), {}).items():
            self.attempt(lambda name=name, given=given: found.update({name: read(name, given)}), None)
        return found

    def fail(self, message: str, *keys: str) -> NoReturn:
        """An error at a value, or where there is none, at its key."""
        found = self.loaded.values.get(keys) or self.loaded.keys.get(keys)
        raise HeaderError(message, path=self.path, place=found or self.loaded.keys.get(keys[:-1]))

    def fail_name(self, message: str, *keys: str) -> NoReturn:
        """An error at a key."""
        raise HeaderError(message, path=self.path, place=self.loaded.keys.get(keys))

    def unknown(self, key: str, choices: tuple[str, ...], *at: str) -> NoReturn:
        if re.fullmatch(r"\s*\d+\)", key):  # {type: decimal(10,2)}
            self.fail_name('YAML reads the comma as the end of the type; write it in quotes: "decimal(10,2)"', *at, key)
        self.fail_name(f"unknown key {key!r}{did_you_mean(key, choices)}", *at, key)

    def known(self, options: Mapping[str, Any], choices: tuple[str, ...], *at: str) -> None:
        for key in options:
            if key not in choices:
                self.unknown(key, choices, *at)

    def reading(self, *keys: str) -> str:
        said = self.loaded.readings.get(keys)
        return f"; {said}" if said else ""

    def identifier(self, kind: str, name: str, *keys: str) -> None:
        try:
            check_identifier(kind, name)
        except DefinitionError as error:
            self.fail_name(str(error), *keys)

    # values

    def section(self, data: Mapping[str, Any], key: str) -> dict[str, Any]:
        given = data.get(key)
        if given is not None and not isinstance(given, dict):
            self.fail(f"{key}: is a mapping of names", key)
        return cast("dict[str, Any]", given or {})

    def text(self, data: Mapping[str, Any], key: str) -> str:
        value = data.get(key)
        if value is not None and not isinstance(value, str):
            self.fail(f"{key}: is text; put it in quotes{self.reading(key)}", key)
        return value or ""

    def choice(self, options: Mapping[str, Any], key: str, choices: tuple[str, ...], absent: str, *at: str) -> str:
        if key not in options:
            return absent
        value = options[key]
        if value not in choices:
            word = " or ".join(choices)
            read = self.loaded.readings.get((*at, key), "").partition(";")[0]
            hint = f"; {read}" if read and not isinstance(value, str) else ""
            if value is None and "none" in choices:
                hint = "; YAML reads null as nothing, write the word none"
            self.fail(f"{key}: is {word}{hint}", *at, key)
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

    def count(self, options: Mapping[str, Any], key: str, *at: str) -> int | None:
        if key not in options:
            return None
        value = options[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            self.fail(f"{key} is a whole number from 1", *at, key)
        return value

    def dtype(self, name: str, written: Any, *keys: str) -> DType:
        if not isinstance(written, str):
            self.fail(f'{name}: a type is text, like "list[str]"{self.reading(*keys)}', *keys)
        try:
            return parse_dtype(written)
        except DefinitionError as error:
            broken = re.fullmatch(r"\s*decimal\(\s*\d+", written)
            hint = '; write it in quotes: "decimal(10,2)"' if broken else ""
            self.fail(f"{name}: {error}{hint}", *keys)

    # sections

    def entity(self, role: str, given: Any) -> str:
        if not isinstance(given, str):
            self.fail(f"entities: {role}: is the name of an entity", "entities", role)
        self.identifier("role", role, "entities", role)
        return given

    def policy(self, name: str, given: Any) -> Policy:
        at = ("features", name)
        if not isinstance(given, dict):
            self.fail(f"{name}: is a mapping, like {{default: unknown}} or {{on_missing: none}}", *at)
        options = cast("dict[str, Any]", given)
        self.known(options, POLICY_KEYS, *at)
        if "default" in options and "on_missing" in options:
            self.fail_name(f"{name}: give default or on_missing, not both", *at, "on_missing")
        return Policy(
            default=options.get("default", ABSENT),
            on_missing=self.choice(options, "on_missing", ON_MISSING, "error", *at),
            on_unavailable=self.choice(options, "on_unavailable", ON_UNAVAILABLE, "same", *at),
            max_age=self.duration(options, "max_age", *at),
        )

    def input(self, name: str, given: Any) -> Input:
        at = ("inputs", name)
        self.identifier("input", name, *at)
        if isinstance(given, str):
            return Input(name=name, dtype=self.dtype(name, given, *at))
        if not isinstance(given, dict) or "type" not in given:
            self.fail_name(f"{name}: needs a type, like {{type: str}}", *at)
        options = cast("dict[str, Any]", given)
        self.known(options, INPUT_KEYS, *at)
        dtype = self.dtype(name, options["type"], *at, "type")
        max_chars = self.count(options, "max_chars", *at)
        if max_chars is not None and dtype.kind != "str":
            self.fail(f"{name}: max_chars goes with type str", *at, "max_chars")
        default = options.get("default", ABSENT)
        if default is not ABSENT and default is not None:
            try:
                default = dtype.canonical(default)
            except InvalidValueError as error:
                self.fail(f"{name}: the default does not fit: {error}{self.reading(*at, 'default')}", *at, "default")
            if max_chars is not None and len(default) > max_chars:
                self.fail(f"{name}: the default is longer than max_chars", *at, "default")
        return Input(name=name, dtype=dtype, max_chars=max_chars, default=default)

    def document(self, name: str, given: Any) -> Documents:
        at = ("documents", name)
        self.identifier("document", name, *at)
        if not isinstance(given, dict) or not isinstance(cast("dict[str, Any]", given).get("retriever"), str):
            self.fail_name(f'{name}: needs a retriever, like {{retriever: NAME, query: "{{{{ question }}}}"}}', *at)
        options = cast("dict[str, Any]", given)
        self.known(options, DOCUMENT_KEYS, *at)
        query = options.get("query")
        if "query" in options and not isinstance(query, str):
            self.fail(f"{name}: query is text; put it in quotes{self.reading(*at, 'query')}", *at, "query")
        order = self.choice(options, "order", ORDERS, "score" if "query" in options else "recent", *at)
        if ("query" in options) == (order == "recent"):
            self.fail_name(f"{name}: give a query, or order: recent without one", *at)
        score = options.get("min_score", 0)
        if isinstance(score, bool) or not isinstance(score, (int, float)):
            self.fail(f"{name}: min_score is a number{self.reading(*at, 'min_score')}", *at, "min_score")
        if "min_score" in options and order == "recent":
            self.fail_name(f"{name}: min_score goes with a query: by order: recent there is no score", *at, "min_score")
        entity = options.get("entity")
        if "entity" in options and not isinstance(entity, str):
            self.fail(f"{name}: entity is the name of a role{self.reading(*at, 'entity')}", *at, "entity")
        given_filter = options.get("filter", {})
        if not isinstance(given_filter, dict):
            self.fail(f"{name}: filter is a mapping of metadata to values, like {{language: en}}", *at, "filter")
        return Documents(
            name=name,
            retriever=options["retriever"],
            entity=entity,
            query=query,
            filter=cast("dict[str, Any]", given_filter),
            top_k=self.count(options, "top_k", *at) or 5,
            order=order,
            min_score=float(score) if "min_score" in options else None,
            max_tokens=self.count(options, "max_tokens", *at),
            on_unavailable=self.choice(options, "on_unavailable", DOCUMENTS_UNAVAILABLE, "error", *at),
        )

    def budget(self, data: Mapping[str, Any]) -> Budget | None:
        if data.get("budget") is None:
            return None
        options = self.section(data, "budget")
        self.known(options, BUDGET_KEYS, "budget")
        most = self.count(options, "max_tokens", "budget")
        if most is None:
            self.fail_name("budget: needs max_tokens, a whole number", "budget")
        if "tokenizer" not in options:
            names = ", ".join(TOKENIZERS)
            self.fail_name(f"budget: needs a tokenizer, one of {names}: tokens are counted, not estimated", "budget")
        return Budget(max_tokens=most, tokenizer=self.choice(options, "tokenizer", TOKENIZERS, "", "budget"))

    def config(self, data: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return json_value(self.section(data, "config"))
        except InvalidValueError as error:
            self.fail_name(f"config: {error}", "config")
