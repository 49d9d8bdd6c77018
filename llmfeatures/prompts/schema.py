"""The JSON Schema of a prompt's header, made of the same lists that the reader goes by.

``header.schema.json`` beside this module is what `schema_text` gives.
"""

from __future__ import annotations

import json
import keyword
from typing import Any, Final

from llmfeatures.prompts.header import (
    BUDGET_KEYS,
    DOCUMENT_KEYS,
    DOCUMENTS_UNAVAILABLE,
    HEADER_KEYS,
    INPUT_KEYS,
    ON_MISSING,
    ON_UNAVAILABLE,
    ORDERS,
    POLICY_KEYS,
    TOKENIZERS,
)
from llmfeatures.schema import JINJA_GLOBALS, JINJA_WORDS, OPTION_NAMES
from llmfeatures.types import SCALARS

_IDENTIFIER: Final = "^[A-Za-z][A-Za-z0-9_]*$"
_RESERVED: Final = sorted({*OPTION_NAMES, *JINJA_GLOBALS, *JINJA_WORDS, *keyword.kwlist})
_DURATION: Final = r"^(?=[^a-z]*[1-9])\s*[0-9]+(\.[0-9]+)?\s*(us|ms|s|m|h|d)\s*$"
_DECIMAL: Final = r"decimal\(\s*[0-9]+\s*,\s*[0-9]+\s*\)"
_ITEM: Final = "|".join([*(one for one in SCALARS if one != "json"), _DECIMAL, r"enum\[[^\]]+\]"])
_DTYPE: Final = rf"^\s*({'|'.join(SCALARS)}|{_DECIMAL}|enum\[.+\]|list\[\s*({_ITEM})\s*\])\s*$"


def schema_text() -> str:
    """The schema as JSON text, as it is published."""
    return json.dumps(header_schema(), indent=2, ensure_ascii=False) + "\n"


def header_schema() -> dict[str, Any]:
    """The schema, draft 2020-12. It says what has the wrong shape; whether a default fits its dtype, and what the
    registry has, only `llmfeatures check` knows."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Header of an llmfeatures prompt file",
        "description": "Sets policy for a prompt; the features that it uses are found in its template.",
        **_object(
            HEADER_KEYS,
            {
                "description": _text("What the prompt is for, for people.", nullable=True),
                "owner": _text("Who looks after the prompt, for people.", nullable=True),
                "entities": _names(
                    "Roles by name, where a prompt is about two of the same entity: {buyer: user, seller: user}.",
                    _text("The name of an entity of the registry."),
                    identifiers=True,
                ),
                "features": _names(
                    "What to do about a feature that has no value, by its name or entity.name.",
                    {"$ref": "#/$defs/policy"},
                ),
                "inputs": _names("What the caller gives by name.", {"$ref": "#/$defs/input"}, identifiers=True),
                "documents": _names("Texts that a retriever finds.", {"$ref": "#/$defs/documents"}, identifiers=True),
                "budget": {
                    "description": "The most tokens that the messages may have together.",
                    "anyOf": [{"type": "null"}, {"$ref": "#/$defs/budget"}],
                },
                "config": {
                    "description": "Passed on as ctx.config, and versioned with the prompt.",
                    "type": ["object", "null"],
                },
            },
        ),
        "$defs": {
            "policy": {
                **_object(
                    POLICY_KEYS,
                    {
                        "default": {
                            "description": "Printed instead of a value that is not present; of the feature's dtype.",
                            "not": {"type": "null"},
                        },
                        "on_missing": _choice("none: the value is None, and the template guards it.", ON_MISSING),
                        "on_unavailable": _choice(
                            "error: refuse to print a default while the store cannot be read.", ON_UNAVAILABLE
                        ),
                        "max_age": {
                            "description": "A value that is older counts as missing: 30d, 12h, 90s.",
                            "type": "string",
                            "pattern": _DURATION,
                        },
                    },
                ),
                "not": {"required": ["default", "on_missing"]},
            },
            "input": {
                "anyOf": [
                    {"$ref": "#/$defs/dtype"},
                    {
                        **_object(
                            INPUT_KEYS,
                            {
                                "type": {"$ref": "#/$defs/dtype"},
                                "max_chars": _count("The longest text, in characters; goes with type str."),
                                "default": {"description": "Used where the caller gives nothing; null allows None."},
                            },
                            required=["type"],
                        ),
                        "if": {"required": ["max_chars"]},
                        "then": {"properties": {"type": {"pattern": r"^\s*str\s*$"}}},
                    },
                ],
            },
            "dtype": {
                "description": "str, int, float, bool, timestamp, date, json, decimal(p,s), enum[a,b] or list[T].",
                "type": "string",
                "pattern": _DTYPE,
                "examples": [*SCALARS, "decimal(10,2)", "enum[a,b]", "list[str]"],
            },
            "documents": {
                **_object(
                    DOCUMENT_KEYS,
                    {
                        "retriever": _text("The name of a retriever of the registry."),
                        "entity": _text("The role whose documents they are, where the retriever's entity has several."),
                        "query": _text("A template over features, join keys and inputs, in quotes."),
                        "filter": {
                            "description": 'Metadata that must be equal, to a value or to what "{{ name }}" is.',
                            "type": "object",
                        },
                        "top_k": _count("So many documents at most."),
                        "order": _choice("By score, or the most recent first.", ORDERS),
                        "min_score": {
                            "description": "Documents below are left out; goes with a query.",
                            "type": "number",
                        },
                        "max_tokens": _count("The longest text of a document, in tokens."),
                        "on_unavailable": _choice("What happens when the retriever fails.", DOCUMENTS_UNAVAILABLE),
                    },
                    required=["retriever"],
                ),
                "if": {"required": ["query"]},
                "then": {"properties": {"order": {"const": "score"}}},
                "else": {"properties": {"order": {"const": "recent"}, "min_score": False}},
            },
            "budget": _object(
                BUDGET_KEYS,
                {
                    "max_tokens": _count("The most tokens of all messages together."),
                    "tokenizer": _choice("What counts them.", TOKENIZERS),
                },
                required=list(BUDGET_KEYS),
            ),
        },
    }


def _object(keys: tuple[str, ...], properties: dict[str, Any], *, required: list[str] | None = None) -> dict[str, Any]:
    assert tuple(properties) == keys
    needed = {"required": required} if required else {}
    return {"type": "object", "properties": properties, "additionalProperties": False, **needed}


def _names(description: str, each: dict[str, Any], *, identifiers: bool = False) -> dict[str, Any]:
    names = {"propertyNames": {"pattern": _IDENTIFIER, "not": {"enum": _RESERVED}}} if identifiers else {}
    return {"description": description, "type": ["object", "null"], "additionalProperties": each, **names}


def _text(description: str, *, nullable: bool = False) -> dict[str, Any]:
    return {"description": description, "type": ["string", "null"] if nullable else "string"}


def _choice(description: str, choices: tuple[str, ...]) -> dict[str, Any]:
    return {"description": description, "enum": list(choices)}


def _count(description: str) -> dict[str, Any]:
    return {"description": description, "type": "integer", "minimum": 1}
