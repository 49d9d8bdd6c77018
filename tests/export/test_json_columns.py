"""JSON made column by column has the bytes of JSON made row by row."""

from __future__ import annotations

import string
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmfeatures.errors import InvalidValueError, RequestError
from llmfeatures.export.json_columns import json_texts
from llmfeatures.export.lines import messages_of, records_of, texts_of
from llmfeatures.types import text

AWKWARD = st.sampled_from('abé"\\\n\t\x00\x1f\x7f\u2028😀,: {}')
TEXT = st.text(st.one_of(AWKWARD, st.characters(exclude_categories=["Cs"])))
NAIVE = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30))
MOMENTS = st.one_of(NAIVE, NAIVE.map(lambda one: one.replace(microsecond=0)))
ZONED = MOMENTS.map(lambda one: one.replace(tzinfo=UTC))
FLOATS = st.one_of(st.floats(), st.sampled_from([0.0, -0.0, 1.0, 1e16, 1e-7, 5e-324, 1.5e300, 0.1]))
NARROW = st.floats(width=32)
Typed = tuple[Any, st.SearchStrategy[Any]]


def decimals(places: int) -> Typed:
    digits = st.integers(-(10**18) + 1, 10**18 - 1)
    return pa.decimal128(18, places), digits.map(lambda one: Decimal(one).scaleb(-places))


SCALARS: list[Typed] = [
    (pa.string(), TEXT),
    (pa.large_string(), TEXT),
    (pa.string_view(), TEXT),
    (pa.string(), st.text(string.ascii_letters + " -é")),
    (pa.string(), st.sampled_from(["casual", "power_user", '{"a":1}', '",', ',\n  "'])),
    (pa.dictionary(pa.int32(), pa.string()), TEXT),
    (pa.bool_(), st.booleans()),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.int8(), st.integers(-128, 127)),
    (pa.float64(), FLOATS),
    (pa.float32(), NARROW),
    (pa.float16(), st.floats(width=16)),
    *[decimals(places) for places in (0, 2, 6, 7, 18)],
    (pa.decimal256(40, 3), st.integers(-(10**39), 10**39).map(lambda one: Decimal(one).scaleb(-3))),
    (pa.date32(), st.dates()),
    (pa.date64(), st.dates()),
    (pa.timestamp("us"), MOMENTS),
    (pa.timestamp("us", "UTC"), ZONED),
    (pa.timestamp("us", "+05:30"), ZONED),
    (pa.timestamp("us", "Europe/Berlin"), ZONED),
    (pa.timestamp("ms"), MOMENTS.map(lambda one: one.replace(microsecond=one.microsecond // 1000 * 1000))),
    (pa.timestamp("s", "UTC"), ZONED.map(lambda one: one.replace(microsecond=0))),
    (pa.timestamp("ns"), st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1))),
    (pa.null(), st.none()),
]
NAMES = st.lists(st.one_of(TEXT, st.sampled_from(["_", "user_id", "as_of"])), min_size=0, max_size=3, unique=True)


def optional(typed: Typed) -> Typed:
    return typed[0], st.one_of(st.none(), typed[1]) if typed[0] != pa.null() else typed[1]


def listed(typed: Typed) -> st.SearchStrategy[Typed]:
    inner = st.lists(typed[1], max_size=3)
    pairs = st.lists(typed[1], min_size=2, max_size=2)
    kinds = [(pa.list_(typed[0]), inner), (pa.large_list(typed[0]), inner), (pa.list_(typed[0], 2), pairs)]
    return st.sampled_from(kinds if typed[0] != pa.string_view() else kinds[:2])


@st.composite
def structs(draw: st.DrawFn, inner: st.SearchStrategy[Typed]) -> Typed:
    fields = {name: optional(draw(inner)) for name in draw(NAMES)}
    kind = pa.struct([(name, one[0]) for name, one in fields.items()])
    return kind, st.fixed_dictionaries({name: one[1] for name, one in fields.items()})


def maps(typed: Typed) -> Typed:
    return pa.map_(pa.string(), typed[0]), st.lists(st.tuples(TEXT, typed[1]), max_size=3)


TYPED = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: st.one_of(inner.map(optional).flatmap(listed), structs(inner), inner.map(optional).map(maps)),
    max_leaves=4,
)


@st.composite
def columns(draw: st.DrawFn) -> Any:
    """Any column, perhaps a part of a longer one."""
    kind, values = optional(draw(TYPED))
    column = pa.array(draw(st.lists(values, max_size=8)), kind)
    start = draw(st.integers(0, len(column)))
    return column.slice(start, draw(st.integers(0, len(column) - start)))


def by_row(value: Any) -> bytes:
    """What a row's value is as JSON, one at a time."""
    return orjson.dumps(value, default=plain, option=orjson.OPT_PASSTHROUGH_DATETIME)


