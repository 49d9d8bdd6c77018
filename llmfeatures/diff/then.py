# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""The project of another revision, in a process of its own: its registry is code, and Python imports a module once.

    python -P -m llmfeatures.diff.then REQUEST.json

The request and the answer are files of a temporary folder; nobody else reads them, and they have no format number.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmfeatures.builder import Prompts
from llmfeatures.checker.engine import check_prompt
from llmfeatures.config import find_config, open_offline
from llmfeatures.diff.compare import constants
from llmfeatures.diff.sides import one
from llmfeatures.errors import LLMFeaturesError
from llmfeatures.historical_documents import HistoricalDocuments, Retrievers, documents_of
from llmfeatures.plan import FeaturePlan
from llmfeatures.ports import OfflineStore
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.environment import make_environment
from llmfeatures.prompts.file import ABSENT, Policy, read_prompt
from llmfeatures.registry import Registry, load_registry
from llmfeatures.releases.definitions import registry_json
from llmfeatures.retrievers import Retrieving
from llmfeatures.types import json_value


def described(plan: PromptPlan) -> dict[str, Any]:
    """What a prompt and its documents read and how, as JSON."""
    read = [ref for features in plan_features(plan) for ref in features.outputs]
    return {
        "version": plan.version,
        "features": {
            f"{ref.role.entity.name}.{ref.feature}": {"name": ref.name, **policy_json(ref.policy)}
            for ref in read
            if ref.printed
        },
        "reads": sorted({f"{ref.role.entity.name}.{ref.feature}" for ref in read}),
    }


def plan_features(plan: PromptPlan) -> list[FeaturePlan]:
    """The features of a prompt, and those that each of its documents brings."""
    return [plan.features, *(one.features for document in plan.documents for one in document.brought)]


def policy_json(policy: Policy) -> dict[str, Any]:
    """A policy as JSON; a default that is not given is left out."""
    given = {} if policy.default is ABSENT else {"default": json_value(policy.default)}
    limit = None if policy.max_age is None else policy.max_age.total_seconds()
    return {**given, "on_missing": policy.on_missing, "on_unavailable": policy.on_unavailable, "max_age": limit}


def present_findings(registry: Registry, folder: Path) -> dict[str, dict[str, Any]]:
    """What the checker says of each prompt in a folder under a registry: the features that it reads, and its findings
    as (code, path, line, column, message, severity)."""
    environment = make_environment(folder)
    made: dict[str, dict[str, Any]] = {}
    for name in Prompts(registry, folder).names():
        try:
            report = check_prompt(registry, read_prompt(folder, name), environment)
        except LLMFeaturesError:  # its header is wrong, under any registry
            continue
        made[name] = {
            "features": sorted(report.features),
            "findings": [
                [found.code, found.path, found.line, found.column, found.message, found.severity]
                for found in report.findings
            ],
        }
    return made


def rendered(
    offline: OfflineStore, retrievers: Retrievers, plan: PromptPlan, spine: pa.Table, inputs: Mapping[str, Any]
) -> tuple[list[str | None], list[str | None]]:
    """The prompt ids of a spine's rows, and why they have none."""
    identities: list[str | None] = []
    errors: list[str | None] = []

    def documents(of: PromptPlan) -> HistoricalDocuments | None:
        return documents_of(of, offline, retrievers, "known")

    for batch in one(offline, plan, spine, clock="known", documents=documents, inputs=inputs):
        identities += batch.column("prompt_id").to_pylist()
        errors += batch.column("error").to_pylist()
    return identities, errors


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    tree, present = Path(request["tree"]), find_config(request["root"])
    config = find_config(tree)
    registry = load_registry(config.project.registry, config.root)
    _check_own(config.project.registry, tree)
    prompts = Prompts(registry, config.prompts)
    answer: dict[str, Any] = {"registry": registry_json(registry), "prompts": {}}
    answer["present"] = present_findings(registry, present.prompts)
    offline, retrievers = open_offline(present), Retrieving(present)
    try:
        views = {one["name"]: value_part(one) for one in answer["registry"]["views"]}
        changed = {name for name, view in views.items() if view != request["views"].get(name)}
        for name in prompts.names() if config.prompts.is_dir() else ():
            answer["prompts"][name] = _prompt(prompts, name, offline, retrievers, request["spines"].get(name), changed)
    finally:
        retrievers.close()
        offline.close()
    return answer


def _prompt(
    prompts: Prompts,
    name: str,
    offline: OfflineStore,
    retrievers: Retrievers,
    asked: Mapping[str, Any] | None,
    changed: Collection[str],
) -> dict[str, Any]:
    """A prompt as it was then; rendered where it, or a view that it reads, is another now."""
    try:
        plan = prompts.plan(name)
        made = described(plan)
        other = any(ref.view.name in changed for features in plan_features(plan) for ref in features.refs)
        if asked is not None and (other or asked["version"] != plan.version):
            with pa.memory_map(asked["path"]) as file:
                spine = pa.ipc.open_file(file).read_all()
            inputs = constants(plan, {}, stand_in=True, notes=[])
            made["ids"], made["errors"] = rendered(offline, retrievers, plan, spine, inputs)
    except LLMFeaturesError as error:
        return {"problem": str(error)}
    return made


def value_part(view: Mapping[str, Any]) -> dict[str, Any]:
    """As much of a view's JSON as decides values."""
    aggregates = any("function" in one or "window" in one for one in view["features"])
    beside = {"description", "owner", "tags", "expect", "lateness", *(() if aggregates else ("cadence",))}
    kept = {name: value for name, value in view.items() if name not in beside}
    own = [{name: value for name, value in one.items() if name not in beside} for one in view["features"]]
    return {**kept, "features": own}


def _check_own(written: str, tree: Path) -> None:
    """Refuse a registry that is a module from elsewhere: it would be the present one.

    Raises:
        DefinitionError: it is.
    """
    module = sys.modules.get(written.partition(":")[0])
    file = getattr(module, "__file__", None)
    if file is not None and not Path(file).resolve().is_relative_to(tree.resolve()):
        from llmfeatures.errors import DefinitionError

        raise DefinitionError(f"registry {written} is not in the project's folder, so how it was then is not known")


def main(path: str) -> None:
    """Read a request and write the answer beside it."""
    request = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        answer = _answer(request)
    except LLMFeaturesError as error:
        answer = {"error": str(error)}
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
