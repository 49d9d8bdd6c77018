"""Compile a prompt file against a registry: find what each name in its template means, and hash all that decides its
bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from llmfeatures.compile_documents import (
    Reads,
    brought_names,
    brought_roles,
    check_brought_inputs,
    check_filters,
    compiled_queries,
    planned_documents,
    version_of,
)
from llmfeatures.document_plan import DocumentPlan, partials_of
from llmfeatures.errors import (
    ConfigError,
    InvalidValueError,
    PromptError,
    UnknownNameError,
    did_you_mean,
)
from llmfeatures.explain import remember
from llmfeatures.plan import ComputedRef, FeaturePlan, FeatureRef, Role, plan_named, role_of
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.compiled import Compiled
from llmfeatures.prompts.compiling import compile_prompt
from llmfeatures.prompts.environment import PromptEnvironment
from llmfeatures.prompts.file import ABSENT, Budget, Input, Policy, PromptFile
from llmfeatures.prompts.tags import column
from llmfeatures.refs import origin_of
from llmfeatures.registry import Found, FoundOnDemand, Registry
from llmfeatures.schema import Entity
from llmfeatures.tokens import Tokenizer, tokenizer
from llmfeatures.types import DType, json_text

AnyFound = Found | FoundOnDemand

RENDERER_FORMAT: Final = 2
"""Part of every prompt's version: raised when escaping, whitespace, text forms or filters change a prompt's bytes."""

PACKING_FORMAT: Final = 1
"""Part of the version of every prompt with a budget: raised when other sections, or other parts of them, are kept."""


def compile_plan(registry: Registry, file: PromptFile, environment: PromptEnvironment) -> PromptPlan:
    """Compile a prompt file against a registry.

    Raises:
        PromptError: the template cannot be compiled, names something that is not there, or the header's policies do
            not fit what they name.
    """
    template = compile_prompt(
        environment,
        file.body,
        name=file.name,
        path=file.path,
        line_offset=file.body_line,
        tokenizer=_tokenizer(file),
        documents=bool(file.header.documents),
    )
    _check_limits(file, template)
    queries = compiled_queries(file, environment, template.tokenizer)
    names = _Names(registry, file, Reads.of(file, template, queries))
    policies = names.policies()
    features = plan_named(registry, [(name, *found) for name, found in names.features().items()], policies)
    inputs = _inputs(file, features)
    documents = planned_documents(registry, file, template, queries, names.roles, policies)
    check_filters(file, documents, features, inputs)
    features = _with_roles(features, [*(one.role for one in documents if one.role is not None), *names.printed_roles()])
    check_brought_inputs(file, documents, inputs)
    plan = PromptPlan(
        name=file.name,
        path=file.path,
        version=_version(file, template, inputs, features, documents),
        features=features,
        inputs=inputs,
        parameters={**features.parameters, **{name: one.dtype for name, one in inputs.items()}},
        config=file.header.config,
        description=file.header.description,
        owner=file.header.owner,
        template=template,
        origins={ref.name: origin_of(ref) for ref in features.outputs},
        input_dtypes={
            **{name: str(one.dtype) for name, one in inputs.items()},
            **{name: str(dtype) for name, dtype in features.parameters.items()},
        },
        unused=tuple(sorted(set(file.header.features) - names.policy_names_used() - brought_names(documents))),
        budget=file.header.budget,
        documents=documents,
    )
    remember(plan)
    return plan


def _tokenizer(file: PromptFile) -> Tokenizer | None:
    """That of the header's budget: a limit is counted, never estimated."""
    budget = file.header.budget
    if budget is None:
        return None
    try:
        return tokenizer(budget.tokenizer)
    except ConfigError as error:
        raise file.error(f"budget: {error}", "budget", "tokenizer") from None


def _check_limits(file: PromptFile, template: Compiled) -> None:
    """Refuse a limit of a section that nothing can count."""
    for path, section in template.sections:
        if section.max_tokens is not None and file.header.budget is None:
            raise PromptError(
                f"section {section.name!r} has max_tokens, which need a tokenizer: give the header a budget, like "
                "budget: {max_tokens: 4000, tokenizer: o200k_base}",
                path=path, line=int(section.line), column=column(section.line),
            )  # fmt: skip


