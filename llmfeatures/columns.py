# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false
"""Arrow columns of a source or spine to canonical columns: the one place where this happens.

`problem` says from its Arrow type alone why a column cannot hold a dtype; `canonical` turns a column into the
dtype's own Arrow type; `python_values` gives the canonical Python values of such a column, each equal to what
`DType.canonical` makes of the source's value.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
from pyarrow import compute
from pyarrow import types as pt

from llmfeatures.clock import from_microseconds, microseconds
from llmfeatures.codec import NO_CREATED
from llmfeatures.errors import InvalidValueError
from llmfeatures.types import INT64_MAX, INT64_MIN, DType, json_text, parse_json

Array = Any
"""A ``pyarrow.Array``; its stubs are too narrow for what the kernels take and give."""
pc: Any = compute

FIRST_MICROSECOND = microseconds(datetime.fromisoformat("0001-01-01T00:00:00+00:00"))
LAST_MICROSECOND = microseconds(datetime.fromisoformat("9999-12-31T23:59:59.999999+00:00"))
OUTSIDE_YEARS = "a moment outside the years 1 to 9999"

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_DAY_MILLISECONDS = 86_400_000
_PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}
TIMESTAMP = pa.timestamp("us", "UTC")
"""How moments are held in Arrow."""
_INTEGER = pa.int64()
_TIMESTAMP = DType("timestamp")
_SQL_TYPES = {
    "str": "VARCHAR", "enum": "VARCHAR", "int": "BIGINT", "float": "DOUBLE", "bool": "BOOLEAN",
    "timestamp": "TIMESTAMPTZ", "date": "DATE", "json": "JSON",
}  # fmt: skip


def constant(value: int) -> Any:
    """An int64 scalar. `pa.scalar` and Python numbers in a kernel's arguments import pandas where it is installed."""
    return pa.Array.from_buffers(_INTEGER, 1, [None, pa.py_buffer(struct.pack("=q", value))])[0]


def nothing(held: Any) -> Any:
    """A null scalar of a type; see `constant`."""
    return pa.nulls(1, held)[0]


FALSE: Any = pa.Array.from_buffers(pa.bool_(), 1, [None, pa.py_buffer(bytes(1))])[0]
"""A false scalar; see `constant`."""
_ZERO: Any = pa.Array.from_buffers(pa.float64(), 1, [None, pa.py_buffer(bytes(8))])[0]


@dataclass(frozen=True, slots=True)
class Canonical:
    """A column of its dtype's own Arrow type.

    ``invalid`` maps the number of each row that holds no value of the dtype to the reason; it is null in ``array``.
    ``non_finite`` counts the floats that became null because they are NaN or infinite.
    """

    array: Array
    invalid: dict[int, str] = field(default_factory=dict[int, str])
    non_finite: int = 0


def sql_type(dtype: DType) -> str:
    """The DuckDB type to CAST a column to, for it to hold this dtype."""
    if dtype.kind == "decimal":
        return f"DECIMAL({dtype.precision},{dtype.scale})"
    if dtype.item is not None:
        return f"{sql_type(dtype.item)}[]"
    return _SQL_TYPES[dtype.kind]


def problem(dtype: DType, arrow_type: Any) -> str | None:
    """Why a column of this Arrow type cannot hold this dtype, and what to do; None when it can."""
    held = _value_type(arrow_type)
    if pt.is_null(held):
        return None
    if dtype.kind == "list":
        return _list_problem(dtype, held)
    if dtype.kind == "json":
        return _json_problem(held)
    if _HOLDS[dtype.kind](held):
        return None
    remedy = f"CAST(column AS {sql_type(dtype)})"
    if dtype.kind == "bool" and _is_number(held):
        remedy = "column <> 0"
    elif dtype.kind == "timestamp" and pt.is_integer(held):
        remedy = "to_timestamp(column) if it counts seconds, make_timestamptz(column) if microseconds"
    elif dtype.kind == "int" and _is_number(held):
        remedy = f"CAST(column AS BIGINT), which rounds, or make it a {_natural(held)}"
    return f"a column of type {held} is no {dtype}; write {remedy} in the query of a SqlSource"


