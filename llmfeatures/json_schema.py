"""Dtypes as JSON Schema (2020-12, as OpenAPI 3.1 has it), and JSON values as Python values. Pure.

What the schema of a dtype accepts is what `value_of` accepts: nothing is converted silently.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from llmfeatures.errors import InvalidValueError
from llmfeatures.types import INT64_MAX, INT64_MIN, DType

Schema = dict[str, Any]

TIMESTAMP: Final[Schema] = {
    "type": "string",
    "format": "date-time",
    "description": "ISO 8601; without an offset it is UTC",
}


def schema_of(dtype: DType, *, nullable: bool = False) -> Schema:
    """The JSON Schema of a dtype's values in a request or an answer."""
    found = _schema(dtype)
    if nullable and found:
        if "enum" in found:
            found["enum"] = [*found["enum"], None]
        found["type"] = [found["type"], "null"]
    return found


def _schema(dtype: DType) -> Schema:
    match dtype.kind:
        case "int":
            return {"type": "integer", "minimum": INT64_MIN, "maximum": INT64_MAX}
        case "float":
            return {"type": "number"}
        case "bool":
            return {"type": "boolean"}
        case "timestamp":
            return dict(TIMESTAMP)
        case "date":
            return {"type": "string", "format": "date"}
        case "decimal":
            whole, scale = dtype.precision - dtype.scale, dtype.scale
            digits = rf"\d{{1,{whole}}}" if whole else "0"
            fraction = rf"(\.\d{{1,{scale}}})?" if scale else ""
            return {"type": "string", "pattern": f"^-?{digits}{fraction}$", "description": f"a {dtype}, as text"}
        case "enum":
            return {"type": "string", "enum": list(dtype.words)}
        case "list":
            assert dtype.item is not None
            return {"type": "array", "items": _schema(dtype.item)}
        case "json":
            return {}
        case _:
            return {"type": "string"}


def value_of(dtype: DType, given: Any) -> Any:
    """What the dtype's `DType.canonical` takes for a parsed JSON value.

    Raises:
        InvalidValueError: the value has another JSON type than the dtype is written in. The message never shows it.
    """
    if given is None:
        return None
    match dtype.kind:
        case "timestamp" | "date" | "decimal":
            if type(given) is not str:
                raise InvalidValueError(f"a {_json_type(given)} is no {dtype}; it is written as a string")
            return given
        case "json":
            # a str would be taken as JSON text, as it is in a source's column
            return json.dumps(given) if type(given) is str else given
        case "list":
            item = dtype.item
            assert item is not None
            if type(given) is not list:
                raise InvalidValueError(f"a {_json_type(given)} is no {dtype}; it is written as an array")
            return [value_of(item, one) for one in cast("list[Any]", given)]
        case _:
            return given


def converters(dtypes: Mapping[str, DType]) -> dict[str, Callable[[Any], Any]]:
    """`value_of` for each name whose JSON value is not its Python value already."""
    return {
        name: _converter(dtype)
        for name, dtype in dtypes.items()
        if dtype.kind in ("timestamp", "date", "decimal", "json", "list")
    }


def hold_json(dtypes: Iterable[DType]) -> bool:
    """Whether one of these takes any JSON, so that its numbers are to be read exactly."""
    return any(dtype.kind == "json" for dtype in dtypes)


def _converter(dtype: DType) -> Callable[[Any], Any]:
    return lambda given: value_of(dtype, given)


def _json_type(value: Any) -> str:
    names = {str: "string", bool: "boolean", int: "number", float: "number", list: "array", dict: "object"}
    return names.get(cast("Any", type(value)), "null")
