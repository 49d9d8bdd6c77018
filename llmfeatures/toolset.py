"""Tools that a model may call, to read an entity's features and to search its documents. Whose, is bound before.

Pure: a tool makes of a model's arguments what is to be read, and of what was read an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import orjson

from llmfeatures.errors import InvalidValueError, RequestError, did_you_mean
from llmfeatures.gathering import Call, Gathered
from llmfeatures.json_schema import Schema, schema_of, value_of
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.file import ABSENT, Input
from llmfeatures.types import DType, json_value


class ToolRefusal(Exception):  # noqa: N818  it is an answer
    """What a model is told instead of an answer. ``code`` is ``identity`` (the arguments name an entity, by
    ``identity``), ``arguments`` (they are wrong otherwise) or ``unavailable`` (it cannot be read now)."""

    def __init__(self, code: str, message: str, *, identity: Sequence[str] = ()) -> None:
        self.code, self.message, self.identity = code, message, tuple(identity)
        super().__init__(message)

    def answer(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"error": {"code": self.code, "message": self.message}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """An argument of a tool. An ``optional`` one may be left out, or be null."""

    name: str
    schema: Schema
    description: str
    optional: bool = False

    def shown(self) -> Schema:
        """Its schema, with null for what is optional."""
        schema = deepcopy(self.schema)
        if self.optional:
            if "enum" in schema:
                schema["enum"] = [*schema["enum"], None]
            schema["type"] = [schema["type"], "null"]
        return {**schema, "description": self.description}


class Job(NamedTuple):
    """What is to be read for a call of a tool, and what makes an answer of it, which raises `ToolRefusal`."""

    plan: PromptPlan
    call: Call
    answer: Callable[[Gathered], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool. ``identity`` are names that say whose data something is: none of them is ever an argument, except where
    ``parameters`` has it."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    output: Schema
    identity: frozenset[str]
    prepare: Callable[[Mapping[str, Any], Mapping[str, Any]], Job] = field(repr=False)

    @property
    def arguments(self) -> list[str]:
        """The names of its parameters."""
        return [one.name for one in self.parameters]

    def schema(self, *, strict: bool) -> Schema:
        """The JSON Schema of its arguments; ``strict`` as OpenAI has it: all are required, and some may be null."""
        return {
            "type": "object",
            "properties": {one.name: one.shown() for one in self.parameters},
            "required": [one.name for one in self.parameters if strict or not one.optional],
            "additionalProperties": False,
        }

    def job(self, arguments: str | Mapping[str, Any], keys: Mapping[str, Any] | None = None) -> Job:
        """What to read for these arguments, a mapping or its JSON text. ``keys`` are canonical values of join keys that
        the tool was made without.

        Raises:
            ToolRefusal: they are not what the schema says, or name an entity.
            RequestError: they are neither a mapping nor text.
        """
        given = _mapping(arguments)
        known = {one.name for one in self.parameters}
        if named := sorted((given.keys() & self.identity) - known):
            raise ToolRefusal(
                "identity",
                f"{' and '.join(named)}: whose data this is was decided before the conversation, and is no argument; "
                "call the tool without it",
                identity=named,
            )
        for name in given:
            if name not in known:
                raise wrong(f"{self.name} takes no {name[:80]!r}{did_you_mean(name, known)}")
        for one in self.parameters:
            if not one.optional and given.get(one.name) is None:
                raise wrong(f"{self.name} needs {one.name}: {one.description}")
        return self.prepare({name: value for name, value in given.items() if value is not None}, keys or {})


def _mapping(arguments: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(arguments, str):
        try:
            found = orjson.loads(arguments or "{}")
        except (orjson.JSONDecodeError, RecursionError):
            raise wrong("the arguments are no JSON; send one JSON object") from None
    elif isinstance(arguments, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        found = dict(arguments)
    else:
        raise RequestError(f"arguments are a mapping or its JSON text, not {type(arguments).__name__}")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in cast("dict[Any, Any]", found)):
        raise wrong("the arguments are one JSON object")
    return cast("dict[str, Any]", found)


def unavailable() -> ToolRefusal:
    """What a model is told where something could not be read."""
    return ToolRefusal("unavailable", "this is not available now; go on without it")


def wrong(message: str) -> ToolRefusal:
    """What a model is told about its arguments."""
    return ToolRefusal("arguments", message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What tools have without being told: canonical values of join keys and inputs by parameter name. ``open_keys``
    and ``open_inputs`` are those that a call gives."""

    keys: Mapping[str, Any]
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    open_keys: Mapping[str, DType] = field(default_factory=dict[str, DType])
    open_inputs: Mapping[str, Input] = field(default_factory=dict[str, Input])

    def parameters(self, keys: Sequence[str], inputs: Sequence[str], *, optional: bool = False) -> list[Parameter]:
        """The arguments of a tool that needs these; its inputs are ``optional`` where only some answers need them."""
        made = [
            Parameter(name=name, schema=_argument_schema(dtype), description=f"Whose. Type: {dtype}.")
            for name, dtype in self.open_keys.items()
            if name in keys
        ]
        for name, one in self.open_inputs.items():
            if name in inputs:
                given = one.default is not ABSENT
                shown = "" if not given else f" Without it: {_short(one.default)}."
                limit = "" if one.max_chars is None else f" At most {one.max_chars} characters."
                made.append(
                    Parameter(
                        name=name,
                        schema=_argument_schema(one.dtype),
                        description=f"Type: {_shown(one.dtype)}.{limit}{shown}",
                        optional=given or optional,
                    )
                )
        return made

    def call(
        self, plan: PromptPlan, inputs: Sequence[str], arguments: Mapping[str, Any], keys: Mapping[str, Any]
    ) -> Call:
        """The keys and inputs of a call.

        Raises:
            ToolRefusal: one is absent, or does not fit.
        """
        own = {**self.keys, **keys}
        for name, dtype in self.open_keys.items():
            if name in arguments:
                own[name] = _canonical(name, dtype, arguments[name])
        needed = {name: one for name, one in self.open_inputs.items() if name in inputs}
        values = {name: _python(name, one.dtype, arguments[name]) for name, one in needed.items() if name in arguments}
        for name, one in needed.items():
            if name not in values and one.default is ABSENT:
                raise wrong(f"this needs {name} too, of type {_shown(one.dtype)}")
        try:
            bound = replace(plan, inputs=needed).bind_inputs(values)
        except RequestError as error:
            raise wrong(str(error).replace(f" of prompt {plan.name!r}", "")) from None
        return own, {**{name: self.inputs[name] for name in inputs if name in self.inputs}, **bound}


def _argument_schema(dtype: DType) -> Schema:
    """A schema within what OpenAI's strict mode takes: any JSON is written as text, and an int has no bounds."""
    if dtype.item is not None:
        return {"type": "array", "items": _argument_schema(dtype.item)}
    if dtype.kind in ("json", "int"):
        return {"type": "string" if dtype.kind == "json" else "integer"}
    return schema_of(dtype)


def _shown(dtype: DType) -> str:
    return "json, as its text" if dtype.kind == "json" else str(dtype)


def _python(name: str, dtype: DType, given: Any) -> Any:
    if dtype.kind == "json":
        return given
    try:
        return value_of(dtype, given)
    except InvalidValueError as error:
        raise wrong(f"{name}: {error}") from None


def _canonical(name: str, dtype: DType, given: Any) -> Any:
    try:
        return dtype.canonical(_python(name, dtype, given))
    except InvalidValueError as error:
        raise wrong(f"{name} is of type {dtype}: {error}") from None


def _short(value: Any) -> str:
    text = orjson.dumps(json_value(value), option=orjson.OPT_SORT_KEYS).decode()
    return text if len(text) <= 80 else f"{text[:79]}…"