def plain(value: Any) -> str:
    try:
        return text(value) if not isinstance(value, datetime) or value.tzinfo else value.isoformat()
    except InvalidValueError as error:
        raise TypeError from error


@settings(max_examples=400)
@given(columns())
@example(pa.array([None, {"a": 1}], pa.struct([("a", pa.int8())])))
@example(pa.array([[1.5, None], None, []], pa.list_(pa.float64())))
@example(pa.array([0.0, -0.0, float("nan"), float("-inf"), None]))
@example(pa.array([datetime(1, 1, 1), datetime(1969, 12, 31, 23, 59, 59, 5), datetime.max]))
def test_a_columns_texts_are_those_of_its_values(column: Any) -> None:
    expected = [by_row(value) for value in column.to_pylist()]
    assert json_texts(column).to_pylist() == expected
    inside = json_texts(column, inside=True).to_pylist()
    assert inside == [orjson.dumps(one.decode())[1:-1] for one in expected]


@settings(max_examples=100)
@given(st.data())
def test_records_are_those_of_the_rows(data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, 5))
    kinds = {name: optional(data.draw(TYPED)) for name in data.draw(NAMES.filter(bool))}
    arrays = {
        name: pa.array(data.draw(st.lists(values, min_size=rows, max_size=rows)), kind)
        for name, (kind, values) in kinds.items()
    }
    batch = pa.RecordBatch.from_pydict(arrays)
    batch = batch.append_column("", pa.nulls(rows, pa.struct([("_", pa.bool_())]))) if "" not in arrays else batch
    lists = {name: batch.column(name).to_pylist() for name in batch.schema.names}
    for name, field in zip(batch.schema.names, batch.schema, strict=True):
        if pa.types.is_struct(field.type) and [one.name for one in field.type] == ["_"]:
            lists[name] = [{}] * rows
    expected = [by_row({name: one[row] for name, one in lists.items()}) for row in range(rows)]
    assert records_of(batch, batch.schema.names, 0).to_pylist() == expected


@given(st.lists(st.one_of(st.none(), TEXT), max_size=8))
def test_texts_are_json_and_null_is_nothing(values: list[str | None]) -> None:
    column = pa.array(values, pa.string())
    assert texts_of(column).to_pylist() == [b"" if one is None else orjson.dumps(one) for one in values]
    wrapped = texts_of(column, lambda one: b"<" + one + b">").to_pylist()
    assert wrapped == [b"" if one is None else b"<" + orjson.dumps(one) + b">" for one in values]


@given(st.lists(st.lists(st.tuples(TEXT, TEXT), max_size=3), max_size=8))
def test_messages_are_those_of_the_rows(pairs: list[list[tuple[str, str]]]) -> None:
    chats = [[{"role": role, "content": content} for role, content in chat] for chat in pairs]
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    ids = pa.array([str(chats.index(one)) for one in chats], pa.string())
    batch = pa.RecordBatch.from_arrays([ids, pa.array(chats, kind)], names=["prompt_id", "messages"])
    expected = [orjson.dumps(one) for one in chats]
    assert messages_of(batch).to_pylist() == expected
    assert messages_of(batch, inside=True).to_pylist() == [orjson.dumps(one.decode())[1:-1] for one in expected]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (pa.binary(), None, b"x"),
        (pa.time64("us"), None, time(1)),
        (pa.duration("us"), None, timedelta(1)),
        (pa.list_(pa.binary()), [], [b"x"]),
        (pa.struct([("a", pa.binary())]), {"a": None}, {"a": b"x"}),
        (pa.map_(pa.string(), pa.binary()), [("a", None)], [("a", b"x")]),
    ],
)
@pytest.mark.parametrize("row", [0, 2])
def test_a_value_without_a_json_form_is_refused_by_row(kind: Any, good: Any, bad: Any, row: int) -> None:
    values = [bad if one >= row else good for one in range(4)]
    batch = pa.RecordBatch.from_pydict({"a": pa.array([1] * 4), "spine": pa.array(values, kind)})
    with pytest.raises(RequestError, match=rf"row {10 + row}: a value has no JSON form; cast that column"):
        records_of(batch, ["a", "spine"], 10)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**62], pa.timestamp("us")),
        pa.array([2**62], pa.timestamp("us", "UTC")),
        pa.array([2**62], pa.timestamp("s", "UTC")),
        pa.array([2**31 - 1], pa.int32()).view(pa.date32()),
        pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]),
    ],
    ids=["naive", "zoned", "seconds", "date", "broken UTF-8"],
)
def test_a_value_that_python_cannot_hold_is_refused_by_row(column: Any) -> None:
    batch = pa.RecordBatch.from_arrays([pa.concat_arrays([pa.nulls(1, column.type), column])], names=["spine"])
    with pytest.raises(RequestError, match="row 4: a value has no JSON form"):
        records_of(batch, ["spine"], 3)
