"""What `build_context` returns: the finished prompt, and where every part of it came from."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

import orjson
from pydantic import BaseModel, ConfigDict, field_serializer, model_validator

from llmfeatures.blocks import (
    AnthropicArguments,
    BlockMessage,
    CacheBreak,
    ChatArguments,
    Message,
    ResponsesArguments,
    anthropic_arguments,
    chat_messages,
    in_blocks,
    response_items,
)
from llmfeatures.clock import iso
from llmfeatures.errors import RequestError
from llmfeatures.types import DType, json_value, parse_dtype

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam
    from openai.types.responses import ResponseInputItemParam

Status = Literal["present", "null", "missing", "expired", "unavailable"]


class FeatureValue(NamedTuple):  # made several times per call: a frozen dataclass takes five times as long
    """A feature as it was read.

    ``value`` is None unless the status is ``present``. ``event_timestamp`` (UTC) is that of the row that decided,
    also when it is ``null`` or ``expired``; None when there was no row.
    """

    value: Any
    status: Status
    event_timestamp: datetime | None = None


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FeatureOrigin(_Frozen):
    """Where a feature of a prompt comes from, and what the prompt does when it has no value.

    ``policy`` is ``default``, ``none`` or ``error``.
    """

    entity: str
    role: str
    view: str
    dtype: str
    policy: str


class SectionTokens(_Frozen):
    """A section of a prompt with a budget: the tokens of its text, how many of them are kept, and what became of it:
    ``kept``, ``cut`` to its own limit, or ``dropped``."""

    name: str
    priority: int
    tokens: int
    kept: int
    outcome: Literal["kept", "cut", "dropped"]


class Prefix(_Frozen):
    """The beginning of a prompt that a provider's cache can share: all up to the last cache break.

    ``characters`` and ``tokens`` are those of the contents. ``estimated`` says that the tokens are a quarter of the
    UTF-8 bytes, since the prompt has no budget that names a tokenizer. ``sha256`` is that of the compact UTF-8 JSON
    ``[[role, content], ...]``: prompts with the same one share their prefix.
    """

    characters: int
    tokens: int
    estimated: bool
    sha256: str


class Manifest(_Frozen):
    """Where every part of a prompt came from.

    ``source`` is ``online``, ``offline`` or ``none`` (the prompt reads no feature); ``clock`` names the clock of an
    offline read. ``degraded`` is true whenever a feature is ``unavailable``; ``problem`` then says
    why, when the store said so.
    """

    source: Literal["online", "offline", "none"]
    clock: Literal["event", "known"] | None = None
    degraded: bool = False
    problem: str | None = None
    keys: Mapping[str, Any]
    inputs: Mapping[str, str]
    """The dtype of each input and join key."""
    features: Mapping[str, FeatureOrigin]
    library: str
    """The version of llmfeatures that rendered."""
    sections: tuple[SectionTokens, ...] = ()
    """Of a prompt with a budget, in the order of the prompt."""
    cache_breaks: tuple[CacheBreak, ...] = ()
    """In the order of the prompt: the place of a message, and how many characters of its content come before."""
    prefix: Prefix | None = None
    """None for a prompt without a cache break."""


class PromptContext(_Frozen):
    """A finished prompt.

    ``features`` are as read, ``values`` as rendered (after defaults, with inputs and join keys). ``as_of`` is the
    moment that ttl and max_age were checked against, UTC. ``prompt_id`` is the SHA-256 of the exact messages. It is one
    JSON object and back: ``PromptContext.model_validate_json(ctx.model_dump_json()) == ctx``.
    """

    request_id: str
    prompt: str
    version: str
    prompt_id: str
    as_of: datetime
    messages: list[Message]
    features: Mapping[str, FeatureValue]
    values: Mapping[str, Any]
    documents: Mapping[str, list[Any]] = {}
    config: Mapping[str, Any] = {}
    tokens: int | None = None
    manifest: Manifest

    @property
    def text(self) -> str:
        """The contents of all messages, with an empty line between."""
        return "\n\n".join(message["content"] for message in self.messages)

    @property
    def system(self) -> str:
        """The contents of the system and developer messages, with an empty line between."""
        return "\n\n".join(one["content"] for one in self.messages if one["role"] in ("system", "developer"))

    @property
    def blocks(self) -> list[BlockMessage]:
        """The messages in blocks, cut where ``{% cache_break %}`` stands; a message's joined blocks are its content."""
        return in_blocks(self._with(None), self.manifest.cache_breaks)

    @property
    def prefix(self) -> Prefix | None:
        """What of this prompt a provider's cache can share; None without a cache break."""
        return self.manifest.prefix

    def chat(self, user: str | None = None, *, blocks: bool = False) -> ChatArguments:
        """Keyword arguments for ``client.chat.completions.create(model=..., **ctx.chat("What should I watch?"))``.

        Args:
            user: a user message to add at the end.
            blocks: mark cache breaks with OpenAI's ``prompt_cache_breakpoint``, which models from gpt-5.6 on take; a
                message that has one is a list of text parts. Assistant messages take none.

        Raises:
            RequestError: ``user`` is given, and the prompt already ends in a user message.
        """
        if blocks:
            return {"messages": chat_messages(self._in_blocks(user))}
        return {"messages": cast("list[ChatCompletionMessageParam]", self._with(user))}

    def responses(self, user: str | None = None, *, blocks: bool = False) -> ResponsesArguments:
        """Keyword arguments for ``client.responses.create(model=..., **ctx.responses("What should I watch?"))``.

        Args:
            user: a user message to add at the end.
            blocks: mark cache breaks, as `chat` does.

        Raises:
            RequestError: ``user`` is given, and the prompt already ends in a user message.
        """
        if blocks:
            return {"input": response_items(self._in_blocks(user))}
        return {"input": cast("list[ResponseInputItemParam]", self._with(user))}

    def anthropic(self, user: str | None = None) -> AnthropicArguments:
        """Keyword arguments for Anthropic's ``client.messages.create(model=..., max_tokens=..., **ctx.anthropic("What
        should I watch?"))``: system and developer messages as ``system``, cache breaks as ``cache_control``.

        Raises:
            RequestError: ``user`` is given, and the prompt already ends in a user message.
        """
        return anthropic_arguments(self._in_blocks(user))

    def _in_blocks(self, user: str | None) -> list[BlockMessage]:
        return in_blocks(self._with(user), self.manifest.cache_breaks)

    def _with(self, user: str | None) -> list[Message]:
        messages = [Message(role=one["role"], content=one["content"]) for one in self.messages]
        if user is not None:
            if messages and messages[-1]["role"] == "user":
                raise RequestError(
                    f"prompt {self.prompt!r} already ends in a user message; call this without an argument, "
                    "or take the user message out of the prompt file"
                )
            messages.append({"role": "user", "content": user})
        return messages

    def explain(self) -> str:
        """Per value its status, its age at ``as_of``, where it comes from and where it stands in the messages; then
        tokens, sections and the prefix for a provider's cache, and what was degraded. No values.

        Where values stand is known in a process that has loaded a prompt of this version.
        """
        from llmfeatures.explain import explain_text, explained

        return explain_text(explained(self))

    def _repr_html_(self) -> str:
        from llmfeatures.notebook import context_html

        return context_html(self)

    @field_serializer("values")
    def _values_as_json(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: json_value(value) for name, value in values.items()}

    @field_serializer("features")
    def _features_as_json(self, features: Mapping[str, FeatureValue]) -> dict[str, Any]:
        return {
            name: {
                "value": json_value(found.value),
                "status": found.status,
                "event_timestamp": None if found.event_timestamp is None else iso(found.event_timestamp),
            }
            for name, found in features.items()
        }

    @field_serializer("as_of")
    def _as_of_as_json(self, as_of: datetime) -> str:
        return iso(as_of)

    @model_validator(mode="before")
    @classmethod
    def _from_json(cls, data: Any) -> Any:
        """Values in JSON become what their dtypes, which the manifest names, say."""
        if not isinstance(data, dict):
            return data
        given = cast("dict[str, Any]", data)
        manifest = Manifest.model_validate(given["manifest"])
        key_dtypes = {name: parse_dtype(manifest.inputs[name]) for name in manifest.keys}
        keys = {name: _typed(key_dtypes[name], value) for name, value in manifest.keys.items()}
        manifest = manifest.model_copy(update={"keys": keys})
        dtypes = {name: parse_dtype(origin.dtype) for name, origin in manifest.features.items()}
        typed = {**dtypes, **{name: parse_dtype(dtype) for name, dtype in manifest.inputs.items()}}
        features = {
            name: _feature_value(dtypes[name], one) for name, one in cast("dict[str, Any]", given["features"]).items()
        }
        values = {
            name: _typed(typed[name], value) if name in typed else value for name, value in given["values"].items()
        }
        return {**given, "manifest": manifest, "features": features, "values": values}


