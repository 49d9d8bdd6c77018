"""``GET /v1/registry``: what can be asked for, by name; where rows come from is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmfeatures.clock import duration_text
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.file import ABSENT
from llmfeatures.registry import Registry
from llmfeatures.schema import PushSource
from llmfeatures.types import json_value
from llmfeatures.version import __version__


def registry_listing(
    project: str, registry: Registry, plans: Mapping[str, PromptPlan], release: str | None
) -> dict[str, Any]:
    """The registry and the prompts as plain JSON. Durations are text like ``30d``, dtypes as in the registry;
    ``release`` is the id of the release, None for the files."""
    return {
        "project": project,
        "release": release,
        "library": __version__,
        "entities": [
            {
                "name": one.name,
                "description": one.description,
                "join_keys": {key: str(dtype) for key, dtype in one.join_keys.items()},
            }
            for one in registry.entities
        ],
        "views": [
            {
                "name": view.name,
                "entity": view.entity.name,
                "features": [
                    {"name": one.name, "dtype": str(one.dtype), "description": one.description} for one in view.features
                ],
                "ttl": None if view.ttl is None else duration_text(view.ttl),
                "cadence": None if view.cadence is None else duration_text(view.cadence),
                "description": view.description,
                "owner": view.owner,
                "pushed": isinstance(view.source, PushSource),
            }
            for view in registry.views
        ],
        "on_demand": [
            {
                "name": one.name,
                "entity": one.entity.name,
                "dtype": str(one.dtype),
                "inputs": {name: str(dtype) for name, dtype in one.inputs.items()},
                "description": one.description,
            }
            for one in registry.on_demand
        ],
        "retrievers": [
            {
                "name": one.name,
                "entity": None if one.entity is None else one.entity.name,
                "metadata": {name: str(dtype) for name, dtype in one.metadata.items()},
                "embedder": None if one.embedder is None else one.embedder.model,
                "description": one.description,
                "owner": one.owner,
            }
            for one in registry.retrievers
        ],
        "prompts": [_prompt(plan) for _, plan in sorted(plans.items())],
    }


def _prompt(plan: PromptPlan) -> dict[str, Any]:
    return {
        "name": plan.name,
        "version": plan.version,
        "description": plan.description,
        "owner": plan.owner,
        "join_keys": {name: str(dtype) for name, dtype in plan.features.parameters.items()},
        "inputs": {
            name: {
                "dtype": str(one.dtype),
                "required": one.default is ABSENT,
                "default": None if one.default is ABSENT else json_value(one.default),
                "max_chars": one.max_chars,
            }
            for name, one in plan.inputs.items()
        },
        "features": {name: origin.model_dump(mode="json") for name, origin in plan.origins.items()},
        "documents": {one.name: {"retriever": one.retriever.name, "top_k": one.top_k} for one in plan.documents},
    }