def _list_problem(dtype: DType, held: Any) -> str | None:
    assert dtype.item is not None
    if not _is_list(held):
        return (
            f"a column of type {held} is no {dtype}; write CAST(column AS {sql_type(dtype)}) in the query of a "
            "SqlSource, or string_split(column, ',') for separated text"
        )
    inner = problem(dtype.item, held.value_type)
    return None if inner is None else f"a column of type {held} is no {dtype}: {inner}"


def _json_problem(held: Any) -> str | None:
    if not (_is_text(held) or pt.is_struct(held) or _is_list(held) or pt.is_map(held)):
        return f"a column of type {held} is no json; write to_json(column) in the query of a SqlSource"
    odd = _without_json(held)
    return odd and f"a column with {odd} inside has no JSON form; write to_json(column) in the query of a SqlSource"


def _without_json(held: Any) -> str | None:
    """The first type inside that has no JSON form."""
    held = _value_type(held)
    if pt.is_struct(held):
        inner = [held.field(i).type for i in range(held.num_fields)]
    elif pt.is_map(held):
        inner = [held.key_type, held.item_type]
        if pt.is_nested(_value_type(held.key_type)):
            return f"{held.key_type} as the key of a map"
    elif _is_list(held):
        inner = [held.value_type]
    else:
        scalars = (_is_text, _is_number, pt.is_boolean, pt.is_timestamp, pt.is_date, pt.is_null)
        return None if any(one(held) for one in scalars) else str(held)
    return next((odd for one in inner if (odd := _without_json(one))), None)


def _natural(held: Any) -> str:
    return "float" if pt.is_floating(held) else f"decimal({held.precision},{max(held.scale, 0)})"


def _is_text(held: Any) -> bool:
    return pt.is_string(held) or pt.is_large_string(held) or pt.is_string_view(held)


def _is_list(held: Any) -> bool:
    return any(
        one(held)
        for one in (pt.is_list, pt.is_large_list, pt.is_fixed_size_list, pt.is_list_view, pt.is_large_list_view)
    )


def _is_number(held: Any) -> bool:
    return pt.is_integer(held) or pt.is_floating(held) or pt.is_decimal(held)


def _is_exact(held: Any) -> bool:
    return pt.is_integer(held) or pt.is_decimal(held)


def _is_whole(held: Any) -> bool:
    return pt.is_integer(held) or (pt.is_decimal(held) and held.scale == 0)


_HOLDS = {
    "str": _is_text,
    "enum": _is_text,
    "int": _is_whole,
    "float": _is_number,
    "bool": pt.is_boolean,
    "timestamp": pt.is_timestamp,
    "date": pt.is_date,
    "decimal": _is_exact,
}


def _value_type(held: Any) -> Any:
    """The type of the values of a dictionary-encoded, run-end-encoded or extension type."""
    while True:
        if pt.is_dictionary(held) or pt.is_run_end_encoded(held):
            held = held.value_type
        elif isinstance(held, pa.BaseExtensionType):
            held = held.storage_type
        else:
            return held


def whole(array: Array) -> Array:
    """One plain array of a possibly chunked, dictionary-encoded, run-end-encoded or extension column."""
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    while True:
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        elif isinstance(array, pa.DictionaryArray):
            words = array.dictionary  # views cannot be taken by index
            words = pc.cast(words, pa.string()) if pt.is_string_view(words.type) else words
            array = pa.DictionaryArray.from_arrays(array.indices, words).dictionary_decode()
        elif isinstance(array, pa.RunEndEncodedArray):
            array = pc.run_end_decode(array)
        else:
            return array


