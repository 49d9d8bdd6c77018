"""``llmfeatures list``: what the project has: features, prompts, or retrievers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmfeatures.cli import terminal
from llmfeatures.cli.options import HERE, JsonOption, ProjectOption

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmfeatures.coverage import FeatureCoverage
    from llmfeatures.ondemand import OnDemandFeature
    from llmfeatures.project import Project
    from llmfeatures.prompt_plan import PromptPlan
    from llmfeatures.releases import Release

WHAT = ("features", "prompts", "retrievers")
Used = dict[tuple[str, str], list[str]]
"""The prompts that use a feature, by view and feature."""


def list_(
    what: Annotated[str, typer.Argument(metavar="features|prompts|retrievers", help="What to list.")] = "features",
    project: ProjectOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """List the features, the prompts, or the retrievers, of the project.

    Each feature has a sample value, the share of known entities that have a value now, and the prompts that use it.
    """
    from llmfeatures.errors import RequestError, did_you_mean
    from llmfeatures.project import Project

    if what not in WHAT:
        raise RequestError(f"there is no list of {what!r}{did_you_mean(what, WHAT)}")
    loaded = Project.load(project)
    if what == "features":
        list_features(loaded, as_json=as_json)
    elif what == "retrievers":
        list_retrievers(loaded, as_json=as_json)
    else:
        list_prompts(loaded, as_json=as_json)


def list_features(project: Project, *, as_json: bool) -> None:
    """Every feature of the registry."""
    from llmfeatures.coverage import coverage
    from llmfeatures.types import json_value

    used = _used(compiled(project))
    found = coverage(project.offline, project.registry, project.clock())
    for problem in dict.fromkeys(one.problem for one in found if one.problem):
        terminal.note(problem)
    if as_json:
        terminal.write_json(
            [
                {
                    "name": one.feature.name,
                    "entity": one.view.entity.name,
                    "view": one.view.name,
                    "dtype": str(one.feature.dtype),
                    "description": one.feature.description,
                    "sample": json_value(one.sample),
                    "present": one.present,
                    "known": one.known,
                    "share": one.share,
                    "prompts": _prompts_of(one, used),
                }
                for one in found
            ]
            + [
                {
                    "name": one.name,
                    "entity": one.entity.name,
                    "view": "on demand",
                    "dtype": str(one.dtype),
                    "description": one.description,
                    "sample": None,
                    "present": None,
                    "known": None,
                    "share": None,
                    "prompts": used.get((_place(one), one.name), []),
                }
                for one in project.registry.on_demand
            ]
        )
        return
    rows = [
        (
            one.feature.name,
            str(one.feature.dtype),
            f"{one.view.name} / {one.view.entity.name}",
            _said(one),
            terminal.value_text(one.sample),
            "-" if one.share is None else f"{one.share:.0%}",
            ", ".join(_prompts_of(one, used)),
        )
        for one in found
    ]
    rows += [
        (
            one.name,
            str(one.dtype),
            _place(one),
            one.description,
            "-",
            "-",
            ", ".join(used.get((_place(one), one.name), [])),
        )
        for one in project.registry.on_demand
    ]
    columns = ("feature", "dtype", "view / entity", "description", "sample", "present", "prompts")
    terminal.table(columns, rows, numbers=("present",))


def list_prompts(project: Project, *, as_json: bool) -> None:
    """Every prompt of the project; one that cannot be compiled is left out with a note.

    ``released`` is the version in the active release. ``tokens`` are those of the text that the author wrote.
    """
    plans = compiled(project)
    release = _active(project)
    released = {} if release is None else {name: one.version for name, one in release.prompts.items()}
    tokens = [_tokens(plan) for plan in plans]
    if as_json:
        terminal.write_json(
            [_prompt_json(plan, released.get(plan.name), count) for plan, count in zip(plans, tokens, strict=True)]
        )
    else:
        documents = any(plan.documents for plan in plans)
        rows = [
            (
                plan.name,
                plan.description,
                plan.version[:12],
                *([] if release is None else [_released(plan, released)]),
                f"{count:,}" if counter else f"~{count:,}",
                ", ".join(ref.name for ref in plan.features.answers),
                ", ".join(f"{name}: {one.dtype}" for name, one in plan.inputs.items()),
                *([", ".join(_documents(plan))] if documents else []),
            )
            for plan, (count, counter) in zip(plans, tokens, strict=True)
        ]
        names = ("prompt", "description", "version", *(["released"] if release else []), "tokens", "features", "inputs")
        names += ("documents",) if documents else ()
        terminal.table(names, rows, numbers=("tokens",))
    for name in released:
        if name not in project.prompts.names():
            terminal.note(f"prompt {name!r} is in the active release and no longer in the files")


def list_retrievers(project: Project, *, as_json: bool) -> None:
    """Every retriever of the registry: whose documents, where they come from, and the prompts that use it."""
    used: dict[str, list[str]] = {}
    for plan in compiled(project):
        for name in dict.fromkeys(one.retriever.name for one in plan.documents):
            used.setdefault(name, []).append(plan.name)
    retrievers = project.registry.retrievers
    if as_json:
        terminal.write_json(
            [
                {
                    "name": one.name,
                    "entity": None if one.entity is None else one.entity.name,
                    "source": None if one.source is None else one.source.path,
                    "embedder": None if one.embedder is None else one.embedder.model,
                    "metadata": {name: str(dtype) for name, dtype in one.metadata.items()},
                    "brings": [entity.name for entity in project.registry.brought_by(one)],
                    "description": one.description,
                    "prompts": used.get(one.name, []),
                }
                for one in retrievers
            ]
        )
        return
    rows = [
        (
            one.name,
            "for all" if one.entity is None else one.entity.name,
            one.description,
            f"function, {one.declared_tier}" if one.source is None else one.source.path,
            "-" if one.embedder is None else one.embedder.model,
            ", ".join(f"{name}: {dtype}" for name, dtype in one.metadata.items()),
            ", ".join(used.get(one.name, [])),
        )
        for one in retrievers
    ]
    terminal.table(("retriever", "entity", "description", "source", "embedder", "metadata", "prompts"), rows)
    if not retrievers:
        terminal.note("the registry has no retrievers; docs/documents.md says how to declare one")


def _documents(plan: PromptPlan) -> list[str]:
    return [f"{one.name}: {one.retriever.name}" for one in plan.documents]


def _active(project: Project) -> Release | None:
    """The active release; a note says when it cannot be read."""
    from llmfeatures.errors import LLMFeaturesError

    try:
        return project.releases.active()
    except LLMFeaturesError as error:
        terminal.note(str(error))
        return None


def _released(plan: PromptPlan, released: Mapping[str, str]) -> str:
    found = released.get(plan.name)
    return "not yet" if found is None else "same" if found == plan.version else found[:12]


def _tokens(plan: PromptPlan) -> tuple[int, str | None]:
    """How many tokens the written text of a prompt has, and what counted them; None: an estimate."""
    from llmfeatures import tokens
    from llmfeatures.prompts.texts import static_text

    text = static_text(plan.template.body, plan.template.sources)
    if not tokens.installed():
        return tokens.estimate(text), None
    counter = tokens.tokenizer("o200k_base")
    return counter.count(text), counter.name


def compiled(project: Project) -> list[PromptPlan]:
    """The plans of all prompts that compile; a note says which do not."""
    from llmfeatures.errors import LLMFeaturesError

    plans: list[PromptPlan] = []
    for name in project.prompts.names():
        try:
            plans.append(project.prompts.plan(name))
        except LLMFeaturesError as error:
            terminal.note(f"prompt {name!r} is left out: {error}")
    return plans


def _used(plans: list[PromptPlan]) -> Used:
    used: Used = {}
    for plan in plans:
        owned = [(ref.view.name, ref.feature) for ref in plan.features.refs]
        owned += [(_place(ref.on_demand), ref.feature) for ref in plan.features.computed]
        for owner in owned:
            names = used.setdefault(owner, [])
            if plan.name not in names:
                names.append(plan.name)
    return used


def _place(one: OnDemandFeature) -> str:
    """What stands for an on-demand feature's view."""
    return f"on demand / {one.entity.name}"


def _said(one: FeatureCoverage) -> str:
    """The description; of an aggregation also what it computes."""
    parts = [feature.code for feature in one.view.aggregations if feature.name == one.feature.name]
    return ": ".join(part for part in [*parts, one.feature.description] if part)


def _prompts_of(one: FeatureCoverage, used: Used) -> list[str]:
    return used.get((one.view.name, one.feature.name), [])


def _prompt_json(plan: PromptPlan, released: str | None, tokens: tuple[int, str | None]) -> dict[str, Any]:
    return {
        "name": plan.name,
        "description": plan.description,
        "version": plan.version,
        "released": released,
        "tokens": tokens[0],
        "counted_by": tokens[1] or "estimate",
        "features": [ref.name for ref in plan.features.answers],
        "inputs": {name: str(one.dtype) for name, one in plan.inputs.items()},
        "documents": {one.name: one.retriever.name for one in plan.documents},
    }
