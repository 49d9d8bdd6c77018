"""The OpenAPI 3.1 document of a project's service, typed from its registry and prompts. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from llmfeatures.json_schema import TIMESTAMP, Schema, schema_of
from llmfeatures.plan import plan_references
from llmfeatures.problems import CODES
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.file import ABSENT, Input
from llmfeatures.registry import Registry
from llmfeatures.schema import FeatureView, PushSource
from llmfeatures.service.document_schema import documents_schema, retrieval_schemas
from llmfeatures.types import DType, json_value

STATUSES: Final = ["present", "null", "missing", "expired", "unavailable"]
_NULLABLE_TIMESTAMP: Final[Schema] = {**TIMESTAMP, "type": ["string", "null"]}
_REASONS: Final = {
    400: "The body is no JSON.",
    401: "No API key that is known.",
    403: "The API key, or this service, may not do this.",
    404: "There is no such name.",
    405: "The path is not for this method.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not sent as JSON.",
    422: "A name, value or option is wrong, or a prompt's policy is an error.",
    500: "The service has failed, or a prompt file is wrong.",
    503: "Try again: the online store or a source is away, or there is too much to do.",
}
_POST: Final = tuple(_REASONS)
_GET: Final = (401, 403, 405, 500, 503)


def document(
    registry: Registry, plans: Mapping[str, PromptPlan], *, title: str, version: str, max_rows: int
) -> dict[str, Any]:
    """The whole document. Each prompt has its own path and body, each view that takes rows too."""
    paths: dict[str, Any] = {}
    if registry.views:
        paths["/v1/features"] = {"post": _features(registry, max_rows)}
    for name, plan in sorted(plans.items()):
        paths[f"/v1/prompts/{name}/context"] = {"post": _context(plan)}
        paths[f"/v1/prompts/{name}/contexts"] = {"post": _contexts(plan, max_rows)}
    for view in registry.views:
        if isinstance(view.source, PushSource) and not view.aggregates:
            paths[f"/v1/push/{view.name}"] = {"post": _push(view, max_rows)}
    paths["/v1/registry"] = {
        "get": _operation("registry", "The registry and the prompts", _json({"type": "object"}), _GET)
    }
    paths["/health/live"] = {
        "get": _operation("live", "Whether the process is up", _json(_status(["live"])), (405, 500), is_open=True)
    }
    paths["/health/ready"] = {
        "get": {
            **_operation("ready", "Whether prompts can be built now", _json(_ref("Ready")), (405, 500), is_open=True),
        }
    }
    paths["/health/ready"]["get"]["responses"]["503"] = {
        "description": "They cannot; the reasons say why.",
        "content": {"application/json": {"schema": {"anyOf": [_ref("Ready"), _ref("Problem")]}}},
    }
    text = {"schema": {"type": "string"}}
    paths["/metrics"] = {
        "get": _operation(
            "metrics",
            "Prometheus metrics",
            {"text/plain": text, "application/openmetrics-text": text},
            _GET,
        )
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": {
                "Problem": _PROBLEM,
                "Ready": _READY,
                **{_component(name): _context_schema(plan) for name, plan in sorted(plans.items())},
                **({"FeatureRow": _feature_row(registry)} if registry.views else {}),
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key, llf_..."}},
        },
        # a service that has no keys asks for none
        "security": [{"key": []}, {}],
    }


_PROBLEM: Final[Schema] = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {"code": {"type": "string", "enum": list(CODES)}, "message": {"type": "string"}},
            "description": "Further names depend on the code: feature and status; kind, name and known; problems.",
        }
    },
}
_WHY: Final[Schema] = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["code", "message"],
        "properties": {"code": {"type": "string"}, "message": {"type": ["string", "null"]}},
    },
}
_READY: Final[Schema] = {
    "type": "object",
    "required": ["status", "release", "reasons", "warnings"],
    "additionalProperties": False,
    "properties": {
        "status": {"type": "string", "enum": ["ready", "not_ready"]},
        "release": {"type": ["string", "null"]},
        "reasons": _WHY,
        "warnings": _WHY,
    },
}


def _status(words: Sequence[str]) -> Schema:
    return {
        "type": "object",
        "required": ["status"],
        "additionalProperties": False,
        "properties": {"status": {"type": "string", "enum": list(words)}},
    }


def _operation(
    identity: str, summary: str, content: Mapping[str, Any], statuses: Iterable[int], *, is_open: bool = False
) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": "Done.", "content": dict(content)}}
    for status in sorted(statuses):
        found: dict[str, Any] = {
            "description": _REASONS[status],
            "content": _json(_ref("Problem")),
        }
        if status == 503:
            found["headers"] = {
                "Retry-After": {"schema": {"type": "string"}, "description": "Seconds, where it helps."}
            }
        responses[str(status)] = found
    operation: dict[str, Any] = {"operationId": identity, "summary": summary, "responses": responses}
    if is_open:
        operation["security"] = []
    return operation


def _posted(operation: dict[str, Any], body: Schema, parameters: Sequence[Schema] = ()) -> dict[str, Any]:
    operation["requestBody"] = {"required": True, "content": _json(body)}
    if parameters:
        operation["parameters"] = list(parameters)
    return operation


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Mapping[str, Schema], required: Iterable[str]) -> Schema:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


_AS_OF: Final[Schema] = {
    "name": "as_of",
    "in": "query",
    "schema": {"type": "string", "format": "date-time"},
    "description": "Rebuild it as of this moment from history.",
}
_CLOCK: Final[Schema] = {
    "name": "clock",
    "in": "query",
    "schema": {"type": "string", "enum": ["known", "event"]},
    "description": "With as_of: rows that were true and had arrived (known, the default), or that were true.",
}
_LIVE: Final[Schema] = {
    "name": "live_documents",
    "in": "query",
    "schema": {"type": "boolean", "default": False},
    "description": "With as_of: take what a retriever has now where it knows no time.",
}
_TIMEOUT: Final[Schema] = {
    "name": "timeout",
    "in": "query",
    "schema": {"type": "string", "pattern": r"^[1-9][0-9]{0,4}ms$"},
    "description": "For all that is read online, documents too, like 250ms; at most 60s.",
}


def _context(plan: PromptPlan) -> dict[str, Any]:
    operation = _operation(
        f"context_{_identity(plan.name)}", plan.description or plan.name, _json(_ref(_component(plan.name))), _POST
    )
    return _posted(operation, _arguments(plan), _options(plan))


def _contexts(plan: PromptPlan, max_rows: int) -> dict[str, Any]:
    listed = _object({"contexts": {"type": "array", "items": _ref(_component(plan.name))}}, ["contexts"])
    operation = _operation(
        f"contexts_{_identity(plan.name)}", f"Many at once: {plan.description or plan.name}", _json(listed), _POST
    )
    rows = {"type": "array", "items": _arguments(plan), "maxItems": max_rows}
    return _posted(operation, _object({"rows": rows}, ["rows"]), _options(plan))


def _options(plan: PromptPlan) -> tuple[Schema, ...]:
    return (_AS_OF, _CLOCK, _TIMEOUT, *([_LIVE] if plan.documents else []))


def _arguments(plan: PromptPlan) -> Schema:
    """The body of a prompt: its join keys, which may be null, and its inputs."""
    keys = plan.features.parameters
    properties = {name: schema_of(dtype, nullable=True) for name, dtype in keys.items()}
    properties |= {name: _input(one) for name, one in plan.inputs.items()}
    required = [*keys, *(name for name, one in plan.inputs.items() if one.default is ABSENT)]
    return _object(properties, required)


def _input(declared: Input) -> Schema:
    found = schema_of(declared.dtype, nullable=declared.default is None)
    if declared.max_chars is not None:
        found["maxLength"] = declared.max_chars
    if declared.default is not ABSENT:
        found["default"] = json_value(declared.default)
    return found


def _features(registry: Registry, max_rows: int) -> dict[str, Any]:
    found = _object(
        {
            "rows": {"type": "array", "items": _ref("FeatureRow")},
            "dtypes": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        ["rows", "dtypes"],
    )
    keys = {name: schema_of(dtype, nullable=True) for one in registry.entities for name, dtype in one.join_keys.items()}
    for one in registry.on_demand:
        keys |= {name: schema_of(dtype) for name, dtype in one.inputs.items() if name not in keys}
    body = _object(
        {
            "features": {
                "type": "array",
                "items": {"type": "string", "enum": list(_references(registry))},
                "minItems": 1,
                "uniqueItems": True,
            },
            "rows": {"type": "array", "items": _object(keys, ()), "maxItems": max_rows},
        },
        ["features", "rows"],
    )
    operation = _operation("features", "The newest features of entities", _json(found), _POST)
    return _posted(operation, body, (_TIMEOUT,))


def _references(registry: Registry) -> dict[str, DType]:
    """Every name that a feature may be asked for by: ``user.status``, and ``status`` where only one entity has it."""
    owned = [(view.entity.name, one.name) for view, one in registry.features()]
    owned += [(one.entity.name, one.name) for one in registry.on_demand]
    times = Counter(name for _, name in owned)
    names = [name for _, name in owned if times[name] == 1] + [f"{entity}.{name}" for entity, name in owned]
    return {name: plan_references(registry, [name]).answers[0].dtype for name in names}


def _feature_row(registry: Registry) -> Schema:
    return _object({name: _feature(schema_of(dtype)) for name, dtype in _references(registry).items()}, ())


def _feature(value: Schema) -> Schema:
    return _object(
        {
            "value": _or_null(value),
            "status": {"type": "string", "enum": STATUSES},
            "event_timestamp": _NULLABLE_TIMESTAMP,
        },
        ["value", "status", "event_timestamp"],
    )


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]} if schema else {}


def _push(view: FeatureView, max_rows: int) -> dict[str, Any]:
    row = _object(
        {
            **{name: schema_of(dtype) for name, dtype in view.entity.join_keys.items()},
            "event_timestamp": {**TIMESTAMP, "description": "Now, unless given."},
            "created_timestamp": {**TIMESTAMP, "description": "Now, unless given."},
            **{one.name: schema_of(one.dtype, nullable=True) for one in view.features},
        },
        [*view.entity.join_keys, *(one.name for one in view.features)],
    )
    body = _object(
        {
            "rows": {"type": "array", "items": row, "maxItems": max_rows},
            "push_id": {"type": ["string", "null"], "minLength": 1, "maxLength": 200, "default": None},
        },
        ["rows"],
    )
    report = _object(
        {
            "view": {"type": "string"},
            "push_id": {"type": "string"},
            "rows": {"type": "integer"},
            "repeated": {"type": "boolean"},
            "online": {"type": "boolean"},
            "problem": {"type": ["string", "null"]},
        },
        ["view", "push_id", "rows", "repeated", "online", "problem"],
    )
    operation = _operation(f"push_{_identity(view.name)}", f"Push rows of {view.name}", _json(report), _POST)
    return _posted(operation, body)


def _context_schema(plan: PromptPlan) -> Schema:
    """What `PromptContext` is as JSON for one prompt."""
    text, some_text = {"type": "string"}, {"type": ["string", "null"]}
    outputs = plan.features.outputs
    features = {ref.name: _feature(schema_of(ref.dtype)) for ref in outputs}
    # a default may be outside of an enum's vocabulary
    values: dict[str, Schema] = {ref.name: _or_null(_open(ref.dtype)) for ref in outputs if ref.printed}
    values |= {name: _or_null(_open(dtype)) for name, dtype in plan.parameters.items()}
    keys = {name: _or_null(schema_of(dtype)) for name, dtype in plan.features.parameters.items()}
    origin = _object(dict.fromkeys(("entity", "role", "view", "dtype", "policy"), text), ())
    manifest = {
        "source": {"type": "string", "enum": ["online", "offline", "none"]},
        "clock": {"type": ["string", "null"], "enum": ["event", "known", None]},
        "degraded": {"type": "boolean"},
        "problem": some_text,
        "keys": _object(keys, keys),
        "inputs": {"type": "object", "additionalProperties": text},
        "features": {"type": "object", "additionalProperties": origin},
        "library": text,
        **_layout(),
        **retrieval_schemas(plan),
    }
    message = _object({"role": text, "content": text}, ["role", "content"])
    properties: dict[str, Schema] = {
        "request_id": text,
        "prompt": {"type": "string", "enum": [plan.name]},
        "version": text,
        "prompt_id": text,
        "as_of": TIMESTAMP,
        "messages": {"type": "array", "items": message},
        "features": _object(features, features),
        "values": _object(values, values),
        "documents": documents_schema(plan, _feature),
        "config": {"type": "object"},
        "tokens": {"type": ["integer", "null"]},
        "manifest": _object(manifest, manifest),
    }
    return _object(properties, properties)


def _layout() -> dict[str, Schema]:
    """The sections and the cache of a manifest."""
    text, count = {"type": "string"}, {"type": "integer", "minimum": 0}
    outcome = {"type": "string", "enum": ["kept", "cut", "dropped"]}
    section = {"name": text, "priority": {"type": "integer"}, "tokens": count, "kept": count, "outcome": outcome}
    prefix = {"characters": count, "tokens": count, "estimated": {"type": "boolean"}, "sha256": text}
    place = {"type": "array", "items": count, "minItems": 2, "maxItems": 2}
    return {
        "sections": {"type": "array", "items": _object(section, section)},
        "cache_breaks": {
            "type": "array",
            "items": place,
            "description": "The place of a message, and how many characters of its content come before the break.",
        },
        "prefix": _or_null(_object(prefix, prefix)),
    }


def _open(dtype: DType) -> Schema:
    return {"type": "string"} if dtype.kind == "enum" else schema_of(dtype)


def _component(prompt: str) -> str:
    return f"Context.{re.sub(r'[^A-Za-z0-9._-]', '.', prompt)}"


def _identity(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", name)