def canonical(dtype: DType, array: Array) -> Canonical:
    """The canonical column of a source's column.

    Raises:
        InvalidValueError: no column of this type can hold the dtype; `problem` says why.
    """
    reason = problem(dtype, array.type)
    if reason is not None:
        raise InvalidValueError(reason)
    array = whole(array)
    if pt.is_null(array.type):
        return Canonical(pa.nulls(len(array), dtype.arrow()))
    return _CANONICAL[dtype.kind](dtype, array)


def _refused(array: Array, bad: Array, reason: str) -> Canonical:
    """The column with null where ``bad``, each such row invalid for the reason."""
    rows: list[int] = pc.indices_nonzero(bad).to_pylist()
    if rows:
        array = pc.if_else(pc.coalesce(bad, FALSE), nothing(array.type), array)
    return Canonical(array, dict.fromkeys(rows, reason))


def _row_by_row(dtype: DType, array: Array) -> Canonical:
    """The fallback: each value through `DType.canonical`."""
    values: list[Any] = []
    invalid: dict[int, str] = {}
    for row, value in enumerate(array.to_pylist()):
        try:
            values.append(dtype.canonical(value))
        except InvalidValueError as error:
            values.append(None)
            invalid[row] = str(error)
    return Canonical(pa.array(values, dtype.arrow()), invalid)


def _text(_: DType, array: Array) -> Canonical:
    return Canonical(pc.cast(array, pa.string()))


def _enum(dtype: DType, array: Array) -> Canonical:
    array = pc.cast(array, pa.string())
    known = pc.is_in(array, value_set=pa.array(dtype.words, pa.string()))
    return _refused(array, pc.and_(array.is_valid(), pc.invert(known)), f"a word that {dtype} does not have")


def _int(_: DType, array: Array) -> Canonical:
    if pt.is_integer(array.type) and not pt.is_uint64(array.type):
        return Canonical(pc.cast(array, _INTEGER))
    if pt.is_decimal(array.type):
        array = pc.cast(array, pa.decimal256(76, 0))
        low, high = (pa.scalar(Decimal(bound), array.type) for bound in (INT64_MIN, INT64_MAX))
        bad = pc.or_(pc.greater(array, high), pc.less(array, low))
    else:
        bad = pc.greater(array, pa.scalar(INT64_MAX, array.type))
    fitting = _refused(array, bad, "an int outside int64")
    return Canonical(pc.cast(fitting.array, _INTEGER), fitting.invalid)


def _float(_: DType, array: Array) -> Canonical:
    held = array.type
    if pt.is_float16(held):
        array = _shortest_halves(array)
    elif pt.is_float32(held):
        finite = pc.if_else(pc.is_finite(array), array, nothing(held))
        lost = finite.null_count - array.null_count
        return Canonical(pc.add(pc.cast(pc.cast(finite, pa.string()), pa.float64()), _ZERO), {}, lost)
    elif pt.is_decimal(held):
        array = pc.cast(pc.cast(array, pa.string()), pa.float64())
    else:
        array = pc.cast(array, pa.float64(), safe=False)
    finite = pc.if_else(pc.is_finite(array), array, nothing(pa.float64()))
    return Canonical(pc.add(finite, _ZERO), {}, finite.null_count - array.null_count)


def _shortest_halves(array: Array) -> Array:
    """Each half float as the double of the shortest decimal that names it."""

    def shortest(value: float) -> float:
        packed = struct.pack("<e", value)
        decimals = (float(f"{value:.{digits}g}") for digits in range(1, 5))
        return next((one for one in decimals if one < 65520 and struct.pack("<e", one) == packed), value)

    wide = pc.cast(array, pa.float64())
    finite = {value for value in wide.unique().to_pylist() if value is not None and abs(value) < 65520}
    short = {value: shortest(abs(value)) * (-1 if value < 0 else 1) for value in finite}
    return pa.array([short.get(value, value) for value in wide.to_pylist()], pa.float64())


def _bool(_: DType, array: Array) -> Canonical:
    return Canonical(array)


