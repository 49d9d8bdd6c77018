"""What a tool answers, as JSON, and its schema: values escaped as a prompt prints them, texts fenced. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

from llmfeatures.context import FeatureValue, Status
from llmfeatures.document_plan import DocumentPlan, FoundDocument
from llmfeatures.json_schema import TIMESTAMP, Schema, schema_of
from llmfeatures.prompts.escape import escape
from llmfeatures.prompts.segments import fence, without_blank_lines
from llmfeatures.types import DType, json_value


def features_json(found: Mapping[str, FeatureValue]) -> dict[str, Any]:
    """Features by name."""
    return {
        name: {
            "value": _escaped(json_value(one.value)),
            "status": one.status,
            "event_timestamp": None if one.event_timestamp is None else json_value(one.event_timestamp),
        }
        for name, one in found.items()
    }


def document_json(found: FoundDocument) -> dict[str, Any]:
    """A document that was found, with the features that it brings."""
    document = found.document
    made: dict[str, Any] = {
        "id": _escaped(document.id),
        "score": document.score,
        "text": fenced(document.text),
        "metadata": _escaped(json_value(document.metadata)),
        "valid_from": None if document.valid_from is None else json_value(document.valid_from),
    }
    if found.features:
        made["features"] = {entity: features_json(features) for entity, features in found.features.items()}
    return made


def fenced(text: str) -> str:
    """A document's text as a prompt has it: escaped, with its lines, in a fence that it cannot forge."""
    content = escape(text, keep_lines=True)
    start, end = without_blank_lines(content)
    inner = content[start:end]
    opening, closing = fence(inner)
    return f"{opening}{inner}{closing}"


def _escaped(value: Any) -> Any:
    """A JSON value whose texts are escaped as what a prompt prints."""
    if isinstance(value, str):
        return escape(value, keep_lines=False)
    if isinstance(value, dict):
        return {_escaped(name): _escaped(one) for name, one in cast("dict[Any, Any]", value).items()}
    return [_escaped(one) for one in cast("list[Any]", value)] if isinstance(value, list) else value


def object_schema(properties: Mapping[str, Schema], required: Sequence[str]) -> Schema:
    """The schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]} if schema else {}


def feature_schema(dtype: DType) -> Schema:
    """The schema of one of `features_json`."""
    return object_schema(
        {
            "value": _or_null(schema_of(dtype)),
            "status": {"type": "string", "enum": list(get_args(Status))},
            "event_timestamp": _or_null(dict(TIMESTAMP)),
        },
        ("value", "status", "event_timestamp"),
    )


def documents_schema(document: DocumentPlan) -> Schema:
    """The schema of ``{"documents": [...]}``, each as `document_json` gives it."""
    metadata = {name: _or_null(schema_of(dtype)) for name, dtype in document.retriever.metadata.items()}
    properties: dict[str, Schema] = {
        "id": {"type": "string"},
        "score": {"type": ["number", "null"]},
        "text": {"type": "string"},
        "metadata": object_schema(metadata, tuple(metadata)),
        "valid_from": _or_null(dict(TIMESTAMP)),
    }
    if document.brought:
        brought = {
            one.entity: object_schema(
                {ref.feature: feature_schema(ref.dtype) for ref in one.features.outputs if ref.printed}, ()
            )
            for one in document.brought
        }
        properties["features"] = object_schema(brought, ())
    required = ("id", "score", "text", "metadata", "valid_from")
    return object_schema({"documents": {"type": "array", "items": object_schema(properties, required)}}, ("documents",))
