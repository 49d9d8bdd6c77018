"""A prompt compiled against a registry: how its values become its messages. Pure: online and history end here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from llmfeatures.blocks import CacheBreak
from llmfeatures.context import (
    ContextDocument,
    FeatureOrigin,
    FeatureValue,
    Manifest,
    Prefix,
    Retrieval,
    SectionTokens,
    made_manifest,
    made_retrieval,
)
from llmfeatures.document_plan import (
    Chosen,
    DocumentPlan,
    FoundDocument,
    Leg,
    from_context,
    in_template,
    partials_of,
)
from llmfeatures.errors import (
    InvalidValueError,
    RenderError,
    RequestError,
    did_you_mean,
)
from llmfeatures.plan import FeaturePlan
from llmfeatures.prompts.compiled import Compiled
from llmfeatures.prompts.environment import Names
from llmfeatures.prompts.file import ABSENT, Budget, Input
from llmfeatures.prompts.finish import rendered, segments
from llmfeatures.prompts.runtime import Message
from llmfeatures.prompts.segments import Segment
from llmfeatures.refs import stand_in
from llmfeatures.types import DType


class Finished(NamedTuple):
    """A rendered prompt: its messages, each feature as read and settled, and every value as rendered; then what
    `prompts.finish.Rendered` says."""

    messages: tuple[Message, ...]
    features: dict[str, FeatureValue]
    values: dict[str, Any]
    tokens: int | None = None
    sections: tuple[SectionTokens, ...] = ()
    cache_breaks: tuple[CacheBreak, ...] = ()
    prefix: Prefix | None = None
    conversation: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class PromptPlan:
    """A prompt file compiled against a registry."""

    name: str
    path: str
    version: str
    features: FeaturePlan
    inputs: Mapping[str, Input]
    parameters: Mapping[str, DType]
    """The join keys and inputs that a call takes, by keyword name."""
    config: Mapping[str, Any]
    description: str
    owner: str
    template: Compiled
    origins: Mapping[str, FeatureOrigin]
    input_dtypes: Mapping[str, str]
    unused: tuple[str, ...]
    """Features that the header has a policy for and the template never reads."""
    budget: Budget | None = None
    documents: tuple[DocumentPlan, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether the prompt is its rendered text: it has no budget and no cache break."""
        return self.budget is None and not self.template.breaks

    @property
    def partials(self) -> dict[str, str]:
        """The texts of the partials that the body and the queries of documents use, by name."""
        return partials_of(self.template, self.documents)

    @property
    def no_message(self) -> str:
        """What to say when the template made no message."""
        return f"prompt {self.name!r} gave no message with these values; put one outside of its conditions"

    def bind(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The canonical join keys and inputs of a call.

        Raises:
            RequestError: a name is absent, unknown, or its value has another type.
        """
        for name in given:
            if name not in self.parameters:
                raise RequestError(f"prompt {self.name!r} takes no {name!r}{did_you_mean(name, self.parameters)}")
        return self.features.keys(given), self.bind_inputs(given) if self.inputs else {}

    def bind_inputs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The canonical inputs of a call, with defaults where one is not given.

        Raises:
            RequestError: one is absent without a default, or its value does not fit.
        """
        return {name: _input(self.name, one, given.get(name, one.default)) for name, one in self.inputs.items()}

    def finish(
        self,
        slots: Sequence[FeatureValue],
        keys: Mapping[str, Any],
        inputs: Mapping[str, Any],
        as_of: datetime,
        documents: Sequence[Sequence[FoundDocument]] = (),
    ) -> Finished:
        """The prompt for what was read: limits, policies, the template, then the budget. Pure; both paths end here.

        ``documents`` are those of each name, in the order of the plan's; without them, each name has none.

        Raises:
            BudgetError: the prompt is longer than its budget, also without any section.
            FeatureNotPresentError: a feature has no value and its policy is an error.
            RenderError: the template failed with these values.
        """
        features, values = self.values(slots, keys, inputs, as_of)
        variables = self._variables(values, as_of, documents)
        made = None if self.is_plain else rendered(self.template, variables, self._limit)
        messages, conversation = self.template.placed(variables) if made is None else (made.messages, None)
        if not messages:
            raise RenderError(self.no_message)
        if made is None:
            return Finished(messages, features, values, conversation=conversation)
        return Finished(messages, features, values, *made[1:])

    def segments(
        self,
        slots: Sequence[FeatureValue],
        keys: Mapping[str, Any],
        inputs: Mapping[str, Any],
        as_of: datetime,
        documents: Sequence[Sequence[FoundDocument]] = (),
    ) -> tuple[tuple[str, tuple[Segment, ...]], ...]:
        """As `finish`, but each message as the segments that it is made of; joined they are the same text."""
        _, values = self.values(slots, keys, inputs, as_of)
        return segments(self.template, self._variables(values, as_of, documents), self._limit)

    def found_in(self, documents: Mapping[str, Sequence[ContextDocument]]) -> list[list[FoundDocument]]:
        """The documents of a `PromptContext` of this plan, as `segments` takes them."""
        return [[from_context(one) for one in documents.get(plan.name, ())] for plan in self.documents]

    @property
    def _limit(self) -> int | None:
        return None if self.budget is None else self.budget.max_tokens

    def values(
        self, slots: Sequence[FeatureValue], keys: Mapping[str, Any], inputs: Mapping[str, Any], as_of: datetime
    ) -> tuple[dict[str, FeatureValue], dict[str, Any]]:
        """Each feature settled, and every value as the template has it, after policies.

        Raises:
            FeatureNotPresentError: a feature has no value and its policy is an error.
        """
        plan = self.features
        settled = plan.found(slots, {**keys, **inputs}, as_of) if plan.computed else plan.settle(slots, as_of)
        features: dict[str, FeatureValue] = {}
        values: dict[str, Any] = {}
        for ref, found in zip(plan.outputs, settled):  # noqa: B905  strict costs, and there is one per output
            name = ref.name
            features[name] = found
            if ref.printed:
                value, status, _ = found
                values[name] = value if status == "present" else stand_in(self.name, self.path, ref, found)
        values.update(inputs)
        values.update(keys)
        return features, values

    def named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values by the names that templates use: ``user.status`` is an item of ``user``."""
        variables = Names(values)
        for ref in self.features.dotted:
            variables.setdefault(ref.role.name, {})[ref.feature] = variables.pop(ref.name)
        return variables

    def _variables(
        self, values: Mapping[str, Any], as_of: datetime, documents: Sequence[Sequence[FoundDocument]]
    ) -> dict[str, Any]:
        variables = self.named(values)
        variables["as_of"] = as_of
        for place, plan in enumerate(self.documents):
            found = documents[place] if documents else ()
            variables[plan.name] = [in_template(self.name, self.path, plan, one) for one in found]
        return variables

    def manifest(
        self,
        finished: Finished,
        keys: Mapping[str, Any],
        *,
        source: Any,
        library: str,
        clock: Any = None,
        problem: str | None = None,
        retrievals: Mapping[str, Retrieval] | None = None,
        timings: Mapping[str, float] | None = None,
        documents: Sequence[Sequence[FoundDocument]] = (),
    ) -> Manifest:
        """Where each part of a prompt came from."""
        degraded = bool(retrievals) and _is_degraded(retrievals, documents)
        for found in finished.features.values():
            if found.status == "unavailable":
                degraded = True
        return made_manifest(
            {
                "source": source,
                "clock": clock,
                "degraded": degraded,
                "problem": problem,
                "keys": keys,
                "inputs": self.input_dtypes,
                "features": self.origins,
                "library": library,
                "sections": finished.sections,
                "cache_breaks": finished.cache_breaks,
                "prefix": finished.prefix,
                "retrievals": retrievals or {},
                "timings": timings or {},
                "conversation": finished.conversation,
            }
        )

    def retrievals(self, legs: Sequence[Leg], made: Sequence[Chosen]) -> dict[str, Retrieval]:
        """What the manifest says of the documents of each name."""
        return {
            plan.name: made_retrieval(
                {
                    "retriever": plan.retriever.name,
                    "tier": leg.tier,
                    "status": "unavailable" if leg.documents is None else "skipped" if leg.skipped else "found",
                    "found": one.found,
                    "kept": len(one.documents),
                    "doubles": one.doubles,
                    "below_min_score": one.below,
                    "cut": one.cut,
                    "model": None if plan.retriever.embedder is None else plan.retriever.embedder.model,
                    "problem": leg.problem,
                    "metadata": plan.metadata,
                    "features": plan.origins,
                }
            )
            for plan, leg, one in zip(self.documents, legs, made, strict=True)
        }


def _is_degraded(retrievals: Mapping[str, Retrieval], documents: Sequence[Sequence[FoundDocument]]) -> bool:
    if any(one.status == "unavailable" for one in retrievals.values()):
        return True
    brought = (features for named in documents for document in named for features in document.features.values())
    return any(found.status == "unavailable" for features in brought for found in features.values())


def _input(prompt: str, declared: Input, value: Any) -> Any:
    if value is ABSENT:
        raise RequestError(f"prompt {prompt!r} needs the input {declared.name!r} ({declared.dtype}); give it by name")
    if value is None:
        if declared.default is None:
            return None
        raise RequestError(f"input {declared.name!r} of prompt {prompt!r} is {declared.dtype}, not None")
    try:
        value = declared.dtype.canonical(value)
    except InvalidValueError as error:
        raise RequestError(f"input {declared.name!r} of prompt {prompt!r}: {error}") from None
    if value is None:
        raise RequestError(f"input {declared.name!r} of prompt {prompt!r} is not a finite number")
    if declared.max_chars is not None and len(value) > declared.max_chars:
        raise RequestError(
            f"input {declared.name!r} of prompt {prompt!r} has {len(value)} characters; "
            f"max_chars is {declared.max_chars}"
        )
    return value
