# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""JSON made column by column: the bytes are those that orjson makes of the rows, without a Python object per row."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import compute
from pyarrow import types as pt

from llmfeatures.columns import FIRST_MICROSECOND, LAST_MICROSECOND
from llmfeatures.errors import InvalidValueError
from llmfeatures.types import text

pc: Any = compute
Lines = Any
"""A column of bytes, one JSON text per row."""
BYTES = pa.large_binary()

_TEXT = pa.large_string()
_MICROS, _SECONDS, _COUNT = pa.timestamp("us"), pa.timestamp("s"), pa.int64()
_FIRST_DAY, _LAST_DAY = FIRST_MICROSECOND // 86_400_000_000, LAST_MICROSECOND // 86_400_000_000
_ESCAPED = bytes(range(32)) + b'"\\'
"""What JSON cannot have as it is inside of a text."""
_BETWEEN = b",\n  "
"""What orjson, indenting, puts between the items of an array. No item has it inside: JSON escapes a line feed."""
_PLACES = 6
"""Arrow writes a decimal of more places with an exponent when it is small."""


def joined(*parts: str | Lines) -> Lines:
    """Texts and columns put together row by row, null where one is null; at least one is a column."""
    made = [pa.scalar(part.encode(), BYTES) if isinstance(part, str) else part for part in parts]
    return pc.binary_join_element_wise(*made, pa.scalar(b"", BYTES))


def bytes_of(lines: Lines) -> bytes:
    """All texts of a column, one behind another."""
    _, offsets, data = lines.buffers()
    if data is None or not len(lines):
        return b""
    ends = memoryview(offsets).cast("q")
    start, end = ends[lines.offset], ends[lines.offset + len(lines)]
    return data.slice(start, end - start).to_pybytes()


def json_texts(column: Any, *, inside: bool = False) -> Lines:
    """Each value of a column as JSON, null as ``null``; a value without a JSON form has no text, that is, null.

    Moments are ISO text in UTC (naive ones have no ``Z``), dates ISO text, decimals text; a float that is not finite
    is ``null``. With ``inside``, the texts are what stands between the quotes of a JSON text that holds them.
    """
    column = _plain_layout(column)
    kind = column.type
    if pt.is_null(kind):
        return pa.repeat(pa.scalar(b"null", BYTES), len(column))
    if pt.is_struct(kind) and len({field.name for field in kind}) == kind.num_fields:
        names = [field.name for field in kind]
        made = json_objects(zip(names, column.flatten(), strict=True), len(column), inside=inside)
    elif pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        made = _arrays(column, inside)
    else:
        made = _scalars(column, inside)
    return pc.if_else(column.is_valid(), made, pa.scalar(b"null", BYTES)) if column.null_count else made


def json_objects(members: Iterable[tuple[str, Any]], rows: int, *, inside: bool = False) -> Lines:
    """One JSON object per row, of columns by name; see `json_texts`."""
    parts: list[str | Lines] = []
    for name, column in members:
        key = _literal(orjson.dumps(name).decode(), inside=inside)
        parts += ["," if parts else "{", key, ":", json_texts(column, inside=inside)]
    return joined(*_merged(parts), "}") if parts else pa.repeat(pa.scalar(b"{}", BYTES), rows)


def _literal(written: str, *, inside: bool) -> str:
    """JSON as it is, or as it stands between the quotes of a JSON text."""
    return orjson.dumps(written).decode()[1:-1] if inside else written


def _plain(value: Any) -> str:
    """The text of a value that orjson has no form for.

    Raises:
        TypeError: it has none.
    """
    try:
        return text(value) if not isinstance(value, datetime) or value.tzinfo else value.isoformat()
    except InvalidValueError as error:
        raise TypeError from error


def _merged(parts: Iterable[str | Lines]) -> list[str | Lines]:
    made: list[str | Lines] = []
    for part in parts:
        if isinstance(part, str) and made and isinstance(made[-1], str):
            made[-1] += part
        else:
            made.append(part)
    return made


