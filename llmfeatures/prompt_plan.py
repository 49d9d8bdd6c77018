"""A prompt compiled against a registry: how its values become its messages. Pure: online and history end here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from llmfeatures.blocks import CacheBreak
from llmfeatures.context import FeatureOrigin, FeatureValue, Manifest, Prefix, SectionTokens, made_manifest
from llmfeatures.errors import (
    FeatureNotPresentError,
    InvalidValueError,
    RenderError,
    RequestError,
    did_you_mean,
)
from llmfeatures.plan import FeaturePlan
from llmfeatures.prompts.environment import Compiled, Message, Names
from llmfeatures.prompts.file import ABSENT, Budget, Input
from llmfeatures.prompts.finish import rendered, segments
from llmfeatures.prompts.segments import Segment
from llmfeatures.refs import (
    ComputedRef,
    FeatureRef,
)
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

    @property
    def is_plain(self) -> bool:
        """Whether the prompt is its rendered text: it has no budget and no cache break."""
        return self.budget is None and not self.template.breaks

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
        self, slots: Sequence[FeatureValue], keys: Mapping[str, Any], inputs: Mapping[str, Any], as_of: datetime
    ) -> Finished:
        """The prompt for what was read: limits, policies, the template, then the budget. Pure; both paths end here.

        Raises:
            BudgetError: the prompt is longer than its budget, also without any section.
            FeatureNotPresentError: a feature has no value and its policy is an error.
            RenderError: the template failed with these values.
        """
        features, values = self._values(slots, keys, inputs, as_of)
        variables = self._variables(values, as_of)
        made = None if self.is_plain else rendered(self.template, variables, self._limit)
        messages = self.template.render(variables) if made is None else made.messages
        if not messages:
            raise RenderError(self.no_message)
        if made is None:
            return Finished(messages, features, values)
        return Finished(messages, features, values, *made[1:])

    def segments(
        self, slots: Sequence[FeatureValue], keys: Mapping[str, Any], inputs: Mapping[str, Any], as_of: datetime
    ) -> tuple[tuple[str, tuple[Segment, ...]], ...]:
        """As `finish`, but each message as the segments that it is made of; joined they are the same text."""
        _, values = self._values(slots, keys, inputs, as_of)
        return segments(self.template, self._variables(values, as_of), self._limit)

    @property
    def _limit(self) -> int | None:
        return None if self.budget is None else self.budget.max_tokens

    def _values(
        self, slots: Sequence[FeatureValue], keys: Mapping[str, Any], inputs: Mapping[str, Any], as_of: datetime
    ) -> tuple[dict[str, FeatureValue], dict[str, Any]]:
        plan = self.features
        settled = plan.found(slots, {**keys, **inputs}, as_of) if plan.computed else plan.settle(slots, as_of)
        features: dict[str, FeatureValue] = {}
        values: dict[str, Any] = {}
        for ref, found in zip(plan.outputs, settled):  # noqa: B905  strict costs, and there is one per output
            name = ref.name
            features[name] = found
            if ref.printed:
                value, status, _ = found
                values[name] = value if status == "present" else self._stand_in(ref, found)
        values.update(inputs)
        values.update(keys)
        return features, values

    def _variables(self, values: Mapping[str, Any], as_of: datetime) -> dict[str, Any]:
        variables = Names(values)
        variables["as_of"] = as_of
        for ref in self.features.dotted:
            variables.setdefault(ref.role.name, {})[ref.feature] = variables.pop(ref.name)
        return variables

    def _stand_in(self, ref: FeatureRef | ComputedRef, found: FeatureValue) -> Any:
        policy = ref.policy
        if found.status == "unavailable" and policy.on_unavailable == "error":
            raise FeatureNotPresentError(
                f"feature {ref.name!r} of prompt {self.name!r} is unavailable, and its policy is "
                "on_unavailable: error; fill or reach the online store (llmfeatures materialize)",
                feature=ref.name,
                status=found.status,
            )
        if policy.default is not ABSENT:
            # a list or json default is the caller's to change
            return policy.default if ref.dtype.kind not in ("list", "json") else deepcopy(policy.default)
        if policy.on_missing == "none":
            return None
        raise FeatureNotPresentError(
            f"feature {ref.name!r} of prompt {self.name!r} is {found.status}; in the header of {self.path} under "
            f"features, give {ref.name}: {{default: VALUE}} for a value to print instead, or {{on_missing: none}} "
            "for a template that handles None itself",
            feature=ref.name,
            status=found.status,
        )

    def manifest(
        self,
        finished: Finished,
        keys: Mapping[str, Any],
        *,
        source: Any,
        library: str,
        clock: Any = None,
        problem: str | None = None,
    ) -> Manifest:
        """Where each part of a prompt came from."""
        degraded = False
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
            }
        )


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
