"""What the Weaviate server of the tests goes by: classes and their defaults, tokens, and what filters let through."""

# the protocol buffers of the client are partly typed, numpy's functions too
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false
from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from weaviate.proto.v1 import base_pb2

_ENGLISH = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with"
)
STOPWORDS = frozenset(_ENGLISH.split())
_CLASS = re.compile(r"[A-Z][_0-9A-Za-z]{0,254}")
_PROPERTY = re.compile(r"[_A-Za-z][_0-9A-Za-z]{0,230}")
_HNSW = {
    "skip": False,
    "cleanupIntervalSeconds": 300,
    "maxConnections": 32,
    "efConstruction": 128,
    "ef": -1,
    "dynamicEfMin": 100,
    "dynamicEfMax": 500,
    "dynamicEfFactor": 8,
    "vectorCacheMaxObjects": 1_000_000_000_000,
    "flatSearchCutoff": 40_000,
    "distance": "cosine",
    "pq": {
        "enabled": False,
        "bitCompression": False,
        "segments": 0,
        "centroids": 256,
        "trainingLimit": 100_000,
        "encoder": {"type": "kmeans", "distribution": "log-normal"},
    },
    "bq": {"enabled": False},
    "sq": {"enabled": False, "trainingLimit": 100_000, "rescoreLimit": 20},
    "filterStrategy": "sweeping",
    "multivector": {"enabled": False, "aggregation": "maxSim"},
}
Operator = base_pb2.Filters


class RefusedError(Exception):
    """An answer that is an error."""


@dataclass
class Held:
    """An object."""

    properties: dict[str, Any]
    vector: Any


@dataclass
class State:
    """All that the server knows."""

    schema: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    objects: dict[str, dict[str, Held]] = field(default_factory=dict[str, dict[str, Held]])
    log: list[Any] = field(default_factory=list[Any])
    key: str = ""
    faults: list[str] = field(default_factory=list[str])
    delay: float = 0.0
    deaf: bool = False
    """Whether filters of searches are not heard."""
    lock: threading.RLock = field(default_factory=threading.RLock)


def tokens(tokenization: str, text: str) -> list[str]:
    """The tokens of a text, as the inverted index has them."""
    match tokenization:
        case "field":
            stripped = text.strip()
            return [stripped] if stripped else []
        case "whitespace":
            return text.split()
        case "lowercase":
            return text.lower().split()
        case _:
            return [one.lower() for one in re.findall(r"[^\W_]+", text)]


def holds(condition: Any, kinds: dict[str, dict[str, Any]], name: str, held: Held) -> bool:
    """Whether an object is what a filter says."""
    operator = condition.operator
    if operator in (Operator.OPERATOR_AND, Operator.OPERATOR_OR):
        parts = [holds(one, kinds, name, held) for one in condition.filters]
        return all(parts) if operator == Operator.OPERATOR_AND else any(parts)
    target = condition.target.property
    if target == "_id":
        if operator == Operator.OPERATOR_CONTAINS_ANY:
            return name in condition.value_text_array.values
        if operator == Operator.OPERATOR_EQUAL:
            return name == condition.value_text
        raise RefusedError("operator not supported on id")
    kind = kinds.get(target)
    if kind is None:
        raise RefusedError(f"no such prop with name {target!r} found in the schema")
    if not kind["indexFilterable"]:
        raise RefusedError(f"Filtering by property {target!r} requires an inverted index, which is off")
    found = held.properties.get(target)
    if kind["dataType"] == ["text"]:
        if condition.WhichOneof("test_value") != "value_text":
            raise RefusedError(f"data type filter cannot use a value of another type on {target!r}")
        wanted = [one for one in tokens(kind["tokenization"], condition.value_text) if one not in STOPWORDS]
        if not wanted:
            raise RefusedError("invalid search term, only stopwords provided")
        if operator != Operator.OPERATOR_EQUAL:
            raise RefusedError("operator not supported here")
        return found is not None and set(wanted) <= set(tokens(kind["tokenization"], found))
    if condition.WhichOneof("test_value") != "value_int":
        raise RefusedError(f"data type filter cannot use a value of another type on {target!r}")
    if found is None:
        return False
    match operator:
        case Operator.OPERATOR_EQUAL:
            return found == condition.value_int
        case Operator.OPERATOR_GREATER_THAN:
            return found > condition.value_int
        case Operator.OPERATOR_GREATER_THAN_EQUAL:
            return found >= condition.value_int
        case Operator.OPERATOR_LESS_THAN:
            return found < condition.value_int
        case Operator.OPERATOR_LESS_THAN_EQUAL:
            return found <= condition.value_int
        case _:
            raise RefusedError("operator not supported here")


def floats(packed: bytes) -> Any:
    """A vector of little-endian float32."""
    return np.frombuffer(packed, dtype="<f4")


def unit(vector: Any) -> Any:
    """As Weaviate keeps vectors whose distance is cosine: zeros stay zeros."""
    length = np.float32(np.linalg.norm(vector))
    return vector / length if length else vector


def with_defaults(given: dict[str, Any], others: list[str]) -> dict[str, Any]:
    """A class as the server keeps it.

    Raises:
        RefusedError: it cannot be one.
    """
    name = given["class"]
    if not _CLASS.fullmatch(name):
        raise RefusedError(f"{name!r} is not a valid class name")
    if name.lower() in [one.lower() for one in others]:
        raise RefusedError(f"class name {name!r} already exists, or one that differs in case only")
    seen: set[str] = set()
    made: list[dict[str, Any]] = []
    for one in given.get("properties", []):
        if not _PROPERTY.fullmatch(one["name"]) or one["name"] in ("id", "_id", "_additional", "vector"):
            raise RefusedError(f"{one['name']!r} is not a valid property name, or is reserved")
        if one["name"].lower() in seen:
            raise RefusedError(f"property {one['name']!r} is there twice")
        seen.add(one["name"].lower())
        is_text = one["dataType"] == ["text"]
        made.append(
            {
                "indexFilterable": True,
                "indexSearchable": is_text,
                "indexRangeFilters": False,
                **({"tokenization": "word"} if is_text else {}),
                **one,
            }
        )
    vectors: dict[str, Any] = {
        name: {**one, "vectorIndexConfig": {**_HNSW, **one.get("vectorIndexConfig", {})}}
        for name, one in given["vectorConfig"].items()
    }
    return {
        "invertedIndexConfig": {
            "bm25": {"b": 0.75, "k1": 1.2},
            "cleanupIntervalSeconds": 60,
            "stopwords": {"additions": None, "preset": "en", "removals": None},
            "usingBlockMaxWAND": True,
        },
        "multiTenancyConfig": {"autoTenantActivation": False, "autoTenantCreation": False, "enabled": False},
        "replicationConfig": {"asyncEnabled": False, "deletionStrategy": "TimeBasedResolution", "factor": 1},
        "shardingConfig": {
            "actualCount": 1,
            "actualVirtualCount": 128,
            "desiredCount": 1,
            "desiredVirtualCount": 128,
            "function": "murmur3",
            "key": "_id",
            "strategy": "hash",
            "virtualPerPhysical": 128,
        },
        **given,
        "properties": made,
        "vectorConfig": vectors,
    }
