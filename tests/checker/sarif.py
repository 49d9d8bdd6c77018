"""As much of the SARIF 2.1.0 schema as the checker's logs use, with nothing else allowed.

Written after the standard's section 3; the whole official schema, which is large, was tried on the same logs by hand.
"""

from __future__ import annotations

from typing import Any


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


_TEXT = {"type": "string"}
_FROM_ONE = {"type": "integer", "minimum": 1}
_LEVEL = {"enum": ["none", "note", "warning", "error"]}
_MESSAGE = _object(["text"], text=_TEXT, markdown=_TEXT)
_REGION = _object(["startLine"], startLine=_FROM_ONE, startColumn=_FROM_ONE, endLine=_FROM_ONE, endColumn=_FROM_ONE)
_ARTIFACT = _object(["uri"], uri={"type": "string", "format": "uri-reference", "pattern": r"^[!#-;=?-\[\]_a-z~%/]+$"})
_LOCATION = _object(
    ["physicalLocation"],
    physicalLocation=_object(["artifactLocation"], artifactLocation=_ARTIFACT, region=_REGION),
)
_RULE = _object(
    ["id"],
    id=_TEXT,
    name=_TEXT,
    shortDescription=_MESSAGE,
    fullDescription=_MESSAGE,
    help=_MESSAGE,
    defaultConfiguration=_object([], level=_LEVEL),
)
_FIX = _object(
    ["artifactChanges"],
    description=_MESSAGE,
    artifactChanges={
        "type": "array",
        "minItems": 1,
        "items": _object(
            ["artifactLocation", "replacements"],
            artifactLocation=_ARTIFACT,
            replacements={
                "type": "array",
                "minItems": 1,
                "items": _object(["deletedRegion"], deletedRegion=_REGION, insertedContent=_object([], text=_TEXT)),
            },
        ),
    },
)
_RESULT = _object(
    ["message"],
    ruleId=_TEXT,
    ruleIndex={"type": "integer", "minimum": 0},
    level=_LEVEL,
    message=_MESSAGE,
    locations={"type": "array", "items": _LOCATION},
    fixes={"type": "array", "items": _FIX},
)
_DRIVER = _object(["name"], name=_TEXT, semanticVersion=_TEXT, rules={"type": "array", "items": _RULE})
_RUN = _object(
    ["tool"],
    tool=_object(["driver"], driver=_DRIVER),
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    results={"type": "array", "items": _RESULT},
)
SCHEMA = _object(
    ["version", "runs"],
    **{
        "$schema": {"type": "string", "format": "uri"},
        "version": {"const": "2.1.0"},
        "runs": {"type": "array", "items": _RUN},
    },
)
