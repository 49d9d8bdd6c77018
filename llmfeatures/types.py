# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""The types of features and inputs: one Python value and one text form for each.

Both paths, online and historical, meet here: what a value is (`DType.canonical`), how it is written online
(`DType.encode`), how it is read back (`DType.decode`) and what a prompt prints for it (`text`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import orjson

from llmfeatures.clock import as_utc, iso, stamp
from llmfeatures.errors import DefinitionError, InvalidValueError

if TYPE_CHECKING:
    import pyarrow as pa

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
SCALARS = ("str", "int", "float", "bool", "timestamp", "date", "json")
CHOICES = "str, int, float, bool, timestamp, date, json, decimal(p,s), enum[a,b], list[T] with T a scalar"

_DECIMAL = re.compile(r"decimal\(\s*(\d+)\s*,\s*(\d+)\s*\)", re.ASCII)
_ENUM = re.compile(r"enum\[(.*)\]", re.DOTALL)
_LIST = re.compile(r"list\[(.*)\]", re.DOTALL)
_PLAIN: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class DType:
    """The type of a feature or input. Make one with `parse_dtype`; ``str(dtype)`` gives the same text back."""

    kind: str
    words: tuple[str, ...] = ()
    precision: int = 0
    scale: int = 0
    item: DType | None = None

    def __str__(self) -> str:
        match self.kind:
            case "enum":
                return f"enum[{','.join(self.words)}]"
            case "decimal":
                return f"decimal({self.precision},{self.scale})"
            case "list":
                return f"list[{self.item}]"
            case _:
                return self.kind

    def canonical(self, value: Any) -> Any:
        """The one Python value that this dtype has for ``value``; ``None`` stays ``None``.

        Floats that are not finite become ``None``, naive datetimes are UTC, lone surrogates become U+FFFD.

        Raises:
            InvalidValueError: the value does not fit. Nothing is converted silently: ``str`` takes no int.
        """
        return None if value is None else _CANONICAL[self.kind](self, value)

    def encode(self, value: Any) -> str:
        """Canonical JSON of a canonical value (what the online store holds); ``None`` is ``null``."""
        if value is None:
            return "null"
        match self.kind:
            case "str" | "enum":
                return orjson.dumps(value).decode()
            case "int":
                return str(value)
            case "float":
                return repr(value)
            case "bool":
                return "true" if value else "false"
            case "timestamp":
                return f'"{stamp(value)}"'
            case "date":
                return f'"{value.isoformat()}"'
            case "decimal":
                return f'"{value:f}"'
            case "list":
                item = self.item
                assert item is not None
                return f"[{','.join([item.encode(one) for one in value])}]"
            case _:
                return json_text(value)

    def decode(self, data: str | bytes) -> Any:
        """The canonical value of what `encode` wrote.

        Raises:
            InvalidValueError: the data is not what this dtype writes (the dtype was changed since).
        """
        try:
            return self.from_json(json.loads(data) if self.kind == "json" else orjson.loads(data))
        except (ValueError, TypeError, InvalidOperation, RecursionError):
            raise InvalidValueError(f"stored data that is no {self}") from None

    @property
    def plain(self) -> type | None:
        """The Python type of which any JSON value is a canonical one as it is; None where there is more to it."""
        return _PLAIN.get(self.kind)

    def from_json(self, value: Any) -> Any:
        """The canonical value of parsed JSON that `encode` wrote. Raises ValueError or TypeError for other JSON."""
        if value is None or self.kind == "json":
            return value
        match self.kind:
            case "timestamp":
                return as_utc(_exactly(value, str))
            case "date":
                return date.fromisoformat(_exactly(value, str))
            case "decimal":
                number = Decimal(_exactly(value, str))
                if number.as_tuple().exponent != -self.scale:
                    raise ValueError
                return number
            case "enum":
                if value not in self.words:
                    raise ValueError
                return _exactly(value, str)
            case "list":
                item = self.item
                assert item is not None
                return [item.from_json(one) for one in _exactly(value, list)]
            case "int":
                return _exactly(value, int)
            case "float":
                return float(value) if type(value) is int else _exactly(value, float)
            case "bool":
                return _exactly(value, bool)
            case _:
                return _exactly(value, str)

    def arrow(self) -> pa.DataType:
        """The Arrow type of this dtype's historical columns; json is text."""
        import pyarrow as pa

        match self.kind:
            case "int":
                return pa.int64()
            case "float":
                return pa.float64()
            case "bool":
                return pa.bool_()
            case "timestamp":
                return pa.timestamp("us", "UTC")
            case "date":
                return pa.date32()
            case "decimal":
                return pa.decimal128(self.precision, self.scale)
            case "list":
                item = self.item
                assert item is not None
                return pa.list_(item.arrow())
            case _:
                return pa.string()

    def parse(self, written: str) -> Any:
        """The canonical value of what a person typed, as in ``llmfeatures context home user_id=42``.

        Raises:
            InvalidValueError: the text is no value of this dtype.
        """
        match self.kind:
            case "str" | "enum":
                return self.canonical(written)
            case "int":
                if not re.fullmatch(r"[+-]?\d+", written, re.ASCII):
                    raise InvalidValueError("not an int")
                return self.canonical(int(written))
            case "float":
                try:
                    return self.canonical(float(written))
                except ValueError:
                    raise InvalidValueError("not a float") from None
            case "bool":
                if written not in ("true", "false"):
                    raise InvalidValueError("not a bool; write true or false")
                return written == "true"
            case "list":
                try:
                    return self.canonical(json.loads(written))
                except ValueError:
                    raise InvalidValueError("not a JSON array") from None
            case _:
                return self.canonical(written)


def parse_dtype(written: str) -> DType:
    """A dtype from its text, like ``int``, ``decimal(10,2)``, ``enum[casual,power_user]`` or ``list[str]``.

    Raises:
        DefinitionError: there is no such dtype.
    """
    name = written.strip()
    if name in SCALARS:
        return DType(name)
    if match := _DECIMAL.fullmatch(name):
        precision, scale = int(match[1]), int(match[2])
        if not (1 <= precision <= 38 and scale <= precision):
            raise DefinitionError(f"{name}: a decimal has a precision of 1 to 38 and a scale of 0 to its precision")
        return DType("decimal", precision=precision, scale=scale)
    if match := _ENUM.fullmatch(name):
        words = tuple(word.strip() for word in match[1].split(","))
        if "" in words or len(set(words)) != len(words):
            raise DefinitionError(f"{name}: an enum lists distinct words, like enum[casual,power_user]")
        return DType("enum", words=words)
    if match := _LIST.fullmatch(name):
        item = parse_dtype(match[1])
        if item.kind in ("list", "json"):
            raise DefinitionError(f"{name}: a list holds scalars; for nested data use json")
        return DType("list", item=item)
    raise DefinitionError(f"unknown dtype {written!r}; the dtypes are: {CHOICES}")


def placeholder(name: str, dtype: DType, max_chars: int | None = None) -> Any:
    """A value of the dtype that can be told from a real one where the dtype allows it."""
    made: Any
    match dtype.kind:
        case "str":
            made = f"<{name}>"[:max_chars]
        case "enum":
            made = dtype.words[0]
        case "list":
            assert dtype.item is not None
            made = [placeholder(name, dtype.item)]
        case "json":
            made = {name: "<json>"}
        case "timestamp":
            made = "2000-01-01T00:00:00Z"
        case "date":
            made = "2000-01-01"
        case "bool":
            made = False
        case _:
            made = 0
    return dtype.canonical(made)


def text(value: Any) -> str:
    """What a prompt prints for a canonical value, before escaping. ``None`` has no text.

    Raises:
        InvalidValueError: the value is no canonical value (a function, a set, ``None``).
    """
    kind = type(value)
    if kind is str:
        return value
    if kind is bool:
        return "true" if value else "false"
    if kind is int:
        return str(value)
    if kind is float:
        return repr(value + 0.0)
    if kind is Decimal:
        return f"{value:f}"
    if kind is datetime:
        return iso(value)
    if kind is date:
        return value.isoformat()
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (list, tuple, Mapping)):
        return json_text(value)
    raise InvalidValueError(f"a {kind.__name__} cannot be printed")


def json_text(value: Any) -> str:
    """Compact JSON with sorted keys; timestamps, dates and decimals in it as their text, floats not finite as null."""
    return json.dumps(json_value(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


_ENCODED = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def plain_json_text(value: Any) -> str:
    """As `json_text`, of what `json_value` gave or was read from such a text: several times as fast."""
    return _ENCODED(value)


def json_value(value: Any) -> Any:
    """The plain JSON value (dict, list, str, int, float, bool, None) of anything that a json feature may hold.

    Raises:
        InvalidValueError: a part of it has no JSON form, or it nests too deeply.
    """
    try:
        return _plain(value)
    except RecursionError:
        raise InvalidValueError("json that nests too deeply") from None


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) + 0.0 if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {clean_text(key if isinstance(key, str) else text(key)): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (datetime, date, Decimal)):
        return text(as_utc(value) if isinstance(value, datetime) else value)
    raise InvalidValueError(f"a {type(value).__name__} has no JSON form")


def clean_text(value: str) -> str:
    """The text with each lone surrogate replaced by U+FFFD, as a plain ``str``."""
    value = str.__str__(value)
    return value if value.isascii() or not _SURROGATES.search(value) else _SURROGATES.sub("\ufffd", value)


def parse_json(written: str | bytes) -> Any:
    """The value of JSON text, as the json dtype holds it.

    Raises:
        InvalidValueError: it is no JSON (``NaN`` is none either).
    """

    def refuse(word: str) -> Any:
        raise ValueError(word)

    try:
        return json_value(json.loads(written, parse_constant=refuse))
    except (ValueError, RecursionError):
        raise InvalidValueError("not JSON") from None


def _exactly(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError
    return value


def _refuse(dtype: DType, value: Any) -> InvalidValueError:
    kind = type(value).__name__
    return InvalidValueError(f"{'an' if kind[:1] in 'aeio' else 'a'} {kind} is no {dtype}")


def _str(dtype: DType, value: Any) -> str:
    if not isinstance(value, str):
        raise _refuse(dtype, value)
    return clean_text(value)


def _enum(dtype: DType, value: Any) -> str:
    if not isinstance(value, str):
        raise _refuse(dtype, value)
    if value not in dtype.words:
        raise InvalidValueError(f"a word that {dtype} does not have")
    return str.__str__(value)


def _int(dtype: DType, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        # JSON's integers that are too large are read as floats
        if isinstance(value, float) and math.isfinite(value) and not INT64_MIN <= value <= INT64_MAX:
            raise InvalidValueError("a number outside int64")
        raise _refuse(dtype, value)
    if not INT64_MIN <= value <= INT64_MAX:
        raise InvalidValueError("an int outside int64")
    return int(value)


def _float(dtype: DType, value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise _refuse(dtype, value)
    try:
        number = float(value) + 0.0
    except (OverflowError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _bool(dtype: DType, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refuse(dtype, value)
    return value


def _timestamp(dtype: DType, value: Any) -> datetime:
    if not isinstance(value, (datetime, str)):
        raise _refuse(dtype, value)
    return as_utc(value)


def _date(dtype: DType, value: Any) -> date:
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            raise InvalidValueError("not an ISO 8601 date; write it like 2026-05-07") from None
    if isinstance(value, datetime) or not isinstance(value, date):
        raise _refuse(dtype, value)
    return value


def _decimal(dtype: DType, value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, Decimal, str)):
        raise _refuse(dtype, value)
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise InvalidValueError("not a decimal number") from None
    if not number.is_finite():
        raise InvalidValueError("a decimal that is not finite")
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    unscaled = int("".join(map(str, digits)) or "0")
    shift = exponent + dtype.scale
    if unscaled and abs(shift) > 80:
        raise InvalidValueError(f"a number that {dtype} cannot hold exactly")
    if shift >= 0:
        unscaled = unscaled * 10**shift if unscaled else 0
    else:
        unscaled, rest = divmod(unscaled, 10 ** min(-shift, 200))
        if rest:
            raise InvalidValueError(f"a number that {dtype} cannot hold exactly")
    if unscaled >= 10**dtype.precision:
        raise InvalidValueError(f"a number that {dtype} cannot hold exactly")
    return Decimal((sign if unscaled else 0, tuple(map(int, str(unscaled))), -dtype.scale))


def _list(dtype: DType, value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise _refuse(dtype, value)
    item = dtype.item
    assert item is not None
    items = [item.canonical(one) for one in value]
    if None in items:
        raise InvalidValueError(f"a null inside a {dtype}")
    return items


def _json(_dtype: DType, value: Any) -> Any:
    # text is JSON text, as it is in a source's column
    return parse_json(value) if isinstance(value, (str, bytes)) else json_value(value)


_CANONICAL: dict[str, Callable[[DType, Any], Any]] = {
    "str": _str,
    "enum": _enum,
    "int": _int,
    "float": _float,
    "bool": _bool,
    "timestamp": _timestamp,
    "date": _date,
    "decimal": _decimal,
    "list": _list,
    "json": _json,
}
