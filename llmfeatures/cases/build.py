"""From a case to its prompt: given values take the place of what a store would answer, and all else is as in a call."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from datetime import timedelta
from typing import Any

from llmfeatures.cases.documents import beside, check_names
from llmfeatures.cases.file import Case
from llmfeatures.cases.nodes import Given, Written, canonical
from llmfeatures.clock import back
from llmfeatures.context import FeatureValue, PromptContext
from llmfeatures.contexts import given_context
from llmfeatures.errors import InvalidValueError, PromptError, did_you_mean
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.refs import UNAVAILABLE, ComputedRef, FeatureRef
from llmfeatures.types import DType, placeholder

_INSTANT = timedelta(microseconds=1)
_MISSING = FeatureValue(None, "missing", None)


class WrongCaseError(PromptError):
    """A case that names what its prompt does not have, or gives values that are none of their dtypes; ``problems`` are
    all of these."""

    def __init__(self, problems: Sequence[PromptError]) -> None:
        first = problems[0]
        super().__init__(first.message, path=first.path, line=first.line, column=first.column)
        self.problems = tuple(problems)


def build_case(plan: PromptPlan, case: Case) -> PromptContext:
    """The prompt of a case.

    Raises:
        WrongCaseError: the case names something that the prompt does not have, or a value is none of its dtype.
        RequestError: a required input is not given, or too long.
        RenderError: the prompt cannot be built of these values.
    """
    reading = _Reading(plan, case)
    given, slots = reading.given(), reading.slots()
    check_names(plan, case.documents, reading.wrong)
    reading.refuse()
    call = plan.bind(given)
    documents = beside(plan, case.documents, call[1], case.as_of, reading.wrong)
    reading.refuse()
    return given_context(plan, call, _computed(plan, case, slots, {**call[0], **call[1]}), case.as_of, documents)


class _Reading:
    """Reads what a case gives, and notes all that is wrong with it."""

    def __init__(self, plan: PromptPlan, case: Case) -> None:
        self.plan, self.case = plan, case
        self.problems: list[PromptError] = []

    def refuse(self) -> None:
        """Raise what is wrong so far."""
        if self.problems:
            raise WrongCaseError(sorted(self.problems, key=lambda one: (one.line or 0, one.column or 0)))

    def given(self) -> dict[str, Any]:
        """Join keys, with placeholders for those that are not given, and inputs."""
        inputs = {name: one.dtype for name, one in self.plan.inputs.items()}
        keys = {name: dtype for name, dtype in self.plan.parameters.items() if name not in inputs}
        given: dict[str, Any] = {name: placeholder(name, dtype) for name, dtype in keys.items()}
        for kind, known, values in (("join key", keys, self.case.keys), ("input", inputs, self.case.inputs)):
            for name, one in values.items():
                if name in known:
                    given[name] = self._value(name, known[name], one)
                else:
                    self.wrong(f"the prompt has no {kind} {name!r}{did_you_mean(name, known)}", one)
        return given

    def slots(self) -> dict[int, FeatureValue]:
        """The features that are given, or have a status, by their place in the plan's outputs."""
        case, outputs = self.case, self.plan.features.outputs
        found: dict[int, FeatureValue] = {}
        for name, one in case.features.items():
            place = self._place(name, one, found)
            if place is not None:
                value = self._value(name, outputs[place].dtype, one)
                event = back(case.as_of, case.ages[name][0]) if name in case.ages else case.as_of
                found[place] = FeatureValue(value, "null" if value is None else "present", event)
        for name, (status, at) in case.statuses.items():
            place = self._place(name, at, found)
            if place is not None:
                found[place] = _without_value(status, outputs[place], case)
        for name, (_, at) in case.ages.items():
            if name not in case.features:
                self.wrong(f"{name} has an age and no value; give its value under features", at)
        return found

    def _value(self, name: str, dtype: DType, given: Given) -> Any:
        try:
            return canonical(name, dtype, given)
        except InvalidValueError as error:
            self.wrong(str(error), given)
            return None

    def _place(self, name: str, at: Given | Written, found: Container[int]) -> int | None:
        """Where a feature is in the outputs: by its name in the template, as ``role.feature``, or as the one feature
        of that bare name."""
        outputs = self.plan.features.outputs
        ways = (
            [place for place, ref in enumerate(outputs) if ref.name == name],
            [place for place, ref in enumerate(outputs) if f"{ref.role.name}.{ref.feature}" == name],
            [place for place, ref in enumerate(outputs) if ref.feature == name],
        )
        place = next((places[0] for places in ways if len(places) == 1), None)
        if place is not None and place in found:
            self.wrong(f"{name} is given twice, under two names", at)
        elif place is None and ways[2]:
            written = " or ".join(f"{outputs[one].role.name}.{name}" for one in ways[2])
            self.wrong(f"{name!r} belongs to several entities of this prompt; write {written}", at)
        elif place is None and name in self.plan.parameters:
            section = "inputs" if name in self.plan.inputs else "keys"
            self.wrong(f"{name!r} is no feature of the prompt: give it under {section}", at)
        elif place is None:
            known = [ref.name for ref in outputs]
            self.wrong(f"the prompt reads no feature {name!r}{did_you_mean(name, known)}", at)
        return place

    def wrong(self, message: str, at: Given | Written) -> None:
        """Note what is wrong."""
        self.problems.append(PromptError(message, path=self.case.path, line=at.line, column=at.column))


def _computed(
    plan: PromptPlan, case: Case, found: Mapping[int, FeatureValue], given: Mapping[str, Any]
) -> list[FeatureValue]:
    """All features in the order of the plan's outputs, as a store would give them; on-demand ones are computed, but
    for those that have a value in the case."""
    refs = [found.get(place, _MISSING) for place in range(len(plan.features.refs))]
    settled = plan.features.settle(refs, case.as_of)
    for place, ref in enumerate(plan.features.computed, start=len(refs)):
        settled.append(found[place] if place in found else ref.value(settled[: len(refs)], given, case.as_of))
    return settled


def _without_value(status: str, ref: FeatureRef | ComputedRef, case: Case) -> FeatureValue:
    match status:
        case "missing":
            return _MISSING
        case "unavailable":
            return UNAVAILABLE
        case "null":
            return FeatureValue(None, "null", case.as_of)
        case _:
            return FeatureValue(None, "expired", back(case.as_of, (ref.limit or timedelta(0)) + _INSTANT))
