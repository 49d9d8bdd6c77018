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
    INSTRUCTING,
    AnthropicArguments,
    BlockMessage,
    CacheBreak,
    ChatArguments,
    Message,
    ResponsesArguments,
    anthropic_arguments,
    chat_messages,
    in_blocks,
    is_anthropic_message,
    response_items,
)
from llmfeatures.clock import iso
from llmfeatures.turns import anthropic_turns, chat_turns, place_of, response_turns
from llmfeatures.types import DType, json_value, parse_dtype

if TYPE_CHECKING:
    from anthropic.types import MessageParam
    from openai.types.chat import ChatCompletionMessage, ChatCompletionMessageParam
    from openai.types.responses import ResponseInputItemParam, ResponseOutputItem

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


class ContextDocument(_Frozen):
    """A document of a prompt. ``text`` is what the template had of it: cut to the prompt's ``max_tokens``.

    ``score`` is None by ``order: recent``. ``valid_from`` (UTC) is None where the retriever does not know it,
    ``valid_to`` where nothing ends this version. ``features`` are those of the entities that it brings, by entity and
    name.
    """

    id: str
    version: str
    text: str
    score: float | None
    tier: Literal["exact", "filtered", "live"] | None
    metadata: Mapping[str, Any]
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    features: Mapping[str, Mapping[str, FeatureValue]] = {}

    @field_serializer("metadata")
    def _metadata_as_json(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        return {name: json_value(value) for name, value in metadata.items()}

    @field_serializer("features")
    def _features_as_json(self, features: Mapping[str, Mapping[str, FeatureValue]]) -> dict[str, Any]:
        return {entity: _features_json(found) for entity, found in features.items()}

    @field_serializer("valid_from", "valid_to")
    def _moment_as_json(self, moment: datetime | None) -> str | None:
        return None if moment is None else iso(moment)


class Retrieval(_Frozen):
    """What became of a prompt's documents of one name.

    ``tier`` says how true the search was to the moment: ``exact``, ``filtered`` by the database, or ``live``; None
    where none was made. ``status`` is ``found``, ``skipped`` (nobody is known, the query is empty, or a filter has no
    value) or ``unavailable``, with the ``problem``. Of the ``found`` ones, ``kept`` are in the prompt; ``doubles`` were
    left out because their text, or another version of them, is there already, and others because they lie
    ``below_min_score``; of those that are kept, ``cut`` were too long. ``model`` made the vectors. ``metadata`` are the
    dtypes of the documents' metadata, ``features`` where those that they bring come from, by ``entity.feature``.
    """

    retriever: str
    tier: Literal["exact", "filtered", "live"] | None
    status: Literal["found", "skipped", "unavailable"]
    found: int
    kept: int
    doubles: int = 0
    below_min_score: int = 0
    cut: int = 0
    model: str | None = None
    problem: str | None = None
    metadata: Mapping[str, str] = {}
    features: Mapping[str, FeatureOrigin] = {}


class Manifest(_Frozen):
    """Where every part of a prompt came from.

    ``source`` is ``online``, ``offline`` or ``none`` (the prompt reads no feature); ``clock`` names the clock of an
    offline read. ``degraded`` is true whenever a feature or a retriever is ``unavailable``; ``problem`` then says
    why, when the online store said so, and so does that of a retrieval.
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
    retrievals: Mapping[str, Retrieval] = {}
    """Of a prompt with documents, by their name."""
    timings: Mapping[str, float] = {}
    """Milliseconds of each leg of a prompt with documents that was built online: ``features``, then each name of
    documents, then each ``NAME.ENTITY`` of features that documents bring."""
    conversation: int | None = None
    """Before which of the messages ``{% conversation %}`` stands; None without one."""


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
    documents: Mapping[str, list[ContextDocument]] = {}
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
        return "\n\n".join(one["content"] for one in self.messages if one["role"] in INSTRUCTING)

    @property
    def blocks(self) -> list[BlockMessage]:
        """The messages in blocks, cut where ``{% cache_break %}`` stands; a message's joined blocks are its content."""
        return in_blocks(self.messages, self.manifest.cache_breaks)

    @property
    def prefix(self) -> Prefix | None:
        """What of this prompt a provider's cache can share; None without a cache break."""
        return self.manifest.prefix

    def chat(
        self,
        user: str | Sequence[ChatCompletionMessageParam | ChatCompletionMessage] | None = None,
        *,
        blocks: bool = False,
    ) -> ChatArguments:
        """Keyword arguments for ``client.chat.completions.create(model=..., **ctx.chat("What should I watch?"))``.

        Args:
            user: a user message, or a list of messages as the client takes them: earlier turns and the new one. They
                go where ``{% conversation %}`` stands, else to the end, and are copied.
            blocks: mark the prompt's cache breaks with OpenAI's ``prompt_cache_breakpoint``, which models from gpt-5.6
                on take; a message that has one is a list of text parts. Assistant messages take none.

        Raises:
            RequestError: ``user`` is neither; or the prompt already ends in a user message, and it is a text, or a
                list that ends in one too, or there is no ``{% conversation %}`` before that message; or it is an
                empty list, where the prompt does not end in one.
        """
        messages = chat_messages(self.blocks) if blocks else cast("list[ChatCompletionMessageParam]", self._fresh())
        return {"messages": self._with(messages, user, chat_turns)}

    def responses(
        self,
        user: str | Sequence[ResponseInputItemParam | ResponseOutputItem] | None = None,
        *,
        blocks: bool = False,
    ) -> ResponsesArguments:
        """Keyword arguments for ``client.responses.create(model=..., **ctx.responses("What should I watch?"))``.

        Args:
            user: a user message, or a list of input items, as for `chat`; those of an answer's ``output`` too.
            blocks: mark cache breaks, as `chat` does.

        Raises:
            RequestError: as `chat`.
        """
        items = response_items(self.blocks) if blocks else cast("list[ResponseInputItemParam]", self._fresh())
        return {"input": self._with(items, user, response_turns)}

    def anthropic(self, user: str | Sequence[MessageParam] | None = None) -> AnthropicArguments:
        """Keyword arguments for Anthropic's ``client.messages.create(model=..., max_tokens=..., **ctx.anthropic("What
        should I watch?"))``: the prompt's system and developer messages as ``system``, cache breaks as
        ``cache_control``. What renders blank is left out, since Anthropic takes no blank text.

        Args:
            user: a user message, or a list of messages, as for `chat`.

        Raises:
            RequestError: as `chat`; or a message is of a role that Anthropic does not have.
        """
        arguments = anthropic_arguments(self.blocks)
        arguments["messages"] = self._with(arguments["messages"], user, anthropic_turns, is_anthropic_message)
        return arguments

    def _fresh(self) -> list[Message]:
        return [Message(role=one["role"], content=one["content"]) for one in self.messages]

    def _with(
        self,
        own: list[_Item],
        user: object,
        turns: Callable[[object], list[Any]],
        is_own: Callable[[Message], bool] = lambda _: True,
    ) -> list[_Item]:
        """The prompt's messages with the caller's at their place; ``own`` are made of those that are ``is_own``."""
        if user is None:
            return own
        added = turns(user)
        roles = [one["role"] for one in self.messages]
        given = user if isinstance(user, str) else added
        place = place_of(self.prompt, roles, self.manifest.conversation, given)
        before = sum(is_own(one) for one in self.messages[:place])
        return [*own[:before], *added, *own[before:]]

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
        return _features_json(features)

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
        documents = {
            name: [_document(manifest.retrievals.get(name), one) for one in found]
            for name, found in cast("dict[str, list[Any]]", given.get("documents", {})).items()
        }
        return {**given, "manifest": manifest, "features": features, "values": values, "documents": documents}


_Item = TypeVar("_Item")
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
made_document = _unvalidated(ContextDocument)
made_retrieval = _unvalidated(Retrieval)


_random = random.Random()  # noqa: S311  an id is no secret, and the system's random bytes cost a system call
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def request_id() -> str:
    """A new id for one call: 128 random bits, in hex."""
    return _random.randbytes(16).hex()


def prompt_id(messages: Sequence[tuple[str, str]]) -> str:
    """SHA-256, in hex, of the compact UTF-8 JSON ``[[role, content], ...]``."""
    return sha256(orjson.dumps(messages, default=tuple)).hexdigest()  # a named tuple is nothing to orjson


def _features_json(features: Mapping[str, FeatureValue]) -> dict[str, Any]:
    return {
        name: {
            "value": json_value(found.value),
            "status": found.status,
            "event_timestamp": None if found.event_timestamp is None else iso(found.event_timestamp),
        }
        for name, found in features.items()
    }


def _document(retrieval: Retrieval | None, given: Any) -> Any:
    """A document in JSON with what its dtypes, which the manifest names, say."""
    if retrieval is None or not isinstance(given, dict):
        return given
    fields = cast("dict[str, Any]", given)
    dtypes = {name: parse_dtype(dtype) for name, dtype in retrieval.metadata.items()}
    metadata = {
        name: _typed(dtypes[name], value) if name in dtypes else value for name, value in fields["metadata"].items()
    }
    features = {
        entity: {
            name: _feature_value(parse_dtype(retrieval.features[f"{entity}.{name}"].dtype), one)
            for name, one in found.items()
        }
        for entity, found in fields.get("features", {}).items()
    }
    return {**fields, "metadata": metadata, "features": features}


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