def _plain_layout(column: Any) -> Any:
    """The column as one array without dictionary, views or runs."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type
    if pt.is_dictionary(kind):
        return _plain_layout(column.dictionary_decode())
    if pt.is_run_end_encoded(kind):
        return _plain_layout(pc.run_end_decode(column))
    if pt.is_string_view(kind):
        return column.cast(_TEXT)
    if pt.is_list_view(kind) or pt.is_large_list_view(kind):
        return column.cast(pa.large_list(kind.value_type))
    return column


def _arrays(column: Any, inside: bool) -> Lines:
    # the items of null and of cut off lists are not among the flattened ones
    lengths = pc.fill_null(pc.list_value_length(column).cast(_COUNT), 0)
    ends = pa.concat_arrays([pa.array([0], _COUNT), pc.cumulative_sum(lengths)])
    items = pa.LargeListArray.from_arrays(ends, json_texts(column.flatten(), inside=inside))
    return joined("[", pc.binary_join(items, pa.scalar(b",", BYTES)), "]")


def _scalars(column: Any, inside: bool) -> Lines:
    """Texts of the values that are not null."""
    kind = column.type
    if pt.is_boolean(kind):
        return pc.if_else(column, pa.scalar(b"true", BYTES), pa.scalar(b"false", BYTES))
    if pt.is_integer(kind):
        return column.cast(_TEXT).cast(BYTES)
    made = _unescaped(column)
    if made is None:
        return _distinct(column, inside)
    quote = '\\"' if inside else '"'
    return joined(quote, made.cast(BYTES), quote)


def _unescaped(column: Any) -> Any:
    """The column as texts that need only quotes around them; None where a value needs more."""
    kind = column.type
    if pt.is_string(kind) or pt.is_large_string(kind):
        return column if _is_clean(column) else None
    if pt.is_timestamp(kind):
        return _moments(column)
    if pt.is_date32(kind):
        days = column.view(pa.int32())
        return column.cast(_TEXT) if _within(days, _FIRST_DAY, _LAST_DAY) else None
    if pt.is_decimal(kind) and 0 <= kind.scale <= _PLACES:
        return column.cast(_TEXT)
    return None


def _is_clean(column: Any) -> bool:
    """Whether the texts of a column are valid UTF-8 and nothing in them is escaped in JSON."""
    written = bytes_of(column.cast(_TEXT))
    if len(written.translate(None, _ESCAPED)) != len(written):
        return False
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _moments(column: Any) -> Any:
    """Timestamps as ISO text with six decimals only when they are not zero; None where that needs Python."""
    zoned = column.type.tz is not None
    if column.type.unit == "ns":
        return None
    try:
        whole = column.cast(pa.timestamp("us", "UTC") if zoned else _MICROS)
    except pa.ArrowInvalid:
        return None
    counts = whole.view(_COUNT)
    if not _within(counts, FIRST_MICROSECOND, LAST_MICROSECOND):
        return None
    whole = counts.view(_MICROS)
    seconds = whole.cast(_SECONDS, safe=False)
    round_ones = pc.equal(seconds.cast(_MICROS), whole)
    written = pc.if_else(round_ones, seconds.cast(_TEXT), whole.cast(_TEXT)).cast(BYTES)
    written = pc.binary_replace_slice(written, 10, 11, b"T")
    return joined(written, "Z") if zoned else written


def _within(counts: Any, first: int, last: int) -> bool:
    found = pc.min_max(counts).as_py()
    return found["min"] is None or (found["min"] >= first and found["max"] <= last)


def _distinct(column: Any, inside: bool) -> Lines:
    """Texts by way of Python, each distinct value once."""
    try:
        encoded = column.dictionary_encode(null_encoding="encode")
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        encoded = None
    values = column if encoded is None else encoded.dictionary
    made = _dumped(values)
    if inside:
        for mark in ("\\", '"'):
            made = pc.replace_substring(made, mark, "\\" + mark)
    return made if encoded is None else made.take(encoded.indices)


def _dumped(values: Any) -> Lines:
    options = orjson.OPT_PASSTHROUGH_DATETIME
    if len(values) and not pt.is_nested(values.type):
        try:
            whole = orjson.dumps(values.to_pylist(), default=_plain, option=options | orjson.OPT_INDENT_2)
        except (TypeError, ValueError, OverflowError):
            pass  # one of them has no form; which one, is found below
        else:
            return pa.array(whole[4:-2].split(_BETWEEN), BYTES)

    def one(value: Any) -> bytes | None:
        try:
            return orjson.dumps(value.as_py(), default=_plain, option=options)
        except (TypeError, ValueError, OverflowError):
            return None

    return pa.array([one(value) for value in values], BYTES)
