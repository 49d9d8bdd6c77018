"""One Python value and one text form per dtype."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfeatures.errors import DefinitionError, InvalidValueError
from llmfeatures.types import parse_dtype, parse_json, text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "str": st.text(st.characters(categories=None)),
    "enum[a,b]": st.sampled_from(["a", "b"]),
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats() | st.integers(-(10**6), 10**6),
    "bool": st.booleans(),
    "timestamp": st.datetimes() | st.datetimes(timezones=st.timezones()),
    "date": st.dates(),
    "decimal(38,10)": st.decimals(-(10**20), 10**20, places=10),
    "list[float]": st.lists(st.floats(allow_nan=False, allow_infinity=False)),
    "list[timestamp]": st.lists(st.datetimes()),
    "json": JSON.filter(lambda value: not isinstance(value, str)),
}


@given(data=st.data())
@pytest.mark.parametrize("name", VALUES)
def test_what_is_encoded_is_decoded_to_the_same(name: str, data: st.DataObject) -> None:
    dtype = parse_dtype(name)
    try:
        value = dtype.canonical(data.draw(VALUES[name]))
    except InvalidValueError:  # a zoned datetime at the end of time
        return
    encoded = dtype.encode(value)
    assert dtype.decode(encoded) == value
    assert dtype.encode(dtype.decode(encoded)) == encoded
    assert json.loads(encoded) is None or value is not None
    if name != "json":
        assert dtype.canonical(value) == value
    assert str(parse_dtype(str(dtype))) == str(dtype)


@pytest.mark.parametrize(
    ("dtype", "value", "expected", "printed"),
    [
        ("int", 5, 5, "5"),
        ("float", 5, 5.0, "5.0"),
        ("float", -0.0, 0.0, "0.0"),
        ("float", 1e20, 1e20, "1e+20"),
        ("float", 0.1, 0.1, "0.1"),
        ("bool", True, True, "true"),
        ("decimal(6,2)", "1.5", Decimal("1.50"), "1.50"),
        ("decimal(6,0)", Decimal("1E+3"), Decimal(1000), "1000"),
        ("timestamp", datetime(2026, 5, 7, 22), datetime(2026, 5, 7, 22, tzinfo=UTC), "2026-05-07T22:00:00Z"),
        (
            "timestamp",
            datetime(2026, 5, 8, 0, 0, 0, 1, tzinfo=timezone(timedelta(hours=2))),
            datetime(2026, 5, 7, 22, 0, 0, 1, tzinfo=UTC),
            "2026-05-07T22:00:00.000001Z",
        ),
        (
            "timestamp",
            pd.Timestamp("2026-05-07T22:00:00.000000999Z"),
            datetime(2026, 5, 7, 22, tzinfo=UTC),
            "2026-05-07T22:00:00Z",
        ),
        ("date", date(2026, 5, 7), date(2026, 5, 7), "2026-05-07"),
        ("list[int]", [1, 2], [1, 2], "[1,2]"),
        ("list[str]", ["ä"], ["ä"], '["ä"]'),
        ("json", '{"b": 1, "a": [1.0, null]}', {"b": 1, "a": [1.0, None]}, '{"a":[1.0,null],"b":1}'),
        ("str", "a\ud800b", "a\ufffdb", "a\ufffdb"),
    ],
)
def test_the_table_of_dtypes(dtype: str, value: Any, expected: Any, printed: str) -> None:
    made = parse_dtype(dtype).canonical(value)
    assert made == expected
    assert type(made) is type(expected)
    assert text(made) == printed


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_floats_that_are_not_finite_are_null(value: float) -> None:
    assert parse_dtype("float").canonical(value) is None


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("str", 42),
        ("int", "42"),
        ("int", True),
        ("int", 1.0),
        ("int", 2**63),
        ("float", "1"),
        ("bool", 1),
        ("enum[a,b]", "c"),
        ("decimal(4,2)", "1.005"),
        ("decimal(4,2)", 100),
        ("decimal(4,2)", Decimal("NaN")),
        ("timestamp", date(2026, 5, 7)),
        ("date", datetime(2026, 5, 7)),
        ("list[int]", [1, None]),
        ("list[float]", [float("nan")]),
        ("list[int]", "12"),
        ("json", "{"),
        ("json", "NaN"),
        ("json", {"a": object()}),
    ],
)
def test_nothing_is_converted_silently_and_the_value_is_not_in_the_message(dtype: str, value: Any) -> None:
    with pytest.raises(InvalidValueError) as caught:
        parse_dtype(dtype).canonical(value)
    assert "42" not in str(caught.value)


@pytest.mark.parametrize(
    "written", ["", "strr", "enum[]", "enum[a,a]", "list[list[int]]", "decimal(0,0)", "decimal(4,5)"]
)
def test_unknown_dtypes_list_the_valid_ones(written: str) -> None:
    with pytest.raises(DefinitionError):
        parse_dtype(written)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("str", "47"), ("int", '"47"'), ("int", "47.0"), ("bool", "1"), ("timestamp", "1"), ("date", '"x"'), ("str", "{")],
)
def test_data_of_another_dtype_is_seen(dtype: str, stored: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_dtype(dtype).decode(stored)


def test_json_that_nests_without_end_is_refused() -> None:
    with pytest.raises(InvalidValueError):
        parse_json("[" * 100_000)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (10**30, "an int outside int64"),
        (json.loads("1e30"), "a number outside int64"),
        (-1e30, "a number outside int64"),
        (-float(2**63), "a float is no int"),
        (1.0, "a float is no int"),
        (float("inf"), "a float is no int"),
        (float("nan"), "a float is no int"),
    ],
)
def test_what_is_no_int_says_why(value: Any, said: str) -> None:
    with pytest.raises(InvalidValueError, match=f"^{said}$"):
        parse_dtype("int").canonical(value)
    with pytest.raises(InvalidValueError, match=r"^an? (int|float) is no str$"):
        parse_dtype("str").canonical(value)
