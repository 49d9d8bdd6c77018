"""Retrievers as JSON, and back. Of a function there is the hash of its code, and its source for people to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, cast

from llmfeatures.clock import duration_text
from llmfeatures.ondemand import code_hash_of, source_of
from llmfeatures.retriever import FunctionEmbedder, OnnxEmbedder, OpenAIEmbedder, Retriever
from llmfeatures.schema import Entity


def retriever_json(one: Retriever) -> dict[str, Any]:
    """A definition as JSON; metadata are pairs, whose order JSON's sorted keys would lose."""
    return {
        "name": one.name,
        "entity": None if one.entity is None else one.entity.name,
        "documents": None if one.source is None else one.source.model_dump(mode="json"),
        "embedder": None if one.embedder is None else _embedder_json(one.embedder),
        "metadata": [[name, str(dtype)] for name, dtype in one.metadata.items()],
        "tier": one.tier,
        "cadence": None if one.cadence is None else duration_text(one.cadence),
        "description": one.description,
        "owner": one.owner,
        "tags": dict(one.tags),
        **({} if one.function is None else _function_json(one.function)),
    }


def _embedder_json(one: OnnxEmbedder | OpenAIEmbedder | FunctionEmbedder) -> dict[str, Any]:
    if isinstance(one, FunctionEmbedder):
        return {"model": one.model, "dimensions": one.dimensions, **_function_json(one.function)}
    kind = "onnx" if isinstance(one, OnnxEmbedder) else "openai"
    return {"kind": kind, **one.model_dump(mode="json")}


def _function_json(function: Callable[..., Any]) -> dict[str, Any]:
    plain = isinstance(function, FunctionType)
    return {"function": code_hash_of(function), "function_source": source_of(function) if plain else ""}


def rebuilt_retriever(
    kept: Mapping[str, Any], entities: Mapping[str, Entity], present: Mapping[str, Retriever]
) -> Retriever | str:
    """The retriever that was kept, with the functions of the ``present`` one; or why it cannot be, in words."""
    name, now = kept["name"], present.get(kept["name"])
    options: dict[str, Any] = {
        "entity": None if kept["entity"] is None else entities[kept["entity"]],
        "source": kept["documents"],
        "metadata": dict(kept["metadata"]),
        **{key: kept[key] for key in ("tier", "cadence", "description", "owner", "tags")},
    }
    if "function" in kept:
        found = None if now is None else now.function
        if (problem := _other(found, kept["function"])) is not None:
            return problem
        options["function"] = found
    if (embedder := kept["embedder"]) is not None:
        now_embedder = None if now is None else now.embedder
        made = _rebuilt_embedder(embedder, now_embedder)
        if isinstance(made, str):
            return f"of its embedder, {made}"
        options["embedder"] = made
    return Retriever(name, **options)


def _rebuilt_embedder(kept: Mapping[str, Any], now: Any) -> OnnxEmbedder | OpenAIEmbedder | FunctionEmbedder | str:
    if "function" in kept:
        found = now.function if isinstance(now, FunctionEmbedder) else None
        if (problem := _other(found, kept["function"])) is not None:
            return problem
        function = cast("Callable[..., Any]", found)
        return FunctionEmbedder(function, model=kept["model"], dimensions=kept["dimensions"])
    options = {key: value for key, value in kept.items() if key != "kind"}
    if kept["kind"] == "openai":
        return OpenAIEmbedder(**options)
    if options["path"] is None:
        del options["model"]
    return OnnxEmbedder(**options)


def _other(found: Callable[..., Any] | None, code_hash: str) -> str | None:
    if found is None:
        return "the registry has no such function now"
    return None if code_hash_of(found) == code_hash else "its function has other code now"
