"""A registry as JSON, and back. A function cannot be kept as JSON: its hash is, and its source for people to read."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import Any, NamedTuple, cast

from llmfeatures.errors import DefinitionError, ReleaseError
from llmfeatures.ondemand import OnDemandFeature, source_of
from llmfeatures.registry import Registry
from llmfeatures.releases.retrievers import rebuilt_retriever, retriever_json
from llmfeatures.retriever import Retriever
from llmfeatures.schema import Entity, FeatureView


class Rebuilt(NamedTuple):
    """A registry of a release. ``absent`` says of each on-demand feature, by ``entity.name``, and of each retriever, by
    its name, that it lacks why."""

    registry: Registry
    absent: Mapping[str, str]


def registry_json(registry: Registry) -> dict[str, Any]:
    """All definitions as JSON, in their order; so are join keys and inputs, which JSON's sorted keys would lose."""
    return {
        "entities": [
            {
                "name": one.name,
                "join_keys": [[key, str(dtype)] for key, dtype in one.join_keys.items()],
                "description": one.description,
            }
            for one in registry.entities
        ],
        "views": [
            {**view.model_dump(mode="json", exclude={"entity"}), "entity": view.entity.name} for view in registry.views
        ],
        "on_demand": [_function_json(one) for one in registry.on_demand],
        **({"retrievers": [retriever_json(one) for one in registry.retrievers]} if registry.retrievers else {}),
    }


def rebuilt_registry(kept: Mapping[str, Any], present: Registry) -> Rebuilt:
    """The registry that was kept, with the functions of the ``present`` one, where their code is the same.

    Raises:
        ReleaseError: this version of llmfeatures does not take the definitions.
    """
    functions = {_name(one): one for one in present.on_demand}
    absent: dict[str, str] = {}
    made: list[Entity | FeatureView | OnDemandFeature | Retriever] = []
    try:
        entities: dict[str, Entity] = {}
        for one in kept["entities"]:
            keys: dict[str, Any] = {**one, "join_keys": dict(one["join_keys"])}
            entities[one["name"]] = Entity(**keys)
        made += entities.values()
        for one in kept["views"]:
            fields: dict[str, Any] = {**one, "entity": entities[one["entity"]]}
            made.append(FeatureView(**fields))
        for one in kept["on_demand"]:
            name = f"{one['entity']}.{one['name']}"
            found = functions.get(name)
            if found is None:
                absent[name] = "the registry has no such feature now"
            elif found.code_hash() != one["code_hash"]:
                absent[name] = "its function has other code now"
            else:
                options = {key: value for key, value in one.items() if key not in ("code_hash", "source")}
                options |= {"entity": entities[one["entity"]], "inputs": dict(one["inputs"])}
                made.append(OnDemandFeature(function=found.function, **options))
        retrievers = {one.name: one for one in present.retrievers}
        for one in kept.get("retrievers", ()):
            rebuilt = rebuilt_retriever(one, entities, retrievers)
            if isinstance(rebuilt, str):
                absent[one["name"]] = rebuilt
            else:
                made.append(rebuilt)
        return Rebuilt(Registry(made), absent)
    except (DefinitionError, KeyError, TypeError, ValueError) as error:
        raise ReleaseError(f"the definitions of the release cannot be read by this version: {error}") from None


def _name(one: OnDemandFeature) -> str:
    return f"{one.entity.name}.{one.name}"


def _function_json(one: OnDemandFeature) -> dict[str, Any]:
    return {
        "name": one.name,
        "entity": one.entity.name,
        "dtype": str(one.dtype),
        "inputs": [[name, str(dtype)] for name, dtype in one.inputs.items()],
        "vectorized": one.vectorized,
        "description": one.description,
        "tags": dict(one.tags),
        "code_hash": one.code_hash(),
        "source": source_of(cast("FunctionType", one.function)),
    }