def _floored(count: Array, divisor: int) -> Array:
    """``count // divisor`` towards the past, of an int64 array."""
    by = constant(divisor)
    quotient = pc.divide(count, by)
    rest = pc.subtract(count, pc.multiply(quotient, by))
    return pc.subtract(quotient, pc.cast(pc.less(rest, constant(0)), _INTEGER))


def _timestamp(dtype: DType, array: Array) -> Canonical:
    count = array.view(_INTEGER)
    if array.type.unit == "ns":
        return Canonical(_floored(count, 1_000).view(dtype.arrow()))
    per_unit = _PER_UNIT[array.type.unit]
    low, high = constant(FIRST_MICROSECOND // per_unit), constant(LAST_MICROSECOND // per_unit)
    fitting = _refused(count, pc.or_(pc.less(count, low), pc.greater(count, high)), OUTSIDE_YEARS)
    return Canonical(pc.multiply(fitting.array, constant(per_unit)).view(dtype.arrow()), fitting.invalid)


def _date(_: DType, array: Array) -> Canonical:
    if pt.is_date64(array.type):
        days = _floored(array.view(_INTEGER), _DAY_MILLISECONDS)
    else:
        days = pc.cast(array.view(pa.int32()), _INTEGER)
    low, high = date.min.toordinal() - _EPOCH_DAY, date.max.toordinal() - _EPOCH_DAY
    fitting = _refused(days, pc.or_(pc.less(days, low), pc.greater(days, high)), "a date outside the years 1 to 9999")
    return Canonical(pc.cast(fitting.array, pa.int32()).view(pa.date32()), fitting.invalid)


def _decimal(dtype: DType, array: Array) -> Canonical:
    exact = pc.cast(array, pa.decimal128(20, 0)) if pt.is_integer(array.type) else array
    try:
        return Canonical(pc.cast(exact, dtype.arrow()))
    except pa.ArrowInvalid:
        return _row_by_row(dtype, array)


def _lengths(array: Array) -> Array:
    """How many items of ``array.flatten()`` each row of a list column has: 0 for null."""
    lengths = pc.cast(pc.list_value_length(array), pa.int32())
    return pc.if_else(array.is_valid(), lengths, pa.scalar(0, pa.int32()))


def _list(dtype: DType, array: Array) -> Canonical:
    assert dtype.item is not None
    items = canonical(dtype.item, array.flatten())
    lengths = _lengths(array)
    gone = array.is_null()
    invalid: dict[int, str] = {}
    if items.array.null_count:
        parents = [row for row, length in enumerate(lengths.to_pylist()) for _ in range(length)]
        for number in pc.indices_nonzero(items.array.is_null()).to_pylist():
            invalid.setdefault(parents[number], f"a null inside a {dtype}")
        invalid.update({parents[number]: reason for number, reason in items.invalid.items()})
        gone = pc.or_(gone, pc.is_in(pa.array(range(len(array)), _INTEGER), value_set=pa.array(invalid, _INTEGER)))
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths)])
    return Canonical(pa.ListArray.from_arrays(offsets, items.array, type=dtype.arrow(), mask=gone), invalid)


class _DateOutOfRange:
    """Stands in nested data for a moment that Python cannot hold; it has no JSON form, so its row is invalid."""


def _json(_: DType, array: Array) -> Canonical:
    is_text = _is_text(array.type)
    values, lost = (array.to_pylist(), 0) if is_text else _nested(array)
    texts: list[str | None] = []
    invalid: dict[int, str] = {}
    for row, value in enumerate(values):
        try:
            parsed = parse_json(value) if is_text and value is not None else value
            texts.append(None if parsed is None else json_text(parsed))
        except InvalidValueError as error:
            texts.append(None)
            invalid[row] = str(error)
    return Canonical(pa.array(texts, pa.string()), invalid, lost)