_Made = TypeVar("_Made", bound=BaseModel)
_slots = [
    vars(BaseModel)[f"__{name}__"].__set__
    for name in ("dict", "pydantic_fields_set", "pydantic_extra", "pydantic_private")
]


def _unvalidated(kind: type[_Made]) -> Callable[[dict[str, Any]], _Made]:
    """Makes models of fields that are all given and known to be right, at a fraction of ``model_construct``'s cost."""
    names = set(kind.model_fields)  # one set for all: they are frozen, and a copy of a model copies it
    new: Callable[[type[_Made]], _Made] = object.__new__
    set_fields, set_names, set_extra, set_private = _slots

    def make(fields: dict[str, Any]) -> _Made:
        made = new(kind)
        set_fields(made, fields)
        set_names(made, names)
        set_extra(made, None)
        set_private(made, None)
        return made

    return make


made_manifest = _unvalidated(Manifest)
made_context = _unvalidated(PromptContext)


_random = random.Random()  # noqa: S311  an id is no secret, and the system's random bytes cost a system call
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def request_id() -> str:
    """A new id for one call: 128 random bits, in hex."""
    return _random.randbytes(16).hex()


def prompt_id(messages: Sequence[tuple[str, str]]) -> str:
    """SHA-256, in hex, of the compact UTF-8 JSON ``[[role, content], ...]``."""
    return sha256(orjson.dumps(messages, default=tuple)).hexdigest()  # a named tuple is nothing to orjson


def _feature_value(dtype: DType, given: Any) -> FeatureValue:
    if isinstance(given, FeatureValue):
        return given
    event = given["event_timestamp"]
    return FeatureValue(
        _typed(dtype, given["value"]), given["status"], None if event is None else datetime.fromisoformat(event)
    )


def _typed(dtype: DType, value: Any) -> Any:
    try:
        return dtype.from_json(value)
    except (TypeError, ValueError):  # a Python value already, or a default outside the dtype
        return value
