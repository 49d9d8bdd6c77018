"""The tools of a prompt, for an LLM client: what its features and documents say, when the model asks."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, cast

from llmfeatures.document_plan import DocumentPlan, Name
from llmfeatures.errors import RenderError, RequestError, RetrieverError, UnknownNameError
from llmfeatures.gathering import Call, Gathered
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.refs import ComputedRef, FeatureRef
from llmfeatures.registry import Registry
from llmfeatures.tool_reads import Named, features_tool, search_tool
from llmfeatures.toolset import Given, Tool, ToolRefusal, unavailable

if TYPE_CHECKING:
    from anthropic.types import ToolParam
    from openai.types.chat import ChatCompletionFunctionToolParam
    from openai.types.responses import FunctionToolParam

_log = logging.getLogger("llmfeatures")
_MAX_NAME: Final = 64
Reads = Callable[[PromptPlan, Sequence[Call]], Gathered]
"""Reads what a plan needs for calls."""
AsyncReads = Callable[[PromptPlan, Sequence[Call]], Awaitable[Gathered]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tools:
    """What both kinds share: all but the reading."""

    prompt: str
    """Whose features and documents these tools read."""
    tools: tuple[Tool, ...] = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tools."""
        return tuple(one.name for one in self.tools)

    @property
    def chat(self) -> list[ChatCompletionFunctionToolParam]:
        """For ``client.chat.completions.create(model=..., messages=..., tools=tools.chat)``; fresh each time."""
        return [
            {
                "type": "function",
                "function": {
                    "name": one.name,
                    "description": one.description,
                    "parameters": one.schema(strict=True),
                    "strict": True,
                },
            }
            for one in self.tools
        ]

    @property
    def responses(self) -> list[FunctionToolParam]:
        """For ``client.responses.create(model=..., input=..., tools=tools.responses)``; fresh each time."""
        return [
            {
                "type": "function",
                "name": one.name,
                "description": one.description,
                "parameters": cast("dict[str, object]", one.schema(strict=True)),
                "strict": True,
            }
            for one in self.tools
        ]

    @property
    def anthropic(self) -> list[ToolParam]:
        """For Anthropic's ``client.messages.create(model=..., messages=..., tools=tools.anthropic)``; fresh each
        time."""
        return [
            {"name": one.name, "description": one.description, "input_schema": one.schema(strict=False)}
            for one in self.tools
        ]

    def _tool(self, name: str) -> Tool:
        for one in self.tools:
            if one.name == name:
                return one
        raise UnknownNameError("tool", str(name), self.names)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tools(_Tools):
    """The tools of a prompt for one entity, which was named when they were made: no call of a tool can name another.

    Immutable and thread-safe. Make them with `ContextBuilder.tools`.
    """

    reads: Reads = field(repr=False)

    def call(self, name: str, arguments: str | Mapping[str, Any] = "{}") -> str:
        """Answer a model's call: the content of the tool message.

        Args:
            name: the name of the tool, as the model gave it.
            arguments: as the model gave them, JSON text or what it parses to.

        Returns:
            JSON text: ``{"features": {...}, "as_of": ...}`` or ``{"documents": [...]}``. What is wrong with the
            arguments, or could not be read, is an answer too: ``{"error": {"code": ..., "message": ...}}``.

        Raises:
            UnknownNameError: there is no such tool.
            RequestError: ``arguments`` are neither text nor a mapping.
            StoreError: the online store answered what cannot be used; that it is away is no error, but a status.
        """
        tool = self._tool(name)
        try:
            job = tool.job(arguments)
            return _text(job.answer(self.reads(job.plan, [job.call])))
        except ToolRefusal as refusal:
            return _text(_recorded(tool, refusal).answer())
        except (RenderError, RetrieverError) as error:
            return _text(_unread(tool, error).answer())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AsyncTools(_Tools):
    """`Tools` for asyncio. Make them with `AsyncContextBuilder.tools`."""

    reads: AsyncReads = field(repr=False)

    async def call(self, name: str, arguments: str | Mapping[str, Any] = "{}") -> str:
        """As `Tools.call`."""
        tool = self._tool(name)
        try:
            job = tool.job(arguments)
            return _text(job.answer(await self.reads(job.plan, [job.call])))
        except ToolRefusal as refusal:
            return _text(_recorded(tool, refusal).answer())
        except (RenderError, RetrieverError) as error:
            return _text(_unread(tool, error).answer())


def _text(answer: Mapping[str, Any]) -> str:
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


def _recorded(tool: Tool, refusal: ToolRefusal) -> ToolRefusal:
    """The refusal, once it is in the log that a model has named an entity; never which."""
    if refusal.code == "identity":
        _log.warning("refused: a call of the tool %s named %s", tool.name, " and ".join(refusal.identity))
    return refusal


def _unread(tool: Tool, error: Exception) -> ToolRefusal:
    """What a model is told of an error that is none of its own; the log has its kind."""
    _log.warning("the tool %s could not be answered: %s", tool.name, type(error).__name__)
    return unavailable()


def prompt_tools(plan: PromptPlan, registry: Registry, given: Mapping[str, Any]) -> tuple[Tool, ...]:
    """The tools of a prompt: one that reads its features, and one for each name of its documents.

    Args:
        plan: the prompt.
        registry: the one that it was compiled against.
        given: each join key; and inputs, which a model is not asked for then.

    Raises:
        RequestError: a name is absent or unknown, a value has another type, or the prompt has nothing to make tools of.
    """
    unknown = [name for name in given if name not in plan.parameters]
    if unknown:
        plan.bind({unknown[0]: None})  # its error names the choices
    bound = {name: one for name, one in plan.inputs.items() if name in given}
    what = Given(
        keys=plan.features.keys(given),
        inputs=replace(plan, inputs=bound).bind_inputs(given) if bound else {},
        open_inputs={name: one for name, one in plan.inputs.items() if name not in given},
    )
    identity = frozenset(
        {*plan.features.parameters, *(key for entity in registry.entities for key in entity.join_keys)}
    )
    identity |= frozenset(bound)
    choices = {ref.name: _named(registry, ref) for ref in plan.features.outputs if ref.printed}
    made: list[Tool] = []
    if choices:
        whose = " and ".join(dict.fromkeys(role.name for role, _, _ in choices.values()))
        made.append(features_tool("get_features", f"the {whose}", plan, registry, choices, what, identity))
    for document in plan.documents:
        name = f"search_{document.name}" if document.query is not None else f"recent_{document.name}"
        filtered = _filtering(plan, registry, document)
        made.append(search_tool(name, plan, registry, document, filtered, what, identity))
    for one in made:
        if len(one.name) > _MAX_NAME:
            raise RequestError(
                f"the tool {one.name!r} would have a name of more than {_MAX_NAME} characters, which providers refuse; "
                "give the documents a shorter one"
            )
        for name in what.open_inputs:
            if (found := one.arguments.count(name)) > 1 or (found and name in identity):
                like = "another argument" if found > 1 else "a join key"
                raise RequestError(
                    f"input {name!r} of prompt {plan.name!r} is named like {like}, so that the tool {one.name!r} "
                    f"cannot ask for it; give it here, {name}=..., or rename the input"
                )
    if not made:
        raise RequestError(f"prompt {plan.name!r} has no features and no documents, so there is nothing to call for")
    return tuple(made)


def _named(registry: Registry, ref: FeatureRef | ComputedRef) -> Named:
    return ref.role, registry.find_any(f"{ref.role.entity.name}.{ref.feature}"), ref.policy


def _filtering(plan: PromptPlan, registry: Registry, document: DocumentPlan) -> dict[str, Named]:
    """The features that a filter reads, by name."""
    read = {one.name for one in document.filter.values() if isinstance(one, Name)}
    return {ref.name: _named(registry, ref) for ref in plan.features.outputs if ref.name in read}
