"""What a session is offered: prompts, tools and resources, by its API key's scopes and by whose it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

from llmfeatures.builder import AsyncContextBuilder
from llmfeatures.compile import compile_plan
from llmfeatures.context import PromptContext
from llmfeatures.document_plan import DocumentPlan
from llmfeatures.errors import InvalidValueError, LLMFeaturesError, RequestError, UnknownNameError, did_you_mean
from llmfeatures.mcp.binding import Binding, Keys, join_keys
from llmfeatures.problems import refusal
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.file import ABSENT, Input, Policy, parse_prompt
from llmfeatures.prompts.texts import PromptTexts
from llmfeatures.refs import role_of
from llmfeatures.registry import Found, FoundOnDemand, Registry
from llmfeatures.retriever import Retriever
from llmfeatures.schema import Entity
from llmfeatures.service.keys import ApiKey
from llmfeatures.service.listing import registry_listing
from llmfeatures.tool_reads import Named, features_tool, search_tool
from llmfeatures.toolset import Given, Tool, ToolRefusal

TOP_K: Final = 10
"""The most documents that a search gives."""
REGISTRY_URI: Final = "llmfeatures://registry"
PROMPTS_URI: Final = "llmfeatures://prompts/"
_TOOLSETS: Final = 64


class PromptArgument(NamedTuple):
    """An argument of a prompt, which is text: ``about`` says what it is, ``words`` are those that it may be."""

    name: str
    about: str
    required: bool
    words: tuple[str, ...] = ()


class Offer:
    """What one session is offered. ``key`` is None where no key is needed."""

    def __init__(self, project: str, builder: AsyncContextBuilder, binding: Binding, key: ApiKey | None) -> None:
        self._project, self._builder, self._key = project, builder, key
        self.binding = binding

    # -- prompts

    def prompts(self) -> dict[str, PromptPlan]:
        """The prompts that this session may get, by name; those that do not compile are left out."""
        found: dict[str, PromptPlan] = {}
        for name in self._builder.prompt_names():
            try:
                if self._allows(f"prompts:{name}") and self._fits(plan := self._builder.plan(name)):
                    found[name] = plan
            except LLMFeaturesError:
                continue
        return found

    def arguments(self, plan: PromptPlan) -> list[PromptArgument]:
        """The arguments of a prompt: join keys that are not bound, and inputs that have no such name."""
        keys = self._keys(plan)
        made = [
            PromptArgument(name, f"Whose: the {name}. Type: {dtype}.", required=True)
            for name, dtype in {**keys.open, **keys.absent}.items()
        ]
        for name, one in plan.inputs.items():
            if name in self.binding.names:
                continue
            words = (
                one.dtype.words if one.dtype.kind == "enum" else ("true", "false") if one.dtype.kind == "bool" else ()
            )
            made.append(PromptArgument(name, _about(one), required=one.default is ABSENT, words=tuple(words)))
        return made

    async def context(self, name: str, written: Mapping[str, str]) -> PromptContext:
        """A finished prompt, of arguments as text.

        Raises:
            LLMFeaturesError: there is no such prompt, or its arguments are wrong, or it cannot be built.
            ProblemError: the session may not get it.
            ToolRefusal: an argument names an entity, which is bound.
        """
        plan = self._plan(name)
        keys = self._keys(plan)
        self._check_identity(written, keys)
        known = {one.name for one in self.arguments(plan)}
        values = {one: value for one, value in self.binding.values if one in plan.inputs} | dict(keys.bound)
        for argument, text in written.items():
            if argument not in known:
                raise RequestError(f"prompt {name!r} takes no {argument[:80]!r}{did_you_mean(argument, known)}")
            try:
                values[argument] = plan.parameters[argument].parse(text)
            except InvalidValueError as error:
                raise RequestError(f"{argument} is of type {plan.parameters[argument]}: {error}") from None
        for one in self.arguments(plan):
            if one.required and one.name not in values:
                raise RequestError(f"prompt {name!r} needs the argument {one.name}. {one.about}")
        return await self._builder.build_context(name, **values)

    def description(self, name: str) -> str:
        """What the prompt file says of a prompt."""
        return self._builder.plan(name).description

    def _plan(self, name: str) -> PromptPlan:
        if name not in self._builder.prompt_names():
            raise UnknownNameError("prompt", name[:80], self.prompts())
        if not self._allows(f"prompts:{name}"):
            raise refusal("forbidden", f"this API key lacks the scope prompts:{name}; make one that has it")
        plan = self._builder.plan(name)
        if not self._fits(plan):
            raise refusal("forbidden", "this API key is bound to another entity; use one for this entity")
        return plan

    def _keys(self, plan: PromptPlan) -> Keys:
        return self.binding.keys(plan.features.roles)

    def _fits(self, plan: PromptPlan) -> bool:
        """Whether an entity may be named for every role and input, or is."""
        if not self.binding.closed:
            return True
        named = plan.inputs.keys() & join_keys(self._builder.registry).keys()
        return not self._keys(plan).absent and named <= self.binding.names | self.binding.open

    def _check_identity(self, given: Mapping[str, Any], keys: Keys) -> None:
        every = join_keys(self._builder.registry).keys() if self.binding.closed else set[str]()
        bound = {*self.binding.names, *keys.bound, *(every - self.binding.open)}
        named = sorted(given.keys() & (bound - {*keys.open, *keys.absent}))
        if named:
            raise ToolRefusal(
                "identity",
                f"{' and '.join(named)}: whose this session is was decided before, and is no argument; leave it out",
                identity=named,
            )

    # -- tools

    def tools(self) -> tuple[Tool, ...]:
        """The tools that this session may call; none without the scope ``read``."""
        if not self._allows("read"):
            return ()
        return _toolset(_Of(self._builder.registry), self.binding.names, self.binding.open)

    async def answer(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What a tool answers.

        Raises:
            UnknownNameError: there is no such tool.
            ProblemError: the session may call none.
            ToolRefusal: the arguments are wrong, or it cannot be read now.
            LLMFeaturesError: it cannot be read.
        """
        if not self._allows("read"):
            raise refusal("forbidden", "this API key lacks the scope read, which tools need; make one that has it")
        tools = {one.name: one for one in self.tools()}
        if name not in tools:
            raise UnknownNameError("tool", name[:80], tools)
        job = tools[name].job(arguments, dict(self.binding.values))
        return job.answer(await self._builder.gathered(job.plan, [job.call]))

    # -- resources

    def resources(self) -> dict[str, str]:
        """The addresses of the resources, each with what it is; none without the scope ``read``."""
        if not self._allows("read"):
            return {}
        return {
            REGISTRY_URI: "The registry: entities, feature views, features and prompts, as JSON",
            **{f"{PROMPTS_URI}{name}": f"The prompt file {name}" for name in self._files()},
        }

    def resource(self, uri: str) -> tuple[str, str]:
        """The media type and text of a resource.

        Raises:
            UnknownNameError: there is no such resource.
            ProblemError: the session may not read it.
        """
        known = self.resources()
        if not known:
            raise refusal("forbidden", "this API key lacks the scope read, which resources need; make one that has it")
        if uri not in known:
            raise UnknownNameError("resource", uri[:200], known)
        if uri == REGISTRY_URI:
            plans = self.prompts()
            listing = registry_listing(self._project, self._builder.registry, plans, self._builder.release)
            return "application/json", json.dumps(listing, ensure_ascii=False, indent=1)
        return "text/plain", self._builder.prompt_text(uri.removeprefix(PROMPTS_URI))

    def _files(self) -> list[str]:
        return [name for name in self._builder.prompt_names() if self._allows(f"prompts:{name}")]

    def _allows(self, scope: str) -> bool:
        return self._key is None or self._key.allows(scope)