def _inputs(file: PromptFile, features: FeaturePlan) -> dict[str, Input]:
    """The header's inputs, and those that on-demand features add: these are required."""
    inputs = dict(file.header.inputs)
    taken = {*features.parameters, *(ref.name.partition(".")[0] for ref in features.outputs if ref.printed), "as_of"}
    for one in features.computed:
        for name, dtype in one.on_demand.inputs.items():
            if name in taken:
                raise file.error(
                    f"input {name!r} of on-demand feature {one.name!r} is also a join key, feature or entity of this "
                    "prompt; rename the input",
                    "inputs",
                )
            known = inputs.setdefault(name, Input(name=name, dtype=dtype))
            if known.dtype != dtype:
                raise file.error(
                    f"input {name!r} is {known.dtype}, and on-demand feature {one.name!r} takes it as {dtype}; "
                    "use one dtype",
                    "inputs",
                    name,
                )
    return inputs


def _with_roles(features: FeaturePlan, roles: Sequence[Role]) -> FeaturePlan:
    """The plan with the roles whose documents a prompt has, or whose join keys it prints, also those without a feature:
    whose prompt it is, they say as well."""
    known = {role.name for role in features.roles}
    extra = {role.name: role for role in roles if role.name not in known}
    if not extra:
        return features
    made = replace(features, roles=(*features.roles, *extra.values()), fields=(*features.fields, *(() for _ in extra)))
    return _with_printed_keys(made, tuple(extra.values()))


def _with_printed_keys(features: FeaturePlan, roles: Sequence[Role]) -> FeaturePlan:
    """The plan with the join keys that the template prints among its parameters, also of roles without a feature."""
    extra = {
        name: dtype
        for role in roles
        for name, dtype in zip(role.parameters, role.entity.join_keys.values(), strict=True)
        if name not in features.parameters
    }
    return replace(features, parameters={**features.parameters, **extra}) if extra else features


