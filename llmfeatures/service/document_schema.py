"""The JSON Schema of the documents in a finished prompt, and of what its manifest says of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from llmfeatures.document_plan import DocumentPlan
from llmfeatures.json_schema import TIMESTAMP, Schema, schema_of
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.retriever import TIERS

_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_TIER: Final[Schema] = {"type": ["string", "null"], "enum": [*TIERS, None]}
_MOMENT: Final[Schema] = {**TIMESTAMP, "type": ["string", "null"]}


def documents_schema(plan: PromptPlan, feature: Callable[[Schema], Schema]) -> Schema:
    """``documents`` of a context: a list for each name. ``feature`` makes the schema of a feature from its value's."""
    return _object({one.name: {"type": "array", "items": _document(one, feature)} for one in plan.documents}, ())


def _document(plan: DocumentPlan, feature: Callable[[Schema], Schema]) -> Schema:
    features = {
        one.entity: _object({ref.feature: feature(schema_of(ref.dtype)) for ref in one.features.outputs if ref.printed})
        for one in plan.brought
    }
    return _object(
        {
            "id": _TEXT,
            "version": _TEXT,
            "text": _TEXT,
            "score": {"type": ["number", "null"]},
            "tier": _TIER,
            "metadata": _object(
                {name: schema_of(dtype, nullable=True) for name, dtype in plan.retriever.metadata.items()}
            ),
            "valid_from": _MOMENT,
            "valid_to": _MOMENT,
            "features": _object(features),
        }
    )


def retrieval_schemas(plan: PromptPlan) -> dict[str, Schema]:
    """``retrievals``, ``timings`` and ``conversation`` of a manifest."""
    some_text: Schema = {"type": ["string", "null"]}
    origin = _object(dict.fromkeys(("entity", "role", "view", "dtype", "policy"), _TEXT))
    retrieval = _object(
        {
            "retriever": _TEXT,
            "tier": _TIER,
            "status": {"type": "string", "enum": ["found", "skipped", "unavailable"]},
            **dict.fromkeys(("found", "kept", "doubles", "below_min_score", "cut"), _COUNT),
            "model": some_text,
            "problem": some_text,
            "metadata": {"type": "object", "additionalProperties": _TEXT},
            "features": {"type": "object", "additionalProperties": origin},
        }
    )
    return {
        "retrievals": _object({one.name: retrieval for one in plan.documents}, ()),
        "timings": {
            "type": "object",
            "additionalProperties": {"type": "number"},
            "description": "Milliseconds of each leg of a prompt with documents.",
        },
        "conversation": {
            "type": ["integer", "null"],
            "minimum": 0,
            "description": "Before which of the messages earlier turns go.",
        },
    }


def _object(properties: Mapping[str, Schema], required: tuple[str, ...] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }
