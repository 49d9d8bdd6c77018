"""Columns become canonical as their values do: `canonical` agrees with `DType.canonical`, row by row."""

from __future__ import annotations

import json
import math
import struct
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures import columns
from llmfeatures.clock import from_microseconds
from llmfeatures.codec import created_stamp
from llmfeatures.errors import InvalidValueError
from llmfeatures.types import DType, parse_dtype

STR, INT, FLOAT, JSON = DType("str"), DType("int"), DType("float"), DType("json")


def digits(value: float) -> int:
    """How many significant digits the text of a float has."""
    return len(Decimal(repr(value)).normalize().as_tuple().digits)


def expected(dtype: DType, values: list[Any]) -> tuple[list[Any], set[int]]:
    """What `DType.canonical` makes of each value, and the rows that it refuses."""
    made, refused = [], set()
    for row, value in enumerate(values):
        try:
            made.append(dtype.canonical(value))
        except InvalidValueError:
            made.append(None)
            refused.add(row)
    return made, refused


def agree(dtype: DType, array: Any, values: list[Any]) -> columns.Canonical:
    """Check a column, and a slice and a chunked form of it, against the values that it holds."""
    made, refused = expected(dtype, values)
    got = columns.canonical(dtype, array)
    assert got.array.type == dtype.arrow()
    assert columns.python_values(dtype, got.array) == made
    assert [type(one) for one in columns.python_values(dtype, got.array)] == [type(one) for one in made]
    assert set(got.invalid) == refused
    got.array.validate(full=True)
    encoded = [dtype.encode(one) for one in columns.python_values(dtype, got.array)]
    assert encoded == [dtype.encode(one) for one in made]
    cut = len(values) // 2
    chunked = pa.chunked_array([array.slice(0, cut), array.slice(cut)])
    assert columns.python_values(dtype, columns.canonical(dtype, chunked).array) == made
    assert columns.python_values(dtype, columns.canonical(dtype, array.slice(cut)).array) == made[cut:]
    assert columns.python_values(dtype, got.array.slice(cut)) == made[cut:]
    assert {row - cut for row in refused if row >= cut} == set(columns.canonical(dtype, array.slice(cut)).invalid)
    # what is canonical stays so
    again = columns.canonical(dtype, got.array)
    assert columns.python_values(dtype, again.array) == made
    return got


def column(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.none() | values, max_size=12)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
int64s = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)
MANY = settings(max_examples=60, deadline=None)


@MANY
@given(column(texts), st.sampled_from([pa.string(), pa.large_string(), pa.string_view(), "dictionary", "run"]))
def test_strings(values: list[Any], held: Any) -> None:
    if held == "dictionary":
        array = pa.array(values, pa.string()).dictionary_encode()
    elif held == "run":
        array = pa.compute.run_end_encode(pa.array(values, pa.string()))
    else:
        array = pa.array(values, held)
    agree(STR, array, values)
    agree(parse_dtype("enum[a,b]"), array, values)


@MANY
@given(column(st.sampled_from(["a", "b", "c", ""])))
def test_enum(values: list[Any]) -> None:
    got = agree(parse_dtype("enum[a,b]"), pa.array(values, pa.string()), values)
    assert all("does not have" in reason for reason in got.invalid.values())


@MANY
@given(column(int64s), column(st.integers(0, 2**64 - 1)), column(st.integers(-(10**37), 10**37)))
def test_int(small: list[Any], unsigned: list[Any], huge: list[Any]) -> None:
    agree(INT, pa.array(small, pa.int64()), small)
    agree(INT, pa.array(unsigned, pa.uint64()), unsigned)
    agree(INT, pa.array([one and Decimal(one) for one in huge], pa.decimal128(38, 0)), huge)
    agree(INT, pa.array([one and Decimal(one) for one in huge], pa.decimal256(60, 0)), huge)
    low = [one and one % 100 for one in small]
    for held in (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32()):
        agree(INT, pa.array(low, held), low)


@MANY
@given(
    column(st.floats()),
    column(int64s),
    column(st.decimals(allow_nan=False, allow_infinity=False, places=7, min_value=-(10**20), max_value=10**20)),
)
def test_float(doubles: list[Any], ints: list[Any], decimals: list[Any]) -> None:
    got = agree(FLOAT, pa.array(doubles, pa.float64()), doubles)
    assert got.non_finite == sum(one is not None and not math.isfinite(one) for one in doubles)
    assert not any(math.copysign(1, one) < 0 for one in columns.python_values(FLOAT, got.array) if one == 0)
    agree(FLOAT, pa.array(ints, pa.int64()), ints)
    agree(FLOAT, pa.array(decimals, pa.decimal128(38, 7)), decimals)
    agree(FLOAT, pa.array(decimals, pa.decimal256(50, 7)), decimals)


@MANY
@given(column(st.floats(width=32)), column(st.floats(width=16)))
def test_narrow_floats_are_their_shortest_decimal(singles: list[Any], halves: list[Any]) -> None:
    got = columns.canonical(FLOAT, pa.array(singles, pa.float32()))
    for source, value in zip(singles, columns.python_values(FLOAT, got.array), strict=True):
        if source is None or not math.isfinite(source):
            assert value is None
            continue
        assert struct.pack("f", value) == struct.pack("f", source + 0.0)
        assert digits(value) <= digits(source)
    assert got.non_finite == sum(one is not None and not math.isfinite(one) for one in singles)
    for source, value in zip(
        halves, columns.canonical(FLOAT, pa.array(halves, pa.float16())).array.to_pylist(), strict=True
    ):
        if source is None or not math.isfinite(source):
            assert value is None
        else:
            assert struct.pack("e", value) == struct.pack("e", source + 0.0)


def test_a_tenth_prints_short() -> None:
    for held in (pa.float32(), pa.float16()):
        got = columns.canonical(FLOAT, pa.array([0.1, -0.1, 2.5, 65504.0], held))
        assert got.array.to_pylist()[:3] == [0.1, -0.1, 2.5]
    inside = columns.canonical(
        JSON,
        pa.array([{"a": 0.1, "b": [0.2, float("nan")]}], pa.struct({"a": pa.float32(), "b": pa.list_(pa.float32())})),
    )
    assert inside.array.to_pylist() == ['{"a":0.1,"b":[0.2,null]}']
    assert inside.non_finite == 1
    assert columns.canonical(
        parse_dtype("list[float]"), pa.array([[0.1]], pa.list_(pa.float32()))
    ).array.to_pylist() == [[0.1]]


@MANY
@given(column(st.integers(-(2**62), 2**62)), st.sampled_from([None, "UTC", "Europe/Paris", "+05:30"]))
def test_timestamp(counts: list[Any], zone: str | None) -> None:
    dtype = DType("timestamp")
    for unit, per in (("s", 1_000_000), ("ms", 1000), ("us", 1)):
        got = columns.canonical(dtype, pa.array(counts, pa.int64()).view(pa.timestamp(unit, zone)))
        values = columns.python_values(dtype, got.array)
        for row, count in enumerate(counts):
            try:
                assert values[row] == (None if count is None else from_microseconds(count * per))
                assert row not in got.invalid
            except InvalidValueError:
                assert values[row] is None
                assert got.invalid[row] == columns.OUTSIDE_YEARS
    got = columns.canonical(dtype, pa.array(counts, pa.int64()).view(pa.timestamp("ns", zone)))
    wanted = [None if one is None else from_microseconds(one // 1000) for one in counts]
    assert columns.python_values(dtype, got.array) == wanted
    assert not got.invalid
    assert all(one is None or one.tzinfo is UTC for one in columns.python_values(dtype, got.array))


@MANY
@given(column(st.datetimes(timezones=st.just(UTC))), column(st.dates()))
def test_moments_and_days(moments: list[Any], days: list[Any]) -> None:
    agree(DType("timestamp"), pa.array(moments, pa.timestamp("us", "UTC")), moments)
    agree(DType("date"), pa.array(days, pa.date32()), days)
    agree(DType("date"), pa.array(days, pa.date64()), days)


def test_days_out_of_range() -> None:
    far = columns.canonical(DType("date"), pa.array([2**30, -(2**30), 0], pa.int32()).view(pa.date32()))
    assert set(far.invalid) == {0, 1}
    assert far.array.to_pylist() == [None, None, date(1970, 1, 1)]


@MANY
@given(
    column(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9)),
    column(int64s),
)
def test_decimal(decimals: list[Any], ints: list[Any]) -> None:
    for written in ("decimal(10,2)", "decimal(38,4)", "decimal(5,5)", "decimal(20,0)"):
        agree(parse_dtype(written), pa.array(decimals, pa.decimal128(30, 4)), decimals)
        agree(parse_dtype(written), pa.array(ints, pa.int64()), ints)


@MANY
@given(column(st.lists(st.none() | int64s, max_size=4)), column(st.lists(st.floats(), max_size=3)))
def test_lists(ints: list[Any], floats: list[Any]) -> None:
    dtype = parse_dtype("list[int]")
    for held in (pa.list_(pa.int64()), pa.large_list(pa.int64()), pa.list_view(pa.int64())):
        agree(dtype, pa.array(ints, held), ints)
    agree(parse_dtype("list[float]"), pa.array(floats, pa.list_(pa.float64())), floats)


def test_other_lists() -> None:
    pairs = [[1, 2], None, [3, None]]
    agree(parse_dtype("list[int]"), pa.array(pairs, pa.list_(pa.int32(), 2)), pairs)
    words = [["a", "b"], ["c"], [], None]
    agree(parse_dtype("list[enum[a,b]]"), pa.array(words, pa.list_(pa.dictionary(pa.int8(), pa.string()))), words)
    agree(parse_dtype("list[str]"), pa.array(words, pa.list_(pa.string_view())), words)
    agree(parse_dtype("list[str]"), pa.nulls(3, pa.list_(pa.null())), [None] * 3)
    moments = [[datetime(2026, 5, 7, tzinfo=UTC)], []]
    agree(parse_dtype("list[timestamp]"), pa.array(moments, pa.list_(pa.timestamp("ns", "UTC"))), moments)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@MANY
@given(column(json_values), column(st.sampled_from(["{", "NaN", "[1,]", "", "null", '"x"', "1.0", "\ud7ff"])))
def test_json_text(values: list[Any], odd: list[Any]) -> None:
    written = [None if one is None else json.dumps(one) for one in values]
    agree(JSON, pa.array(written, pa.string()), written)
    agree(JSON, pa.array(odd, pa.large_string()), odd)


@MANY
@given(
    column(
        st.fixed_dictionaries(
            {
                "a": st.none() | int64s,
                "b": st.none() | st.lists(st.none() | st.floats(), max_size=3),
                "t": st.none() | st.datetimes(timezones=st.just(UTC)),
                "d": st.none() | st.decimals(places=2, min_value=-99, max_value=99, allow_nan=False),
                "s": st.none() | st.fixed_dictionaries({"x": st.none() | texts}),
            }
        )
    )
)
def test_json_struct(values: list[Any]) -> None:
    held = pa.struct(
        {
            "a": pa.int64(),
            "b": pa.list_(pa.float64()),
            "t": pa.timestamp("us", "UTC"),
            "d": pa.decimal128(10, 2),
            "s": pa.struct({"x": pa.string()}),
        }
    )
    agree(JSON, pa.array(values, held), values)


@MANY
@given(column(st.dictionaries(texts, st.none() | st.lists(int64s, max_size=2), max_size=3)))
def test_json_map_and_list(values: list[Any]) -> None:
    array = pa.array(
        [None if one is None else list(one.items()) for one in values], pa.map_(pa.string(), pa.list_(pa.int64()))
    )
    agree(JSON, array, values)
    lists = [None if one is None else list(one.values()) for one in values]
    agree(JSON, pa.array(lists, pa.list_(pa.list_(pa.int64()))), lists)


def test_json_with_a_moment_python_cannot_hold() -> None:
    far = pa.array([2**62, 0], pa.int64()).view(pa.timestamp("us"))
    got = columns.canonical(JSON, pa.StructArray.from_arrays([far], ["t"]))
    assert list(got.invalid) == [0]
    assert got.array.to_pylist() == [None, '{"t":"1970-01-01T00:00:00Z"}']
    assert columns.canonical(JSON, pa.array([{}, None], pa.struct([]))).array.to_pylist() == ["{}", None]


def test_a_column_of_nulls_is_of_any_dtype() -> None:
    for written in ("str", "int", "decimal(5,2)", "json", "list[int]", "enum[a]"):
        assert columns.problem(parse_dtype(written), pa.null()) is None
        agree(parse_dtype(written), pa.nulls(4), [None] * 4)


@pytest.mark.parametrize(
    ("written", "held", "remedy"),
    [
        ("int", pa.float64(), "CAST(column AS BIGINT)"),
        ("int", pa.decimal128(5, 2), "decimal(5,2)"),
        ("int", pa.string(), "CAST(column AS BIGINT)"),
        ("str", pa.int64(), "CAST(column AS VARCHAR)"),
        ("str", pa.binary(), "CAST(column AS VARCHAR)"),
        ("float", pa.string(), "CAST(column AS DOUBLE)"),
        ("bool", pa.int8(), "column <> 0"),
        ("timestamp", pa.int64(), "to_timestamp(column)"),
        ("timestamp", pa.date32(), "CAST(column AS TIMESTAMPTZ)"),
        ("timestamp", pa.string(), "CAST(column AS TIMESTAMPTZ)"),
        ("date", pa.timestamp("us"), "CAST(column AS DATE)"),
        ("decimal(10,2)", pa.float64(), "CAST(column AS DECIMAL(10,2))"),
        ("list[int]", pa.int64(), "CAST(column AS BIGINT[])"),
        ("list[int]", pa.list_(pa.float64()), "CAST(column AS BIGINT)"),
        ("json", pa.int64(), "to_json(column)"),
        ("json", pa.struct({"a": pa.binary()}), "to_json(column)"),
        ("json", pa.list_(pa.duration("s")), "to_json(column)"),
    ],
)
def test_problem_says_what_to_write(written: str, held: Any, remedy: str) -> None:
    said = columns.problem(parse_dtype(written), held)
    assert said is not None
    assert remedy in said
    with pytest.raises(InvalidValueError):
        columns.canonical(parse_dtype(written), pa.nulls(1, held))


def test_reasons_hold_no_values() -> None:
    secret = "s3cret"
    for dtype, array in (
        (parse_dtype("enum[a]"), pa.array([secret])),
        (JSON, pa.array(["{" + secret])),
        (parse_dtype("list[enum[a]]"), pa.array([[secret]])),
        (parse_dtype("decimal(3,1)"), pa.array([Decimal("123456.789")])),
    ):
        reasons = columns.canonical(dtype, array).invalid
        assert list(reasons) == [0]
        assert secret not in reasons[0]
        assert "123456" not in reasons[0]


@MANY
@given(column(st.datetimes(timezones=st.just(UTC))))
def test_stamps_and_moments(values: list[Any]) -> None:
    array = columns.array_of(DType("timestamp"), values)
    assert columns.moments(array) == values
    assert columns.stamps(array) == [created_stamp(one) for one in values]


@MANY
@given(column(json_values))
def test_array_of(values: list[Any]) -> None:
    made = [JSON.canonical(None if one is None else json.dumps(one)) for one in values]
    assert columns.python_values(JSON, columns.array_of(JSON, made)) == made
    lists = [[one] if isinstance(one, str) else None for one in values]
    assert columns.python_values(parse_dtype("list[str]"), columns.array_of(parse_dtype("list[str]"), lists)) == lists