class _Names:
    """What each name in a template means."""

    def __init__(self, registry: Registry, file: PromptFile, template: Reads) -> None:
        self.registry, self.file, self.template = registry, file, template
        self.roles = self._roles()
        self.parameters = {name for role in self.roles.values() for name in role.parameters}
        self._check_distinct()
        self._found: dict[str, tuple[Role, AnyFound]] = {}
        self._printed: list[str] = []
        ambiguous: list[str] = []
        for name in sorted(template.names):
            self._resolve(name, ambiguous)
        for name in ambiguous:
            self._resolve_ambiguous(name)
        self._drop_doubles()
        self._check_used()

    def features(self) -> dict[str, tuple[Role, AnyFound]]:
        """Each feature that the template reads, by the name it has there, in order of first use."""
        return dict(sorted(self._found.items(), key=lambda item: self._position(item[0]) or ("", 0, 0)))

    def printed_roles(self) -> list[Role]:
        """Roles that must be named because the template prints a join key of theirs that no feature's role has."""
        named = {name for role, _ in self._found.values() for name in role.parameters}
        return [
            min((role for role in self.roles.values() if name in role.parameters), key=lambda one: len(one.parameters))
            for name in self._printed
            if name not in named
        ]

    def policies(self) -> dict[tuple[str, str], Policy]:
        """The header's policies by role and feature, with defaults checked against dtypes."""
        policies: dict[tuple[str, str], Policy] = {}
        for name, policy in self.file.header.features.items():
            for role, found in self._named(name):
                if (role.name, found.feature.name) in policies:
                    raise self.file.error(f"{name}: the feature has a policy already", "features", name)
                policies[role.name, found.feature.name] = self._checked(name, policy, found)
        return policies

    def policy_names_used(self) -> set[str]:
        """The names in the header's features that stand for a feature which the template reads."""
        read = self._read()
        return {
            name
            for name in self.file.header.features
            if any((role.name, found.feature.name) in read for role, found in self._named(name))
        }

    def _read(self) -> set[tuple[str, str]]:
        """Role and feature of all that the template reads, with what its on-demand features are computed from."""
        read: set[tuple[str, str]] = set()
        for role, found in self._found.values():
            read.add((role.name, found.feature.name))
            if isinstance(found, FoundOnDemand):
                read.update((role.name, one) for one in found.feature.parameters)
        return read

    def _roles(self) -> dict[str, Role]:
        declared = self.file.header.entities
        if not declared:
            return {entity.name: role_of(entity.name, entity) for entity in self.registry.entities}
        roles: dict[str, Role] = {}
        for name, entity in declared.items():
            try:
                roles[name] = role_of(name, self.registry.entity(entity))
            except UnknownNameError as error:
                raise self.file.error(str(error), "entities", name) from None
        return roles

    def _check_used(self) -> None:
        """What the prompt uses has one meaning per name, in the template and among the caller's keywords."""
        taken: dict[str, str] = dict.fromkeys(self.file.header.inputs, "an input")
        roles = {role.name: role for role, _ in self._found.values()} | {
            role.name: role for role in self.printed_roles()
        }
        owners: dict[str, tuple[str, str]] = {}
        for role in roles.values():
            for parameter, key in zip(role.parameters, role.entity.join_keys, strict=True):
                meaning = (key, role.name if parameter != key else "")
                if owners.setdefault(parameter, meaning) != meaning:
                    raise self.file.error(
                        f"two roles both take their join key as {parameter!r}; rename a role", "entities"
                    )
                taken[parameter] = "a join key"
        for name, (role, found) in self._found.items():
            bare, kind = (role.name, "an entity") if "." in name else (name, "a feature")
            if taken.setdefault(bare, kind) != kind:
                raise self._error(
                    name,
                    f"{bare!r} is {taken[bare]} and {kind} of this prompt; declare the entity under another "
                    f"name in the header, like entities: {{viewer: {role.entity.name}}}, and write "
                    f"viewer.{found.feature.name}",
                )

    def _check_distinct(self) -> None:
        for section, kind in (("inputs", "input"), ("documents", "documents")):
            for name in getattr(self.file.header, section):
                taken = (
                    "a join key" if name in self.parameters
                    else "an entity" if name in self.roles
                    else "an input" if kind == "documents" and name in self.file.header.inputs
                    else "a feature" if self._choices(name)
                    else None
                )  # fmt: skip
                if taken:
                    raise self.file.error(
                        f"{kind} {name!r} is also {taken} of this prompt; rename the {kind}", section, name
                    )
        for name in self.file.header.entities:
            if name in self.parameters or self._choices(name):
                raise self.file.error(f"role {name!r} is also a join key or feature; rename it", "entities", name)

    def _of(self, entity: Entity) -> list[AnyFound]:
        stored = [Found(view, feature) for view in self.registry.views_of(entity) for feature in view.features]
        return [*stored, *map(FoundOnDemand, self.registry.on_demand_of(entity))]

    def _choices(self, name: str) -> list[tuple[Role, AnyFound]]:
        """The roles that have a feature of this bare name."""
        return [
            (role, found)
            for role in self.roles.values()
            for found in self._of(role.entity)
            if found.feature.name == name
        ]

    def _known(self) -> list[str]:
        return [found.feature.name for role in self.roles.values() for found in self._of(role.entity)]

    def _named(self, name: str) -> list[tuple[Role, AnyFound]]:
        """The features that a name in the header stands for: a bare one for each role that has it."""
        role, _, feature = name.rpartition(".")
        found = [one for one in self._choices(feature) if role in ("", one[0].name)] or [
            (one, feature_found)
            for one in brought_roles(self.registry, self.file, self.roles)
            for feature_found in self._of(one.entity)
            if feature_found.feature.name == feature and role in ("", one.name)
        ]
        if not found:
            raise self.file.error(f"unknown feature {name!r}{did_you_mean(name, self._known())}", "features", name)
        used = self._read()
        return [one for one in found if (one[0].name, one[1].feature.name) in used] or found[:1]

    def _resolve(self, name: str, ambiguous: list[str]) -> None:
        if name == "as_of" or name in self.file.header.inputs or name in self.file.header.documents:
            return
        choices = self._choices(name)
        if choices and name in self.parameters:
            raise self._error(
                name,
                f"{name!r} is both a feature and a join key here; write the feature as {choices[0][0].name}.{name}",
            )
        if name in self.roles and (not choices or None not in self.template.attributes[name]):
            self._resolve_role(name)
        elif name in self.parameters:
            self._printed.append(name)
        elif len(choices) == 1:
            self._found[name] = choices[0]
        elif choices:
            ambiguous.append(name)
        else:
            known = [
                *self.file.header.inputs,
                *self.file.header.documents,
                *self.parameters,
                *self.roles,
                "as_of",
                *self._known(),
            ]
            raise self._error(name, f"unknown name {name!r}{did_you_mean(name, known)}")

    def _resolve_role(self, name: str) -> None:
        role = self.roles[name]
        for attribute in self.template.attributes[name]:
            if attribute is None:
                raise self._error(
                    name, f"{name!r} is an entity: write {name}.FEATURE where you use it, with the feature's own name"
                )
            found = [one for one in self._choices(attribute) if one[0].name == role.name]
            if not found:
                known = [one.feature.name for one in self._of(role.entity)]
                dotted = f"{name}.{attribute}"
                raise self._error(
                    dotted, f"entity {role.entity.name!r} has no feature {attribute!r}{did_you_mean(attribute, known)}"
                )
            self._found[f"{name}.{attribute}"] = found[0]

    def _resolve_ambiguous(self, name: str) -> None:
        certain = {role.name for role, _ in self._found.values()} | {role.name for role in self.printed_roles()}
        choices = [one for one in self._choices(name) if one[0].name in certain]
        if len(choices) != 1:
            written = " or ".join(f"{role.name}.{name}" for role, _ in self._choices(name))
            raise self._error(name, f"feature {name!r} belongs to several entities of this prompt; write {written}")
        self._found[name] = choices[0]

    def _drop_doubles(self) -> None:
        """`status` and `user.status` in one template are one feature; the template finds it under both names."""
        bare = {(role.name, found.feature.name) for name, (role, found) in self._found.items() if "." not in name}
        for name, (role, found) in list(self._found.items()):
            if "." in name and (role.name, found.feature.name) in bare:
                raise self._error(name, f"write {found.feature.name!r} or {name!r} in a prompt, not both")

    def _checked(self, name: str, policy: Policy, found: AnyFound) -> Policy:
        if policy.default is ABSENT:
            return policy
        dtype = found.feature.dtype
        if dtype.kind == "enum":
            dtype = DType("str")
        try:
            default = dtype.canonical(policy.default)
        except InvalidValueError as error:
            raise self.file.error(
                f"{name}: the default does not fit: {error}{self.file.reading('features', name, 'default')}",
                "features",
                name,
                "default",
            ) from None
        return replace(policy, default=default)

    def _position(self, name: str) -> tuple[str, int, int] | None:
        found = self.template.positions.get(name)
        return None if found is None else (found[0], found[1], found[2] or 0)

    def _error(self, name: str, message: str) -> PromptError:
        path, line, column = self._position(name) or (self.file.path, None, None)
        return PromptError(message, path=path, line=line, column=column or None)