def _nested(array: Array) -> tuple[list[Any], int]:
    """Python values of nested data, its leaves canonical, and how many floats in it are not finite."""
    array = whole(array)
    held = array.type
    if pt.is_struct(held):
        return _nested_struct(array)
    if pt.is_map(held):
        return _nested_map(array)
    if _is_list(held):
        items, lost = _nested(array.flatten())
        return _cut(array, items), lost
    if pt.is_floating(held):
        leaf = _float(DType("float"), array)
        return leaf.array.to_pylist(), leaf.non_finite
    if pt.is_timestamp(held) or pt.is_date(held):
        dtype = DType("timestamp" if pt.is_timestamp(held) else "date")
        leaf = canonical(dtype, array)
        values = python_values(dtype, leaf.array)
        for row in leaf.invalid:
            values[row] = _DateOutOfRange()
        return values, 0
    return array.to_pylist(), 0


def _nested_struct(array: Array) -> tuple[list[Any], int]:
    names = [array.type.field(i).name for i in range(array.type.num_fields)]
    parts = [_nested(one) for one in array.flatten()]
    rows = zip(*(values for values, _ in parts), strict=True) if parts else [()] * len(array)
    present: list[bool] = array.is_valid().to_pylist()
    values = [dict(zip(names, row, strict=True)) if one else None for row, one in zip(rows, present, strict=True)]
    return values, sum(lost for _, lost in parts)


def _nested_map(array: Array) -> tuple[list[Any], int]:
    offsets: list[int] = array.offsets.to_pylist()
    start, end = offsets[0], offsets[-1]
    keys, _ = _nested(array.keys.slice(start, end - start))
    items, lost = _nested(array.items.slice(start, end - start))
    present: list[bool] = array.is_valid().to_pylist()
    values: list[Any] = []
    for row, one in enumerate(present):
        low, high = offsets[row] - start, offsets[row + 1] - start
        values.append(dict(zip(keys[low:high], items[low:high], strict=True)) if one else None)
    return values, lost


def _cut(array: Array, items: list[Any]) -> list[Any]:
    """The items of a list column, cut into its rows."""
    rows: list[Any] = []
    at = 0
    for length, present in zip(_lengths(array).to_pylist(), array.is_valid().to_pylist(), strict=True):
        rows.append(items[at : at + length] if present else None)
        at += length
    return rows


_CANONICAL = {
    "str": _text,
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


def python_values(dtype: DType, array: Array) -> list[Any]:
    """The canonical Python values of a canonical column."""
    if isinstance(array, pa.ChunkedArray):
        array = whole(array)
    match dtype.kind:
        case "timestamp":
            counts = array.view(_INTEGER).to_pylist()
            return [None if count is None else from_microseconds(count) for count in counts]
        case "json":
            return [None if written is None else json.loads(written) for written in array.to_pylist()]
        case "list":
            assert dtype.item is not None
            return _cut(array, python_values(dtype.item, array.flatten()))
        case _:
            return array.to_pylist()


def array_of(dtype: DType, values: Sequence[Any]) -> Array:
    """The canonical column of canonical Python values."""
    if dtype.kind == "json":
        return pa.array([None if value is None else json_text(value) for value in values], pa.string())
    return pa.array(values, dtype.arrow())


def moments(array: Array) -> list[datetime | None]:
    """The aware UTC datetimes of a timestamp[us, UTC] column."""
    return python_values(_TIMESTAMP, array)


def stamp_texts(array: Array) -> Array:
    """The stamps of a timestamp[us, UTC] column, as text; null where it is null."""
    written = pc.cast(whole(array).view(pa.timestamp("us")), pa.string())
    return pc.binary_join_element_wise(pc.replace_substring(written, " ", "T"), "Z", "")


def stamps(array: Array) -> list[str]:
    """The stamps of a timestamp[us, UTC] column, as `codec.created_stamp` writes them; null is ``-``."""
    return pc.fill_null(stamp_texts(array), NO_CREATED).to_pylist()