def _about(one: Input) -> str:
    said = f"Type: {one.dtype}."
    if one.max_chars is not None:
        said += f" At most {one.max_chars} characters."
    if one.default is not ABSENT:
        said += " May be left out."
    return said


class _Of:
    """A registry as a key of a cache: by what it is, as it cannot be hashed."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Of) and other.registry is self.registry

    def __hash__(self) -> int:
        return id(self.registry)


@lru_cache(8)
def _base(of: _Of) -> PromptPlan:
    """A prompt that reads nothing."""
    file = parse_prompt("-", name="tools", path="tools")
    return compile_plan(of.registry, file, PromptTexts({}, {}, where="").environment())


@lru_cache(_TOOLSETS)
def _toolset(of: _Of, bound: frozenset[str], opened: frozenset[str]) -> tuple[Tool, ...]:
    """The tools of a registry: the features of each entity whose join keys are bound or open, and a search by each
    retriever of such an entity, or of none. They are made without the values, for all that have the same ones bound."""
    registry, base = of.registry, _base(of)
    made = [_features_of(registry, entity, base, bound, opened) for entity in registry.entities]
    made += [_search_of(registry, retriever, base, bound, opened) for retriever in registry.retrievers]
    return tuple(tool for tool in made if tool is not None)


def _given(entity: Entity, bound: frozenset[str], opened: frozenset[str], inputs: Mapping[str, Input]) -> Given | None:
    """What the tools of an entity have; None where it is neither bound nor open."""
    if not entity.join_keys.keys() <= bound | opened:
        return None
    open_keys = {name: dtype for name, dtype in entity.join_keys.items() if name not in bound}
    return Given(keys={}, open_keys=open_keys, open_inputs=inputs)


def _features_of(
    registry: Registry, entity: Entity, base: PromptPlan, bound: frozenset[str], opened: frozenset[str]
) -> Tool | None:
    role = role_of(entity.name, entity)
    stored = [Found(view, one) for view in registry.views_of(entity) for one in view.features]
    refused = {"names", *(join_keys(registry).keys() - opened)}  # as an input: whose data it is, is no call's to say
    computed = [FoundOnDemand(one) for one in registry.on_demand_of(entity) if not refused & one.inputs.keys()]
    choices: dict[str, Named] = {one.feature.name: (role, one, Policy()) for one in (*stored, *computed)}
    inputs = {name: Input(name=name, dtype=dtype) for one in computed for name, dtype in one.feature.inputs.items()}
    given = _given(entity, bound, opened, inputs)
    if given is None or not choices:
        return None
    about = f"the {entity.name}" + (f" ({entity.description.rstrip('.')})" if entity.description else "")
    name = f"get_{entity.name}_features"
    return features_tool(name, about, base, registry, choices, given, frozenset(join_keys(registry)))


def _search_of(
    registry: Registry, retriever: Retriever, base: PromptPlan, bound: frozenset[str], opened: frozenset[str]
) -> Tool | None:
    entity = retriever.entity
    given = Given(keys={}) if entity is None else _given(entity, bound, opened, {})
    if given is None:
        return None
    asks = retriever.embedder is not None or retriever.function is not None
    document = DocumentPlan(
        name=retriever.name,
        retriever=retriever,
        role=None if entity is None else role_of(entity.name, entity),
        query=base.template if asks else None,
        filter={},
        waits=False,
        top_k=TOP_K,
        min_score=None,
        max_tokens=None,
        on_unavailable="none",
    )
    plan = replace(base, documents=(document,))
    name = f"{'search' if asks else 'recent'}_{retriever.name}"
    return search_tool(name, plan, registry, document, {}, given, frozenset(join_keys(registry)))