def _aggregated(ref: FeatureRef | ComputedRef) -> dict[str, str]:
    """What an aggregated feature computes; nothing for a plain one."""
    if isinstance(ref, ComputedRef) or not ref.view.aggregates:
        return {}
    feature = next(one for one in ref.view.aggregations if one.name == ref.feature)
    return {"code": f"{feature.code} every {ref.view.cadence}"}


def _version(
    file: PromptFile,
    template: Compiled,
    inputs: Mapping[str, Input],
    features: FeaturePlan,
    documents: Sequence[DocumentPlan],
) -> str:
    """SHA-256 over everything that decides the prompt's bytes."""
    header = file.header
    parts = {
        "format": RENDERER_FORMAT,
        "body": file.body,
        "partials": partials_of(template, documents),
        "entities": dict(header.entities),
        "features": [
            {
                "name": ref.name,
                "entity": ref.role.entity.name,
                "dtype": str(ref.dtype),
                "ttl": _micros(ref.view.ttl if isinstance(ref, FeatureRef) else None),
                "max_age": _micros(ref.policy.max_age),
                "default": "" if ref.policy.default is ABSENT else json_text(ref.policy.default),
                "on_missing": ref.policy.on_missing,
                "on_unavailable": ref.policy.on_unavailable,
                **_aggregated(ref),
                **({} if isinstance(ref, FeatureRef) else {"code": _code(ref)}),
            }
            for ref in sorted(features.outputs, key=lambda one: one.name)
        ],
        "keys": {name: str(dtype) for name, dtype in sorted(features.parameters.items())},
        "inputs": [
            [name, str(one.dtype), one.max_chars, "" if one.default is ABSENT else json_text(one.default)]
            for name, one in sorted(inputs.items())
        ],
        "config": json_text(header.config),
        **_budget_version(header.budget, template),
        **version_of(documents, file),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _budget_version(budget: Budget | None, template: Compiled) -> dict[str, object]:
    """What decides the bytes of a prompt with a budget beside its body; nothing for another."""
    if budget is None or template.tokenizer is None:
        return {}
    return {"budget": [PACKING_FORMAT, budget.max_tokens, template.tokenizer.identity]}


def _code(ref: ComputedRef) -> list[object]:
    return [ref.on_demand.code_hash(), ref.on_demand.vectorized, [one.name for one in ref.arguments]]


def _micros(value: timedelta | None) -> int | None:
    return None if value is None else value // timedelta(microseconds=1)
